//! One generation's log file.

pub(crate) mod builder;
pub(crate) mod frame_builder;
pub(crate) mod group_commit;
pub(crate) mod nonces;
pub(crate) mod quarantine;
pub(crate) mod recovery;
pub(crate) mod scan;
pub(crate) mod writer;
