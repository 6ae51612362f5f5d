//! A look at what a store holds: secrets only where they were asked for, and what cannot be read does not hide the rest.

use backupy_state::{Config, Error, QueuedJob, Session, Snapshot};
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::text::{Shown, Utc, bytes, len_of, tame};

pub(crate) struct Look {
    pub(crate) snapshot: Snapshot,
    secrets: bool,
    /// The first thing that could not be read.
    failure: Option<Failure>,
}

/// A job, or why it cannot be read.
pub(crate) struct Job {
    run_id: String,
    payload: Result<Vec<u8>, String>,
}

impl From<QueuedJob> for Job {
    fn from(job: QueuedJob) -> Self {
        Job { run_id: job.run_id, payload: Ok(job.payload) }
    }
}

impl Look {
    pub(crate) fn new(snapshot: Snapshot, secrets: bool) -> Self {
        Look { snapshot, secrets, failure: None }
    }

    /// The look is over: whether everything could be read.
    pub(crate) fn end(self) -> Result<(), Failure> {
        self.failure.map_or(Ok(()), Err)
    }

    /// At most `n` jobs behind `after`. One at a time: payloads may be large, and one that cannot be read must not hide
    /// those behind it.
    pub(crate) fn each_job(&mut self, after: Option<&str>, n: usize, mut show: impl FnMut(&Look, &Job)) {
        let mut after = after.map(str::to_owned);
        for _ in 0..n {
            let next = match &after {
                None => self.snapshot.dequeue_jobs(1),
                Some(run_id) => self.snapshot.dequeue_jobs_after(run_id, 1),
            };
            let job = match next {
                Ok(mut jobs) => match jobs.pop() {
                    None => return,
                    Some(job) => Job::from(job),
                },
                Err(error) => {
                    let run_id = match &error {
                        Error::Unauthentic { run_id, .. } => run_id.clone(),
                        _ => None,
                    };
                    let why = self.note(error);
                    let Some(run_id) = run_id else { return };
                    Job { run_id, payload: Err(why) }
                }
            };
            show(self, &job);
            after = Some(job.run_id);
        }
    }

    pub(crate) fn job_line(&self, job: &Job) -> String {
        let what = match &job.payload {
            Ok(payload) => format!("{}{}", bytes(len_of(payload)), self.secret(payload)),
            Err(why) => why.clone(),
        };
        format!("  {}  {what}", tame(&job.run_id))
    }

    pub(crate) fn job_json(&self, job: &Job) -> Value {
        match &job.payload {
            Ok(payload) => {
                let shape = json!({ "run_id": job.run_id, "len": payload.len() });
                self.with_secret(shape, "payload", payload)
            }
            Err(why) => json!({ "run_id": job.run_id, "error": why }),
        }
    }

    pub(crate) fn readable<T>(&mut self, read: backupy_state::Result<T>) -> Result<T, String> {
        read.map_err(|error| self.note(error))
    }

    fn note(&mut self, error: Error) -> String {
        let failure = Failure::from(error);
        let why = format!("unreadable: {failure}");
        self.failure.get_or_insert(failure);
        why
    }

    pub(crate) fn config_line(&self, config: &Config) -> String {
        let len = bytes(len_of(&config.raw));
        format!("version {}, {len}{}", config.version, self.secret(&config.raw))
    }

    pub(crate) fn config_json(&self, config: &Config) -> Value {
        let shape = json!({ "version": config.version, "len": config.raw.len() });
        self.with_secret(shape, "raw", &config.raw)
    }

    pub(crate) fn session_line(&self, session: &Session) -> String {
        let since = Utc(session.server_time_ms);
        format!("present, server time {since}{}", self.secret(session.session_id.as_bytes()))
    }

    pub(crate) fn session_json(&self, session: &Session) -> Value {
        let shape = json!({ "server_time_ms": session.server_time_ms });
        self.with_secret(shape, "session_id", session.session_id.as_bytes())
    }

    pub(crate) fn secret(&self, value: &[u8]) -> String {
        if self.secrets { revealed(value) } else { String::new() }
    }

    pub(crate) fn with_secret(&self, mut object: Value, name: &str, value: &[u8]) -> Value {
        if self.secrets {
            Shown::new(value).put_into(&mut object, name);
        }
        object
    }
}

/// A secret that was asked for, behind what else there is to say.
pub(crate) fn revealed(value: &[u8]) -> String {
    format!(": {}", Shown::new(value))
}
