//! A door for this project's own tests, fuzz targets, benchmarks and command line.
//!
//! **No part of the interface.** Anything here may change or go in any release.

use std::fs::Metadata;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[cfg(feature = "import-bolt")]
pub use crate::import_bolt::{BoltState, import_bolt_bytes, read_bolt};
use crate::log::place::{self, Purpose};
use crate::read::Reader;
use crate::settings::IndexPolicy;
pub use crate::storage::{
    Access, Attributes, Disk, File, FileId, Folder, FreeSpace, Map, PathKind, RenameError, Storage,
};
use crate::{
    AgentKey, CompactionPolicy, Config, FrameInfo, LogEvent, LogRate, OpenOptions, QueuedJob, Result,
    SalvageReport, Session, Snapshot, Store, VerifyReport,
};

/// The default options, on another file system than the machine's.
#[must_use]
pub fn options_on(storage: Arc<dyn Storage>) -> OpenOptions {
    OpenOptions { storage, ..OpenOptions::new() }
}

/// Makes the store write a run of its index file after so many bytes of frames, also when it is closed or
/// compacted, and on the caller's thread: for logs that are too short to have one.
pub fn index_every(options: &mut OpenOptions, run_len: u64) -> &mut OpenOptions {
    options.index = IndexPolicy { run_len, worth_len: run_len, on_thread: false };
    options
}

/// As [`Snapshot::open`], on another file system than the machine's.
///
/// # Errors
/// As [`Snapshot::open`].
pub fn open_snapshot_on(storage: Arc<dyn Storage>, path: impl AsRef<Path>, key: &AgentKey) -> Result<Snapshot> {
    Snapshot::open_on(storage, path.as_ref(), key)
}

/// As [`verify_each`](crate::verify_each), on another file system than the machine's.
///
/// # Errors
/// As [`verify`](crate::verify()).
pub fn verify_on(
    storage: &dyn Storage,
    path: impl AsRef<Path>,
    key: Option<&AgentKey>,
    each: impl FnMut(&FrameInfo),
) -> Result<VerifyReport> {
    crate::repair::verify::verify_on(storage, path.as_ref(), key, each)
}

/// As [`salvage`](crate::salvage()), on another file system than the machine's.
///
/// # Errors
/// As [`salvage`](crate::salvage()).
pub fn salvage_on(
    storage: &Arc<dyn Storage>,
    from: impl AsRef<Path>,
    key: &AgentKey,
    to: impl AsRef<Path>,
) -> Result<SalvageReport> {
    crate::repair::salvage::salvage_on(storage, from.as_ref(), key, to.as_ref())
}

/// The ranges of the file that hold the live bytes of [`Snapshot::stats`], in file order. The live bytes of the
/// operations in a manifest are one range before the first live value.
#[must_use]
pub fn live_ranges(snapshot: &Snapshot) -> Vec<Range<u64>> {
    snapshot.live_ranges()
}

/// Whether a path means the store's log or one of the files next to it: the command line reads its input from no
/// such file, and writes no drawing there. `state` is taken as [`Store::open`] takes it.
#[must_use]
pub fn belongs_to_store(path: &Path, state: &Path) -> bool {
    let state = place::resolve(&Disk, state, Purpose::Reading);
    state.is_ok_and(|log| place::belongs_to(&Disk, path, &log))
}

/// The absolute path of the log that a path means: `state` is taken as [`Snapshot::open`] takes it.
///
/// # Errors
/// Those of [`Snapshot::open`] for a path that is no store's.
pub fn path_of_store(state: &Path) -> Result<PathBuf> {
    place::resolve(&Disk, state, Purpose::Reading)
}

/// The mode of a key file that every user can read: the command line warns of it.
#[must_use]
pub fn mode_if_readable_by_all(key_file: &Metadata) -> Option<u32> {
    crate::crypto::agent_key::mode_if_readable_by_all(key_file)
}

/// Where [`Store::backup`] and [`salvage`](crate::salvage()) put a copy that is to be made at `to`.
///
/// # Errors
/// [`Error::Invalid`](crate::Error::Invalid), [`Error::NotAStore`](crate::Error::NotAStore) for a folder or a
/// device, [`Error::Io`](crate::Error::Io).
pub fn path_of_copy(to: &Path) -> Result<PathBuf> {
    place::resolve(&Disk, to, Purpose::Copy)
}

/// How many bytes of the new file a running compaction, rekey or backup has read back: for a progress bar. After
/// the last one has ended, its final count.
#[must_use]
pub fn copy_progress(store: &Store) -> u64 {
    store.copy_progress()
}

/// Whether the log has a count of dropped log events that cannot be read. Its statistics show 0 then.
#[must_use]
pub fn drops_are_unreadable(snapshot: &Snapshot) -> bool {
    snapshot.drops_are_unreadable()
}

/// The same, of the log that a store has open.
#[must_use]
pub fn stored_drops_are_unreadable(store: &Store) -> bool {
    Reader::recorded_drops(store).is_err()
}

/// Locks a bbolt file against its writer, until the file is dropped: as [`import_bolt`](crate::import_bolt) does.
///
/// # Errors
/// As [`check_bolt`](crate::check_bolt), without those of the contents.
#[cfg(feature = "import-bolt")]
pub fn lock_bolt(path: &Path) -> Result<std::fs::File> {
    crate::import_bolt::open(path)
}

/// [`Snapshot::backup`], which notes how many bytes of the new file it has read back: for a progress bar.
///
/// # Errors
/// As [`Snapshot::backup`].
pub fn backup_noting(snapshot: &Snapshot, path: impl AsRef<Path>, read_back: impl Fn(u64)) -> Result<()> {
    snapshot.backup_noting(path.as_ref(), read_back)
}

/// The default policy, changed.
#[must_use]
pub fn policy(change: impl FnOnce(&mut CompactionPolicy)) -> CompactionPolicy {
    let mut policy = CompactionPolicy::default();
    change(&mut policy);
    policy
}

/// A rate of these figures.
#[must_use]
pub fn log_rate(per_second: u32, burst: u32) -> LogRate {
    LogRate { per_second, burst }
}

/// What a test expects a reading call to return.
#[must_use]
pub fn config(version: u64, raw: Vec<u8>) -> Config {
    Config { version, raw }
}

/// What a test expects a reading call to return.
#[must_use]
pub fn queued_job(run_id: String, payload: Vec<u8>) -> QueuedJob {
    QueuedJob { run_id, payload }
}

/// What a test expects a reading call to return.
#[must_use]
pub fn session(session_id: String, server_time_ms: i64) -> Session {
    Session { session_id, server_time_ms }
}

/// What a test expects a reading call to return.
#[must_use]
pub fn log_event(ts_ms: i64, payload: Vec<u8>) -> LogEvent {
    LogEvent { ts_ms, payload }
}
