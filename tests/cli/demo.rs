//! The demo, for a second. That it finds losses is tested beside its ledger.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use backupy_state::{AgentKey, OpenOptions, Store};

use crate::place::{KEY, Place};

#[test]
fn the_demo_loses_nothing_and_leaves_nothing_behind() {
    let place = Place::empty();
    let said = place.said(place.keyless("demo --seconds 1").env("TMPDIR", place.folder.path()).output().unwrap());
    let out = said.well();
    assert!(out.ends_with("\n  lost                0\n"), "{out}");
    assert!(out.contains(" records replayed in "), "{out}");
    assert_eq!(fs::read_dir(place.folder.path()).unwrap().count(), 0);
}

#[test]
fn the_demo_as_json_has_kills_in_calls_of_every_kind() {
    let place = Place::empty();
    let folder = place.folder.path().join("kept");
    let said = place.run(&format!("demo --seconds 1 --seed 7 --json --dir {}", folder.display())).json();
    let number = |value: &serde_json::Value| value.as_u64().unwrap();
    assert_eq!((&said["lost"], &said["losses"], &said["seed"]), (&0.into(), &Vec::<u8>::new().into(), &7.into()));
    assert!(number(&said["kills_in_a_call"]) >= 5, "{said}");
    assert_eq!(said["recoveries"].as_array().unwrap().len() as u64, number(&said["kills"]));
    assert!(number(&said["snapshots"]) > 0 && said["failed_snapshots"] == serde_json::json!([]), "{said}");
    for (kind, count) in said["calls"].as_object().unwrap() {
        // These two the server orders, now and then.
        let seldom = kind == "save_config" || kind == "compact";
        assert!(seldom || number(&count["acknowledged"]) > 0, "{said}");
    }
    assert!(number(&said["compactions"]) > 0, "{said}");
    assert!(number(&said["compactions_killed"]) <= number(&said["kills"]), "{said}");
    // A folder that was asked for is kept, and a demo begins with no store.
    let again = place.run(&format!("demo --seconds 1 --dir {}", folder.display()));
    assert!(again.failed(1).contains("is the store of an earlier demo"), "{again:?}");
}

#[test]
fn the_demo_works_without_stdin() {
    let program = env!("CARGO_BIN_EXE_backupy-state");
    let script = r#"exec "$0" demo --seconds 1 --json <&-"#;
    let output = Command::new("sh").args(["-c", script, program]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn the_demo_does_not_touch_the_store_of_somebody_else() {
    let place = Place::empty();
    Store::open(place.state(), &AgentKey::new(KEY).unwrap()).unwrap().close().unwrap();
    let before = place.bytes();
    place.run(&format!("demo --dir {}", place.folder.path().display())).failed(4);
    assert!(place.bytes() == before);
}

#[test]
fn an_agent_whose_demo_is_gone_ends_too() {
    let place = Place::empty();
    let args = format!("demo --seconds 60 --dir {}", place.folder.path().display());
    let mut demo = place.command(&args).stdout(Stdio::null()).spawn().unwrap();
    // The lock file names the agent that holds the store, or held it last.
    let agent_lives = || {
        let holder = fs::read_to_string(place.folder.path().join("state.db.lock")).unwrap_or_default();
        !holder.is_empty() && Path::new("/proc").join(holder.trim()).exists()
    };
    while !agent_lives() {
        thread::sleep(Duration::from_millis(1));
    }
    demo.kill().unwrap();
    demo.wait().unwrap();

    let key = AgentKey::new("bkpy_demo_key_that_everybody_knows_0").unwrap();
    let opened = OpenOptions::new().lock_timeout(Duration::from_secs(10)).open(place.state(), &key);
    assert!(opened.is_ok(), "{opened:?}");
}
