//! `queue`: the pending jobs.

use backupy_state::{Enqueued, OpenOptions};
use serde_json::json;

use crate::failure::{Exit, Failure};
use crate::input::Input;
use crate::look::{Job, Look};
use crate::place::{Lock, Place};
use crate::text::{Out, bytes, grouped, len_of, tame};

/// Look at the pending jobs, add some, and remove some
#[derive(clap::Args)]
#[command(after_help = "Example:\n  backupy-state queue list --limit 100")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    List(List),
    Show(Show),
    Enqueue(Enqueue),
    Ack(Ack),
}

/// List the pending jobs by run id, with the lengths of their payloads
///
/// Removes nothing. A job whose payload cannot be read is named, and those behind it are listed.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  backupy-state queue list --limit 100 --after run-0815")]
struct List {
    /// At most so many jobs [default: all]
    #[arg(long, value_name = "N")]
    limit: Option<usize>,

    /// Only those behind this run id
    #[arg(long, value_name = "ID")]
    after: Option<String>,

    /// Show the payloads too
    #[arg(long)]
    allow_secrets: bool,
}

/// Show one pending job: exit code 6 if the queue does not hold it
///
/// Removes nothing. The payload is a secret: it shows with --allow-secrets only.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  backupy-state queue show run-0815 --raw --allow-secrets > payload.bin")]
struct Show {
    /// The run id of the job
    #[arg(value_name = "ID")]
    run_id: String,

    /// Show the payload too
    #[arg(long)]
    allow_secrets: bool,

    /// Write the bytes of the payload and nothing else
    #[arg(long, requires = "allow_secrets", conflicts_with = "json")]
    raw: bool,
}

/// Add a job, or put another payload in the place of one that is pending
///
/// Needs the lock: exit code 5 while an agent holds it.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  backupy-state queue enqueue run-0815 payload.bin")]
struct Enqueue {
    /// The run id of the job
    #[arg(value_name = "ID")]
    run_id: String,

    #[command(flatten)]
    input: Input,

    #[command(flatten)]
    lock: Lock,
}

/// Remove a job for good, also one whose payload cannot be read: exit code 6 if the queue does not hold it
///
/// Needs the lock: exit code 5 while an agent holds it.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  backupy-state queue ack run-0815")]
struct Ack {
    /// The run id of the job
    #[arg(value_name = "ID")]
    run_id: String,

    #[command(flatten)]
    lock: Lock,
}

pub(crate) fn run(place: &Place, args: &Args, out: &mut Out) -> Result<(), Failure> {
    match &args.command {
        Command::List(args) => list(place, args, out),
        Command::Show(args) => show(place, args, out),
        Command::Enqueue(args) => enqueue(place, args, out),
        Command::Ack(args) => ack(place, args, out),
    }
}

fn list(place: &Place, args: &List, out: &mut Out) -> Result<(), Failure> {
    if args.after.as_deref() == Some("") {
        return Err(Failure::usage("the run id of --after is empty"));
    }
    let mut look = Look::new(place.snapshot()?, args.allow_secrets);
    let (after, limit) = (args.after.as_deref(), args.limit.unwrap_or(usize::MAX));
    let (state, depth) = (look.snapshot.path().display().to_string(), look.snapshot.stats().jobs);
    if out.json {
        let mut jobs = Vec::new();
        look.each_job(after, limit, |look, job| jobs.push(look.job_json(job)));
        out.json(&json!({ "state": state, "queue_depth": depth, "jobs": jobs }));
    } else {
        out.row("state", state);
        out.row("jobs", grouped(depth));
        look.each_job(after, limit, |look, job| out.line(look.job_line(job)));
    }
    look.end()
}

fn show(place: &Place, args: &Show, out: &mut Out) -> Result<(), Failure> {
    let look = Look::new(place.snapshot()?, args.allow_secrets);
    let state = look.snapshot.path().display().to_string();
    let job = look.snapshot.job(&args.run_id)?.ok_or_else(|| not_queued(&args.run_id, &state))?;
    if args.raw {
        out.bytes(&job.payload);
    } else if out.json {
        out.json(&json!({ "state": state, "job": look.job_json(&Job::from(job)) }));
    } else {
        out.row("state", state);
        out.line(look.job_line(&Job::from(job)));
    }
    Ok(())
}

fn enqueue(place: &Place, args: &Enqueue, out: &mut Out) -> Result<(), Failure> {
    let payload = args.input.read()?;
    let store = place.open(&args.lock, &mut OpenOptions::new())?;
    let replaced = store.enqueue_job(&args.run_id, &payload)? == Enqueued::Replaced;
    let (state, depth) = (store.path().display().to_string(), store.queue_depth());
    store.close()?;
    if out.json {
        let job = json!({ "run_id": args.run_id, "len": payload.len() });
        out.json(&json!({ "state": state, "queue_depth": depth, "replaced": replaced, "job": job }));
    } else {
        let what = if replaced { "; it has the place of an earlier payload" } else { "" };
        out.row("state", state);
        out.row("jobs", grouped(depth as u64));
        out.row("enqueued", format_args!("{}  {}{what}", tame(&args.run_id), bytes(len_of(&payload))));
    }
    Ok(())
}

fn ack(place: &Place, args: &Ack, out: &mut Out) -> Result<(), Failure> {
    let store = place.open(&args.lock, &mut OpenOptions::new())?;
    let was_queued = store.ack_job(&args.run_id)?;
    let (state, depth) = (store.path().display().to_string(), store.queue_depth());
    store.close()?;
    if !was_queued {
        return Err(not_queued(&args.run_id, &state));
    }
    if out.json {
        out.json(&json!({ "state": state, "queue_depth": depth, "acked": args.run_id }));
    } else {
        out.row("state", state);
        out.row("jobs", grouped(depth as u64));
        out.row("acked", tame(&args.run_id));
    }
    Ok(())
}

fn not_queued(run_id: &str, state: &str) -> Failure {
    Failure::new(Exit::NotFound, format!("there is no job \"{}\" in the queue of {state}", tame(run_id)))
}
