//! `dump-state`: the contents of a store, with and without secrets.

use serde_json::{Value, json};

use crate::sandbox::{HEARTBEAT_MS, PAYLOAD, RAW_CONFIG, SERVER_TIME_MS, SESSION_ID, Sandbox};

#[test]
fn dump_state_shows_lengths_and_times() {
    let out = Sandbox::filled().run("dump-state").success();
    let expected = "\
state       [DIR]/state.db
config      version 7, 36 bytes
session     present, server time 2023-11-14 22:13:20.123 UTC
heartbeat   2023-11-14 22:14:20.000 UTC ([AGE])
log events  1
data keys   0
jobs        2
  run-1  29 bytes
  run-2  8 bytes
";
    assert_eq!(out, expected);
}

#[test]
fn dump_state_of_a_new_store_shows_that_it_is_empty() {
    let sandbox = Sandbox::empty();
    sandbox.open().close().unwrap();
    let expected = "\
state       [DIR]/state.db
config      none
session     none
heartbeat   none
log events  0
data keys   0
jobs        0
";
    assert_eq!(sandbox.run("dump-state").success(), expected);
    let health = sandbox.run("health-check").success();
    assert!(health.starts_with("ok: 0 jobs (0 bytes), 0 log events (0 dropped), no heartbeat yet, "), "{health}");
}

#[test]
fn dump_state_shows_secrets_on_request() {
    let out = Sandbox::filled().run("dump-state --allow-secrets").success();
    assert!(out.contains(&format!("config      version 7, 36 bytes: \"{RAW_CONFIG}\"\n")), "{out}");
    assert!(out.contains(&format!(": \"{SESSION_ID}\"\n")), "{out}");
    assert!(out.contains(&format!("  run-1  29 bytes: \"{PAYLOAD}\"\n")), "{out}");
    assert!(out.contains("  run-2  8 bytes: 0x00ff62696e617279\n"), "{out}");
}

#[test]
fn dump_state_as_json_has_the_same_contents() {
    let sandbox = Sandbox::filled();
    let mut outcome = sandbox.run("dump-state --json").json();
    let expected = json!({
        "state": "[DIR]/state.db",
        "config": { "version": 7, "len": 36 },
        "session": { "server_time_ms": SERVER_TIME_MS },
        "last_heartbeat_ms": HEARTBEAT_MS,
        "log_events": 1,
        "data": [],
        "jobs": [{ "run_id": "run-1", "len": 29 }, { "run_id": "run-2", "len": 8 }],
    });
    assert_eq!(outcome, expected);

    outcome = sandbox.run("dump-state --json --allow-secrets").json();
    assert_eq!(outcome["config"]["raw"], RAW_CONFIG);
    assert_eq!(outcome["session"]["session_id"], SESSION_ID);
    assert_eq!(outcome["jobs"][0]["payload"], PAYLOAD);
    assert_eq!(outcome["jobs"][1]["payload_hex"], "00ff62696e617279");
}

#[test]
fn an_unreadable_job_does_not_hide_the_others() {
    let sandbox = Sandbox::filled();
    // The fourth frame enqueues run-1.
    sandbox.tamper_with_frame(4);

    let outcome = sandbox.run("dump-state");
    assert!(outcome.failed(3).contains("this is the payload of job \"run-1\""), "{outcome:?}");
    assert!(outcome.out.contains("  run-1  unreadable: "), "{outcome:?}");
    assert!(outcome.out.ends_with("  run-2  8 bytes\n"), "{outcome:?}");
    let outcome = sandbox.run("dump-state --json");
    let report: Value = serde_json::from_str(&outcome.out).unwrap();
    assert_eq!(
        (&report["jobs"][0]["error"]["kind"], &report["jobs"][1]["len"]),
        (&json!("unauthentic"), &json!(8))
    );
    assert_eq!(report["jobs"][0]["error"], report["error"]);

    assert!(sandbox.run("verify").failed(3).contains("tampering at offset"));
    // The checksums alone do not reveal tampering.
    sandbox.run("verify --no-key").success();
}
