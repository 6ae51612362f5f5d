//! Crashes and failing system calls at every operation, on the simulated disk.

#![allow(clippy::duplicate_mod, reason = "the simulator includes the model itself, for fuzz/")]
#![allow(clippy::unwrap_used, reason = "a test panics where something is wrong")]
#![allow(clippy::cast_possible_truncation, reason = "the numbers of tests are small")]

#[path = "../common/mod.rs"]
mod common;
#[path = "../sim/mod.rs"]
mod sim;

mod compaction_crash;
mod crash;
mod failed_copies;
mod failed_writes;
mod failing_calls;
mod full_disk;
mod lying_disks;
mod outsider;
mod put_in_place;
mod read_again;
mod shown;
mod survival;
mod told_lies;
