//! Many jobs without a sync for each. Baseline: a plain loop that seals, checksums and writes as many bytes.

use std::path::Path;
use std::time::Instant;

use super::workload::Workload;
use crate::baseline::PlainLoop;
use crate::engine::Mode;
use crate::engines::{self, BASELINE, BBOLT, RING, STORE};
use crate::figure::{Figure, SECONDS};
use crate::jobs::{PAYLOAD, jobs, run_id};

pub(crate) const WORKLOADS: &[Workload] = &[
    Workload {
        name: "buffered-512",
        title: "buffered enqueue, 512 B",
        baseline: "two seals, CRC and pwrite in a loop",
        // Not redb: it keeps buffered writes in its own memory, where they do not survive a killed process.
        engines: &[STORE, RING, BASELINE, "raft-engine", "fjall", "LMDB", "SQLite"],
        repeats: 3,
        measure: buffered,
    },
    Workload {
        name: "batch",
        title: "100,000 jobs of 512 B in one transaction, time per job, buffered",
        baseline: "seal and CRC in a loop, one pwrite",
        engines: &[STORE, RING, BASELINE],
        repeats: 3,
        measure: |name, folder| batch(name, folder, Mode::Buffered),
    },
    Workload {
        name: "batch-durable",
        title: "100,000 jobs of 512 B in one transaction, time per job, durable",
        baseline: "seal and CRC in a loop, one pwrite, fdatasync",
        engines: &[STORE, RING, BASELINE, "raft-engine", "fjall", "LMDB", "redb", "SQLite", BBOLT],
        repeats: 1,
        measure: |name, folder| batch(name, folder, Mode::Durable),
    },
];

fn buffered(name: &str, folder: &Path) -> Figure {
    const COUNT: usize = 20_000;
    if name == BASELINE {
        return PlainLoop::new(folder).one_by_one(COUNT);
    }
    let engine = engines::open(name, folder, Mode::Buffered);
    engine.enqueue(&run_id(COUNT), &PAYLOAD);
    let run_ids: Vec<_> = (0..COUNT).map(run_id).collect();
    let begun = Instant::now();
    run_ids.iter().for_each(|run_id| engine.enqueue(run_id, &PAYLOAD));
    let took = begun.elapsed();
    engine.close();
    Figure::of(&[(SECONDS, took.as_secs_f64() / COUNT as f64)])
}

fn batch(name: &str, folder: &Path, mode: Mode) -> Figure {
    const COUNT: usize = 100_000;
    let jobs = jobs(0..COUNT, &PAYLOAD);
    if name == BASELINE {
        return PlainLoop::new(folder).in_one_write(&jobs, mode);
    }
    let engine = engines::open(name, folder, mode);
    engine.enqueue(&run_id(COUNT), &PAYLOAD);
    let begun = Instant::now();
    engine.enqueue_all(&jobs);
    let took = begun.elapsed();
    engine.close();
    Figure::of(&[(SECONDS, took.as_secs_f64() / COUNT as f64)])
}
