//! What a store should hold after its calls, in plain lists.
//!
//! This is the one model of the buckets: `tests/common` drives it on the real disk, `tests/sim` on the simulated
//! one, and the fuzz target `model` with calls that the engine chooses. Each adds only what it alone checks: the
//! simulator the count of dropped events and the key, the fuzz target the limits of the log buffer. The reader in
//! `tests/format/page_reader.rs` shares nothing with it, on purpose: it is written from FORMAT.md alone, so that
//! it cannot share a misunderstanding with the store or with this model.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]

use std::collections::BTreeMap;

use backupy_state::{Config, Enqueued, LogEvent, QueueOrder, QueuedJob, Result, Session, Store};

/// Everything that can be read from a store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct State {
    pub config: Option<(u64, Vec<u8>)>,
    /// In the order in which the store returns them.
    pub jobs: Vec<(String, Vec<u8>)>,
    /// Whether that is the order of the latest enqueue, and not that of the run ids.
    pub is_fifo: bool,
    pub session: Option<(String, i64)>,
    pub heartbeat: Option<i64>,
    /// In drain order.
    pub logs: Vec<(i64, Vec<u8>)>,
    pub data: BTreeMap<String, Vec<u8>>,
}

impl State {
    /// The empty state of a store that is opened with `QueueOrder::Fifo`.
    pub fn fifo() -> Self {
        State { is_fifo: true, ..State::default() }
    }

    pub fn enqueue(&mut self, run_id: &str, payload: Vec<u8>) -> Enqueued {
        let was_queued = self.ack(run_id);
        let at = if self.is_fifo {
            self.jobs.len()
        } else {
            self.jobs.partition_point(|(other, _)| other.as_str() < run_id)
        };
        self.jobs.insert(at, (run_id.to_owned(), payload));
        if was_queued { Enqueued::Replaced } else { Enqueued::Added }
    }

    /// Returns whether the job was queued.
    pub fn ack(&mut self, run_id: &str) -> bool {
        let before = self.jobs.len();
        self.jobs.retain(|(other, _)| other != run_id);
        self.jobs.len() < before
    }

    pub fn job(&self, run_id: &str) -> Option<&[u8]> {
        let found = self.jobs.iter().find(|(other, _)| other == run_id);
        found.map(|(_, payload)| payload.as_slice())
    }

    /// Events with the same time keep the order in which they came.
    pub fn buffer_log(&mut self, ts_ms: i64, payload: Vec<u8>) {
        let after_ties = self.logs.partition_point(|(other, _)| *other <= ts_ms);
        self.logs.insert(after_ties, (ts_ms, payload));
    }

    pub fn drain_logs(&mut self, n: usize) -> Vec<(i64, Vec<u8>)> {
        self.logs.drain(..n.min(self.logs.len())).collect()
    }

    /// Returns whether it was there.
    pub fn delete_data(&mut self, key: &str) -> bool {
        self.data.remove(key).is_some()
    }

    pub fn without_logs(&self) -> State {
        State { logs: Vec::new(), ..self.clone() }
    }

    /// Reads everything except the log events, so that the store stays as it is. The store was opened with this
    /// order.
    pub fn read(store: &Store, order: QueueOrder) -> Result<State> {
        let config = store.load_config()?.map(|Config { version, raw, .. }| (version, raw));
        let jobs = store.dequeue_jobs(usize::MAX)?.into_iter();
        let jobs: Vec<_> = jobs.map(|QueuedJob { run_id, payload, .. }| (run_id, payload)).collect();
        assert_eq!(store.queue_depth(), jobs.len());
        assert!(store.run_ids().eq(jobs.iter().map(|(run_id, _)| run_id.as_str())));
        let session = store.load_session()?;
        let session = session.map(|Session { session_id, server_time_ms, .. }| (session_id, server_time_ms));
        let heartbeat = store.last_heartbeat()?;
        let mut data = BTreeMap::new();
        for key in store.data_keys("") {
            let value = store.data(&key)?.expect("no other thread deletes it");
            data.insert(key, value);
        }
        let is_fifo = order == QueueOrder::Fifo;
        Ok(State { config, jobs, is_fifo, session, heartbeat, logs: Vec::new(), data })
    }

    /// Reads everything, and drains the log events.
    pub fn drain(store: &Store, order: QueueOrder) -> Result<State> {
        let read = State::read(store, order)?;
        let count = store.log_count();
        let logs = events_of(&store.drain_logs(usize::MAX)?);
        assert_eq!(count, logs.len());
        Ok(State { logs, ..read })
    }
}

pub fn events_of(events: &[LogEvent]) -> Vec<(i64, Vec<u8>)> {
    events.iter().map(|event| (event.ts_ms, event.payload.clone())).collect()
}
