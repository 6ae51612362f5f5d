//! What a store should hold after each call, and what the call should return.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};

use backupy_state::{Config, Enqueued, LogAdmission, LogEvent, QueuedJob, Result, Session, WhenFull};

use super::Sim;
use super::call::{Call, run_id, session_id, value};
use super::store::{FEW, Mode, Opened, open};
use super::world::World;

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
pub(super) struct Memory {
    /// Log events that were dropped since the count was written: a crash forgets them.
    pub(super) unrecorded: u64,
    /// How many drops were acked or drained.
    told: u64,
    /// What the last peek saw, and how many drops there had ever been.
    #[allow(clippy::type_complexity, reason = "times and payloads, and the count of drops")]
    peeked: Option<(Vec<(i64, Vec<u8>)>, u64)>,
}

/// What a call returned, as far as it says something.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
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
    pub(super) fn record_drops(&mut self, memory: &mut Memory) {
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

pub(super) fn events_of(events: &[LogEvent]) -> Vec<(i64, Vec<u8>)> {
    events.iter().map(|event| (event.ts_ms, event.payload.clone())).collect()
}
