//! `session` and `heartbeat`: what the agent and its server know of each other.

use backupy_state::{OpenOptions, Snapshot};
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::look::Look;
use crate::place::{Lock, Place};
use crate::text::{Out, Utc, ago, now_ms};

/// Show the session with the server
///
/// The session id is a secret: it shows with --allow-secrets only. Takes no lock and changes nothing.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  backupy-state session --json | jq .session.server_time_ms")]
pub(crate) struct SessionArgs {
    /// Show the session id too
    #[arg(long)]
    allow_secrets: bool,
}

/// Show the last heartbeat, or record one
///
/// Without a command, shows it: takes no lock and changes nothing.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  backupy-state heartbeat")]
pub(crate) struct HeartbeatArgs {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(clap::Subcommand)]
enum Command {
    Record(Record),
}

/// Record a heartbeat in the place of the last one
///
/// Needs the lock: exit code 5 while an agent holds it.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  backupy-state heartbeat record --at 1700000000000")]
struct Record {
    /// Its time in ms since 1970 [default: now]
    #[arg(long, value_name = "MS", allow_negative_numbers = true)]
    at: Option<i64>,

    #[command(flatten)]
    lock: Lock,
}

pub(crate) fn session(place: &Place, args: &SessionArgs, out: &mut Out) -> Result<(), Failure> {
    let look = Look::new(place.snapshot()?, args.allow_secrets);
    let (state, session) = (look.snapshot.path().display().to_string(), look.snapshot.load_session()?);
    if out.json {
        let session = session.map_or(Value::Null, |session| look.session_json(&session));
        out.json(&json!({ "state": state, "session": session }));
    } else {
        out.row("state", state);
        out.row("session", session.map_or("none".to_owned(), |session| look.session_line(&session)));
    }
    Ok(())
}

pub(crate) fn heartbeat(place: &Place, args: &HeartbeatArgs, out: &mut Out) -> Result<(), Failure> {
    match &args.command {
        None => show_heartbeat(&place.snapshot()?, out),
        Some(Command::Record(args)) => record(place, args, out),
    }
}

fn show_heartbeat(snapshot: &Snapshot, out: &mut Out) -> Result<(), Failure> {
    let (state, heartbeat) = (snapshot.path().display().to_string(), snapshot.last_heartbeat()?);
    show(&state, heartbeat, out);
    Ok(())
}

fn record(place: &Place, args: &Record, out: &mut Out) -> Result<(), Failure> {
    let store = place.open(&args.lock, &mut OpenOptions::new())?;
    let ts_ms = args.at.unwrap_or_else(now_ms);
    store.record_heartbeat(ts_ms)?;
    let state = store.path().display().to_string();
    store.close()?;
    show(&state, Some(ts_ms), out);
    Ok(())
}

fn show(state: &str, heartbeat: Option<i64>, out: &mut Out) {
    if out.json {
        out.json(&json!({ "state": state, "last_heartbeat_ms": heartbeat }));
        return;
    }
    out.row("state", state);
    out.row("heartbeat", heartbeat.map_or("none".to_owned(), |ts| format!("{} ({})", Utc(ts), ago(ts, now_ms()))));
}
