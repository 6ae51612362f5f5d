//! Scanning without the key: frames by their CRCs and sequence numbers, and what the bytes after them mean.
//!
//! The writer appends frames one after another, and writes into each frame's header how far the log was durable at
//! that moment: `durable_seq`, the last frame that a sync had covered. Until a sync covers a frame, a power cut
//! may leave any part of it on the disk, and leave later frames whole. If only zeros are left, which the writer
//! preallocates, the log ends. Other bytes that are no valid frame mean one of two things:
//!
//! - *Damage*, if the frame expected here was durable once: no crash takes back what a sync has covered. This is
//!   proven by a later frame header whose `durable_seq` reaches it, which FORMAT.md calls a witness, or by the
//!   mark or the base of the log. The last two also prove that a log which seems to end here was cut.
//! - *A torn tail* otherwise: what a crash leaves of an unfinished write. Damage to the frames that nothing
//!   vouches for looks the same, which is why recovery keeps a copy of the tail.
//!
//! A header that passes its CRC but that no writer writes, a whole frame with the wrong sequence number, and one
//! that is not the frame that mark or base name, are *tampering*: a crash does not leave such bytes.
//!
//! Alongside a writer, a frame that is half written can look like damage or tampering. So a reader without the
//! lock looks again, for up to 31 ms, before it reports either. At each look it reads the mark first, then the
//! length of the file, and then the frames: in another order, the mark could name a frame that was written after
//! the look.
//!
//! Implements the rules F1 to F7 of *Opening* in FORMAT.md, except for the seals, which `scanner.rs` adds. Only
//! reads. It never continues after damage by itself; `resync.rs` does that.

use std::io;
use std::ops::Range;
use std::time::Duration;

use super::window::{READ_LEN, Window};
use super::zeros::{is_zero, last_nonzero};
use crate::crypto::Tag;
use crate::format::SaltedCrc;
use crate::format::frame::{self, ALIGNMENT, FRAME_HEADER_LEN, FRAME_LEN_MAX, FrameHeader, ParsedFrameHeader};
use crate::format::mark::Mark;
use crate::format::position::LogPosition;
use crate::log::marks;
use crate::storage::{File, Storage};

/// Whether another process may be writing the file that is scanned.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Concurrency<'a> {
    /// The caller holds the lock, so the file does not change.
    Exclusive,
    /// What looks damaged may be half written, so it is read again a few times, after pauses. The storage takes
    /// the pauses.
    WithWriter(&'a dyn Storage),
}

/// What the scanner found at its offset.
pub(crate) enum ScanItem<'a> {
    /// A frame that passes both CRCs and has the expected sequence number.
    Frame { header: FrameHeader, body: &'a [u8] },
    /// The end of the log: only zeros follow, or nothing.
    End,
    /// A torn tail. `until` is the offset after its last non-zero byte.
    Torn { until: u64 },
    /// An invalid or missing frame that was durable once, as a later frame, the mark or the base proves.
    Damage(&'static str),
    /// Bytes with a right CRC that no writer writes here.
    Tampered(&'static str),
}

/// Scans frames by their CRCs and sequence numbers.
pub(crate) struct RawScanner<'a> {
    file: &'a dyn File,
    crc: &'a SaltedCrc,
    base: Option<LogPosition>,
    mark: Option<Mark>,
    pub(super) window: Window<'a>,
    concurrency: Concurrency<'a>,
    /// Where the next frame begins.
    pub(super) offset: u64,
    /// The sequence number of the frame before it.
    pub(super) seq: u64,
    /// How many places still looked damaged when there was no pause left.
    rechecks: u32,
    /// The zeros that the file ends with, if they have been looked for.
    zeros: Option<Range<u64>>,
    /// The headers that may be witnesses.
    witnesses: Witnesses<'a>,
    /// How many bytes of holes the last look for the last non-zero byte has skipped.
    holes_len: u64,
    /// How many bytes of bodies were read in vain. Once the budget is spent, no body matches its CRC.
    spent: u64,
}

impl<'a> RawScanner<'a> {
    /// Begins after the frame `seq`, which ends at `offset`. `base` is that of the log.
    pub(crate) fn new(
        file: &'a dyn File,
        crc: &'a SaltedCrc,
        base: Option<LogPosition>,
        concurrency: Concurrency<'a>,
        LogPosition { end: offset, seq, .. }: LogPosition,
    ) -> io::Result<Self> {
        let mark = marks::read(file, crc)?;
        let window = Window::new(file)?;
        let witnesses = Witnesses::new(window.beside());
        Ok(RawScanner {
            file,
            crc,
            base,
            mark,
            window,
            concurrency,
            offset,
            seq,
            rechecks: 0,
            zeros: None,
            witnesses,
            holes_len: 0,
            spent: 0,
        })
    }

    /// Saves reading the zeros that the file ends with, where this range still is its end. What a writer has
    /// written there since then counts as not yet written.
    pub(super) fn end_in(&mut self, zeros: Range<u64>) {
        self.zeros = Some(zeros).filter(|zeros| zeros.end == self.window.file_len);
    }

    /// Takes the file to end at `len`, if it is not shorter.
    pub(super) fn end_at(&mut self, len: u64) {
        self.window.file_len = self.window.file_len.min(len);
        self.witnesses = Witnesses::new(self.window.beside());
    }

    /// Where [`next`](Self::next) looks, in bytes from the start of the file.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// The length of the file when it was last queried.
    pub(crate) fn file_len(&self) -> u64 {
        self.window.file_len
    }

    /// The mark of the log when it was last read.
    pub(crate) fn mark(&self) -> Option<Mark> {
        self.mark
    }

    /// The last frame that the mark or the base proves to have been durable.
    pub(super) fn proven(&self) -> Option<LogPosition> {
        self.mark.map(|mark| mark.position).into_iter().chain(self.base).max_by_key(|position| position.seq)
    }

    /// Whether the mark or the base proves that the frame expected at the offset was durable.
    fn is_proven(&self) -> bool {
        self.proven().is_some_and(|proven| proven.seq > self.seq)
    }

    /// Returns what is at the offset, and moves past it if it is a frame. Any other item is returned again by the
    /// next call.
    ///
    /// # Errors
    /// `UnexpectedEof` if the file has become shorter than the frames that were returned.
    pub(crate) fn next(&mut self) -> io::Result<ScanItem<'_>> {
        let mut pauses = PAUSES_MS.iter();
        let item = loop {
            let item = self.classify();
            let is_doubtful = match &item {
                Ok(item) => matches!(item, ScanItem::Damage(_) | ScanItem::Tampered(_)),
                // A writer may be cutting off preallocated space or a failed write.
                Err(error) => error.kind() == io::ErrorKind::UnexpectedEof,
            };
            match (self.concurrency, pauses.next()) {
                (Concurrency::WithWriter(storage), Some(&pause))
                    if is_doubtful && self.rechecks < RECHECKS_MAX =>
                {
                    storage.sleep(Duration::from_millis(pause));
                }
                _ => {
                    self.rechecks += u32::from(is_doubtful);
                    break item?;
                }
            }
            self.mark = marks::read(self.file, self.crc)?;
            self.window.renew()?;
            self.zeros = None;
            self.witnesses = Witnesses::new(self.window.beside());
        };
        let ScanItem::Frame { header, .. } = item else { return Ok(item) };
        let (at, len) = (self.offset, header.len as usize);
        self.offset += u64::from(header.len);
        self.seq = header.seq;
        Ok(ScanItem::Frame { header, body: &self.window.bytes(at, len)?[FRAME_HEADER_LEN..] })
    }

    /// Finds out what is at the offset, without pauses and without moving. A frame comes without its body, so that
    /// `next` can read again.
    fn classify(&mut self) -> io::Result<ScanItem<'static>> {
        if self.offset > self.window.file_len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let what = match frame::parse_header(self.window.bytes(self.offset, FRAME_HEADER_LEN)?, self.crc) {
            ParsedFrameHeader::Implausible(what) => return Ok(ScanItem::Tampered(what)),
            ParsedFrameHeader::Plausible(header) => {
                if self.spent < self.budget() {
                    let frame = self.window.bytes(self.offset, header.len as usize)?;
                    let body = &frame[FRAME_HEADER_LEN..];
                    if header.body_checks(body, self.crc) {
                        let tag = header.stored_tag(body);
                        let item = self.check_place(header, tag);
                        if matches!(item, ScanItem::Tampered(_)) {
                            self.spent += u64::from(header.len);
                        }
                        return Ok(item);
                    }
                    self.spent += frame.len() as u64;
                }
                "the frame's body does not match its CRC"
            }
            ParsedFrameHeader::Absent => "the frame's header does not match its CRC",
        };
        let until = self.last_nonzero_end()?;
        if until == self.offset {
            let what = "the log ends here, but continued once, as its mark or base record shows";
            return Ok(if self.is_proven() { ScanItem::Damage(what) } else { ScanItem::End });
        }
        let was_durable = self.is_proven() || self.has_witness(until)?;
        Ok(if was_durable { ScanItem::Damage(what) } else { ScanItem::Torn { until } })
    }

    /// Whether a whole frame, whose manifest tag is `tag`, is the one that belongs at the offset.
    fn check_place(&self, header: FrameHeader, tag: Option<Tag>) -> ScanItem<'static> {
        if header.seq != self.seq + 1 {
            return ScanItem::Tampered("the frame does not have the expected seq");
        }
        let end = self.offset + u64::from(header.len);
        let is_another =
            |named: LogPosition| named.seq == header.seq && (named.end, Some(named.chain)) != (end, tag);
        if self.base.is_some_and(is_another) {
            return ScanItem::Tampered("the frame is not the one that the base record names");
        }
        if self.mark.is_some_and(|mark| is_another(mark.position)) {
            return ScanItem::Tampered("the frame is not the one that the mark names");
        }
        ScanItem::Frame { header, body: &[] }
    }

    /// The offset after the last non-zero byte, or the current offset if only zeros follow it.
    pub(super) fn last_nonzero_end(&mut self) -> io::Result<u64> {
        if let Some(zeros) = &self.zeros {
            return Ok(zeros.start.max(self.offset));
        }
        let mut end = self.offset;
        let mut at = self.offset;
        let mut holes_len = 0;
        loop {
            let bytes = self.window.bytes(at, READ_LEN)?;
            if bytes.is_empty() {
                self.zeros = Some(end..at);
                self.holes_len = holes_len;
                return Ok(end);
            }
            if let Some(last) = last_nonzero(bytes) {
                end = at + last as u64 + 1;
            }
            at += bytes.len() as u64;
            if at - end >= HOLE_LEN_MIN {
                let data = self.window.skip_hole(at);
                holes_len += data - at;
                at = data;
            }
        }
    }

    /// How many bytes may be read in vain. A crafted file could have a header every few bytes, each of which
    /// claims all the bytes that follow. Frames do not overlap, so in a file that is only damaged, what is read in
    /// vain is at most its length. A short file has enough for many tries.
    ///
    /// A hole costs the one who makes it nothing, so beyond the length of one frame, holes that were skipped buy
    /// nothing. A writer makes none; a file system that has lost a part of a frame may show one.
    pub(super) fn budget(&self) -> u64 {
        let file_len = self.window.file_len;
        let data_len = file_len.saturating_sub(self.holes_len).saturating_add(FRAME_LEN_MAX as u64);
        file_len.min(data_len).saturating_mul(8).saturating_add(1 << 20)
    }

    /// Moves back to `offset`, after the frame `seq`. The frame that was read there, if it was whole, was read in
    /// vain.
    pub(super) fn move_back_to(&mut self, offset: u64, seq: u64) {
        self.spent += self.offset.saturating_sub(offset);
        (self.offset, self.seq) = (offset, seq);
    }

    /// Whether a header after the current offset proves that the frame expected here was durable.
    fn has_witness(&mut self, until: u64) -> io::Result<bool> {
        self.witnesses.reach(self.seq + 1, self.offset, until, self.crc)
    }

    /// Returns the first plausible header at `from` or later that is wanted, and its offset. From `until` on,
    /// there must be only zeros.
    pub(super) fn find_header(
        &mut self,
        from: u64,
        until: u64,
        is_wanted: impl Fn(&FrameHeader) -> bool,
    ) -> io::Result<Option<(u64, FrameHeader)>> {
        find_header(&mut self.window, self.crc, from, until, is_wanted)
    }
}

/// As [`RawScanner::find_header`].
fn find_header(
    window: &mut Window<'_>,
    crc: &SaltedCrc,
    from: u64,
    until: u64,
    is_wanted: impl Fn(&FrameHeader) -> bool,
) -> io::Result<Option<(u64, FrameHeader)>> {
    let mut at = from;
    loop {
        let bytes = window.bytes(at, READ_LEN)?;
        if bytes.len() < FRAME_HEADER_LEN || at >= until {
            return Ok(None);
        }
        let last = bytes.len() - FRAME_HEADER_LEN;
        let last = usize::try_from(until - at).map_or(last, |left| last.min(left));
        for candidate in (0..=last).step_by(ALIGNMENT) {
            // An implausible header is passed over: in random bytes, one CRC in 2^32 is right by chance.
            let bytes = &bytes[candidate..];
            if frame::may_be_header(bytes)
                && let ParsedFrameHeader::Plausible(header) = frame::parse_header(bytes, crc)
                && is_wanted(&header)
            {
                return Ok(Some((at + candidate as u64, header)));
            }
        }
        let is_hole = is_zero(bytes);
        // Continue with the first candidate whose header was not in memory as a whole.
        at += (last - last % ALIGNMENT + ALIGNMENT) as u64;
        if is_hole {
            // A header begins at a multiple of 8, and at most as far before the data as it is long.
            let data = window.skip_hole(at).saturating_sub(FRAME_HEADER_LEN as u64);
            at = at.max(data - data % ALIGNMENT as u64);
        }
    }
}

/// The plausible headers of the file that can still prove something, found by one search from front to back.
///
/// A header proves that the frames up to its `durable_seq` were durable. So of two headers, the first one is of no
/// use if the second one proves as much, and only a falling sequence is kept. Each byte of the file is searched
/// once, however many places ask for a witness.
struct Witnesses<'a> {
    window: Window<'a>,
    /// Offset and `durable_seq`: the offsets rise, and the others fall.
    kept: Vec<(u64, u64)>,
    /// Which part of the file has been searched.
    searched: Range<u64>,
}

impl<'a> Witnesses<'a> {
    fn new(window: Window<'a>) -> Self {
        Witnesses { window, kept: Vec::new(), searched: 0..0 }
    }

    /// Whether a header after `offset` proves that the frame `seq`, which is expected there, was durable. From
    /// `until` on, there are only zeros.
    fn reach(&mut self, seq: u64, offset: u64, until: u64, crc: &SaltedCrc) -> io::Result<bool> {
        let from = offset + ALIGNMENT as u64;
        if from < self.searched.start || self.searched.is_empty() {
            self.kept.clear();
            self.searched = from..from;
        }
        loop {
            let first = self.kept.partition_point(|&(at, _)| at <= offset);
            if self.kept.get(first).is_some_and(|&(_, durable_seq)| durable_seq >= seq) {
                return Ok(true);
            }
            let found = find_header(&mut self.window, crc, self.searched.end, until, |_| true)?;
            let Some((at, FrameHeader { durable_seq, .. })) = found else {
                self.searched.end = self.searched.end.max(until);
                return Ok(false);
            };
            self.searched.end = at + ALIGNMENT as u64;
            let useless = self.kept.iter().rev().take_while(|&&(_, kept)| kept <= durable_seq).count();
            self.kept.truncate(self.kept.len() - useless);
            self.kept.push((at, durable_seq));
        }
    }
}

/// The pauses at one doubtful place, together 31 ms: enough for a write of the largest frame to finish.
pub(crate) const PAUSES_MS: [u64; 5] = [1, 2, 4, 8, 16];
/// After this many doubtful places, the scanner pauses no more: a write in progress does not explain them, and the
/// pauses would add up.
const RECHECKS_MAX: u32 = 8;

/// After this many zeros, the file system is asked for the end of a hole. Preallocated space is mostly shorter.
const HOLE_LEN_MIN: u64 = 1 << 20;
