//! `compact`, `rekey` and `backup`: each writes a new log file with what is live, and needs the lock.

use std::path::PathBuf;

use backupy_state::{Error, OpenOptions, Store};
use serde_json::json;

use crate::failure::Failure;
use crate::place::{Lock, Place};
use crate::progress;
use crate::text::{Out, bytes, len_of_file};

/// Give the space of what was replaced or removed back
///
/// An agent compacts by itself; this is for a store without one. Needs the lock: exit code 5 while an agent holds it.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  backupy-state compact")]
pub(crate) struct CompactArgs {
    #[command(flatten)]
    lock: Lock,
}

/// Put the store under another agent key
///
/// Afterwards only the new key opens it. If this is interrupted, one of the two keys opens it, whole: run it again with the
/// old one, and exit code 4 says that it had been done. Needs the lock: exit code 5 while an agent holds it.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  backupy-state rekey --key-file old.key --new-key-file new.key")]
pub(crate) struct RekeyArgs {
    /// The file with the new agent key [default: the key itself is in $BACKUPY_NEW_AGENT_KEY]
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    new_key_file: Option<PathBuf>,

    #[command(flatten)]
    lock: Lock,
}

/// Write a compact copy of the store to a new file, under the same key
///
/// The copy is a store like any other. Nothing that exists is overwritten. Needs the lock: exit code 5 while an agent holds
/// it; an agent makes its own backups while it runs.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  backupy-state backup /backup/state.db")]
pub(crate) struct BackupArgs {
    /// Where to put it
    #[arg(value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    to: PathBuf,

    #[command(flatten)]
    lock: Lock,
}

pub(crate) fn compact(place: &Place, args: &CompactArgs, out: &mut Out) -> Result<(), Failure> {
    let store = place.open(&args.lock, &mut OpenOptions::new())?;
    let report = shown(&store, store.path().into(), || store.compact())?;
    let state = store.path().display().to_string();
    store.close()?;
    if out.json {
        out.json(&json!({
            "state": state,
            "generation": report.generation,
            "bytes_before": report.bytes_before,
            "bytes_after": report.bytes_after,
            "took_us": u64::try_from(report.took.as_micros()).unwrap_or(u64::MAX),
        }));
        return Ok(());
    }
    out.row("state", state);
    out.row("generation", report.generation);
    out.row("before", bytes(report.bytes_before));
    out.row("after", bytes(report.bytes_after));
    Ok(())
}

pub(crate) fn rekey(place: &Place, args: &RekeyArgs, out: &mut Out) -> Result<(), Failure> {
    let new_key = place.new_key(args.new_key_file.as_deref())?;
    let store = place.open(&args.lock, &mut OpenOptions::new())?;
    shown(&store, store.path().into(), || store.rekey(&new_key))?;
    let (state, generation) = (store.path().display().to_string(), store.stats().generation);
    store.close()?;
    if out.json {
        out.json(&json!({ "state": state, "generation": generation }));
    } else {
        out.row("state", state);
        out.row("generation", format_args!("{generation}, under the new key"));
    }
    Ok(())
}

pub(crate) fn backup(place: &Place, args: &BackupArgs, out: &mut Out) -> Result<(), Failure> {
    let store = place.open(&args.lock, &mut OpenOptions::new())?;
    shown(&store, args.to.clone(), || store.backup(&args.to)).map_err(|error| match error {
        // Not through `Failure::from`: a missing folder of the backup is no missing store.
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

/// Shows how far the new file is, which has this name with `.new` behind it until it is complete.
fn shown<T>(store: &Store, name: PathBuf, work: impl FnOnce() -> T) -> T {
    let whole = store.stats().live_bytes;
    let mut file = name.into_os_string();
    file.push(".new");
    let file = PathBuf::from(file);
    let mut written = 0;
    let how_far = move || {
        // Never back to nothing when the file gets its name.
        written = len_of_file(&file).max(written);
        if written < whole {
            return progress::Step { name: "writing", done: written, whole };
        }
        progress::Step { name: "checking", done: backupy_state::testing::copy_progress(store), whole: written }
    };
    progress::shown(how_far, work)
}
