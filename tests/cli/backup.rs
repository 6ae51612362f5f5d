//! `backup`: the copy, and the files that it leaves unchanged.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

use crate::maintenance::MAINTENANCE;
use crate::sandbox::{KEY, OWN_NAMES, PAYLOAD, Sandbox};

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

#[test]
fn a_backup_is_made_while_the_agent_writes_and_compacts() {
    let sandbox = Sandbox::empty();
    let store = sandbox.fill();
    let is_done = AtomicBool::new(false);
    thread::scope(|threads| {
        let agent = threads.spawn(|| {
            for n in 0_u32.. {
                store.enqueue_job("busy", &n.to_le_bytes().repeat(10_000)).unwrap();
                if n % 4 == 3 {
                    store.compact().unwrap();
                }
                if is_done.load(Relaxed) {
                    break;
                }
            }
        });
        for n in 0..5 {
            let copy = sandbox.folder.path().join(format!("copy-{n}.db"));
            sandbox.run(&format!("backup {}", copy.display())).success();
            let state = format!("--state {}", copy.display());
            sandbox.run(&format!("verify {state}")).success();
            let job = sandbox.run(&format!("queue show run-1 --json --allow-secrets {state}")).json();
            assert_eq!(job["job"]["payload"], PAYLOAD);
            sandbox.run(&format!("heartbeat record {state}")).success();
        }
        is_done.store(true, Relaxed);
        agent.join().unwrap();
    });
    store.close().unwrap();
    sandbox.run("verify").success();
}

#[test]
fn a_backup_writes_nothing_next_to_the_store() {
    let sandbox = Sandbox::empty();
    let store = sandbox.fill();
    let before = sandbox.contents();
    let copies = tempfile::tempdir().unwrap();
    sandbox.run(&format!("backup {}/copy", copies.path().display())).success();
    assert!(sandbox.contents() == before);
    assert_eq!(fs::read_dir(copies.path()).unwrap().count(), 1);
    store.close().unwrap();
}

#[test]
fn a_user_who_may_only_read_the_store_can_make_a_backup() {
    let sandbox = Sandbox::filled();
    let folder = sandbox.folder.path();
    let (store, copies, program) = (folder.join("store"), folder.join("copies"), folder.join("backupy-state"));
    fs::copy(env!("CARGO_BIN_EXE_backupy-state"), &program).unwrap();
    fs::create_dir(&store).unwrap();
    fs::create_dir(&copies).unwrap();
    fs::rename(sandbox.state(), store.join("state.db")).unwrap();
    let set_mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    for (path, mode) in [(folder, 0o755), (&copies, 0o777), (&store.join("state.db"), 0o444), (&store, 0o555)] {
        set_mode(path, mode);
    }
    // The modes of files do not bind root, so root runs it as another user.
    let is_root = fs::metadata(folder).unwrap().uid() == 0;
    let mut command = Command::new(if is_root { "setpriv" } else { "env" });
    if is_root {
        command.args(["--reuid=54321", "--regid=54321", "--clear-groups"]);
    }
    command.arg(&program).env("BACKUPY_STATE_DIR", &store).env("BACKUPY_AGENT_KEY", KEY);
    command.arg("backup").arg(copies.join("copy.db"));
    let outcome = sandbox.outcome(command.output().unwrap());
    set_mode(&store, 0o755);
    outcome.success();
    assert_eq!(fs::read_dir(&store).unwrap().count(), 1);
    let copy = fs::metadata(copies.join("copy.db")).unwrap();
    assert_eq!((copy.mode() & 0o7777, !is_root || copy.uid() == 54_321), (0o600, true));
    sandbox.run(&format!("verify --state {}/copy.db", copies.display())).success();
}

#[test]
fn a_backup_of_a_store_with_an_unreadable_value_fails_and_leaves_nothing() {
    let sandbox = Sandbox::filled();
    sandbox.tamper_with_frame(4);
    let files = sandbox.files();
    let outcome = sandbox.run(&sandbox.maintenance(MAINTENANCE[2]));
    assert!(outcome.failed(3).contains("this is the payload of job \"run-1\""), "{outcome:?}");
    assert_eq!(sandbox.files(), files);
}
