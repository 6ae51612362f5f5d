//! How far a copy has got, and the request to stop it. Shared between the copying thread and the others.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::{Error, Result};

#[derive(Default)]
pub(super) struct Progress {
    stopping: AtomicBool,
    /// How many bytes of the new file have been read back.
    read_back: AtomicU64,
}

impl Progress {
    /// Stops a running copy, or lets the next one run.
    pub(super) fn set_stopping(&self, stopping: bool) {
        self.stopping.store(stopping, Ordering::Release);
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Fails while the store is being closed.
    pub(super) fn check_not_stopping(&self, path: &Path) -> Result<()> {
        if self.is_stopping() {
            return Err(Error::Closed { path: path.to_path_buf() });
        }
        Ok(())
    }

    /// Notes that the new file has been read back up to `offset`. Fails while the store is being closed.
    pub(super) fn note_read_back(&self, offset: u64, path: &Path) -> Result<()> {
        self.read_back.store(offset, Ordering::Relaxed);
        self.check_not_stopping(path)
    }

    pub(super) fn read_back(&self) -> u64 {
        self.read_back.load(Ordering::Relaxed)
    }

    /// Starts over, for a new file.
    pub(super) fn reset(&self) {
        self.read_back.store(0, Ordering::Relaxed);
    }
}
