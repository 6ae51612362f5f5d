//! The store: the exclusive handle and its typed writing calls. Sees every layer.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use crate::store::compaction::Compactor;
use crate::format::bucket::{Bucket, CONFIG_KEY, HEARTBEAT_KEY, SESSION_KEY};
use crate::format::record::Change;
use crate::index::Index;
use crate::store::shared::{Live, Writing};
use crate::log::writer::{Log, Pending, Values};
use crate::store::log_quota::LogGate;
use crate::options::{Durability, OpenOptions};
use crate::read::{Reader, View, check_run_id, check_value, impl_reading_calls};
use crate::log::recovery::{self, Recovered, RecoveryReport};
use crate::storage::LockGuard;
use crate::{AgentKey, Error, Result, events};
use crate::store::on_damage;
use crate::storage::paths as path;



/// What [`Store::enqueue_job`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enqueued {
    /// The queue did not hold the run id.
    Added,
    /// The queue held the run id; its payload is the new one.
    Replaced,
}

/// The persistent state of one agent, held exclusively: one process, one handle.
///
/// Every method takes `&self`; share the store between threads by reference or in an [`Arc`]. Writing calls of
/// several threads are synced together. All calls block; from async code, run them where blocking is allowed.
///
/// # Durability
/// A writing call returns when its effect survives a power cut, unless it was opened with
/// [`Durability::Buffered`](crate::Durability::Buffered) for that kind of call. Each call is one record: after a
/// crash it is there whole or not at all.
///
/// # Errors of every writing call
/// - [`Error::Full`]: the disk is full. Nothing was written; the store goes on, and acks and drains still work while
///   the space kept for them lasts.
/// - [`Error::Io`]: the write or the sync of this call failed. Its effect is unknown until the store is opened anew.
/// - [`Error::Failed`]: that happened to an earlier call. Reads go on.
///
/// ```
/// use backupy_state::{AgentKey, Enqueued, Store};
///
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("state.db");
/// let store = Store::open(&path, &AgentKey::new("bkpy_0123456789abcdef0123456789abcdef")?)?;
/// assert_eq!(store.enqueue_job("run-1", b"dump of orders")?, Enqueued::Added);
/// for job in store.dequeue_jobs(10)? {
///     // Deliver it; only then remove it.
///     store.ack_job(&job.run_id)?;
/// }
/// assert_eq!(store.queue_depth(), 0);
/// store.close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Store {
    live: Arc<Live>,
    compactor: Compactor,
    durability: Durability,
    heartbeat_durability: Durability,
    log_durability: Durability,
    /// Taken while the writing end is held.
    log_gate: Mutex<LogGate>,
    recovery: RecoveryReport,
    /// Last, so that everything above is gone before the lock is.
    _lock: LockGuard,
}

impl Store {
    /// Opens the store at `path` with the default [`OpenOptions`], creating it if there is none.
    ///
    /// # Errors
    /// As [`OpenOptions::open`].
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

    pub(crate) fn open_with(options: &OpenOptions, path: &Path, key: &AgentKey) -> Result<Store> {
        let opened = Store::open_silently(options, path, key);
        match &opened {
            Ok(store) => events::opened(store.path(), &store.recovery),
            Err(error) => events::open_failed(path, error),
        }
        opened
    }

    fn open_silently(options: &OpenOptions, path: &Path, key: &AgentKey) -> Result<Store> {
        let storage = &*options.storage;
        let path = path::resolve(storage, path)?;
        // Before the lock: its file would be left behind.
        let may_be_missing = options.create || options.expected.is_some();
        if !path::is_file(storage, &path)? && !may_be_missing {
            return Err(Error::NotFound { path });
        }
        let lock = storage.lock(&path::sibling(&path, ".lock"), options.lock_timeout)?;
        recovery::remove_leftovers(storage, &path)?;
        let (recovered, current_key) = open_or_create(options, &path, key)?;
        let mut store = Store::new(options, path, current_key, recovered, lock)?;
        if !std::ptr::eq(current_key, key) {
            store.rekey(key)?;
            store.recovery.rekeyed = true;
        }
        Ok(store)
    }

    fn new(
        options: &OpenOptions,
        path: PathBuf,
        key: &AgentKey,
        recovered: Recovered,
        lock: LockGuard,
    ) -> Result<Store> {
        let Recovered { log: file, header, replay, allocated, report } = recovered;
        let values = Arc::new(Values::new(Arc::clone(&file), options.mmap));
        let view = View { header, index: replay.index, values };
        let log = Log::new(file, Arc::clone(&options.storage), replay.tip, allocated, replay.ends_closed);
        let live = Arc::new(Live::new(options, path, log, view));
        // One bad count must not keep the agent from its queue.
        let drops = match Reader::recorded_drops(&*live) {
            Err(error @ Error::Unauthentic { .. }) => {
                events::drops_unreadable(&live.path, &error);
                None
            }
            read => Some(read?),
        };
        Ok(Store {
            compactor: Compactor::new(Arc::clone(&live), key.duplicate()),
            live,
            log_gate: Mutex::new(LogGate::new(options.log_limits, drops)),
            durability: options.durability,
            heartbeat_durability: options.heartbeat_durability.unwrap_or(options.durability),
            log_durability: options.log_durability.unwrap_or(options.durability),
            recovery: report,
            _lock: lock,
        })
    }

    /// The log file: absolute, with a symbolic link at its end followed and `.db` added where it was.
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
        &self.live.path
    }

    /// Ends the session: makes everything durable, writes a close frame, cuts the space ahead off and unlocks. A log that holds
    /// at most 128 KiB of live data, and more than that of dead, is compacted first, so that the next opening is quick: see
    /// [`CompactionPolicy`](crate::CompactionPolicy).
    /// Dropping the store does the same, but cannot say whether it worked.
    ///
    /// # Errors
    /// [`Error::Failed`] after an earlier failure, [`Error::Io`]. The store is unlocked in any case.
    ///
    /// ```
    /// # use backupy_state::{AgentKey, Store};
    /// # let folder = tempfile::tempdir()?;
    /// # let (path, key) = (folder.path().join("state.db"), AgentKey::new("key")?);
    /// let store = Store::open(&path, &key)?;
    /// store.record_heartbeat(1_700_000_000_000)?;
    /// store.close()?;
    /// assert!(Store::open(&path, &key)?.recovery().clean);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn close(self) -> Result<()> {
        // Dropping the store afterwards finds nothing left to do, or does not try again what has just failed.
        self.finish()
    }

    fn finish(&self) -> Result<()> {
        self.compactor.finish();
        self.record_drops()?;
        let mut writing = self.live.write()?;
        writing.log.close().inspect_err(|error| {
            events::failed(&self.live.path, error);
            writing.log.commit().fail(&std::io::ErrorKind::Other.into());
        })
    }

    /// Saves the configuration and its version, in place of the last one.
    ///
    /// # Errors
    /// [`Error::TooLarge`] over 16 MiB, and as every writing call.
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let store = backupy_state::Store::open(folder.path().join("state.db"), &backupy_state::AgentKey::new("key")?)?;
    /// store.save_config(7, b"backup at 02:00")?;
    /// store.save_config(8, b"backup at 03:00")?;
    /// assert_eq!(store.load_config()?.map(|config| config.version), Some(8));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn save_config(&self, version: u64, raw: &[u8]) -> Result<()> {
        check_value("a configuration", raw)?;
        let version = version.to_le_bytes();
        let change = Change::put(Bucket::Config, CONFIG_KEY, &version, raw);
        self.commit(self.live.write()?, &[change], self.durability)
    }

    /// Puts a job into the queue, or replaces the payload of the one that has its run id.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an empty run id, [`Error::TooLarge`] for one over 1024 bytes or a payload over 16 MiB,
    /// and as every writing call.
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let store = backupy_state::Store::open(folder.path().join("state.db"), &backupy_state::AgentKey::new("key")?)?;
    /// use backupy_state::Enqueued;
    ///
    /// assert_eq!(store.enqueue_job("run-1", b"dump of orders")?, Enqueued::Added);
    /// // Delivered to the agent once more: it is queued once.
    /// assert_eq!(store.enqueue_job("run-1", b"dump of orders")?, Enqueued::Replaced);
    /// assert_eq!(store.queue_depth(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn enqueue_job(&self, run_id: &str, payload: &[u8]) -> Result<Enqueued> {
        check_run_id(run_id)?;
        check_value("a payload", payload)?;
        let change = Change::put(Bucket::Queue, run_id.as_bytes(), &[], payload);
        let (pending, replaced) = self.live.write()?.append_counting(&[change])?;
        self.committed(&pending, self.durability)?;
        Ok(if replaced > 0 { Enqueued::Replaced } else { Enqueued::Added })
    }

    /// Removes a job for good. Returns whether the queue held it; if not, nothing is written.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an empty run id, [`Error::TooLarge`] for one over 1024 bytes, and as every writing
    /// call.
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let store = backupy_state::Store::open(folder.path().join("state.db"), &backupy_state::AgentKey::new("key")?)?;
    /// store.enqueue_job("run-1", b"dump of orders")?;
    /// assert!(store.ack_job("run-1")?);
    /// assert!(!store.ack_job("run-1")?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn ack_job(&self, run_id: &str) -> Result<bool> {
        check_run_id(run_id)?;
        let writing = self.live.write()?;
        let key = run_id.as_bytes();
        let (queued, _) = self.look(|index| index.get(Bucket::Queue, key).is_some());
        if queued {
            self.commit(writing, &[Change::delete(Bucket::Queue, key)], self.durability)?;
        }
        Ok(queued)
    }

    /// Saves the session, in place of the last one. `server_time_ms` is in ms since 1970.
    ///
    /// # Errors
    /// [`Error::TooLarge`] for a session id over 16 MiB, and as every writing call.
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let store = backupy_state::Store::open(folder.path().join("state.db"), &backupy_state::AgentKey::new("key")?)?;
    /// store.save_session("session-of-today", 1_700_000_000_000)?;
    /// assert_eq!(store.load_session()?.map(|session| session.server_time_ms), Some(1_700_000_000_000));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn save_session(&self, session_id: &str, server_time_ms: i64) -> Result<()> {
        check_value("a session id", session_id.as_bytes())?;
        let server_time = server_time_ms.to_le_bytes();
        let change = Change::put(Bucket::Registry, SESSION_KEY, &server_time, session_id.as_bytes());
        self.commit(self.live.write()?, &[change], self.durability)
    }

    /// Records a heartbeat, in ms since 1970, in place of the last one. Takes its durability from
    /// [`heartbeat_durability`](OpenOptions::heartbeat_durability).
    ///
    /// # Errors
    /// As every writing call.
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let store = backupy_state::Store::open(folder.path().join("state.db"), &backupy_state::AgentKey::new("key")?)?;
    /// store.record_heartbeat(1_700_000_030_000)?;
    /// assert_eq!(store.last_heartbeat()?, Some(1_700_000_030_000));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn record_heartbeat(&self, ts_ms: i64) -> Result<()> {
        let ts_ms = ts_ms.to_le_bytes();
        let change = Change::put(Bucket::Registry, HEARTBEAT_KEY, &ts_ms, &[]);
        self.commit(self.live.write()?, &[change], self.heartbeat_durability)
    }

    fn commit(&self, writing: Writing<'_>, changes: &[Change<'_>], durability: Durability) -> Result<()> {
        let pending = writing.append(changes)?;
        self.committed(&pending, durability)
    }

    /// The record stands in the log and the writing end is free again: waits as asked.
    fn committed(&self, pending: &Pending, durability: Durability) -> Result<()> {
        self.compactor.start_if_due();
        match durability {
            Durability::Sync => self.wait_durable(pending),
            Durability::Buffered => Ok(()),
        }
    }

    fn wait_durable(&self, pending: &Pending) -> Result<()> {
        pending.wait().inspect_err(|error| events::failed(&self.live.path, error))
    }
}

/// Opens what stands at the path, or creates it. Also returns the key that it is under.
fn open_or_create<'a>(
    options: &'a OpenOptions,
    path: &Path,
    key: &'a AgentKey,
) -> Result<(Recovered, &'a AgentKey)> {
    let (storage, order, expected) = (&*options.storage, options.queue_order, options.expected.as_ref());
    if !path::is_file(storage, path)? {
        return match expected {
            Some(_) => Err(Error::Stale { path: path.to_path_buf(), what: "there is no file at all" }),
            None if options.create => Ok((recovery::create(storage, path, key, order)?, key)),
            None => Err(Error::NotFound { path: path.to_path_buf() }),
        };
    }
    let open = |key| Ok((on_damage::open(options, path, key)?, key));
    match (open(key), &options.previous_key) {
        (Err(Error::WrongKey { .. }), Some(previous)) => open(previous),
        (opened, _) => opened,
    }
}

impl Reader for Store {
    fn look<R>(&self, find: impl FnOnce(&Index) -> R) -> (R, Arc<Values>) {
        self.live.look(find)
    }
}

impl_reading_calls!(Store);

impl Drop for Store {
    fn drop(&mut self) {
        let _ = self.finish();
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("path", &self.live.path).finish_non_exhaustive()
    }
}
