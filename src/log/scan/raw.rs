//! Walking over a log frame by frame, and telling a torn tail from damage. Reads only.
//!
//! Implements the rows of *Opening* in FORMAT.md that look at frames. [`RawScanner`] needs no key and knows CRCs and
//! numbers; [`Scanner`] adds the seals. Recovery, snapshots and `verify` are all built on these two. What goes on behind
//! damage is in `walk/resync.rs`.

use std::io;
use std::time::Duration;

use super::window::{READ_LEN, Window};
use crate::format::SaltedCrc;
use crate::format::frame::{self, ALIGNMENT, FRAME_HEADER_LEN, FrameHeader, ParsedFrameHeader};
use crate::storage::{File, Storage};

/// Whether another process may be writing the file that is scanned.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Concurrency<'a> {
    /// The caller holds the lock: the file does not change.
    Exclusive,
    /// What looks damaged may be half written. It is looked at again a few times, after pauses that the storage takes.
    WithWriter(&'a dyn Storage),
}

/// What lies at one place of the log.
pub(crate) enum ScanItem<'a> {
    /// A whole frame by its CRCs, with the number that was expected.
    Frame { header: FrameHeader, body: &'a [u8] },
    /// Nothing but zeros up to the end of the file.
    End,
    /// Bytes that no later frame vouches for, up to the last one that is not zero.
    Torn { until: u64 },
    /// Bytes that a later frame proves to have been durable.
    Damage(&'static str),
    /// Bytes that check, but that no writer put there.
    Tampered(&'static str),
}

/// Walks by CRCs and numbers.
pub(crate) struct RawScanner<'a> {
    crc: &'a SaltedCrc,
    pub(super) window: Window<'a>,
    concurrency: Concurrency<'a>,
    pub(super) offset: u64,
    pub(super) seq: u64,
    /// How often something doubtful was looked at again.
    rechecks: u32,
    /// Behind the last byte of the file that is not zero, if that was looked for.
    nonzero_end: Option<u64>,
    /// The header that vouched last: where it is, and for what.
    witness: Option<(u64, u64)>,
}

impl<'a> RawScanner<'a> {
    /// Begins behind the frame `seq`, which ends at `offset`.
    pub(crate) fn new(
        file: &'a dyn File,
        crc: &'a SaltedCrc,
        concurrency: Concurrency<'a>,
        offset: u64,
        seq: u64,
    ) -> io::Result<Self> {
        let window = Window::new(file)?;
        Ok(RawScanner { crc, window, concurrency, offset, seq, rechecks: 0, nonzero_end: None, witness: None })
    }

    /// Where the next sight is.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// How long the file was when it was looked at last.
    pub(crate) fn file_len(&self) -> u64 {
        self.window.file_len
    }

    /// Looks at the next place, and steps over a frame. After any other sight, it says the same again.
    pub(crate) fn next(&mut self) -> io::Result<ScanItem<'_>> {
        let mut pauses = PAUSES_MS.iter();
        let outcome = loop {
            let outcome = self.classify();
            let is_doubtful = match &outcome {
                Ok(outcome) => matches!(outcome, Outcome::Damage(_) | Outcome::Tampered(_)),
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
                    break outcome?;
                }
            }
            self.window.renew()?;
            (self.nonzero_end, self.witness) = (None, None);
        };
        Ok(match outcome {
            Outcome::Frame(header) => {
                let at = self.offset;
                let len = header.len as usize;
                self.offset += u64::from(header.len);
                self.seq = header.seq;
                ScanItem::Frame { header, body: &self.window.bytes(at, len)?[FRAME_HEADER_LEN..] }
            }
            Outcome::End => ScanItem::End,
            Outcome::Torn { until } => ScanItem::Torn { until },
            Outcome::Damage(what) => ScanItem::Damage(what),
            Outcome::Tampered(what) => ScanItem::Tampered(what),
        })
    }

    fn classify(&mut self) -> io::Result<Outcome> {
        if self.offset > self.window.file_len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let what = match frame::parse_header(self.window.bytes(self.offset, FRAME_HEADER_LEN)?, self.crc) {
            ParsedFrameHeader::Implausible(what) => return Ok(Outcome::Tampered(what)),
            ParsedFrameHeader::Plausible(header) => {
                let frame = self.window.bytes(self.offset, header.len as usize)?;
                if header.body_checks(&frame[FRAME_HEADER_LEN..], self.crc) {
                    return Ok(if header.seq == self.seq + 1 {
                        Outcome::Frame(header)
                    } else {
                        Outcome::Tampered("a frame stands here that belongs elsewhere")
                    });
                }
                "the frame's body does not check"
            }
            ParsedFrameHeader::Absent => "the frame's header does not check",
        };
        let until = self.last_nonzero_end()?;
        if until == self.offset {
            return Ok(Outcome::End);
        }
        Ok(if self.is_proven_durable(until)? { Outcome::Damage(what) } else { Outcome::Torn { until } })
    }

    /// Behind the last byte that is not zero; the current offset, where there is none.
    pub(super) fn last_nonzero_end(&mut self) -> io::Result<u64> {
        if let Some(end) = self.nonzero_end.filter(|&end| end > self.offset) {
            return Ok(end);
        }
        let mut end = self.offset;
        let mut at = self.offset;
        loop {
            let bytes = self.window.bytes(at, READ_LEN)?;
            if bytes.is_empty() {
                self.nonzero_end = Some(end);
                return Ok(end);
            }
            // A stretch at a time without an early exit, so that the space ahead is passed over by vectors.
            let is_zero = |part: &[u8]| part.iter().fold(0, |all, byte| all | byte) == 0;
            if let Some(part) = bytes.chunks(ZEROS_AT_ONCE).rposition(|part| !is_zero(part)) {
                let until = bytes.len().min((part + 1) * ZEROS_AT_ONCE);
                let last = bytes[..until].iter().rposition(|&byte| byte != 0).unwrap_or_default();
                end = at + last as u64 + 1;
            }
            at += bytes.len() as u64;
        }
    }

    /// Whether a frame behind the current offset says that the frame expected here had been durable.
    fn is_proven_durable(&mut self, until: u64) -> io::Result<bool> {
        let missing = self.seq + 1;
        if self.witness.is_some_and(|(at, durable_seq)| at > self.offset && durable_seq >= missing) {
            return Ok(true);
        }
        let is_witness = |header: &FrameHeader| header.seq > missing && header.durable_seq >= missing;
        let witness = self.find_header(self.offset + ALIGNMENT as u64, until, is_witness)?;
        self.witness = witness.map(|(at, header)| (at, header.durable_seq));
        Ok(witness.is_some())
    }

    /// The first plausible header from `from` on that is wanted, and where it is. Nothing begins at `until` or behind
    /// it: there are only zeros.
    pub(super) fn find_header(
        &mut self,
        from: u64,
        until: u64,
        is_wanted: impl Fn(&FrameHeader) -> bool,
    ) -> io::Result<Option<(u64, FrameHeader)>> {
        let mut at = from;
        loop {
            let bytes = self.window.bytes(at, READ_LEN)?;
            if bytes.len() < FRAME_HEADER_LEN || at >= until {
                return Ok(None);
            }
            let last = bytes.len() - FRAME_HEADER_LEN;
            let last = usize::try_from(until - at).map_or(last, |left| last.min(left));
            for candidate in (0..=last).step_by(ALIGNMENT) {
                // An impossible header counts for nothing: in random bytes one CRC in 2^32 is right by chance.
                let bytes = &bytes[candidate..];
                if frame::may_be_header(bytes)
                    && let ParsedFrameHeader::Plausible(header) = frame::parse_header(bytes, self.crc)
                    && is_wanted(&header)
                {
                    return Ok(Some((at + candidate as u64, header)));
                }
            }
            at += (last - last % ALIGNMENT + ALIGNMENT) as u64;
        }
    }
}

/// [`ScanItem`], without what it borrows.
enum Outcome {
    Frame(FrameHeader),
    End,
    Torn { until: u64 },
    Damage(&'static str),
    Tampered(&'static str),
}

/// Together 31 ms: a write of the largest frame is over by then.
const PAUSES_MS: [u64; 5] = [1, 2, 4, 8, 16];
/// In a file with more damage than this, the damage is hardly a write that is under way.
const RECHECKS_MAX: u32 = 8;

/// How many bytes are held against zero at once.
const ZEROS_AT_ONCE: usize = 512;
