//! The store.

mod batch;
mod compaction;
mod handle;
mod log_events;
mod log_quota;
mod maintenance;
mod on_damage;
mod open;
mod shared;

pub use batch::Batch;
pub use handle::{Enqueued, Store};
pub use log_events::LogAdmission;
