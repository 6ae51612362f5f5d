//! Which file a caller's path means, and the names beside it.

use std::io;
use std::path::{Path, PathBuf};

use super::{Access, File, PathKind, Storage};
use crate::{Error, Result};

/// The log file that a caller's path means.
pub(crate) fn resolve(storage: &dyn Storage, path: &Path) -> Result<PathBuf> {
    if path.as_os_str().is_empty() {
        return Err(Error::Invalid { what: "the path of the store is empty".to_owned() });
    }
    let mut path = path.to_path_buf();
    if path.file_name().is_none() || path.as_os_str().as_encoded_bytes().ends_with(b"/") {
        return Err(Error::Invalid { what: format!("the path {} names no file", path.display()) });
    }
    if path.extension().is_none() {
        // Naming a folder or a device is a mistake of the caller, not a reason to make a store beside it.
        match look_at(storage, &path)? {
            PathKind::Missing | PathKind::File => {}
            kind => return Err(not_a_file(path, kind)),
        }
        path.set_extension("db");
    }
    storage.resolve(&path).map_err(|source| Error::io("find", &path, source))
}

/// Whether there is a file at the path; anything else there is no store.
pub(crate) fn is_file(storage: &dyn Storage, path: &Path) -> Result<bool> {
    match look_at(storage, path)? {
        PathKind::Missing => Ok(false),
        PathKind::File => Ok(true),
        kind => Err(not_a_file(path.to_path_buf(), kind)),
    }
}

fn not_a_file(path: PathBuf, kind: PathKind) -> Error {
    let what = if kind == PathKind::Folder { "a folder" } else { "a FIFO, a socket or a device" };
    Error::NotAStore { path, what }
}

fn look_at(storage: &dyn Storage, path: &Path) -> Result<PathKind> {
    storage.kind(path).map_err(|source| Error::io("look at", path, source))
}

/// The path with something behind its file name.
pub(crate) fn sibling(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

pub(crate) fn open_file(storage: &dyn Storage, path: &Path) -> Result<Box<dyn File>> {
    if !is_file(storage, path)? {
        return Err(Error::NotFound { path: path.to_path_buf() });
    }
    storage.open(path, Access::Read).map_err(|source| Error::io("open", path, source))
}

/// Where a copy of the log `of` would go, which must be free. Looked at before the work, and again as the copy gets its name.
pub(crate) fn free_target(storage: &dyn Storage, of: &Path, to: &Path) -> Result<PathBuf> {
    let target = storage.resolve(to).map_err(|source| Error::io("find", to, source))?;
    if target == sibling(of, ".new") {
        let name = target.display();
        return Err(Error::Invalid {
            what: format!("{name} is what the next open would remove; choose another name"),
        });
    }
    match storage.kind(&target).map_err(|source| Error::io("look at", &target, source))? {
        PathKind::Missing => Ok(target),
        _ => Err(exists(&target)),
    }
}

pub(crate) fn exists(target: &Path) -> Error {
    Error::Invalid { what: format!("{} exists already; it was not changed", target.display()) }
}

/// Removes what a crash during creation left behind. The caller holds the lock.
pub(crate) fn remove_leftovers(storage: &dyn Storage, path: &Path) -> Result<()> {
    let new = sibling(path, ".new");
    match storage.remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::io("remove the left-over", &new, error))
        }
        _ => Ok(()),
    }
}

pub(crate) fn sync_folder(storage: &dyn Storage, path: &Path) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    storage.sync_dir(folder).map_err(|source| Error::io("sync the folder", folder, source))
}
