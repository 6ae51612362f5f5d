//! What needs real processes, threads, system calls or file systems.

#![allow(clippy::unwrap_used, reason = "a test panics where something is wrong")]
#![allow(clippy::cast_possible_truncation, reason = "the numbers of tests are small")]

#[path = "../common/mod.rs"]
mod common;

mod attributes;
mod compaction_threads;
mod forks;
mod full_disk;
mod full_queue;
mod identity;
mod kills;
mod locking;
mod names;
mod paths;
mod refusals;
mod snapshot_backups;
mod snapshots;
mod soak;
mod system_calls;
mod threads;
