//! Quarantine: keeps the bytes of a torn tail, and damaged logs, under another name.
//!
//! - A torn tail is copied to `<path>.torn` before it is cut off. The next torn tail replaces this file.
//! - A damaged log gets the second name `<path>.damaged-<n>` before a salvaged one is renamed over it. n is the
//!   first free number.
//!
//! In both cases the original stays in place until its copy or its second name is durable, so a crash at any point
//! leaves the bytes in at least one file. What counts as a torn tail or as damage is decided in `scan`. Implements
//! steps T4 to T7, D2 and D3 of *Opening* of FORMAT.md.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::file::LogFile;
use crate::storage::paths::{kind_at, sibling, sync_folder};
use crate::storage::{self, Access, File, PathKind, Storage, full_or_io};
use crate::{Error, Result};

/// Copies the torn tail of the log, from `offset` up to `until`, to `<path>.torn`, and then cuts the log at
/// `offset`. Both are durable on return. Returns the path of the copy.
pub(crate) fn quarantine_torn_tail(
    storage: &dyn Storage,
    log: &LogFile,
    offset: u64,
    until: u64,
) -> Result<PathBuf> {
    let torn = sibling(&log.path, ".torn");
    // On a full disk, the copy may need the space of the zeros after the tail.
    log.file.set_len(until).map_err(log.io("cut off the preallocated space of"))?;
    remove_if_exists(storage, &torn)?;
    copy(storage, &*log.file, &log.path, offset..until, &torn, "quarantine the torn tail in")?;
    // Guards against a power cut that keeps the cut below, but loses the name of the copy.
    sync_folder(storage, &torn)?;
    log.file.set_len(offset).map_err(log.io("cut off the torn tail of"))?;
    // Guards against a power cut that keeps a frame written at `offset`, but brings back the tail's bytes after
    // it.
    log.file.sync_data().map_err(log.io("sync"))?;
    Ok(torn)
}

/// Gives the file at `path` the second name `<path>.damaged-<n>`, durably, and returns that name. `n` is the first
/// free number, from 1. Where the file system has no hard links, the file is copied to that name instead.
///
/// The file keeps its name `path`. If a crash follows before another file gets that name, the next call adds a
/// third name.
pub(crate) fn quarantine_damaged(storage: &dyn Storage, path: &Path) -> Result<PathBuf> {
    let mut number = 1_u64;
    let quarantined = loop {
        let name = sibling(path, &format!(".damaged-{number}"));
        if kind_at(storage, &name)? == PathKind::Missing {
            match storage.link(path, &name) {
                Ok(()) => break name,
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                // Some file systems have no hard links.
                Err(_) => {
                    copy_whole(storage, path, &name)?;
                    break name;
                }
            }
        }
        number += 1;
    };
    // Guards against a power cut that keeps the caller's rename over `path`, but loses this name.
    sync_folder(storage, &quarantined)?;
    Ok(quarantined)
}

/// Copies the file at `path` to `to`. The copy is at `<path>.damaged` until it is complete, so that a crash does
/// not leave an incomplete file under a final name.
fn copy_whole(storage: &dyn Storage, path: &Path, to: &Path) -> Result<()> {
    let temporary = sibling(path, ".damaged");
    remove_if_exists(storage, &temporary)?;
    let file = storage.open(path, Access::Read).map_err(|source| Error::io("open", path, source))?;
    let len = file.len().map_err(|source| Error::io("look at", path, source))?;
    let copied = copy(storage, &*file, path, 0..len, &temporary, "quarantine the damaged log in")
        .and_then(|()| storage.rename(&temporary, to).map_err(full_or_io("quarantine the damaged log in", to)));
    copied.inspect_err(|_| {
        // If this fails too, the next quarantine removes the file.
        let _ = storage.remove_file(&temporary);
    })
}

fn remove_if_exists(storage: &dyn Storage, path: &Path) -> Result<()> {
    if kind_at(storage, path)? != PathKind::Missing {
        storage.remove_file(path).map_err(|source| Error::io("replace", path, source))?;
    }
    Ok(())
}

/// Copies a range of the file `from` to a new file at `to`, and syncs its contents. The name is not durable yet.
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
    // Guards against a power cut after the caller has removed the original.
    file.sync_data().map_err(&write_error)
}

const COPY_LEN: usize = 64 << 10;
