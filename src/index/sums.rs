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
        self.live_bytes[bucket as usize] += live_len(bucket, key, location.len);
        self.value_bytes[bucket as usize] += u64::from(location.len);
        if bucket == Bucket::Queue {
            self.acks_len += encoding::ack_frame_len(key.len());
        }
    }

    pub(super) fn remove(&mut self, bucket: Bucket, key: &[u8], location: &Location) {
        self.live_bytes[bucket as usize] -= live_len(bucket, key, location.len);
        self.value_bytes[bucket as usize] -= u64::from(location.len);
        if bucket == Bucket::Queue {
            self.acks_len -= encoding::ack_frame_len(key.len());
        }
    }
}

/// The bytes that a put takes in a log: its operation in the manifest, and its sealed value.
pub(super) fn live_len(bucket: Bucket, key: &[u8], value_len: u32) -> u64 {
    let operation = Operation { action: Action::Put { value_len }, bucket, key };
    record::operation_len(&operation) + u64::from(value_len) + TAG_LEN as u64
}
