//! Checking a store, and salvaging a damaged one. Never changes the log that it reads.
//!
//! `verify.rs` finds the faults and `verify_report.rs` holds them; `salvage.rs` copies what is authentic and
//! `losses.rs` collects what is not. All read the log by `log/scan/resync.rs`, which continues after damage.

pub(crate) mod losses;
pub(crate) mod salvage;
pub(crate) mod verify;
pub(crate) mod verify_report;
