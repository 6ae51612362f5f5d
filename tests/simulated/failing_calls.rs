//! Every call of the operating system fails, in every way, once and from then on: the error is typed, nothing is
//! acknowledged that is not there later, and a failed sync is never repeated.

use std::collections::HashSet;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::sync::Arc;

use backupy_state::testing::{options_on, verify_on};
use backupy_state::{Batch, Error, LogAdmission, LogLimits, LogRate, Result, Stats};

use crate::common::depth;
use crate::sim::crash;
use crate::sim::random::mix;
use crate::sim::world::{self, FailedSync, World};
use crate::sim::{Agent, Call, FEW, Mode, Model, PATH, TORN, key, open};
use crate::sim::{EDQUOT, EINTR, EIO, ENOSPC, Failure, Op, Sim};

/// Every kind of call, over three sessions, one of which is killed.
const CALLS: [Call; 17] = [
    Call::SaveConfig { len: 1200 },
    Call::Enqueue { job: 0, len: 30 },
    Call::Enqueue { job: 1, len: 700 },
    Call::BufferLog { ts_ms: 1, len: 90 },
    Call::BufferLog { ts_ms: 0, len: 40 },
    Call::Heartbeat,
    Call::Enqueue { job: 0, len: 60 },
    Call::Ack { job: 1 },
    Call::DrainLogs { n: 1 },
    Call::SaveSession { len: 50 },
    Call::Sync,
    Call::Reopen,
    Call::Enqueue { job: 2, len: 300 },
    Call::Kill,
    Call::Enqueue { job: 3, len: 10 },
    Call::Ack { job: 0 },
    Call::DrainLogs { n: 9 },
];

/// What copies the log, between calls that show whether the store still works.
const COPYING_CALLS: [Call; 15] = [
    Call::Enqueue { job: 0, len: 300 },
    Call::BufferLog { ts_ms: 1, len: 90 },
    Call::BufferLog { ts_ms: 0, len: 40 },
    Call::Batch { job: 0, len: 90 },
    Call::PeekLogs { n: 1 },
    Call::Compact,
    Call::AckLogs { n: 1 },
    Call::Enqueue { job: 2, len: 30 },
    Call::Rekey,
    Call::Ack { job: 2 },
    Call::Backup,
    Call::Heartbeat,
    Call::ReopenRekeyed,
    Call::Enqueue { job: 3, len: 20 },
    Call::Compact,
];

/// With two files there are thousands, and most differ only in the one that has no name yet.
const COPY_IMAGES: usize = 12;

const FAILURES: [Failure; 6] = [
    Failure::Errno(EIO),
    Failure::Errno(ENOSPC),
    Failure::Errno(EDQUOT),
    Failure::Errno(EINTR),
    Failure::Short,
    Failure::Zero,
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lasting {
    Once,
    Sticky,
}

/// One failure in a run of [`CALLS`].
#[derive(Clone, Copy, Debug)]
struct Case {
    mode: Mode,
    failed_sync: FailedSync,
    op: Op,
    n: usize,
    failure: Failure,
    lasting: Lasting,
}

impl Case {
    fn plan(&self, sim: &Sim) {
        match (self.lasting, self.failure) {
            (Lasting::Once, failure) => sim.fail(self.n, failure),
            // An interrupted read or write is repeated, as std does it: for ever, if it came to that.
            (Lasting::Sticky, failure @ Failure::Errno(EINTR)) => {
                (0..50).for_each(|i| sim.fail(self.n + i, failure));
            }
            (Lasting::Sticky, failure) => sim.fail_from(self.n, failure),
        }
    }

    /// Every failure of every operation that `run` does on a disk like `disk`.
    fn all(mode: Mode, disk: impl Fn() -> Sim, run: impl Fn(&Sim)) -> Vec<Case> {
        let sim = disk();
        run(&sim);
        let mut cases = Vec::new();
        for (n, op) in sim.trace().into_iter().enumerate() {
            for failure in FAILURES {
                for lasting in [Lasting::Once, Lasting::Sticky] {
                    for failed_sync in [FailedSync::LosesAll, FailedSync::LosesSome, FailedSync::KeepsAll] {
                        // What a failed sync loses matters only where a sync can fail.
                        if failed_sync == FailedSync::LosesAll || op == Op::Sync || lasting == Lasting::Sticky {
                            cases.push(Case { mode, failed_sync, op, n, failure, lasting });
                        }
                    }
                }
            }
        }
        cases
    }
}

/// Runs all cases on two threads, and names the one that fails.
fn check_all(cases: &[Case], check: impl Fn(&Case) + Sync) {
    let halves = cases.split_at(cases.len() / 2);
    std::thread::scope(|scope| {
        for half in [halves.0, halves.1] {
            let check = &check;
            scope.spawn(move || {
                for case in half {
                    let checked = panic::catch_unwind(AssertUnwindSafe(|| check(case)));
                    assert!(checked.is_ok(), "with {case:?}");
                }
            });
        }
    });
    println!("{} cases", cases.len());
}

#[test]
fn whatever_fails_nothing_acknowledged_is_lost() {
    whatever_fails(&CALLS, usize::MAX);
}

#[test]
fn whatever_fails_in_a_compaction_nothing_acknowledged_is_lost() {
    whatever_fails(&COPYING_CALLS, COPY_IMAGES);
}

/// `images` are taken of each choice of names after a power cut.
fn whatever_fails(calls: &[Call], images: usize) {
    for mode in Mode::ALL {
        let disk = || Sim::new(mix(7));
        let run = |sim: &Sim| {
            let mut agent = Agent::new(sim.clone(), mode);
            agent.start().unwrap();
            calls.iter().for_each(|&call| agent.make(call).unwrap());
            agent.close().unwrap();
        };
        let cases: Vec<_> = Case::all(mode, disk, run).into_iter().step_by(depth::failure_step()).collect();
        check_all(&cases, |case| run_with_failure(case, calls, disk(), images));
    }
}

fn run_with_failure(case: &Case, calls: &[Call], sim: Sim, images: usize) {
    sim.set_failed_sync(case.failed_sync);
    case.plan(&sim);
    let mut agent = Agent::new(sim, case.mode);
    let mut has_failed = false;
    let mut calls = calls.iter();
    // If the store cannot be opened, the run ends there.
    let mut opened = agent.start();
    while opened.is_ok()
        && let Some(&call) = calls.next()
    {
        let begins_anew = call.begins_anew();
        let is_over = case.lasting == Lasting::Once && agent.sim.ops() > case.n;
        let before = agent.store().stats();
        let made = agent.make(call);
        if let Err(error) = &made {
            assert_typed(case, error, has_failed);
        }
        if begins_anew {
            has_failed = false;
            // A close that failed leaves nothing open; the next process starts all the same.
            opened = if agent.is_open() { Ok(()) } else { agent.start() };
            continue;
        }
        if has_failed {
            // What a copy says of a failed store has a test of its own.
            let is_refused = match &made {
                Err(Error::Failed { .. }) => true,
                // It may have to look first at what it acks.
                Err(Error::Io { operation: "read", .. }) => true,
                made => !call.writes() || call.copies() && made.is_err(),
            };
            assert!(is_refused, "{call:?} returned {made:?} after a failure");
        } else if is_over {
            assert!(made.is_ok(), "{call:?} returned {made:?}");
        }
        let is_before_switch = |error: &Error| !has_failed && !fails_for_good(call, error);
        if let Some(error) = made.as_ref().err().filter(|error| call.copies() && is_before_switch(error)) {
            old_log_stays(case, &agent, call, &before, error);
        }
        has_failed |= made.is_err_and(|error| fails_for_good(call, &error));
    }
    if let Err(error) = &opened {
        assert_typed(case, error, false);
    }
    if has_failed {
        refuses_writes_and_goes_on_reading(&agent);
    }
    // A crash may come while the store is failed, or after it was closed.
    survives_some(&agent.sim.world(), agent.oracle.allowed(), images);
    backups_survive(&agent);
    if let Err(error) = agent.close() {
        assert_typed(case, &error, has_failed);
    }
    survives_some(&agent.sim.world(), agent.oracle.allowed(), images);
    no_sync_was_repeated(case, &agent.sim);
}

/// An error of the log's own file after which nothing is written any more.
fn fails_for_good(call: Call, error: &Error) -> bool {
    let Error::Io { operation, .. } = error else { return false };
    match call {
        // What happens to the new file concerns nobody.
        Call::Compact | Call::Rekey => matches!(*operation, "sync the folder" | "cut the space ahead off"),
        Call::Backup => false,
        _ => matches!(*operation, "write" | "sync" | "allocate space in"),
    }
}

/// A copy that failed leaves the old log, says so, and leaves no file behind.
fn old_log_stays(case: &Case, agent: &Agent, call: Call, before: &Stats, error: &Error) {
    let stats = agent.store().stats();
    assert_eq!(stats.generation, before.generation, "{call:?}: {error}");
    if call == Call::Backup {
        assert_eq!(stats.compaction, before.compaction);
    } else if !call.begins_anew() {
        assert_eq!(stats.compaction.failed, before.compaction.failed + 1, "{call:?}: {error}");
        assert_eq!(stats.compaction.last_error, Some(error.to_string()));
    }
    let cannot_remove = case.op == Op::Remove || case.lasting == Lasting::Sticky;
    let left: Vec<_> = agent.sim.live().into_keys().filter(|path| path.ends_with(".new")).collect();
    assert!(left.is_empty() || cannot_remove, "{call:?}: {error}: left {left:?}");
}

/// As far as their calls returned; the others are there whole or not at all.
fn backups_survive(agent: &Agent) {
    let mut whole = HashSet::new();
    crash::some_images(&agent.sim.world(), 6, 60, &mut |image| {
        for backup in &agent.backups {
            match image.get(&backup.path) {
                None => assert!(!backup.must_be_there(agent.sim.ops()), "{} is gone", backup.path.display()),
                Some(content) => {
                    if whole.insert(content.hash()) {
                        backup.check(&Sim::on(&[(backup.path.clone(), content.clone())].into(), 7));
                    }
                }
            }
        }
    });
}

fn assert_typed(case: &Case, error: &Error, has_failed: bool) {
    let Case { failure, op, lasting, .. } = *case;
    let is_full = matches!(failure, Failure::Errno(ENOSPC | EDQUOT));
    let is_right = match error {
        Error::Io { .. } => !(is_full && op == Op::Write && lasting == Lasting::Once),
        Error::Full { .. } => is_full,
        Error::Failed { .. } => has_failed,
        // What reads as nothing was not copied, or was not written.
        Error::Corrupt { .. } if op == Op::Read && failure == Failure::Zero => true,
        // A header that reads as nothing is no header.
        Error::NotAStore { .. } | Error::Corrupt { offset: 0, .. } => {
            op == Op::Read && failure == Failure::Zero || lasting == Lasting::Sticky
        }
        _ => false,
    };
    assert!(is_right, "{error:?}");
}

fn refuses_writes_and_goes_on_reading(agent: &Agent) {
    agent.sim.heal();
    let ops = agent.sim.ops();
    let store = agent.store();
    assert!(matches!(store.sync(), Err(Error::Failed { .. })));
    assert!(matches!(store.ack_job("none"), Err(Error::Failed { .. })));
    assert!(matches!(store.drain_logs(0), Err(Error::Failed { .. })));
    assert!(matches!(store.enqueue_job("a", b"b"), Err(Error::Failed { .. })));
    assert_eq!(agent.sim.ops(), ops, "a failed store touches the disk");
    let read = Model::read(store).unwrap();
    assert!(agent.oracle.allowed().iter().any(|allowed| allowed.without_logs() == read), "reads {read:?}");
}

/// After a kill and after a power cut, with a healthy disk, the store opens, holds what was promised, and keeps it.
fn survives(world: &World, allowed: &[Model]) {
    survives_some(world, allowed, usize::MAX);
}

/// With so many images of each choice of names.
fn survives_some(world: &World, allowed: &[Model], images: usize) {
    let sim = Sim::at(world.clone(), 1);
    opens_and_keeps(&sim, allowed, images);
    crash::some_images(world, 2, images, &mut |image| {
        let found = take(&Sim::on(image, 3)).unwrap();
        assert!(allowed.contains(&found), "after a power cut {found:#?}, not among {allowed:#?}");
    });
}

fn opens_and_keeps(sim: &Sim, allowed: &[Model], images: usize) {
    let store = open(sim, Mode::Sync).unwrap();
    let after = sim.world();
    let found = Model::take(&store).unwrap();
    assert!(allowed.contains(&found), "after a kill {found:#?}, not among {allowed:#?}");
    // What an open has shown is on the disk, whatever an earlier failed sync has lost.
    crash::some_images(&after, 4, images, &mut |image| assert_eq!(take(&Sim::on(image, 5)).unwrap(), found));
}

fn take(sim: &Sim) -> Result<Model> {
    Model::take(&open(sim, Mode::Sync)?)
}

/// From a sync that failed to the next open, there is no other.
fn no_sync_was_repeated(case: &Case, sim: &Sim) {
    if case.op == Op::Sync && matches!(case.failure, Failure::Errno(_)) {
        let next_open = sim.trace()[case.n + 1..].iter().position(|&op| op == Op::Lock);
        let until = next_open.map_or(usize::MAX, |ops| case.n + 1 + ops);
        let syncs = sim.syncs_of_same_file(case.n);
        assert!(syncs.iter().all(|&n| n <= case.n || n > until), "a failed sync was repeated");
    }
}

#[test]
fn io_error_during_recovery_leaves_the_file_unchanged() {
    let torn = torn_store();
    let log = Path::new(PATH);
    let tail_at = log_len(&torn);
    let before = torn.live()[log].clone();
    let tail = before.trimmed_bytes().split_off(tail_at);
    assert!(!tail.is_empty());
    let disk = || Sim::at(torn.clone(), 6);
    let cases = Case::all(Mode::Sync, disk, |sim| drop(open(sim, Mode::Sync).unwrap()));
    let expected = take(&disk()).unwrap();
    check_all(&cases, |case| {
        let sim = disk();
        sim.set_failed_sync(case.failed_sync);
        case.plan(&sim);
        let opened = open(&sim, Mode::Sync);
        let Err(error) = opened else { return };
        assert_typed(case, &error, false);
        let after = sim.live();
        let is_cut =
            sim.trace().iter().filter(|&&op| op == Op::SetLen).count() > 1 && after[log].len() == tail_at as u64;
        if is_cut {
            // Only once its copy is durable may the tail go.
            crash::images(&sim.world(), 7, &mut |image| {
                assert_eq!(image[Path::new(TORN)].bytes(), tail);
            });
        } else {
            assert_eq!(after[log].trimmed_bytes(), before.trimmed_bytes());
        }
        sim.heal();
        assert_eq!(take(&Sim::at(sim.world(), 8)).unwrap(), expected);
        crash::images(&sim.world(), 9, &mut |image| assert_eq!(take(&Sim::on(image, 10)).unwrap(), expected));
    });
}

/// After a kill in the middle of a write: three whole records, and a part of the fourth.
fn torn_store() -> World {
    let sim = Sim::new(5);
    let mut agent = Agent::new(sim.clone(), Mode::Sync);
    agent.start().unwrap();
    for job in 0..3 {
        agent.make(Call::Enqueue { job, len: 100 }).unwrap();
    }
    let before = sim.ops();
    let end = log_len(&sim.world());
    agent.make(Call::Enqueue { job: 3, len: 2000 }).unwrap();
    assert!(sim.trace()[before..].contains(&Op::Write));
    agent.kill();
    let mut image = sim.live();
    let log = image.get_mut(Path::new(PATH)).unwrap();
    log.write(&[0; 4096], end as u64 + 1000);
    World::of(&image)
}

/// Where the last whole frame ends.
fn log_len(world: &World) -> usize {
    let sim = Sim::at(world.clone(), 0);
    verify_on(&sim, PATH, Some(&key()), |_| {}).unwrap().log_len.try_into().unwrap()
}

#[test]
fn a_refused_store_is_not_changed_whatever_fails_beside() {
    let mut damaged = torn_store().live();
    let log = damaged.get_mut(Path::new(PATH)).unwrap();
    log.write(b"x", 4096 + 60);
    let disk = || Sim::on(&damaged, 6);
    let cases = Case::all(Mode::Sync, disk, |sim| assert!(open(sim, Mode::Sync).is_err()));
    check_all(&cases, |case| {
        let sim = disk();
        case.plan(&sim);
        assert!(open(&sim, Mode::Sync).is_err());
        assert_eq!(world::hash(&sim.live()), world::hash(&damaged));
    });
}

#[test]
fn full_disk_refuses_puts_and_lets_ack_and_drain_work() {
    let sim = Sim::new(11);
    sim.set_capacity(400 << 10);
    let mut agent = Agent::new(sim.clone(), Mode::Sync);
    agent.start().unwrap();
    agent.make(Call::BufferLog { ts_ms: 1, len: 100 }).unwrap();
    let mut jobs = 0;
    let refused = loop {
        match agent.make(Call::Enqueue { job: jobs, len: 4000 }) {
            Ok(()) => jobs += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, Error::Full { .. }), "{refused:?}");
    let refused = loop {
        if let Err(error) = agent.make(Call::BufferLog { ts_ms: 2, len: 0 }) {
            break error;
        }
    };
    assert!(matches!(refused, Error::Full { .. }), "{refused:?}");
    survives(&sim.world(), agent.oracle.allowed());
    // What was buffered and queued can still go.
    agent.make(Call::DrainLogs { n: 500 }).unwrap();
    for job in 0..jobs {
        agent.make(Call::Ack { job }).unwrap();
    }
    assert!(matches!(agent.make(Call::Heartbeat), Err(Error::Full { .. })));
    survives(&sim.world(), agent.oracle.allowed());
    agent.make(Call::Reopen).unwrap();
    assert!(matches!(agent.make(Call::Enqueue { job: 0, len: 4000 }), Err(Error::Full { .. })));
    sim.set_capacity(800 << 10);
    agent.make(Call::Enqueue { job: 0, len: 4000 }).unwrap();
    survives(&sim.world(), agent.oracle.allowed());
}

/// The count of dropped events is put into the log by what removes something; it must not make an ack a put.
#[test]
fn full_disk_lets_acks_work_while_a_count_of_drops_is_not_written_yet() {
    let sim = Sim::new(19);
    sim.set_capacity(400 << 10);
    let mut agent = Agent::new(sim.clone(), Mode::Buffered);
    agent.start().unwrap();
    let log = Call::BufferLog { ts_ms: 1, len: 100 };
    let mut jobs = 0;
    while agent.make(Call::Enqueue { job: jobs, len: 4000 }).is_ok() {
        jobs += 1;
        if jobs == 1 {
            (0..FEW).for_each(|_| agent.make(log).unwrap());
        }
    }
    while agent.make(Call::Heartbeat).is_ok() {}
    agent.make(Call::PeekLogs { n: 1 }).unwrap();
    agent.make(log).unwrap();
    assert_eq!(agent.store().stats().logs_dropped, 1);
    agent.make(Call::AckLogs { n: 1 }).unwrap();
    survives(&sim.world(), agent.oracle.allowed());

    // A batch that only acks, and the close, which has nothing else to write.
    let refused = agent.make(log);
    assert!(matches!(refused, Err(Error::Full { .. })), "{refused:?}");
    let mut limits = LogLimits::default();
    limits.rate = Some(LogRate { per_second: 0, burst: 0 });
    agent.close().unwrap();
    let mut options = options_on(Arc::new(sim.clone()));
    options.mmap(false).log_limits(limits);
    let dropped = || options.open(PATH, &key()).unwrap();
    let store = dropped();
    assert_eq!(store.buffer_log(1, b"too fast").unwrap(), LogAdmission::Dropped);
    store.write(Batch::new().ack_job("run-0")).unwrap();
    assert_eq!(store.buffer_log(1, b"too fast").unwrap(), LogAdmission::Dropped);
    assert_eq!((store.queue_depth(), store.stats().logs_dropped), (usize::from(jobs) - 1, 3));
    store.close().unwrap();
    assert_eq!(dropped().stats().logs_dropped, 3);
}

/// The next session has no room for what a torn tail takes, or for the reserve, and still comes up.
#[test]
fn full_disk_lets_a_killed_store_open_and_ack() {
    let sim = Sim::new(12);
    let mut agent = Agent::new(sim.clone(), Mode::Sync);
    agent.start().unwrap();
    for job in 0..4 {
        agent.make(Call::Enqueue { job, len: 500 }).unwrap();
    }
    sim.set_capacity(sim.world().used());
    agent.make(Call::Kill).unwrap();
    for job in 0..4 {
        agent.make(Call::Ack { job }).unwrap();
    }
    agent.make(Call::Reopen).unwrap();
    survives(&sim.world(), agent.oracle.allowed());
}

/// The reserve was given back by the close, and others have taken most of it since.
#[test]
fn little_room_is_enough_for_an_ack() {
    let sim = Sim::new(13);
    let mut agent = Agent::new(sim.clone(), Mode::Sync);
    agent.start().unwrap();
    agent.make(Call::Enqueue { job: 0, len: 500 }).unwrap();
    agent.make(Call::Reopen).unwrap();
    sim.set_capacity(sim.world().used() + 4096);
    assert!(matches!(agent.make(Call::Enqueue { job: 1, len: 500 }), Err(Error::Full { .. })));
    agent.make(Call::Ack { job: 0 }).unwrap();

    // The next space ahead begins behind the ack, and not on it.
    sim.set_capacity(u64::MAX);
    agent.make(Call::Enqueue { job: 2, len: 500 }).unwrap();
    survives(&sim.world(), agent.oracle.allowed());
}

/// The next record is shorter, so what was left of this one would stand behind it.
#[test]
fn a_write_that_runs_full_halfway_leaves_nothing_behind() {
    let sim = Sim::new(14);
    let mut agent = Agent::new(sim.clone(), Mode::Sync);
    agent.start().unwrap();
    agent.make(Call::Heartbeat).unwrap();
    let before = sim.ops();
    agent.make(Call::Heartbeat).unwrap();
    let write = sim.trace()[before..].iter().position(|&op| op == Op::Write).unwrap();
    sim.fail(sim.ops() + write, Failure::Short);
    sim.fail(sim.ops() + write + 1, Failure::Errno(ENOSPC));
    let made = agent.make(Call::Enqueue { job: 0, len: 5000 });
    assert!(matches!(made, Err(Error::Full { .. })), "{made:?}");
    assert_eq!(verify_on(&sim, PATH, Some(&key()), |_| {}).unwrap().torn_len, 0);
    agent.make(Call::Heartbeat).unwrap();
    assert_eq!(verify_on(&sim, PATH, Some(&key()), |_| {}).unwrap().torn_len, 0);
    survives(&sim.world(), agent.oracle.allowed());
}

/// Plans the failure for the next operation of that kind in a call like the one that is made to find it.
fn fail_next(agent: &mut Agent, op: Op, failure: Failure) {
    let before = agent.sim.ops();
    agent.make(Call::Heartbeat).unwrap();
    let at = agent.sim.trace()[before..].iter().position(|&done| done == op).unwrap();
    agent.sim.fail(agent.sim.ops() + at, failure);
}

/// The short form of the test of all failures, for the two that matter most.
#[test]
fn a_failed_sync_is_never_repeated_and_nothing_it_lost_is_shown_again() {
    for failed_sync in [FailedSync::LosesAll, FailedSync::LosesSome, FailedSync::KeepsAll] {
        let mut agent = Agent::new(Sim::new(15), Mode::Sync);
        agent.start().unwrap();
        agent.make(Call::Heartbeat).unwrap();
        agent.sim.set_failed_sync(failed_sync);
        fail_next(&mut agent, Op::Sync, Failure::Errno(EIO));
        let syncs = agent.sim.count(Op::Sync);
        let made = agent.make(Call::Enqueue { job: 0, len: 700 });
        assert!(matches!(made, Err(Error::Io { operation: "sync", .. })), "{made:?}");
        refuses_writes_and_goes_on_reading(&agent);
        assert!(matches!(agent.close(), Err(Error::Failed { .. })));
        assert_eq!(agent.sim.count(Op::Sync), syncs + 1);
        survives(&agent.sim.world(), agent.oracle.allowed());
    }
}

/// What lies far behind the last synced frame is looked at again, as well as what is near to it or to the end.
#[test]
fn of_a_long_tail_that_a_failed_sync_lost_nothing_is_shown_again() {
    for failed_sync in [FailedSync::LosesAll, FailedSync::LosesSome, FailedSync::KeepsAll] {
        let mut agent = Agent::new(Sim::new(21), Mode::Buffered);
        agent.start().unwrap();
        agent.make(Call::Enqueue { job: 0, len: 100_000 }).unwrap();
        agent.make(Call::Sync).unwrap();
        for job in 1..5 {
            agent.make(Call::Enqueue { job, len: 40_000 }).unwrap();
        }
        agent.sim.set_failed_sync(failed_sync);
        let sync = agent.sim.ops();
        agent.sim.fail(sync, Failure::Errno(EIO));
        let made = agent.make(Call::Sync);
        assert!(matches!(made, Err(Error::Io { operation: "sync", .. })), "{made:?}");
        survives_some(&agent.sim.world(), agent.oracle.allowed(), 20);
    }
}

#[test]
fn a_failed_write_ends_writing() {
    let mut agent = Agent::new(Sim::new(16), Mode::Sync);
    agent.start().unwrap();
    agent.make(Call::Heartbeat).unwrap();
    fail_next(&mut agent, Op::Write, Failure::Errno(EIO));
    let made = agent.make(Call::Enqueue { job: 0, len: 700 });
    assert!(matches!(made, Err(Error::Io { operation: "write", .. })), "{made:?}");
    refuses_writes_and_goes_on_reading(&agent);
    survives(&agent.sim.world(), agent.oracle.allowed());
}

/// A new store has no space ahead, so its first call makes some.
#[test]
fn an_io_error_while_the_log_grows_ends_writing() {
    let new_store = || {
        let mut agent = Agent::new(Sim::new(18), Mode::Sync);
        agent.start().unwrap();
        agent
    };
    let call = Call::Enqueue { job: 0, len: 700 };
    let mut healthy = new_store();
    let begun = healthy.sim.ops();
    healthy.make(call).unwrap();
    let growing = begun + healthy.sim.trace()[begun..].iter().position(|&op| op == Op::Write).unwrap();

    let mut agent = new_store();
    agent.sim.fail(growing, Failure::Errno(EIO));
    let made = agent.make(call);
    assert!(matches!(made, Err(Error::Io { operation: "allocate space in", .. })), "{made:?}");
    refuses_writes_and_goes_on_reading(&agent);
    survives(&agent.sim.world(), agent.oracle.allowed());
}

/// A frame longer than a step of space ahead goes over space that is allocated but holds no zeros yet.
#[test]
fn a_long_frame_that_finds_no_room_leaves_the_log_as_it_was() {
    let (call, before) = (Call::Enqueue { job: 0, len: 600_000 }, Call::Enqueue { job: 1, len: 400 });
    let used = || {
        let mut agent = Agent::new(Sim::new(19), Mode::Sync);
        agent.start().unwrap();
        agent.make(before).unwrap();
        agent
    };
    let mut healthy = used();
    let begun = healthy.sim.ops();
    healthy.make(call).unwrap();
    let ops = &healthy.sim.trace()[begun..];
    let (allocating, writing) = (Op::SetLen, Op::Write);
    assert_eq!(ops.iter().filter(|&&op| op == allocating).count(), 1, "{ops:?}");
    let with_room = ops.iter().filter(|&&op| op == writing).count();
    assert!(with_room >= 2, "zeros for the reserve, and the frame: {ops:?}");

    for (n, &op) in ops.iter().enumerate().filter(|&(_, &op)| op == allocating || op == writing) {
        let mut agent = used();
        let len = agent.store().stats().log_len;
        agent.sim.fail(begun + n, Failure::Errno(ENOSPC));
        let made = agent.make(call);
        // Where a smaller step suffices, the call goes on.
        assert!(matches!(made, Ok(()) | Err(Error::Full { .. })), "{op:?} {n}: {made:?}");
        if made.is_err() {
            assert_eq!(agent.store().stats().log_len, len);
            agent.make(Call::Ack { job: 1 }).unwrap();
        }
        survives(&agent.sim.world(), agent.oracle.allowed());

        let mut agent = used();
        agent.sim.fail(begun + n, Failure::Errno(EIO));
        let made = agent.make(call);
        assert!(matches!(made, Err(Error::Io { .. })), "{op:?} {n}: {made:?}");
        refuses_writes_and_goes_on_reading(&agent);
        survives(&agent.sim.world(), agent.oracle.allowed());
    }
}

/// What was not written is not done, for those who read on either.
#[test]
fn an_ack_that_finds_no_room_leaves_the_job_in_the_queue() {
    let mut agent = Agent::new(Sim::new(17), Mode::Sync);
    agent.start().unwrap();
    agent.make(Call::Enqueue { job: 0, len: 500 }).unwrap();
    fail_next(&mut agent, Op::Write, Failure::Errno(ENOSPC));
    let made = agent.make(Call::Ack { job: 0 });
    assert!(matches!(made, Err(Error::Full { .. })), "{made:?}");
    assert_eq!(&Model::read(agent.store()).unwrap(), &agent.oracle.current().without_logs());
    agent.make(Call::Ack { job: 0 }).unwrap();
}

/// A store with space ahead, and the number of the operation of `call` that is the last of its kind.
fn store_and_op_of(call: Call, op: Op) -> (Agent, usize) {
    let agent = || {
        let mut agent = Agent::new(Sim::new(15), Mode::Sync);
        agent.start().unwrap();
        for job in [0, 1, 0] {
            agent.make(Call::Enqueue { job, len: 3000 }).unwrap();
        }
        agent
    };
    let mut healthy = agent();
    healthy.make(call).unwrap();
    let n = healthy.sim.trace().iter().rposition(|&done| done == op).unwrap();
    let agent = agent();
    assert!(agent.sim.ops() <= n);
    (agent, n)
}

#[test]
fn a_folder_that_is_not_synced_after_the_switch_fails_the_store() {
    for call in [Call::Compact, Call::Rekey] {
        let (mut agent, n) = store_and_op_of(call, Op::SyncDir);
        agent.sim.fail(n, Failure::Errno(EIO));
        let made = agent.make(call);
        assert!(matches!(made, Err(Error::Io { operation: "sync the folder", .. })), "{made:?}");
        refuses_writes_and_goes_on_reading(&agent);
        assert_eq!(agent.store().stats().compaction.failed, 1);
        survives(&agent.sim.world(), agent.oracle.allowed());
    }
}

#[test]
fn a_failed_store_is_not_copied_and_its_disk_not_touched() {
    let (mut agent, n) = store_and_op_of(Call::Enqueue { job: 2, len: 3000 }, Op::Sync);
    agent.sim.fail(n, Failure::Errno(EIO));
    agent.make(Call::Enqueue { job: 2, len: 3000 }).unwrap_err();
    let before = agent.sim.ops();
    for call in [Call::Compact, Call::Rekey, Call::Backup] {
        let made = agent.make(call);
        assert!(matches!(made, Err(Error::Failed { .. })), "{call:?} returned {made:?}");
        assert_eq!(agent.sim.ops(), before, "{call:?} of a failed store touches the disk");
    }
}

/// There is room for the new file only where the space ahead is.
#[test]
fn compaction_on_a_full_disk_takes_the_space_ahead() {
    for call in [Call::Compact, Call::Rekey] {
        let (mut agent, _) = store_and_op_of(call, Op::Rename);
        agent.sim.set_capacity(agent.sim.world().used() + 100);
        let before = agent.store().stats();
        assert!(before.free_bytes > before.log_len);
        agent.make(call).unwrap();
        let after = agent.store().stats();
        assert_eq!((after.generation, after.compaction.completed, after.compaction.failed), (2, 1, 0));
        agent.make(Call::Enqueue { job: 2, len: 3000 }).unwrap();
        survives(&agent.sim.world(), agent.oracle.allowed());
    }
}

/// Not even the space ahead is enough: the store goes on without a compaction, and what gives space back works.
#[test]
fn compaction_that_finds_no_room_leaves_the_store_usable() {
    let (mut agent, n) = store_and_op_of(Call::Compact, Op::Rename);
    for job in 2..40 {
        agent.make(Call::Enqueue { job, len: 9000 }).unwrap();
    }
    assert!(agent.sim.ops() > n);
    agent.sim.set_capacity(agent.sim.world().used());
    let made = agent.make(Call::Compact);
    assert!(matches!(made, Err(Error::Full { .. })), "{made:?}");
    let stats = agent.store().stats();
    assert_eq!((stats.generation, stats.compaction.failed), (1, 1));
    assert!(stats.free_bytes >= 60 << 10, "the reserve is gone: {stats:?}");
    survives(&agent.sim.world(), agent.oracle.allowed());
    for job in 0..40 {
        agent.make(Call::Ack { job }).unwrap();
    }
    agent.make(Call::Compact).unwrap();
    agent.make(Call::Enqueue { job: 0, len: 4000 }).unwrap();
    survives(&agent.sim.world(), agent.oracle.allowed());
}
