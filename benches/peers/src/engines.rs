//! The store and its peers, by name.

use std::path::Path;

use crate::engine::{Engine, Mode, Sealed};

mod fjall;
mod lmdb;
mod raft_engine;
mod redb;
mod sqlite;
mod store;

pub(crate) use store::open as open_store;

/// Opens an engine in a folder, and creates what is missing.
pub(crate) fn open(name: &str, folder: &Path, mode: Mode) -> Box<dyn Engine> {
    match name {
        STORE | RING => Box::new(store::open(folder, mode)),
        "redb" => Box::new(Sealed::new(redb::Redb::open(folder, mode))),
        "fjall" => Box::new(Sealed::new(fjall::Fjall::open(folder, mode))),
        "SQLite" => Box::new(Sealed::new(sqlite::Sqlite::open(folder, mode))),
        "LMDB" => Box::new(Sealed::new(lmdb::Lmdb::open(folder, mode))),
        "raft-engine" => Box::new(Sealed::new(raft_engine::RaftEngine::open(folder, mode))),
        _ => panic!("there is no engine {name}"),
    }
}

pub(crate) const STORE: &str = "store";
/// The store by the binary that was built with feature `ring`.
pub(crate) const RING: &str = "store, ring";
pub(crate) const FLOOR: &str = "floor";
/// Measured by the Go program in `bbolt/`.
pub(crate) const BBOLT: &str = "bbolt";
/// bbolt by `DB.Batch`, which lets concurrent calls share a transaction, and waits for them.
pub(crate) const BBOLT_BATCH: &str = "bbolt Batch";

/// Whether what is on the disk depends on how it was written, call by call.
pub(crate) fn is_log(name: &str) -> bool {
    matches!(name, STORE | RING | "fjall" | "raft-engine")
}
