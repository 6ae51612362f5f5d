//! `queue list`, `logs peek`, `head` and what `stats` says of compaction and drops.

use std::fs;

use backupy_state::{AgentKey, LogLimits, OpenOptions, Store};
use serde_json::{Value, json};

use crate::place::{EVENT, KEY, PAYLOAD, Place};

/// A store with three events buffered and two dropped.
fn place_with_drops() -> Place {
    let place = Place::empty();
    let mut limits = LogLimits::default();
    limits.max_count = Some(3);
    let store = OpenOptions::new().log_limits(limits).open(place.state(), &AgentKey::new(KEY).unwrap()).unwrap();
    for (ts_ms, payload) in [(1, "gone"), (2, "gone too"), (3, "a"), (4, "bc"), (1_700_000_000_000, EVENT)] {
        store.buffer_log(ts_ms, payload.as_bytes()).unwrap();
    }
    store.close().unwrap();
    place
}

#[test]
fn queue_list_shows_run_ids_and_lengths() {
    let place = Place::filled();
    let expected = "\
state       [DIR]/state.db
jobs        2
  run-1  29 bytes
  run-2  8 bytes
";
    assert_eq!(place.run("queue list").well(), expected);
    let expected = json!({
        "state": "[DIR]/state.db",
        "queue_depth": 2,
        "jobs": [{ "run_id": "run-1", "len": 29 }, { "run_id": "run-2", "len": 8 }],
    });
    assert_eq!(place.run("queue list --json").json(), expected);
}

#[test]
fn queue_list_pages_by_limit_and_run_id() {
    let place = Place::filled();
    let listed = |args: &str| {
        let said = place.run(&format!("queue list --json {args}")).json();
        assert_eq!(said["queue_depth"], 2);
        let ids: Vec<_> = said["jobs"].as_array().unwrap().iter().map(|job| job["run_id"].clone()).collect();
        Value::from(ids)
    };
    assert_eq!(listed("--limit 1"), json!(["run-1"]));
    assert_eq!(listed("--limit 1 --after run-1"), json!(["run-2"]));
    assert_eq!(listed("--after run-10"), json!(["run-2"]));
    assert_eq!(listed("--after run-2"), json!([]));
    assert_eq!(listed("--limit 0"), json!([]));
    let said = place.said(place.command("queue list --after").arg("").output().unwrap());
    assert_eq!(said.failed(2), "the run id of --after is empty");
}

#[test]
fn queue_list_shows_payloads_where_they_are_asked_for() {
    let place = Place::filled();
    let out = place.run("queue list --allow-secrets").well();
    assert!(
        out.ends_with(&format!("  run-1  29 bytes: \"{PAYLOAD}\"\n  run-2  8 bytes: 0x00ff62696e617279\n")),
        "{out}"
    );
    let said = place.run("queue list --allow-secrets --json").json();
    assert_eq!(said["jobs"][0]["payload"], PAYLOAD);
}

#[test]
fn queue_list_goes_on_behind_an_unreadable_job() {
    let place = Place::filled();
    // The fourth frame enqueues run-1.
    place.tamper_with_frame(4);
    let said = place.run("queue list");
    assert!(said.failed(3).contains("it is the payload of job \"run-1\""), "{said:?}");
    assert!(said.out.contains("  run-1  unreadable: ") && said.out.ends_with("  run-2  8 bytes\n"), "{said:?}");
}

#[test]
fn logs_peek_shows_times_and_lengths_and_what_was_dropped() {
    let place = place_with_drops();
    let before = place.bytes();
    let expected = "\
state       [DIR]/state.db
log events  3
dropped     2
  1970-01-01 00:00:00.003 UTC  1 byte
  1970-01-01 00:00:00.004 UTC  2 bytes
";
    assert_eq!(place.run("logs peek --limit 2").well(), expected);
    let expected = json!({
        "state": "[DIR]/state.db",
        "log_events": 3,
        "dropped": 2,
        "events": [{ "ts_ms": 3, "len": 1 }, { "ts_ms": 4, "len": 2 }, { "ts_ms": 1_700_000_000_000_i64, "len": EVENT.len() }],
    });
    assert_eq!(place.run("logs peek --json").json(), expected);
    let said = place.run("logs peek --json --allow-secrets").json();
    assert_eq!(said["events"][2]["payload"], EVENT);
    let out = place.run("logs peek --allow-secrets").well();
    assert!(out.ends_with(&format!("2023-11-14 22:13:20.000 UTC  28 bytes: \"{EVENT}\"\n")), "{out}");
    assert!(place.bytes() == before, "looking has changed the log");
}

#[test]
fn logs_peek_says_when_it_ends_before_an_unreadable_event() {
    let place = Place::empty();
    let store = place.open();
    for n in 1..=3 {
        store.buffer_log(n, b"event").unwrap();
    }
    store.close().unwrap();
    place.tamper_with_frame(2);
    let said = place.run("logs peek --json");
    assert_eq!(
        said.failed(3),
        "log event 2 cannot be read; `verify` says why, `logs discard-unreadable` removes it"
    );
    assert!(said.out.contains("\"events\":[{\"len\":5,\"ts_ms\":1}]"), "{said:?}");
    place.run("logs peek --limit 1").well();
    place.tamper_with_frame(1);
    assert!(place.run("logs peek").failed(3).contains("was tampered with at offset 4"));
}

#[test]
fn stats_counts_drops_and_compactions() {
    let place = place_with_drops();
    let said = place.run("stats --json").json();
    assert_eq!((&said["logs_dropped"], &said["compactions"]), (&json!(2), &json!(0)));
    let number = |name: &str| said[name].as_f64().unwrap();
    assert_eq!(number("dead_ratio"), number("dead_bytes") / (number("dead_bytes") + number("live_bytes")));
    place.run("compact").well();
    place.run("compact").well();
    let out = place.run("stats").well();
    assert!(out.contains("log events  3; 2 dropped\ncompactions 2; "), "{out}");
}

#[test]
fn head_prints_the_anchor_that_the_library_takes() {
    let place = Place::empty();
    let store = place.fill();
    let anchor = store.anchor().to_string();
    assert_eq!(place.run("anchor").well(), format!("{anchor}\n"));
    let said = place.run("head --json").json();
    assert_eq!(said, json!({ "anchor": anchor, "generation": 1, "seq": 10 }));
    // Comparing needs the lock.
    place.run(&format!("head --lock-timeout 0 --expect {anchor}")).failed(5);
    store.close().unwrap();
    let now = place.run("anchor").well();
    assert_eq!(place.run(&format!("head --expect {anchor}")).well(), now);
}

#[test]
fn head_finds_a_store_that_falls_short() {
    let place = Place::filled();
    let older = place.bytes();
    place.open().enqueue_job("run-4", b"new").unwrap();
    let anchor = place.run("anchor").well();
    let expect = format!("head --expect {}", anchor.trim());
    place.run(&expect).well();
    place.run("compact").well();
    place.run(&expect).well();

    place.write(&older);
    let said = place.run(&expect);
    assert!(
        said.failed(3).contains("is not as new as expected: its log ends before the expected frame"),
        "{said:?}"
    );
    assert_eq!(said.out, "");
    assert!(place.bytes() == older);

    fs::remove_file(place.state()).unwrap();
    place.run(&expect).failed(6);
    Store::open(place.state(), &AgentKey::new(KEY).unwrap()).unwrap().close().unwrap();
    assert!(place.run(&expect).failed(3).contains("it is another store"));
}
