//! The two locks that make a handle the only writer of a log, and which file they are on.
//!
//! The lock on the lock file comes first, then the one on the log itself. After each, the path must still mean the
//! locked file: else it is opened anew, until the time is up. So two handles never write one log, whatever happens
//! to its names. Implements the locks of *Writing* in FORMAT.md.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use crate::log::header::refuse_foreign;
use crate::storage::lock::{LockFile, Wait, is_locked_now};
use crate::storage::{Access, File, Storage, paths};
use crate::{Error, Result};

/// Takes the lock on the lock file of the log at `path`.
///
/// # Errors
/// `NotAStore`, also where another program has the file locked; `Locked`, `Io`.
pub(super) fn lock_file(storage: &dyn Storage, path: &Path, wait: &mut Wait<'_>) -> Result<LockFile> {
    match paths::open_file(storage, path) {
        Err(Error::NotFound { .. }) => {}
        file => refuse_foreign(&*file?, path)?,
    }
    LockFile::acquire(storage, path, wait)
}

/// Opens and locks the log at `path`. `None` if there is no file. The caller has the lock on the lock file.
///
/// The returned handle has the lock: a second one of the same file would be shut out, so it is handed on.
///
/// # Errors
/// `NotAStore`, `Locked`, `Io`.
pub(super) fn log(storage: &dyn Storage, path: &Path, wait: &mut Wait<'_>) -> Result<Option<Arc<dyn File>>> {
    loop {
        if !paths::is_file(storage, path)? {
            return Ok(None);
        }
        let file = match storage.open(path, Access::Write) {
            // It has been moved or removed since.
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(|source| Error::io("open", path, source))?,
        };
        refuse_foreign(&*file, path)?;
        if is_locked_now(storage, path, &*file)? {
            return Ok(Some(file.into()));
        }
        if !wait.pause() {
            let hint = "another process writes to it, by another name or with another lock file";
            return Err(Error::Locked { path: path.to_path_buf(), holder: None, waited: wait.waited(), hint });
        }
    }
}
