//! Group commit and the failure latch: who syncs, who waits, and that a failed sync is the last one.
//!
//! Knows nothing of files: the sync itself is handed in. One thread at a time syncs, for all whose frames were
//! written before it began; the others wait for it.

use std::io;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Which frames are durable, and whether writing has failed for good.
#[derive(Debug)]
pub(crate) struct Commit {
    state: Mutex<State>,
    turned: Condvar,
}

#[derive(Debug)]
struct State {
    written_seq: u64,
    durable_seq: u64,
    syncing: bool,
    failed: Option<Failure>,
}

/// What `io::Error` lets us keep of itself for the other waiters.
#[derive(Clone, Copy, Debug)]
struct Failure {
    kind: io::ErrorKind,
    os_code: Option<i32>,
}

impl Commit {
    /// Everything up to `seq` is written and durable.
    pub(crate) fn new(seq: u64) -> Self {
        let state = State { written_seq: seq, durable_seq: seq, syncing: false, failed: None };
        Commit { state: Mutex::new(state), turned: Condvar::new() }
    }

    /// The highest seq known to be on stable storage.
    pub(crate) fn durable_seq(&self) -> u64 {
        self.state().durable_seq
    }

    /// Whether an earlier write or sync failed.
    pub(crate) fn has_failed(&self) -> bool {
        self.state().failed.is_some()
    }

    /// Notes that the frame `seq` stands in the file.
    pub(crate) fn note_written(&self, seq: u64) {
        self.state().written_seq = seq;
    }

    /// Ends writing for good: what the file holds is known no more.
    pub(crate) fn fail(&self, error: &io::Error) {
        self.state().failed.get_or_insert(Failure { kind: error.kind(), os_code: error.raw_os_error() });
        self.turned.notify_all();
    }

    /// Says that everything is durable, however it came to be: the next generation holds all of it.
    pub(crate) fn settle(&self) {
        self.state().durable_seq = u64::MAX;
        self.turned.notify_all();
    }

    /// Returns when the frame `seq` is durable, after at most one `sync` by this thread.
    pub(crate) fn wait_durable(&self, seq: u64, mut sync: impl FnMut() -> io::Result<()>) -> io::Result<()> {
        let mut state = self.state();
        loop {
            if state.durable_seq >= seq {
                return Ok(());
            }
            if let Some(Failure { kind, os_code }) = state.failed {
                return Err(os_code.map_or_else(|| kind.into(), io::Error::from_raw_os_error));
            }
            if state.syncing {
                state = self.turned.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            state.syncing = true;
            // Frames written after this point may miss the sync, so only these become durable by it.
            let covered = state.written_seq;
            drop(state);
            let synced = sync();
            state = self.state();
            state.syncing = false;
            match synced {
                Ok(()) if state.failed.is_none() => state.durable_seq = state.durable_seq.max(covered),
                Ok(()) => {}
                // The kernel may have dropped the dirty pages: another sync would succeed without them.
                Err(error) => {
                    state.failed.get_or_insert(Failure { kind: error.kind(), os_code: error.raw_os_error() });
                }
            }
            self.turned.notify_all();
        }
    }

    /// A poisoned mutex is taken as it is: no code under it can panic halfway through a change.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
