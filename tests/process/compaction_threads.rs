//! Compaction, rekey and backup while threads write and read: no record is lost, no deleted key comes back, and no
//! reader sees half a record. And an agent that is killed during them, twenty times.
//!
//! Each writer owns its keys and keeps its own model of them. Pairs of jobs are always written in one batch, so a
//! reader to which the two halves differ has seen half a record.

use std::collections::VecDeque;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use backupy_state::testing::policy;
use backupy_state::{
    AgentKey, Batch, Error, LogLimits, OpenOptions, QueueOrder, QueuedJob, Snapshot, Store, verify,
};

use crate::common::{Image, Place, Random, child_path, say, spawn, test_binary};

const WRITERS: usize = 4;
/// Jobs of its own that a writer keeps in the queue.
const OWN_JOBS: usize = 12;
const BUSY: Duration = Duration::from_secs(3);
const KILLS: u64 = 20;
/// What a child says before the number of a generation.
const COMPACTED: &str = "generation";
const SEED_VAR: &str = "BACKUPY_TEST_SEED";

/// The store is under one of the two; which one, changes with each rekey.
fn keys() -> [AgentKey; 2] {
    ["the key of odd rekeys", "the key of even rekeys"].map(|key| AgentKey::new(key).unwrap())
}

fn options() -> OpenOptions {
    let mut limits = LogLimits::default();
    limits.rate = None;
    let policy = policy(|policy| {
        policy.automatic = true;
        policy.min_len = 16 << 10;
        policy.dead_ratio = 0.2;
    });
    let mut options = OpenOptions::new();
    options.compaction(policy).log_limits(limits).queue_order(QueueOrder::Fifo);
    options.lock_timeout(Duration::from_secs(60));
    options
}

fn payload(run_id: &str, number: u64) -> Vec<u8> {
    let len = 20 + usize::try_from(number % 7).unwrap() * 150;
    format!("{run_id} {number} ").into_bytes().into_iter().cycle().take(len).collect()
}

fn pair(writer: usize) -> [String; 2] {
    ["a", "b"].map(|half| format!("{writer}-pair-{half}"))
}

fn pair_batch(writer: usize, number: u64) -> Batch {
    let [a, b] = pair(writer);
    Batch::new().enqueue_job(&a, &payload(&a, number)).enqueue_job(&b, &payload(&b, number))
}

/// The number that both halves of a writer's pair have, or nothing where there is no pair.
fn pair_number(jobs: &[QueuedJob], writer: usize) -> Option<u64> {
    let numbers = pair(writer).map(|run_id| {
        let job = jobs.iter().find(|job| job.run_id == run_id)?;
        let text = String::from_utf8_lossy(&job.payload);
        let number = text.split(' ').nth(1).unwrap().parse().unwrap();
        assert_eq!(job.payload, payload(&run_id, number));
        Some(number)
    });
    assert_eq!(numbers[0], numbers[1], "half a record of writer {writer}");
    numbers[0]
}

/// What the threads share.
struct Shared {
    store: Store,
    is_over: AtomicBool,
    /// Of each writer: the pair that was acknowledged last.
    acknowledged: [AtomicU64; WRITERS],
    buffered: Mutex<Vec<Vec<u8>>>,
    drained: Mutex<Vec<Vec<u8>>>,
}

/// What a writer left: its pair, and its own jobs in the order of their latest enqueue.
struct Left {
    pair: u64,
    jobs: VecDeque<(String, Vec<u8>)>,
}

fn write(shared: &Shared, writer: usize) -> Left {
    let store = &shared.store;
    let mut random = Random::new(writer as u64);
    let mut left = Left { pair: 0, jobs: VecDeque::new() };
    let mut number = 0;
    while !shared.is_over.load(Ordering::SeqCst) {
        number += 1;
        match random.below(6) {
            0 | 1 => {
                store.write(&pair_batch(writer, number)).unwrap();
                left.pair = number;
                shared.acknowledged[writer].store(number, Ordering::SeqCst);
                let [a, b] = pair(writer).map(|run_id| store.job(&run_id).unwrap().unwrap().payload);
                assert_eq!([a, b], pair(writer).map(|run_id| payload(&run_id, number)));
            }
            2 | 3 => {
                let run_id = format!("{writer}-job-{}", random.below(OWN_JOBS));
                left.jobs.retain(|(other, _)| *other != run_id);
                left.jobs.push_back((run_id.clone(), payload(&run_id, number)));
                store.enqueue_job(&run_id, &payload(&run_id, number)).unwrap();
                assert_eq!(store.job(&run_id).unwrap().unwrap().payload, payload(&run_id, number));
            }
            4 => {
                if let Some((run_id, _)) = left.jobs.pop_front() {
                    assert!(store.ack_job(&run_id).unwrap());
                    assert_eq!(store.job(&run_id).unwrap(), None);
                    assert!(!store.ack_job(&run_id).unwrap());
                }
            }
            _ => {
                let event = format!("{writer} {number}").into_bytes();
                store.buffer_log(i64::try_from(number % 5).unwrap(), &event).unwrap();
                shared.buffered.lock().unwrap().push(event);
                let events = store.drain_logs(random.below(3)).unwrap().into_iter();
                shared.drained.lock().unwrap().extend(events.map(|event| event.payload));
            }
        }
        if number % 16 == 0 {
            assert_eq!(own_jobs(&store.dequeue_jobs(usize::MAX).unwrap(), writer), left.jobs);
        }
    }
    left
}

/// A writer's single jobs, in the order in which the queue gives them.
fn own_jobs(jobs: &[QueuedJob], writer: usize) -> VecDeque<(String, Vec<u8>)> {
    let prefix = format!("{writer}-job-");
    let own = jobs.iter().filter(|job| job.run_id.starts_with(&prefix));
    own.map(|job| (job.run_id.clone(), job.payload.clone())).collect()
}

/// Looks at whole views, of the store and of snapshots, each at least as new as what was acknowledged before it.
fn read(shared: &Shared, mut view: impl FnMut() -> Vec<QueuedJob>) {
    while !shared.is_over.load(Ordering::SeqCst) {
        let before = shared.acknowledged.each_ref().map(|number| number.load(Ordering::SeqCst));
        let jobs = view();
        for (writer, before) in before.into_iter().enumerate() {
            assert!(pair_number(&jobs, writer).unwrap_or(0) >= before, "writer {writer}");
        }
    }
}

/// A snapshot under whichever key is in force; a rekey may come between a look at the one and at the other.
fn snapshot(path: &Path) -> Snapshot {
    for key in keys().iter().cycle().take(1000) {
        match Snapshot::open(path, key) {
            Err(Error::WrongKey { .. }) => {}
            opened => return opened.unwrap(),
        }
    }
    panic!("neither key opens the store");
}

fn refreshed(mut snapshot: Snapshot, path: &Path) -> Snapshot {
    match snapshot.refresh() {
        Err(Error::WrongKey { .. }) => self::snapshot(path),
        refreshed => {
            refreshed.unwrap();
            snapshot
        }
    }
}

/// Compacts, changes the key, and makes a backup, again and again. Returns the key in force.
fn maintain(shared: &Shared, place: &Place) -> usize {
    let store = &shared.store;
    let (begun, mut current) = (Instant::now(), 0);
    let mut generation = store.stats().generation;
    while begun.elapsed() < BUSY || generation < 5 {
        let report = store.compact().unwrap();
        assert!(report.generation > generation, "{report:?}");
        current = 1 - current;
        store.rekey(&keys()[current]).unwrap();
        generation = store.stats().generation;
        assert!(generation > report.generation);

        let before = shared.acknowledged.each_ref().map(|number| number.load(Ordering::SeqCst));
        let backup = place.at("backup.db");
        store.backup(&backup).unwrap();
        assert!(verify(&backup, Some(&keys()[current])).unwrap().is_intact());
        let jobs = Snapshot::open(&backup, &keys()[current]).unwrap().dequeue_jobs(usize::MAX).unwrap();
        for (writer, before) in before.into_iter().enumerate() {
            assert!(pair_number(&jobs, writer).unwrap_or(0) >= before);
        }
        std::fs::remove_file(backup).unwrap();
    }
    current
}

fn assert_holds(store: &Store, lefts: &[Left]) {
    let jobs = store.dequeue_jobs(usize::MAX).unwrap();
    for (writer, left) in lefts.iter().enumerate() {
        assert_eq!(pair_number(&jobs, writer).unwrap_or(0), left.pair);
        assert_eq!(own_jobs(&jobs, writer), left.jobs, "in the order of their latest enqueue");
    }
    let pairs = lefts.iter().filter(|left| left.pair > 0).count() * 2;
    assert_eq!(jobs.len(), pairs + lefts.iter().map(|left| left.jobs.len()).sum::<usize>());
}

#[test]
fn calls_during_compaction_rekey_and_backup_are_kept_in_order() {
    let place = Place::new();
    let path = &place.path();
    let shared = Shared {
        store: options().open(path, &keys()[0]).unwrap(),
        is_over: AtomicBool::new(false),
        acknowledged: Default::default(),
        buffered: Mutex::default(),
        drained: Mutex::default(),
    };
    let (lefts, current) = run_all(&shared, &place);

    let Shared { store, buffered, drained, .. } = shared;
    assert_holds(&store, &lefts);
    // Waits for the one that may be running, which has switched before it is counted.
    store.compact().unwrap();
    let stats = store.stats();
    println!("{stats:?}");
    assert_eq!((stats.compaction.failed, stats.compaction.last_error), (0, None));
    assert_eq!(stats.generation, 1 + stats.compaction.completed, "one generation for each compaction");
    let order = run_ids(&store);
    let (mut buffered, mut events) = (buffered.into_inner().unwrap(), drained.into_inner().unwrap());
    events.extend(store.drain_logs(usize::MAX).unwrap().into_iter().map(|event| event.payload));
    events.sort();
    buffered.sort();
    assert_eq!(events, buffered, "each event once");

    // As a killed process leaves it, and as a closed one does.
    let killed = Place::new();
    Image::read(path).write(killed.path());
    store.close().unwrap();
    for place in [killed, place] {
        let store = options().open(place.path(), &keys()[current]).unwrap();
        assert_holds(&store, &lefts);
        assert_eq!(run_ids(&store), order);
        assert_eq!(store.log_count(), 0);
    }
}

/// Returns what the writers left, and which key is in force.
fn run_all(shared: &Shared, place: &Place) -> (Vec<Left>, usize) {
    thread::scope(|threads| {
        let writers: Vec<_> = (0..WRITERS).map(|writer| threads.spawn(move || write(shared, writer))).collect();
        threads.spawn(|| read(shared, || shared.store.dequeue_jobs(usize::MAX).unwrap()));
        threads.spawn(|| {
            let path = &place.path();
            let mut shown = Some(snapshot(path));
            read(shared, || {
                let next = refreshed(shown.take().unwrap(), path);
                shown.insert(next).dequeue_jobs(usize::MAX).unwrap()
            });
        });
        // Whatever ends the maintenance, the others end too.
        let maintained = panic::catch_unwind(AssertUnwindSafe(|| maintain(shared, place)));
        shared.is_over.store(true, Ordering::SeqCst);
        let lefts = writers.into_iter().map(|writer| writer.join().unwrap()).collect();
        (lefts, maintained.unwrap())
    })
}

fn run_ids(store: &Store) -> Vec<String> {
    store.dequeue_jobs(usize::MAX).unwrap().into_iter().map(|job| job.run_id).collect()
}

// ---- Killed in the middle of it ----

/// Opens the store, whichever key it was under when its process was killed.
fn open_either(path: &Path) -> (Store, usize) {
    match options().open(path, &keys()[0]) {
        Err(Error::WrongKey { .. }) => (options().open(path, &keys()[1]).unwrap(), 1),
        opened => (opened.unwrap(), 0),
    }
}

#[test]
fn child_that_writes_and_compacts_until_it_is_killed() {
    let Some(path) = child_path() else { return };
    let (store, mut current) = open_either(&path);
    let jobs = store.dequeue_jobs(usize::MAX).unwrap();
    let store = &store;
    thread::scope(|threads| {
        for writer in 0..WRITERS {
            let from = pair_number(&jobs, writer).unwrap_or(0) + 1;
            threads.spawn(move || {
                for number in from.. {
                    store.write(&pair_batch(writer, number)).unwrap();
                    say(&format!("{writer} {number}"));
                }
            });
        }
        loop {
            // Automatic compaction runs at the same time.
            let report = store.compact().unwrap();
            say(&format!("{COMPACTED} {}", report.generation));
            current = 1 - current;
            store.rekey(&keys()[current]).unwrap();
        }
    });
}

#[test]
fn twenty_kills_amid_compactions_lose_nothing_acknowledged() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let random_seed = u64::from(now.subsec_nanos()) ^ now.as_secs() << 20;
    let seed = std::env::var(SEED_VAR).ok().map_or(random_seed, |seed| seed.parse().unwrap());
    println!("{SEED_VAR}={seed}");
    let mut random = Random::new(seed);
    let place = Place::new();
    let mut said = [0; WRITERS];
    let (mut left_over, mut generation) = (0, 0);
    for round in 0..KILLS {
        let mut child = spawn(&mut test_binary(
            "compaction_threads::child_that_writes_and_compacts_until_it_is_killed",
            &place.path(),
        ));
        let mut lines = vec![child.hear().unwrap()];
        while round % 2 == 0 && !lines.last().unwrap().starts_with(COMPACTED) {
            lines.push(child.hear().unwrap());
        }
        lines.extend(child.hear_and_kill_after(Duration::from_micros(1000 + random.next() % 60_000)));
        for line in lines {
            let (who, number) = line.split_once(' ').unwrap();
            let number = number.parse().unwrap();
            match who {
                COMPACTED => generation = number,
                writer => said[writer.parse::<usize>().unwrap()] = number,
            }
        }
        left_over += usize::from(place.at("state.db.new").exists());
        // Open a copy: the next child recovers the store itself.
        let copy = Place::new();
        Image::read(place.path()).write(copy.path());
        let (store, _) = open_either(&copy.path());
        assert!(store.stats().generation >= generation, "seed {seed}, round {round}: an older log came back");
        generation = store.stats().generation;
        let jobs = store.dequeue_jobs(usize::MAX).unwrap();
        for (writer, said) in said.iter_mut().enumerate() {
            let found = pair_number(&jobs, writer).unwrap_or(0);
            assert!(found == *said || found == *said + 1, "seed {seed}, round {round}: {found} after {said}");
            *said = found;
        }
    }
    println!("{said:?} calls, {generation} generations, {left_over} unfinished compactions, lost: 0");
    assert!(generation > KILLS / 2);
    let (store, _) = open_either(&place.path());
    assert!(!place.at("state.db.new").exists());
    assert_eq!(store.queue_depth(), WRITERS * 2);
}
