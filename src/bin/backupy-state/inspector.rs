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

/// A job or a data key, with its value or why that is unreadable.
pub(crate) struct Entry {
    names: Names,
    key: String,
    value: Result<Vec<u8>, Failure>,
}

/// What JSON calls the key and the value.
type Names = (&'static str, &'static str);
const JOB: Names = ("run_id", "payload");
const DATA: Names = ("key", "value");

impl Entry {
    pub(crate) fn job(job: QueuedJob) -> Self {
        Entry { names: JOB, key: job.run_id, value: Ok(job.payload) }
    }

    pub(crate) fn data(key: String, value: Vec<u8>) -> Self {
        Entry { names: DATA, key, value: Ok(value) }
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

    /// Shows at most `n` jobs after the run id `after`.
    pub(crate) fn each_job(&mut self, after: Option<&str>, n: usize, show: impl FnMut(&Inspector, &Entry)) {
        let is_after = |run_id: &String| after.is_none_or(|after| run_id.as_str() > after);
        let run_ids = self.snapshot.run_ids().filter(is_after).take(n).collect();
        self.each(JOB, run_ids, |snapshot, id| Ok(snapshot.job(id)?.map(|job| job.payload)), show);
    }

    /// Shows the data keys that begin with the prefix.
    pub(crate) fn each_data_key(&mut self, prefix: &str, show: impl FnMut(&Inspector, &Entry)) {
        let keys = self.snapshot.data_keys(prefix).collect();
        self.each(DATA, keys, Snapshot::data, show);
    }

    /// Shows the keys that are still there. Reads one value at a time, since they may be large and an unreadable
    /// one must not hide those after it.
    fn each(
        &mut self,
        names: Names,
        keys: Vec<String>,
        read: impl Fn(&Snapshot, &str) -> backupy_state::Result<Option<Vec<u8>>>,
        mut show: impl FnMut(&Inspector, &Entry),
    ) {
        for key in keys {
            let value = match read(&self.snapshot, &key) {
                Ok(Some(value)) => Ok(value),
                Ok(None) => continue,
                Err(error) => {
                    let is_about_value = matches!(
                        &error,
                        Error::Unauthentic { run_id: Some(_), .. } | Error::Unauthentic { data_key: Some(_), .. }
                    );
                    let why = self.note(error);
                    if !is_about_value {
                        return;
                    }
                    Err(why)
                }
            };
            show(self, &Entry { names, key, value });
        }
    }

    pub(crate) fn entry_line(&self, entry: &Entry) -> String {
        let what = match &entry.value {
            Ok(value) => format!("{}{}", bytes(len_of(value)), self.secret(value)),
            Err(failure) => unreadable(failure),
        };
        format!("  {}  {what}", escaped(&entry.key))
    }

    pub(crate) fn entry_json(&self, entry: &Entry) -> Value {
        let Entry { names: (key_name, value_name), key, value } = entry;
        match value {
            Ok(value) => self.with_secret(json!({ *key_name: key, "len": value.len() }), value_name, value),
            Err(failure) => json!({ *key_name: key, "error": failure }),
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
