//! `dump-state`: what a store holds. Secrets only where they were asked for.

use serde_json::{Value, json};

use crate::failure::Failure;
use crate::look::Look;
use crate::place::Place;
use crate::text::{Out, Utc, ago, grouped, now_ms};

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
    let mut look = Look::new(place.snapshot()?, args.allow_secrets);
    if out.json {
        as_json(&mut look, out);
    } else {
        show(&mut look, out);
    }
    look.end()
}

fn show(look: &mut Look, out: &mut Out) {
    let now_ms = now_ms();
    out.row("state", look.snapshot.path().display());
    out.row(
        "config",
        match look.readable(look.snapshot.load_config()) {
            Ok(None) => "none".to_owned(),
            Ok(Some(config)) => look.config_line(&config),
            Err(why) => why,
        },
    );
    out.row(
        "session",
        match look.readable(look.snapshot.load_session()) {
            Ok(None) => "none".to_owned(),
            Ok(Some(session)) => look.session_line(&session),
            Err(why) => why,
        },
    );
    out.row(
        "heartbeat",
        match look.readable(look.snapshot.last_heartbeat()) {
            Ok(None) => "none".to_owned(),
            Ok(Some(ts)) => format!("{} ({})", Utc(ts), ago(ts, now_ms)),
            Err(why) => why,
        },
    );
    out.row("log events", grouped(look.snapshot.stats().log_events));
    out.row("jobs", grouped(look.snapshot.stats().jobs));
    look.each_job(None, usize::MAX, |look, job| out.line(look.job_line(job)));
}

fn as_json(look: &mut Look, out: &mut Out) {
    let config = match look.readable(look.snapshot.load_config()) {
        Ok(None) => Value::Null,
        Ok(Some(config)) => look.config_json(&config),
        Err(why) => json!({ "error": why }),
    };
    let session = match look.readable(look.snapshot.load_session()) {
        Ok(None) => Value::Null,
        Ok(Some(session)) => look.session_json(&session),
        Err(why) => json!({ "error": why }),
    };
    let heartbeat = match look.readable(look.snapshot.last_heartbeat()) {
        Ok(ts) => json!(ts),
        Err(why) => json!({ "error": why }),
    };
    let mut jobs = Vec::new();
    look.each_job(None, usize::MAX, |look, job| jobs.push(look.job_json(job)));
    out.json(&json!({
        "state": look.snapshot.path().display().to_string(),
        "config": config,
        "session": session,
        "last_heartbeat_ms": heartbeat,
        "log_events": look.snapshot.stats().log_events,
        "jobs": jobs,
    }));
}
