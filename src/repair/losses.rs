//! What a salvage has lost so far: gaps in the log, and the keys whose latest value is missing.
//!
//! Only keeps the account; what is authentic is decided in `log/scan/resync.rs`.

use std::collections::BTreeMap;

use crate::crypto::TAG_LEN;
use crate::format::bucket::{BUCKET_COUNT, Bucket};
use crate::format::location::Location;
use crate::format::position::LogPosition;
use crate::format::record::{Action, Manifest, Operation};
use crate::log::scan::{Gap, OpenFrame};
use crate::{Lost, LostKey};

impl LostKey {
    pub(crate) fn new(bucket: Bucket, key: &[u8]) -> Self {
        let (run_id, data_key) = bucket.names(key);
        LostKey { bucket: bucket.name(), run_id, data_key }
    }
}

/// Collects losses in the order of the log. Its memory is bounded: at most 1000 gaps, and as many keys as an index
/// of the damaged log would hold.
#[derive(Default)]
pub(crate) struct Losses {
    gaps: Vec<Lost>,
    more_gaps: u64,
    /// By bucket and key: where the lost latest value was.
    keys: [BTreeMap<Box<[u8]>, LostAt>; BUCKET_COUNT],
    /// Keys put by unproven frames, which belong to the gap that is noted next.
    unproven: Vec<(Bucket, Box<[u8]>)>,
}

#[derive(Clone, Copy)]
enum LostAt {
    Value(Location),
    /// The index of a gap in `gaps`.
    Gap(usize),
}

/// Bounds the memory and the report for a file that is all damage.
const LOST_MAX: usize = 1000;

impl Losses {
    /// Notes a put whose value does not open.
    pub(crate) fn note_value(&mut self, operation: &Operation<'_>, location: Location) {
        self.keys[operation.bucket as usize].insert(operation.key.into(), LostAt::Value(location));
    }

    /// Forgets what was lost of the operation's keys: the operation replaces or removes it.
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

    /// Notes the keys of a frame that cannot be authenticated. They count as lost with the gap that follows.
    pub(crate) fn note_unproven(&mut self, frame: &OpenFrame<'_>) {
        let puts = frame.manifest.iter().flat_map(Manifest::operations);
        let puts = puts.filter(|operation| matches!(operation.action, Action::Put { .. }));
        let left = LOST_MAX.saturating_sub(self.unproven.len());
        self.unproven.extend(puts.take(left).map(|put| (put.bucket, put.key.into())));
    }

    /// Notes a gap. Its keys are those of the unproven frames since the last gap.
    pub(crate) fn note_gap(&mut self, gap: &Gap) {
        let Gap { offset, end, first_seq, last_seq } = *gap;
        let unproven = std::mem::take(&mut self.unproven);
        if last_seq.is_some_and(|last| last < first_seq) {
            // The sequence numbers have no gap, so these bytes were no frame.
            return;
        }
        if self.gaps.len() == LOST_MAX {
            self.more_gaps += 1;
            return;
        }
        for (bucket, key) in unproven {
            // A loss known from an authentic manifest is more exact: keep it.
            self.keys[bucket as usize].entry(key).or_insert(LostAt::Gap(self.gaps.len()));
        }
        let what = "frames that are damaged or cannot be authenticated";
        self.gaps.push(Lost { offset, len: end - offset, first_seq, last_seq, keys: Vec::new(), what });
    }

    /// Notes that frames may be missing from the end of the log, after `tip`: its base record, which would show
    /// it, is lost.
    pub(crate) fn note_unknown_end(&mut self, tip: LogPosition) {
        if self.gaps.len() == LOST_MAX {
            self.more_gaps += 1;
            return;
        }
        let what = "frames that the log may have had here: its base record, which would show them, is damaged";
        let (offset, first_seq) = (tip.end, tip.seq + 1);
        self.gaps.push(Lost { offset, len: 0, first_seq, last_seq: None, keys: Vec::new(), what });
    }

    /// The losses in the order of the file, how many more there are, and whether keys may have older values again.
    pub(crate) fn into_lost(self) -> (Vec<Lost>, u64, bool) {
        let Losses { gaps: mut lost, more_gaps, keys, .. } = self;
        let mut may_be_stale = !lost.is_empty();
        let mut values = Vec::new();
        for (bucket, keys) in Bucket::ALL.into_iter().zip(keys) {
            for (key, lost_at) in keys {
                match lost_at {
                    LostAt::Gap(i) => lost[i].keys.push(LostKey::new(bucket, &key)),
                    LostAt::Value(location) => {
                        // A log event has a key of its own, so its put replaced nothing.
                        may_be_stale |= bucket != Bucket::Logs;
                        values.push((location, LostKey::new(bucket, &key)));
                    }
                }
            }
        }
        lost.extend(values.into_iter().map(|(location, key)| Lost {
            offset: location.value_offset,
            len: u64::from(location.len) + TAG_LEN as u64,
            first_seq: location.seq(),
            last_seq: Some(location.seq()),
            keys: vec![key],
            what: "a value that cannot be read",
        }));
        lost.sort_by_key(|lost| lost.offset);
        let beyond = lost.len().saturating_sub(LOST_MAX) as u64;
        lost.truncate(LOST_MAX);
        (lost, more_gaps + beyond, may_be_stale)
    }
}
