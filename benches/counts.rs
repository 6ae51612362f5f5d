//! Counts the instructions of each workload and compares them with the figures in `benches/counts.txt`.
//!
//! `cargo bench --bench counts` fails if a figure has risen by more than a tenth. `-- --accept` writes the new
//! figures to the file; other arguments select workloads by name. It needs valgrind and an x86-64, and skips the
//! comparison without them.
//!
//! Unlike times, these figures do not depend on the machine or its load:
//! - The processor is valgrind's. On a host with AVX2 or better, valgrind answers CPUID from a table (an i7-4910MQ
//!   with AES-NI, CLMUL and AVX2, without VAES, SHA-NI and AVX-512). On older hosts only `own` is compared.
//! - `own` excludes functions that have a version for each kind of processor: sealing, hashing, checksums,
//!   `memcpy` and the like. It stays the same when the C library selects other versions (`GLIBC_TUNABLES`), and
//!   within 3 % without AES-NI. It is also the finer measure: the instructions of AES would hide those around it.
//! - Each workload runs N and 2N times, in separate processes. The difference excludes the setup, and random
//!   names, hash seeds and addresses change it by at most a thousandth.
//! - No workload has a durable call, because instructions in the kernel are not counted. `benches/baseline.rs`
//!   measures durable calls.
//!
//! Another compiler or C library can change the figures: `counts.txt` names the versions it was written with.
#![allow(clippy::unwrap_used, reason = "a benchmark stops at the first failure")]

use std::collections::BTreeMap;
use std::fmt::Write;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::thread;

use backupy_state::testing::policy;
use backupy_state::{Batch, Durability, OpenOptions, Store};
use measure::{folder, key, run_id};

#[allow(dead_code, reason = "shared with other benchmarks")]
mod measure;

/// Sets up a store and returns the call to count, which takes the call's number.
type Workload = fn(&Path) -> Box<dyn FnMut(usize)>;

const WORKLOADS: [(&str, usize, Workload); 14] = [
    ("enqueue, 512 B", 1_000, enqueue),
    ("replace, 512 B", 1_000, replace),
    ("ack", 1_000, ack),
    ("job of 512 B among 1,000", 1_000, job),
    ("dequeue 100 of 512 B", 20, dequeue),
    ("queue_depth", 1_000, queue_depth),
    ("load_config, 4 KiB", 500, load_config),
    ("heartbeat", 1_000, heartbeat),
    ("log append, 200 B", 1_000, log_append),
    ("log append and drain, 100 of 200 B", 10, log_drain),
    ("batch of 1,000 jobs of 512 B", 2, batch),
    ("open and close, 1,000 live jobs, clean", 4, open_clean),
    ("open and close, 1,000 live jobs, killed", 4, open_killed),
    ("compaction, 1,000 live jobs of 512 B", 4, compaction),
];

fn main() -> ExitCode {
    if let Ok(child) = std::env::var(CHILD) {
        let (name, times) = child.split_once('=').unwrap();
        let (.., workload) = WORKLOADS.iter().find(|workload| workload.0 == name).unwrap();
        let folder = folder();
        let mut call = workload(folder.path());
        (0..times.parse().unwrap()).for_each(&mut call);
        return ExitCode::SUCCESS;
    }
    if !cfg!(target_arch = "x86_64") || Command::new("valgrind").arg("--version").output().is_err() {
        println!("instruction counts: not compared, because this needs valgrind and an x86-64");
        return ExitCode::SUCCESS;
    }
    let words: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let (options, names): (Vec<_>, Vec<_>) = words.iter().partition(|word| word.starts_with("--"));
    let accepts = options.iter().any(|option| *option == "--accept");
    if options.len() > usize::from(accepts) {
        eprintln!("usage: cargo bench --bench counts -- [--accept] [NAME]...");
        return ExitCode::from(2);
    }
    let wanted = |name: &str| names.is_empty() || names.iter().any(|word| name.contains(word.as_str()));
    let chosen: Vec<_> = WORKLOADS.iter().filter(|(name, ..)| wanted(name)).collect();
    let counted = thread::scope(|scope| {
        // Two at a time, as CI machines have two cores. The load does not change the figures.
        let halves = [0, 1].map(|half| {
            let share = chosen.iter().skip(half).step_by(2);
            scope.spawn(move || share.map(|(name, times, _)| (*name, count(name, *times))).collect::<Vec<_>>())
        });
        halves.into_iter().flat_map(|half| half.join().unwrap()).collect::<BTreeMap<_, _>>()
    });
    let report = Report { committed: Committed::read(), counted };
    print!("{report}");
    if accepts {
        report.accept();
        println!("written to benches/counts.txt: commit it and explain in the message why figures rose");
        return ExitCode::SUCCESS;
    }
    report.verdict()
}

const CHILD: &str = "COUNTS_CHILD";

// The workloads.

fn options() -> OpenOptions {
    let manual = policy(|policy| policy.automatic = false);
    // No sync, whose cost is in the kernel, and no automatic compaction, which runs on a thread of its own.
    OpenOptions::new().durability(Durability::Buffered).compaction(manual).clone()
}

fn empty(folder: &Path) -> Store {
    options().open(folder.join("state.db"), &key()).unwrap()
}

const PAYLOAD: [u8; 512] = [7; 512];

/// Made in the setup, so that formatting is not counted.
fn ids() -> Vec<String> {
    (0..4_000).map(run_id).collect()
}

fn jobs(ids: &[String]) -> Batch {
    ids.iter().fold(Batch::new(), |batch, id| batch.enqueue_job(id, &PAYLOAD))
}

fn add(store: &Store, id: &str) {
    black_box(store.enqueue_job(id, &PAYLOAD).unwrap());
}

/// 1,000 live jobs, in records of one each, as an agent writes them.
fn thousand(folder: &Path) -> Store {
    let store = empty(folder);
    ids()[..1_000].iter().for_each(|id| add(&store, id));
    store
}

fn enqueue(folder: &Path) -> Box<dyn FnMut(usize)> {
    let (store, ids) = (empty(folder), ids());
    Box::new(move |i| add(&store, &ids[i]))
}

fn replace(folder: &Path) -> Box<dyn FnMut(usize)> {
    let (store, ids) = (thousand(folder), ids());
    Box::new(move |i| add(&store, &ids[i % 1_000]))
}

fn ack(folder: &Path) -> Box<dyn FnMut(usize)> {
    let (store, ids) = (empty(folder), ids());
    store.write(&jobs(&ids)).unwrap();
    Box::new(move |i| assert!(store.ack_job(&ids[i]).unwrap()))
}

fn job(folder: &Path) -> Box<dyn FnMut(usize)> {
    let (store, ids) = (thousand(folder), ids());
    Box::new(move |i| assert!(black_box(store.job(&ids[i % 1_000]).unwrap()).is_some()))
}

fn dequeue(folder: &Path) -> Box<dyn FnMut(usize)> {
    let store = thousand(folder);
    Box::new(move |_| assert_eq!(black_box(store.dequeue_jobs(100).unwrap()).len(), 100))
}

fn queue_depth(folder: &Path) -> Box<dyn FnMut(usize)> {
    let store = thousand(folder);
    Box::new(move |_| assert_eq!(black_box(store.queue_depth()), 1_000))
}

fn load_config(folder: &Path) -> Box<dyn FnMut(usize)> {
    let store = empty(folder);
    store.save_config(7, &[7; 4096]).unwrap();
    Box::new(move |_| assert!(black_box(store.load_config().unwrap()).is_some()))
}

fn heartbeat(folder: &Path) -> Box<dyn FnMut(usize)> {
    let store = empty(folder);
    Box::new(move |i| store.record_heartbeat(i64::try_from(i).unwrap()).unwrap())
}

fn append(store: &Store, i: usize) {
    black_box(store.buffer_log(i64::try_from(i).unwrap(), &[7; 200]).unwrap());
}

fn log_append(folder: &Path) -> Box<dyn FnMut(usize)> {
    let store = empty(folder);
    Box::new(move |i| append(&store, i))
}

fn log_drain(folder: &Path) -> Box<dyn FnMut(usize)> {
    let store = empty(folder);
    Box::new(move |i| {
        (0..100).for_each(|event| append(&store, i * 100 + event));
        assert_eq!(black_box(store.drain_logs(100).unwrap()).len(), 100);
    })
}

fn batch(folder: &Path) -> Box<dyn FnMut(usize)> {
    let (store, ids) = (empty(folder), ids());
    Box::new(move |i| store.write(&jobs(&ids[i * 1_000..][..1_000])).unwrap())
}

fn open_clean(folder: &Path) -> Box<dyn FnMut(usize)> {
    let path = folder.join("state.db");
    thousand(folder).close().unwrap();
    Box::new(move |_| {
        let store = options().open(&path, &key()).unwrap();
        assert!(store.recovery().clean);
        store.close().unwrap();
    })
}

fn open_killed(folder: &Path) -> Box<dyn FnMut(usize)> {
    let (store, killed) = (thousand(folder), folder.join("killed.db"));
    Box::new(move |_| {
        // As a killed process leaves the log.
        std::fs::copy(store.path(), &killed).unwrap();
        let killed = options().open(&killed, &key()).unwrap();
        assert!(!killed.recovery().clean);
        killed.close().unwrap();
    })
}

fn compaction(folder: &Path) -> Box<dyn FnMut(usize)> {
    let store = thousand(folder);
    Box::new(move |_| assert!(black_box(store.compact().unwrap()).bytes_after > 0))
}

// Counting.

#[derive(Clone, Copy)]
struct Count {
    /// Without the functions that depend on the processor.
    own: u64,
    all: u64,
}

impl Count {
    /// `[own, all]`, each with its name.
    fn named(self) -> [(&'static str, u64); 2] {
        [("own", self.own), ("all", self.all)]
    }
}

/// The instructions per call.
fn count(name: &str, times: usize) -> Count {
    let (once, twice) = (run(name, times), run(name, 2 * times));
    let of_one = |once: u64, twice: u64| twice.saturating_sub(once) / times as u64;
    Count { own: of_one(once.own, twice.own), all: of_one(once.all, twice.all) }
}

fn run(name: &str, times: usize) -> Count {
    let folder = folder();
    let profile = folder.path().join("profile");
    let mut valgrind = Command::new("valgrind");
    // Without compression, each line of the profile can be read on its own.
    valgrind.args(["--tool=callgrind", "-q", "--compress-strings=no", "--compress-pos=no"]);
    valgrind.arg(format!("--callgrind-out-file={}", profile.display()));
    valgrind.arg(std::env::current_exe().unwrap()).env(CHILD, format!("{name}={times}"));
    let child = valgrind.stdout(Stdio::null()).output().unwrap();
    assert!(child.status.success(), "{name}: {}", String::from_utf8_lossy(&child.stderr));
    sum(&std::fs::read_to_string(profile).unwrap())
}

/// Sums up a profile: <https://valgrind.org/docs/manual/cl-format.html>. A line that begins with a digit is a
/// function's own cost, except for the line after `calls=`, which repeats the cost of the called function.
fn sum(profile: &str) -> Count {
    let mut count = Count { own: 0, all: 0 };
    let mut is_own = true;
    let mut lines = profile.lines();
    while let Some(line) = lines.next() {
        if line.starts_with("calls=") {
            lines.next();
        } else if let Some(function) = line.strip_prefix("fn=") {
            is_own = !DEPEND_ON_THE_PROCESSOR.iter().any(|part| function.contains(part));
        } else if line.starts_with(|c: char| c.is_ascii_digit()) {
            let instructions: u64 = line.split(' ').nth(1).map_or(0, |count| count.parse().unwrap());
            count.all += instructions;
            count.own += if is_own { instructions } else { 0 };
        }
    }
    count
}

/// Parts of the names of functions that have a version for each kind of processor.
const DEPEND_ON_THE_PROCESSOR: [&str; 13] = [
    "aes::",
    "aes_gcm::",
    "cipher::",
    "ctr::",
    "ghash::",
    "polyval::",
    "universal_hash::",
    "sha2::",
    "crc32fast::",
    "__mem",
    "__str",
    "__bcmp",
    "memchr",
];

// Comparing.

/// Whether the rise is more than a tenth.
fn has_risen(from: u64, to: u64) -> bool {
    to * 10 > from * 11
}

fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/counts.txt")
}

/// `counts.txt`: comments with the versions, then `own`, `all` and the name of each workload.
struct Committed {
    versions: Vec<String>,
    counts: BTreeMap<String, Count>,
}

impl Committed {
    fn read() -> Self {
        let text = std::fs::read_to_string(path()).unwrap_or_default();
        let versions = text.lines().filter_map(|line| line.strip_prefix("# - ")).map(String::from).collect();
        let counts = text.lines().filter(|line| !line.starts_with('#')).map(|line| {
            let mut words = line.trim().splitn(2, char::is_whitespace);
            let own = words.next().unwrap().parse().unwrap();
            let (all, name) = words.next().unwrap().trim().split_once(char::is_whitespace).unwrap();
            (name.trim().to_owned(), Count { own, all: all.parse().unwrap() })
        });
        Committed { versions, counts: counts.collect() }
    }
}

/// The tools that the figures depend on.
fn versions() -> Vec<String> {
    let of = |program: &str, arg: &str| {
        let shown = Command::new(program).arg(arg).output().ok();
        let shown = shown.and_then(|shown| String::from_utf8(shown.stdout).ok()).unwrap_or_default();
        shown.lines().next().unwrap_or("unknown").to_owned()
    };
    vec![of("rustc", "--version"), of("valgrind", "--version"), of("ldd", "--version")]
}

struct Report {
    committed: Committed,
    counted: BTreeMap<&'static str, Count>,
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{:<42} {:>12} {:>8} {:>12} {:>8}", "instructions per call", "own", "", "all", "")?;
        for (name, ..) in WORKLOADS {
            let Some(count) = self.counted.get(name) else { continue };
            write!(f, "{name:<42}")?;
            let before = self.committed.counts.get(name);
            for (i, (_, to)) in count.named().into_iter().enumerate() {
                let change = before.map_or("new".to_owned(), |before| {
                    let from = before.named()[i].1;
                    format!("{:+.1} %", (to as f64 / from.max(1) as f64 - 1.0) * 100.0)
                });
                write!(f, " {to:>12} {change:>8}")?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

impl Report {
    fn accept(&self) {
        let mut text = String::from(
            "# Instructions per call: `own` (without sealing, hashing, checksums and memcpy), `all`, and the \
             workload.\n\
             # Written by `cargo bench --bench counts -- --accept`, compared by `cargo bench --bench counts`.\n\
             # Versions:\n",
        );
        versions().iter().for_each(|version| writeln!(text, "# - {version}").unwrap());
        for (name, ..) in WORKLOADS {
            let count = self.counted.get(name).or_else(|| self.committed.counts.get(name));
            if let Some(Count { own, all }) = count {
                writeln!(text, "{own:>12} {all:>12}  {name}").unwrap();
            }
        }
        std::fs::write(path(), text).unwrap();
    }

    fn verdict(&self) -> ExitCode {
        let mut problems = Vec::new();
        for (name, count) in &self.counted {
            let Some(before) = self.committed.counts.get(*name) else {
                problems.push(format!("{name}: not in benches/counts.txt"));
                continue;
            };
            for ((kind, from), (_, to)) in before.named().into_iter().zip(count.named()) {
                if has_risen(from, to) && (kind == "own" || has_avx2()) {
                    let percent = (to as f64 / from as f64 - 1.0) * 100.0;
                    problems
                        .push(format!("{name}: {kind} rose from {from} to {to} instructions, by {percent:.1} %"));
                }
            }
        }
        let known = |name: &String| WORKLOADS.iter().any(|workload| workload.0 == name);
        let gone = self.committed.counts.keys().filter(|name| !known(name));
        problems.extend(gone.map(|name| format!("{name}: in benches/counts.txt, but no longer a workload")));
        if problems.is_empty() {
            return ExitCode::SUCCESS;
        }
        eprintln!("\n{}", problems.join("\n"));
        let versions = versions();
        if versions != self.committed.versions {
            eprintln!(
                "the committed figures were counted with {:?}, these with {versions:?}",
                self.committed.versions
            );
        }
        eprintln!("to accept the new figures: cargo bench --bench counts -- --accept");
        ExitCode::FAILURE
    }
}

fn has_avx2() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("avx2");
    #[cfg(not(target_arch = "x86_64"))]
    false
}
