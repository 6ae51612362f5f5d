//! The real disk, with a count of its syncs, its reads and a reader's pauses. A test can also have a function
//! called before one of the reads.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::hooked::{Hooked, Hooks};

pub(crate) type CountedDisk = Hooked<Counts>;

/// Clones share the counts.
#[derive(Clone, Default)]
pub(crate) struct Counts {
    syncs: Arc<AtomicU64>,
    reads: Arc<AtomicU64>,
    bytes_read: Arc<AtomicU64>,
    pauses_ms: Arc<AtomicU64>,
    before_read: Arc<Mutex<Option<BeforeRead>>>,
}

/// The number of a read, and the function to call before it.
type BeforeRead = (u64, Box<dyn FnOnce() + Send>);

impl fmt::Debug for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Counts").finish_non_exhaustive()
    }
}

impl CountedDisk {
    /// How many syncs, of files and of folders, the call makes.
    pub(crate) fn syncs_of(&self, call: impl FnOnce()) -> u64 {
        during(&self.hooks.syncs, call)
    }

    /// How many times the call reads a file, not counting reads through a memory map.
    pub(crate) fn reads_of(&self, call: impl FnOnce()) -> u64 {
        during(&self.hooks.reads, call)
    }

    /// How many bytes the call reads from files, likewise.
    pub(crate) fn bytes_read_of(&self, call: impl FnOnce()) -> u64 {
        during(&self.hooks.bytes_read, call)
    }

    /// How many milliseconds the call would pause on a real disk.
    pub(crate) fn pauses_ms_of(&self, call: impl FnOnce()) -> u64 {
        during(&self.hooks.pauses_ms, call)
    }

    /// Runs `call` right before the `n`th read from now on, counted from 1.
    pub(crate) fn before_read(&self, n: u64, call: impl FnOnce() + Send + 'static) {
        let n = self.hooks.reads.load(Ordering::SeqCst) + n;
        *self.hooks.before_read.lock().unwrap() = Some((n, Box::new(call)));
    }
}

fn during(count: &AtomicU64, call: impl FnOnce()) -> u64 {
    let before = count.load(Ordering::SeqCst);
    call();
    count.load(Ordering::SeqCst) - before
}

impl Hooks for Counts {
    fn read(&self, len: usize) {
        self.bytes_read.fetch_add(len as u64, Ordering::SeqCst);
        let n = self.reads.fetch_add(1, Ordering::SeqCst) + 1;
        if let Some((_, call)) = self.before_read.lock().unwrap().take_if(|(due, _)| *due == n) {
            call();
        }
    }

    fn sync(&self) {
        self.syncs.fetch_add(1, Ordering::SeqCst);
    }

    fn sleep(&self, duration: Duration) {
        self.pauses_ms.fetch_add(u64::try_from(duration.as_millis()).unwrap(), Ordering::SeqCst);
    }
}
