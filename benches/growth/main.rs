//! How cost grows with the number of records, the length of a payload and the number of threads.
//!
//! `cargo bench --bench growth` prints tables. `-- --write` also puts them into `benches/GROWTH.md`, which
//! explains them, and draws the charts in `benches/charts/`. The arguments `records`, `payloads` and `threads`
//! select a table. Each column of a table is measured in its own process and folder. A full run needs 5 GB of disk
//! and some minutes.
#![allow(clippy::unwrap_used, reason = "a benchmark stops at the first failure")]

use std::hint::black_box;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use backupy_state::testing::policy;
use backupy_state::{Durability, OpenOptions, Store};
use chart::{Chart, Line};
use measure::{folder, key, run_id, time_each};

mod chart;
#[path = "../measure/mod.rs"]
#[allow(dead_code, reason = "shared with other benchmarks")]
mod measure;

/// One table: a column for each of `sizes`, a row for each figure that `measure` returns.
struct Part {
    name: &'static str,
    of: &'static str,
    sizes: &'static [usize],
    show: fn(usize) -> String,
    measure: fn(usize) -> Vec<Figure>,
    charts: fn(&[Row]) -> Vec<(&'static str, Chart)>,
}

/// A name, a value, and how it is shown.
type Figure = (&'static str, f64, Unit);
type Row = (String, Unit, Vec<f64>);

#[derive(Clone, Copy, PartialEq)]
enum Unit {
    Seconds,
    Bytes,
    PerSecond,
}

/// The part with the largest files comes last.
const PARTS: [Part; 3] = [
    Part {
        name: "payloads",
        of: "payload",
        sizes: &[64, 256, 1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20],
        show: len,
        measure: payloads,
        charts: payload_charts,
    },
    Part {
        name: "threads",
        of: "threads, payload of 512 B",
        sizes: &[1, 2, 4, 8, 16, 32, 64],
        show: count,
        measure: threads,
        charts: thread_charts,
    },
    Part {
        name: "records",
        of: "live jobs of 64 B",
        sizes: &[1_000, 10_000, 100_000, 1_000_000, 10_000_000],
        show: count,
        measure: records,
        charts: record_charts,
    },
];

const CHILD: &str = "GROWTH_CHILD";

fn main() {
    if let Ok(child) = std::env::var(CHILD) {
        let (name, size) = child.split_once('=').unwrap();
        let part = PARTS.iter().find(|part| part.name == name).unwrap();
        for (name, value, unit) in (part.measure)(size.parse().unwrap()) {
            println!("{name}={value:e}={}", unit.sign());
        }
        return;
    }
    let words: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let writes = words.iter().any(|word| word == "--write");
    let names: Vec<_> = words.iter().filter(|word| !word.starts_with("--")).collect();
    for part in PARTS.iter().filter(|part| names.is_empty() || names.iter().any(|name| *name == part.name)) {
        let rows = part.rows();
        let table = part.table(&rows);
        println!("{table}");
        if writes {
            put_into_page(part.name, &table);
            for (name, chart) in (part.charts)(&rows) {
                std::fs::write(benches().join("charts").join(name), chart.svg()).unwrap();
            }
        }
    }
}

impl Part {
    fn rows(&self) -> Vec<Row> {
        let mut rows = Vec::<Row>::new();
        for size in self.sizes {
            // The file system is still busy with the files of the last process.
            assert!(Command::new("sync").status().unwrap().success());
            thread::sleep(Duration::from_secs(1));
            let exe = std::env::current_exe().unwrap();
            let child =
                Command::new(exe).env(CHILD, format!("{}={size}", self.name)).stderr(Stdio::inherit()).output();
            let child = child.unwrap();
            assert!(child.status.success());
            for (i, line) in String::from_utf8(child.stdout).unwrap().lines().enumerate() {
                let [name, value, unit]: [&str; 3] = line.split('=').collect::<Vec<_>>().try_into().unwrap();
                if rows.len() == i {
                    rows.push((name.to_owned(), Unit::of(unit), Vec::new()));
                }
                rows[i].2.push(value.parse().unwrap());
            }
        }
        rows
    }

    fn table(&self, rows: &[Row]) -> String {
        let heads: Vec<_> = self.sizes.iter().map(|size| (self.show)(*size)).collect();
        let mut table = format!("| {} | {} |\n|---|{}\n", self.of, heads.join(" | "), "--:|".repeat(heads.len()));
        for (name, unit, values) in rows {
            let cells: Vec<_> = values.iter().map(|value| unit.show(*value)).collect();
            table += &format!("| {name} | {} |\n", cells.join(" | "));
        }
        table
    }

    fn chart(&self, titles: [&'static str; 3], y_mark: fn(f64) -> String, rows: &[&Row]) -> Chart {
        let [title, x_title, y_title] = titles;
        let x_marks = self.sizes.iter().map(|size| (*size as f64, (self.show)(*size))).collect();
        let lines = rows.iter().map(|(name, _, values)| {
            let points = self.sizes.iter().zip(values).map(|(size, value)| (*size as f64, *value)).collect();
            Line { name: name.clone(), points }
        });
        Chart { title, x_title, y_title, x_marks, y_mark, lines: lines.collect() }
    }
}

// Formatting.

impl Unit {
    fn sign(self) -> &'static str {
        match self {
            Unit::Seconds => "s",
            Unit::Bytes => "B",
            Unit::PerSecond => "/s",
        }
    }

    fn of(sign: &str) -> Self {
        [Unit::Seconds, Unit::Bytes, Unit::PerSecond].into_iter().find(|unit| unit.sign() == sign).unwrap()
    }

    fn show(self, value: f64) -> String {
        match self {
            Unit::Seconds => time(value),
            Unit::Bytes => format!("{value:.0} B"),
            Unit::PerSecond => format!("{value:.0} /s"),
        }
    }
}

fn time(seconds: f64) -> String {
    let (one, unit) = [(1.0, "s"), (1e-3, "ms"), (1e-6, "µs")]
        .into_iter()
        .find(|(one, _)| seconds >= 0.999 * one)
        .unwrap_or((1e-9, "ns"));
    let value = seconds / one;
    let is_round = unit == "ns" || (value - value.round()).abs() < 1e-9;
    let digits = if is_round { 0 } else { usize::from(value < 99.95) + usize::from(value < 9.995) };
    format!("{value:.digits$} {unit}")
}

fn count(n: usize) -> String {
    match n {
        1_000_000.. => format!("{} M", n / 1_000_000),
        1_000.. => format!("{} k", n / 1_000),
        _ => n.to_string(),
    }
}

fn len(n: usize) -> String {
    match n {
        0x10_0000.. => format!("{} MiB", n >> 20),
        0x400.. => format!("{} KiB", n >> 10),
        _ => format!("{n} B"),
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "powers of ten of measured values")]
fn per_second(value: f64) -> String {
    count(value as usize)
}

fn benches() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/benches"))
}

/// Replaces the table between `<!-- NAME -->` and `<!-- end -->`.
fn put_into_page(name: &str, table: &str) {
    let path = benches().join("GROWTH.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let mark = format!("<!-- {name} -->\n");
    let (before, rest) = page.split_once(&mark).unwrap();
    let (_, after) = rest.split_once("<!-- end -->").unwrap();
    std::fs::write(path, format!("{before}{mark}{table}<!-- end -->{after}")).unwrap();
}

fn record_charts(rows: &[Row]) -> Vec<(&'static str, Chart)> {
    let [.., part] = &PARTS;
    let (per_job, calls): (Vec<_>, Vec<_>) = rows.iter().partition(|row| row.0.contains("per job"));
    let calls: Vec<_> = calls.into_iter().filter(|row| row.1 == Unit::Seconds).collect();
    let whole_log: Vec<_> = per_job.into_iter().filter(|row| row.1 == Unit::Seconds).collect();
    let x = "live jobs of 64 B";
    vec![
        ("calls-by-records.svg", part.chart(["One call, as the queue grows", x, "time per call"], time, &calls)),
        (
            "whole-log-by-records.svg",
            part.chart(["The whole log, as it grows", x, "time per job"], time, &whole_log),
        ),
    ]
}

fn payload_charts(rows: &[Row]) -> Vec<(&'static str, Chart)> {
    let [part, ..] = &PARTS;
    let titles = ["One call, as the payload grows", "payload", "time per call"];
    vec![("calls-by-payload.svg", part.chart(titles, time, &rows.iter().collect::<Vec<_>>()))]
}

fn thread_charts(rows: &[Row]) -> Vec<(&'static str, Chart)> {
    let [_, part, _] = &PARTS;
    let (rates, times): (Vec<_>, Vec<_>) = rows.iter().partition(|row| row.1 == Unit::PerSecond);
    let x = "threads";
    let throughput = ["All threads together", x, "calls per second"];
    let latency = ["One durable call of 512 B, by number of threads", x, "time per call"];
    vec![
        ("throughput-by-threads.svg", part.chart(throughput, per_second, &rates)),
        ("latency-by-threads.svg", part.chart(latency, time, &times)),
    ]
}

// The measurements.

fn buffered() -> OpenOptions {
    let manual = policy(|policy| policy.automatic = false);
    OpenOptions::new().durability(Durability::Buffered).compaction(manual).clone()
}

fn add(store: &Store, id: &str, payload: &[u8]) {
    black_box(store.enqueue_job(id, payload).unwrap());
}

const ROUNDS: usize = 5;

/// The best of several rounds: other processes on the machine can only add time.
fn best(round: impl FnMut() -> Duration) -> f64 {
    std::iter::repeat_with(round).take(ROUNDS).min().unwrap().as_secs_f64()
}

fn timed<T>(call: impl FnOnce() -> T) -> (Duration, T) {
    let begun = Instant::now();
    let done = call();
    (begun.elapsed(), done)
}

/// Returns the numbers below `n` in a scattered order.
fn scattered(n: usize) -> impl FnMut() -> usize {
    let mut at = 0;
    // A prime step, long enough that consecutive jobs are never in the same page of the file.
    move || {
        at = (at + 7_368_787) % n;
        at
    }
}

fn records(n: usize) -> Vec<Figure> {
    let folder = folder();
    let path = folder.path().join("state.db");
    let empty = resident();
    let store = buffered().open(&path, &key()).unwrap();
    let ids: Vec<_> = (n..n + CALLS).map(run_id).collect();
    let mut loaded = 0;
    let (load, ()) = timed(|| {
        while loaded < n {
            store.enqueue_job(&run_id(loaded), &[7; 64]).unwrap();
            loaded += 1;
        }
    });
    store.sync().unwrap();
    let memory = (resident() - empty) as f64 / n as f64;
    store.close().unwrap();

    let reopened = || {
        let (took, store) = timed(|| Store::open(&path, &key()).unwrap());
        assert_eq!(store.queue_depth(), n);
        drop(store);
        took
    };
    let per_job = |seconds: f64| seconds / n as f64;
    let open = best(reopened);

    let store = buffered().open(&path, &key()).unwrap();
    let mut enqueued = Vec::new();
    let acked = best(|| {
        enqueued.push(time_each(CALLS, |i| add(&store, &ids[i], &[7; 64])));
        time_each(CALLS, |i| assert!(store.ack_job(&ids[i]).unwrap()))
    });
    let enqueued = enqueued.into_iter().min().unwrap().as_secs_f64();
    let durable = best(|| {
        let took = time_each(100, |i| {
            store.enqueue_job(&ids[i], &[7; 64]).unwrap();
            store.sync().unwrap();
        });
        (0..100).for_each(|i| assert!(store.ack_job(&ids[i]).unwrap()));
        took
    });
    let mut next = scattered(n);
    let job = best(|| {
        let wanted: Vec<_> = (0..CALLS).map(|_| run_id(next())).collect();
        time_each(CALLS, |i| assert!(black_box(store.job(&wanted[i]).unwrap()).is_some()))
    });
    let dequeue = best(|| time_each(20, |_| assert_eq!(black_box(store.dequeue_jobs(100).unwrap()).len(), 100)));
    let depth = best(|| time_each(CALLS, |_| assert_eq!(black_box(store.queue_depth()), n)));

    let (compact, _) = timed(|| store.compact().unwrap());
    store.close().unwrap();
    let compacted = best(reopened);
    vec![
        ("durable enqueue", durable, Unit::Seconds),
        ("dequeue 100", dequeue, Unit::Seconds),
        ("buffered enqueue", enqueued, Unit::Seconds),
        ("buffered ack", acked, Unit::Seconds),
        ("job, at random", job, Unit::Seconds),
        ("queue_depth", depth, Unit::Seconds),
        ("load, per job", per_job(load.as_secs_f64()), Unit::Seconds),
        ("compaction, per job", per_job(compact.as_secs_f64()), Unit::Seconds),
        ("open, per job", per_job(open), Unit::Seconds),
        ("open compacted, per job", per_job(compacted), Unit::Seconds),
        ("memory, per job", memory, Unit::Bytes),
    ]
}

/// Few, compared with the records of the smallest log.
const CALLS: usize = 200;

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

fn payloads(len: usize) -> Vec<Figure> {
    let payload = vec![7; len];
    let times = ((64 << 20) / len).clamp(16, 2_000);
    let ids: Vec<_> = (0..times).map(run_id).collect();
    let (mut buffered_calls, mut reads) = (Vec::new(), Vec::new());
    let durable = best(|| {
        let folder = folder();
        let store = buffered().open(folder.path().join("state.db"), &key()).unwrap();
        buffered_calls.push(time_each(times, |i| add(&store, &ids[i], &payload)));
        store.sync().unwrap();
        reads.push(time_each(times, |i| drop(black_box(store.job(&ids[i]).unwrap()))));
        drop(store);
        let store = Store::open(folder.path().join("durable.db"), &key()).unwrap();
        time_each(times.min(200), |i| add(&store, &ids[i], &payload))
    });
    let least = |rounds: Vec<Duration>| rounds.into_iter().min().unwrap().as_secs_f64();
    vec![
        ("durable enqueue", durable, Unit::Seconds),
        ("buffered enqueue", least(buffered_calls), Unit::Seconds),
        ("job", least(reads), Unit::Seconds),
    ]
}

fn threads(count: usize) -> Vec<Figure> {
    let rounds = (0..ROUNDS).map(|_| durable_round(count));
    let [durable, p50, p99] = rounds.max_by(|a, b| a[0].total_cmp(&b[0])).unwrap();
    let folder = folder();
    let store = buffered().open(folder.path().join("state.db"), &key()).unwrap();
    let ids: Vec<_> = (0..40_000).map(run_id).collect();
    let enqueue = |i: usize| add(&store, &ids[i], &[7; 512]);
    let read = |i: usize| assert!(black_box(store.job(&ids[i]).unwrap()).is_some());
    let rate = |took: f64| ids.len() as f64 / took;
    let buffered = rate(best(|| together(count, ids.len(), enqueue).0));
    let reads = rate(best(|| together(count, ids.len(), read).0));
    vec![
        ("reads", reads, Unit::PerSecond),
        ("buffered enqueues", buffered, Unit::PerSecond),
        ("durable enqueues", durable, Unit::PerSecond),
        ("durable enqueue, p99", p99, Unit::Seconds),
        ("durable enqueue, p50", p50, Unit::Seconds),
    ]
}

/// Calls per second, and the 50th and 99th percentile of a call's time.
fn durable_round(threads: usize) -> [f64; 3] {
    let folder = folder();
    let store = Store::open(folder.path().join("state.db"), &key()).unwrap();
    let ids: Vec<_> = (0..(500 * threads).clamp(1_000, 8_000)).map(run_id).collect();
    let enqueue = |i: usize| add(&store, &ids[i], &[7; 512]);
    let (took, mut each) = together(threads, ids.len(), enqueue);
    each.sort();
    let percentile = |n: usize| each[(each.len() - 1) * n / 100].as_secs_f64();
    [ids.len() as f64 / took.as_secs_f64(), percentile(50), percentile(99)]
}

/// Shares `calls` among threads that start together. Returns the total time and the time of each call.
fn together(threads: usize, calls: usize, call: impl Fn(usize) + Sync) -> (Duration, Vec<Duration>) {
    let start = Barrier::new(threads);
    thread::scope(|scope| {
        let share = |thread: usize| {
            let (call, start) = (&call, &start);
            scope.spawn(move || {
                start.wait();
                let begun = Instant::now();
                let each: Vec<_> = (thread..calls).step_by(threads).map(|i| timed(|| call(i)).0).collect();
                (begun, Instant::now(), each)
            })
        };
        let running: Vec<_> = (0..threads).map(share).collect();
        let done: Vec<_> = running.into_iter().map(|thread| thread.join().unwrap()).collect();
        // The spawning thread may be scheduled late, so the threads take the times themselves.
        let begun = done.iter().map(|thread| thread.0).min().unwrap();
        let ended = done.iter().map(|thread| thread.1).max().unwrap();
        (ended - begun, done.into_iter().flat_map(|thread| thread.2).collect())
    })
}
