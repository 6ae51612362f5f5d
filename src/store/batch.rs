//! Writing calls that commit together. Checks and collects them; `log_events.rs` writes them.

use std::collections::{BTreeSet, HashMap};
use std::fmt;

use crate::crypto::secret_vec::SecretVec;
use crate::format::bucket::{
    Bucket, CONFIG_KEY, HEARTBEAT_KEY, LOG_KEY_LEN, LogKey, SESSION_KEY, VALUE_PREFIX_LEN,
};
use crate::format::record::Change;
use crate::index::{Index, Key};
use crate::read::{Misuse, refuse};
use crate::{LogBatch, QueuedJob, Result};

/// Writing calls that become one record: after a crash, the store has all of their effects or none.
///
/// The calls take effect in the order in which they were added: the last call on a key wins. An ack of a job that
/// is not queued does nothing, nor does deleting a data key that is not there. Log events count against the
/// buffer's limits of count and bytes, but not of rate.
///
/// [`Store::write`](crate::Store::write) reports the first call with an invalid argument, and then writes nothing.
/// The record of a batch is limited to 64 MiB. Payloads are wiped from memory when the batch is dropped.
///
/// A batch that was not written can be written again: [`Store::write`](crate::Store::write) borrows it.
///
/// ```
/// use backupy_state::{AgentKey, Batch, Store};
///
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("state.db");
/// let store = Store::open(&path, &AgentKey::new("bkpy_0123456789abcdef0123456789abcdef")?)?;
/// store.enqueue_job("run-1", b"dump of orders")?;
/// // After a crash, the job is removed and its completion message is queued, or neither.
/// let done = Batch::new().ack_job("run-1").enqueue_job("run-1/done", b"ok").record_heartbeat(1_700_000_000_000);
/// store.write(&done)?;
/// assert_eq!(store.job("run-1")?, None);
/// assert_eq!(store.queue_depth(), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Default)]
#[must_use = "a batch does nothing until it is passed to Store::write"]
pub struct Batch {
    calls: Vec<Call>,
    /// How many calls were added, with those that are not kept because of an invalid argument.
    len: usize,
    /// The first invalid argument, if any.
    invalid: Option<Misuse>,
}

#[derive(Clone)]
enum Call {
    Put { bucket: Bucket, key: Box<[u8]>, prefix: Option<[u8; VALUE_PREFIX_LEN]>, value: SecretVec },
    Delete { bucket: Bucket, key: Box<[u8]> },
    AckDelivered { run_id: Box<[u8]>, payload: SecretVec },
    AckLogs { keys: Vec<Key>, dropped_total: u64 },
    Log { ts_ms: i64, payload: SecretVec },
}

impl Batch {
    /// Creates an empty batch.
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let key = backupy_state::AgentKey::new("key")?;
    /// # let store = backupy_state::Store::open(folder.path().join("state.db"), &key)?;
    /// # use backupy_state::Batch;
    /// store.write(&Batch::new())?; // writes nothing
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn new() -> Self {
        Batch::default()
    }

    /// Returns how many calls were added, those with an invalid argument included.
    ///
    /// ```
    /// # use backupy_state::Batch;
    /// assert_eq!(Batch::new().ack_job("run-1").record_heartbeat(1_700_000_000_000).len(), 2);
    /// ```
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns whether no call was added. Writing an empty batch does nothing.
    ///
    /// ```
    /// # use backupy_state::Batch;
    /// assert!(Batch::new().is_empty());
    /// assert!(!Batch::new().ack_job("run-1").is_empty());
    /// ```
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds a [`Store::save_config`](crate::Store::save_config).
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let key = backupy_state::AgentKey::new("key")?;
    /// # let store = backupy_state::Store::open(folder.path().join("state.db"), &key)?;
    /// # use backupy_state::Batch;
    /// store.write(&Batch::new().save_config(7, b"backup at 02:00").ack_job("config-7"))?;
    /// assert_eq!(store.load_config()?.map(|config| config.version), Some(7));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn save_config(self, version: u64, raw: &[u8]) -> Self {
        let prefix = Some(version.to_le_bytes());
        self.add(Misuse::of_value("a configuration", raw), || Call::put(Bucket::Config, CONFIG_KEY, prefix, raw))
    }

    /// Adds a [`Store::enqueue_job`](crate::Store::enqueue_job).
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let key = backupy_state::AgentKey::new("key")?;
    /// # let store = backupy_state::Store::open(folder.path().join("state.db"), &key)?;
    /// # use backupy_state::Batch;
    /// store.write(&Batch::new().enqueue_job("run-1", b"orders").enqueue_job("run-2", b"users"))?;
    /// assert_eq!(store.queue_depth(), 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn enqueue_job(self, run_id: &str, payload: &[u8]) -> Self {
        let misuse = Misuse::of_run_id(run_id).or_else(|| Misuse::of_value("a payload", payload));
        self.add(misuse, || Call::put(Bucket::Queue, run_id.as_bytes(), None, payload))
    }

    /// Adds a [`Store::ack_job`](crate::Store::ack_job).
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let key = backupy_state::AgentKey::new("key")?;
    /// # let store = backupy_state::Store::open(folder.path().join("state.db"), &key)?;
    /// # use backupy_state::Batch;
    /// store.enqueue_job("run-1", b"dump of orders")?;
    /// store.write(&Batch::new().ack_job("run-1").ack_job("never queued"))?;
    /// assert_eq!(store.queue_depth(), 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn ack_job(self, run_id: &str) -> Self {
        self.add(Misuse::of_run_id(run_id), || Call::delete(Bucket::Queue, run_id))
    }

    /// Adds a [`Store::ack_delivered`](crate::Store::ack_delivered): the job is removed only if the queue still
    /// holds this payload. [`Store::write`](crate::Store::write) opens the queued payload to find out.
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let key = backupy_state::AgentKey::new("key")?;
    /// # let store = backupy_state::Store::open(folder.path().join("state.db"), &key)?;
    /// # use backupy_state::Batch;
    /// store.enqueue_job("run-1", b"dump of orders")?;
    /// for job in store.dequeue_jobs(10)? {
    ///     // Deliver the job. Then:
    ///     store.write(&Batch::new().ack_delivered(&job).enqueue_job("run-1/done", b"ok"))?;
    /// }
    /// assert_eq!(store.queue_depth(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn ack_delivered(self, job: &QueuedJob) -> Self {
        self.add(Misuse::of_run_id(&job.run_id), || Call::AckDelivered {
            run_id: job.run_id.as_bytes().into(),
            payload: job.payload.clone().into(),
        })
    }

    /// Adds a [`Store::ack_logs`](crate::Store::ack_logs). Before all other calls of the batch take effect, the
    /// events are removed that were peeked and are still there.
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let key = backupy_state::AgentKey::new("key")?;
    /// # let store = backupy_state::Store::open(folder.path().join("state.db"), &key)?;
    /// # use backupy_state::Batch;
    /// store.buffer_log(1_700_000_000_000, b"run-1 is done")?;
    /// let events = store.peek_logs(100)?;
    /// // Send the events. Then:
    /// store.write(&Batch::new().ack_logs(&events).record_heartbeat(1_700_000_030_000))?;
    /// assert_eq!(store.log_count(), 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn ack_logs(self, events: &LogBatch) -> Self {
        let LogBatch { keys, dropped_total, .. } = events;
        self.add(None, || Call::AckLogs { keys: keys.clone(), dropped_total: *dropped_total })
    }

    /// Adds a [`Store::save_session`](crate::Store::save_session).
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let key = backupy_state::AgentKey::new("key")?;
    /// # let store = backupy_state::Store::open(folder.path().join("state.db"), &key)?;
    /// # use backupy_state::Batch;
    /// store.write(&Batch::new().save_session("session-of-today", 1_700_000_000_000).save_config(7, b"new"))?;
    /// assert!(store.load_session()?.is_some());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn save_session(self, session_id: &str, server_time_ms: i64) -> Self {
        let (id, prefix) = (session_id.as_bytes(), Some(server_time_ms.to_le_bytes()));
        self.add(Misuse::of_value("a session id", id), || Call::put(Bucket::Registry, SESSION_KEY, prefix, id))
    }

    /// Adds a [`Store::record_heartbeat`](crate::Store::record_heartbeat).
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let key = backupy_state::AgentKey::new("key")?;
    /// # let store = backupy_state::Store::open(folder.path().join("state.db"), &key)?;
    /// # use backupy_state::Batch;
    /// store.write(&Batch::new().ack_job("run-1").record_heartbeat(1_700_000_000_000))?;
    /// assert_eq!(store.last_heartbeat()?, Some(1_700_000_000_000));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn record_heartbeat(self, ts_ms: i64) -> Self {
        self.add(None, || Call::put(Bucket::Registry, HEARTBEAT_KEY, Some(ts_ms.to_le_bytes()), &[]))
    }

    /// Adds a [`Store::put_data`](crate::Store::put_data).
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let key = backupy_state::AgentKey::new("key")?;
    /// # let store = backupy_state::Store::open(folder.path().join("state.db"), &key)?;
    /// # use backupy_state::Batch;
    /// # store.enqueue_job("run-1", b"dump of orders")?;
    /// // The job moves out of the queue; after a crash it is in one place or the other.
    /// store.write(&Batch::new().ack_job("run-1").put_data("dead/run-1", b"dump of orders"))?;
    /// assert_eq!(store.data("dead/run-1")?.as_deref(), Some(&b"dump of orders"[..]));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn put_data(self, key: &str, value: &[u8]) -> Self {
        let misuse = Misuse::of_data_key(key).or_else(|| Misuse::of_value("a data value", value));
        self.add(misuse, || Call::put(Bucket::Data, key.as_bytes(), None, value))
    }

    /// Adds a [`Store::delete_data`](crate::Store::delete_data).
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let key = backupy_state::AgentKey::new("key")?;
    /// # let store = backupy_state::Store::open(folder.path().join("state.db"), &key)?;
    /// # use backupy_state::Batch;
    /// store.put_data("retry/run-1", b"2")?;
    /// store.write(&Batch::new().ack_job("run-1").delete_data("retry/run-1"))?;
    /// assert_eq!(store.data("retry/run-1")?, None);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn delete_data(self, key: &str) -> Self {
        self.add(Misuse::of_data_key(key), || Call::delete(Bucket::Data, key))
    }

    /// Adds a [`Store::buffer_log`](crate::Store::buffer_log). Over the limits, the event is dropped and counted.
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let key = backupy_state::AgentKey::new("key")?;
    /// # let store = backupy_state::Store::open(folder.path().join("state.db"), &key)?;
    /// # use backupy_state::Batch;
    /// store.write(&Batch::new().ack_job("run-1").buffer_log(1_700_000_000_000, b"run-1 is done"))?;
    /// assert_eq!(store.log_count(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn buffer_log(self, ts_ms: i64, payload: &[u8]) -> Self {
        self.add(Misuse::of_value("a log event", payload), || Call::Log {
            ts_ms,
            payload: payload.to_vec().into(),
        })
    }

    /// Adds the call if its arguments are valid. After an invalid one, calls are not kept: nothing will be
    /// written.
    fn add(mut self, misuse: Option<Misuse>, call: impl FnOnce() -> Call) -> Self {
        self.len += 1;
        self.invalid = self.invalid.or(misuse);
        if self.invalid.is_none() {
            self.calls.push(call());
        }
        self
    }

    /// Fails if a call has an invalid argument.
    pub(crate) fn check(&self) -> Result<()> {
        refuse(self.invalid)
    }

    /// The keys of the log events in the order of the calls, with ordinals from `ordinal` on; `None` if there are
    /// not enough ordinals left.
    pub(crate) fn log_keys(&self, ordinal: Option<u64>) -> Option<Vec<[u8; LOG_KEY_LEN]>> {
        let times = self.calls.iter().filter_map(|call| match call {
            Call::Log { ts_ms, .. } => Some(*ts_ms),
            _ => None,
        });
        let key = |(i, ts_ms)| Some(LogKey { ts_ms, ordinal: ordinal?.checked_add(i)? }.encode());
        (0..).zip(times).map(key).collect()
    }

    /// The lengths of the log events' payloads, in the order of the calls.
    pub(crate) fn log_events(&self) -> Vec<(i64, u64)> {
        let events = self.calls.iter().filter_map(|call| match call {
            Call::Log { ts_ms, payload } => Some((*ts_ms, payload.len() as u64)),
            _ => None,
        });
        events.collect()
    }

    /// The keys of the acked log events that are still buffered, each once.
    pub(crate) fn acked_logs(&self, index: &Index) -> Vec<&[u8]> {
        let acked = self.calls.iter().filter_map(|call| match call {
            Call::AckLogs { keys, .. } => Some(keys),
            _ => None,
        });
        let acked: BTreeSet<&[u8]> = acked.flatten().map(|key| &**key).collect();
        acked.into_iter().filter(|key| index.get(Bucket::Logs, key).is_some()).collect()
    }

    /// The total of the drops that the acked batches of log events have reported.
    pub(crate) fn reported_total(&self) -> Option<u64> {
        let totals = self.calls.iter().filter_map(|call| match call {
            Call::AckLogs { dropped_total, .. } => Some(*dropped_total),
            _ => None,
        });
        totals.max()
    }

    /// The changes that the calls make, except for acks of log events. `log_keys` come from
    /// [`log_keys`](Self::log_keys); `admitted` says for each log event whether it is buffered, and `find` looks
    /// up a value from before the batch. To delete a key that is not there changes nothing.
    ///
    /// # Errors
    /// That of opening a value.
    pub(crate) fn changes<'a, P: FnOnce() -> Result<SecretVec>>(
        &'a self,
        log_keys: &'a [[u8; LOG_KEY_LEN]],
        admitted: &[bool],
        find: impl Fn(Bucket, &[u8]) -> Option<P>,
    ) -> Result<Vec<Change<'a>>> {
        let mut log_keys = log_keys.iter().zip(admitted);
        // The value of a key that a call so far has put, `None` if one has deleted it. Only deletes ask for it.
        let mut put = HashMap::<(Bucket, &[u8]), Option<&[u8]>>::new();
        let is_delete = |call: &Call| matches!(call, Call::Delete { .. } | Call::AckDelivered { .. });
        let has_deletes = self.calls.iter().any(is_delete);
        let mut changes = Vec::with_capacity(self.calls.len());
        for call in &self.calls {
            match call {
                Call::Put { bucket, key, prefix, value } => {
                    if has_deletes {
                        put.insert((*bucket, key), Some(value));
                    }
                    changes.push(Change::put(*bucket, key, prefix.as_ref().map_or(&[], |prefix| prefix), value));
                }
                Call::Delete { bucket, key } => {
                    let was_put = put.insert((*bucket, key), None);
                    let is_there = was_put.map_or_else(|| find(*bucket, key).is_some(), |put| put.is_some());
                    changes.extend(is_there.then(|| Change::delete(*bucket, key)));
                }
                Call::AckDelivered { run_id, payload } => {
                    let is_held = match put.get(&(Bucket::Queue, &**run_id)) {
                        Some(put) => *put == Some(payload),
                        None => match find(Bucket::Queue, run_id) {
                            Some(open) => **open()? == **payload,
                            None => false,
                        },
                    };
                    if is_held {
                        put.insert((Bucket::Queue, run_id), None);
                        changes.push(Change::delete(Bucket::Queue, run_id));
                    }
                }
                Call::Log { payload, .. } => {
                    if let Some((key, true)) = log_keys.next() {
                        changes.push(Change::put(Bucket::Logs, key, &[], payload));
                    }
                }
                Call::AckLogs { .. } => {}
            }
        }
        Ok(changes)
    }
}

impl Call {
    fn put(bucket: Bucket, key: &[u8], prefix: Option<[u8; VALUE_PREFIX_LEN]>, value: &[u8]) -> Self {
        Call::Put { bucket, key: key.into(), prefix, value: value.to_vec().into() }
    }

    fn delete(bucket: Bucket, key: &str) -> Self {
        Call::Delete { bucket, key: key.as_bytes().into() }
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch").field("calls", &self.len).finish_non_exhaustive()
    }
}
