//! `init`: creates an empty store.

use std::fs;

use backupy_state::OpenOptions;
use serde_json::json;

use crate::failure::Failure;
use crate::target::{Lock, Target};
use crate::text::Out;

/// Create an empty store, and print its path
///
/// For an agent that does not create its store itself: such an agent reports a volume that is not mounted as a
/// missing store, and does not start with an empty one. The folder must exist. Run this as the agent's user, who
/// then owns the store; only the owner can open it. An existing file is not changed: exits with 2.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  backupy-state --state /var/lib/backupy/state.db init")]
pub(crate) struct Args {
    #[command(flatten)]
    lock: Lock,
}

pub(crate) fn run(target: &Target, args: &Args, out: &mut Out) -> Result<(), Failure> {
    let key = target.key()?;
    let path = target.state_path();
    // Opening an existing store would recover it.
    if fs::symlink_metadata(&path).is_ok() {
        return Err(exists(&path.display().to_string()));
    }
    let store = target.open_or_create(&key, &args.lock, &mut OpenOptions::new())?;
    let (state, is_new) = (store.path().display().to_string(), store.recovery().created);
    store.close()?;
    if !is_new {
        // Another process has created it since.
        return Err(exists(&state));
    }
    if out.json {
        out.report(state, json!({}));
    } else {
        out.line(state);
    }
    Ok(())
}

fn exists(path: &str) -> Failure {
    Failure::usage(format!("{path} already exists; it was not changed"))
}
