//! What a store should hold, and what it should say, in plain lists.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Deref;

use super::{How, Write, is_bad, text};
use crate::sim;

/// The model of `tests/`, but for log events: here these are numbered, and the buffer has limits.
#[derive(Clone, Debug)]
pub(super) struct State {
    /// Its jobs are in the order of the latest enqueue, and its log buffer stays empty.
    kept: sim::State,
    /// How many enqueues there were when each job was enqueued.
    places: BTreeMap<String, u64>,
    enqueues: u64,
    /// The last job of each of the latest pages in the order of the latest enqueue, and the place it had.
    page_ends: VecDeque<(String, u64)>,
    /// Oldest first.
    pub(super) logs: Vec<Event>,
    /// How many were dropped and not yet reported; and as far as the log knows.
    pub(super) dropped: u64,
    pub(super) recorded: u64,
    /// How many were reported.
    told: u64,
    events: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Event {
    pub(super) ts_ms: i64,
    pub(super) payload: Vec<u8>,
    /// No two events ever have the same.
    pub(super) number: u64,
}

/// What a peek has shown.
#[derive(Clone, Debug)]
pub(super) struct Peeked {
    pub(super) numbers: Vec<u64>,
    pub(super) dropped: u64,
    /// With those that had been reported before.
    pub(super) dropped_ever: u64,
}

impl Default for State {
    fn default() -> Self {
        State {
            kept: sim::State::fifo(),
            places: BTreeMap::new(),
            enqueues: 0,
            page_ends: VecDeque::new(),
            logs: Vec::new(),
            dropped: 0,
            recorded: 0,
            told: 0,
            events: 0,
        }
    }
}

impl Deref for State {
    type Target = sim::State;

    fn deref(&self) -> &sim::State {
        &self.kept
    }
}

impl State {
    pub(super) fn queue_depth(&self) -> usize {
        self.jobs.len()
    }

    pub(super) fn dequeue(&mut self, is_fifo: bool, after: Option<&str>, n: usize) -> Vec<(String, Vec<u8>)> {
        if !is_fifo {
            return self.by_run_id(after, n);
        }
        let queued = after.filter(|id| self.job(id).is_some());
        let place = queued.map_or(0, |id| {
            let end = self.page_ends.iter().find(|(last, _)| last == id);
            end.map_or_else(|| self.places[id], |(_, place)| *place)
        });
        let page: Vec<_> = self.jobs.iter().filter(|(job, _)| self.places[job] > place).take(n).cloned().collect();
        if let Some((last, _)) = page.last() {
            self.page_ends.retain(|(end, _)| page.iter().all(|(job, _)| job != end));
            self.page_ends.push_back((last.clone(), self.places[last]));
            while self.page_ends.len() > 16 {
                self.page_ends.pop_front();
            }
        }
        page
    }

    pub(super) fn by_run_id(&self, after: Option<&str>, n: usize) -> Vec<(String, Vec<u8>)> {
        let mut jobs = self.jobs.clone();
        jobs.sort();
        jobs.into_iter().filter(|(job, _)| after.is_none_or(|after| job.as_str() > after)).take(n).collect()
    }

    /// The next session knows nothing of the pages of this one.
    pub(super) fn reopen(&mut self) {
        self.page_ends.clear();
    }

    /// A call that is not about log events and was not refused. Returns whether it is written.
    pub(super) fn apply(&mut self, write: &Write) -> bool {
        match *write {
            Write::Config { version, value } => self.kept.config = Some((version, value.bytes())),
            Write::Session { value, time } => self.kept.session = Some((text(value), time.ms())),
            Write::Heartbeat { time } => self.kept.heartbeat = Some(time.ms()),
            Write::Enqueue { id, value } => {
                let id = id.text();
                if !is_bad(&id) {
                    self.kept.enqueue(&id, value.bytes());
                    self.enqueues += 1;
                    self.places.insert(id, self.enqueues);
                }
            }
            Write::Ack { id } => return self.kept.ack(&id.text()),
            Write::PutData { id, value } => {
                if !is_bad(&id.text()) {
                    self.kept.data.insert(id.text(), value.bytes());
                }
            }
            Write::DeleteData { id } => return self.kept.delete_data(&id.text()),
            Write::Log { .. } => return false,
        }
        true
    }

    /// A batch; `events` are its log events.
    pub(super) fn write(&mut self, how: &How, writes: &[Write], events: &[(i64, Vec<u8>)]) {
        // What removes a key that is not there is not written.
        let effective = writes.iter().filter(|write| self.apply(write)).count();
        let (admitted, _) = self.buffer_logs(how, events);
        if admitted > 0 || effective > 0 {
            self.recorded = self.dropped;
        }
    }

    /// Log events that come in one call. Returns how many came in, and how many buffered ones made room.
    pub(super) fn buffer_logs(&mut self, how: &How, events: &[(i64, Vec<u8>)]) -> (usize, u64) {
        let max_count = how.max_count.map_or(usize::MAX, usize::from);
        let max_bytes = how.max_bytes.map_or(usize::MAX, usize::from);
        let mut old = std::mem::take(&mut self.logs);
        let mut own: Vec<Event> = Vec::new();
        let mut made_room = 0;
        // What is later than the new events by more than an hour goes first.
        let usual_until = events.iter().map(|(ts_ms, _)| ts_ms.saturating_add(3_600_000)).min();
        for (ts_ms, payload) in events {
            let fits = |old: &[Event], own: &[Event]| {
                let bytes: usize = old.iter().chain(own).map(|event| event.payload.len()).sum();
                old.len() + own.len() < max_count && bytes + payload.len() <= max_bytes
            };
            if !how.drops_newest && fits(&[], &[]) {
                while !fits(&old, &own) {
                    self.dropped += 1;
                    if old.is_empty() {
                        own.remove(0);
                    } else {
                        let is_ahead = |event: &Event| usual_until.is_some_and(|until| event.ts_ms > until);
                        old.remove(old.iter().position(is_ahead).unwrap_or(0));
                        made_room += 1;
                    }
                }
            }
            if fits(&old, &own) {
                self.events += 1;
                own.push(Event { ts_ms: *ts_ms, payload: payload.clone(), number: self.events });
            } else {
                self.dropped += 1;
            }
        }
        let admitted = own.len();
        old.extend(own);
        // Stable: ties keep the order in which they came.
        old.sort_by_key(|event| event.ts_ms);
        self.logs = old;
        if admitted > 0 {
            self.recorded = self.dropped;
        }
        (admitted, made_room)
    }

    pub(super) fn drain(&mut self, n: usize) -> Vec<(i64, Vec<u8>)> {
        let drained: Vec<_> = self.logs.drain(..n.min(self.logs.len())).collect();
        if !drained.is_empty() {
            self.tell(0);
        }
        drained.into_iter().map(|event| (event.ts_ms, event.payload)).collect()
    }

    pub(super) fn peek(&self, n: usize) -> Peeked {
        let numbers = self.logs.iter().take(n).map(|event| event.number).collect();
        Peeked { numbers, dropped: self.dropped, dropped_ever: self.told + self.dropped }
    }

    pub(super) fn ack_logs(&mut self, peeked: &Peeked) -> usize {
        let before = self.logs.len();
        self.logs.retain(|event| !peeked.numbers.contains(&event.number));
        self.tell(self.told + self.dropped - peeked.dropped_ever.max(self.told));
        before - self.logs.len()
    }

    fn tell(&mut self, left: u64) {
        self.told += self.dropped - left;
        (self.dropped, self.recorded) = (left, left);
    }

    pub(super) fn record_drops(&mut self) {
        self.recorded = self.dropped;
    }

    pub(super) fn forget_unrecorded_drops(&mut self) {
        self.dropped = self.recorded;
    }
}
