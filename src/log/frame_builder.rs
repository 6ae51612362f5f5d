//! The frame builder: collects many operations, with their values, into one frame of a new log.
//!
//! Keys and values are plaintext here, so the buffer is wiped when it is freed. `builder.rs` decides when the
//! frame is long enough, and writes it.

use crate::Result;
use crate::crypto::secret_vec::{self, SecretVec};
use crate::format::bucket::Bucket;
use crate::format::record::{Action, Change, Operation};

/// The operations of the next frame.
#[derive(Default)]
pub(crate) struct FrameBuilder {
    operations: Vec<Added>,
    /// Their keys and values.
    pub(crate) bytes: SecretVec,
}

/// An operation whose key and value are in the buffer.
struct Added {
    action: Action,
    bucket: Bucket,
    key_at: usize,
    value_at: usize,
    end: usize,
}

impl FrameBuilder {
    /// Adds an operation. `append_value` appends the value of a put to the buffer that it gets; if it fails,
    /// nothing is added.
    pub(crate) fn add(
        &mut self,
        operation: &Operation<'_>,
        append_value: impl FnOnce(&mut SecretVec) -> Result<()>,
    ) -> Result<()> {
        let Operation { action, bucket, key } = *operation;
        let key_at = self.bytes.len();
        if self.bytes.capacity() - key_at < key.len() {
            secret_vec::reserve(&mut self.bytes, FRAME_LEN_TARGET + key.len());
        }
        self.bytes.extend_from_slice(key);
        let value_at = self.bytes.len();
        append_value(&mut self.bytes).inspect_err(|_| self.bytes.truncate(key_at))?;
        self.operations.push(Added { action, bucket, key_at, value_at, end: self.bytes.len() });
        Ok(())
    }

    /// The operations added since the last [`clear`](Self::clear), in order.
    pub(crate) fn changes(&self) -> Vec<Change<'_>> {
        let changes = self.operations.iter().map(|&Added { action, bucket, key_at, value_at, end }| Change {
            operation: Operation { action, bucket, key: &self.bytes[key_at..value_at] },
            value: [&self.bytes[value_at..end], &[]],
        });
        changes.collect()
    }

    pub(crate) fn clear(&mut self) {
        self.operations.clear();
        self.bytes.clear();
        if self.bytes.capacity() > KEPT_LEN {
            self.bytes = SecretVec::default();
        }
    }
}

/// How many bytes of keys and values make a frame: long enough that the frame header does not matter, short enough
/// to stay in the processor's cache.
pub(crate) const FRAME_LEN_TARGET: usize = 48 << 10;

/// A longer buffer is freed after its frame, so that one large value does not hold memory for good.
const KEPT_LEN: usize = 4 * FRAME_LEN_TARGET;
