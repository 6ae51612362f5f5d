//! `health-check`: its report, its exit codes and the limit for the heartbeat.

use serde_json::Value;

use crate::sandbox::{MOUNTED, Sandbox};

#[test]
fn health_check_prints_one_line() {
    let out = Sandbox::filled().run("health-check").success();
    assert_eq!(out, "ok: 2 jobs, 1 log event, last heartbeat 2023-11-14 22:14:20.000 UTC ([AGE])\n");
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
    assert_eq!(sandbox.run("health-check --json").json()["compaction_unavailable"], Value::Null);
    let Some(outcome) = sandbox.run_mounted("health-check") else { return };
    assert_eq!(outcome.success(), format!("{}; {MOUNTED}\n", healthy.trim_end()));
    let report = sandbox.run_mounted("health-check --json").unwrap().json();
    assert_eq!(report["healthy"], true);
    assert!(MOUNTED.ends_with(report["compaction_unavailable"].as_str().unwrap()), "{report}");
}
