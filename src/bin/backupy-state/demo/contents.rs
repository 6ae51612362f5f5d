//! The contents of a store or a snapshot, as cells and digests.

use std::collections::BTreeMap;

use backupy_state::{LogEvent, Result, Snapshot, Store};

use super::protocol::{Event, digest};

pub(crate) const CONFIG: &str = "config";
pub(crate) const SESSION: &str = "session";
pub(crate) const HEARTBEAT: &str = "heartbeat";
pub(crate) const LOG: &str = "log/";

pub(crate) fn job_cell(run_id: &str) -> String {
    format!("job/{run_id}")
}

pub(crate) fn config_digest(version: u64, raw: &[u8]) -> u64 {
    digest(&[&version.to_le_bytes(), raw])
}

pub(crate) fn session_digest(session_id: &str, server_time_ms: i64) -> u64 {
    digest(&[session_id.as_bytes(), &server_time_ms.to_le_bytes()])
}

pub(crate) fn job_digest(payload: &[u8]) -> u64 {
    digest(&[payload])
}

pub(crate) fn event_digest(ts_ms: i64, payload: &[u8]) -> u64 {
    digest(&[&ts_ms.to_le_bytes(), payload])
}

/// The payload of an event begins with its cell.
pub(crate) fn as_event(event: &LogEvent) -> Event {
    let name = event.payload.split(|byte| *byte == b' ').next().and_then(|name| std::str::from_utf8(name).ok());
    let cell = name.filter(|name| name.starts_with(LOG)).unwrap_or("log/?").to_owned();
    Event { cell, ts_ms: event.ts_ms, digest: event_digest(event.ts_ms, &event.payload) }
}

/// `Store` and `Snapshot` have the same reading calls, but share no public trait for them.
macro_rules! contents_of {
    ($reader:ty, $name:ident) => {
        pub(crate) fn $name(reader: &$reader) -> Result<BTreeMap<String, u64>> {
            let mut contents = BTreeMap::new();
            if let Some(config) = reader.load_config()? {
                contents.insert(CONFIG.to_owned(), config_digest(config.version, &config.raw));
            }
            if let Some(session) = reader.load_session()? {
                contents.insert(SESSION.to_owned(), session_digest(&session.session_id, session.server_time_ms));
            }
            if let Some(ts_ms) = reader.last_heartbeat()? {
                contents.insert(HEARTBEAT.to_owned(), ts_ms.cast_unsigned());
            }
            for job in reader.jobs() {
                let job = job?;
                contents.insert(job_cell(&job.run_id), job_digest(&job.payload));
            }
            for event in reader.logs() {
                let Event { cell, digest, .. } = as_event(&event?);
                contents.insert(cell, digest);
            }
            Ok(contents)
        }
    };
}

contents_of!(Store, contents_of_store);
contents_of!(Snapshot, contents_of_snapshot);
