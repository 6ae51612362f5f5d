//! Creates an empty log: the header page of a new generation, with a new random salt.
//!
//! The file gets a temporary name here, and is durable under it. The caller renames it: [`recovery`](super::recovery)
//! for a new store, [`builder`](super::builder) for everything else. Implements C2 and C3 of *Creation* in *Writing*
//! of FORMAT.md.

use std::io;
use std::path::Path;

use super::file::LogFile;
use super::header::open_log;
use crate::crypto::seal::{GenerationId, Prk};
use crate::format::header::{self, Header};
use crate::storage::{self, Access, Storage};
use crate::{AgentKey, Error, Result};

/// Creates an empty log at `temporary`, which the caller will rename to `path`. On return its contents are durable,
/// its name is not. On an error the file is removed again.
pub(crate) fn create_log(
    storage: &dyn Storage,
    temporary: &Path,
    path: &Path,
    generation: u64,
    store_id: [u8; 16],
    key: &AgentKey,
) -> Result<(LogFile, Header)> {
    let mut salt = [0; 32];
    fill_random(storage, path, &mut salt)?;
    let authenticated = header::encode_authenticated(&GenerationId { generation, store_id, salt });
    let authenticator = Prk::extract(&salt, key).authenticator(&authenticated);
    let file = storage.open(temporary, Access::CreateNew).map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => in_the_way(temporary),
        _ => storage::full_or_io("create", temporary)(source),
    })?;
    let written = storage::write_all_at(&*file, &header::encode_page(&authenticated, &authenticator), 0)
        // Guards against a power cut after the rename that keeps the new name but loses the header.
        .and_then(|()| file.sync_data());
    let opened = written.map_err(storage::full_or_io("create", path)).and_then(|()| open_log(file, path, key));
    opened.inspect_err(|_| {
        // If this fails too, the next open removes the file.
        let _ = storage.remove_file(temporary);
    })
}

fn in_the_way(temporary: &Path) -> Error {
    let name = temporary.display();
    Error::Invalid {
        what: format!("{name} is in the way: a copy was cut short there, or is being made; remove it if none is"),
    }
}

pub(super) fn fill_random(storage: &dyn Storage, path: &Path, bytes: &mut [u8]) -> Result<()> {
    storage.fill_random(bytes).map_err(|source| Error::io("get random bytes from the system for", path, source))
}
