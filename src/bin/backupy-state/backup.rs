//! `backup`: a compact copy of the store.

use std::path::PathBuf;

use backupy_state::{Error, OpenOptions};
use serde_json::json;

use crate::failure::Failure;
use crate::progress;
use crate::target::{Lock, Target};
use crate::text::{Out, bytes, len_of_file};

/// Write a compact copy of the store to a new file, under the same key
///
/// The copy is a complete store. An existing file is never overwritten. Needs the lock: exits with 5 while an
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
    let store = target.open(&args.lock, &mut OpenOptions::new())?;
    progress::with_copy_bar(&store, &args.to, || store.backup(&args.to)).map_err(|error| match error {
        // Not through `Failure::from`: a missing folder for the backup is not a missing store.
        Error::Io { .. } => Failure::failed(error.to_string()),
        error => error.into(),
    })?;
    let (state, generation) = (store.path().display().to_string(), store.stats().generation);
    store.close()?;
    let (to, len) = (args.to.display().to_string(), len_of_file(&args.to));
    if out.json {
        out.json(&json!({ "state": state, "generation": generation, "backup": to, "backup_len": len }));
    } else {
        out.row("state", state);
        out.row("backup", format_args!("{to}, {}", bytes(len)));
    }
    Ok(())
}
