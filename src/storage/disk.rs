//! The real file system: [`Storage`] over std and rustix. `disk_file.rs` has its files.
//!
//! Each method is one call of the system, as far as portability allows, or another way to the same end where the
//! system refuses it. What to do about an error is decided by the caller.

use std::ffi::OsString;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, RenameFlags, StatxFlags};
use rustix::io::{Errno, retry_on_intr};

use super::disk_file::{DiskFile, status, write_in_place};
use super::paths::folder_of;
use super::{Access, File, FileId, Folder, PathKind, RenameError, Storage, is_refused};

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

    fn id(&self, path: &Path) -> io::Result<Option<FileId>> {
        if let Some(found) = status(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::INO) {
            let device = rustix::fs::makedev(found.stx_dev_major, found.stx_dev_minor);
            return Ok(Some(FileId { device, inode: found.stx_ino }));
        }
        match fs::symlink_metadata(path) {
            Ok(found) => Ok(Some(id_of(&found))),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn names(&self, path: &Path) -> io::Result<Vec<OsString>> {
        fs::read_dir(path)?.map(|found| Ok(found?.file_name())).collect()
    }

    fn is_mount_point(&self, path: &Path) -> bool {
        let mount_of = |path: &Path| {
            let found = status(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::MNT_ID)?;
            Some(found.stx_mnt_id)
        };
        matches!((mount_of(path), mount_of(folder_of(path))), (Some(file), Some(folder)) if file != folder)
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn File>> {
        if access == Access::Lock {
            return open_lock_file(path);
        }
        let file = options().write(access != Access::Read).create_new(access == Access::CreateNew).open(path)?;
        let found = file.metadata()?;
        if !found.is_file() {
            return Err(io::Error::new(ErrorKind::InvalidInput, "not a regular file"));
        }
        if access == Access::CreateNew {
            write_in_place(&file);
        }
        Ok(Box::new(DiskFile { file, id: id_of(&found) }))
    }

    fn rename(&self, from: &Path, file: FileId, to: &Path, over: Option<FileId>) -> Result<(), RenameError> {
        if let Some(over) = over
            && self.id(to)? != Some(over)
        {
            return Err(RenameError::TargetTaken);
        }
        if self.id(from)? != Some(file) {
            return Err(RenameError::SourceMoved);
        }
        match over {
            Some(_) => Ok(fs::rename(from, to)?),
            None => rename_new(from, to),
        }
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::hard_link(from, to)
    }

    fn remove_file(&self, path: &Path, file: FileId) -> io::Result<bool> {
        let is_there = self.id(path)? == Some(file);
        if is_there {
            fs::remove_file(path)?;
        }
        Ok(is_there)
    }

    fn open_folder(&self, path: &Path) -> io::Result<Box<dyn Folder>> {
        match fs::File::open(path) {
            Ok(folder) => Ok(Box::new(DiskFolder(Some(folder)))),
            // A folder that this user may not list.
            Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok(Box::new(DiskFolder(None))),
            Err(error) => Err(error),
        }
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

fn id_of(found: &fs::Metadata) -> FileId {
    FileId { device: found.dev(), inode: found.ino() }
}

/// To read. A FIFO that has replaced the file would make an open without `O_NONBLOCK` hang, and a symbolic link
/// would lead to another file.
fn options() -> fs::OpenOptions {
    let mut options = fs::OpenOptions::new();
    let flags = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOFOLLOW;
    options.read(true).mode(0o600).custom_flags(flags.bits().cast_signed());
    options
}

fn open_lock_file(path: &Path) -> io::Result<Box<dyn File>> {
    let file = match open_or_create(path) {
        Err(error) if error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => {
            return Err(refused_lock_file("is a symbolic link"));
        }
        opened => opened?,
    };
    let found = file.metadata()?;
    if !found.is_file() {
        return Err(refused_lock_file("is not a regular file"));
    }
    if found.nlink() > 1 {
        return Err(refused_lock_file("has another name (a hard link, as cp -al makes)"));
    }
    Ok(Box::new(DiskFile { file, id: id_of(&found) }))
}

/// First without `O_CREAT`, which the system refuses for another user's file in a sticky folder.
fn open_or_create(lock_file: &Path) -> io::Result<fs::File> {
    let mut tries = 0;
    loop {
        tries += 1;
        match options().write(true).open(lock_file) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            opened => return opened,
        }
        match options().write(true).create_new(true).open(lock_file) {
            // Another process has just created it.
            Err(error) if error.kind() == ErrorKind::AlreadyExists && tries < LOCK_TRIES_MAX => {}
            created => return created.inspect(|file| give_to_owner_of_log(file, lock_file)),
        }
    }
}

/// Between each two of them, another process has created the lock file and removed it again.
const LOCK_TRIES_MAX: u32 = 100;

fn refused_lock_file(what: &str) -> io::Error {
    io::Error::new(
        ErrorKind::InvalidInput,
        format!("it {what}; remove this name while no agent runs: nothing in it is needed"),
    )
}

/// Gives a new lock file to the owner of the log. If root creates it from a shell, the agent must still be able to
/// open it. Without root, this fails and is not needed.
fn give_to_owner_of_log(file: &fs::File, path: &Path) {
    if let Ok(log) = fs::symlink_metadata(path.with_extension("")) {
        let _ = std::os::unix::fs::fchown(file, Some(log.uid()), Some(log.gid()));
    }
}

/// Renames without replacing, by the first of three ways that the file system allows.
fn rename_new(from: &Path, to: &Path) -> Result<(), RenameError> {
    let taken_or_io = |error: io::Error| match error.kind() {
        ErrorKind::AlreadyExists => RenameError::TargetTaken,
        _ => RenameError::Io(error),
    };
    match retry_on_intr(|| rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)) {
        Err(error) if is_refused(&error.into()) => {}
        done => return done.map_err(|error| taken_or_io(error.into())),
    }
    // Unlike a rename, a link never replaces what is there.
    match retry_on_intr(|| rustix::fs::link(from, to)) {
        Ok(()) => {
            // Guards against a power cut that keeps the removal and loses the link.
            if let Err(error) = Disk.open_folder(folder_of(to)).and_then(|folder| folder.sync()) {
                let _ = fs::remove_file(to);
                return Err(RenameError::Io(error));
            }
            // If this fails, the file also keeps its old name. It has the new one, which is what the caller needs.
            let _ = fs::remove_file(from);
            return Ok(());
        }
        Err(error) if is_refused(&error.into()) => {}
        Err(error) => return Err(taken_or_io(error.into())),
    }
    match fs::symlink_metadata(to) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(fs::rename(from, to)?),
        Ok(_) => Err(RenameError::TargetTaken),
        Err(error) => Err(RenameError::Io(error)),
    }
}

/// `None` where the folder cannot be opened.
#[derive(Debug)]
struct DiskFolder(Option<fs::File>);

impl Folder for DiskFolder {
    fn sync(&self) -> io::Result<()> {
        if let Some(folder) = &self.0 {
            match retry_on_intr(|| rustix::fs::fsync(folder)) {
                // Some network file systems do not sync folders.
                Err(error) if is_refused(&error.into()) => {}
                done => return Ok(done?),
            }
            match retry_on_intr(|| rustix::fs::syncfs(folder)) {
                Err(error) if is_refused(&error.into()) => {}
                done => return Ok(done?),
            }
        }
        // The last resort syncs all file systems.
        rustix::fs::sync();
        Ok(())
    }
}
