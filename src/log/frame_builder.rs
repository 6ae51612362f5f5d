//! Operations that will be one frame: what compaction and salvage write.

use crate::Result;
use crate::crypto::secret_vec::{self, SecretVec};
use crate::format::bucket::Bucket;
use crate::format::record::{Action, Change, Operation};

/// Long enough that a frame's own bytes do not count, short enough to stay in the processor's cache.
pub(crate) const FRAME_LEN_TARGET: usize = 48 << 10;

/// A buffer of this size is kept from one frame to the next: a large value is not held longer than it must be.
const KEPT_LEN: usize = 4 * FRAME_LEN_TARGET;

/// Operations that will be one frame.
#[derive(Default)]
pub(crate) struct FrameBuilder {
    operations: Vec<Addition>,
    /// Their keys and values.
    pub(crate) bytes: SecretVec,
}

struct Addition {
    action: Action,
    bucket: Bucket,
    key_at: usize,
    value_at: usize,
    end: usize,
}

impl FrameBuilder {
    /// `append_value` appends the value of a put. If it fails, nothing is added.
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
        self.operations.push(Addition { action, bucket, key_at, value_at, end: self.bytes.len() });
        Ok(())
    }

    pub(crate) fn changes(&self) -> Vec<Change<'_>> {
        let changes = self.operations.iter().map(|&Addition { action, bucket, key_at, value_at, end }| Change {
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
