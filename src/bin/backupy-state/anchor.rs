//! `anchor`: the anchor that tells an older file from the newest.

use backupy_state::{Anchor, OpenOptions};
use serde_json::json;

use crate::failure::Failure;
use crate::place::{Lock, Place};
use crate::text::Out;

/// Print the anchor of the store, to be kept elsewhere
///
/// With --expect, the store must be the one of that anchor and reach at least as far: exit code 3 if an older file was put
/// back or frames were cut off its end. Beside a running agent, the anchor may be ahead of what a power cut leaves.
#[derive(clap::Args)]
#[command(
    after_help = "Example:\n  backupy-state anchor --expect \"$(cat /elsewhere/anchor)\" > /elsewhere/anchor.new"
)]
pub(crate) struct Args {
    /// An earlier anchor to compare with; needs the lock, and recovers the store as the agent would
    #[arg(long, value_name = "ANCHOR")]
    expect: Option<Anchor>,

    #[command(flatten)]
    lock: Lock,
}

pub(crate) fn run(place: &Place, args: &Args, out: &mut Out) -> Result<(), Failure> {
    // First without the lock, whose file is made where there is none: a missing store leaves nothing behind.
    let mut anchor = place.snapshot()?.anchor();
    if let Some(expected) = args.expect {
        let store = place.open(&args.lock, OpenOptions::new().expect_at_least(expected))?;
        anchor = store.anchor();
        store.close()?;
    }
    if out.json {
        out.json(&json!({ "anchor": anchor.to_string(), "generation": anchor.generation(), "seq": anchor.seq() }));
    } else {
        out.line(anchor);
    }
    Ok(())
}
