//! What goes to stdout: untrusted text is escaped, and a closed pipe is not a failure.

use std::io;
use std::io::Read;
use std::process::Stdio;

use crate::sandbox::{READS, Sandbox};

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
