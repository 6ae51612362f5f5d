//! Every exit code of the list, provoked.

use std::fs;
use std::fs::File;

use backupy_state::{AgentKey, Store};

use crate::place::{LOOKS, Place, WRITES, crc32};

/// The commands that need a key and have no exit codes of their own.
const STRICT_LOOKS: [&str; 13] = [
    "dump-state",
    "verify",
    "stats",
    "frames",
    "map",
    "config get",
    "queue list",
    "queue show run-1",
    "logs peek",
    "logs list",
    "session",
    "heartbeat",
    "anchor",
];

#[track_caller]
fn every_look_fails_with(place: &Place, code: i32, words: &str) {
    for look in STRICT_LOOKS {
        let said = place.run(look);
        assert!(said.failed(code).contains(words), "{look}: {said:?}");
    }
    every_write_fails_with(place, code, words);
    every_health_check_fails(place, words);
}

/// And leaves what is there as it is.
#[track_caller]
fn every_write_fails_with(place: &Place, code: i32, words: &str) {
    let before = fs::read(place.state()).ok();
    for (write, stdin) in WRITES {
        let said = place.fed(write, stdin.as_bytes());
        assert!(said.failed(code).contains(words) && said.out.is_empty(), "{write}: {said:?}");
    }
    assert!(fs::read(place.state()).ok() == before, "a write that failed has changed the file");
}

#[track_caller]
fn every_health_check_fails(place: &Place, words: &str) {
    let said = place.run("health-check");
    assert!(said.failed(1).contains(words) && said.out.is_empty(), "{said:?}");
    let said = place.run("health-check --json");
    let report: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!((said.code, &report["healthy"]), (Some(1), &false.into()));
    assert!(report["reason"].as_str().unwrap().contains(words), "{report}");
}

#[test]
fn code_0_is_well() {
    let place = Place::filled();
    for look in LOOKS {
        place.run(look).well();
        place.run(&format!("{look} --json")).well();
    }
    for look in ["--help", "--version", "help verify", "demo --help", "frames -h"] {
        assert!(!place.run(look).well().is_empty());
    }
}

#[test]
fn code_1_is_a_failure() {
    let place = Place::filled();
    let said = place.run("verify --key-file /nowhere/agent.key");
    assert!(said.failed(1).contains("/nowhere/agent.key"), "{said:?}");
    let full = File::create("/dev/full").unwrap();
    let said = place.said(place.command("verify").stdout(full).output().unwrap());
    assert!(said.failed(1).starts_with("could not write the output: "), "{said:?}");
}

#[test]
fn code_2_is_a_wrong_use() {
    let place = Place::filled();
    let wrong = ["", "compress", "verify --fast", "stats extra", "demo --seconds 0", "verify --key secret"];
    let wrong_too =
        ["queue", "queue peek", "logs", "logs peek --limit x", "backup", "head --expect x", "rekey secret"];
    let wrong_data = [
        "config",
        "config set -",
        "config get --raw",
        "config get --raw --allow-secrets --json",
        "queue show",
        "queue show run-1 --raw",
        "queue enqueue run-9",
        "logs drain",
        "logs drain --discard --allow-secrets",
        "logs add",
        "heartbeat record --at now",
        "map --svg",
        "completions",
        "completions tcsh",
    ];
    for wrong in wrong.into_iter().chain(wrong_too).chain(wrong_data) {
        assert_eq!(place.run(wrong).code, Some(2), "{wrong}");
        assert_eq!(place.run(wrong).out, "", "{wrong}");
    }
    place.run("demo --state x").failed(2);
    let said = place.run("verify --jsn");
    let expected = "unexpected argument '--jsn' found; tip: a similar argument exists: '--json'; see --help";
    assert_eq!(said.failed(2), expected);
    for look in STRICT_LOOKS {
        let said = place.said(place.keyless(look).output().unwrap());
        assert!(said.failed(2).contains("BACKUPY_AGENT_KEY"), "{said:?}");
    }
    let said = place.said(place.command("stats --state").arg("").output().unwrap());
    assert!(said.failed(2).contains("--state <PATH>"), "{said:?}");
}

#[test]
fn code_3_is_damage_or_tampering() {
    let place = Place::filled();
    let whole = place.bytes();
    let mut bytes = whole.clone();
    bytes[4096 + 60] ^= 1;
    place.write(&bytes);
    every_look_fails_with(&place, 3, "at offset 4096");
    let said = place.run("verify");
    assert!(said.out.contains("intact      no\n"), "{said:?}");
    assert!(said.out.contains("damage      at offset 4096: the frame's body does not check\n"), "{said:?}");

    // One copy of the header is enough to read the store, but it is not as it was written.
    bytes = whole.clone();
    bytes[2048 + 30] ^= 1;
    place.write(&bytes);
    assert!(place.run("verify").out.contains("header      at offset 2048"));
    assert_eq!(place.run("verify --json").code, Some(3));
    place.run("stats").well();

    bytes[30] ^= 1;
    place.write(&bytes);
    every_look_fails_with(&place, 3, "at offset 0");
}

#[test]
fn code_4_is_the_wrong_key() {
    let place = Place::empty();
    Store::open(place.state(), &AgentKey::new("another key").unwrap()).unwrap().close().unwrap();
    every_look_fails_with(&place, 4, "another agent key");
    place.run("verify --no-key").well();
}

#[test]
fn code_5_is_locked() {
    let place = Place::empty();
    let _store = place.open();
    let said = place.run(&format!("demo --dir {}", place.folder.path().display()));
    let holder = format!("is in use by process {}", std::process::id());
    assert!(said.failed(5).contains(&holder), "{said:?}");
    for (write, stdin) in WRITES {
        let said = place.fed(&format!("{write} --lock-timeout 0"), stdin.as_bytes());
        assert!(said.failed(5).contains(&holder), "{write}: {said:?}");
    }
}

#[test]
fn code_6_is_not_found() {
    let place = Place::empty();
    every_look_fails_with(&place, 6, "there is no store at [DIR]/state.db");
    assert_eq!(
        fs::read_dir(place.folder.path()).unwrap().count(),
        0,
        "a look or a write has left something behind"
    );
    place.run("verify --state /nowhere/at/all/state.db").failed(6);
}

#[test]
fn code_7_is_not_a_store_or_a_newer_one() {
    let place = Place::filled();
    let mut newer = place.bytes();
    for copy in [0, 2048] {
        newer[copy + 12] = 2;
        let crc = crc32(&[&newer[copy..copy + 112]]);
        newer[copy + 112..copy + 116].copy_from_slice(&crc);
    }
    place.write(&newer);
    every_look_fails_with(&place, 7, "was written by a newer version of this crate (format 2,");
    place.write(b"To do: milk, bread\n");
    every_look_fails_with(&place, 7, "is not a store but");
    place.run(&format!("stats --state {}", place.folder.path().display())).failed(7);
}

#[test]
fn health_check_knows_only_0_and_1() {
    let place = Place::filled();
    for wrong in ["health-check --fast", "health-check extra", "--state x health-check --max-heartbeat-age x"] {
        let said = place.run(wrong);
        assert_eq!(said.code, Some(1), "{said:?}");
        assert!(said.err.starts_with("backupy-state: "), "{said:?}");
    }
    place.said(place.keyless("health-check").output().unwrap()).failed(1);
    // Elsewhere the words mean something else.
    assert_eq!(place.run("verify health-check").code, Some(2));
    assert_eq!(place.run("--state health-check verify --fast").code, Some(2));
}

#[test]
fn health_check_fails_for_a_heartbeat_that_is_too_far_off() {
    let now_ms = || {
        let since = std::time::UNIX_EPOCH.elapsed().unwrap();
        i64::try_from(since.as_millis()).unwrap()
    };
    let place = Place::empty();
    let store = place.open();
    assert!(place.run("health-check --max-heartbeat-age 60").failed(1).contains("no heartbeat"));
    store.record_heartbeat(now_ms()).unwrap();
    place.run("health-check --max-heartbeat-age 3600").well();
    store.record_heartbeat(now_ms() - 7_200_500).unwrap();
    let said = place.run("health-check --max-heartbeat-age 3600");
    assert!(said.failed(1).contains("the last heartbeat was 2 h ago"), "{said:?}");
    place.run("health-check").well();
    store.record_heartbeat(now_ms() + 3_600_000).unwrap();
    let said = place.run("health-check --max-heartbeat-age 60");
    assert!(said.failed(1).contains("ahead of this clock"), "{said:?}");
}
