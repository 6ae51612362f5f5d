//! Group commit and the failure latch: who syncs, who waits, and that a failed sync is the last one.
//!
//! Knows nothing of files: the sync itself is handed in. One thread at a time syncs, for all whose frames were
//! written before it began; the others wait for it.

use std::io;

use crate::crypto::Tag;
use crate::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// A frame: its number, and the tag that the next one is chained to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameId {
    pub(crate) seq: u64,
    pub(crate) tag: Tag,
}

/// Which frames are durable, and whether writing has failed for good.
#[derive(Debug)]
pub(crate) struct GroupCommit {
    state: Mutex<State>,
    turned: Condvar,
}

#[derive(Debug)]
struct State {
    written: FrameId,
    durable: FrameId,
    /// Whether the next generation holds all of this one, durably.
    superseded: bool,
    syncing: bool,
    /// How many threads wait for the sync.
    waiting: usize,
    failed: Option<Failure>,
}

/// What `io::Error` lets us keep of itself for the other waiters.
#[derive(Clone, Copy, Debug)]
struct Failure {
    kind: io::ErrorKind,
    os_code: Option<i32>,
}

impl GroupCommit {
    /// Everything up to `frame` is written and durable.
    pub(crate) fn new(frame: FrameId) -> Self {
        let state =
            State { written: frame, durable: frame, superseded: false, syncing: false, waiting: 0, failed: None };
        GroupCommit { state: Mutex::new(state), turned: Condvar::new() }
    }

    /// The last frame known to be on stable storage.
    pub(crate) fn durable(&self) -> FrameId {
        self.state().durable
    }

    /// Whether an earlier write or sync failed.
    pub(crate) fn has_failed(&self) -> bool {
        self.state().failed.is_some()
    }

    /// Notes that a frame stands in the file.
    pub(crate) fn note_written(&self, frame: FrameId) {
        self.state().written = frame;
    }

    /// Ends writing for good: what the file holds is known no more.
    pub(crate) fn fail(&self, error: &io::Error) {
        self.state().failed.get_or_insert(Failure { kind: error.kind(), os_code: error.raw_os_error() });
        self.turned.notify_all();
    }

    /// Says that everything is durable, however it came to be: the next generation holds all of it.
    pub(crate) fn supersede(&self) {
        self.state().superseded = true;
        self.turned.notify_all();
    }

    /// Returns when the frame `seq` is durable, after at most one `sync` by this thread.
    pub(crate) fn wait_durable(&self, seq: u64, mut sync: impl FnMut() -> io::Result<()>) -> io::Result<()> {
        let mut state = self.state();
        loop {
            if state.durable.seq >= seq || state.superseded {
                return Ok(());
            }
            if let Some(Failure { kind, os_code }) = state.failed {
                return Err(os_code.map_or_else(|| kind.into(), io::Error::from_raw_os_error));
            }
            if state.syncing {
                state.waiting += 1;
                state = self.turned.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.waiting -= 1;
                continue;
            }
            state.syncing = true;
            // Frames written after this point may miss the sync, so only these become durable by it.
            let covered = state.written;
            drop(state);
            let synced = sync();
            state = self.state();
            state.syncing = false;
            match synced {
                Ok(()) if state.failed.is_none() => state.durable = covered,
                Ok(()) => {}
                // The kernel may have dropped the dirty pages: another sync would succeed without them.
                Err(error) => {
                    state.failed.get_or_insert(Failure { kind: error.kind(), os_code: error.raw_os_error() });
                }
            }
            let is_awaited = state.waiting > 0;
            // Before anybody is woken, who would find it taken and go to sleep again.
            drop(state);
            if is_awaited {
                self.turned.notify_all();
            }
            state = self.state();
        }
    }

    /// A poisoned mutex is taken as it is: no code under it can panic halfway through a change.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
