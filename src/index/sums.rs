//! What the live keys add up to.

use crate::crypto::TAG_LEN;
use crate::format::bucket::{BUCKET_COUNT, Bucket};
use crate::format::encoding;
use crate::format::location::Location;
use crate::format::record::{self, Action, Operation};

#[derive(Clone, Default)]
pub(super) struct Sums {
    /// For each bucket, the bytes that its live operations take in a log, without frame headers.
    pub(super) live_bytes: [u64; BUCKET_COUNT],
    /// For each bucket, the bytes of its live values.
    pub(super) value_bytes: [u64; BUCKET_COUNT],
    /// How long an ack of each queued job would be, one record each.
    pub(super) acks_len: u64,
}

impl Sums {
    pub(super) fn add(&mut self, bucket: Bucket, key: &[u8], location: &Location) {
        self.live_bytes[bucket as usize] += live_len(&put(bucket, key, location));
        self.value_bytes[bucket as usize] += u64::from(location.len);
        if bucket == Bucket::Queue {
            self.acks_len += encoding::ack_frame_len(key.len());
        }
    }

    pub(super) fn remove(&mut self, bucket: Bucket, key: &[u8], location: &Location) {
        self.live_bytes[bucket as usize] -= live_len(&put(bucket, key, location));
        self.value_bytes[bucket as usize] -= u64::from(location.len);
        if bucket == Bucket::Queue {
            self.acks_len -= encoding::ack_frame_len(key.len());
        }
    }
}

pub(super) fn put<'a>(bucket: Bucket, key: &'a [u8], location: &Location) -> Operation<'a> {
    Operation { action: Action::Put { value_len: location.len }, bucket, key }
}

/// The bytes that an operation takes in a log: itself in the manifest, and its sealed value.
pub(crate) fn live_len(operation: &Operation<'_>) -> u64 {
    let value_len = match operation.action {
        Action::Put { value_len } => u64::from(value_len) + TAG_LEN as u64,
        Action::Delete | Action::DeleteThrough => 0,
    };
    record::operation_len(operation) + value_len
}
