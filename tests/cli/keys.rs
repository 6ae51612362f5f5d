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
    let mut seen = 0;
    for command in commands(&place, "") {
        seen += 1;
        let help = place.run(&format!("{command} --help")).well();
        assert!(help.contains("Example:\n  "), "{help}");
        assert!(help.contains("BACKUPY_STATE_DIR") && help.contains("BACKUPY_AGENT_KEY"), "{help}");
        assert!(!help.contains("demo-agent"), "{help}");
    }
    assert!(seen >= 30, "only {seen} commands are listed");
}

/// All commands with their parents, as the help lists them.
fn commands(place: &Place, parent: &str) -> Vec<String> {
    let help = place.run(&format!("{parent} --help")).well();
    let listed = help.split_once("\nCommands:\n").map_or("", |(_, rest)| rest.split("\n\n").next().unwrap());
    let mut all = vec![parent.to_owned()];
    // What is indented further goes on with the line before.
    let names = listed.lines().filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
    for name in names.filter(|name| !["", "help"].contains(name)) {
        all.extend(commands(place, &format!("{parent} {name}")));
    }
    all
}
