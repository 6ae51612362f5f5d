//! A machine with a real file system, on which a process can end at any operation.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use backupy_state::testing::{Disk, Storage};

use crate::common::{Hooked, Hooks};
use crate::sim::random::Random;
use crate::sim::{EIO, Machine};

/// Clones are the same machine.
#[derive(Clone, Debug)]
pub(super) struct RealMachine {
    folder: PathBuf,
    /// The log of the device that the folder is on, if it has one.
    device_log: Option<PathBuf>,
    process: Arc<Mutex<Process>>,
    may_be_full: Arc<AtomicBool>,
    refused: Arc<AtomicU64>,
}

impl RealMachine {
    pub(super) fn new(folder: &Path, device_log: Option<PathBuf>) -> Self {
        RealMachine {
            folder: folder.to_owned(),
            device_log,
            process: Arc::default(),
            may_be_full: Arc::default(),
            refused: Arc::default(),
        }
    }

    /// The process will be killed.
    pub(super) fn kill_at(&self, death: Death) {
        let process = self.process.lock().unwrap();
        match death {
            Death::AfterOps(ops) => process.ops_left.store(ops, Ordering::SeqCst),
            Death::BeforeSync(syncs) => process.syncs_left.store(syncs, Ordering::SeqCst),
        }
    }

    /// A full disk has refused a call.
    pub(super) fn count_refused(&self) {
        self.refused.fetch_add(1, Ordering::SeqCst);
    }

    pub(super) fn refused(&self) -> u64 {
        self.refused.load(Ordering::SeqCst)
    }

    pub(super) fn set_may_be_full(&self) {
        self.may_be_full.store(true, Ordering::SeqCst);
    }
}

impl Machine for RealMachine {
    fn storage(&self) -> Arc<dyn Storage> {
        Arc::new(Hooked { disk: Arc::new(Disk), hooks: self.process.lock().unwrap().clone() })
    }

    fn folder(&self) -> PathBuf {
        self.folder.clone()
    }

    /// How long the log of the device is.
    fn ops(&self) -> usize {
        self.device_log.as_ref().map_or(0, |log| log.metadata().unwrap().len() as usize)
    }

    fn kill(&self) {
        self.kill_at(Death::AfterOps(0));
        *self.process.lock().unwrap() = Process::default();
    }

    fn may_be_full(&self) -> bool {
        self.may_be_full.load(Ordering::SeqCst)
    }
}

/// When a process is killed.
#[derive(Clone, Copy, Debug)]
pub(super) enum Death {
    /// It has done so many more operations.
    AfterOps(u64),
    /// It would sync a file or a folder, and has done so as often before.
    BeforeSync(u64),
}

impl Death {
    /// In a call that does about so many operations.
    pub(super) fn random(random: &mut Random, ops: usize) -> Self {
        match random.below(2) {
            0 => Death::AfterOps(random.below(ops) as u64),
            _ => Death::BeforeSync(random.below(SYNCS) as u64),
        }
    }
}

/// About as many as an opening that quarantines a torn tail does.
const SYNCS: usize = 6;

/// What the files of a process share.
#[derive(Clone, Debug)]
struct Process {
    /// How many operations it does before it is killed.
    ops_left: Arc<AtomicU64>,
    /// How many syncs it does before it is killed.
    syncs_left: Arc<AtomicU64>,
    clock_offset_ns: Arc<AtomicU64>,
}

impl Default for Process {
    fn default() -> Self {
        let forever = || Arc::new(AtomicU64::new(u64::MAX));
        Process { ops_left: forever(), syncs_left: forever(), clock_offset_ns: Arc::default() }
    }
}

impl Hooks for Process {
    fn begin(&self) -> io::Result<()> {
        if takes_one(&self.ops_left) { Ok(()) } else { Err(io::Error::from_raw_os_error(EIO)) }
    }

    fn sync(&self) {
        if !takes_one(&self.syncs_left) {
            self.ops_left.store(0, Ordering::SeqCst);
        }
    }

    /// As on the simulated disk, a minute passes in a few calls.
    fn clock_ns(&self, now: u64) -> u64 {
        now + self.clock_offset_ns.fetch_add(CLOCK_STEP_NS, Ordering::SeqCst)
    }
}

/// Whether there was one left.
fn takes_one(left: &AtomicU64) -> bool {
    left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
}

const CLOCK_STEP_NS: u64 = 10_000_000_000;
