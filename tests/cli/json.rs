//! What the JSON of all commands has in common: the path of the store, the failure, and harmless strings.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;

use backupy_state::{AgentKey, Snapshot, Store, verify_each};
use serde_json::{Value, json, to_value};

use crate::sandbox::{KEY, READS, Sandbox, WRITES};

fn lines(out: &str) -> Vec<Value> {
    out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[track_caller]
fn assert_fails(sandbox: &Sandbox, args: &str, code: i32, kind: &str) {
    let report = sandbox.run(&format!("{args} --json")).failed_json(code);
    assert_eq!(report["error"]["kind"], kind, "{report}");
    let fields = |value: &Value| value.as_object().unwrap().len();
    assert_eq!((fields(&report), fields(&report["error"])), (1, 2), "{report}");
}

#[test]
fn a_failure_is_one_object_with_its_kind_and_the_message_of_stderr() {
    let sandbox = Sandbox::empty();
    for read in READS.into_iter().filter(|read| *read != "health-check") {
        assert_fails(&sandbox, read, 6, "not_found");
    }
    Store::open(sandbox.state(), &AgentKey::new("another key").unwrap()).unwrap().close().unwrap();
    assert_fails(&sandbox, "stats", 4, "wrong_key");
    sandbox.write(b"To do: milk, bread\n");
    assert_fails(&sandbox, "stats", 7, "not_a_store");

    let sandbox = Sandbox::filled();
    assert_fails(&sandbox, "queue show run-9", 6, "not_found");
    assert_fails(&sandbox, "backup /nowhere/at/all/copy.db", 1, "io");
    assert_fails(&sandbox, "verify --key-file /nowhere/agent.key", 2, "io");
    assert_fails(&sandbox, &format!("backup {}", sandbox.state().display()), 2, "invalid");
    let store = sandbox.open();
    assert_fails(&sandbox, "heartbeat record --lock-timeout 0", 5, "locked");
    store.close().unwrap();
    let mut bytes = sandbox.bytes();
    bytes[8192 + 60] ^= 1;
    sandbox.write(&bytes);
    assert_fails(&sandbox, "stats", 3, "corrupt");
}

#[test]
fn a_usage_error_is_json_too_if_json_was_asked_for() {
    let sandbox = Sandbox::filled();
    for wrong in ["verify --fast", "compress", "stats extra", "logs drain", "queue list --after="] {
        assert_fails(&sandbox, wrong, 2, "usage");
    }
    assert_fails(&sandbox, "config get --raw --allow-secrets", 2, "usage");
    assert_fails(&sandbox, "map --svg -", 2, "usage");
    assert_fails(&sandbox, "stats --format prometheus", 2, "usage");
    assert_fails(&sandbox, "health-check --fast", 1, "usage");
    assert_eq!(sandbox.run("map --svg - --json").err.matches("stdout").count(), 1);
    // Here, the help is on stderr.
    let report = lines(&sandbox.run("--json").out);
    assert_eq!(report[0]["error"]["kind"], "usage");
    // After `--` it is a value.
    assert_eq!(sandbox.run("queue show extra -- --json").out, "");
    let outcome = sandbox.outcome(sandbox.keyless("stats --json").output().unwrap());
    assert_eq!(outcome.failed_json(2)["error"]["kind"], "usage");
}

#[test]
fn a_report_about_a_failure_has_both() {
    let sandbox = Sandbox::damaged(&[2]);
    for read in ["verify", "verify --no-key", "map"] {
        let report = sandbox.run(&format!("{read} --json")).failed_json(3);
        assert_eq!((&report["intact"], &report["error"]["kind"]), (&json!(false), &json!("damage")), "{read}");
        assert_eq!(report["faults"][0]["kind"], "damage");
    }
    let to = sandbox.folder.path().join("new.db");
    let report = sandbox.run(&format!("salvage {} --json", to.display())).failed_json(3);
    assert_eq!((&report["complete"], &report["error"]["kind"]), (&json!(false), &json!("damage")));
    assert_eq!((&report["state"], &report["to"]), (&json!("[DIR]/state.db"), &json!("[DIR]/new.db")));
    // The frames up to the damage are lines of their own.
    let frames = lines(&sandbox.run("frames --json").out);
    assert_eq!(frames.last().unwrap()["error"]["kind"], "damage");
    assert_eq!(frames[0]["seq"], 1);
    let report = sandbox.run("health-check --json --max-queue 0").failed_json(1);
    assert_eq!((&report["healthy"], &report["error"]["kind"]), (&json!(false), &json!("corrupt")));
}

#[test]
fn a_health_check_over_a_limit_has_the_statistics_too() {
    let report = Sandbox::filled().run("health-check --json --max-queue 1").failed_json(1);
    assert_eq!((&report["healthy"], &report["jobs"]), (&json!(false), &json!(2)));
    assert_eq!(report["error"], json!({ "kind": "failure", "message": "2 jobs in the queue; the limit is 1" }));
}

#[test]
fn every_report_has_the_absolute_path_of_the_store() {
    for (command, stdin) in READS.map(|read| (read, "")).into_iter().chain(WRITES) {
        let sandbox = Sandbox::filled();
        let mut run = sandbox.command(&format!("{command} --json --state state"));
        // `queue ack` of no job would fail.
        if !stdin.is_empty() {
            fs::write(sandbox.folder.path().join("stdin"), stdin).unwrap();
            run.stdin(fs::File::open(sandbox.folder.path().join("stdin")).unwrap());
        }
        let out = sandbox.outcome(run.current_dir(sandbox.folder.path()).output().unwrap()).success();
        assert!(!out.is_empty(), "{command}");
        for report in lines(&out) {
            assert_eq!(report["state"], "[DIR]/state.db", "{command}: {report}");
        }
    }
}

#[test]
fn other_paths_in_a_report_are_absolute_too() {
    let sandbox = Sandbox::filled();
    let here = |args: &str| {
        let mut command = sandbox.command(&format!("{args} --json"));
        sandbox.outcome(command.current_dir(sandbox.folder.path()).output().unwrap()).json()
    };
    assert_eq!(here("map --svg map.svg")["svg"], "[DIR]/map.svg");
    assert_eq!(here("backup copy.db")["backup"], "[DIR]/copy.db");
    let salvaged = here("salvage new");
    assert_eq!((&salvaged["from"], &salvaged["to"]), (&json!("[DIR]/state.db"), &json!("[DIR]/new.db")));
    let bolt = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/import_bolt/example.db");
    fs::copy(bolt, sandbox.folder.path().join("old.bolt")).unwrap();
    let imported = here("import old.bolt --state imported.db");
    assert_eq!((&imported["from"], &imported["state"]), (&json!("[DIR]/old.bolt"), &json!("[DIR]/imported.db")));
}

/// Controls of C0 and C1, a delete, the reversal of text, a byte order mark, a separator of lines, and a character
/// that is two units in JSON.
const HARMFUL: &str = "a\x1b[2J\u{9b}31m\x7f\u{202e}b\u{2066}\u{feff}\u{2028}\u{e0041}c";

#[test]
fn text_in_json_cannot_control_a_terminal_and_parses_back() {
    let sandbox = Sandbox::empty();
    let folder = sandbox.folder.path().join(HARMFUL);
    fs::create_dir(&folder).unwrap();
    let state = folder.join("state.db");
    let key = AgentKey::new(KEY).unwrap();
    let store = Store::open(&state, &key).unwrap();
    store.enqueue_job(HARMFUL, b"payload").unwrap();
    store.close().unwrap();
    let run = |args: &str| {
        let mut command = sandbox.command(args);
        let output = command.args([OsStr::new("--json"), OsStr::new("--state")]).arg(&state).output().unwrap();
        let out = String::from_utf8(output.stdout).unwrap();
        let body = out.strip_suffix('\n').unwrap();
        assert!(body.chars().all(|c| c == '\n' || (' '..='~').contains(&c)), "{args}: {out:?}");
        lines(body)
    };
    for args in ["dump-state", "queue list", "frames", "stats", "verify", "map", "anchor"] {
        assert_eq!(run(args)[0]["state"], state.to_str().unwrap(), "{args}");
    }
    assert_eq!(run("queue list")[0]["jobs"][0]["run_id"], HARMFUL);
    assert_eq!(run("frames")[0]["operations"][0]["run_id"], HARMFUL);
    let message = &run("backup /nowhere/at/all/copy.db")[0]["error"]["message"];
    assert!(message.as_str().unwrap().contains("/nowhere/at/all/copy.db"), "{message}");
    fs::write(&state, "no store").unwrap();
    assert!(run("stats")[0]["error"]["message"].as_str().unwrap().contains(HARMFUL));
}

#[test]
fn reports_have_the_fields_of_the_types_of_the_library() {
    let sandbox = Sandbox::filled();
    let key = AgentKey::new(KEY).unwrap();
    let mut stats = to_value(Snapshot::open(sandbox.state(), &key).unwrap().stats()).unwrap();
    // It differs from one moment to the next.
    stats.as_object_mut().unwrap().remove("disk_free_bytes");
    for command in ["stats", "health-check"] {
        assert_has_all_of(&sandbox.run(&format!("{command} --json")).json(), &stats);
    }
    let mut frames = Vec::new();
    let mut verified =
        to_value(verify_each(sandbox.state(), Some(&key), |frame| frames.push(to_value(frame).unwrap())).unwrap())
            .unwrap();
    verified["path"] = json!("[DIR]/state.db");
    for command in ["verify", "map"] {
        assert_has_all_of(&sandbox.run(&format!("{command} --json")).json(), &verified);
    }
    let listed = lines(&sandbox.run("frames --json").success());
    assert_eq!(listed.len(), frames.len());
    listed.iter().zip(&frames).for_each(|(line, frame)| assert_has_all_of(line, frame));
}

#[track_caller]
fn assert_has_all_of(report: &Value, fields: &Value) {
    for (name, value) in fields.as_object().unwrap() {
        assert_eq!(report.get(name), Some(value), "{name}: {report}");
    }
}

#[test]
fn a_drain_that_stops_at_an_unreadable_event_prints_one_object_before_it_removes_the_others() {
    let sandbox = crate::logs::with_an_unreadable_second_event();
    let report = sandbox.run("logs drain --allow-secrets --json").failed_json(3);
    assert_eq!((&report["drained"], &report["events"][0]["payload"]), (&json!(1), &json!("event")));
    assert_eq!(report["error"]["kind"], "damage");
    assert_eq!(sandbox.open().log_count(), 2);
}

#[test]
fn a_drain_whose_removal_fails_prints_the_failure_on_a_line_of_its_own() {
    let sandbox = Sandbox::filled();
    // In KiB. The frame of the removal would make the file longer.
    let limit = sandbox.bytes().len() / 1024;
    let program = Path::new(env!("CARGO_BIN_EXE_backupy-state")).display();
    let script = format!("trap '' XFSZ; ulimit -f {limit}; exec {program} logs drain --allow-secrets --json");
    let mut command = std::process::Command::new("bash");
    command.args(["-c", &script]).env("BACKUPY_STATE_DIR", sandbox.folder.path()).env("BACKUPY_AGENT_KEY", KEY);
    let outcome = sandbox.outcome(command.output().unwrap());
    assert!(outcome.failed(1).contains("ulimit -f"), "{outcome:?}");
    let reports = lines(&outcome.out);
    assert_eq!((reports.len(), &reports[0]["drained"]), (2, &json!(1)), "{outcome:?}");
    assert_eq!(reports[1]["error"]["kind"], "full");
}

#[test]
fn a_missing_command_is_a_failure_of_usage_and_names_no_hidden_one() {
    let sandbox = Sandbox::filled();
    for args in ["--json", "queue --json"] {
        let error = &sandbox.run(args).failed_json(2)["error"];
        assert_eq!(*error, json!({ "kind": "usage", "message": "a command is missing; see --help" }), "{args}");
    }
}
