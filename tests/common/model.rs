//! Calls that change a store and its model alike, and what a snapshot should show of it.

use backupy_state::{Enqueued, LogAdmission, QueueOrder, Snapshot, Store};

use super::random::Random;
use super::state::State;

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
    PutData(String, Vec<u8>),
    DeleteData(String),
}

impl Action {
    /// Makes the call and compares its result with the model. Returns whether it wrote a record.
    pub(crate) fn run(&self, store: &Store, state: &mut State) -> bool {
        let before = state.clone();
        let drained = state.apply(self);
        match self {
            Action::SaveConfig(version, raw) => store.save_config(*version, raw).unwrap(),
            Action::Enqueue(run_id, payload) => {
                let is_new = before.job(run_id).is_none();
                let expected = if is_new { Enqueued::Added } else { Enqueued::Replaced };
                assert_eq!(store.enqueue_job(run_id, payload).unwrap(), expected);
            }
            Action::Ack(run_id) => {
                assert_eq!(store.ack_job(run_id).unwrap(), before.job(run_id).is_some());
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
            Action::PutData(key, value) => store.put_data(key, value).unwrap(),
            Action::DeleteData(key) => {
                assert_eq!(store.delete_data(key).unwrap(), before.data.contains_key(key));
            }
        }
        let removes = matches!(self, Action::Ack(_) | Action::Drain(_) | Action::DeleteData(_));
        let finds_nothing = removes && before == *state;
        !finds_nothing
    }

    pub(crate) fn random(random: &mut Random) -> Action {
        let payload_len = random.below(200);
        let run_id = |random: &mut Random| format!("run-{}", random.below(12));
        let data_key = |random: &mut Random| format!("data-{}", random.below(3));
        let ts_ms = |random: &mut Random| [i64::MIN, -7, -1, 0, 1, 1_700_000_000_000, i64::MAX][random.below(7)];
        match random.below(14) {
            0 => Action::SaveConfig(random.next(), random.bytes(payload_len)),
            1..=4 => Action::Enqueue(run_id(random), random.bytes(payload_len)),
            5..=6 => Action::Ack(run_id(random)),
            7 => Action::SaveSession(format!("session-{}", random.below(1000)), ts_ms(random)),
            8 => Action::Heartbeat(ts_ms(random)),
            9..=10 => Action::BufferLog(ts_ms(random), random.bytes(payload_len)),
            11 => Action::Drain(random.below(4)),
            12 => Action::PutData(data_key(random), random.bytes(payload_len)),
            _ => Action::DeleteData(data_key(random)),
        }
    }
}

impl State {
    /// Returns what a drain gives.
    pub(crate) fn apply(&mut self, action: &Action) -> Vec<(i64, Vec<u8>)> {
        match action.clone() {
            Action::SaveConfig(version, raw) => self.config = Some((version, raw)),
            Action::Enqueue(run_id, payload) => drop(self.enqueue(&run_id, payload)),
            Action::Ack(run_id) => drop(self.ack(&run_id)),
            Action::SaveSession(id, server_time_ms) => self.session = Some((id, server_time_ms)),
            Action::Heartbeat(ts_ms) => self.heartbeat = Some(ts_ms),
            Action::BufferLog(ts_ms, payload) => self.buffer_log(ts_ms, payload),
            Action::Drain(n) => return self.drain_logs(n),
            Action::PutData(key, value) => drop(self.data.insert(key, value)),
            Action::DeleteData(key) => drop(self.delete_data(&key)),
        }
        Vec::new()
    }

    /// Reads everything from a store in the order of its run ids. Its log buffer is empty afterwards.
    pub(crate) fn take(store: &Store) -> State {
        State::drain(store, QueueOrder::RunId).unwrap()
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
        Shown { rest: state.without_logs(), log_count: state.logs.len() }
    }

    pub(crate) fn of(snapshot: &Snapshot) -> Self {
        let jobs = snapshot.dequeue_jobs(usize::MAX).unwrap();
        assert_eq!(snapshot.jobs().collect::<backupy_state::Result<Vec<_>>>().unwrap(), jobs);
        assert_eq!(snapshot.logs().filter(Result::is_ok).count(), snapshot.log_count());
        let rest = State {
            config: snapshot.load_config().unwrap().map(|config| (config.version, config.raw)),
            jobs: jobs.into_iter().map(|job| (job.run_id, job.payload)).collect(),
            session: snapshot.load_session().unwrap().map(|session| (session.session_id, session.server_time_ms)),
            heartbeat: snapshot.last_heartbeat().unwrap(),
            data: snapshot.data_keys("").map(|key| (key.clone(), snapshot.data(&key).unwrap().unwrap())).collect(),
            ..State::default()
        };
        assert_eq!(snapshot.queue_depth(), rest.jobs.len());
        Shown { rest, log_count: snapshot.log_count() }
    }
}
