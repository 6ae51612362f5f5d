//! What opening does about a damaged store: refuse it, or quarantine it and continue with its authentic records.
//!
//! Implements *Salvage* of FORMAT.md, section 11, where a store is salvaged while it is opened. A file exists at
//! the store's path after every step, since a missing file would be read as an empty store. So the damaged file
//! gets its second name first, and then one rename gives its first name to the new log:
//!
//! | | step | crash after this step: the next open sees |
//! |---|---|---|
//! | D1 | write what is authentic to `<path>.new`, sync it, read it back | the damaged store |
//! | D2 | link `<path>` to a free `<path>.damaged-<n>`, or copy it there, if there is none | the damaged store |
//! | D3 | sync the folder | the damaged store, and that name |
//! | D4 | end `<path>.new` with a close frame and a base record, sync it, read them back | the same |
//! | D5 | rename `<path>.new` to `<path>` | killed: the new store; power cut: that or the damaged one |
//! | D6 | sync the folder | the new store |
//!
//! A complete copy that is found at `<path>.new` is kept: that of a compaction may have what is damaged in the
//! log. That of a salvage has nothing more than the log, but is not told from the other. So it is completed last,
//! and a crash rarely leaves it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::log::builder::{self, LogBuilder};
use crate::log::index_file;
use crate::log::left_over::{self, Unfinished};
use crate::log::quarantine;
use crate::log::recovery::{self, How, Recovered};
use crate::log::scan::Concurrency;
use crate::repair::salvage::Source;
use crate::storage::File;
use crate::{AgentKey, Error, OnDamage, OpenOptions, Result, SalvageReport, events};

/// Opens an existing store under `key`; a damaged one as `options.on_damage` says. `file` is the log at `path`,
/// locked by the caller. Also returns the key that the log is under now: `new_key` if it was salvaged, so that
/// nothing that can fail is left to do once the damaged log was replaced.
pub(crate) fn open<'k>(
    options: &OpenOptions,
    file: Arc<dyn File>,
    path: &Path,
    key: &'k AgentKey,
    new_key: &'k AgentKey,
) -> Result<(Recovered, &'k AgentKey)> {
    let storage = &*options.storage;
    let OpenOptions { queue_order: order, check, .. } = *options;
    let how = How { order, expected: options.expected.as_ref(), check };
    let open = |file, key| recovery::open(storage, file, path, key, how);
    let is_rekeyed = !std::ptr::eq(key, new_key);
    let mut quarantined = (None, 0);
    let opened = open(Arc::clone(&file), key).and_then(|recovered| {
        if is_rekeyed && options.on_damage == OnDamage::SetAside {
            quarantined = (recovered.report.quarantined.clone(), recovered.report.quarantined_bytes);
            // The change of key would leave out a value that does not open, and the report would not name it.
            recovery::check_live_values(&recovered.log, &recovered.index)?;
        }
        Ok(recovered)
    });
    match opened {
        Err(error @ (Error::Corrupt { .. } | Error::Unauthentic { .. }))
            if options.on_damage == OnDamage::SetAside =>
        {
            let (salvaged, file) = replace_damaged(options, file, path, key, new_key)?;
            events::damage_quarantined(path, &error, &salvaged);
            let mut recovered = open(file, new_key)?;
            let report = &mut recovered.report;
            (report.salvaged, report.rekeyed) = (Some(salvaged), is_rekeyed);
            (report.quarantined, report.quarantined_bytes) = quarantined;
            Ok((recovered, new_key))
        }
        opened => Ok((opened?, key)),
    }
}

/// Quarantines the damaged log and puts a salvaged one under `new_key` at its path, durably. Also returns the
/// locked file of that.
fn replace_damaged(
    options: &OpenOptions,
    file: Arc<dyn File>,
    path: &Path,
    key: &AgentKey,
    new_key: &AgentKey,
) -> Result<(SalvageReport, Arc<dyn File>)> {
    let storage = &options.storage;
    if storage.is_mount_point(path) {
        return Err(builder::mounted_by_itself(path));
    }
    let attributes = file.attributes().map_err(|source| Error::io("look at", path, source))?;
    let source = Source::of(Arc::clone(&file), path, key)?.expecting(options.expected);
    // It takes space that the copy may need.
    index_file::remove(&**storage, path, file.id());
    left_over::clear(&**storage, path, Unfinished::NextGeneration(&source.header.id))?;
    // At once: if root is killed while it copies, the agent must be able to open the left-over.
    let prepare = |new: &LogBuilder| new.set_attributes(&attributes);
    let mut damaged = PathBuf::new();
    let quarantine = || {
        damaged = quarantine::quarantine_damaged(&**storage, path, &*file)?;
        Ok(())
    };
    let (mut new, report) =
        source.copy_into(storage, new_key, path, Concurrency::Exclusive, prepare, quarantine)?;
    // The opening that follows syncs the folder: no mark names the end of the new log, so it is unclean.
    new.rename_over(path, file.id(), "replace the damaged log with the salvaged one at")?;
    Ok((SalvageReport { from: damaged, ..report }, Arc::clone(&new.file.file)))
}
