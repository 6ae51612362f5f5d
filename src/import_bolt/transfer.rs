//! Writes the contents of the file to the store, in an order that lets a second run continue an interrupted one.
//!
//! First the jobs in the order of their run ids, then the log events in the order of their times, then
//! configuration, session and heartbeat in one last record. Records become durable in order, so after a crash the
//! store holds a prefix of them, and its contents show how long that is. A store that holds anything else is in
//! use: nothing is written to it. Nor is it if something was removed: a queue that an agent has emptied would look
//! like one to which nothing was imported yet.

use super::contents::{Contents, Opener};
use super::pages::Pages;
use crate::{Batch, Config, Error, LogEvent, Result, Session, Store};

/// An import into one store.
pub(crate) struct Transfer<'a> {
    pub(crate) contents: &'a Contents,
    pub(crate) pages: &'a Pages<'a>,
    pub(crate) opener: &'a Opener,
    pub(crate) into: &'a Store,
}

/// How much of an import a store holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Progress {
    pub(crate) jobs: usize,
    /// With the events that the limits of its log buffer dropped.
    pub(crate) logs: usize,
    /// Whether it has the configuration, the session or the heartbeat, which are written last.
    has_final_record: bool,
    /// Whether nothing is left to write.
    is_complete: bool,
}

impl Transfer<'_> {
    /// Writes what the store does not hold yet, all of it durable on return. Returns what the store held before.
    pub(crate) fn run(&self) -> Result<Progress> {
        let progress = self.progress()?;
        let progress = progress.ok_or_else(|| self.refused("already holds other data, which", "mixed with"))?;
        // Events that the limits of the log buffer dropped were removed too. They tell by themselves that no agent
        // was here: removing events ends their count, and jobs are imported before all events.
        let is_known = progress.is_complete || self.into.stats().logs_dropped > 0;
        if !is_known && !self.into.was_only_added_to()? {
            return Err(
                self.refused("was used since it was created, and what was delivered of", "delivered again")
            );
        }
        let mut batches = Batches { into: self.into, batch: Batch::new(), len: 0 };
        for (run_id, extent) in self.contents.jobs.iter().skip(progress.jobs) {
            let payload = self.opener.value(self.pages, *extent)?;
            batches.add(run_id.len() + payload.len(), |batch| batch.enqueue_job(run_id, &payload))?;
        }
        for (ts_ms, extent) in self.contents.logs.iter().skip(progress.logs) {
            let payload = self.opener.value(self.pages, *extent)?;
            batches.add(payload.len(), |batch| batch.buffer_log(*ts_ms, &payload))?;
        }
        if !progress.has_final_record {
            let (config, session) = (self.config()?, self.session()?);
            let lens = config.iter().map(|config| config.raw.len());
            let len = lens.chain(session.iter().map(|session| session.session_id.len())).sum();
            batches.add(len, |mut batch| {
                if let Some(Config { version, raw }) = &config {
                    batch = batch.save_config(*version, raw);
                }
                if let Some(Session { session_id, server_time_ms }) = &session {
                    batch = batch.save_session(session_id, *server_time_ms);
                }
                match self.contents.heartbeat {
                    Some(ts_ms) => batch.record_heartbeat(ts_ms),
                    None => batch,
                }
            })?;
        }
        batches.write()?;
        // A store that was opened with `Buffered` has not synced these records. A power cut after the import
        // returned would lose them, and the operator may have deleted the old file.
        self.into.sync()?;
        Ok(progress)
    }

    fn refused(&self, why: &str, what: &str) -> Error {
        let (into, from) = (self.into.path().display(), self.pages.path.display());
        let hint = "import into a new store, or move this one away";
        Error::Invalid { what: format!("{into} {why} {from} would be {what}; {hint}") }
    }

    pub(crate) fn config(&self) -> Result<Option<Config>> {
        let Some((version, extent)) = self.contents.config else { return Ok(None) };
        let mut raw = self.opener.value(self.pages, extent)?;
        Ok(Some(Config { version, raw: std::mem::take(&mut *raw) }))
    }

    pub(crate) fn session(&self) -> Result<Option<Session>> {
        let Some((server_time_ms, extent)) = self.contents.session else { return Ok(None) };
        let mut id = self.opener.value(self.pages, extent)?;
        let not_utf8 = |_| self.pages.corrupt(extent.offset, "the session id is not UTF-8");
        let session_id = String::from_utf8(std::mem::take(&mut *id)).map_err(not_utf8)?;
        Ok(Some(Session { session_id, server_time_ms }))
    }

    /// How much of this file an earlier import has written to the store. `None` if the store holds anything else.
    fn progress(&self) -> Result<Option<Progress>> {
        let (Some(jobs), Some(logs)) = (self.imported_jobs()?, self.imported_logs()?) else { return Ok(None) };
        // The Go agent had none.
        if self.into.data_keys("").next().is_some() {
            return Ok(None);
        }
        let (config, session) = (self.into.load_config()?, self.into.load_session()?);
        let heartbeat = self.into.last_heartbeat()?;
        let has_final_record = config.is_some() || session.is_some() || heartbeat.is_some();
        let has_all_jobs = jobs == self.contents.jobs.len();
        let has_all = has_all_jobs && logs == self.contents.logs.len();
        let fits = if has_final_record {
            has_all
                && heartbeat == self.contents.heartbeat
                && config == self.config()?
                && session == self.session()?
        } else {
            has_all_jobs || logs == 0
        };
        let Contents { config, session, heartbeat, .. } = self.contents;
        let has_final = has_final_record || (config.is_none() && session.is_none() && heartbeat.is_none());
        Ok(fits.then_some(Progress { jobs, logs, has_final_record, is_complete: has_all && has_final }))
    }

    /// How many jobs the store holds, if they are the first ones of the file; `None` otherwise.
    fn imported_jobs(&self) -> Result<Option<usize>> {
        let count = self.into.queue_depth();
        if count > self.contents.jobs.len() {
            return Ok(None);
        }
        for (run_id, extent) in self.contents.jobs.iter().take(count) {
            let Some(job) = self.into.job(run_id)? else { return Ok(None) };
            if job.payload != *self.opener.value(self.pages, *extent)? {
                return Ok(None);
            }
        }
        Ok(Some(count))
    }

    /// How many log events the store holds or counts as dropped, if they are the first ones of the file; `None`
    /// otherwise.
    fn imported_logs(&self) -> Result<Option<usize>> {
        let dropped = usize::try_from(self.into.stats().logs_dropped).unwrap_or(usize::MAX);
        let held = self.into.log_count();
        let Some(logs) = held.checked_add(dropped).filter(|&logs| logs <= self.contents.logs.len()) else {
            return Ok(None);
        };
        // Nothing shows that the dropped events were those of this file.
        if held == 0 && dropped > 0 {
            return Ok(None);
        }
        let mut written = self.contents.logs.iter().take(logs);
        for event in self.into.logs() {
            let LogEvent { ts_ms, payload } = event?;
            let is_this = |(time, extent): &(i64, _)| -> Result<bool> {
                Ok(*time == ts_ms && *self.opener.value(self.pages, *extent)? == payload)
            };
            // The events of the file that are skipped here were dropped.
            loop {
                match written.next() {
                    None => return Ok(None),
                    Some(event) if is_this(event)? => break,
                    Some(_) => {}
                }
            }
        }
        Ok(Some(logs))
    }
}

/// Collects calls into batches far below the frame limit, and writes those.
struct Batches<'a> {
    into: &'a Store,
    batch: Batch,
    len: usize,
}

impl Batches<'_> {
    /// Adds calls that commit together. `len` is the length of their keys and values in bytes.
    fn add(&mut self, len: usize, calls: impl FnOnce(Batch) -> Batch) -> Result<()> {
        if self.len + len > BATCH_LEN {
            self.write()?;
        }
        self.batch = calls(std::mem::take(&mut self.batch));
        self.len += len + CALL_LEN;
        Ok(())
    }

    /// Writes what is collected, as one record.
    fn write(&mut self) -> Result<()> {
        self.len = 0;
        self.into.write(&std::mem::take(&mut self.batch))
    }
}

/// 256 KiB: enough that syncing takes little of the time, and little memory. The longest calls that commit
/// together, a configuration and a session of 16 MiB each, are half the frame limit.
const BATCH_LEN: usize = 256 << 10;
/// What a call takes besides its keys and values, in memory and in a frame, at most.
const CALL_LEN: usize = 128;
