//! The writing calls of the log buffer, and batches, which can hold log events too.
//!
//! `log_quota.rs` decides which events are buffered and which are evicted. Here the decision becomes one record,
//! together with the count of dropped events, so that a crash cannot evict events without counting them.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::iter;
use std::sync::MutexGuard;
use std::time::Instant;

use super::batch::Batch;
use super::handle::Store;
use super::log_quota::{LogQuota, Plan};
use super::shared::{WriteGuard, lock};
use crate::crypto::secret_vec::SecretVec;
use crate::format::bucket::{Bucket, DROPPED_KEY, LogKey};
use crate::format::record::Change;
use crate::index::{Index, Key};
use crate::log::commits::Pending;
use crate::read::{self, LogBatch, LogEvent, Reader, check_value};
use crate::{Error, Limit, Result};

/// What [`Store::buffer_log`] did with the event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LogAdmission {
    /// The event was buffered.
    Buffered,
    /// The event was buffered, and this many of the oldest events were dropped to make room.
    DroppedOldest(u64),
    /// The event was dropped and counted: it was over the rate, larger than the whole buffer, or the buffer was
    /// full and its limits say [`DropNewest`](crate::WhenFull::DropNewest).
    Dropped,
}

impl Store {
    /// Adds a log event to the buffer. `ts_ms` is in milliseconds since 1970; events with the same time keep the
    /// order of the calls.
    ///
    /// [`OpenOptions::log_durability`](crate::OpenOptions::log_durability) sets how durable the event is on
    /// return. An event over the [limits](crate::OpenOptions::log_limits) is dropped and counted. The count is
    /// written with the next event that is buffered, or by [`close`](Store::close).
    ///
    /// # Errors
    /// [`Error::TooLarge`] for more than 16 MiB, and those of [every writing
    /// call](Store#errors-of-every-writing-call).
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let key = backupy_state::AgentKey::new("key")?;
    /// # let store = backupy_state::Store::open(folder.path().join("state.db"), &key)?;
    /// use backupy_state::LogAdmission;
    ///
    /// match store.buffer_log(1_700_000_000_000, b"backup begun")? {
    ///     LogAdmission::Buffered => {}
    ///     LogAdmission::DroppedOldest(count) => eprintln!("{count} older events were dropped"),
    ///     _ => eprintln!("dropped: over the limits"),
    /// }
    /// # assert_eq!(store.log_count(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn buffer_log(&self, ts_ms: i64, payload: &[u8]) -> Result<LogAdmission> {
        check_value("a log event", payload)?;
        let guard = self.shared.write()?;
        let mut quota = lock(&self.log_quota);
        let (plan, _) = self.with_index(|index| quota.plan(index, &[], &[(ts_ms, payload.len() as u64)]));
        if plan.admitted != [true] || !quota.take_token(Instant::now()) {
            quota.dropped += 1;
            return Ok(LogAdmission::Dropped);
        }
        let (ordinal, _) = self.with_index(Index::next_ordinal);
        let key = LogKey { ts_ms, ordinal: ordinal.ok_or_else(ordinals_used_up)? }.encode();
        let event = Change::put(Bucket::Logs, &key, &[], payload);
        let pending = self.tell_failure(append_with_drops(guard, quota, &plan, vec![event]))?;
        self.finish_commit(&pending, self.log_durability)?;
        Ok(match plan.evicted.len() as u64 {
            0 => LogAdmission::Buffered,
            dropped => LogAdmission::DroppedOldest(dropped),
        })
    }

    /// Removes the oldest log events from the buffer, up to the [limit](Limit), and returns them, oldest first. If
    /// it removes any, it also resets the count of dropped events.
    ///
    /// The events are delivered at most once: if the process ends before it has delivered them, they are lost. To
    /// deliver at least once, use [`peek_logs`](Store::peek_logs) and [`ack_logs`](Store::ack_logs).
    /// [`OpenOptions::log_durability`](crate::OpenOptions::log_durability) sets how durable the removal is on
    /// return.
    ///
    /// # Errors
    /// [`Error::Unauthentic`] if the oldest event fails authentication; an unreadable event after it only ends the
    /// batch early. [`discard_unreadable_logs`](Store::discard_unreadable_logs) removes such events. Also those of
    /// [every writing call](Store#errors-of-every-writing-call). After any error but [`Error::Io`], nothing was
    /// removed.
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let key = backupy_state::AgentKey::new("key")?;
    /// # let store = backupy_state::Store::open(folder.path().join("state.db"), &key)?;
    /// store.buffer_log(2_000, b"second")?;
    /// store.buffer_log(1_000, b"first")?;
    /// assert_eq!(store.drain_logs(1)?[0].payload, b"first");
    /// assert_eq!(store.log_count(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn drain_logs(&self, limit: impl Into<Limit>) -> Result<Vec<LogEvent>> {
        let guard = self.shared.write()?;
        let (locations, values) = self.with_index(|index| index.first(Bucket::Logs, limit));
        let events = read::read_events(&values, &locations)?;
        if let Some((last, _)) = events.len().checked_sub(1).and_then(|last| locations.get(last)) {
            let quota = lock(&self.log_quota);
            let plan = Plan { reported_total: Some(quota.dropped_total()), ..Plan::default() };
            let changes = vec![Change::delete_through(Bucket::Logs, last)];
            let pending = self.tell_failure(append_with_drops(guard, quota, &plan, changes))?;
            self.finish_commit(&pending, self.log_durability)?;
        }
        Ok(events)
    }

    /// Returns the oldest log events, up to the [limit](Limit), oldest first, and how many events were dropped.
    /// Removes nothing: deliver the events, then pass the batch to [`ack_logs`](Store::ack_logs).
    ///
    /// # Errors
    /// [`Error::Io`], and [`Error::Unauthentic`] if the oldest event fails authentication; an unreadable event
    /// after it only ends the batch early. [`discard_unreadable_logs`](Store::discard_unreadable_logs) removes
    /// such events.
    ///
    /// ```
    /// # use backupy_state::{AgentKey, Store};
    /// # let folder = tempfile::tempdir()?;
    /// # let store = Store::open(folder.path().join("state.db"), &AgentKey::new("key")?)?;
    /// store.buffer_log(1_700_000_000_000, b"backup begun")?;
    /// let batch = store.peek_logs(100)?;
    /// assert_eq!(batch.events()[0].payload, b"backup begun");
    /// // Deliver the events. After a crash here, the next start delivers them again.
    /// assert_eq!(store.ack_logs(&batch)?, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn peek_logs(&self, limit: impl Into<Limit>) -> Result<LogBatch> {
        self.shared.check_open()?;
        let (dropped, dropped_total) = {
            let quota = lock(&self.log_quota);
            (quota.dropped, quota.dropped_total())
        };
        let mut batch = Reader::peek_logs(self, limit.into(), dropped)?;
        batch.dropped_total = dropped_total;
        Ok(batch)
    }

    /// Removes exactly the events of the batch, and subtracts the drops that the batch reports from the count,
    /// unless another batch has already done so. Returns how many events it removed, without those that have been
    /// drained or dropped since the peek.
    ///
    /// To remove only some of the events, ack a part of the batch: see [`LogBatch::first`].
    ///
    /// A batch is valid only for the handle that it was peeked from: after reopening the store, peek again.
    /// [`OpenOptions::log_durability`](crate::OpenOptions::log_durability) sets how durable the removal is on
    /// return.
    ///
    /// # Errors
    /// Those of [every writing call](Store#errors-of-every-writing-call). After [`Error::Full`], call it again
    /// with the same batch. If an older event was buffered after the peek, each later event of the batch takes 20
    /// bytes of the record. The record of some 3 million is over 64 MiB, which is [`Error::TooLarge`], and that of
    /// some 1,500 may not fit on a full disk. After either error, peek again, deliver the older events too, and
    /// ack that batch: its record is short. To ack parts of the first batch does not help: together they take as
    /// much space.
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let key = backupy_state::AgentKey::new("key")?;
    /// # let store = backupy_state::Store::open(folder.path().join("state.db"), &key)?;
    /// store.buffer_log(2_000, b"peeked")?;
    /// let batch = store.peek_logs(10)?;
    /// store.buffer_log(1_000, b"older, but buffered later")?;
    /// assert_eq!(store.ack_logs(&batch)?, 1);
    /// assert_eq!(store.peek_logs(10)?.events()[0].payload, b"older, but buffered later");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn ack_logs(&self, batch: &LogBatch) -> Result<usize> {
        let guard = self.shared.write()?;
        let mut quota = lock(&self.log_quota);
        let (LogRemoval { changes, count }, _) = self.with_index(|index| LogRemoval::plan(index, &batch.keys));
        let plan = Plan { reported_total: Some(batch.dropped_total), ..Plan::default() };
        let recorded = guard.with_index(|index| quota.recorded(index));
        if changes.is_empty() && recorded == Some(quota.unreported_after(&plan)) {
            // The log already has this count: the drops that the batch reports were not recorded yet.
            quota.note(&plan);
            return Ok(count);
        }
        let pending = self.tell_failure(append_with_drops(guard, quota, &plan, changes))?;
        self.finish_commit(&pending, self.log_durability)?;
        Ok(count)
    }

    /// Removes every log event that fails authentication, counts it as dropped, and returns how many there were.
    /// All other events are kept. This is the remedy when [`peek_logs`](Store::peek_logs) or
    /// [`drain_logs`](Store::drain_logs) returns `Unauthentic`.
    ///
    /// It reads the whole buffer, and other writing calls wait until it has.
    /// [`OpenOptions::log_durability`](crate::OpenOptions::log_durability) sets how durable the removal is on
    /// return.
    ///
    /// # Errors
    /// Those of [every writing call](Store#errors-of-every-writing-call). After an error, some of the events may
    /// have been removed, the oldest first, and are counted as dropped; call it again to remove the others.
    ///
    /// All unreadable events before the oldest readable one are removed by one short record. Each later one takes
    /// 20 bytes, so that a full disk may have no space for more than some 1,500 of them. After [`Error::Full`],
    /// peek or drain the readable events before the next unreadable one, and call it again.
    ///
    /// ```
    /// # use backupy_state::{AgentKey, Error, Store};
    /// # let folder = tempfile::tempdir()?;
    /// # let store = Store::open(folder.path().join("state.db"), &AgentKey::new("key")?)?;
    /// # store.buffer_log(1_700_000_000_000, b"backup begun")?;
    /// let batch = match store.peek_logs(100) {
    ///     Err(Error::Unauthentic { .. }) => {
    ///         store.discard_unreadable_logs()?;
    ///         store.peek_logs(100)?
    ///     }
    ///     peeked => peeked?,
    /// };
    /// # assert_eq!((batch.events().len(), batch.dropped()), (1, 0));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn discard_unreadable_logs(&self) -> Result<u64> {
        let (unreadable, before_readable) = self.unreadable_logs()?;
        let (oldest, later) = unreadable.split_at(before_readable);
        let mut discarded = 0;
        // The oldest have a record of their own, because a full disk has space for it if it has any.
        for keys in iter::once(oldest).chain(later.chunks(DISCARDED_AT_ONCE)) {
            discarded += self.discard_logs(keys)?;
        }
        Ok(discarded)
    }

    /// The keys of the events that fail authentication, the oldest first, and how many of them are older than all
    /// readable ones.
    fn unreadable_logs(&self) -> Result<(Vec<Key>, usize)> {
        let _guard = self.shared.write()?;
        let (locations, values) = self.with_index(|index| index.first(Bucket::Logs, usize::MAX));
        let (mut unreadable, mut before_readable) = (Vec::new(), 0);
        for (i, (key, location)) in locations.into_iter().enumerate() {
            match values.read(location).map(SecretVec::from) {
                Ok(_) => {}
                Err(Error::Unauthentic { .. }) => {
                    unreadable.push(key);
                    before_readable += usize::from(unreadable.len() == i + 1);
                }
                Err(error) => return Err(error),
            }
        }
        Ok((unreadable, before_readable))
    }

    /// Removes those of the events that are still buffered, and counts them as dropped. Returns how many it
    /// removed.
    fn discard_logs(&self, keys: &[Key]) -> Result<u64> {
        let guard = self.shared.write()?;
        let quota = lock(&self.log_quota);
        let LogRemoval { changes, count } = guard.with_index(|index| LogRemoval::plan(index, keys));
        let discarded = count as u64;
        if discarded > 0 {
            let plan = Plan { discarded, ..Plan::default() };
            let pending = self.tell_failure(append_with_drops(guard, quota, &plan, changes))?;
            self.finish_commit(&pending, self.log_durability)?;
        }
        Ok(discarded)
    }

    /// Writes the batch as one record, with one sync: all of it or nothing. An empty batch writes nothing.
    ///
    /// [`OpenOptions::durability`](crate::OpenOptions::durability) sets how durable it is on return.
    ///
    /// # Errors
    /// [`Error::Invalid`] or [`Error::TooLarge`] for the first call in it with an invalid argument,
    /// [`Error::TooLarge`] if the record is over 64 MiB, [`Error::QueueFull`] if the queue would be over its
    /// [limits](crate::QueueLimits) after it, and those of [every writing
    /// call](Store#errors-of-every-writing-call). After [`Error::Full`] and [`Error::QueueFull`], call it again
    /// with the same batch. One that acks many log events may not fit on a full disk: see
    /// [`ack_logs`](Store::ack_logs).
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let key = backupy_state::AgentKey::new("key")?;
    /// # let store = backupy_state::Store::open(folder.path().join("state.db"), &key)?;
    /// use backupy_state::Batch;
    ///
    /// store.enqueue_job("run-1", b"dump of orders")?;
    /// store.write(&Batch::new().ack_job("run-1").enqueue_job("run-1/done", b"ok"))?;
    /// assert_eq!(store.dequeue_jobs(10)?[0].run_id, "run-1/done");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn write(&self, batch: &Batch) -> Result<()> {
        batch.check()?;
        let guard = self.shared.write()?;
        let mut quota = lock(&self.log_quota);
        let (acked, _) = self.with_index(|index| batch.acked_logs(index));
        let (mut plan, _) = self.with_index(|index| quota.plan(index, &acked, &batch.log_events()));
        plan.reported_total = batch.reported_total();
        let (ordinal, _) = self.with_index(Index::next_ordinal);
        let log_keys = batch.log_keys(ordinal).ok_or_else(ordinals_used_up)?;
        let (LogRemoval { mut changes, .. }, _) = self.with_index(|index| LogRemoval::plan(index, &acked));
        changes.extend(batch.changes(&log_keys, &plan.admitted, |bucket, key| self.find(bucket, key))?);
        self.check_queue_limits(&changes)?;
        let recorded = guard.with_index(|index| quota.recorded(index));
        let has_counter = plan.reported_total.is_some() && recorded != Some(quota.unreported_after(&plan));
        if changes.is_empty() && !has_counter {
            // The batch is empty, or has only acks that remove nothing and log events over the limits.
            quota.note(&plan);
            return Ok(());
        }
        let pending = self.tell_failure(append_with_drops(guard, quota, &plan, changes))?;
        self.finish_commit(&pending, self.durability)
    }

    /// Writes the count of dropped log events if the log does not have it yet. On a full disk the count is lost.
    pub(super) fn record_drops(&self) -> Result<()> {
        let guard = self.shared.write()?;
        let quota = lock(&self.log_quota);
        if guard.with_index(|index| quota.recorded(index)) == Some(quota.dropped) {
            return Ok(());
        }
        match self.tell_failure(append_with_drops(guard, quota, &Plan::default(), Vec::new())) {
            Err(Error::Full { .. }) => Ok(()),
            written => written.map(drop),
        }
    }
}

/// The changes that remove the peeked events, and how many events those are.
struct LogRemoval<'a> {
    changes: Vec<Change<'a>>,
    count: usize,
}

impl<'a> LogRemoval<'a> {
    /// One delete-through for the peeked events before the oldest one that stays, so that the record is short also
    /// where some of them are gone, and a delete for each later one that is still there.
    fn plan<K: Borrow<[u8]>>(index: &Index, peeked: &'a [K]) -> Self {
        // Evicted events are not in key order.
        let mut keys: Vec<&'a [u8]> = peeked.iter().map(K::borrow).collect();
        keys.sort_unstable();
        let mut buffered = index.iter(Bucket::Logs).map(|(key, _)| key).peekable();
        let (mut last, mut count, mut rest) = (None, 0, &keys[..]);
        while let (Some((key, later)), Some(first)) = (rest.split_first(), buffered.peek()) {
            match first.cmp(key) {
                Ordering::Less => break,
                Ordering::Equal => {
                    (last, count) = (Some(*key), count + 1);
                    buffered.next();
                }
                // This one is gone.
                Ordering::Greater => {}
            }
            rest = later;
        }
        let mut changes: Vec<_> =
            last.map(|last| Change::delete_through(Bucket::Logs, last)).into_iter().collect();
        let still_there = rest.iter().filter(|key| index.get(Bucket::Logs, key).is_some());
        changes.extend(still_there.map(|key| Change::delete(Bucket::Logs, key)).inspect(|_| count += 1));
        LogRemoval { changes, count }
    }
}

/// How many events that lie between readable ones are discarded by one record. It is short enough that a full disk
/// has space for a few of them.
const DISCARDED_AT_ONCE: usize = 500;

/// Appends the changes as one record, with the evictions of the plan before them and the new count of drops after
/// them.
fn append_with_drops(
    guard: WriteGuard<'_>,
    mut quota: MutexGuard<'_, LogQuota>,
    plan: &Plan,
    changes: Vec<Change<'_>>,
) -> Result<Pending> {
    let dropped = quota.unreported_after(plan);
    let counter = dropped.to_le_bytes();
    // Rebound, so that its type allows changes that borrow from `counter` and `plan`.
    let mut changes = changes;
    if !plan.evicted.is_empty() {
        let evictions = guard.with_index(|index| LogRemoval::plan(index, &plan.evicted).changes);
        changes.splice(0..0, evictions);
    }
    if guard.with_index(|index| quota.recorded(index)) != Some(dropped) {
        changes.push(match dropped {
            0 => Change::delete(Bucket::Registry, DROPPED_KEY),
            _ => Change::put(Bucket::Registry, DROPPED_KEY, &counter, &[]),
        });
    }
    let pending = guard.append(&changes)?;
    quota.note_recorded(plan);
    Ok(pending)
}

/// Not reached in practice: 2^64 ordinals last half a million years at a million events a second.
fn ordinals_used_up() -> Error {
    Error::Invalid { what: "the log buffer has no ordinals left".to_owned() }
}
