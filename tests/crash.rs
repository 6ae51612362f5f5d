//! Power cuts: after every operation of every short history, and inside the recovery from an earlier power cut, each
//! image that the disk could then hold must open, and hold what was promised.

#![allow(clippy::unwrap_used, reason = "tests")]

mod sim;

use std::collections::{HashMap, HashSet};
use std::panic::{self, AssertUnwindSafe};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use sim::Sim;
use sim::crash;
use sim::random::{Random, mix};
use sim::workload::{Agent, Call, Mode, Model, Oracle, open};
use sim::world::{self, Image, World};

/// Small and large, so that frames share sectors, fill one, and reach over several.
const ALPHABET: [Call; 10] = [
    Call::SaveConfig { len: 2500 },
    Call::Enqueue { job: 0, len: 30 },
    Call::Enqueue { job: 1, len: 700 },
    Call::Ack { job: 0 },
    Call::SaveSession { len: 400 },
    Call::Heartbeat,
    Call::BufferLog { ts_ms: -1, len: 900 },
    Call::DrainLogs { n: 2 },
    Call::Sync,
    Call::Reopen,
];
const HISTORY_LEN: u32 = 3;
const RANDOM_HISTORIES: usize = 60;
const RANDOM_HISTORY_LEN: usize = 12;
/// One image in so many is also cut inside its recovery.
const DEPTH_TWO_SHARE: u64 = 4;
const THREADS: usize = 2;

#[derive(Clone, Debug)]
struct History {
    mode: Mode,
    seed: u64,
    calls: Vec<Call>,
    /// Whether power is cut in every call, or only in the last: the others are last in another history.
    cut_all: bool,
}

/// What one thread has seen.
#[derive(Default)]
struct Seen {
    images: HashSet<u64>,
    opened: u64,
}

#[test]
fn every_image_after_a_power_cut_opens_and_holds_what_was_promised() {
    let begun = Instant::now();
    let mut seen = Seen::default();
    for len in 0..=HISTORY_LEN {
        let all = |mode| (0..ALPHABET.len().pow(len)).map(move |number| exhaustive(mode, len, number));
        check_all(Mode::ALL.into_iter().flat_map(all).collect(), &mut seen);
        println!("every history of {len} calls: {} distinct images so far", seen.images.len());
    }
    let first_seed = std::env::var("CRASH_SEED").map_or(1, |seed| seed.parse().unwrap());
    let count = std::env::var("CRASH_HISTORIES").map_or(RANDOM_HISTORIES, |count| count.parse().unwrap());
    check_all((first_seed..).take(count).map(random_history).collect(), &mut seen);
    let Seen { images, opened } = seen;
    println!("{} distinct images, {opened} opened, {:.1?}", images.len(), begun.elapsed());
    assert!(images.len() >= 1_000_000, "{} distinct images", images.len());
}

fn exhaustive(mode: Mode, len: u32, number: usize) -> History {
    let calls = (0..len).map(|i| ALPHABET[number / ALPHABET.len().pow(i) % ALPHABET.len()]);
    History { mode, seed: 0, calls: calls.collect(), cut_all: false }
}

fn random_history(seed: u64) -> History {
    let mut random = Random::new(seed);
    let mode = Mode::ALL[random.below(Mode::ALL.len())];
    let len = 4 + random.below(RANDOM_HISTORY_LEN - 3);
    History { mode, seed, calls: (0..len).map(|_| Call::random(&mut random)).collect(), cut_all: true }
}

/// Checks the histories on all threads; fails with the shortest history of the first one that fails.
fn check_all(histories: Vec<History>, seen: &mut Seen) {
    let next = AtomicUsize::new(0);
    let failed = Mutex::new(Vec::new());
    thread::scope(|scope| {
        let work = || {
            let mut seen = Seen::default();
            while let Some(history) = histories.get(next.fetch_add(1, Ordering::Relaxed)) {
                if let Err(what) = check(history, &mut seen) {
                    failed.lock().unwrap().push((history.clone(), what));
                    next.store(histories.len(), Ordering::Relaxed);
                }
            }
            seen
        };
        for thread in [(); THREADS].map(|()| scope.spawn(work)) {
            let Seen { images, opened } = thread.join().unwrap();
            seen.images.extend(images);
            seen.opened += opened;
        }
    });
    let failed = failed.into_inner().unwrap();
    if let Some((history, what)) = failed.into_iter().min_by_key(|(history, _)| history.calls.len()) {
        let (history, what) = shorten(history, what);
        panic!("seed {}, {:?}: {:#?}\n{what}", history.seed, history.mode, history.calls);
    }
}

/// Leaves calls out for as long as the rest still fails.
fn shorten(mut history: History, mut what: String) -> (History, String) {
    'again: loop {
        for i in 0..history.calls.len() {
            let mut shorter = history.clone();
            shorter.calls.remove(i);
            if let Err(still) = check(&shorter, &mut Seen::default()) {
                (history, what) = (shorter, still);
                continue 'again;
            }
        }
        return (history, what);
    }
}

fn check(history: &History, seen: &mut Seen) -> Result<(), String> {
    let run =
        || Check { seen, seed: history.seed, found: HashMap::new(), settled: HashSet::new() }.history(history);
    panic::catch_unwind(AssertUnwindSafe(run)).map_err(|panic| match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(_) => "a panic without a text".to_owned(),
    })
}

/// One history, cut wherever it can be cut.
struct Check<'a> {
    seen: &'a mut Seen,
    seed: u64,
    /// What an image was found to hold. The same image may come again when more was promised.
    found: HashMap<u64, Model>,
    /// Images after recovery that went on well.
    settled: HashSet<u64>,
}

impl Check<'_> {
    fn history(&mut self, history: &History) {
        let mut agent = Agent::new(Sim::new(mix(history.seed)), history.mode);
        let cut_from = |call: usize| history.cut_all || call == history.calls.len();
        if cut_from(0) {
            agent.sim.record();
        }
        agent.start().unwrap();
        for (i, &call) in history.calls.iter().enumerate() {
            if !history.cut_all && cut_from(i + 1) {
                agent.sim.record();
            }
            agent.make(call).unwrap();
        }
        for moment in agent.sim.take_moments() {
            let allowed = agent.allowed_at(moment.ops);
            crash::images(&moment.world, mix(self.seed ^ moment.ops as u64), &mut |image| {
                self.image(image, allowed, 1, &|| format!("cut before operation {}", moment.ops));
            });
        }
    }

    /// Opens an image and holds what is found against what is allowed.
    fn image(&mut self, image: &Image, allowed: &[Model], depth: u32, place: &dyn Fn() -> String) {
        let hash = world::hash(image);
        if let Some(found) = self.found.get(&hash) {
            assert!(allowed.contains(found), "{}", not_allowed(place, found, allowed));
            return;
        }
        self.seen.images.insert(hash);
        self.seen.opened += 1;
        let sim = Sim::on(image, hash);
        if depth == 1 && hash % DEPTH_TWO_SHARE == 0 {
            sim.record();
        }
        let store = open(&sim, Mode::Sync).unwrap_or_else(|error| panic!("{}, depth {depth}: {error}", place()));
        let moments = sim.take_moments();
        let after = &moments.last().unwrap().world;
        let found = Model::take(&store).unwrap_or_else(|error| panic!("{}, depth {depth}: {error}", place()));
        sim.kill();
        drop(store);
        assert!(allowed.contains(&found), "{}", not_allowed(place, &found, allowed));
        self.found.insert(hash, found.clone());
        for moment in &moments[..moments.len() - 1] {
            crash::images(&moment.world, mix(hash ^ moment.ops as u64), &mut |image| {
                let place = || format!("{}, then before operation {} of its recovery", place(), moment.ops);
                self.image(image, allowed, depth + 1, &place);
            });
        }
        if self.settled.insert(world::hash(&log_of(after))) {
            self.goes_on(after, &found, place);
        }
    }

    /// What a recovery found stays, whether or not the power is cut again, and the store can be written and reopened.
    fn goes_on(&mut self, after: &World, found: &Model, place: &dyn Fn() -> String) {
        crash::images(after, self.seed, &mut |image| {
            let place = || format!("{}, recovered, cut again", place());
            self.image(image, std::slice::from_ref(found), 2, &place);
        });
        let mut agent = Agent::new(Sim::at(after.clone(), self.seed), Mode::Sync);
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

/// The log alone: what was set aside is different each time and no part of the store.
fn log_of(world: &World) -> Image {
    world.live().into_iter().filter(|(path, _)| path.ends_with("state.db")).collect()
}

fn not_allowed(place: &dyn Fn() -> String, found: &Model, allowed: &[Model]) -> String {
    format!("{}: found {found:#?}\nallowed are {allowed:#?}", place())
}
