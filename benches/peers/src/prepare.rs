//! Prepares what a workload opens, in a child process, so that none of it is left in the memory of the measuring
//! process.

use std::path::Path;
use std::process::Command;

use crate::baseline;
use crate::engine::Mode;
use crate::engines;
use crate::jobs::{PAYLOAD, churn_buffered, fill, run_id};

pub(crate) fn prepare_in_child(what: &str, engine: &str, folder: &Path) {
    let mut child = Command::new(std::env::current_exe().unwrap());
    let status = child.args(["prepare", what, engine]).arg(folder).status().unwrap();
    // A child that kills itself has no exit code.
    assert!(status.success() || what.contains("killed"));
    // Pending writes of the child must not slow down the measurement.
    rustix::fs::syncfs(std::fs::File::open(folder).unwrap()).unwrap();
}

/// Runs in the child. `what` is a kind and a number of jobs, for example `live-1000`.
pub(crate) fn prepare(what: &str, name: &str, folder: &Path) {
    let (what, count) = what.split_once('-').unwrap();
    let count = count.parse().unwrap();
    match what {
        "live" | "compacted" | "killed" if name == engines::BASELINE => baseline::write_replay(folder, count),
        "live" => {
            let engine = engines::open(name, folder, Mode::Bulk);
            fill(&*engine, name, count, &PAYLOAD);
            engine.sync();
            engine.close();
        }
        "compacted" => {
            let store = engines::open_store(folder, Mode::Bulk);
            fill(&store, name, count, &PAYLOAD);
            store.compact().unwrap();
            store.close().unwrap();
        }
        "killed" => {
            let engine = engines::open(name, folder, Mode::Bulk);
            // The sync before the last job makes the log look as after durable calls: the last frame proves that
            // those before it were durable.
            fill(&*engine, name, count - 1, &PAYLOAD);
            engine.sync();
            engine.enqueue(&run_id(count - 1), &PAYLOAD);
            engine.sync();
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL).unwrap();
        }
        "dead" => {
            let engine = engines::open(name, folder, Mode::Bulk);
            churn_buffered(&*engine, name, count);
            engine.sync();
            engine.close();
        }
        "dead_killed" => {
            let engine = engines::open(name, folder, Mode::Bulk);
            churn_buffered(&*engine, name, count);
            engine.sync();
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL).unwrap();
        }
        _ => panic!("unknown preparation: {what}"),
    }
}
