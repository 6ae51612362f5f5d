//! The store: the handle of the one process that writes a log, and all of its calls.
//!
//! `shared` holds the state that threads share, and its locks. `handle` has the typed calls, `data` those of the
//! agent's own data, `log_events` those of the log buffer and batches, `maintenance` the calls that look after the
//! file. `open` opens a store; `lock` makes it the only writer, and `on_damage` says what to do about a damaged
//! log. `compaction` copies live records into a new log, and `indexer` keeps the index file up to date. No file
//! here reads or writes bytes of the format itself: that is done in `log/`.

mod background;
mod batch;
mod closing;
mod compaction;
mod data;
mod handle;
mod indexer;
mod lock;
mod log_events;
mod log_quota;
mod maintenance;
mod on_damage;
mod open;
mod page_ends;
mod queue_quota;
mod shared;

pub use batch::Batch;
pub use handle::{Enqueued, Store};
pub use log_events::LogAdmission;
