//! Going on behind damage. Implements *Reading behind damage* of FORMAT.md; `verify` and salvage are built on it.
//!
//! A manifest opens only with the tag before it. Where that was in damaged bytes, the frame is believed if the tag
//! it was sealed with still stands somewhere in them: nobody without the key can put it there.

use std::io;

use super::raw::{Concurrency, RawScanner};
use super::scanner::{OpenFrame, Scanned, Scanner};
use super::window::READ_LEN;
use crate::crypto::{TAG_LEN, Tag};
use crate::format::chain::ChainProbe;
use crate::format::frame::{self, ALIGNMENT, FRAME_HEADER_LEN, FRAME_LEN_MIN, FrameHeader};
use crate::log::file::{LogFile, LogPosition};
use crate::{Error, Result};

impl RawScanner<'_> {
    /// Without the key: goes on where the next frame of a higher number seems to begin. Returns whether there is
    /// one.
    pub(crate) fn skip_to_next_frame(&mut self) -> io::Result<bool> {
        let (offset, seq) = (self.offset, self.seq);
        let until = self.last_nonzero_end()?;
        let is_new = |header: &FrameHeader| header.seq > seq;
        let mut found = self.find_header(offset, until, is_new)?;
        // The frame that is expected where the walk stands was looked at.
        if found.is_some_and(|(at, header)| at == offset && header.seq == seq + 1) {
            found = self.find_header(offset + ALIGNMENT as u64, until, is_new)?;
        }
        if let Some((at, header)) = found {
            self.move_to(at, header.seq - 1);
        }
        Ok(found.is_some())
    }

    /// As if the frame `seq` ended at `offset`.
    fn move_to(&mut self, offset: u64, seq: u64) {
        (self.offset, self.seq) = (offset, seq);
    }
}

/// Walks with the key over everything, whatever is damaged. Every frame it gives is authentic, and their numbers
/// rise.
pub(crate) struct Resync<'a> {
    scan: Scanner<'a>,
    state: State,
    /// How many bytes may still be worked on in vain.
    effort: u64,
}

#[derive(Clone, Copy)]
enum State {
    /// The next frame is at the tip.
    Chained,
    /// Something else is at the tip; it was not tried by its seal alone.
    Broken,
    /// Nothing at the tip is of use. Looks for a place to go on, from here.
    Searching {
        from: u64,
    },
    Ended,
}

/// What a walk over everything comes by, in the order of the file.
pub(crate) enum ResyncItem<'a> {
    /// An authentic frame. If it is not whole, its checksums, its padding or its tag are wrong, or one of its
    /// values.
    Frame { frame: OpenFrame<'a>, is_whole: bool },
    /// `Corrupt` or `Unauthentic`: what opening the store would say here.
    Fault(Error),
    /// A frame that is whole by its checksums, but the tag before it is lost: nothing says who wrote it. It lies
    /// in the gap that follows.
    Unproven(OpenFrame<'a>),
    /// Bytes without an authentic frame. Comes before the frame behind it.
    Gap(Gap),
    /// The end, behind a torn tail where there is one. The walk is over.
    End { torn_until: Option<u64> },
}

/// Where frames are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gap {
    pub(crate) offset: u64,
    pub(crate) end: u64,
    pub(crate) first_seq: u64,
    /// `None` where nothing behind it tells; before `first_seq` where no frame is missing.
    pub(crate) last_seq: Option<u64>,
}

/// Bounds the time that a file can take which was made to take long: all work in vain together takes as long as
/// reading the file so many times. Any one frame is within it.
const EFFORT_FACTOR: u64 = 256;
const EFFORT_MIN: u64 = 1 << 20;

impl<'a> Resync<'a> {
    /// Begins behind `tip`.
    pub(crate) fn new(log: &'a LogFile, concurrency: Concurrency<'a>, tip: LogPosition) -> Result<Self> {
        let scan = Scanner::new(log, concurrency, tip)?;
        let effort = scan.file_len().saturating_mul(EFFORT_FACTOR).saturating_add(EFFORT_MIN);
        Ok(Resync { scan, state: State::Chained, effort })
    }

    /// Behind the last frame that was given.
    pub(crate) fn tip(&self) -> LogPosition {
        self.scan.tip
    }

    /// How long the file was when it was looked at last.
    pub(crate) fn file_len(&self) -> u64 {
        self.scan.file_len()
    }

    /// # Errors
    /// `Io` alone: what is wrong with the file is a piece of it.
    pub(crate) fn next(&mut self) -> Result<ResyncItem<'_>> {
        match self.state {
            State::Chained => self.follow(),
            State::Broken => {
                // The walk may have stepped over a frame whose seal did not fit.
                let LogPosition { end, seq, .. } = self.scan.tip;
                self.scan.raw.move_to(end, seq);
                match self.open_by_seal()? {
                    Some(header) => Ok(ResyncItem::Frame { frame: self.opened(end, header)?, is_whole: false }),
                    None => self.search(end),
                }
            }
            State::Searching { from } => self.search(from),
            State::Ended => Ok(ResyncItem::End { torn_until: None }),
        }
    }

    fn follow(&mut self) -> Result<ResyncItem<'_>> {
        match self.scan.next() {
            Ok(Scanned::Frame(frame)) => Ok(ResyncItem::Frame { frame, is_whole: true }),
            Ok(Scanned::End) => Ok(ResyncItem::End { torn_until: None }),
            Ok(Scanned::Torn { until }) => Ok(ResyncItem::End { torn_until: Some(until) }),
            Err(error @ (Error::Corrupt { .. } | Error::Unauthentic { .. })) => {
                self.state = State::Broken;
                Ok(ResyncItem::Fault(error))
            }
            Err(error) => Err(error),
        }
    }

    /// Steps over the frame at the tip, if it is authentic, whatever its CRCs and its padding are. Where its
    /// manifest's tag is damaged, the next frame's seal can tell that the tag which the manifest must have had is
    /// the right one.
    fn open_by_seal(&mut self) -> Result<Option<FrameHeader>> {
        let Scanner { log, raw, tip, text } = &mut self.scan;
        let (window, sealer) = (&mut raw.window, &log.sealer);
        let at = tip.end;
        let head = window.bytes(at, FRAME_HEADER_LEN).map_err(log.io("read"))?;
        let Some(header) = frame::parse_unchecked(head).filter(|header| header.seq == tip.seq + 1) else {
            return Ok(None);
        };
        let end = at + u64::from(header.len);
        if end > window.file_len {
            return Ok(None);
        }
        let body = &window.bytes(at, header.len as usize).map_err(log.io("read"))?[FRAME_HEADER_LEN..];
        let Some(stored) = header.stored_tag(body) else { return Ok(None) };
        let mut chain = stored;
        if header.unseal_manifest(body, &tip.chain, &stored, sealer, text).is_err() {
            let Some(expected) = header.expected_tag(body, &tip.chain, sealer, text) else { return Ok(None) };
            let next = window.bytes(end, FRAME_HEADER_LEN).map_err(log.io("read"))?;
            let Some(next) = frame::parse_unchecked(next).filter(|next| next.seq == header.seq + 1) else {
                return Ok(None);
            };
            let next_len = FRAME_LEN_MIN + next.manifest_len as usize;
            let next_body = window.bytes(end, next_len).map_err(log.io("read"))?;
            let next_body = next_body.get(FRAME_HEADER_LEN..).unwrap_or_default();
            let is_next = next
                .stored_tag(next_body)
                .is_some_and(|tag| next.unseal_manifest(next_body, &expected, &tag, sealer, text).is_ok());
            let body = window.bytes(at, header.len as usize).map_err(log.io("read"))?;
            let body = body.get(FRAME_HEADER_LEN..).unwrap_or_default();
            if !is_next || header.unseal_manifest(body, &tip.chain, &expected, sealer, text).is_err() {
                return Ok(None);
            }
            chain = expected;
        }
        *tip = LogPosition { end, seq: header.seq, chain };
        raw.move_to(end, header.seq);
        self.state = State::Chained;
        Ok(Some(header))
    }

    /// The frame at `offset`, whose manifest is in the scan's text.
    fn opened(&mut self, offset: u64, header: FrameHeader) -> Result<OpenFrame<'_>> {
        let Scanner { log, raw, text, .. } = &mut self.scan;
        let frame = raw.window.bytes(offset, header.len as usize).map_err(log.io("read"))?;
        let body = frame.get(FRAME_HEADER_LEN..).unwrap_or_default();
        // It was parsed before.
        let manifest = header.parse_manifest(text).map_err(|what| Error::unauthentic(&log.path, offset, what))?;
        Ok(OpenFrame { offset, header, body, manifest })
    }

    /// Looks for a frame to go on with, from `from` on.
    fn search(&mut self, mut from: u64) -> Result<ResyncItem<'_>> {
        let tip = self.scan.tip;
        let until = self.scan.raw.last_nonzero_end().map_err(self.scan.log.io("read"))?;
        let (offset, first_seq) = (tip.end, tip.seq + 1);
        loop {
            let Scanner { log, raw, .. } = &mut self.scan;
            let is_new = |header: &FrameHeader| header.seq > tip.seq;
            let found = raw.find_header(from, until, is_new).map_err(log.io("read"))?;
            let Some((at, header)) = found else {
                self.state = State::Ended;
                return Ok(ResyncItem::Gap(Gap { offset, end: until, first_seq, last_seq: None }));
            };
            from = at + ALIGNMENT as u64;
            let was_tried = at == tip.end && header.seq == first_seq;
            if was_tried || !self.may_try(&header, at - tip.end) {
                continue;
            }
            if let Some(chain) = self.chain_before(at, &header)? {
                let seq = header.seq - 1;
                self.scan.tip = LogPosition { end: at, seq, chain };
                self.scan.raw.move_to(at, seq);
                self.state = State::Chained;
                return Ok(ResyncItem::Gap(Gap { offset, end: at, first_seq, last_seq: Some(seq) }));
            }
            if self.reads_unproven(at, &header)? {
                self.state = State::Searching { from };
                return Ok(ResyncItem::Unproven(self.opened(at, header)?));
            }
        }
    }

    fn may_try(&mut self, header: &FrameHeader, gap_len: u64) -> bool {
        let sealed_len = u64::from(header.manifest_len) + FRAME_LEN_MIN as u64;
        let cost = sealed_len * ChainProbe::SEALINGS + gap_len + u64::from(header.len);
        let left = self.effort.checked_sub(cost);
        self.effort = left.unwrap_or(self.effort);
        left.is_some()
    }

    /// The tag that the frame at `at` was chained to, if it is the tip's, or stands anywhere between the tip and
    /// `at`.
    fn chain_before(&mut self, at: u64, header: &FrameHeader) -> Result<Option<Tag>> {
        let Scanner { log, raw, tip, text } = &mut self.scan;
        let window = &mut raw.window;
        let manifest_end = FRAME_LEN_MIN + header.manifest_len as usize;
        let frame = window.bytes(at, manifest_end).map_err(log.io("read"))?;
        let probe = frame.get(FRAME_HEADER_LEN..).and_then(|body| ChainProbe::new(header, body, &log.sealer));
        let Some(probe) = probe else { return Ok(None) };
        let mut found = Some(tip.chain).filter(|chain| probe.fits(chain));
        let mut start = tip.end;
        while found.is_none() && at - start >= TAG_LEN as u64 {
            let len = usize::try_from(at - start).map_or(READ_LEN, |left| left.min(READ_LEN));
            let bytes = window.bytes(start, len).map_err(log.io("read"))?;
            let mut chains = bytes.windows(TAG_LEN).filter_map(|bytes| bytes.first_chunk());
            found = chains.find(|chain| probe.fits(chain)).copied();
            start += (len - TAG_LEN + 1) as u64;
        }
        let Some(chain) = found else { return Ok(None) };
        let frame = window.bytes(at, manifest_end).map_err(log.io("read"))?;
        let body = frame.get(FRAME_HEADER_LEN..).unwrap_or_default();
        let is_sealed = header
            .stored_tag(body)
            .is_some_and(|tag| header.unseal_manifest(body, &chain, &tag, &log.sealer, text).is_ok());
        Ok(is_sealed.then_some(chain))
    }

    /// Whether the frame at `at` is whole by its checksums, and its manifest says something.
    fn reads_unproven(&mut self, at: u64, header: &FrameHeader) -> Result<bool> {
        let Scanner { log, raw, text, .. } = &mut self.scan;
        let frame = raw.window.bytes(at, header.len as usize).map_err(log.io("read"))?;
        let Some(body) = frame.get(FRAME_HEADER_LEN..) else { return Ok(false) };
        Ok(header.body_checks(body, &log.crc) && header.read_unproven(body, &log.sealer, text).is_some())
    }
}
