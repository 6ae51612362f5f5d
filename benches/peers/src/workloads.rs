//! The works that are measured, each the same for every engine.

use std::path::Path;
use std::process::Command;

use crate::engine::{Engine, Job, Mode};
use crate::engines;
use crate::figure::Figure;
use crate::floor;

mod bulk;
mod durable;
mod footprint;
mod opening;
mod reads;

#[derive(Clone, Copy)]
pub(crate) struct Work {
    pub(crate) name: &'static str,
    /// In the words of the report.
    pub(crate) title: &'static str,
    /// What the floor does, where there is one.
    pub(crate) floor: &'static str,
    pub(crate) engines: &'static [&'static str],
    /// How often in each round: short works are repeated instead of prolonged, so that store and floor are measured as
    /// close to each other as can be.
    pub(crate) repeats: usize,
    pub(crate) measure: fn(&str, &Path) -> Figure,
}

pub(crate) const GROUPS: [(&str, &[Work]); 5] = [
    ("Durable calls", durable::WORKS),
    ("Many jobs", bulk::WORKS),
    ("Reading", reads::WORKS),
    ("Opening", opening::WORKS),
    ("Footprint", footprint::WORKS),
];

pub(crate) fn all() -> Vec<Work> {
    GROUPS.map(|(_, works)| works).concat()
}

pub(crate) fn by_name(name: &str) -> Work {
    all().into_iter().find(|work| work.name == name).unwrap()
}

const PAYLOAD: [u8; 512] = [7; 512];

/// As random as a UUID, and as long.
pub(crate) fn run_id(i: usize) -> String {
    let random = (i as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    format!("{:08x}-f00a-41db-aff5-{i:012x}", random >> 32)
}

fn jobs(numbers: std::ops::Range<usize>, payload: &[u8]) -> Vec<Job> {
    numbers.map(|i| (run_id(i), payload.to_vec())).collect()
}

/// What has to be there before the measuring process begins, by a child, so that nothing of it is left in memory.
fn prepare_in_child(what: &str, engine: &str, folder: &Path) {
    let mut child = Command::new(std::env::current_exe().unwrap());
    let status = child.args(["prepare", what, engine]).arg(folder).status().unwrap();
    // One that kills itself has no exit code.
    assert!(status.success() || what.starts_with("killed"));
    settle(folder);
}

/// Lets the file system finish with what came before.
fn settle(folder: &Path) {
    rustix::fs::syncfs(std::fs::File::open(folder).unwrap()).unwrap();
}

pub(crate) fn prepare(what: &str, name: &str, folder: &Path) {
    let (what, count) = what.split_once('-').unwrap();
    let count = count.parse().unwrap();
    match what {
        "live" | "compacted" if name == engines::FLOOR => floor::write_replay(folder, count),
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
            // As after durable calls: all but the last one are vouched for by what came behind them.
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
        _ => panic!("there is nothing called {what}"),
    }
}

/// As an agent would: the logs job by job, since a log remembers how it was written, and the trees by the hundred, since what
/// they look like in the end does not depend on it.
fn fill(engine: &dyn Engine, name: &str, count: usize, payload: &[u8]) {
    if engines::is_log(name) {
        (0..count).for_each(|i| engine.enqueue(&run_id(i), payload));
        return;
    }
    let step = 100.max(count / 100);
    for first in (0..count).step_by(step) {
        engine.enqueue_all(&jobs(first..count.min(first + step), payload));
    }
}

const LIVE: usize = 100;

/// Jobs come and go, and `LIVE` of them are there all the time.
fn churn_buffered(engine: &dyn Engine, name: &str, pairs: usize) {
    engine.enqueue_all(&jobs(0..LIVE, &PAYLOAD));
    let step = if engines::is_log(name) { 1 } else { 10 };
    for first in (0..pairs).step_by(step) {
        if step == 1 {
            engine.enqueue(&run_id(first + LIVE), &PAYLOAD);
            engine.ack(&run_id(first));
        } else {
            engine.enqueue_all(&jobs(first + LIVE..first + LIVE + step, &PAYLOAD));
            engine.ack_all(&(first..first + step).map(run_id).collect::<Vec<_>>());
        }
        if first % 1000 == 0 {
            engine.tidy();
        }
    }
}
