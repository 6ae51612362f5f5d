//! Where the command line finds the state and the key.

use std::fs;

use crate::place::{KEY, Place};

#[test]
fn a_key_file_goes_before_the_environment() {
    let place = Place::filled();
    let key_file = place.folder.path().join("agent.key");
    fs::write(&key_file, format!("{KEY}\n")).unwrap();
    let args = format!("--key-file {} stats", key_file.display());
    place.said(place.keyless(&args).output().unwrap()).well();
    place.said(place.keyless(&args).env("BACKUPY_AGENT_KEY", "another").output().unwrap()).well();
    fs::write(&key_file, "another").unwrap();
    place.run(&args).failed(4);
    fs::write(&key_file, "\n").unwrap();
    place.run(&args).failed(2);
}

#[test]
fn an_empty_key_in_the_environment_is_no_key() {
    let place = Place::filled();
    let output = place.keyless("stats").env("BACKUPY_AGENT_KEY", "").output().unwrap();
    assert!(place.said(output).failed(2).contains("BACKUPY_AGENT_KEY is empty"));
}

#[test]
fn the_state_option_goes_before_the_environment_and_stands_on_either_side() {
    let place = Place::filled();
    let state = place.state().display().to_string();
    for args in [format!("--state {state} stats"), format!("stats --state {state}")] {
        place.said(place.command(&args).env("BACKUPY_STATE_DIR", "/nowhere").output().unwrap()).well();
    }
    place.said(place.command("stats").env("BACKUPY_STATE_DIR", "/nowhere").output().unwrap()).failed(6);
}

#[test]
fn a_state_without_extension_is_the_file_that_the_library_means() {
    let place = Place::filled();
    let state = place.folder.path().join("state");
    place.run(&format!("stats --state {}", state.display())).well();
}

#[test]
fn help_of_every_command_has_an_example() {
    let place = Place::empty();
    for command in ["", "demo", "health-check", "dump-state", "verify", "stats", "frames"].into_iter().chain([
        "queue",
        "queue list",
        "logs",
        "logs peek",
        "head",
        "compact",
        "rekey",
        "backup",
    ]) {
        let help = place.run(&format!("{command} --help")).well();
        assert!(help.contains("Example:\n  "), "{help}");
        assert!(help.contains("BACKUPY_STATE_DIR") && help.contains("BACKUPY_AGENT_KEY"), "{help}");
        assert!(!help.contains("demo-agent"), "{help}");
    }
}
