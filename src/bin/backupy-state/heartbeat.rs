//! `heartbeat`: the time of the last heartbeat.

use backupy_state::OpenOptions;
use serde_json::json;

use crate::failure::Failure;
use crate::target::{Lock, Target};
use crate::text::{Out, Utc, ago, now_ms};

/// Show the last heartbeat, or record one
///
/// Without a subcommand, shows the last heartbeat; this takes no lock and changes nothing.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  backupy-state heartbeat")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(clap::Subcommand)]
enum Command {
    Record(Record),
}

/// Record a heartbeat, which replaces the last one
///
/// Needs the lock: exits with 5 while an agent holds it.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  backupy-state heartbeat record --at 1700000000000")]
struct Record {
    /// The time of the heartbeat, in ms since 1970 [default: now]
    #[arg(long, value_name = "MS", allow_negative_numbers = true)]
    at: Option<i64>,

    #[command(flatten)]
    lock: Lock,
}

pub(crate) fn run(target: &Target, args: &Args, out: &mut Out) -> Result<(), Failure> {
    match &args.command {
        None => show_last(target, out),
        Some(Command::Record(args)) => record(target, args, out),
    }
}

fn show_last(target: &Target, out: &mut Out) -> Result<(), Failure> {
    let snapshot = target.snapshot()?;
    show(&snapshot.path().display().to_string(), snapshot.last_heartbeat()?, out);
    Ok(())
}

fn record(target: &Target, args: &Record, out: &mut Out) -> Result<(), Failure> {
    let store = target.open(&args.lock, &mut OpenOptions::new())?;
    let ts_ms = args.at.unwrap_or_else(now_ms);
    store.record_heartbeat(ts_ms)?;
    let state = store.path().display().to_string();
    store.close()?;
    show(&state, Some(ts_ms), out);
    Ok(())
}

fn show(state: &str, heartbeat: Option<i64>, out: &mut Out) {
    let text = heartbeat.map_or("none".to_owned(), |ts| format!("{} ({})", Utc(ts), ago(ts, now_ms())));
    out.summary(state, json!({ "last_heartbeat_ms": heartbeat }), &[("heartbeat", text)]);
}
