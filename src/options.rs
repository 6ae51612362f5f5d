//! How a store is opened.

use std::sync::Arc;
use std::time::Duration;

use crate::storage::{Disk, Storage};
use crate::{AgentKey, Anchor, CompactionPolicy, Durability, LogLimits, OnDamage, QueueOrder};

/// How to open a store: a builder like [`std::fs::OpenOptions`].
///
/// ```
/// use std::time::Duration;
/// use backupy_state::{AgentKey, Durability, OpenOptions, QueueOrder};
///
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("state.db");
/// let store = OpenOptions::new()
///     .lock_timeout(Duration::from_secs(1))
///     .queue_order(QueueOrder::Fifo)
///     .log_durability(Durability::Buffered)
///     .open(&path, &AgentKey::new("bkpy_0123456789abcdef0123456789abcdef")?)?;
/// store.close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct OpenOptions {
    pub(crate) create: bool,
    pub(crate) lock_timeout: Duration,
    pub(crate) durability: Durability,
    pub(crate) heartbeat_durability: Option<Durability>,
    pub(crate) log_durability: Option<Durability>,
    pub(crate) queue_order: QueueOrder,
    pub(crate) log_limits: LogLimits,
    pub(crate) compaction: CompactionPolicy,
    pub(crate) previous_key: Option<Arc<AgentKey>>,
    pub(crate) expected: Option<Anchor>,
    pub(crate) on_damage: OnDamage,
    pub(crate) mmap: bool,
    pub(crate) storage: Arc<dyn Storage>,
}

impl OpenOptions {
    /// Creates a missing store, waits 5 s for the lock, syncs every call.
    ///
    /// ```
    /// # use backupy_state::{AgentKey, OpenOptions};
    /// # let folder = tempfile::tempdir()?;
    /// # let (path, key) = (folder.path().join("state.db"), AgentKey::new("key")?);
    /// let store = OpenOptions::new().open(&path, &key)?; // as `Store::open`
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn new() -> Self {
        OpenOptions {
            create: true,
            lock_timeout: Duration::from_secs(5),
            durability: Durability::default(),
            heartbeat_durability: None,
            log_durability: None,
            queue_order: QueueOrder::default(),
            log_limits: LogLimits::default(),
            compaction: CompactionPolicy::default(),
            previous_key: None,
            expected: None,
            on_damage: OnDamage::default(),
            mmap: true,
            storage: Arc::new(Disk),
        }
    }

    /// Whether a missing store is created (the default) or [`Error::NotFound`](crate::Error::NotFound).
    ///
    /// ```
    /// # use backupy_state::{AgentKey, Error, OpenOptions};
    /// # let folder = tempfile::tempdir()?;
    /// # let (path, key) = (folder.path().join("state.db"), AgentKey::new("key")?);
    /// let missing = OpenOptions::new().create(false).open(&path, &key);
    /// assert!(matches!(missing, Err(Error::NotFound { .. })));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn create(&mut self, yes: bool) -> &mut Self {
        self.create = yes;
        self
    }

    /// How long to wait for another holder of the store: 5 s by default; zero tries once.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use backupy_state::{AgentKey, Error, OpenOptions};
    /// # let folder = tempfile::tempdir()?;
    /// # let (path, key) = (folder.path().join("state.db"), AgentKey::new("key")?);
    /// let store = OpenOptions::new().open(&path, &key)?;
    /// match OpenOptions::new().lock_timeout(Duration::ZERO).open(&path, &key) {
    ///     Err(Error::Locked { holder, .. }) => assert_eq!(holder, Some(std::process::id())),
    ///     _ => unreachable!(),
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn lock_timeout(&mut self, timeout: Duration) -> &mut Self {
        self.lock_timeout = timeout;
        self
    }

    /// The durability of every call that has no setting of its own.
    ///
    /// ```
    /// # use backupy_state::{AgentKey, Durability, OpenOptions};
    /// # let folder = tempfile::tempdir()?;
    /// # let (path, key) = (folder.path().join("state.db"), AgentKey::new("key")?);
    /// // For what can be lost in a power cut, and not in a crash of the agent.
    /// let store = OpenOptions::new().durability(Durability::Buffered).open(&path, &key)?;
    /// store.save_config(7, b"backup at 02:00")?; // does not wait for the disk
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn durability(&mut self, durability: Durability) -> &mut Self {
        self.durability = durability;
        self
    }

    /// The durability of [`Store::record_heartbeat`].
    ///
    /// ```
    /// # use backupy_state::{AgentKey, Durability, OpenOptions};
    /// # let folder = tempfile::tempdir()?;
    /// # let (path, key) = (folder.path().join("state.db"), AgentKey::new("key")?);
    /// let store = OpenOptions::new().heartbeat_durability(Durability::Buffered).open(&path, &key)?;
    /// store.record_heartbeat(1_700_000_000_000)?; // does not wait for the disk
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn heartbeat_durability(&mut self, durability: Durability) -> &mut Self {
        self.heartbeat_durability = Some(durability);
        self
    }

    /// The durability of [`Store::buffer_log`], [`Store::drain_logs`] and [`Store::ack_logs`].
    ///
    /// ```
    /// # use backupy_state::{AgentKey, Durability, OpenOptions};
    /// # let folder = tempfile::tempdir()?;
    /// # let (path, key) = (folder.path().join("state.db"), AgentKey::new("key")?);
    /// let store = OpenOptions::new().log_durability(Durability::Buffered).open(&path, &key)?;
    /// store.buffer_log(1_700_000_000_000, b"backup begun")?; // does not wait for the disk
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn log_durability(&mut self, durability: Durability) -> &mut Self {
        self.log_durability = Some(durability);
        self
    }

    /// The order of [`Store::dequeue_jobs`].
    ///
    /// ```
    /// # use backupy_state::{AgentKey, OpenOptions, QueueOrder};
    /// # let folder = tempfile::tempdir()?;
    /// # let (path, key) = (folder.path().join("state.db"), AgentKey::new("key")?);
    /// let store = OpenOptions::new().queue_order(QueueOrder::Fifo).open(&path, &key)?;
    /// store.enqueue_job("b", b"first")?;
    /// store.enqueue_job("a", b"second")?;
    /// assert_eq!(store.dequeue_jobs(1)?[0].run_id, "b");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn queue_order(&mut self, order: QueueOrder) -> &mut Self {
        self.queue_order = order;
        self
    }

    /// The limits of the log buffer.
    ///
    /// ```
    /// # use backupy_state::{AgentKey, LogLimits, OpenOptions};
    /// # let folder = tempfile::tempdir()?;
    /// # let (path, key) = (folder.path().join("state.db"), AgentKey::new("key")?);
    /// let mut limits = LogLimits::default();
    /// limits.max_count = Some(10_000);
    /// let store = OpenOptions::new().log_limits(limits).open(&path, &key)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn log_limits(&mut self, limits: LogLimits) -> &mut Self {
        self.log_limits = limits;
        self
    }

    /// The key that the store may still be under: then it is opened with that and put under the new one before
    /// [`open`](Self::open) returns, as by [`Store::rekey`]. A crash in between leaves a store that one of the two keys opens.
    ///
    /// ```
    /// # use backupy_state::{AgentKey, OpenOptions, Store};
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("state.db");
    /// # let (old, new) = (|| AgentKey::new("old").unwrap(), AgentKey::new("new")?);
    /// Store::open(&path, &old())?.close()?;
    /// let store = OpenOptions::new().previous_key(old()).open(&path, &new)?;
    /// assert!(store.recovery().rekeyed);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn previous_key(&mut self, key: AgentKey) -> &mut Self {
        self.previous_key = Some(Arc::new(key));
        self
    }

    /// Opens only this store, and only if its log reaches at least this far; else [`Error::Stale`](crate::Error::Stale).
    /// A newer generation is fine; no file at all is not.
    ///
    /// ```
    /// # use backupy_state::{AgentKey, OpenOptions, Store};
    /// # let folder = tempfile::tempdir()?;
    /// # let (path, key) = (folder.path().join("state.db"), AgentKey::new("key")?);
    /// # let anchor = Store::open(&path, &key)?.anchor();
    /// // `anchor` was kept elsewhere.
    /// let store = OpenOptions::new().expect_at_least(anchor).open(&path, &key)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn expect_at_least(&mut self, anchor: Anchor) -> &mut Self {
        self.expected = Some(anchor);
        self
    }

    /// What opening does about damage or tampering: refuse the store (the default), or [set it aside](OnDamage::SetAside) and
    /// go on with what is authentic. [`Store::recovery`] then says where the damaged file is and what is lost.
    ///
    /// A wrong key, a foreign file, a newer format, both copies of the header damaged in the same field, a stale file and I/O
    /// errors are errors all the same. So is a value that does not open, of which only reading it tells. What goes on is the next
    /// generation of the same store, so it passes [`expect_at_least`](Self::expect_at_least) from then on; what is set aside
    /// has to pass it first: it must hold the expected frame or, if that one is lost, a later one.
    ///
    /// At any crash there is the damaged store under its name, or all that is authentic. It takes as much space on the disk
    /// as the store does, and where there are no hard links, twice that.
    ///
    /// ```
    /// # use backupy_state::{AgentKey, OnDamage, OpenOptions, Store};
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("state.db");
    /// # let key = AgentKey::new("key")?;
    /// # let store = Store::open(&path, &key)?;
    /// # store.enqueue_job("run-1", b"dump of orders")?;
    /// # store.enqueue_job("run-2", b"dump of users")?;
    /// # store.close()?;
    /// # let mut bytes = std::fs::read(&path)?;
    /// # bytes[4096 + 100] ^= 1;
    /// # std::fs::write(&path, bytes)?;
    /// let store = OpenOptions::new().on_damage(OnDamage::SetAside).open(&path, &key)?;
    /// if let Some(report) = &store.recovery().salvaged {
    ///     assert!(report.from.ends_with("state.db.damaged-1"));
    ///     assert_eq!((report.lost.len(), report.jobs), (1, 1));
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn on_damage(&mut self, what: OnDamage) -> &mut Self {
        self.on_damage = what;
        self
    }

    /// When the store compacts itself.
    ///
    /// ```
    /// # use backupy_state::{AgentKey, CompactionPolicy, OpenOptions};
    /// # let folder = tempfile::tempdir()?;
    /// # let (path, key) = (folder.path().join("state.db"), AgentKey::new("key")?);
    /// let policy = CompactionPolicy { min_len: 16 << 20, ..CompactionPolicy::default() };
    /// let store = OpenOptions::new().compaction(policy).open(&path, &key)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn compaction(&mut self, policy: CompactionPolicy) -> &mut Self {
        self.compaction = policy;
        self
    }

    /// Whether values are read through a memory map (the default) or by `pread`.
    ///
    /// With the map, an I/O error of the device, or a foreign process that shortens the file, ends the process with
    /// SIGBUS. Without it, a read costs two system calls and such an error is an [`Error::Io`](crate::Error::Io).
    ///
    /// ```
    /// # use backupy_state::{AgentKey, OpenOptions};
    /// # let folder = tempfile::tempdir()?;
    /// # let (path, key) = (folder.path().join("state.db"), AgentKey::new("key")?);
    /// let store = OpenOptions::new().mmap(false).open(&path, &key)?; // on a disk that fails now and then
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn mmap(&mut self, yes: bool) -> &mut Self {
        self.mmap = yes;
        self
    }
}

impl Default for OpenOptions {
    fn default() -> Self {
        OpenOptions::new()
    }
}
