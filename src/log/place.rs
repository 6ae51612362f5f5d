//! Maps a caller's path to the log that it means.
//!
//! Every call that takes the path of a store, or of a new copy of one, maps it here. So a copy can be opened by
//! the same words that made it. Reads only the first bytes of a file. Implements *Names* in *Writing* of
//! FORMAT.md.

use std::path::{Path, PathBuf};

use super::header::begins_as_log;
use crate::storage::names::{NAME_LEN_MAX, OwnName, PATH_LEN_MAX, SUFFIX_LEN_MAX, log_name, own_name};
use crate::storage::paths::{self, kind_at, not_a_file};
use crate::storage::{Access, PathKind, Storage};
use crate::{Error, Result};

/// What a caller's path is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A store, to open.
    Store,
    /// A store, to read without the lock. It may be a quarantined one.
    Reading,
    /// A new store, to create as a copy.
    Copy,
}

/// The path of the log that a caller's path means: `.db` is added if it has no extension, and links are followed.
///
/// # Errors
/// - `Invalid`: the path names no file; it is the name of a file that belongs to another store; it is too long for
///   the files next to the log; or the path without `.db` is a store, and the one with `.db` is not there.
/// - `NotFound`: the path without `.db` is another file, and the one with `.db`, which is to be read, is not
///   there.
/// - `NotAStore`: a path without an extension names a folder or a device.
/// - `Io`.
pub(crate) fn resolve(storage: &dyn Storage, path: &Path, purpose: Purpose) -> Result<PathBuf> {
    let invalid = |what| Err(Error::Invalid { what });
    if path.as_os_str().is_empty() {
        return invalid("the path of the store is empty".to_owned());
    }
    if path.file_name().is_none() || path.as_os_str().as_encoded_bytes().ends_with(b"/") {
        return invalid(format!("the path {} names no file", path.display()));
    }
    if purpose == Purpose::Copy && path.as_os_str() == "-" {
        return invalid("a store cannot be written to stdout; name a file".to_owned());
    }
    let mut with_extension = path.to_path_buf();
    if path.extension().is_none() {
        // A path that names a folder or a device is a mistake: do not create a store with a similar name.
        let kind = kind_at(storage, path)?;
        with_extension.set_extension("db");
        match kind {
            PathKind::Missing => {}
            PathKind::File if kind_at(storage, &with_extension)? == PathKind::Missing => {
                if is_store(storage, path) {
                    let (name, meant) = (path.display(), with_extension.display());
                    return invalid(format!(
                        "{name} is a store, but the path means {meant}, which does not exist; \
                         rename {name} to {meant}"
                    ));
                }
                if purpose == Purpose::Reading {
                    return Err(not_found(storage, path, &with_extension));
                }
            }
            PathKind::File => {}
            kind => return Err(not_a_file(path.to_path_buf(), kind)),
        }
    }
    refuse_own_name(&with_extension, purpose)?;
    let log = storage.resolve(&with_extension).map_err(|source| Error::io("find", &with_extension, source))?;
    refuse_own_name(&log, purpose)?;
    let name_len = log.file_name().map_or(0, |name| name.as_encoded_bytes().len());
    if purpose != Purpose::Reading && name_len + SUFFIX_LEN_MAX > NAME_LEN_MAX {
        return invalid(format!(
            "the name of {} is too long: at most {} bytes, to leave space for the names of the files next to it",
            log.display(),
            NAME_LEN_MAX - SUFFIX_LEN_MAX
        ));
    }
    if purpose != Purpose::Reading && log.as_os_str().len() + SUFFIX_LEN_MAX > PATH_LEN_MAX {
        let max = PATH_LEN_MAX - SUFFIX_LEN_MAX;
        return invalid(format!("the path {} is too long: at most {max} bytes", log.display()));
    }
    Ok(log)
}

/// The error where there is no log at `log`, which the caller's path `given` means. If there is a file at `given`
/// itself, it names both, so that the caller sees which one was looked at.
pub(crate) fn not_found(storage: &dyn Storage, given: &Path, log: &Path) -> Error {
    let is_file = || kind_at(storage, given).is_ok_and(|kind| kind == PathKind::File);
    let given = (given.extension().is_none() && is_file()).then(|| given.to_path_buf());
    Error::NotFound { what: "store", path: log.to_path_buf(), given }
}

/// Fails if the name is one of those that belong to another store. A quarantined file may be read.
fn refuse_own_name(path: &Path, purpose: Purpose) -> Result<()> {
    match own_name(path) {
        None => Ok(()),
        Some(OwnName::Quarantined) if purpose == Purpose::Reading => Ok(()),
        Some(_) => Err(reserved(path)),
    }
}

/// The error for a path that belongs to a store.
pub(crate) fn reserved(path: &Path) -> Error {
    let name = path.display();
    Error::Invalid { what: format!("{name} is a name that a store keeps for its own files; choose another one") }
}

/// Whether the file at the path begins as a log does. If it cannot be opened, it is taken for none.
fn is_store(storage: &dyn Storage, path: &Path) -> bool {
    let file = storage.resolve(path).and_then(|path| storage.open(&path, Access::Read));
    file.is_ok_and(|file| begins_as_log(&*file))
}

/// Whether a caller's path means the log at `log`, by any of its names, or one of the files next to it. Of a file
/// that a caller reads or writes for another purpose, this must not be so. If `log` is quarantined, it also asks
/// this about the log that it comes from.
pub(crate) fn belongs_to(storage: &dyn Storage, path: &Path, log: &Path) -> bool {
    let Ok(path) = storage.resolve(path) else { return false };
    let (Some(name), Some(of_log)) = (path.file_name(), log_name(log)) else { return false };
    let rest = name.as_encoded_bytes().strip_prefix(of_log);
    let is_own = rest.is_some_and(|rest| rest.is_empty() || own_name(&path).is_some());
    let id_of = |path| paths::id_at(storage, path).ok().flatten();
    path.parent() == log.parent() && is_own || id_of(log).is_some_and(|id| id_of(&path) == Some(id))
}

/// The path of the log that `to` means, for a copy that will be written there. Fails if something is there.
///
/// This is only to fail before the work is done: a target that appears meanwhile is refused when the copy is
/// renamed.
pub(crate) fn free_target(storage: &dyn Storage, to: &Path) -> Result<PathBuf> {
    let target = resolve(storage, to, Purpose::Copy)?;
    match paths::id_at(storage, &target)? {
        None => Ok(target),
        Some(_) => Err(exists(&target)),
    }
}

/// The error for a target that is in the way.
pub(crate) fn exists(target: &Path) -> Error {
    Error::Invalid { what: format!("{} already exists; it was not changed", target.display()) }
}
