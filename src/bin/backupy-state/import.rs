//! `import`: brings the state of the Go agent, a bbolt file, over into a store.

use std::fs;
use std::path::{Path, PathBuf};

use backupy_state::{ImportReport, LogLimits, OpenOptions, check_bolt, import_bolt};
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::place::{Lock, Place};
use crate::progress;
use crate::text::{Out, Utc, counted, grouped, tame};

/// Bring the state of the Go agent, a bbolt file, over into a new store
///
/// The file is only read. All of it is checked first: one that is damaged, under another key or in use imports nothing, and no
/// store is made. If this is interrupted, run it again, before the agent starts: it goes on where it had stopped. A store
/// that holds anything else is left alone. Stop the old agent first; where its file has the name of the new store, give it
/// another name.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  mv /var/lib/backupy/state.db /var/lib/backupy/state.bolt\n  \
                        backupy-state --state /var/lib/backupy/state.db import /var/lib/backupy/state.bolt")]
pub(crate) struct Args {
    /// The bbolt file
    #[arg(value_name = "FILE")]
    from: PathBuf,

    #[command(flatten)]
    lock: Lock,
}

pub(crate) fn run(place: &Place, args: &Args, out: &mut Out) -> Result<(), Failure> {
    let key = place.key()?;
    refuse_itself(&place.state(), &args.from)?;
    // A store that is there, and empty, because its import failed would look like an agent without jobs.
    let expected = check_bolt(&args.from, &key)?;
    let mut limits = LogLimits::default();
    // Nothing is dropped on the way; the agent's own limits count what they drop.
    (limits.max_count, limits.max_bytes) = (None, None);
    let store = place.open_or_create(&args.lock, OpenOptions::new().log_limits(limits))?;
    let whole = expected.jobs + expected.log_events;
    let how_far = || {
        let done = store.queue_depth() as u64 + store.log_count() as u64;
        progress::Step { name: "importing", done, whole }
    };
    let report = progress::shown(how_far, || import_bolt(&args.from, &key, &store))?;
    let state = store.path().display().to_string();
    store.close()?;
    let from = args.from.display().to_string();
    if out.json {
        out.json(&as_json(&state, &from, &report));
    } else {
        show(out, &state, &from, &report);
    }
    Ok(())
}

/// The agent before had the same name for its file.
fn refuse_itself(state: &Path, from: &Path) -> Result<(), Failure> {
    match (fs::canonicalize(state), fs::canonicalize(from)) {
        (Ok(state), Ok(from)) if state == from => Err(Failure::usage(format!(
            "{} is where the new store is to be; give the bbolt file another name, and import it from there",
            from.display()
        ))),
        _ => Ok(()),
    }
}

fn as_json(state: &str, from: &str, report: &ImportReport) -> Value {
    let left_out = report.left_out.iter().map(|left| json!({ "bucket": left.bucket, "keys": left.keys }));
    json!({
        "state": state,
        "from": from,
        "config_version": report.config_version,
        "session": report.session,
        "last_heartbeat_ms": report.last_heartbeat_ms,
        "jobs": report.jobs,
        "log_events": report.log_events,
        "log_events_dropped": report.log_events_dropped,
        "already_there": report.already_there,
        "left_out": left_out.collect::<Vec<_>>(),
        "meta_page_damaged": report.meta_page_damaged,
    })
}

fn show(out: &mut Out, state: &str, from: &str, report: &ImportReport) {
    out.row("state", state);
    out.row("from", from);
    match report.config_version {
        Some(version) => out.row("config", format_args!("version {version}")),
        None => out.row("config", "none"),
    }
    out.row("session", if report.session { "yes" } else { "none" });
    match report.last_heartbeat_ms {
        Some(ts_ms) => out.row("heartbeat", Utc(ts_ms)),
        None => out.row("heartbeat", "none"),
    }
    out.row("jobs", grouped(report.jobs));
    out.row("log events", grouped(report.log_events));
    if report.already_there > 0 {
        out.row("of these", format_args!("{} had been there", grouped(report.already_there)));
    }
    for left in &report.left_out {
        out.row("left out", format_args!("{} of bucket {}", counted(left.keys, "key"), tame(&left.bucket)));
    }
    if report.meta_page_damaged {
        out.row("note", "one of the two meta pages does not check: this is the state of the transaction before");
    }
}
