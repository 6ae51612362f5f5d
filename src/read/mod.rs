//! The reading calls, written once for [`Store`](crate::Store) and [`Snapshot`](crate::Snapshot).
//!
//! A reading call looks up locations in the index, releases the index, and then reads and decrypts the values:
//! writers never wait for a reader's decryption. Implements the values of *Buckets and their keys* of FORMAT.md,
//! section 8.

use std::sync::Arc;

use crate::format::bucket::{
    Bucket, CONFIG_KEY, DROPPED_KEY, HEARTBEAT_KEY, LogKey, SESSION_KEY, VALUE_PREFIX_LEN,
};
use crate::format::header::FIRST_FRAME_AT;
use crate::format::location::Location;
use crate::format::position::LogPosition;
use crate::index::{Index, Key};
use crate::log::reserve::Reserve;
use crate::log::values::{ValueReader, Values};
use crate::storage::File;
use crate::{CompactionStats, Error, Limit, Opening, QueueLimits, Result, Stats};

mod arguments;
mod calls;
mod iterators;
mod types;

pub use iterators::{DataKeys, Jobs, Logs, RunIds};
pub use types::{Config, LogBatch, LogEvent, QueuedJob, Session};

pub(crate) use arguments::{Misuse, check_data_key, check_run_id, check_value, refuse};
pub(crate) use calls::impl_reading_calls;

/// The part of [`Stats`] that follows from an index, the position at the end of its log, and the log's file.
pub(crate) fn stats(index: &Index, generation: u64, tip: LogPosition, file_len: u64, file: &dyn File) -> Stats {
    let frames_len = tip.end - FIRST_FRAME_AT as u64;
    let free_bytes = file_len.saturating_sub(tip.end);
    // A snapshot may be of a sparse copy.
    let space = file.next_hole(tip.end).map_or(free_bytes, |hole| free_bytes.min(hole - tip.end));
    let free = file.free_space();
    let reserve = Reserve::of(index, free.unwrap_or_default().creation_len);
    Stats {
        generation,
        seq: tip.seq,
        file_len,
        log_len: tip.end,
        live_bytes: index.live_bytes(),
        dead_bytes: frames_len.saturating_sub(index.live_bytes()),
        free_bytes,
        reserved_bytes: space.min(reserve.len()),
        acks_on_full_disk: acks_in(space, index),
        disk_free_bytes: free.map(|free| free.available),
        jobs: index.count(Bucket::Queue) as u64,
        queue_bytes: index.value_bytes(Bucket::Queue),
        queue_limits: QueueLimits::default(),
        log_events: index.count(Bucket::Logs) as u64,
        logs_dropped: 0,
        data_keys: index.count(Bucket::Data) as u64,
        data_bytes: index.value_bytes(Bucket::Data),
        oldest_log_ms: oldest_log_ms(index),
        opening: Opening::default(),
        compaction: CompactionStats::default(),
        since_opened: None,
    }
}

fn oldest_log_ms(index: &Index) -> Option<i64> {
    let (key, _) = index.iter(Bucket::Logs).next()?;
    Some(LogKey::decode(key)?.ts_ms)
}

/// How many jobs can be acked in `space`. If it is not enough for all, their run ids count as equally long.
fn acks_in(space: u64, index: &Index) -> u64 {
    let (jobs, needed) = (index.count(Bucket::Queue) as u64, index.acks_len());
    if space >= needed {
        return jobs;
    }
    let acks = u128::from(jobs) * u128::from(space) / u128::from(needed);
    u64::try_from(acks).unwrap_or(jobs)
}

/// Implemented by what has an index and the values that it refers to.
pub(crate) trait Reader {
    /// Looks something up in the index, and also returns the values of the same generation.
    fn with_index<R>(&self, find: impl FnOnce(&Index) -> R) -> (R, Arc<Values>);

    /// Looks up a page of jobs, from the first one, or from the one after `after`.
    fn page(&self, after: Option<&str>, limit: Limit) -> (Vec<(Key, Location)>, Arc<Values>) {
        self.with_index(|index| index.jobs(after, limit))
    }

    /// Called before a reading call: fails if this process may not read.
    fn begin(&self) -> Result<()> {
        Ok(())
    }

    /// Called after values were read: fails if the file has changed so that they may not be what the index refers
    /// to.
    fn confirm(&self) -> Result<()> {
        Ok(())
    }

    /// Like [`confirm`](Self::confirm), after reading a value has failed with `error`: more may be looked at.
    fn confirm_unreadable(&self, _error: &Error) -> Result<()> {
        Ok(())
    }

    /// What was read, if the file has not changed. Asked before the error of a value is returned: where the file
    /// has changed, that is why the value does not open, and its key is not at fault.
    fn confirmed<T>(&self, read: Result<T>) -> Result<T> {
        self.confirm()?;
        read.or_else(|error| self.confirm_unreadable(&error).and(Err(error)))
    }

    /// Looks up a key, and reads its value by `read`.
    fn value<T>(
        &self,
        bucket: Bucket,
        key: &[u8],
        read: impl FnOnce(&Values, Location) -> Result<T>,
    ) -> Result<Option<T>> {
        let (location, values) = self.with_index(|index| index.get(bucket, key));
        let Some(location) = location else { return Ok(None) };
        self.confirmed(read(&values, location).map_err(|error| error.about(bucket, key))).map(Some)
    }

    fn load_config(&self) -> Result<Option<Config>> {
        let found = self.value(Bucket::Config, CONFIG_KEY, split_prefix)?;
        Ok(found.map(|(prefix, raw)| Config { version: u64::from_le_bytes(prefix), raw }))
    }

    fn dequeue_jobs(&self, after: Option<&str>, limit: Limit) -> Result<Vec<QueuedJob>> {
        after.map_or(Ok(()), check_run_id)?;
        let (locations, values) = self.page(after, limit);
        let mut reader = values.reader();
        let read = |(key, location): (Key, Location)| read_job(&values, &mut reader, &key, location);
        self.confirmed(locations.into_iter().map(read).collect())
    }

    fn job(&self, run_id: &str) -> Result<Option<QueuedJob>> {
        check_run_id(run_id)?;
        let (location, values) = self.with_index(|index| index.get(Bucket::Queue, run_id.as_bytes()));
        let mut reader = values.reader();
        let job = location.map(|location| read_job(&values, &mut reader, run_id.as_bytes(), location));
        self.confirmed(job.transpose())
    }

    fn queue_depth(&self) -> usize {
        self.with_index(|index| index.count(Bucket::Queue)).0
    }

    fn queue_bytes(&self) -> u64 {
        self.with_index(|index| index.value_bytes(Bucket::Queue)).0
    }

    fn load_session(&self) -> Result<Option<Session>> {
        self.value(Bucket::Registry, SESSION_KEY, |values, location| {
            let (prefix, id) = split_prefix(values, location)?;
            let session_id = String::from_utf8(id).map_err(|_| values.malformed(location))?;
            Ok(Session { session_id, server_time_ms: i64::from_le_bytes(prefix) })
        })
    }

    fn last_heartbeat(&self) -> Result<Option<i64>> {
        Ok(self.value(Bucket::Registry, HEARTBEAT_KEY, read_integer)?.map(i64::from_le_bytes))
    }

    fn data(&self, key: &str) -> Result<Option<Vec<u8>>> {
        check_data_key(key)?;
        self.value(Bucket::Data, key.as_bytes(), Values::read)
    }

    fn log_count(&self) -> usize {
        self.with_index(|index| index.count(Bucket::Logs)).0
    }

    /// `dropped` is the count of dropped events to report in the batch.
    fn peek_logs(&self, limit: Limit, dropped: u64) -> Result<LogBatch> {
        let (locations, values) = self.with_index(|index| index.first(Bucket::Logs, limit));
        let events = self.confirmed(read_events(&values, &locations))?;
        let keys = locations.into_iter().map(|(key, _)| key).take(events.len()).collect();
        Ok(LogBatch { events, keys, dropped, dropped_total: dropped })
    }

    /// The count of dropped log events as the log has it.
    fn recorded_drops(&self) -> Result<u64> {
        Ok(self.value(Bucket::Registry, DROPPED_KEY, read_integer)?.map_or(0, u64::from_le_bytes))
    }
}

/// Reads the events at `locations`, up to the first value that cannot be read. If that is the first of all, fails.
pub(crate) fn read_events(values: &Values, locations: &[(Key, Location)]) -> Result<Vec<LogEvent>> {
    let mut events = Vec::with_capacity(locations.len());
    let mut reader = values.reader();
    for (key, location) in locations {
        match read_event(values, &mut reader, key, *location) {
            Ok(event) => events.push(event),
            Err(error) if events.is_empty() => return Err(error),
            Err(_) => break,
        }
    }
    Ok(events)
}

fn read_job(values: &Values, reader: &mut ValueReader<'_>, key: &[u8], location: Location) -> Result<QueuedJob> {
    let run_id = String::from_utf8(key.to_vec()).map_err(|_| values.malformed(location))?;
    match reader.read(location) {
        Ok(payload) => Ok(QueuedJob { run_id, payload }),
        Err(error) => Err(error.about(Bucket::Queue, key)),
    }
}

fn read_event(values: &Values, reader: &mut ValueReader<'_>, key: &[u8], location: Location) -> Result<LogEvent> {
    let LogKey { ts_ms, .. } = LogKey::decode(key).ok_or_else(|| values.malformed(location))?;
    let payload = reader.read(location).map_err(|error| error.about(Bucket::Logs, key))?;
    Ok(LogEvent { ts_ms, payload })
}

/// Reads a value that is an integer of 8 bytes, and nothing else. Returns its bytes.
fn read_integer(values: &Values, location: Location) -> Result<[u8; VALUE_PREFIX_LEN]> {
    let (integer, rest) = split_prefix(values, location)?;
    if rest.is_empty() { Ok(integer) } else { Err(values.malformed(location)) }
}

/// Reads a value that begins with an integer of 8 bytes: returns the integer's bytes, and the rest.
fn split_prefix(values: &Values, location: Location) -> Result<([u8; VALUE_PREFIX_LEN], Vec<u8>)> {
    let mut value = values.read(location)?;
    let prefix = *value.first_chunk().ok_or_else(|| values.malformed(location))?;
    value.drain(..VALUE_PREFIX_LEN);
    Ok((prefix, value))
}
