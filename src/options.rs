//! The builder with which a store is opened. `store/open.rs` does the opening.

use std::sync::Arc;
use std::time::Duration;

use crate::settings::IndexPolicy;
use crate::storage::{Disk, Storage};
use crate::{AgentKey, Anchor, Check, CompactionPolicy, Durability, LogLimits, OnDamage, QueueLimits, QueueOrder};

/// Options for opening a store: a builder like [`std::fs::OpenOptions`].
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
    pub(crate) queue_limits: QueueLimits,
    pub(crate) compaction: CompactionPolicy,
    pub(crate) previous_key: Option<Arc<AgentKey>>,
    pub(crate) expected: Option<Anchor>,
    pub(crate) on_damage: OnDamage,
    pub(crate) mmap: bool,
    pub(crate) check: Check,
    pub(crate) index: IndexPolicy,
    pub(crate) storage: Arc<dyn Storage>,
}

impl OpenOptions {
    /// Returns the default options: create a missing store, wait up to 5 s for the lock, sync every writing call.
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
            queue_limits: QueueLimits::default(),
            compaction: CompactionPolicy::default(),
            previous_key: None,
            expected: None,
            on_damage: OnDamage::default(),
            mmap: true,
            check: Check::default(),
            index: IndexPolicy::default(),
            storage: Arc::new(Disk),
        }
    }

    /// Sets whether a missing store is created (the default), or opening it fails with
    /// [`Error::NotFound`](crate::Error::NotFound).
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

    /// Sets how long opening waits while another handle holds the store: 5 s by default. With zero, it tries once.
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

    /// Sets the durability of writing calls that have no option of their own: [`Sync`](Durability::Sync) by
    /// default.
    ///
    /// ```
    /// # use backupy_state::{AgentKey, Durability, OpenOptions};
    /// # let folder = tempfile::tempdir()?;
    /// # let (path, key) = (folder.path().join("state.db"), AgentKey::new("key")?);
    /// // For data that a crash of the agent must not lose, but a power cut may.
    /// let store = OpenOptions::new().durability(Durability::Buffered).open(&path, &key)?;
    /// store.save_config(7, b"backup at 02:00")?; // does not wait for the disk
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn durability(&mut self, durability: Durability) -> &mut Self {
        self.durability = durability;
        self
    }

    /// Sets the durability of [`Store::record_heartbeat`](crate::Store::record_heartbeat): that of
    /// [`durability`](Self::durability) by default.
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

    /// Sets the durability of [`Store::buffer_log`], [`Store::drain_logs`], [`Store::ack_logs`] and
    /// [`Store::discard_unreadable_logs`]: that of [`durability`](Self::durability) by default.
    ///
    /// [`Store::buffer_log`]: crate::Store::buffer_log
    /// [`Store::drain_logs`]: crate::Store::drain_logs
    /// [`Store::ack_logs`]: crate::Store::ack_logs
    /// [`Store::discard_unreadable_logs`]: crate::Store::discard_unreadable_logs
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

    /// Sets the order of [`Store::dequeue_jobs`](crate::Store::dequeue_jobs): [`RunId`](QueueOrder::RunId) by
    /// default. It is not stored, and may differ from one open to the next.
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

    /// Sets the limits of the queue. By default it has none.
    ///
    /// ```
    /// # use backupy_state::{AgentKey, Error, OpenOptions, QueueLimits};
    /// # let folder = tempfile::tempdir()?;
    /// # let (path, key) = (folder.path().join("state.db"), AgentKey::new("key")?);
    /// let mut limits = QueueLimits::default();
    /// limits.max_count = Some(1);
    /// let store = OpenOptions::new().queue_limits(limits).open(&path, &key)?;
    /// store.enqueue_job("run-1", b"dump of orders")?;
    /// assert!(matches!(store.enqueue_job("run-2", b"dump of users"), Err(Error::QueueFull { .. })));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn queue_limits(&mut self, limits: QueueLimits) -> &mut Self {
        self.queue_limits = limits;
        self
    }

    /// Sets the limits of the log buffer.
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

    /// Sets the agent key that the store may still have. If it does, the store is opened with that key, and
    /// changed to the new one as by [`Store::rekey`](crate::Store::rekey) before [`open`](Self::open) returns. A
    /// crash in between leaves a store that opens with one of the two keys.
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

    /// Requires the store to be the one that the anchor is from, and to have the anchor's frame or a newer
    /// generation. Opening fails with [`Error::Stale`](crate::Error::Stale) if it does not, or if there is no
    /// file. A fork that was compacted after it had got further than the anchor, or more than once, is not
    /// detected.
    ///
    /// ```
    /// # use backupy_state::{AgentKey, OpenOptions, Store};
    /// # let folder = tempfile::tempdir()?;
    /// # let (path, key) = (folder.path().join("state.db"), AgentKey::new("key")?);
    /// # let anchor = Store::open(&path, &key)?.anchor();
    /// // `anchor` was stored elsewhere, for instance by the server.
    /// let store = OpenOptions::new().expect_at_least(anchor).open(&path, &key)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn expect_at_least(&mut self, anchor: Anchor) -> &mut Self {
        self.expected = Some(anchor);
        self
    }

    /// Sets what opening does about a store that is damaged or fails authentication: refuse it (the default), or
    /// quarantine the file and continue with what is authentic ([`OnDamage::SetAside`]). In that case
    /// [`Store::recovery`](crate::Store::recovery) reports where the damaged file is and what is lost.
    ///
    /// Some errors are returned either way: a wrong key, a foreign file, a newer format, both copies of the header
    /// damaged in the same field, a stale file, an I/O error. A value that fails authentication is not noticed
    /// when the store is opened, but by the call that reads the value; only with
    /// [`previous_key`](Self::previous_key), the store is then salvaged, or the open fails.
    ///
    /// The new log is the next generation of the same store, so it satisfies
    /// [`expect_at_least`](Self::expect_at_least) from then on. The damaged file must satisfy it too: it must have
    /// the expected frame or, if that is lost, a later one.
    ///
    /// A crash at any point leaves either the damaged store or the new log at the path. The new log needs as much
    /// disk space as the damaged one, and twice as much if the file system has no hard links.
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
    /// # bytes[8192 + 100] ^= 1;
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

    /// Sets when the store compacts its log by itself.
    ///
    /// ```
    /// # use backupy_state::{AgentKey, CompactionPolicy, OpenOptions};
    /// # let folder = tempfile::tempdir()?;
    /// # let (path, key) = (folder.path().join("state.db"), AgentKey::new("key")?);
    /// let mut policy = CompactionPolicy::default();
    /// policy.min_len = 16 << 20;
    /// let store = OpenOptions::new().compaction(policy).open(&path, &key)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn compaction(&mut self, policy: CompactionPolicy) -> &mut Self {
        self.compaction = policy;
        self
    }

    /// Sets whether values are read through a memory map (the default) or by `pread`.
    ///
    /// With the map, the process is killed by SIGBUS if the device fails to read, or if another process shortens
    /// the file. Without the map, such a failure is an [`Error::Io`](crate::Error::Io), and reading a value takes
    /// two system calls.
    ///
    /// ```
    /// # use backupy_state::{AgentKey, OpenOptions};
    /// # let folder = tempfile::tempdir()?;
    /// # let (path, key) = (folder.path().join("state.db"), AgentKey::new("key")?);
    /// let store = OpenOptions::new().mmap(false).open(&path, &key)?; // on an unreliable disk
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn mmap(&mut self, yes: bool) -> &mut Self {
        self.mmap = yes;
        self
    }

    /// Sets how much of the log is checked when it is opened: by default [`Check::Live`], what is not in the index
    /// file.
    ///
    /// ```
    /// # use backupy_state::{AgentKey, Check, OpenOptions};
    /// # let folder = tempfile::tempdir()?;
    /// # let (path, key) = (folder.path().join("state.db"), AgentKey::new("key")?);
    /// let store = OpenOptions::new().check(Check::Everything).open(&path, &key)?;
    /// assert!(!store.recovery().opening.by_index);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn check(&mut self, what: Check) -> &mut Self {
        self.check = what;
        self
    }
}

impl Default for OpenOptions {
    fn default() -> Self {
        OpenOptions::new()
    }
}
