//! From the file into the store, in an order by which a store itself tells how far an interrupted import had got.
//!
//! The jobs go first, in the order of their run ids, then the log events in theirs, and what there is one of (config,
//! session, heartbeat) last, in one record. Records are durable in their order, so after a crash the store holds the first
//! so many of them. A store that holds anything else has a life of its own, and nothing is written to it.

use super::contents::{Contents, Opener};
use super::pages::Pages;
use crate::format::bucket::{Bucket, LogKey};
use crate::read::Reader;
use crate::{Batch, Config, Error, Result, Session, Store};

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
    /// With those that the limits of its log buffer have dropped.
    pub(crate) logs: usize,
    ended: bool,
}

impl Transfer<'_> {
    /// Writes what the store does not hold yet. Returns what it held.
    pub(crate) fn run(&self) -> Result<Progress> {
        let Some(progress) = self.progress()? else {
            return Err(Error::Invalid {
                what: format!(
                    "{} holds a state of its own, which {} would be mixed up with; import into a store that does not \
                     exist yet, or move this one away",
                    self.into.path().display(),
                    self.pages.path.display()
                ),
            });
        };
        let mut batches = Batches { into: self.into, batch: Batch::new(), len: 0 };
        for (run_id, place) in self.contents.jobs.iter().skip(progress.jobs) {
            let payload = self.opener.value(self.pages, *place)?;
            batches.add(run_id.len() + payload.len(), |batch| batch.enqueue_job(run_id, &payload))?;
        }
        for (ts_ms, place) in self.contents.logs.iter().skip(progress.logs) {
            let payload = self.opener.value(self.pages, *place)?;
            batches.add(payload.len(), |batch| batch.buffer_log(*ts_ms, &payload))?;
        }
        if !progress.ended {
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
        // What came over is durable when the call returns, however the store was opened.
        self.into.sync()?;
        Ok(progress)
    }

    pub(crate) fn config(&self) -> Result<Option<Config>> {
        let Some((version, place)) = self.contents.config else { return Ok(None) };
        let mut raw = self.opener.value(self.pages, place)?;
        Ok(Some(Config { version, raw: std::mem::take(&mut *raw) }))
    }

    pub(crate) fn session(&self) -> Result<Option<Session>> {
        let Some((server_time_ms, place)) = self.contents.session else { return Ok(None) };
        let mut id = self.opener.value(self.pages, place)?;
        let not_utf8 = |_| self.pages.corrupt(place.offset, "the session id is not UTF-8");
        let session_id = String::from_utf8(std::mem::take(&mut *id)).map_err(not_utf8)?;
        Ok(Some(Session { session_id, server_time_ms }))
    }

    /// How far an import of this file into the store has got; `None` where the store holds anything else.
    fn progress(&self) -> Result<Option<Progress>> {
        let (Some(jobs), Some(logs)) = (self.jobs_there()?, self.logs_there()?) else { return Ok(None) };
        let (config, session) = (self.into.load_config()?, self.into.load_session()?);
        let heartbeat = self.into.last_heartbeat()?;
        let began_to_end = config.is_some() || session.is_some() || heartbeat.is_some();
        let has_all_jobs = jobs == self.contents.jobs.len();
        let has_all = has_all_jobs && logs == self.contents.logs.len();
        let fits = if began_to_end {
            has_all
                && heartbeat == self.contents.heartbeat
                && config == self.config()?
                && session == self.session()?
        } else {
            has_all_jobs || logs == 0
        };
        Ok(fits.then_some(Progress { jobs, logs, ended: began_to_end }))
    }

    /// How many of the first jobs the store holds, if it holds no others.
    fn jobs_there(&self) -> Result<Option<usize>> {
        let count = self.into.queue_depth();
        if count > self.contents.jobs.len() {
            return Ok(None);
        }
        for (run_id, place) in self.contents.jobs.iter().take(count) {
            let Some(job) = self.into.job(run_id)? else { return Ok(None) };
            if job.payload != *self.opener.value(self.pages, *place)? {
                return Ok(None);
            }
        }
        Ok(Some(count))
    }

    /// How many of the first log events the store holds or has counted as dropped, if it holds no others.
    fn logs_there(&self) -> Result<Option<usize>> {
        let dropped = usize::try_from(self.into.stats().logs_dropped).unwrap_or(usize::MAX);
        let held = self.into.log_count();
        let Some(logs) = held.checked_add(dropped).filter(|&logs| logs <= self.contents.logs.len()) else {
            return Ok(None);
        };
        // A count without events says nothing of whose they were.
        if held == 0 && dropped > 0 {
            return Ok(None);
        }
        let mut written = self.contents.logs.iter().take(logs);
        let (places, values) = self.into.with_index(|index| index.first(Bucket::Logs, held));
        for (key, place) in places {
            let ts_ms = LogKey::decode(&key).map(|key| key.ts_ms);
            let payload = values.read(place)?;
            let is_this = |(time, place): &(i64, _)| -> Result<bool> {
                Ok(Some(*time) == ts_ms && *self.opener.value(self.pages, *place)? == payload)
            };
            // Those in between were dropped.
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

/// Packs calls into batches that are far below the limit of a frame.
struct Batches<'a> {
    into: &'a Store,
    batch: Batch,
    len: usize,
}

impl Batches<'_> {
    /// Adds calls, with so many bytes of keys and values, that commit together.
    fn add(&mut self, len: usize, calls: impl FnOnce(Batch) -> Batch) -> Result<()> {
        if self.len + len > BATCH_LEN {
            self.write()?;
        }
        self.batch = calls(std::mem::take(&mut self.batch));
        self.len += len + CALL_LEN;
        Ok(())
    }

    fn write(&mut self) -> Result<()> {
        self.len = 0;
        self.into.write(std::mem::take(&mut self.batch))
    }
}

/// Enough that the syncs do not count, and little beside the file. The longest single calls, config and session together,
/// are half of what a frame may be.
const BATCH_LEN: usize = 256 << 10;
/// What a call takes besides its bytes, in memory and in a frame.
const CALL_LEN: usize = 128;
