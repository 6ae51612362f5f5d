//! What goes to stdout: untrusted text is escaped, and a closed pipe is not a failure.

use std::fs;
use std::io;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use crate::sandbox::{KEY, READS, Sandbox, WRITES};

#[test]
fn run_ids_cannot_control_the_terminal() {
    let sandbox = Sandbox::empty();
    sandbox.open().enqueue_job("a\x1b[2J\nb", b"x").unwrap();
    for read in ["dump-state", "frames"] {
        let out = sandbox.run(read).success();
        assert!(out.contains("a\\u{1b}[2J\\nb") && !out.contains('\x1b'), "{out}");
    }
    assert_eq!(sandbox.run("dump-state --json").json()["jobs"][0]["run_id"], "a\x1b[2J\nb");
}

/// A name that would clear the screen, reverse text, and forge a line.
const HOSTILE: &str = "x\x1b[2J\x1b]0;t\x07\u{9b}31m\u{202e}\u{2066}\u{200f}\x7f\r\nintact      yes: it is fine\n";
const ESCAPED: &str = "x\\u{1b}[2J\\u{1b}]0;t\\u{7}\\u{9b}31m\\u{202e}\\u{2066}\\u{200f}\\u{7f}\\r\\nintact      \
                       yes: it is fine\\n";

#[track_caller]
fn assert_harmless(text: &str) {
    let is_harmful = |c: char| c != '\n' && (c.is_control() || "\u{202e}\u{2066}\u{200f}".contains(c));
    assert!(!text.contains(is_harmful) && !text.contains("\nintact      yes: it is fine"), "{text:?}");
}

#[test]
fn paths_cannot_control_the_terminal_or_forge_a_line() {
    let sandbox = Sandbox::filled();
    let folder = sandbox.folder.path().join(HOSTILE);
    fs::create_dir(&folder).unwrap();
    let state = folder.join("state.db");
    fs::copy(sandbox.state(), &state).unwrap();
    for read in READS.into_iter().chain(["compact", "map --svg -", "init"]) {
        let plain = sandbox.run(read);
        let outcome = sandbox.outcome(sandbox.command(read).arg("--state").arg(&state).output().unwrap());
        assert_harmless(&outcome.out);
        assert_harmless(&outcome.err);
        assert_eq!(outcome.out.lines().count(), plain.out.lines().count(), "{read}: {outcome:?}");
        if plain.out.starts_with("state       ") {
            assert!(outcome.out.starts_with(&format!("state       [DIR]/{ESCAPED}/state.db\n")), "{outcome:?}");
        }
    }
    for (target, args) in [("copy.db", "backup"), ("map.svg", "map --svg"), ("salvaged.db", "salvage")] {
        let outcome = sandbox.outcome(sandbox.command(args).arg(folder.join(target)).output().unwrap());
        assert_harmless(&outcome.out);
        assert!(outcome.success().contains(&format!("[DIR]/{ESCAPED}/{target}")), "{args}");
    }
    let mut man = sandbox.command("man --dir");
    assert_harmless(&sandbox.outcome(man.arg(&folder).output().unwrap()).success());
}

#[test]
fn errors_and_warnings_cannot_control_the_terminal_or_forge_a_line() {
    let sandbox = Sandbox::filled();
    let missing = sandbox.folder.path().join(HOSTILE);
    let reads = READS.iter().map(|read| (*read, 6)).filter(|(read, _)| *read != "health-check");
    let writes = WRITES.iter().map(|(write, _)| (*write, 6));
    for (args, code) in reads.chain(writes).chain([("compact", 6), ("rekey --new-key-file", 2)]) {
        let mut command = sandbox.command(args);
        if !args.ends_with("file") {
            command.arg("--state");
        }
        let outcome = sandbox.outcome(command.arg(&missing).output().unwrap());
        assert_harmless(&outcome.err);
        assert!(outcome.failed(code).contains(&format!("[DIR]/{ESCAPED}")), "{args}: {outcome:?}");
    }
    // A key file, an input, a run id, an unknown argument.
    for (args, last, code) in [
        ("stats --key-file", HOSTILE, 2),
        ("logs add", HOSTILE, 1),
        ("queue show", HOSTILE, 6),
        ("queue ack", HOSTILE, 6),
        ("stats", HOSTILE, 2),
        ("anchor --expect", HOSTILE, 2),
        ("import", HOSTILE, 6),
    ] {
        let outcome = sandbox.outcome(sandbox.command(args).arg(last).output().unwrap());
        assert_harmless(&outcome.err);
        outcome.failed(code);
    }

    let key_file = sandbox.write_key_file(HOSTILE, KEY);
    fs::set_permissions(&key_file, fs::Permissions::from_mode(0o644)).unwrap();
    let outcome = sandbox.outcome(sandbox.command("session --key-file").arg(&key_file).output().unwrap());
    assert_harmless(&outcome.err);
    assert_eq!(outcome.err.lines().count(), 1, "{outcome:?}");
    assert!(outcome.code == Some(0) && outcome.err.starts_with("warning: every user"), "{outcome:?}");
}

#[test]
fn hostile_run_ids_are_escaped_in_every_report() {
    let sandbox = Sandbox::empty();
    sandbox.open().enqueue_job(HOSTILE, b"x").unwrap();
    for args in ["queue list", "dump-state", "frames"] {
        let out = sandbox.run(args).success();
        assert_harmless(&out);
        assert!(out.contains(ESCAPED), "{args}: {out}");
    }
    for args in ["queue show", "queue enqueue", "queue ack"] {
        let mut command = sandbox.command(args);
        command.arg(HOSTILE);
        if args.ends_with("enqueue") {
            command.arg(sandbox.write_key_file("payload", "x"));
        }
        let outcome = sandbox.outcome(command.output().unwrap());
        assert_harmless(&outcome.out);
        assert!(outcome.success().contains(ESCAPED), "{args}");
    }
}

#[test]
fn a_closed_stdout_is_not_a_failure() {
    let sandbox = Sandbox::filled();
    let commands = READS.iter().copied().chain(["--help", "--version", "frames --json", "demo --seconds 1"]);
    for args in commands {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let output = sandbox.command(args).stdout(writer).stderr(Stdio::piped()).output().unwrap();
        let outcome = sandbox.outcome(output);
        assert_eq!((outcome.code, outcome.err.as_str()), (Some(0), ""), "{args}");
    }
}

#[test]
fn a_pipe_that_is_closed_early_is_not_a_failure() {
    let sandbox = Sandbox::empty();
    let store = sandbox.open();
    for n in 0..3000 {
        store.enqueue_job(&format!("run-{n:05}"), b"x").unwrap();
    }
    store.close().unwrap();
    // More than a pipe holds, so that the command is still writing when the reader closes it.
    for read in ["frames", "queue list", "dump-state"] {
        let mut child = sandbox.command(read).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut first = [0; 1];
        child.stdout.take().unwrap().read_exact(&mut first).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{read}: {output:?}");
    }
}
