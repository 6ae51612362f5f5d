//! Copying the live records into a new log file while other threads read and write: compaction, rekey, backup.
//!
//! Implements *Compaction* of FORMAT.md, section 10. The old log is read frame by frame, and what is still live is
//! packed into a new file under a new salt. Records that are written meanwhile are copied in rounds, each of which
//! is synced and read back; only the last and smallest round holds the write lock. The old log is never
//! changed: until the rename, a failure costs only the new file.
//!
//! `policy` decides when a compaction is due, `compactor` starts and stops it, `runner` takes its steps, and
//! `copier` copies.

mod compactor;
mod copier;
mod policy;
mod progress;
mod runner;

pub(crate) use compactor::Compactor;
