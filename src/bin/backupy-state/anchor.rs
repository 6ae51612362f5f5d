//! `anchor`: prints the anchor of the store, or compares the store with an earlier one.

use backupy_state::{Anchor, OpenOptions, Snapshot};
use serde_json::json;

use crate::failure::Failure;
use crate::target::{Lock, Target};
use crate::text::Out;

/// Print the anchor of the store, to be kept elsewhere
///
/// With --expect, checks that this is the same store and not an older state of it: exits with 3 if an older file
/// was put back, or if frames are missing at its end. While an agent runs, the anchor may include frames that a
/// power cut would lose.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  backupy-state anchor > /elsewhere/anchor\n  \
                  backupy-state anchor --expect \"$(cat /elsewhere/anchor)\"")]
pub(crate) struct Args {
    /// An earlier anchor to compare with; takes the lock and recovers the store, as the agent would
    #[arg(long, value_name = "ANCHOR")]
    expect: Option<Anchor>,

    #[command(flatten)]
    lock: Lock,
}

pub(crate) fn run(target: &Target, args: &Args, out: &mut Out) -> Result<(), Failure> {
    // First without the lock: taking it would create a lock file even if there is no store.
    let key = target.key()?;
    let snapshot = Snapshot::open(target.state(), &key)?;
    let mut anchor = snapshot.anchor();
    if let Some(expected) = args.expect {
        let mut options = OpenOptions::new();
        options.create(false).expect_at_least(expected);
        let store = target.open_or_create(&key, &args.lock, &mut options)?;
        anchor = store.anchor();
        store.close()?;
    }
    if out.json {
        let (generation, seq) = (anchor.generation(), anchor.seq());
        out.report(snapshot.path(), json!({ "anchor": anchor, "generation": generation, "seq": seq }));
    } else {
        out.line(anchor);
    }
    Ok(())
}
