//! `salvage`: its report, its exit codes, and the files that it leaves unchanged.

use std::fs;

use serde_json::{Value, json};

use crate::sandbox::{OWN_NAMES, Sandbox};

impl Sandbox {
    fn to(&self) -> String {
        self.folder.path().join("new.db").display().to_string()
    }

    /// The offset and the length of each frame.
    pub(crate) fn frames(&self) -> Vec<(usize, usize)> {
        let number = |frame: &Value, name: &str| usize::try_from(frame[name].as_u64().unwrap()).unwrap();
        let lines = self.run("frames --json").success();
        let frames = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        frames.map(|frame| (number(&frame, "offset"), number(&frame, "len"))).collect()
    }

    /// A store with damage in the headers of these frames.
    pub(crate) fn damaged(seqs: &[usize]) -> Self {
        let sandbox = Sandbox::filled();
        let frames = sandbox.frames();
        let mut bytes = sandbox.bytes();
        for seq in seqs {
            bytes[frames[seq - 1].0 + 33] ^= 1;
        }
        sandbox.write(&bytes);
        sandbox
    }
}

#[test]
fn salvage_of_a_damaged_store_keeps_the_rest_and_exits_with_3() {
    // The fifth record is `run-2`.
    let sandbox = Sandbox::damaged(&[5]);
    sandbox.run("dump-state").failed(3);
    let before = sandbox.bytes();
    let outcome = sandbox.run(&format!("salvage {}", sandbox.to()));
    assert_eq!(outcome.failed(3), "[DIR]/state.db is damaged: 1 loss; the rest is in [DIR]/new.db");
    let second = sandbox.run(&format!("salvage {}/second.db --json", sandbox.folder.path().display()));
    let report: Value = serde_json::from_str(&second.out).unwrap();
    let what = report["lost"][0]["what"].as_str().unwrap();
    assert!(what.contains("damaged"), "{what}");
    let (offset, len) = (Sandbox::filled().frames()[4].0, Sandbox::filled().frames()[4].1);
    let expected = format!(
        "from        [DIR]/state.db\n\
         to          [DIR]/new.db\n\
         generation  2\n\
         salvaged    9 records with 9 operations\n\
         jobs        1\n\
         log events  1\n\
         data keys   0\n\
         config      yes\n\
         session     yes\n\
         lost        record 5, {len} bytes at offset {offset}: {what}\n\
         stale       possibly: data that a lost record acked, deleted or replaced may be present again\n"
    );
    assert_eq!(outcome.out, expected);
    assert!(sandbox.bytes() == before);
    let dump = sandbox.run(&format!("dump-state --state {}", sandbox.to())).success();
    assert!(dump.contains("run-1") && !dump.contains("run-2"), "{dump}");
    sandbox.run(&format!("verify --state {}", sandbox.to())).success();
}

#[test]
fn salvage_of_an_intact_store_is_complete() {
    let sandbox = Sandbox::filled();
    let held = sandbox.run("dump-state --allow-secrets").success();
    let outcome = sandbox.run(&format!("salvage {} --json", sandbox.to())).json();
    assert_eq!(
        (&outcome["complete"], &outcome["lost"], &outcome["may_be_stale"]),
        (&json!(true), &json!([]), &json!(false))
    );
    assert_eq!((&outcome["from"], &outcome["to"]), (&json!("[DIR]/state.db"), &json!("[DIR]/new.db")));
    assert_eq!(
        (&outcome["jobs"], &outcome["log_events"], &outcome["generation"]),
        (&json!(2), &json!(1), &json!(2))
    );
    let dump = sandbox.run(&format!("dump-state --allow-secrets --state {}", sandbox.to())).success();
    assert_eq!(dump.replace("new.db", "state.db").replace("generation  2", "generation  1"), held);
}

#[test]
fn salvage_overwrites_nothing_and_creates_nothing_from_what_is_not_a_store() {
    let sandbox = Sandbox::damaged(&[2]);
    fs::write(sandbox.to(), "another file").unwrap();
    assert!(sandbox.run(&format!("salvage {}", sandbox.to())).failed(2).contains("already exists"));
    assert_eq!(fs::read(sandbox.to()).unwrap(), b"another file");
    fs::remove_file(sandbox.to()).unwrap();

    sandbox.run("salvage /nowhere/at/all/new.db").failed(1);
    sandbox.run("salvage").failed(2);
    sandbox.run(&format!("salvage {} --state /nowhere/state.db", sandbox.to())).failed(6);
    let mut wrong = sandbox.keyless(&format!("salvage {}", sandbox.to()));
    sandbox.outcome(wrong.env("BACKUPY_AGENT_KEY", "another").output().unwrap()).failed(4);
    sandbox.write(b"To do: milk, bread\n");
    sandbox.run(&format!("salvage {}", sandbox.to())).failed(7);
    assert!(!fs::exists(sandbox.to()).unwrap());
}

#[test]
fn salvage_names_the_jobs_whose_payload_is_lost_and_shows_no_payload() {
    let sandbox = Sandbox::filled();
    sandbox.tamper_with_frame(4);
    let outcome = sandbox.run(&format!("salvage {} --json", sandbox.to()));
    outcome.failed(3);
    let report: Value = serde_json::from_str(&outcome.out).unwrap();
    assert_eq!(report["lost"][0]["keys"], json!([{ "bucket": "queue", "run_id": "run-1", "data_key": null }]));
    assert!(!outcome.out.contains(crate::sandbox::PAYLOAD));
}

#[test]
fn the_target_of_salvage_means_what_it_means_to_open() {
    let sandbox = Sandbox::filled();
    let folder = sandbox.folder.path().display().to_string();
    let out = sandbox.run(&format!("salvage {folder}/new")).success();
    assert!(out.contains("to          [DIR]/new.db\n"), "{out}");
    sandbox.run(&format!("verify --state {folder}/new")).success();

    let before = sandbox.contents();
    for own in OWN_NAMES.into_iter().filter(|own| !own.ends_with(".lock")) {
        let outcome = sandbox.run(&format!("salvage {folder}/{own}"));
        assert!(outcome.failed(2).contains("a name that a store keeps for its own files"), "{own}: {outcome:?}");
    }
    sandbox.run("salvage -").failed(2);
    sandbox.run(&format!("salvage {folder}/new.db/")).failed(2);
    assert!(sandbox.run(&format!("salvage {folder}")).failed(2).ends_with("is a folder; name a file"));
    assert!(sandbox.contents() == before);

    // A quarantined log can be salvaged, under its own name.
    fs::rename(sandbox.state(), format!("{folder}/state.db.damaged-1")).unwrap();
    sandbox.run(&format!("--state {folder}/state.db.damaged-1 salvage {folder}/again")).success();
}
