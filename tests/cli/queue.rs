//! `queue`: listing, showing, adding and removing jobs.

use serde_json::{Value, json};

use crate::sandbox::{BINARY, PAYLOAD, Sandbox};

#[test]
fn queue_list_shows_run_ids_and_lengths() {
    let sandbox = Sandbox::filled();
    let expected = "\
state       [DIR]/state.db
jobs        2
  run-1  29 bytes
  run-2  8 bytes
";
    assert_eq!(sandbox.run("queue list").success(), expected);
    let expected = json!({
        "state": "[DIR]/state.db",
        "queue_depth": 2,
        "jobs": [{ "run_id": "run-1", "len": 29 }, { "run_id": "run-2", "len": 8 }],
    });
    assert_eq!(sandbox.run("queue list --json").json(), expected);
}

#[test]
fn queue_list_pages_by_limit_and_run_id() {
    let sandbox = Sandbox::filled();
    let listed = |args: &str| {
        let outcome = sandbox.run(&format!("queue list --json {args}")).json();
        assert_eq!(outcome["queue_depth"], 2);
        let ids: Vec<_> = outcome["jobs"].as_array().unwrap().iter().map(|job| job["run_id"].clone()).collect();
        Value::from(ids)
    };
    assert_eq!(listed("--limit 1"), json!(["run-1"]));
    assert_eq!(listed("--limit 1 --after run-1"), json!(["run-2"]));
    assert_eq!(listed("--after run-10"), json!(["run-2"]));
    assert_eq!(listed("--after run-2"), json!([]));
    assert_eq!(listed("--limit 0"), json!([]));
    let outcome = sandbox.outcome(sandbox.command("queue list --after").arg("").output().unwrap());
    assert_eq!(outcome.failed(2), "the run id of --after is empty");
}

#[test]
fn queue_list_shows_payloads_on_request() {
    let sandbox = Sandbox::filled();
    let out = sandbox.run("queue list --allow-secrets").success();
    assert!(
        out.ends_with(&format!("  run-1  29 bytes: \"{PAYLOAD}\"\n  run-2  8 bytes: 0x00ff62696e617279\n")),
        "{out}"
    );
    let outcome = sandbox.run("queue list --allow-secrets --json").json();
    assert_eq!(outcome["jobs"][0]["payload"], PAYLOAD);
}

#[test]
fn queue_list_continues_after_an_unreadable_job() {
    let sandbox = Sandbox::filled();
    // The fourth frame enqueues run-1.
    sandbox.tamper_with_frame(4);
    let outcome = sandbox.run("queue list");
    assert!(outcome.failed(3).contains("this is the payload of job \"run-1\""), "{outcome:?}");
    assert!(
        outcome.out.contains("  run-1  unreadable: ") && outcome.out.ends_with("  run-2  8 bytes\n"),
        "{outcome:?}"
    );
}

#[test]
fn queue_show_shows_one_job() {
    let sandbox = Sandbox::filled();
    assert_eq!(sandbox.run("queue show run-1").success(), "state       [DIR]/state.db\n  run-1  29 bytes\n");
    let out = sandbox.run("queue show run-1 --allow-secrets").success();
    assert!(out.ends_with(&format!("  run-1  29 bytes: \"{PAYLOAD}\"\n")), "{out}");
    let outcome = sandbox.run("queue show run-2 --json").json();
    assert_eq!(outcome, json!({ "state": "[DIR]/state.db", "job": { "run_id": "run-2", "len": 8 } }));
    let outcome = sandbox.run("queue show run-2 --json --allow-secrets").json();
    assert_eq!(outcome["job"]["payload_hex"], "00ff62696e617279");
    assert_eq!(sandbox.stdout_of("queue show run-2 --raw --allow-secrets"), b"\x00\xffbinary");
    let outcome = sandbox.run("queue show run-3");
    assert_eq!(outcome.failed(6), "there is no job \"run-3\" in the queue of [DIR]/state.db");
    sandbox.outcome(sandbox.command("queue show").arg("").output().unwrap()).failed(2);
}

#[test]
fn queue_enqueue_adds_or_replaces_a_job() {
    let sandbox = Sandbox::filled();
    let out = sandbox.fed("queue enqueue run-9 -", BINARY).success();
    let expected =
        format!("state       [DIR]/state.db\njobs        3\nenqueued    run-9  {} bytes\n", BINARY.len());
    assert_eq!(out, expected);
    assert_eq!(sandbox.stdout_of("queue show run-9 --raw --allow-secrets"), BINARY);

    let out = sandbox.fed("queue enqueue run-9 -", b"x").success();
    assert!(out.ends_with("enqueued    run-9  1 byte; replaced an earlier payload\n"), "{out}");
    let outcome = sandbox.fed("queue enqueue run-9 - --json", b"yz").json();
    let job = json!({ "run_id": "run-9", "len": 2 });
    assert_eq!(outcome, json!({ "state": "[DIR]/state.db", "queue_depth": 3, "replaced": true, "job": job }));
    assert_eq!(sandbox.stdout_of("queue show run-9 --raw --allow-secrets"), b"yz");

    let long = "i".repeat(1025);
    assert!(sandbox.fed(&format!("queue enqueue {long} -"), b"").failed(1).contains("limit of 1024"));
}

#[test]
fn queue_ack_removes_readable_and_unreadable_jobs() {
    let sandbox = Sandbox::filled();
    sandbox.tamper_with_frame(4);
    sandbox.run("queue show run-1").failed(3);
    assert_eq!(
        sandbox.run("queue ack run-1").success(),
        "state       [DIR]/state.db\njobs        1\nacked       run-1\n"
    );
    let outcome = sandbox.run("queue ack run-2 --json").json();
    assert_eq!(outcome, json!({ "state": "[DIR]/state.db", "queue_depth": 0, "acked": "run-2" }));
    let outcome = sandbox.run("queue ack run-2");
    assert_eq!(outcome.failed(6), "there is no job \"run-2\" in the queue of [DIR]/state.db");
    assert_eq!(sandbox.open().queue_depth(), 0);
}
