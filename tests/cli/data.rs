//! `config`, `queue`, `logs`, `session` and `heartbeat`: each bucket looked at and changed as an operator would.

use std::fs;
use std::io::Read;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::place::{EVENT, HEARTBEAT_MS, KEY, PAYLOAD, Place, RAW_CONFIG, SERVER_TIME_MS, SESSION_ID, WRITES};

/// Bytes that are no text: what must come back as it went in.
const BINARY: &[u8] = b"\x00\xff\n\r\n binary \xfe";

impl Place {
    fn raw(&self, args: &str) -> Vec<u8> {
        let output = self.command(args).output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        output.stdout
    }
}

#[test]
fn config_get_shows_version_and_length() {
    let place = Place::filled();
    let expected = "state       [DIR]/state.db\nconfig      version 7, 36 bytes\n";
    assert_eq!(place.run("config get").well(), expected);
    let said = place.run("config get --json").json();
    assert_eq!(said, json!({ "state": "[DIR]/state.db", "config": { "version": 7, "len": 36 } }));
    let said = place.run("config get --json --allow-secrets").json();
    assert_eq!(said["config"]["raw"], RAW_CONFIG);
    assert!(place.run("config get --allow-secrets").well().ends_with(&format!("36 bytes: \"{RAW_CONFIG}\"\n")));
    assert_eq!(place.raw("config get --raw --allow-secrets"), RAW_CONFIG.as_bytes());
}

#[test]
fn config_that_was_never_saved_is_none() {
    let place = Place::empty();
    place.open().close().unwrap();
    assert_eq!(place.run("config get").well(), "state       [DIR]/state.db\nconfig      none\n");
    assert_eq!(place.run("config get --json").json()["config"], Value::Null);
    let said = place.run("config get --raw --allow-secrets");
    assert_eq!(said.failed(6), "no configuration was ever saved in [DIR]/state.db");
}

#[test]
fn config_set_saves_the_bytes_of_a_file_or_of_stdin() {
    let place = Place::filled();
    let file = place.folder.path().join("config.bin");
    fs::write(&file, BINARY).unwrap();
    let out = place.run(&format!("config set --version 8 {}", file.display())).well();
    assert_eq!(out, format!("state       [DIR]/state.db\nconfig      version 8, {} bytes\n", BINARY.len()));
    assert_eq!(place.raw("config get --raw --allow-secrets"), BINARY);

    let said = place.fed("config set --version 18446744073709551615 - --json", b"").json();
    assert_eq!(said, json!({ "state": "[DIR]/state.db", "config": { "version": u64::MAX, "len": 0 } }));
    let config = place.open().load_config().unwrap().unwrap();
    assert_eq!((config.version, config.raw.as_slice()), (u64::MAX, &b""[..]));
}

#[test]
fn a_value_that_cannot_be_read_or_is_too_long_changes_nothing() {
    let place = Place::filled();
    let before = place.bytes();
    for write in ["config set --version 8", "queue enqueue run-9", "logs add"] {
        let said = place.run(&format!("{write} /nowhere/at/all"));
        assert!(said.failed(1).contains("could not open /nowhere/at/all"), "{said:?}");
        let said = place.run(&format!("{write} {}", place.folder.path().display()));
        assert!(said.failed(1).starts_with("could not read [DIR]"), "{said:?}");
        let said = place.run(&format!("{write} /dev/zero"));
        let expected = "/dev/zero is over the limit of 16777216 bytes; nothing was written";
        assert_eq!(said.failed(1), expected);
    }
    assert!(place.bytes() == before);
    place.fed("queue enqueue largest -", &vec![1; 16 << 20]).well();
}

#[test]
fn queue_show_shows_one_job() {
    let place = Place::filled();
    assert_eq!(place.run("queue show run-1").well(), "state       [DIR]/state.db\n  run-1  29 bytes\n");
    let out = place.run("queue show run-1 --allow-secrets").well();
    assert!(out.ends_with(&format!("  run-1  29 bytes: \"{PAYLOAD}\"\n")), "{out}");
    let said = place.run("queue show run-2 --json").json();
    assert_eq!(said, json!({ "state": "[DIR]/state.db", "job": { "run_id": "run-2", "len": 8 } }));
    let said = place.run("queue show run-2 --json --allow-secrets").json();
    assert_eq!(said["job"]["payload_hex"], "00ff62696e617279");
    assert_eq!(place.raw("queue show run-2 --raw --allow-secrets"), b"\x00\xffbinary");
    let said = place.run("queue show run-3");
    assert_eq!(said.failed(6), "there is no job \"run-3\" in the queue of [DIR]/state.db");
    place.said(place.command("queue show").arg("").output().unwrap()).failed(2);
}

#[test]
fn queue_enqueue_adds_a_job_or_takes_the_place_of_one() {
    let place = Place::filled();
    let out = place.fed("queue enqueue run-9 -", BINARY).well();
    let expected =
        format!("state       [DIR]/state.db\njobs        3\nenqueued    run-9  {} bytes\n", BINARY.len());
    assert_eq!(out, expected);
    assert_eq!(place.raw("queue show run-9 --raw --allow-secrets"), BINARY);

    let out = place.fed("queue enqueue run-9 -", b"x").well();
    assert!(out.ends_with("enqueued    run-9  1 byte; it has the place of an earlier payload\n"), "{out}");
    let said = place.fed("queue enqueue run-9 - --json", b"yz").json();
    let job = json!({ "run_id": "run-9", "len": 2 });
    assert_eq!(said, json!({ "state": "[DIR]/state.db", "queue_depth": 3, "replaced": true, "job": job }));
    assert_eq!(place.raw("queue show run-9 --raw --allow-secrets"), b"yz");

    let long = "i".repeat(1025);
    assert!(place.fed(&format!("queue enqueue {long} -"), b"").failed(1).contains("limit of 1024"));
}

#[test]
fn queue_ack_removes_a_job_also_an_unreadable_one() {
    let place = Place::filled();
    place.tamper_with_frame(4);
    place.run("queue show run-1").failed(3);
    assert_eq!(
        place.run("queue ack run-1").well(),
        "state       [DIR]/state.db\njobs        1\nacked       run-1\n"
    );
    let said = place.run("queue ack run-2 --json").json();
    assert_eq!(said, json!({ "state": "[DIR]/state.db", "queue_depth": 0, "acked": "run-2" }));
    let said = place.run("queue ack run-2");
    assert_eq!(said.failed(6), "there is no job \"run-2\" in the queue of [DIR]/state.db");
    assert_eq!(place.open().queue_depth(), 0);
}

#[test]
fn logs_list_shows_all_events() {
    let place = Place::empty();
    let store = place.open();
    for ts_ms in 0..150 {
        store.buffer_log(ts_ms, EVENT.as_bytes()).unwrap();
    }
    store.close().unwrap();
    assert_eq!(place.run("logs peek").well().lines().count(), 3 + 100);
    let out = place.run("logs list").well();
    assert_eq!(out.lines().count(), 3 + 150);
    assert!(out.ends_with("  1970-01-01 00:00:00.149 UTC  28 bytes\n"), "{out}");
    assert_eq!(place.run("logs list --json --allow-secrets").json()["events"][149]["payload"], EVENT);
}

#[test]
fn logs_add_puts_an_event_where_its_time_is() {
    let place = Place::filled();
    let out = place.fed("logs add - --at -1", BINARY).well();
    let len = BINARY.len();
    let expected = format!(
        "state       [DIR]/state.db\nlog events  2\nadded       1969-12-31 23:59:59.999 UTC  {len} bytes\n"
    );
    assert_eq!(out, expected);
    let said = place.fed("logs add - --at 7 --json", b"x").json();
    assert_eq!(said, json!({ "state": "[DIR]/state.db", "log_events": 3, "added": { "ts_ms": 7, "len": 1 } }));
    let events = place.open().drain_logs(9).unwrap();
    let held: Vec<_> = events.iter().map(|event| (event.ts_ms, event.payload.as_slice())).collect();
    assert_eq!(held, [(-1, BINARY), (6, EVENT.as_bytes()), (7, b"x")]);
}

#[test]
fn logs_add_pushes_nothing_out_whatever_the_limits_by_default_are() {
    let place = Place::empty();
    let mut limits = backupy_state::LogLimits::default();
    (limits.max_bytes, limits.rate) = (None, None);
    let key = backupy_state::AgentKey::new(KEY).unwrap();
    let store = backupy_state::OpenOptions::new().log_limits(limits).open(place.state(), &key).unwrap();
    for ts_ms in 0..5 {
        store.buffer_log(ts_ms, &[7; 16 << 20]).unwrap();
    }
    store.close().unwrap();
    assert_eq!(place.fed("logs add - --json", b"x").json()["log_events"], 6);
    assert_eq!(place.run("stats --json").json()["logs_dropped"], 0);
}

#[test]
fn logs_drain_shows_what_it_removes() {
    let place = Place::filled();
    place.fed("logs add - --at 9", b"x").well();
    let out = place.run("logs drain --allow-secrets --limit 1").well();
    let expected = format!(
        "state       [DIR]/state.db\nlog events  1 left\ndropped     0\ndrained     1\n  \
         1970-01-01 00:00:00.006 UTC  28 bytes: \"{EVENT}\"\n"
    );
    assert_eq!(out, expected);
    let said = place.run("logs drain --allow-secrets --json").json();
    let expected = json!({
        "state": "[DIR]/state.db", "log_events": 0, "dropped": 0, "drained": 1,
        "events": [{ "ts_ms": 9, "len": 1, "payload": "x" }],
    });
    assert_eq!(said, expected);
    assert_eq!(place.run("logs drain --discard --json").json()["drained"], 0);
}

#[test]
fn logs_drain_that_discards_shows_nothing_of_what_it_removes() {
    let place = Place::filled();
    let out = place.run("logs drain --discard").well();
    assert_eq!(out, "state       [DIR]/state.db\nlog events  0 left\ndropped     0\ndrained     1\n");
    assert_eq!(place.open().log_count(), 0);
}

#[test]
fn logs_drain_removes_nothing_that_nobody_has_taken() {
    let place = Place::filled();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output =
        place.command("logs drain --allow-secrets").stdout(writer).stderr(Stdio::piped()).output().unwrap();
    let said = place.said(output);
    assert_eq!(said.failed(1), "the output was not taken to its end, so no log event was removed");
    let full = fs::File::create("/dev/full").unwrap();
    let output = place.command("logs drain --allow-secrets").stdout(full).stderr(Stdio::piped()).output().unwrap();
    place.said(output).failed(1);
    assert_eq!(place.open().log_count(), 1);
}

#[test]
fn logs_drain_ends_before_an_unreadable_event() {
    let place = Place::empty();
    let store = place.open();
    for n in 1..=3 {
        store.buffer_log(n, b"event").unwrap();
    }
    store.close().unwrap();
    place.tamper_with_frame(2);
    let said = place.run("logs drain --allow-secrets");
    assert_eq!(
        said.failed(3),
        "log event 2 cannot be read; `verify` says why, `logs discard-unreadable` removes it"
    );
    assert!(said.out.contains("drained     1\n"), "{said:?}");
    assert_eq!(place.open().log_count(), 2);

    let said = place.run("logs discard-unreadable").well();
    assert_eq!(said, "state       [DIR]/state.db\nlog events  1 left\ndiscarded   1\n");
    assert_eq!(place.run("logs discard-unreadable --json").json()["discarded"], 0);
    place.run("logs list").well();
}

#[test]
fn session_shows_that_there_is_one() {
    let place = Place::filled();
    let out = place.run("session").well();
    assert_eq!(out, "state       [DIR]/state.db\nsession     present, server time 2023-11-14 22:13:20.123 UTC\n");
    let said = place.run("session --json").json();
    assert_eq!(said, json!({ "state": "[DIR]/state.db", "session": { "server_time_ms": SERVER_TIME_MS } }));
    assert!(place.run("session --allow-secrets").well().ends_with(&format!(": \"{SESSION_ID}\"\n")));
    assert_eq!(place.run("session --allow-secrets --json").json()["session"]["session_id"], SESSION_ID);

    let empty = Place::empty();
    empty.open().close().unwrap();
    assert_eq!(empty.run("session").well(), "state       [DIR]/state.db\nsession     none\n");
    assert_eq!(empty.run("session --json").json()["session"], Value::Null);
}

#[test]
fn heartbeat_shows_the_last_one_and_records_another() {
    let place = Place::filled();
    let out = place.run("heartbeat").well();
    assert_eq!(out, "state       [DIR]/state.db\nheartbeat   2023-11-14 22:14:20.000 UTC ([AGE])\n");
    let said = place.run("heartbeat --json").json();
    assert_eq!(said, json!({ "state": "[DIR]/state.db", "last_heartbeat_ms": HEARTBEAT_MS }));
    let said = place.run("heartbeat record --at -5 --json").json();
    assert_eq!(said["last_heartbeat_ms"], -5);
    assert_eq!(place.open().last_heartbeat().unwrap(), Some(-5));
    place.run("heartbeat record").well();
    place.run("health-check --max-heartbeat-age 3600").well();

    let empty = Place::empty();
    empty.open().close().unwrap();
    assert_eq!(empty.run("heartbeat").well(), "state       [DIR]/state.db\nheartbeat   none\n");
}

#[test]
fn writes_hide_secrets_and_leave_a_store_that_verifies() {
    for (write, stdin) in WRITES {
        for write in [write.to_owned(), format!("{write} --json")] {
            let place = Place::filled();
            let said = place.fed(&write, stdin.as_bytes());
            for secret in [KEY, RAW_CONFIG, SESSION_ID, PAYLOAD, EVENT, "00ff62"] {
                assert!(!said.out.contains(secret) && !said.err.contains(secret), "{said:?}");
            }
            said.well();
            place.run("verify").well();
        }
    }
}

#[test]
fn a_value_is_not_an_argument() {
    let place = Place::filled();
    // Whoever writes it there by mistake is told of a file that is not there, and nothing is stored.
    place.run("queue enqueue run-9 payload").failed(1);
    place.run("config set --version 8 raw config").failed(2);
    assert_eq!(place.open().queue_depth(), 2);
}

#[test]
fn a_pipe_that_is_closed_early_is_quiet() {
    let place = Place::empty();
    let store = place.open();
    for n in 0..3000 {
        store.enqueue_job(&format!("run-{n:05}"), b"x").unwrap();
    }
    store.close().unwrap();
    // More than a pipe holds, so that the command is still writing when its reader goes.
    for look in ["frames", "queue list", "dump-state"] {
        let mut child = place.command(look).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut first = [0; 1];
        child.stdout.take().unwrap().read_exact(&mut first).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{look}: {output:?}");
    }
}
