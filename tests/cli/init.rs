//! `init`: a new store, and only where there is none.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use crate::sandbox::Sandbox;

#[test]
fn init_creates_a_store_and_prints_its_path() {
    let sandbox = Sandbox::empty();
    assert_eq!(sandbox.run("init").success(), "[DIR]/state.db\n");
    let report = sandbox.run("verify --json").json();
    assert_eq!((&report["intact"], &report["ends_closed"]), (&true.into(), &true.into()));
    let mode = fs::metadata(sandbox.state()).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    sandbox.run("config get").success();

    let state = format!("--state {}/second", sandbox.folder.path().display());
    assert_eq!(sandbox.run(&format!("init --json {state}")).json()["state"], "[DIR]/second.db");
    sandbox.run(&format!("stats {state}")).success();
}

#[test]
fn init_changes_nothing_that_is_there() {
    let sandbox = Sandbox::empty();
    let store = sandbox.fill();
    let before = sandbox.contents();
    let refused = sandbox.run("init");
    assert_eq!(refused.failed(2), "[DIR]/state.db already exists; it was not changed");
    assert!(sandbox.contents() == before);
    drop(store);

    let link = sandbox.folder.path().join("link.db");
    symlink(sandbox.folder.path().join("nowhere.db"), &link).unwrap();
    sandbox.run(&format!("init --state {}", link.display())).failed(2);
    assert!(!sandbox.folder.path().join("nowhere.db").exists());
}

#[test]
fn init_needs_a_folder_and_a_key() {
    let sandbox = Sandbox::empty();
    sandbox.run("init --state /nowhere/at/all/state.db").failed(6);
    sandbox.outcome(sandbox.keyless("init").output().unwrap()).failed(2);
    assert_eq!(sandbox.files(), [""; 0]);
}
