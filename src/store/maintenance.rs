//! The calls that look after the file (sync, compact, rekey, backup), and those that report on it.

use std::path::Path;
use std::sync::Arc;

use super::handle::Store;
use super::shared::lock;
#[cfg(doc)]
use crate::Error;
use crate::{AgentKey, Anchor, CompactionReport, RecoveryReport, Result, Stats};

impl Store {
    /// Makes everything durable that [`Buffered`](crate::Durability::Buffered) calls have written so far, and what
    /// was found when the store was opened.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if another process has cut the file, [`Error::Io`] if the sync fails,
    /// [`Error::Replaced`] if the path means another file by now, [`Error::Failed`] after an earlier failure.
    ///
    /// ```
    /// # use backupy_state::{AgentKey, Durability, OpenOptions};
    /// # let folder = tempfile::tempdir()?;
    /// # let (path, key) = (folder.path().join("state.db"), AgentKey::new("key")?);
    /// let store = OpenOptions::new().durability(Durability::Buffered).open(&path, &key)?;
    /// for number in 0..100 {
    ///     store.enqueue_job(&format!("run-{number}"), b"dump")?;
    /// }
    /// store.sync()?; // one sync for all of them
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn sync(&self) -> Result<()> {
        let (pending, commits) = {
            let guard = self.shared.write()?;
            (guard.log.pending(), Arc::clone(guard.log.commits()))
        };
        self.wait_durable(&pending)?;
        self.tell_failure(commits.sync_what_was_found())?;
        let place = self.shared.write()?.log.check_place();
        self.tell_failure(place)
    }

    /// Copies the live records into a new log file and replaces the old one with it, while other threads read and
    /// write. Waits for a compaction that is already running. On return the new file is durable.
    ///
    /// # Errors
    /// - [`Error::Full`]: the disk has no space for the new file.
    /// - [`Error::Unauthentic`]: a live value fails authentication. For a job's payload, the error names the run
    ///   id. Only the count of dropped log events is [left out](CompactionReport::left_out) instead.
    /// - [`Error::Invalid`]: something is at the store's path followed by `.new`, and is no left-over of a
    ///   compaction.
    /// - [`Error::Replaced`]: the path means another file by now. That one was not changed, and the store takes no
    ///   more writes.
    /// - [`Error::Io`], for instance because the file is mounted by itself; [`Error::Failed`].
    ///
    /// The old log is kept and the store stays usable, unless later writing calls return `Failed`: then a power
    /// cut may leave the old log or the new one, each of them whole.
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let key = backupy_state::AgentKey::new("key")?;
    /// # let store = backupy_state::Store::open(folder.path().join("state.db"), &key)?;
    /// for version in 0..100 {
    ///     store.save_config(version, &[0; 1000])?;
    /// }
    /// let report = store.compact()?;
    /// assert_eq!(report.generation, 2);
    /// assert!(report.bytes_after < report.bytes_before / 10);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn compact(&self) -> Result<CompactionReport> {
        self.compactor.compact()
    }

    /// Changes the agent key of the store, by a compaction whose new file only the new key opens. On return the
    /// new file is durable. A crash at any point leaves a complete store that opens with one of the two keys.
    ///
    /// # Errors
    /// Those of [`compact`](Store::compact). While the store still accepts writes, the old key stays valid. If it
    /// does not, the file may be under either key: keep both, and open it with
    /// [`previous_key`](crate::OpenOptions::previous_key).
    ///
    /// ```
    /// # use backupy_state::{AgentKey, Error, Store};
    /// # let folder = tempfile::tempdir()?;
    /// # let (path, key) = (folder.path().join("state.db"), AgentKey::new("key")?);
    /// let store = Store::open(&path, &key)?;
    /// let new_key = AgentKey::new("bkpy_fedcba9876543210fedcba9876543210")?;
    /// store.rekey(&new_key)?;
    /// store.close()?;
    /// assert!(matches!(Store::open(&path, &key), Err(Error::WrongKey { .. })));
    /// Store::open(&path, &new_key)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn rekey(&self, key: &AgentKey) -> Result<()> {
        self.compactor.rekey(key)
    }

    /// Writes a compact, consistent copy of the store to a new file under the same key, while other threads read
    /// and write. On return the copy is durable. `path` means what it means to [`open`](Store::open): without an
    /// extension, `.db` is added.
    ///
    /// The copy has the id and the generation of the store, and its owner where this process may set it; only the
    /// owner can open it. It is a store of its own; after the original has been written to
    /// again, it is an older state, which [`expect_at_least`](crate::OpenOptions::expect_at_least) can detect.
    ///
    /// # Errors
    /// [`Error::Invalid`] if there is a file at `path`, which is not changed, or if `path` names no file or one of
    /// those that a store keeps next to its log. Also those of [`compact`](Store::compact). A left-over of an
    /// interrupted backup to the same path is replaced.
    ///
    /// ```
    /// # use backupy_state::{AgentKey, Snapshot, Store};
    /// # let folder = tempfile::tempdir()?;
    /// # let (path, key) = (folder.path().join("state.db"), AgentKey::new("key")?);
    /// let store = Store::open(&path, &key)?;
    /// store.enqueue_job("run-1", b"dump of orders")?;
    /// let copy = folder.path().join("backup.db");
    /// store.backup(&copy)?;
    /// assert_eq!(Snapshot::open(&copy, &key)?.queue_depth(), 1);
    /// assert!(store.backup(&copy).is_err()); // an existing file is never overwritten
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn backup(&self, path: impl AsRef<Path>) -> Result<()> {
        self.compactor.backup(path.as_ref())
    }

    pub(crate) fn copy_progress(&self) -> u64 {
        self.compactor.read_back()
    }

    /// Returns what opening this store found and did.
    ///
    /// ```
    /// # use backupy_state::{AgentKey, Store};
    /// # let folder = tempfile::tempdir()?;
    /// # let (path, key) = (folder.path().join("state.db"), AgentKey::new("key")?);
    /// std::mem::forget(Store::open(&path, &key)?); // as if the process had been killed
    /// # std::fs::copy(&path, folder.path().join("killed.db"))?;
    /// # let path = folder.path().join("killed.db");
    /// let store = Store::open(&path, &key)?;
    /// let report = store.recovery();
    /// assert!(!report.clean && !report.created);
    /// assert_eq!(report.quarantined, None); // no torn tail
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn recovery(&self) -> &RecoveryReport {
        &self.recovery
    }

    /// Returns the anchor of the last durable frame, for
    /// [`expect_at_least`](crate::OpenOptions::expect_at_least).
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let key = backupy_state::AgentKey::new("key")?;
    /// # let store = backupy_state::Store::open(folder.path().join("state.db"), &key)?;
    /// store.record_heartbeat(1_700_000_000_000)?;
    /// let anchor = store.anchor().to_string();
    /// // Send it to the server; `Anchor` shows how to use it at the next start.
    /// # assert!(anchor.len() <= 107);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn anchor(&self) -> Anchor {
        self.shared.anchor()
    }

    /// Returns the sizes and counts of the store, and what it and its compactions have done since it was opened.
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let key = backupy_state::AgentKey::new("key")?;
    /// # let store = backupy_state::Store::open(folder.path().join("state.db"), &key)?;
    /// store.enqueue_job("run-1", &[0; 1000])?;
    /// let stats = store.stats();
    /// assert_eq!((stats.jobs, stats.log_events), (1, 0));
    /// assert_eq!(stats.log_len + stats.free_bytes, stats.file_len);
    /// let written = stats.since_opened.unwrap_or_default();
    /// assert!(written.syncs >= 1 && written.bytes_written > 1000);
    /// if let Some(error) = &stats.compaction.last_error {
    ///     eprintln!("the store cannot be compacted: {error}");
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn stats(&self) -> Stats {
        let (logs_dropped, since_opened) = {
            let quota = lock(&self.log_quota);
            (quota.dropped, quota.dropped_since_opened())
        };
        let (opening, compaction) = (self.recovery.opening, self.compactor.stats());
        let mut stats = self.shared.stats();
        if let Some(counts) = &mut stats.since_opened {
            counts.logs_dropped = since_opened;
        }
        Stats { logs_dropped, queue_limits: self.queue_limits, opening, compaction, ..stats }
    }
}
