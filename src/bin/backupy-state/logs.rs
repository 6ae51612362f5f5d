//! `logs`: the buffered log events.

use backupy_state::{LogAdmission, LogBatch, LogEvent, LogLimits, OpenOptions};
use serde_json::{Value, json};

use crate::failure::{Exit, Failure};
use crate::input::Input;
use crate::look::{Look, revealed};
use crate::place::{Lock, Place};
use crate::text::{Out, Shown, Utc, bytes, grouped, len_of, now_ms};

/// Look at the buffered log events, add one, and take some out
#[derive(clap::Args)]
#[command(after_help = "Example:\n  backupy-state logs peek --limit 10")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    Peek(Peek),
    List(List),
    Add(Add),
    Drain(Drain),
    DiscardUnreadable(DiscardUnreadable),
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

/// List all log events, oldest first, with their times and lengths
///
/// As `logs peek`, without a limit.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  backupy-state logs list | tail")]
struct List {
    /// Show the payloads too
    #[arg(long)]
    allow_secrets: bool,
}

/// Add a log event
///
/// It pushes nothing out: the limits of the buffer hold again for the agent's next event. Needs the lock: exit code 5 while an
/// agent holds it.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  echo 'restored by hand' | backupy-state logs add -")]
struct Add {
    #[command(flatten)]
    input: Input,

    /// Its time in ms since 1970 [default: now]
    #[arg(long, value_name = "MS", allow_negative_numbers = true)]
    at: Option<i64>,

    #[command(flatten)]
    lock: Lock,
}

/// Take the oldest log events out of the buffer
///
/// What is taken out is gone, so this asks what is to become of it: --allow-secrets shows the events first and removes them
/// when the output has taken them; --discard removes them unseen. Resets the count of dropped events. Needs the lock: exit
/// code 5 while an agent holds it.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  backupy-state logs drain --allow-secrets --json > events.json")]
#[command(group = clap::ArgGroup::new("fate").required(true))]
struct Drain {
    /// At most so many events [default: all]
    #[arg(long, value_name = "N")]
    limit: Option<usize>,

    /// Show what is removed, with the payloads
    #[arg(long, group = "fate")]
    allow_secrets: bool,

    /// Remove without showing
    #[arg(long, group = "fate")]
    discard: bool,

    #[command(flatten)]
    lock: Lock,
}

/// Remove the log events that were tampered with
///
/// An event whose seal does not fit ends every peek and drain before it. This removes all of those, and counts them as
/// dropped. Needs the lock: exit code 5 while an agent holds it.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  backupy-state logs discard-unreadable")]
struct DiscardUnreadable {
    #[command(flatten)]
    lock: Lock,
}

pub(crate) fn run(place: &Place, args: &Args, out: &mut Out) -> Result<(), Failure> {
    match &args.command {
        Command::Peek(args) => peek(place, args.limit, args.allow_secrets, out),
        Command::List(args) => peek(place, usize::MAX, args.allow_secrets, out),
        Command::Add(args) => add(place, args, out),
        Command::Drain(args) => drain(place, args, out),
        Command::DiscardUnreadable(args) => discard_unreadable(place, args, out),
    }
}

fn peek(place: &Place, limit: usize, secrets: bool, out: &mut Out) -> Result<(), Failure> {
    let look = Look::new(place.snapshot()?, secrets);
    let (state, buffered) = (look.snapshot.path().display().to_string(), look.snapshot.log_count());
    let batch = look.snapshot.peek_logs(limit)?;
    let (events, dropped) = (batch.events(), batch.dropped());
    if out.json {
        let events = events_json(&batch, |event, payload| look.with_secret(event, "payload", payload));
        out.json(&json!({ "state": state, "log_events": buffered, "dropped": dropped, "events": events }));
    } else {
        out.row("state", state);
        out.row("log events", grouped(buffered as u64));
        out.row("dropped", grouped(dropped));
        events.iter().for_each(|event| out.line(event_line(event, &look.secret(&event.payload))));
    }
    all_read(&batch, buffered.min(limit))
}

fn add(place: &Place, args: &Add, out: &mut Out) -> Result<(), Failure> {
    let payload = args.input.read()?;
    let ts_ms = args.at.unwrap_or_else(now_ms);
    // The agent's own limits are not known here, and those by default could push out what the agent would keep.
    let mut limits = LogLimits::default();
    (limits.max_count, limits.max_bytes, limits.rate) = (None, None, None);
    let store = place.open(&args.lock, OpenOptions::new().log_limits(limits))?;
    if store.buffer_log(ts_ms, &payload)? != LogAdmission::Buffered {
        return Err(Failure::failed("the log buffer did not take the event"));
    }
    let (state, buffered) = (store.path().display().to_string(), store.log_count());
    store.close()?;
    if out.json {
        let event = json!({ "ts_ms": ts_ms, "len": payload.len() });
        out.json(&json!({ "state": state, "log_events": buffered, "added": event }));
    } else {
        out.row("state", state);
        out.row("log events", grouped(buffered as u64));
        out.row("added", format_args!("{}  {}", Utc(ts_ms), bytes(len_of(&payload))));
    }
    Ok(())
}

fn drain(place: &Place, args: &Drain, out: &mut Out) -> Result<(), Failure> {
    let store = place.open(&args.lock, &mut OpenOptions::new())?;
    let (state, buffered) = (store.path().display().to_string(), store.log_count());
    let limit = args.limit.unwrap_or(usize::MAX);
    let batch = store.peek_logs(limit)?;
    let (count, dropped) = (batch.events().len(), batch.dropped());
    let mut report =
        json!({ "state": state, "log_events": buffered - count, "dropped": dropped, "drained": count });
    if out.json {
        if args.allow_secrets {
            let with_payload = |mut event, payload: &[u8]| {
                Shown::new(payload).put_into(&mut event, "payload");
                event
            };
            report["events"] = events_json(&batch, with_payload).into();
        }
        out.json(&report);
    } else {
        out.row("state", state);
        out.row("log events", format_args!("{} left", grouped((buffered - count) as u64)));
        out.row("dropped", grouped(dropped));
        out.row("drained", grouped(count as u64));
        if args.allow_secrets {
            batch.events().iter().for_each(|event| out.line(event_line(event, &revealed(&event.payload))));
        }
    }
    // Only now: what nobody has taken stays.
    if args.allow_secrets && !out.is_taken() {
        return Err(Failure::failed("the output was not taken to its end, so no log event was removed"));
    }
    let readable = all_read(&batch, buffered.min(limit));
    store.ack_logs(batch)?;
    store.close()?;
    readable
}

fn discard_unreadable(place: &Place, args: &DiscardUnreadable, out: &mut Out) -> Result<(), Failure> {
    let store = place.open(&args.lock, &mut OpenOptions::new())?;
    let discarded = store.discard_unreadable_logs()?;
    let (state, buffered) = (store.path().display().to_string(), store.log_count());
    store.close()?;
    if out.json {
        out.json(&json!({ "state": state, "log_events": buffered, "discarded": discarded }));
    } else {
        out.row("state", state);
        out.row("log events", format_args!("{} left", grouped(buffered as u64)));
        out.row("discarded", grouped(discarded));
    }
    Ok(())
}

fn event_line(event: &LogEvent, secret: &str) -> String {
    format!("  {}  {}{secret}", Utc(event.ts_ms), bytes(len_of(&event.payload)))
}

fn events_json(batch: &LogBatch, with_payload: impl Fn(Value, &[u8]) -> Value) -> Vec<Value> {
    let event = |LogEvent { ts_ms, payload, .. }: &LogEvent| {
        with_payload(json!({ "ts_ms": ts_ms, "len": payload.len() }), payload)
    };
    batch.events().iter().map(event).collect()
}

/// The library ends a batch before an event that it cannot read.
fn all_read(batch: &LogBatch, expected: usize) -> Result<(), Failure> {
    let read = batch.events().len();
    if read < expected {
        let message = format!(
            "log event {} cannot be read; `verify` says why, `logs discard-unreadable` removes it",
            read + 1
        );
        return Err(Failure::new(Exit::Damage, message));
    }
    Ok(())
}
