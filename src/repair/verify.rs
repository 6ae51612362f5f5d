//! Verify: checks a log and reports every fault. The commands `verify` and `frames` print what this finds.
//!
//! Only reads, and takes no lock. With the key it checks all seals, without it the header and the CRCs. Implements
//! *Opening* of FORMAT.md, for a reader that continues after damage.

use std::path::Path;
use std::sync::Arc;

use super::verify_report::{FaultKind, FrameInfo, IndexFile, OperationInfo, VerifyReport};
use crate::crypto::secret_vec::SecretVec;
use crate::format::SaltedCrc;
use crate::format::base::{self, Base};
use crate::format::frame::{FrameHeader, FrameKind};
use crate::format::header::{self as header_page, Header};
use crate::format::location::ValueCursor;
use crate::format::mark::Mark;
use crate::format::position::LogPosition;
use crate::format::record::Manifest;
use crate::index::QueueOrder;
use crate::log::file::LogFile;
use crate::log::index_file::{self, Indexed};
use crate::log::place::{self, Purpose};
use crate::log::replay::Replay;
use crate::log::scan::{Concurrency, OpenFrame, RawScanner, Resync, ResyncItem, ScanItem};
use crate::log::values::Values;
use crate::log::{header, marks};
use crate::storage::{Disk, File, Storage, paths};
use crate::{AgentKey, Error, Result};

/// Checks a store and reports every fault. With the key it checks everything, without it the header and the CRCs.
///
/// It reads the whole file, changes nothing and takes no lock, so it can run alongside a writer.
///
/// It continues after a fault, and [`salvage`](crate::salvage) can copy what is authentic after it. If damage
/// destroyed a frame's tag, the next frame cannot be authenticated, and is reported as a fault too.
///
/// # Errors
/// Damage and tampering are not errors: they are in the report. The errors are those that prevent a check:
/// - [`Error::NotFound`], [`Error::NotAStore`], [`Error::UnsupportedFormat`]: there is no store at `path` that
///   this version can read.
/// - [`Error::WrongKey`]: the store is under another key.
/// - [`Error::Invalid`]: the path is empty or names no file.
/// - [`Error::Io`].
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

/// As [`verify`], and calls `each` for every whole frame, in the order of the file.
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
    let path = place::resolve(storage, path, Purpose::Reading)?;
    let file: Arc<dyn File> = paths::open_file(storage, &path)?.into();
    let file_len = file.len().map_err(|source| Error::io("look at", &path, source))?;
    let report = VerifyReport::new(&path, key.is_some(), file_len);
    let mut check = Check { storage, report, durable_seq: 0, each: &mut each };
    let pages = header::read_first_pages(&*file, &path)?;
    let parsed = match key {
        Some(key) => header::recover_header(&pages, &path, key),
        None => header::parse_first_pages(&pages, &path).map(|header| (header, None)),
    };
    let header = match parsed {
        Ok((header, None)) => {
            check.note_faults(header_page::copy_faults(&pages));
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
    let crc = SaltedCrc::new(&header.id.salt);
    let (torn_marks, stray) =
        marks::check(&*file, &crc, storage).map_err(|source| Error::io("read", &path, source))?;
    check.report.torn_marks = torn_marks;
    let what = "the mark page has non-zero bytes that belong to nothing";
    check.note_faults(stray.map(|at| (at, what)));
    match key {
        Some(key) => check.check_seals(file, key, &header, &pages)?,
        None => check.check_crcs(&*file, &header, &pages)?,
    }
    // Those of the first pages were noted one page at a time.
    check.report.faults.sort_by_key(|fault| fault.offset);
    Ok(check.report)
}

/// A check under way.
struct Check<'a> {
    storage: &'a dyn Storage,
    report: VerifyReport,
    /// The `durable_seq` of the last frame.
    durable_seq: u64,
    each: &'a mut dyn FnMut(&FrameInfo),
}

impl Check<'_> {
    fn note_faults(&mut self, faults: impl IntoIterator<Item = (u64, &'static str)>) {
        for (offset, what) in faults {
            self.report.note(offset, FaultKind::Header, what);
        }
    }

    /// Notes what is wrong with the copies of the base record, if one of them can be used.
    fn note_base_faults(&mut self, base: Option<Base>, pages: &[u8], crc: &SaltedCrc) {
        if base.is_some() {
            self.note_faults(base::copy_faults(pages, crc));
        }
    }

    /// Without the key: checks every frame's CRCs and seq.
    fn check_crcs(&mut self, file: &dyn File, header: &Header, pages: &[u8]) -> Result<()> {
        let path = self.report.path.clone();
        let read_error = |source| Error::io("read", &path, source);
        let crc = SaltedCrc::new(&header.id.salt);
        let base = match header::find_base(pages, header, None, &crc, &path) {
            Ok(base) => {
                self.note_base_faults(base, pages, &crc);
                base
            }
            Err(damage) => {
                self.report.note_error(damage)?;
                None
            }
        };
        let (concurrency, first) =
            (Concurrency::WithWriter(self.storage), LogPosition::first(&header.authenticator));
        let base = base.map(|base| base.position);
        let mut scanner = RawScanner::new(file, &crc, base, concurrency, first).map_err(read_error)?;
        loop {
            let offset = scanner.offset();
            let (kind, what) = match scanner.next().map_err(read_error)? {
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
            if !scanner.skip_to_next_frame().map_err(read_error)? {
                break;
            }
        }
        self.note_end(scanner.file_len(), scanner.mark());
        Ok(())
    }

    /// Notes the length of the file, and whether the log is clean.
    fn note_end(&mut self, file_len: u64, mark: Option<Mark>) {
        self.report.file_len = file_len;
        let is_marked = mark.is_some_and(|mark| mark.position.end == self.report.log_len);
        self.report.ends_closed &= is_marked && self.report.torn_len == 0;
    }

    /// With the key: opens every frame and every value.
    fn check_seals(&mut self, file: Arc<dyn File>, key: &AgentKey, header: &Header, pages: &[u8]) -> Result<()> {
        let (log, base_damage) = header::with_keys(file, &self.report.path, key, header, pages)?;
        self.note_base_faults(log.base, pages, &log.crc);
        base_damage.map_or(Ok(()), |damage| self.report.note_error(damage))?;
        let log = Arc::new(log);
        let values = Values::new(Arc::clone(&log), false);
        let mut resync =
            Resync::new(&log, Concurrency::WithWriter(self.storage), LogPosition::first(&header.authenticator))?;
        loop {
            let offset = resync.tip().end;
            match resync.next()? {
                ResyncItem::Frame { frame, is_whole } => self.check_frame(&frame, is_whole, &values)?,
                ResyncItem::Fault(error) => self.report.note_error(error)?,
                // It is where another frame was expected, which has been reported.
                ResyncItem::Unproven(frame) if frame.offset == offset => {}
                ResyncItem::Unproven(frame) => {
                    let what = "the frame cannot be authenticated: the tag of the frame before it is lost";
                    self.report.note(frame.offset, FaultKind::Damage, what);
                }
                ResyncItem::Gap(_) => {}
                ResyncItem::End { torn_until } => {
                    self.report.torn_len = torn_until.map_or(0, |until| until - offset);
                    break;
                }
            }
        }
        self.note_end(resync.file_len(), resync.mark());
        if self.report.faults.iter().all(|fault| fault.kind == FaultKind::Header) {
            self.check_index(&log, LogPosition::first(&header.authenticator));
        }
        Ok(())
    }

    /// Replays the log by its index file and without it. What keeps one of them from its end has been reported, or
    /// a writer is at work: then they are not compared.
    fn check_index(&mut self, log: &LogFile, first: LogPosition) {
        let concurrency = Concurrency::WithWriter(self.storage);
        let Some(indexed) = index_file::read(self.storage, log, QueueOrder::RunId) else {
            self.report.index = IndexFile::NotUsed;
            return;
        };
        let Indexed { replay: mut by_index, .. } = indexed;
        let mut by_replay = Replay::new(QueueOrder::RunId, first);
        let is_read = by_replay.run(log, concurrency).is_ok();
        if !is_read || !by_index.run_to(log, concurrency, by_replay.tip).is_ok_and(|reached| reached) {
            return;
        }
        if !by_index.fits_log() {
            self.report.index = IndexFile::NotUsed;
            return;
        }
        let (index, replayed) = (&by_index.index, &by_replay.index);
        // The index file also knows the ordinals of events that a compaction has left out.
        let agrees = index.has_same_keys_as(replayed)
            && index.ordinals_end() >= replayed.ordinals_end()
            && by_index.values() == by_replay.values();
        self.report.index = if agrees { IndexFile::Agrees } else { IndexFile::Differs };
        if !agrees {
            self.report.note(0, FaultKind::Index, "the index file says something else than the log");
        }
    }

    fn check_frame(&mut self, frame: &OpenFrame<'_>, is_whole: bool, values: &Values) -> Result<()> {
        let mut locations = ValueCursor::new(frame.offset, &frame.header);
        let mut operations = Vec::new();
        for operation in frame.manifest.iter().flat_map(Manifest::operations) {
            self.report.operations += 1;
            operations.push(OperationInfo::new(&operation));
            let Some(location) = locations.locate(&operation) else { continue };
            match values.read(location).map(SecretVec::from) {
                Ok(value) if operation.bucket.allows_value(operation.key, &value) => self.report.values += 1,
                Ok(_) => self.report.note_error(values.malformed(location))?,
                // The frame is damaged, so the value is too: this is no sign of tampering.
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
            let what = "the frame's durable_seq is below that of an earlier frame";
            self.report.note(offset, FaultKind::Tampering, what);
        }
        self.durable_seq = header.durable_seq;
        let FrameHeader { seq, durable_seq, .. } = *header;
        (self.each)(&FrameInfo { offset, len, seq, durable_seq, is_close, operations });
    }
}
