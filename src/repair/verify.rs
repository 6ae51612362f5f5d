//! Checking a store without changing it, and without the lock: what `verify` and `frames` of the command line show.

use std::path::Path;
use std::sync::Arc;

use super::verify_report::{FaultKind, FrameInfo, OperationInfo, VerifyReport};
use crate::crypto::secret_vec::SecretVec;
use crate::format::SaltedCrc;
use crate::format::frame::{FrameHeader, FrameKind};
use crate::format::header::{self as header_page, Header};
use crate::format::location::ValueCursor;
use crate::format::record::Manifest;
use crate::log::file::LogPosition;
use crate::log::header;
use crate::log::scan::{Concurrency, OpenFrame, RawScanner, Resync, ResyncItem, ScanItem};
use crate::log::values::Values;
use crate::storage::{Disk, File, Storage, paths};
use crate::{AgentKey, Error, Result};

/// Checks a store without changing it, also beside a running writer: with the key everything, without it the header
/// and the CRCs.
///
/// It goes on behind what is wrong, so the report has the first fault and all others; [`salvage`](crate::salvage) brings
/// over what is authentic all the same. Behind damage that took a frame's tag with it, the next frame cannot be told from a
/// forged one, and is a fault too.
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
///
/// ```
/// # use backupy_state::{AgentKey, Store, verify_each};
/// # let folder = tempfile::tempdir()?;
/// # let (path, key) = (folder.path().join("state.db"), AgentKey::new("key")?);
/// # let store = Store::open(&path, &key)?;
/// # store.enqueue_job("run-1", b"dump of orders")?;
/// let mut run_ids = Vec::new();
/// verify_each(&path, Some(&key), |frame| {
///     run_ids.extend(frame.operations.iter().filter_map(|operation| operation.run_id.clone()));
/// })?;
/// assert_eq!(run_ids, ["run-1"]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn verify_each(
    path: impl AsRef<Path>,
    key: Option<&AgentKey>,
    each: impl FnMut(&FrameInfo),
) -> Result<VerifyReport> {
    verify_on(&Disk, path.as_ref(), key, each)
}

pub(crate) fn verify_on(
    storage: &dyn Storage,
    path: &Path,
    key: Option<&AgentKey>,
    mut each: impl FnMut(&FrameInfo),
) -> Result<VerifyReport> {
    let path = paths::resolve(storage, path)?;
    let file = paths::open_file(storage, &path)?;
    let file_len = file.len().map_err(|source| Error::io("look at", &path, source))?;
    let report = VerifyReport::new(&path, key.is_some(), file_len);
    let mut check = Check { storage, report, durable_seq: 0, each: &mut each };
    let page = header::read_header_page(&*file, &path)?;
    let looked = match key {
        Some(key) => header::recover_header(&page, &path, key),
        None => header::parse_header_page(&page, &path).map(|header| (header, None)),
    };
    let header = match looked {
        Ok((header, None)) => {
            for (offset, what) in header_page::copy_faults(&page) {
                check.report.note(offset, FaultKind::Header, what);
            }
            header
        }
        Ok((header, Some(damage))) => {
            check.report.note_error(damage)?;
            header
        }
        Err(error) => {
            check.report.note_error(error)?;
            return Ok(check.report);
        }
    };
    check.report.generation = header.id.generation;
    match key {
        Some(key) => check.seals(file, key, &header)?,
        None => check.crcs(&*file, &header)?,
    }
    check.report.ends_closed &= check.report.log_len == check.report.file_len;
    Ok(check.report)
}

/// A check under way.
struct Check<'a> {
    storage: &'a dyn Storage,
    report: VerifyReport,
    /// What the last frame vouched for.
    durable_seq: u64,
    each: &'a mut dyn FnMut(&FrameInfo),
}

impl Check<'_> {
    /// Walks over all frames by CRC and number.
    fn crcs(&mut self, file: &dyn File, header: &Header) -> Result<()> {
        let path = self.report.path.clone();
        let read_error = |source| Error::io("read", &path, source);
        let crc = SaltedCrc::new(&header.id.salt);
        let first = LogPosition::first(&header.authenticator);
        let mut walk = RawScanner::new(file, &crc, Concurrency::WithWriter(self.storage), first.end, first.seq)
            .map_err(read_error)?;
        loop {
            let offset = walk.offset();
            let (kind, what) = match walk.next().map_err(read_error)? {
                ScanItem::Frame { header, .. } => {
                    self.note_frame(offset, &header, Vec::new());
                    continue;
                }
                ScanItem::End => break,
                ScanItem::Torn { until } => {
                    self.report.torn_len = until - offset;
                    break;
                }
                ScanItem::Damage(what) => (FaultKind::Damage, what),
                ScanItem::Tampered(what) => (FaultKind::Tampering, what),
            };
            self.report.note(offset, kind, what);
            if !walk.skip_to_next_frame().map_err(read_error)? {
                break;
            }
        }
        self.report.file_len = walk.file_len();
        Ok(())
    }

    /// Opens all frames with the key, and every value.
    fn seals(&mut self, file: Box<dyn File>, key: &AgentKey, header: &Header) -> Result<()> {
        let log = Arc::new(header::with_keys(file, &self.report.path, key, header)?);
        let values = Values::new(Arc::clone(&log), false);
        let mut walk =
            Resync::new(&log, Concurrency::WithWriter(self.storage), LogPosition::first(&header.authenticator))?;
        loop {
            let offset = walk.tip().end;
            match walk.next()? {
                ResyncItem::Frame { frame, is_whole } => self.check_frame(&frame, is_whole, &values)?,
                ResyncItem::Fault(error) => self.report.note_error(error)?,
                // Where it stands in the place of another frame, that was noted.
                ResyncItem::Unproven(frame) if frame.offset == offset => {}
                ResyncItem::Unproven(frame) => {
                    let what = "the frame's seal cannot be checked: the tag before it is lost";
                    self.report.note(frame.offset, FaultKind::Damage, what);
                }
                ResyncItem::Gap(_) => {}
                ResyncItem::End { torn_until } => {
                    self.report.torn_len = torn_until.map_or(0, |until| until - offset);
                    break;
                }
            }
        }
        self.report.file_len = walk.file_len();
        Ok(())
    }

    fn check_frame(&mut self, frame: &OpenFrame<'_>, is_whole: bool, values: &Values) -> Result<()> {
        let mut locations = ValueCursor::new(frame.offset, &frame.header);
        let mut operations = Vec::new();
        for operation in frame.manifest.iter().flat_map(Manifest::operations) {
            self.report.operations += 1;
            operations.push(OperationInfo::new(&operation));
            let Some(location) = locations.locate(&operation) else { continue };
            self.report.values += 1;
            match values.read(location).map(SecretVec::from) {
                Ok(value) if operation.bucket.allows_value(operation.key, &value) => {}
                Ok(_) => self.report.note_error(values.malformed(location))?,
                // In a damaged frame, damage is what broke the seal.
                Err(Error::Unauthentic { offset, what, .. }) if !is_whole => {
                    self.report.note(offset, FaultKind::Damage, what);
                }
                Err(error) => self.report.note_error(error)?,
            }
        }
        if is_whole {
            self.note_frame(frame.offset, &frame.header, operations);
        }
        Ok(())
    }

    fn note_frame(&mut self, offset: u64, header: &FrameHeader, operations: Vec<OperationInfo>) {
        let (len, is_close) = (u64::from(header.len), header.kind == FrameKind::Close);
        self.report.frames += 1;
        self.report.log_len = offset + len;
        self.report.ends_closed = is_close;
        if header.durable_seq < self.durable_seq {
            let what = "the frame vouches for less than one before it";
            self.report.note(offset, FaultKind::Tampering, what);
        }
        self.durable_seq = header.durable_seq;
        let FrameHeader { seq, durable_seq, .. } = *header;
        (self.each)(&FrameInfo { offset, len, seq, durable_seq, is_close, operations });
    }
}
