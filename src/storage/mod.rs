//! The seam between the store and the disk: two small traits with std's names.
//!
//! [`Disk`] is the only implementation in this crate; the simulator under `tests/sim` is the other one. Nothing
//! here knows what a log is. Tests reach the traits through [`testing`](crate::testing), to put a simulated disk in
//! the place of the real one.

use std::any::Any;
use std::fmt::Debug;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use crate::Error;

mod disk;
mod lock;
mod map;
pub(crate) mod paths;

pub use disk::Disk;
pub use map::Map;

/// What stands at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathKind {
    /// Nothing.
    Missing,
    /// A regular file.
    File,
    /// A folder.
    Folder,
    /// A FIFO, a socket or a device.
    Special,
}

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// An existing file, to read.
    Read,
    /// An existing file, to read and write.
    Write,
    /// A new file, to read and write; an existing one is an error.
    CreateNew,
}

/// Held as long as the lock is; dropping it unlocks.
pub type LockGuard = Box<dyn Any + Send + Sync>;

/// A file system.
pub trait Storage: Debug + Send + Sync {
    /// The path with its folder made absolute and a symbolic link at its end followed, so that a later rename
    /// replaces the file and not the link.
    fn resolve(&self, path: &Path) -> io::Result<PathBuf>;
    /// What stands at `path`, without opening it.
    fn kind(&self, path: &Path) -> io::Result<PathKind>;
    /// Opens a regular file; anything else is an error, at once. New files have mode 0600.
    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn File>>;
    /// Puts `from` in the place of `to`.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Gives the file `from` a second name; an existing `to` is an error and stays as it is.
    fn link(&self, _from: &Path, _to: &Path) -> io::Result<()> {
        Err(ErrorKind::Unsupported.into())
    }
    /// Gives `from` the name `to`; an existing `to` is an error and stays as it is.
    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        match self.kind(to)? {
            PathKind::Missing => self.rename(from, to),
            _ => Err(ErrorKind::AlreadyExists.into()),
        }
    }
    /// Gives the file `to` the owner, group and permissions of `from`, where a file system has such things.
    fn copy_owner_and_mode(&self, _from: &Path, _to: &Path) -> io::Result<()> {
        Ok(())
    }
    /// Removes a file.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a folder durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Takes the exclusive lock on the lock file at `path`, creating it, or gives up after `timeout`.
    fn lock(&self, path: &Path, timeout: Duration) -> crate::Result<LockGuard>;
    /// Fills `bytes` from the operating system's random generator.
    fn fill_random(&self, bytes: &mut [u8]) -> io::Result<()>;
    /// Waits while another process may finish a write.
    fn sleep(&self, duration: Duration) {
        thread::sleep(duration);
    }
}

/// An open file. Reads and writes name their offset, so that threads share it without a position.
#[allow(clippy::len_without_is_empty, reason = "nothing asks a file that")]
pub trait File: Debug + Send + Sync {
    /// The length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Reads at most `buf.len()` bytes; 0 only at the end of the file.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes at most `buf.len()` bytes.
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize>;
    /// Lengthens the file to `len` with zeros that have their place on the disk already, without writing them. An error of kind
    /// `Unsupported` where the file system has no such thing.
    fn allocate(&self, _len: u64) -> io::Result<()> {
        Err(ErrorKind::Unsupported.into())
    }
    /// Cuts the file, or lengthens it with zeros.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Makes the contents and the length durable.
    fn sync_data(&self) -> io::Result<()>;
    /// Makes later reads from `offset` on come from the device and not from the page cache.
    fn drop_cache(&self, offset: u64) -> io::Result<()>;
    /// A read-only map of the whole file as long as it is now, or `None` where there are no maps.
    fn map(&self) -> io::Result<Option<Map>>;
}

/// Reads until `buf` is full or the file ends; returns how many bytes were read.
pub(crate) fn read_at_most(file: &dyn File, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buf.len() {
        match file.read_at(&mut buf[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Fills `buf`; a file that ends before is an error of kind `UnexpectedEof`.
pub(crate) fn read_exact_at(file: &dyn File, buf: &mut [u8], offset: u64) -> io::Result<()> {
    if read_at_most(file, buf, offset)? == buf.len() { Ok(()) } else { Err(ErrorKind::UnexpectedEof.into()) }
}

/// Writes all of `buf`; a write that takes nothing is an error of kind `WriteZero`.
pub(crate) fn write_all_at(file: &dyn File, buf: &[u8], offset: u64) -> io::Result<()> {
    let mut written = 0;
    while written < buf.len() {
        match file.write_at(&buf[written..], offset + written as u64) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(n) => written += n,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Whether the error says that the disk, or the owner's share of it, is full.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

pub(crate) fn full_or_io<'a>(operation: &'static str, path: &'a Path) -> impl Fn(io::Error) -> Error + 'a {
    move |error| {
        if is_full(&error) { Error::Full { path: path.to_path_buf() } } else { Error::io(operation, path, error) }
    }
}
