//! `verify`: its report on intact, torn and damaged stores.

use serde_json::{Value, json};

use crate::sandbox::Sandbox;

#[test]
fn verify_reports_what_it_has_checked() {
    let sandbox = Sandbox::filled();
    let log_len = sandbox.bytes().len();
    let expected = format!(
        "\
state       [DIR]/state.db
intact      yes: every record and every value is authentic
generation  1
frames      11, closed
operations  10, 8 values
log         {log_len} bytes in a file of {log_len} bytes
index file  none that fits; opening reads the whole log
"
    );
    let grouped = |text: &str| text.replace(',', "");
    assert_eq!(grouped(&sandbox.run("verify").success()), grouped(&expected));
    let without_key = sandbox.outcome(sandbox.keyless("verify --no-key").output().unwrap()).success();
    assert!(without_key.contains("only the key can reveal tampering"), "{without_key}");

    let outcome = sandbox.run("verify --json").json();
    let expected = json!({
        "state": "[DIR]/state.db", "path": "[DIR]/state.db", "intact": true,
        "with_key": true, "generation": 1, "frames": 11,
        "operations": 10, "values": 8, "ends_closed": true, "file_len": log_len, "log_len": log_len,
        "torn_len": 0, "torn_marks": 0, "index": "not_used", "faults": [], "more_faults": 0,
    });
    assert_eq!(outcome, expected);
}

#[test]
fn a_value_that_does_not_open_is_not_counted() {
    let sandbox = Sandbox::filled();
    sandbox.tamper_with_frame(4);
    let outcome = sandbox.run("verify --json");
    let report: Value = serde_json::from_str(&outcome.out).unwrap();
    assert_eq!((outcome.code, &report["operations"], &report["values"]), (Some(3), &json!(10), &json!(7)));
    assert!(sandbox.run("verify").out.contains("operations  10, 7 values\n"));
}

#[test]
fn verify_reports_a_torn_tail_and_does_not_fail() {
    let sandbox = Sandbox::filled();
    let mut bytes = sandbox.bytes();
    bytes.extend_from_slice(b"half a frame");
    sandbox.write(&bytes);
    let out = sandbox.run("verify").success();
    assert!(out.contains("torn tail   12 bytes after the last frame; the next open quarantines them\n"), "{out}");
    assert_eq!(sandbox.run("verify --json").json()["torn_len"], 12);
}

#[test]
fn verify_reports_a_torn_mark_and_does_not_fail() {
    let sandbox = Sandbox::filled();
    let mut bytes = sandbox.bytes();
    // That of the close frame.
    bytes[4096 + 20] ^= 1;
    sandbox.write(&bytes);
    let out = sandbox.run("verify").success();
    assert!(out.contains("torn marks  1; a crash leaves one, and the store writes over it\n"), "{out}");
    assert!(out.contains("frames      11, in use, or not closed\n"), "{out}");
    let report = sandbox.run("verify --json").json();
    assert_eq!((&report["torn_marks"], &report["ends_closed"]), (&json!(1), &json!(false)));
}

#[test]
fn verify_reports_every_fault() {
    let sandbox = Sandbox::damaged(&[2, 6]);
    let frames = Sandbox::filled().frames();
    for command in ["verify", "verify --no-key"] {
        let outcome = sandbox.run(command);
        let sentence = outcome.failed(3);
        assert!(sentence.contains(&format!("damage at offset {}", frames[1].0)), "{sentence}");
        assert!(sentence.ends_with(", and 1 more"), "{sentence}");
        for frame in [frames[1], frames[5]] {
            let row = format!("damage      at offset {}: the frame's header does not match its CRC\n", frame.0);
            assert!(outcome.out.contains(&row), "{}", outcome.out);
        }
    }
    let outcome = sandbox.run("verify --json");
    let report: Value = serde_json::from_str(&outcome.out).unwrap();
    assert_eq!((report["faults"].as_array().unwrap().len(), &report["more_faults"]), (2, &json!(0)));
}
