//! Scanning with the key: the frames of the raw scanner, each opened and authenticated.
//!
//! Each manifest is sealed with the tag of the manifest before it as associated data. So a manifest that opens
//! proves not only that this frame is authentic, but that every frame before it is, and that none is missing. The
//! scanner never opens values, and stops at the first frame that is damaged or fails authentication.
//!
//! Implements the checks of rule F4 of *Opening* in FORMAT.md.

use super::raw::{Concurrency, RawScanner, ScanItem};
use crate::crypto::secret_vec::SecretVec;
use crate::format::frame::FrameHeader;
use crate::format::position::LogPosition;
use crate::format::record::Manifest;
use crate::log::file::LogFile;
use crate::{Error, Result};

/// Scans with the key. Every frame it returns is authentic and in its place.
pub(crate) struct Scanner<'a> {
    pub(super) log: &'a LogFile,
    pub(super) raw: RawScanner<'a>,
    pub(super) tip: LogPosition,
    /// The plaintext of the last manifest. One buffer for all of them.
    pub(super) text: SecretVec,
}

/// What a [`Scanner`] found.
pub(crate) enum Scanned<'a> {
    Frame(OpenFrame<'a>),
    /// As [`ScanItem::End`].
    End,
    /// As [`ScanItem::Torn`].
    Torn {
        until: u64,
    },
}

/// A frame whose manifest was opened.
pub(crate) struct OpenFrame<'a> {
    pub(crate) offset: u64,
    pub(crate) header: FrameHeader,
    /// Everything after the frame's header. The values in it are still sealed.
    pub(crate) body: &'a [u8],
    /// `None` in a close frame.
    pub(crate) manifest: Option<Manifest<'a>>,
}

impl<'a> Scanner<'a> {
    /// Begins after `tip`.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn new(log: &'a LogFile, concurrency: Concurrency<'a>, tip: LogPosition) -> Result<Self> {
        let raw = RawScanner::new(&*log.file, &log.crc, log.base.map(|base| base.position), concurrency, tip)
            .map_err(log.io("read the mark or the length of"))?;
        Ok(Scanner { log, raw, tip, text: SecretVec::default() })
    }

    /// Begins after `tip`, in a log that this process writes, and takes it to end at `end`: an offset that the
    /// log has been written up to. What is after `end` is not read, as the writer may be changing it, or cutting
    /// off preallocated space.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn up_to(log: &'a LogFile, tip: LogPosition, end: u64) -> Result<Self> {
        let mut scan = Scanner::new(log, Concurrency::Exclusive, tip)?;
        scan.raw.end_at(end);
        Ok(scan)
    }

    /// The position after the last frame that was returned.
    pub(crate) fn tip(&self) -> LogPosition {
        self.tip
    }

    /// The length of the file when it was last queried.
    pub(crate) fn file_len(&self) -> u64 {
        self.raw.file_len()
    }

    /// Returns the next frame, or how the log ends.
    ///
    /// # Errors
    /// `Corrupt` for damage, `Unauthentic` for tampering and for a frame that fails authentication, `Io`.
    pub(crate) fn next(&mut self) -> Result<Scanned<'_>> {
        let Scanner { log, raw, tip, text } = self;
        let offset = tip.end;
        let (header, body) = match raw.next().map_err(log.io("read"))? {
            ScanItem::Frame { header, body } => (header, body),
            ScanItem::End => return Ok(Scanned::End),
            ScanItem::Torn { until } => return Ok(Scanned::Torn { until }),
            ScanItem::Damage(what) => return Err(Error::corrupt(&log.path, offset, what)),
            ScanItem::Tampered(what) => return Err(Error::unauthentic(&log.path, offset, what)),
        };
        let (manifest, chain) = header
            .open_manifest(body, &tip.chain, &log.sealer, text)
            .map_err(|what| Error::unauthentic(&log.path, offset, what))?;
        *tip = LogPosition { end: offset + u64::from(header.len), seq: header.seq, chain };
        Ok(Scanned::Frame(OpenFrame { offset, header, body, manifest }))
    }
}

/// Hands every frame between two positions to `take`, in a log that this process writes.
///
/// # Errors
/// `Corrupt` if the frames after `from` do not lead to `to`; as [`Scanner::next`], and those of `take`.
pub(crate) fn each_frame(
    log: &LogFile,
    from: LogPosition,
    to: LogPosition,
    mut take: impl FnMut(&OpenFrame<'_>) -> Result<()>,
) -> Result<()> {
    let mut scan = Scanner::up_to(log, from, to.end)?;
    while scan.tip.seq < to.seq {
        let Scanned::Frame(frame) = scan.next()? else { break };
        take(&frame)?;
    }
    if scan.tip == to {
        return Ok(());
    }
    Err(Error::corrupt(&log.path, scan.tip.end, "frames that had been written are missing"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::header::open_log;
    use crate::log::replay::Replay;
    use crate::storage::{Access, Disk, Storage};
    use crate::{AgentKey, QueueOrder, Store};

    /// `close` cuts the log while a thread may still be writing a run of the index file from its frames.
    #[test]
    fn a_scan_of_what_was_written_survives_that_the_space_after_it_is_cut_off() {
        let folder = tempfile::tempdir().unwrap();
        let (path, copy) = (folder.path().join("state.db"), folder.path().join("copy.db"));
        let key = AgentKey::new("key").unwrap();
        let store = Store::open(&path, &key).unwrap();
        store.enqueue_job("run", &[7; 100]).unwrap();
        std::fs::copy(&path, &copy).unwrap();
        let (log, header) = open_log(Disk.open(&copy, Access::Write).unwrap().into(), &copy, &key).unwrap();
        let first = LogPosition::first(&header.authenticator);
        let mut replay = Replay::new(QueueOrder::RunId, first);
        replay.run(&log, Concurrency::Exclusive).unwrap();
        assert!(log.file.len().unwrap() > replay.tip.end);
        let mut scan = Scanner::up_to(&log, first, replay.tip.end).unwrap();
        let mut unbounded = Scanner::new(&log, Concurrency::Exclusive, first).unwrap();
        std::fs::File::options().write(true).open(&copy).unwrap().set_len(replay.tip.end).unwrap();
        assert!(matches!(scan.next(), Ok(Scanned::Frame(_))));
        assert!(scan.tip() == replay.tip);
        assert!(matches!(scan.next(), Ok(Scanned::End)));
        assert!(matches!(unbounded.next(), Err(Error::Io { .. })));
    }

    /// Else a frame would be allocated of which the file has only the header.
    #[test]
    fn a_scan_ends_with_a_file_that_is_shorter_than_expected() {
        let folder = tempfile::tempdir().unwrap();
        let (path, key) = (folder.path().join("state.db"), AgentKey::new("key").unwrap());
        let store = Store::open(&path, &key).unwrap();
        store.enqueue_job("run", &[7; 1000]).unwrap();
        let end = store.stats().log_len;
        store.close().unwrap();
        std::fs::File::options().write(true).open(&path).unwrap().set_len(end - 100).unwrap();
        let (log, header) = open_log(Disk.open(&path, Access::Write).unwrap().into(), &path, &key).unwrap();
        let mut scan = Scanner::up_to(&log, LogPosition::first(&header.authenticator), end).unwrap();
        assert_eq!(scan.file_len(), end - 100);
        assert!(!matches!(scan.next(), Ok(Scanned::Frame(_)) | Err(Error::Io { .. })));
    }
}
