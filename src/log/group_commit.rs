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
//! A file can be removed while it is open. So after each sync the caller says whether the file still has a name;
//! if it has none, its frames are lost, and that is a failure too. While a compaction renames the next generation
//! over the file, it is no failure: the wait lasts until the next generation has taken over, or has not.
//!
//! A failed sync is never repeated. After a failure, Linux marks the dirty pages as clean, so a second sync would
//! succeed without having written them. The failure is latched instead: every wait for a frame that is not yet
//! durable returns it, and the store refuses further writes until it is opened again.
//!
//! Never touches a file. Implements step R4 and the rules on failed syncs of *Writing* in FORMAT.md.
//! `tests/concurrency.rs` compiles this file with the mutexes of shuttle, which tries many thread schedules.

use std::io;

use crate::format::position::LogPosition;
use crate::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Which frames are durable, and whether writing has failed for good.
#[derive(Debug)]
pub(crate) struct GroupCommit {
    state: Mutex<State>,
    /// Notified when a sync ends, after a failure, and when the log is superseded.
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    /// After the last frame in the file.
    written: LogPosition,
    /// After the last frame that a sync has covered.
    durable: LogPosition,
    /// Whether the next generation is being renamed over the file.
    replacing: bool,
    /// Whether the next generation contains all of this one, durably.
    superseded: bool,
    /// Whether a thread is syncing.
    syncing: bool,
    /// How many threads wait for that sync to end.
    waiting: usize,
    /// The first failure.
    failed: Option<Failure>,
}

/// Why the log takes no more writes. Each waiting thread returns a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// A write or a sync failed: the parts of its error that can be copied.
    Io { kind: io::ErrorKind, os_code: Option<i32> },
    /// The file has lost its name, or its name means another file.
    Replaced,
}

impl From<&io::Error> for Failure {
    fn from(error: &io::Error) -> Self {
        Failure::Io { kind: error.kind(), os_code: error.raw_os_error() }
    }
}

/// What a successful sync has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Synced {
    /// The file has a name.
    Named,
    /// The file has no name: nobody can open it again.
    Nameless,
}

impl GroupCommit {
    /// Starts with all frames before `tip` written and durable.
    pub(crate) fn new(tip: LogPosition) -> Self {
        let state = State {
            written: tip,
            durable: tip,
            replacing: false,
            superseded: false,
            syncing: false,
            waiting: 0,
            failed: None,
        };
        GroupCommit { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// The position after the last frame that is known to be durable.
    pub(crate) fn durable(&self) -> LogPosition {
        self.state().durable
    }

    /// The first failure, if there was one.
    pub(crate) fn failure(&self) -> Option<Failure> {
        self.state().failed
    }

    /// Notes that the frames before `tip` are in the file. The caller holds the write lock, so frames are noted in
    /// order.
    pub(crate) fn note_written(&self, tip: LogPosition) {
        self.state().written = tip;
    }

    /// Latches a failure: what is in the file is no longer known. Later failures do not replace the first one.
    pub(crate) fn fail(&self, failure: impl Into<Failure>) {
        self.state().failed.get_or_insert(failure.into());
        self.changed.notify_all();
    }

    /// Notes whether the next generation is being renamed over the file. From before the rename until
    /// [`supersede`](Self::supersede), or until the rename has failed, the file may have no name.
    pub(crate) fn set_replacing(&self, replacing: bool) {
        self.state().replacing = replacing;
        self.changed.notify_all();
    }

    /// Makes every wait succeed, even after a failure: the next generation contains all frames, durably.
    pub(crate) fn supersede(&self) {
        self.state().superseded = true;
        self.changed.notify_all();
    }

    /// Waits until the frame `seq` is durable. Calls `sync` only if no other thread is syncing, and never again
    /// after it has failed.
    ///
    /// # Errors
    /// The first failure of this log, even if it happened in another thread.
    pub(crate) fn wait_durable(
        &self,
        seq: u64,
        mut sync: impl FnMut() -> io::Result<Synced>,
    ) -> Result<(), Failure> {
        let mut state = self.state();
        loop {
            if state.durable.seq >= seq || state.superseded {
                return Ok(());
            }
            if let Some(failure) = state.failed {
                return Err(failure);
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
            let synced = sync().map_err(|error| Failure::from(&error));
            state = self.state();
            state.syncing = false;
            match synced {
                _ if state.failed.is_some() => {}
                Ok(Synced::Named) => state.durable = covered,
                Ok(Synced::Nameless) if state.replacing || state.superseded => {}
                Ok(Synced::Nameless) => state.failed = Some(Failure::Replaced),
                // The kernel may have marked the dirty pages as clean: another sync would succeed without them.
                Err(failure) => state.failed = Some(failure),
            }
            let is_awaited = state.waiting > 0;
            // Released before the notification: a thread that wakes up needs the mutex, and would block on it.
            drop(state);
            if is_awaited {
                self.changed.notify_all();
            }
            state = self.state();
            // Only now, without the turn to sync: whoever replaces the file may need it.
            while synced == Ok(Synced::Nameless) && state.replacing && !state.superseded && state.failed.is_none()
            {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    /// Locks the state, poisoned or not: no code can panic halfway through a change of it.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
