//! What a store or a snapshot holds, as cells and marks.

use std::collections::BTreeMap;

use backupy_state::{LogEvent, Result, Snapshot, Store};

use super::wire::{Event, mark};

pub(crate) const CONFIG: &str = "config";
pub(crate) const SESSION: &str = "session";
pub(crate) const HEARTBEAT: &str = "heartbeat";
pub(crate) const LOG: &str = "log/";

pub(crate) fn job_cell(run_id: &str) -> String {
    format!("job/{run_id}")
}

pub(crate) fn config_mark(version: u64, raw: &[u8]) -> u64 {
    mark(&[&version.to_le_bytes(), raw])
}

pub(crate) fn session_mark(session_id: &str, server_time_ms: i64) -> u64 {
    mark(&[session_id.as_bytes(), &server_time_ms.to_le_bytes()])
}

pub(crate) fn job_mark(payload: &[u8]) -> u64 {
    mark(&[payload])
}

pub(crate) fn event_mark(ts_ms: i64, payload: &[u8]) -> u64 {
    mark(&[&ts_ms.to_le_bytes(), payload])
}

/// The payload of an event begins with its cell.
pub(crate) fn as_event(event: &LogEvent) -> Event {
    let name = event.payload.split(|byte| *byte == b' ').next().and_then(|name| std::str::from_utf8(name).ok());
    let cell = name.filter(|name| name.starts_with(LOG)).unwrap_or("log/?").to_owned();
    Event { cell, ts_ms: event.ts_ms, mark: event_mark(event.ts_ms, &event.payload) }
}

/// The reading calls are the same on both, but the library has no trait for them.
macro_rules! held_by {
    ($reader:ty, $name:ident) => {
        pub(crate) fn $name(reader: &$reader) -> Result<BTreeMap<String, u64>> {
            let mut held = BTreeMap::new();
            if let Some(config) = reader.load_config()? {
                held.insert(CONFIG.to_owned(), config_mark(config.version, &config.raw));
            }
            if let Some(session) = reader.load_session()? {
                held.insert(SESSION.to_owned(), session_mark(&session.session_id, session.server_time_ms));
            }
            if let Some(ts_ms) = reader.last_heartbeat()? {
                held.insert(HEARTBEAT.to_owned(), ts_ms.cast_unsigned());
            }
            for job in reader.dequeue_jobs(usize::MAX)? {
                held.insert(job_cell(&job.run_id), job_mark(&job.payload));
            }
            for event in reader.peek_logs(usize::MAX)?.events() {
                let Event { cell, mark, .. } = as_event(event);
                held.insert(cell, mark);
            }
            Ok(held)
        }
    };
}

held_by!(Store, held_by_store);
held_by!(Snapshot, held_by_snapshot);
