//! A position between two frames, and its 32 bytes in a mark and in a base record.
//!
//! Implements *Positions* of FORMAT.md.

use super::bytes_at;
use super::frame::{ALIGNMENT, FRAME_LEN_MIN, SEQ_MAX};
use super::header::FIRST_FRAME_AT;
use crate::crypto::{TAG_LEN, Tag};

const SEQ_AT: usize = 0;
const END_AT: usize = 8;
const TAG_AT: usize = 16;
pub(crate) const POSITION_LEN: usize = 32;

/// A position between two frames: where the next frame begins, and what it is chained to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LogPosition {
    /// Where the frame before it ends, in bytes from the start of the file.
    pub(crate) end: u64,
    /// The number of that frame; 0 before the first one.
    pub(crate) seq: u64,
    /// The manifest tag of that frame, which the next frame is chained to.
    pub(crate) chain: Tag,
}

impl LogPosition {
    /// The position before the first frame, which is chained to the first 16 bytes of the header's authenticator.
    pub(crate) fn first(authenticator: &[u8; 32]) -> Self {
        let mut chain = [0; TAG_LEN];
        chain.copy_from_slice(&authenticator[..TAG_LEN]);
        LogPosition { end: FIRST_FRAME_AT as u64, seq: 0, chain }
    }

    pub(crate) fn encode(&self) -> [u8; POSITION_LEN] {
        let mut bytes = [0; POSITION_LEN];
        bytes[SEQ_AT..END_AT].copy_from_slice(&self.seq.to_le_bytes());
        bytes[END_AT..TAG_AT].copy_from_slice(&self.end.to_le_bytes());
        bytes[TAG_AT..].copy_from_slice(&self.chain);
        bytes
    }

    /// The reverse of [`encode`](Self::encode), also for a position before the first frame. Returns `None` if no
    /// frame can have that number.
    pub(crate) fn parse_any(bytes: &[u8; POSITION_LEN]) -> Option<Self> {
        let seq = u64::from_le_bytes(bytes_at(bytes, SEQ_AT)?);
        let end = u64::from_le_bytes(bytes_at(bytes, END_AT)?);
        (seq <= SEQ_MAX).then_some(LogPosition { end, seq, chain: bytes_at(bytes, TAG_AT)? })
    }

    /// Returns `None` if no frame can be there.
    pub(super) fn parse(bytes: &[u8; POSITION_LEN]) -> Option<Self> {
        let position = LogPosition::parse_any(bytes)?;
        let LogPosition { seq, end, .. } = position;
        let is_possible = seq > 0
            && end.is_multiple_of(ALIGNMENT as u64)
            && end >= FIRST_FRAME_AT as u64 + FRAME_LEN_MIN as u64 * seq;
        is_possible.then_some(position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_read_only_where_a_frame_can_end() {
        let position = |seq, end| LogPosition { end, seq, chain: [7; TAG_LEN] };
        let first_end = FIRST_FRAME_AT as u64 + 64;
        let possible = [(1, first_end), (1, first_end + 8), (3, first_end + 128), (SEQ_MAX, u64::MAX - 7)];
        for (seq, end) in possible {
            assert_eq!(LogPosition::parse(&position(seq, end).encode()), Some(position(seq, end)));
        }
        let impossible =
            [(0, first_end), (1, first_end - 8), (1, first_end + 1), (1, first_end + 4), (2, first_end)];
        for (seq, end) in impossible.into_iter().chain([(SEQ_MAX + 1, u64::MAX - 7), (SEQ_MAX, first_end)]) {
            assert_eq!(LogPosition::parse(&position(seq, end).encode()), None, "{seq} {end}");
        }
    }
}
