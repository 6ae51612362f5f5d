//! What agents do before the power is cut, and how their stores are opened after it.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use backupy_state::{AgentKey, Durability, Error, OnDamage, Result, Store, import_bolt, verify_each};

use super::device::{FileSystem, LoggedFileSystem, Mounted};
use super::image::DiskImage;
use super::machine::{Death, RealMachine};
use crate::sim::random::{Random, mix};
use crate::sim::{Agent, Call, Machine, Mode, Model, Opened, Oracle, key, open};

/// What an agent does.
pub(super) struct Workload {
    pub(super) seed: u64,
    pub(super) mode: Mode,
    course: Course,
}

enum Course {
    /// Calls, and what happens around them. There is no store yet.
    Steps(Vec<Step>),
    /// A damaged store is opened with `OnDamage::SetAside`. With what it must then hold, and its damaged log.
    SetAside(Model, Vec<u8>),
    /// A bbolt file is imported into a new store. With what it must then hold.
    Import(Model),
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Call(Call),
    /// The process is killed in the call.
    KilledIn(Call, Death),
    /// The kernel begins to write what is dirty, and nothing waits for it.
    WriteBack,
    /// Another program syncs the file system.
    Sync,
    /// Another program takes all the space.
    Fill,
    /// It gives the space back.
    Free,
}

impl Workload {
    /// A random one; the first has every call.
    pub(super) fn random(seed: u64) -> Self {
        let mode = [Mode::Sync, Mode::Mixed, Mode::Buffered, Mode::Indexed][(seed % 4) as usize];
        let mut random = Random::new(mix(seed));
        let is_filled = seed % 3 == 1;
        let count = 10 + random.below(12);
        let mut steps = Vec::new();
        for number in 0..count {
            if is_filled && number == count / 3 {
                steps.push(Step::Fill);
                // More than the log has preallocated.
                steps.extend((0..5).map(|job| Step::Call(Call::Enqueue { job, len: 70_000 })));
            }
            if is_filled && number == count * 2 / 3 {
                steps.push(Step::Free);
            }
            match random.below(20) {
                0..3 => steps.push(Step::WriteBack),
                3 => steps.push(Step::Sync),
                _ => {}
            }
            let call = any_call(&mut random);
            let is_killed = random.below(10) == 0 && !matches!(call, Call::Kill | Call::PeekLogs { .. });
            steps.push(if is_killed {
                Step::KilledIn(call, Death::random(&mut random, 20))
            } else {
                Step::Call(call)
            });
        }
        Workload { seed, mode, course: Course::Steps(steps) }
    }

    /// Each call, and a close and kills after calls that are not durable.
    pub(super) fn of_each_call() -> Self {
        let log = Call::BufferLog { ts_ms: 1, len: 300 };
        let calls = [
            Call::SaveConfig { len: 1200 },
            Call::Enqueue { job: 0, len: 30 },
            Call::Enqueue { job: 1, len: 70_000 },
            log,
            Call::Backup,
            Call::Ack { job: 0 },
            Call::SaveSession { len: 100 },
            Call::Compact,
            Call::Heartbeat,
            log,
            Call::PeekLogs { n: 1 },
            Call::AckLogs { n: 1 },
            Call::Rekey,
            Call::Batch { job: 1, len: 200 },
            Call::Heartbeat,
            Call::Reopen,
            Call::PutData { key: 0, len: 5000 },
            Call::DeleteData { key: 1 },
            Call::ReopenRekeyed,
            log,
            log,
            Call::Kill,
            Call::DrainLogs { n: 1 },
            Call::Heartbeat,
            Call::Kill,
            Call::DeleteData { key: 0 },
            Call::Heartbeat,
            Call::Sync,
        ];
        Workload { seed: 0, mode: Mode::Mixed, course: Course::Steps(calls.map(Step::Call).to_vec()) }
    }

    /// Quarantining a damaged log. Returns what the disk holds before it.
    pub(super) fn set_aside(kind: FileSystem, work: &Path, empty: &DiskImage) -> (Self, DiskImage) {
        let mounted = Mounted::image(kind, work, empty).unwrap();
        let mut agent = Agent::new(RealMachine::new(&mounted.at, None), Mode::Sync);
        agent.start().unwrap();
        for job in 1..=6 {
            agent.make(Call::Enqueue { job, len: 900 }).unwrap();
        }
        agent.close().unwrap();
        let mut expected = agent.oracle.current().clone();
        let path = agent.sim.path();
        let mut third = Vec::new();
        verify_each(&path, Some(&key()), |frame| third.push(frame.offset)).unwrap();
        File::options().write(true).open(&path).unwrap().write_all_at(&[0xAA; 16], third[2] + 150).unwrap();
        expected.jobs.remove(2);
        let damaged = fs::read(&path).unwrap();
        let course = Course::SetAside(expected, damaged);
        (Workload { seed: 0, mode: Mode::Sync, course }, mounted.into_image())
    }

    /// Importing a bbolt file.
    pub(super) fn import() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut workload = Workload { seed: 0, mode: Mode::Sync, course: Course::Import(Model::default()) };
        let imported = workload.open(&RealMachine::new(folder.path(), None), false).unwrap();
        workload.course = Course::Import(Model::take(&imported).unwrap());
        workload
    }

    /// What the agent does while the device logs. Returns how much the device had done when the store was open.
    pub(super) fn run(&self, agent: &mut Agent<RealMachine>) -> usize {
        match &self.course {
            Course::Steps(steps) => {
                if self.seed % 4 == 1 {
                    agent.sim.kill_at(Death::random(&mut Random::new(self.seed), OPS_OF_AN_OPENING));
                    let _ = agent.start();
                    agent.kill();
                }
                agent.start().unwrap();
                let opened_at = agent.sim.ops();
                for (number, step) in steps.iter().enumerate() {
                    take_step(agent, *step)
                        .unwrap_or_else(|error| panic!("seed {}, step {number}, {step:?}: {error}", self.seed));
                }
                sync(&agent.sim.folder());
                opened_at
            }
            Course::SetAside(expected, _) => {
                agent.oracle = Oracle::of(expected.clone());
                self.go_on(agent, &mut Random::new(self.seed))
            }
            Course::Import(expected) => {
                agent.oracle = Oracle::of(expected.clone());
                let mut options = Mode::Sync.options(&agent.sim);
                // Whatever is durable then is so because the import has synced it.
                let store = options.durability(Durability::Buffered).open(agent.sim.path(), &key()).unwrap();
                import(&store).unwrap();
                agent.started(Opened { store, is_other_key: false }).unwrap();
                agent.sim.ops()
            }
        }
    }

    /// The agent opens what the power cut left, and makes a few calls. Returns the same as [`run`](Self::run).
    pub(super) fn go_on(&self, agent: &mut Agent<RealMachine>, random: &mut Random) -> usize {
        if ballast(&agent.sim.folder()).exists() {
            agent.sim.set_may_be_full();
        }
        if random.below(2) == 0 {
            agent.sim.kill_at(Death::random(random, OPS_OF_AN_OPENING));
            let _ = self.open(&agent.sim, false);
            agent.kill();
        }
        let opened = self.open(&agent.sim, false).or_else(|error| {
            make_room_after(&agent.sim, error)?;
            self.open(&agent.sim, false)
        });
        agent.started(opened.unwrap()).unwrap();
        let opened_at = agent.sim.ops();
        for _ in 0..2 {
            take_step(agent, Step::Call(any_call(random))).unwrap();
        }
        opened_at
    }

    /// Opens the store as the agent would after the power cut. If it `was_open` before, nothing is left to do.
    pub(super) fn open(&self, machine: &RealMachine, was_open: bool) -> Result<Opened> {
        match self.course {
            Course::SetAside(..) | Course::Import(_) if was_open => open(machine, Mode::Sync),
            Course::Steps(_) => open(machine, Mode::Sync),
            Course::SetAside(..) => match open(machine, Mode::Sync) {
                Err(Error::Corrupt { .. }) => {
                    let mut options = Mode::Sync.options(machine);
                    let store = options.on_damage(OnDamage::SetAside).open(machine.path(), &key())?;
                    Ok(Opened { store, is_other_key: false })
                }
                opened => opened,
            },
            Course::Import(_) => {
                let opened = open(machine, Mode::Sync)?;
                import(&opened)?;
                Ok(opened)
            }
        }
    }
}

/// About as many as one takes that quarantines a torn tail.
const OPS_OF_AN_OPENING: usize = 60;

/// The damaged log is kept, and the files of others are as they were. There is no file that the store should have
/// removed.
pub(super) fn check_files(workload: &Workload, folder: &Path) {
    if let Course::SetAside(_, damaged) = &workload.course {
        let kept = fs::read(folder.join("state.db.damaged-1"));
        assert!(kept.is_ok_and(|kept| kept == *damaged), "the damaged log is gone");
    }
    for (name, bytes) in STRANGERS {
        assert_eq!(fs::read(folder.join(name)).unwrap(), bytes, "{name}");
    }
    for found in fs::read_dir(folder).unwrap() {
        let name = found.unwrap().file_name().into_string().unwrap();
        let is_known = STRANGERS.iter().any(|(stranger, _)| *stranger == name)
            || ["state.db", BALLAST, "lost+found"].contains(&name.as_str())
            || [".lock", ".index", ".torn-", ".damaged-"]
                .iter()
                .any(|rest| name.starts_with(&format!("state.db{rest}")))
            || name.starts_with("backup-");
        assert!(is_known, "{name} is left");
    }
}

fn any_call(random: &mut Random) -> Call {
    match random.below(20) {
        0 => Call::Enqueue { job: 1, len: 70_000 },
        1 => Call::Kill,
        _ => Call::random(random),
    }
}

fn take_step(agent: &mut Agent<RealMachine>, step: Step) -> Result<()> {
    match step {
        Step::Call(call) => match agent.make(call) {
            Err(error) if agent.sim.may_be_full() => after_refusal(agent, &error),
            made => made,
        },
        Step::KilledIn(call, death) => {
            agent.sim.kill_at(death);
            let _ = agent.make(call);
            restart(agent)
        }
        Step::WriteBack => {
            fs::read_dir(agent.sim.folder()).unwrap().for_each(|found| write_back(&found.unwrap().path()));
            Ok(())
        }
        Step::Sync => {
            sync(&agent.sim.folder());
            Ok(())
        }
        Step::Fill => {
            agent.sim.set_may_be_full();
            fill(&ballast(&agent.sim.folder()));
            Ok(())
        }
        Step::Free => {
            free(&agent.sim);
            Ok(())
        }
    }
}

/// A full disk refuses a call. A file system that runs out of space for its own needs can end the process.
fn after_refusal(agent: &mut Agent<RealMachine>, error: &Error) -> Result<()> {
    if matches!(error, Error::Full { .. }) && agent.is_open() {
        agent.sim.count_refused();
        return Ok(());
    }
    restart(agent)
}

fn restart(agent: &mut Agent<RealMachine>) -> Result<()> {
    agent.kill();
    match agent.start() {
        Err(_) if agent.sim.may_be_full() => {
            agent.kill();
            free(&agent.sim);
            agent.start()
        }
        started => started,
    }
}

fn ballast(folder: &Path) -> PathBuf {
    folder.join(BALLAST)
}

fn fill(path: &Path) {
    let ballast = File::create(path).unwrap();
    let mut len = 0;
    for step in [64 << 20, 1 << 20, 64 << 10, 4096] {
        let flags = rustix::fs::FallocateFlags::empty();
        while rustix::fs::fallocate(&ballast, flags, len, step).is_ok() {
            len += step;
        }
    }
    // What is left may only become known once the space has been given away.
    let _ = ballast.sync_all();
}

/// Gives back what [`fill`] has taken, if that can have been the cause of the error.
pub(super) fn make_room_after(machine: &RealMachine, error: Error) -> Result<()> {
    if !matches!(error, Error::Full { .. }) || !ballast(&machine.folder()).exists() {
        return Err(error);
    }
    machine.kill();
    free(machine);
    Ok(())
}

pub(super) fn free(machine: &RealMachine) {
    let _ = fs::remove_file(ballast(&machine.folder()));
    sync(&machine.folder());
}

fn write_back(path: &Path) {
    let file = File::open(path).unwrap();
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
}

fn sync(folder: &Path) {
    // On a full disk it may fail.
    let _ = rustix::fs::syncfs(File::open(folder).unwrap());
}

/// A file whose import takes several records. Its key is in `busy.json`.
fn import(into: &Store) -> Result<()> {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bolt/busy.db");
    import_bolt(from, &AgentKey::new(BBOLT_KEY).unwrap(), into).map(drop)
}

const BBOLT_KEY: &str = "bkpy_test_abcdefghijklmnopqrstuvwxyz012345";

/// A file system with files of others in the folder of the store.
///
/// # Errors
/// It cannot be mounted here, by itself or on a device that logs.
pub(super) fn with_strangers(kind: FileSystem, work: &Path) -> Result<DiskImage, String> {
    let new = kind.make(work);
    drop(LoggedFileSystem::mount(kind, work, &new)?);
    let mounted = Mounted::image(kind, work, &new)?;
    for (name, bytes) in STRANGERS {
        fs::write(mounted.at.join(name), bytes).unwrap();
    }
    Ok(mounted.into_image())
}

/// Names as programs of others use them next to a store.
const STRANGERS: [(&str, &[u8]); 3] = [
    ("state.db.bak", b"another file"),
    ("state.db-journal", b"a third one"),
    ("notes.txt", b"To do: milk, bread"),
];
const BALLAST: &str = "ballast";
