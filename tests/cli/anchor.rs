//! `anchor`: printing the anchor, and comparing the store with an earlier one.

use std::fs;

use backupy_state::{AgentKey, Store};
use serde_json::json;

use crate::sandbox::{KEY, Sandbox};

#[test]
fn anchor_prints_the_anchor_that_the_library_accepts() {
    let sandbox = Sandbox::empty();
    let store = sandbox.fill();
    let anchor = store.anchor().to_string();
    assert_eq!(sandbox.run("anchor").success(), format!("{anchor}\n"));
    let outcome = sandbox.run("anchor --json").json();
    assert_eq!(outcome, json!({ "state": "[DIR]/state.db", "anchor": anchor, "generation": 1, "seq": 10 }));
    // A comparison needs the lock.
    sandbox.run(&format!("anchor --lock-timeout 0 --expect {anchor}")).failed(5);
    store.close().unwrap();
    let now = sandbox.run("anchor").success();
    assert_eq!(sandbox.run(&format!("anchor --expect {anchor}")).success(), now);
}

#[test]
fn anchor_expect_refuses_an_older_or_another_store() {
    let sandbox = Sandbox::filled();
    let older = sandbox.bytes();
    sandbox.open().enqueue_job("run-4", b"new").unwrap();
    let anchor = sandbox.run("anchor").success();
    let expect = format!("anchor --expect {}", anchor.trim());
    sandbox.run(&expect).success();
    sandbox.run("compact").success();
    sandbox.run(&expect).success();

    sandbox.write(&older);
    let outcome = sandbox.run(&expect);
    assert!(
        outcome.failed(3).contains("does not match the anchor: its log ends before the expected frame"),
        "{outcome:?}"
    );
    assert_eq!(outcome.out, "");
    assert!(sandbox.bytes() == older);

    fs::remove_file(sandbox.state()).unwrap();
    sandbox.run(&expect).failed(6);
    Store::open(sandbox.state(), &AgentKey::new(KEY).unwrap()).unwrap().close().unwrap();
    assert!(sandbox.run(&expect).failed(3).contains("it is a different store"));
}
