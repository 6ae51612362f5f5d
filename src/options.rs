//! How a store is opened.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::format::frame::SEQ_MAX;
use crate::format::header::HEADER_PAGE_LEN;
use crate::index::Index;
use crate::log::writer::Tip;
use crate::storage::{Disk, Storage};
use crate::{AgentKey, Anchor, LogLimits, Result, Store};

/// When a writing call returns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// When its effect survives a power cut.
    #[default]
    Sync,
    /// When its effect survives a killed process. The next `Sync` call, [`Store::sync`] or
    /// [`Store::close`] makes it survive a power cut too.
    Buffered,
}

/// In which order jobs are dequeued.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum QueueOrder {
    /// By the bytes of the run id.
    #[default]
    RunId,
    /// By the latest enqueue: a job that was replaced, or acked and enqueued again, goes to the back. The order
    /// is kept over reopening, and a store may be opened with either order at any time.
    Fifo,
}

/// What opening does about a store that is damaged or was tampered with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnDamage {
    /// [`Error::Corrupt`](crate::Error::Corrupt) or [`Error::Unauthentic`](crate::Error::Unauthentic), and not a byte is
    /// changed.
    #[default]
    Refuse,
    /// The damaged file is kept as `state.db.damaged-1`, or the next number that is free, and the store goes on with what is
    /// authentic in it, as by [`salvage`](crate::salvage): for an agent that nobody watches.
    SetAside,
}

/// When a store compacts itself. A store that is closed with at most 128 KiB of live data and more than that of dead is
/// compacted too, whatever its length.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CompactionPolicy {
    /// Whether it does at all. One that renews the key of a generation with 2^31 frames always runs.
    pub automatic: bool,
    /// Only when the file, with the space ahead, is about to be longer than this, in bytes: 1 MiB by default.
    pub min_len: u64,
    /// Only when more than this part of the frames is dead: 0.5 by default, and never less than 0.1.
    pub dead_ratio: f64,
}

impl CompactionPolicy {
    pub(crate) fn is_due(&self, tip: Tip, file_len: u64, index: &Index) -> bool {
        let (frames_len, dead) = frames_and_dead(tip, index);
        let is_long = file_len + NEXT_STEPS_LEN >= self.min_len && dead >= DEAD_LEN_MIN;
        let is_wasteful = is_long && dead as f64 > self.dead_ratio.max(DEAD_RATIO_MIN) * frames_len as f64;
        self.automatic && is_wasteful || tip.seq >= RENEW_AT_SEQ
    }

    /// Whether to compact a log that is being closed, however short it is: what is dead would be read by the next opening, and
    /// the little that is live is copied in no time.
    pub(crate) fn is_due_at_close(&self, tip: Tip, index: &Index) -> bool {
        let (frames_len, dead) = frames_and_dead(tip, index);
        let is_quick = index.live_bytes() <= LIVE_AT_CLOSE_MAX && dead > LIVE_AT_CLOSE_MAX;
        self.automatic && is_quick && dead as f64 > self.dead_ratio * frames_len as f64
    }
}

/// What all frames take, and how much of it is dead.
fn frames_and_dead(tip: Tip, index: &Index) -> (u64, u64) {
    let frames_len = tip.end - HEADER_PAGE_LEN as u64;
    (frames_len, frames_len.saturating_sub(index.live_bytes()))
}

/// What the log grows by while a compaction runs beside a writer that syncs each call: so much earlier it begins.
const NEXT_STEPS_LEN: u64 = 128 << 10;
/// Less is not worth the syncs: in a store of a few short values, the frames' own bytes alone are over any ratio.
const DEAD_LEN_MIN: u64 = 16 << 10;
/// The headers of a compacted log count as dead: below this, a compaction could call for the next one.
const DEAD_RATIO_MIN: f64 = 0.1;
/// So much is copied while the syncs of a compaction take longer than that.
const LIVE_AT_CLOSE_MAX: u64 = 128 << 10;
/// Early enough that a compaction ends before the last number: 16 million frames take a fast writer a minute.
const RENEW_AT_SEQ: u64 = SEQ_MAX - (1 << 24);

impl Default for CompactionPolicy {
    fn default() -> Self {
        CompactionPolicy { automatic: true, min_len: 1 << 20, dead_ratio: 0.5 }
    }
}

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

    /// Opens the store at `path`, creating and recovering it as needed. A path without extension gets `.db`; a
    /// symbolic link at its end is followed.
    ///
    /// When it returns, everything that [`Store::recovery`] reports as replayed is durable.
    ///
    /// # Errors
    /// - [`Error::Invalid`](crate::Error::Invalid): the path is empty or names no file.
    /// - [`Error::NotFound`](crate::Error::NotFound): no file, and `create(false)`.
    /// - [`Error::Locked`](crate::Error::Locked): another handle holds the store.
    /// - [`Error::NotAStore`](crate::Error::NotAStore), [`Error::UnsupportedFormat`](crate::Error::UnsupportedFormat),
    ///   [`Error::WrongKey`](crate::Error::WrongKey), [`Error::Corrupt`](crate::Error::Corrupt),
    ///   [`Error::Unauthentic`](crate::Error::Unauthentic), [`Error::Stale`](crate::Error::Stale): what stands there; not a byte of it was changed.
    /// - [`Error::Full`](crate::Error::Full): no space to create the store, to set a torn tail or a damaged log aside, or to put
    ///   it under the new key.
    /// - [`Error::Io`](crate::Error::Io): anything the operating system refused, such as a folder that is not there.
    ///
    /// ```
    /// # use backupy_state::{AgentKey, Error, OpenOptions};
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("state.db");
    /// let key = AgentKey::new("bkpy_0123456789abcdef0123456789abcdef")?;
    /// match OpenOptions::new().open(&path, &key) {
    ///     Ok(store) => println!("{} jobs to do", store.queue_depth()),
    ///     Err(error @ Error::Locked { .. }) => eprintln!("{error}"),
    ///     Err(error) => return Err(error.into()),
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn open(&self, path: impl AsRef<Path>, key: &AgentKey) -> Result<Store> {
        Store::open_with(self, path.as_ref(), key)
    }
}

impl Default for OpenOptions {
    fn default() -> Self {
        OpenOptions::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tip(end: u64, seq: u64) -> Tip {
        Tip { end, seq, chain: [0; 16] }
    }

    #[test]
    fn a_generation_that_runs_out_of_numbers_is_compacted_whatever_the_policy_says() {
        let never = CompactionPolicy { automatic: false, ..CompactionPolicy::default() };
        let empty = Index::new(QueueOrder::RunId);
        assert!(!never.is_due(tip(1 << 40, RENEW_AT_SEQ - 1), 1 << 40, &empty));
        assert!(never.is_due(tip(5000, RENEW_AT_SEQ), 5000, &empty));
    }

    #[test]
    fn a_ratio_that_is_no_ratio_never_calls_for_one_compaction_after_the_other() {
        let empty = Index::new(QueueOrder::RunId);
        for dead_ratio in [f64::NAN, -1.0, 0.0] {
            let policy = CompactionPolicy { dead_ratio, min_len: 0, automatic: true };
            // Nothing but what the first record of a new log takes besides its value.
            assert!(!policy.is_due(tip(4096 + 200, 2), 140_000, &empty));
        }
    }
}
