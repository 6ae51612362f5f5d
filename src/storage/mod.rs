//! The seam between the store and the disk: two small object-safe traits with std's names.
//!
//! [`Disk`] implements them for the real file system, and the simulator in `tests/sim` for tests, which reach the
//! traits through [`testing`](crate::testing). Nothing here knows what is in a log. `paths.rs` maps a caller's
//! path to the files of a store.

use std::ffi::OsString;
use std::fmt::Debug;
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::Error;

mod attributes;
mod disk;
mod disk_file;
pub(crate) mod lock;
mod map;
pub(crate) mod names;
pub(crate) mod paths;
mod xattr;

pub use attributes::Attributes;
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
    /// A lock file, to read and write: the existing one or, if there is none, a new one. A symbolic link, or a
    /// file that has several names, is an error, and is not changed.
    Lock,
}

/// Which file it is, whatever its names are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileId {
    /// The device or file system.
    pub device: u64,
    /// The file in it.
    pub inode: u64,
}

/// How much space a file system has left, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FreeSpace {
    /// For users without privileges.
    pub available: u64,
    /// Together with what is kept for privileged users: no user can write more.
    pub free: u64,
    /// So much must be free for a file to be created, whether that takes it or not.
    pub creation_len: u64,
}

/// Why a file was not renamed. No name was changed.
#[derive(Debug)]
pub enum RenameError {
    /// The old name means another file by now, or none.
    SourceMoved,
    /// At the new name is something that was not to be replaced.
    TargetTaken,
    /// The operating system refused it.
    Io(io::Error),
}

impl From<io::Error> for RenameError {
    fn from(error: io::Error) -> Self {
        RenameError::Io(error)
    }
}

/// A file system.
///
/// Names can be moved by others at any time. So what a name means is compared with a [`FileId`] before something
/// is renamed over it or removed. The comparison and the change are as close together as the system allows.
pub trait Storage: Debug + Send + Sync {
    /// Makes the folder of `path` absolute and follows a symbolic link at its end, so that a later rename replaces
    /// the file and not the link. The file need not exist.
    fn resolve(&self, path: &Path) -> io::Result<PathBuf>;
    /// What is at `path`, without opening it. Symbolic links are followed.
    fn kind(&self, path: &Path) -> io::Result<PathKind>;
    /// Which file is at `path`; `None` if there is none. Symbolic links are not followed.
    fn id(&self, path: &Path) -> io::Result<Option<FileId>>;
    /// The names in the folder at `path`, in any order.
    fn names(&self, path: &Path) -> io::Result<Vec<OsString>>;
    /// Whether `path` is mounted by itself, as a container runtime mounts a single file: then no file can be
    /// renamed over it.
    fn is_mount_point(&self, _path: &Path) -> bool {
        false
    }
    /// Opens a regular file. Anything else is an error, without waiting as a FIFO would, and so is a symbolic
    /// link. A new file gets mode 0600.
    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn File>>;
    /// Renames `file`, which is at `from`, to `to`, in one step. `over` is the file that it replaces; with `None`,
    /// it replaces nothing. Durable after [`Folder::sync`].
    fn rename(&self, from: &Path, file: FileId, to: &Path, over: Option<FileId>) -> Result<(), RenameError>;
    /// Gives the file `from` the second name `to`. An existing `to` is an error and is not changed.
    fn link(&self, _from: &Path, _to: &Path) -> io::Result<()> {
        Err(ErrorKind::Unsupported.into())
    }
    /// Removes `file` if it is at `path`. Returns whether it was.
    fn remove_file(&self, path: &Path, file: FileId) -> io::Result<bool>;
    /// Opens a folder, to sync it.
    fn open_folder(&self, path: &Path) -> io::Result<Box<dyn Folder>>;
    /// Fills `bytes` from the operating system's random generator.
    fn fill_random(&self, bytes: &mut [u8]) -> io::Result<()>;
    /// The time since 1970 in nanoseconds, as far as the operating system knows it. It may jump.
    fn clock_ns(&self) -> u64 {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since_1970.as_nanos()).unwrap_or(u64::MAX)
    }
    /// Pauses a reader, so that a write in another process can end, or one that waits for a lock. A simulated disk
    /// returns at once.
    fn sleep(&self, duration: Duration) {
        thread::sleep(duration);
    }
}

/// An open folder.
pub trait Folder: Debug + Send + Sync {
    /// Makes the names in the folder durable.
    fn sync(&self) -> io::Result<()>;
}

/// An open file. Every read and write passes its offset, so that threads can share the file without a cursor.
#[allow(clippy::len_without_is_empty, reason = "no caller needs it")]
pub trait File: Debug + Send + Sync {
    /// Which file it is.
    fn id(&self) -> FileId;
    /// How many names it has. With none, it is gone once it is closed.
    fn names(&self) -> io::Result<u64>;
    /// Takes the exclusive lock on the file, if no other handle has it. It holds for this handle until
    /// [`unlock`](Self::unlock), or until every copy of the handle is closed, also those in children of a fork.
    fn try_lock(&self) -> io::Result<bool>;
    /// Frees the lock, also for the copies of this handle in children of a fork.
    fn unlock(&self) -> io::Result<()>;
    /// The length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Reads at most `buf.len()` bytes and returns how many. 0 means the end of the file.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Where the first byte at `offset` or later is that need not be zero: a hole reads as zeros. A file system
    /// that does not know its holes returns `offset`.
    fn skip_hole(&self, offset: u64) -> u64 {
        offset
    }
    /// Where the first hole at `offset` or later begins: a write to it needs new space, unlike one to space that
    /// is allocated and was not written yet. `None` if there is no hole, or the file system does not know its
    /// holes.
    fn next_hole(&self, _offset: u64) -> Option<u64> {
        None
    }
    /// Writes at most `buf.len()` bytes and returns how many.
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize>;
    /// Extends the file to `len` bytes with allocated space that reads as zeros, without writing it. Fails with
    /// [`ErrorKind::Unsupported`] where the file system cannot.
    fn allocate(&self, _len: u64) -> io::Result<()> {
        Err(ErrorKind::Unsupported.into())
    }
    /// How much space its file system has left. `None` if that is not known.
    fn free_space(&self) -> Option<FreeSpace> {
        None
    }
    /// Truncates the file to `len` bytes, or extends it with zeros.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Makes the contents and the length durable. After an error the data may be lost: do not call it again.
    fn sync_data(&self) -> io::Result<()>;
    /// Drops the page cache of the range, so that later reads of it come from the device.
    fn drop_cache(&self, range: Range<u64>) -> io::Result<()>;
    /// Maps the file read-only, up to its current length. `None` where maps are not supported.
    fn map(&self) -> io::Result<Option<Map>>;
    /// The owner, the permissions and the like. A file system that has none returns the default.
    fn attributes(&self) -> io::Result<Attributes> {
        Ok(Attributes::default())
    }
    /// Gives a new file the attributes of the one that it will replace. What cannot be set leaves the new file
    /// with fewer permissions, never with more.
    fn set_attributes(&self, _attributes: &Attributes) -> io::Result<()> {
        Ok(())
    }
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

/// Drops the page cache of a range, so that the next read is one from the disk. Where a sandbox does not allow
/// this, the next read may find what is in the page cache. `path` is for the error.
pub(crate) fn drop_cache_if_allowed(file: &dyn File, range: Range<u64>, path: &Path) -> crate::Result<()> {
    match file.drop_cache(range) {
        Err(error) if is_refused(&error) => Ok(()),
        dropped => dropped.map_err(|source| Error::io("drop the page cache of", path, source)),
    }
}

/// The error for a file that, read back, is not as it was written. Not `Corrupt`: the log is as it was, and is not
/// to be salvaged.
pub(crate) fn not_as_written(operation: &'static str, path: &Path) -> Error {
    let source = io::Error::new(ErrorKind::InvalidData, "the disk does not return what was written to it");
    Error::io(operation, path, source)
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

/// Why the error means that there is no space, if it does.
fn full_because(error: &io::Error) -> Option<&'static str> {
    match error.kind() {
        ErrorKind::StorageFull => Some("no space left on the disk"),
        ErrorKind::QuotaExceeded => Some("the disk quota is used up"),
        ErrorKind::FileTooLarge => Some("the limit on the length of a file (ulimit -f) is reached"),
        _ => None,
    }
}

/// Whether the error means that there is no space.
pub(crate) fn is_full(error: &io::Error) -> bool {
    full_because(error).is_some()
}

/// Maps an I/O error to [`Error::Full`] or [`Error::Io`], for `map_err`.
pub(crate) fn full_or_io<'a>(operation: &'static str, path: &'a Path) -> impl Fn(io::Error) -> Error + 'a {
    move |error| match full_because(&error) {
        Some(what) => Error::Full { path: path.to_path_buf(), what },
        None => Error::io(operation, path, error),
    }
}

/// Maps an I/O error of a call that creates a file, which also needs an inode.
pub(crate) fn create_error<'a>(operation: &'static str, path: &'a Path) -> impl Fn(io::Error) -> Error + 'a {
    move |error| match error.kind() {
        ErrorKind::StorageFull => {
            let what = "no space or no free inode left on the disk (see df and df -i)";
            Error::Full { path: path.to_path_buf(), what }
        }
        _ => full_or_io(operation, path)(error),
    }
}

/// Whether a system call failed because a sandbox, a file system or an old kernel does not allow it at all: then
/// another way must serve.
pub(crate) fn is_refused(error: &io::Error) -> bool {
    use rustix::io::Errno;

    let refusals = [Errno::PERM, Errno::INVAL, Errno::NOSYS, Errno::OPNOTSUPP, Errno::ACCESS, Errno::NODEV];
    error.kind() == ErrorKind::Unsupported
        || error.raw_os_error().is_some_and(|code| refusals.iter().any(|refusal| refusal.raw_os_error() == code))
}
