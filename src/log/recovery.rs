//! From a path to a log that can be written: creation, the header, replay, and what becomes of a torn tail.
//!
//! Implements *Opening* of FORMAT.md. Changes nothing before it has seen the whole log, and then only a torn tail.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use super::create::{create_log, fill_random};
use super::file::{LogFile, LogPosition};
use super::header::open_log;
use super::quarantine;
use super::replay::Replay;
use super::scan::{Concurrency, Ending};
use crate::format::header::{HEADER_PAGE_LEN, Header};
use crate::index::QueueOrder;
use crate::storage::paths::{sibling, sync_folder};
use crate::storage::{self, Access, Storage};
use crate::{AgentKey, Anchor, Error, RecoveryReport, Result};

/// A log that is open, replayed and durable.
pub(crate) struct Recovered {
    pub(crate) log: Arc<LogFile>,
    pub(crate) header: Header,
    pub(crate) replay: Replay,
    pub(crate) allocated: u64,
    pub(crate) report: RecoveryReport,
}

/// Makes a new store: after a crash it is there whole or not at all.
pub(crate) fn create(storage: &dyn Storage, path: &Path, key: &AgentKey, order: QueueOrder) -> Result<Recovered> {
    let started = Instant::now();
    let mut store_id = [0; 16];
    fill_random(storage, path, &mut store_id)?;
    let new = sibling(path, ".new");
    let (log, header) = create_log(storage, &new, path, 1, store_id, key)?;
    storage.rename(&new, path).map_err(storage::full_or_io("create", path))?;
    // Guards against a power cut that takes the name back after calls were acknowledged.
    sync_folder(storage, path)?;
    let replay = Replay::new(order, LogPosition::first(&header.authenticator));
    let report = RecoveryReport { created: true, clean: true, ..report(&replay, started) };
    Ok(Recovered { log: Arc::new(log), header, replay, allocated: HEADER_PAGE_LEN as u64, report })
}

/// Opens an existing store and brings it to a durable state.
///
/// `expected` is held against the log before anything is changed.
pub(crate) fn open(
    storage: &dyn Storage,
    path: &Path,
    key: &AgentKey,
    order: QueueOrder,
    expected: Option<&Anchor>,
) -> Result<Recovered> {
    let started = Instant::now();
    let file = storage.open(path, Access::Write).map_err(|source| Error::io("open", path, source))?;
    let (log, header) = open_log(file, path, key)?;
    let first = LogPosition::first(&header.authenticator);
    let from_start = || Replay::watching(order, first, expected.map(Anchor::seq));
    let mut replay = from_start();
    let mut ending = replay.run(&log, Concurrency::Exclusive)?;

    let clean = replay.ends_closed && ending == (Ending { file_len: replay.tip.end, torn_until: None });
    if !clean {
        // After a failed sync the page cache can show bytes that the disk never got. This sync writes what is
        // still dirty, and then the disk is asked for all that no earlier sync is known to have covered.
        log.file.sync_data().map_err(log.io("sync"))?;
        // Guards against a power cut that takes back the name of a store whose creation was cut short.
        sync_folder(storage, path)?;
        let recheck_from = replay.recheck_from();
        log.file.drop_cache(recheck_from.end).map_err(log.io("drop the page cache of"))?;
        let mut again = Replay::new(order, recheck_from);
        let ending_again = again.run(&log, Concurrency::Exclusive)?;
        if again.tip != replay.tip || ending_again != ending {
            replay = from_start();
            ending = replay.run(&log, Concurrency::Exclusive)?;
        }
    }

    if let Some(what) = expected.and_then(|anchor| anchor.shortfall(&header, |_| replay.watched_tag)) {
        return Err(Error::Stale { path: path.to_path_buf(), what });
    }
    let mut report = RecoveryReport { clean, ..report(&replay, started) };
    let mut allocated = ending.file_len;
    if let Some(until) = ending.torn_until {
        report.quarantined = Some(quarantine::quarantine_torn_tail(storage, &log, replay.tip.end, until)?);
        report.quarantined_bytes = until - replay.tip.end;
        allocated = replay.tip.end;
    }
    report.took = started.elapsed();
    Ok(Recovered { log: Arc::new(log), header, replay, allocated, report })
}

fn report(replay: &Replay, started: Instant) -> RecoveryReport {
    RecoveryReport {
        created: false,
        clean: false,
        rekeyed: false,
        records: replay.records,
        operations: replay.operations,
        quarantined_bytes: 0,
        quarantined: None,
        salvaged: None,
        took: started.elapsed(),
    }
}
