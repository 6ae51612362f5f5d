//! Reading. Baseline: the same in memory, in plain code.

use std::hint::black_box;
use std::path::Path;
use std::time::Instant;

use super::workload::Workload;
use crate::baseline::{JobsInMemory, values_in_memory};
use crate::engine::Mode;
use crate::engines::{self, BASELINE, BBOLT, RING, STORE};
use crate::figure::{Figure, SECONDS};
use crate::jobs::{PAYLOAD, fill, jobs};

const ENGINES: &[&str] = &[STORE, RING, BASELINE, "raft-engine", "fjall", "LMDB", "redb", "SQLite", BBOLT];
const OPEN: &str = "decrypting the values in memory with aes-gcm";

pub(crate) const WORKLOADS: &[Workload] = &[
    Workload {
        name: "dequeue",
        title: "dequeue(100), 512 B",
        baseline: "copying the run ids of a map and decrypting the values in memory with aes-gcm",
        engines: ENGINES,
        repeats: 3,
        measure: dequeue,
    },
    Workload {
        name: "config",
        title: "load_config, 4 KiB",
        baseline: OPEN,
        engines: ENGINES,
        repeats: 3,
        measure: config,
    },
    Workload {
        name: "depth-10",
        title: "queue_depth of 10 jobs",
        baseline: "",
        engines: &[STORE, "LMDB", "redb"],
        repeats: 1,
        measure: |name, folder| depth(name, folder, 10),
    },
    Workload {
        name: "depth-1m",
        title: "queue_depth of 1,000,000 jobs",
        baseline: "",
        engines: &[STORE, "LMDB", "redb"],
        repeats: 1,
        measure: |name, folder| depth(name, folder, 1_000_000),
    },
];

fn dequeue(name: &str, folder: &Path) -> Figure {
    const COUNT: usize = 100;
    if name == BASELINE {
        let jobs = JobsInMemory::new(COUNT, &PAYLOAD);
        return average(2_000, || drop(black_box(jobs.first(COUNT))));
    }
    let engine = engines::open(name, folder, Mode::Buffered);
    fill(&*engine, name, COUNT, &PAYLOAD);
    let figure = average(2_000, || assert_eq!(engine.dequeue(COUNT), COUNT));
    engine.close();
    figure
}

fn config(name: &str, folder: &Path) -> Figure {
    let raw = [7; 4096];
    if name == BASELINE {
        let values = values_in_memory(1, &raw);
        return average(20_000, || drop(black_box(values.open_all())));
    }
    let engine = engines::open(name, folder, Mode::Buffered);
    engine.save_config(&raw);
    let figure = average(20_000, || assert_eq!(engine.load_config(), raw.len()));
    engine.close();
    figure
}

fn depth(name: &str, folder: &Path, count: usize) -> Figure {
    let engine = engines::open(name, folder, Mode::Buffered);
    // In few transactions: their number does not affect the depth query.
    let step = count.min(100_000);
    for first in (0..count).step_by(step) {
        engine.enqueue_all(&jobs(first..first + step, &[7; 16]));
    }
    let figure = average(1_000_000, || assert_eq!(black_box(engine.depth()), Some(count as u64)));
    engine.close();
    figure
}

fn average(count: usize, mut call: impl FnMut()) -> Figure {
    (0..count / 10).for_each(|_| call());
    let begun = Instant::now();
    (0..count).for_each(|_| call());
    Figure::of(&[(SECONDS, begun.elapsed().as_secs_f64() / count as f64)])
}
