//! Maps a caller's path to the log, and the log to the names next to it: `.lock`, `.new`, `.torn`, `.damaged-<n>`.
//!
//! Looks at paths and syncs folders. Never reads or writes a log.

use std::io;
use std::path::{Path, PathBuf};

use super::{Access, File, PathKind, Storage};
use crate::{Error, Result};

/// The path of the log that a caller's path means: `.db` is added if it has no extension, and links are followed.
pub(crate) fn resolve(storage: &dyn Storage, path: &Path) -> Result<PathBuf> {
    if path.as_os_str().is_empty() {
        return Err(Error::Invalid { what: "the path of the store is empty".to_owned() });
    }
    let mut path = path.to_path_buf();
    if path.file_name().is_none() || path.as_os_str().as_encoded_bytes().ends_with(b"/") {
        return Err(Error::Invalid { what: format!("the path {} names no file", path.display()) });
    }
    if path.extension().is_none() {
        // A path that names a folder or a device is a mistake: do not create a store with a similar name.
        match kind_at(storage, &path)? {
            PathKind::Missing | PathKind::File => {}
            kind => return Err(not_a_file(path, kind)),
        }
        path.set_extension("db");
    }
    storage.resolve(&path).map_err(|source| Error::io("find", &path, source))
}

/// Whether there is a file at the path. Fails with [`Error::NotAStore`] if there is anything else.
pub(crate) fn is_file(storage: &dyn Storage, path: &Path) -> Result<bool> {
    match kind_at(storage, path)? {
        PathKind::Missing => Ok(false),
        PathKind::File => Ok(true),
        kind => Err(not_a_file(path.to_path_buf(), kind)),
    }
}

fn not_a_file(path: PathBuf, kind: PathKind) -> Error {
    let what = if kind == PathKind::Folder { "a folder" } else { "a FIFO, a socket or a device" };
    Error::NotAStore { path, what }
}

/// What is at the path.
pub(crate) fn kind_at(storage: &dyn Storage, path: &Path) -> Result<PathKind> {
    storage.kind(path).map_err(|source| Error::io("look at", path, source))
}

/// The path with `suffix` appended to its file name.
pub(crate) fn sibling(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Opens an existing file to read.
pub(crate) fn open_file(storage: &dyn Storage, path: &Path) -> Result<Box<dyn File>> {
    if !is_file(storage, path)? {
        return Err(Error::NotFound { path: path.to_path_buf() });
    }
    storage.open(path, Access::Read).map_err(|source| Error::io("open", path, source))
}

/// The resolved path `to` for a copy of the log `of`. Fails if something is there.
///
/// This is only to fail before the work is done: a target that appears meanwhile is refused when the copy is
/// renamed.
pub(crate) fn free_target(storage: &dyn Storage, of: &Path, to: &Path) -> Result<PathBuf> {
    let target = storage.resolve(to).map_err(|source| Error::io("find", to, source))?;
    if target == sibling(of, ".new") {
        let name = target.display();
        return Err(Error::Invalid { what: format!("the next open would remove {name}; choose another name") });
    }
    match kind_at(storage, &target)? {
        PathKind::Missing => Ok(target),
        _ => Err(exists(&target)),
    }
}

/// The error for a target that is in the way.
pub(crate) fn exists(target: &Path) -> Error {
    Error::Invalid { what: format!("{} already exists; it was not changed", target.display()) }
}

/// Removes `<path>.new`, which a crash can leave: it never got the log's name, so it holds no acknowledged record
/// that the log does not have. The caller holds the lock.
pub(crate) fn remove_leftovers(storage: &dyn Storage, path: &Path) -> Result<()> {
    let new = sibling(path, ".new");
    match storage.remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::io("remove the left-over", &new, error))
        }
        _ => Ok(()),
    }
}

/// Syncs the folder of `path`: until then, a power cut can undo what was created, renamed or removed in it.
pub(crate) fn sync_folder(storage: &dyn Storage, path: &Path) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    storage.sync_dir(folder).map_err(|source| Error::io("sync the folder", folder, source))
}
