//! Which keys have left the places that the index file has for them.
//!
//! A run of the index file covers the frames since the run before it. What they put can be read in them again; but
//! that a key is gone matters only if an earlier run has it, and only the index knows that, at the moment when it
//! removes the key.

use super::Key;
use crate::format::bucket::Bucket;
use crate::format::location::Location;

/// The keys that were removed or put anew since the last run, and that an earlier run may have.
pub(crate) struct Removed {
    /// The earlier runs have no values of later frames.
    last_seq: u64,
    keys: Vec<(Bucket, Key)>,
    /// Whether there were too many to note.
    is_incomplete: bool,
}

impl Removed {
    pub(super) fn since(last_seq: u64) -> Self {
        Removed { last_seq, keys: Vec::new(), is_incomplete: false }
    }

    /// The earlier runs have no values of frames after `last_seq`.
    pub(super) fn set_last_seq(&mut self, last_seq: u64) {
        self.last_seq = last_seq;
    }

    /// Notes that `bucket` has no longer `key` at `old`.
    pub(super) fn note(&mut self, bucket: Bucket, key: &[u8], old: &Location) {
        if old.seq() > self.last_seq || self.is_incomplete {
            return;
        }
        if self.keys.len() < REMOVED_MAX {
            self.keys.push((bucket, key.into()));
        } else {
            self.is_incomplete = true;
            self.keys = Vec::new();
        }
    }

    /// `None` if there were too many: then the index file must be written anew.
    pub(crate) fn into_keys(self) -> Option<Vec<(Bucket, Key)>> {
        (!self.is_incomplete).then_some(self.keys)
    }
}

/// 3 MiB for keys of a usual length. A run is due more often, unless no call is durable.
const REMOVED_MAX: usize = 1 << 16;

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    #[test]
    fn too_many_removals_are_forgotten_and_that_is_known() {
        let old = |seq| {
            let seq = NonZeroU32::new(seq).unwrap();
            Location { value_offset: 8192, seq, i: 0, len: 0, nonce: [0; 12] }
        };
        let mut removed = Removed::since(5);
        for _ in 0..REMOVED_MAX {
            removed.note(Bucket::Queue, b"run", &old(5));
            // No earlier run has it.
            removed.note(Bucket::Queue, b"later", &old(6));
        }
        assert_eq!(removed.keys.len(), REMOVED_MAX);
        removed.note(Bucket::Queue, b"run", &old(1));
        assert!(removed.into_keys().is_none());
    }
}
