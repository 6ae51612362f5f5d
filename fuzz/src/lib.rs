//! The fuzz targets, one module each, and their shared code. `fuzz_targets/` only passes on the engine's bytes.
//!
//! The simulated disk, the workload with its oracle, and the reader that was written from FORMAT.md are those of
//! `tests/`, so that fuzzing and tests check the same properties.

#![allow(clippy::unwrap_used, reason = "a target reports a failure by panicking")]
#![allow(clippy::cast_possible_truncation, reason = "the files are small")]

#[path = "../../tests/sim/mod.rs"]
mod sim;

#[path = "../../tests/format/agree.rs"]
mod agree;
#[path = "../../tests/format/memory.rs"]
#[allow(dead_code, reason = "the vectors need more of it")]
mod memory;
#[path = "../../tests/format/page_reader.rs"]
#[allow(dead_code, reason = "the vectors need more of it")]
mod page_reader;
#[path = "../../tests/format/page_writer.rs"]
mod page_writer;

#[path = "../../tests/import_bolt/writer.rs"]
mod bolt_writer;

mod base;
mod checks;

pub mod bolt;
pub mod crash;
pub mod frame;
pub mod index;
pub mod model;
pub mod open_bytes;
pub mod open_mutated;
