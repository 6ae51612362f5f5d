//! What opening, verifying and salvaging a damaged or torn log does.

#![allow(clippy::duplicate_mod, reason = "the simulator includes the model itself, for fuzz/")]
#![allow(clippy::unwrap_used, reason = "a test panics where something is wrong")]
#![allow(clippy::cast_possible_truncation, reason = "the numbers of tests are small")]

#[path = "../common/mod.rs"]
mod common;
#[path = "../sim/mod.rs"]
mod sim;

mod cases;
mod crafted;
mod cuts_and_flips;
mod damage;
mod index_file;
mod on_damage;
mod salvage;
mod short_logs;
mod tampering;
