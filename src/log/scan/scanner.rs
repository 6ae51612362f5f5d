//! Scanning with the key.

use super::raw::{Concurrency, RawScanner, ScanItem};
use crate::crypto::secret_vec::SecretVec;
use crate::format::frame::FrameHeader;
use crate::format::record::Manifest;
use crate::log::file::{LogFile, LogPosition};
use crate::{Error, Result};

/// Walks with the key: every frame it gives is authentic and in its place.
pub(crate) struct Scanner<'a> {
    pub(super) log: &'a LogFile,
    pub(super) walk: RawScanner<'a>,
    pub(super) tip: LogPosition,
    pub(super) text: SecretVec,
}

/// What a scan found at one place.
pub(crate) enum Scanned<'a> {
    Frame(OpenFrame<'a>),
    End,
    Torn { until: u64 },
}

/// A frame whose manifest was opened.
pub(crate) struct OpenFrame<'a> {
    pub(crate) offset: u64,
    pub(crate) header: FrameHeader,
    /// The frame from the end of its header on; its values are still sealed.
    pub(crate) body: &'a [u8],
    /// `None` in a close frame.
    pub(crate) manifest: Option<Manifest<'a>>,
}

impl<'a> Scanner<'a> {
    /// Begins behind `tip`.
    pub(crate) fn new(log: &'a LogFile, concurrency: Concurrency<'a>, tip: LogPosition) -> Result<Self> {
        let walk =
            RawScanner::new(&*log.file, &log.crc, concurrency, tip.end, tip.seq).map_err(log.io("look at"))?;
        Ok(Scanner { log, walk, tip, text: SecretVec::default() })
    }

    /// Behind the last whole frame.
    pub(crate) fn tip(&self) -> LogPosition {
        self.tip
    }

    /// How long the file was when it was looked at last.
    pub(crate) fn file_len(&self) -> u64 {
        self.walk.file_len()
    }

    /// # Errors
    /// `Corrupt` for damage, `Unauthentic` for what does not fit, `Io`.
    pub(crate) fn next(&mut self) -> Result<Scanned<'_>> {
        let Scanner { log, walk, tip, text } = self;
        let offset = tip.end;
        let (header, body) = match walk.next().map_err(log.io("read"))? {
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
