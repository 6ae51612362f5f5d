//! Many stores in one process, as a test bench or a proxy for many agents has them: closing one leaks no
//! descriptor, thread, mapping or memory, and an idle one uses little. Alone in its binary, because it counts what
//! the whole process has.
#![allow(clippy::unwrap_used, reason = "a test panics where something is wrong")]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicIsize, Ordering};
use std::time::Duration;

use backupy_state::testing::policy;
use backupy_state::{AgentKey, Durability, Error, OpenOptions, Snapshot, Store};
use common::{Place, child_path, depth, existing, key, say, spawn, test_binary};

const HOSTS: usize = 100;

/// What an idle store may take, after it has written and read.
const IDLE_LEN_MAX: usize = 64 << 10;

#[test]
fn stores_opened_one_after_the_other_leak_nothing() {
    let place = Place::new();
    alone("one_after_the_other", place.folder());
}

#[test]
fn many_stores_at_once_use_little_and_leak_nothing() {
    let place = Place::new();
    alone("at_once", place.folder());
}

/// Some opens are refused: an error must leak nothing either.
#[test]
fn one_after_the_other() {
    let Some(folder) = child_path() else { return };
    let path = |host: usize| folder.join(format!("{host}.db"));
    // Small stores compact themselves too, on their own thread.
    let policy = policy(|policy| policy.min_len = 0);
    let mut options = OpenOptions::new();
    options.durability(Durability::Buffered).lock_timeout(Duration::ZERO).compaction(policy);
    let (rounds, mut before) = (depth::rounds(), None);
    for round in 0..rounds {
        // The allocator and the test harness have taken what they keep by then.
        if round == rounds / 10 {
            before = Some(Standing::now());
        }
        for host in 0..HOSTS {
            let store = options.open(path(host), &key()).unwrap();
            assert_eq!(store.queue_depth(), usize::from(round > 0), "round {round}");
            if round == 0 {
                store.enqueue_job("run", &[7; 512]).unwrap();
            }
            assert_eq!(store.job("run").unwrap().unwrap().payload, [7; 512]);
            // Most only open and read: what writes or compacts waits for the disk.
            match (host + round) % 40 {
                0 => store.record_heartbeat(i64::try_from(round).unwrap()).unwrap(),
                1 => drop(store.compact().unwrap()),
                2 => drop(Snapshot::open(path(host), &key()).unwrap().dequeue_jobs(1).unwrap()),
                3 => assert!(matches!(options.open(path(host), &key()), Err(Error::Locked { .. }))),
                4 => store.close().unwrap(),
                5 => {
                    drop(store);
                    let wrong = AgentKey::new("another key").unwrap();
                    assert!(matches!(options.open(path(host), &wrong), Err(Error::WrongKey { .. })));
                }
                6 => {
                    store.enqueue_job("large", &[7; 24 << 10]).unwrap();
                    assert!(store.ack_job("large").unwrap());
                }
                7 => {
                    let missing = existing().open(folder.join("missing.db"), &key());
                    assert!(matches!(missing, Err(Error::NotFound { .. })));
                }
                _ => {}
            }
        }
    }
    Standing::now().assert_no_more_than(&before.unwrap());
}

#[test]
fn at_once() {
    let Some(folder) = child_path() else { return };
    let count = depth::stores_at_once();
    let use_all = |descriptors| {
        let before = Standing::now();
        let stores: Vec<Store> = (0..count)
            .map(|host| {
                let options = OpenOptions::new().durability(Durability::Buffered).clone();
                let store = options.open(folder.join(format!("{host}.db")), &key()).unwrap();
                store.enqueue_job("run", &[7; 512]).unwrap();
                assert_eq!(store.job("run").unwrap().unwrap().payload, [7; 512]);
                store
            })
            .collect();
        let now = Standing::now();
        let of_each = |now: usize, before: usize| (now - before) / count;
        let held = of_each(now.held.cast_unsigned(), before.held.cast_unsigned());
        let resident = of_each(now.resident, before.resident);
        say(&format!("{held} bytes held and {resident} resident for each store"));
        assert!(held.max(resident) <= IDLE_LEN_MAX, "an idle store holds {held} bytes, {resident} resident");
        assert_eq!(now.threads, before.threads);
        assert_eq!(now.descriptors, before.descriptors + descriptors * count);
        drop(stores);
    };
    // The log and its lock file.
    use_all(2);
    let before = Standing::now();
    // Of a log that was there, also its folder, until the first sync.
    use_all(3);
    Standing::now().assert_no_more_than(&before);
}

/// Runs `test` in a process where nothing else happens, and which may open enough files.
fn alone(test: &str, path: &Path) {
    let plain = test_binary(test, path);
    let mut raised = Command::new("sh");
    raised.args(["-c", "ulimit -S -n 4096 && exec \"$0\" \"$@\""]).arg(plain.get_program()).args(plain.get_args());
    raised.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
    raised.stdout(std::process::Stdio::piped());
    let mut child = spawn(&mut raised);
    while let Some(line) = child.hear() {
        println!("{line}");
    }
    child.finish();
}

/// What the process has.
#[derive(Debug)]
struct Standing {
    /// Allocated and not freed, in bytes.
    held: isize,
    /// Anonymous memory that is resident, in bytes.
    resident: usize,
    descriptors: usize,
    threads: usize,
    /// Mapped files.
    mappings: usize,
}

impl Standing {
    fn now() -> Self {
        let held = HELD.load(Ordering::SeqCst);
        let count = |folder: &str| fs::read_dir(folder).unwrap().count();
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let resident = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        let resident = resident.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024;
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        let mappings = maps.lines().filter(|line| line.contains(".db")).count();
        // A joined thread may still be listed for a moment.
        let threads = (0..50).map(|_| count("/proc/self/task")).min().unwrap();
        Standing { held, resident, descriptors: count("/proc/self/fd"), threads, mappings }
    }

    /// Nothing may be left of a store, and the allocator may keep a little.
    fn assert_no_more_than(&self, before: &Self) {
        let counts = |standing: &Self| (standing.descriptors, standing.threads, standing.mappings);
        assert_eq!(counts(self), counts(before), "descriptors, threads and mapped files: {before:?}, {self:?}");
        let grown = self.held - before.held;
        assert!(grown < GROWN_LEN_MAX, "{grown} bytes were allocated and not freed");
        assert!(self.resident < before.resident + RESIDENT_LEN_MAX, "{before:?}, {self:?}");
    }
}

/// At most two bytes for each open: nothing that belongs to a store fits.
const GROWN_LEN_MAX: isize = 4 << 10;
/// Freed memory between allocations that are still in use stays resident.
const RESIDENT_LEN_MAX: usize = 1 << 20;

/// Counts what the process holds.
struct Counting;

static HELD: AtomicIsize = AtomicIsize::new(0);

fn note(bytes: isize) {
    HELD.fetch_add(bytes, Ordering::SeqCst);
}

// SAFETY: every call is passed to the system's allocator unchanged; counting allocates nothing.
#[allow(unsafe_code, reason = "an allocator can be counted in no other way")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size().cast_signed());
        // SAFETY: the caller's promises are the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(layout.size().cast_signed());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        note(-layout.size().cast_signed());
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;
