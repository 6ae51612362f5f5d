//! `logs peek`: the oldest log events, which stay where they are.

use backupy_state::LogEvent;
use serde_json::json;

use crate::failure::{Exit, Failure};
use crate::look::Look;
use crate::place::Place;
use crate::text::{Out, Utc, bytes, grouped, len_of};

/// Look at the buffered log events
#[derive(clap::Args)]
#[command(after_help = "Example:\n  backupy-state logs peek --limit 10")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    Peek(Peek),
}

/// Show the oldest log events with their times and lengths, and how many were dropped
///
/// Removes nothing. Dropped are those that the limits of the buffer kept or put out, since the agent took events out last.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  backupy-state logs peek --limit 10 --allow-secrets")]
struct Peek {
    /// At most so many events
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: usize,

    /// Show the payloads too
    #[arg(long)]
    allow_secrets: bool,
}

pub(crate) fn run(place: &Place, args: &Args, out: &mut Out) -> Result<(), Failure> {
    let Command::Peek(args) = &args.command;
    let look = Look::new(place.snapshot()?, args.allow_secrets);
    let (state, buffered) = (look.snapshot.path().display().to_string(), look.snapshot.log_count());
    let batch = look.snapshot.peek_logs(args.limit)?;
    let (events, dropped) = (batch.events(), batch.dropped());
    if out.json {
        let as_json = |LogEvent { ts_ms, payload }: &LogEvent| {
            look.with_secret(json!({ "ts_ms": ts_ms, "len": payload.len() }), "payload", payload)
        };
        let events: Vec<_> = events.iter().map(as_json).collect();
        out.json(&json!({ "state": state, "log_events": buffered, "dropped": dropped, "events": events }));
    } else {
        out.row("state", state);
        out.row("log events", grouped(buffered as u64));
        out.row("dropped", grouped(dropped));
        for LogEvent { ts_ms, payload } in events {
            let len = bytes(len_of(payload));
            out.line(format_args!("  {}  {len}{}", Utc(*ts_ms), look.secret(payload)));
        }
    }
    // The library ends a batch before an event that it cannot read.
    if events.len() < buffered.min(args.limit) {
        let message = format!("log event {} cannot be read; `verify` says why", events.len() + 1);
        return Err(Failure::new(Exit::Damage, message));
    }
    Ok(())
}
