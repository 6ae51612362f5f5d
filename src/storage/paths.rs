//! Looks at what is at a path, and syncs folders. Never writes to a file.

use std::io;
use std::path::{Path, PathBuf};

use super::{Access, File, FileId, Folder, PathKind, Storage};
use crate::{Error, Result};

/// Whether there is a file at the path. Fails with [`Error::NotAStore`] if there is anything else.
pub(crate) fn is_file(storage: &dyn Storage, path: &Path) -> Result<bool> {
    match kind_at(storage, path)? {
        PathKind::Missing => Ok(false),
        PathKind::File => Ok(true),
        kind => Err(not_a_file(path.to_path_buf(), kind)),
    }
}

/// The error for something that is no file.
pub(crate) fn not_a_file(path: PathBuf, kind: PathKind) -> Error {
    let what = if kind == PathKind::Folder { "a folder" } else { "a FIFO, a socket or a device" };
    Error::NotAStore { path, what }
}

/// What is at the path.
pub(crate) fn kind_at(storage: &dyn Storage, path: &Path) -> Result<PathKind> {
    storage.kind(path).map_err(|source| Error::io("look at", path, source))
}

/// Which file is at the path, if there is one.
pub(crate) fn id_at(storage: &dyn Storage, path: &Path) -> Result<Option<FileId>> {
    storage.id(path).map_err(|source| Error::io("look at", path, source))
}

/// The error for a file of this crate that somebody has moved, removed or replaced while it was being written.
pub(crate) fn moved(path: &Path) -> Error {
    let source = io::Error::new(io::ErrorKind::NotFound, "another process has moved or replaced it");
    Error::io("rename", path, source)
}

/// Opens an existing file to read.
pub(crate) fn open_file(storage: &dyn Storage, path: &Path) -> Result<Box<dyn File>> {
    if !is_file(storage, path)? {
        return Err(Error::not_found(path));
    }
    storage.open(path, Access::Read).map_err(|source| match source.kind() {
        // It has been moved or removed since.
        io::ErrorKind::NotFound => Error::not_found(path),
        _ => Error::io("open", path, source),
    })
}

/// Opens the folder of `path`, to sync it. Done before a rename, so that the sync after it cannot fail for want of
/// a descriptor.
pub(crate) fn open_folder(storage: &dyn Storage, path: &Path) -> Result<Box<dyn Folder>> {
    let folder = folder_of(path);
    storage.open_folder(folder).map_err(|source| Error::io("open the folder", folder, source))
}

/// Syncs the folder of `path`: until then, a power cut can undo what was created, renamed or removed in it.
pub(crate) fn sync(folder: &dyn Folder, path: &Path) -> Result<()> {
    folder.sync().map_err(|source| Error::io("sync the folder", folder_of(path), source))
}

/// Opens the folder of `path` and syncs it.
pub(crate) fn sync_folder(storage: &dyn Storage, path: &Path) -> Result<()> {
    sync(&*open_folder(storage, path)?, path)
}

pub(crate) fn folder_of(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("/"))
}
