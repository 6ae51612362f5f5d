//! Calls that are durable when they return. Baseline: a write of the same length over zeros that are already on
//! the disk, and an fdatasync.

use std::hint::black_box;
use std::path::Path;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use super::workload::Workload;
use crate::baseline::{Appender, GroupAppender, values_in_memory};
use crate::engine::{Engine, Mode};
use crate::engines::{self, BASELINE, BBOLT, BBOLT_BATCH, STORE};
use crate::figure::{Figure, LONG, SHORT, time_calls};
use crate::jobs::{LIVE, PAYLOAD, jobs, run_id};

const ENGINES: &[&str] = &[STORE, BASELINE, "raft-engine", "fjall", "LMDB", "redb", "SQLite", BBOLT];
const APPEND: &str = "append of one frame and fdatasync";

pub(crate) const WORKLOADS: &[Workload] = &[
    Workload {
        name: "enqueue-512",
        title: "durable enqueue, 512 B",
        baseline: APPEND,
        engines: ENGINES,
        repeats: 9,
        measure: |name, folder| enqueue(name, folder, 512, 500),
    },
    Workload {
        name: "enqueue-8k",
        title: "durable enqueue, 8 KiB",
        baseline: APPEND,
        engines: ENGINES,
        repeats: 9,
        measure: |name, folder| enqueue(name, folder, 8 << 10, 250),
    },
    Workload {
        name: "enqueue-8-threads",
        title: "durable enqueue, 512 B, 8 threads",
        baseline: "append of one frame; an fdatasync under a lock, unless another one covered the frame",
        engines: &[STORE, BASELINE, "raft-engine", "fjall", "LMDB", "redb", "SQLite", BBOLT, BBOLT_BATCH],
        repeats: 2,
        measure: eight_threads,
    },
    Workload {
        name: "heartbeat",
        title: "durable heartbeat",
        baseline: APPEND,
        engines: ENGINES,
        repeats: 9,
        measure: |name, folder| calls(name, folder, 250, |_| {}, |engine, i| engine.heartbeat(i as i64)),
    },
    Workload {
        name: "log",
        title: "durable log append, 512 B",
        baseline: APPEND,
        engines: ENGINES,
        repeats: 9,
        measure: |name, folder| calls(name, folder, 250, |_| {}, |engine, i| engine.log(i as i64, &PAYLOAD)),
    },
    Workload {
        name: "drain",
        title: "durable drain of 100 log events",
        baseline: "decrypting 100 values in memory, append of one frame and fdatasync",
        engines: ENGINES,
        repeats: 3,
        measure: drain,
    },
    Workload {
        name: "churn",
        title: "churn, each enqueue or ack, 100 live",
        baseline: APPEND,
        engines: ENGINES,
        repeats: 3,
        measure: churn,
    },
];

fn calls(
    name: &str,
    folder: &Path,
    count: usize,
    prepare: impl Fn(&dyn Engine),
    call: impl Fn(&dyn Engine, usize),
) -> Figure {
    if name == BASELINE {
        return Appender::frame_of(folder, prepare, |engine| call(engine, 0)).time(folder, count, SHORT);
    }
    let engine = engines::open(name, folder, Mode::Durable);
    prepare(&*engine);
    // The first call sets up what all later ones reuse.
    call(&*engine, count);
    let figure = time_calls(count, SHORT, |i| call(&*engine, i));
    engine.close();
    figure
}

fn enqueue(name: &str, folder: &Path, len: usize, count: usize) -> Figure {
    let payload = vec![7; len];
    calls(name, folder, count, |_| {}, |engine, i| engine.enqueue(&run_id(i), &payload))
}

/// Each drain removes a hundred events. They were appended before the measurement, without durability.
fn drain(name: &str, folder: &Path) -> Figure {
    const DRAINS: usize = 40;
    const EVENTS: usize = 100;
    let append = |engine: &dyn Engine, count| (0..count).for_each(|i| engine.log(i as i64, &PAYLOAD));
    let drain = |engine: &dyn Engine| assert_eq!(engine.drain(EVENTS), EVENTS);
    if name == BASELINE {
        let values = values_in_memory(EVENTS, &PAYLOAD);
        let open = || drop(black_box(values.open_all()));
        let appender = Appender::frame_of(folder, |engine| append(engine, EVENTS), drain);
        return appender.time_after(open, folder, DRAINS, SHORT);
    }
    let engine = engines::open(name, folder, Mode::Buffered);
    append(&*engine, (DRAINS + 1) * EVENTS);
    engine.sync();
    engine.close();
    calls(name, folder, DRAINS, |_| {}, |engine, _| drain(engine))
}

/// Long enough that the store compacts itself and SQLite writes its log back.
fn churn(name: &str, folder: &Path) -> Figure {
    const PAIRS: usize = 2000;
    let write = |engine: &dyn Engine, i: usize| {
        if i.is_multiple_of(2) {
            engine.enqueue(&run_id(i / 2 + LIVE), &PAYLOAD);
        } else {
            engine.ack(&run_id(i / 2));
        }
    };
    if name == BASELINE {
        let fill = |engine: &dyn Engine| engine.enqueue(&run_id(0), &PAYLOAD);
        let enqueue = Appender::frame_of(folder, |_| {}, |engine| engine.enqueue(&run_id(0), &PAYLOAD));
        let ack = Appender::frame_of(folder, fill, |engine| engine.ack(&run_id(0)));
        return enqueue.and(ack).time(folder, 2 * PAIRS, LONG);
    }
    let engine = engines::open(name, folder, Mode::Durable);
    engine.enqueue_all(&jobs(0..LIVE, &PAYLOAD));
    let figure = time_calls(2 * PAIRS, LONG, |i| {
        write(&*engine, i);
        if i.is_multiple_of(1000) {
            engine.tidy();
        }
    });
    engine.close();
    figure
}

/// Each thread runs until the time is over, so that none waits for the slowest.
fn eight_threads(name: &str, folder: &Path) -> Figure {
    const THREADS: usize = 8;
    const TIME: Duration = Duration::from_millis(800);
    if name == BASELINE {
        const COUNT_MAX: usize = 40_000;
        let frame = Appender::frame_of(folder, |_| {}, |engine| engine.enqueue(&run_id(0), &PAYLOAD));
        let appender = GroupAppender::new(folder, frame, COUNT_MAX);
        return from_threads(THREADS, TIME, |_| appender.append());
    }
    let engine = engines::open(name, folder, Mode::Durable);
    engine.enqueue(&run_id(0), &PAYLOAD);
    let figure = from_threads(THREADS, TIME, |number| engine.enqueue(&run_id(number), &PAYLOAD));
    engine.close();
    figure
}

/// Each call gets a number of its own.
fn from_threads(threads: usize, time: Duration, call: impl Fn(usize) + Sync) -> Figure {
    let start = Barrier::new(threads + 1);
    let (each, took) = std::thread::scope(|scope| {
        let write = |thread: usize| {
            let (start, call) = (&start, &call);
            move || {
                start.wait();
                let begun = Instant::now();
                let mut each = Vec::with_capacity(10_000);
                while begun.elapsed() < time {
                    let call_begun = Instant::now();
                    call((thread + 1) * 1_000_000 + each.len());
                    each.push(call_begun.elapsed());
                }
                each
            }
        };
        let threads: Vec<_> = (0..threads).map(|thread| scope.spawn(write(thread))).collect();
        start.wait();
        let begun = Instant::now();
        let each: Vec<_> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        (each, begun.elapsed())
    });
    Figure::calls(each, took)
}
