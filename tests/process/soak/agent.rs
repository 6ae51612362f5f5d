//! The child: an agent that works on the store with several threads until it is killed, or closes it.
//!
//! It writes what it does into a file, so that also a parent that was killed, and started again, knows all of it.

use std::fmt::Display;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use backupy_state::{Error, ErrorKind, Result, Store};

use super::calls::{Call, THREADS, hash_of, parts, whole_of_store};
use super::life::{Life, Pace, agent_key, up_to};
use crate::common::child_path;

/// The folder for backups and for the file of what the child says.
pub(super) const FOLDER_VAR: &str = "BACKUPY_SOAK_CHILD_FOLDER";
pub(super) const TASK_VAR: &str = "BACKUPY_SOAK_CHILD_TASK";

/// The file in which the child of a life says what it does.
pub(super) fn said_name(life: u64) -> String {
    format!("said-{life}")
}

/// What a child is to do.
pub(super) struct Task {
    pub(super) seed: u64,
    pub(super) life: u64,
    pub(super) is_long: bool,
    pub(super) key: u64,
    pub(super) previous_key: Option<u64>,
    pub(super) anchor: Option<String>,
    /// The number of the next call of each thread.
    pub(super) from: Vec<usize>,
}

impl Task {
    pub(super) fn pace(&self) -> Pace {
        if self.is_long { Pace::LONG } else { Pace::QUICK }
    }

    pub(super) fn to_json(&self) -> String {
        let Task { seed, life, is_long, key, previous_key, anchor, from } = self;
        serde_json::json!([seed, life, is_long, key, previous_key, anchor, from]).to_string()
    }

    fn from_json(text: &str) -> Self {
        let (seed, life, is_long, key, previous_key, anchor, from) = serde_json::from_str(text).unwrap();
        Task { seed, life, is_long, key, previous_key, anchor, from }
    }
}

#[test]
fn child_that_soaks() {
    let Some(path) = child_path() else { return };
    let folder = PathBuf::from(std::env::var_os(FOLDER_VAR).unwrap());
    // A parent that was killed and started again takes what this process has said by then for all of it.
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL)).unwrap();
    let task = Task::from_json(&std::env::var(TASK_VAR).unwrap());
    SAID.set(File::options().append(true).open(folder.join(said_name(task.life))).unwrap()).unwrap();
    let life = Life::new(task.seed, task.life, task.pace());
    let Some(store) = open(&path, &task, &life) else { return };
    work(&store, &task, &life, &folder);
    if life.ending.closes() {
        say("closing");
        // On a full disk, the close frame may find no space.
        match store.close() {
            Ok(()) => say("closed"),
            Err(error) => {
                fail_unless_full(&error, "close");
                say("closing-full");
            }
        }
    }
}

static SAID: OnceLock<File> = OnceLock::new();

/// In one call, so that half a line is the last one of a killed process.
fn say(line: &str) {
    SAID.get().unwrap().write_all(format!("{line}\n").as_bytes()).unwrap();
}

fn fail(what: &str, error: impl Display) -> ! {
    say(&format!("failed {what}: {error}"));
    process::exit(1);
}

fn fail_unless_full(error: &Error, what: &str) {
    if !matches!(error, Error::Full { .. }) {
        fail(what, format!("{error} ({error:?})"));
    }
}

fn open(path: &Path, task: &Task, life: &Life) -> Option<Store> {
    let mut options = life.options();
    if let Some(previous) = task.previous_key {
        options.previous_key(agent_key(previous));
    }
    if let Some(anchor) = &task.anchor {
        options.expect_at_least(anchor.parse().unwrap());
    }
    say("opening");
    let store = match options.open(path, &agent_key(task.key)) {
        Ok(store) => store,
        Err(error) => {
            fail_unless_full(&error, "open");
            say("opening-full");
            return None;
        }
    };
    let recovery = store.recovery();
    let [clean, by_index] = [recovery.clean, recovery.opening.by_index].map(u8::from);
    say(&format!("opened {clean} {} {by_index}", recovery.quarantined_bytes));
    let whole = whole_of_store(&store, life.order).unwrap_or_else(|error| fail("reading", error));
    let hashes = parts(&whole).iter().map(|part| hash_of(part).to_string()).collect::<Vec<_>>();
    say(&format!("holds {}", hashes.join(" ")));
    Some(store)
}

/// Until its time is over; forever, if a kill is to end it.
fn work(store: &Store, task: &Task, life: &Life, folder: &Path) {
    let ends = Instant::now() + life.lasts;
    let is_over = AtomicBool::new(false);
    thread::scope(|threads| {
        for thread in 0..THREADS {
            let is_over = &is_over;
            threads.spawn(move || call_on(store, task, life, thread, is_over));
        }
        maintain(store, task, life, folder, ends);
        is_over.store(true, Relaxed);
    });
}

fn call_on(store: &Store, task: &Task, life: &Life, thread: usize, is_over: &AtomicBool) {
    let mut random = life.random.clone();
    for number in task.from[thread].. {
        match Call::new(task.seed, thread, number).make(store) {
            Ok(()) => say(&format!("done {thread} {number}")),
            Err(error) => {
                fail_unless_full(&error, "call");
                say(&format!("full {thread} {number}"));
                thread::sleep(Duration::from_millis(10));
            }
        }
        thread::sleep(up_to(&mut random, life.pace.pause * 2));
        if is_over.load(Relaxed) {
            return;
        }
    }
}

/// Compacts, changes the key, makes backups, and samples what the process has open and how large the file is.
fn maintain(store: &Store, task: &Task, life: &Life, folder: &Path, ends: Instant) {
    let mut random = life.random.clone();
    let mut key = task.key;
    for number in 0.. {
        sample(store);
        thread::sleep(up_to(&mut random, life.pace.life_max / 5));
        if Instant::now() >= ends && life.ending.closes() {
            return;
        }
        match random.below(8) {
            0 | 1 => drop(report("compact", || store.compact().map(drop))),
            2 => drop(report("sync", || store.sync())),
            3 | 4 => {
                let rekeyed = report(&format!("rekey {}", key + 1), || store.rekey(&agent_key(key + 1)));
                key += u64::from(rekeyed);
            }
            5 => {
                let name = format!("backup-{}-{number}.db", life.number);
                report(&format!("backup {name}"), || store.backup(folder.join(&name)));
            }
            _ => {}
        }
    }
}

/// Returns whether the call has succeeded.
fn report(what: &str, call: impl FnOnce() -> Result<()>) -> bool {
    say(&format!("begin {what}"));
    let returned = call();
    if let Err(error) = &returned {
        fail_unless_full(error, what);
    }
    let end = if returned.is_ok() { "end" } else { "refused" };
    say(&format!("{end} {what}"));
    returned.is_ok()
}

fn sample(store: &Store) {
    let count = |folder: &str| fs::read_dir(folder).unwrap().count();
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let kib = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim_start_matches(':').trim().trim_end_matches(" kB").parse::<u64>().unwrap()
    };
    let stats = store.stats();
    if let Some(failure) = stats.compaction.last_error.as_ref().filter(|failure| failure.kind != ErrorKind::Full) {
        fail("an automatic compaction", failure);
    }
    say(&format!(
        "sample {} {} {} {} {} {} {} {}",
        count("/proc/self/fd"),
        count("/proc/self/task"),
        kib("RssAnon"),
        kib("VmHWM"),
        stats.file_len,
        stats.live_bytes,
        stats.reserved_bytes,
        stats.generation,
    ));
}
