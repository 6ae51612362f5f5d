//! `import`: copies the state of the Go agent, a bbolt file, to a store.

use std::fs;
use std::path::{Path, PathBuf};

use backupy_state::testing::lock_bolt;
use backupy_state::{ImportReport, LogLimits, OpenOptions, check_bolt, import_bolt};
use serde::Serialize;

use crate::failure::{Exit, Failure};
use crate::progress;
use crate::target::{Lock, Target, absolute};
use crate::text::{Out, Utc, counted, escaped, grouped};

/// Import the state of the Go agent, a bbolt file, into a new store
///
/// The bbolt file is not changed. It is checked completely first: if it is damaged, in use or under another key,
/// nothing is imported and no store is created. If the import is interrupted, run it again before the agent
/// starts; it continues where it stopped. A store with any other contents is refused. A job that a store cannot
/// hold, because of its run id or its length, is listed, and the exit code is then 3; the rest is imported. Stop
/// the Go agent first. If its file has the name of the new store, rename the file.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  mkdir -p -m 700 /var/lib/backupy\n  \
                        backupy-state --state /var/lib/backupy/state.db import /var/lib/backup-agent/state.db")]
pub(crate) struct Args {
    /// The bbolt file
    #[arg(value_name = "FILE")]
    from: PathBuf,

    #[command(flatten)]
    lock: Lock,
}

pub(crate) fn run(target: &Target, args: &Args, out: &mut Out) -> Result<(), Failure> {
    let key = target.key()?;
    refuse_same_file(&target.state(), &args.from)?;
    refuse_missing_folder(&target.state())?;
    // Even opening the store would write to its lock file.
    target.refuse_own_file(&args.from)?;
    // Until the end: if a Go agent could write to the file after the check, an empty store might be left.
    let _locked = lock_bolt(&args.from)?;
    // Checked before the store is created: an empty store left by a failed import would look like an agent without
    // jobs.
    let expected = check_bolt(&args.from, &key)?;
    let mut limits = LogLimits::default();
    // The import drops nothing; the agent's own limits apply later and count what they drop.
    (limits.max_count, limits.max_bytes) = (None, None);
    let store = target.open_or_create(&key, &args.lock, OpenOptions::new().log_limits(limits))?;
    let total = expected.jobs + expected.log_events;
    let step = || {
        let done = store.queue_depth() as u64 + store.log_count() as u64;
        progress::Step { name: "importing", done, total }
    };
    let report = progress::with_bar(step, || import_bolt(&args.from, &key, &store))?;
    let state = store.path().display().to_string();
    store.close()?;
    let from = absolute(&args.from).display().to_string();
    if out.json {
        out.report(&state, Imported { from: &from, report: &report });
    } else {
        show(out, &state, &from, &report);
    }
    check(&state, &from, &report)
}

/// Fails if a job is not in the store: a script must not take this for a complete import.
fn check(state: &str, from: &str, report: &ImportReport) -> Result<(), Failure> {
    let left_out = report.jobs_left_out();
    if left_out == 0 {
        return Ok(());
    }
    let jobs = counted(left_out, "job");
    let (were, them) = if left_out == 1 { ("was", "it") } else { ("were", "them") };
    let message = format!(
        "{jobs} of {from} {were} left out, because a store cannot hold {them}; everything else is in {state}; \
         the Go agent can still deliver {them}"
    );
    Err(Failure::new(Exit::Damage, message))
}

/// Only a folder that is there gets a store. The error of the lock file in it would say less.
fn refuse_missing_folder(state: &Path) -> Result<(), Failure> {
    let folder = state.parent().filter(|folder| !folder.as_os_str().is_empty());
    match folder {
        Some(folder) if !folder.exists() => {
            let folder = folder.display();
            let message =
                format!("there is no folder {folder} for the new store; make it with `mkdir -p -m 700 {folder}`");
            Err(Failure::new(Exit::NotFound, message))
        }
        _ => Ok(()),
    }
}

/// The Go agent's file and the store have the same default name.
fn refuse_same_file(state: &Path, from: &Path) -> Result<(), Failure> {
    match (fs::canonicalize(state), fs::canonicalize(from)) {
        (Ok(state), Ok(from)) if state == from => Err(Failure::usage(format!(
            "{} is both the bbolt file and the new store; rename the bbolt file and import it from there",
            from.display()
        ))),
        _ => Ok(()),
    }
}

#[derive(Serialize)]
struct Imported<'a> {
    from: &'a str,
    #[serde(flatten)]
    report: &'a ImportReport,
}

fn show(out: &mut Out, state: &str, from: &str, report: &ImportReport) {
    out.row("state", state);
    out.row("from", from);
    out.row("config", report.config_version.map_or("none".to_owned(), |version| format!("version {version}")));
    out.row("session", if report.session { "yes" } else { "none" });
    out.row("heartbeat", report.last_heartbeat_ms.map_or("none".to_owned(), |ts_ms| Utc(ts_ms).to_string()));
    out.row("jobs", grouped(report.jobs));
    out.row("log events", grouped(report.log_events));
    if report.already_there > 0 {
        out.row("of these", format_args!("{} had been imported before", grouped(report.already_there)));
    }
    for left in &report.left_out {
        match &left.run_id {
            // With escapes already.
            Some(run_id) => out.row("left out", format_args!("job \"{run_id}\": {}", left.why)),
            None => {
                let (keys, bucket) = (counted(left.keys, "key"), escaped(&left.bucket));
                out.row("left out", format_args!("{keys} of bucket {bucket}: {}", left.why));
            }
        }
    }
    if report.meta_page_damaged {
        out.row("note", "one of the two meta pages is damaged; the last transaction may be missing");
    }
}
