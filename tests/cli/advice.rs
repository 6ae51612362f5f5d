//! What messages advise that `docs/damage.md` does not list: each command that one names exists, and works where
//! it is advised. `damage_table.rs` has the others.

use std::fs;

use crate::bolt::{Agent, LEAF, Pages, Seals, bucket, tree, value};
use crate::remedies::{assert_is_for_a_shell, commands_in};
use crate::sandbox::{KEY, Sandbox};

fn bbolt_file() -> Vec<u8> {
    let jobs = (0..3).map(|i| (format!("run-{i}"), b"payload".to_vec())).collect();
    Agent { jobs, ..Agent::default() }.file(KEY.as_bytes(), 4096, 2)
}

/// The message of a command that fails with this exit code.
#[track_caller]
fn message(sandbox: &Sandbox, command: &str, code: i32) -> String {
    let outcome = sandbox.shell(command);
    let message = outcome.failed(code).to_owned();
    assert_is_for_a_shell(&message);
    message
}

#[test]
fn a_damaged_bbolt_file_is_not_to_be_salvaged() {
    let sandbox = Sandbox::empty();
    let mut file = bbolt_file();
    file[3 * 4096] ^= 1;
    fs::write(sandbox.folder.path().join("old.db"), file).unwrap();
    let said = message(&sandbox, "backupy-state import old.db", 3);
    assert!(said.ends_with("import what `bbolt compact` can copy of it, or an older copy of the file"), "{said}");
    assert!(!said.contains("salvage"), "{said}");
}

#[test]
fn a_bbolt_file_at_the_path_of_the_store_is_to_be_imported() {
    let sandbox = Sandbox::empty();
    sandbox.write(&bbolt_file());
    let said = message(&sandbox, "backupy-state stats", 7);
    let [import] = &commands_in(&said)[..] else { panic!("{said}") };
    // The same name cannot be both; the message of the import says what to do.
    let said = message(&sandbox, &import.replace("FILE", "state.db"), 2);
    assert!(said.contains("rename the bbolt file and import it from there"), "{said}");
    sandbox.shell("mv state.db state.bolt").success();
    sandbox.shell(&import.replace("FILE", "state.bolt")).success();
    sandbox.works();
}

#[test]
fn a_missing_folder_for_an_import_is_to_be_made() {
    let sandbox = Sandbox::empty();
    fs::write(sandbox.folder.path().join("old.db"), bbolt_file()).unwrap();
    let import = "backupy-state --state new/folder/state.db import old.db";
    let said = message(&sandbox, import, 6);
    assert_eq!(said, "there is no folder new/folder for the new store; make it with `mkdir -p -m 700 new/folder`");
    let [make] = &commands_in(&said)[..] else { panic!("{said}") };
    sandbox.shell(make).success();
    sandbox.shell(import).success();
    sandbox.shell("backupy-state --state new/folder/state.db verify").success();
}

#[test]
fn a_missing_file_to_import_is_not_called_a_store() {
    let sandbox = Sandbox::empty();
    assert_eq!(message(&sandbox, "backupy-state import old.db", 6), "there is no file at old.db");
    assert!(!sandbox.state().exists());
}

#[test]
fn a_file_that_is_no_store_is_named_with_the_one_that_was_looked_for() {
    let sandbox = Sandbox::empty();
    fs::write(sandbox.folder.path().join("passwd"), "root:x:0:0\n").unwrap();
    for command in ["stats", "verify --no-key", "heartbeat record", "salvage new.db"] {
        let said = message(&sandbox, &format!("backupy-state --state passwd {command}"), 6);
        assert!(
            said.starts_with("there is no store at ") && said.contains("passwd.db; `.db` was added"),
            "{said}"
        );
        assert!(said.ends_with("and passwd is not a store either"), "{said}");
    }
}

#[test]
fn a_store_whose_header_is_lost_is_not_to_be_salvaged_again() {
    let sandbox = Sandbox::filled();
    let mut bytes = sandbox.bytes();
    bytes[..4096].fill(7);
    bytes[..16].copy_from_slice(&Sandbox::filled().bytes()[..16]);
    sandbox.write(&bytes);
    let said = message(&sandbox, "backupy-state stats", 3);
    let [salvage] = &commands_in(&said)[..] else { panic!("{said}") };
    let said = message(&sandbox, salvage, 3);
    assert!(said.ends_with("it cannot be salvaged; restore a backup"), "{said}");
}

/// The Go agent delivers what the import has left out: its file is unchanged.
#[test]
fn a_file_with_a_job_that_was_left_out_can_still_be_imported_and_is_unchanged() {
    let sandbox = Sandbox::empty();
    let mut pages = Pages::new(4096);
    let payload = Seals::new(KEY.as_bytes()).seal(b"payload");
    let queue = pages.add(LEAF, &[value(b"run-\xff", &payload)]);
    let mut buckets = Agent::default().buckets(KEY.as_bytes(), &mut pages, 4);
    buckets[2] = bucket(b"queue", tree(queue));
    let root = pages.add(LEAF, &buckets);
    let file = pages.finish(root);
    let old = sandbox.folder.path().join("old.db");
    fs::write(&old, &file).unwrap();
    let said = message(&sandbox, "backupy-state import old.db", 3);
    assert!(said.ends_with("the Go agent can still deliver it"), "{said}");
    assert!(fs::read(old).unwrap() == file);
    sandbox.works();
}
