//! `health-check`: its report, its exit codes and the limit for the heartbeat.

use serde_json::Value;

use crate::sandbox::{MOUNTED, Sandbox};

#[test]
fn health_check_prints_one_line() {
    let out = without_disk(&Sandbox::filled().run("health-check").success());
    let expected = "ok: 2 jobs (37 bytes), 1 log event (0 dropped), last heartbeat 2023-11-14 22:14:20.000 UTC \
                    ([AGE]), N bytes of the disk free, reserve for 0 acks\n";
    assert_eq!(out, expected);
}

/// The line with `N` for the number that differs from disk to disk.
fn without_disk(line: &str) -> String {
    let (before, after) = line.split_once(" bytes of the disk").unwrap();
    let before = before.trim_end_matches(|digit: char| digit.is_ascii_digit() || digit == ',');
    format!("{before}N bytes of the disk{after}")
}

/// A store whose count of dropped log events fails authentication.
pub(crate) fn sandbox_with_unreadable_drops() -> Sandbox {
    let sandbox = crate::logs::sandbox_with_drops();
    // The last frame is the close frame, and the one before has the count.
    let frames = sandbox.run("frames --json").out.lines().count();
    sandbox.tamper_with_frame(frames - 1);
    sandbox
}

#[test]
fn health_check_with_a_limit_of_drops_fails_if_their_count_is_unreadable() {
    let sandbox = sandbox_with_unreadable_drops();
    sandbox.run("health-check").success();
    let message = "the count of dropped log events is unreadable; `backupy-state verify` reports why, \
                   `backupy-state compact` removes it";
    assert_eq!(sandbox.run("health-check --max-dropped 0").failed(1), message);
    sandbox.run("logs list").success();
    let out = sandbox.run("compact").success();
    assert!(out.contains("\nleft out    the count of dropped log events\n"), "{out}");
    sandbox.run("health-check --max-dropped 0").success();
    assert!(sandbox.run("health-check").success().contains("3 log events (0 dropped)"));
    assert!(!sandbox.run("compact").success().contains("left out"));
}

#[test]
fn an_unreadable_count_of_drops_is_shown_as_unreadable_and_not_as_a_number() {
    let sandbox = sandbox_with_unreadable_drops();
    let shown = |args: &str| sandbox.run(args).success();
    assert!(shown("health-check").contains("3 log events (an unreadable number dropped)"));
    assert!(shown("stats").contains("\nlog events  3; an unreadable number dropped; the oldest"));
    assert!(!shown("stats --format prometheus").contains("dropped"));
    for list in ["logs peek", "logs list"] {
        assert!(shown(list).contains("\ndropped     unreadable\n"), "{list}");
        assert_eq!(sandbox.run(&format!("{list} --json")).json()["dropped"], Value::Null);
    }
    for (stats, count) in [("stats --json", 23), ("health-check --json", 24)] {
        let report = sandbox.run(stats).json();
        assert_eq!(report["logs_dropped"], Value::Null, "{stats}");
        assert!(report.as_object().unwrap().len() >= count && report["log_events"] == 3, "{report}");
    }
    let drained = sandbox.run("logs drain --allow-secrets --json").json();
    assert_eq!((&drained["dropped"], &drained["drained"]), (&Value::Null, &3.into()));

    let sandbox = sandbox_with_unreadable_drops();
    assert!(sandbox.run("logs drain --discard").success().contains("\ndropped     unreadable\n"));
}

#[test]
fn a_change_of_the_key_names_what_it_left_out() {
    let sandbox = sandbox_with_unreadable_drops();
    let new_key = sandbox.write_key_file("new.key", "another-key");
    let out = sandbox.run(&format!("rekey --new-key-file {new_key}")).success();
    assert!(out.contains("\nleft out    the count of dropped log events\n"), "{out}");
}

#[test]
fn health_check_fails_over_each_limit_and_names_all_that_are_passed() {
    let sandbox = crate::logs::sandbox_with_drops();
    let store = sandbox.open();
    store.enqueue_job("run-1", b"payload").unwrap();
    store.enqueue_job("run-2", b"payload").unwrap();
    let within = "health-check --max-queue 2 --max-dropped 2 --min-free 1";
    assert!(sandbox.run(within).success().ends_with("reserve for 2 acks\n"));
    let report = sandbox.run("health-check --json").json();
    assert_eq!(
        (&report["jobs"], &report["queue_bytes"], &report["acks_on_full_disk"]),
        (&2.into(), &14.into(), &2.into())
    );
    assert!(
        report["reserved_bytes"].as_u64().unwrap() > 65_536 && report["disk_free_bytes"].as_u64().unwrap() > 0
    );
    let over = "health-check --max-queue 1 --max-dropped 1 --min-free 18446744073709551615";
    let message = sandbox.run(over).failed(1).to_owned();
    assert!(
        message.contains("2 jobs in the queue; the limit is 1; 2 log events dropped; the limit is 1; "),
        "{message}"
    );
    assert!(message.contains(" bytes of the disk are free; the limit is 18446744073709551615"), "{message}");
    for one in ["--max-queue 1", "--max-dropped 1", "--min-free 18446744073709551615"] {
        let message = sandbox.run(&format!("health-check {one}")).failed(1).to_owned();
        assert_eq!(message.matches("the limit is").count(), 1, "{message}");
    }
}

#[test]
fn health_check_exits_with_0_or_1_only() {
    let sandbox = Sandbox::filled();
    for wrong in ["health-check --fast", "health-check extra", "--state x health-check --max-heartbeat-age x"] {
        let outcome = sandbox.run(wrong);
        assert_eq!(outcome.code, Some(1), "{outcome:?}");
        assert!(outcome.err.starts_with("backupy-state: "), "{outcome:?}");
    }
    sandbox.outcome(sandbox.keyless("health-check").output().unwrap()).failed(1);
    // `health-check` as an argument of another command or option is not the command.
    assert_eq!(sandbox.run("verify health-check").code, Some(2));
    assert_eq!(sandbox.run("--state health-check verify --fast").code, Some(2));
}

#[test]
fn health_check_fails_if_the_heartbeat_is_too_old_or_too_far_ahead() {
    let now_ms = || {
        let since = std::time::UNIX_EPOCH.elapsed().unwrap();
        i64::try_from(since.as_millis()).unwrap()
    };
    let sandbox = Sandbox::empty();
    let store = sandbox.open();
    assert!(sandbox.run("health-check --max-heartbeat-age 60").failed(1).contains("no heartbeat"));
    store.record_heartbeat(now_ms()).unwrap();
    sandbox.run("health-check --max-heartbeat-age 3600").success();
    store.record_heartbeat(now_ms() - 7_200_500).unwrap();
    let outcome = sandbox.run("health-check --max-heartbeat-age 3600");
    assert!(outcome.failed(1).contains("the last heartbeat was 2 h ago"), "{outcome:?}");
    sandbox.run("health-check").success();
    store.record_heartbeat(now_ms() + 3_600_000).unwrap();
    let outcome = sandbox.run("health-check --max-heartbeat-age 60");
    assert!(outcome.failed(1).contains("ahead of this clock"), "{outcome:?}");
}

#[test]
fn health_check_says_where_the_log_cannot_be_compacted_and_exits_with_0() {
    let sandbox = Sandbox::filled();
    let healthy = sandbox.run("health-check").success();
    assert_eq!(sandbox.run("health-check --json").json()["compaction"]["unavailable"], Value::Null);
    let Some(outcome) = sandbox.run_mounted("health-check") else { return };
    let expected = format!("{}; {MOUNTED}\n", without_disk(&healthy).trim_end());
    assert_eq!(without_disk(&outcome.success()), expected);
    let report = sandbox.run_mounted("health-check --json").unwrap().json();
    assert_eq!(report["healthy"], true);
    assert!(MOUNTED.ends_with(report["compaction"]["unavailable"].as_str().unwrap()), "{report}");
}
