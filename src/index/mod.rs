//! The index: for each bucket and key, where the live value is in the log. In memory only, without any value.
//!
//! A running store applies each record as it is written, by [`Index::apply`]. A replay has many records to apply,
//! and no reader that waits for them, so it stages them instead:
//!
//! - [`Index::stage`] appends each put and delete to a list of its bucket, in the order of the log.
//! - [`Index::merge_staged`] makes each list the keys of its bucket, in which the last operation on each key
//!   counts (`keys.rs`). If the bucket has keys already, it applies the operations one by one.
//!
//! A delete-through also covers keys that are only staged, so it first merges its bucket. When the lists have
//! grown to half of the log's length, operations that a later one has replaced are dropped. So a long log with few
//! keys needs less memory than its operations would take.
//!
//! The index does no I/O and takes no lock; the store guards it. Implements how operations change a bucket
//! (*Records*), and the order of the queue and of log events (*Buckets and their keys*), of FORMAT.md.

use std::collections::BTreeMap;
use std::ops::{Bound, Range};

use crate::Limit;
use crate::crypto::TAG_LEN;
use crate::format::bucket::{BUCKET_COUNT, Bucket, LogKey};
use crate::format::location::{Location, ValueCursor};
use crate::format::record::{Action, Operation};

pub(crate) use key::Key;
use keys::Keys;
use order::Order;
pub(crate) use removed::Removed;
use sums::Sums;
pub(crate) use sums::live_len;

pub(crate) mod entry;
pub(crate) mod file;
mod key;
mod keys;
mod order;
mod removed;
mod sums;

/// A job's place in the order of the latest enqueue: its [`Location::order`].
pub(crate) type Place = (u32, u32);
/// The run ids by their places.
type Fifo = BTreeMap<Place, Key>;
/// A put's key and location, or a delete's key and `None`.
type Staged = (Key, Option<Location>);
const _: () = assert!(size_of::<Staged>() == 72);

/// The order in which jobs are dequeued.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum QueueOrder {
    /// By the bytes of the run id.
    #[default]
    RunId,
    /// In the order of the latest enqueue: a job that is replaced, or acked and enqueued again, moves to the back.
    /// The order is in the log, so it survives reopening, and each open may choose either order.
    Fifo,
}

/// Where the live values of one generation are.
pub(crate) struct Index {
    buckets: [Keys; BUCKET_COUNT],
    /// The queue by latest enqueue. `None` unless the order is [`QueueOrder::Fifo`].
    fifo: Option<Fifo>,
    /// For each bucket, the puts and deletes that are staged, in the order of the log.
    staged: [Vec<Staged>; BUCKET_COUNT],
    /// How many staged operations were left when the replaced ones were last dropped.
    staged_kept: usize,
    sums: Sums,
    /// One more than the highest ordinal of all log events put so far, deleted ones included.
    next_ordinal: u64,
    /// What the next run of the index file must delete. `None` if there is no run before it.
    removed: Option<Removed>,
}

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
            staged_kept: 0,
            sums: Sums::default(),
            next_ordinal: 0,
            removed: None,
        }
    }

    /// Stages what a run of the index file says of a key, which is given in two parts. Its ordinals are noted by
    /// [`continue_ordinals_from`](Self::continue_ordinals_from). A list that may have `expected` elements is not
    /// copied as it grows to them; no number makes it take much memory.
    pub(crate) fn stage_entry(
        &mut self,
        bucket: Bucket,
        key: [&[u8]; 2],
        location: Option<Location>,
        expected: usize,
    ) {
        let staged = &self.staged[bucket as usize];
        if staged.len() == staged.capacity() && staged.len() >= EXPECTED_MIN {
            let left = EXPECTED_MAX.saturating_sub(self.staged.iter().map(Vec::capacity).sum());
            let more = expected.saturating_sub(staged.len()).min(left);
            self.staged[bucket as usize].reserve_exact(more);
        }
        let staged = &mut self.staged[bucket as usize];
        staged.push((Key::default(), location));
        if let Some((staged_key, _)) = staged.last_mut() {
            // In its place: to move bytes that were written just before would take as long as all else here.
            key.into_iter().for_each(|part| staged_key.append(part));
        }
    }

    /// How much is staged, for [`unstage`](Self::unstage).
    pub(crate) fn staged_lens(&self) -> [usize; BUCKET_COUNT] {
        self.staged.each_ref().map(Vec::len)
    }

    /// Drops what was staged since it was `lens` long.
    pub(crate) fn unstage(&mut self, lens: [usize; BUCKET_COUNT]) {
        self.staged.iter_mut().zip(lens).for_each(|(staged, len)| staged.truncate(len));
    }

    /// Notes from now on which keys leave their places in the index file, whose runs have no values of frames
    /// after `last_seq`. Returns those noted so far; `None` if none were.
    pub(crate) fn note_removed_since(&mut self, last_seq: u64) -> Option<Removed> {
        self.removed.replace(Removed::since(last_seq))
    }

    /// The runs have no values of frames after `last_seq`, as is known only now.
    pub(crate) fn set_last_seq_of_runs(&mut self, last_seq: u64) {
        self.removed.iter_mut().for_each(|removed| removed.set_last_seq(last_seq));
    }

    /// Keys of a bucket up to the limit, in key order: from the first one, or from the one after `after`.
    pub(crate) fn range(
        &self,
        bucket: Bucket,
        after: Option<&[u8]>,
        limit: impl Into<Limit>,
    ) -> Vec<(Key, Location)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        up_to(limit.into(), self.bucket(bucket).range(from))
    }

    /// How many keys are live.
    pub(crate) fn live_count(&self) -> usize {
        self.buckets.iter().map(Keys::len).sum()
    }

    /// Whether both have the same keys in the same places.
    pub(crate) fn has_same_keys_as(&self, other: &Self) -> bool {
        self.buckets == other.buckets
    }

    /// Applies a record's operations in order. `locations` begins at the record's first value. Returns how many of
    /// the puts replaced a value.
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
                    replaced += usize::from(self.put(operation.bucket, operation.key, location));
                }
                (Action::DeleteThrough, _) => self.delete_through(operation.bucket, operation.key),
                (Action::Put { .. } | Action::Delete, _) => self.delete(operation.bucket, operation.key),
            }
        }
        replaced
    }

    /// Stages a record's operations. They become visible by [`merge_staged`](Self::merge_staged).
    pub(crate) fn stage<'a>(
        &mut self,
        operations: impl Iterator<Item = Operation<'a>>,
        mut locations: ValueCursor,
    ) {
        let drop_above = STAGED_MIN + locations.offset() / LEN_FOR_STAGED;
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
            // Only when the number has doubled since the last time. So sorting is rare enough, and of
            // more than `drop_above` staged operations, at most half have been replaced or have no effect.
            if count as u64 > drop_above && count >= 2 * self.staged_kept {
                self.staged_kept = 0;
                for (staged, keys) in self.staged.iter_mut().zip(&self.buckets) {
                    drop_replaced(staged);
                    // A delete of a key that is not there has no effect.
                    staged.retain(|(key, location)| location.is_some() || keys.contains(key));
                    self.staged_kept += staged.len();
                }
            }
        }
    }

    /// Makes the staged operations visible. Call it before any reading call.
    pub(crate) fn merge_staged(&mut self) {
        Bucket::ALL.into_iter().for_each(|bucket| self.merge_staged_bucket(bucket));
    }

    fn merge_staged_bucket(&mut self, bucket: Bucket) {
        let staged = std::mem::take(&mut self.staged[bucket as usize]);
        if !self.bucket(bucket).is_empty() {
            for (key, location) in staged {
                match location {
                    Some(location) => {
                        self.put(bucket, &key, location);
                    }
                    None => self.delete(bucket, &key),
                }
            }
            return;
        }
        let keys = Keys::with_base(staged, |key, location, is_live| match is_live {
            true => self.sums.add(bucket, key, &location),
            false => self.sums.remove(bucket, key, &location),
        });
        if let (Bucket::Queue, Some(fifo)) = (bucket, &mut self.fifo) {
            *fifo = keys.iter().map(|(key, location)| (location.order(), key.clone())).collect();
        }
        self.buckets[bucket as usize] = keys;
    }

    pub(crate) fn get(&self, bucket: Bucket, key: &[u8]) -> Option<Location> {
        self.bucket(bucket).get(key)
    }

    pub(crate) fn count(&self, bucket: Bucket) -> usize {
        self.bucket(bucket).len()
    }

    /// The first keys of a bucket up to the limit, in key order.
    pub(crate) fn first(&self, bucket: Bucket, limit: impl Into<Limit>) -> Vec<(Key, Location)> {
        self.range(bucket, None, limit)
    }

    /// All keys of a bucket: of the queue in its order, of any other one in key order.
    pub(crate) fn keys(&self, bucket: Bucket) -> Vec<Key> {
        let mut keys = Vec::with_capacity(self.count(bucket));
        match (bucket, &self.fifo) {
            (Bucket::Queue, Some(fifo)) => keys.extend(fifo.values().cloned()),
            _ => keys.extend(self.bucket(bucket).iter().map(|(key, _)| key.clone())),
        }
        keys
    }

    /// The keys of a bucket that begin with `prefix`, in key order.
    pub(crate) fn keys_with_prefix(&self, bucket: Bucket, prefix: &[u8]) -> Vec<Key> {
        let from_prefix = self.bucket(bucket).range(Bound::Included(prefix)).map(|(key, _)| key);
        from_prefix.take_while(|key| key.starts_with(prefix)).cloned().collect()
    }

    /// All keys of a bucket, in key order.
    pub(crate) fn iter(&self, bucket: Bucket) -> impl Iterator<Item = (&[u8], Location)> {
        self.bucket(bucket).iter().map(|(key, location)| (&**key, location))
    }

    /// The keys of a bucket after `after`, in key order.
    pub(crate) fn iter_after<'a>(
        &'a self,
        bucket: Bucket,
        after: &[u8],
    ) -> impl Iterator<Item = (&'a [u8], Location)> + use<'a> {
        self.bucket(bucket).range(Bound::Excluded(after)).map(|(key, location)| (&**key, location))
    }

    /// The bytes of the live values of a bucket.
    pub(crate) fn value_bytes(&self, bucket: Bucket) -> u64 {
        self.sums.value_bytes[bucket as usize]
    }

    /// How long an ack of each queued job would be, one record each.
    pub(crate) fn acks_len(&self) -> u64 {
        self.sums.acks_len
    }

    /// The bytes that the live operations of a bucket take in a log, without frame headers.
    pub(crate) fn live_bytes_in(&self, bucket: Bucket) -> u64 {
        self.sums.live_bytes[bucket as usize]
    }

    /// Whether the operation would delete a key.
    pub(crate) fn removes_any(&self, operation: &Operation<'_>) -> bool {
        let keys = self.bucket(operation.bucket);
        match operation.action {
            Action::Put { .. } => false,
            Action::Delete => keys.contains(operation.key),
            Action::DeleteThrough => keys.first().is_some_and(|first| **first <= *operation.key),
        }
    }

    /// The next jobs in queue order, up to the limit: from the first one, or from the one after `after`. With
    /// [`QueueOrder::Fifo`], an `after` that is not queued has no place in the order and is ignored.
    pub(crate) fn jobs(&self, after: Option<&str>, limit: Limit) -> Vec<(Key, Location)> {
        let after = after.map(str::as_bytes);
        if self.fifo.is_none() {
            return self.range(Bucket::Queue, after, limit);
        }
        let place = after.and_then(|key| self.get(Bucket::Queue, key)).map(|location| location.order());
        self.jobs_after_place(place, limit)
    }

    /// The next jobs in the order of the latest enqueue, up to the limit: from the first one, or from the first
    /// one after a place. None unless that is the order of the queue.
    pub(crate) fn jobs_after_place(&self, place: Option<Place>, limit: Limit) -> Vec<(Key, Location)> {
        let (queue, from) = (self.bucket(Bucket::Queue), place.map_or(Bound::Unbounded, Bound::Excluded));
        let found = self.fifo.iter().flat_map(|fifo| fifo.range((from, Bound::Unbounded)));
        up_to(limit, found.filter_map(|(_, key)| Some((key, queue.get(key)?))))
    }

    /// The place in `new` that has the same jobs before and after it as `place` has here. `new` has the same jobs
    /// in the same order; some may have been left out.
    pub(crate) fn place_in(&self, new: &Self, place: Place) -> Place {
        let before = self.fifo.iter().flat_map(|fifo| fifo.range(..=place).rev());
        let last_before = before.filter_map(|(_, key)| new.get(Bucket::Queue, key)).next();
        // No job has the place (0, 0): frames are numbered from 1.
        last_before.map_or((0, 0), |location| location.order())
    }

    /// The ordinal for the next log event, or `None` if no ordinal is left.
    pub(crate) fn next_ordinal(&self) -> Option<u64> {
        (self.next_ordinal < u64::MAX).then_some(self.next_ordinal)
    }

    /// One more than the highest ordinal that was given out.
    pub(crate) fn ordinals_end(&self) -> u64 {
        self.next_ordinal
    }

    /// Whether each bucket has as many live keys and live bytes as in `other`, without those that were left out:
    /// how compaction checks its copy.
    pub(crate) fn is_same_size_as(&self, other: &Self, left_out: &[(Bucket, Key, Location)]) -> bool {
        let mut counts = self.buckets.each_ref().map(Keys::len);
        let mut sums = self.sums.clone();
        for (bucket, key, location) in left_out {
            counts[*bucket as usize] += 1;
            sums.add(*bucket, key, location);
        }
        sums.live_bytes == other.sums.live_bytes && counts == other.buckets.each_ref().map(Keys::len)
    }

    /// Ensures that no ordinal before `next_ordinal` is given out again.
    pub(crate) fn continue_ordinals_from(&mut self, next_ordinal: u64) {
        self.next_ordinal = self.next_ordinal.max(next_ordinal);
    }

    /// The bytes that the live operations take in a log, without frame headers.
    pub(crate) fn live_bytes(&self) -> u64 {
        self.sums.live_bytes.iter().sum()
    }

    /// Where these bytes are, in the order of the file. Each sealed value is one range. The index does not know
    /// where in a manifest an operation is, so for each frame, a range before its first live value is as long as
    /// the live operations in the manifest.
    pub(crate) fn live_ranges(&self) -> Vec<Range<u64>> {
        let mut ranges = Vec::new();
        // For each frame: where its first live value is, and the length of its live operations.
        let mut in_manifests = BTreeMap::<u64, (u64, u64)>::new();
        for bucket in Bucket::ALL {
            for (key, location) in self.iter(bucket) {
                let value_at = location.value_offset;
                let sealed_len = u64::from(location.len) + TAG_LEN as u64;
                ranges.push(value_at..value_at + sealed_len);
                let (first, len) = in_manifests.entry(location.seq()).or_insert((value_at, 0));
                *first = value_at.min(*first);
                *len += live_len(&sums::put(bucket, key, &location)) - sealed_len;
            }
        }
        ranges.extend(in_manifests.values().map(|(first, len)| first - len..*first));
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

    /// Returns whether it replaced a value.
    fn put(&mut self, bucket: Bucket, key: &[u8], location: Location) -> bool {
        self.sums.add(bucket, key, &location);
        let replaced = self.buckets[bucket as usize].insert(key, location);
        if let Some(old) = &replaced {
            self.forget(bucket, key, old);
        }
        if let (Bucket::Queue, Some(fifo)) = (bucket, &mut self.fifo) {
            fifo.insert(location.order(), key.into());
        }
        replaced.is_some()
    }

    fn delete(&mut self, bucket: Bucket, key: &[u8]) {
        if let Some(old) = self.buckets[bucket as usize].remove(key) {
            self.forget(bucket, key, &old);
        }
    }

    fn delete_through(&mut self, bucket: Bucket, last: &[u8]) {
        while let Some((key, old)) = self.buckets[bucket as usize].pop_through(last) {
            self.forget(bucket, &key, &old);
        }
    }

    /// Undoes what the put of `old` changed outside the bucket's keys.
    fn forget(&mut self, bucket: Bucket, key: &[u8], old: &Location) {
        self.sums.remove(bucket, key, old);
        if let Some(removed) = &mut self.removed {
            removed.note(bucket, key, old);
        }
        if let (Bucket::Queue, Some(fifo)) = (bucket, &mut self.fifo) {
            fifo.remove(&old.order());
        }
    }
}

fn up_to<'a>(limit: Limit, found: impl Iterator<Item = (&'a Key, Location)>) -> Vec<(Key, Location)> {
    limit.take(found, |(_, location)| location.len).map(|(key, location)| (key.clone(), location)).collect()
}

/// Drops what a later operation on the same key replaces.
fn drop_replaced(staged: &mut Vec<Staged>) {
    let (_, replaced) = Order::of(staged, |_| ());
    let mut is_kept = vec![true; staged.len()];
    for index in replaced {
        is_kept[index] = false;
    }
    let mut is_kept = is_kept.into_iter();
    staged.retain(|_| is_kept.next().unwrap_or(true));
}

/// A list that is this long is given the memory that it is expected to need, but all lists together for no more
/// keys than `EXPECTED_MAX`: the number comes from the length of a file, which anybody can have changed.
const EXPECTED_MIN: usize = 32;
const EXPECTED_MAX: usize = 1 << 14;
/// With no more staged operations than this, plus one for each `LEN_FOR_STAGED` bytes of the log, dropping the
/// replaced ones takes more time than their memory is worth: 256 KiB plus half of the log's length.
const STAGED_MIN: u64 = 1 << 12;
const LEN_FOR_STAGED: u64 = 2 * size_of::<Staged>() as u64;
