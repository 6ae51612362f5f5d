//! Quarantine: keeps the bytes of a torn tail, and damaged logs, under another name.
//!
//! - A torn tail is copied to `<path>.torn-<n>` before it is cut off. The 8 newest of these files are kept.
//! - A damaged log gets the second name `<path>.damaged-<n>` before a salvaged one is renamed over it. There are
//!   at most 8; none of them is ever removed.
//!
//! A copy that is there already is not made again: an open that fails after its quarantine can be repeated for
//! ever. The original stays in place until its copy or its second name is durable, so a crash at any point leaves
//! the bytes in at least one file. What counts as a torn tail or as damage is decided in `scan`. Implements steps
//! T4 to T8 and D2 to D3 of *Opening* of FORMAT.md.

use std::io::{self, ErrorKind};
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::file::LogFile;
use super::header::begins_as_log;
use crate::storage::names::{self, NEW, sibling};
use crate::storage::paths::{self, sync_folder};
use crate::storage::{self, Access, File, FileId, PathKind, RenameError, Storage, full_or_io};
use crate::{Error, Result};

/// How many torn tails, and how many damaged logs, are kept.
const KEPT_MAX: usize = 8;

/// Copies the torn tail of the log, from `offset` up to `until`, to the next free `<path>.torn-<n>`, and then cuts
/// the log at `offset`. Both are durable on return. Returns the path of the copy.
pub(crate) fn quarantine_torn_tail(
    storage: &dyn Storage,
    log: &LogFile,
    offset: u64,
    until: u64,
) -> Result<PathBuf> {
    // On a full disk, the copy may need the space of the zeros after the tail.
    log.file.set_len(until).map_err(log.io("cut off the preallocated space of"))?;
    let tail = Part { file: &*log.file, path: &log.path, range: offset..until };
    let torn = keep_torn_tail(storage, &tail)?;
    // Guards against a power cut that keeps the cut below, but loses the name of the copy.
    sync_folder(storage, &torn)?;
    log.file.set_len(offset).map_err(log.io("cut off the torn tail of"))?;
    // Guards against a power cut that keeps a frame written at `offset`, but brings back the tail's bytes after
    // it.
    log.file.sync_data().map_err(log.io("sync"))?;
    remove_oldest_torn_tails(storage, &log.path);
    Ok(torn)
}

fn keep_torn_tail(storage: &dyn Storage, tail: &Part<'_>) -> Result<PathBuf> {
    let numbers = torn_numbers(storage, tail.path);
    for number in &numbers {
        let kept = names::torn(tail.path, *number);
        if is_durable_copy_of(storage, &kept, tail)? {
            return Ok(kept);
        }
    }
    let mut number = numbers.last().map_or(1, |last| last.saturating_add(1));
    loop {
        let name = names::torn(tail.path, number);
        if paths::id_at(storage, &name)?.is_none() {
            tail.copy_to(storage, &name, "quarantine the torn tail in")?;
            return Ok(name);
        }
        // The folder could not be listed, or another process has just made this file.
        number = number.checked_add(1).ok_or_else(|| too_many(tail.path, "torn tails"))?;
    }
}

/// Removes all but the newest torn tails. What is not provably one of them stays, and so does a file that cannot
/// be removed: the next quarantine tries again.
fn remove_oldest_torn_tails(storage: &dyn Storage, path: &Path) {
    let numbers = torn_numbers(storage, path);
    let (oldest, _) = numbers.split_at(numbers.len().saturating_sub(KEPT_MAX));
    for number in oldest {
        let name = names::torn(path, *number);
        let Ok(file) = storage.open(&name, Access::Read) else { continue };
        // A torn tail is never the beginning of a log.
        if file.names().is_ok_and(|names| names == 1) && !begins_as_log(&*file) {
            let _ = storage.remove_file(&name, file.id());
        }
    }
}

/// The numbers of the torn tails that are kept, in ascending order. Empty if the folder cannot be listed.
fn torn_numbers(storage: &dyn Storage, path: &Path) -> Vec<u32> {
    let names = storage.names(paths::folder_of(path)).unwrap_or_default();
    let mut numbers: Vec<u32> = names.iter().filter_map(|name| names::torn_number(path, name)).collect();
    numbers.sort_unstable();
    numbers
}

/// Gives the damaged log `file`, which is at `path`, the second name `<path>.damaged-<n>`, durably, and returns
/// that name. `n` is the first free number, from 1 to 8. Where the file system has no hard links, the file is
/// copied to that name instead. If the file has such a name already, or there is such a copy, returns that.
///
/// # Errors
/// `Invalid` if all names are taken, `Replaced` if `path` means another file by now, `Full`, `Io`.
pub(crate) fn quarantine_damaged(storage: &dyn Storage, path: &Path, file: &dyn File) -> Result<PathBuf> {
    let whole = whole(path, file)?;
    let quarantined = match kept_before(storage, &whole)? {
        Some(name) => name,
        None => keep_damaged(storage, &whole)?,
    };
    // Guards against a power cut that keeps the caller's rename over `path`, but loses this name.
    sync_folder(storage, &quarantined)?;
    Ok(quarantined)
}

/// The name that an earlier call has given to the log, or to a copy of it. The name may not be durable.
fn kept_before(storage: &dyn Storage, log: &Part<'_>) -> Result<Option<PathBuf>> {
    for name in damaged_names(log.path) {
        let found = paths::id_at(storage, &name)?;
        if found == Some(log.file.id()) || found.is_some() && is_durable_copy_of(storage, &name, log)? {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

fn keep_damaged(storage: &dyn Storage, log: &Part<'_>) -> Result<PathBuf> {
    for name in damaged_names(log.path) {
        // What an interrupted copy has left is not proven to be one, and stays.
        let taken = [paths::id_at(storage, &name)?, paths::id_at(storage, &sibling(&name, NEW))?];
        if taken != [None, None] {
            continue;
        }
        match storage.link(log.path, &name) {
            Ok(()) if paths::id_at(storage, &name)? != Some(log.file.id()) => {
                return Err(Error::Replaced { path: log.path.to_path_buf() });
            }
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => continue,
            // Some file systems have no hard links, and none leads out of a mount.
            Err(_) => log.copy_whole_to(storage, &name)?,
        }
        return Ok(name);
    }
    Err(too_many_damaged(log.path))
}

/// Renames `file`, which is at `from`, to the first free `<path>.damaged-<n>`, and returns that name; `None` if
/// all are taken.
pub(crate) fn keep_as_damaged(
    storage: &dyn Storage,
    path: &Path,
    from: &Path,
    file: FileId,
) -> Result<Option<PathBuf>> {
    for name in damaged_names(path) {
        match storage.rename(from, file, &name, None) {
            Ok(()) => {
                sync_folder(storage, &name)?;
                return Ok(Some(name));
            }
            Err(RenameError::TargetTaken) => {}
            Err(RenameError::SourceMoved) => return Err(paths::moved(from)),
            Err(RenameError::Io(source)) => return Err(Error::io("rename", from, source)),
        }
    }
    Ok(None)
}

pub(crate) fn too_many_damaged(path: &Path) -> Error {
    too_many(path, "damaged logs")
}

/// The logs that are kept next to the one at `path`. A name that cannot be looked at is among them: this may be
/// the only notice that something is lost.
pub(crate) fn damaged_logs(storage: &dyn Storage, path: &Path) -> Vec<PathBuf> {
    damaged_names(path).filter(|name| !matches!(storage.id(name), Ok(None))).collect()
}

fn damaged_names(path: &Path) -> impl Iterator<Item = PathBuf> {
    (1..).take(KEPT_MAX).map(|number| names::damaged(path, number))
}

fn too_many(path: &Path, what: &str) -> Error {
    let name = path.display();
    Error::Invalid { what: format!("too many {what} are kept next to {name}; move them to another folder") }
}

/// Whether the file at `name` holds the same bytes. If it does, they are durable on return: the process that wrote
/// them may have been killed before its sync.
fn is_durable_copy_of(storage: &dyn Storage, name: &Path, part: &Part<'_>) -> Result<bool> {
    if paths::kind_at(storage, name)? != PathKind::File {
        return Ok(false);
    }
    // A symbolic link is no copy, and a file that cannot be read may not be one.
    let Ok(kept) = storage.open(name, Access::Read) else { return Ok(false) };
    if kept.len().ok() != Some(part.range.end - part.range.start) {
        return Ok(false);
    }
    // After a failed sync, another copy is made.
    Ok(matches!(part.is_copied_to(&*kept)?, Ok(true)) && kept.sync_data().is_ok())
}

/// All of the log `file`, which is at `path`.
fn whole<'a>(path: &'a Path, file: &'a dyn File) -> Result<Part<'a>> {
    let len = file.len().map_err(|source| Error::io("look at", path, source))?;
    Ok(Part { file, path, range: 0..len })
}

/// A part of a file.
struct Part<'a> {
    file: &'a dyn File,
    path: &'a Path,
    range: Range<u64>,
}

impl Part<'_> {
    /// Calls `each` with the bytes, a buffer at a time, and where they are in the part.
    fn read(&self, mut each: impl FnMut(&[u8], u64) -> Result<()>) -> Result<()> {
        let Range { start, end } = self.range;
        let mut buf = vec![0; COPY_LEN];
        let mut at = start;
        while at < end {
            let len = usize::try_from(end - at).map_or(COPY_LEN, |left| left.min(COPY_LEN));
            storage::read_exact_at(self.file, &mut buf[..len], at)
                .map_err(|source| Error::io("read", self.path, source))?;
            each(&buf[..len], at - start)?;
            at += len as u64;
        }
        Ok(())
    }

    /// Whether the bytes of the part are in `copy`. The inner error is that of reading the copy.
    fn is_copied_to(&self, copy: &dyn File) -> Result<io::Result<bool>> {
        let mut copied = vec![0; COPY_LEN];
        let mut is_equal = Ok(true);
        self.read(|bytes, at| {
            if matches!(is_equal, Ok(true)) {
                let copied = &mut copied[..bytes.len()];
                is_equal = storage::read_exact_at(copy, copied, at).map(|()| copied == bytes);
            }
            Ok(())
        })?;
        Ok(is_equal)
    }

    /// Copies the part to a new file at `to`, syncs its contents, and reads them back from the disk: the caller
    /// removes the original. The name is not durable yet. After an error, the new file is removed.
    fn copy_to(&self, storage: &dyn Storage, to: &Path, operation: &'static str) -> Result<FileId> {
        let write_error = full_or_io(operation, to);
        let file = storage.open(to, Access::CreateNew).map_err(storage::create_error(operation, to))?;
        let id = file.id();
        // Root may open the store of a user, who must be able to read this file later, and to remove it. If the
        // owner cannot be set, the copy is as good without.
        let _ = self.file.attributes().and_then(|attributes| file.set_attributes(&attributes.owner_alone()));
        let copied = self
            .read(|bytes, at| storage::write_all_at(&*file, bytes, at).map_err(&write_error))
            // Guards against a power cut after the caller has removed the original.
            .and_then(|()| file.sync_data().map_err(&write_error))
            .and_then(|()| self.check_copy(&*file, to, operation));
        copied.map(|()| id).inspect_err(|_| {
            // If this fails too, the file remains as after a crash.
            let _ = storage.remove_file(to, id);
        })
    }

    /// Fails if the copy, read from the disk, does not have the bytes of the part.
    fn check_copy(&self, copy: &dyn File, to: &Path, operation: &'static str) -> Result<()> {
        storage::drop_cache_if_allowed(copy, 0..self.range.end - self.range.start, to)?;
        match self.is_copied_to(copy)? {
            Ok(true) => Ok(()),
            Ok(false) => Err(storage::not_as_written(operation, to)),
            Err(source) => Err(Error::io("read", to, source)),
        }
    }

    /// Copies the part to `to`. Until the copy is complete, it is at `<to>.new`, so that a crash does not leave an
    /// incomplete file under a final name.
    fn copy_whole_to(&self, storage: &dyn Storage, to: &Path) -> Result<()> {
        let temporary = sibling(to, NEW);
        let operation = "quarantine the damaged log in";
        let id = self.copy_to(storage, &temporary, operation)?;
        let error = match storage.rename(&temporary, id, to, None) {
            Ok(()) => return Ok(()),
            Err(RenameError::Io(source)) => full_or_io(operation, to)(source),
            Err(RenameError::SourceMoved) => return Err(paths::moved(&temporary)),
            Err(RenameError::TargetTaken) => paths::moved(to),
        };
        let _ = storage.remove_file(&temporary, id);
        Err(error)
    }
}

const COPY_LEN: usize = 64 << 10;
