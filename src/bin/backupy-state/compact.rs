//! `compact`: rewrites the log with only what is live.

use backupy_state::OpenOptions;

use crate::failure::Failure;
use crate::progress;
use crate::target::{Lock, Target};
use crate::text::{Out, bytes};

/// Free the space of replaced and removed data
///
/// By default, a running agent compacts its store automatically; this command is for a store without an agent.
/// Needs the lock: exits with 5 while an agent holds it.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  backupy-state compact")]
pub(crate) struct Args {
    #[command(flatten)]
    lock: Lock,
}

pub(crate) fn run(target: &Target, args: &Args, out: &mut Out) -> Result<(), Failure> {
    let store = target.open(&args.lock, &mut OpenOptions::new())?;
    let report = progress::with_rewrite_bar(&store, || store.compact())?;
    let state = store.path().display().to_string();
    store.close()?;
    let (before, after) = (bytes(report.bytes_before), bytes(report.bytes_after));
    let rows = [("generation", report.generation.to_string()), ("before", before), ("after", after)];
    out.summary(&state, report, &rows);
    Ok(())
}
