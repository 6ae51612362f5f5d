//! What an engine takes besides time: memory, writes to the device, space, threads.

use std::path::Path;
use std::time::Duration;

use super::{LIVE, PAYLOAD, Work, churn_buffered, jobs, prepare_in_child, run_id};
use crate::engine::Mode;
use crate::engines::{self, BBOLT, STORE};
use crate::figure::{Figure, LONG, time_calls};
use crate::process;

const ENGINES: &[&str] = &[STORE, "raft-engine", "fjall", "LMDB", "redb", "SQLite", BBOLT];

pub(crate) const WORKS: &[Work] = &[
    Work {
        name: "memory",
        title: "memory at 100,000 live jobs of 512 B",
        floor: "",
        engines: ENGINES,
        repeats: 1,
        measure: memory,
    },
    Work {
        name: "device",
        title: "device bytes for each byte of payload, in churn",
        floor: "",
        engines: ENGINES,
        repeats: 1,
        measure: device_bytes,
    },
    Work {
        name: "file-5k",
        title: "length of the files after 5,000 pairs, 100 live",
        floor: "",
        engines: ENGINES,
        repeats: 1,
        measure: |name, folder| files_len(name, folder, 5_000),
    },
    Work {
        name: "file-50k",
        title: "length of the files after 50,000 pairs, 100 live",
        floor: "",
        engines: ENGINES,
        repeats: 1,
        measure: |name, folder| files_len(name, folder, 50_000),
    },
    Work {
        name: "idle",
        title: "an idle engine, 10 live jobs",
        floor: "",
        engines: &[STORE, "raft-engine", "fjall", "SQLite", BBOLT],
        repeats: 1,
        measure: idle,
    },
];

/// What opening and a look at the first jobs make the process grow by.
fn memory(name: &str, folder: &Path) -> Figure {
    prepare_in_child("live-100000", name, folder);
    let before = process::resident_anonymous_bytes();
    let engine = engines::open(name, folder, Mode::Durable);
    assert_eq!(engine.dequeue(100), 100);
    let grown = process::resident_anonymous_bytes() - before;
    engine.close();
    Figure::of(&[("bytes", grown)])
}

/// As the disk counts them, so with the file system's journal, and with what others write meanwhile. What the kernel counts
/// for a process (`write_bytes`) is of no use where the page cache has large folios: it counts whole folios.
fn device_bytes(name: &str, folder: &Path) -> Figure {
    // Those of the store that take it over a compaction.
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

/// With the engine still open, as it is beside a running agent.
fn files_len(name: &str, folder: &Path, pairs: usize) -> Figure {
    let engine = engines::open(name, folder, Mode::Buffered);
    churn_buffered(&*engine, name, pairs);
    engine.sync();
    // What the engine does about it in the background, it may.
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
    // This thread has slept once itself.
    let switches = process::voluntary_switches() - before - 1.0;
    let threads = process::threads() - threads;
    engine.close();
    Figure::of(&[("bytes", grown), ("threads", threads), ("wakeups", switches)])
}
