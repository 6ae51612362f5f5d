//! What can be learned from a damaged store, and what can be saved from it.

pub(crate) mod losses;
pub(crate) mod salvage;
pub(crate) mod verify;
pub(crate) mod verify_report;
