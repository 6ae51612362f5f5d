//! `compact`: rewrites the log with only what is live.

use std::path::Path;

use backupy_state::{LostKey, OpenOptions};

use crate::failure::Failure;
use crate::progress;
use crate::target::{Lock, Target};
use crate::text::{Out, bytes, lost_key};

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
    let mut rows = vec![("generation", report.generation.to_string()), ("before", before), ("after", after)];
    rows.extend(left_out(&report.left_out, report.damaged.as_deref()));
    out.summary(&state, report, &rows);
    Ok(())
}

/// What a compaction or a rekey did not copy, and where the old log was kept for it.
pub(crate) fn left_out(keys: &[LostKey], kept: Option<&Path>) -> Vec<(&'static str, String)> {
    let name = |key: &LostKey| match key.bucket {
        // A command fails where any other value is unreadable.
        "registry" => "the count of dropped log events".to_owned(),
        _ => lost_key(key),
    };
    let keys = keys.iter().map(|key| ("left out", name(key)));
    keys.chain(kept.map(|kept| ("kept", kept.display().to_string()))).collect()
}
