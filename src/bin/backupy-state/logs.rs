//! `logs`: shows, adds or removes buffered log events.

use backupy_state::testing::{drops_are_unreadable, stored_drops_are_unreadable};
use backupy_state::{Error, LogAdmission, LogBatch, LogEvent, LogLimits, OpenOptions};
use serde_json::{Value, json};

use crate::failure::{Exit, Failure};
use crate::input::Input;
use crate::inspector::{Inspector, revealed};
use crate::target::{Lock, Target};
use crate::text::{Out, Printable, Utc, bytes, drops, grouped, len_of, now_ms};

/// Show, add or remove buffered log events
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

/// Show the times and lengths of the oldest log events, and how many events were dropped
///
/// Removes nothing. Dropped log events are those that the limits of the log buffer rejected or evicted since the
/// agent last removed events from it.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  backupy-state logs peek --limit 10 --allow-secrets")]
struct Peek {
    /// Show at most this many events
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: usize,

    /// Also show the payloads
    #[arg(long)]
    allow_secrets: bool,
}

/// List the times and lengths of the log events, oldest first
///
/// Like `logs peek`, but all of them unless --limit is given.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  backupy-state logs list | tail")]
struct List {
    /// List at most this many events [default: all]
    #[arg(long, value_name = "N")]
    limit: Option<usize>,

    /// Also show the payloads
    #[arg(long)]
    allow_secrets: bool,
}

/// Add a log event
///
/// The limits of the log buffer are not applied, so this evicts no other event; they apply again to the agent's
/// next event. Needs the lock: exits with 5 while an agent holds it.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  echo 'restored by hand' | backupy-state logs add -")]
struct Add {
    #[command(flatten)]
    input: Input,

    /// The time of the event, in ms since 1970 [default: now]
    #[arg(long, value_name = "MS", allow_negative_numbers = true)]
    at: Option<i64>,

    #[command(flatten)]
    lock: Lock,
}

/// Remove the oldest log events
///
/// Give either --allow-secrets, which prints the events and removes them once the output has been written, or
/// --discard, which removes them without printing them. Fails if stdout is closed. Resets the count of dropped
/// events. Needs the lock: exits with 5 while an agent holds it.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  backupy-state logs drain --allow-secrets --json > events.json")]
#[command(group = clap::ArgGroup::new("what").required(true))]
struct Drain {
    /// Remove at most this many events [default: all]
    #[arg(long, value_name = "N")]
    limit: Option<usize>,

    /// Print the removed events with their payloads
    #[arg(long, group = "what")]
    allow_secrets: bool,

    /// Remove the events without printing them
    #[arg(long, group = "what")]
    discard: bool,

    #[command(flatten)]
    lock: Lock,
}

/// Remove the log events that fail authentication
///
/// `peek`, `list` and `drain` stop before an event that fails authentication. This command removes all such events
/// and counts them as dropped. Needs the lock: exits with 5 while an agent holds it.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  backupy-state logs discard-unreadable")]
struct DiscardUnreadable {
    #[command(flatten)]
    lock: Lock,
}

pub(crate) fn run(target: &Target, args: &Args, out: &mut Out) -> Result<(), Failure> {
    match &args.command {
        Command::Peek(args) => peek(target, args.limit, args.allow_secrets, out),
        Command::List(args) => peek(target, args.limit.unwrap_or(usize::MAX), args.allow_secrets, out),
        Command::Add(args) => add(target, args, out),
        Command::Drain(args) => drain(target, args, out),
        Command::DiscardUnreadable(args) => discard_unreadable(target, args, out),
    }
}

fn peek(target: &Target, limit: usize, secrets: bool, out: &mut Out) -> Result<(), Failure> {
    let inspector = Inspector::new(target.snapshot()?, secrets);
    let (state, buffered) = (inspector.snapshot.path().display().to_string(), inspector.snapshot.log_count());
    let batch = inspector.snapshot.peek_logs(limit).map_err(first_unreadable)?;
    let (events, are_unreadable) = (batch.events(), drops_are_unreadable(&inspector.snapshot));
    let dropped = (!are_unreadable).then_some(batch.dropped());
    if out.json {
        let events = events_json(&batch, |event, payload| inspector.with_secret(event, "payload", payload));
        out.report(state, json!({ "log_events": buffered, "dropped": dropped, "events": events }));
    } else {
        out.row("state", state);
        out.row("log events", grouped(buffered as u64));
        out.row("dropped", drops(dropped));
        events.iter().for_each(|event| out.line(event_line(event, &inspector.secret(&event.payload))));
    }
    check_all_read(&batch, buffered.min(limit))
}

fn add(target: &Target, args: &Add, out: &mut Out) -> Result<(), Failure> {
    let payload = args.input.read(target)?;
    let ts_ms = args.at.unwrap_or_else(now_ms);
    // The agent's limits are not known here, and the default ones could evict events that the agent would keep.
    let mut limits = LogLimits::default();
    (limits.max_count, limits.max_bytes, limits.rate) = (None, None, None);
    let store = target.open(&args.lock, OpenOptions::new().log_limits(limits))?;
    if store.buffer_log(ts_ms, &payload)? != LogAdmission::Buffered {
        return Err(Failure::failed("the log buffer rejected the event"));
    }
    let (state, buffered) = (store.path().display().to_string(), store.log_count());
    store.close()?;
    let fields = json!({ "log_events": buffered, "added": { "ts_ms": ts_ms, "len": payload.len() } });
    let added = format!("{}  {}", Utc(ts_ms), bytes(len_of(&payload)));
    out.summary(&state, fields, &[("log events", grouped(buffered as u64)), ("added", added)]);
    Ok(())
}

fn drain(target: &Target, args: &Drain, out: &mut Out) -> Result<(), Failure> {
    if args.allow_secrets && out.may_be_closed() {
        let message = "stdout is closed, or discards what is written; redirect it to a file, or give --discard";
        return Err(Failure::failed(format!("{message}; no log event was removed")));
    }
    let store = target.open(&args.lock, &mut OpenOptions::new())?;
    let (state, buffered) = (store.path().display().to_string(), store.log_count());
    let limit = args.limit.unwrap_or(usize::MAX);
    let batch = store.peek_logs(limit).map_err(first_unreadable)?;
    let count = batch.events().len();
    let dropped = (!stored_drops_are_unreadable(&store)).then_some(batch.dropped());
    let mut report = json!({ "log_events": buffered - count, "dropped": dropped, "drained": count });
    if out.json {
        if args.allow_secrets {
            let with_payload = |mut event, payload: &[u8]| {
                Printable::new(payload).insert_into(&mut event, "payload");
                event
            };
            report["events"] = events_json(&batch, with_payload).into();
        }
        out.report(&state, report);
    } else {
        out.row("state", state);
        out.row("log events", format_args!("{} left", grouped((buffered - count) as u64)));
        out.row("dropped", drops(dropped));
        out.row("drained", grouped(count as u64));
        if args.allow_secrets {
            batch.events().iter().for_each(|event| out.line(event_line(event, &revealed(&event.payload))));
        }
    }
    let all_read = check_all_read(&batch, buffered.min(limit));
    if let Err(failure) = &all_read {
        out.fail(failure);
    }
    // Only now: events that were not written out must not be removed.
    if args.allow_secrets && !out.is_written() {
        return Err(Failure::failed("the output could not be written completely, so no log event was removed"));
    }
    store.ack_logs(&batch)?;
    store.close()?;
    all_read
}

fn discard_unreadable(target: &Target, args: &DiscardUnreadable, out: &mut Out) -> Result<(), Failure> {
    let store = target.open(&args.lock, &mut OpenOptions::new())?;
    let discarded = store.discard_unreadable_logs()?;
    let (state, buffered) = (store.path().display().to_string(), store.log_count());
    store.close()?;
    let left = format!("{} left", grouped(buffered as u64));
    let fields = json!({ "log_events": buffered, "discarded": discarded });
    out.summary(&state, fields, &[("log events", left), ("discarded", grouped(discarded))]);
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

/// Fails if the batch is shorter than expected: the library ends a batch before an unreadable event.
fn check_all_read(batch: &LogBatch, expected: usize) -> Result<(), Failure> {
    let read = batch.events().len();
    if read < expected { Err(unreadable(read + 1)) } else { Ok(()) }
}

/// If the first event is unreadable, there is no batch.
fn first_unreadable(error: Error) -> Failure {
    if matches!(error, Error::Unauthentic { .. }) { unreadable(1) } else { error.into() }
}

fn unreadable(number: usize) -> Failure {
    let message = format!(
        "log event {number} is unreadable; `backupy-state verify` reports why, \
         `backupy-state logs discard-unreadable` removes it"
    );
    Failure::new(Exit::Damage, message)
}
