//! Copying the live records into a new log file while readers and writers continue: compaction, rekey, backup.

mod compactor;
mod copier;
mod policy;
mod progress;
mod runner;

pub(crate) use compactor::Compactor;
