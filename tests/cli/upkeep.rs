//! `compact`, `rekey` and `backup`: what they do, and that they leave alone what they must. And the bar of what takes long.

use std::fs;
use std::process::{Command, Stdio};

use backupy_state::{AgentKey, Store};

use crate::place::{KEY, Place};

const NEW_KEY: &str = "bkpy_another_0123456789abcdef01234567";

/// One call of each command that needs the lock.
const UPKEEP: [&str; 3] = ["compact", "rekey --new-key-file [DIR]/new.key", "backup [DIR]/copy.db"];

impl Place {
    /// As [`filled`](Place::filled), with as much that was acked as a close leaves in a log, and the files of [`UPKEEP`].
    fn worn() -> Self {
        let place = Place::empty();
        let store = place.fill();
        for _ in 0..3 {
            store.enqueue_job("large", &[7; 40_000]).unwrap();
            store.ack_job("large").unwrap();
        }
        store.close().unwrap();
        place.write_new_key();
        place
    }

    fn write_new_key(&self) {
        fs::write(self.folder.path().join("new.key"), format!("{NEW_KEY}\n")).unwrap();
    }

    fn upkeep(&self, command: &str) -> String {
        command.replace("[DIR]", self.folder.path().to_str().unwrap())
    }

    fn files(&self) -> Vec<String> {
        let names = fs::read_dir(self.folder.path()).unwrap().map(|file| file.unwrap().file_name());
        let mut names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
        names.sort();
        names
    }
}

#[test]
fn compact_gives_space_back_and_keeps_the_rest() {
    let place = Place::worn();
    let (held, before) = (place.run("dump-state --allow-secrets").well(), place.bytes().len());
    let out = place.run("compact").well();
    let after = place.bytes().len();
    assert!(before > 120_000 && after < 10_000, "{before} {after}");
    let expected = format!(
        "state       [DIR]/state.db\ngeneration  2\nbefore      {before} bytes\nafter       {after} bytes\n"
    );
    assert_eq!(out.replace(',', ""), expected);
    assert_eq!(place.run("dump-state --allow-secrets").well(), held);

    let said = place.run("compact --json").json();
    assert_eq!((&said["state"], &said["generation"]), (&"[DIR]/state.db".into(), &3.into()));
    assert_eq!(said["bytes_before"], after);
    assert_eq!(said["bytes_after"], place.bytes().len());
    assert!(said["took_us"].is_u64(), "{said}");
}

#[test]
fn rekey_leaves_the_store_to_the_new_key() {
    let place = Place::worn();
    let held = place.run("dump-state --allow-secrets").well();
    let out = place.run(&place.upkeep(UPKEEP[1])).well();
    assert_eq!(out, "state       [DIR]/state.db\ngeneration  2, under the new key\n");
    place.run("verify").failed(4);
    place.run(&place.upkeep(UPKEEP[1])).failed(4);
    let with_new_key = format!("dump-state --allow-secrets --key-file {}/new.key", place.folder.path().display());
    assert_eq!(place.said(place.keyless(&with_new_key).output().unwrap()).well(), held);

    // And back, with both keys in the environment.
    let mut back = place.keyless("rekey --json");
    back.env("BACKUPY_AGENT_KEY", NEW_KEY).env("BACKUPY_NEW_AGENT_KEY", KEY);
    let said = place.said(back.output().unwrap()).json();
    assert_eq!(said, serde_json::json!({ "state": "[DIR]/state.db", "generation": 3 }));
    place.run("verify").well();
}

#[test]
fn rekey_without_a_new_key_changes_nothing() {
    let place = Place::worn();
    let before = place.bytes();
    assert!(place.run("rekey").failed(2).contains("give --new-key-file or set BACKUPY_NEW_AGENT_KEY"));
    let empty = place.command("rekey").env("BACKUPY_NEW_AGENT_KEY", "").output().unwrap();
    assert!(place.said(empty).failed(2).contains("BACKUPY_NEW_AGENT_KEY is empty"));
    assert!(place.run("rekey --new-key-file /nowhere/new.key").failed(1).contains("/nowhere/new.key"));
    for wrong in ["rekey --new-key secret", "rekey secret"] {
        place.run(wrong).failed(2);
    }
    assert!(place.bytes() == before);
}

#[test]
fn backup_is_a_store_that_holds_the_same() {
    let place = Place::worn();
    let before = place.bytes();
    let held = place.run("dump-state --allow-secrets").well();
    let out = place.run(&place.upkeep(UPKEEP[2])).well();
    let copy = place.folder.path().join("copy.db");
    let len = fs::metadata(&copy).unwrap().len();
    let expected = format!("state       [DIR]/state.db\nbackup      [DIR]/copy.db, {len} bytes\n");
    assert_eq!(out.replace(", ", "; ").replace(',', "").replace("; ", ", "), expected);
    let state = format!("--state {}", copy.display());
    place.run(&format!("verify {state}")).well();
    let copied = place.run(&format!("dump-state --allow-secrets {state}")).well();
    assert_eq!(copied.replace("copy.db", "state.db"), held);
    assert!(place.bytes() == before && len < 10_000, "{len}");

    let json = format!("backup {}/second.db --json", place.folder.path().display());
    let said = place.run(&json).json();
    assert_eq!((&said["backup"], &said["generation"]), (&"[DIR]/second.db".into(), &1.into()));
    assert!(said["backup_len"].as_u64().unwrap() > 4096, "{said}");
}

#[test]
fn backup_overwrites_nothing() {
    let place = Place::worn();
    let copy = place.folder.path().join("copy.db");
    fs::write(&copy, "somebody's").unwrap();
    let said = place.run(&place.upkeep(UPKEEP[2]));
    assert!(said.failed(2).contains("exists already"), "{said:?}");
    assert_eq!(fs::read(&copy).unwrap(), b"somebody's");
    let state = place.state().display().to_string();
    let before = place.bytes();
    place.run(&format!("backup {state}")).failed(2);
    assert!(place.bytes() == before);
    // The folder of the backup is not there: that is no missing store.
    place.run("backup /nowhere/at/all/copy.db").failed(1);
}

#[test]
fn upkeep_waits_for_the_agent_and_then_gives_up() {
    let place = Place::worn();
    let store = place.open();
    let before = place.bytes();
    let files = place.files();
    for command in UPKEEP {
        let said = place.run(&format!("{} --lock-timeout 0", place.upkeep(command)));
        assert!(said.failed(5).contains(&format!("is in use by process {}", std::process::id())), "{said:?}");
    }
    assert!(place.bytes() == before);
    assert_eq!(place.files(), files);
    store.close().unwrap();
}

#[test]
fn upkeep_of_what_is_no_whole_store_changes_nothing() {
    let place = Place::empty();
    place.write_new_key();
    for command in UPKEEP {
        place.run(&place.upkeep(command)).failed(6);
    }
    assert_eq!(place.files(), ["new.key"]);

    Store::open(place.state(), &AgentKey::new("another").unwrap()).unwrap().close().unwrap();
    let foreign = place.bytes();
    let mut damaged = Place::filled().bytes();
    damaged[4096 + 60] ^= 1;
    for (bytes, code) in [(foreign, 4), (damaged, 3), (b"To do: milk, bread\n".to_vec(), 7)] {
        place.write(&bytes);
        for command in UPKEEP {
            place.run(&place.upkeep(command)).failed(code);
        }
        assert!(place.bytes() == bytes);
        assert_eq!(place.files(), ["new.key", "state.db", "state.db.lock"]);
    }
}

#[test]
fn a_terminal_shows_how_far_it_is_and_a_file_does_not() {
    let place = Place::worn();
    for (command, steps) in [
        ("verify", ["verifying   ["; 2]),
        (UPKEEP[0], ["writing     [", "checking    ["]),
        (UPKEEP[2], ["writing     [", "checking    ["]),
        (UPKEEP[1], ["writing     [", "checking    ["]),
    ] {
        let report = place.folder.path().join("report.json");
        let program = env!("CARGO_BIN_EXE_backupy-state");
        let line = format!("{program} {} --json > {}", place.upkeep(command), report.display());
        // The terminal of `script` is a real one, and what it shows comes out of its stdout.
        let mut script = Command::new("script");
        script.args(["--quiet", "--return", "--command", &line, "/dev/null"]).stdin(Stdio::null());
        script.env("SHELL", "/bin/sh").env("BACKUPY_AGENT_KEY", KEY).env("BACKUPY_STATE_DIR", place.folder.path());
        let output = script.output().expect("the test needs `script` of util-linux");
        assert!(output.status.success(), "{output:?}");
        let shown = String::from_utf8(output.stdout).unwrap();
        assert!(steps.iter().any(|step| shown.contains(&format!("\r{step}"))), "{shown:?}");
        // It is gone at the end, without a colour or an escape code.
        assert!(
            shown.ends_with(&format!(" %\r\r{}\r\r\r", " ".repeat(50))) && !shown.contains('\x1b'),
            "{shown:?}"
        );
        let said: serde_json::Value = serde_json::from_slice(&fs::read(&report).unwrap()).unwrap();
        assert!(said["state"].is_string(), "{said}");
    }
}
