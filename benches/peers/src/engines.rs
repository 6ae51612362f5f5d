//! The store and its peers, by name.

use std::path::Path;

use crate::engine::{Engine, Mode, Sealed};

mod fjall;
mod lmdb;
mod raft_engine;
mod redb;
mod sqlite;
mod store;

pub(crate) use store::{open as open_store, open_snapshot};

/// Opens an engine in a folder and creates it if it is missing.
pub(crate) fn open(name: &str, folder: &Path, mode: Mode) -> Box<dyn Engine> {
    match name {
        STORE | RING => Box::new(store::open(folder, mode)),
        "redb" => Box::new(Sealed::new(redb::Redb::open(folder, mode))),
        "fjall" => Box::new(Sealed::new(fjall::Fjall::open(folder, mode))),
        "SQLite" => Box::new(Sealed::new(sqlite::Sqlite::open(folder, mode))),
        "LMDB" => Box::new(Sealed::new(lmdb::Lmdb::open(folder, mode))),
        "raft-engine" => Box::new(Sealed::new(raft_engine::RaftEngine::open(folder, mode))),
        _ => panic!("unknown engine: {name}"),
    }
}

pub(crate) const STORE: &str = "store";
/// The store, measured by the binary that was built with feature `ring`.
pub(crate) const RING: &str = "store, ring";
pub(crate) const BASELINE: &str = "baseline";
/// Measured by the Go program in `bbolt/`.
pub(crate) const BBOLT: &str = "bbolt";
/// bbolt with `DB.Batch`, which waits for concurrent calls and lets them share a transaction.
pub(crate) const BBOLT_BATCH: &str = "bbolt Batch";

/// Whether the layout on the disk depends on how the data was split into calls.
pub(crate) fn is_log(name: &str) -> bool {
    matches!(name, STORE | RING | "fjall" | "raft-engine")
}
