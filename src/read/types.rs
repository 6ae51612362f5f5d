//! What the reading calls return. `Debug` shows lengths in place of payloads, configuration and session id.

use std::fmt;
use std::slice;

use crate::index::Key;

/// A configuration, as [`Store::save_config`](crate::Store::save_config) saved it.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// The version that the caller gave it.
    pub version: u64,
    /// The configuration itself.
    pub raw: Vec<u8>,
}

/// A pending job.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueuedJob {
    /// The run id, unique in the queue.
    pub run_id: String,
    /// The payload.
    pub payload: Vec<u8>,
}

/// The session with the server.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Session {
    /// The id of the session. A secret: `Debug` shows only its length.
    pub session_id: String,
    /// The server's time when the session was opened, in milliseconds since 1970.
    pub server_time_ms: i64,
}

/// A log event.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogEvent {
    /// The time of the event, in milliseconds since 1970.
    pub ts_ms: i64,
    /// The payload.
    pub payload: Vec<u8>,
}

/// The oldest log events. They are still in the buffer: deliver them, then pass the batch to
/// [`Store::ack_logs`](crate::Store::ack_logs), which removes them.
#[derive(Clone, PartialEq, Eq)]
pub struct LogBatch {
    pub(super) events: Vec<LogEvent>,
    pub(crate) keys: Vec<Key>,
    pub(super) dropped: u64,
    /// `dropped` and all drops that earlier acks and drains had reported: see `LogQuota` in the store.
    pub(crate) dropped_total: u64,
}

impl LogBatch {
    /// Returns the events, oldest first.
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let key = backupy_state::AgentKey::new("key")?;
    /// # let store = backupy_state::Store::open(folder.path().join("state.db"), &key)?;
    /// store.buffer_log(1_000, b"backup begun")?;
    /// for event in &store.peek_logs(100)? {
    ///     println!("{}: {} bytes", event.ts_ms, event.payload.len());
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn events(&self) -> &[LogEvent] {
        &self.events
    }

    /// Returns how many events the batch has.
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let key = backupy_state::AgentKey::new("key")?;
    /// # let store = backupy_state::Store::open(folder.path().join("state.db"), &key)?;
    /// store.buffer_log(1_000, b"backup begun")?;
    /// assert_eq!(store.peek_logs(100)?.len(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// Returns whether the batch has no events. It may still report dropped ones.
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let key = backupy_state::AgentKey::new("key")?;
    /// # let store = backupy_state::Store::open(folder.path().join("state.db"), &key)?;
    /// assert!(store.peek_logs(100)?.is_empty());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// Returns a batch of the first `n` events, for instance those that were delivered before the connection
    /// broke. With `n` of at least [`len`](LogBatch::len), it is the whole batch.
    ///
    /// A part that leaves events out reports no drops, and acking it subtracts none: they stay counted until the
    /// whole batch, or a later one, is acked. So a caller that reports the drops after the events loses none of
    /// them. One that has reported them already may have to report them again.
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let key = backupy_state::AgentKey::new("key")?;
    /// # let store = backupy_state::Store::open(folder.path().join("state.db"), &key)?;
    /// store.buffer_log(1_000, b"first")?;
    /// store.buffer_log(2_000, b"second")?;
    /// let batch = store.peek_logs(100)?;
    /// // The server confirmed only the first event.
    /// assert_eq!(store.ack_logs(&batch.first(1))?, 1);
    /// assert_eq!(store.peek_logs(100)?.events()[0].payload, b"second");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn first(&self, n: usize) -> LogBatch {
        if n >= self.len() {
            return self.clone();
        }
        LogBatch {
            events: self.events.iter().take(n).cloned().collect(),
            keys: self.keys.iter().take(n).cloned().collect(),
            dropped: 0,
            dropped_total: self.dropped_total - self.dropped,
        }
    }

    /// Returns how many events the limits of the buffer have dropped since the last ack or drain.
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

impl<'a> IntoIterator for &'a LogBatch {
    type Item = &'a LogEvent;
    type IntoIter = slice::Iter<'a, LogEvent>;

    /// The events, oldest first.
    fn into_iter(self) -> Self::IntoIter {
        self.events.iter()
    }
}

impl fmt::Debug for LogBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogBatch").field("events", &self.events).field("dropped", &self.dropped).finish()
    }
}

/// What `Debug` shows in place of bytes that it must not show: their length.
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
