//! Opening what another process left: beside a plain replay. The file is in the page cache.

use std::path::Path;
use std::time::Instant;

use super::{LIVE, Work, prepare_in_child};
use crate::engine::Mode;
use crate::engines::{self, BBOLT, FLOOR, RING, STORE};
use crate::figure::Figure;
use crate::floor::replay;

const ENGINES: &[&str] = &[STORE, RING, FLOOR, "raft-engine", "fjall", "LMDB", "redb", "SQLite", BBOLT];
const REPLAY: &str = "read, CRC, open every value, fill a map";

pub(crate) const WORKS: &[Work] = &[
    Work {
        name: "open-1k",
        title: "open, 1,000 live jobs",
        floor: REPLAY,
        engines: ENGINES,
        repeats: 5,
        measure: |name, folder| open(name, folder, "live-1000", 1_000),
    },
    Work {
        name: "open-10k",
        title: "open, 10,000 live jobs",
        floor: REPLAY,
        engines: ENGINES,
        repeats: 5,
        measure: |name, folder| open(name, folder, "live-10000", 10_000),
    },
    Work {
        name: "open-100k",
        title: "open, 100,000 live jobs",
        floor: REPLAY,
        engines: ENGINES,
        repeats: 1,
        measure: |name, folder| open(name, folder, "live-100000", 100_000),
    },
    Work {
        name: "open-compacted",
        title: "open, 100,000 live jobs, compacted",
        floor: REPLAY,
        engines: &[STORE, RING, FLOOR],
        repeats: 1,
        measure: |name, folder| open(name, folder, "compacted-100000", 100_000),
    },
    Work {
        name: "open-killed",
        title: "open after a kill, 100,000 live jobs",
        floor: "",
        engines: &[STORE, "raft-engine", "fjall", "LMDB", "redb", "SQLite", BBOLT],
        repeats: 1,
        measure: |name, folder| open(name, folder, "killed-100000", 100_000),
    },
    Work {
        name: "open-dead",
        title: "open, 100 live after 100,000 dead",
        floor: "",
        engines: &[STORE, "raft-engine", "fjall", "LMDB", "redb", "SQLite", BBOLT],
        repeats: 1,
        measure: |name, folder| open(name, folder, "dead-100000", LIVE),
    },
];

fn open(name: &str, folder: &Path, what: &str, count: usize) -> Figure {
    prepare_in_child(what, name, folder);
    if name == FLOOR {
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
