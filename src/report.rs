//! What the store reports about itself and about what it did. Plain data.

use std::path::PathBuf;
use std::time::Duration;

/// What opening a store found and did.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecoveryReport {
    /// There was no store, and this call made one.
    pub created: bool,
    /// The last session ended with a close, so nothing had to be looked at twice. True for a new store.
    pub clean: bool,
    /// The store was under [`previous_key`](crate::OpenOptions::previous_key), and is under the new key now.
    pub rekeyed: bool,
    /// How many records were replayed.
    pub records: u64,
    /// How many operations these held.
    pub operations: u64,
    /// The length of the torn tail that was cut off, in bytes.
    pub quarantined_bytes: u64,
    /// Where these bytes are now.
    pub quarantined: Option<PathBuf>,
    /// The store was damaged, and [`OnDamage::SetAside`](crate::OnDamage::SetAside) was asked for: where the damaged file is
    /// now, what was brought over into the new one, and what is lost. Only this opening tells; the damaged file stays.
    pub salvaged: Option<SalvageReport>,
    /// How long opening took, without the wait for the lock.
    pub took: Duration,
}

/// How large the store is, and of what.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// The number of this log file among those of the store, from 1.
    pub generation: u64,
    /// The number of the last frame.
    pub seq: u64,
    /// The length of the file in bytes, with the space ahead.
    pub file_len: u64,
    /// The length of the log in bytes: header page and frames.
    pub log_len: u64,
    /// What the live operations take in the log, in bytes, without frame headers.
    pub live_bytes: u64,
    /// The rest of the frames, in bytes: what was replaced or removed, and frame headers.
    pub dead_bytes: u64,
    /// Zeros ahead of the log, in bytes.
    pub free_bytes: u64,
    /// How many jobs are pending.
    pub jobs: u64,
    /// How many log events are buffered.
    pub log_events: u64,
    /// How many log events were dropped since the last ack or drain. A snapshot knows what the log has, and says 0 where that
    /// cannot be read.
    pub logs_dropped: u64,
    /// What compaction did since the store was opened; nothing in a snapshot.
    pub compaction: CompactionStats,
}

/// What compaction did since the store was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CompactionStats {
    /// How many compactions were completed, with those for a new key.
    pub completed: u64,
    /// How many failed and left the old log in place.
    pub failed: u64,
    /// What the last one said, if it failed.
    pub last_error: Option<String>,
}

/// What [`Store::compact`](crate::Store::compact) did.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CompactionReport {
    /// The number of the new log file among those of the store.
    pub generation: u64,
    /// The length of the old log in bytes, without the space ahead.
    pub bytes_before: u64,
    /// The length of the new one.
    pub bytes_after: u64,
    /// How long it took.
    pub took: Duration,
}

/// What [`salvage`](crate::salvage) brought over, and what is lost.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SalvageReport {
    /// The log that was read.
    pub from: PathBuf,
    /// The new store.
    pub to: PathBuf,
    /// The number of the new log file among those of the store: one more than that of the old one.
    pub generation: u64,
    /// How many records were authentic.
    pub records: u64,
    /// How many of their operations were brought over.
    pub operations: u64,
    /// How many jobs the new store holds.
    pub jobs: u64,
    /// How many log events it holds.
    pub log_events: u64,
    /// Whether it holds a configuration.
    pub has_config: bool,
    /// Whether it holds a session.
    pub has_session: bool,
    /// The length of the torn tail at the end, in bytes: what a crash left, no loss.
    pub torn_len: u64,
    /// What is lost, in the order of the file: the first 1000 places. What was deleted or replaced later is no loss.
    pub lost: Vec<Lost>,
    /// How many places there are beyond those.
    pub more_lost: u64,
    /// Whether something older may be there again: a delete, an ack or a replacement may be among what is lost.
    pub may_be_stale: bool,
}

impl SalvageReport {
    /// Whether nothing is lost.
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

/// A place where something is lost: frames that are damaged, or the value of one put.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Lost {
    /// Where it begins, in bytes from the start of the file.
    pub offset: u64,
    /// Its length in bytes.
    pub len: u64,
    /// The number of the first frame that is missing, or of the one whose value it is.
    pub first_seq: u64,
    /// The number of the last one; `None` where nothing behind it tells.
    pub last_seq: Option<u64>,
    /// The keys that were put there and neither deleted nor replaced later, as far as a manifest tells; there may be others
    /// unless it is a value that is lost. Of frames, the manifest is one that may have been forged.
    pub keys: Vec<LostKey>,
    /// What is lost.
    pub what: &'static str,
}

/// A key whose value is lost.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LostKey {
    /// `config`, `queue`, `registry` or `logs`.
    pub bucket: &'static str,
    /// The job, in the queue.
    pub run_id: Option<String>,
}
