//! `demo`, for one second. The unit tests of its ledger show that it detects losses.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use backupy_state::{AgentKey, OpenOptions, Store};

use crate::sandbox::{KEY, Sandbox};

#[test]
fn the_demo_loses_nothing_and_removes_its_folder() {
    let sandbox = Sandbox::empty();
    let outcome = sandbox
        .outcome(sandbox.keyless("demo --seconds 1").env("TMPDIR", sandbox.folder.path()).output().unwrap());
    let out = outcome.success();
    assert!(out.ends_with("\n  lost                0\n"), "{out}");
    assert!(out.contains(" records replayed in "), "{out}");
    assert_eq!(fs::read_dir(sandbox.folder.path()).unwrap().count(), 0);
}

#[test]
fn the_demo_as_json_has_kills_in_calls_of_every_kind() {
    let sandbox = Sandbox::empty();
    let folder = sandbox.folder.path().join("kept");
    let outcome = sandbox.run(&format!("demo --seconds 1 --seed 7 --json --dir {}", folder.display())).json();
    let number = |value: &serde_json::Value| value.as_u64().unwrap();
    assert_eq!(
        (&outcome["lost"], &outcome["losses"], &outcome["seed"]),
        (&0.into(), &Vec::<u8>::new().into(), &7.into())
    );
    assert!(number(&outcome["kills_during_a_call"]) >= 5, "{outcome}");
    assert_eq!(outcome["recoveries"].as_array().unwrap().len() as u64, number(&outcome["kills"]));
    assert!(
        number(&outcome["snapshots"]) > 0 && outcome["failed_snapshots"] == serde_json::json!([]),
        "{outcome}"
    );
    for (kind, count) in outcome["calls"].as_object().unwrap() {
        // The server orders these two only at times.
        let seldom = kind == "save_config" || kind == "compact";
        assert!(seldom || number(&count["acknowledged"]) > 0, "{outcome}");
    }
    assert!(number(&outcome["compactions"]) > 0, "{outcome}");
    assert!(number(&outcome["compactions_killed"]) <= number(&outcome["kills"]), "{outcome}");
    // A folder given by --dir is kept, and a demo refuses to start with a store in it.
    let again = sandbox.run(&format!("demo --seconds 1 --dir {}", folder.display()));
    assert!(again.failed(2).contains("/state.db already exists; it was not changed"), "{again:?}");
}

#[test]
fn the_help_of_the_demo_names_its_key_and_no_option_that_it_refuses() {
    let sandbox = Sandbox::empty();
    let help = sandbox.run("demo --help").success();
    assert!(help.contains("bkpy_demo_key_that_everybody_knows_0"), "{help}");
    let options = help.split_once("Options:").unwrap().1;
    assert!(options.contains("--json") && options.contains("--dir"), "{help}");
    assert!(!options.contains("--state") && !options.contains("--key-file"), "{help}");

    let folder = sandbox.folder.path().join("kept");
    sandbox.run(&format!("demo --seconds 1 --dir {}", folder.display())).success();
    let mut verify = sandbox.keyless("verify");
    verify.env("BACKUPY_STATE_DIR", &folder).env("BACKUPY_AGENT_KEY", "bkpy_demo_key_that_everybody_knows_0");
    sandbox.outcome(verify.output().unwrap()).success();
}

#[test]
fn the_demo_works_without_stdin() {
    let program = env!("CARGO_BIN_EXE_backupy-state");
    let script = r#"exec "$0" demo --seconds 1 --json <&-"#;
    let output = Command::new("sh").args(["-c", script, program]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn the_demo_does_not_change_another_store() {
    let sandbox = Sandbox::empty();
    Store::open(sandbox.state(), &AgentKey::new(KEY).unwrap()).unwrap().close().unwrap();
    let before = sandbox.bytes();
    let files = sandbox.files();
    sandbox.run(&format!("demo --dir {}", sandbox.folder.path().display())).failed(2);
    assert!(sandbox.bytes() == before);
    assert_eq!(sandbox.files(), files);
}

#[test]
fn an_agent_exits_when_its_demo_is_killed() {
    let sandbox = Sandbox::empty();
    let args = format!("demo --seconds 60 --dir {}", sandbox.folder.path().display());
    let mut demo = sandbox.command(&args).stdout(Stdio::null()).spawn().unwrap();
    // The lock file names the agent that holds the lock, or held it last.
    let agent_lives = || {
        let holder = fs::read_to_string(sandbox.folder.path().join("state.db.lock")).unwrap_or_default();
        !holder.is_empty() && Path::new("/proc").join(holder.trim()).exists()
    };
    while !agent_lives() {
        thread::sleep(Duration::from_millis(1));
    }
    demo.kill().unwrap();
    demo.wait().unwrap();

    let key = AgentKey::new("bkpy_demo_key_that_everybody_knows_0").unwrap();
    let opened = OpenOptions::new().lock_timeout(Duration::from_secs(10)).open(sandbox.state(), &key);
    assert!(opened.is_ok(), "{opened:?}");
}

#[test]
fn a_demo_that_cannot_start_all_of_its_threads_fails_with_the_reason() {
    // The demo and its agent have 9 threads, without that of a compaction, which a store does not need.
    for threads in 1..9 {
        let sandbox = Sandbox::empty();
        let Some(program) = sandbox.limited_to(threads) else { return };
        let line = format!("{program} demo --seconds 1 --dir {}/demo", sandbox.folder.path().display());
        let outcome = sandbox.outcome(Command::new("sh").args(["-c", &line]).output().unwrap());
        let why = outcome.failed(1);
        assert!(why.contains("could not start a thread") || why.contains("could not start the agent"), "{why}");
    }
}
