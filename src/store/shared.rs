//! What the threads of an open store share: the writing end, the view, and the switch from one generation to the next.
//!
//! Two locks, always taken in this order: the log (one writer at a time), then the view (readers, briefly).

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::anchor::Anchor;
use crate::format::header::Header;
use crate::format::record::Change;
use crate::index::Index;
use crate::log::writer::{Log, Pending, Values};
use crate::options::{CompactionPolicy, OpenOptions, QueueOrder};
use crate::read::{Reader, Stats, View};
use crate::storage::Storage;
use crate::{Error, Result, events};

pub(crate) struct Live {
    pub(crate) path: PathBuf,
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) order: QueueOrder,
    pub(crate) mmap: bool,
    policy: CompactionPolicy,
    compaction_due: AtomicBool,
    log: Mutex<Log>,
    view: RwLock<View>,
}

impl Live {
    pub(crate) fn new(options: &OpenOptions, path: PathBuf, log: Log, view: View) -> Self {
        let due = options.compaction.is_due(log.tip(), log.allocated(), &view.index);
        Live {
            path,
            storage: Arc::clone(&options.storage),
            order: options.queue_order,
            mmap: options.mmap,
            policy: options.compaction,
            compaction_due: AtomicBool::new(due),
            log: Mutex::new(log),
            view: RwLock::new(view),
        }
    }

    pub(crate) fn compaction_is_due(&self) -> bool {
        self.compaction_due.load(Ordering::Relaxed)
    }

    pub(crate) fn compaction_is_due_at_close(&self) -> bool {
        let log = self.lock_log();
        !log.commit().has_failed() && self.policy.is_due_at_close(log.tip(), &self.view().index)
    }

    /// Takes the writing end, if writing has not failed.
    pub(crate) fn write(&self) -> Result<Writing<'_>> {
        let log = self.lock_log();
        if log.commit().has_failed() {
            return Err(Error::Failed { path: self.path.clone() });
        }
        Ok(Writing { live: self, log })
    }

    pub(crate) fn header(&self) -> Header {
        self.view().header
    }

    pub(crate) fn anchor(&self) -> Anchor {
        let log = self.lock_log();
        Anchor::new(&self.header(), log.commit().durable())
    }

    pub(crate) fn stats(&self) -> Stats {
        // Both under the log's lock: between the two, a compaction could switch the generation.
        let log = self.lock_log();
        let view = self.view();
        Stats::new(&view.index, view.header.id.generation, log.tip(), log.allocated())
    }

    fn note_due(&self, log: &Log, index: &Index) {
        let due = self.policy.is_due(log.tip(), log.allocated(), index);
        self.compaction_due.store(due, Ordering::Relaxed);
    }

    fn lock_log(&self) -> MutexGuard<'_, Log> {
        lock(&self.log)
    }

    fn view(&self) -> RwLockReadGuard<'_, View> {
        self.view.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn view_mut(&self) -> RwLockWriteGuard<'_, View> {
        self.view.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A poisoned mutex is as good: no code of this crate panics under one halfway through a change.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Reader for Live {
    fn look<R>(&self, find: impl FnOnce(&Index) -> R) -> (R, Arc<Values>) {
        let view = self.view();
        (find(&view.index), Arc::clone(&view.values))
    }
}

/// The writing end, held: from a call's first look at the index to its frame, no other call writes.
pub(crate) struct Writing<'a> {
    live: &'a Live,
    pub(crate) log: MutexGuard<'a, Log>,
}

impl Writing<'_> {
    /// Writes the changes as one record, shows them to readers, and lets the next writer in.
    pub(crate) fn append(self, changes: &[Change<'_>]) -> Result<Pending> {
        Ok(self.append_counting(changes)?.0)
    }

    /// As [`append`](Self::append); also returns how many of the puts replaced something.
    pub(crate) fn append_counting(mut self, changes: &[Change<'_>]) -> Result<(Pending, usize)> {
        let written = self.log.append(changes).inspect_err(|error| events::failed(&self.live.path, error))?;
        let operations = changes.iter().map(|change| change.operation);
        let mut view = self.live.view_mut();
        let replaced = view.index.apply(operations, written.places);
        self.live.note_due(&self.log, &view.index);
        Ok((written.pending, replaced))
    }

    /// Goes on in the next generation, which holds all that this one does, durably. Returns what is to be dropped
    /// when the lock is gone: closing a long file that has lost its name takes a while.
    pub(crate) fn switch(mut self, log: Log, view: View) -> (Log, View) {
        let mut shown = self.live.view_mut();
        let old_log = std::mem::replace(&mut *self.log, log);
        let old_view = std::mem::replace(&mut *shown, view);
        self.live.note_due(&self.log, &shown.index);
        old_log.commit().settle();
        (old_log, old_view)
    }
}
