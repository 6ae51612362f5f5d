//! The persistent state of a backup agent, in one encrypted, crash-safe, append-only log file.
//!
//! ```
//! use backupy_state::{AgentKey, Store};
//!
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("state.db");
//! let key = AgentKey::new("bkpy_0123456789abcdef0123456789abcdef")?;
//! let store = Store::open(&path, &key)?;
//! store.enqueue_job("run-1", b"dump of orders")?; // durable when it returns
//! drop(store);
//!
//! let store = Store::open(&path, &key)?;
//! assert_eq!(store.dequeue_jobs(10)?[0].payload, b"dump of orders");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! - [`Store`] is the agent's exclusive handle.
//! - [`Snapshot`] lets any other process read the store and back it up while the agent runs.
//! - [`verify`] checks the file, and [`salvage`] copies what is still authentic of a damaged store into a new one.
//!
//! # Why this crate?
//!
//! It fits one job: the state of a small, long-running process that may be killed at any time. Use a general
//! database if you need queries, several writers, or more keys than fit in memory.
//!
//! - One append costs one `fdatasync`. Threads that write at the same time share one.
//! - Damage is an error that names the file and the offset. It never looks like an empty store.
//! - Everything but sizes, counts and sequence numbers is encrypted and authenticated.
//! - A reader needs no lock, so a health check works while the agent runs.
//!
//! # Buckets
//!
//! | bucket | holds | calls |
//! |---|---|---|
//! | config | the last configuration and its version | [`save_config`], [`load_config`] |
//! | queue | pending jobs by run id, delivered at least once | [`enqueue_job`], [`jobs`], [`ack_job`] |
//! | registry | the session and the heartbeat | [`save_session`], [`record_heartbeat`] |
//! | logs | log events in time order | [`buffer_log`], [`peek_logs`], [`ack_logs`] |
//! | data | small values of the agent's own, by key | [`put_data`], [`data`], [`delete_data`], [`data_keys`] |
//!
//! [`save_config`]: Store::save_config
//! [`load_config`]: Store::load_config
//! [`enqueue_job`]: Store::enqueue_job
//! [`jobs`]: Store::jobs
//! [`ack_job`]: Store::ack_job
//! [`save_session`]: Store::save_session
//! [`record_heartbeat`]: Store::record_heartbeat
//! [`buffer_log`]: Store::buffer_log
//! [`peek_logs`]: Store::peek_logs
//! [`ack_logs`]: Store::ack_logs
//! [`put_data`]: Store::put_data
//! [`data`]: Store::data
//! [`delete_data`]: Store::delete_data
//! [`data_keys`]: Store::data_keys
//!
//! # Promises and limits
//!
//! The README lists what the store promises, and what it does not. In short: when a call with
//! [`Durability::Sync`] returns `Ok`, its effect survives a power cut. A call or a [`Batch`] is there whole or not
//! at all. A store that is damaged, foreign, forged or under another key is an [`Error`], never an empty store.
//! An older copy of the whole file is detected only with an [`Anchor`] that the caller keeps elsewhere.
//!
//! [FORMAT.md](_format) describes every byte of the file, so that a reader can be written from it alone.
//!
//! # Features
//!
//! - `tracing`: events for open, recovery, compaction and failure, and for a key file that every user can read.
//!   They hold paths and counts, never payloads or keys. None is emitted while a lock is held, so a subscriber may
//!   call the store. One that buffers events in the store must leave out those whose target starts with
//!   `backupy_state`, or it calls itself without end on a full disk: see `examples/log_layer.rs`.
//! - `ring`: AES-256-GCM by ring instead of aes-gcm: the same bytes in less time. It compiles C and assembly, and
//!   ring does not wipe its keys from memory.
//! - `import-bolt`: `import_bolt`, which reads the bbolt file of the Go agent.
//! - `serde`: `Serialize` on the reports ([`RecoveryReport`], [`VerifyReport`], [`SalvageReport`],
//!   [`CompactionReport`], `ImportReport`, [`FrameInfo`]), on [`Stats`] and on what is in them; and on [`Anchor`],
//!   as its string, from which it can be deserialized. Each field has its name, except that a duration is a whole
//!   number of microseconds, under its name with `_us`. A path is a string, with U+FFFD for what is no UTF-8. An
//!   enum is its variant's name in snake case. Nothing that holds a payload, a configuration, a session id or a
//!   key is serialized.
//!
//!   ```
//!   # use backupy_state::{AgentKey, Anchor, Store};
//!   # let folder = tempfile::tempdir()?;
//!   # let store = Store::open(folder.path().join("state.db"), &AgentKey::new("key")?)?;
//!   # #[cfg(feature = "serde")] {
//!   let stats = serde_json::to_value(store.stats())?;
//!   println!("the longest sync took {} us", stats["since_opened"]["longest_sync_us"]);
//!   let anchor: Anchor = serde_json::from_str(&serde_json::to_string(&store.anchor())?)?;
//!   # assert_eq!((anchor, &stats["since_opened"]["syncs"]), (store.anchor(), &0.into()));
//!   # }
//!   # Ok::<(), Box<dyn std::error::Error>>(())
//!   ```
//! - `cli`: the command line `backupy-state`.

#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(not(target_os = "linux"))]
compile_error!("backupy-state runs on Linux: it relies on flock, fdatasync and fadvise as Linux has them");

// From the top down: a module uses only those that follow it, and the files in its own folder.
#[doc(hidden)]
pub mod testing;
#[cfg(feature = "import-bolt")]
#[warn(clippy::indexing_slicing)]
mod import_bolt;
mod store;
mod snapshot;
mod read;
mod repair;
mod options;
mod settings;
mod log;
mod anchor;
mod index;
mod limit;
#[warn(clippy::indexing_slicing)]
mod format;
mod crypto;
#[allow(clippy::missing_errors_doc, reason = "its traits return what the system said")]
mod storage;
mod events;
#[cfg(feature = "serde")]
mod serialize;
mod report;
mod error;
// What log/group_commit.rs waits with, by this name because its tests put other mutexes in its place.
use std::sync;

pub use anchor::Anchor;
pub use crypto::agent_key::AgentKey;
pub use error::{Error, ErrorKind, Result};
#[cfg(feature = "import-bolt")]
pub use import_bolt::{ImportReport, LeftOut, check_bolt, import_bolt};
pub use index::QueueOrder;
pub use limit::Limit;
pub use options::OpenOptions;
pub use read::{Config, DataKeys, Jobs, LogBatch, LogEvent, Logs, QueuedJob, RunIds, Session};
pub use repair::salvage::salvage;
pub use repair::verify::{verify, verify_each};
pub use repair::verify_report::{Fault, FaultKind, FrameInfo, IndexFile, OperationInfo, VerifyReport};
pub use report::{
    CompactionFailure, CompactionReport, CompactionStats, Lost, LostKey, Opening, RecoveryReport, SalvageReport,
    SinceOpened, Stats,
};
pub use settings::{Check, CompactionPolicy, Durability, LogLimits, LogRate, OnDamage, QueueLimits, WhenFull};
pub use snapshot::Snapshot;
pub use store::{Batch, Enqueued, LogAdmission, Store};

/// The format of the log file: the repository's FORMAT.md.
#[cfg(doc)]
#[allow(rustdoc::broken_intra_doc_links, reason = "brackets in FORMAT.md are not links to items")]
#[doc = include_str!("../FORMAT.md")]
pub mod _format {}

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
    #[doc = include_str!("../docs/limits.md")]
    struct Limits;
    #[doc = include_str!("../docs/log-events.md")]
    struct LogEvents;
}
