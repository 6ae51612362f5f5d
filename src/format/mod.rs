//! The bytes of the log: each file here implements one section of FORMAT.md.
//!
//! Everything is a pure function over bytes: no I/O, no clock, no random numbers. A parser returns a checked type
//! or the reason why it refuses the bytes. What an offset means for the whole log (the end, damage, a torn tail)
//! is decided in `log/scan`.

use std::ops::Range;

pub(crate) mod base;
pub(crate) mod bucket;
pub(crate) mod chain;
pub(crate) mod encoding;
pub(crate) mod frame;
pub(crate) mod header;
pub(crate) mod location;
pub(crate) mod mark;
pub(crate) mod position;
pub(crate) mod record;

/// CRC-32/ISO-HDLC over `salt || bytes`.
///
/// Each log has its own random salt. Without it, frames of an older log in reused disk space would pass their CRC
/// here.
#[derive(Clone)]
pub(crate) struct SaltedCrc(crc32fast::Hasher);

impl SaltedCrc {
    pub(crate) fn new(salt: &[u8; 32]) -> Self {
        let mut crc = crc32fast::Hasher::new();
        crc.update(salt);
        SaltedCrc(crc)
    }

    pub(crate) fn of(&self, bytes: &[u8]) -> u32 {
        let mut crc = self.clone();
        crc.update(bytes);
        crc.finish()
    }

    fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(self) -> u32 {
        self.0.finalize()
    }
}

/// Where a page has its first byte that is not zero, outside the ranges that are in use.
fn stray_byte(page: &[u8], used: &[Range<usize>]) -> Option<usize> {
    let is_used = |at: usize| used.iter().any(|range| range.contains(&at));
    page.iter().enumerate().position(|(at, &byte)| byte != 0 && !is_used(at))
}

/// The `N` bytes at `offset`, or `None` if `bytes` ends before that.
pub(crate) fn bytes_at<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
    bytes.get(offset..)?.first_chunk().copied()
}
