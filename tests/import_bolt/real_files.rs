//! Files that bbolt wrote (`tests/bolt/`), each compared with the list of its contents.

use std::fs;

use backupy_state::{AgentKey, Error, OpenOptions, Store, check_bolt, import_bolt};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::real_file;

const NAMES: [&str; 5] = ["empty", "small", "busy", "nofreelist", "hashmap-page16k"];

fn list(name: &str) -> Value {
    serde_json::from_slice(&fs::read(real_file(&format!("{name}.json"))).unwrap()).unwrap()
}

fn key_of(list: &Value) -> AgentKey {
    AgentKey::new(list["agent_key"].as_str().unwrap()).unwrap()
}

fn digest(bytes: &[u8]) -> Value {
    let digest: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    json!({ "len": bytes.len(), "sha256": digest })
}

/// What a store holds, as the list has it.
fn list_of(store: &Store, agent_key: &Value) -> Value {
    let (config, session) = (store.load_config().unwrap(), store.load_session().unwrap());
    let with = |name: &str, value: Value, bytes: &[u8]| {
        let mut object = digest(bytes);
        object[name] = value;
        object
    };
    let jobs = store.dequeue_jobs(usize::MAX).unwrap();
    let jobs: Vec<_> = jobs.iter().map(|job| with("run_id", job.run_id.clone().into(), &job.payload)).collect();
    let logs = store.peek_logs(usize::MAX).unwrap();
    let logs: Vec<_> =
        logs.events().iter().map(|event| with("ts_ms", event.ts_ms.into(), &event.payload)).collect();
    json!({
        "agent_key": agent_key,
        "config_version": config.as_ref().map(|config| config.version),
        "config": config.map(|config| digest(&config.raw)),
        "session_id": session.as_ref().map(|session| session.session_id.clone()),
        "server_time_ms": session.map(|session| session.server_time_ms),
        "last_heartbeat_ms": store.last_heartbeat().unwrap(),
        "jobs": jobs,
        "logs": logs,
    })
}

#[test]
fn every_value_of_a_real_file_is_imported() {
    for name in NAMES {
        let list = list(name);
        let from = real_file(&format!("{name}.db"));
        let before = fs::read(&from).unwrap();
        let folder = tempfile::tempdir().unwrap();
        // The agent may get a new key on the way.
        let new_key = AgentKey::new("another").unwrap();
        let path = folder.path().join("state.db");
        let store = Store::open(&path, &new_key).unwrap();
        let report = import_bolt(&from, &key_of(&list), &store).unwrap();
        assert_eq!(list_of(&store, &list["agent_key"]), list, "{name}");
        store.close().unwrap();
        let store = OpenOptions::new().create(false).open(&path, &new_key).unwrap();
        assert_eq!(list_of(&store, &list["agent_key"]), list, "{name}");

        assert_eq!(report.config_version, list["config_version"].as_u64());
        assert_eq!(report.session, !list["session_id"].is_null());
        assert_eq!(report.last_heartbeat_ms, list["last_heartbeat_ms"].as_i64());
        assert_eq!(report.jobs, list["jobs"].as_array().unwrap().len() as u64);
        assert_eq!(report.log_events, list["logs"].as_array().unwrap().len() as u64);
        assert_eq!((report.log_events_dropped, report.already_there), (0, 0));
        assert!(report.left_out.is_empty() && !report.meta_page_damaged, "{report:?}");
        assert_eq!(check_bolt(&from, &key_of(&list)).unwrap(), report);
        assert!(fs::read(&from).unwrap() == before);
    }
}

#[test]
fn a_real_file_under_another_key_imports_nothing() {
    for name in ["small", "busy", "nofreelist", "hashmap-page16k"] {
        let from = real_file(&format!("{name}.db"));
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path().join("state.db"), &crate::key()).unwrap();
        let error = import_bolt(&from, &crate::key(), &store).unwrap_err();
        assert!(matches!(&error, Error::WrongKey { path, .. } if *path == from), "{name}: {error:?}");
        assert_eq!(store.stats().seq, 0);
    }
}
