//! `backup`: the copy, and the files that it leaves unchanged.

use std::fs;

use crate::maintenance::MAINTENANCE;
use crate::sandbox::Sandbox;

#[test]
fn a_backup_is_a_store_with_the_same_contents() {
    let sandbox = Sandbox::with_dead_space();
    let before = sandbox.bytes();
    let held = sandbox.run("dump-state --allow-secrets").success();
    let out = sandbox.run(&sandbox.maintenance(MAINTENANCE[2])).success();
    let copy = sandbox.folder.path().join("copy.db");
    let len = fs::metadata(&copy).unwrap().len();
    let expected = format!("state       [DIR]/state.db\nbackup      [DIR]/copy.db, {len} bytes\n");
    assert_eq!(out.replace(", ", "; ").replace(',', "").replace("; ", ", "), expected);
    let state = format!("--state {}", copy.display());
    sandbox.run(&format!("verify {state}")).success();
    let copied = sandbox.run(&format!("dump-state --allow-secrets {state}")).success();
    assert_eq!(copied.replace("copy.db", "state.db"), held);
    assert!(sandbox.bytes() == before && len < 10_000, "{len}");

    let json = format!("backup {}/second.db --json", sandbox.folder.path().display());
    let outcome = sandbox.run(&json).json();
    assert_eq!((&outcome["backup"], &outcome["generation"]), (&"[DIR]/second.db".into(), &1.into()));
    assert!(outcome["backup_len"].as_u64().unwrap() > 4096, "{outcome}");
}

#[test]
fn backup_overwrites_nothing() {
    let sandbox = Sandbox::with_dead_space();
    let copy = sandbox.folder.path().join("copy.db");
    fs::write(&copy, "another file").unwrap();
    let outcome = sandbox.run(&sandbox.maintenance(MAINTENANCE[2]));
    assert!(outcome.failed(2).contains("already exists"), "{outcome:?}");
    assert_eq!(fs::read(&copy).unwrap(), b"another file");
    let state = sandbox.state().display().to_string();
    let before = sandbox.bytes();
    sandbox.run(&format!("backup {state}")).failed(2);
    assert!(sandbox.bytes() == before);
    // A missing folder for the backup is not a missing store.
    sandbox.run("backup /nowhere/at/all/copy.db").failed(1);
}
