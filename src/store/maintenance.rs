//! What keeps a store durable, small and whole, and what it says about itself.

use std::path::Path;

use super::handle::Store;
use super::shared::lock;
use crate::{AgentKey, Anchor, CompactionReport, RecoveryReport, Result, Stats};

impl Store {
    /// Makes everything durable that `Buffered` calls have written.
    ///
    /// # Errors
    /// [`Io`](crate::Error::Io) when the sync fails, [`Failed`](crate::Error::Failed) after an earlier failure.
    ///
    /// ```
    /// # use backupy_state::{AgentKey, Durability, OpenOptions};
    /// # let folder = tempfile::tempdir()?;
    /// # let (path, key) = (folder.path().join("state.db"), AgentKey::new("key")?);
    /// let store = OpenOptions::new().durability(Durability::Buffered).open(&path, &key)?;
    /// for number in 0..100 {
    ///     store.enqueue_job(&format!("run-{number}"), b"dump")?;
    /// }
    /// store.sync()?; // one for all of them
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn sync(&self) -> Result<()> {
        let pending = self.shared.write()?.log.pending();
        self.wait_durable(&pending)
    }

    /// Copies what is live into a new log file and puts that in the place of the old one; readers and writers go on
    /// meanwhile. Waits for a compaction that is running already. On return the new file is durable.
    ///
    /// # Errors
    /// [`Full`](crate::Error::Full) when there is no room for the new file, [`Unauthentic`](crate::Error::Unauthentic) when a
    /// live value does not fit its seal (with the run id, where it is a job's), [`Io`](crate::Error::Io) and
    /// [`Failed`](crate::Error::Failed). The old log stays and the store goes on, unless it says `Failed` from then on.
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let store = backupy_state::Store::open(folder.path().join("state.db"), &backupy_state::AgentKey::new("key")?)?;
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

    /// Puts the store under another agent key: a compaction whose new file only the new key opens. A crash at any point
    /// leaves a store that one of the two keys opens, whole.
    ///
    /// # Errors
    /// As [`compact`](Store::compact). The old key stays valid.
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

    /// Writes a compact, consistent copy of the store to a new file, under the same key, while writers go on. On return it is
    /// durable. The path means what it says: no extension is added.
    ///
    /// The copy is of the same generation as the store. Put in the store's place, it is an older state like any other
    /// backup.
    ///
    /// # Errors
    /// [`Invalid`](crate::Error::Invalid) when something stands at the path already, of which nothing is changed, or when it is
    /// the store's own with `.new` behind it, which the next open removes. And as [`compact`](Store::compact).
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
    /// assert!(store.backup(&copy).is_err()); // never over a file
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn backup(&self, path: impl AsRef<Path>) -> Result<()> {
        self.compactor.backup(path.as_ref())
    }

    pub(crate) fn copy_progress(&self) -> u64 {
        self.compactor.checked()
    }

    /// What opening this store found and did.
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

    /// Where the log ends, as far as it is durable: the anchor for
    /// [`expect_at_least`](crate::OpenOptions::expect_at_least).
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let store = backupy_state::Store::open(folder.path().join("state.db"), &backupy_state::AgentKey::new("key")?)?;
    /// store.record_heartbeat(1_700_000_000_000)?;
    /// let anchor = store.anchor().to_string();
    /// // Give it to the server; see `Anchor` for the way back.
    /// # assert!(anchor.len() <= 107);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn anchor(&self) -> Anchor {
        self.shared.anchor()
    }

    /// How large the store is, and of what.
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let store = backupy_state::Store::open(folder.path().join("state.db"), &backupy_state::AgentKey::new("key")?)?;
    /// store.enqueue_job("run-1", &[0; 1000])?;
    /// let stats = store.stats();
    /// assert_eq!((stats.jobs, stats.log_events), (1, 0));
    /// assert_eq!(stats.log_len + stats.free_bytes, stats.file_len);
    /// if let Some(error) = &stats.compaction.last_error {
    ///     eprintln!("the store cannot be compacted: {error}");
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn stats(&self) -> Stats {
        let logs_dropped = lock(&self.log_quota).dropped;
        Stats { logs_dropped, compaction: self.compactor.stats(), ..self.shared.stats() }
    }
}
