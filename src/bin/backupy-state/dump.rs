//! `dump-state`: what a store holds. Secrets only where they were asked for.

use backupy_state::{Error, Snapshot};
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::place::Place;
use crate::text::{Out, Shown, Utc, ago, bytes, grouped, len_of, now_ms, tame};

/// Show what the store holds
///
/// Payloads, the configuration and the session id are secrets: without --allow-secrets only their lengths and times
/// are shown. What cannot be read is named, and the rest is shown.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  backupy-state dump-state --json | jq '.jobs[].run_id'")]
pub(crate) struct Args {
    /// Show payloads, the configuration and the session id too
    #[arg(long)]
    allow_secrets: bool,
}

pub(crate) fn run(place: &Place, args: &Args, out: &mut Out) -> Result<(), Failure> {
    let mut dump = Dump { snapshot: place.snapshot()?, secrets: args.allow_secrets, failure: None };
    if out.json {
        dump.json(out);
    } else {
        dump.text(out);
    }
    dump.failure.map_or(Ok(()), Err)
}

struct Dump {
    snapshot: Snapshot,
    secrets: bool,
    /// The first thing that could not be read.
    failure: Option<Failure>,
}

/// A job, or why it cannot be read.
struct Job {
    run_id: String,
    payload: Result<Vec<u8>, String>,
}

impl Dump {
    fn text(&mut self, out: &mut Out) {
        let now_ms = now_ms();
        out.row("state", self.snapshot.path().display());
        out.row(
            "config",
            match self.readable(self.snapshot.load_config()) {
                Ok(None) => "none".to_owned(),
                Ok(Some(config)) => {
                    let len = bytes(len_of(&config.raw));
                    format!("version {}, {len}{}", config.version, self.secret(&config.raw))
                }
                Err(why) => why,
            },
        );
        out.row(
            "session",
            match self.readable(self.snapshot.load_session()) {
                Ok(None) => "none".to_owned(),
                Ok(Some(session)) => {
                    let since = Utc(session.server_time_ms);
                    format!("present, server time {since}{}", self.secret(session.session_id.as_bytes()))
                }
                Err(why) => why,
            },
        );
        out.row(
            "heartbeat",
            match self.readable(self.snapshot.last_heartbeat()) {
                Ok(None) => "none".to_owned(),
                Ok(Some(ts)) => format!("{} ({})", Utc(ts), ago(ts, now_ms)),
                Err(why) => why,
            },
        );
        out.row("log events", grouped(self.snapshot.stats().log_events));
        out.row("jobs", grouped(self.snapshot.stats().jobs));
        self.each_job(|dump, job| {
            let what = match &job.payload {
                Ok(payload) => format!("{}{}", bytes(len_of(payload)), dump.secret(payload)),
                Err(why) => why.clone(),
            };
            out.line(format_args!("  {}  {what}", tame(&job.run_id)));
        });
    }

    fn json(&mut self, out: &mut Out) {
        let config = match self.readable(self.snapshot.load_config()) {
            Ok(None) => Value::Null,
            Ok(Some(config)) => {
                let shape = json!({ "version": config.version, "len": config.raw.len() });
                self.with_secret(shape, "raw", &config.raw)
            }
            Err(why) => json!({ "error": why }),
        };
        let session = match self.readable(self.snapshot.load_session()) {
            Ok(None) => Value::Null,
            Ok(Some(session)) => {
                let shape = json!({ "server_time_ms": session.server_time_ms });
                self.with_secret(shape, "session_id", session.session_id.as_bytes())
            }
            Err(why) => json!({ "error": why }),
        };
        let heartbeat = match self.readable(self.snapshot.last_heartbeat()) {
            Ok(ts) => json!(ts),
            Err(why) => json!({ "error": why }),
        };
        let mut jobs = Vec::new();
        self.each_job(|dump, job| {
            jobs.push(match &job.payload {
                Ok(payload) => {
                    let shape = json!({ "run_id": job.run_id, "len": payload.len() });
                    dump.with_secret(shape, "payload", payload)
                }
                Err(why) => json!({ "run_id": job.run_id, "error": why }),
            });
        });
        out.json(&json!({
            "state": self.snapshot.path().display().to_string(),
            "config": config,
            "session": session,
            "last_heartbeat_ms": heartbeat,
            "log_events": self.snapshot.stats().log_events,
            "jobs": jobs,
        }));
    }

    /// One job at a time: payloads may be large, and one that cannot be read must not hide those behind it.
    fn each_job(&mut self, mut show: impl FnMut(&Dump, &Job)) {
        let mut after: Option<String> = None;
        loop {
            let next = match &after {
                None => self.snapshot.dequeue_jobs(1),
                Some(run_id) => self.snapshot.dequeue_jobs_after(run_id, 1),
            };
            let job = match next {
                Ok(mut jobs) => match jobs.pop() {
                    None => return,
                    Some(job) => Job { run_id: job.run_id, payload: Ok(job.payload) },
                },
                Err(Error::Unauthentic { path, offset, what, run_id: Some(run_id) }) => {
                    let error = Error::Unauthentic { path, offset, what, run_id: Some(run_id.clone()) };
                    let why = self.note(error);
                    Job { run_id, payload: Err(why) }
                }
                Err(error) => {
                    self.note(error);
                    return;
                }
            };
            show(self, &job);
            after = Some(job.run_id);
        }
    }

    fn readable<T>(&mut self, read: backupy_state::Result<T>) -> Result<T, String> {
        read.map_err(|error| self.note(error))
    }

    fn note(&mut self, error: Error) -> String {
        let failure = Failure::from(error);
        let why = format!("unreadable: {failure}");
        self.failure.get_or_insert(failure);
        why
    }

    fn secret(&self, value: &[u8]) -> String {
        if self.secrets { format!(": {}", Shown::new(value)) } else { String::new() }
    }

    fn with_secret(&self, mut object: Value, name: &str, value: &[u8]) -> Value {
        if self.secrets {
            Shown::new(value).put_into(&mut object, name);
        }
        object
    }
}
