//! The real disk. Owns the crate's only `unsafe` block, the memory map.

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
        // Without O_NONBLOCK, a FIFO put there since it was looked at would hang the open.
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
            // Not on this file system.
            Err(Errno::INVAL | Errno::NOSYS) => {}
            done => return Ok(done?),
        }
        // Unlike a plain rename, a link never replaces what is there.
        self.link(from, to)?;
        // If this fails, the file has two names. It is there under the one asked for.
        let _ = fs::remove_file(from);
        Ok(())
    }

    fn copy_owner_and_mode(&self, from: &Path, to: &Path) -> io::Result<()> {
        let like = fs::metadata(from)?;
        // Where root does this, whoever may write to the folder must not be given a file of root's through a link.
        let flags = (rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOFOLLOW).bits().cast_signed();
        let new = fs::OpenOptions::new().read(true).custom_flags(flags).open(to)?;
        let found = new.metadata()?;
        if found.nlink() > 1 {
            return Err(io::Error::new(ErrorKind::InvalidInput, "it has another name"));
        }
        if (like.uid(), like.gid()) != (found.uid(), found.gid()) {
            std::os::unix::fs::fchown(&new, Some(like.uid()), Some(like.gid()))?;
        }
        new.set_permissions(like.permissions())
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

/// As many as the Linux kernel follows.
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
        // std repeats a call that a signal interrupted; a sync is never repeated, so the plain call it is.
        Ok(rustix::fs::fdatasync(&self.0)?)
    }

    fn drop_cache(&self, offset: u64) -> io::Result<()> {
        // The kernel keeps a folio that is only partly inside the range, and one may be 2 MiB long.
        let whole_folios = offset & !(FOLIO_LEN_MAX - 1);
        Ok(rustix::fs::fadvise(&self.0, whole_folios, None, rustix::fs::Advice::DontNeed)?)
    }

    fn map(&self) -> io::Result<Option<Map>> {
        Map::of(&self.0).map(Some)
    }
}

/// The largest folio of the page cache on the platforms in use (a huge page on x86-64 and 4-KiB-page arm64).
const FOLIO_LEN_MAX: u64 = 2 << 20;
