//! An open file of the machine's file system: [`File`] over std and rustix.
//!
//! Each method is one call of the system, or another way to the same end where the system refuses it. What to do
//! about an error is decided by the caller.

use std::fs;
use std::io::{self, ErrorKind};
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use rustix::fs::{AtFlags, IFlags, Statx, StatxFlags, statx};
use rustix::io::{Errno, retry_on_intr};

use super::{Attributes, File, FileId, FreeSpace, Map, is_refused};

/// A file, and which one it is.
#[derive(Debug)]
pub(super) struct DiskFile {
    pub(super) file: fs::File,
    pub(super) id: FileId,
}

impl File for DiskFile {
    fn id(&self) -> FileId {
        self.id
    }

    fn names(&self) -> io::Result<u64> {
        if let Some(found) = status(&self.file, Path::new(""), AtFlags::EMPTY_PATH, StatxFlags::NLINK) {
            return Ok(found.stx_nlink.into());
        }
        Ok(self.file.metadata()?.nlink())
    }

    fn try_lock(&self) -> io::Result<bool> {
        loop {
            match fs2::FileExt::try_lock_exclusive(&self.file) {
                Ok(()) => return Ok(true),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn unlock(&self) -> io::Result<()> {
        loop {
            match fs2::FileExt::unlock(&self.file) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                unlocked => return unlocked,
            }
        }
    }

    fn len(&self) -> io::Result<u64> {
        if let Some(found) = status(&self.file, Path::new(""), AtFlags::EMPTY_PATH, StatxFlags::SIZE) {
            return Ok(found.stx_size);
        }
        Ok(self.file.metadata()?.len())
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buf, offset)
    }

    fn skip_hole(&self, offset: u64) -> u64 {
        // Moves the cursor of the file, which nothing uses.
        match rustix::fs::seek(&self.file, rustix::fs::SeekFrom::Data(offset)) {
            Ok(data) => data,
            // There is only a hole up to the end.
            Err(Errno::NXIO) => self.len().unwrap_or(offset),
            Err(_) => offset,
        }
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        self.file.write_at(buf, offset)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let old_len = self.len()?;
        let more = len.checked_sub(old_len).ok_or(ErrorKind::InvalidInput)?;
        let flags = rustix::fs::FallocateFlags::empty();
        match retry_on_intr(|| rustix::fs::fallocate(&self.file, flags, old_len, more)) {
            Err(error) if is_refused(&error.into()) => Err(ErrorKind::Unsupported.into()),
            done => Ok(done?),
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        // Not `File::sync_data`: std repeats a call that a signal interrupted, and a failed sync is never
        // repeated. After a failure, the kernel may mark pages as clean that it did not write.
        Ok(rustix::fs::fdatasync(&self.file)?)
    }

    fn drop_cache(&self, range: Range<u64>) -> io::Result<()> {
        // The kernel keeps a folio that is only partly in the range. So the range begins and ends where a folio of
        // any length begins and ends.
        let start = range.start & !(FOLIO_LEN_MAX - 1);
        let end = range.end.saturating_add(FOLIO_LEN_MAX - 1) & !(FOLIO_LEN_MAX - 1);
        let len = NonZeroU64::new(end.saturating_sub(start));
        Ok(retry_on_intr(|| rustix::fs::fadvise(&self.file, start, len, rustix::fs::Advice::DontNeed))?)
    }

    fn map(&self) -> io::Result<Option<Map>> {
        Map::of(&self.file).map(Some)
    }

    fn free_space(&self) -> Option<FreeSpace> {
        // Some file systems, such as ramfs, have no figures. In FUSE, `f_bsize` is another unit than that of blocks.
        let found = rustix::fs::fstatvfs(&self.file).ok().filter(|found| found.f_blocks > 0)?;
        let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
        let creation_len = if is_on(&self.file, XFS_MAGIC) { XFS_CREATION_LEN } else { 0 };
        Some(FreeSpace { available: bytes(found.f_bavail), free: bytes(found.f_bfree), creation_len })
    }

    fn attributes(&self) -> io::Result<Attributes> {
        Attributes::of(&self.file)
    }

    fn set_attributes(&self, attributes: &Attributes) -> io::Result<()> {
        attributes.apply_to(&self.file)
    }
}

/// Asks btrfs to write over the bytes of a new file where they are. Else it writes them elsewhere, and on a full
/// disk no byte could be written, not even over preallocated zeros. If this is refused, the file is as good but
/// for that.
pub(super) fn write_in_place(file: &fs::File) {
    if is_on(file, BTRFS_MAGIC)
        && let Ok(flags) = rustix::fs::ioctl_getflags(file)
    {
        let _ = rustix::fs::ioctl_setflags(file, flags | IFlags::NOCOW);
    }
}

/// Whether a file is on a file system of this type. The field has 32 or 64 bits, with a sign or without.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "types of file systems have 32 bits")]
fn is_on(file: &fs::File, magic: u32) -> bool {
    rustix::fs::fstatfs(file).is_ok_and(|found| found.f_type as u32 == magic)
}

/// Asks for one thing about a file; `None` if the system does not tell.
///
/// std asks for all times as well. Since Linux 6.13, a write to a file whose times were asked for changes its
/// inode, and the next sync then takes half as long again.
pub(super) fn status(folder: impl AsFd, path: &Path, flags: AtFlags, what: StatxFlags) -> Option<Statx> {
    let found = statx(folder, path, flags, what).ok()?;
    (found.stx_mask & what.bits() == what.bits()).then_some(found)
}

/// The type of btrfs, as statfs gives it.
const BTRFS_MAGIC: u32 = 0x9123_683E;
/// The type of xfs, as statfs gives it.
const XFS_MAGIC: u32 = 0x5846_5342;
/// On xfs, creating a file fails unless so much is free, whether that takes it or not. 128 KiB were not enough on
/// one of 400 MB, 192 KiB were.
const XFS_CREATION_LEN: u64 = 256 << 10;

/// 2 MiB: the largest folio of the page cache, a huge page on x86-64 and on arm64 with pages of 4 KiB.
const FOLIO_LEN_MAX: u64 = 2 << 20;
