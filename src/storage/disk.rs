//! The real file system: [`Storage`] and [`File`] over std and rustix.
//!
//! Each method is one call of the system, as far as portability allows. What to do about an error is decided by
//! the caller.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

#[cfg(target_os = "linux")]
use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;

use super::lock;
use super::{Access, File, LockGuard, Map, PathKind, Storage};

/// The file system of the machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct Disk;

impl Storage for Disk {
    fn resolve(&self, path: &Path) -> io::Result<PathBuf> {
        let mut path = path.to_path_buf();
        for _ in 0..SYMLINKS_MAX {
            let name = path.file_name().ok_or(ErrorKind::InvalidInput)?.to_owned();
            let folder = match path.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => parent,
                _ => Path::new("."),
            };
            let folder = fs::canonicalize(folder)?;
            path = folder.join(name);
            match fs::symlink_metadata(&path) {
                Ok(found) if found.file_type().is_symlink() => path = folder.join(fs::read_link(&path)?),
                Ok(_) => return Ok(path),
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(path),
                Err(error) => return Err(error),
            }
        }
        Err(Errno::LOOP.into())
    }

    fn kind(&self, path: &Path) -> io::Result<PathKind> {
        match fs::metadata(path) {
            Ok(found) => Ok(kind_of(found.file_type())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(PathKind::Missing),
            Err(error) => Err(error),
        }
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn File>> {
        // The caller has checked that this is a regular file. If a FIFO has replaced it since, opening it without
        // O_NONBLOCK would hang.
        let file = fs::OpenOptions::new()
            .read(true)
            .write(access != Access::Read)
            .create_new(access == Access::CreateNew)
            .mode(0o600)
            .custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed())
            .open(path)?;
        if kind_of(file.metadata()?.file_type()) != PathKind::File {
            return Err(io::Error::new(ErrorKind::InvalidInput, "not a regular file"));
        }
        Ok(Box::new(DiskFile(file)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::hard_link(from, to)
    }

    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        #[cfg(target_os = "linux")]
        match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            // This file system cannot rename without replacing.
            Err(Errno::INVAL | Errno::NOSYS) => {}
            done => return Ok(done?),
        }
        // Unlike a rename, a link never replaces what is there.
        self.link(from, to)?;
        // If this fails, the file also keeps its old name. It has the new one, which is what the caller needs.
        let _ = fs::remove_file(from);
        Ok(())
    }

    fn copy_owner_and_mode(&self, from: &Path, to: &Path) -> io::Result<()> {
        let wanted = fs::metadata(from)?;
        // Called as root, this must not give away one of root's files: a user who can write to the folder could
        // put a link to it at `to`. O_NOFOLLOW refuses symbolic links, the link count below refuses hard links.
        let flags = (rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOFOLLOW).bits().cast_signed();
        let new = fs::OpenOptions::new().read(true).custom_flags(flags).open(to)?;
        let found = new.metadata()?;
        if found.nlink() > 1 {
            return Err(io::Error::new(ErrorKind::InvalidInput, "the file has another name (a hard link)"));
        }
        if (wanted.uid(), wanted.gid()) != (found.uid(), found.gid()) {
            std::os::unix::fs::fchown(&new, Some(wanted.uid()), Some(wanted.gid()))?;
        }
        new.set_permissions(wanted.permissions())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        fs::File::open(path)?.sync_all()
    }

    fn lock(&self, path: &Path, timeout: Duration) -> crate::Result<LockGuard> {
        Ok(Box::new(lock::acquire(path, timeout)?))
    }

    fn fill_random(&self, bytes: &mut [u8]) -> io::Result<()> {
        getrandom::fill(bytes).map_err(io::Error::from)
    }
}

/// As many as Linux follows in one path.
const SYMLINKS_MAX: usize = 40;

fn kind_of(found: fs::FileType) -> PathKind {
    if found.is_file() {
        PathKind::File
    } else if found.is_dir() {
        PathKind::Folder
    } else {
        PathKind::Special
    }
}

#[derive(Debug)]
struct DiskFile(fs::File);

impl File for DiskFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buf, offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        self.0.write_at(buf, offset)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let old_len = self.len()?;
        let more = len.checked_sub(old_len).ok_or(ErrorKind::InvalidInput)?;
        Ok(rustix::fs::fallocate(&self.0, rustix::fs::FallocateFlags::empty(), old_len, more)?)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        // Not `File::sync_data`: std repeats a call that a signal interrupted, and a failed sync is never
        // repeated. After a failure, the kernel may mark pages as clean that it did not write.
        Ok(rustix::fs::fdatasync(&self.0)?)
    }

    fn drop_cache(&self, offset: u64) -> io::Result<()> {
        // The kernel keeps a folio that is only partly in the range. So the range begins where a folio of any
        // length begins.
        let start = offset & !(FOLIO_LEN_MAX - 1);
        Ok(rustix::fs::fadvise(&self.0, start, None, rustix::fs::Advice::DontNeed)?)
    }

    fn map(&self) -> io::Result<Option<Map>> {
        Map::of(&self.0).map(Some)
    }
}

/// 2 MiB: the largest folio of the page cache, a huge page on x86-64 and on arm64 with pages of 4 KiB.
const FOLIO_LEN_MAX: u64 = 2 << 20;
