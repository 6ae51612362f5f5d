//! What the reading calls return.

use std::fmt;

use crate::index::Key;

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
    pub(super) events: Vec<LogEvent>,
    pub(crate) keys: Vec<Key>,
    pub(super) dropped: u64,
    /// The same, with all that had been acked or drained before: for the store that it was peeked from.
    pub(crate) dropped_total: u64,
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
