//! Shows the contents of a store: secrets only on request, and unreadable values without hiding the rest.

use backupy_state::{Config, Error, QueuedJob, Session, Snapshot};
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::text::{Printable, Utc, bytes, escaped, len_of};

pub(crate) struct Inspector {
    pub(crate) snapshot: Snapshot,
    secrets: bool,
    /// The first value that could not be read.
    failure: Option<Failure>,
}

/// A job, with its payload or why that is unreadable.
pub(crate) struct Job {
    run_id: String,
    payload: Result<Vec<u8>, Failure>,
}

/// A data key, with its value or why that is unreadable.
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) value: Result<Vec<u8>, Failure>,
}

impl From<QueuedJob> for Job {
    fn from(job: QueuedJob) -> Self {
        Job { run_id: job.run_id, payload: Ok(job.payload) }
    }
}

impl Inspector {
    pub(crate) fn new(snapshot: Snapshot, secrets: bool) -> Self {
        Inspector { snapshot, secrets, failure: None }
    }

    /// Fails if any value was unreadable.
    pub(crate) fn finish(self) -> Result<(), Failure> {
        self.failure.map_or(Ok(()), Err)
    }

    /// Shows at most `n` jobs after the run id `after`. Reads one job at a time, since payloads may be large and
    /// an unreadable one must not hide the jobs after it.
    pub(crate) fn each_job(&mut self, after: Option<&str>, n: usize, mut show: impl FnMut(&Inspector, &Job)) {
        let is_after = |run_id: &String| after.is_none_or(|after| run_id.as_str() > after);
        let run_ids: Vec<_> = self.snapshot.run_ids().filter(is_after).take(n).collect();
        for run_id in run_ids {
            let payload = match self.snapshot.job(&run_id) {
                Ok(Some(job)) => Ok(job.payload),
                Ok(None) => continue,
                Err(error) => {
                    let is_about_job = matches!(&error, Error::Unauthentic { run_id: Some(_), .. });
                    let why = self.note(error);
                    if !is_about_job {
                        return;
                    }
                    Err(why)
                }
            };
            show(self, &Job { run_id, payload });
        }
    }

    /// Shows the data keys that begin with the prefix. Reads one value at a time, as [`each_job`](Self::each_job)
    /// does.
    pub(crate) fn each_entry(&mut self, prefix: &str, mut show: impl FnMut(&Inspector, &Entry)) {
        let keys: Vec<_> = self.snapshot.data_keys(prefix).collect();
        for key in keys {
            let value = match self.snapshot.data(&key) {
                Ok(Some(value)) => Ok(value),
                Ok(None) => continue,
                Err(error) => {
                    let is_about_key = matches!(&error, Error::Unauthentic { data_key: Some(_), .. });
                    let why = self.note(error);
                    if !is_about_key {
                        return;
                    }
                    Err(why)
                }
            };
            show(self, &Entry { key, value });
        }
    }

    pub(crate) fn entry_line(&self, entry: &Entry) -> String {
        self.line(&entry.key, &entry.value)
    }

    pub(crate) fn entry_json(&self, entry: &Entry) -> Value {
        match &entry.value {
            Ok(value) => {
                let public = json!({ "key": entry.key, "len": value.len() });
                self.with_secret(public, "value", value)
            }
            Err(failure) => json!({ "key": entry.key, "error": failure }),
        }
    }

    pub(crate) fn job_line(&self, job: &Job) -> String {
        self.line(&job.run_id, &job.payload)
    }

    fn line(&self, key: &str, value: &Result<Vec<u8>, Failure>) -> String {
        let what = match value {
            Ok(value) => format!("{}{}", bytes(len_of(value)), self.secret(value)),
            Err(failure) => unreadable(failure),
        };
        format!("  {}  {what}", escaped(key))
    }

    pub(crate) fn job_json(&self, job: &Job) -> Value {
        match &job.payload {
            Ok(payload) => {
                let public = json!({ "run_id": job.run_id, "len": payload.len() });
                self.with_secret(public, "payload", payload)
            }
            Err(failure) => json!({ "run_id": job.run_id, "error": failure }),
        }
    }

    /// Notes why a value is unreadable.
    pub(crate) fn readable<T>(&mut self, read: backupy_state::Result<T>) -> Result<T, Failure> {
        read.map_err(|error| self.note(error))
    }

    fn note(&mut self, error: Error) -> Failure {
        let failure = Failure::from(error);
        self.failure.get_or_insert_with(|| failure.clone());
        failure
    }

    pub(crate) fn config_line(&self, config: &Config) -> String {
        let len = bytes(len_of(&config.raw));
        format!("version {}, {len}{}", config.version, self.secret(&config.raw))
    }

    pub(crate) fn config_json(&self, config: &Config) -> Value {
        let public = json!({ "version": config.version, "len": config.raw.len() });
        self.with_secret(public, "raw", &config.raw)
    }

    pub(crate) fn session_line(&self, session: &Session) -> String {
        let since = Utc(session.server_time_ms);
        format!("present, server time {since}{}", self.secret(session.session_id.as_bytes()))
    }

    pub(crate) fn session_json(&self, session: &Session) -> Value {
        let public = json!({ "server_time_ms": session.server_time_ms });
        self.with_secret(public, "session_id", session.session_id.as_bytes())
    }

    pub(crate) fn secret(&self, value: &[u8]) -> String {
        if self.secrets { revealed(value) } else { String::new() }
    }

    pub(crate) fn with_secret(&self, mut object: Value, name: &str, value: &[u8]) -> Value {
        if self.secrets {
            Printable::new(value).insert_into(&mut object, name);
        }
        object
    }
}

/// What is shown in the place of a value that cannot be read.
pub(crate) fn unreadable(failure: &Failure) -> String {
    format!("unreadable: {failure}")
}

/// A secret that is shown on request, to be appended to the rest of a line.
pub(crate) fn revealed(value: &[u8]) -> String {
    format!(": {}", Printable::new(value))
}
