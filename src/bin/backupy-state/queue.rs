//! `queue`: the pending jobs.

use backupy_state::{Enqueued, OpenOptions};
use serde_json::json;

use crate::failure::{Exit, Failure};
use crate::input::Input;
use crate::inspector::{Entry, Inspector};
use crate::target::{Lock, Target};
use crate::text::{Out, bytes, escaped, grouped, len_of};

/// List, show, add or remove pending jobs
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

/// List the pending jobs in the order of their run ids, with the lengths of their payloads
///
/// Removes nothing. A job with an unreadable payload is reported, and the jobs after it are listed.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  backupy-state queue list --limit 100 --after run-0815")]
struct List {
    /// List at most this many jobs [default: all]
    #[arg(long, value_name = "N")]
    limit: Option<usize>,

    /// List only jobs after this run id
    #[arg(long, value_name = "ID")]
    after: Option<String>,

    /// Also show the payloads
    #[arg(long)]
    allow_secrets: bool,
}

/// Show one pending job; exits with 6 if it is not in the queue
///
/// Removes nothing. The payload is a secret: --allow-secrets shows it.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  backupy-state queue show run-0815 --raw --allow-secrets > payload.bin")]
struct Show {
    /// The run id of the job
    #[arg(value_name = "ID")]
    run_id: String,

    /// Also show the payload
    #[arg(long)]
    allow_secrets: bool,

    /// Print only the bytes of the payload
    #[arg(long, requires = "allow_secrets", conflicts_with = "json")]
    raw: bool,
}

/// Add a job, or replace the payload of a pending one
///
/// Needs the lock: exits with 5 while an agent holds it.
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

/// Remove a job; exits with 6 if it is not in the queue
///
/// Also removes a job with an unreadable payload. Needs the lock: exits with 5 while an agent holds it.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  backupy-state queue ack run-0815")]
struct Ack {
    /// The run id of the job
    #[arg(value_name = "ID")]
    run_id: String,

    #[command(flatten)]
    lock: Lock,
}

pub(crate) fn run(target: &Target, args: &Args, out: &mut Out) -> Result<(), Failure> {
    match &args.command {
        Command::List(args) => list(target, args, out),
        Command::Show(args) => show(target, args, out),
        Command::Enqueue(args) => enqueue(target, args, out),
        Command::Ack(args) => ack(target, args, out),
    }
}

fn list(target: &Target, args: &List, out: &mut Out) -> Result<(), Failure> {
    if args.after.as_deref() == Some("") {
        return Err(Failure::usage("the run id of --after is empty"));
    }
    let mut inspector = Inspector::new(target.snapshot()?, args.allow_secrets);
    let (after, limit) = (args.after.as_deref(), args.limit.unwrap_or(usize::MAX));
    let (state, depth) = (inspector.snapshot.path().display().to_string(), inspector.snapshot.stats().jobs);
    if out.json {
        let mut jobs = Vec::new();
        inspector.each_job(after, limit, |inspector, job| jobs.push(inspector.entry_json(job)));
        out.report(state, json!({ "queue_depth": depth, "jobs": jobs }));
    } else {
        out.row("state", state);
        out.row("jobs", grouped(depth));
        inspector.each_job(after, limit, |inspector, job| out.line(inspector.entry_line(job)));
    }
    inspector.finish()
}

fn show(target: &Target, args: &Show, out: &mut Out) -> Result<(), Failure> {
    let inspector = Inspector::new(target.snapshot()?, args.allow_secrets);
    let state = inspector.snapshot.path().display().to_string();
    let job = inspector.snapshot.job(&args.run_id)?.ok_or_else(|| not_queued(&args.run_id, &state))?;
    if args.raw {
        out.bytes(&job.payload);
    } else if out.json {
        out.report(state, json!({ "job": inspector.entry_json(&Entry::job(job)) }));
    } else {
        out.row("state", state);
        out.line(inspector.entry_line(&Entry::job(job)));
    }
    Ok(())
}

fn enqueue(target: &Target, args: &Enqueue, out: &mut Out) -> Result<(), Failure> {
    let payload = args.input.read(target)?;
    let store = target.open(&args.lock, &mut OpenOptions::new())?;
    let replaced = store.enqueue_job(&args.run_id, &payload)? == Enqueued::Replaced;
    let (state, depth) = (store.path().display().to_string(), store.queue_depth());
    store.close()?;
    let job = json!({ "run_id": args.run_id, "len": payload.len() });
    let what = if replaced { "; replaced an earlier payload" } else { "" };
    let enqueued = format!("{}  {}{what}", escaped(&args.run_id), bytes(len_of(&payload)));
    let fields = json!({ "queue_depth": depth, "replaced": replaced, "job": job });
    out.summary(&state, fields, &[("jobs", grouped(depth as u64)), ("enqueued", enqueued)]);
    Ok(())
}

fn ack(target: &Target, args: &Ack, out: &mut Out) -> Result<(), Failure> {
    let store = target.open(&args.lock, &mut OpenOptions::new())?;
    let was_queued = store.ack_job(&args.run_id)?;
    let (state, depth) = (store.path().display().to_string(), store.queue_depth());
    store.close()?;
    if !was_queued {
        return Err(not_queued(&args.run_id, &state));
    }
    let fields = json!({ "queue_depth": depth, "acked": args.run_id });
    out.summary(&state, fields, &[("jobs", grouped(depth as u64)), ("acked", escaped(&args.run_id))]);
    Ok(())
}

fn not_queued(run_id: &str, state: &str) -> Failure {
    Failure::new(Exit::NotFound, format!("there is no job \"{}\" in the queue of {state}", escaped(run_id)))
}
