//! The store: the handle of the one process that writes a log, and all of its calls.
//!
//! - `handle` is the store itself, with the calls on configuration, session and heartbeat. `queue`, `data` and
//!   `log_events` have those on the other buckets, `batch` collects several of them, and `maintenance` has the
//!   calls that look after the file.
//! - `shared` holds the state that threads share, and its locks.
//! - `open` opens a store: `lock` makes it the only writer, and `on_damage` says what to do about a damaged log.
//!   `closing` closes it, once.
//! - `log_quota` and `queue_quota` hold the limits of two buckets, and `page_ends` remembers where pages of the
//!   queue ended.
//! - `compaction` copies live records into a new log, `indexer` keeps the index file up to date, and `background`
//!   gives each of them a thread.
//!
//! No file here reads or writes bytes of the format itself: that is done in `log/`.

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
mod queue;
mod queue_quota;
mod shared;

pub use batch::Batch;
pub use handle::Store;
pub use log_events::LogAdmission;
pub use queue::Enqueued;
