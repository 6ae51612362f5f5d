//! What a store should hold after each call, and what the call should return.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::{Deref, DerefMut};

use backupy_state::{Enqueued, LogAdmission, QueueOrder, Result, WhenFull};

use super::Sim;
use super::call::{Call, data_key, run_id, session_id, value};
use super::state::State;
use super::store::{FEW, Mode, Opened, open};
use super::world::World;

/// What a store should hold, with what only the simulator checks.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Model {
    pub state: State,
    /// How many log events were dropped, as the log has it.
    pub dropped: u64,
    /// Which of the two keys opens it.
    pub is_other_key: bool,
}

impl Default for Model {
    fn default() -> Self {
        Model { state: State::fifo(), dropped: 0, is_other_key: false }
    }
}

impl Deref for Model {
    type Target = State;

    fn deref(&self) -> &State {
        &self.state
    }
}

impl DerefMut for Model {
    fn deref_mut(&mut self) -> &mut State {
        &mut self.state
    }
}

/// What a process knows and the log does not.
#[derive(Clone, Debug, Default)]
pub(super) struct Memory {
    /// Log events that were dropped since the count was written: a crash forgets them.
    pub(super) unrecorded: u64,
    /// How many drops were acked or drained.
    told: u64,
    /// The events that the last peek returned, and how many events had ever been dropped.
    #[allow(clippy::type_complexity, reason = "times and payloads, and the count of drops")]
    peeked: Option<(Vec<(i64, Vec<u8>)>, u64)>,
}

/// What a call returned, if it returns anything but success.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Done,
    Enqueued(Enqueued),
    Acked(bool),
    Deleted(bool),
    Drained(Vec<(i64, Vec<u8>)>),
    Admitted(LogAdmission),
    Peeked(Vec<(i64, Vec<u8>)>, u64),
    Removed(usize),
}

impl Model {
    /// The state after the call, or `None` where it changes nothing, and what the call must return.
    pub(super) fn after(
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
            Call::Enqueue { job, len } => Answer::Enqueued(next.enqueue(&run_id(job), value(number, len))),
            Call::Ack { job } => {
                if !next.ack(&run_id(job)) {
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
                next.ack(&run_id(job));
                next.enqueue(&run_id(job + 1), value(number, len));
                next.heartbeat = Some(number as i64);
                if next.admit_log(number as i64, value(number, len), when_full) == LogAdmission::Dropped {
                    memory.unrecorded += 1;
                }
                next.record_drops(memory);
                next.data.insert(data_key(job), value(number, len));
                next.delete_data(&data_key(job + 1));
                Answer::Done
            }
            Call::PutData { key, len } => {
                next.data.insert(data_key(key), value(number, len));
                Answer::Done
            }
            Call::DeleteData { key } => {
                if !next.delete_data(&data_key(key)) {
                    return (None, Answer::Deleted(false));
                }
                Answer::Deleted(true)
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
                let drained = next.drain_logs(n);
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

    /// The first events in drain order make room for the new one, or the new one is dropped.
    fn admit_log(&mut self, ts_ms: i64, payload: Vec<u8>, when_full: Option<WhenFull>) -> LogAdmission {
        let too_many = (self.logs.len() + 1).saturating_sub(FEW);
        let made_room = match when_full {
            None => 0,
            Some(WhenFull::DropNewest) if too_many > 0 => return LogAdmission::Dropped,
            Some(WhenFull::DropNewest) => 0,
            Some(WhenFull::DropOldest) => too_many,
            Some(other) => unreachable!("{other:?} is not used here"),
        };
        self.logs.drain(..made_room);
        self.dropped += made_room as u64;
        self.buffer_log(ts_ms, payload);
        if made_room == 0 { LogAdmission::Buffered } else { LogAdmission::DroppedOldest(made_room as u64) }
    }

    /// Every call that writes a log event also writes the count of dropped events.
    pub(super) fn record_drops(&mut self, memory: &mut Memory) {
        self.dropped += std::mem::take(&mut memory.unrecorded);
    }

    /// What [`Model::read`] returns.
    pub fn without_logs(&self) -> Model {
        Model { state: self.state.without_logs(), ..*self }
    }

    pub fn hash(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        Hash::hash(self, &mut hasher);
        hasher.finish()
    }

    /// Reads everything except the log events, so that the store stays as it is.
    pub fn read(opened: &Opened) -> Result<Model> {
        Ok(Model::of(State::read(opened, QueueOrder::Fifo)?, opened))
    }

    /// Reads everything, and drains the log events.
    pub fn take(opened: &Opened) -> Result<Model> {
        // The drain resets the count of drops.
        let dropped = opened.stats().logs_dropped;
        Ok(Model { dropped, ..Model::of(State::drain(opened, QueueOrder::Fifo)?, opened) })
    }

    fn of(state: State, opened: &Opened) -> Model {
        Model { state, dropped: opened.stats().logs_dropped, is_other_key: opened.is_other_key }
    }

    /// Reads everything that a store holds on a copy of its disk, as if its process had been killed.
    pub fn on_copy(world: &World) -> Result<Model> {
        Model::take(&open(&Sim::at(world.clone(), 0), Mode::Sync)?)
    }
}

/// Shows only the lengths and the first bytes of values.
impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let short = |bytes: &[u8]| format!("{}B:{:02x?}", bytes.len(), &bytes[..bytes.len().min(4)]);
        let mut out = f.debug_struct("Model");
        out.field("config", &self.config.as_ref().map(|(version, raw)| (version, short(raw))));
        out.field("jobs", &self.jobs.iter().map(|(id, payload)| (id, short(payload))).collect::<Vec<_>>());
        out.field("session", &self.session.as_ref().map(|(id, time)| (id.len(), time)));
        out.field("heartbeat", &self.heartbeat);
        out.field("logs", &self.logs.iter().map(|(ts, payload)| (ts, short(payload))).collect::<Vec<_>>());
        out.field("data", &self.data.iter().map(|(key, value)| (key, short(value))).collect::<Vec<_>>());
        out.field("dropped", &self.dropped).field("is_other_key", &self.is_other_key);
        out.finish()
    }
}
