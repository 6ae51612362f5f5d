//! What salvage reports, and the account of what was lost that it keeps on the way.

use std::collections::BTreeMap;

use crate::crypto::TAG_LEN;
use crate::format::bucket::{BUCKET_COUNT, Bucket};
use crate::format::location::Location;
use crate::format::record::{Action, Manifest, Operation};
use crate::log::scan::{Gap, OpenFrame};
use crate::{Lost, LostKey};

impl LostKey {
    fn new(bucket: Bucket, key: &[u8]) -> Self {
        let run_id = (bucket == Bucket::Queue).then(|| String::from_utf8_lossy(key).into_owned());
        LostKey { bucket: bucket.name(), run_id }
    }
}

/// The losses so far. Of keys it holds at most as many as an index of the damaged log would.
#[derive(Default)]
pub(crate) struct Losses {
    gaps: Vec<Lost>,
    more_gaps: u64,
    /// By bucket and key: where its latest value would have been.
    keys: [BTreeMap<Box<[u8]>, LostAt>; BUCKET_COUNT],
    /// Keys that were put into the gap that is not noted yet.
    unproven: Vec<(Bucket, Box<[u8]>)>,
}

#[derive(Clone, Copy)]
enum LostAt {
    Value(Location),
    /// The number of a gap.
    Gap(usize),
}

/// Bounds what is held of a file that is nothing but damage.
const LOST_MAX: usize = 1000;

impl Losses {
    /// The value of a put does not open.
    pub(crate) fn note_value(&mut self, operation: &Operation<'_>, location: Location) {
        self.keys[operation.bucket as usize].insert(operation.key.into(), LostAt::Value(location));
    }

    /// Whatever was lost of the keys that the operation is about, it would be gone by now.
    pub(crate) fn note_superseded(&mut self, operation: &Operation<'_>) {
        let keys = &mut self.keys[operation.bucket as usize];
        if operation.action != Action::DeleteThrough {
            keys.remove(operation.key);
            return;
        }
        while keys.first_key_value().is_some_and(|(key, _)| **key <= *operation.key) {
            keys.pop_first();
        }
    }

    pub(crate) fn note_unproven(&mut self, frame: &OpenFrame<'_>) {
        let puts = frame.manifest.iter().flat_map(Manifest::operations);
        let puts = puts.filter(|operation| matches!(operation.action, Action::Put { .. }));
        let left = LOST_MAX.saturating_sub(self.unproven.len());
        self.unproven.extend(puts.take(left).map(|put| (put.bucket, put.key.into())));
    }

    pub(crate) fn note_gap(&mut self, gap: &Gap) {
        let Gap { offset, end, first_seq, last_seq } = *gap;
        let unproven = std::mem::take(&mut self.unproven);
        if last_seq.is_some_and(|last| last < first_seq) {
            // Bytes that are no frame, and none is missing.
            return;
        }
        if self.gaps.len() == LOST_MAX {
            self.more_gaps += 1;
            return;
        }
        for (bucket, key) in unproven {
            // What an authentic manifest told stays.
            self.keys[bucket as usize].entry(key).or_insert(LostAt::Gap(self.gaps.len()));
        }
        let what = "frames that are damaged, or whose seal cannot be checked";
        self.gaps.push(Lost { offset, len: end - offset, first_seq, last_seq, keys: Vec::new(), what });
    }

    /// The places in the order of the file, how many there are beyond those, and whether older values may be there again.
    pub(crate) fn list(self) -> (Vec<Lost>, u64, bool) {
        let Losses { gaps: mut lost, more_gaps, keys, .. } = self;
        let mut may_be_stale = !lost.is_empty();
        let mut values = Vec::new();
        for (bucket, keys) in [Bucket::Config, Bucket::Queue, Bucket::Registry, Bucket::Logs].into_iter().zip(keys)
        {
            for (key, lost_at) in keys {
                match lost_at {
                    LostAt::Gap(number) => lost[number].keys.push(LostKey::new(bucket, &key)),
                    LostAt::Value(location) => {
                        // No two log events have the same key.
                        may_be_stale |= bucket != Bucket::Logs;
                        values.push((location, LostKey::new(bucket, &key)));
                    }
                }
            }
        }
        lost.extend(values.into_iter().map(|(location, key)| Lost {
            offset: location.value_offset(),
            len: u64::from(location.len) + TAG_LEN as u64,
            first_seq: location.seq(),
            last_seq: Some(location.seq()),
            keys: vec![key],
            what: "a value that does not open",
        }));
        lost.sort_by_key(|lost| lost.offset);
        let beyond = lost.len().saturating_sub(LOST_MAX) as u64;
        lost.truncate(LOST_MAX);
        (lost, more_gaps + beyond, may_be_stale)
    }
}
