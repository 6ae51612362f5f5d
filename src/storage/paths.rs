//! Which file a caller's path means, and the names beside it.

use std::path::{Path, PathBuf};

use crate::storage::{PathKind, Storage};
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
