//! What the threads of an open store share: the writing end, the view, and the switch from one generation to the next.
//!
//! Two locks, always taken in this order: the log (one writer at a time), then the view (readers, briefly).

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::format::header::Header;
use crate::format::record::Change;
use crate::index::Index;
use crate::log::values::Values;
use crate::log::writer::{LogWriter, Pending};
use crate::read::{self, Reader};
use crate::storage::Storage;
use crate::{Anchor, CompactionPolicy, Error, OpenOptions, QueueOrder, Result, Stats, events};

/// An index, and the values it points to.
pub(crate) struct View {
    pub(crate) header: Header,
    pub(crate) index: Index,
    pub(crate) values: Arc<Values>,
}

pub(crate) struct Shared {
    pub(crate) path: PathBuf,
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) order: QueueOrder,
    pub(crate) mmap: bool,
    policy: CompactionPolicy,
    compaction_due: AtomicBool,
    log: Mutex<LogWriter>,
    view: RwLock<View>,
}

impl Shared {
    pub(crate) fn new(options: &OpenOptions, path: PathBuf, log: LogWriter, view: View) -> Self {
        let due = options.compaction.is_due(log.tip(), log.allocated(), &view.index);
        Shared {
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
        !log.group_commit().has_failed() && self.policy.is_due_at_close(log.tip(), &self.view().index)
    }

    /// Takes the writing end, if writing has not failed.
    pub(crate) fn write(&self) -> Result<WriteGuard<'_>> {
        let log = self.lock_log();
        if log.group_commit().has_failed() {
            return Err(Error::Failed { path: self.path.clone() });
        }
        Ok(WriteGuard { shared: self, log })
    }

    pub(crate) fn header(&self) -> Header {
        self.view().header
    }

    pub(crate) fn anchor(&self) -> Anchor {
        let log = self.lock_log();
        let durable = log.group_commit().durable();
        Anchor::new(&self.header(), durable.seq, durable.tag)
    }

    pub(crate) fn stats(&self) -> Stats {
        // Both under the log's lock: between the two, a compaction could switch the generation.
        let log = self.lock_log();
        let view = self.view();
        read::stats(&view.index, view.header.id.generation, log.tip(), log.allocated())
    }

    fn note_due(&self, log: &LogWriter, index: &Index) {
        let due = self.policy.is_due(log.tip(), log.allocated(), index);
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

/// A poisoned mutex is as good: no code of this crate panics under one halfway through a change.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Reader for Shared {
    fn with_index<R>(&self, find: impl FnOnce(&Index) -> R) -> (R, Arc<Values>) {
        let view = self.view();
        (find(&view.index), Arc::clone(&view.values))
    }
}

/// The writing end, held: from a call's first look at the index to its frame, no other call writes.
pub(crate) struct WriteGuard<'a> {
    shared: &'a Shared,
    pub(crate) log: MutexGuard<'a, LogWriter>,
}

impl WriteGuard<'_> {
    /// Writes the changes as one record, shows them to readers, and lets the next writer in.
    pub(crate) fn append(self, changes: &[Change<'_>]) -> Result<Pending> {
        Ok(self.append_counting(changes)?.0)
    }

    /// As [`append`](Self::append); also returns how many of the puts replaced something.
    pub(crate) fn append_counting(mut self, changes: &[Change<'_>]) -> Result<(Pending, usize)> {
        let written = self.log.append(changes).inspect_err(|error| events::failed(&self.shared.path, error))?;
        let operations = changes.iter().map(|change| change.operation);
        let mut view = self.shared.view_mut();
        let replaced = view.index.apply(operations, written.locations);
        self.shared.note_due(&self.log, &view.index);
        Ok((written.pending, replaced))
    }

    /// Goes on in the next generation, which holds all that this one does, durably. Returns what is to be dropped
    /// when the lock is gone: closing a long file that has lost its name takes a while.
    pub(crate) fn switch(mut self, log: LogWriter, view: View) -> (LogWriter, View) {
        let mut shown = self.shared.view_mut();
        let old_log = std::mem::replace(&mut *self.log, log);
        let old_view = std::mem::replace(&mut *shown, view);
        self.shared.note_due(&self.log, &shown.index);
        old_log.group_commit().supersede();
        (old_log, old_view)
    }
}
