//! Closing a store, once, while other threads may be using it.
//!
//! From one moment on, which the write lock determines, every call is refused. A call that has written its frame
//! before that moment succeeds as without a close: the close frame vouches for its frame, and the sync of one
//! covers the other. Then the store is unlocked, and from there on it must not write: another process may own the
//! log. So the threads in the background have ended by then, and no mark is written after it.

use std::io;
use std::path::Path;
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread::{self, ThreadId};

use super::background;
use super::handle::Store;
use super::shared::lock;
use crate::{Error, Result};

/// Whether the store has been closed, and with which result.
#[derive(Default)]
pub(super) struct Closing {
    state: Mutex<State>,
    /// Notified when the store has been closed.
    closed: Condvar,
}

#[derive(Default)]
enum State {
    #[default]
    Open,
    ClosedBy(ThreadId),
    Closed(Result<()>),
}

impl Closing {
    /// Calls `close` if this is the first call, else waits for the first one. Returns the result of the first one.
    fn once(&self, path: &Path, close: impl FnOnce() -> Result<()>) -> Result<()> {
        let mut state = lock(&self.state);
        if matches!(*state, State::Open) {
            *state = State::ClosedBy(thread::current().id());
            drop(state);
            let result = close();
            *lock(&self.state) = State::Closed(repeat(&result, path));
            self.closed.notify_all();
            return result;
        }
        loop {
            match &*state {
                State::Closed(result) => return repeat(result, path),
                // Called from an event that closing emits, or that a thread emits for which closing waits: to wait
                // here would be for ever.
                State::ClosedBy(thread) if *thread == thread::current().id() => return Ok(()),
                _ if background::is_current_thread() => return Ok(()),
                _ => state = self.closed.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}

impl Store {
    /// Makes everything durable, writes a close frame, cuts off the preallocated space and unlocks the store.
    /// While there are jobs or log events, the space that their removal needs on a full disk remains.
    ///
    /// Calls of other threads that have written their record finish as they would have. A compaction, a change of
    /// the key or a backup that is under way is stopped, and returns [`Error::Closed`]; so does every later call
    /// that returns a `Result`. Those that do not, such as [`queue_depth`](Store::queue_depth), answer for the
    /// moment of closing. A second `close` returns what the first one did, and waits for it if it is under way;
    /// from an event that the first one emits, it returns `Ok` at once. The file stays open for reading until the
    /// store is dropped.
    ///
    /// A log with little live data is compacted first, so that the next open is quick; [`CompactionPolicy`] says
    /// when. Dropping the store does the same, but reports no error. Hold no lock that a `tracing` layer of yours
    /// takes: closing waits for a compaction thread, which may be emitting an event.
    ///
    /// [`CompactionPolicy`]: crate::CompactionPolicy
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Replaced`], [`Error::Corrupt`] if the file has been cut, or [`Error::Failed`] after
    /// an earlier failure. The store is closed and unlocked in any case.
    ///
    /// ```
    /// # use backupy_state::{AgentKey, Error, Store};
    /// # let folder = tempfile::tempdir()?;
    /// # let (path, key) = (folder.path().join("state.db"), AgentKey::new("key")?);
    /// let store = Store::open(&path, &key)?;
    /// store.record_heartbeat(1_700_000_000_000)?;
    /// store.close()?;
    /// assert!(matches!(store.last_heartbeat(), Err(Error::Closed { .. })));
    /// assert!(Store::open(&path, &key)?.recovery().clean);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn close(&self) -> Result<()> {
        self.shared.check_owner_for_sure()?;
        self.closing.once(&self.shared.path, || {
            let finished = self.finish();
            self.shared.refuse_calls();
            // It holds the log, and must not write next to another process's.
            self.indexer.wait();
            // A reader may still hold the file, so it is not enough to drop it.
            self.shared.unlock();
            drop(lock(&self.lock_file).take());
            finished
        })
    }

    fn finish(&self) -> Result<()> {
        // The event for a store that had failed before has been emitted.
        let place = self.shared.write().map(|guard| guard.log.check_place());
        let usable = place.and_then(|place| self.tell_failure(place));
        if usable.is_err() {
            // Its thread has the next generation locked.
            self.compactor.stop();
            return usable;
        }
        self.compactor.finish();
        self.record_drops()?;
        let closed = self.shared.write()?.close();
        self.tell_failure(closed)?;
        self.indexer.finish();
        Ok(())
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // In a child of `fork`, this does nothing.
        let _ = self.close();
    }
}

/// The result of closing, once more.
fn repeat(result: &Result<()>, path: &Path) -> Result<()> {
    let Err(error) = result else { return Ok(()) };
    let path = path.to_path_buf();
    Err(match error {
        Error::Io { operation, path, source } => {
            let source = source.raw_os_error().map_or_else(|| source.kind().into(), io::Error::from_raw_os_error);
            Error::Io { operation, path: path.clone(), source }
        }
        Error::Corrupt { offset, what, .. } => Error::corrupt(&path, *offset, what),
        Error::Replaced { .. } => Error::Replaced { path },
        Error::Failed { what, .. } => Error::Failed { path, what },
        _ => Error::Failed { path, what: "it could not be closed" },
    })
}
