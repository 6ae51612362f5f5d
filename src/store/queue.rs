//! The writing calls on the queue of pending jobs.

use std::sync::Arc;

use super::handle::Store;
use super::queue_quota;
use crate::crypto::secret_vec::SecretVec;
use crate::format::bucket::Bucket;
use crate::format::record::Change;
use crate::read::{Reader, check_run_id, check_value};
#[cfg(doc)]
use crate::{Error, OpenOptions};
use crate::{QueuedJob, Result};

/// What [`Store::enqueue_job`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Enqueued {
    /// The job was not queued before.
    Added,
    /// A job with this run id was queued; the new payload replaced the old one.
    Replaced,
}

impl Store {
    /// Adds a job to the queue, or replaces the payload of the queued job with the same run id.
    ///
    /// [`OpenOptions::durability`] sets how durable it is on return.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an empty run id, [`Error::TooLarge`] for a run id over 1024 bytes or a payload over
    /// 16 MiB, [`Error::QueueFull`] if the queue would be over its [limits](crate::QueueLimits), and those of
    /// [every writing call](Store#errors-of-every-writing-call).
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let key = backupy_state::AgentKey::new("key")?;
    /// # let store = backupy_state::Store::open(folder.path().join("state.db"), &key)?;
    /// use backupy_state::Enqueued;
    ///
    /// assert_eq!(store.enqueue_job("run-1", b"dump of orders")?, Enqueued::Added);
    /// // The agent is given the same job again: it is queued once.
    /// assert_eq!(store.enqueue_job("run-1", b"dump of orders")?, Enqueued::Replaced);
    /// assert_eq!(store.queue_depth(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn enqueue_job(&self, run_id: &str, payload: &[u8]) -> Result<Enqueued> {
        check_run_id(run_id)?;
        check_value("a payload", payload)?;
        let change = Change::put(Bucket::Queue, run_id.as_bytes(), &[], payload);
        let guard = self.shared.write()?;
        self.check_queue_limits(&[change])?;
        let appended = guard.append_counting(&[change]);
        let (pending, replaced) = self.tell_failure(appended)?;
        self.finish_commit(&pending, self.durability)?;
        Ok(if replaced > 0 { Enqueued::Replaced } else { Enqueued::Added })
    }

    /// Removes a job from the queue. Returns whether it was queued; if not, nothing is written.
    ///
    /// [`OpenOptions::durability`] sets how durable the removal is on return.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an empty run id, [`Error::TooLarge`] for one over 1024 bytes, and those of
    /// [every writing call](Store#errors-of-every-writing-call).
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let key = backupy_state::AgentKey::new("key")?;
    /// # let store = backupy_state::Store::open(folder.path().join("state.db"), &key)?;
    /// store.enqueue_job("run-1", b"dump of orders")?;
    /// assert!(store.ack_job("run-1")?);
    /// assert!(!store.ack_job("run-1")?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn ack_job(&self, run_id: &str) -> Result<bool> {
        check_run_id(run_id)?;
        self.delete(Bucket::Queue, run_id)
    }

    /// Removes a job that was delivered, if the queue still holds the payload that it has. A job that was enqueued
    /// again meanwhile, with another payload, stays. Returns whether the job was removed; if not, nothing is
    /// written.
    ///
    /// Use it where one thread delivers jobs and another one may enqueue the same run id:
    /// [`ack_job`](Store::ack_job) would remove a payload that was never delivered. The queued payload is opened
    /// to compare it.
    ///
    /// [`OpenOptions::durability`] sets how durable the removal is on return.
    ///
    /// # Errors
    /// [`Error::Unauthentic`] if the queued payload fails authentication, and those of
    /// [every writing call](Store#errors-of-every-writing-call).
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let key = backupy_state::AgentKey::new("key")?;
    /// # let store = backupy_state::Store::open(folder.path().join("state.db"), &key)?;
    /// store.enqueue_job("run-1", b"dump of orders")?;
    /// for job in store.dequeue_jobs(10)? {
    ///     // While the job is delivered, another thread enqueues it anew.
    ///     store.enqueue_job("run-1", b"dump of orders, again")?;
    ///     assert!(!store.ack_delivered(&job)?);
    /// }
    /// assert_eq!(store.queue_depth(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn ack_delivered(&self, job: &QueuedJob) -> Result<bool> {
        check_run_id(&job.run_id)?;
        let key = job.run_id.as_bytes();
        loop {
            self.shared.check_open()?;
            let (queued, values) = self.with_index(|index| index.get(Bucket::Queue, key));
            let Some(location) = queued else { return Ok(false) };
            // Without the write lock: opening a long payload takes a while.
            let payload = values.read(location).map_err(|error| error.about(Bucket::Queue, key))?;
            if *SecretVec::from(payload) != job.payload {
                return Ok(false);
            }
            let guard = self.shared.write()?;
            let (now, values_now) = self.with_index(|index| index.get(Bucket::Queue, key));
            if now == Some(location) && Arc::ptr_eq(&values, &values_now) {
                self.commit(guard, &[Change::delete(Bucket::Queue, key)], self.durability)?;
                return Ok(true);
            }
        }
    }

    /// The caller holds the write lock.
    pub(super) fn check_queue_limits(&self, changes: &[Change<'_>]) -> Result<()> {
        self.with_index(|index| queue_quota::check(&self.queue_limits, index, changes)).0
    }
}
