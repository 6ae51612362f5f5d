//! The one place where a workload is described: the calls of a store, how they are made, and what must be true
//! afterwards. A new call of the store is a variant of [`Call`], an arm in [`Model::after`] and one in
//! [`Agent::make`].

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::sync::Arc;

use backupy_state::{
    AgentKey, Config, Durability, Enqueued, Error, OpenOptions, QueueOrder, QueuedJob, Result, Session, Store,
};

use super::Sim;
use super::random::Random;
use super::world::World;

pub const PATH: &str = "/sim/state.db";
/// Where recovery puts a torn tail.
pub const TORN: &str = "/sim/state.db.torn";

/// One call of an agent. Its values are made from its number in the history, so no two calls write the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    SaveConfig {
        len: usize,
    },
    Enqueue {
        job: u8,
        len: usize,
    },
    Ack {
        job: u8,
    },
    SaveSession {
        len: usize,
    },
    Heartbeat,
    BufferLog {
        ts_ms: i64,
        len: usize,
    },
    DrainLogs {
        n: usize,
    },
    Sync,
    /// Closes the store and opens it again.
    Reopen,
    /// The process is killed, and another one opens the store.
    Kill,
}

impl Call {
    /// Any call, small or large.
    pub fn random(random: &mut Random) -> Self {
        let len = [0, 1, 40, 400, 1500, 5000][random.below(6)];
        let job = random.below(4) as u8;
        match random.below(20) {
            0 => Call::SaveConfig { len },
            1..5 => Call::Enqueue { job, len },
            5..8 => Call::Ack { job },
            8 => Call::SaveSession { len },
            9 | 10 => Call::Heartbeat,
            11..14 => Call::BufferLog { ts_ms: random.below(5) as i64 - 2, len },
            14 | 15 => Call::DrainLogs { n: random.below(3) },
            16 => Call::Sync,
            17 | 18 => Call::Reopen,
            _ => Call::Kill,
        }
    }
}

/// Which calls return before they are durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// None.
    Sync,
    /// Heartbeats, and what concerns log events.
    Mixed,
    /// All.
    Buffered,
}

impl Mode {
    pub const ALL: [Mode; 3] = [Mode::Sync, Mode::Mixed, Mode::Buffered];

    fn options(self, sim: &Sim) -> OpenOptions {
        let mut options = OpenOptions::new();
        options.storage(Arc::new(sim.clone())).mmap(false).queue_order(QueueOrder::Fifo);
        match self {
            Mode::Sync => {}
            Mode::Mixed => {
                options.heartbeat_durability(Durability::Buffered).log_durability(Durability::Buffered);
            }
            Mode::Buffered => {
                options.durability(Durability::Buffered);
            }
        }
        options
    }

    fn is_durable(self, call: Call) -> bool {
        match call {
            Call::Sync | Call::Reopen | Call::Kill => true,
            Call::Heartbeat | Call::BufferLog { .. } | Call::DrainLogs { .. } => self == Mode::Sync,
            _ => self != Mode::Buffered,
        }
    }
}

pub fn key() -> AgentKey {
    AgentKey::new("bkpy_0123456789abcdef0123456789abcdef").unwrap()
}

/// Opens the store on a simulated disk.
pub fn open(sim: &Sim, mode: Mode) -> Result<Store> {
    mode.options(sim).open(PATH, &key())
}

/// What a store should hold.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Model {
    pub config: Option<(u64, Vec<u8>)>,
    /// In the order of the latest enqueue.
    pub jobs: Vec<(String, Vec<u8>)>,
    pub session: Option<(String, i64)>,
    pub heartbeat: Option<i64>,
    /// Oldest first.
    pub logs: Vec<(i64, Vec<u8>)>,
}

/// What a call returned, as far as it says something.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Done,
    Enqueued(Enqueued),
    Acked(bool),
    Drained(Vec<(i64, Vec<u8>)>),
}

impl Model {
    /// The state after the call, or `None` where it changes nothing, and what the call must return.
    fn after(&self, call: Call, number: u64) -> (Option<Model>, Answer) {
        let mut next = self.clone();
        let answer = match call {
            Call::SaveConfig { len } => {
                next.config = Some((number, value(number, len)));
                Answer::Done
            }
            Call::Enqueue { job, len } => {
                let was_queued = next.remove_job(job);
                next.jobs.push((run_id(job), value(number, len)));
                Answer::Enqueued(if was_queued { Enqueued::Replaced } else { Enqueued::Added })
            }
            Call::Ack { job } => {
                let was_queued = next.remove_job(job);
                if !was_queued {
                    return (None, Answer::Acked(false));
                }
                Answer::Acked(true)
            }
            Call::SaveSession { len } => {
                next.session = Some((session_id(number, len), number as i64));
                Answer::Done
            }
            Call::Heartbeat => {
                next.heartbeat = Some(number as i64);
                Answer::Done
            }
            Call::BufferLog { ts_ms, len } => {
                let place = next.logs.partition_point(|(other, _)| *other <= ts_ms);
                next.logs.insert(place, (ts_ms, value(number, len)));
                Answer::Done
            }
            Call::DrainLogs { n } => {
                let drained: Vec<_> = next.logs.drain(..n.min(next.logs.len())).collect();
                if drained.is_empty() {
                    return (None, Answer::Drained(drained));
                }
                Answer::Drained(drained)
            }
            Call::Sync | Call::Reopen | Call::Kill => return (None, Answer::Done),
        };
        (Some(next), answer)
    }

    /// As [`Model::read`] sees it.
    pub fn without_logs(&self) -> Model {
        Model { logs: Vec::new(), ..self.clone() }
    }

    pub fn hash(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        Hash::hash(self, &mut hasher);
        hasher.finish()
    }

    fn remove_job(&mut self, job: u8) -> bool {
        let before = self.jobs.len();
        self.jobs.retain(|(id, _)| *id != run_id(job));
        self.jobs.len() < before
    }

    /// Reads everything but the log events, which cannot be read without taking them out.
    pub fn read(store: &Store) -> Result<Model> {
        let config = store.load_config()?.map(|Config { version, raw, .. }| (version, raw));
        let jobs = store.dequeue_jobs(usize::MAX)?;
        let jobs = jobs.into_iter().map(|QueuedJob { run_id, payload, .. }| (run_id, payload)).collect::<Vec<_>>();
        assert_eq!(store.queue_depth(), jobs.len());
        let session = store.load_session()?;
        let session = session.map(|Session { session_id, server_time_ms, .. }| (session_id, server_time_ms));
        Ok(Model { config, jobs, session, heartbeat: store.last_heartbeat()?, logs: Vec::new() })
    }

    /// Reads everything, and takes the log events out.
    pub fn take(store: &Store) -> Result<Model> {
        let count = store.log_count();
        let logs = store.drain_logs(usize::MAX)?;
        assert_eq!(count, logs.len());
        let logs = logs.into_iter().map(|event| (event.ts_ms, event.payload)).collect();
        Ok(Model { logs, ..Model::read(store)? })
    }

    /// Reads everything that a store holds on a copy of its disk, as if its process had been killed.
    pub fn on_copy(world: &World) -> Result<Model> {
        Model::take(&open(&Sim::at(world.clone(), 0), Mode::Sync)?)
    }
}

/// Short: values by their lengths and first bytes.
impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let short = |bytes: &[u8]| format!("{}B:{:02x?}", bytes.len(), &bytes[..bytes.len().min(4)]);
        let mut out = f.debug_struct("Model");
        out.field("config", &self.config.as_ref().map(|(version, raw)| (version, short(raw))));
        out.field("jobs", &self.jobs.iter().map(|(id, payload)| (id, short(payload))).collect::<Vec<_>>());
        out.field("session", &self.session.as_ref().map(|(id, time)| (id.len(), time)));
        out.field("heartbeat", &self.heartbeat);
        out.field("logs", &self.logs.iter().map(|(ts, payload)| (ts, short(payload))).collect::<Vec<_>>());
        out.finish()
    }
}

/// What was promised: which states a store may be in. The rule is that after a crash the state is what was
/// acknowledged as durable, or that and a prefix of the calls after it, each whole.
#[derive(Clone, Debug)]
pub struct Oracle {
    /// After each call that changes something; the first is the empty store.
    states: Vec<Model>,
    /// Which of them was the last one acknowledged as durable.
    durable: usize,
}

impl Default for Oracle {
    fn default() -> Self {
        Oracle { states: vec![Model::default()], durable: 0 }
    }
}

impl Oracle {
    /// The states after each call that changed something, from the empty store on.
    pub fn history(&self) -> &[Model] {
        &self.states
    }

    /// What the store shows while its process lives.
    pub fn current(&self) -> &Model {
        self.states.last().unwrap()
    }

    /// The state last acknowledged as durable, and all after it.
    pub fn allowed(&self) -> &[Model] {
        &self.states[self.durable..]
    }

    /// A store that holds this, durable.
    pub fn of(found: Model) -> Self {
        Oracle { states: vec![found], durable: 0 }
    }

    /// The state that was found is durable from now on, and what was in flight behind it is gone.
    fn settle(&mut self, found: Model) {
        if *self.current() != found {
            self.states.push(found);
        }
        self.durable = self.states.len() - 1;
    }
}

/// How far the oracle was when so many operations of the disk were done.
#[derive(Clone, Copy, Debug)]
struct Mark {
    ops: usize,
    durable: usize,
    states: usize,
}

/// An agent that makes calls on a simulated disk and keeps account of what it was promised.
#[derive(Debug)]
pub struct Agent {
    pub sim: Sim,
    pub oracle: Oracle,
    mode: Mode,
    store: Option<Store>,
    number: u64,
    marks: Vec<Mark>,
}

impl Agent {
    /// Not started: there is no store yet.
    pub fn new(sim: Sim, mode: Mode) -> Self {
        let mut agent = Agent { sim, mode, store: None, oracle: Oracle::default(), number: 0, marks: Vec::new() };
        agent.mark();
        agent
    }

    /// Opens the store, or makes it. What it then holds is durable.
    pub fn start(&mut self) -> Result<()> {
        let store = self.store.insert(open(&self.sim, self.mode)?);
        let found = Model::read(store)?;
        let is_found =
            |allowed: &Model| allowed.without_logs() == found && allowed.logs.len() == store.log_count();
        let at = self.oracle.allowed().iter().rposition(is_found);
        let at = at.unwrap_or_else(|| panic!("found {found:#?}, not among {:#?}", self.oracle.allowed()));
        let found = self.oracle.allowed()[at].clone();
        self.oracle.settle(found);
        self.mark();
        Ok(())
    }

    pub fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    pub fn is_open(&self) -> bool {
        self.store.is_some()
    }

    /// Ends the process without a word to the store.
    pub fn kill(&mut self) {
        self.sim.kill();
        self.store = None;
    }

    /// Closes the store, if it is open.
    pub fn close(&mut self) -> Result<()> {
        let Some(store) = self.store.take() else { return Ok(()) };
        store.close()?;
        self.oracle.durable = self.oracle.states.len() - 1;
        self.mark();
        Ok(())
    }

    /// Makes the call and checks its answer. After an error that leaves the effect open, the state with it and the
    /// one without it are both allowed.
    pub fn make(&mut self, call: Call) -> Result<()> {
        self.number += 1;
        match call {
            Call::Reopen => {
                self.close()?;
                return self.start();
            }
            Call::Kill => {
                self.kill();
                return self.start();
            }
            _ => {}
        }
        let (next, expected) = self.oracle.current().after(call, self.number);
        let changes = next.is_some();
        self.oracle.states.extend(next);
        self.mark();
        match answer(self.store.as_ref().unwrap(), call, self.number) {
            Ok(answer) => {
                assert_eq!(answer, expected, "{call:?}");
                if self.mode.is_durable(call) && (changes || call == Call::Sync) {
                    self.oracle.durable = self.oracle.states.len() - 1;
                }
                self.mark();
                Ok(())
            }
            Err(error) => {
                if changes && !leaves_effect_open(&error) {
                    self.oracle.states.pop();
                }
                Err(error)
            }
        }
    }

    /// The states that a crash after so many operations may leave.
    pub fn allowed_at(&self, ops: usize) -> &[Model] {
        let mark = self.marks.iter().rev().find(|mark| mark.ops <= ops).unwrap();
        &self.oracle.states[mark.durable..mark.states]
    }

    fn mark(&mut self) {
        let Oracle { states, durable } = &self.oracle;
        self.marks.push(Mark { ops: self.sim.ops(), durable: *durable, states: states.len() });
    }
}

/// Whether the record may be in the file all the same.
fn leaves_effect_open(error: &Error) -> bool {
    matches!(error, Error::Io { operation: "write" | "sync", .. })
}

fn answer(store: &Store, call: Call, number: u64) -> Result<Answer> {
    Ok(match call {
        Call::SaveConfig { len } => {
            store.save_config(number, &value(number, len))?;
            Answer::Done
        }
        Call::Enqueue { job, len } => Answer::Enqueued(store.enqueue_job(&run_id(job), &value(number, len))?),
        Call::Ack { job } => Answer::Acked(store.ack_job(&run_id(job))?),
        Call::SaveSession { len } => {
            store.save_session(&session_id(number, len), number as i64)?;
            Answer::Done
        }
        Call::Heartbeat => {
            store.record_heartbeat(number as i64)?;
            Answer::Done
        }
        Call::BufferLog { ts_ms, len } => {
            store.buffer_log(ts_ms, &value(number, len))?;
            Answer::Done
        }
        Call::DrainLogs { n } => {
            let events = store.drain_logs(n)?;
            Answer::Drained(events.into_iter().map(|event| (event.ts_ms, event.payload)).collect())
        }
        Call::Sync => {
            store.sync()?;
            Answer::Done
        }
        Call::Reopen | Call::Kill => Answer::Done,
    })
}

fn run_id(job: u8) -> String {
    format!("run-{job}")
}

fn value(number: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    Random::new(number).fill(&mut bytes);
    bytes
}

fn session_id(number: u64, len: usize) -> String {
    value(number, len).iter().map(|byte| char::from(b'a' + byte % 26)).collect()
}

/// Whether the store's file is there at all.
pub fn exists(world: &World) -> bool {
    world.named(Path::new(PATH)).is_some()
}
