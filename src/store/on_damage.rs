//! What opening does about a damaged store: refuse it, or quarantine it and continue with its authentic records.
//!
//! Implements *Salvage* of FORMAT.md, section 11, where a store is salvaged while it is opened. A file exists at
//! the store's path after every step, since a missing file would be read as an empty store. So the damaged file
//! gets its second name first, and then one rename gives its first name to the new log:
//!
//! | | step | crash after this step: the next open sees |
//! |---|---|---|
//! | D1 | write the new log to `<path>.new`, sync it, read it back | the damaged store; `<path>.new` is removed |
//! | D2 | link `<path>` to the first free `<path>.damaged-<n>`, or copy it there | the damaged store |
//! | D3 | sync the folder | the damaged store, and that name |
//! | D4 | rename `<path>.new` to `<path>` | killed: the new store; power cut: that or the damaged one |
//! | D5 | sync the folder | the new store |

use std::path::Path;

use crate::log::quarantine;
use crate::log::recovery::{self, Recovered};
use crate::log::scan::Concurrency;
use crate::repair::salvage::Source;
use crate::storage::{full_or_io, paths};
use crate::{AgentKey, Error, OnDamage, OpenOptions, Result, SalvageReport, events};

/// Opens an existing store; a damaged one as `options.on_damage` says. The caller holds the lock.
pub(crate) fn open(options: &OpenOptions, path: &Path, key: &AgentKey) -> Result<Recovered> {
    let storage = &*options.storage;
    let open = || recovery::open(storage, path, key, options.queue_order, options.expected.as_ref());
    match open() {
        Err(error @ (Error::Corrupt { .. } | Error::Unauthentic { .. }))
            if options.on_damage == OnDamage::SetAside =>
        {
            let salvaged = replace_damaged(options, path, key)?;
            events::damage_quarantined(path, &error, &salvaged);
            let mut recovered = open()?;
            recovered.report.salvaged = Some(salvaged);
            Ok(recovered)
        }
        opened => opened,
    }
}

/// Quarantines the damaged log and puts a salvaged one at its path, durably.
fn replace_damaged(options: &OpenOptions, path: &Path, key: &AgentKey) -> Result<SalvageReport> {
    let storage = &options.storage;
    let source = Source::open(&**storage, path, key)?.expecting(options.expected);
    let (mut new, report) = source.copy_into(storage, key, path, Concurrency::Exclusive)?;
    storage
        .copy_owner_and_mode(path, new.temporary())
        .map_err(|source| Error::io("copy the owner and mode of", path, source))?;
    let damaged = quarantine::quarantine_damaged(&**storage, path)?;
    storage
        .rename(new.temporary(), path)
        .map_err(full_or_io("replace the damaged log with the salvaged one at", path))?;
    new.keep();
    // Guards against a power cut that brings back the damaged log after calls on the new one were acknowledged.
    paths::sync_folder(&**storage, path)?;
    Ok(SalvageReport { from: damaged, ..report })
}
