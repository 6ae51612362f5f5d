//! Importing from the Go agent's bbolt file: real files, files written by hand with every oddity, damage, and
//! crashes.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]
#![allow(clippy::cast_possible_truncation, reason = "the files are small")]

mod damage;
mod odd_files;
mod real_files;
mod stores;
mod writer;

#[path = "../sim/mod.rs"]
mod sim;

use std::path::{Path, PathBuf};

use backupy_state::testing::{BoltState, config, log_event, queued_job, read_bolt, session};
use backupy_state::{AgentKey, Config, LogEvent, QueuedJob, Session};
use writer::Agent;

const KEY: &str = "bkpy_0123456789abcdef0123456789abcdef";

fn key() -> AgentKey {
    AgentKey::new(KEY).unwrap()
}

/// A file that bbolt has written.
fn real_file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bolt").join(name)
}

/// A little of everything, with ties, a time before 1970 and an empty value.
fn agent() -> Agent {
    Agent {
        config: Some((7, b"interval = 42".to_vec())),
        session: Some(("session-1".to_owned(), 1_700_000_000_123)),
        heartbeat: Some(1_700_000_060_000),
        jobs: (0..20).map(|i| (format!("run-{i:02}"), vec![i; 40 + usize::from(i)])).collect(),
        logs: vec![
            (5, 0, b"first".to_vec()),
            (5, 1, b"second".to_vec()),
            (5, 2, Vec::new()),
            (900, 3, b"third".to_vec()),
            ((-5_i64).cast_unsigned(), 4, b"of 1969".to_vec()),
        ],
    }
}

/// Config, session, heartbeat, jobs and log events.
type Contents = (Option<Config>, Option<Session>, Option<i64>, Vec<QueuedJob>, Vec<LogEvent>);

/// What must be imported from it, with log events in the order of their times.
fn expected(agent: &Agent) -> Contents {
    let config = agent.config.clone().map(|(version, raw)| config(version, raw));
    let session =
        agent.session.clone().map(|(session_id, server_time)| session(session_id, server_time.cast_signed()));
    let jobs = agent.jobs.iter().cloned().map(|(run_id, payload)| queued_job(run_id, payload));
    let logs = agent.logs.iter().cloned();
    let logs = logs.map(|(ts_ms, _, payload)| log_event(ts_ms.cast_signed(), payload));
    let mut logs: Vec<_> = logs.collect();
    logs.sort_by_key(|event| event.ts_ms);
    (config, session, agent.heartbeat.map(u64::cast_signed), jobs.collect(), logs)
}

fn found(state: BoltState) -> Contents {
    (state.config, state.session, state.report.last_heartbeat_ms, state.jobs, state.logs)
}

/// The example of the documentation reads a file, and this says what is in it.
#[test]
fn the_example_is_what_it_was_made_from() {
    let example = include_bytes!("example.db");
    assert!(agent().file(KEY.as_bytes(), 512, 5) == example);
    assert_eq!(found(read_bolt(example, &key()).unwrap()), expected(&agent()));
}
