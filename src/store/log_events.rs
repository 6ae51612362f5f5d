//! The calls of the log buffer, and batches, which may hold log events too: what its limits let in, what makes room, and
//! the count of what was dropped.

use std::sync::MutexGuard;
use std::time::Instant;

use super::batch::Batch;
use super::handle::Store;
use super::log_quota::{LogQuota, Plan};
use super::shared::{WriteGuard, lock};
use crate::crypto::secret_vec::SecretVec;
use crate::format::bucket::{Bucket, DROPPED_KEY, LogKey};
use crate::format::record::Change;
use crate::index::Index;
use crate::log::writer::Pending;
use crate::read::{self, LogBatch, LogEvent, Reader, check_value};
use crate::{Error, Result};

/// What [`Store::buffer_log`] did with the event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogAdmission {
    /// It is in the buffer.
    Buffered,
    /// It is in the buffer, and so many of the oldest events are not any more.
    DroppedOldest(u64),
    /// It came too fast, is larger than the buffer, or found it full: it is counted and gone.
    Dropped,
}

impl Store {
    /// Puts a log event into the buffer, at its time in ms since 1970; events of the same time keep the order of
    /// the calls. Takes its durability from [`log_durability`](crate::OpenOptions::log_durability).
    ///
    /// What is over the [limits](crate::OpenOptions::log_limits) is dropped and counted: the count is durable with the next log
    /// event, or by [`close`](Store::close).
    ///
    /// # Errors
    /// [`Error::TooLarge`] over 16 MiB, and as every writing call.
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let store = backupy_state::Store::open(folder.path().join("state.db"), &backupy_state::AgentKey::new("key")?)?;
    /// use backupy_state::LogAdmission;
    ///
    /// match store.buffer_log(1_700_000_000_000, b"backup begun")? {
    ///     LogAdmission::Buffered => {}
    ///     LogAdmission::DroppedOldest(count) => eprintln!("{count} older events made room"),
    ///     LogAdmission::Dropped => eprintln!("over the limits"),
    /// }
    /// # assert_eq!(store.log_count(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn buffer_log(&self, ts_ms: i64, payload: &[u8]) -> Result<LogAdmission> {
        check_value("a log event", payload)?;
        let guard = self.shared.write()?;
        let mut gate = lock(&self.log_quota);
        let (plan, _) = self.with_index(|index| gate.plan(index, &[payload.len() as u64]));
        if plan.admitted != [true] || !gate.take_token(Instant::now()) {
            gate.dropped += 1;
            return Ok(LogAdmission::Dropped);
        }
        let (ordinal, _) = self.with_index(Index::next_ordinal);
        let key = LogKey { ts_ms, ordinal: ordinal.ok_or_else(ordinals_used_up)? }.encode();
        let event = Change::put(Bucket::Logs, &key, &[], payload);
        let pending = append_with_drops(guard, gate, &plan, vec![event])?;
        self.committed(&pending, self.log_durability)?;
        Ok(match plan.made_room {
            0 => LogAdmission::Buffered,
            dropped => LogAdmission::DroppedOldest(dropped),
        })
    }

    /// Takes the `n` oldest log events out of the buffer, oldest first. What it returns has been removed: if the
    /// process ends before they are delivered, they are gone; [`peek_logs`](Store::peek_logs) and
    /// [`ack_logs`](Store::ack_logs) deliver them at least once. Resets the count of dropped events, if it removes any.
    /// Takes its durability from [`log_durability`](crate::OpenOptions::log_durability).
    ///
    /// # Errors
    /// [`Error::Unauthentic`] when the oldest event does not fit its seal (one further on ends the batch before it;
    /// [`discard_unreadable_logs`](Store::discard_unreadable_logs) removes it), and as every writing call. Nothing was removed, unless it is [`Error::Io`].
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let store = backupy_state::Store::open(folder.path().join("state.db"), &backupy_state::AgentKey::new("key")?)?;
    /// store.buffer_log(2_000, b"second")?;
    /// store.buffer_log(1_000, b"first")?;
    /// assert_eq!(store.drain_logs(1)?[0].payload, b"first");
    /// assert_eq!(store.log_count(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn drain_logs(&self, n: usize) -> Result<Vec<LogEvent>> {
        let guard = self.shared.write()?;
        let (locations, values) = self.with_index(|index| index.first(Bucket::Logs, n));
        let events = read::read_events(&values, &locations)?;
        if let Some((last, _)) = events.len().checked_sub(1).and_then(|last| locations.get(last)) {
            let mut gate = lock(&self.log_quota);
            let mut changes = vec![Change::delete_through(Bucket::Logs, last)];
            if gate.recorded != Some(0) {
                changes.push(Change::delete(Bucket::Registry, DROPPED_KEY));
            }
            let pending = guard.append(&changes)?;
            gate.note_reported(0);
            drop(gate);
            self.committed(&pending, self.log_durability)?;
        }
        Ok(events)
    }

    /// The `n` oldest log events, oldest first, and how many were dropped. Removes nothing: deliver them, then
    /// hand the batch to [`ack_logs`](Store::ack_logs).
    ///
    /// # Errors
    /// [`Error::Unauthentic`] when the oldest event does not fit its seal (one further on ends the batch before it;
    /// [`discard_unreadable_logs`](Store::discard_unreadable_logs) removes it), [`Error::Io`].
    ///
    /// ```
    /// # use backupy_state::{AgentKey, Store};
    /// # let folder = tempfile::tempdir()?;
    /// # let store = Store::open(folder.path().join("state.db"), &AgentKey::new("key")?)?;
    /// store.buffer_log(1_700_000_000_000, b"backup begun")?;
    /// let batch = store.peek_logs(100)?;
    /// assert_eq!(batch.events()[0].payload, b"backup begun");
    /// // Deliver them. A crash here delivers them again.
    /// assert_eq!(store.ack_logs(batch)?, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn peek_logs(&self, n: usize) -> Result<LogBatch> {
        let (dropped, dropped_total) = {
            let gate = lock(&self.log_quota);
            (gate.dropped, gate.dropped_total())
        };
        let mut batch = Reader::peek_logs(self, n, dropped)?;
        batch.dropped_total = dropped_total;
        Ok(batch)
    }

    /// Removes exactly the events of the batch, and takes the drops that it tells of off the count, if no other batch did. Returns how many
    /// of them it removed: those that were drained or made room meanwhile were gone already. A batch is good for the handle
    /// it was peeked from; after a reopening, peek again. Takes its durability from
    /// [`log_durability`](crate::OpenOptions::log_durability).
    ///
    /// # Errors
    /// As every writing call.
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let store = backupy_state::Store::open(folder.path().join("state.db"), &backupy_state::AgentKey::new("key")?)?;
    /// store.buffer_log(2_000, b"seen")?;
    /// let batch = store.peek_logs(10)?;
    /// store.buffer_log(1_000, b"older, and came later")?;
    /// assert_eq!(store.ack_logs(batch)?, 1);
    /// assert_eq!(store.peek_logs(10)?.events()[0].payload, b"older, and came later");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn ack_logs(&self, batch: LogBatch) -> Result<usize> {
        let guard = self.shared.write()?;
        let mut gate = lock(&self.log_quota);
        let (removed, _) = self.with_index(|index| {
            let mut keys = batch.keys.iter().map(|key| &**key);
            let count = index.count(Bucket::Logs);
            let are_first = index.iter(Bucket::Logs).zip(keys.clone()).all(|((key, _), peeked)| key == peeked);
            match batch.keys.last() {
                Some(last) if are_first && batch.keys.len() <= count => {
                    Removed { changes: vec![Change::delete_through(Bucket::Logs, last)], count: batch.keys.len() }
                }
                _ => {
                    let held = keys.by_ref().filter(|key| index.get(Bucket::Logs, key).is_some());
                    let changes: Vec<_> = held.map(|key| Change::delete(Bucket::Logs, key)).collect();
                    Removed { count: changes.len(), changes }
                }
            }
        });
        let Removed { mut changes, count } = removed;
        let dropped = gate.unreported_after(batch.dropped_total);
        let counter = dropped.to_le_bytes();
        if gate.recorded != Some(dropped) {
            changes.push(match dropped {
                0 => Change::delete(Bucket::Registry, DROPPED_KEY),
                _ => Change::put(Bucket::Registry, DROPPED_KEY, &counter, &[]),
            });
        }
        if changes.is_empty() {
            // What was dropped since the last record may be all that the batch tells.
            gate.note_reported(dropped);
            return Ok(count);
        }
        let pending = guard.append(&changes)?;
        gate.note_reported(dropped);
        drop(gate);
        self.committed(&pending, self.log_durability)?;
        Ok(count)
    }

    /// Removes every log event that does not fit its seal, and counts it as dropped: the way on when
    /// [`peek_logs`](Store::peek_logs) and [`drain_logs`](Store::drain_logs) return `Unauthentic`. Reads the whole
    /// buffer meanwhile. Returns how many there were; the others stay. Takes its durability from
    /// [`log_durability`](crate::OpenOptions::log_durability).
    ///
    /// # Errors
    /// As every writing call.
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
        let guard = self.shared.write()?;
        let (locations, values) = self.with_index(|index| index.first(Bucket::Logs, usize::MAX));
        let mut changes = Vec::new();
        for (key, location) in &locations {
            match values.read(*location).map(SecretVec::from) {
                Ok(_) => {}
                Err(Error::Unauthentic { .. }) => changes.push(Change::delete(Bucket::Logs, key)),
                Err(error) => return Err(error),
            }
        }
        let discarded = changes.len() as u64;
        if discarded > 0 {
            let plan = Plan { made_room: discarded, ..Plan::default() };
            let pending = append_with_drops(guard, lock(&self.log_quota), &plan, changes)?;
            self.committed(&pending, self.log_durability)?;
        }
        Ok(discarded)
    }

    /// Writes all of the batch or nothing of it, as one record, with one sync. An empty batch writes nothing. Takes its
    /// durability from [`durability`](crate::OpenOptions::durability).
    ///
    /// # Errors
    /// [`Error::Invalid`] or [`Error::TooLarge`] for the first call in it that is wrong, [`Error::TooLarge`] when all of it
    /// is over 64 MiB, and as every writing call.
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let store = backupy_state::Store::open(folder.path().join("state.db"), &backupy_state::AgentKey::new("key")?)?;
    /// use backupy_state::Batch;
    ///
    /// store.enqueue_job("run-1", b"dump of orders")?;
    /// store.write(Batch::new().ack_job("run-1").enqueue_job("run-1/done", b"ok"))?;
    /// assert_eq!(store.dequeue_jobs(10)?[0].run_id, "run-1/done");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn write(&self, mut batch: Batch) -> Result<()> {
        batch.check()?;
        let guard = self.shared.write()?;
        let mut gate = lock(&self.log_quota);
        let (plan, _) = self.with_index(|index| gate.plan(index, &batch.log_lens()));
        let (ordinal, _) = self.with_index(Index::next_ordinal);
        let log_keys = batch.log_keys(ordinal).ok_or_else(ordinals_used_up)?;
        let changes = batch.changes(&log_keys, &plan.admitted);
        if changes.is_empty() {
            // Nothing at all, or nothing but events that did not come in.
            gate.dropped += plan.dropped();
            return Ok(());
        }
        let pending = append_with_drops(guard, gate, &plan, changes)?;
        self.committed(&pending, self.durability)
    }

    /// Writes the count of dropped log events, if it is not in the log yet. A full disk may lose it.
    pub(super) fn record_drops(&self) -> Result<()> {
        let guard = self.shared.write()?;
        let gate = lock(&self.log_quota);
        if gate.recorded == Some(gate.dropped) {
            return Ok(());
        }
        match append_with_drops(guard, gate, &Plan::default(), Vec::new()) {
            Err(Error::Full { .. }) => Ok(()),
            written => written.map(drop),
        }
    }
}

/// What an ack takes out.
struct Removed<'a> {
    changes: Vec<Change<'a>>,
    count: usize,
}

/// Appends the changes, with what makes room for their log events before them and the count of drops behind them.
fn append_with_drops(
    guard: WriteGuard<'_>,
    mut gate: MutexGuard<'_, LogQuota>,
    plan: &Plan,
    changes: Vec<Change<'_>>,
) -> Result<Pending> {
    let dropped = gate.dropped + plan.dropped();
    let counter = dropped.to_le_bytes();
    let mut changes = changes;
    if let Some(last) = &plan.drop_through {
        changes.insert(0, Change::delete_through(Bucket::Logs, last));
    }
    if gate.recorded != Some(dropped) {
        changes.push(Change::put(Bucket::Registry, DROPPED_KEY, &counter, &[]));
    }
    let pending = guard.append(&changes)?;
    (gate.dropped, gate.recorded) = (dropped, Some(dropped));
    Ok(pending)
}

/// An agent that buffers a million events a second gets here after half a million years.
fn ordinals_used_up() -> Error {
    Error::Invalid { what: "the log buffer has used up its ordinals".to_owned() }
}
