//! The persistent state of a backup agent: an embedded, encrypted, crash-safe store in one append-only log file.

mod batch;
mod commit;
mod error;
mod events;
#[warn(clippy::indexing_slicing)]
mod format;
mod index;
mod key;
mod lock;
mod log;
mod options;
mod path;
mod reader;
mod recovery;
mod seal;
mod snapshot;
#[doc(hidden)]
pub mod storage;
mod store;
mod verify;
mod walk;

pub use batch::Batch;
pub use error::{Error, Result};
pub use key::AgentKey;
pub use options::{Durability, OpenOptions, QueueOrder};
pub use reader::{Config, LogEvent, QueuedJob, Session, Stats};
pub use recovery::RecoveryReport;
pub use snapshot::Snapshot;
pub use store::{Enqueued, LogAdmission, Store};
#[doc(hidden)]
pub use verify::verify_on;
pub use verify::{Fault, FaultKind, FrameInfo, OperationInfo, VerifyReport, verify, verify_each};
