//! `dump-state`: shows the contents of the store, secrets only on request.

use serde_json::{Value, json};

use crate::failure::Failure;
use crate::inspector::{Inspector, unreadable};
use crate::target::Target;
use crate::text::{Out, Utc, ago, grouped, now_ms};

/// Show the contents of the store
///
/// Payloads, the configuration, the session id and the values of data keys are secrets: without --allow-secrets,
/// only lengths and times are shown. Unreadable values are reported, and the rest is shown.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  backupy-state dump-state --json | jq '.jobs[].run_id'")]
pub(crate) struct Args {
    /// Also show payloads, the configuration, the session id and the values of data keys
    #[arg(long)]
    allow_secrets: bool,
}

pub(crate) fn run(target: &Target, args: &Args, out: &mut Out) -> Result<(), Failure> {
    let mut inspector = Inspector::new(target.snapshot()?, args.allow_secrets);
    if out.json {
        as_json(&mut inspector, out);
    } else {
        show(&mut inspector, out);
    }
    inspector.finish()
}

fn show(inspector: &mut Inspector, out: &mut Out) {
    out.row("state", inspector.snapshot.path().display());
    let config = inspector.readable(inspector.snapshot.load_config());
    out.row("config", as_text(config, |config| inspector.config_line(&config)));
    let session = inspector.readable(inspector.snapshot.load_session());
    out.row("session", as_text(session, |session| inspector.session_line(&session)));
    let heartbeat = inspector.readable(inspector.snapshot.last_heartbeat());
    out.row("heartbeat", as_text(heartbeat, |ts| format!("{} ({})", Utc(ts), ago(ts, now_ms()))));
    out.row("log events", grouped(inspector.snapshot.stats().log_events));
    out.row("data keys", grouped(inspector.snapshot.stats().data_keys));
    inspector.each_data_key("", |inspector, entry| out.line(inspector.entry_line(entry)));
    out.row("jobs", grouped(inspector.snapshot.stats().jobs));
    inspector.each_job(None, usize::MAX, |inspector, job| out.line(inspector.entry_line(job)));
}

fn as_json(inspector: &mut Inspector, out: &mut Out) {
    let config = inspector.readable(inspector.snapshot.load_config());
    let config = as_value(config, |config| inspector.config_json(&config));
    let session = inspector.readable(inspector.snapshot.load_session());
    let session = as_value(session, |session| inspector.session_json(&session));
    let heartbeat = as_value(inspector.readable(inspector.snapshot.last_heartbeat()), Value::from);
    let mut data = Vec::new();
    inspector.each_data_key("", |inspector, entry| data.push(inspector.entry_json(entry)));
    let mut jobs = Vec::new();
    inspector.each_job(None, usize::MAX, |inspector, job| jobs.push(inspector.entry_json(job)));
    let report = json!({
        "config": config,
        "session": session,
        "last_heartbeat_ms": heartbeat,
        "log_events": inspector.snapshot.stats().log_events,
        "data": data,
        "jobs": jobs,
    });
    out.report(inspector.snapshot.path(), report);
}

/// A value as a line of text shows it: also if there is none, or if it is unreadable.
fn as_text<T>(read: Result<Option<T>, Failure>, text: impl FnOnce(T) -> String) -> String {
    match read {
        Ok(found) => found.map_or_else(|| "none".to_owned(), text),
        Err(failure) => unreadable(&failure),
    }
}

/// The same as JSON.
fn as_value<T>(read: Result<Option<T>, Failure>, json: impl FnOnce(T) -> Value) -> Value {
    match read {
        Ok(found) => found.map_or(Value::Null, json),
        Err(failure) => json!({ "error": failure }),
    }
}
