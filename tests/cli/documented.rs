//! The JSON in `docs/command-line.md` is what the commands print.
//!
//! The examples are run in their order, on one store in a folder that stands for `/var/lib/backupy`. The output
//! must have the same fields, and the same values but for those that differ from run to run or from machine to
//! machine: of these, only the types are compared.

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;

use crate::help::commands;
use crate::rekey::NEW_KEY;
use crate::sandbox::{HEARTBEAT_MS, SERVER_TIME_MS, Sandbox};

const PAGE: &str = include_str!("../../docs/command-line.md");
const FOLDER: &str = "/var/lib/backupy";

/// Fields that depend on the time, on random numbers, or on the file system and how much it preallocates.
const VARYING: [&str; 11] = [
    "anchor",
    "cell_len",
    "cells",
    "disk_free_bytes",
    "file_len",
    "free",
    "free_bytes",
    "heartbeat_age_ms",
    "reserved_bytes",
    "svg_len",
    "took_us",
];

struct Example<'a> {
    /// The arguments, as on the page.
    args: &'a str,
    code: i32,
    json: &'a str,
}

fn examples() -> Vec<Example<'static>> {
    let (_, section) = PAGE.split_once("\n## JSON\n").unwrap();
    let section = section.split("\n## ").next().unwrap();
    let mut examples = Vec::new();
    for block in section.split("```sh\nbackupy-state ").skip(1) {
        let (command, rest) = block.split_once("\n```\n\n```json\n").expect(block);
        let (args, code) = match command.split_once("# exits with ") {
            Some((args, code)) => (args.trim_end(), code.parse().unwrap()),
            None => (command, 0),
        };
        examples.push(Example { args, code, json: rest.split("```").next().unwrap() });
    }
    examples
}

/// The store that the page begins with, and the files that its commands name.
fn sandbox() -> Sandbox {
    let sandbox = Sandbox::empty();
    let damaged = Sandbox::damaged(&[4]);
    let file = |name: &str| sandbox.folder.path().join(name);
    fs::write(file("damaged.db"), damaged.bytes()).unwrap();
    fs::write(file("config.bin"), "backup at 02:00").unwrap();
    fs::write(file("payload.bin"), "dump of orders").unwrap();
    fs::write(file("event.txt"), "restored by hand").unwrap();
    fs::copy(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/import_bolt/example.db"), file("state.bolt")).unwrap();
    sandbox.write_key_file("new.key", NEW_KEY);
    let store = sandbox.open();
    store.save_config(7, b"backup at 01:00").unwrap();
    store.save_session("a session", SERVER_TIME_MS).unwrap();
    store.record_heartbeat(HEARTBEAT_MS).unwrap();
    store.enqueue_job("run-0815", b"dump of orders").unwrap();
    store.buffer_log(HEARTBEAT_MS, b"backup begun").unwrap();
    store.close().unwrap();
    sandbox
}

#[test]
fn each_documented_report_is_what_the_command_prints() {
    let sandbox = sandbox();
    let folder = sandbox.folder.path().to_str().unwrap();
    for Example { args, code, json } in examples() {
        let mut command = sandbox.command(&args.replace(FOLDER, folder));
        let outcome = sandbox.outcome(command.current_dir(folder).output().unwrap());
        assert_eq!(outcome.code, Some(code), "{args}: {outcome:?}");
        // Of many lines, the page shows the first.
        let line = outcome.out.lines().next().expect(args).replace("[DIR]", FOLDER);
        let printed: Value = serde_json::from_str(&line).unwrap();
        let documented: Value = serde_json::from_str(json).expect(args);
        if let Some(differs) = difference(&documented, &printed, args.starts_with("demo ")) {
            panic!("{args}: {differs} differs from the page; it prints:\n{line}");
        }
    }
}

/// Where the two differ, if they do. With `shape`, only the names and types are compared.
fn difference(documented: &Value, printed: &Value, shape: bool) -> Option<String> {
    match (documented, printed) {
        (Value::Object(left), Value::Object(right)) => {
            if !left.keys().eq(right.keys()) {
                let names =
                    |object: &serde_json::Map<String, Value>| object.keys().cloned().collect::<BTreeSet<_>>();
                return Some(format!("one of {:?}", names(left).symmetric_difference(&names(right))));
            }
            let of_field = |(name, value): (&String, &Value)| {
                let differs = difference(value, &right[name], shape || VARYING.contains(&name.as_str()));
                differs.map(|rest| format!("{name}: {rest}"))
            };
            left.iter().find_map(of_field)
        }
        (Value::Array(left), Value::Array(right)) if !shape && left.len() != right.len() => {
            Some(format!("the length {}, now {},", left.len(), right.len()))
        }
        (Value::Array(left), Value::Array(right)) => {
            left.iter().zip(right).find_map(|(left, right)| difference(left, right, shape))
        }
        _ if documented == printed => None,
        // A system may not know a figure.
        _ if shape && (kind(documented) == kind(printed) || documented.is_null() || printed.is_null()) => None,
        _ => Some(format!("{documented}, now {printed},")),
    }
}

fn kind(value: &Value) -> u8 {
    match value {
        Value::Null => 0,
        Value::Bool(_) => 1,
        Value::Number(_) => 2,
        Value::String(_) => 3,
        Value::Array(_) => 4,
        Value::Object(_) => 5,
    }
}

#[test]
fn every_command_that_reports_has_a_documented_report() {
    let sandbox = Sandbox::empty();
    let all = commands(&sandbox, "");
    let is_group = |command: &str| all.iter().any(|other| other.starts_with(&format!("{command} ")));
    // What these print is no report.
    let without_report = ["completions", "man"];
    for command in all.iter().map(|command| command.trim()).filter(|command| !command.is_empty()) {
        if without_report.contains(&command) || (is_group(command) && command != "heartbeat") {
            continue;
        }
        let is_documented = examples().iter().any(|example| {
            let args =
                example.args.strip_prefix("--state ").map_or(example.args, |rest| rest.split_once(' ').unwrap().1);
            args == format!("{command} --json")
                || args.starts_with(&format!("{command} ")) && args.ends_with("--json")
        });
        assert!(is_documented, "docs/command-line.md has no JSON of `{command}`");
    }
    assert!(examples().len() >= 25);
}

#[test]
fn a_difference_from_the_page_is_found() {
    let value = |json: &str| serde_json::from_str::<Value>(json).unwrap();
    let page = value(r#"{"a":1,"took_us":5,"list":[{"b":"c"}]}"#);
    assert_eq!(difference(&page, &value(r#"{"a":1,"took_us":7,"list":[{"b":"c"}]}"#), false), None);
    for other in [
        r#"{"a":2,"took_us":5,"list":[{"b":"c"}]}"#,
        r#"{"a":1,"took_us":"5","list":[{"b":"c"}]}"#,
        r#"{"a":1,"took_us":5,"list":[{"b":"d"}]}"#,
        r#"{"a":1,"took_us":5,"list":[]}"#,
        r#"{"a":1,"took_us":5,"list":[{"b":"c"}],"more":1}"#,
        r#"{"a":1,"list":[{"b":"c"}]}"#,
    ] {
        assert!(difference(&page, &value(other), false).is_some(), "{other}");
    }
}
