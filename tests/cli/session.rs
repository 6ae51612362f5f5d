//! `session`: what it shows, with and without secrets.

use serde_json::{Value, json};

use crate::sandbox::{SERVER_TIME_MS, SESSION_ID, Sandbox};

#[test]
fn session_shows_the_server_time_and_the_id_on_request() {
    let sandbox = Sandbox::filled();
    let out = sandbox.run("session").success();
    assert_eq!(out, "state       [DIR]/state.db\nsession     present, server time 2023-11-14 22:13:20.123 UTC\n");
    let outcome = sandbox.run("session --json").json();
    assert_eq!(outcome, json!({ "state": "[DIR]/state.db", "session": { "server_time_ms": SERVER_TIME_MS } }));
    assert!(sandbox.run("session --allow-secrets").success().ends_with(&format!(": \"{SESSION_ID}\"\n")));
    assert_eq!(sandbox.run("session --allow-secrets --json").json()["session"]["session_id"], SESSION_ID);

    let empty = Sandbox::empty();
    empty.open().close().unwrap();
    assert_eq!(empty.run("session").success(), "state       [DIR]/state.db\nsession     none\n");
    assert_eq!(empty.run("session --json").json()["session"], Value::Null);
}
