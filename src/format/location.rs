//! Where a value is in the log, computed from its frame's header and manifest.
//!
//! Never reads the value. Implements *Frame* of FORMAT.md, the part about values.

use std::num::NonZeroU32;

use super::frame::{FRAME_HEADER_LEN, FRAME_LEN_MIN, FrameHeader};
use super::record::{Action, Operation};
use crate::crypto::{Nonce, TAG_LEN};

/// The place of one sealed value in the log, and the nonce of its frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Location {
    /// In bytes from the start of the file.
    pub(crate) value_offset: u64,
    /// The frame's number. It fits 32 bits: see `SEQ_MAX`. `NonZero`, so that `Option<Location>` takes no more
    /// memory.
    pub(crate) seq: NonZeroU32,
    /// The value's number in its frame, from 0.
    pub(crate) i: u32,
    /// The length of the value, without its tag.
    pub(crate) len: u32,
    /// From the authenticated header. If it were read from the file together with the value, a value of a fork
    /// would open too, if its frame has the same number.
    pub(crate) nonce: Nonce,
}

const _: () = assert!(size_of::<Option<Location>>() == 32);

impl Location {
    pub(crate) fn seq(&self) -> u64 {
        u64::from(self.seq.get())
    }

    /// Where the value begins in the body of its frame, which begins at `frame_offset`.
    pub(crate) fn offset_in_body(&self, frame_offset: u64) -> Option<usize> {
        usize::try_from(self.value_offset.checked_sub(frame_offset + FRAME_HEADER_LEN as u64)?).ok()
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
        let value_offset = frame_offset + FRAME_LEN_MIN as u64 + u64::from(header.manifest_len);
        ValueCursor { next: Location { value_offset, seq, i: 0, len: 0, nonce: header.nonce } }
    }

    /// Where the next value begins, in bytes from the start of the file.
    pub(crate) fn offset(&self) -> u64 {
        self.next.value_offset
    }

    /// The location of the value of the next operation; `None` if that is not a put.
    pub(crate) fn locate(&mut self, operation: &Operation<'_>) -> Option<Location> {
        let Action::Put { value_len } = operation.action else { return None };
        let location = Location { len: value_len, ..self.next };
        self.next.value_offset += u64::from(value_len) + TAG_LEN as u64;
        self.next.i += 1;
        Some(location)
    }
}
