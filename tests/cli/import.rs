//! `import`: what it brings over and says of it, and that it leaves alone what it must.

use std::fs::{self, File};
use std::path::PathBuf;

use backupy_state::{AgentKey, Store};
use serde_json::json;

use crate::bolt::{Agent, LEAF, Pages, bucket, inline, value};
use crate::place::{KEY, Place};

fn agent() -> Agent {
    Agent {
        config: Some((168, b"the raw configuration".to_vec())),
        session: Some(("session-of-a-secret-kind".to_owned(), 1_700_000_000_123)),
        heartbeat: Some(1_700_000_060_000),
        jobs: (0..3).map(|i| (format!("run-{i}"), b"a payload that nobody may see".to_vec())).collect(),
        logs: vec![(5, 0, b"an event".to_vec())],
    }
}

impl Place {
    fn with_bolt(bytes: &[u8]) -> Self {
        let place = Place::empty();
        fs::write(place.bolt(), bytes).unwrap();
        place
    }

    fn bolt(&self) -> PathBuf {
        self.folder.path().join("old.db")
    }

    fn import(&self) -> String {
        format!("import {}", self.bolt().display())
    }
}

#[test]
fn import_makes_a_store_and_says_what_came_over() {
    let file = agent().file(KEY.as_bytes(), 4096, 2);
    let place = Place::with_bolt(&file);
    let out = place.run(&place.import()).well();
    let expected = "state       [DIR]/state.db\nfrom        [DIR]/old.db\nconfig      version 168\nsession     yes\n\
                    heartbeat   2023-11-14 22:14:20.000 UTC\njobs        3\nlog events  1\n";
    assert_eq!(out, expected);
    assert!(fs::read(place.bolt()).unwrap() == file);
    let dump = place.run("dump-state --allow-secrets").well();
    for held in ["the raw configuration", "session-of-a-secret-kind", "run-2", "a payload that nobody may see"] {
        assert!(dump.contains(held), "{held}: {dump}");
    }
    place.run("verify").well();

    // Again: nothing is there twice.
    let before = place.bytes();
    let out = place.run(&place.import()).well();
    assert_eq!(out, format!("{expected}of these    4 had been there\n"));
    let said = place.run(&format!("{} --json", place.import())).json();
    assert_eq!(
        said,
        json!({
            "state": "[DIR]/state.db", "from": "[DIR]/old.db", "config_version": 168, "session": true,
            "last_heartbeat_ms": 1_700_000_060_000_i64, "jobs": 3, "log_events": 1, "log_events_dropped": 0,
            "already_there": 4, "left_out": [], "meta_page_damaged": false,
        })
    );
    assert!(place.bytes() == before);
}

#[test]
fn import_tells_what_stays_behind_and_what_may_be_missing() {
    let mut pages = Pages::new(512);
    let mut buckets = Agent::default().buckets(KEY.as_bytes(), &mut pages, 4);
    buckets.push(bucket(b"z\x1b[2J", inline(&[value(b"a", b"b")])));
    let root = pages.add(LEAF, &buckets);
    let mut file = pages.finish(root);
    file[20] ^= 1;
    let place = Place::with_bolt(&file);
    let out = place.run(&place.import()).well();
    let expected = "config      none\nsession     none\nheartbeat   none\njobs        0\nlog events  0\n\
                    left out    1 key of bucket z\\u{1b}[2J\n\
                    note        one of the two meta pages does not check: this is the state of the transaction before\n";
    assert!(out.ends_with(expected), "{out}");
}

#[test]
fn log_events_beyond_the_limits_of_an_agent_all_come_over() {
    let logs = (0..100_010).map(|i| (i, i, Vec::new())).collect();
    let place = Place::with_bolt(&Agent { logs, ..Agent::default() }.file(KEY.as_bytes(), 65536, 500));
    let said = place.run(&format!("{} --json", place.import())).json();
    assert_eq!((&said["log_events"], &said["log_events_dropped"]), (&100_010.into(), &0.into()));
    assert_eq!(place.run("stats --json").json()["log_events"], 100_010);
}

#[test]
fn a_file_that_cannot_come_over_makes_no_store() {
    let whole = agent().file(KEY.as_bytes(), 4096, 2);
    let foreign = agent().file(b"another", 4096, 2);
    let mut damaged = whole.clone();
    damaged[3 * 4096] ^= 1;
    for (bytes, code, words) in [
        (damaged, 3, "is damaged at offset"),
        (foreign, 4, "was written under another agent key"),
        (b"To do: milk, bread\n".to_vec(), 7, "a file of another kind, and no bbolt file either"),
        (Place::filled().bytes(), 2, "is a store already"),
    ] {
        let place = Place::with_bolt(&bytes);
        let said = place.run(&place.import());
        assert!(said.failed(code).contains(words), "{said:?}");
        assert!(!place.state().exists());
        assert!(fs::read(place.bolt()).unwrap() == bytes);
    }
    let place = Place::empty();
    place.run(&place.import()).failed(6);
    place.run("import").failed(2);
    assert!(place.said(place.keyless(&place.import()).output().unwrap()).failed(2).contains("BACKUPY_AGENT_KEY"));
    assert_eq!(fs::read_dir(place.folder.path()).unwrap().count(), 0);

    let place = Place::with_bolt(&whole);
    let agents = File::open(place.bolt()).unwrap();
    fs2::FileExt::lock_exclusive(&agents).unwrap();
    assert!(place.run(&place.import()).failed(5).contains("stop the agent that writes to it"));
    assert!(!place.state().exists());
}

#[test]
fn a_store_with_a_state_of_its_own_is_left_alone() {
    let place = Place::filled();
    fs::write(place.bolt(), agent().file(KEY.as_bytes(), 4096, 2)).unwrap();
    let before = place.run("dump-state --allow-secrets").well();
    assert!(place.run(&place.import()).failed(2).contains("holds a state of its own"));
    assert_eq!(place.run("dump-state --allow-secrets").well(), before);

    let store = place.open();
    place.run(&format!("{} --lock-timeout 0", place.import())).failed(5);
    store.close().unwrap();

    fs::remove_file(place.state()).unwrap();
    Store::open(place.state(), &AgentKey::new("another").unwrap()).unwrap().close().unwrap();
    place.run(&place.import()).failed(4);
}

#[test]
fn a_bbolt_file_in_the_place_of_the_store_is_told_how_to_go_on() {
    let file = agent().file(KEY.as_bytes(), 4096, 2);
    let place = Place::with_bolt(&file);
    fs::rename(place.bolt(), place.state()).unwrap();
    let said = place.run("verify");
    assert!(said.failed(7).contains("a bbolt file, which `backupy-state import FILE`"), "{said:?}");
    let said = place.run(&format!("import {}", place.state().display()));
    assert!(said.failed(2).contains("give the bbolt file another name"), "{said:?}");
    assert!(place.bytes() == file);
    fs::rename(place.state(), place.bolt()).unwrap();
    place.run(&place.import()).well();
}
