//! What the threads of an open store share: the log writer, the view that readers see, and the switch from one
//! generation to the next.
//!
//! There are two locks, always taken in this order: the log (held by one writer at a time, from its check to its
//! frame), then the view (held briefly; `page_ends` only with it). A writer waits for its sync with neither of
//! them held. No event is emitted while one is held: who listens to events may call the store.
//!
//! A child of `fork` has copies of the locks, in whatever state they were, and of the descriptors. It owns
//! nothing: its calls fail before they take a lock.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::indexer::IndexState;
use super::page_ends::PageEnds;
use crate::crypto::keys::GenerationId;
use crate::format::bucket::Bucket;
use crate::format::header::{FIRST_FRAME_AT, Header};
use crate::format::location::Location;
use crate::format::record::Change;
use crate::index::{Index, Key};
use crate::log::commits::Pending;
use crate::log::index_file::Runs;
use crate::log::reserve::Reserve;
use crate::log::values::Values;
use crate::log::writer::LogWriter;
use crate::read::{self, Reader};
use crate::storage::Storage;
use crate::storage::lock::Owner;
use crate::{
    Anchor, CompactionPolicy, Error, Limit, OnDamage, OpenOptions, QueueOrder, Result, SinceOpened, Stats,
};

/// The state of a store that its threads share.
pub(crate) struct Shared {
    pub(crate) path: PathBuf,
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) queue_order: QueueOrder,
    pub(crate) mmap: bool,
    policy: CompactionPolicy,
    pub(crate) on_damage: OnDamage,
    /// What the file system asks for before it creates a file.
    creation_len: u64,
    /// Whether the log is mounted by itself, so that no compaction can replace it.
    pub(crate) is_mounted: bool,
    /// The process that opened the store.
    owner: Owner,
    /// Set while the log is locked: no call writes after that.
    closed: AtomicBool,
    compaction_due: AtomicBool,
    pub(super) index: IndexState,
    log: Mutex<LogWriter>,
    view: RwLock<View>,
    page_ends: Mutex<PageEnds>,
}

/// What readers see of one generation: an index, and the values that its locations refer to.
pub(crate) struct View {
    pub(crate) header: Header,
    pub(crate) index: Index,
    pub(crate) values: Arc<Values>,
}

impl Shared {
    pub(crate) fn new(
        options: &OpenOptions,
        path: PathBuf,
        owner: Owner,
        mut log: LogWriter,
        view: View,
        runs: Option<Runs>,
    ) -> Self {
        let due = options.compaction.is_due(&log.size(), &view.index);
        let creation_len = log.file().file.free_space().unwrap_or_default().creation_len;
        log.set_reserve(Reserve::of(&view.index, creation_len));
        log.set_compacted_len(options.compaction.compacted_len(view.index.live_bytes()));
        Shared {
            creation_len,
            is_mounted: options.storage.is_mount_point(&path),
            owner,
            path,
            storage: Arc::clone(&options.storage),
            queue_order: options.queue_order,
            mmap: options.mmap,
            policy: options.compaction,
            on_damage: options.on_damage,
            closed: AtomicBool::new(false),
            compaction_due: AtomicBool::new(due),
            index: IndexState::new(options.index, view.header.id, runs),
            log: Mutex::new(log),
            view: RwLock::new(view),
            page_ends: Mutex::default(),
        }
    }

    pub(crate) fn compaction_is_due(&self) -> bool {
        self.compaction_due.load(Ordering::Relaxed) && !self.is_mounted
    }

    pub(crate) fn compaction_is_due_at_close(&self) -> bool {
        let log = self.lock_log();
        let is_possible = !self.is_mounted && log.check_not_failed().is_ok();
        is_possible && self.policy.is_due_at_close(log.tip().end, &self.view().index)
    }

    /// Takes the write lock. Fails once the store is closed, if an earlier write or sync failed, and in a child of
    /// `fork`.
    pub(crate) fn write(&self) -> Result<WriteGuard<'_>> {
        let guard = self.lock_to_write()?;
        self.check_not_closed()?;
        guard.log.check_not_failed()?;
        Ok(guard)
    }

    /// Like [`write`](Self::write), for what closing the store waits for.
    pub(super) fn write_though_closed(&self) -> Result<WriteGuard<'_>> {
        let guard = self.lock_to_write()?;
        guard.log.check_not_failed()?;
        Ok(guard)
    }

    fn lock_to_write(&self) -> Result<WriteGuard<'_>> {
        self.check_owner()?;
        Ok(WriteGuard { shared: self, log: self.lock_log() })
    }

    /// Fails in a child of `fork`, also where the child has the same process id. Asked before the store is closed.
    pub(crate) fn check_owner_for_sure(&self) -> Result<()> {
        if self.owner.is_current() { Ok(()) } else { Err(self.not_the_owner()) }
    }

    /// Whether the log takes no more writes.
    pub(crate) fn has_failed(&self) -> bool {
        self.lock_log().check_not_failed().is_err()
    }

    /// Fails once the store is closed, and in a child of `fork`.
    pub(crate) fn check_open(&self) -> Result<()> {
        self.check_owner()?;
        self.check_not_closed()
    }

    fn check_not_closed(&self) -> Result<()> {
        if self.is_closed() { Err(Error::Closed { path: self.path.clone() }) } else { Ok(()) }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Makes every later call fail.
    pub(super) fn refuse_calls(&self) {
        let _log = self.lock_log();
        self.closed.store(true, Ordering::Release);
    }

    /// Fails in a child of `fork`.
    fn check_owner(&self) -> Result<()> {
        if self.owner.has_current_pid() { Ok(()) } else { Err(self.not_the_owner()) }
    }

    fn not_the_owner(&self) -> Error {
        let what = "another process opened it, and this one is its child; open the store in this process";
        Error::Failed { path: self.path.clone(), what }
    }

    /// Frees the lock on the log. Nothing is written from now on.
    pub(crate) fn unlock(&self) {
        let log = self.lock_log();
        // A call that was durable before the close frame may still be about to write a mark.
        log.commits().end_marks();
        log.unlock();
    }

    pub(crate) fn header(&self) -> Header {
        self.view().header
    }

    pub(crate) fn anchor(&self) -> Anchor {
        let log = self.lock_log();
        let durable = log.group_commit().durable();
        Anchor::new(&self.header(), durable.seq, durable.chain)
    }

    pub(crate) fn stats(&self) -> Stats {
        // The log stays locked while the view is read: else a compaction could switch generations in between.
        let log = self.lock_log();
        let view = self.view();
        let (id, file) = (view.header.id, &*log.file().file);
        let stats = read::stats(&view.index, id.generation, log.tip(), log.allocated(), file);
        Stats { since_opened: Some(since_opened(&log)), ..stats }
    }

    /// Hands all live keys of the generation `id` to `take`, in the order of their buckets and bytes. Writers go
    /// on meanwhile: each key is in the state of some moment since the call began.
    ///
    /// # Errors
    /// Those of `take`, and `Replaced` if a compaction has replaced the generation.
    pub(crate) fn each_key(
        &self,
        id: &GenerationId,
        mut take: impl FnMut(Bucket, &Key, &Location) -> Result<()>,
    ) -> Result<()> {
        for bucket in Bucket::ALL {
            let mut last = None;
            loop {
                let keys = {
                    let view = self.view();
                    if view.header.id != *id {
                        return Err(superseded(&self.path));
                    }
                    view.index.range(bucket, last.as_deref(), KEYS_AT_ONCE)
                };
                keys.iter().try_for_each(|(key, location)| take(bucket, key, location))?;
                match keys.into_iter().last() {
                    Some((key, _)) => last = Some(key),
                    None => break,
                }
            }
        }
        Ok(())
    }

    /// The reserve for what is live in `index`.
    pub(crate) fn reserve(&self, index: &Index) -> Reserve {
        Reserve::of(index, self.creation_len)
    }

    /// Tells the writer for what it preallocates space: for what is live now.
    fn set_space(&self, log: &mut LogWriter, index: &Index) {
        log.set_reserve(self.reserve(index));
        log.set_compacted_len(self.policy.compacted_len(index.live_bytes()));
    }

    /// Notes that the log has grown, or is another one.
    fn note_growth(&self, log: &LogWriter, index: &Index) {
        self.index.note_tip(log.tip());
        let due = self.policy.is_due(&log.size(), index);
        self.compaction_due.store(due, Ordering::Relaxed);
    }

    fn lock_log(&self) -> MutexGuard<'_, LogWriter> {
        lock(&self.log)
    }

    fn view(&self) -> RwLockReadGuard<'_, View> {
        self.view.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn view_mut(&self) -> RwLockWriteGuard<'_, View> {
        self.view.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reader for Shared {
    fn page(&self, after: Option<&str>, limit: Limit) -> (Vec<(Key, Location)>, Arc<Values>) {
        self.with_index(|index| match self.queue_order {
            QueueOrder::RunId => index.jobs(after, limit),
            QueueOrder::Fifo => lock(&self.page_ends).next_page(index, after, limit),
        })
    }

    fn with_index<R>(&self, find: impl FnOnce(&Index) -> R) -> (R, Arc<Values>) {
        let view = self.view();
        (find(&view.index), Arc::clone(&view.values))
    }
}

/// The write lock: while it is held, no other call writes, so what a call finds in the index stays true until
/// its frame is written.
pub(crate) struct WriteGuard<'a> {
    shared: &'a Shared,
    pub(crate) log: MutexGuard<'a, LogWriter>,
}

impl WriteGuard<'_> {
    /// Writes the changes as one record, shows them to readers, and releases the lock. The record is not durable
    /// yet. After an error, the caller emits the event, once it holds no lock.
    pub(crate) fn append(self, changes: &[Change<'_>]) -> Result<Pending> {
        Ok(self.append_counting(changes)?.0)
    }

    /// Like [`append`](Self::append), but also returns how many of the puts replaced a value.
    pub(crate) fn append_counting(mut self, changes: &[Change<'_>]) -> Result<(Pending, usize)> {
        let appended = self.log.append(changes);
        if matches!(appended, Err(Error::Full { .. })) {
            self.shared.index.stop();
        }
        let written = appended?;
        let operations = changes.iter().map(|change| change.operation);
        let mut view = self.shared.view_mut();
        let replaced = view.index.apply(operations, written.locations);
        self.shared.set_space(&mut self.log, &view.index);
        self.shared.note_growth(&self.log, &view.index);
        Ok((written.pending, replaced))
    }

    /// Looks something up in the index, as it is until the guard is dropped.
    pub(crate) fn with_index<R>(&self, find: impl FnOnce(&Index) -> R) -> R {
        find(&self.shared.view().index)
    }

    /// Changes what the index notes, and not what readers see.
    pub(crate) fn change_index<R>(&self, change: impl FnOnce(&mut Index) -> R) -> R {
        change(&mut self.shared.view_mut().index)
    }

    /// Ends the log cleanly, durably, and makes every later call fail.
    pub(crate) fn close(mut self) -> Result<()> {
        self.shared.closed.store(true, Ordering::Release);
        let closed = self.log.close();
        closed.inspect_err(|_| self.log.group_commit().fail(&std::io::ErrorKind::Other.into()))
    }

    /// Switches to the next generation, which is durable and holds everything that this one does. Returns the old
    /// parts for the caller to drop after the locks are released: closing a long file that has been unlinked is
    /// slow.
    pub(crate) fn switch(mut self, log: LogWriter, view: View) -> (LogWriter, View) {
        let mut current_view = self.shared.view_mut();
        lock(&self.shared.page_ends).carry_over(&current_view.index, &view.index);
        let old_log = std::mem::replace(&mut *self.log, log);
        let old_view = std::mem::replace(&mut *current_view, view);
        self.shared.set_space(&mut self.log, &current_view.index);
        self.shared.index.set_indexed(FIRST_FRAME_AT as u64);
        self.shared.note_growth(&self.log, &current_view.index);
        old_log.group_commit().supersede();
        (old_log, old_view)
    }
}

/// Without the log events that were dropped, which the quota counts.
fn since_opened(log: &LogWriter) -> SinceOpened {
    let syncs = log.syncs();
    SinceOpened {
        syncs: syncs.count(),
        sync_time: syncs.total(),
        longest_sync: syncs.longest(),
        bytes_written: log.bytes_written(),
        logs_dropped: 0,
    }
}

/// The error of a task that was about a log that is not the store's any more.
pub(crate) fn superseded(path: &Path) -> Error {
    Error::Replaced { path: path.to_path_buf() }
}

/// How many keys are copied while writers wait: it takes a few microseconds.
const KEYS_AT_ONCE: usize = 256;

/// Locks a mutex, poisoned or not: no code of this crate can panic halfway through a change under one.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
