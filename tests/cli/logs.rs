//! `logs`: showing, adding and removing log events.

use std::process::Stdio;

use backupy_state::{AgentKey, LogLimits, OpenOptions};
use serde_json::json;

use crate::sandbox::{BINARY, EVENT, KEY, Sandbox, report_skipped};

/// A store with three events buffered and two dropped.
pub(crate) fn sandbox_with_drops() -> Sandbox {
    let sandbox = Sandbox::empty();
    let mut limits = LogLimits::default();
    limits.max_count = Some(3);
    let store = OpenOptions::new().log_limits(limits).open(sandbox.state(), &AgentKey::new(KEY).unwrap()).unwrap();
    for (ts_ms, payload) in [(1, "gone"), (2, "gone too"), (3, "a"), (4, "bc"), (1_700_000_000_000, EVENT)] {
        store.buffer_log(ts_ms, payload.as_bytes()).unwrap();
    }
    store.close().unwrap();
    sandbox
}

#[test]
fn logs_peek_shows_times_lengths_and_the_number_of_dropped_events() {
    let sandbox = sandbox_with_drops();
    let before = sandbox.bytes();
    let expected = "\
state       [DIR]/state.db
log events  3
dropped     2
  1970-01-01 00:00:00.003 UTC  1 byte
  1970-01-01 00:00:00.004 UTC  2 bytes
";
    assert_eq!(sandbox.run("logs peek --limit 2").success(), expected);
    let expected = json!({
        "state": "[DIR]/state.db",
        "log_events": 3,
        "dropped": 2,
        "events": [
            { "ts_ms": 3, "len": 1 },
            { "ts_ms": 4, "len": 2 },
            { "ts_ms": 1_700_000_000_000_i64, "len": EVENT.len() },
        ],
    });
    assert_eq!(sandbox.run("logs peek --json").json(), expected);
    let outcome = sandbox.run("logs peek --json --allow-secrets").json();
    assert_eq!(outcome["events"][2]["payload"], EVENT);
    let out = sandbox.run("logs peek --allow-secrets").success();
    assert!(out.ends_with(&format!("2023-11-14 22:13:20.000 UTC  28 bytes: \"{EVENT}\"\n")), "{out}");
    assert!(sandbox.bytes() == before, "reading has changed the log");
}

#[test]
fn logs_list_shows_all_events_or_as_many_as_asked_for() {
    let sandbox = sandbox_with_drops();
    let times = |args: &str| {
        let events = sandbox.run(args).json()["events"].as_array().unwrap().clone();
        events.into_iter().map(|event| event["ts_ms"].as_i64().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(times("logs list --json"), [3, 4, 1_700_000_000_000]);
    assert_eq!(times("logs list --json --limit 2"), [3, 4]);
    assert_eq!(times("logs list --json --limit 0"), [0; 0]);
    assert_eq!(times("logs list --json --limit 9"), [3, 4, 1_700_000_000_000]);
    let out = sandbox.run("logs list --limit 1").success();
    assert!(out.contains("log events  3\n") && out.ends_with("00:00:00.003 UTC  1 byte\n"), "{out}");
    sandbox.run("logs list --limit x").failed(2);
}

/// Three log events, of which the second fails authentication.
pub(crate) fn with_an_unreadable_second_event() -> Sandbox {
    let sandbox = Sandbox::empty();
    let store = sandbox.open();
    for n in 1..=3 {
        store.buffer_log(n, b"event").unwrap();
    }
    store.close().unwrap();
    sandbox.tamper_with_frame(2);
    sandbox
}

#[test]
fn logs_peek_fails_if_it_stops_before_an_unreadable_event() {
    let sandbox = with_an_unreadable_second_event();
    let outcome = sandbox.run("logs peek --json");
    assert_eq!(
        outcome.failed(3),
        "log event 2 is unreadable; `backupy-state verify` reports why, `backupy-state logs discard-unreadable` \
         removes it"
    );
    assert!(outcome.out.contains("\"events\":[{\"len\":5,\"ts_ms\":1}]"), "{outcome:?}");
    sandbox.run("logs peek --limit 1").success();
    sandbox.tamper_with_frame(1);
    assert!(sandbox.run("logs peek").failed(3).starts_with("log event 1 is unreadable; "));
    assert!(sandbox.run("logs drain --discard").failed(3).starts_with("log event 1 is unreadable; "));
}

#[test]
fn logs_list_shows_all_events() {
    let sandbox = Sandbox::empty();
    let store = sandbox.open();
    for ts_ms in 0..150 {
        store.buffer_log(ts_ms, EVENT.as_bytes()).unwrap();
    }
    store.close().unwrap();
    assert_eq!(sandbox.run("logs peek").success().lines().count(), 3 + 100);
    let out = sandbox.run("logs list").success();
    assert_eq!(out.lines().count(), 3 + 150);
    assert!(out.ends_with("  1970-01-01 00:00:00.149 UTC  28 bytes\n"), "{out}");
    assert_eq!(sandbox.run("logs list --json --allow-secrets").json()["events"][149]["payload"], EVENT);
}

#[test]
fn logs_add_inserts_an_event_by_its_time() {
    let sandbox = Sandbox::filled();
    let out = sandbox.fed("logs add - --at -1", BINARY).success();
    let len = BINARY.len();
    let expected = format!(
        "state       [DIR]/state.db\nlog events  2\nadded       1969-12-31 23:59:59.999 UTC  {len} bytes\n"
    );
    assert_eq!(out, expected);
    let outcome = sandbox.fed("logs add - --at 7 --json", b"x").json();
    assert_eq!(outcome, json!({ "state": "[DIR]/state.db", "log_events": 3, "added": { "ts_ms": 7, "len": 1 } }));
    let events = sandbox.open().drain_logs(9).unwrap();
    let held: Vec<_> = events.iter().map(|event| (event.ts_ms, event.payload.as_slice())).collect();
    assert_eq!(held, [(-1, BINARY), (6, EVENT.as_bytes()), (7, b"x")]);
}

#[test]
fn logs_add_evicts_nothing_even_beyond_the_default_limits() {
    let sandbox = Sandbox::empty();
    let mut limits = backupy_state::LogLimits::default();
    (limits.max_bytes, limits.rate) = (None, None);
    let key = backupy_state::AgentKey::new(KEY).unwrap();
    let store = backupy_state::OpenOptions::new().log_limits(limits).open(sandbox.state(), &key).unwrap();
    for ts_ms in 0..5 {
        store.buffer_log(ts_ms, &[7; 16 << 20]).unwrap();
    }
    store.close().unwrap();
    assert_eq!(sandbox.fed("logs add - --json", b"x").json()["log_events"], 6);
    assert_eq!(sandbox.run("stats --json").json()["logs_dropped"], 0);
}

#[test]
fn logs_drain_shows_what_it_removes() {
    let sandbox = Sandbox::filled();
    sandbox.fed("logs add - --at 9", b"x").success();
    let out = sandbox.run("logs drain --allow-secrets --limit 1").success();
    let expected = format!(
        "state       [DIR]/state.db\nlog events  1 left\ndropped     0\ndrained     1\n  \
         1970-01-01 00:00:00.006 UTC  28 bytes: \"{EVENT}\"\n"
    );
    assert_eq!(out, expected);
    let outcome = sandbox.run("logs drain --allow-secrets --json").json();
    let expected = json!({
        "state": "[DIR]/state.db", "log_events": 0, "dropped": 0, "drained": 1,
        "events": [{ "ts_ms": 9, "len": 1, "payload": "x" }],
    });
    assert_eq!(outcome, expected);
    assert_eq!(sandbox.run("logs drain --discard --json").json()["drained"], 0);
}

#[test]
fn logs_drain_with_discard_does_not_show_the_removed_events() {
    let sandbox = Sandbox::filled();
    let out = sandbox.run("logs drain --discard").success();
    assert_eq!(out, "state       [DIR]/state.db\nlog events  0 left\ndropped     0\ndrained     1\n");
    assert_eq!(sandbox.open().log_count(), 0);
}

#[test]
fn logs_drain_removes_nothing_if_the_output_cannot_be_written() {
    let sandbox = Sandbox::filled();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output =
        sandbox.command("logs drain --allow-secrets").stdout(writer).stderr(Stdio::piped()).output().unwrap();
    let outcome = sandbox.outcome(output);
    assert_eq!(outcome.failed(1), "the output could not be written completely, so no log event was removed");
    let full = std::fs::File::create("/dev/full").unwrap();
    let output =
        sandbox.command("logs drain --allow-secrets").stdout(full).stderr(Stdio::piped()).output().unwrap();
    sandbox.outcome(output).failed(1);
    assert_eq!(sandbox.open().log_count(), 1);
}

/// A file that is not durable may be lost in a power cut, which what was removed from the store would survive.
#[test]
fn logs_drain_removes_nothing_if_the_file_that_it_printed_to_cannot_be_synced() {
    for (error, code) in [("EIO", 1), ("EINVAL", 0), ("EROFS", 0)] {
        let sandbox = Sandbox::filled();
        // Only calls on that file fail.
        let outcome = sandbox.shell(&format!(
            ": > drained; strace -f -qq -o traced -P \"$PWD/drained\" -e trace=fsync,fdatasync \
             -e inject=fsync,fdatasync:error={error} backupy-state logs drain --allow-secrets > drained"
        ));
        if outcome.err.contains("strace") {
            report_skipped("there is no strace here: a file that cannot be synced was not tested");
            return;
        }
        let traced = std::fs::read_to_string(sandbox.folder.path().join("traced")).unwrap();
        assert_eq!(traced.matches("(INJECTED)").count(), 1, "{traced}");
        if code == 0 {
            outcome.success();
        } else {
            let message = "the output could not be written completely, so no log event was removed";
            assert_eq!(outcome.failed(1), message);
        }
        assert_eq!(sandbox.open().log_count(), usize::from(code != 0));
    }
}

/// The standard library puts the null device in its place, where everything can be written.
#[test]
fn logs_drain_removes_nothing_if_stdout_is_closed() {
    let sandbox = Sandbox::filled();
    for closed in [">&-", "--json >&-", "<>/dev/null >&0"] {
        let outcome = sandbox.shell(&format!("backupy-state logs drain --allow-secrets {closed}"));
        assert_eq!(
            outcome.failed(1),
            "stdout is closed, or discards what is written; redirect it to a file, or give --discard; no log \
             event was removed"
        );
        assert_eq!(sandbox.open().log_count(), 1);
    }
    sandbox.shell("backupy-state logs drain --allow-secrets >/dev/null").success();
    assert_eq!(sandbox.open().log_count(), 0);
    sandbox.shell("backupy-state logs drain --discard >&-").success();
}

#[test]
fn logs_drain_stops_before_an_unreadable_event() {
    let sandbox = with_an_unreadable_second_event();
    let outcome = sandbox.run("logs drain --allow-secrets");
    assert_eq!(
        outcome.failed(3),
        "log event 2 is unreadable; `backupy-state verify` reports why, `backupy-state logs discard-unreadable` \
         removes it"
    );
    assert!(outcome.out.contains("drained     1\n"), "{outcome:?}");
    assert_eq!(sandbox.open().log_count(), 2);

    let outcome = sandbox.run("logs discard-unreadable").success();
    assert_eq!(outcome, "state       [DIR]/state.db\nlog events  1 left\ndiscarded   1\n");
    assert_eq!(sandbox.run("logs discard-unreadable --json").json()["discarded"], 0);
    sandbox.run("logs list").success();
}
