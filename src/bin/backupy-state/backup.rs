//! `backup`: a compact copy of the store.

use std::path::PathBuf;

use backupy_state::{Error, OpenOptions};
use serde_json::json;

use crate::failure::{Exit, Failure};
use crate::progress;
use crate::target::{Lock, Target, path_of_copy};
use crate::text::{Out, bytes, len_of_file};

/// Write a compact copy of the store to a new file, under the same key
///
/// The copy is a complete store. If FILE has no extension, .db is added, as for --state. An existing file is never
/// overwritten. Needs the lock: exits with 5 while an
/// agent holds it; while an agent runs, only the agent itself can make a backup.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  backupy-state backup /backup/state.db")]
pub(crate) struct Args {
    /// The file to create
    #[arg(value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    to: PathBuf,

    #[command(flatten)]
    lock: Lock,
}

pub(crate) fn run(target: &Target, args: &Args, out: &mut Out) -> Result<(), Failure> {
    let to = path_of_copy(&args.to)?;
    let store = target.open(&args.lock, &mut OpenOptions::new())?;
    progress::with_copy_bar(&store, &to, || store.backup(&to)).map_err(|error| match error {
        // Not through `Failure::from`: a missing folder for the backup is not a missing store.
        Error::Io { .. } => Failure::from(error).exiting(Exit::Failure),
        error => error.into(),
    })?;
    let (state, generation) = (store.path().display().to_string(), store.stats().generation);
    store.close()?;
    let (to, len) = (to.display().to_string(), len_of_file(&to));
    if out.json {
        out.report(state, json!({ "generation": generation, "backup": to, "backup_len": len }));
    } else {
        out.row("state", state);
        out.row("backup", format_args!("{to}, {}", bytes(len)));
    }
    Ok(())
}
