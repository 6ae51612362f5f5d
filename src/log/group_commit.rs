//! Group commit and the failure latch: one sync covers the frames of many threads, and after a failure there is no
//! other sync.
//!
//! A thread that has written a frame calls `wait_durable` with the frame's seq and a function that syncs the file.
//! If no sync is running, the thread syncs: it notes the last frame written so far, syncs without holding the
//! mutex, and on success marks all frames up to the noted one as durable. If a sync is running, the thread waits
//! for it to end. That sync does not cover frames written after it began, so the first thread with such a frame to
//! wake up syncs next, for all frames written by then. So each thread syncs at most once, and under load many
//! frames share a sync.
//!
//! A failed sync is never repeated. After a failure, Linux marks the dirty pages as clean, so a second sync would
//! succeed without having written them. The failure is latched instead: every wait for a frame that is not yet
//! durable returns it, and the store refuses further writes until it is opened again.
//!
//! Never touches a file. Implements step R4 and the rules on failed syncs of *Writing* in FORMAT.md.
//! `tests/concurrency.rs` compiles this file with the mutexes of shuttle, which tries many thread schedules.

use std::io;

use crate::crypto::Tag;
use crate::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Identifies a frame of a generation: its number, and its manifest's tag, which the next frame is chained to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameId {
    pub(crate) seq: u64,
    pub(crate) tag: Tag,
}

/// Which frames are durable, and whether writing has failed for good.
#[derive(Debug)]
pub(crate) struct GroupCommit {
    state: Mutex<State>,
    /// Notified when a sync ends, after a failure, and when the log is superseded.
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    /// The last frame in the file.
    written: FrameId,
    /// The last frame that a sync has covered.
    durable: FrameId,
    /// Whether the next generation contains all of this one, durably.
    superseded: bool,
    /// Whether a thread is syncing.
    syncing: bool,
    /// How many threads wait for that sync to end.
    waiting: usize,
    /// The first failed write or sync.
    failed: Option<Failure>,
}

/// The parts of an `io::Error` that can be copied: each waiting thread returns one.
#[derive(Clone, Copy, Debug)]
struct Failure {
    kind: io::ErrorKind,
    os_code: Option<i32>,
}

impl GroupCommit {
    /// Starts with all frames up to `frame` written and durable.
    pub(crate) fn new(frame: FrameId) -> Self {
        let state =
            State { written: frame, durable: frame, superseded: false, syncing: false, waiting: 0, failed: None };
        GroupCommit { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// The last frame that is known to be durable.
    pub(crate) fn durable(&self) -> FrameId {
        self.state().durable
    }

    /// Whether an earlier write or sync failed.
    pub(crate) fn has_failed(&self) -> bool {
        self.state().failed.is_some()
    }

    /// Notes that `frame` is in the file. The caller holds the write lock, so frames are noted in order.
    pub(crate) fn note_written(&self, frame: FrameId) {
        self.state().written = frame;
    }

    /// Latches a failure: what is in the file is no longer known. Later failures do not replace the first one.
    pub(crate) fn fail(&self, error: &io::Error) {
        self.state().failed.get_or_insert(Failure { kind: error.kind(), os_code: error.raw_os_error() });
        self.changed.notify_all();
    }

    /// Makes every wait succeed, even after a failure: the next generation contains all frames, durably.
    pub(crate) fn supersede(&self) {
        self.state().superseded = true;
        self.changed.notify_all();
    }

    /// Waits until the frame `seq` is durable. Calls `sync` at most once, and only if no other thread is syncing.
    ///
    /// # Errors
    /// The first failure of this log, even if it happened in another thread.
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
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.waiting -= 1;
                continue;
            }
            state.syncing = true;
            // The sync may miss frames that are written after it has begun, so it covers only those noted now.
            let covered = state.written;
            drop(state);
            let synced = sync();
            state = self.state();
            state.syncing = false;
            match synced {
                Ok(()) if state.failed.is_none() => state.durable = covered,
                Ok(()) => {}
                // The kernel may have marked the dirty pages as clean: another sync would succeed without them.
                Err(error) => {
                    state.failed.get_or_insert(Failure { kind: error.kind(), os_code: error.raw_os_error() });
                }
            }
            let is_awaited = state.waiting > 0;
            // Released before the notification: a thread that wakes up needs the mutex, and would block on it.
            drop(state);
            if is_awaited {
                self.changed.notify_all();
            }
            state = self.state();
        }
    }

    /// Locks the state, poisoned or not: no code can panic halfway through a change of it.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
