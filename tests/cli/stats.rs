//! `stats`: sizes, drops and compactions.

use serde_json::json;

use crate::logs::sandbox_with_drops;
use crate::sandbox::{MOUNTED, Sandbox};

#[test]
fn the_parts_in_stats_add_up_to_the_file() {
    let sandbox = Sandbox::filled();
    let outcome = sandbox.run("stats --json").json();
    let number = |name: &str| outcome[name].as_u64().unwrap();
    assert_eq!(number("file_len"), sandbox.bytes().len() as u64);
    assert_eq!(number("log_len"), 8192 + number("live_bytes") + number("dead_bytes"));
    assert_eq!((number("jobs"), number("log_events"), number("seq")), (2, 1, 11));

    let out = sandbox.run("stats").success();
    let bar = out.lines().last().unwrap().trim();
    let count = |symbol| bar.chars().filter(|c| *c == symbol).count() as u64;
    assert_eq!(bar.len(), 52, "{bar}");
    assert_eq!((count('#') + count('x'), count('.')), (50, 0), "{bar}");
    let (live, dead) = (number("live_bytes"), number("dead_bytes"));
    assert!(count('#').abs_diff(50 * live / (live + dead)) <= 1, "{bar}");
}

#[test]
fn stats_counts_drops_and_compactions() {
    let sandbox = sandbox_with_drops();
    let outcome = sandbox.run("stats --json").json();
    assert_eq!((&outcome["logs_dropped"], &outcome["compactions"]), (&json!(2), &json!(0)));
    let number = |name: &str| outcome[name].as_f64().unwrap();
    assert_eq!(number("dead_ratio"), number("dead_bytes") / (number("dead_bytes") + number("live_bytes")));
    sandbox.run("compact").success();
    sandbox.run("compact").success();
    let out = sandbox.run("stats").success();
    assert!(
        out.contains("log events  3; 2 dropped; the oldest 1970-01-01 00:00:00.00")
            && out.contains("\ncompactions 2; "),
        "{out}"
    );
}

#[test]
fn stats_says_where_the_log_cannot_be_compacted() {
    let sandbox = Sandbox::filled();
    assert_eq!(sandbox.run("stats --json").json()["compaction"]["unavailable"], json!(null));
    assert!(!sandbox.run("stats").success().contains("unavailable"));
    let Some(outcome) = sandbox.run_mounted("stats --json") else { return };
    let reason = outcome.json()["compaction"]["unavailable"].as_str().unwrap().to_owned();
    assert!(MOUNTED.ends_with(&reason), "{reason}");
    let out = sandbox.run_mounted("stats").unwrap().success();
    assert!(out.contains(&format!("\nwarning     {MOUNTED}\n")), "{out}");
}
