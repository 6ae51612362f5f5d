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
    let now_ms = now_ms();
    out.row("state", inspector.snapshot.path().display());
    out.row(
        "config",
        match inspector.readable(inspector.snapshot.load_config()) {
            Ok(None) => "none".to_owned(),
            Ok(Some(config)) => inspector.config_line(&config),
            Err(failure) => unreadable(&failure),
        },
    );
    out.row(
        "session",
        match inspector.readable(inspector.snapshot.load_session()) {
            Ok(None) => "none".to_owned(),
            Ok(Some(session)) => inspector.session_line(&session),
            Err(failure) => unreadable(&failure),
        },
    );
    out.row(
        "heartbeat",
        match inspector.readable(inspector.snapshot.last_heartbeat()) {
            Ok(None) => "none".to_owned(),
            Ok(Some(ts)) => format!("{} ({})", Utc(ts), ago(ts, now_ms)),
            Err(failure) => unreadable(&failure),
        },
    );
    out.row("log events", grouped(inspector.snapshot.stats().log_events));
    out.row("data keys", grouped(inspector.snapshot.stats().data_keys));
    inspector.each_data_key("", |inspector, entry| out.line(inspector.entry_line(entry)));
    out.row("jobs", grouped(inspector.snapshot.stats().jobs));
    inspector.each_job(None, usize::MAX, |inspector, job| out.line(inspector.entry_line(job)));
}

fn as_json(inspector: &mut Inspector, out: &mut Out) {
    let config = match inspector.readable(inspector.snapshot.load_config()) {
        Ok(None) => Value::Null,
        Ok(Some(config)) => inspector.config_json(&config),
        Err(failure) => json!({ "error": failure }),
    };
    let session = match inspector.readable(inspector.snapshot.load_session()) {
        Ok(None) => Value::Null,
        Ok(Some(session)) => inspector.session_json(&session),
        Err(failure) => json!({ "error": failure }),
    };
    let heartbeat = match inspector.readable(inspector.snapshot.last_heartbeat()) {
        Ok(ts) => json!(ts),
        Err(failure) => json!({ "error": failure }),
    };
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
