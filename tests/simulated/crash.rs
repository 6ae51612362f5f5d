//! Power cuts, at every operation of every short history and of the recovery from an earlier power cut: each image
//! that the disk could then hold must open and hold what was promised.

use std::collections::{HashMap, HashSet};
use std::io::{self, Write};
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::thread;
use std::time::Instant;

use crate::common::depth;
use crate::sim::content::SECTOR_LEN;
use crate::sim::crash;
use crate::sim::random::{Random, mix};
use crate::sim::world::{self, Image, World};
use crate::sim::{Agent, BackedUp, Call, Mode, Model, Oracle, PATH, open};
use crate::sim::{Moment, Op, Sim};

/// Small and large calls, so that frames share a sector, fill one, or span several.
const ALPHABET: [Call; 10] = [
    Call::SaveConfig { len: 1200 },
    Call::Enqueue { job: 0, len: 30 },
    Call::Enqueue { job: 1, len: 700 },
    Call::Ack { job: 0 },
    Call::SaveSession { len: 100 },
    Call::Heartbeat,
    Call::BufferLog { ts_ms: -1, len: 300 },
    Call::DrainLogs { n: 2 },
    Call::Sync,
    Call::Reopen,
];
/// Calls that copy the log, and calls that change several buckets. Together with those above, every history of up
/// to two calls is tried.
const MORE: [Call; 8] = [
    Call::Batch { job: 0, len: 200 },
    Call::AckLogs { n: 1 },
    Call::Compact,
    Call::Rekey,
    Call::ReopenRekeyed,
    Call::Backup,
    Call::PutData { key: 0, len: 30 },
    Call::DeleteData { key: 0 },
];
/// How many images are opened for each choice of names at a moment in a call that copies the log. There are two
/// files then, and most images differ only in the one that has no name yet.
const COPY_IMAGES: usize = 12;
/// How many images are opened for a moment in a random history: with many unsynced sectors there are thousands.
const RANDOM_IMAGES: usize = 250;
const RANDOM_HISTORY_LEN: usize = 12;
/// How many images are opened for a moment in a call that is made again.
const AGAIN_IMAGES: usize = 60;
const THREADS: usize = 2;
const FIRST_FRAME_AT: usize = 8192;

/// Prints even if the test passes, so that the log of a run has the counts. The output of `println` is captured.
macro_rules! report {
    ($($said:tt)*) => {
        let _ = writeln!(io::stderr(), $($said)*);
    };
}

#[derive(Clone, Debug)]
struct History {
    mode: Mode,
    seed: u64,
    calls: Vec<Call>,
    /// Whether power is cut in every call, or only in the last one. An exhaustive test need not cut the others:
    /// each is the last call of another history.
    cut_all: bool,
}

/// The hash of each image that was opened, with the hash of what it held. The same image occurs at other places
/// and in other histories, where other states may be allowed. So what it held is checked each time.
struct Seen {
    shards: [Mutex<HashMap<u64, u64>>; 64],
    /// How many of the images were opened by their index file.
    by_index: AtomicUsize,
}

impl Seen {
    fn new() -> Self {
        Seen { shards: std::array::from_fn(|_| Mutex::default()), by_index: AtomicUsize::new(0) }
    }

    fn shard(&self, image: u64) -> MutexGuard<'_, HashMap<u64, u64>> {
        self.shards[(image % 64) as usize].lock().unwrap()
    }

    fn count(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().unwrap().len()).sum()
    }
}

#[test]
fn every_short_history_survives_a_power_cut_at_every_operation() {
    let begun = Instant::now();
    let seen = Seen::new();
    for len in 0..=depth::history_len() {
        let all = |mode| (0..ALPHABET.len().pow(len)).map(move |number| exhaustive(mode, len, number));
        check_all(&Mode::ALL.into_iter().flat_map(all).collect::<Vec<_>>(), &seen);
        let count = seen.count();
        report!("all histories of up to {len} calls: {count} distinct images in {:.1?}", begun.elapsed());
    }
    for len in 1..=depth::copying_history_len() {
        let all = |mode| (0..(ALPHABET.len() + MORE.len()).pow(len)).filter_map(move |n| with_more(mode, len, n));
        check_all(&Mode::ALL.into_iter().flat_map(all).collect::<Vec<_>>(), &seen);
        let count = seen.count();
        report!("with compaction, up to {len} calls: {count} distinct images in {:.1?}", begun.elapsed());
    }
    assert!(seen.count() >= depth::crash_images());
}

/// `CRASH_SEED` and `CRASH_HISTORIES` choose which histories; the seed in a failure's message runs that one alone.
#[test]
fn random_histories_survive_a_power_cut_at_every_operation() {
    let begun = Instant::now();
    let seen = Seen::new();
    let variable = |name, default| std::env::var(name).map_or(default, |text| text.parse().unwrap());
    let first_seed = variable("CRASH_SEED", 1);
    let count = variable("CRASH_HISTORIES", depth::random_histories());
    check_all(&(first_seed..first_seed + count).map(random_history).collect::<Vec<_>>(), &seen);
    report!("{count} random histories: {} distinct images in {:.1?}", seen.count(), begun.elapsed());
}

/// No part of an index file is ever synced, so a power cut can leave any of its sectors, under its name or not,
/// next to any log that the disk could hold: also next to one that ends before the frames that the index file
/// knows.
#[test]
fn histories_with_an_index_file_survive_a_power_cut_at_every_operation() {
    let begun = Instant::now();
    let seen = Seen::new();
    let all: Vec<Call> = ALPHABET.into_iter().chain(MORE).collect();
    for (len, step) in [(1, 1), (2, depth::indexed_pairs_step())] {
        let histories = (0..all.len().pow(len)).step_by(step).map(|number| {
            let calls = (0..len).map(|i| all[number / all.len().pow(i) % all.len()]).collect();
            // Cut in every call, so that only so many images are opened for each moment.
            History { mode: Mode::Indexed, seed: number as u64, calls, cut_all: true }
        });
        check_all(&histories.collect::<Vec<_>>(), &seen);
        report!("indexed, up to {len} calls: {} distinct images in {:.1?}", seen.count(), begun.elapsed());
    }
    let random = (1..=depth::random_indexed_histories())
        .map(|seed| History { mode: Mode::Indexed, ..random_history(seed) });
    check_all(&random.collect::<Vec<_>>(), &seen);
    let by_index = seen.by_index.load(Ordering::Relaxed);
    report!("indexed, random: {} images, {by_index} by index, in {:.1?}", seen.count(), begun.elapsed());
    // In the others there is no run yet, or it is torn, or the log does not have its last frame.
    assert!(by_index >= seen.count() / 100, "{by_index}");
}

/// The rename of a compaction is in the page cache only when its process is killed. The next process must not be
/// promised anything before the folder is synced: else a power cut could bring the old log back.
#[test]
fn a_call_acknowledged_after_a_kill_survives_losing_the_rename_before_the_kill() {
    for copying in [Call::Compact, Call::Rekey] {
        let mut agent = Agent::new(Sim::new(71), Mode::Sync);
        agent.start().unwrap();
        agent.make(Call::Enqueue { job: 0, len: 100 }).unwrap();
        agent.sim.record();
        agent.make(copying).unwrap();
        let trace = agent.sim.trace();
        let renamed = trace.iter().rposition(|&op| op == Op::Rename).unwrap() + 1;
        assert_eq!(trace[renamed], Op::SyncDir);
        let moments = agent.sim.take_moments();
        let killed = moments.into_iter().find(|moment| moment.ops == renamed).unwrap().world;
        assert!(!killed.name_changes.is_empty());

        let mut next = Agent::new(Sim::at(killed, 72), Mode::Sync);
        next.oracle = agent.oracle.clone();
        next.start().unwrap();
        next.make(Call::Enqueue { job: 1, len: 100 }).unwrap();
        let expected = next.oracle.current().clone();
        assert_eq!(expected.jobs.len(), 2);
        crash::images(&next.sim.world(), 73, &mut |image| {
            let store = open(&Sim::on(image, 74), Mode::Sync).unwrap();
            assert_eq!(Model::take(&store).unwrap(), expected);
        });
    }
}

/// Buffered records are durable once the store is closed, and no close frame is there without them.
#[test]
fn buffered_calls_survive_every_power_cut_after_their_close() {
    let calls = vec![Call::Enqueue { job: 0, len: 1200 }, Call::Heartbeat, Call::Reopen, Call::Heartbeat];
    check_all(&[History { mode: Mode::Buffered, seed: 76, calls, cut_all: true }], &Seen::new());
}

/// A whole record follows the torn one, and the next record to be written is as long as the torn one. If a power
/// cut could bring the tail back, the whole record would follow the new one, chained to a record that is gone.
#[test]
fn a_torn_tail_that_was_cut_off_never_reappears_after_a_new_record() {
    let mut agent = Agent::new(Sim::new(77), Mode::Buffered);
    agent.start().unwrap();
    // Each record fills two sectors, so that one may be lost and the other not.
    let [torn, whole] = [0, 1].map(|job| Call::Enqueue { job, len: 927 });
    agent.make(torn).unwrap();
    agent.make(whole).unwrap();
    let mut image = agent.sim.live();
    agent.sim.kill();
    let log = image.get_mut(Path::new(PATH)).unwrap();
    let first_frame = FIRST_FRAME_AT / SECTOR_LEN;
    log.put_sector(first_frame, None);

    let mut next = Agent::new(Sim::on(&image, 78), Mode::Sync);
    next.start().unwrap();
    assert_eq!(next.store().recovery().quarantined_bytes, 2048);
    next.sim.record();
    next.make(torn).unwrap();
    for moment in next.sim.take_moments() {
        let allowed = next.allowed_at(moment.ops);
        crash::images(&moment.world, 79, &mut |image| {
            let store = open(&Sim::on(image, 80), Mode::Sync).unwrap();
            assert!(allowed.contains(&Model::take(&store).unwrap()));
        });
    }
}

/// A compaction must not restart the ordinals of log events: the keys of a batch that was peeked before it would
/// then name events that were never peeked.
#[test]
fn ack_after_a_compaction_removes_nothing_that_was_not_peeked() {
    let mut agent = Agent::new(Sim::new(75), Mode::Sync);
    agent.start().unwrap();
    let log = Call::BufferLog { ts_ms: 1, len: 10 };
    for call in
        [log, Call::PeekLogs { n: 1 }, Call::DrainLogs { n: 1 }, Call::Compact, log, Call::AckLogs { n: 1 }]
    {
        agent.make(call).unwrap();
    }
}

fn exhaustive(mode: Mode, len: u32, number: usize) -> History {
    let calls = (0..len).map(|i| ALPHABET[number / ALPHABET.len().pow(i) % ALPHABET.len()]);
    History { mode, seed: 0, calls: calls.collect(), cut_all: false }
}

/// Returns `None` for a history that [`exhaustive`] returns.
fn with_more(mode: Mode, len: u32, number: usize) -> Option<History> {
    let all: Vec<Call> = ALPHABET.into_iter().chain(MORE).collect();
    let calls = (0..len).map(|i| all[number / all.len().pow(i) % all.len()]);
    let calls: Vec<Call> = calls.collect();
    let is_new = calls.iter().any(|call| MORE.contains(call));
    is_new.then_some(History { mode, seed: 0, calls, cut_all: false })
}

fn random_history(seed: u64) -> History {
    let mut random = Random::new(seed);
    let mode = Mode::ALL[random.below(Mode::ALL.len())];
    let len = 4 + random.below(RANDOM_HISTORY_LEN - 3);
    History { mode, seed, calls: (0..len).map(|_| Call::random(&mut random)).collect(), cut_all: true }
}

/// Checks the histories on all threads; fails with the shortest history that still fails.
fn check_all(histories: &[History], seen: &Seen) {
    let next = AtomicUsize::new(0);
    let failed = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while let Some(history) = histories.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(what) = check(history, seen) {
                        failed.lock().unwrap().push((history.clone(), what));
                        next.store(histories.len(), Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    if let Some((history, what)) = failed.into_iter().min_by_key(|(history, _)| history.calls.len()) {
        let (History { mode, seed, calls, .. }, what) = shorten(history, what);
        panic!("seed {seed}, mode {mode:?}, calls {calls:?}\n{what}");
    }
}

/// Leaves out one call after another, as long as the rest still fails.
fn shorten(mut history: History, mut what: String) -> (History, String) {
    'again: loop {
        for i in 0..history.calls.len() {
            let mut shorter = history.clone();
            shorter.calls.remove(i);
            if let Err(still) = check(&shorter, &Seen::new()) {
                (history, what) = (shorter, still);
                continue 'again;
            }
        }
        return (history, what);
    }
}

fn check(history: &History, seen: &Seen) -> Result<(), String> {
    // With an index file, there are many more images of a moment.
    let least_share = if history.mode == Mode::Indexed { 64 } else { 1 };
    let share = depth::cut_recoveries_step(history.calls.len()).max(least_share);
    let most = if history.cut_all { RANDOM_IMAGES } else { usize::MAX };
    let again = history.calls.iter().rev().take(2).rev();
    let again = again.filter(|call| !call.begins_anew() && **call != Call::Backup).copied().collect();
    let (settled, backups) = (HashSet::new(), HashSet::new());
    // What follows a power cut is as durable as can be.
    let mode = if history.mode == Mode::Indexed { Mode::Indexed } else { Mode::Sync };
    let check = Check { seen, seed: history.seed, mode, share, most, again, settled, backups };
    panic::catch_unwind(AssertUnwindSafe(|| check.history(history))).map_err(|panic| {
        match panic.downcast::<String>() {
            Ok(text) => *text,
            Err(_) => "a panic without a text".to_owned(),
        }
    })
}

/// One history, with a power cut wherever there can be one.
struct Check<'a> {
    seen: &'a Seen,
    seed: u64,
    /// How the store is used after a power cut.
    mode: Mode,
    /// One image in this many is also cut during its recovery.
    share: u64,
    /// How many images are opened for a moment.
    most: usize,
    /// The last calls of the history, which an agent would make again.
    again: Vec<Call>,
    /// Logs after recovery for which `goes_on` has passed.
    settled: HashSet<u64>,
    /// Backups that were found whole.
    backups: HashSet<(PathBuf, u64)>,
}

impl Check<'_> {
    fn history(mut self, history: &History) {
        let mut agent = Agent::new(Sim::new(mix(history.seed)), history.mode);
        let is_cut = |call: usize| history.cut_all || call == history.calls.len();
        if is_cut(0) {
            agent.sim.record();
        }
        agent.start().unwrap();
        let mut copies = Vec::new();
        for (i, &call) in history.calls.iter().enumerate() {
            if !history.cut_all && is_cut(i + 1) {
                agent.sim.record();
            }
            let begun = agent.sim.ops();
            agent.make(call).unwrap();
            if call.copies() {
                copies.push(begun..agent.sim.ops());
            }
        }
        for moment in agent.sim.take_moments() {
            let allowed = Allowed::new(agent.allowed_at(moment.ops));
            let is_copying = copies.iter().any(|copy| copy.contains(&moment.ops));
            let most = if is_copying { COPY_IMAGES } else { self.most };
            crash::some_images(&moment.world, mix(self.seed ^ moment.ops as u64), most, &mut |image| {
                let place = || format!("cut before operation {}", moment.ops);
                self.image(image, &allowed, Depth::One, &place);
                self.backups(image, &agent.backups, moment.ops, &place);
            });
            if is_copying {
                self.killed(&moment, &allowed);
            }
        }
    }

    /// The process is killed, so what it wrote is still in the page cache. Power is cut only after the next
    /// process has got a promise.
    fn killed(&mut self, moment: &Moment, allowed: &Allowed<'_>) {
        let mut agent = Agent::new(Sim::at(moment.world.clone(), self.seed), self.mode);
        agent.oracle = Oracle::any_of(allowed.states);
        agent.start().unwrap();
        agent.make(Call::Enqueue { job: 9, len: 100 }).unwrap();
        let allowed = Allowed::new(agent.oracle.allowed());
        crash::some_images(&agent.sim.world(), self.seed, COPY_IMAGES, &mut |image| {
            let place = || format!("killed before operation {}, opened, written, cut", moment.ops);
            self.image(image, &allowed, Depth::Three, &place);
        });
    }

    /// Every backup is absent or whole, and it is present if its call has returned.
    fn backups(&mut self, image: &Image, made: &[BackedUp], ops: usize, place: &dyn Fn() -> String) {
        for backup in made {
            let Some(content) = image.get(&backup.path) else {
                assert!(!backup.must_be_there(ops), "{}: {} is gone", place(), backup.path.display());
                continue;
            };
            if self.backups.insert((backup.path.clone(), content.hash())) {
                backup.check(&Sim::on(&Image::from([(backup.path.clone(), content.clone())]), self.seed));
            }
        }
    }

    /// Opens an image and checks that it holds one of the allowed states.
    fn image(&mut self, image: &Image, allowed: &Allowed<'_>, depth: Depth, place: &dyn Fn() -> String) {
        let hash = world::hash(image);
        let known = self.seen.shard(hash).get(&hash).copied();
        if let Some(found) = known {
            assert!(allowed.hashes.contains(&found), "{}: not among {:#?}", place(), allowed.states);
            return;
        }
        let sim = Sim::on(image, hash);
        if depth == Depth::One && hash.is_multiple_of(self.share) {
            sim.record();
        }
        let store = open(&sim, Mode::Sync).unwrap_or_else(|error| panic!("{}: {error}", place()));
        let moments = sim.take_moments();
        let was_cut = store.recovery().quarantined.is_some();
        self.seen.by_index.fetch_add(usize::from(store.recovery().opening.by_index), Ordering::Relaxed);
        let found = Model::take(&store).unwrap_or_else(|error| panic!("{}: {error}", place()));
        sim.kill();
        drop(store);
        assert!(allowed.states.contains(&found), "{}: found {found:#?}, not among {:#?}", place(), allowed.states);
        self.seen.shard(hash).insert(hash, found.hash());

        // A crash during this recovery must not change what it would have found.
        let same = Allowed::new(std::slice::from_ref(&found));
        let (after, during) = moments.split_last().unwrap();
        for moment in during {
            crash::some_images(&moment.world, mix(hash ^ moment.ops as u64), self.most, &mut |image| {
                let place = || format!("{}, then before operation {} of its recovery", place(), moment.ops);
                self.image(image, &same, Depth::Two, &place);
            });
        }
        if depth == Depth::One && was_cut && hash.is_multiple_of(self.share) {
            self.tries_again(image, &found, place);
        }
        let settled = if self.mode == Mode::Indexed { after.world.live() } else { log_of(&after.world) };
        if depth != Depth::Three && self.settled.insert(world::hash(&settled)) {
            self.goes_on(&after.world, &found, place);
        }
    }

    /// The lost calls are made again after the torn tail was cut off, and power is cut during them.
    fn tries_again(&mut self, image: &Image, found: &Model, place: &dyn Fn() -> String) {
        let mut agent = Agent::new(Sim::on(image, self.seed), self.mode);
        agent.oracle = Oracle::of(found.clone());
        agent.start().unwrap();
        agent.sim.record();
        for call in self.again.clone() {
            agent.make(call).unwrap();
        }
        for moment in agent.sim.take_moments() {
            let allowed = Allowed::new(agent.allowed_at(moment.ops));
            crash::some_images(&moment.world, self.seed, AGAIN_IMAGES, &mut |image| {
                let place =
                    || format!("{}, recovered, calls made again, cut before operation {}", place(), moment.ops);
                self.image(image, &allowed, Depth::Two, &place);
            });
        }
    }

    /// What a recovery found stays, even if the power is cut again, and the store can be written and reopened.
    fn goes_on(&mut self, after: &World, found: &Model, place: &dyn Fn() -> String) {
        let same = Allowed::new(std::slice::from_ref(found));
        crash::some_images(after, self.seed, self.most, &mut |image| {
            self.image(image, &same, Depth::Three, &|| format!("{}, recovered, cut again", place()));
        });
        let mut agent = Agent::new(Sim::at(after.clone(), self.seed), self.mode);
        agent.oracle = Oracle::of(found.clone());
        agent.start().unwrap();
        agent.make(Call::Enqueue { job: 9, len: 100 }).unwrap();
        agent.make(Call::Kill).unwrap();
        agent.make(Call::Ack { job: 9 }).unwrap();
        agent.make(Call::Reopen).unwrap();
        let found = Model::take(agent.store()).unwrap();
        assert_eq!(&found, agent.oracle.current(), "{}, then written and reopened", place());
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Depth {
    One,
    Two,
    /// After a recovery that was cut. The image is only opened.
    Three,
}

struct Allowed<'a> {
    states: &'a [Model],
    hashes: Vec<u64>,
}

impl<'a> Allowed<'a> {
    fn new(states: &'a [Model]) -> Self {
        Allowed { states, hashes: states.iter().map(Model::hash).collect() }
    }
}

/// The log alone: the quarantined bytes differ each time and are no part of the store.
fn log_of(world: &World) -> Image {
    world.live().into_iter().filter(|(path, _)| path.ends_with("state.db")).collect()
}
