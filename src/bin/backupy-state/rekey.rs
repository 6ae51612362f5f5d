//! `rekey`: seals the store under another agent key.

use std::path::PathBuf;

use backupy_state::OpenOptions;
use serde_json::json;

use crate::compact::left_out;
use crate::failure::Failure;
use crate::progress;
use crate::target::{Lock, Target};
use crate::text::Out;

/// Change the agent key of the store
///
/// Afterwards only the new key opens the store. If the command is interrupted, the store is complete under one of
/// the two keys: run it again with the old key; exit code 4 means that the store is already under the new one.
/// Needs the lock: exits with 5 while an agent holds it.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  backupy-state rekey --key-file old.key --new-key-file new.key")]
pub(crate) struct Args {
    /// The file with the new agent key [default: the key is read from $BACKUPY_NEW_AGENT_KEY]
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    new_key_file: Option<PathBuf>,

    #[command(flatten)]
    lock: Lock,
}

pub(crate) fn run(target: &Target, args: &Args, out: &mut Out) -> Result<(), Failure> {
    let new_key = target.new_key(args.new_key_file.as_deref())?;
    let store = target.open(&args.lock, &mut OpenOptions::new())?;
    progress::with_rewrite_bar(&store, || store.rekey(&new_key))?;
    let (state, stats) = (store.path().display().to_string(), store.stats());
    store.close()?;
    let generation = stats.generation;
    let text = format!("{generation}, under the new key");
    let mut rows = vec![("generation", text)];
    rows.extend(left_out(&stats.compaction.left_out, stats.compaction.damaged.as_deref()));
    let fields = json!({ "generation": generation, "left_out": stats.compaction.left_out });
    out.summary(&state, fields, &rows);
    Ok(())
}
