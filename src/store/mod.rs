//! The store.

pub(crate) mod batch;
pub(crate) mod compaction;
mod handle;
mod log_events;
pub(crate) mod log_quota;
mod maintenance;
pub(crate) mod on_damage;
pub(crate) mod shared;

pub use handle::{Enqueued, Store};
pub use log_events::LogAdmission;
