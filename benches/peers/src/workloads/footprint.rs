//! What an engine uses other than time: memory, device writes, disk space, threads.

use std::path::Path;
use std::time::Duration;

use super::workload::Workload;
use crate::engine::Mode;
use crate::engines::{self, BBOLT, STORE};
use crate::figure::{Figure, LONG, time_calls};
use crate::jobs::{LIVE, PAYLOAD, churn_buffered, jobs, run_id};
use crate::prepare::prepare_in_child;
use crate::process;

const ENGINES: &[&str] = &[STORE, "raft-engine", "fjall", "LMDB", "redb", "SQLite", BBOLT];

pub(crate) const WORKLOADS: &[Workload] = &[
    Workload {
        name: "memory",
        title: "memory at 100,000 live jobs of 512 B",
        baseline: "",
        engines: ENGINES,
        repeats: 1,
        measure: memory,
    },
    Workload {
        name: "device",
        title: "device bytes per byte of payload, churn",
        baseline: "",
        engines: ENGINES,
        repeats: 1,
        measure: device_bytes,
    },
    Workload {
        name: "file-5k",
        title: "file length after 5,000 jobs, 100 live",
        baseline: "",
        engines: ENGINES,
        repeats: 1,
        measure: |name, folder| files_len(name, folder, 5_000),
    },
    Workload {
        name: "file-50k",
        title: "file length after 50,000 jobs, 100 live",
        baseline: "",
        engines: ENGINES,
        repeats: 1,
        measure: |name, folder| files_len(name, folder, 50_000),
    },
    Workload {
        name: "idle",
        title: "an idle engine, 10 live jobs",
        baseline: "",
        engines: &[STORE, "raft-engine", "fjall", "SQLite", BBOLT],
        repeats: 1,
        measure: idle,
    },
];

/// How much the process grows when it opens the engine and reads the first jobs.
fn memory(name: &str, folder: &Path) -> Figure {
    prepare_in_child("live-100000", name, folder);
    let before = process::resident_anonymous_bytes();
    let engine = engines::open(name, folder, Mode::Durable);
    assert_eq!(engine.dequeue(100), 100);
    let grown = process::resident_anonymous_bytes() - before;
    engine.close();
    Figure::of(&[("bytes", grown)])
}

/// The disk's own count, which includes the file system's journal and the writes of other processes. The kernel's
/// count for one process (`write_bytes`) is useless where the page cache has large folios, because it counts whole
/// folios.
fn device_bytes(name: &str, folder: &Path) -> Figure {
    // Enough for the store to compact at least once.
    const PAIRS: usize = 1500;
    let engine = engines::open(name, folder, Mode::Durable);
    engine.enqueue_all(&jobs(0..LIVE, &PAYLOAD));
    let before = process::bytes_written(folder);
    let calls = time_calls(PAIRS, LONG, |i| {
        engine.enqueue(&run_id(i + LIVE), &PAYLOAD);
        engine.ack(&run_id(i));
        if i.is_multiple_of(500) {
            engine.tidy();
        }
    });
    let written = process::bytes_written(folder) - before;
    engine.close();
    Figure::of(&[("ratio", written / (calls.0["count"] * PAYLOAD.len() as f64))])
}

/// Measured with the engine still open, as in a running agent.
fn files_len(name: &str, folder: &Path, pairs: usize) -> Figure {
    let engine = engines::open(name, folder, Mode::Buffered);
    churn_buffered(&*engine, name, pairs);
    engine.sync();
    // Gives the engine time to clean up in the background.
    std::thread::sleep(Duration::from_millis(200));
    let len = process::files_len(folder);
    engine.close();
    Figure::of(&[("bytes", len as f64)])
}

fn idle(name: &str, folder: &Path) -> Figure {
    prepare_in_child("live-10", name, folder);
    let (memory, threads) = (process::resident_anonymous_bytes(), process::threads());
    let engine = engines::open(name, folder, Mode::Durable);
    let grown = process::resident_anonymous_bytes() - memory;
    std::thread::sleep(Duration::from_millis(100));
    let before = process::voluntary_switches();
    std::thread::sleep(Duration::from_secs(2));
    // This thread itself slept once.
    let switches = process::voluntary_switches() - before - 1.0;
    let threads = process::threads() - threads;
    engine.close();
    Figure::of(&[("bytes", grown), ("threads", threads), ("wakeups", switches)])
}
