//! Where an agent runs: on the simulated disk, or on a real one (`tests/power_cuts/`).

use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use backupy_state::testing::Storage;

use super::{PATH, Sim};

/// A disk and the process that uses it. Clones are the same machine.
pub trait Machine: Clone + Debug {
    fn storage(&self) -> Arc<dyn Storage>;

    /// The folder of the store.
    fn folder(&self) -> PathBuf;

    /// How much the disk has done. A call that has returned binds only power cuts at this number or after it.
    fn ops(&self) -> usize;

    /// The process ends: its open files do nothing any more, and its locks are free. The disk does not change.
    fn kill(&self);

    /// Whether a call may have failed because the disk is full.
    fn may_be_full(&self) -> bool;

    /// The store's log.
    fn path(&self) -> PathBuf {
        self.folder().join("state.db")
    }
}

impl Machine for Sim {
    fn storage(&self) -> Arc<dyn Storage> {
        Arc::new(self.clone())
    }

    fn folder(&self) -> PathBuf {
        Path::new(PATH).parent().unwrap().to_owned()
    }

    fn ops(&self) -> usize {
        Sim::ops(self)
    }

    fn kill(&self) {
        Sim::kill(self);
    }

    fn may_be_full(&self) -> bool {
        Sim::may_be_full(self)
    }
}
