//! Creates an empty log: the first two pages of a new generation, with a new random salt.
//!
//! The file has a temporary name, and is locked before it gets another one. Its caller renames it: `recovery` for
//! a new store, `builder` for a log that compaction, backup or salvage fills. Implements steps C2 and C3 of
//! *Creation* in *Writing* of FORMAT.md.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::file::LogFile;
use super::header::{parse_first_pages, read_first_pages, with_keys};
use crate::crypto::keys::{GenerationId, Prk};
use crate::format::header::{self, Header};
use crate::storage::{self, Access, File, Storage};
use crate::{AgentKey, Error, Result};

/// Creates an empty log at `temporary`, which the caller will rename to `path`. `flags` are those of its header.
/// On return its contents are durable, but its name is not. After an error the file is removed.
///
/// # Errors
/// `Locked` if there is a file at `temporary`, which is not changed: the caller has cleared it, so another process
/// has just made it. `Full`, `Io`.
pub(crate) fn create_log(
    storage: &dyn Storage,
    temporary: &Path,
    path: &Path,
    generation: u64,
    store_id: [u8; 16],
    flags: u32,
    key: &AgentKey,
) -> Result<(LogFile, Header)> {
    let mut salt = [0; 32];
    fill_random(storage, path, &mut salt)?;
    let id = GenerationId { generation, store_id, salt };
    let authenticated = header::encode_authenticated(&id, flags);
    let authenticator = Prk::extract(&salt, key).authenticator(&authenticated);
    let pages = header::encode_pages(&authenticated, &authenticator);
    let file = storage.open(temporary, Access::CreateNew).map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => in_use(temporary),
        _ => storage::create_error("create", temporary)(source),
    })?;
    let file: Arc<dyn File> = file.into();
    let create = || {
        if !file.try_lock().map_err(|source| Error::io("lock", temporary, source))? {
            // Another process has opened it since, to find out whether it is a left-over.
            return Err(in_use(temporary));
        }
        storage::write_all_at(&*file, &pages, 0)
            // Guards against a power cut after the rename that keeps the new name but loses the header.
            .and_then(|()| file.sync_data())
            .map_err(storage::full_or_io("create", path))?;
        if !begins_with(&*file, temporary, &pages)? {
            return Err(storage::not_as_written("create", temporary));
        }
        let header = parse_first_pages(&pages, path)?;
        // A log that is to have a base does not have one yet.
        let (log, _) = with_keys(Arc::clone(&file), path, key, &header, &pages)?;
        Ok((log, header))
    };
    create().inspect_err(|_| {
        // If this fails too, the file remains as after a crash.
        let _ = storage.remove_file(temporary, file.id());
    })
}

/// Whether a file begins, read back from the disk, with what was written to its first pages: without them, nothing
/// else in it could be read.
pub(super) fn begins_with(file: &dyn File, path: &Path, written: &[u8]) -> Result<bool> {
    storage::drop_cache_if_allowed(file, 0..written.len() as u64, path)?;
    Ok(read_first_pages(file, path)?.starts_with(written))
}

/// The error for a file that another process is writing.
pub(super) fn in_use(temporary: &Path) -> Error {
    let hint = "another process has just made it; try again when that is done";
    Error::Locked { path: temporary.to_path_buf(), holder: None, waited: Duration::ZERO, hint }
}

/// Fills `bytes` from the system's random generator. `path` is for the error message.
pub(super) fn fill_random(storage: &dyn Storage, path: &Path, bytes: &mut [u8]) -> Result<()> {
    storage.fill_random(bytes).map_err(|source| Error::io("get random bytes for", path, source))
}
