//! Where a value is in the log, computed from its frame's header and manifest.
//!
//! Never reads the value. Implements *Frame* of FORMAT.md, the part about values.

use std::num::NonZeroU32;

use super::frame::{FRAME_HEADER_LEN, FRAME_LEN_MIN, FrameHeader, NONCE_AT};
use super::record::{Action, Operation};
use crate::crypto::TAG_LEN;

/// The place of one sealed value in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Location {
    pub(crate) frame_offset: u64,
    /// Fits 32 bits: see `SEQ_MAX`. `NonZero`, so that `Option<Location>` takes no more memory.
    seq: NonZeroU32,
    /// From the start of the frame.
    value_start: u32,
    /// The value's number in its frame, from 0.
    pub(crate) i: u32,
    /// The length of the value, without its tag.
    pub(crate) len: u32,
}

impl Location {
    pub(crate) fn seq(&self) -> u64 {
        u64::from(self.seq.get())
    }

    pub(crate) fn value_offset(&self) -> u64 {
        self.frame_offset + u64::from(self.value_start)
    }

    /// Where the value begins, counted from the end of the frame's header.
    pub(crate) fn offset_in_body(&self) -> usize {
        self.value_start as usize - FRAME_HEADER_LEN
    }

    pub(crate) fn nonce_offset(&self) -> u64 {
        self.frame_offset + NONCE_AT as u64
    }

    /// Sorts the puts of a generation in the order in which they were made.
    pub(crate) fn order(&self) -> (u32, u32) {
        (self.seq.get(), self.i)
    }
}

/// Computes the location of each put's value, given a frame's operations in order.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ValueCursor {
    next: Location,
}

impl ValueCursor {
    pub(crate) fn new(frame_offset: u64, header: &FrameHeader) -> Self {
        #[allow(clippy::cast_possible_truncation, reason = "parse_fields and the writer keep seq within 2^31")]
        let seq = NonZeroU32::new(header.seq as u32).unwrap_or(NonZeroU32::MIN);
        #[allow(clippy::cast_possible_truncation, reason = "a small constant")]
        let value_start = FRAME_LEN_MIN as u32 + header.manifest_len;
        ValueCursor { next: Location { frame_offset, seq, value_start, i: 0, len: 0 } }
    }

    /// Where the frame begins, in bytes from the start of the file.
    pub(crate) fn frame_offset(&self) -> u64 {
        self.next.frame_offset
    }

    /// The location of the value of the next operation; `None` if that is not a put.
    pub(crate) fn locate(&mut self, operation: &Operation<'_>) -> Option<Location> {
        let Action::Put { value_len } = operation.action else { return None };
        let location = Location { len: value_len, ..self.next };
        #[allow(clippy::cast_possible_truncation, reason = "a small constant")]
        let sealed_len = value_len + TAG_LEN as u32;
        self.next.value_start += sealed_len;
        self.next.i += 1;
        Some(location)
    }
}
