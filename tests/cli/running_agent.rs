//! Commands that only read work while an agent holds the lock.

use crate::sandbox::{READS, Sandbox};

#[test]
fn every_read_works_while_the_agent_runs_and_changes_nothing() {
    let sandbox = Sandbox::empty();
    let store = sandbox.fill();
    let before = sandbox.bytes();
    for read in READS {
        sandbox.run(read).success();
        sandbox.run(&format!("{read} --json")).success();
    }
    assert!(sandbox.bytes() == before, "a read has changed the log");
    assert!(sandbox.run("verify").success().contains("frames      10, in use, or not closed\n"));

    store.enqueue_job("run-4", b"new").unwrap();
    assert_eq!(sandbox.run("health-check --json").json()["jobs"], 3);
    assert!(sandbox.run("dump-state").success().ends_with("  run-4  3 bytes\n"));
    assert!(sandbox.run("stats").success().contains("free"));
    store.close().unwrap();
}
