//! Keeping bytes that do not go on: a torn tail before it is cut off, and a damaged log before another takes its name.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::file::LogFile;
use crate::storage::paths::{sibling, sync_folder};
use crate::storage::{self, Access, File, PathKind, Storage, full_or_io};
use crate::{Error, Result};

/// Copies the torn tail beside the log, and only then cuts it off.
pub(crate) fn quarantine_torn_tail(
    storage: &dyn Storage,
    log: &LogFile,
    offset: u64,
    until: u64,
) -> Result<PathBuf> {
    let torn = sibling(&log.path, ".torn");
    // The zeros behind the tail are no bytes of anybody's; on a full disk the copy needs their room.
    log.file.set_len(until).map_err(log.io("cut the space ahead off"))?;
    remove_if_there(storage, &torn)?;
    copy(storage, &*log.file, &log.path, offset..until, &torn, "set the torn tail aside in")?;
    // Guards against a power cut that keeps the cut but loses the name of the copy.
    sync_folder(storage, &torn)?;
    log.file.set_len(offset).map_err(log.io("cut the torn tail off"))?;
    // Guards against a power cut that brings the tail back behind a frame that is written in its place.
    log.file.sync_data().map_err(log.io("sync"))?;
    Ok(torn)
}

/// Gives the file at `path` a second name, `.damaged-1` or the next that is free, durably. It keeps the first one. A crash
/// behind it leaves two names, and the next call gives a third.
pub(crate) fn quarantine_damaged(storage: &dyn Storage, path: &Path) -> Result<PathBuf> {
    let mut number = 1_u64;
    let kept = loop {
        let name = sibling(path, &format!(".damaged-{number}"));
        if kind(storage, &name)? == PathKind::Missing {
            match storage.link(path, &name) {
                Ok(()) => break name,
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                // Some file systems have no second names.
                Err(_) => {
                    copy_whole(storage, path, &name)?;
                    break name;
                }
            }
        }
        number += 1;
    };
    // Guards against a power cut that keeps the rename that follows but loses this name.
    sync_folder(storage, &kept)?;
    Ok(kept)
}

/// Under a name of its own until all of it is there.
fn copy_whole(storage: &dyn Storage, path: &Path, to: &Path) -> Result<()> {
    let temporary = sibling(path, ".damaged");
    remove_if_there(storage, &temporary)?;
    let file = storage.open(path, Access::Read).map_err(|source| Error::io("open", path, source))?;
    let len = file.len().map_err(|source| Error::io("look at", path, source))?;
    let copied = copy(storage, &*file, path, 0..len, &temporary, "set the damaged log aside in")
        .and_then(|()| storage.rename(&temporary, to).map_err(full_or_io("set the damaged log aside in", to)));
    copied.inspect_err(|_| {
        // If this fails too, the next time removes it.
        let _ = storage.remove_file(&temporary);
    })
}

fn remove_if_there(storage: &dyn Storage, path: &Path) -> Result<()> {
    if kind(storage, path)? != PathKind::Missing {
        storage.remove_file(path).map_err(|source| Error::io("replace", path, source))?;
    }
    Ok(())
}

fn kind(storage: &dyn Storage, path: &Path) -> Result<PathKind> {
    storage.kind(path).map_err(|source| Error::io("look at", path, source))
}

/// Copies a range of a file into a new one, durably.
fn copy(
    storage: &dyn Storage,
    from: &dyn File,
    from_path: &Path,
    range: std::ops::Range<u64>,
    to: &Path,
    operation: &'static str,
) -> Result<()> {
    let write_error = full_or_io(operation, to);
    let file = storage.open(to, Access::CreateNew).map_err(&write_error)?;
    let mut buf = vec![0; COPY_LEN];
    let mut at = range.start;
    while at < range.end {
        let len = usize::try_from(range.end - at).map_or(COPY_LEN, |left| left.min(COPY_LEN));
        storage::read_exact_at(from, &mut buf[..len], at)
            .map_err(|source| Error::io("read", from_path, source))?;
        storage::write_all_at(&*file, &buf[..len], at - range.start).map_err(&write_error)?;
        at += len as u64;
    }
    // Guards against a power cut after the original is gone.
    file.sync_data().map_err(&write_error)
}

const COPY_LEN: usize = 64 << 10;
