//! Every call of the operating system fails, in every way, once or from then on: the error is typed, every
//! acknowledged record is there later, and a failed sync is never repeated.

use std::collections::HashSet;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::sync::Arc;

use backupy_state::testing::{open_snapshot_on, verify_on};
use backupy_state::{Error, Stats};

use super::survival::{refuses_writes_and_still_reads, survives_some, take};
use crate::common::depth;
use crate::sim::content::Content;
use crate::sim::random::mix;
use crate::sim::world::{self, FailedSync, World};
use crate::sim::{Agent, Call, EDQUOT, EINTR, EIO, ENOSPC, Failure, Mode, Op, PATH, Sim, TORN, crash, key, open};

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

/// Calls that copy the log, between calls that show whether the store still works.
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

/// How many images are opened while there are two files. There are thousands, and most differ only in the file
/// that has no name yet.
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
            // std repeats an interrupted read or write. If every one were interrupted, it would never end.
            (Lasting::Sticky, failure @ Failure::Errno(EINTR)) => {
                (0..50).for_each(|i| sim.fail(self.n + i, failure));
            }
            (Lasting::Sticky, failure) => sim.fail_from(self.n, failure),
        }
    }

    /// Every failure of every operation that `run` makes on a disk like `disk`.
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
    for mode in Mode::ALL.into_iter().chain([Mode::Indexed]) {
        // An index file makes for many images of a moment, and most failures are those of the other modes.
        let (step, images) = match mode {
            Mode::Indexed => (41 * depth::failure_step(), images.min(COPY_IMAGES)),
            _ => (depth::failure_step(), images),
        };
        let disk = || Sim::new(mix(7));
        let run = |sim: &Sim| {
            let mut agent = Agent::new(sim.clone(), mode);
            agent.start().unwrap();
            calls.iter().for_each(|&call| agent.make(call).unwrap());
            agent.close().unwrap();
        };
        let cases: Vec<_> = Case::all(mode, disk, run).into_iter().step_by(step).collect();
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
        let before_ops = agent.sim.ops();
        let made = agent.make(call);
        if let Err(error) = &made {
            assert_typed(case, error, has_failed);
        }
        if begins_anew {
            // A close that fails leaves nothing open, and the next process starts.
            opened = if agent.is_open() { Ok(()) } else { agent.start() };
            // An open that changes the key may be complete but for its mark.
            has_failed = opened.is_ok() && takes_no_writes(&agent);
            continue;
        }
        if has_failed {
            // `failed_copies.rs` tests what a copy of a failed store returns.
            let is_refused = match &made {
                Err(Error::Failed { .. }) => true,
                // An ack may have to read first.
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
        if made.is_ok() && call.copies() {
            // The copy is complete; only its mark could not be written.
            let is_latched = takes_no_writes(&agent);
            assert!(!is_latched || has_failed || agent.sim.trace()[before_ops..].contains(&Op::Write));
            has_failed |= is_latched;
        }
        has_failed |= made.is_err_and(|error| fails_for_good(call, &error));
    }
    if let Err(error) = &opened {
        assert_typed(case, error, false);
    }
    if has_failed {
        refuses_writes_and_still_reads(&agent);
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

fn takes_no_writes(agent: &Agent) -> bool {
    matches!(agent.store().ack_job("none"), Err(Error::Failed { .. }))
}

/// Whether it is an error of the log itself, after which the store takes no more writes.
fn fails_for_good(call: Call, error: &Error) -> bool {
    let Error::Io { operation, .. } = error else { return false };
    match call {
        // A failure on the new file does not affect the store.
        Call::Compact | Call::Rekey => {
            matches!(*operation, "sync the folder" | "cut off the preallocated space of")
        }
        Call::Backup => false,
        _ => matches!(*operation, "write" | "write a mark in" | "sync" | "cut off the preallocated space of"),
    }
}

/// A copy that failed leaves the old log, is counted in the statistics, and leaves no new file.
fn old_log_stays(case: &Case, agent: &Agent, call: Call, before: &Stats, error: &Error) {
    let stats = agent.store().stats();
    assert_eq!(stats.generation, before.generation, "{call:?}: {error}");
    if call == Call::Backup {
        assert_eq!(stats.compaction, before.compaction);
    } else if !call.begins_anew() {
        assert_eq!(stats.compaction.failed, before.compaction.failed + 1, "{call:?}: {error}");
        let last_error = stats.compaction.last_error.unwrap();
        assert_eq!(last_error.kind, error.kind());
        assert!(last_error.message.starts_with(&error.to_string()));
    }
    let cannot_remove = case.op == Op::Remove || case.lasting == Lasting::Sticky;
    let left: Vec<_> = agent.sim.live().into_keys().filter(|path| path.ends_with(".new")).collect();
    assert!(left.is_empty() || cannot_remove, "{call:?}: {error}: left {left:?}");
}

/// Backups whose calls have returned are there; the others are whole or absent.
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
        // A read that returns nothing looks like damage to what was copied or written.
        Error::Corrupt { .. } if op == Op::Read && failure == Failure::Zero => true,
        // A read of the header that returns nothing looks like a file without one.
        Error::NotAStore { .. } | Error::Corrupt { offset: 0, .. } => {
            op == Op::Read && failure == Failure::Zero || lasting == Lasting::Sticky
        }
        _ => false,
    };
    assert!(is_right, "{error:?}");
}

/// A file is not synced again between a failed sync and the next open.
fn no_sync_was_repeated(case: &Case, sim: &Sim) {
    if case.op == Op::Sync && matches!(case.failure, Failure::Errno(_)) {
        let next_open = sim.trace()[case.n + 1..].iter().position(|&op| op == Op::OpenLock);
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
            // The tail may be cut off only once its copy is durable.
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

/// The process is killed while it quarantines the tail, so what it wrote is in the page cache only. The next
/// process finds it there.
#[test]
fn a_torn_tail_survives_a_kill_in_its_quarantine_and_then_a_power_cut() {
    let torn = torn_store();
    let tail = torn.live()[Path::new(PATH)].trimmed_bytes().split_off(log_len(&torn));
    let sim = Sim::at(torn, 11);
    sim.record();
    drop(open(&sim, Mode::Sync).unwrap());
    for moment in sim.take_moments() {
        let sim = Sim::at(moment.world, 12);
        sim.record();
        drop(open(&sim, Mode::Sync).unwrap());
        for second in sim.take_moments() {
            crash::some_images(&second.world, 13, 60, &mut |image| {
                let holds_tail =
                    |content: &Content| content.trimmed_bytes().windows(tail.len()).any(|bytes| bytes == tail);
                let ops = (moment.ops, second.ops);
                assert!(image.values().any(holds_tail), "killed and cut before {ops:?}: {:?}", image.keys());
            });
        }
    }
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
fn a_refused_store_is_not_changed_whatever_else_fails() {
    let mut damaged = torn_store().live();
    let log = damaged.get_mut(Path::new(PATH)).unwrap();
    log.write(b"x", 8192 + 60);
    let disk = || Sim::on(&damaged, 6);
    let cases = Case::all(Mode::Sync, disk, |sim| assert!(open(sim, Mode::Sync).is_err()));
    check_all(&cases, |case| {
        let sim = disk();
        case.plan(&sim);
        assert!(open(&sim, Mode::Sync).is_err());
        assert_eq!(world::hash(&sim.live()), world::hash(&damaged));
    });
}

/// Each read of a value fails in turn. The values before it were given, and none follows.
#[test]
fn an_iterator_ends_with_the_first_read_that_fails() {
    let sim = Sim::new(37);
    let mut agent = Agent::new(sim.clone(), Mode::Sync);
    agent.start().unwrap();
    for job in 0..3 {
        agent.make(Call::Enqueue { job, len: 30 }).unwrap();
        agent.make(Call::BufferLog { ts_ms: 1, len: 30 }).unwrap();
    }
    let store = agent.store();
    let snapshot = open_snapshot_on(Arc::new(sim.clone()), PATH, &key()).unwrap();
    let passes: [&dyn Fn() -> Vec<Result<(), Error>>; 4] = [
        &|| store.jobs().map(|job| job.map(drop)).collect(),
        &|| store.logs().map(|event| event.map(drop)).collect(),
        &|| snapshot.jobs().map(|job| job.map(drop)).collect(),
        &|| snapshot.logs().map(|event| event.map(drop)).collect(),
    ];
    for pass in passes {
        let begun = sim.ops();
        assert_eq!(pass().iter().filter(|item| item.is_ok()).count(), 3);
        let ops = sim.ops() - begun;
        assert!(ops >= 3);
        for n in 0..ops {
            sim.fail(sim.ops() + n, Failure::Errno(EIO));
            let items = pass();
            sim.heal();
            let (last, before) = items.split_last().unwrap();
            assert!(matches!(last, Err(Error::Io { .. })), "{n}: {items:?}");
            assert_eq!(before.len(), n * 3 / ops, "{n}: {items:?}");
            assert!(before.iter().all(Result::is_ok), "{n}: {items:?}");
        }
    }
}
