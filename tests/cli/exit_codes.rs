//! Every exit code, from every command that can end with it.

use std::fs;
use std::fs::File;

use backupy_state::{AgentKey, Store};

use crate::sandbox::{READS, Sandbox, WRITES, crc32};

/// The reading commands that need a key, without `health-check`, which has its own exit codes.
const STRICT_READS: [&str; 13] = [
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
fn every_read_fails_with(sandbox: &Sandbox, code: i32, words: &str) {
    for read in STRICT_READS {
        let outcome = sandbox.run(read);
        assert!(outcome.failed(code).contains(words), "{read}: {outcome:?}");
    }
    every_write_fails_with(sandbox, code, words);
    every_health_check_fails(sandbox, words);
}

/// Asserts also that the file is unchanged.
#[track_caller]
fn every_write_fails_with(sandbox: &Sandbox, code: i32, words: &str) {
    let before = fs::read(sandbox.state()).ok();
    for (write, stdin) in WRITES {
        let outcome = sandbox.fed(write, stdin.as_bytes());
        assert!(outcome.failed(code).contains(words) && outcome.out.is_empty(), "{write}: {outcome:?}");
    }
    assert!(fs::read(sandbox.state()).ok() == before, "a failed write has changed the file");
}

#[track_caller]
fn every_health_check_fails(sandbox: &Sandbox, words: &str) {
    let outcome = sandbox.run("health-check");
    assert!(outcome.failed(1).contains(words) && outcome.out.is_empty(), "{outcome:?}");
    let outcome = sandbox.run("health-check --json");
    let report = outcome.failed_json(1);
    assert_eq!((&report["state"], &report["healthy"]), (&"[DIR]/state.db".into(), &false.into()));
    assert!(report["error"]["message"].as_str().unwrap().contains(words), "{report}");
}

#[test]
fn code_0_is_success() {
    let sandbox = Sandbox::filled();
    for read in READS {
        sandbox.run(read).success();
        sandbox.run(&format!("{read} --json")).success();
    }
    for read in ["--help", "--version", "help verify", "demo --help", "frames -h"] {
        assert!(!sandbox.run(read).success().is_empty());
    }
}

#[test]
fn code_1_is_failure() {
    let sandbox = Sandbox::filled();
    let full = File::create("/dev/full").unwrap();
    let outcome = sandbox.outcome(sandbox.command("verify").stdout(full).output().unwrap());
    assert!(outcome.failed(1).starts_with("could not write the output: "), "{outcome:?}");
}

#[test]
fn code_2_is_usage() {
    let sandbox = Sandbox::filled();
    let wrong = ["", "compress", "verify --fast", "stats extra", "demo --seconds 0", "verify --key secret"];
    let wrong_too =
        ["queue", "queue peek", "logs", "logs peek --limit x", "backup", "anchor --expect x", "rekey secret"];
    let wrong_data = [
        "config",
        "config set -",
        "config get --raw",
        "stats --format xml",
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
        assert_eq!(sandbox.run(wrong).code, Some(2), "{wrong}");
        assert_eq!(sandbox.run(wrong).out, "", "{wrong}");
    }
    for demo in ["demo --state x", "--state x demo", "demo --key-file x", "--key-file x demo"] {
        let outcome = sandbox.run(demo);
        assert!(outcome.failed(2).contains("uses a store and a key of its own"), "{demo}: {outcome:?}");
    }
    let outcome = sandbox.run("verify --jsn");
    let expected = "unexpected argument '--jsn' found; tip: a similar argument exists: '--json'; see --help";
    assert_eq!(outcome.failed(2), expected);
    for read in STRICT_READS {
        let outcome = sandbox.outcome(sandbox.keyless(read).output().unwrap());
        assert!(outcome.failed(2).contains("BACKUPY_AGENT_KEY"), "{outcome:?}");
    }
    let outcome = sandbox.outcome(sandbox.command("stats --state").arg("").output().unwrap());
    assert!(outcome.failed(2).contains("--state <PATH>"), "{outcome:?}");
}

#[test]
fn code_2_is_a_key_file_that_cannot_be_read() {
    let sandbox = Sandbox::filled();
    let folder = sandbox.folder.path().display().to_string();
    for key_file in ["/nowhere/agent.key", &folder] {
        let option = format!("--key-file {key_file}");
        for read in STRICT_READS {
            let outcome = sandbox.run(&format!("{read} {option}"));
            assert!(
                outcome.failed(2).contains(&format!("could not read the key file {}", shown(key_file))),
                "{outcome:?}"
            );
        }
        every_other_command_fails_with_2(&sandbox, &option);
        sandbox.run(&format!("rekey --new-key-file {key_file}")).failed(2);
        sandbox.run(&format!("health-check {option}")).failed(1);
    }
}

fn shown(path: &str) -> &str {
    if path.starts_with("/nowhere") { path } else { "[DIR]" }
}

#[track_caller]
fn every_other_command_fails_with_2(sandbox: &Sandbox, option: &str) {
    let files = sandbox.files();
    for (write, stdin) in WRITES {
        sandbox.fed(&format!("{write} {option}"), stdin.as_bytes()).failed(2);
    }
    for other in ["init", "compact", "rekey", "backup [DIR]/c.db", "salvage [DIR]/c.db", "import [DIR]/x.db"] {
        sandbox.run(&format!("{} {option}", sandbox.maintenance(other))).failed(2);
    }
    assert_eq!(sandbox.files(), files);
}

#[test]
fn code_2_is_a_target_that_exists() {
    let sandbox = Sandbox::filled();
    let target = sandbox.folder.path().join("target.db");
    fs::write(&target, "another file").unwrap();
    fs::create_dir(sandbox.folder.path().join("demo")).unwrap();
    fs::write(sandbox.folder.path().join("demo/state.db"), "another file").unwrap();
    let (before, target_option) = (sandbox.bytes(), "--state [DIR]/target.db");
    for command in [
        "backup [DIR]/target",
        "backup [DIR]/target.db",
        "salvage [DIR]/target",
        "map --svg [DIR]/target.db",
        "demo --seconds 1 --dir [DIR]/demo",
        "init",
        &format!("init {target_option}"),
    ] {
        let outcome = sandbox.run(&sandbox.maintenance(command));
        assert!(outcome.failed(2).contains("already exists; it was not changed"), "{command}: {outcome:?}");
        assert_eq!(fs::read(&target).unwrap(), b"another file", "{command}");
    }
    assert!(sandbox.bytes() == before);
    assert_eq!(fs::read_dir(sandbox.folder.path().join("demo")).unwrap().count(), 1);
}

#[test]
fn code_3_is_damage_or_tampering() {
    let sandbox = Sandbox::filled();
    let whole = sandbox.bytes();
    let mut bytes = whole.clone();
    bytes[8192 + 60] ^= 1;
    sandbox.write(&bytes);
    every_read_fails_with(&sandbox, 3, "at offset 8192");
    let outcome = sandbox.run("verify");
    assert!(outcome.out.contains("intact      no\n"), "{outcome:?}");
    assert!(
        outcome.out.contains("damage      at offset 8192: the frame's body does not match its CRC\n"),
        "{outcome:?}"
    );

    // One copy of the header is enough to read the store, but `verify` reports the damaged one.
    bytes = whole.clone();
    bytes[2048 + 30] ^= 1;
    sandbox.write(&bytes);
    assert!(sandbox.run("verify").out.contains("header      at offset 2048"));
    assert_eq!(sandbox.run("verify --json").code, Some(3));
    sandbox.run("stats").success();

    bytes[30] ^= 1;
    sandbox.write(&bytes);
    every_read_fails_with(&sandbox, 3, "at offset 0");
}

#[test]
fn code_4_is_the_wrong_key() {
    let sandbox = Sandbox::empty();
    Store::open(sandbox.state(), &AgentKey::new("another key").unwrap()).unwrap().close().unwrap();
    every_read_fails_with(&sandbox, 4, "another agent key");
    sandbox.run("verify --no-key").success();
}

#[test]
fn code_5_is_locked() {
    let sandbox = Sandbox::empty();
    let _store = sandbox.open();
    let holder = format!("is in use by process {}", std::process::id());
    for (write, stdin) in WRITES {
        let outcome = sandbox.fed(&format!("{write} --lock-timeout 0"), stdin.as_bytes());
        assert!(outcome.failed(5).contains(&holder), "{write}: {outcome:?}");
    }
}

#[test]
fn code_6_is_not_found() {
    let sandbox = Sandbox::empty();
    every_read_fails_with(&sandbox, 6, "there is no store at [DIR]/state.db");
    assert_eq!(fs::read_dir(sandbox.folder.path()).unwrap().count(), 0, "a command has left a file");
    sandbox.run("verify --state /nowhere/at/all/state.db").failed(6);
}

#[test]
fn code_7_is_not_a_store_or_an_unsupported_format() {
    let sandbox = Sandbox::filled();
    let mut other = sandbox.bytes();
    let words = [
        (3, "was written by a newer version of this crate (format 3,"),
        (1, "is in format version 1, a draft that was never released"),
    ];
    for (version, words) in words {
        for copy in [0, 2048] {
            other[copy + 12] = version;
            let crc = crc32(&[&other[copy..copy + 112]]);
            other[copy + 112..copy + 116].copy_from_slice(&crc);
        }
        sandbox.write(&other);
        every_read_fails_with(&sandbox, 7, words);
    }
    sandbox.write(b"To do: milk, bread\n");
    every_read_fails_with(&sandbox, 7, "is not a store but");
    sandbox.run(&format!("stats --state {}", sandbox.folder.path().display())).failed(7);
}
