//! `data`: listing, showing, putting and deleting the agent's own data.

use serde_json::json;

use crate::sandbox::{BINARY, KEY, PAYLOAD, Sandbox};

impl Sandbox {
    /// A store with three values, in its first three frames.
    fn with_data() -> Self {
        let sandbox = Sandbox::empty();
        let store = sandbox.open();
        store.put_data("cursor/a", b"row 7").unwrap();
        store.put_data("dead/run-1", PAYLOAD.as_bytes()).unwrap();
        store.put_data("dead/run-2", b"\x00\xffbinary").unwrap();
        sandbox.close(store);
        sandbox
    }
}

#[test]
fn data_list_shows_keys_and_lengths() {
    let sandbox = Sandbox::with_data();
    let expected = "\
state       [DIR]/state.db
data keys   3
  cursor/a  5 bytes
  dead/run-1  29 bytes
  dead/run-2  8 bytes
";
    assert_eq!(sandbox.run("data list").success(), expected);
    let outcome = sandbox.run("data list --json --prefix cursor").json();
    let expected = json!({ "state": "[DIR]/state.db", "data_keys": 3, "data": [{ "key": "cursor/a", "len": 5 }] });
    assert_eq!(outcome, expected);
    let out = sandbox.run("data list --prefix dead/").success();
    assert!(out.ends_with("data keys   3\n  dead/run-1  29 bytes\n  dead/run-2  8 bytes\n"), "{out}");
    assert_eq!(sandbox.run("data list --json --prefix x").json()["data"], json!([]));
}

#[test]
fn data_list_shows_values_on_request() {
    let sandbox = Sandbox::with_data();
    let out = sandbox.run("data list --allow-secrets --prefix dead/").success();
    let expected = format!("  dead/run-1  29 bytes: \"{PAYLOAD}\"\n  dead/run-2  8 bytes: 0x00ff62696e617279\n");
    assert!(out.ends_with(&expected), "{out}");
    let outcome = sandbox.run("data list --allow-secrets --json").json();
    assert_eq!(
        (&outcome["data"][1]["value"], &outcome["data"][2]["value_hex"]),
        (&json!(PAYLOAD), &json!("00ff62696e617279"))
    );
}

#[test]
fn without_a_request_no_command_shows_a_value() {
    let sandbox = Sandbox::with_data();
    for read in
        ["data list", "data get dead/run-1", "data get dead/run-2", "dump-state", "frames", "stats", "verify"]
    {
        for read in [read.to_owned(), format!("{read} --json")] {
            let outcome = sandbox.run(&read);
            for secret in [PAYLOAD, "00ff62", KEY] {
                assert!(!outcome.out.contains(secret) && !outcome.err.contains(secret), "{outcome:?}");
            }
        }
    }
}

#[test]
fn data_get_shows_one_value() {
    let sandbox = Sandbox::with_data();
    let expected = "state       [DIR]/state.db\n  dead/run-1  29 bytes\n";
    assert_eq!(sandbox.run("data get dead/run-1").success(), expected);
    let out = sandbox.run("data get dead/run-1 --allow-secrets").success();
    assert!(out.ends_with(&format!("  dead/run-1  29 bytes: \"{PAYLOAD}\"\n")), "{out}");
    let outcome = sandbox.run("data get cursor/a --json").json();
    assert_eq!(outcome, json!({ "state": "[DIR]/state.db", "data": { "key": "cursor/a", "len": 5 } }));
    assert_eq!(sandbox.run("data get cursor/a --json --allow-secrets").json()["data"]["value"], "row 7");
    assert_eq!(sandbox.stdout_of("data get dead/run-2 --raw --allow-secrets"), b"\x00\xffbinary");
    sandbox.run("data get dead/run-2 --raw").failed(2);
    let outcome = sandbox.run("data get dead/run-3");
    assert_eq!(outcome.failed(6), "there is no data key \"dead/run-3\" in [DIR]/state.db");
    let outcome = sandbox.outcome(sandbox.command("data get").arg("").output().unwrap());
    assert_eq!(outcome.failed(2), "the data key is empty");
}

#[test]
fn data_put_takes_its_value_from_a_file_or_stdin() {
    let sandbox = Sandbox::with_data();
    let out = sandbox.fed("data put cursor/b -", BINARY).success();
    let expected =
        format!("state       [DIR]/state.db\ndata keys   4\nput         cursor/b  {} bytes\n", BINARY.len());
    assert_eq!(out, expected);
    assert_eq!(sandbox.stdout_of("data get cursor/b --raw --allow-secrets"), BINARY);
    let file = sandbox.folder.path().join("value.bin");
    std::fs::write(&file, "row 9").unwrap();
    let outcome = sandbox.run(&format!("data put cursor/b {} --json", file.display())).json();
    let data = json!({ "key": "cursor/b", "len": 5 });
    assert_eq!(outcome, json!({ "state": "[DIR]/state.db", "data_keys": 4, "data": data }));
    assert_eq!(sandbox.open().data("cursor/b").unwrap().unwrap(), b"row 9");

    let long = "k".repeat(1025);
    assert!(sandbox.fed(&format!("data put {long} -"), b"").failed(1).contains("limit of 1024"));
}

#[test]
fn data_delete_removes_readable_and_unreadable_values() {
    let sandbox = Sandbox::with_data();
    sandbox.tamper_with_frame(2);
    sandbox.run("data get dead/run-1").failed(3);
    let outcome = sandbox.run("data list");
    assert!(outcome.failed(3).contains("this is the value of data key \"dead/run-1\""), "{outcome:?}");
    assert!(outcome.out.contains("  dead/run-1  unreadable: "), "{outcome:?}");
    assert!(outcome.out.ends_with("  dead/run-2  8 bytes\n"), "{outcome:?}");

    let expected = "state       [DIR]/state.db\ndata keys   2\ndeleted     dead/run-1\n";
    assert_eq!(sandbox.run("data delete dead/run-1").success(), expected);
    let outcome = sandbox.run("data delete cursor/a --json").json();
    assert_eq!(outcome, json!({ "state": "[DIR]/state.db", "data_keys": 1, "deleted": "cursor/a" }));
    let outcome = sandbox.run("data delete cursor/a");
    assert_eq!(outcome.failed(6), "there is no data key \"cursor/a\" in [DIR]/state.db");
    assert_eq!(sandbox.open().data_keys("").collect::<Vec<_>>(), ["dead/run-2"]);
}

#[test]
fn data_keys_cannot_control_the_terminal() {
    let sandbox = Sandbox::empty();
    let store = sandbox.open();
    store.put_data("\x1b[2J\n", b"").unwrap();
    sandbox.close(store);
    for read in ["data list", "dump-state", "frames"] {
        let out = sandbox.run(read).success();
        assert!(out.contains("\\u{1b}[2J\\n") && !out.contains('\x1b'), "{out}");
    }
}

#[test]
fn other_reports_count_data_and_name_its_keys() {
    let sandbox = Sandbox::with_data();
    let stats = sandbox.run("stats --json").json();
    assert_eq!((&stats["data_keys"], &stats["data_bytes"]), (&json!(3), &json!(42)));
    assert!(sandbox.run("stats").success().contains("\ndata keys   3; 42 bytes\n"));
    let dump = sandbox.run("dump-state").success();
    assert!(dump.contains("data keys   3\n  cursor/a  5 bytes\n  dead/run-1  29 bytes\n"), "{dump}");
    let dump = sandbox.run("dump-state --json").json();
    assert_eq!(dump["data"][0], json!({ "key": "cursor/a", "len": 5 }));
    let frames = sandbox.run("frames").success();
    assert!(frames.contains("put data \"cursor/a\", value of 5 B\n"), "{frames}");
    let frames = sandbox.run("frames --json").success();
    let first: serde_json::Value = serde_json::from_str(frames.lines().next().unwrap()).unwrap();
    assert_eq!(first["operations"][0]["data_key"], "cursor/a");

    sandbox.tamper_with_frame(2);
    let to = sandbox.folder.path().join("new.db").display().to_string();
    let outcome = sandbox.run(&format!("salvage {to}"));
    outcome.failed(3);
    assert!(outcome.out.contains("\ndata keys   2\n"), "{outcome:?}");
    assert!(outcome.out.contains(" (data \"dead/run-1\")\n"), "{outcome:?}");
}
