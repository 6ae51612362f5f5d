//! Continuing after damage. `verify` and salvage are built on it; opening a store never uses it.
//!
//! After a fault, the reader tries these in turn:
//!
//! 1. *The frame at the fault, by its seal.* CRCs and padding are not sealed, so the manifest may open even if
//!    they are wrong. The frame is then authentic, and so is each of its values that opens. If only its tag is
//!    damaged, the right tag can be computed, and is confirmed if the next manifest opens with it.
//! 2. *A later frame.* A manifest opens only with the tag of the manifest before it, which was in the bytes that
//!    are damaged. The reader looks for a plausible header at each multiple of 8. As the tag, it tries the one of
//!    the last authentic frame, and the one stored in a frame that ends, by its header, where this one begins. If
//!    the manifest opens, it is authentic: without the key, no such tag can be made. The frames in between are
//!    reported as a gap.
//!
//! If the tag or the header before it was destroyed, the frame after it cannot be authenticated even if it is
//! whole, and it is lost too: it is reported as unproven. But that frame stores its own tag, so the frame that
//! follows it can be found.
//!
//! Implements *Reading past damage*, rules G1 to G4, of *Opening* in FORMAT.md.

use std::collections::HashMap;
use std::io;

use super::raw::{Concurrency, RawScanner};
use super::scanner::{OpenFrame, Scanned, Scanner};
use crate::crypto::{TAG_LEN, Tag};
use crate::format::frame::{self, ALIGNMENT, FRAME_HEADER_LEN, FRAME_LEN_MIN, FrameHeader};
use crate::format::mark::Mark;
use crate::format::position::LogPosition;
use crate::log::file::LogFile;
use crate::storage;
use crate::{Error, Result};

/// Scans the whole log with the key, whatever is damaged. Every [`ResyncItem::Frame`] is authentic, and their
/// sequence numbers rise.
pub(crate) struct Resync<'a> {
    scanner: Scanner<'a>,
    state: State,
    /// Where tags are stored in the present gap, by what would follow them: the offset and the seq of a frame.
    tags: HashMap<(u64, u64), u64>,
    /// How many bytes the rules G1 to G3 have processed, up to the budget of the raw scanner.
    spent: u64,
}

#[derive(Clone, Copy)]
enum State {
    /// The bytes before the tip are authentic. The next frame is expected at the tip.
    Chained,
    /// There is a fault at the tip. The frame there has not been tried by its seal.
    Broken,
    /// The frame at the tip is lost. The search continues at `from`.
    Searching {
        from: u64,
    },
    Ended,
}

/// What [`Resync`] found, in the order of the file.
pub(crate) enum ResyncItem<'a> {
    /// An authentic frame. If it is not whole, its CRCs, its padding, its tag or some of its values are damaged.
    Frame { frame: OpenFrame<'a>, is_whole: bool },
    /// The error with which opening the store would fail here: `Corrupt` or `Unauthentic`.
    Fault(Error),
    /// A frame with right CRCs that cannot be authenticated, because the tag before it is lost. It is part of the
    /// gap that follows, and its manifest may be forged.
    Unproven(OpenFrame<'a>),
    /// Bytes without an authentic frame.
    Gap(Gap),
    /// The end of the log, after which nothing follows. `torn_until` is as in [`Scanned::Torn`].
    End { torn_until: Option<u64> },
}

/// A range of bytes in which frames are missing. It may be longer than the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gap {
    pub(crate) offset: u64,
    pub(crate) end: u64,
    /// The first missing frame.
    pub(crate) first_seq: u64,
    /// The last missing frame. `None` if no authentic frame follows, so that it is unknown. Less than `first_seq`
    /// if no frame is missing.
    pub(crate) last_seq: Option<u64>,
}

impl<'a> Resync<'a> {
    /// Begins after `tip`.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn new(log: &'a LogFile, concurrency: Concurrency<'a>, tip: LogPosition) -> Result<Self> {
        let scanner = Scanner::new(log, concurrency, tip)?;
        Ok(Resync { scanner, state: State::Chained, tags: HashMap::new(), spent: 0 })
    }

    /// The position after the last frame that was returned, or the end of the last gap.
    pub(crate) fn tip(&self) -> LogPosition {
        self.scanner.tip
    }

    /// The mark of the log when it was last read.
    pub(crate) fn mark(&self) -> Option<Mark> {
        self.scanner.raw.mark()
    }

    /// The length of the file when it was last queried.
    pub(crate) fn file_len(&self) -> u64 {
        self.scanner.file_len()
    }

    /// Returns the next item. After the end, it returns the end again.
    ///
    /// # Errors
    /// Only `Io`. Damage and tampering are returned as [`ResyncItem::Fault`].
    pub(crate) fn next(&mut self) -> Result<ResyncItem<'_>> {
        match self.state {
            State::Chained => self.follow(),
            State::Broken => {
                // The raw scanner may have moved past the frame, if only its seal is broken.
                let LogPosition { end, seq, .. } = self.scanner.tip;
                self.scanner.raw.move_back_to(end, seq);
                match self.open_by_seal()? {
                    Some(header) => Ok(ResyncItem::Frame { frame: self.frame_at(end, header)?, is_whole: false }),
                    None => {
                        self.note_tag_at_tip()?;
                        self.search(end)
                    }
                }
            }
            State::Searching { from } => self.search(from),
            State::Ended => Ok(ResyncItem::End { torn_until: None }),
        }
    }

    /// Scans the next frame by the rules F.
    fn follow(&mut self) -> Result<ResyncItem<'_>> {
        match self.scanner.next() {
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

    /// Rules G1 and G2: returns the frame at the tip, and moves past it, if its manifest is authentic. CRCs and
    /// padding do not matter.
    ///
    /// The lengths come from a header that nothing has checked. So what they cost is spent before it is done, and
    /// only the manifest is read.
    fn open_by_seal(&mut self) -> Result<Option<FrameHeader>> {
        let Scanner { log, raw, tip, text } = &mut self.scanner;
        let (sealer, read_error) = (&log.sealer, log.io("read"));
        let at = tip.end;
        // Finds the holes, without which the budget is too high.
        raw.last_nonzero_end().map_err(&read_error)?;
        let (budget, file_len) = (raw.budget(), raw.file_len());
        let head = raw.window.bytes(at, FRAME_HEADER_LEN).map_err(&read_error)?;
        let Some(header) = frame::parse_unchecked(head).filter(|header| header.seq == tip.seq + 1) else {
            return Ok(None);
        };
        let (end, manifest_end) = (at + u64::from(header.len), manifest_end(&header));
        if end > file_len || !spend(&mut self.spent, budget, manifest_end as u64) {
            return Ok(None);
        }
        let frame = raw.window.bytes(at, manifest_end).map_err(&read_error)?;
        let body = frame.get(FRAME_HEADER_LEN..).unwrap_or_default();
        let Some(stored) = header.stored_tag(body) else { return Ok(None) };
        let mut chain = stored;
        if header.unseal_manifest(body, &tip.chain, &stored, sealer, text).is_err() {
            // Perhaps only the tag is damaged. Then the next manifest, which is sealed with it, confirms the
            // computed one. It is read without the window, which may be far from it.
            let head = read_at(log, end, FRAME_HEADER_LEN)?;
            let Some(next) = frame::parse_unchecked(&head).filter(|next| next.seq == header.seq + 1) else {
                return Ok(None);
            };
            let next_manifest_end = self::manifest_end(&next);
            let cost = 2 * manifest_end + next_manifest_end;
            if end + next_manifest_end as u64 > file_len || !spend(&mut self.spent, budget, cost as u64) {
                return Ok(None);
            }
            let Some(expected) = header.expected_tag(body, &tip.chain, sealer, text) else { return Ok(None) };
            let next_frame = read_at(log, end, next_manifest_end)?;
            let next_body = next_frame.get(FRAME_HEADER_LEN..).unwrap_or_default();
            let is_next = next
                .stored_tag(next_body)
                .is_some_and(|tag| next.unseal_manifest(next_body, &expected, &tag, sealer, text).is_ok());
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

    /// The frame at `offset`, whose decrypted manifest is in the scanner's `text`.
    fn frame_at(&mut self, offset: u64, header: FrameHeader) -> Result<OpenFrame<'_>> {
        let Scanner { log, raw, text, .. } = &mut self.scanner;
        let frame = raw.window.bytes(offset, header.len as usize).map_err(log.io("read"))?;
        let body = frame.get(FRAME_HEADER_LEN..).unwrap_or_default();
        // Cannot fail: the caller has parsed this text before.
        let manifest = header.parse_manifest(text).map_err(|what| Error::unauthentic(&log.path, offset, what))?;
        Ok(OpenFrame { offset, header, body, manifest })
    }

    /// Rule G3: looks for the next frame that can be authenticated, from `from` on.
    fn search(&mut self, mut from: u64) -> Result<ResyncItem<'_>> {
        let tip = self.scanner.tip;
        let until = self.scanner.raw.last_nonzero_end().map_err(self.scanner.log.io("read"))?;
        // The file may end before frames that it once had.
        let proven_end =
            self.scanner.raw.proven().filter(|proven| proven.seq > tip.seq).map_or(0, |proven| proven.end);
        let (offset, first_seq) = (tip.end, tip.seq + 1);
        loop {
            let Scanner { log, raw, .. } = &mut self.scanner;
            let is_new = |header: &FrameHeader| header.seq > tip.seq;
            let found = raw.find_header(from, until, is_new).map_err(log.io("read"))?;
            let Some((at, header)) = found else {
                self.state = State::Ended;
                let end = until.max(proven_end);
                return Ok(ResyncItem::Gap(Gap { offset, end, first_seq, last_seq: None }));
            };
            from = at + ALIGNMENT as u64;
            // `open_by_seal` has tried the frame that was expected at the tip.
            let is_worth_a_try = (at, header.seq) != (offset, first_seq) && {
                let cost = 2 * manifest_end(&header) as u64 + u64::from(header.len);
                spend(&mut self.spent, raw.budget(), cost)
            };
            let chain = if is_worth_a_try { self.chain_before(at, &header)? } else { None };
            if let Some(chain) = chain {
                let seq = header.seq - 1;
                self.scanner.tip = LogPosition { end: at, seq, chain };
                self.scanner.raw.move_to(at, seq);
                self.state = State::Chained;
                self.tags.clear();
                return Ok(ResyncItem::Gap(Gap { offset, end: at, first_seq, last_seq: Some(seq) }));
            }
            let tag_at = at + (FRAME_LEN_MIN - TAG_LEN) as u64 + u64::from(header.manifest_len);
            self.tags.entry((at + u64::from(header.len), header.seq + 1)).or_insert(tag_at);
            if is_worth_a_try && self.decrypt_unproven(at, &header)? {
                self.state = State::Searching { from };
                return Ok(ResyncItem::Unproven(self.frame_at(at, header)?));
            }
        }
    }

    /// Notes where the tag of the lost frame at the tip is, if the lengths in its header are right.
    fn note_tag_at_tip(&mut self) -> Result<()> {
        let Scanner { log, raw, tip, .. } = &mut self.scanner;
        let head = raw.window.bytes(tip.end, FRAME_HEADER_LEN).map_err(log.io("read"))?;
        if let Some((tag, end)) = frame::tag_and_end(head) {
            self.tags.insert((tip.end + end, tip.seq + 2), tip.end + tag);
        }
        Ok(())
    }

    /// Returns the tag that the frame at `at` is chained to, if that is the tip's tag, or the one stored in a
    /// frame that ends there.
    fn chain_before(&mut self, at: u64, header: &FrameHeader) -> Result<Option<Tag>> {
        let Scanner { log, raw, tip, text } = &mut self.scanner;
        let read_error = log.io("read");
        let mut chains = vec![tip.chain];
        if let Some(&tag_at) = self.tags.get(&(at, header.seq)) {
            let tag = raw.window.bytes(tag_at, TAG_LEN).map_err(&read_error)?;
            chains.extend(tag.first_chunk().copied());
        }
        let frame = raw.window.bytes(at, manifest_end(header)).map_err(&read_error)?;
        let body = frame.get(FRAME_HEADER_LEN..).unwrap_or_default();
        let Some(tag) = header.stored_tag(body) else { return Ok(None) };
        Ok(chains.into_iter().find(|chain| header.unseal_manifest(body, chain, &tag, &log.sealer, text).is_ok()))
    }

    /// Decrypts the manifest of the frame at `at` into `text` without authenticating it. Returns whether the frame
    /// passes its CRC and the manifest parses.
    fn decrypt_unproven(&mut self, at: u64, header: &FrameHeader) -> Result<bool> {
        let Scanner { log, raw, text, .. } = &mut self.scanner;
        let frame = raw.window.bytes(at, header.len as usize).map_err(log.io("read"))?;
        let Some(body) = frame.get(FRAME_HEADER_LEN..) else { return Ok(false) };
        Ok(header.body_checks(body, &log.crc) && header.read_unproven(body, &log.sealer, text).is_some())
    }
}

/// Adds `cost` to what is spent. Returns `false`, and adds nothing, if the budget does not allow it.
fn spend(spent: &mut u64, budget: u64, cost: u64) -> bool {
    let is_allowed = budget.saturating_sub(*spent) >= cost;
    if is_allowed {
        *spent += cost;
    }
    is_allowed
}

/// Where the manifest and its tag end, counted from the beginning of the frame.
fn manifest_end(header: &FrameHeader) -> usize {
    FRAME_LEN_MIN + header.manifest_len as usize
}

/// The `len` bytes at `offset`, or fewer if the file ends before.
fn read_at(log: &LogFile, offset: u64, len: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    let filled = storage::read_at_most(&*log.file, &mut bytes, offset).map_err(log.io("read"))?;
    bytes.truncate(filled);
    Ok(bytes)
}

impl RawScanner<'_> {
    /// Without the key: moves to the next plausible header with a higher sequence number, if there is one. Returns
    /// whether there is.
    pub(crate) fn skip_to_next_frame(&mut self) -> io::Result<bool> {
        let (offset, seq) = (self.offset, self.seq);
        let until = self.last_nonzero_end()?;
        let is_new = |header: &FrameHeader| header.seq > seq;
        let mut found = self.find_header(offset, until, is_new)?;
        // Skip the frame that is expected at the offset: its fault has been reported.
        if found.is_some_and(|(at, header)| at == offset && header.seq == seq + 1) {
            found = self.find_header(offset + ALIGNMENT as u64, until, is_new)?;
        }
        if let Some((at, header)) = found {
            self.move_to(at, header.seq - 1);
        }
        Ok(found.is_some())
    }

    /// Continues as if the frame `seq` ended at `offset`.
    fn move_to(&mut self, offset: u64, seq: u64) {
        (self.offset, self.seq) = (offset, seq);
    }
}
