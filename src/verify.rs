//! Checking a store without changing it, and without the lock: what `verify` and `frames` of the command line show.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use zeroize::Zeroizing;

use crate::format::SaltedCrc;
use crate::format::bucket::Bucket;
use crate::format::frame::{FrameHeader, FrameKind, ValueCursor};
use crate::format::header::{self, HEADER_PAGE_LEN};
use crate::format::record::{Action, Manifest, Operation};
use crate::log::Values;
use crate::snapshot::open_file;
use crate::storage::{Disk, File, Storage};
use crate::walk::{self, Beside, Found, OpenFrame, Scan, Sight, Walk};
use crate::{AgentKey, Error, Result, path, recovery};

/// What [`verify`] found.
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
    /// Everything that is wrong, in the order of the file. Behind damage or tampering nothing is looked at.
    pub faults: Vec<Fault>,
}

impl VerifyReport {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_intact(&self) -> bool {
        self.faults.is_empty()
    }
}

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
    /// Bytes check by CRC, but fail their seal or do not belong where they are.
    Tampering,
}

/// One frame of a log, as [`verify_each`] shows it.
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

/// Checks a store without changing it, also beside a running writer: with the key everything, without it the header
/// and the CRCs.
///
/// # Errors
/// Only where it could not look: [`Error::NotFound`], [`Error::NotAStore`], [`Error::UnsupportedFormat`],
/// [`Error::WrongKey`], [`Error::Invalid`], [`Error::Io`]. Damage and tampering are in the report.
///
/// ```
/// use backupy_state::{AgentKey, Store, verify};
///
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("state.db");
/// let key = AgentKey::new("bkpy_0123456789abcdef0123456789abcdef")?;
/// let store = Store::open(&path, &key)?;
/// store.record_heartbeat(1_700_000_000_000)?;
/// let report = verify(&path, Some(&key))?;
/// assert!(report.is_intact());
/// assert_eq!(report.values, 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn verify(path: impl AsRef<Path>, key: Option<&AgentKey>) -> Result<VerifyReport> {
    verify_each(path, key, |_| {})
}

/// As [`verify`], and shows each whole frame on the way.
///
/// # Errors
/// As [`verify`].
pub fn verify_each(
    path: impl AsRef<Path>,
    key: Option<&AgentKey>,
    each: impl FnMut(&FrameInfo),
) -> Result<VerifyReport> {
    verify_on(&Disk, path, key, each)
}

/// On another file system than the machine's: for tests. No part of the stable interface.
///
/// # Errors
/// As [`verify`].
#[doc(hidden)]
pub fn verify_on(
    storage: &dyn Storage,
    path: impl AsRef<Path>,
    key: Option<&AgentKey>,
    mut each: impl FnMut(&FrameInfo),
) -> Result<VerifyReport> {
    let path = path::resolve(storage, path.as_ref())?;
    let file = open_file(storage, &path)?;
    let mut report = VerifyReport {
        path: path.clone(),
        file_len: file.len().map_err(|source| Error::io("look at", &path, source))?,
        generation: 0,
        with_key: key.is_some(),
        ends_closed: false,
        frames: 0,
        operations: 0,
        values: 0,
        log_len: HEADER_PAGE_LEN as u64,
        torn_len: 0,
        faults: Vec::new(),
    };
    let page = recovery::read_header_page(&*file, &path)?;
    match recovery::parse_header_page(&page, &path) {
        Ok(header) => report.generation = header.id.generation,
        Err(Error::Corrupt { offset, what, .. }) => {
            report.faults.push(Fault { offset, kind: FaultKind::Damage, what });
            return Ok(report);
        }
        Err(error) => return Err(error),
    }
    let blemishes = header::blemishes(&page).into_iter();
    report.faults.extend(blemishes.map(|(offset, what)| Fault { offset, kind: FaultKind::Header, what }));
    match key {
        Some(key) => check_seals(file, key, &mut report, &mut each)?,
        None => check_crcs(&*file, &mut report, &mut each)?,
    }
    Ok(report)
}

/// Walks over all frames by CRC and number.
fn check_crcs(file: &dyn File, report: &mut VerifyReport, each: &mut impl FnMut(&FrameInfo)) -> Result<()> {
    let path = report.path.clone();
    let read_error = |source| Error::io("read", &path, source);
    let header = recovery::read_header(file, &path)?;
    let crc = SaltedCrc::new(&header.id.salt);
    let first = walk::first_tip(&header.authenticator);
    let mut walk = Walk::new(file, &crc, Beside::Writer, first.end, first.seq).map_err(read_error)?;
    loop {
        let offset = walk.offset();
        match walk.next().map_err(read_error)? {
            Sight::Frame { header, .. } => report.note_frame(offset, &header, Vec::new(), each),
            Sight::End => break,
            Sight::Torn { until } => {
                report.torn_len = until - offset;
                break;
            }
            Sight::Damage(what) => {
                report.faults.push(Fault { offset, kind: FaultKind::Damage, what });
                break;
            }
            Sight::Tampered(what) => {
                report.faults.push(Fault { offset, kind: FaultKind::Tampering, what });
                break;
            }
        }
    }
    report.note_end(walk.file_len());
    Ok(())
}

/// Scans all frames with the key, and opens every value.
fn check_seals(
    file: Box<dyn File>,
    key: &AgentKey,
    report: &mut VerifyReport,
    each: &mut impl FnMut(&FrameInfo),
) -> Result<()> {
    let (log, header) = recovery::open_log(file, &report.path, key)?;
    let log = Arc::new(log);
    let values = Values::new(Arc::clone(&log), false);
    let mut scan = Scan::new(&log, Beside::Writer, walk::first_tip(&header.authenticator))?;
    loop {
        match scan.next() {
            Ok(Found::Frame(frame)) => check_frame(&frame, &values, report, each)?,
            Ok(Found::End) => break,
            Ok(Found::Torn { until }) => {
                report.torn_len = until - scan.tip().end;
                break;
            }
            Err(error) => {
                report.note_fault(error)?;
                break;
            }
        }
    }
    report.note_end(scan.file_len());
    Ok(())
}

fn check_frame(
    frame: &OpenFrame<'_>,
    values: &Values,
    report: &mut VerifyReport,
    each: &mut impl FnMut(&FrameInfo),
) -> Result<()> {
    let mut places = ValueCursor::new(frame.offset, &frame.header);
    let mut operations = Vec::new();
    for operation in frame.manifest.iter().flat_map(Manifest::operations) {
        report.operations += 1;
        operations.push(OperationInfo::new(&operation));
        let Some(place) = places.place(&operation) else { continue };
        report.values += 1;
        if let Err(error) = values.read(place).map(Zeroizing::new) {
            report.note_fault(error)?;
        }
    }
    report.note_frame(frame.offset, &frame.header, operations, each);
    Ok(())
}

impl VerifyReport {
    fn note_frame(
        &mut self,
        offset: u64,
        header: &FrameHeader,
        operations: Vec<OperationInfo>,
        each: &mut impl FnMut(&FrameInfo),
    ) {
        let (len, is_close) = (u64::from(header.len), header.kind == FrameKind::Close);
        self.frames += 1;
        self.log_len = offset + len;
        self.ends_closed = is_close;
        each(&FrameInfo { offset, len, seq: header.seq, durable_seq: header.durable_seq, is_close, operations });
    }

    /// Takes damage and tampering into the report; anything else ends the look.
    fn note_fault(&mut self, error: Error) -> Result<()> {
        let fault = match error {
            Error::Corrupt { offset, what, .. } => Fault { offset, kind: FaultKind::Damage, what },
            Error::Unauthentic { offset, what, .. } => Fault { offset, kind: FaultKind::Tampering, what },
            error => return Err(error),
        };
        self.faults.push(fault);
        Ok(())
    }

    fn note_end(&mut self, file_len: u64) {
        self.file_len = file_len;
        self.ends_closed &= self.log_len == file_len;
    }
}

impl OperationInfo {
    fn new(operation: &Operation<'_>) -> Self {
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
