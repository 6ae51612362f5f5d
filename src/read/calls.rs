//! The public reading calls, written once for whoever implements [`Reader`](super::Reader).

/// Gives a type that implements [`Reader`] the public reading calls.
macro_rules! impl_reading_calls {
    ($reader:ty) => {
        /// The reading calls. They see every call that has returned; none of them writes or waits for a sync.
        ///
        /// Each fails with [`Error::Unauthentic`](crate::Error::Unauthentic) where a value's seal does not fit, and
        /// with [`Error::Io`](crate::Error::Io) where the file cannot be read.
        impl $reader {
            /// The configuration that was saved last, or `None` if none ever was.
            ///
            /// # Errors
            /// `Unauthentic`, `Io`.
            ///
            /// ```
            /// # use backupy_state::{AgentKey, Snapshot, Store};
            /// # let folder = tempfile::tempdir()?;
            /// # let (path, key) = (folder.path().join("state.db"), AgentKey::new("key")?);
            /// # let store = Store::open(&path, &key)?;
            /// store.save_config(7, b"backup at 02:00")?;
            /// let beside = Snapshot::open(&path, &key)?;
            /// assert_eq!(beside.load_config()?, store.load_config()?);
            /// # Ok::<(), Box<dyn std::error::Error>>(())
            /// ```
            pub fn load_config(&self) -> $crate::Result<Option<$crate::Config>> {
                $crate::read::Reader::load_config(self)
            }

            /// The first `n` pending jobs in queue order. Removes nothing: a job stays until it is acked, so each
            /// is delivered at least once.
            ///
            /// # Errors
            /// `Unauthentic` with the run id of the job whose payload does not fit its seal. The others stay
            /// reachable by `job` and `dequeue_jobs_after`, and `ack_job` removes the bad one.
            ///
            /// ```
            /// # let folder = tempfile::tempdir()?;
            /// # let store = backupy_state::Store::open(folder.path().join("state.db"), &backupy_state::AgentKey::new("key")?)?;
            /// store.enqueue_job("run-2", b"dump of users")?;
            /// store.enqueue_job("run-1", b"dump of orders")?;
            /// let run_ids: Vec<_> = store.dequeue_jobs(10)?.into_iter().map(|job| job.run_id).collect();
            /// assert_eq!(run_ids, ["run-1", "run-2"]);
            /// # Ok::<(), Box<dyn std::error::Error>>(())
            /// ```
            pub fn dequeue_jobs(&self, n: usize) -> $crate::Result<Vec<$crate::QueuedJob>> {
                $crate::read::Reader::dequeue_jobs(self, None, n)
            }

            /// The next `n` pending jobs behind `run_id`. If that job is not queued, the order by run id goes on
            /// behind where it would be, and [`Fifo`](crate::QueueOrder::Fifo) starts at the front.
            ///
            /// # Errors
            /// `Invalid` for an empty run id, `TooLarge` for one over 1024 bytes, and as `dequeue_jobs`.
            ///
            /// ```
            /// # let folder = tempfile::tempdir()?;
            /// # let store = backupy_state::Store::open(folder.path().join("state.db"), &backupy_state::AgentKey::new("key")?)?;
            /// # for number in 0..5 { store.enqueue_job(&format!("run-{number}"), b"dump")?; }
            /// let mut page = store.dequeue_jobs(2)?;
            /// # let mut seen = 0;
            /// while let Some(last) = page.last() {
            ///     // Show the page.
            ///     # seen += page.len();
            ///     page = store.dequeue_jobs_after(&last.run_id, 2)?;
            /// }
            /// # assert_eq!(seen, 5);
            /// # Ok::<(), Box<dyn std::error::Error>>(())
            /// ```
            pub fn dequeue_jobs_after(&self, run_id: &str, n: usize) -> $crate::Result<Vec<$crate::QueuedJob>> {
                $crate::read::Reader::dequeue_jobs(self, Some(run_id), n)
            }

            /// The pending job of that run id.
            ///
            /// # Errors
            /// `Invalid` for an empty run id, `TooLarge` for one over 1024 bytes, `Unauthentic`, `Io`.
            ///
            /// ```
            /// # let folder = tempfile::tempdir()?;
            /// # let store = backupy_state::Store::open(folder.path().join("state.db"), &backupy_state::AgentKey::new("key")?)?;
            /// store.enqueue_job("run-1", b"dump of orders")?;
            /// assert_eq!(store.job("run-1")?.map(|job| job.payload), Some(b"dump of orders".to_vec()));
            /// assert_eq!(store.job("run-2")?, None);
            /// # Ok::<(), Box<dyn std::error::Error>>(())
            /// ```
            pub fn job(&self, run_id: &str) -> $crate::Result<Option<$crate::QueuedJob>> {
                $crate::read::Reader::job(self, run_id)
            }

            /// How many jobs are pending.
            ///
            /// ```
            /// # let folder = tempfile::tempdir()?;
            /// # let store = backupy_state::Store::open(folder.path().join("state.db"), &backupy_state::AgentKey::new("key")?)?;
            /// store.enqueue_job("run-1", b"dump of orders")?;
            /// assert_eq!(store.queue_depth(), 1);
            /// # Ok::<(), Box<dyn std::error::Error>>(())
            /// ```
            #[must_use]
            pub fn queue_depth(&self) -> usize {
                $crate::read::Reader::queue_depth(self)
            }

            /// The session that was saved last, or `None` if none ever was.
            ///
            /// # Errors
            /// `Unauthentic`, `Io`.
            ///
            /// ```
            /// # let folder = tempfile::tempdir()?;
            /// # let store = backupy_state::Store::open(folder.path().join("state.db"), &backupy_state::AgentKey::new("key")?)?;
            /// assert_eq!(store.load_session()?, None);
            /// store.save_session("session-of-today", 1_700_000_000_000)?;
            /// assert_eq!(store.load_session()?.map(|session| session.session_id).as_deref(), Some("session-of-today"));
            /// # Ok::<(), Box<dyn std::error::Error>>(())
            /// ```
            pub fn load_session(&self) -> $crate::Result<Option<$crate::Session>> {
                $crate::read::Reader::load_session(self)
            }

            /// The heartbeat that was recorded last, in ms since 1970, or `None` if none ever was.
            ///
            /// # Errors
            /// `Unauthentic`, `Io`.
            ///
            /// ```
            /// # use backupy_state::{AgentKey, Snapshot, Store};
            /// # let folder = tempfile::tempdir()?;
            /// # let (path, key) = (folder.path().join("state.db"), AgentKey::new("key")?);
            /// # let store = Store::open(&path, &key)?;
            /// assert_eq!(store.last_heartbeat()?, None);
            /// store.record_heartbeat(1_700_000_030_000)?;
            /// assert_eq!(Snapshot::open(&path, &key)?.last_heartbeat()?, Some(1_700_000_030_000));
            /// # Ok::<(), Box<dyn std::error::Error>>(())
            /// ```
            pub fn last_heartbeat(&self) -> $crate::Result<Option<i64>> {
                $crate::read::Reader::last_heartbeat(self)
            }

            /// How many log events are buffered.
            ///
            /// ```
            /// # let folder = tempfile::tempdir()?;
            /// # let store = backupy_state::Store::open(folder.path().join("state.db"), &backupy_state::AgentKey::new("key")?)?;
            /// store.buffer_log(1_700_000_000_000, b"backup begun")?;
            /// assert_eq!(store.log_count(), 1);
            /// # Ok::<(), Box<dyn std::error::Error>>(())
            /// ```
            #[must_use]
            pub fn log_count(&self) -> usize {
                $crate::read::Reader::log_count(self)
            }
        }
    };
}
pub(crate) use impl_reading_calls;
