//! How far a copy has got, and whether to give it up.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::{Error, Result};

#[derive(Default)]
pub(super) struct Progress {
    stopping: AtomicBool,
    checked: AtomicU64,
}

impl Progress {
    /// Makes a running copy give up, or lets the next one run.
    pub(super) fn set_stopping(&self, stopping: bool) {
        self.stopping.store(stopping, Ordering::Release);
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Fails while the store is being closed.
    pub(super) fn check_not_stopping(&self, path: &Path) -> Result<()> {
        if self.is_stopping() {
            return Err(Error::Failed { path: path.to_path_buf() });
        }
        Ok(())
    }

    /// Notes that the copy has been read back up to `offset`, for a progress bar.
    pub(super) fn reached(&self, offset: u64, path: &Path) -> Result<()> {
        self.set_checked(offset);
        self.check_not_stopping(path)
    }

    pub(super) fn checked(&self) -> u64 {
        self.checked.load(Ordering::Relaxed)
    }

    pub(super) fn set_checked(&self, offset: u64) {
        self.checked.store(offset, Ordering::Relaxed);
    }
}
