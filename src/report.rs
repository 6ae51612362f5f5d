//! The reports of opening, compaction and salvage, and the statistics of a store. Plain data.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::{ErrorKind, QueueLimits};

/// What opening a store found and did.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct RecoveryReport {
    /// Whether there was no store, so that a new one was created.
    pub created: bool,
    /// Whether there was nothing to recover: the last session ended with a successful
    /// [`Store::close`](crate::Store::close), or wrote nothing after a compaction. True for a new store.
    pub clean: bool,
    /// Whether the store was opened with [`previous_key`](crate::OpenOptions::previous_key) and changed to the new
    /// key.
    pub rekeyed: bool,
    /// How much of the log was read.
    pub opening: Opening,
    /// How many records were replayed.
    pub records: u64,
    /// How many operations these records have.
    pub operations: u64,
    /// The length in bytes of the torn tail that was cut off; 0 if there was none.
    pub quarantined_bytes: u64,
    /// The file to which the torn tail was copied before.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::serialize::optional_path"))]
    pub quarantined: Option<PathBuf>,
    /// Set if the store was damaged and opened with [`OnDamage::SetAside`](crate::OnDamage::SetAside): where the
    /// damaged file is now, what was copied into the new log, and what is lost. Later opens do not report it
    /// again; the damaged file is kept, and in `damaged`.
    pub salvaged: Option<SalvageReport>,
    /// The logs that are kept next to this one, as `<path>.damaged-<n>`. An earlier process may have ended before
    /// it could report what it left out of one of them. So as long as there are any, something may be lost that
    /// nobody knows of: compare them with [`salvage`](crate::salvage), then move them elsewhere. One that was kept
    /// as the key was changed is under the previous key.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::serialize::paths"))]
    pub damaged: Vec<PathBuf>,
    /// How long opening took, excluding the wait for the lock.
    #[cfg_attr(feature = "serde", serde(rename = "took_us", serialize_with = "crate::serialize::micros"))]
    pub took: Duration,
}

/// How a log was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Opening {
    /// Whether the index file was used. If not, every frame was replayed: there was no index file, it did not fit
    /// the log, or [`Check::Everything`](crate::Check::Everything) was set.
    pub by_index: bool,
    /// How many bytes of frames were replayed.
    pub replayed_bytes: u64,
}

/// The sizes and counts of a store, from [`Store::stats`](crate::Store::stats) or
/// [`Snapshot::stats`](crate::Snapshot::stats).
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Stats {
    /// The generation of the log, from 1. Each compaction adds 1.
    pub generation: u64,
    /// The number of the last frame in this generation; 0 if there is none.
    pub seq: u64,
    /// The length of the file in bytes, including preallocated space.
    pub file_len: u64,
    /// The length of the first two pages and all frames in bytes.
    pub log_len: u64,
    /// How many bytes of the frames the live operations take, without frame headers.
    pub live_bytes: u64,
    /// The other bytes of the frames: operations that were replaced or removed, and frame headers.
    pub dead_bytes: u64,
    /// The length of the preallocated space after the last frame in bytes.
    pub free_bytes: u64,
    /// How many bytes of the preallocated space are the reserve: only acks, drains and other removals may use
    /// them. Less than the store would reserve if the disk has no more.
    pub reserved_bytes: u64,
    /// How many of the queued jobs could be acked, each on its own, if the disk were full.
    pub acks_on_full_disk: u64,
    /// How many bytes the file system has left for users without privileges. `None` if that is not known.
    pub disk_free_bytes: Option<u64>,
    /// How many jobs are pending.
    pub jobs: u64,
    /// How many bytes of payload they have.
    pub queue_bytes: u64,
    /// The limits of the queue. In a snapshot, none: they are not in the log.
    pub queue_limits: QueueLimits,
    /// How many log events are buffered.
    pub log_events: u64,
    /// How many log events were dropped since the last ack or drain. In a snapshot, this is the count in the log,
    /// or 0 if that cannot be read.
    pub logs_dropped: u64,
    /// How many keys of the agent's own data there are.
    pub data_keys: u64,
    /// How many bytes their values have.
    pub data_bytes: u64,
    /// The time of the oldest buffered log event, in ms since 1970. `None` if there is none.
    pub oldest_log_ms: Option<i64>,
    /// How the store was opened, or the log that the snapshot shows.
    pub opening: Opening,
    /// What compaction has done since the store was opened. In a snapshot, all zero but `unavailable`.
    pub compaction: CompactionStats,
    /// What the store has done since it was opened. `None` in a snapshot: it is not in the log.
    pub since_opened: Option<SinceOpened>,
}

/// What a store has done since it was opened. These numbers only grow; they begin at 0 with each open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct SinceOpened {
    /// How many syncs of the log have ended, also those that failed. One sync can cover the calls of several
    /// threads. Those of the new file of a compaction or a backup are not counted.
    pub syncs: u64,
    /// How long these syncs took together.
    #[cfg_attr(feature = "serde", serde(rename = "sync_time_us", serialize_with = "crate::serialize::micros"))]
    pub sync_time: Duration,
    /// How long the longest of them took.
    #[cfg_attr(feature = "serde", serde(rename = "longest_sync_us", serialize_with = "crate::serialize::micros"))]
    pub longest_sync: Duration,
    /// How many bytes of frames were written to the log. Those that compactions have written are in
    /// [`CompactionStats::bytes_written`].
    pub bytes_written: u64,
    /// How many log events were dropped. [`Stats::logs_dropped`] counts since the last ack or drain instead.
    pub logs_dropped: u64,
}

/// Why a compaction failed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct CompactionFailure {
    /// The kind of the error.
    pub kind: ErrorKind,
    /// Its message, with that of its source.
    pub message: String,
}

impl fmt::Display for CompactionFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// What compaction has done since the store was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct CompactionStats {
    /// How many compactions succeeded, including those that changed the key.
    pub completed: u64,
    /// How many compactions failed.
    pub failed: u64,
    /// How many bytes the compactions that succeeded have written: the lengths of their new logs.
    pub bytes_written: u64,
    /// Why the last compaction failed, if it did.
    pub last_error: Option<CompactionFailure>,
    /// The keys that compactions have left out: see [`CompactionReport::left_out`].
    pub left_out: Vec<LostKey>,
    /// Where the last of the logs was kept from which a key was left out.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::serialize::optional_path"))]
    pub damaged: Option<PathBuf>,
    /// Why the log cannot be compacted or rekeyed where it is, if that is so: the file only grows.
    pub unavailable: Option<&'static str>,
}

/// For [`CompactionStats::unavailable`], and for the error of a compaction that was asked for.
pub(crate) const MOUNTED: &str =
    "the log is mounted by itself, so no other file can take its place; mount its folder instead";

/// What [`Store::compact`](crate::Store::compact) did.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct CompactionReport {
    /// The generation of the new log.
    pub generation: u64,
    /// The length of the old log in bytes, without preallocated space.
    pub bytes_before: u64,
    /// The length of the new log in bytes.
    pub bytes_after: u64,
    /// Keys whose live values failed authentication, with [`OnDamage::SetAside`](crate::OnDamage::SetAside): the
    /// new log does not have them. The count of dropped log events is one of them with every setting; the store
    /// has it in memory, and writes it with the next record of log events or when it is closed.
    pub left_out: Vec<LostKey>,
    /// Where the old log was kept, if keys other than that count were left out.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::serialize::optional_path"))]
    pub damaged: Option<PathBuf>,
    /// How long the compaction took.
    #[cfg_attr(feature = "serde", serde(rename = "took_us", serialize_with = "crate::serialize::micros"))]
    pub took: Duration,
}

/// What [`salvage`](crate::salvage) recovered, and what is lost.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct SalvageReport {
    /// The damaged log.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::serialize::path"))]
    pub from: PathBuf,
    /// The new store.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::serialize::path"))]
    pub to: PathBuf,
    /// The generation of the new log: that of the damaged log plus 1.
    pub generation: u64,
    /// How many records were authentic.
    pub records: u64,
    /// How many of their operations were copied.
    pub operations: u64,
    /// How many jobs the new store has.
    pub jobs: u64,
    /// How many log events the new store has.
    pub log_events: u64,
    /// How many data keys the new store has.
    pub data_keys: u64,
    /// Whether the new store has a configuration.
    pub has_config: bool,
    /// Whether the new store has a session.
    pub has_session: bool,
    /// The length in bytes of the torn tail of the damaged log. A crash left it unfinished, so it is not a loss.
    pub torn_len: u64,
    /// What is lost, in file order, limited to the first 1000 places. What was deleted or replaced later is not
    /// listed.
    pub lost: Vec<Lost>,
    /// How many lost places are not in `lost`.
    pub more_lost: u64,
    /// Whether the new store may have values that had been deleted, acked or replaced, because the record that did
    /// so may be among the lost ones.
    pub may_be_stale: bool,
}

impl SalvageReport {
    /// Returns whether nothing is lost.
    ///
    /// ```
    /// # use backupy_state::{AgentKey, Store, salvage};
    /// # let folder = tempfile::tempdir()?;
    /// # let (path, key) = (folder.path().join("state.db"), AgentKey::new("key")?);
    /// # Store::open(&path, &key)?.record_heartbeat(1_700_000_000_000)?;
    /// let report = salvage(&path, &key, folder.path().join("salvaged.db"))?;
    /// assert!(report.is_complete());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.lost.is_empty()
    }
}

/// A place in the damaged log where something is lost: one or more frames, or the value of one put.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Lost {
    /// The start of the place, in bytes from the start of the file.
    pub offset: u64,
    /// The length of the place in bytes.
    pub len: u64,
    /// The number of the first lost frame, or of the frame with the lost value.
    pub first_seq: u64,
    /// The number of the last lost frame; `None` if no later frame shows it.
    pub last_seq: Option<u64>,
    /// The keys that are known to have been put there and were neither deleted nor replaced later. For a lost
    /// value, the list is complete. For lost frames, it can be incomplete, and comes from manifests that could not
    /// be authenticated.
    pub keys: Vec<LostKey>,
    /// What is lost.
    pub what: &'static str,
}

/// A key whose value is lost.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct LostKey {
    /// The bucket: `config`, `queue`, `registry`, `logs` or `data`.
    pub bucket: &'static str,
    /// The run id of the job, in bucket `queue`.
    pub run_id: Option<String>,
    /// The data key, in bucket `data`.
    pub data_key: Option<String>,
}
