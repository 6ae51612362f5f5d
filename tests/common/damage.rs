//! Ways to damage a log: its bytes in memory, changes to them, and writing them back.

use std::fs;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

pub(crate) const FIRST_FRAME_AT: usize = 8192;
const COPIES: [usize; 2] = [0, 2048];
const COPY_CRC_AT: usize = 112;
const SALT: Range<usize> = 48..80;
const FRAME_HEADER_LEN: usize = 48;
pub(crate) const MARK_PAGE: Range<usize> = 4096..8192;
/// Where the marks are.
pub(crate) const SLOTS: [usize; 2] = [4096, 6144];
pub(crate) const SLOT_LEN: usize = 40;
/// Where the copies of the base record are.
pub(crate) const BASES: [usize; 2] = [1024, 3072];
pub(crate) const BASE_LEN: usize = 104;

/// The bytes of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Image {
    pub(crate) bytes: Vec<u8>,
}

impl Image {
    pub(crate) fn read(path: impl AsRef<Path>) -> Self {
        Image { bytes: fs::read(path).unwrap() }
    }

    /// Writes over what is there, because cutting it off before would make the file system flush it.
    pub(crate) fn write(&self, path: impl AsRef<Path>) {
        let file = fs::File::options().write(true).create(true).truncate(false).open(path).unwrap();
        file.write_all_at(&self.bytes, 0).unwrap();
        file.set_len(self.len() as u64).unwrap();
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The ranges of the frames, by their own lengths, up to the first zero length.
    pub(crate) fn frames(&self) -> Vec<Range<usize>> {
        let mut frames = Vec::new();
        let mut at = FIRST_FRAME_AT;
        while at + FRAME_HEADER_LEN <= self.len() && self.u32_at(at + 8) != 0 {
            let end = at + self.u32_at(at + 8) as usize;
            frames.push(at..end);
            at = end;
        }
        frames
    }

    /// Where the last frame ends.
    pub(crate) fn end(&self) -> usize {
        self.frames().last().map_or(FIRST_FRAME_AT, |frame| frame.end)
    }

    pub(crate) fn flip(&mut self, at: usize) -> &mut Self {
        self.bytes[at] ^= 0xFF;
        self
    }

    pub(crate) fn cut(&mut self, len: usize) -> &mut Self {
        self.bytes.truncate(len);
        self
    }

    /// Puts `bytes` after the last frame, and nothing after them.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> &mut Self {
        self.without_space().bytes.extend_from_slice(bytes);
        self
    }

    /// Cuts off the preallocated space, if there is nothing else after the last frame.
    pub(crate) fn without_space(&mut self) -> &mut Self {
        let end = self.end();
        if self.bytes.get(end..).is_some_and(|space| space.iter().all(|byte| *byte == 0)) {
            self.bytes.truncate(end);
        }
        self
    }

    /// Puts `bytes` in the place of a range.
    pub(crate) fn splice(&mut self, range: Range<usize>, bytes: &[u8]) -> &mut Self {
        self.bytes.splice(range, bytes.iter().copied());
        self
    }

    /// Recomputes both CRCs of the frame at `at`.
    pub(crate) fn fix_crc(&mut self, at: usize) -> &mut Self {
        let end = at + self.u32_at(at + 8) as usize;
        let body_crc = self.salted_crc(at + FRAME_HEADER_LEN..end);
        self.bytes[at + 4..at + 8].copy_from_slice(&body_crc.to_le_bytes());
        self.fix_header_crc(at)
    }

    /// Recomputes only the CRC of the frame's header.
    pub(crate) fn fix_header_crc(&mut self, at: usize) -> &mut Self {
        let header_crc = self.salted_crc(at + 4..at + FRAME_HEADER_LEN);
        self.bytes[at..at + 4].copy_from_slice(&header_crc.to_le_bytes());
        self
    }

    /// Changes the same bytes in both copies of the header, and makes their CRCs right.
    pub(crate) fn forge_header(&mut self, at: usize, bytes: &[u8]) -> &mut Self {
        for copy in COPIES {
            self.bytes[copy + at..copy + at + bytes.len()].copy_from_slice(bytes);
            let crc = crc32fast::hash(&self.bytes[copy..copy + COPY_CRC_AT]);
            self.bytes[copy + COPY_CRC_AT..copy + COPY_CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
        }
        self
    }

    /// The last frame that the marks, or the base record of a log that has one, prove to have been durable: its
    /// number and its end. `None` if neither does.
    pub(crate) fn proven(&self) -> Option<(u64, u64)> {
        let marks = SLOTS.iter().filter_map(|&at| self.position_at(at, SLOT_LEN));
        let bases = BASES.iter().filter_map(|&at| self.position_at(at, BASE_LEN));
        let has_base = COPIES.iter().any(|&copy| self.bytes.get(copy + 16) == Some(&1));
        marks.chain(bases.filter(|_| has_base)).max()
    }

    /// What a mark or a base record of `len` bytes names, if its CRC is right.
    fn position_at(&self, at: usize, len: usize) -> Option<(u64, u64)> {
        let bytes = self.bytes.get(at..at + len)?;
        let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        let checks = self.u32_at(at) == self.salted_crc(at + 4..at + len) && u64_at(8) > 0;
        checks.then(|| (u64_at(8), u64_at(16)))
    }

    /// Removes both marks, so that only frames vouch for frames.
    pub(crate) fn without_marks(&mut self) -> &mut Self {
        self.bytes[MARK_PAGE].fill(0);
        self
    }

    /// Writes a mark with a right CRC.
    pub(crate) fn put_mark(&mut self, slot: usize, seq: u64, end: u64, tag: &[u8; 16]) -> &mut Self {
        let at = SLOTS[slot];
        let mark = [&[0; 4][..], &seq.to_le_bytes(), &end.to_le_bytes(), tag].concat();
        self.bytes[at + 4..at + SLOT_LEN].copy_from_slice(&mark);
        let crc = self.salted_crc(at + 4..at + SLOT_LEN);
        self.bytes[at..at + 4].copy_from_slice(&crc.to_le_bytes());
        self
    }

    /// Changes a byte in both copies of the base record, and makes their CRCs right. Their MACs are not.
    pub(crate) fn forge_bases(&mut self, at: usize) -> &mut Self {
        for copy in BASES {
            self.bytes[copy + at] ^= 1;
            let crc = self.salted_crc(copy + 4..copy + BASE_LEN);
            self.bytes[copy..copy + 4].copy_from_slice(&crc.to_le_bytes());
        }
        self
    }

    /// The manifest tag of the frame at `at`.
    pub(crate) fn tag_of(&self, at: usize) -> [u8; 16] {
        let tag = at + FRAME_HEADER_LEN + self.u32_at(at + 12) as usize;
        self.bytes[tag..tag + 16].try_into().unwrap()
    }

    fn salted_crc(&self, range: Range<usize>) -> u32 {
        let mut crc = crc32fast::Hasher::new();
        crc.update(&self.bytes[SALT]);
        crc.update(&self.bytes[range]);
        crc.finalize()
    }

    fn u32_at(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.bytes[at..at + 4].try_into().unwrap())
    }
}
