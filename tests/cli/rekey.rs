//! `rekey`: the key changes, or nothing does.

use crate::maintenance::MAINTENANCE;
use crate::sandbox::{KEY, Sandbox};

pub(crate) const NEW_KEY: &str = "bkpy_another_0123456789abcdef01234567";

#[test]
fn after_rekey_only_the_new_key_opens_the_store() {
    let sandbox = Sandbox::with_dead_space();
    let held = sandbox.run("dump-state --allow-secrets").success();
    let out = sandbox.run(&sandbox.maintenance(MAINTENANCE[1])).success();
    assert_eq!(out, "state       [DIR]/state.db\ngeneration  2, under the new key\n");
    sandbox.run("verify").failed(4);
    sandbox.run(&sandbox.maintenance(MAINTENANCE[1])).failed(4);
    let with_new_key =
        format!("dump-state --allow-secrets --key-file {}/new.key", sandbox.folder.path().display());
    assert_eq!(sandbox.outcome(sandbox.keyless(&with_new_key).output().unwrap()).success(), held);

    // Back to the old key, with both keys in the environment.
    let mut back = sandbox.keyless("rekey --json");
    back.env("BACKUPY_AGENT_KEY", NEW_KEY).env("BACKUPY_NEW_AGENT_KEY", KEY);
    let outcome = sandbox.outcome(back.output().unwrap()).json();
    assert_eq!(outcome, serde_json::json!({ "state": "[DIR]/state.db", "generation": 3, "left_out": [] }));
    sandbox.run("verify").success();
}

#[test]
fn rekey_without_a_new_key_changes_nothing() {
    let sandbox = Sandbox::with_dead_space();
    let before = sandbox.bytes();
    assert!(sandbox.run("rekey").failed(2).contains("give --new-key-file or set BACKUPY_NEW_AGENT_KEY"));
    let empty = sandbox.command("rekey").env("BACKUPY_NEW_AGENT_KEY", "").output().unwrap();
    assert!(sandbox.outcome(empty).failed(2).contains("BACKUPY_NEW_AGENT_KEY is empty"));
    assert!(sandbox.run("rekey --new-key-file /nowhere/new.key").failed(2).contains("/nowhere/new.key"));
    for wrong in ["rekey --new-key secret", "rekey secret"] {
        sandbox.run(wrong).failed(2);
    }
    assert!(sandbox.bytes() == before);
}

#[test]
fn the_files_of_the_store_are_no_key_files() {
    let sandbox = Sandbox::with_dead_space();
    let own_files = sandbox.with_own_files(KEY.as_bytes());
    let before = sandbox.contents();
    for own in own_files.iter().chain([&sandbox.state().display().to_string()]) {
        for args in [format!("rekey --new-key-file {own}"), format!("stats --key-file {own}")] {
            let outcome = sandbox.run(&args);
            assert!(outcome.failed(2).contains("belongs to the store"), "{args}: {outcome:?}");
        }
    }
    assert!(sandbox.contents() == before);
}
