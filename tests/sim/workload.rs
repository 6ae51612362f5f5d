//! The one place where a workload is described: the calls of a store, how they are made, and what must be true
//! afterwards. A new call of the store is a variant of [`Call`], an arm in [`Model::after`] and one in
//! [`Agent::make`].

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use backupy_state::testing::{options_on, verify_on};
use backupy_state::{
    AgentKey, Batch, CompactionPolicy, Config, Durability, Enqueued, Error, LogAdmission, LogBatch, LogEvent,
    LogLimits, OpenOptions, QueueOrder, QueuedJob, Result, Session, Store, WhenFull,
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
    /// Acks a job, enqueues the next one, beats and logs, all in one record.
    Batch {
        job: u8,
        len: usize,
    },
    /// Looks at log events. What it saw is kept for [`Call::AckLogs`].
    PeekLogs {
        n: usize,
    },
    /// Removes what the last peek of this process saw, or else what it sees now.
    AckLogs {
        n: usize,
    },
    Compact,
    /// Puts the store under the other one of the two keys.
    Rekey,
    /// Copies the store to a new name.
    Backup,
    Sync,
    /// Closes the store and opens it with the other key, which puts it under that one.
    ReopenRekeyed,
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
        match random.below(28) {
            0 => Call::SaveConfig { len },
            1..5 => Call::Enqueue { job, len },
            5..8 => Call::Ack { job },
            8 => Call::SaveSession { len },
            9 | 10 => Call::Heartbeat,
            // Long enough that no two of them are equal.
            11..14 => Call::BufferLog { ts_ms: random.below(5) as i64 - 2, len: len.max(8) },
            14 | 15 => Call::DrainLogs { n: random.below(3) },
            16 => Call::Sync,
            17 | 18 => Call::Reopen,
            19 => Call::Kill,
            20 | 21 => Call::Batch { job, len: len.max(8) },
            22 => Call::PeekLogs { n: random.below(3) },
            23 => Call::AckLogs { n: 1 + random.below(2) },
            24 | 25 => Call::Compact,
            26 => [Call::Rekey, Call::ReopenRekeyed][random.below(2)],
            _ => Call::Backup,
        }
    }

    /// Whether another process goes on after it.
    pub fn begins_anew(self) -> bool {
        matches!(self, Call::Reopen | Call::ReopenRekeyed | Call::Kill)
    }

    /// Whether it needs the writing end of the store.
    pub fn writes(self) -> bool {
        !matches!(self, Call::PeekLogs { .. })
    }

    /// Whether it copies the log.
    pub fn copies(self) -> bool {
        matches!(self, Call::Compact | Call::Rekey | Call::ReopenRekeyed | Call::Backup)
    }
}

/// Which calls return before they are durable, and what the log buffer does with more than [`FEW`] events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// None. Any number of events.
    Sync,
    /// Heartbeats, and what concerns log events. The oldest events make room.
    Mixed,
    /// All. New events are dropped.
    Buffered,
}

/// How many log events the buffer holds where it has a limit.
pub const FEW: usize = 2;

impl Mode {
    pub const ALL: [Mode; 3] = [Mode::Sync, Mode::Mixed, Mode::Buffered];

    fn options(self, sim: &Sim) -> OpenOptions {
        let mut options = options_on(Arc::new(sim.clone()));
        options.mmap(false).queue_order(QueueOrder::Fifo);
        // A compaction on a thread of its own would come at another operation each time.
        options.compaction(CompactionPolicy { automatic: false, ..CompactionPolicy::default() });
        let mut limits = LogLimits::default();
        if let Some(when_full) = self.when_full() {
            limits.max_count = Some(FEW as u64);
            limits.when_full = when_full;
        }
        options.log_limits(limits);
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
            Call::Sync | Call::Compact | Call::Rekey => true,
            Call::Heartbeat | Call::BufferLog { .. } | Call::DrainLogs { .. } | Call::AckLogs { .. } => {
                self == Mode::Sync
            }
            _ => self != Mode::Buffered,
        }
    }

    fn when_full(self) -> Option<WhenFull> {
        match self {
            Mode::Sync => None,
            Mode::Mixed => Some(WhenFull::DropOldest),
            Mode::Buffered => Some(WhenFull::DropNewest),
        }
    }
}

/// The key that a new store is under.
pub fn key() -> AgentKey {
    key_of(false)
}

/// The key that [`Call::Rekey`] puts it under.
pub fn other_key() -> AgentKey {
    key_of(true)
}

/// The first key, or the other one.
fn key_of(is_other: bool) -> AgentKey {
    let key = ["bkpy_0123456789abcdef0123456789abcdef", "bkpy_fedcba9876543210fedcba9876543210"];
    AgentKey::new(key[usize::from(is_other)]).unwrap()
}

/// A store that is open, and which key opened it.
#[derive(Debug)]
pub struct Opened {
    pub store: Store,
    pub is_other_key: bool,
}

impl Deref for Opened {
    type Target = Store;

    fn deref(&self) -> &Store {
        &self.store
    }
}

/// Opens the store on a simulated disk, with the first key or else with the other one.
pub fn open(sim: &Sim, mode: Mode) -> Result<Opened> {
    open_at(sim, mode, PATH.as_ref(), false)
}

fn open_at(sim: &Sim, mode: Mode, path: &Path, first_try: bool) -> Result<Opened> {
    let open = |is_other_key| {
        let store = mode.options(sim).open(path, &key_of(is_other_key))?;
        Ok(Opened { store, is_other_key })
    };
    match open(first_try) {
        Err(Error::WrongKey { .. }) => open(!first_try),
        opened => opened,
    }
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
    /// How many log events were dropped, as the log has it.
    pub dropped: u64,
    /// Which of the two keys opens it.
    pub is_other_key: bool,
}

/// What a process knows and the log does not.
#[derive(Clone, Debug, Default)]
struct Memory {
    /// Log events that were dropped since the count was written: a crash forgets them.
    unrecorded: u64,
    /// How many drops were acked or drained.
    told: u64,
    /// What the last peek saw, and how many drops there had ever been.
    #[allow(clippy::type_complexity, reason = "times and payloads, and the count of drops")]
    peeked: Option<(Vec<(i64, Vec<u8>)>, u64)>,
}

/// What a call returned, as far as it says something.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Done,
    Enqueued(Enqueued),
    Acked(bool),
    Drained(Vec<(i64, Vec<u8>)>),
    Admitted(LogAdmission),
    Peeked(Vec<(i64, Vec<u8>)>, u64),
    Removed(usize),
}

impl Model {
    /// The state after the call, or `None` where it changes nothing, and what the call must return.
    fn after(
        &self,
        call: Call,
        number: u64,
        when_full: Option<WhenFull>,
        memory: &mut Memory,
    ) -> (Option<Model>, Answer) {
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
                let admission = next.admit_log(ts_ms, value(number, len), when_full);
                if admission == LogAdmission::Dropped {
                    memory.unrecorded += 1;
                    return (None, Answer::Admitted(admission));
                }
                next.record_drops(memory);
                Answer::Admitted(admission)
            }
            Call::Batch { job, len } => {
                next.remove_job(job);
                let next_job = job + 1;
                next.remove_job(next_job);
                next.jobs.push((run_id(next_job), value(number, len)));
                next.heartbeat = Some(number as i64);
                if next.admit_log(number as i64, value(number, len), when_full) == LogAdmission::Dropped {
                    memory.unrecorded += 1;
                }
                next.record_drops(memory);
                Answer::Done
            }
            Call::PeekLogs { n } => {
                let seen = next.logs[..n.min(next.logs.len())].to_vec();
                let dropped = self.dropped + memory.unrecorded;
                memory.peeked = Some((seen.clone(), memory.told + dropped));
                return (None, Answer::Peeked(seen, dropped));
            }
            Call::AckLogs { n } => {
                let ever = memory.told + next.dropped + memory.unrecorded;
                let now = || (next.logs[..n.min(next.logs.len())].to_vec(), ever);
                let (seen, told_until) = memory.peeked.take().unwrap_or_else(now);
                let before = next.logs.len();
                next.logs.retain(|event| !seen.contains(event));
                next.record_drops(memory);
                next.dropped = ever - told_until.max(memory.told);
                memory.told = ever - next.dropped;
                let removed = Answer::Removed(before - next.logs.len());
                if next == *self {
                    return (None, removed);
                }
                removed
            }
            Call::Rekey | Call::ReopenRekeyed => {
                next.is_other_key = !next.is_other_key;
                Answer::Done
            }
            Call::DrainLogs { n } => {
                let drained: Vec<_> = next.logs.drain(..n.min(next.logs.len())).collect();
                if drained.is_empty() {
                    return (None, Answer::Drained(drained));
                }
                next.record_drops(memory);
                memory.told += std::mem::take(&mut next.dropped);
                Answer::Drained(drained)
            }
            Call::Sync | Call::Compact | Call::Backup | Call::Reopen | Call::Kill => return (None, Answer::Done),
        };
        (Some(next), answer)
    }

    /// The first events in drain order make room for the new one, or it does not come in.
    fn admit_log(&mut self, ts_ms: i64, payload: Vec<u8>, when_full: Option<WhenFull>) -> LogAdmission {
        let too_many = (self.logs.len() + 1).saturating_sub(FEW);
        let made_room = match when_full {
            None => 0,
            Some(WhenFull::DropNewest) if too_many > 0 => return LogAdmission::Dropped,
            Some(WhenFull::DropNewest) => 0,
            Some(WhenFull::DropOldest) => too_many,
        };
        self.logs.drain(..made_room);
        self.dropped += made_room as u64;
        let place = self.logs.partition_point(|(other, _)| *other <= ts_ms);
        self.logs.insert(place, (ts_ms, payload));
        if made_room == 0 { LogAdmission::Buffered } else { LogAdmission::DroppedOldest(made_room as u64) }
    }

    /// Whatever writes a log event writes the count of the dropped ones too.
    fn record_drops(&mut self, memory: &mut Memory) {
        self.dropped += std::mem::take(&mut memory.unrecorded);
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
    pub fn read(opened: &Opened) -> Result<Model> {
        let Opened { store, is_other_key } = opened;
        let config = store.load_config()?.map(|Config { version, raw, .. }| (version, raw));
        let jobs = store.dequeue_jobs(usize::MAX)?;
        let jobs = jobs.into_iter().map(|QueuedJob { run_id, payload, .. }| (run_id, payload)).collect::<Vec<_>>();
        assert_eq!(store.queue_depth(), jobs.len());
        let session = store.load_session()?;
        let session = session.map(|Session { session_id, server_time_ms, .. }| (session_id, server_time_ms));
        let heartbeat = store.last_heartbeat()?;
        let dropped = store.stats().logs_dropped;
        Ok(Model { config, jobs, session, heartbeat, logs: Vec::new(), dropped, is_other_key: *is_other_key })
    }

    /// Reads everything, and takes the log events out.
    pub fn take(store: &Opened) -> Result<Model> {
        let read = Model::read(store)?;
        let count = store.log_count();
        let logs = events_of(&store.drain_logs(usize::MAX)?);
        assert_eq!(count, logs.len());
        Ok(Model { logs, ..read })
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
        out.field("dropped", &self.dropped).field("is_other_key", &self.is_other_key);
        out.finish()
    }
}

fn events_of(events: &[LogEvent]) -> Vec<(i64, Vec<u8>)> {
    events.iter().map(|event| (event.ts_ms, event.payload.clone())).collect()
}

/// A backup: absent or whole while its call runs, and whole from then on.
#[derive(Clone, Debug)]
pub struct BackedUp {
    pub path: PathBuf,
    pub holds: Model,
    /// The number of operations of the disk at which the call returned.
    done_at: Option<usize>,
}

impl BackedUp {
    /// Whether a power cut after so many operations must leave it there.
    pub fn must_be_there(&self, ops: usize) -> bool {
        self.done_at.is_some_and(|done_at| done_at <= ops)
    }

    /// What it holds by itself, on a copy of its disk.
    pub fn check(&self, sim: &Sim) {
        let report = verify_on(sim, &self.path, Some(&key_of(self.holds.is_other_key)), |_| {}).unwrap();
        assert!(report.is_intact(), "{}: {report:?}", self.path.display());
        let found = open_at(sim, Mode::Sync, &self.path, self.holds.is_other_key).and_then(|it| Model::take(&it));
        assert_eq!(found.unwrap(), self.holds, "{}", self.path.display());
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

    /// A store that went through these states, all durable.
    pub fn of_history(states: Vec<Model>) -> Self {
        Oracle { durable: states.len() - 1, states }
    }

    /// A store that holds one of these.
    pub fn any_of(states: &[Model]) -> Self {
        Oracle { durable: 0, states: states.to_vec() }
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
    pub backups: Vec<BackedUp>,
    mode: Mode,
    store: Option<Opened>,
    memory: Memory,
    /// The batch that goes with `memory.peeked`.
    peeked: Option<LogBatch>,
    number: u64,
    /// Whether a call's effect is open: then what the store shows may be less than what the log may hold.
    is_open_ended: bool,
    marks: Vec<Mark>,
}

impl Agent {
    /// Not started: there is no store yet.
    pub fn new(sim: Sim, mode: Mode) -> Self {
        let mut agent = Agent {
            sim,
            oracle: Oracle::default(),
            backups: Vec::new(),
            mode,
            store: None,
            memory: Memory::default(),
            peeked: None,
            number: 0,
            is_open_ended: false,
            marks: Vec::new(),
        };
        agent.mark();
        agent
    }

    /// Opens the store, or makes it. What it then holds is durable.
    pub fn start(&mut self) -> Result<()> {
        let opened = open_at(&self.sim, self.mode, PATH.as_ref(), self.oracle.current().is_other_key)?;
        self.started(opened)
    }

    /// Opens the store with the key it is not under, and with the other one as the key it may still be under.
    fn start_rekeyed(&mut self) -> Result<()> {
        let is_other_key = !self.oracle.current().is_other_key;
        let next = Model { is_other_key, ..self.oracle.current().clone() };
        self.oracle.states.push(next);
        self.mark();
        let mut options = self.mode.options(&self.sim);
        options.previous_key(key_of(!is_other_key));
        let store = options.open(PATH, &key_of(is_other_key))?;
        assert!(store.recovery().rekeyed);
        self.started(Opened { store, is_other_key })
    }

    fn started(&mut self, opened: Opened) -> Result<()> {
        (self.memory, self.peeked, self.is_open_ended) = (Memory::default(), None, false);
        let store = self.store.insert(opened);
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

    pub fn store(&self) -> &Opened {
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
        let Some(opened) = self.store.take() else { return Ok(()) };
        let before = self.oracle.states.len() - 1;
        if self.memory.unrecorded > 0 {
            let mut next = self.oracle.current().clone();
            next.record_drops(&mut self.memory);
            self.oracle.states.push(next);
            self.mark();
        }
        opened.store.close()?;
        // A full disk may lose the count of dropped events, and nothing else.
        self.oracle.durable = if self.sim.may_be_full() { before } else { self.oracle.states.len() - 1 };
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
            Call::ReopenRekeyed => {
                self.close()?;
                return self.start_rekeyed();
            }
            Call::Backup => return self.back_up(),
            _ => {}
        }
        let mut memory = self.memory.clone();
        let (next, expected) = self.oracle.current().after(call, self.number, self.mode.when_full(), &mut memory);
        let changes = next.is_some();
        self.oracle.states.extend(next);
        self.mark();
        match self.answer(call) {
            Ok(answer) => {
                assert!(self.is_open_ended || answer == expected, "{call:?}: {answer:?}, not {expected:?}");
                self.memory = memory;
                if self.mode.is_durable(call) && (changes || matches!(call, Call::Sync | Call::Compact)) {
                    self.oracle.durable = self.oracle.states.len() - 1;
                }
                self.mark();
                Ok(())
            }
            Err(error) => {
                self.is_open_ended |= leaves_effect_open(call, &error);
                if changes && !leaves_effect_open(call, &error) {
                    self.oracle.states.pop();
                }
                Err(error)
            }
        }
    }

    fn back_up(&mut self) -> Result<()> {
        let path = PathBuf::from(format!("/sim/backup-{}.db", self.number));
        self.backups.push(BackedUp { path: path.clone(), holds: self.oracle.current().clone(), done_at: None });
        self.mark();
        self.store().backup(&path)?;
        self.backups.last_mut().unwrap().done_at = Some(self.sim.ops());
        self.mark();
        Ok(())
    }

    fn answer(&mut self, call: Call) -> Result<Answer> {
        let Agent { store, peeked, number, .. } = self;
        let opened = store.as_mut().unwrap();
        match call {
            Call::PeekLogs { n } => {
                let batch = opened.peek_logs(n)?;
                let answer = Answer::Peeked(events_of(batch.events()), batch.dropped());
                *peeked = Some(batch);
                Ok(answer)
            }
            Call::AckLogs { n } => {
                let batch = match peeked {
                    Some(batch) => batch.clone(),
                    None => opened.peek_logs(n)?,
                };
                let removed = opened.ack_logs(batch)?;
                *peeked = None;
                Ok(Answer::Removed(removed))
            }
            Call::Rekey => {
                opened.rekey(&key_of(!opened.is_other_key))?;
                opened.is_other_key = !opened.is_other_key;
                Ok(Answer::Done)
            }
            _ => answer(opened, call, *number),
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
fn leaves_effect_open(call: Call, error: &Error) -> bool {
    match call {
        // The rename was done; which of the two files a power cut leaves, nobody knows.
        Call::Rekey => matches!(error, Error::Io { operation: "sync the folder", .. }),
        _ => matches!(error, Error::Io { operation: "write" | "sync", .. }),
    }
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
        Call::BufferLog { ts_ms, len } => Answer::Admitted(store.buffer_log(ts_ms, &value(number, len))?),
        Call::Batch { job, len } => {
            let batch = Batch::new().ack_job(&run_id(job)).enqueue_job(&run_id(job + 1), &value(number, len));
            store.write(batch.record_heartbeat(number as i64).buffer_log(number as i64, &value(number, len)))?;
            Answer::Done
        }
        Call::DrainLogs { n } => Answer::Drained(events_of(&store.drain_logs(n)?)),
        Call::Compact => {
            let generation = store.stats().generation;
            let report = store.compact()?;
            assert_eq!((report.generation, store.stats().generation), (generation + 1, generation + 1));
            Answer::Done
        }
        Call::Sync => {
            store.sync()?;
            Answer::Done
        }
        // The agent makes these itself.
        Call::PeekLogs { .. } | Call::AckLogs { .. } | Call::Rekey | Call::Backup => Answer::Done,
        Call::Reopen | Call::ReopenRekeyed | Call::Kill => Answer::Done,
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
