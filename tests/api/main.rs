//! What each call does, on a real disk, in one process.

#![allow(clippy::unwrap_used, reason = "a test panics where something is wrong")]
#![allow(clippy::cast_possible_truncation, reason = "the numbers of tests are small")]

#[path = "../common/mod.rs"]
mod common;

mod acks;
mod anchors;
mod batch;
mod closing;
mod compaction;
mod compaction_ends;
mod data;
mod go_package;
mod interface;
mod iterators;
mod keys;
mod limits;
mod log_limits;
mod opening;
mod map;
mod operations;
mod queue;
mod queue_limits;
mod secrets;
#[cfg(feature = "serde")]
mod serialized;
mod stats;
