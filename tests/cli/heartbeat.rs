//! `heartbeat`: showing and recording it.

use serde_json::json;

use crate::sandbox::{HEARTBEAT_MS, Sandbox};

#[test]
fn heartbeat_shows_the_last_one_and_records_another() {
    let sandbox = Sandbox::filled();
    let out = sandbox.run("heartbeat").success();
    assert_eq!(out, "state       [DIR]/state.db\nheartbeat   2023-11-14 22:14:20.000 UTC ([AGE])\n");
    let outcome = sandbox.run("heartbeat --json").json();
    assert_eq!(outcome, json!({ "state": "[DIR]/state.db", "last_heartbeat_ms": HEARTBEAT_MS }));
    let outcome = sandbox.run("heartbeat record --at -5 --json").json();
    assert_eq!(outcome["last_heartbeat_ms"], -5);
    assert_eq!(sandbox.open().last_heartbeat().unwrap(), Some(-5));
    sandbox.run("heartbeat record").success();
    sandbox.run("health-check --max-heartbeat-age 3600").success();

    let empty = Sandbox::empty();
    empty.open().close().unwrap();
    assert_eq!(empty.run("heartbeat").success(), "state       [DIR]/state.db\nheartbeat   none\n");
}
