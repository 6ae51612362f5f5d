//! The persistent state of a backup agent: an embedded, encrypted, crash-safe store in one append-only log file.
//!
//! [`Store`] is the agent's exclusive handle, [`Snapshot`] what any other process sees meanwhile, [`verify`] a check of
//! the file, and [`salvage`] brings over what is left of a damaged one. One store holds four buckets:
//!
//! | bucket | holds | calls |
//! |---|---|---|
//! | config | the last configuration and its version | [`save_config`](Store::save_config), [`load_config`](Store::load_config) |
//! | queue | pending jobs by run id, delivered at least once | [`enqueue_job`](Store::enqueue_job), [`dequeue_jobs`](Store::dequeue_jobs), [`ack_job`](Store::ack_job) |
//! | registry | the session and the heartbeat | [`save_session`](Store::save_session), [`record_heartbeat`](Store::record_heartbeat) |
//! | logs | log events in time order | [`buffer_log`](Store::buffer_log), [`drain_logs`](Store::drain_logs) |
//!
//! ```
//! use backupy_state::{AgentKey, Store};
//!
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("state.db");
//! let key = AgentKey::new("bkpy_0123456789abcdef0123456789abcdef")?;
//! let store = Store::open(&path, &key)?;
//! store.enqueue_job("run-1", b"dump of orders")?;
//! drop(store);
//!
//! let store = Store::open(&path, &key)?;
//! assert_eq!(store.dequeue_jobs(10)?[0].payload, b"dump of orders");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Promises
//! 1. **Durable.** When a [`Durability::Sync`] call returns `Ok`, its effect survives a power cut.
//!    [`Buffered`](Durability::Buffered) survives a killed process, and becomes durable with the next sync.
//! 2. **Atomic.** One call, or one [`Batch`], is there whole after a crash or not at all.
//! 3. **Never silently absent.** Damaged, foreign, tampered-with or wrongly keyed data is a typed [`Error`]. A missing
//!    file is the only empty store.
//! 4. **Never destroyed.** No failed call changes a byte that it cannot prove to be an unfinished write, and those
//!    are set aside in `state.db.torn` before they are cut off.
//! 5. **No panic, no unbounded memory** on any file: opening one takes at most twice its length, 300 bytes for each key, as many
//!    as were ever live at once, and 1 MiB.
//! 6. **Confidential and authentic.** Everything but sizes, counts and sequence numbers is encrypted; any change in the
//!    middle is noticed. Putting back an older file as a whole, or cutting off its end, is not.
//! 7. **Readable beside the writer**, without the lock.
//!
//! The file format is described in FORMAT.md, well enough to write a reader from it.
//!
//! # Features
//! - `tracing`: events for open, recovery and failure. They hold paths and counts, never payloads or keys.
//! - `ring`: seals and opens with ring's AES-256-GCM instead of aes-gcm's: the same bytes in less time. It compiles C and
//!   assembly, and ring does not wipe the keys that it holds.
//! - `import-bolt`: `import_bolt`, for the state file of the agent that kept it in bbolt.
//! - `cli`: the command line `backupy-state`.

// In reading order: a file uses only what stands below it.
#[cfg(feature = "import-bolt")]
#[warn(clippy::indexing_slicing)]
mod import_bolt;
#[doc(hidden)]
pub mod testing;
mod store;
mod batch;
mod snapshot;
mod verify;
mod on_damage;
mod salvage;
mod anchor;
mod log_limits;
mod reader;
mod options;
mod error;
mod events;
mod key;
mod compaction;
mod live;
mod new_log;
mod pack;
mod recovery;
mod aside;
mod losses;
mod walk;
mod index;
mod log;
mod commit;
mod nonces;
#[warn(clippy::indexing_slicing)]
mod format;
mod seal;
mod wiped;
mod path;
mod storage;
mod lock;
// What commit.rs waits with, by this name because tests/concurrency.rs puts other mutexes in its place.
use std::sync;

pub use anchor::Anchor;
pub use batch::Batch;
pub use compaction::CompactionReport;
pub use error::{Error, Result};
#[cfg(feature = "import-bolt")]
pub use import_bolt::{ImportReport, LeftOut, check_bolt, import_bolt};
pub use key::AgentKey;
pub use log_limits::{LogLimits, LogRate, WhenFull};
pub use losses::{Lost, LostKey, SalvageReport};
pub use options::{CompactionPolicy, Durability, OnDamage, OpenOptions, QueueOrder};
pub use reader::{CompactionStats, Config, LogBatch, LogEvent, QueuedJob, Session, Stats};
pub use recovery::RecoveryReport;
pub use salvage::salvage;
pub use snapshot::Snapshot;
pub use store::{Enqueued, LogAdmission, Store};
pub use verify::{Fault, FaultKind, FrameInfo, OperationInfo, VerifyReport, verify, verify_each};

/// The examples of the README and of docs/ compile and run.
#[cfg(doctest)]
mod pages {
    #[doc = include_str!("../README.md")]
    struct Readme;
    #[doc = include_str!("../docs/agent.md")]
    struct Agent;
    #[doc = include_str!("../docs/backup.md")]
    struct Backup;
    #[doc = include_str!("../docs/damage.md")]
    struct Damage;
    #[doc = include_str!("../docs/durability.md")]
    struct Durability;
    #[doc = include_str!("../docs/keys.md")]
    struct Keys;
    #[doc = include_str!("../docs/log-events.md")]
    struct LogEvents;
}
