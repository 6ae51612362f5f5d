//! What a store should hold, kept in plain maps, and random actions that change both.

use std::collections::BTreeMap;

use backupy_state::{Enqueued, LogAdmission, Snapshot, Store};

/// Everything that can be read from a store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) config: Option<(u64, Vec<u8>)>,
    pub(crate) jobs: BTreeMap<String, Vec<u8>>,
    pub(crate) session: Option<(String, i64)>,
    pub(crate) heartbeat: Option<i64>,
    /// In drain order.
    pub(crate) logs: Vec<(i64, Vec<u8>)>,
}

/// One writing call. Each is one record, unless it finds nothing to remove.
#[derive(Clone, Debug)]
pub(crate) enum Action {
    SaveConfig(u64, Vec<u8>),
    Enqueue(String, Vec<u8>),
    Ack(String),
    SaveSession(String, i64),
    Heartbeat(i64),
    BufferLog(i64, Vec<u8>),
    Drain(usize),
}

impl Action {
    /// Calls the store, and holds what the call returns against the model. Returns whether it wrote a record.
    pub(crate) fn run(&self, store: &Store, state: &mut State) -> bool {
        let before = state.clone();
        let drained = state.apply(self);
        match self {
            Action::SaveConfig(version, raw) => store.save_config(*version, raw).unwrap(),
            Action::Enqueue(run_id, payload) => {
                let is_new = !before.jobs.contains_key(run_id);
                let expected = if is_new { Enqueued::Added } else { Enqueued::Replaced };
                assert_eq!(store.enqueue_job(run_id, payload).unwrap(), expected);
            }
            Action::Ack(run_id) => {
                assert_eq!(store.ack_job(run_id).unwrap(), before.jobs.contains_key(run_id));
            }
            Action::SaveSession(id, server_time_ms) => store.save_session(id, *server_time_ms).unwrap(),
            Action::Heartbeat(ts_ms) => store.record_heartbeat(*ts_ms).unwrap(),
            Action::BufferLog(ts_ms, payload) => {
                assert_eq!(store.buffer_log(*ts_ms, payload).unwrap(), LogAdmission::Buffered);
            }
            Action::Drain(n) => {
                let events = store.drain_logs(*n).unwrap().into_iter();
                assert_eq!(events.map(|event| (event.ts_ms, event.payload)).collect::<Vec<_>>(), drained);
            }
        }
        let finds_nothing = matches!(self, Action::Ack(_) | Action::Drain(_)) && before == *state;
        !finds_nothing
    }

    pub(crate) fn random(random: &mut Random) -> Action {
        let payload_len = random.below(200);
        let run_id = |random: &mut Random| format!("run-{}", random.below(12));
        let ts_ms = |random: &mut Random| [i64::MIN, -7, -1, 0, 1, 1_700_000_000_000, i64::MAX][random.below(7)];
        match random.below(12) {
            0 => Action::SaveConfig(random.next(), random.bytes(payload_len)),
            1..=4 => Action::Enqueue(run_id(random), random.bytes(payload_len)),
            5..=6 => Action::Ack(run_id(random)),
            7 => Action::SaveSession(format!("session-{}", random.below(1000)), ts_ms(random)),
            8 => Action::Heartbeat(ts_ms(random)),
            9..=10 => Action::BufferLog(ts_ms(random), random.bytes(payload_len)),
            _ => Action::Drain(random.below(4)),
        }
    }
}

impl State {
    /// Returns what a drain gives.
    pub(crate) fn apply(&mut self, action: &Action) -> Vec<(i64, Vec<u8>)> {
        match action.clone() {
            Action::SaveConfig(version, raw) => self.config = Some((version, raw)),
            Action::Enqueue(run_id, payload) => drop(self.jobs.insert(run_id, payload)),
            Action::Ack(run_id) => drop(self.jobs.remove(&run_id)),
            Action::SaveSession(id, server_time_ms) => self.session = Some((id, server_time_ms)),
            Action::Heartbeat(ts_ms) => self.heartbeat = Some(ts_ms),
            Action::BufferLog(ts_ms, payload) => {
                let behind_ties = self.logs.partition_point(|(other, _)| *other <= ts_ms);
                self.logs.insert(behind_ties, (ts_ms, payload));
            }
            Action::Drain(n) => return self.logs.drain(..n.min(self.logs.len())).collect(),
        }
        Vec::new()
    }

    /// Reads everything from a store. Its log buffer is empty afterwards: no call shows it without draining it.
    pub(crate) fn take(store: &Store) -> State {
        let logs = store.drain_logs(usize::MAX).unwrap().into_iter();
        State {
            config: store.load_config().unwrap().map(|config| (config.version, config.raw)),
            jobs: store
                .dequeue_jobs(usize::MAX)
                .unwrap()
                .into_iter()
                .map(|job| (job.run_id, job.payload))
                .collect(),
            session: store.load_session().unwrap().map(|session| (session.session_id, session.server_time_ms)),
            heartbeat: store.last_heartbeat().unwrap(),
            logs: logs.map(|event| (event.ts_ms, event.payload)).collect(),
        }
    }
}

/// What a snapshot shows: of log events only how many there are, for the rest see [`State`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Shown {
    rest: State,
    log_count: usize,
}

impl Shown {
    pub(crate) fn by(state: &State) -> Self {
        Shown { rest: State { logs: Vec::new(), ..state.clone() }, log_count: state.logs.len() }
    }

    pub(crate) fn of(snapshot: &Snapshot) -> Self {
        let jobs = snapshot.dequeue_jobs(usize::MAX).unwrap().into_iter();
        let rest = State {
            config: snapshot.load_config().unwrap().map(|config| (config.version, config.raw)),
            jobs: jobs.map(|job| (job.run_id, job.payload)).collect(),
            session: snapshot.load_session().unwrap().map(|session| (session.session_id, session.server_time_ms)),
            heartbeat: snapshot.last_heartbeat().unwrap(),
            logs: Vec::new(),
        };
        assert_eq!(snapshot.queue_depth(), rest.jobs.len());
        Shown { rest, log_count: snapshot.log_count() }
    }
}

/// SplitMix64: the same numbers for the same seed, on every machine.
#[derive(Clone, Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number from 0 to `limit - 1`.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).unwrap()
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next().to_le_bytes()[0]).collect()
    }
}
