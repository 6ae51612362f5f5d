//! The read half of the interface, written once for [`Store`](crate::Store) and [`Snapshot`](crate::Snapshot).
//!
//! A reading call finds its locations in the index, lets go of it, and then reads the values: writers never wait
//! for a reader's decryption.

use std::fmt;
use std::sync::Arc;

use crate::format::bucket::{
    Bucket, CONFIG_KEY, DROPPED_KEY, HEARTBEAT_KEY, LogKey, RUN_ID_LEN_MAX, SESSION_KEY, VALUE_PREFIX_LEN,
};
use crate::format::frame::Location;
use crate::format::header::{HEADER_PAGE_LEN, Header};
use crate::format::record::VALUE_LEN_MAX;
use crate::index::{Index, Key};
use crate::log::writer::{Reading, Tip, Values};
use crate::{Error, Result};

mod calls;

pub(crate) use calls::impl_reading_calls;

/// The configuration that was saved last.
#[derive(Clone, PartialEq, Eq)]
pub struct Config {
    /// The server's number of it.
    pub version: u64,
    /// Its bytes.
    pub raw: Vec<u8>,
}

/// A pending job.
#[derive(Clone, PartialEq, Eq)]
pub struct QueuedJob {
    /// Its run id.
    pub run_id: String,
    /// Its bytes.
    pub payload: Vec<u8>,
}

/// The session with the server.
#[derive(Clone, PartialEq, Eq)]
pub struct Session {
    /// The server's name of it.
    pub session_id: String,
    /// The server's clock when it was opened, in ms since 1970.
    pub server_time_ms: i64,
}

/// A log event.
#[derive(Clone, PartialEq, Eq)]
pub struct LogEvent {
    /// When it happened, in ms since 1970.
    pub ts_ms: i64,
    /// Its bytes.
    pub payload: Vec<u8>,
}

/// The oldest log events, looked at but not removed: deliver them, then hand the batch to
/// [`Store::ack_logs`](crate::Store::ack_logs).
#[derive(Clone, PartialEq, Eq)]
pub struct LogBatch {
    events: Vec<LogEvent>,
    pub(crate) keys: Vec<Key>,
    dropped: u64,
    /// The same, with all that had been acked or drained before: for the store that it was peeked from.
    pub(crate) dropped_ever: u64,
}

impl LogBatch {
    /// The events, oldest first.
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let store = backupy_state::Store::open(folder.path().join("state.db"), &backupy_state::AgentKey::new("key")?)?;
    /// store.buffer_log(1_000, b"backup begun")?;
    /// for event in store.peek_logs(100)?.events() {
    ///     println!("{}: {} bytes", event.ts_ms, event.payload.len());
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn events(&self) -> &[LogEvent] {
        &self.events
    }

    /// How many events were dropped, by the limits of the buffer, since the last ack or drain.
    ///
    /// ```
    /// # use backupy_state::{AgentKey, LogLimits, OpenOptions};
    /// # let folder = tempfile::tempdir()?;
    /// # let (path, key) = (folder.path().join("state.db"), AgentKey::new("key")?);
    /// let mut limits = LogLimits::default();
    /// limits.max_count = Some(1);
    /// let store = OpenOptions::new().log_limits(limits).open(&path, &key)?;
    /// store.buffer_log(1_000, b"first")?;
    /// store.buffer_log(2_000, b"second")?;
    /// let batch = store.peek_logs(100)?;
    /// assert_eq!((batch.events().len(), batch.dropped()), (1, 1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped
    }
}

impl fmt::Debug for LogBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogBatch").field("events", &self.events).field("dropped", &self.dropped).finish()
    }
}

/// A length, where `Debug` must not show the bytes.
struct Hidden(usize);

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{} bytes>", self.0)
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config").field("version", &self.version).field("raw", &Hidden(self.raw.len())).finish()
    }
}

impl fmt::Debug for QueuedJob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let payload = Hidden(self.payload.len());
        f.debug_struct("QueuedJob").field("run_id", &self.run_id).field("payload", &payload).finish()
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let session_id = Hidden(self.session_id.len());
        let mut out = f.debug_struct("Session");
        out.field("session_id", &session_id).field("server_time_ms", &self.server_time_ms).finish()
    }
}

impl fmt::Debug for LogEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let payload = Hidden(self.payload.len());
        f.debug_struct("LogEvent").field("ts_ms", &self.ts_ms).field("payload", &payload).finish()
    }
}

/// How large the store is, and of what.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// The number of this log file among those of the store, from 1.
    pub generation: u64,
    /// The number of the last frame.
    pub seq: u64,
    /// The length of the file in bytes, with the space ahead.
    pub file_len: u64,
    /// The length of the log in bytes: header page and frames.
    pub log_len: u64,
    /// What the live operations take in the log, in bytes, without frame headers.
    pub live_bytes: u64,
    /// The rest of the frames, in bytes: what was replaced or removed, and frame headers.
    pub dead_bytes: u64,
    /// Zeros ahead of the log, in bytes.
    pub free_bytes: u64,
    /// How many jobs are pending.
    pub jobs: u64,
    /// How many log events are buffered.
    pub log_events: u64,
    /// How many log events were dropped since the last ack or drain. A snapshot knows what the log has, and says 0 where that
    /// cannot be read.
    pub logs_dropped: u64,
    /// What compaction did since the store was opened; nothing in a snapshot.
    pub compaction: CompactionStats,
}

/// What compaction did since the store was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CompactionStats {
    /// How many compactions were completed, with those for a new key.
    pub completed: u64,
    /// How many failed and left the old log in place.
    pub failed: u64,
    /// What the last one said, if it failed.
    pub last_error: Option<String>,
}

impl Stats {
    pub(crate) fn new(index: &Index, generation: u64, tip: Tip, file_len: u64) -> Self {
        let frames_len = tip.end - HEADER_PAGE_LEN as u64;
        Stats {
            generation,
            seq: tip.seq,
            file_len,
            log_len: tip.end,
            live_bytes: index.live_bytes(),
            dead_bytes: frames_len.saturating_sub(index.live_bytes()),
            free_bytes: file_len.saturating_sub(tip.end),
            jobs: index.count(Bucket::Queue) as u64,
            log_events: index.count(Bucket::Logs) as u64,
            logs_dropped: 0,
            compaction: CompactionStats::default(),
        }
    }
}

/// An index, and the values it points to.
pub(crate) struct View {
    pub(crate) header: Header,
    pub(crate) index: Index,
    pub(crate) values: Arc<Values>,
}

/// Whoever has a view to read from.
pub(crate) trait Reader {
    /// Looks something up, and takes hold of the values that belong to the same state.
    fn look<R>(&self, find: impl FnOnce(&Index) -> R) -> (R, Arc<Values>);

    /// Called after values were read: whether they are still those that the index means.
    fn confirm(&self) -> Result<()> {
        Ok(())
    }

    fn load_config(&self) -> Result<Option<Config>> {
        let (place, values) = self.look(|index| index.get(Bucket::Config, CONFIG_KEY));
        let Some(place) = place else { return Ok(None) };
        let (prefix, raw) = split_prefix(&values, place)?;
        self.confirm()?;
        Ok(Some(Config { version: u64::from_le_bytes(prefix), raw }))
    }

    fn dequeue_jobs(&self, after: Option<&str>, n: usize) -> Result<Vec<QueuedJob>> {
        after.map_or(Ok(()), check_run_id)?;
        let (places, values) = self.look(|index| index.jobs(after, n));
        let mut jobs = Vec::with_capacity(places.len());
        let mut reading = values.reading();
        for (key, place) in places {
            jobs.push(read_job(&values, &mut reading, &key, place)?);
        }
        self.confirm()?;
        Ok(jobs)
    }

    fn job(&self, run_id: &str) -> Result<Option<QueuedJob>> {
        check_run_id(run_id)?;
        let (place, values) = self.look(|index| index.get(Bucket::Queue, run_id.as_bytes()));
        let mut reading = values.reading();
        let job = place.map(|place| read_job(&values, &mut reading, run_id.as_bytes(), place)).transpose()?;
        self.confirm()?;
        Ok(job)
    }

    fn queue_depth(&self) -> usize {
        self.look(|index| index.count(Bucket::Queue)).0
    }

    fn load_session(&self) -> Result<Option<Session>> {
        let (place, values) = self.look(|index| index.get(Bucket::Registry, SESSION_KEY));
        let Some(place) = place else { return Ok(None) };
        let (prefix, id) = split_prefix(&values, place)?;
        self.confirm()?;
        let session_id = String::from_utf8(id).map_err(|_| malformed(&values, place))?;
        Ok(Some(Session { session_id, server_time_ms: i64::from_le_bytes(prefix) }))
    }

    fn last_heartbeat(&self) -> Result<Option<i64>> {
        let (place, values) = self.look(|index| index.get(Bucket::Registry, HEARTBEAT_KEY));
        let Some(place) = place else { return Ok(None) };
        let (ts_ms, rest) = split_prefix(&values, place)?;
        if !rest.is_empty() {
            return Err(malformed(&values, place));
        }
        self.confirm()?;
        Ok(Some(i64::from_le_bytes(ts_ms)))
    }

    fn log_count(&self) -> usize {
        self.look(|index| index.count(Bucket::Logs)).0
    }

    /// `dropped` is the count of the same moment.
    fn peek_logs(&self, n: usize, dropped: u64) -> Result<LogBatch> {
        let (places, values) = self.look(|index| index.first(Bucket::Logs, n));
        let events = read_events(&values, &places)?;
        self.confirm()?;
        let keys = places.into_iter().map(|(key, _)| key).take(events.len()).collect();
        Ok(LogBatch { events, keys, dropped, dropped_ever: dropped })
    }

    /// How many log events had been dropped when the log was written last.
    fn recorded_drops(&self) -> Result<u64> {
        let (place, values) = self.look(|index| index.get(Bucket::Registry, DROPPED_KEY));
        let Some(place) = place else { return Ok(0) };
        let (count, rest) = split_prefix(&values, place)?;
        if !rest.is_empty() {
            return Err(malformed(&values, place));
        }
        Ok(u64::from_le_bytes(count))
    }
}

/// The events at `places`, up to the first that cannot be read.
///
/// # Errors
/// What is wrong with the first one.
pub(crate) fn read_events(values: &Values, places: &[(Key, Location)]) -> Result<Vec<LogEvent>> {
    let mut events = Vec::with_capacity(places.len());
    let mut reading = values.reading();
    for (key, place) in places {
        let LogKey { ts_ms, .. } = LogKey::decode(key).ok_or_else(|| malformed(values, *place))?;
        match reading.read(*place) {
            Ok(payload) => events.push(LogEvent { ts_ms, payload }),
            Err(error) if events.is_empty() => return Err(error),
            Err(_) => break,
        }
    }
    Ok(events)
}

pub(crate) fn check_run_id(run_id: &str) -> Result<()> {
    match run_id.len() {
        0 => Err(Error::Invalid { what: "the run id is empty".to_owned() }),
        len if len > RUN_ID_LEN_MAX => {
            Err(Error::TooLarge { what: "a run id", len: len as u64, max: RUN_ID_LEN_MAX as u64 })
        }
        _ => Ok(()),
    }
}

pub(crate) fn check_value(what: &'static str, value: &[u8]) -> Result<()> {
    if value.len() > VALUE_LEN_MAX {
        return Err(Error::TooLarge { what, len: value.len() as u64, max: VALUE_LEN_MAX as u64 });
    }
    Ok(())
}

fn read_job(values: &Values, reading: &mut Reading<'_>, key: &[u8], place: Location) -> Result<QueuedJob> {
    let run_id = String::from_utf8(key.to_vec()).map_err(|_| malformed(values, place))?;
    match reading.read(place) {
        Ok(payload) => Ok(QueuedJob { run_id, payload }),
        Err(error) => Err(error.about_job(run_id)),
    }
}

fn split_prefix(values: &Values, place: Location) -> Result<([u8; VALUE_PREFIX_LEN], Vec<u8>)> {
    let mut value = values.read(place)?;
    let prefix = *value.first_chunk().ok_or_else(|| malformed(values, place))?;
    value.drain(..VALUE_PREFIX_LEN);
    Ok((prefix, value))
}

/// Authentic, yet nothing that a writer of this format writes.
fn malformed(values: &Values, place: Location) -> Error {
    values.malformed(place)
}
