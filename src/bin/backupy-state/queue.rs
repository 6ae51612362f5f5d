//! `queue list`: the pending jobs.

use serde_json::json;

use crate::failure::Failure;
use crate::look::Look;
use crate::place::Place;
use crate::text::{Out, grouped};

/// Look at the pending jobs
#[derive(clap::Args)]
#[command(after_help = "Example:\n  backupy-state queue list --limit 100")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    List(List),
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

pub(crate) fn run(place: &Place, args: &Args, out: &mut Out) -> Result<(), Failure> {
    let Command::List(args) = &args.command;
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
