//! Any calls on a store and on plain lists: both must agree, also after closing, killing, compacting and new keys.

use std::collections::BTreeMap;
use std::sync::Arc;

use arbitrary::{Arbitrary, Unstructured};
use backupy_state::testing::{open_snapshot_on, options_on, policy, verify_on};
use backupy_state::{
    AgentKey, Batch, Config, Durability, Enqueued, Error, LogAdmission, LogBatch, LogLimits, OpenOptions,
    QueueOrder, Result, Session, Store, WhenFull,
};

use crate::sim::{PATH, Sim};
use state::{Event, Peeked, State};

mod state;

const CALLS_MAX: usize = 64;

#[derive(Arbitrary, Clone, Debug)]
enum Call {
    Write(Write),
    Batch(Vec<Write>),
    Drain { n: u8 },
    Peek { n: u8 },
    AckPeeked,
    Sync,
    Compact,
    Rekey { key: u8 },
    Backup,
    Reopen { how: How, is_killed: bool, is_rekeyed: bool },
    Dequeue { n: u8 },
    DequeueAfter { id: Id, n: u8 },
    Job { id: Id },
    CheckAll,
}

/// A writing call, also as an operation of a batch.
#[derive(Arbitrary, Clone, Debug)]
enum Write {
    Config { version: u64, value: Value },
    Enqueue { id: Id, value: Value },
    Ack { id: Id },
    Session { value: Value, time: Time },
    Heartbeat { time: Time },
    Log { time: Time, value: Value },
    PutData { id: Id, value: Value },
    DeleteData { id: Id },
}

/// How a store is opened.
#[derive(Arbitrary, Clone, Copy, Debug, Default)]
struct How {
    is_fifo: bool,
    is_buffered: bool,
    drops_newest: bool,
    max_count: Option<u8>,
    max_bytes: Option<u8>,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
struct Id(u8);

#[derive(Arbitrary, Clone, Copy, Debug)]
struct Time(u8);

#[derive(Arbitrary, Clone, Copy, Debug)]
struct Value {
    len: u8,
    byte: u8,
}

impl Id {
    fn text(self) -> String {
        match self.0 {
            255 => String::new(),
            254 => "x".repeat(1024),
            253 => "x".repeat(1025),
            number => format!("run-{}", number % 6),
        }
    }
}

impl Time {
    fn ms(self) -> i64 {
        [0, 1, -1, i64::MIN, i64::MAX, 2, 3, 4][usize::from(self.0) % 8]
    }
}

impl Value {
    fn bytes(self) -> Vec<u8> {
        let len = match self.len {
            // Longer than the first preallocated space.
            251 => 70_000,
            252 => 5000,
            len => usize::from(len),
        };
        vec![self.byte; len]
    }
}

impl How {
    fn options(self, sim: &Sim) -> OpenOptions {
        let mut limits = LogLimits::default();
        limits.rate = None;
        limits.max_count = self.max_count.map(u64::from);
        limits.max_bytes = self.max_bytes.map(u64::from);
        limits.when_full = if self.drops_newest { WhenFull::DropNewest } else { WhenFull::DropOldest };
        let mut options = options_on(Arc::new(sim.clone()));
        options.mmap(false).log_limits(limits);
        // Automatic compaction runs on its own thread, at a different moment in each run.
        options.compaction(policy(|policy| policy.automatic = false));
        options.queue_order(if self.is_fifo { QueueOrder::Fifo } else { QueueOrder::RunId });
        options.durability(if self.is_buffered { Durability::Buffered } else { Durability::Sync });
        options
    }
}

pub fn run(bytes: &[u8]) {
    let mut input = Unstructured::new(bytes);
    let mut agent = Agent::start(input.arbitrary().unwrap_or_default());
    for _ in 0..CALLS_MAX {
        if input.is_empty() {
            break;
        }
        let Ok(call) = Call::arbitrary(&mut input) else { break };
        agent.make(&call);
        agent.check_counts();
    }
    agent.reopen(agent.how, false, None);
    agent.check_all();
}

struct Agent {
    sim: Sim,
    how: How,
    key: u8,
    /// `None` only during `reopen`.
    store: Option<Store>,
    state: State,
    peeked: Option<(LogBatch, Peeked)>,
    backups: usize,
}

fn agent_key(number: u8) -> AgentKey {
    AgentKey::new(format!("key number {number}")).unwrap()
}

impl Agent {
    fn start(how: How) -> Self {
        let sim = Sim::new(3);
        let store = how.options(&sim).open(PATH, &agent_key(0)).unwrap();
        Agent { sim, how, key: 0, store: Some(store), state: State::default(), peeked: None, backups: 0 }
    }

    fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    fn make(&mut self, call: &Call) {
        match call {
            Call::Write(write) => self.write(write),
            Call::Batch(writes) => self.batch(writes),
            Call::Drain { n } => {
                let drained = self.store().drain_logs(usize::from(*n)).unwrap();
                let drained: Vec<_> = drained.into_iter().map(|event| (event.ts_ms, event.payload)).collect();
                assert_eq!(drained, self.state.drain((*n).into()));
            }
            Call::Peek { n } => {
                let batch = self.store().peek_logs(usize::from(*n)).unwrap();
                let peeked = self.state.peek((*n).into());
                assert_peeked(&batch, &self.state, &peeked);
                self.peeked = Some((batch, peeked));
            }
            Call::AckPeeked => {
                let Some((batch, peeked)) = self.peeked.take() else { return };
                assert_eq!(self.store().ack_logs(&batch).unwrap(), self.state.ack_logs(&peeked));
            }
            Call::Sync => self.store().sync().unwrap(),
            Call::Compact => self.compact(),
            Call::Rekey { key } => {
                self.key = key % 3;
                self.store().rekey(&agent_key(self.key)).unwrap();
            }
            Call::Backup => self.backup(),
            Call::Reopen { how, is_killed, is_rekeyed } => {
                self.reopen(*how, *is_killed, is_rekeyed.then_some((self.key + 1) % 3));
                self.check_all();
            }
            Call::Dequeue { n } => {
                let jobs = self.store().dequeue_jobs(usize::from(*n)).unwrap();
                let jobs: Vec<_> = jobs.into_iter().map(|job| (job.run_id, job.payload)).collect();
                assert_eq!(jobs, self.state.dequeue(self.how.is_fifo, None, (*n).into()));
            }
            Call::DequeueAfter { id, n } => {
                let id = id.text();
                let found = self.store().dequeue_jobs_after(&id, usize::from(*n));
                let found = found.map(|jobs| jobs.into_iter().map(|job| (job.run_id, job.payload)).collect());
                expect(&id, found, || self.state.dequeue(self.how.is_fifo, Some(&id), (*n).into()));
            }
            Call::Job { id } => {
                let id = id.text();
                let found = self.store().job(&id).map(|found| found.map(|job| job.payload));
                expect(&id, found, || self.state.job(&id).map(<[u8]>::to_vec));
            }
            Call::CheckAll => self.check_all(),
        }
    }

    fn write(&mut self, write: &Write) {
        let Agent { store, state, .. } = self;
        let store = store.as_ref().unwrap();
        match *write {
            Write::Config { version, value } => store.save_config(version, &value.bytes()).unwrap(),
            Write::Session { value, time } => store.save_session(&text(value), time.ms()).unwrap(),
            Write::Heartbeat { time } => store.record_heartbeat(time.ms()).unwrap(),
            Write::Enqueue { id, value } => {
                let id = id.text();
                expect(&id, store.enqueue_job(&id, &value.bytes()), || match state.job(&id) {
                    Some(_) => Enqueued::Replaced,
                    None => Enqueued::Added,
                });
            }
            Write::Ack { id } => {
                let id = id.text();
                expect(&id, store.ack_job(&id), || state.job(&id).is_some());
            }
            Write::PutData { id, value } => {
                let id = id.text();
                expect(&id, store.put_data(&id, &value.bytes()), || ());
            }
            Write::DeleteData { id } => {
                let id = id.text();
                expect(&id, store.delete_data(&id), || state.data.contains_key(&id));
            }
            Write::Log { time, value } => {
                let admission = store.buffer_log(time.ms(), &value.bytes()).unwrap();
                let (admitted, made_room) = state.buffer_logs(&self.how, &[(time.ms(), value.bytes())]);
                let expected = match (admitted, made_room) {
                    (0, _) => LogAdmission::Dropped,
                    (_, 0) => LogAdmission::Buffered,
                    (_, dropped) => LogAdmission::DroppedOldest(dropped),
                };
                assert_eq!(admission, expected);
                return;
            }
        }
        state.apply(write);
    }

    fn batch(&mut self, writes: &[Write]) {
        let mut batch = Batch::new();
        for write in writes {
            batch = match *write {
                Write::Config { version, value } => batch.save_config(version, &value.bytes()),
                Write::Session { value, time } => batch.save_session(&text(value), time.ms()),
                Write::Heartbeat { time } => batch.record_heartbeat(time.ms()),
                Write::Enqueue { id, value } => batch.enqueue_job(&id.text(), &value.bytes()),
                Write::Ack { id } => batch.ack_job(&id.text()),
                Write::Log { time, value } => batch.buffer_log(time.ms(), &value.bytes()),
                Write::PutData { id, value } => batch.put_data(&id.text(), &value.bytes()),
                Write::DeleteData { id } => batch.delete_data(&id.text()),
            };
        }
        let written = self.store().write(&batch);
        let ids = writes.iter().filter_map(|write| match write {
            Write::Enqueue { id, .. } | Write::Ack { id } => Some(id.text()),
            Write::PutData { id, .. } | Write::DeleteData { id } => Some(id.text()),
            _ => None,
        });
        if let Some(bad) = ids.into_iter().find(|id| is_bad(id)) {
            expect(&bad, written, || ());
            return;
        }
        written.unwrap();
        let events: Vec<_> = writes.iter().filter_map(log_event).collect();
        self.state.write(&self.how, writes, &events);
    }

    fn compact(&mut self) {
        let before = self.store().stats();
        let report = self.store().compact().unwrap();
        assert_eq!(report.generation, before.generation + 1);
        let after = self.store().stats();
        // Each frame's header, manifest tag, operation count and padding count as dead.
        assert_eq!(after.live_bytes, before.live_bytes);
        assert!(after.dead_bytes <= after.seq * 80, "{before:?}, then {after:?}");
    }

    fn backup(&mut self) {
        self.backups += 1;
        let path = format!("/sim/backup-{}.db", self.backups);
        self.store().backup(&path).unwrap();
        self.check_snapshot(&path);
    }

    /// Closes or kills the store and opens it again, expecting at least the anchor from before.
    fn reopen(&mut self, how: How, is_killed: bool, new_key: Option<u8>) {
        let anchor = self.store().anchor();
        let store = self.store.take().unwrap();
        // A peeked batch is valid only for the handle that returned it.
        self.peeked = None;
        if is_killed {
            self.sim.kill();
            self.state.forget_unrecorded_drops();
        } else {
            store.close().unwrap();
            self.state.record_drops();
        }
        let mut options = how.options(&self.sim);
        options.expect_at_least(anchor);
        if let Some(new_key) = new_key {
            options.previous_key(agent_key(self.key));
            self.key = new_key;
        }
        self.state.reopen();
        let store = options.open(PATH, &agent_key(self.key)).unwrap();
        assert_eq!(store.recovery().rekeyed, new_key.is_some());
        assert!(store.recovery().quarantined.is_none());
        self.how = how;
        self.store = Some(store);
    }

    fn check_counts(&self) {
        let store = self.store();
        assert_eq!(store.queue_depth(), self.state.queue_depth());
        assert_eq!(store.log_count(), self.state.logs.len());
        assert_eq!(store.stats().logs_dropped, self.state.dropped);
        let bytes: usize = self.state.data.values().map(Vec::len).sum();
        let (keys, bytes) = (self.state.data.len() as u64, bytes as u64);
        assert_eq!((store.stats().data_keys, store.stats().data_bytes), (keys, bytes));
    }

    fn check_all(&mut self) {
        let store = self.store.as_ref().unwrap();
        let config = store.load_config().unwrap().map(|Config { version, raw, .. }| (version, raw));
        assert_eq!(config, self.state.config);
        let session = store.load_session().unwrap();
        let session = session.map(|Session { session_id, server_time_ms, .. }| (session_id, server_time_ms));
        assert_eq!(session, self.state.session);
        assert_eq!(store.last_heartbeat().unwrap(), self.state.heartbeat);
        let jobs = store.dequeue_jobs(usize::MAX).unwrap().into_iter();
        let jobs: Vec<_> = jobs.map(|job| (job.run_id, job.payload)).collect();
        let iterated = store.jobs().map(|job| job.map(|job| (job.run_id, job.payload)).unwrap());
        assert!(iterated.eq(jobs.iter().cloned()));
        assert!(store.run_ids().eq(jobs.iter().map(|(run_id, _)| run_id.as_str())));
        assert_eq!(jobs, self.state.dequeue(self.how.is_fifo, None, usize::MAX));
        assert!(store.data_keys("").eq(self.state.data.keys().cloned()));
        let with_prefix = self.state.data.keys().filter(|key| key.starts_with("run-"));
        assert!(store.data_keys("run-").eq(with_prefix.cloned()));
        for (key, value) in &self.state.data {
            assert_eq!(store.data(key).unwrap().as_ref(), Some(value));
        }
        assert_peeked(&store.peek_logs(usize::MAX).unwrap(), &self.state, &self.state.peek(usize::MAX));
        self.check_snapshot(PATH);
    }

    /// Compares a snapshot of the store, or of a backup, with the model.
    fn check_snapshot(&self, path: &str) {
        let snapshot = open_snapshot_on(Arc::new(self.sim.clone()), path, &agent_key(self.key)).unwrap();
        let jobs = snapshot.dequeue_jobs(usize::MAX).unwrap().into_iter();
        let jobs: Vec<_> = jobs.map(|job| (job.run_id, job.payload)).collect();
        assert_eq!(jobs, self.state.by_run_id(None, usize::MAX));
        let config = snapshot.load_config().unwrap().map(|config| (config.version, config.raw));
        assert_eq!(config, self.state.config);
        assert_eq!(snapshot.last_heartbeat().unwrap(), self.state.heartbeat);
        let data: BTreeMap<_, _> =
            snapshot.data_keys("").map(|key| (key.clone(), snapshot.data(&key).unwrap().unwrap())).collect();
        assert_eq!(data, self.state.data);
        let recorded = Peeked { dropped: self.state.recorded, ..self.state.peek(usize::MAX) };
        assert_peeked(&snapshot.peek_logs(usize::MAX).unwrap(), &self.state, &recorded);
        let report = verify_on(&self.sim, path, Some(&agent_key(self.key)), |_| {}).unwrap();
        assert!(report.is_intact() && report.torn_len == 0, "{report:?}");
    }
}

fn assert_peeked(batch: &LogBatch, state: &State, expected: &Peeked) {
    let found = batch.events().iter().map(|event| (event.ts_ms, &event.payload));
    let events = expected.numbers.iter().map(|number| {
        let Event { ts_ms, payload, .. } = state.logs.iter().find(|event| event.number == *number).unwrap();
        (*ts_ms, payload)
    });
    assert!(found.eq(events), "{batch:?}");
    assert_eq!(batch.dropped(), expected.dropped);
}

fn is_bad(id: &str) -> bool {
    id.is_empty() || id.len() > 1024
}

/// Every call that takes a run id refuses a bad one; otherwise it returns what is expected.
fn expect<T: PartialEq + std::fmt::Debug>(id: &str, found: Result<T>, expected: impl FnOnce() -> T) {
    match found {
        Err(Error::Invalid { .. }) => assert!(id.is_empty()),
        Err(Error::TooLarge { .. }) => assert!(id.len() > 1024),
        Err(error) => panic!("{error}"),
        Ok(found) => assert!(!is_bad(id) && found == expected(), "{id}: {found:?}"),
    }
}

fn log_event(write: &Write) -> Option<(i64, Vec<u8>)> {
    match write {
        Write::Log { time, value } => Some((time.ms(), value.bytes())),
        _ => None,
    }
}

fn text(value: Value) -> String {
    value.bytes().iter().map(|byte| char::from(b'a' + byte % 26)).collect()
}
