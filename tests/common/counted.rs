//! The machine's disk, with a count of the syncs and reads, and with something that happens before one of the reads.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use backupy_state::Result;
use backupy_state::testing::{Access, Disk, File, LockGuard, Map, PathKind, Storage};

/// Clones count together.
#[derive(Clone, Default)]
pub(crate) struct CountedDisk {
    syncs: Arc<AtomicU64>,
    reads: Arc<AtomicU64>,
    before_read: Arc<Mutex<Option<BeforeRead>>>,
}

/// The number of a read, and what happens before it.
type BeforeRead = (u64, Box<dyn FnOnce() + Send>);

impl fmt::Debug for CountedDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CountedDisk").finish_non_exhaustive()
    }
}

impl CountedDisk {
    /// How many syncs, of files and of folders, the call makes.
    pub(crate) fn syncs_of(&self, call: impl FnOnce()) -> u64 {
        let before = self.syncs.load(Ordering::SeqCst);
        call();
        self.syncs.load(Ordering::SeqCst) - before
    }

    /// How many reads of files the call makes; a look through a memory map is none.
    pub(crate) fn reads_of(&self, call: impl FnOnce()) -> u64 {
        let before = self.reads.load(Ordering::SeqCst);
        call();
        self.reads.load(Ordering::SeqCst) - before
    }

    /// Makes the call right before the read `n` of those to come, from 1.
    pub(crate) fn before_read(&self, n: u64, call: impl FnOnce() + Send + 'static) {
        let n = self.reads.load(Ordering::SeqCst) + n;
        *self.before_read.lock().unwrap() = Some((n, Box::new(call)));
    }

    fn count(&self) {
        self.syncs.fetch_add(1, Ordering::SeqCst);
    }

    fn count_read(&self) {
        let n = self.reads.fetch_add(1, Ordering::SeqCst) + 1;
        if let Some((_, call)) = self.before_read.lock().unwrap().take_if(|(due, _)| *due == n) {
            call();
        }
    }
}

impl Storage for CountedDisk {
    fn resolve(&self, path: &Path) -> io::Result<PathBuf> {
        Disk.resolve(path)
    }

    fn kind(&self, path: &Path) -> io::Result<PathKind> {
        Disk.kind(path)
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn File>> {
        let file = Disk.open(path, access)?;
        Ok(Box::new(CountedFile { file, disk: self.clone() }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        Disk.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        Disk.remove_file(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.count();
        Disk.sync_dir(path)
    }

    fn lock(&self, path: &Path, timeout: Duration) -> Result<LockGuard> {
        Disk.lock(path, timeout)
    }

    fn fill_random(&self, bytes: &mut [u8]) -> io::Result<()> {
        Disk.fill_random(bytes)
    }
}

#[derive(Debug)]
struct CountedFile {
    file: Box<dyn File>,
    disk: CountedDisk,
}

impl File for CountedFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.disk.count_read();
        self.file.read_at(buf, offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        self.file.write_at(buf, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.disk.count();
        self.file.sync_data()
    }

    fn drop_cache(&self, offset: u64) -> io::Result<()> {
        self.file.drop_cache(offset)
    }

    fn map(&self) -> io::Result<Option<Map>> {
        self.file.map()
    }
}
