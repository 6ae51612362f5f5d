//! The public reading calls, with their documentation, for each type that implements [`Reader`](super::Reader).

/// Adds the public reading calls to a type that implements [`Reader`].
macro_rules! impl_reading_calls {
    ($reader:ty) => {
        /// The reading calls. None of them writes or waits for a sync. On a [`Store`](crate::Store) they see the
        /// effect of every call that has returned, on a [`Snapshot`](crate::Snapshot) that of every record in its
        /// view.
        ///
        /// They fail with [`Error::Unauthentic`](crate::Error::Unauthentic) if a value fails authentication, and
        /// with [`Error::Io`](crate::Error::Io) if the file cannot be read.
        impl $reader {
            /// Returns the configuration that was saved last, or `None` if there is none.
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
            /// let snapshot = Snapshot::open(&path, &key)?;
            /// assert_eq!(snapshot.load_config()?, store.load_config()?);
            /// # Ok::<(), Box<dyn std::error::Error>>(())
            /// ```
            pub fn load_config(&self) -> $crate::Result<Option<$crate::Config>> {
                $crate::read::Reader::begin(self)?;
                $crate::read::Reader::load_config(self)
            }

            /// Returns the first pending jobs in [queue order](crate::OpenOptions::queue_order), up to the
            /// [limit](crate::Limit): a number of jobs, or of bytes. It removes nothing: a job stays queued until
            /// it is acked, and so is delivered at least once.
            ///
            /// # Errors
            /// `Io`, and `Unauthentic` if a payload fails authentication, with the run id of that job. `jobs`,
            /// `job` and `dequeue_jobs_after` still return the other jobs, and `ack_job` removes the unreadable
            /// one.
            ///
            /// ```
            /// # let folder = tempfile::tempdir()?;
            /// # let key = backupy_state::AgentKey::new("key")?;
            /// # let store = backupy_state::Store::open(folder.path().join("state.db"), &key)?;
            /// store.enqueue_job("run-2", b"dump of users")?;
            /// store.enqueue_job("run-1", b"dump of orders")?;
            /// let run_ids: Vec<_> = store.dequeue_jobs(10)?.into_iter().map(|job| job.run_id).collect();
            /// assert_eq!(run_ids, ["run-1", "run-2"]);
            /// # Ok::<(), Box<dyn std::error::Error>>(())
            /// ```
            pub fn dequeue_jobs(&self, limit: impl Into<$crate::Limit>) -> $crate::Result<Vec<$crate::QueuedJob>> {
                $crate::read::Reader::begin(self)?;
                $crate::read::Reader::dequeue_jobs(self, None, limit.into())
            }

            /// Returns the pending jobs that follow the job `run_id` in queue order, up to the
            /// [limit](crate::Limit).
            ///
            /// If that job is not queued, the order [`RunId`](crate::QueueOrder::RunId) starts with the next
            /// greater run id, and [`Fifo`](crate::QueueOrder::Fifo) at the front of the queue.
            ///
            /// If that job was the last one of a page and was enqueued again since, it is at the back of the queue
            /// in the order `Fifo`, and the next page starts where that page ended. An open store knows this of
            /// its 16 latest pages, and of each only until a page returns that job at its new place. So page
            /// through the queue in one loop at a time: if others do too, a page can be empty although jobs
            /// remain. `jobs` needs no such care.
            ///
            /// # Errors
            /// `Invalid` for an empty run id, `TooLarge` for one over 1024 bytes, and those of `dequeue_jobs`.
            ///
            /// ```
            /// # let folder = tempfile::tempdir()?;
            /// # let key = backupy_state::AgentKey::new("key")?;
            /// # let store = backupy_state::Store::open(folder.path().join("state.db"), &key)?;
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
            pub fn dequeue_jobs_after(
                &self,
                run_id: &str,
                limit: impl Into<$crate::Limit>,
            ) -> $crate::Result<Vec<$crate::QueuedJob>> {
                $crate::read::Reader::begin(self)?;
                $crate::read::Reader::dequeue_jobs(self, Some(run_id), limit.into())
            }

            /// Returns an iterator over the pending jobs in [queue order](crate::OpenOptions::queue_order). It
            /// removes nothing.
            ///
            /// It returns the jobs that were queued when it began and still are when their turn comes, each once.
            /// A job that was enqueued again meanwhile is returned once, with its new payload. One payload at a
            /// time is in memory. The run ids of all jobs are collected when it begins, which takes about 40 bytes
            /// a job, and for a run id over 38 bytes its length too. It holds no lock between items, so the loop
            /// may call the store, and a compaction may run.
            ///
            /// # Errors
            /// An item is `Unauthentic`, with the run id, if the payload of that job fails authentication; the
            /// jobs after it follow. Any other error, such as `Io`, is the last item.
            ///
            /// ```
            /// # let folder = tempfile::tempdir()?;
            /// # let key = backupy_state::AgentKey::new("key")?;
            /// # let store = backupy_state::Store::open(folder.path().join("state.db"), &key)?;
            /// # use backupy_state::Error;
            /// store.enqueue_job("run-1", b"dump of orders")?;
            /// store.enqueue_job("run-2", b"dump of users")?;
            /// for job in store.jobs() {
            ///     match job {
            ///         Ok(job) => {
            ///             // Deliver the job, and only then remove it.
            ///             store.ack_job(&job.run_id)?;
            ///         }
            ///         Err(error @ Error::Unauthentic { run_id: Some(_), .. }) => eprintln!("{error}"),
            ///         Err(error) => return Err(error.into()),
            ///     }
            /// }
            /// assert_eq!(store.queue_depth(), 0);
            /// # Ok::<(), Box<dyn std::error::Error>>(())
            /// ```
            pub fn jobs(&self) -> $crate::Jobs<'_> {
                $crate::read::Jobs::new(self)
            }

            /// Returns an iterator over the run ids of the pending jobs in [queue
            /// order](crate::OpenOptions::queue_order). It reads no payload, and so returns unreadable jobs too.
            /// Otherwise it is like `jobs`.
            ///
            /// ```
            /// # let folder = tempfile::tempdir()?;
            /// # let key = backupy_state::AgentKey::new("key")?;
            /// # let store = backupy_state::Store::open(folder.path().join("state.db"), &key)?;
            /// store.enqueue_job("run-2", b"dump of users")?;
            /// store.enqueue_job("run-1", b"dump of orders")?;
            /// assert_eq!(store.run_ids().collect::<Vec<_>>(), ["run-1", "run-2"]);
            /// # Ok::<(), Box<dyn std::error::Error>>(())
            /// ```
            pub fn run_ids(&self) -> $crate::RunIds<'_> {
                $crate::read::RunIds::new(self)
            }

            /// Returns the pending job with this run id, or `None` if it is not queued.
            ///
            /// # Errors
            /// `Invalid` for an empty run id, `TooLarge` for one over 1024 bytes, `Unauthentic`, `Io`.
            ///
            /// ```
            /// # let folder = tempfile::tempdir()?;
            /// # let key = backupy_state::AgentKey::new("key")?;
            /// # let store = backupy_state::Store::open(folder.path().join("state.db"), &key)?;
            /// store.enqueue_job("run-1", b"dump of orders")?;
            /// assert_eq!(store.job("run-1")?.map(|job| job.payload), Some(b"dump of orders".to_vec()));
            /// assert_eq!(store.job("run-2")?, None);
            /// # Ok::<(), Box<dyn std::error::Error>>(())
            /// ```
            pub fn job(&self, run_id: &str) -> $crate::Result<Option<$crate::QueuedJob>> {
                $crate::read::Reader::begin(self)?;
                $crate::read::Reader::job(self, run_id)
            }

            /// Returns how many jobs are pending.
            ///
            /// ```
            /// # let folder = tempfile::tempdir()?;
            /// # let key = backupy_state::AgentKey::new("key")?;
            /// # let store = backupy_state::Store::open(folder.path().join("state.db"), &key)?;
            /// store.enqueue_job("run-1", b"dump of orders")?;
            /// assert_eq!(store.queue_depth(), 1);
            /// # Ok::<(), Box<dyn std::error::Error>>(())
            /// ```
            #[must_use]
            pub fn queue_depth(&self) -> usize {
                $crate::read::Reader::queue_depth(self)
            }

            /// Returns how many bytes of payload are queued.
            ///
            /// ```
            /// # let folder = tempfile::tempdir()?;
            /// # let key = backupy_state::AgentKey::new("key")?;
            /// # let store = backupy_state::Store::open(folder.path().join("state.db"), &key)?;
            /// store.enqueue_job("run-1", b"dump of orders")?;
            /// assert_eq!(store.queue_bytes(), 14);
            /// # Ok::<(), Box<dyn std::error::Error>>(())
            /// ```
            #[must_use]
            pub fn queue_bytes(&self) -> u64 {
                $crate::read::Reader::queue_bytes(self)
            }

            /// Returns the session that was saved last, or `None` if there is none.
            ///
            /// # Errors
            /// `Unauthentic`, `Io`.
            ///
            /// ```
            /// # let folder = tempfile::tempdir()?;
            /// # let key = backupy_state::AgentKey::new("key")?;
            /// # let store = backupy_state::Store::open(folder.path().join("state.db"), &key)?;
            /// assert_eq!(store.load_session()?, None);
            /// store.save_session("session-of-today", 1_700_000_000_000)?;
            /// let session = store.load_session()?.expect("a session was saved");
            /// assert_eq!(session.session_id, "session-of-today");
            /// # Ok::<(), Box<dyn std::error::Error>>(())
            /// ```
            pub fn load_session(&self) -> $crate::Result<Option<$crate::Session>> {
                $crate::read::Reader::begin(self)?;
                $crate::read::Reader::load_session(self)
            }

            /// Returns the heartbeat that was recorded last, in milliseconds since 1970, or `None` if there is
            /// none.
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
                $crate::read::Reader::begin(self)?;
                $crate::read::Reader::last_heartbeat(self)
            }

            /// Returns the value that was put last under a data key, or `None` if there is none.
            ///
            /// # Errors
            /// `Invalid` for an empty key, `TooLarge` for one over 1024 bytes, `Io`, and `Unauthentic`, with the
            /// key, if the value fails authentication; `delete_data` removes that value, and `put_data` replaces
            /// it.
            ///
            /// ```
            /// # use backupy_state::{AgentKey, Snapshot, Store};
            /// # let folder = tempfile::tempdir()?;
            /// # let (path, key) = (folder.path().join("state.db"), AgentKey::new("key")?);
            /// # let store = Store::open(&path, &key)?;
            /// store.put_data("cursor/orders", b"row 4711")?;
            /// assert_eq!(store.data("cursor/orders")?.as_deref(), Some(&b"row 4711"[..]));
            /// assert_eq!(Snapshot::open(&path, &key)?.data("cursor/users")?, None);
            /// # Ok::<(), Box<dyn std::error::Error>>(())
            /// ```
            pub fn data(&self, key: &str) -> $crate::Result<Option<Vec<u8>>> {
                $crate::read::Reader::begin(self)?;
                $crate::read::Reader::data(self, key)
            }

            /// Returns an iterator over the data keys that begin with `prefix`, in byte order. With an empty
            /// prefix, it returns all of them. It reads no value, and so returns keys of unreadable values too.
            ///
            /// It returns the keys that were there when it began and still are when their turn comes, each once.
            /// It collects those keys when it begins, which takes about 40 bytes a key, and for a key over 38
            /// bytes its length too. It holds no lock between items, so the loop may call the store.
            ///
            /// ```
            /// # let folder = tempfile::tempdir()?;
            /// # let key = backupy_state::AgentKey::new("key")?;
            /// # let store = backupy_state::Store::open(folder.path().join("state.db"), &key)?;
            /// for key in ["retry/run-2", "cursor/orders", "retry/run-1"] {
            ///     store.put_data(key, b"value")?;
            /// }
            /// assert_eq!(store.data_keys("retry/").collect::<Vec<_>>(), ["retry/run-1", "retry/run-2"]);
            /// # Ok::<(), Box<dyn std::error::Error>>(())
            /// ```
            pub fn data_keys(&self, prefix: &str) -> $crate::DataKeys<'_> {
                $crate::read::DataKeys::new(self, prefix)
            }

            /// Returns an iterator over the buffered log events, oldest first. It removes nothing.
            ///
            /// It returns the events that were buffered when it began and still are when their turn comes, each
            /// once. Otherwise it is like `jobs`: one payload at a time is in memory, and about 40 bytes for each
            /// event.
            ///
            /// # Errors
            /// An item is `Unauthentic` if the payload of that event fails authentication; the events after it
            /// follow. Any other error, such as `Io`, is the last item.
            ///
            /// ```
            /// # let folder = tempfile::tempdir()?;
            /// # let key = backupy_state::AgentKey::new("key")?;
            /// # let store = backupy_state::Store::open(folder.path().join("state.db"), &key)?;
            /// store.buffer_log(2_000, b"backup done")?;
            /// store.buffer_log(1_000, b"backup begun")?;
            /// for (event, ts_ms) in store.logs().zip([1_000, 2_000]) {
            ///     assert_eq!(event?.ts_ms, ts_ms);
            /// }
            /// # Ok::<(), Box<dyn std::error::Error>>(())
            /// ```
            pub fn logs(&self) -> $crate::Logs<'_> {
                $crate::read::Logs::new(self)
            }

            /// Returns how many log events are buffered.
            ///
            /// ```
            /// # let folder = tempfile::tempdir()?;
            /// # let key = backupy_state::AgentKey::new("key")?;
            /// # let store = backupy_state::Store::open(folder.path().join("state.db"), &key)?;
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
