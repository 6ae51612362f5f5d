//! The calls of the soak: what each thread does, its effect in the model, and what a reader finds of it.
//!
//! In the model, the hash of a payload is its value, so that the parent holds little.

use std::hash::{DefaultHasher, Hash, Hasher};

use backupy_state::{Batch, Error, LogAdmission, QueueOrder, Result, Snapshot, Store};

use crate::common::{Action, Random, State};
use crate::kills::{part_of, prefix};

pub(super) const THREADS: usize = 4;

/// One writing call: one action by a call of its own, or several in a batch.
pub(super) struct Call {
    actions: Vec<Action>,
    /// Of two calls that do the same, which one is made.
    by_other_call: bool,
}

impl Call {
    /// The call number `number` of a thread: the same whenever it is asked for.
    pub(super) fn new(seed: u64, thread: usize, number: usize) -> Self {
        let mut random = Random::new(seed ^ (thread as u64) << 56 ^ number as u64);
        let len = if random.below(5) == 0 { 2 + random.below(5) } else { 1 };
        let mut actions: Vec<_> = (0..len).map(|_| action(&mut random, thread, number)).collect();
        // A batch acks the events that were there before it.
        for later in &mut actions[1..] {
            if matches!(later, Action::Drain(_)) {
                *later = Action::Ack(run_id(&mut random, thread));
            }
        }
        Call { actions, by_other_call: random.below(2) == 0 }
    }

    /// What the model makes of it.
    pub(super) fn apply(&self, state: &mut State) {
        for action in &self.actions {
            state.apply(&match action.clone() {
                Action::SaveConfig(version, raw) => Action::SaveConfig(version, digest(&raw)),
                Action::Enqueue(run_id, payload) => Action::Enqueue(run_id, digest(&payload)),
                Action::BufferLog(ts_ms, payload) => Action::BufferLog(ts_ms, digest(&payload)),
                Action::PutData(key, value) => Action::PutData(key, digest(&value)),
                other => other,
            });
        }
    }

    pub(super) fn make(&self, store: &Store) -> Result<()> {
        match &self.actions[..] {
            [action] => self.make_single(action, store),
            actions => {
                let mut batch = Batch::new();
                for action in actions {
                    batch = add(batch, action, store)?;
                }
                store.write(&batch)
            }
        }
    }

    fn make_single(&self, action: &Action, store: &Store) -> Result<()> {
        match action {
            Action::SaveConfig(version, raw) => store.save_config(*version, raw),
            Action::Enqueue(run_id, payload) => store.enqueue_job(run_id, payload).map(drop),
            Action::Ack(run_id) if self.by_other_call => match store.job(run_id)? {
                Some(job) => store.ack_delivered(&job).map(drop),
                None => Ok(()),
            },
            Action::Ack(run_id) => store.ack_job(run_id).map(drop),
            Action::SaveSession(id, server_time_ms) => store.save_session(id, *server_time_ms),
            Action::Heartbeat(ts_ms) => store.record_heartbeat(*ts_ms),
            Action::BufferLog(ts_ms, payload) => {
                let admitted = store.buffer_log(*ts_ms, payload)?;
                assert_eq!(admitted, LogAdmission::Buffered, "the buffer is far from its limits");
                Ok(())
            }
            Action::Drain(n) if self.by_other_call => store.ack_logs(&store.peek_logs(*n)?).map(drop),
            Action::Drain(n) => store.drain_logs(*n).map(drop),
            Action::PutData(key, value) => store.put_data(key, value),
            Action::DeleteData(key) => store.delete_data(key).map(drop),
        }
    }
}

fn add(batch: Batch, action: &Action, store: &Store) -> Result<Batch> {
    Ok(match action {
        Action::SaveConfig(version, raw) => batch.save_config(*version, raw),
        Action::Enqueue(run_id, payload) => batch.enqueue_job(run_id, payload),
        Action::Ack(run_id) => batch.ack_job(run_id),
        Action::SaveSession(id, server_time_ms) => batch.save_session(id, *server_time_ms),
        Action::Heartbeat(ts_ms) => batch.record_heartbeat(*ts_ms),
        Action::BufferLog(ts_ms, payload) => batch.buffer_log(*ts_ms, payload),
        Action::Drain(n) => batch.ack_logs(&store.peek_logs(*n)?),
        Action::PutData(key, value) => batch.put_data(key, value),
        Action::DeleteData(key) => batch.delete_data(key),
    })
}

/// One thread has the logs and the configuration, one the session and the heartbeat: they have one key each, or,
/// as the logs, whoever removes some must know of all. Jobs and data are of all threads.
fn action(random: &mut Random, thread: usize, number: usize) -> Action {
    let ts_ms = i64::try_from(random.below(5)).unwrap();
    match (thread, random.below(8)) {
        (0, 0..=2) => Action::BufferLog(ts_ms, payload(random)),
        // More than are added, so that the buffer does not grow.
        (0, 3) => Action::Drain(random.below(20)),
        (0, 4) => Action::SaveConfig(number as u64, payload(random)),
        (1, 0) => Action::SaveSession(format!("session {number}"), ts_ms),
        (1, 1 | 2) => Action::Heartbeat(i64::try_from(number).unwrap()),
        (_, 3) => Action::PutData(data_key(random, thread), payload(random)),
        (_, 4) => Action::DeleteData(data_key(random, thread)),
        (_, 5 | 6) => Action::Ack(run_id(random, thread)),
        _ => Action::Enqueue(run_id(random, thread), payload(random)),
    }
}

fn run_id(random: &mut Random, thread: usize) -> String {
    format!("{}job-{}", prefix(thread), random.below(12))
}

fn data_key(random: &mut Random, thread: usize) -> String {
    format!("{}data-{}", prefix(thread), random.below(6))
}

/// Most are short. Some are long enough to be killed in the middle of. No two are the same.
fn payload(random: &mut Random) -> Vec<u8> {
    let len = 8 + match random.below(500) {
        0 => random.below(3 << 20),
        1..=20 => random.below(400_000),
        _ => random.below(600),
    };
    let mut bytes = vec![0; len];
    random.fill(&mut bytes);
    bytes
}

fn digest(payload: &[u8]) -> Vec<u8> {
    hash_of(payload).to_le_bytes().to_vec()
}

pub(super) fn hash_of<T: Hash + ?Sized>(value: &T) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// What one thread's calls made, in the order in which a store or a snapshot shows it.
pub(super) fn in_order(state: &State, order: QueueOrder) -> State {
    let mut state = state.clone();
    state.is_fifo = order == QueueOrder::Fifo;
    if !state.is_fifo {
        state.jobs.sort();
    }
    state
}

/// The parts of a whole state that are each thread's own. Panics if something belongs to none.
pub(super) fn parts(whole: &State) -> Vec<State> {
    let parts: Vec<_> = (0..THREADS).map(|thread| part_of(whole, thread)).collect();
    let of_all = |count: fn(&State) -> usize| parts.iter().map(count).sum::<usize>();
    assert_eq!(of_all(|part| part.jobs.len()), whole.jobs.len());
    assert_eq!(of_all(|part| part.data.len()), whole.data.len());
    parts
}

/// `Store` and `Snapshot` have the same reading calls, but share no public trait for them.
macro_rules! whole_of {
    ($name:ident, $reader:ty) => {
        pub(super) fn $name(reader: &$reader, order: QueueOrder) -> Result<State> {
            let config = reader.load_config()?.map(|config| (config.version, digest(&config.raw)));
            let session = reader.load_session()?.map(|session| (session.session_id, session.server_time_ms));
            let jobs = reader.jobs().map(|job| job.map(|job| (job.run_id, digest(&job.payload))));
            let logs = reader.logs().map(|event| event.map(|event| (event.ts_ms, digest(&event.payload))));
            let data = reader.data_keys("").map(|key| {
                let value = reader.data(&key)?.ok_or_else(|| missing(reader.path()))?;
                Ok((key, digest(&value)))
            });
            Ok(State {
                config,
                jobs: jobs.collect::<Result<_>>()?,
                is_fifo: order == QueueOrder::Fifo,
                session,
                heartbeat: reader.last_heartbeat()?,
                logs: logs.collect::<Result<_>>()?,
                data: data.collect::<Result<_>>()?,
            })
        }
    };
}

whole_of!(whole_of_store, Store);
whole_of!(whole_of_snapshot, Snapshot);

fn missing(path: &std::path::Path) -> Error {
    panic!("{}: a data key without a value, while nobody deletes it", path.display())
}
