//! Bucket -> key -> where the value lies. In memory only: no I/O, no keys, no values.

use std::collections::BTreeMap;
use std::ops::Bound;

use crate::format::bucket::{BUCKET_COUNT, Bucket, LogKey};
use crate::format::frame::{Location, ValueCursor};
use crate::format::record::{self, Action, Operation};
use crate::options::QueueOrder;
use crate::seal::TAG_LEN;

type Keys = BTreeMap<Box<[u8]>, Location>;
/// [`Location::order`] -> run id.
type Fifo = BTreeMap<(u32, u32), Box<[u8]>>;

/// What is live in one generation.
pub(crate) struct Index {
    buckets: [Keys; BUCKET_COUNT],
    /// The queue by latest enqueue; kept only where the order is asked for.
    fifo: Option<Fifo>,
    live_bytes: u64,
    next_ordinal: u64,
}

impl Index {
    pub(crate) fn new(order: QueueOrder) -> Self {
        let fifo = match order {
            QueueOrder::RunId => None,
            QueueOrder::Fifo => Some(Fifo::new()),
        };
        Index { buckets: Default::default(), fifo, live_bytes: 0, next_ordinal: 0 }
    }

    /// Applies a record's operations in their order; `places` begins at its first value.
    pub(crate) fn apply<'a>(&mut self, operations: impl Iterator<Item = Operation<'a>>, mut places: ValueCursor) {
        for operation in operations {
            let place = places.place(&operation);
            match (operation.action, place) {
                (Action::Put { .. }, Some(place)) => self.put(&operation, place),
                (Action::DeleteThrough, _) => self.delete_through(operation.bucket, operation.key),
                (Action::Put { .. } | Action::Delete, _) => self.delete(operation.bucket, operation.key),
            }
        }
    }

    pub(crate) fn get(&self, bucket: Bucket, key: &[u8]) -> Option<Location> {
        self.bucket(bucket).get(key).copied()
    }

    pub(crate) fn count(&self, bucket: Bucket) -> usize {
        self.bucket(bucket).len()
    }

    /// The first `n` of a bucket in key order.
    pub(crate) fn first(&self, bucket: Bucket, n: usize) -> Vec<(Box<[u8]>, Location)> {
        self.bucket(bucket).iter().take(n).map(|(key, place)| (key.clone(), *place)).collect()
    }

    /// The next `n` jobs in queue order, from the start or behind `after`.
    pub(crate) fn jobs(&self, after: Option<&str>, n: usize) -> Vec<(Box<[u8]>, Location)> {
        let queue = self.bucket(Bucket::Queue);
        let after = after.map(str::as_bytes);
        match &self.fifo {
            None => {
                let from = after.map_or(Bound::Unbounded, Bound::Excluded);
                let jobs = queue.range::<[u8], _>((from, Bound::Unbounded));
                jobs.take(n).map(|(key, place)| (key.clone(), *place)).collect()
            }
            Some(fifo) => {
                let after = after.and_then(|key| queue.get(key));
                let from = after.map_or(Bound::Unbounded, |place| Bound::Excluded(place.order()));
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

    /// What the live operations would take in a log that holds nothing else, without frame headers.
    pub(crate) fn live_bytes(&self) -> u64 {
        self.live_bytes
    }

    fn bucket(&self, bucket: Bucket) -> &Keys {
        &self.buckets[bucket as usize]
    }

    fn put(&mut self, operation: &Operation<'_>, place: Location) {
        let Operation { bucket, key, .. } = *operation;
        if let Some(LogKey { ordinal, .. }) = (bucket == Bucket::Logs).then(|| LogKey::decode(key)).flatten() {
            self.next_ordinal = self.next_ordinal.max(ordinal.saturating_add(1));
        }
        self.live_bytes += live_len(bucket, key, &place);
        let replaced = match self.buckets[bucket as usize].get_mut(key) {
            Some(found) => Some(std::mem::replace(found, place)),
            None => self.buckets[bucket as usize].insert(key.into(), place),
        };
        if let Some(old) = replaced {
            self.forget(bucket, key, &old);
        }
        if let (Bucket::Queue, Some(fifo)) = (bucket, &mut self.fifo) {
            fifo.insert(place.order(), key.into());
        }
    }

    fn delete(&mut self, bucket: Bucket, key: &[u8]) {
        if let Some(old) = self.buckets[bucket as usize].remove(key) {
            self.forget(bucket, key, &old);
        }
    }

    fn delete_through(&mut self, bucket: Bucket, last: &[u8]) {
        while let Some(first) = self.buckets[bucket as usize].first_entry() {
            if &**first.key() > last {
                break;
            }
            let (key, old) = first.remove_entry();
            self.forget(bucket, &key, &old);
        }
    }

    /// Undoes what a put noted beside the bucket itself.
    fn forget(&mut self, bucket: Bucket, key: &[u8], old: &Location) {
        self.live_bytes -= live_len(bucket, key, old);
        if let (Bucket::Queue, Some(fifo)) = (bucket, &mut self.fifo) {
            fifo.remove(&old.order());
        }
    }
}

fn live_len(bucket: Bucket, key: &[u8], place: &Location) -> u64 {
    let operation = Operation { action: Action::Put { value_len: place.len }, bucket, key };
    record::operation_len(&operation) + u64::from(place.len) + TAG_LEN as u64
}
