//! `salvage`, and `verify` of what is damaged in more than one place.

use std::fs;

use serde_json::{Value, json};

use crate::place::Place;

impl Place {
    fn to(&self) -> String {
        self.folder.path().join("new.db").display().to_string()
    }

    /// Where each frame is, and its length.
    fn frames(&self) -> Vec<(usize, usize)> {
        let number = |frame: &Value, name: &str| usize::try_from(frame[name].as_u64().unwrap()).unwrap();
        let lines = self.run("frames --json").well();
        let frames = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        frames.map(|frame| (number(&frame, "offset"), number(&frame, "len"))).collect()
    }

    /// A store whose frames of these numbers are damaged in their headers.
    fn damaged(seqs: &[usize]) -> Self {
        let place = Place::filled();
        let frames = place.frames();
        let mut bytes = place.bytes();
        for seq in seqs {
            bytes[frames[seq - 1].0 + 33] ^= 1;
        }
        place.write(&bytes);
        place
    }
}

#[test]
fn salvage_of_a_damaged_store_brings_the_rest_over_and_exits_with_3() {
    // The fifth record is `run-2`.
    let place = Place::damaged(&[5]);
    place.run("dump-state").failed(3);
    let before = place.bytes();
    let said = place.run(&format!("salvage {}", place.to()));
    assert_eq!(said.failed(3), "[DIR]/state.db has lost something in 1 place; the rest is in [DIR]/new.db");
    let (offset, len) = (Place::filled().frames()[4].0, Place::filled().frames()[4].1);
    let expected = format!(
        "from        [DIR]/state.db\n\
         to          [DIR]/new.db\n\
         generation  2\n\
         came over   9 records with 9 operations\n\
         jobs        1\n\
         log events  1\n\
         config      yes\n\
         session     yes\n\
         lost        {len} bytes at offset {offset}, record 5, frames that are damaged, or whose seal cannot be checked\n\
         stale       perhaps: what was acked, deleted or replaced in a lost place may be there again\n"
    );
    assert_eq!(said.out, expected);
    assert!(place.bytes() == before);
    let dump = place.run(&format!("dump-state --state {}", place.to())).well();
    assert!(dump.contains("run-1") && !dump.contains("run-2"), "{dump}");
    place.run(&format!("verify --state {}", place.to())).well();
}

#[test]
fn salvage_of_an_intact_store_is_complete() {
    let place = Place::filled();
    let held = place.run("dump-state --allow-secrets").well();
    let said = place.run(&format!("salvage {} --json", place.to())).json();
    assert_eq!(
        (&said["complete"], &said["lost"], &said["may_be_stale"]),
        (&json!(true), &json!([]), &json!(false))
    );
    assert_eq!((&said["from"], &said["to"]), (&json!("[DIR]/state.db"), &json!("[DIR]/new.db")));
    assert_eq!((&said["jobs"], &said["log_events"], &said["generation"]), (&json!(2), &json!(1), &json!(2)));
    let dump = place.run(&format!("dump-state --allow-secrets --state {}", place.to())).well();
    assert_eq!(dump.replace("new.db", "state.db").replace("generation  2", "generation  1"), held);
}

#[test]
fn salvage_overwrites_nothing_and_makes_nothing_of_what_is_no_store() {
    let place = Place::damaged(&[2]);
    fs::write(place.to(), "somebody's").unwrap();
    assert!(place.run(&format!("salvage {}", place.to())).failed(2).contains("exists already"));
    assert_eq!(fs::read(place.to()).unwrap(), b"somebody's");
    fs::remove_file(place.to()).unwrap();

    place.run("salvage /nowhere/at/all/new.db").failed(1);
    place.run("salvage").failed(2);
    place.run(&format!("salvage {} --state /nowhere/state.db", place.to())).failed(6);
    let mut wrong = place.keyless(&format!("salvage {}", place.to()));
    place.said(wrong.env("BACKUPY_AGENT_KEY", "another").output().unwrap()).failed(4);
    place.write(b"To do: milk, bread\n");
    place.run(&format!("salvage {}", place.to())).failed(7);
    assert!(!fs::exists(place.to()).unwrap());
}

#[test]
fn salvage_names_the_jobs_whose_payload_is_lost_and_shows_no_payload() {
    let place = Place::filled();
    place.tamper_with_frame(4);
    let said = place.run(&format!("salvage {} --json", place.to()));
    said.failed(3);
    let report: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(report["lost"][0]["keys"], json!([{ "bucket": "queue", "run_id": "run-1" }]));
    assert!(!said.out.contains(crate::place::PAYLOAD));
}

#[test]
fn verify_tells_of_every_fault() {
    let place = Place::damaged(&[2, 6]);
    let frames = Place::filled().frames();
    for command in ["verify", "verify --no-key"] {
        let said = place.run(command);
        let sentence = said.failed(3);
        assert!(sentence.contains(&format!("damage at offset {}", frames[1].0)), "{sentence}");
        assert!(sentence.ends_with(", and 1 more"), "{sentence}");
        for frame in [frames[1], frames[5]] {
            let row = format!("damage      at offset {}: the frame's header does not check\n", frame.0);
            assert!(said.out.contains(&row), "{}", said.out);
        }
    }
    let said = place.run("verify --json");
    let report: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!((report["faults"].as_array().unwrap().len(), &report["more_faults"]), (2, &json!(0)));
}

#[test]
fn help_of_salvage_has_an_example() {
    let help = Place::empty().run("salvage --help").well();
    assert!(help.contains("Example") && help.contains("salvage /var/lib/backupy/salvaged.db"), "{help}");
}
