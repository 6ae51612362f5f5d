//! `backup`: a compact copy of the store.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use backupy_state::testing::backup_noting;
use serde_json::json;

use crate::failure::Failure;
use crate::progress;
use crate::target::{Target, of_copy, path_of_copy};
use crate::text::{Out, bytes, len_of_file};

/// Write a compact copy of the store to a new file, under the same key
///
/// The copy is a complete store with what the store held when the command began. Takes no lock and writes nothing
/// next to the store, so it works while the agent runs, and needs only permission to read. If FILE has no
/// extension, .db is added, as for --state. An existing file is never overwritten. Only the owner of the copy can
/// open it; if root makes it, that is the owner of the store.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  backupy-state backup /backup/state.db")]
pub(crate) struct Args {
    /// The file to create
    #[arg(value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    to: PathBuf,
}

pub(crate) fn run(target: &Target, args: &Args, out: &mut Out) -> Result<(), Failure> {
    let to = path_of_copy(&args.to)?;
    let snapshot = target.snapshot()?;
    let (stats, read_back) = (snapshot.stats(), AtomicU64::new(0));
    progress::with_copy_bar(
        stats.live_bytes,
        &to,
        || read_back.load(Relaxed),
        || backup_noting(&snapshot, &to, |offset| read_back.store(offset, Relaxed)).map_err(of_copy),
    )?;
    let state = snapshot.path().display().to_string();
    let (to, len) = (to.display().to_string(), len_of_file(&to));
    let fields = json!({ "generation": stats.generation, "backup": to, "backup_len": len });
    out.summary(&state, fields, &[("backup", format!("{to}, {}", bytes(len)))]);
    Ok(())
}
