//! Bucket -> key -> where the value lies. In memory only: no I/O, no keys, no values.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::{Bound, Range};

use crate::crypto::TAG_LEN;
use crate::format::bucket::{BUCKET_COUNT, Bucket, LOG_KEY_LEN, LogKey};
use crate::format::frame::FRAME_HEADER_LEN;
use crate::format::location::{Location, ValueCursor};
use crate::format::record::{self, Action, Operation};

pub(crate) use key::Key;
use sort::keep_last_of_each;

mod key;
mod sort;

type Keys = BTreeMap<Key, Location>;
/// [`Location::order`] -> run id.
type Fifo = BTreeMap<(u32, u32), Key>;
/// A key, and where its value is after the operation: `None` for a delete.
type Staged = (Key, Option<Location>);
const _: () = assert!(size_of::<Staged>() == 64);

/// In which order jobs are dequeued.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum QueueOrder {
    /// By the bytes of the run id.
    #[default]
    RunId,
    /// By the latest enqueue: a job that was replaced, or acked and enqueued again, goes to the back. The order
    /// is kept over reopening, and a store may be opened with either order at any time.
    Fifo,
}

/// What is live in one generation.
pub(crate) struct Index {
    buckets: [Keys; BUCKET_COUNT],
    /// The queue by latest enqueue; kept only where the order is asked for.
    fifo: Option<Fifo>,
    /// Of each bucket: puts and deletes that a replay has seen and not yet sorted in, in the order of the log.
    staged: [Vec<Staged>; BUCKET_COUNT],
    /// How many stayed when those were thrown out last that later ones make void.
    staged_live: usize,
    /// Of each bucket: what its live operations take in a log, without frame headers.
    live_bytes: [u64; BUCKET_COUNT],
    next_ordinal: u64,
}

/// Below it, and below one for so many bytes of the log, looking for void operations costs more than it gives back.
const STAGED_MIN: u64 = 1 << 12;
const LEN_FOR_STAGED: u64 = 2 * size_of::<Staged>() as u64;

impl Index {
    pub(crate) fn new(order: QueueOrder) -> Self {
        let fifo = match order {
            QueueOrder::RunId => None,
            QueueOrder::Fifo => Some(Fifo::new()),
        };
        Index {
            buckets: Default::default(),
            fifo,
            staged: Default::default(),
            staged_live: 0,
            live_bytes: [0; BUCKET_COUNT],
            next_ordinal: 0,
        }
    }

    /// Applies a record's operations in their order; `locations` begins at its first value. Returns how many of the puts replaced
    /// something.
    pub(crate) fn apply<'a>(
        &mut self,
        operations: impl Iterator<Item = Operation<'a>>,
        mut locations: ValueCursor,
    ) -> usize {
        let mut replaced = 0;
        for operation in operations {
            let location = locations.locate(&operation);
            match (operation.action, location) {
                (Action::Put { .. }, Some(location)) => {
                    self.note_ordinal(operation.bucket, operation.key);
                    replaced += usize::from(self.put(operation.bucket, operation.key.into(), location));
                }
                (Action::DeleteThrough, _) => self.delete_through(operation.bucket, operation.key),
                (Action::Put { .. } | Action::Delete, _) => self.delete(operation.bucket, operation.key),
            }
        }
        replaced
    }

    /// As [`apply`](Self::apply), but only [`merge_staged`](Self::merge_staged) makes it visible: sorting many keys once costs a
    /// third of looking up the place of each.
    pub(crate) fn stage<'a>(
        &mut self,
        operations: impl Iterator<Item = Operation<'a>>,
        mut locations: ValueCursor,
    ) {
        let worth_a_look = STAGED_MIN + locations.frame_offset() / LEN_FOR_STAGED;
        for operation in operations {
            let location = locations.locate(&operation);
            let Operation { action, bucket, key } = operation;
            if action == Action::DeleteThrough {
                self.merge_staged_bucket(bucket);
                self.delete_through(bucket, key);
                continue;
            }
            if location.is_some() {
                self.note_ordinal(bucket, key);
            }
            self.staged[bucket as usize].push((key.into(), location));
            let count = self.staged.iter().map(Vec::len).sum::<usize>();
            // Twice what stayed, so that this is seldom done, and no more is held than twice what is live.
            if count as u64 > worth_a_look && count >= 2 * self.staged_live {
                self.staged_live = 0;
                for staged in &mut self.staged {
                    keep_last_of_each(staged);
                    self.staged_live += staged.len();
                }
            }
        }
    }

    /// Sorts in what was staged. Every reading call needs it done before.
    pub(crate) fn merge_staged(&mut self) {
        Bucket::ALL.into_iter().for_each(|bucket| self.merge_staged_bucket(bucket));
    }

    fn merge_staged_bucket(&mut self, bucket: Bucket) {
        let mut staged = std::mem::take(&mut self.staged[bucket as usize]);
        keep_last_of_each(&mut staged);
        if !self.bucket(bucket).is_empty() {
            for (key, location) in staged {
                match location {
                    Some(location) => {
                        self.put(bucket, key, location);
                    }
                    None => self.delete(bucket, &key),
                }
            }
            return;
        }
        let live_bytes = &mut self.live_bytes[bucket as usize];
        let live = staged.into_iter().filter_map(|(key, location)| {
            let location = location?;
            *live_bytes += live_len(bucket, &key, location.len);
            Some((key, location))
        });
        // Collecting sorted pairs fills the map from the left, without looking for places.
        self.buckets[bucket as usize] = live.collect();
        if let (Bucket::Queue, Some(fifo)) = (bucket, &mut self.fifo) {
            let keys = self.buckets[bucket as usize].iter();
            *fifo = keys.map(|(key, location)| (location.order(), key.clone())).collect();
        }
    }

    pub(crate) fn get(&self, bucket: Bucket, key: &[u8]) -> Option<Location> {
        self.bucket(bucket).get(key).copied()
    }

    pub(crate) fn count(&self, bucket: Bucket) -> usize {
        self.bucket(bucket).len()
    }

    /// The first `n` of a bucket in key order.
    pub(crate) fn first(&self, bucket: Bucket, n: usize) -> Vec<(Key, Location)> {
        self.iter(bucket).take(n).map(|(key, location)| (key.into(), location)).collect()
    }

    /// All of a bucket in key order.
    pub(crate) fn iter(&self, bucket: Bucket) -> impl Iterator<Item = (&[u8], Location)> {
        self.bucket(bucket).iter().map(|(key, location)| (&**key, *location))
    }

    /// The bytes of payload in the log buffer.
    pub(crate) fn log_bytes(&self) -> u64 {
        let overhead = live_len(Bucket::Logs, &[0; LOG_KEY_LEN], 0);
        self.live_bytes[Bucket::Logs as usize] - overhead * self.count(Bucket::Logs) as u64
    }

    /// Whether the operation takes something away.
    pub(crate) fn removes_any(&self, operation: &Operation<'_>) -> bool {
        let keys = self.bucket(operation.bucket);
        match operation.action {
            Action::Put { .. } => false,
            Action::Delete => keys.contains_key(operation.key),
            Action::DeleteThrough => keys.first_key_value().is_some_and(|(first, _)| **first <= *operation.key),
        }
    }

    /// The next `n` jobs in queue order, from the start or behind `after`.
    pub(crate) fn jobs(&self, after: Option<&str>, n: usize) -> Vec<(Key, Location)> {
        let queue = self.bucket(Bucket::Queue);
        let after = after.map(str::as_bytes);
        match &self.fifo {
            None => {
                let from = after.map_or(Bound::Unbounded, Bound::Excluded);
                let jobs = queue.range::<[u8], _>((from, Bound::Unbounded));
                jobs.take(n).map(|(key, location)| (key.clone(), *location)).collect()
            }
            Some(fifo) => {
                let after = after.and_then(|key| queue.get(key));
                let from = after.map_or(Bound::Unbounded, |location| Bound::Excluded(location.order()));
                let keys = fifo.range((from, Bound::Unbounded)).map(|(_, key)| key);
                let jobs = keys.filter_map(|key| Some((key.clone(), *queue.get(key)?)));
                jobs.take(n).collect()
            }
        }
    }

    /// The ordinal of the next log event: one more than the highest seen; `None` when they are used up.
    pub(crate) fn next_ordinal(&self) -> Option<u64> {
        (self.next_ordinal < u64::MAX).then_some(self.next_ordinal)
    }

    /// Whether as many keys are live in each bucket, with as many bytes.
    pub(crate) fn is_same_size_as(&self, other: &Self) -> bool {
        let counts = |index: &Self| index.buckets.each_ref().map(Keys::len);
        self.live_bytes == other.live_bytes && counts(self) == counts(other)
    }

    /// Gives no ordinal again that `other` has given.
    pub(crate) fn continue_ordinals_from(&mut self, other: &Self) {
        self.next_ordinal = self.next_ordinal.max(other.next_ordinal);
    }

    /// What the live operations would take in a log that holds nothing else, without frame headers.
    pub(crate) fn live_bytes(&self) -> u64 {
        self.live_bytes.iter().sum()
    }

    /// Where these bytes lie, in the order of the file: each sealed value; and as much at the beginning of its frame's
    /// manifest as the operations on live keys take there, wherever in it they are.
    pub(crate) fn live_ranges(&self) -> Vec<Range<u64>> {
        let mut ranges = Vec::new();
        let mut in_manifests = BTreeMap::<u64, u64>::new();
        for bucket in [Bucket::Config, Bucket::Queue, Bucket::Registry, Bucket::Logs] {
            for (key, location) in self.iter(bucket) {
                let value_at = location.value_offset();
                let sealed_len = u64::from(location.len) + TAG_LEN as u64;
                ranges.push(value_at..value_at + sealed_len);
                *in_manifests.entry(location.frame_offset).or_default() +=
                    live_len(bucket, key, location.len) - sealed_len;
            }
        }
        let manifest_at = |frame_offset| frame_offset + FRAME_HEADER_LEN as u64;
        ranges.extend(in_manifests.iter().map(|(&frame, len)| manifest_at(frame)..manifest_at(frame) + len));
        ranges.sort_unstable_by_key(|range| range.start);
        ranges
    }

    fn bucket(&self, bucket: Bucket) -> &Keys {
        &self.buckets[bucket as usize]
    }

    fn note_ordinal(&mut self, bucket: Bucket, key: &[u8]) {
        if let Some(LogKey { ordinal, .. }) = (bucket == Bucket::Logs).then(|| LogKey::decode(key)).flatten() {
            self.next_ordinal = self.next_ordinal.max(ordinal.saturating_add(1));
        }
    }

    /// Returns whether it replaced something.
    fn put(&mut self, bucket: Bucket, key: Key, location: Location) -> bool {
        self.live_bytes[bucket as usize] += live_len(bucket, &key, location.len);
        let in_order = (bucket == Bucket::Queue && self.fifo.is_some()).then(|| key.clone());
        let replaced = match self.buckets[bucket as usize].entry(key) {
            Entry::Vacant(free) => {
                free.insert(location);
                None
            }
            Entry::Occupied(mut taken) => {
                let old = taken.insert(location);
                Some(live_len(bucket, taken.key(), old.len)).zip(Some(old))
            }
        };
        if let Some((old_len, old)) = replaced {
            self.forget(bucket, old_len, &old);
        }
        if let (Some(key), Some(fifo)) = (in_order, &mut self.fifo) {
            fifo.insert(location.order(), key);
        }
        replaced.is_some()
    }

    fn delete(&mut self, bucket: Bucket, key: &[u8]) {
        if let Some(old) = self.buckets[bucket as usize].remove(key) {
            self.forget(bucket, live_len(bucket, key, old.len), &old);
        }
    }

    fn delete_through(&mut self, bucket: Bucket, last: &[u8]) {
        while let Some(first) = self.buckets[bucket as usize].first_entry() {
            if &**first.key() > last {
                break;
            }
            let (key, old) = first.remove_entry();
            self.forget(bucket, live_len(bucket, &key, old.len), &old);
        }
    }

    /// Undoes what a put noted beside the bucket itself.
    fn forget(&mut self, bucket: Bucket, old_len: u64, old: &Location) {
        self.live_bytes[bucket as usize] -= old_len;
        if let (Bucket::Queue, Some(fifo)) = (bucket, &mut self.fifo) {
            fifo.remove(&old.order());
        }
    }
}

fn live_len(bucket: Bucket, key: &[u8], value_len: u32) -> u64 {
    let operation = Operation { action: Action::Put { value_len }, bucket, key };
    record::operation_len(&operation) + u64::from(value_len) + TAG_LEN as u64
}
