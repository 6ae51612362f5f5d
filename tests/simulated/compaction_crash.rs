//! Compaction, rekey and backup: power is cut at every operation, every operation fails, and the disk damages the
//! new log.

use std::borrow::Cow;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use backupy_state::testing::{open_snapshot_on, options_on, policy};
use backupy_state::{AgentKey, Error, QueueOrder, Result, Store};

use crate::common::{Hooked, Hooks};
use crate::sim::crash;
use crate::sim::world::{Image, World};
use crate::sim::{Agent, Call, Mode, Model, Opened, PATH, key, open};
use crate::sim::{EIO, ENOSPC, Failure, Op, Sim};

const NEW: &str = "/sim/state.db.new";
const BACKUP: &str = "/sim/backup.db";
/// How many images are opened for a moment, at most.
const IMAGES: usize = 300;

/// Leaves live and dead records in every bucket, and two log events of the same time.
const CALLS: [Call; 18] = [
    Call::SaveConfig { len: 1200 },
    Call::Enqueue { job: 0, len: 30 },
    Call::Enqueue { job: 1, len: 700 },
    Call::Enqueue { job: 2, len: 2000 },
    Call::BufferLog { ts_ms: 1, len: 90 },
    Call::BufferLog { ts_ms: 0, len: 40 },
    Call::BufferLog { ts_ms: 1, len: 10 },
    Call::Heartbeat,
    Call::Enqueue { job: 0, len: 60 },
    Call::Ack { job: 1 },
    Call::DrainLogs { n: 1 },
    Call::PutData { key: 0, len: 50 },
    Call::PutData { key: 1, len: 0 },
    Call::PutData { key: 0, len: 20 },
    Call::DeleteData { key: 1 },
    Call::SaveSession { len: 50 },
    Call::SaveConfig { len: 300 },
    Call::Heartbeat,
];

/// Disks that differ in whether they rename at once.
const DISKS: [bool; 2] = [false, true];

fn agent_with_history() -> Agent {
    agent_on(DISKS[0])
}

fn agent_on(renames_at_once: bool) -> Agent {
    let mut agent = Agent::new(Sim::new(21), Mode::Sync);
    agent.sim.set_renames_at_once(renames_at_once);
    agent.start().unwrap();
    CALLS.iter().for_each(|&call| agent.make(call).unwrap());
    agent
}

fn back_up_the_store(agent: &Agent) -> Result<()> {
    agent.store().backup(BACKUP)
}

fn back_up_a_snapshot(agent: &Agent) -> Result<()> {
    open_snapshot_on(Arc::new(agent.sim.clone()), PATH, &key())?.backup(BACKUP)
}

type BackUp = fn(&Agent) -> Result<()>;

/// Both ways to back up, each on both disks.
fn backups() -> impl Iterator<Item = (bool, BackUp)> {
    let ways: [BackUp; 2] = [back_up_the_store, back_up_a_snapshot];
    DISKS.into_iter().flat_map(move |at_once| ways.map(|back_up| (at_once, back_up)))
}

fn other_key() -> AgentKey {
    AgentKey::new("another").unwrap()
}

/// These tests compare only what the store holds, not which key it is under.
fn opened(store: Store) -> Opened {
    Opened { store, is_other_key: false }
}

/// What the store in a copy of the disk holds. It may be under either key.
fn take(image: &Image, path: &str) -> Result<Model> {
    let sim = Sim::on(image, 3);
    let open = |key: &AgentKey| {
        let mut options = options_on(Arc::new(sim.clone()));
        options.mmap(false).queue_order(QueueOrder::Fifo).create(false);
        options.open(path, key)
    };
    let store = match open(&key()) {
        Err(Error::WrongKey { .. }) => open(&other_key())?,
        opened => opened?,
    };
    // A file that a crash has left is kept only if its first pages, which are all it has, were torn.
    let live = sim.live();
    let kept = live.get(Path::new(&format!("{path}.damaged-1")));
    assert!(
        kept.is_none_or(|kept| kept.len() <= 8192),
        "a copy that a crash has left is kept as if it were of value"
    );
    Model::take(&opened(store))
}

fn assert_always_holds(world: &World, path: &str, expected: &Model, place: &dyn Fn() -> String) {
    crash::some_images(world, 4, IMAGES, &mut |image| {
        let found = take(image, path).unwrap_or_else(|error| panic!("{}: {error}", place()));
        assert_eq!(&found, expected, "{}", place());
    });
}

/// Cuts the power at every operation of `change`, which changes nothing that the store holds, and in the call
/// after it.
fn survives_power_cuts(change: impl Fn(&Agent) -> Result<()>) {
    DISKS.into_iter().for_each(|at_once| survives_power_cuts_on(at_once, &change));
}

fn survives_power_cuts_on(renames_at_once: bool, change: &impl Fn(&Agent) -> Result<()>) {
    let mut agent = agent_on(renames_at_once);
    agent.sim.record();
    change(&agent).unwrap();
    agent.make(Call::Enqueue { job: 3, len: 900 }).unwrap();
    let moments = agent.sim.take_moments();
    assert!(moments.len() > 5);
    for moment in &moments {
        let allowed = agent.allowed_at(moment.ops);
        crash::some_images(&moment.world, 4, IMAGES, &mut |image| {
            let found = take(image, PATH).unwrap_or_else(|error| panic!("before {}: {error}", moment.ops));
            assert!(allowed.contains(&found), "before {}: {found:#?}, not among {allowed:#?}", moment.ops);
        });
    }
}

#[test]
fn compaction_survives_a_power_cut_at_every_operation() {
    survives_power_cuts(|agent| agent.store().compact().map(drop));
}

#[test]
fn rekey_survives_a_power_cut_at_every_operation() {
    survives_power_cuts(|agent| agent.store().rekey(&other_key()));
}

#[test]
fn a_backup_leaves_the_store_alone_and_is_durable_when_it_returns() {
    for (renames_at_once, back_up) in backups() {
        survives_power_cuts_on(renames_at_once, &back_up);
        let agent = agent_on(renames_at_once);
        back_up(&agent).unwrap();
        assert_always_holds(&agent.sim.world(), BACKUP, agent.oracle.current(), &|| "the backup".to_owned());
    }
}

/// Until its folder is synced, a copy is not marked. So it is not clean, and an open that follows a kill syncs the
/// folder.
#[test]
fn a_backup_that_was_opened_after_a_kill_keeps_its_name() {
    for (renames_at_once, back_up) in backups() {
        let agent = agent_on(renames_at_once);
        agent.sim.record();
        back_up(&agent).unwrap();
        let named = |image: &Image| image.contains_key(Path::new(BACKUP));
        let mut opened = 0;
        for moment in agent.sim.take_moments().into_iter().filter(|moment| named(&moment.world.live())) {
            let sim = Sim::at(moment.world, 5);
            let mut options = options_on(Arc::new(sim.clone()));
            // Still open: closing it would sync the folder too.
            let _store = options.mmap(false).create(false).open(BACKUP, &key()).unwrap();
            crash::some_images(&sim.world(), 6, IMAGES, &mut |image| {
                assert!(named(image), "opened before {}, and gone", moment.ops);
            });
            opened += 1;
        }
        assert!(opened > 1);
    }
}

/// Makes every operation of `change` fail, one at a time, with the error.
fn survives_failures(code: i32, change: impl Fn(&Agent) -> Result<()>) {
    DISKS.into_iter().for_each(|at_once| survives_failures_on(at_once, code, &change));
}

fn survives_failures_on(renames_at_once: bool, code: i32, change: &impl Fn(&Agent) -> Result<()>) {
    let agent = agent_on(renames_at_once);
    let from = agent.sim.ops();
    change(&agent).unwrap();
    let trace = agent.sim.trace()[from..].to_vec();
    // The mark of the new log, once that is complete and in its place.
    let mark = trace.iter().rposition(|&op| op == Op::Write);
    // That of a copy that has its name. One before it is a part of giving it its name.
    let folder_sync = trace.iter().rposition(|&op| op == Op::SyncDir);
    for (n, op) in trace.into_iter().enumerate() {
        let mut agent = agent_on(renames_at_once);
        let place = || format!("{op:?}, operation {n}, fails with {code}");
        agent.sim.fail(from + n, Failure::Errno(code));
        let changed = change(&agent);
        agent.sim.heal();
        let live = agent.sim.live();
        // The next open removes a left-over that could not be removed. For reads, see the test below.
        if !matches!(op, Op::Remove | Op::Read) {
            assert_no_left_over(&live, &place);
        }
        let made = agent.make(Call::Enqueue { job: 3, len: 900 });
        match made {
            Ok(()) => assert!(Some(n) != folder_sync || live.contains_key(Path::new(BACKUP)), "{}", place()),
            Err(Error::Failed { .. }) => assert!(changed.is_err() || Some(n) == mark, "{}", place()),
            Err(error) => panic!("{}: {error}", place()),
        }
        let expected = agent.oracle.current();
        assert_eq!(&Model::read(agent.store()).unwrap(), &expected.without_logs(), "{}", place());
        assert_always_holds(&agent.sim.world(), PATH, expected, &place);
    }
}

#[test]
fn a_compaction_that_fails_costs_nothing_and_leaves_nothing() {
    for code in [EIO, ENOSPC] {
        survives_failures(code, |agent| agent.store().compact().map(drop));
        survives_failures(code, |agent| agent.store().rekey(&other_key()));
        survives_failures(code, back_up_the_store);
        survives_failures(code, back_up_a_snapshot);
    }
}

#[test]
fn a_disk_that_is_full_for_the_new_file_is_a_full_disk_whichever_call_says_so() {
    let trace = {
        let agent = agent_with_history();
        let from = agent.sim.ops();
        agent.store().compact().unwrap();
        agent.sim.trace()[from..].to_vec()
    };
    let on_the_new_file = |op| matches!(op, Op::Write | Op::Sync | Op::SetLen | Op::Rename);
    let mut tried = 0;
    for n in (0..trace.len()).filter(|&n| on_the_new_file(trace[n])) {
        // The disk is full once: the log's preallocated space is released, and the second try has room.
        let agent = agent_with_history();
        agent.sim.fail(agent.sim.ops() + n, Failure::Errno(ENOSPC));
        let compacted = agent.store().compact();
        assert!(compacted.is_ok(), "operation {n}, {:?}: {compacted:?}", trace[n]);
        tried += 1;
    }
    assert!(tried > 4, "{tried}");
}

/// A folder may need another block for one more name.
#[test]
fn a_disk_that_is_full_for_the_name_of_a_backup_is_a_full_disk() {
    let trace = {
        let agent = agent_with_history();
        let from = agent.sim.ops();
        agent.store().backup(BACKUP).unwrap();
        agent.sim.trace()[from..].to_vec()
    };
    let named = trace.iter().position(|&op| op == Op::Link).unwrap();
    let agent = agent_with_history();
    agent.sim.fail(agent.sim.ops() + named, Failure::Errno(ENOSPC));
    let refused = agent.store().backup(BACKUP);
    assert!(matches!(refused, Err(Error::Full { .. })), "{refused:?}");
    agent.store().backup(BACKUP).unwrap();
}

#[test]
fn an_error_of_the_new_file_names_the_new_file() {
    let agent = agent_with_history();
    let from = agent.sim.ops();
    agent.store().compact().unwrap();
    let sync = agent.sim.trace()[from..].iter().rposition(|&op| op == Op::Sync).unwrap();
    let agent = agent_with_history();
    agent.sim.fail(agent.sim.ops() + sync, Failure::Errno(EIO));
    let error = agent.store().compact().unwrap_err();
    assert!(matches!(&error, Error::Io { path, .. } if path == Path::new(NEW)), "{error}");
}

fn assert_no_left_over(image: &Image, place: &dyn Fn() -> String) {
    let left_over = |name: &&str| image.contains_key(Path::new(name));
    assert_eq!([NEW, "/sim/backup.db.new"].into_iter().find(left_over), None, "{}", place());
}

#[test]
fn a_compaction_that_cannot_read_leaves_nothing() {
    let trace = {
        let agent = agent_with_history();
        let from = agent.sim.ops();
        agent.store().compact().unwrap();
        agent.sim.trace()[from..].to_vec()
    };
    for n in (0..trace.len()).filter(|&n| trace[n] == Op::Read) {
        let agent = agent_with_history();
        agent.sim.fail(agent.sim.ops() + n, Failure::Errno(EIO));
        assert!(matches!(agent.store().compact(), Err(Error::Io { .. })));
        assert_no_left_over(&agent.sim.live(), &|| format!("read, operation {n}"));
    }
}

/// Changes the byte at an offset of every new log, and reports no error.
#[derive(Clone, Debug)]
struct DamageNewLog {
    at: Arc<AtomicU64>,
}

impl Hooks for DamageNewLog {
    fn open(&self, path: &Path) -> io::Result<bool> {
        Ok(path.ends_with("state.db.new"))
    }

    fn write<'a>(&self, bytes: &'a [u8], offset: u64) -> Cow<'a, [u8]> {
        let at = self.at.load(Ordering::SeqCst);
        // Not the pages that a new file begins with: what the base record is written over is checked at once.
        let is_creation = offset == 0 && bytes.len() == 8192;
        if is_creation || !(offset..offset + bytes.len() as u64).contains(&at) {
            return bytes.into();
        }
        let mut bytes = bytes.to_vec();
        bytes[usize::try_from(at - offset).unwrap()] ^= 0x04;
        bytes.into()
    }
}

#[test]
fn a_new_log_that_the_disk_damages_never_takes_the_place_of_the_old_one() {
    let agent = agent_with_history();
    let expected = agent.oracle.current().without_logs();
    let (world, mut agent) = (agent.sim.world(), agent);
    agent.kill();
    let (sim, hooks) = (Sim::at(world, 5), DamageNewLog { at: Arc::new(AtomicU64::new(u64::MAX)) });
    let disk = Hooked { disk: Arc::new(sim.clone()), hooks: hooks.clone() };
    let mut options = options_on(Arc::new(disk));
    let policy = policy(|policy| policy.automatic = false);
    options.mmap(false).queue_order(QueueOrder::Fifo).compaction(policy);
    let store = opened(options.open(PATH, &key()).unwrap());
    let len = store.compact().unwrap().bytes_after;
    // The frames, and both copies of the base record.
    for at in (8192..len).step_by(7).chain(1024..1128).chain(3072..3176) {
        hooks.at.store(at, Ordering::SeqCst);
        let generation = store.stats().generation;
        let compacted = store.compact();
        assert!(
            matches!(compacted, Err(Error::Corrupt { .. } | Error::Unauthentic { .. })),
            "{at}: {compacted:?}"
        );
        assert_eq!(store.stats().generation, generation);
        assert!(!sim.live().contains_key(Path::new(NEW)));
        assert_eq!(Model::read(&store).unwrap(), expected);
    }
    let store = store.store;
    hooks.at.store(u64::MAX, Ordering::SeqCst);
    store.compact().unwrap();
    drop(store);
    assert_eq!(Model::read(&open(&sim, Mode::Sync).unwrap()).unwrap(), expected);
}
