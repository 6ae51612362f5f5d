//! Where the command line finds the state file and the key.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::sandbox::{KEY, READS, Sandbox, WRITES};

#[test]
fn a_key_file_overrides_the_environment() {
    let sandbox = Sandbox::filled();
    let key_file = sandbox.write_key_file("agent.key", &format!("{KEY}\n"));
    let args = format!("--key-file {key_file} stats");
    sandbox.outcome(sandbox.keyless(&args).output().unwrap()).success();
    sandbox.outcome(sandbox.keyless(&args).env("BACKUPY_AGENT_KEY", "another").output().unwrap()).success();
    fs::write(&key_file, "another").unwrap();
    sandbox.run(&args).failed(4);
    fs::write(&key_file, "\n").unwrap();
    sandbox.run(&args).failed(2);
}

#[test]
fn an_empty_key_in_the_environment_is_refused() {
    let sandbox = Sandbox::filled();
    let output = sandbox.keyless("stats").env("BACKUPY_AGENT_KEY", "").output().unwrap();
    assert!(sandbox.outcome(output).failed(2).contains("BACKUPY_AGENT_KEY is empty"));
}

#[test]
fn a_key_in_the_environment_is_the_key_without_one_newline() {
    let sandbox = Sandbox::filled();
    let with = |key: &str| {
        let output = sandbox.keyless("stats").env("BACKUPY_AGENT_KEY", key).output().unwrap();
        sandbox.outcome(output)
    };
    for ending in ["\n", "\r\n"] {
        with(&format!("{KEY}{ending}")).success();
        assert!(with(ending).failed(2).contains("BACKUPY_AGENT_KEY is empty"), "{ending:?}");
    }
    for ending in ["\n\n", "\r", " "] {
        let outcome = with(&format!("{KEY}{ending}"));
        assert!(
            outcome.failed(4).ends_with("; the given key ends in white space: is that part of it?"),
            "{outcome:?}"
        );
    }
}

#[test]
fn a_key_file_that_everybody_can_read_is_one_warning_and_changes_nothing_else() {
    let sandbox = Sandbox::filled();
    let path = sandbox.write_key_file("agent.key", &format!("{KEY}\n"));
    let new = sandbox.write_key_file("new.key", "new");
    let chmod = |path: &str, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    let warning = |name: &str| {
        format!("warning: every user can read the key file [DIR]/{name} (mode 0644); chmod 600 [DIR]/{name}\n")
    };
    let anchor = sandbox.run("anchor").success();
    // Not those that show how much of the disk is free, which other processes change.
    for command in ["dump-state", "logs list --json", "verify", &format!("anchor --expect {anchor}")] {
        let args = format!("{command} --key-file {path}");
        chmod(&path, 0o640);
        let expected = sandbox.run(&args).success();
        chmod(&path, 0o644);
        let outcome = sandbox.run(&args);
        assert_eq!((outcome.code, outcome.err, outcome.out), (Some(0), warning("agent.key"), expected));
    }

    // Also where the command fails, and for the new key of `rekey`.
    let outcome = sandbox.run(&format!("job --key-file {path}"));
    assert!(outcome.failed(2).contains("job"), "arguments come first");
    let outcome = sandbox.run(&format!("queue show none --key-file {path}"));
    assert_eq!((outcome.code, outcome.err.starts_with(&warning("agent.key"))), (Some(6), true), "{outcome:?}");
    chmod(&new, 0o644);
    let outcome = sandbox.run(&format!("rekey --new-key-file {new} --key-file {path}"));
    assert_eq!((outcome.code, outcome.err), (Some(0), warning("new.key") + &warning("agent.key")));
}

#[test]
fn a_key_file_that_is_a_pipe_is_read_once() {
    let sandbox = Sandbox::filled();
    let anchor = sandbox.run("anchor").success();
    let bolt = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/import_bolt/example.db");
    let state = sandbox.folder.path().join("imported.db");
    for command in [
        "stats".to_owned(),
        format!("anchor --expect {anchor}"),
        format!("import {bolt} --state {}", state.display()),
        "heartbeat record".to_owned(),
    ] {
        sandbox.fed(&format!("{command} --key-file /dev/stdin"), format!("{KEY}\n").as_bytes()).success();
    }
}

#[test]
fn a_key_file_without_an_end_is_refused() {
    let sandbox = Sandbox::filled();
    let outcome = sandbox.run("stats --key-file /dev/zero");
    assert!(outcome.failed(2).contains("/dev/zero is over 64 KiB"), "{outcome:?}");
}

#[test]
fn the_state_option_overrides_the_environment_and_may_precede_or_follow_the_command() {
    let sandbox = Sandbox::filled();
    let state = sandbox.state().display().to_string();
    for args in [format!("--state {state} stats"), format!("stats --state {state}")] {
        sandbox.outcome(sandbox.command(&args).env("BACKUPY_STATE_DIR", "/nowhere").output().unwrap()).success();
    }
    sandbox.outcome(sandbox.command("stats").env("BACKUPY_STATE_DIR", "/nowhere").output().unwrap()).failed(6);
}

#[test]
fn a_state_path_without_extension_gets_the_extension_of_the_library() {
    let sandbox = Sandbox::filled();
    let state = sandbox.folder.path().join("state");
    sandbox.run(&format!("stats --state {}", state.display())).success();
}

#[test]
fn the_files_next_to_a_store_are_no_stores() {
    let sandbox = Sandbox::filled();
    let bytes = sandbox.bytes();
    let own_files = sandbox.with_own_files(&bytes);
    let before = sandbox.contents();
    for own in &own_files {
        let is_quarantined = own.contains(".torn") || own.contains(".damaged");
        for (write, stdin) in WRITES {
            let outcome = sandbox.fed(&format!("--state {own} {write}"), stdin.as_bytes());
            assert!(outcome.failed(2).contains("keeps for its own files"), "{own} {write}: {outcome:?}");
        }
        for read in READS {
            let outcome = sandbox.run(&format!("--state {own} {read}"));
            let expected = match read {
                _ if is_quarantined => 0,
                "health-check" => 1,
                _ => 2,
            };
            assert_eq!(outcome.code, Some(expected), "{own} {read}: {outcome:?}");
        }
    }
    assert!(sandbox.contents() == before);
}
