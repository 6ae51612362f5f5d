//! The exclusive handle, its typed writing calls on configuration, session and heartbeat, and the commit that all
//! writing calls share. The calls on the other buckets are in `queue.rs`, `data.rs` and `log_events.rs`.
//!
//! A call checks its arguments, appends one record while it holds the write lock, and then waits, without it,
//! until a sync covers the record.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::closing::Closing;
use super::compaction::Compactor;
use super::indexer::Indexer;
use super::log_quota::LogQuota;
use super::shared::{Shared, View, WriteGuard};
use crate::crypto::secret_vec::SecretVec;
use crate::format::bucket::{Bucket, CONFIG_KEY, HEARTBEAT_KEY, SESSION_KEY};
use crate::format::location::Location;
use crate::format::record::Change;
use crate::index::{Index, Key};
use crate::log::commits::Pending;
use crate::log::recovery::Recovered;
use crate::log::values::Values;
use crate::log::writer::LogWriter;
use crate::read::{Reader, check_value, impl_reading_calls};
use crate::storage::lock::LockFile;
use crate::{AgentKey, Durability, Error, Limit, OpenOptions, QueueLimits, RecoveryReport, Result, events};

/// The persistent state of one agent, opened exclusively: by one process, through one handle.
///
/// The handle belongs to the process that opened it. In a child of `fork`, dropping it does nothing, and the calls
/// that return a `Result` fail with [`Error::Failed`]; make no other calls there.
///
/// Every method takes `&self`; share the store between threads by reference or in an [`Arc`]. One sync can cover
/// the writing calls of several threads. All calls block; from async code, run them where blocking is allowed.
///
/// # Durability
/// A writing call returns when its effect survives a power cut, unless [`OpenOptions`] set
/// [`Durability::Buffered`] for that kind of call. Each call is one record: after a crash it is there whole or not
/// at all.
///
/// # Errors of every writing call
/// - [`Error::Full`]: the disk is full. Nothing was written, and the store stays usable: each queued job can be
///   acked, up to the first 64 MiB of acks, and log events drained, some 600 times; other calls succeed once there
///   is space again.
/// - [`Error::Io`]: the write or the sync of this call failed. Its effect is unknown until the store is reopened.
/// - [`Error::Failed`]: an earlier call failed in that way. Reading calls still work.
/// - [`Error::Replaced`]: the file at the store's path is another one by now, or none. Nothing was written to that
///   one. If the file has no name left, the next durable call notices. If it was only moved, or has a hard link,
///   it is noticed at the latest by [`sync`](Store::sync), [`close`](Store::close), a compaction, or when the file
///   grows. From then on every writing call returns it.
/// - [`Error::Closed`]: the store was closed. Reading calls that return a `Result` also return this.
///
/// ```
/// use backupy_state::{AgentKey, Enqueued, Store};
///
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("state.db");
/// let store = Store::open(&path, &AgentKey::new("bkpy_0123456789abcdef0123456789abcdef")?)?;
/// assert_eq!(store.enqueue_job("run-1", b"dump of orders")?, Enqueued::Added);
/// for job in store.dequeue_jobs(10)? {
///     // Deliver the job, and only then remove it.
///     store.ack_job(&job.run_id)?;
/// }
/// assert_eq!(store.queue_depth(), 0);
/// store.close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Store {
    pub(super) shared: Arc<Shared>,
    pub(super) compactor: Compactor,
    pub(super) indexer: Indexer,
    pub(super) closing: Closing,
    pub(super) durability: Durability,
    pub(super) heartbeat_durability: Durability,
    pub(super) log_durability: Durability,
    pub(super) queue_limits: QueueLimits,
    /// Locked only while the write lock is held.
    pub(super) log_quota: Mutex<LogQuota>,
    pub(super) recovery: RecoveryReport,
    /// `None` once the store is closed.
    pub(super) lock_file: Mutex<Option<LockFile>>,
}

impl Store {
    /// Opens the store at `path` with the default [`OpenOptions`], and creates it if it does not exist. A path
    /// without an extension gets `.db`.
    ///
    /// # Errors
    /// Those of [`OpenOptions::open`].
    ///
    /// ```
    /// # use backupy_state::{AgentKey, Store};
    /// # let folder = tempfile::tempdir()?;
    /// # let (path, key) = (folder.path().join("state.db"), AgentKey::new("key")?);
    /// let store = Store::open(&path, &key)?;
    /// assert!(store.recovery().created);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn open(path: impl AsRef<Path>, key: &AgentKey) -> Result<Store> {
        OpenOptions::new().open(path, key)
    }

    pub(super) fn new(
        options: &OpenOptions,
        path: PathBuf,
        key: &AgentKey,
        recovered: Recovered,
        lock_file: LockFile,
    ) -> Result<Store> {
        let Recovered { log: file, header, index, end, mark, runs, report } = recovered;
        let values = Arc::new(Values::new(Arc::clone(&file), options.mmap));
        let view = View { header, index, values };
        let log = LogWriter::new(file, Arc::clone(&options.storage), end, mark);
        let shared = Arc::new(Shared::new(options, path, lock_file.owner(), log, view, runs));
        // A counter that cannot be read must not keep the agent from its queue.
        let drops = match Reader::recorded_drops(&*shared) {
            Err(error @ Error::Unauthentic { .. }) => {
                events::drops_unreadable(&shared.path, &error);
                None
            }
            read => Some(read?),
        };
        Ok(Store {
            compactor: Compactor::new(Arc::clone(&shared), key.duplicate()),
            indexer: Indexer::new(Arc::clone(&shared)),
            shared,
            queue_limits: options.queue_limits,
            log_quota: Mutex::new(LogQuota::new(options.log_limits, drops)),
            durability: options.durability,
            heartbeat_durability: options.heartbeat_durability.unwrap_or(options.durability),
            log_durability: options.log_durability.unwrap_or(options.durability),
            recovery: report,
            closing: Closing::default(),
            lock_file: Mutex::new(Some(lock_file)),
        })
    }

    /// Returns the absolute path of the log file, with `.db` added where [`open`](Store::open) added it and a
    /// final symbolic link resolved.
    ///
    /// ```
    /// # use backupy_state::{AgentKey, Store};
    /// # let folder = tempfile::tempdir()?;
    /// let store = Store::open(folder.path().join("state"), &AgentKey::new("key")?)?;
    /// assert!(store.path().ends_with("state.db"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    /// Emits the event for a failed write or sync. The caller holds no lock.
    pub(super) fn tell_failure<T>(&self, result: Result<T>) -> Result<T> {
        result.inspect_err(|error| events::failed(&self.shared.path, error, self.shared.has_failed()))
    }

    /// Saves the configuration and its version, replacing the previous one.
    ///
    /// [`OpenOptions::durability`] sets how durable it is on return.
    ///
    /// # Errors
    /// [`Error::TooLarge`] for more than 16 MiB, and those of [every writing
    /// call](Store#errors-of-every-writing-call).
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let key = backupy_state::AgentKey::new("key")?;
    /// # let store = backupy_state::Store::open(folder.path().join("state.db"), &key)?;
    /// store.save_config(7, b"backup at 02:00")?;
    /// store.save_config(8, b"backup at 03:00")?;
    /// assert_eq!(store.load_config()?.map(|config| config.version), Some(8));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn save_config(&self, version: u64, raw: &[u8]) -> Result<()> {
        check_value("a configuration", raw)?;
        let version = version.to_le_bytes();
        let change = Change::put(Bucket::Config, CONFIG_KEY, &version, raw);
        self.commit(self.shared.write()?, &[change], self.durability)
    }

    /// Saves the session, replacing the previous one. `server_time_ms` is in milliseconds since 1970.
    ///
    /// [`OpenOptions::durability`] sets how durable it is on return.
    ///
    /// # Errors
    /// [`Error::TooLarge`] for a session id over 16 MiB, and those of
    /// [every writing call](Store#errors-of-every-writing-call).
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let key = backupy_state::AgentKey::new("key")?;
    /// # let store = backupy_state::Store::open(folder.path().join("state.db"), &key)?;
    /// store.save_session("session-of-today", 1_700_000_000_000)?;
    /// assert_eq!(store.load_session()?.map(|session| session.server_time_ms), Some(1_700_000_000_000));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn save_session(&self, session_id: &str, server_time_ms: i64) -> Result<()> {
        check_value("a session id", session_id.as_bytes())?;
        let server_time = server_time_ms.to_le_bytes();
        let change = Change::put(Bucket::Registry, SESSION_KEY, &server_time, session_id.as_bytes());
        self.commit(self.shared.write()?, &[change], self.durability)
    }

    /// Records a heartbeat, replacing the previous one. `ts_ms` is in milliseconds since 1970.
    ///
    /// [`OpenOptions::heartbeat_durability`] sets how durable it is on return.
    ///
    /// # Errors
    /// Those of [every writing call](Store#errors-of-every-writing-call).
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let key = backupy_state::AgentKey::new("key")?;
    /// # let store = backupy_state::Store::open(folder.path().join("state.db"), &key)?;
    /// store.record_heartbeat(1_700_000_030_000)?;
    /// assert_eq!(store.last_heartbeat()?, Some(1_700_000_030_000));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn record_heartbeat(&self, ts_ms: i64) -> Result<()> {
        let ts_ms = ts_ms.to_le_bytes();
        let change = Change::put(Bucket::Registry, HEARTBEAT_KEY, &ts_ms, &[]);
        self.commit(self.shared.write()?, &[change], self.heartbeat_durability)
    }

    /// Deletes a key. Returns whether it was there; if not, nothing is written.
    pub(super) fn delete(&self, bucket: Bucket, key: &str) -> Result<bool> {
        let guard = self.shared.write()?;
        let key = key.as_bytes();
        let (is_there, _) = self.with_index(|index| index.get(bucket, key).is_some());
        if is_there {
            self.commit(guard, &[Change::delete(bucket, key)], self.durability)?;
        }
        Ok(is_there)
    }

    /// A way to open the value of a key, if it is live.
    pub(super) fn find(&self, bucket: Bucket, key: &[u8]) -> Option<impl FnOnce() -> Result<SecretVec> + use<>> {
        let (location, values) = self.with_index(|index| index.get(bucket, key));
        let (location, key) = (location?, key.to_vec());
        Some(move || {
            let about = |error: Error| error.about(bucket, &key);
            values.read(location).map(SecretVec::from).map_err(about)
        })
    }

    /// Whether every value that was written to the store is still live: none was removed or replaced. False also
    /// after a compaction or a rekey, which keep no trace of that.
    #[cfg(feature = "import-bolt")]
    pub(crate) fn was_only_added_to(&self) -> Result<bool> {
        let guard = self.shared.write()?;
        let live_count = guard.with_index(Index::live_count) as u64;
        Ok(self.shared.header().id.generation == 1 && guard.log.size().values == live_count)
    }

    /// Appends the changes as one record and waits until it is as durable as asked.
    pub(super) fn commit(
        &self,
        guard: WriteGuard<'_>,
        changes: &[Change<'_>],
        durability: Durability,
    ) -> Result<()> {
        let pending = self.tell_failure(guard.append(changes))?;
        self.finish_commit(&pending, durability)
    }

    /// Waits until a record that has been appended is as durable as asked. The caller no longer has the write
    /// lock.
    pub(super) fn finish_commit(&self, pending: &Pending, durability: Durability) -> Result<()> {
        self.compactor.start_if_due();
        match durability {
            Durability::Sync => self.wait_durable(pending),
            Durability::Buffered => Ok(()),
        }
    }

    pub(super) fn wait_durable(&self, pending: &Pending) -> Result<()> {
        self.tell_failure(pending.wait())?;
        self.indexer.start_if_due();
        Ok(())
    }
}

impl Reader for Store {
    fn page(&self, after: Option<&str>, limit: Limit) -> (Vec<(Key, Location)>, Arc<Values>) {
        self.shared.page(after, limit)
    }

    fn begin(&self) -> Result<()> {
        self.shared.check_open()
    }

    fn with_index<R>(&self, find: impl FnOnce(&Index) -> R) -> (R, Arc<Values>) {
        self.shared.with_index(find)
    }
}

impl_reading_calls!(Store);

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("path", &self.shared.path).finish_non_exhaustive()
    }
}
