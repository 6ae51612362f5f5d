//! The report of `verify`: plain data. Finds no faults itself.

use std::path::{Path, PathBuf};

use crate::format::header::FIRST_FRAME_AT;
use crate::format::record::{Action, Operation};
use crate::{Error, Result};

/// The result of [`verify`](crate::verify).
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct VerifyReport {
    /// The log file.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::serialize::path"))]
    pub path: PathBuf,
    /// The length of the file in bytes.
    pub file_len: u64,
    /// The generation of the log, from 1. Each compaction begins a new one.
    pub generation: u64,
    /// Whether a key was given: if so, all seals were checked, otherwise only CRCs.
    pub with_key: bool,
    /// Whether the log ends with a close frame that the mark names, as a clean close and a compaction leave it.
    pub ends_closed: bool,
    /// The number of whole frames.
    pub frames: u64,
    /// The number of operations in the frames. 0 without a key.
    pub operations: u64,
    /// The number of values that opened and are right. 0 without a key.
    pub values: u64,
    /// Where the last whole frame ends, in bytes from the start of the file.
    pub log_len: u64,
    /// The length in bytes of the torn tail that a crash left after the last whole frame. It is no fault: the next
    /// open quarantines it.
    pub torn_len: u64,
    /// How many of the two marks, which note how far the log was durable, are torn. It is no fault: a power cut
    /// can leave one, and the store writes over it.
    pub torn_marks: u64,
    /// What the index file next to the log says. [`NotCompared`](IndexFile::NotCompared) without a key.
    pub index: IndexFile,
    /// The first 1000 faults, in the order of the file.
    pub faults: Vec<Fault>,
    /// The number of faults after the first 1000.
    pub more_faults: u64,
}

impl VerifyReport {
    /// Whether there is no fault.
    ///
    /// ```
    /// # use backupy_state::{AgentKey, Store, verify};
    /// # let folder = tempfile::tempdir()?;
    /// # let (path, key) = (folder.path().join("state.db"), AgentKey::new("key")?);
    /// # Store::open(&path, &key)?;
    /// # let mut bytes = std::fs::read(&path)?;
    /// # bytes[2048 + 100] ^= 1;
    /// # std::fs::write(&path, bytes)?;
    /// let report = verify(&path, Some(&key))?;
    /// if !report.is_intact() {
    ///     for fault in &report.faults {
    ///         println!("at offset {}: {}", fault.offset, fault.what);
    ///     }
    /// }
    /// # assert_eq!(report.faults[0].offset, 2048);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn is_intact(&self) -> bool {
        self.faults.is_empty()
    }

    pub(super) fn new(path: &Path, with_key: bool, file_len: u64) -> Self {
        VerifyReport {
            path: path.to_path_buf(),
            file_len,
            generation: 0,
            with_key,
            ends_closed: false,
            frames: 0,
            operations: 0,
            values: 0,
            log_len: FIRST_FRAME_AT as u64,
            torn_len: 0,
            torn_marks: 0,
            index: IndexFile::NotCompared,
            faults: Vec::new(),
            more_faults: 0,
        }
    }

    pub(super) fn note(&mut self, offset: u64, kind: FaultKind, what: &'static str) {
        if self.faults.len() < FAULTS_MAX {
            self.faults.push(Fault { offset, kind, what });
        } else {
            self.more_faults += 1;
        }
    }

    /// Adds damage and tampering to the report. Returns any other error: it ends the check.
    pub(super) fn note_error(&mut self, error: Error) -> Result<()> {
        match error {
            Error::Corrupt { offset, what, .. } => self.note(offset, FaultKind::Damage, what),
            Error::Unauthentic { offset, what, .. } => self.note(offset, FaultKind::Tampering, what),
            error => return Err(error),
        }
        Ok(())
    }
}

/// Bounds the memory and the report for a file that is all faults.
const FAULTS_MAX: usize = 1000;

/// One fault in a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Fault {
    /// Where it is, in bytes from the start of the file.
    pub offset: u64,
    /// The kind of fault.
    pub kind: FaultKind,
    /// What is wrong, in words.
    pub what: &'static str,
}

/// What [`verify`](crate::verify()) found out about the index file, which only saves time when a log is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum IndexFile {
    /// It says the same as the log.
    Agrees,
    /// It says something else than the log. This is a fault: remove it while no agent runs, and please report it.
    Differs,
    /// There is none that fits this log, so opening reads every frame.
    NotUsed,
    /// There was no key, the log has a fault, or a writer was at work.
    NotCompared,
}

/// The kinds of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum FaultKind {
    /// The header page or the mark page was changed, but one copy of the header, and of the base record if there
    /// is one, is intact: the store can still be opened.
    Header,
    /// Bytes that had been durable were changed or lost.
    Damage,
    /// Bytes have the right CRC, but failed authentication, are out of place, or are what no writer writes.
    Tampering,
    /// The index file says something else than the log. The offset is 0.
    Index,
}

/// One frame of a log, as [`verify_each`](crate::verify_each) passes it to its callback.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct FrameInfo {
    /// Where the frame begins, in bytes from the start of the file.
    pub offset: u64,
    /// The length of the frame in bytes, with its padding.
    pub len: u64,
    /// The frame's number in its generation, from 1.
    pub seq: u64,
    /// The highest seq that was known to be durable when the frame was written.
    pub durable_seq: u64,
    /// Whether this is a close frame, which holds no record.
    pub is_close: bool,
    /// The operations of the record, in order. Empty without a key.
    pub operations: Vec<OperationInfo>,
}

/// One operation of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct OperationInfo {
    /// `put`, `delete` or `delete-through`.
    pub action: &'static str,
    /// `config`, `queue`, `registry`, `logs` or `data`.
    pub bucket: &'static str,
    /// The length of the key in bytes.
    pub key_len: usize,
    /// The run id, in the queue.
    pub run_id: Option<String>,
    /// The data key, in `data`.
    pub data_key: Option<String>,
    /// The length of the value in bytes, in a put.
    pub value_len: Option<u64>,
}

impl OperationInfo {
    pub(super) fn new(operation: &Operation<'_>) -> Self {
        let Operation { action, bucket, key } = *operation;
        let (action, value_len) = match action {
            Action::Put { value_len } => ("put", Some(u64::from(value_len))),
            Action::Delete => ("delete", None),
            Action::DeleteThrough => ("delete-through", None),
        };
        let (run_id, data_key) = bucket.names(key);
        OperationInfo { action, bucket: bucket.name(), key_len: key.len(), run_id, data_key, value_len }
    }
}
