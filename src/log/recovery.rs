//! Recovery: from the path of a log to a log that is replayed, durable and ready for appends.
//!
//! After a clean stop, one reading of the log is enough. The last frame of a clean log is a close frame that the
//! mark names. `close` writes that frame only after all other frames are durable, and marks it only after it is
//! durable too. So nothing is missing from the disk.
//!
//! After any other stop, the first reading may show bytes that a power cut would take away. A process that was
//! killed left frames in the page cache that no sync has covered. After a failed sync, the page cache can even
//! show bytes that the kernel has given up writing. So recovery syncs the file, drops the page cache, and reads
//! again from the disk. Only the end needs this: a frame with durable_seq = n proves that frames 1 to n are
//! durable, and so do the mark and the base for the frames up to theirs. So the second reading begins at the first
//! frame that nothing vouches for, or a little before it, and ends with the torn tail, or with the place of the
//! next frame: if the first reading missed a frame there, the next record would be written over it. The zeros
//! after that are not read again: a writer never writes zeros over other bytes, so a disk that lost them has zeros
//! too. If the second reading differs from the first, the whole log is read once more, and that reading counts.
//!
//! Apart from zeros, recovery removes only a torn tail: bytes after the last whole frame that are not a frame, and
//! that no later frame header proves to have been durable. `scan` distinguishes a torn tail from damage. The tail
//! is copied to `<path>.torn-<n>` before it is cut off. Damage is an error, and the file is not changed.
//!
//! Nothing is cut off before the whole log has been read and the caller's anchor, if any, has been checked.
//! Implements *Creation* in *Writing*, and *Opening* with steps T1 to T8, of FORMAT.md.

use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use super::create::{create_log, fill_random};
use super::file::LogFile;
use super::header::open_log_to_write;
use super::index_file::{self, Indexed, Runs};
use super::left_over::{self, Unfinished};
use super::quarantine;
use super::replay::Replay;
use super::scan::{Concurrency, Ending, Scanned, Scanner};
use super::values::Values;
use super::writer::LogEnd;
use crate::crypto::secret_vec::SecretVec;
use crate::format::base::Origin;
use crate::format::bucket::Bucket;
use crate::format::frame::FRAME_HEADER_LEN;
use crate::format::header::Header;
use crate::format::mark::Mark;
use crate::format::position::LogPosition;
use crate::format::record::is_drop_count;
use crate::index::{Index, QueueOrder};
use crate::storage::names::{NEW, sibling};
use crate::storage::{self, File, RenameError, Storage, paths};
use crate::{AgentKey, Anchor, Check, Error, Opening, RecoveryReport, Result};

/// A log that is open and replayed, and in which every replayed frame is durable.
pub(crate) struct Recovered {
    pub(crate) log: Arc<LogFile>,
    pub(crate) header: Header,
    pub(crate) index: Index,
    pub(crate) end: LogEnd,
    pub(crate) mark: Option<Mark>,
    /// The runs of the index file, if it was used.
    pub(crate) runs: Option<Runs>,
    pub(crate) report: RecoveryReport,
}

/// Creates an empty log at `path`, durably. The caller holds the lock on the lock file. Returns `None` if a file
/// has appeared at `path` meanwhile, which is not changed.
///
/// The log gets its name only once its header is durable, so a crash leaves an empty store or no store.
pub(crate) fn create(
    storage: &dyn Storage,
    path: &Path,
    key: &AgentKey,
    order: QueueOrder,
) -> Result<Option<Recovered>> {
    let started = Instant::now();
    left_over::clear(storage, path, Unfinished::Store)?;
    let mut store_id = [0; 16];
    fill_random(storage, path, &mut store_id)?;
    let new = sibling(path, NEW);
    let folder = paths::open_folder(storage, path)?;
    let (log, header) = create_log(storage, &new, path, 1, store_id, 0, key)?;
    if let Err(error) = storage.rename(&new, log.file.id(), path, None) {
        // If this fails too, the file remains as after a crash.
        let _ = storage.remove_file(&new, log.file.id());
        return match error {
            RenameError::TargetTaken => Ok(None),
            RenameError::SourceMoved => Err(paths::moved(&new)),
            RenameError::Io(source) => Err(storage::full_or_io("create", path)(source)),
        };
    }
    // Guards against a power cut that removes the new name after calls were acknowledged.
    paths::sync(&*folder, path)?;
    let tip = LogPosition::first(&header.authenticator);
    let report = RecoveryReport { created: true, clean: true, ..report(&Replay::new(order, tip), started) };
    let end = LogEnd { tip, before_tip: None, allocated: tip.end, values: 0, is_closed: false };
    let (log, index) = (Arc::new(log), Index::new(order));
    Ok(Some(Recovered { log, header, index, end, mark: None, runs: None, report }))
}

/// How a log is to be opened.
#[derive(Clone, Copy)]
pub(crate) struct How<'a> {
    pub(crate) order: QueueOrder,
    pub(crate) expected: Option<&'a Anchor>,
    pub(crate) check: Check,
}

/// Opens an existing log, replays it, makes it durable, and quarantines a torn tail. `file` is the one at `path`,
/// and the caller holds the locks. A left-over next to it is cleared once the log has been read.
///
/// # Errors
/// - `NotAStore`, `UnsupportedFormat`, `WrongKey`, `Corrupt`, `Unauthentic`; `Stale` if the log does not satisfy
///   the expected anchor. The file is unchanged.
/// - `Full` if there is no space to quarantine a torn tail. The tail is still in the log.
/// - `Io`.
pub(crate) fn open(
    storage: &dyn Storage,
    file: Arc<dyn File>,
    path: &Path,
    key: &AgentKey,
    how: How<'_>,
) -> Result<Recovered> {
    let started = Instant::now();
    let (log, header) = open_log_to_write(file, path, key)?;
    let log = Arc::new(log);
    let first = LogPosition::first(&header.authenticator);
    let read = |check| Found::read(storage, &log, first, Concurrency::Exclusive, How { check, ..how });
    let mut found = read(how.check)?;

    // Opened now, so that a lack of descriptors cannot fail the first sync.
    let folder = paths::open_folder(storage, path)?;
    let clean = found.is_clean();
    if !clean {
        // Guards against a power cut after this open has reported frames that are only in the page cache. It also
        // makes the pages clean, so that the cache can be dropped.
        log.file.sync_data().map_err(log.io("sync"))?;
        // Guards against a power cut that undoes a rename: a crash may have come between the rename of a creation
        // or a compaction and the sync of its folder.
        paths::sync(&*folder, path)?;
        if !is_on_disk(&log, &found)? {
            found = read(Check::Everything)?;
        }
    }

    if found.shortfall(&log, &header, how).is_some() && found.runs.is_some() {
        // A frame of a fork has a verdict of its own.
        found = read(Check::Everything)?;
    }
    if let Some(what) = found.shortfall(&log, &header, how) {
        return Err(Error::Stale { path: path.to_path_buf(), what });
    }
    // Only now: if the log were damaged, the left-over might have what is nowhere else.
    let is_needed = |origin: &Origin| !(found.has_all_of(&log, origin) && found.is_intact(&log, first));
    left_over::clear(storage, path, Unfinished::OfOpened { log: &header.id, is_needed: &is_needed })?;
    if clean {
        *log.unsynced_folder.lock().unwrap_or_else(PoisonError::into_inner) = Some(folder);
    }
    let Found { replay, ending, runs } = found;
    let mut report = RecoveryReport { clean, ..report(&replay, started) };
    report.opening.by_index = runs.is_some();
    let before_tip = replay.before_last();
    let Replay { index, tip, ends_closed, values, .. } = replay;
    let mut end = LogEnd { tip, before_tip, allocated: ending.file_len, values, is_closed: ends_closed };
    if let Some(until) = ending.torn_until {
        let quarantine = || quarantine::quarantine_torn_tail(storage, &log, tip.end, until);
        report.quarantined = Some(match quarantine() {
            // The index file only saves time, so it goes first.
            Err(Error::Full { .. }) if index_file::remove(storage, path, log.file.id()) => quarantine()?,
            quarantined => quarantined?,
        });
        report.quarantined_bytes = until - tip.end;
        end.allocated = tip.end;
    } else if let Some(hole) = log.file.next_hole(tip.end) {
        // Of a sparse copy. It is cut off, so that the space for acks is allocated anew.
        log.file.set_len(hole).map_err(log.io("cut off a hole in"))?;
        end.allocated = hole;
    }
    report.took = started.elapsed();
    Ok(Recovered { log, header, index, end, mark: ending.mark, runs, report })
}

/// Reads every live value, in the order of the file. That of a count of dropped log events may be unreadable.
///
/// # Errors
/// `Unauthentic` for the first that does not open, `Io`.
pub(crate) fn check_live_values(log: &Arc<LogFile>, index: &Index) -> Result<()> {
    let live = Bucket::ALL.into_iter().flat_map(|bucket| {
        let keys = index.iter(bucket).filter(move |(key, _)| !is_drop_count(bucket, key));
        keys.map(move |(key, location)| (location, bucket, key))
    });
    let mut live: Vec<_> = live.collect();
    live.sort_unstable_by_key(|(location, ..)| location.order());
    let values = Values::new(Arc::clone(log), false);
    let mut reader = values.reader();
    live.into_iter().try_for_each(|(location, bucket, key)| {
        reader.read(location).map(SecretVec::from).map(drop).map_err(|error| error.about(bucket, key))
    })
}

/// A log that has been read to its end, for recovery or for a snapshot.
pub(crate) struct Found {
    pub(crate) replay: Replay,
    pub(crate) ending: Ending,
    /// The runs of the index file, if it was used.
    pub(crate) runs: Option<Runs>,
}

impl Found {
    /// Whether the log has what a copy with this origin was made from, as far as its last frame tells.
    fn has_all_of(&self, log: &LogFile, origin: &Origin) -> bool {
        let tip = self.replay.tip;
        let is_reached = origin.seq < tip.seq || (origin.seq, origin.tag) == (tip.seq, tip.chain);
        origin.generation == log.id.generation && is_reached
    }

    /// Whether every frame of the log is whole, and every live value opens. What cannot be read now is not intact,
    /// but no reason to refuse the store. `first` is the position before the first frame.
    fn is_intact(&self, log: &Arc<LogFile>, first: LogPosition) -> bool {
        // With the index file, only the end was read.
        let are_frames_whole = self.runs.is_none()
            || matches!(self.replay.is_whole_from(log, Concurrency::Exclusive, first), Ok(true));
        are_frames_whole && check_live_values(log, &self.replay.index).is_ok()
    }

    /// Reads what is not in the index file, or every frame: if that is wanted, if no index file fits, and if there
    /// is a fault, which may not be the first one. `first` is the position before the first frame.
    pub(crate) fn read(
        storage: &dyn Storage,
        log: &LogFile,
        first: LogPosition,
        concurrency: Concurrency<'_>,
        how: How<'_>,
    ) -> Result<Self> {
        if how.check == Check::Live
            && let Some(found) = Found::by_index(storage, log, first, concurrency, how)
        {
            return Ok(found);
        }
        let mut replay = Replay::watching(how.order, first, how.expected.map(Anchor::seq));
        let ending = replay.run(log, concurrency)?;
        Ok(Found { replay, ending, runs: None })
    }

    fn by_index(
        storage: &dyn Storage,
        log: &LogFile,
        first: LogPosition,
        concurrency: Concurrency<'_>,
        how: How<'_>,
    ) -> Option<Self> {
        let Indexed { mut replay, runs, last_seq } = index_file::read(storage, log, how.order)?;
        if let Concurrency::Exclusive = concurrency {
            // For the next run. A reader writes none.
            replay.index.note_removed_since(last_seq);
        }
        if let Some(anchor) = how.expected.filter(|anchor| anchor.generation() == log.id.generation) {
            replay.watch(anchor.seq());
            if anchor.seq() <= replay.tip.seq {
                replay.watched_tag = Some(index_file::tag_of(log, first, &runs.ends, anchor.seq())?);
            }
        }
        let ending = replay.run(log, concurrency).ok()?;
        replay.fits_log().then_some(Found { replay, ending, runs: Some(runs) })
    }

    /// Why the log does not satisfy the expected anchor; `None` if it does.
    fn shortfall(&self, log: &LogFile, header: &Header, how: How<'_>) -> Option<&'static str> {
        let origin = log.base.map(|base| base.origin);
        how.expected?.shortfall(header, origin, |_| self.replay.watched_tag)
    }

    fn is_clean(&self) -> bool {
        let is_marked = self.ending.mark.is_some_and(|mark| mark.position == self.replay.tip);
        self.replay.ends_closed && self.ending.torn_until.is_none() && is_marked
    }
}

/// Reads the end of the log again, from the disk. Returns whether it is as it was found: the frames that nothing
/// vouches for, and what follows the last one.
fn is_on_disk(log: &LogFile, found: &Found) -> Result<bool> {
    let Found { replay, ending, .. } = found;
    let (from, tip) = (replay.recheck_from(ending.proven), replay.tip);
    // A frame that the first reading missed may be longer than what was taken for a torn tail. Where there was
    // none, the place of its header is enough.
    let next_header = (tip.end + FRAME_HEADER_LEN as u64).min(ending.file_len);
    let until = if ending.torn_until.is_some() { ending.file_len } else { next_header };
    log.file.drop_cache(from.end..until).map_err(log.io("drop the page cache of"))?;
    let mut scan = Scanner::up_to(log, from, until)?;
    let torn_until = loop {
        match scan.next() {
            Ok(Scanned::Frame(_)) => {}
            Ok(Scanned::End) => break None,
            Ok(Scanned::Torn { until }) => break Some(until),
            Err(error @ Error::Io { .. }) => return Err(error),
            // What it is instead is for the reading of the whole log to say.
            Err(_) => return Ok(false),
        }
    };
    Ok(scan.tip() == tip && torn_until == ending.torn_until)
}

fn report(replay: &Replay, started: Instant) -> RecoveryReport {
    RecoveryReport {
        created: false,
        clean: false,
        rekeyed: false,
        opening: Opening { by_index: false, replayed_bytes: replay.replayed_bytes() },
        records: replay.records,
        operations: replay.operations,
        quarantined_bytes: 0,
        quarantined: None,
        salvaged: None,
        damaged: Vec::new(),
        took: started.elapsed(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{Access, Disk};
    use crate::{Batch, Store};

    #[test]
    fn the_values_of_earlier_sessions_count_toward_the_limit_of_their_key() {
        let folder = tempfile::tempdir().unwrap();
        let (path, key) = (folder.path().join("state.db"), AgentKey::new("key").unwrap());
        let store = Store::open(&path, &key).unwrap();
        store.write(&Batch::new().enqueue_job("a", b"1").enqueue_job("b", b"2")).unwrap();
        store.enqueue_job("a", b"3").unwrap();
        store.ack_job("b").unwrap();
        store.close().unwrap();
        let file = Disk.open(&path, Access::Write).unwrap().into();
        let how = How { order: QueueOrder::RunId, expected: None, check: Check::Live };
        let recovered = open(&Disk, file, &path, &key, how).unwrap();
        assert_eq!(recovered.end.values, 3);
    }
}
