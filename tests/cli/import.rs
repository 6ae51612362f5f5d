//! `import`: what it imports and reports, and what it refuses and leaves unchanged.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use backupy_state::{AgentKey, Store};
use serde_json::json;

use crate::bolt::{Agent, LEAF, Pages, Seals, bucket, inline, tree, value};
use crate::sandbox::{KEY, Sandbox};

fn agent() -> Agent {
    Agent {
        config: Some((168, b"the raw configuration".to_vec())),
        session: Some(("session-of-a-secret-kind".to_owned(), 1_700_000_000_123)),
        heartbeat: Some(1_700_000_060_000),
        jobs: (0..3).map(|i| (format!("run-{i}"), b"a payload that no one may see".to_vec())).collect(),
        logs: vec![(5, 0, b"an event".to_vec())],
    }
}

impl Sandbox {
    fn with_bolt(bytes: &[u8]) -> Self {
        let sandbox = Sandbox::empty();
        fs::write(sandbox.bolt(), bytes).unwrap();
        sandbox
    }

    fn bolt(&self) -> PathBuf {
        self.folder.path().join("old.db")
    }

    fn import(&self) -> String {
        format!("import {}", self.bolt().display())
    }
}

#[test]
fn import_creates_a_store_and_reports_what_was_imported() {
    let file = agent().file(KEY.as_bytes(), 4096, 2);
    let sandbox = Sandbox::with_bolt(&file);
    let out = sandbox.run(&sandbox.import()).success();
    let expected = "state       [DIR]/state.db\nfrom        [DIR]/old.db\n\
                    config      version 168\nsession     yes\n\
                    heartbeat   2023-11-14 22:14:20.000 UTC\njobs        3\nlog events  1\n";
    assert_eq!(out, expected);
    assert!(fs::read(sandbox.bolt()).unwrap() == file);
    let dump = sandbox.run("dump-state --allow-secrets").success();
    for held in ["the raw configuration", "session-of-a-secret-kind", "run-2", "a payload that no one may see"] {
        assert!(dump.contains(held), "{held}: {dump}");
    }
    sandbox.run("verify").success();

    // A second import imports nothing twice.
    let before = sandbox.bytes();
    let out = sandbox.run(&sandbox.import()).success();
    assert_eq!(out, format!("{expected}of these    4 had been imported before\n"));
    let outcome = sandbox.run(&format!("{} --json", sandbox.import())).json();
    assert_eq!(
        outcome,
        json!({
            "state": "[DIR]/state.db", "from": "[DIR]/old.db", "config_version": 168, "session": true,
            "last_heartbeat_ms": 1_700_000_060_000_i64, "jobs": 3, "log_events": 1, "log_events_dropped": 0,
            "already_there": 4, "left_out": [], "meta_page_damaged": false,
        })
    );
    assert!(sandbox.bytes() == before);
}

#[test]
fn import_reports_what_it_left_out_and_what_may_be_missing() {
    let mut pages = Pages::new(512);
    let mut buckets = Agent::default().buckets(KEY.as_bytes(), &mut pages, 4);
    buckets.push(bucket(b"z\x1b[2J", inline(&[value(b"a", b"b")])));
    let root = pages.add(LEAF, &buckets);
    let mut file = pages.finish(root);
    file[20] ^= 1;
    let sandbox = Sandbox::with_bolt(&file);
    let out = sandbox.run(&sandbox.import()).success();
    let expected = "config      none\nsession     none\nheartbeat   none\njobs        0\nlog events  0\n\
                    left out    1 key of bucket z\\u{1b}[2J: the agent had no such keys\n\
                    note        one of the two meta pages is damaged; the last transaction may be missing\n";
    assert!(out.ends_with(expected), "{out}");
}

#[test]
fn a_job_that_cannot_be_imported_is_named_and_the_exit_code_is_3() {
    let mut pages = Pages::new(4096);
    let mut seals = Seals::new(KEY.as_bytes());
    let jobs = [b"run-1".as_slice(), b"run-2", b"run-\xff"].map(|run_id| value(run_id, &seals.seal(b"a payload")));
    let root = pages.add(LEAF, &jobs);
    let mut buckets = Agent { jobs: Vec::new(), ..agent() }.buckets(KEY.as_bytes(), &mut pages, 4);
    buckets.retain(|other| other.key != b"queue");
    buckets.insert(2, bucket(b"queue", tree(root)));
    let root = pages.add(LEAF, &buckets);
    let file = pages.finish(root);
    let sandbox = Sandbox::with_bolt(&file);
    let expected = "1 job of [DIR]/old.db was left out, because a store cannot hold it; everything else is in \
                    [DIR]/state.db; the Go agent can still deliver it";
    // A second import continues, imports nothing twice, and still reports it.
    for _ in 0..2 {
        let outcome = sandbox.run(&sandbox.import());
        assert_eq!(outcome.failed(3), expected);
        let row = "left out    job \"run-\\xff\": its run id is not UTF-8\n";
        assert!(outcome.out.contains(row) && outcome.out.contains("jobs        2\n"), "{outcome:?}");
        assert_eq!(sandbox.run("queue list --json").json()["jobs"].as_array().unwrap().len(), 2);
    }
    let outcome = sandbox.run(&format!("{} --json", sandbox.import()));
    assert_eq!(outcome.failed(3), expected);
    let report: serde_json::Value = serde_json::from_str(&outcome.out).unwrap();
    let left_out = json!([
        { "bucket": "queue", "keys": 1, "run_id": "run-\\xff", "why": "its run id is not UTF-8" },
    ]);
    assert_eq!(report["left_out"], left_out);
    sandbox.run("config get").success();
    assert!(fs::read(sandbox.bolt()).unwrap() == file);
}

#[test]
fn log_events_beyond_the_default_limits_are_all_imported() {
    let logs = (0..100_010).map(|i| (i, i, Vec::new())).collect();
    let sandbox = Sandbox::with_bolt(&Agent { logs, ..Agent::default() }.file(KEY.as_bytes(), 65536, 500));
    let outcome = sandbox.run(&format!("{} --json", sandbox.import())).json();
    assert_eq!((&outcome["log_events"], &outcome["log_events_dropped"]), (&100_010.into(), &0.into()));
    assert_eq!(sandbox.run("stats --json").json()["log_events"], 100_010);
}

#[test]
fn a_file_that_cannot_be_imported_creates_no_store() {
    let whole = agent().file(KEY.as_bytes(), 4096, 2);
    let foreign = agent().file(b"another", 4096, 2);
    let mut damaged = whole.clone();
    damaged[3 * 4096] ^= 1;
    for (bytes, code, words) in [
        (damaged, 3, "is damaged at offset"),
        (foreign, 4, "was written under another agent key"),
        (b"To do: milk, bread\n".to_vec(), 7, "a file of another kind, and not a bbolt file either"),
        (Sandbox::filled().bytes(), 2, "is already a store"),
    ] {
        let sandbox = Sandbox::with_bolt(&bytes);
        let outcome = sandbox.run(&sandbox.import());
        assert!(outcome.failed(code).contains(words), "{outcome:?}");
        assert!(!sandbox.state().exists());
        assert!(fs::read(sandbox.bolt()).unwrap() == bytes);
    }
    let sandbox = Sandbox::empty();
    sandbox.run(&sandbox.import()).failed(6);
    sandbox.run("import").failed(2);
    assert!(
        sandbox
            .outcome(sandbox.keyless(&sandbox.import()).output().unwrap())
            .failed(2)
            .contains("BACKUPY_AGENT_KEY")
    );
    assert_eq!(fs::read_dir(sandbox.folder.path()).unwrap().count(), 0);

    let sandbox = Sandbox::with_bolt(&whole);
    let agents = File::open(sandbox.bolt()).unwrap();
    fs2::FileExt::lock_exclusive(&agents).unwrap();
    assert!(sandbox.run(&sandbox.import()).failed(5).contains("stop the agent that writes to it"));
    assert!(!sandbox.state().exists());
}

#[test]
fn a_store_with_other_contents_is_refused_and_unchanged() {
    let sandbox = Sandbox::filled();
    fs::write(sandbox.bolt(), agent().file(KEY.as_bytes(), 4096, 2)).unwrap();
    let before = sandbox.run("dump-state --allow-secrets").success();
    assert!(sandbox.run(&sandbox.import()).failed(2).contains("already holds other data"));
    assert_eq!(sandbox.run("dump-state --allow-secrets").success(), before);

    let store = sandbox.open();
    sandbox.run(&format!("{} --lock-timeout 0", sandbox.import())).failed(5);
    store.close().unwrap();

    fs::remove_file(sandbox.state()).unwrap();
    Store::open(sandbox.state(), &AgentKey::new("another").unwrap()).unwrap().close().unwrap();
    sandbox.run(&sandbox.import()).failed(4);
}

#[test]
fn a_bbolt_file_with_the_name_of_the_store_gets_a_hint() {
    let file = agent().file(KEY.as_bytes(), 4096, 2);
    let sandbox = Sandbox::with_bolt(&file);
    fs::rename(sandbox.bolt(), sandbox.state()).unwrap();
    let outcome = sandbox.run("verify");
    assert!(outcome.failed(7).contains("a bbolt file, which `backupy-state import FILE`"), "{outcome:?}");
    let outcome = sandbox.run(&format!("import {}", sandbox.state().display()));
    assert!(outcome.failed(2).contains("rename the bbolt file"), "{outcome:?}");
    assert!(sandbox.bytes() == file);
    fs::rename(sandbox.state(), sandbox.bolt()).unwrap();
    sandbox.run(&sandbox.import()).success();
}

#[test]
fn the_files_of_the_store_are_not_imported() {
    let file = agent().file(KEY.as_bytes(), 4096, 2);
    let sandbox = Sandbox::empty();
    let own_files = sandbox.with_own_files(&file);
    let before = sandbox.contents();
    for own in &own_files {
        let outcome = sandbox.run(&format!("import {own}"));
        assert!(outcome.failed(2).contains("belongs to the store"), "{own}: {outcome:?}");
    }
    assert!(sandbox.contents() == before);
}

/// Else the Go agent could write to it before the store is there, and an empty store would be left.
#[test]
fn the_bbolt_file_stays_locked_from_the_check_to_the_end() {
    let sandbox = Sandbox::with_bolt(&agent().file(KEY.as_bytes(), 4096, 2));
    let lock = File::create(sandbox.folder.path().join("state.db.lock")).unwrap();
    fs2::FileExt::lock_exclusive(&lock).unwrap();
    let mut command = sandbox.command(&format!("{} --lock-timeout 30", sandbox.import()));
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let fds = format!("/proc/{}/fd", child.id());
    let has_open = |name: &str| {
        let fds = fs::read_dir(&fds).into_iter().flatten();
        fds.flatten().any(|fd| fs::read_link(fd.path()).is_ok_and(|file| file.ends_with(name)))
    };
    let begun = Instant::now();
    while !has_open("state.db.lock") {
        assert!(begun.elapsed() < Duration::from_secs(20) && child.try_wait().unwrap().is_none());
        thread::sleep(Duration::from_millis(5));
    }
    // The check is over, and the store is not there yet.
    let agents = File::open(sandbox.bolt()).unwrap();
    let refused = fs2::FileExt::try_lock_exclusive(&agents);
    assert!(refused.is_err() && !sandbox.state().exists());
    fs2::FileExt::unlock(&lock).unwrap();
    sandbox.outcome(child.wait_with_output().unwrap()).success();
    fs2::FileExt::try_lock_exclusive(&agents).unwrap();
}
