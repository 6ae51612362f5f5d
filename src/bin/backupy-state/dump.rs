//! `dump-state`: what a store holds. Secrets only where they were asked for.

use serde_json::{Value, json};

use crate::failure::Failure;
use crate::look::Look;
use crate::place::Place;
use crate::text::{Out, Utc, ago, bytes, grouped, len_of, now_ms};

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
            Ok(Some(config)) => {
                let len = bytes(len_of(&config.raw));
                format!("version {}, {len}{}", config.version, look.secret(&config.raw))
            }
            Err(why) => why,
        },
    );
    out.row(
        "session",
        match look.readable(look.snapshot.load_session()) {
            Ok(None) => "none".to_owned(),
            Ok(Some(session)) => {
                let since = Utc(session.server_time_ms);
                format!("present, server time {since}{}", look.secret(session.session_id.as_bytes()))
            }
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
        Ok(Some(config)) => {
            let shape = json!({ "version": config.version, "len": config.raw.len() });
            look.with_secret(shape, "raw", &config.raw)
        }
        Err(why) => json!({ "error": why }),
    };
    let session = match look.readable(look.snapshot.load_session()) {
        Ok(None) => Value::Null,
        Ok(Some(session)) => {
            let shape = json!({ "server_time_ms": session.server_time_ms });
            look.with_secret(shape, "session_id", session.session_id.as_bytes())
        }
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
