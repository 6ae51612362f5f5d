//! What the commands report, and what they keep to themselves.

use std::io;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::place::{EVENT, HEARTBEAT_MS, KEY, LOOKS, PAYLOAD, Place, RAW_CONFIG, SERVER_TIME_MS, SESSION_ID};

#[test]
fn health_check_says_one_line() {
    let out = Place::filled().run("health-check").well();
    assert_eq!(out, "ok: 2 jobs, 1 log event, last heartbeat 2023-11-14 22:14:20.000 UTC ([AGE])\n");
}

#[test]
fn dump_state_shows_lengths_and_times() {
    let out = Place::filled().run("dump-state").well();
    let expected = "\
state       [DIR]/state.db
config      version 7, 36 bytes
session     present, server time 2023-11-14 22:13:20.123 UTC
heartbeat   2023-11-14 22:14:20.000 UTC ([AGE])
log events  1
jobs        2
  run-1  29 bytes
  run-2  8 bytes
";
    assert_eq!(out, expected);
}

#[test]
fn dump_state_of_a_new_store_shows_that_it_is_empty() {
    let place = Place::empty();
    place.open().close().unwrap();
    let expected = "\
state       [DIR]/state.db
config      none
session     none
heartbeat   none
log events  0
jobs        0
";
    assert_eq!(place.run("dump-state").well(), expected);
    assert_eq!(place.run("health-check").well(), "ok: 0 jobs, 0 log events, no heartbeat yet\n");
}

#[test]
fn dump_state_shows_secrets_where_they_are_asked_for() {
    let out = Place::filled().run("dump-state --allow-secrets").well();
    assert!(out.contains(&format!("config      version 7, 36 bytes: \"{RAW_CONFIG}\"\n")), "{out}");
    assert!(out.contains(&format!(": \"{SESSION_ID}\"\n")), "{out}");
    assert!(out.contains(&format!("  run-1  29 bytes: \"{PAYLOAD}\"\n")), "{out}");
    assert!(out.contains("  run-2  8 bytes: 0x00ff62696e617279\n"), "{out}");
}

#[test]
fn dump_state_as_json_says_the_same() {
    let place = Place::filled();
    let mut said = place.run("dump-state --json").json();
    let expected = json!({
        "state": "[DIR]/state.db",
        "config": { "version": 7, "len": 36 },
        "session": { "server_time_ms": SERVER_TIME_MS },
        "last_heartbeat_ms": HEARTBEAT_MS,
        "log_events": 1,
        "jobs": [{ "run_id": "run-1", "len": 29 }, { "run_id": "run-2", "len": 8 }],
    });
    assert_eq!(said, expected);

    said = place.run("dump-state --json --allow-secrets").json();
    assert_eq!(said["config"]["raw"], RAW_CONFIG);
    assert_eq!(said["session"]["session_id"], SESSION_ID);
    assert_eq!(said["jobs"][0]["payload"], PAYLOAD);
    assert_eq!(said["jobs"][1]["payload_hex"], "00ff62696e617279");
}

#[test]
fn verify_says_what_it_has_checked() {
    let place = Place::filled();
    let log_len = place.bytes().len();
    let expected = format!(
        "\
state       [DIR]/state.db
intact      yes: every record and every value opens
generation  1
frames      11, ends closed
operations  10, 8 values
log         {log_len} bytes in a file of {log_len} bytes
"
    );
    let grouped = |text: &str| text.replace(',', "");
    assert_eq!(grouped(&place.run("verify").well()), grouped(&expected));
    let without_key = place.said(place.keyless("verify --no-key").output().unwrap()).well();
    assert!(without_key.contains("without the key, tampering does not show"), "{without_key}");

    let said = place.run("verify --json").json();
    let expected = json!({
        "state": "[DIR]/state.db", "intact": true, "with_key": true, "generation": 1, "frames": 11,
        "operations": 10, "values": 8, "ends_closed": true, "file_len": log_len, "log_len": log_len,
        "torn_len": 0, "faults": [], "more_faults": 0,
    });
    assert_eq!(said, expected);
}

#[test]
fn a_torn_tail_is_reported_and_is_no_fault() {
    let place = Place::filled();
    let mut bytes = place.bytes();
    bytes.extend_from_slice(b"half a frame");
    place.write(&bytes);
    let out = place.run("verify").well();
    assert!(out.contains("torn tail   12 bytes behind the last frame; the next open sets them aside\n"), "{out}");
    assert_eq!(place.run("verify --json").json()["torn_len"], 12);
}

#[test]
fn stats_adds_up() {
    let place = Place::filled();
    let said = place.run("stats --json").json();
    let number = |name: &str| said[name].as_u64().unwrap();
    assert_eq!(number("file_len"), place.bytes().len() as u64);
    assert_eq!(number("log_len"), 4096 + number("live_bytes") + number("dead_bytes"));
    assert_eq!((number("jobs"), number("log_events"), number("seq")), (2, 1, 11));

    let out = place.run("stats").well();
    let bar = out.lines().last().unwrap().trim();
    let count = |mark| bar.chars().filter(|c| *c == mark).count() as u64;
    assert_eq!(bar.len(), 52, "{bar}");
    assert_eq!((count('#') + count('x'), count('.')), (50, 0), "{bar}");
    let (live, dead) = (number("live_bytes"), number("dead_bytes"));
    assert!(count('#').abs_diff(50 * live / (live + dead)) <= 1, "{bar}");
}

#[test]
fn frames_lists_every_frame_with_its_operations() {
    let place = Place::filled();
    let out = place.run("frames").well();
    let operations: Vec<_> =
        out.lines().map(|line| line.split_once("rd  ").map_or("", |(_, rest)| rest)).collect();
    let expected = [
        "",
        "put config key of 7 B, value of 44 B",
        "put registry key of 7 B, value of 32 B",
        "put registry key of 9 B, value of 8 B",
        "put queue \"run-1\", value of 29 B",
        "put queue \"run-2\", value of 8 B",
        "put queue \"run-3\", value of 10 B",
        "delete queue \"run-3\"",
        "put logs key of 16 B, value of 28 B",
        "put logs key of 16 B, value of 28 B",
        "delete-through logs key of 16 B",
        "",
    ];
    assert_eq!(operations, expected, "{out}");
    assert!(out.starts_with("    offset      len      seq durable_seq  kind    operations\n      4096 "), "{out}");
    assert!(out.ends_with("11          10  close\n"), "{out}");
}

#[test]
fn frames_as_json_are_one_object_a_line_and_lie_side_by_side() {
    let place = Place::filled();
    for args in ["frames --json", "frames --json --no-key"] {
        let out = place.run(args).well();
        let frames: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let mut offset = 4096;
        for (seq, frame) in (1..).zip(&frames) {
            assert_eq!((&frame["offset"], &frame["seq"]), (&json!(offset), &json!(seq)));
            offset += frame["len"].as_u64().unwrap();
        }
        assert_eq!((offset, frames.len()), (place.bytes().len() as u64, 11));
    }
}

#[test]
fn secrets_are_hidden_unless_asked_for() {
    let place = Place::filled();
    let healthy = LOOKS.iter().flat_map(|look| [place.run(look), place.run(&format!("{look} --json"))]);
    for said in healthy {
        for secret in [KEY, RAW_CONFIG, SESSION_ID, PAYLOAD, EVENT, "00ff62"] {
            assert!(!said.out.contains(secret) && !said.err.contains(secret), "{said:?}");
        }
    }
}

#[test]
fn every_look_works_beside_the_running_agent_and_changes_nothing() {
    let place = Place::empty();
    let store = place.fill();
    let before = place.bytes();
    for look in LOOKS {
        place.run(look).well();
        place.run(&format!("{look} --json")).well();
    }
    assert!(place.bytes() == before, "a look has changed the log");
    assert!(place.run("verify").well().contains("frames      10, in use, or not closed\n"));

    store.enqueue_job("run-4", b"new").unwrap();
    assert_eq!(place.run("health-check --json").json()["jobs"], 3);
    assert!(place.run("dump-state").well().ends_with("  run-4  3 bytes\n"));
    assert!(place.run("stats").well().contains("free"));
    store.close().unwrap();
}

#[test]
fn one_unreadable_job_does_not_hide_the_others() {
    let place = Place::filled();
    // The fourth frame enqueues run-1.
    place.tamper_with_frame(4);

    let said = place.run("dump-state");
    assert!(said.failed(3).contains("it is the payload of job \"run-1\""), "{said:?}");
    assert!(said.out.contains("  run-1  unreadable: "), "{said:?}");
    assert!(said.out.ends_with("  run-2  8 bytes\n"), "{said:?}");
    let said = place.run("dump-state --json");
    let report: Value = serde_json::from_str(&said.out).unwrap();
    assert!(report["jobs"][0]["error"].is_string() && report["jobs"][1]["len"] == 8, "{report}");

    assert!(place.run("verify").failed(3).contains("tampering at offset"));
    // Checksums alone cannot tell.
    place.run("verify --no-key").well();
}

#[test]
fn run_ids_cannot_command_the_terminal() {
    let place = Place::empty();
    place.open().enqueue_job("a\x1b[2J\nb", b"x").unwrap();
    for look in ["dump-state", "frames"] {
        let out = place.run(look).well();
        assert!(out.contains("a\\u{1b}[2J\\nb") && !out.contains('\x1b'), "{out}");
    }
    assert_eq!(place.run("dump-state --json").json()["jobs"][0]["run_id"], "a\x1b[2J\nb");
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let place = Place::filled();
    let commands = LOOKS.iter().copied().chain(["--help", "--version", "frames --json", "demo --seconds 1"]);
    for args in commands {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let output = place.command(args).stdout(writer).stderr(Stdio::piped()).output().unwrap();
        let said = place.said(output);
        assert_eq!((said.code, said.err.as_str()), (Some(0), ""), "{args}");
    }
}
