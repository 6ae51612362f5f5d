//! An agent that is killed by SIGKILL at random moments, many times, and restarted each time.
//!
//! Several threads write, each to its own keys, and report each call that has returned. So after a kill exactly
//! two states of each thread are right: the one after the last reported call, and the one after the next call. The
//! parent keeps the list of calls, outside the store.

use std::path::Path;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use backupy_state::{Durability, OpenOptions, Store};

use crate::common::{Action, Image, Place, Random, State, child_path, depth, key, say, spawn, test_binary};

const THREADS: usize = 4;
/// How many kills; without it, `depth::kills` decides.
const KILLS_VAR: &str = "BACKUPY_TEST_KILLS";
const SEED_VAR: &str = "BACKUPY_TEST_SEED";
const FROM_VAR: &str = "BACKUPY_TEST_FROM";

/// The call number `number` of a thread: the same whenever it is asked for.
fn call(thread: usize, number: usize, seed: u64) -> Action {
    let mut random = Random::new(seed ^ ((thread as u64) << 56) ^ number as u64);
    // Most are small; a few are long enough to be killed in the middle of.
    let payload_len = if random.below(25) == 0 { random.below(400_000) } else { random.below(600) };
    let run_id = format!("{}job-{}", prefix(thread), random.below(10));
    let ts_ms = i64::try_from(random.below(5)).unwrap();
    match (thread, random.below(6)) {
        // One thread has the logs and the configuration, one the session and the heartbeat: they have one key
        // each.
        (0, 0..=2) => Action::BufferLog(ts_ms, random.bytes(payload_len)),
        // As many as are added: at 64 MiB the buffer would drop some by itself.
        (0, 3) => Action::Drain(random.below(7)),
        (0, 4) => Action::SaveConfig(number as u64, random.bytes(payload_len)),
        (1, 0) => Action::SaveSession(format!("session {number}"), ts_ms),
        (1, 1) => Action::Heartbeat(i64::try_from(number).unwrap()),
        (2, 0) => Action::PutData(format!("{run_id}/data"), random.bytes(payload_len)),
        (2, 1) => Action::DeleteData(format!("{run_id}/data")),
        (_, 5) => Action::Ack(run_id),
        _ => Action::Enqueue(run_id, random.bytes(payload_len)),
    }
}

/// The part of the state that one thread's calls made.
#[derive(Clone, Default)]
struct Own {
    calls: usize,
    state: State,
}

impl Own {
    /// After one more call.
    fn next(&self, thread: usize, seed: u64) -> Own {
        let mut next = self.clone();
        next.state.apply(&call(thread, self.calls, seed));
        next.calls += 1;
        next
    }
}

/// What the run ids and data keys of a thread begin with.
pub(super) fn prefix(thread: usize) -> String {
    format!("thread-{thread}-")
}

/// The part of a whole state that is the thread's own.
pub(super) fn part_of(whole: &State, thread: usize) -> State {
    let mut own = State { is_fifo: whole.is_fifo, ..State::default() };
    let prefix = prefix(thread);
    own.jobs = whole.jobs.iter().filter(|(run_id, _)| run_id.starts_with(&prefix)).cloned().collect();
    own.data = whole.data.clone().into_iter().filter(|(key, _)| key.starts_with(&prefix)).collect();
    if thread == 0 {
        own.config = whole.config.clone();
        own.logs = whole.logs.clone();
    }
    if thread == 1 {
        own.session = whole.session.clone();
        own.heartbeat = whole.heartbeat;
    }
    own
}

#[test]
fn child_that_writes_until_it_is_killed() {
    let Some(path) = child_path() else { return };
    let seed = std::env::var(SEED_VAR).unwrap().parse().unwrap();
    let from = std::env::var(FROM_VAR).unwrap();
    let store = &options().open(&path, &key()).unwrap();
    say(OPENED);
    thread::scope(|threads| {
        for (thread, from) in from.split(' ').map(|from| from.parse::<usize>().unwrap()).enumerate() {
            threads.spawn(move || {
                for number in from.. {
                    run(store, &call(thread, number, seed));
                    say(&format!("{thread} {number}"));
                }
            });
        }
    });
}

/// Events and heartbeats are buffered: a kill must not lose them either.
fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.log_durability(Durability::Buffered).heartbeat_durability(Durability::Buffered);
    options.lock_timeout(Duration::from_secs(60));
    options
}

fn run(store: &Store, call: &Action) {
    match call {
        Action::SaveConfig(version, raw) => store.save_config(*version, raw).unwrap(),
        Action::Enqueue(run_id, payload) => drop(store.enqueue_job(run_id, payload).unwrap()),
        Action::Ack(run_id) => assert!(matches!(store.ack_job(run_id), Ok(true | false))),
        Action::SaveSession(id, server_time_ms) => store.save_session(id, *server_time_ms).unwrap(),
        Action::Heartbeat(ts_ms) => store.record_heartbeat(*ts_ms).unwrap(),
        Action::BufferLog(ts_ms, payload) => assert!(store.buffer_log(*ts_ms, payload).is_ok()),
        Action::Drain(n) => drop(store.drain_logs(*n).unwrap()),
        Action::PutData(key, value) => store.put_data(key, value).unwrap(),
        Action::DeleteData(key) => assert!(matches!(store.delete_data(key), Ok(true | false))),
    }
}

/// Lets a child carry on from where the threads are, kills it, and returns how many calls each thread said.
fn write_and_kill(path: &Path, seed: u64, owns: &[Own], moment: Moment, delay: Duration) -> Vec<usize> {
    let from: Vec<String> = owns.iter().map(|own| own.calls.to_string()).collect();
    let mut command = test_binary("kills::child_that_writes_until_it_is_killed", path);
    let mut child = spawn(command.env(SEED_VAR, seed.to_string()).env(FROM_VAR, from.join(" ")));
    let mut lines = Vec::new();
    if moment == Moment::WhileWriting {
        lines = vec![child.hear().unwrap(), child.hear().unwrap()];
    }
    lines.extend(child.hear_and_kill_after(delay));
    let mut said = vec![0; owns.len()];
    for line in lines.iter().filter(|line| *line != OPENED) {
        let (thread, number) = line.split_once(' ').unwrap();
        let (thread, number): (usize, usize) = (thread.parse().unwrap(), number.parse().unwrap());
        assert_eq!(number, owns[thread].calls + said[thread], "each thread says its calls in order");
        said[thread] += 1;
    }
    said
}

const OPENED: &str = "opened";

/// From when on the kill may come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Moment {
    /// The start of the process: it may be opening and recovering.
    AtOnce,
    /// The first call that returned.
    WhileWriting,
}

#[test]
fn kills_lose_nothing_acknowledged_and_show_nothing_not_attempted() {
    let kills = kills();
    let seed = std::env::var(SEED_VAR).ok().map_or_else(random_seed, |seed| seed.parse().unwrap());
    println!("{SEED_VAR}={seed}");
    let mut random = Random::new(seed);
    let place = Place::new();
    let mut owns = vec![Own::default(); THREADS];
    let (mut unclean, mut torn) = (0, 0);
    for round in 0..kills {
        let moment = [Moment::AtOnce, Moment::WhileWriting][round % 2];
        let delay = Duration::from_micros(1000 + random.next() % 60_000);
        let said = write_and_kill(&place.path(), seed, &owns, moment, delay);
        for (thread, said) in said.into_iter().enumerate() {
            for _ in 0..said {
                owns[thread] = owns[thread].next(thread, seed);
            }
        }
        if !place.path().exists() {
            assert!(owns.iter().all(|own| own.calls == 0), "seed {seed}, round {round}");
            continue;
        }
        // Open a copy: the next child recovers the store itself.
        let copy = Place::new();
        Image::read(place.path()).write(copy.path());
        let store = copy.try_open().unwrap_or_else(|error| panic!("seed {seed}, round {round}: {error}"));
        unclean += usize::from(!store.recovery().clean);
        torn += usize::from(store.recovery().quarantined.is_some());
        let whole = State::take(&store);
        for (thread, own) in owns.iter_mut().enumerate() {
            let found = part_of(&whole, thread);
            let next = own.next(thread, seed);
            if found == next.state && found != own.state {
                *own = next;
            }
            assert!(found == own.state, "seed {seed}, round {round}, thread {thread}, call {}", own.calls);
        }
        let jobs: usize = owns.iter().map(|own| own.state.jobs.len()).sum();
        assert_eq!(whole.jobs.len(), jobs, "seed {seed}, round {round}");
    }
    let store = place.open();
    let whole = State::take(&store);
    for (thread, own) in owns.iter().enumerate() {
        assert!(part_of(&whole, thread) == own.state, "seed {seed}, at the end, thread {thread}");
    }
    let calls: usize = owns.iter().map(|own| own.calls).sum();
    println!("{kills} kills, {calls} calls, {unclean} unclean stops, {torn} torn tails, lost: 0");
    assert!(calls >= kills / 2 && unclean >= kills / 2);
}

fn kills() -> usize {
    std::env::var(KILLS_VAR).map_or_else(|_| depth::kills(), |kills| kills.parse().unwrap())
}

pub(super) fn random_seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::from(now.subsec_nanos()) ^ now.as_secs() << 20
}
