//! One generation's log file: opening, recovery, writing, reading values.

pub(crate) mod builder;
pub(crate) mod create;
pub(crate) mod file;
mod frame_builder;
mod group_commit;
pub(crate) mod header;
mod nonces;
pub(crate) mod quarantine;
pub(crate) mod recovery;
pub(crate) mod replay;
pub(crate) mod scan;
pub(crate) mod values;
pub(crate) mod writer;
