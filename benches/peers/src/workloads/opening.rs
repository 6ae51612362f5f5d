//! Opening what another process wrote, with the file in the page cache. Baseline: a plain replay.

use std::path::Path;
use std::time::Instant;

use super::workload::Workload;
use crate::baseline::replay;
use crate::engine::Mode;
use crate::engines::{self, BASELINE, BBOLT, RING, STORE};
use crate::figure::Figure;
use crate::jobs::LIVE;
use crate::prepare::prepare_in_child;

const ENGINES: &[&str] = &[STORE, RING, BASELINE, "raft-engine", "fjall", "LMDB", "redb", "SQLite", BBOLT];
const REPLAY: &str = "read, CRC, decrypt every value, fill a map";

pub(crate) const WORKLOADS: &[Workload] = &[
    Workload {
        name: "open-1k",
        title: "open, 1,000 live jobs",
        baseline: REPLAY,
        engines: ENGINES,
        repeats: 5,
        measure: |name, folder| open(name, folder, "live-1000", 1_000),
    },
    Workload {
        name: "open-10k",
        title: "open, 10,000 live jobs",
        baseline: REPLAY,
        engines: ENGINES,
        repeats: 5,
        measure: |name, folder| open(name, folder, "live-10000", 10_000),
    },
    Workload {
        name: "open-100k",
        title: "open, 100,000 live jobs",
        baseline: REPLAY,
        engines: ENGINES,
        repeats: 1,
        measure: |name, folder| open(name, folder, "live-100000", 100_000),
    },
    Workload {
        name: "open-compacted",
        title: "open, 100,000 live jobs, compacted",
        baseline: REPLAY,
        engines: &[STORE, RING, BASELINE],
        repeats: 1,
        measure: |name, folder| open(name, folder, "compacted-100000", 100_000),
    },
    Workload {
        name: "open-killed",
        title: "open after a kill, 100,000 live jobs",
        baseline: REPLAY,
        engines: ENGINES,
        repeats: 1,
        measure: |name, folder| open(name, folder, "killed-100000", 100_000),
    },
    Workload {
        name: "open-dead",
        title: "open, 100 live after 100,000 dead",
        baseline: "",
        engines: &[STORE, "raft-engine", "fjall", "LMDB", "redb", "SQLite", BBOLT],
        repeats: 1,
        measure: |name, folder| open(name, folder, "dead-100000", LIVE),
    },
    Workload {
        name: "open-dead-again",
        title: "the same, not the first in its process",
        baseline: "",
        engines: &[STORE, "raft-engine", "fjall", "LMDB", "redb", "SQLite", BBOLT],
        repeats: 1,
        measure: open_again,
    },
    Workload {
        name: "open-dead-killed",
        title: "open after a kill, 100 live after 100,000 dead",
        baseline: "",
        engines: &[STORE, "raft-engine", "fjall", "LMDB", "redb", "SQLite", BBOLT],
        repeats: 1,
        measure: |name, folder| open(name, folder, "dead_killed-100000", LIVE),
    },
    Workload {
        name: "snapshot-1k",
        title: "snapshot, 1,000 live jobs",
        baseline: REPLAY,
        engines: &[STORE, RING, BASELINE],
        repeats: 5,
        measure: |name, folder| snapshot(name, folder, "live-1000", 1_000),
    },
    Workload {
        name: "snapshot-100k",
        title: "snapshot, 100,000 live jobs",
        baseline: REPLAY,
        engines: &[STORE, RING, BASELINE],
        repeats: 1,
        measure: |name, folder| snapshot(name, folder, "live-100000", 100_000),
    },
];

/// As a health check or another command opens it.
fn snapshot(name: &str, folder: &Path, what: &str, count: usize) -> Figure {
    prepare_in_child(what, name, folder);
    if name == BASELINE {
        return replay(folder);
    }
    let begun = Instant::now();
    let snapshot = engines::open_snapshot(folder);
    let took = begun.elapsed();
    assert_eq!(snapshot.queue_depth(), count);
    Figure::seconds(took)
}

/// The first opening of a process also pays for finding out what the processor can do, and for code that is not in
/// memory yet. Here, an opening of an empty engine has paid for that.
fn open_again(name: &str, folder: &Path) -> Figure {
    let empty = folder.join("empty");
    std::fs::create_dir(&empty).unwrap();
    engines::open(name, &empty, Mode::Durable).close();
    let other = folder.join("other");
    std::fs::create_dir(&other).unwrap();
    open(name, &other, "dead-100000", LIVE)
}

fn open(name: &str, folder: &Path, what: &str, count: usize) -> Figure {
    prepare_in_child(what, name, folder);
    if name == BASELINE {
        return replay(folder);
    }
    let begun = Instant::now();
    let engine = engines::open(name, folder, Mode::Durable);
    let took = begun.elapsed();
    if let Some(depth) = engine.depth() {
        assert_eq!(depth, count as u64);
    }
    engine.close();
    Figure::seconds(took)
}
