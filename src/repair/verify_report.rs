//! What `verify` reports.

use std::path::{Path, PathBuf};

use crate::format::bucket::Bucket;
use crate::format::header::HEADER_PAGE_LEN;
use crate::format::record::{Action, Operation};
use crate::{Error, Result};

/// What [`verify`](crate::verify) found.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct VerifyReport {
    /// The log file.
    pub path: PathBuf,
    /// Its length in bytes.
    pub file_len: u64,
    /// The number of this log file among those of the store, from 1.
    pub generation: u64,
    /// Whether seals were checked too, or only CRCs.
    pub with_key: bool,
    /// Whether the last frame is a close frame, at the very end of the file.
    pub ends_closed: bool,
    /// How many frames are whole.
    pub frames: u64,
    /// How many operations they hold; 0 without a key.
    pub operations: u64,
    /// How many values were opened; 0 without a key.
    pub values: u64,
    /// Where the last whole frame ends, in bytes from the start of the file.
    pub log_len: u64,
    /// How many bytes a crash left behind the last whole frame. The next open sets them aside; they are no fault.
    pub torn_len: u64,
    /// What is wrong, in the order of the file: the first 1000 faults.
    pub faults: Vec<Fault>,
    /// How many faults there are beyond those.
    pub more_faults: u64,
}

impl VerifyReport {
    /// Whether nothing is wrong.
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
            log_len: HEADER_PAGE_LEN as u64,
            torn_len: 0,
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

    /// Takes damage and tampering into the report; anything else ends the look.
    pub(super) fn note_error(&mut self, error: Error) -> Result<()> {
        match error {
            Error::Corrupt { offset, what, .. } => self.note(offset, FaultKind::Damage, what),
            Error::Unauthentic { offset, what, .. } => self.note(offset, FaultKind::Tampering, what),
            error => return Err(error),
        }
        Ok(())
    }
}

/// Bounds what is held of a file that is nothing but faults.
const FAULTS_MAX: usize = 1000;

/// Something that is wrong with a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Fault {
    /// Where it is, in bytes from the start of the file.
    pub offset: u64,
    /// Of what kind.
    pub kind: FaultKind,
    /// What did not check.
    pub what: &'static str,
}

/// The kinds of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FaultKind {
    /// The header page is not as it was written, though one copy is good: the store can still be opened.
    Header,
    /// Bytes that had been durable no longer check.
    Damage,
    /// Bytes check by CRC, but fail their seal, do not belong where they are, or say what no writer says.
    Tampering,
}

/// One frame of a log, as [`verify_each`](crate::verify_each) shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FrameInfo {
    /// Where it begins, in bytes from the start of the file.
    pub offset: u64,
    /// Its length in bytes.
    pub len: u64,
    /// Its number in its generation, from 1.
    pub seq: u64,
    /// The highest number known to be durable when it was written.
    pub durable_seq: u64,
    /// Whether it is a close frame rather than a record.
    pub is_close: bool,
    /// What its record does, in order; empty without a key.
    pub operations: Vec<OperationInfo>,
}

/// One operation of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OperationInfo {
    /// `put`, `delete` or `delete-through`.
    pub action: &'static str,
    /// `config`, `queue`, `registry` or `logs`.
    pub bucket: &'static str,
    /// The length of its key in bytes.
    pub key_len: usize,
    /// The job it is about, in the queue.
    pub run_id: Option<String>,
    /// The length of the value in bytes, of a put.
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
        let run_id = (bucket == Bucket::Queue).then(|| String::from_utf8_lossy(key).into_owned());
        OperationInfo { action, bucket: bucket.name(), key_len: key.len(), run_id, value_len }
    }
}
