//! The reader without a lock: another process uses it to look at a store while the agent runs. Never writes to it.
//!
//! Implements *Alongside a writer* of FORMAT.md, section 11.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use crate::error::OVERTAKEN;
use crate::format::header::Header;
use crate::format::position::LogPosition;
use crate::index::{Index, QueueOrder};
use crate::log::file::LogFile;
use crate::log::header::{open_log, read_header};
use crate::log::place::{self, Purpose};
use crate::log::recovery::{Found, How};
use crate::log::replay::Replay;
use crate::log::scan::{Concurrency, Ending};
use crate::log::values::Values;
use crate::read::{self, LogBatch, Reader, impl_reading_calls};
use crate::report::MOUNTED;
use crate::storage::{Disk, Storage, paths};
use crate::{AgentKey, Anchor, Check, CompactionStats, Error, Limit, Opening, Result, Stats};

mod backup;

/// A consistent, read-only view of a store, for instance for a health check while the agent runs.
///
/// The view has every record that was complete in the log when the snapshot was opened or last refreshed,
/// including those that the writer has not synced yet. It changes only by [`refresh`](Snapshot::refresh). A
/// snapshot takes no lock, and writes nothing but what [`backup`](Snapshot::backup) is asked for. It reads values
/// by `pread` and not through a memory map, so a writer that cuts its file cannot kill this process. Jobs are
/// ordered by run id.
///
/// ```
/// use backupy_state::{AgentKey, Snapshot, Store};
///
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("state.db");
/// let key = AgentKey::new("bkpy_0123456789abcdef0123456789abcdef")?;
/// let store = Store::open(&path, &key)?;
/// let mut snapshot = Snapshot::open(&path, &key)?;
/// store.enqueue_job("run-1", b"dump of orders")?;
/// assert_eq!(snapshot.queue_depth(), 0);
/// snapshot.refresh()?;
/// assert_eq!(snapshot.queue_depth(), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Snapshot {
    path: PathBuf,
    key: AgentKey,
    storage: Arc<dyn Storage>,
    view: LogView,
}

/// One log file, and its state up to where it was read.
struct LogView {
    log: Arc<LogFile>,
    values: Arc<Values>,
    header: Header,
    replay: Replay,
    ending: Ending,
    by_index: bool,
    /// The offset from which frames that nothing vouched for are lost, once it was asked.
    lost_from: OnceLock<Option<u64>>,
}

impl Snapshot {
    /// Reads the store at `path`, which is interpreted as by [`Store::open`](crate::Store::open).
    ///
    /// A frame that is being written can look like damage. So damage is reported only if it is still there after a
    /// few more reads, over 31 ms.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::NotAStore`], [`Error::UnsupportedFormat`], [`Error::WrongKey`],
    /// [`Error::Corrupt`], [`Error::Unauthentic`], [`Error::Io`], and [`Error::Invalid`] if `path` names no file.
    ///
    /// ```
    /// # use backupy_state::{AgentKey, Error, Snapshot, Store};
    /// # let folder = tempfile::tempdir()?;
    /// # let (path, key) = (folder.path().join("state.db"), AgentKey::new("key")?);
    /// # Store::open(&path, &key)?.record_heartbeat(1_700_000_000_000)?;
    /// // In another process, while the agent runs:
    /// match Snapshot::open(&path, &key) {
    ///     Ok(snapshot) => println!("{} jobs", snapshot.queue_depth()),
    ///     Err(Error::NotFound { .. }) => println!("the agent has not been started yet"),
    ///     Err(error) => return Err(error.into()),
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn open(path: impl AsRef<Path>, key: &AgentKey) -> Result<Snapshot> {
        Snapshot::open_on(Arc::new(Disk), path.as_ref(), key)
    }

    pub(crate) fn open_on(storage: Arc<dyn Storage>, path: &Path, key: &AgentKey) -> Result<Snapshot> {
        let path = place::resolve(&*storage, path, Purpose::Reading)?;
        let view = LogView::read(&*storage, &path, key)?;
        Ok(Snapshot { path, key: key.duplicate(), storage, view })
    }

    /// Returns the absolute path of the log file.
    ///
    /// ```
    /// # use backupy_state::{AgentKey, Snapshot, Store};
    /// # let folder = tempfile::tempdir()?;
    /// # let (path, key) = (folder.path().join("state.db"), AgentKey::new("key")?);
    /// # Store::open(&path, &key)?;
    /// assert!(Snapshot::open(&path, &key)?.path().is_absolute());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Updates the view to the current state of the store that is at the path now, also if another file has been
    /// put there. After an error, the view is still a state that the store had.
    ///
    /// It reads what was added since, and what the writer has not synced yet: next to an agent that writes with
    /// [`Durability::Buffered`](crate::Durability::Buffered) and never syncs, that gets longer with each call.
    ///
    /// # Errors
    /// Those of [`open`](Snapshot::open).
    ///
    /// ```
    /// # use backupy_state::{AgentKey, Snapshot, Store};
    /// # let folder = tempfile::tempdir()?;
    /// # let (path, key) = (folder.path().join("state.db"), AgentKey::new("key")?);
    /// let store = Store::open(&path, &key)?;
    /// let mut snapshot = Snapshot::open(&path, &key)?;
    /// store.compact()?;
    /// assert_eq!(snapshot.stats().generation, 1);
    /// snapshot.refresh()?;
    /// assert_eq!(snapshot.stats().generation, 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn refresh(&mut self) -> Result<()> {
        let concurrency = Concurrency::WithWriter(&*self.storage);
        let LogView { log, header, replay, ending, lost_from, .. } = &mut self.view;
        let current = paths::open_file(&*self.storage, &self.path)?;
        let same_file = current.id() == log.file.id() && read_header(&*current, &self.path)? == *header;
        // If the frame at the tip is another one, or one before it is no more whole, the writer has restarted, or
        // will, and cut off frames that a failed sync had left. Those may have been read into this view, so the
        // log is read again from the start.
        if same_file
            && matches!(replay.is_still_in_file(log), Ok(true))
            && matches!(replay.is_whole_in_file(log, concurrency, ending.proven), Ok(true))
            && let Ok(now) = replay.run(log, concurrency)
        {
            (*ending, *lost_from) = (now, OnceLock::new());
            return Ok(());
        }
        self.view = LogView::read(&*self.storage, &self.path, &self.key)?;
        Ok(())
    }

    /// Returns the sizes and counts of the store.
    ///
    /// ```
    /// # use backupy_state::{AgentKey, Snapshot, Store};
    /// # let folder = tempfile::tempdir()?;
    /// # let (path, key) = (folder.path().join("state.db"), AgentKey::new("key")?);
    /// let store = Store::open(&path, &key)?;
    /// store.enqueue_job("run-1", &[0; 1000])?;
    /// let stats = Snapshot::open(&path, &key)?.stats();
    /// assert!(stats.live_bytes > 1000 && stats.dead_bytes < 200);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn stats(&self) -> Stats {
        let LogView { log, header, replay, ending, by_index, .. } = &self.view;
        let opening = Opening { by_index: *by_index, replayed_bytes: replay.replayed_bytes() };
        let stats = read::stats(&replay.index, header.id.generation, replay.tip, ending.file_len, &*log.file);
        let unavailable = self.storage.is_mount_point(&self.path).then_some(MOUNTED);
        let compaction = CompactionStats { unavailable, ..stats.compaction };
        Stats { logs_dropped: self.recorded_drops().unwrap_or(0), opening, compaction, ..stats }
    }

    fn unless_overtaken(&self, is_there: bool) -> Result<()> {
        match is_there {
            true => Ok(()),
            false => Err(Error::unauthentic(&self.path, self.view.replay.tip.end, OVERTAKEN)),
        }
    }

    pub(crate) fn live_ranges(&self) -> Vec<Range<u64>> {
        self.view.replay.index.live_ranges()
    }

    /// Returns the oldest log events, up to the [limit](Limit), oldest first, and how many events were dropped, as
    /// the log has it, or 0 if that fails authentication: the running store may have counted more.
    ///
    /// # Errors
    /// [`Error::Io`], and [`Error::Unauthentic`] if the oldest event fails authentication; an unreadable event
    /// after it only ends the batch early.
    ///
    /// ```
    /// # use backupy_state::{AgentKey, Snapshot, Store};
    /// # let folder = tempfile::tempdir()?;
    /// # let (path, key) = (folder.path().join("state.db"), AgentKey::new("key")?);
    /// let store = Store::open(&path, &key)?;
    /// store.buffer_log(1_700_000_000_000, b"backup begun")?;
    /// assert_eq!(Snapshot::open(&path, &key)?.peek_logs(10)?.events().len(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn peek_logs(&self, limit: impl Into<Limit>) -> Result<LogBatch> {
        let dropped = match self.recorded_drops() {
            // The count must not keep anyone from the events.
            Err(Error::Unauthentic { .. }) => 0,
            read => read?,
        };
        Reader::peek_logs(self, limit.into(), dropped)
    }

    /// Whether the log has a count of dropped log events that cannot be read.
    pub(crate) fn drops_are_unreadable(&self) -> bool {
        matches!(self.recorded_drops(), Err(Error::Unauthentic { what, .. }) if what != OVERTAKEN)
    }

    /// Returns the anchor of the last frame in this view. The writer may not have made that frame durable yet.
    ///
    /// ```
    /// # use backupy_state::{AgentKey, Snapshot, Store};
    /// # let folder = tempfile::tempdir()?;
    /// # let (path, key) = (folder.path().join("state.db"), AgentKey::new("key")?);
    /// let store = Store::open(&path, &key)?;
    /// store.record_heartbeat(1_700_000_000_000)?;
    /// assert_eq!(Snapshot::open(&path, &key)?.anchor(), store.anchor());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn anchor(&self) -> Anchor {
        let LogView { header, replay, .. } = &self.view;
        Anchor::new(header, replay.tip.seq, replay.tip.chain)
    }
}

impl LogView {
    fn read(storage: &dyn Storage, path: &Path, key: &AgentKey) -> Result<Self> {
        let (log, header) = open_log(paths::open_file(storage, path)?.into(), path, key)?;
        let (first, concurrency) = (LogPosition::first(&header.authenticator), Concurrency::WithWriter(storage));
        let how = How { order: QueueOrder::RunId, expected: None, check: Check::Live };
        let Found { replay, ending, runs } = Found::read(storage, &log, first, concurrency, how)?;
        let log = Arc::new(log);
        // No memory map: reading one after the writer has cut the file would kill this process with SIGBUS.
        let values = Arc::new(Values::new(Arc::clone(&log), false));
        let by_index = runs.is_some();
        Ok(LogView { log, values, header, replay, ending, by_index, lost_from: OnceLock::new() })
    }
}

impl Reader for Snapshot {
    fn with_index<R>(&self, find: impl FnOnce(&Index) -> R) -> (R, Arc<Values>) {
        (find(&self.view.replay.index), Arc::clone(&self.view.values))
    }

    /// If a restarted writer has overwritten a frame, a value of the new frame could be taken for that of another
    /// key.
    fn confirm(&self) -> Result<()> {
        let LogView { log, replay, .. } = &self.view;
        self.unless_overtaken(replay.is_still_in_file(log)?)
    }

    /// If a failed sync has lost a part of a frame that nothing vouches for, there is a torn tail, and no key is
    /// at fault. Looked at once, since the frames may be long.
    fn confirm_unreadable(&self, error: &Error) -> Result<()> {
        let LogView { log, replay, ending, lost_from, .. } = &self.view;
        let Error::Unauthentic { offset, .. } = error else { return Ok(()) };
        if *offset < replay.recheck_from(ending.proven).end {
            return Ok(());
        }
        let lost_from = match lost_from.get() {
            Some(lost_from) => *lost_from,
            None => {
                let found = replay.lost_from(log, Concurrency::WithWriter(&*self.storage), ending.proven)?;
                *lost_from.get_or_init(|| found)
            }
        };
        self.unless_overtaken(lost_from.is_none_or(|lost_from| *offset < lost_from))
    }
}

impl_reading_calls!(Snapshot);

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot").field("path", &self.path).finish_non_exhaustive()
    }
}
