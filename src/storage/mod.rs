//! The seam between the store and the disk: two small object-safe traits with std's names.
//!
//! [`Disk`] implements them for the real file system, and the simulator in `tests/sim` for tests, which reach the
//! traits through [`testing`](crate::testing). Nothing here knows what is in a log. `paths.rs` maps a caller's
//! path to the files of a store.

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

/// What is at a path.
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

/// A held lock. Dropping it unlocks.
pub type LockGuard = Box<dyn Any + Send + Sync>;

/// A file system.
pub trait Storage: Debug + Send + Sync {
    /// Makes the folder of `path` absolute and follows a symbolic link at its end, so that a later rename replaces
    /// the file and not the link. The file need not exist.
    fn resolve(&self, path: &Path) -> io::Result<PathBuf>;
    /// What is at `path`, without opening it. Symbolic links are followed.
    fn kind(&self, path: &Path) -> io::Result<PathKind>;
    /// Opens a regular file. Anything else is an error, without waiting as a FIFO would. A new file gets mode
    /// 0600.
    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn File>>;
    /// Renames `from` to `to` and replaces what is there, in one step. Durable after [`sync_dir`](Self::sync_dir).
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Gives the file `from` the second name `to`. An existing `to` is an error and is not changed.
    fn link(&self, _from: &Path, _to: &Path) -> io::Result<()> {
        Err(ErrorKind::Unsupported.into())
    }
    /// Renames `from` to `to`. An existing `to` is an error and is not changed.
    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        match self.kind(to)? {
            PathKind::Missing => self.rename(from, to),
            _ => Err(ErrorKind::AlreadyExists.into()),
        }
    }
    /// Gives the file `to` the owner, group and permissions of `from`. Does nothing where a file system has none.
    fn copy_owner_and_mode(&self, _from: &Path, _to: &Path) -> io::Result<()> {
        Ok(())
    }
    /// Removes a file.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in the folder at `path` durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Takes the exclusive lock on the lock file at `path`, which is created if needed. Gives up with
    /// [`Error::Locked`] after `timeout`.
    fn lock(&self, path: &Path, timeout: Duration) -> crate::Result<LockGuard>;
    /// Fills `bytes` from the operating system's random generator.
    fn fill_random(&self, bytes: &mut [u8]) -> io::Result<()>;
    /// Pauses a reader, so that a write in another process can end. A simulated disk returns at once.
    fn sleep(&self, duration: Duration) {
        thread::sleep(duration);
    }
}

/// An open file. Every read and write passes its offset, so that threads can share the file without a cursor.
#[allow(clippy::len_without_is_empty, reason = "no caller needs it")]
pub trait File: Debug + Send + Sync {
    /// The length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Reads at most `buf.len()` bytes and returns how many. 0 means the end of the file.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes at most `buf.len()` bytes and returns how many.
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize>;
    /// Extends the file to `len` bytes with allocated space that reads as zeros, without writing it. Fails with
    /// [`ErrorKind::Unsupported`] where the file system cannot.
    fn allocate(&self, _len: u64) -> io::Result<()> {
        Err(ErrorKind::Unsupported.into())
    }
    /// Truncates the file to `len` bytes, or extends it with zeros.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Makes the contents and the length durable. After an error the data may be lost: do not call it again.
    fn sync_data(&self) -> io::Result<()>;
    /// Drops the page cache from `offset` on, so that later reads come from the device.
    fn drop_cache(&self, offset: u64) -> io::Result<()>;
    /// Maps the file read-only, up to its current length. `None` where maps are not supported.
    fn map(&self) -> io::Result<Option<Map>>;
}

/// Reads until `buf` is full or the file ends, and returns how many bytes were read.
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

/// Fills `buf`. Fails with [`ErrorKind::UnexpectedEof`] if the file ends first.
pub(crate) fn read_exact_at(file: &dyn File, buf: &mut [u8], offset: u64) -> io::Result<()> {
    if read_at_most(file, buf, offset)? == buf.len() { Ok(()) } else { Err(ErrorKind::UnexpectedEof.into()) }
}

/// Writes all of `buf`. Fails with [`ErrorKind::WriteZero`] if a write takes no byte.
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

/// Whether the error means that the disk or the quota is full.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

/// Maps an I/O error to [`Error::Full`] or [`Error::Io`], for `map_err`.
pub(crate) fn full_or_io<'a>(operation: &'static str, path: &'a Path) -> impl Fn(io::Error) -> Error + 'a {
    move |error| {
        if is_full(&error) { Error::Full { path: path.to_path_buf() } } else { Error::io(operation, path, error) }
    }
}
