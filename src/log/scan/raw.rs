//! Walking over a log frame by frame, and telling a torn tail from damage. Reads only.
//!
//! Implements the rows of *Opening* in FORMAT.md that look at frames. [`Walk`] needs no key and knows CRCs and
//! numbers; [`Scan`] adds the seals. Recovery, snapshots and `verify` are all built on these two. What goes on behind
//! damage is in `walk/resync.rs`.

use std::io;
use std::time::Duration;

use crate::format::SaltedCrc;
use crate::format::frame::{self, ALIGNMENT, FRAME_HEADER_LEN, FrameHeader, FrameSight};
use crate::format::header::HEADER_PAGE_LEN;
use crate::format::record::Manifest;
use crate::log::writer::{LogFile, Tip};
use crate::crypto::seal::TAG_LEN;
use crate::storage::{self, File, Storage};
use crate::crypto::secret_vec::Wiped;
use crate::{Error, Result};



/// Whether another process may be writing the file that is scanned.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Concurrency<'a> {
    /// The caller holds the lock: the file does not change.
    Exclusive,
    /// What looks damaged may be half written. It is looked at again a few times, after pauses that the storage takes.
    WithWriter(&'a dyn Storage),
}

/// What lies at one place of the log.
pub(crate) enum Sight<'a> {
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
pub(crate) struct Walk<'a> {
    crc: &'a SaltedCrc,
    window: Window<'a>,
    concurrency: Concurrency<'a>,
    offset: u64,
    seq: u64,
    /// How often something doubtful was looked at again.
    doubts: u32,
    /// Behind the last byte of the file that is not zero, if that was looked for.
    nonzero_end: Option<u64>,
    /// The header that vouched last: where it is, and for what.
    witness: Option<(u64, u64)>,
}

impl<'a> Walk<'a> {
    /// Begins behind the frame `seq`, which ends at `offset`.
    pub(crate) fn new(
        file: &'a dyn File,
        crc: &'a SaltedCrc,
        concurrency: Concurrency<'a>,
        offset: u64,
        seq: u64,
    ) -> io::Result<Self> {
        let window = Window::new(file)?;
        Ok(Walk { crc, window, concurrency, offset, seq, doubts: 0, nonzero_end: None, witness: None })
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
    pub(crate) fn next(&mut self) -> io::Result<Sight<'_>> {
        let mut pauses = PAUSES_MS.iter();
        let place = loop {
            let place = self.look();
            let is_doubtful = match &place {
                Ok(place) => matches!(place, Place::Damage(_) | Place::Tampered(_)),
                Err(error) => error.kind() == io::ErrorKind::UnexpectedEof,
            };
            match (self.concurrency, pauses.next()) {
                (Concurrency::WithWriter(storage), Some(&pause)) if is_doubtful && self.doubts < DOUBTS_MAX => {
                    storage.sleep(Duration::from_millis(pause));
                }
                _ => {
                    self.doubts += u32::from(is_doubtful);
                    break place?;
                }
            }
            self.window.renew()?;
            (self.nonzero_end, self.witness) = (None, None);
        };
        Ok(match place {
            Place::Frame(header) => {
                let at = self.offset;
                let len = header.len as usize;
                self.offset += u64::from(header.len);
                self.seq = header.seq;
                Sight::Frame { header, body: &self.window.bytes(at, len)?[FRAME_HEADER_LEN..] }
            }
            Place::End => Sight::End,
            Place::Torn { until } => Sight::Torn { until },
            Place::Damage(what) => Sight::Damage(what),
            Place::Tampered(what) => Sight::Tampered(what),
        })
    }

    fn look(&mut self) -> io::Result<Place> {
        if self.offset > self.window.file_len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let what = match frame::parse_header(self.window.bytes(self.offset, FRAME_HEADER_LEN)?, self.crc) {
            FrameSight::Impossible(what) => return Ok(Place::Tampered(what)),
            FrameSight::Header(header) => {
                let frame = self.window.bytes(self.offset, header.len as usize)?;
                if header.body_checks(&frame[FRAME_HEADER_LEN..], self.crc) {
                    return Ok(if header.seq == self.seq + 1 {
                        Place::Frame(header)
                    } else {
                        Place::Tampered("a frame stands here that belongs elsewhere")
                    });
                }
                "the frame's body does not check"
            }
            FrameSight::None => "the frame's header does not check",
        };
        let until = self.last_nonzero_end()?;
        if until == self.offset {
            return Ok(Place::End);
        }
        Ok(if self.is_vouched_for(until)? { Place::Damage(what) } else { Place::Torn { until } })
    }

    /// Behind the last byte that is not zero; the current offset, where there is none.
    fn last_nonzero_end(&mut self) -> io::Result<u64> {
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
    fn is_vouched_for(&mut self, until: u64) -> io::Result<bool> {
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
    fn find_header(
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
                    && let FrameSight::Header(header) = frame::parse_header(bytes, self.crc)
                    && is_wanted(&header)
                {
                    return Ok(Some((at + candidate as u64, header)));
                }
            }
            at += (last - last % ALIGNMENT + ALIGNMENT) as u64;
        }
    }
}

/// [`Sight`], without what it borrows.
enum Place {
    Frame(FrameHeader),
    End,
    Torn { until: u64 },
    Damage(&'static str),
    Tampered(&'static str),
}

/// Together 31 ms: a write of the largest frame is over by then.
const PAUSES_MS: [u64; 5] = [1, 2, 4, 8, 16];
/// In a file with more damage than this, the damage is hardly a write that is under way.
const DOUBTS_MAX: u32 = 8;
/// How much is read at once.
const READ_LEN: usize = 64 << 10;

/// How many bytes are held against zero at once.
const ZEROS_AT_ONCE: usize = 512;

/// A stretch of the file in memory, moved on as it is asked for.
struct Window<'a> {
    file: &'a dyn File,
    file_len: u64,
    start: u64,
    bytes: Vec<u8>,
    /// How many of the bytes were read.
    held: usize,
}

impl<'a> Window<'a> {
    fn new(file: &'a dyn File) -> io::Result<Self> {
        Ok(Window { file, file_len: file.len()?, start: 0, bytes: Vec::new(), held: 0 })
    }

    /// Forgets what was read, and asks for the file's length again.
    fn renew(&mut self) -> io::Result<()> {
        self.held = 0;
        self.file_len = self.file.len()?;
        Ok(())
    }

    /// The `len` bytes at `offset`, or fewer where the file ends.
    fn bytes(&mut self, offset: u64, len: usize) -> io::Result<&[u8]> {
        let left = self.file_len.saturating_sub(offset);
        let within = |len: usize| usize::try_from(left).map_or(len, |left| len.min(left));
        let len = within(len);
        let at = offset.checked_sub(self.start).and_then(|at| usize::try_from(at).ok());
        let at = at.map_or(self.held, |at| at.min(self.held));
        if self.held - at >= len {
            return Ok(&self.bytes[at..at + len]);
        }
        // What is held of it stays: a frame longer than one read is not read twice.
        self.bytes.copy_within(at..self.held, 0);
        let kept = self.held - at;
        let wanted = within(len.max(READ_LEN));
        if self.bytes.len() < wanted {
            // No more than the longest frame so far: doubling would hold up to twice that.
            self.bytes.reserve_exact(wanted - self.bytes.len());
            self.bytes.resize(wanted, 0);
        }
        (self.start, self.held) = (offset, 0);
        storage::read_exact_at(self.file, &mut self.bytes[kept..wanted], offset + kept as u64)?;
        self.held = wanted;
        Ok(&self.bytes[..len])
    }
}

/// Walks with the key: every frame it gives is authentic and in its place.
pub(crate) struct Scan<'a> {
    log: &'a LogFile,
    walk: Walk<'a>,
    tip: Tip,
    text: Wiped,
}

/// What a scan found at one place.
pub(crate) enum Found<'a> {
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

impl<'a> Scan<'a> {
    /// Begins behind `tip`.
    pub(crate) fn new(log: &'a LogFile, concurrency: Concurrency<'a>, tip: Tip) -> Result<Self> {
        let walk = Walk::new(&*log.file, &log.crc, concurrency, tip.end, tip.seq).map_err(log.io("look at"))?;
        Ok(Scan { log, walk, tip, text: Wiped::default() })
    }

    /// Behind the last whole frame.
    pub(crate) fn tip(&self) -> Tip {
        self.tip
    }

    /// How long the file was when it was looked at last.
    pub(crate) fn file_len(&self) -> u64 {
        self.walk.file_len()
    }

    /// # Errors
    /// `Corrupt` for damage, `Unauthentic` for what does not fit, `Io`.
    pub(crate) fn next(&mut self) -> Result<Found<'_>> {
        let Scan { log, walk, tip, text } = self;
        let offset = tip.end;
        let (header, body) = match walk.next().map_err(log.io("read"))? {
            Sight::Frame { header, body } => (header, body),
            Sight::End => return Ok(Found::End),
            Sight::Torn { until } => return Ok(Found::Torn { until }),
            Sight::Damage(what) => return Err(Error::corrupt(&log.path, offset, what)),
            Sight::Tampered(what) => return Err(Error::unauthentic(&log.path, offset, what)),
        };
        let (manifest, chain) = header
            .open_manifest(body, &tip.chain, &log.sealer, text)
            .map_err(|what| Error::unauthentic(&log.path, offset, what))?;
        *tip = Tip { end: offset + u64::from(header.len), seq: header.seq, chain };
        Ok(Found::Frame(OpenFrame { offset, header, body, manifest }))
    }
}

/// Where the first frame goes, chained to the first 16 bytes of the header's authenticator.
pub(crate) fn first_tip(authenticator: &[u8; 32]) -> Tip {
    let mut chain = [0; TAG_LEN];
    chain.copy_from_slice(&authenticator[..TAG_LEN]);
    Tip { end: HEADER_PAGE_LEN as u64, seq: 0, chain }
}
