//! `backup`: the copy, and the files that it leaves unchanged.

use std::fs;

use crate::maintenance::MAINTENANCE;
use crate::sandbox::{OWN_NAMES, Sandbox};

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
    assert!(outcome["backup_len"].as_u64().unwrap() > 8192, "{outcome}");
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

#[test]
fn the_target_of_a_backup_means_what_it_means_to_open() {
    let sandbox = Sandbox::with_dead_space();
    let folder = sandbox.folder.path().display().to_string();
    let outcome = sandbox.run(&format!("backup {folder}/copy --json")).json();
    assert_eq!(outcome["backup"], "[DIR]/copy.db");
    assert_eq!(outcome["backup_len"], fs::metadata(format!("{folder}/copy.db")).unwrap().len());
    sandbox.run(&format!("verify --state {folder}/copy")).success();
    let mut here = sandbox.command("backup second");
    let out = sandbox.outcome(here.current_dir(sandbox.folder.path()).output().unwrap()).success();
    assert!(out.contains("backup      [DIR]/second.db, "), "{out}");
    assert!(sandbox.run(&format!("backup {folder}/copy")).failed(2).contains("[DIR]/copy.db already exists"));

    // Refused before the store is opened, which would wait for the lock.
    let held = sandbox.open();
    let before = sandbox.contents();
    for own in OWN_NAMES {
        let outcome = sandbox.run(&format!("backup {folder}/{own}"));
        assert!(outcome.failed(2).contains("a name that a store keeps for its own files"), "{own}: {outcome:?}");
    }
    for (target, words) in
        [("-".to_owned(), "cannot be written to stdout"), (format!("{folder}/c.db/"), "names no file")]
    {
        let outcome = sandbox.run(&format!("backup {target}"));
        assert!(outcome.failed(2).contains(words), "{outcome:?}");
    }
    assert!(sandbox.run(&format!("backup {folder}")).failed(2).ends_with("is a folder; name a file"));
    assert!(sandbox.contents() == before);
    drop(held);
}
