//! `completions` and `man`: that a shell and `man` can read them, and that every command is in them.

use std::fs;
use std::process::{Command, Stdio};

use crate::place::Place;

#[test]
fn completions_know_every_command_and_hide_what_is_hidden() {
    let place = Place::empty();
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = place.said(place.keyless(&format!("completions {shell}")).output().unwrap()).well();
        for word in ["health-check", "map", "drain", "--allow-secrets", "--key-file"] {
            assert!(
                script.contains(word) || shell == "fish" && script.contains(&word[2..]),
                "{shell} lacks {word}"
            );
        }
        assert!(!script.contains("demo-agent"), "{shell}");
    }
    assert_eq!(fs::read_dir(place.folder.path()).unwrap().count(), 0);
}

#[test]
fn bash_completes_commands_and_their_options() {
    let place = Place::empty();
    let script = place.folder.path().join("completions");
    fs::write(&script, place.run("completions bash").well()).unwrap();
    let completed = |words: &[&str]| {
        let list = words.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" ");
        let (last, before) = (words[words.len() - 1], words[words.len() - 2]);
        let line = format!(
            "source {}; complete=$(complete -p backupy-state); complete=${{complete#*-F }}; \
             COMP_WORDS=({list}); COMP_CWORD={}; ${{complete%% *}} backupy-state '{last}' '{before}'; \
             printf '%s\\n' \"${{COMPREPLY[@]}}\"",
            script.display(),
            words.len() - 1
        );
        let output = Command::new("bash").args(["-c", &line]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(completed(&["backupy-state", "heal"]), "health-check\n");
    assert_eq!(completed(&["backupy-state", "queue", "en"]), "enqueue\n");
    assert_eq!(completed(&["backupy-state", "logs", "drain", "--dis"]), "--discard\n");
}

#[test]
fn man_writes_a_page_for_every_command() {
    let place = Place::empty();
    let dir = place.folder.path().display().to_string();
    let written = place.run(&format!("man --dir {dir}")).well();
    assert_eq!(written.lines().count(), fs::read_dir(&dir).unwrap().count());
    for name in ["", "-map", "-queue", "-queue-enqueue", "-logs-drain", "-heartbeat-record"] {
        let page = fs::read_to_string(format!("{dir}/backupy-state{name}.1")).unwrap();
        assert!(page.contains(".TH") && page.contains("Example:"), "{page}");
    }
    assert!(!written.contains("-help.1") && !written.contains("demo-agent"), "{written}");
    // Every page that one of them refers to is there.
    let main = fs::read_to_string(format!("{dir}/backupy-state.1")).unwrap().replace("\\-", "-");
    for name in main.lines().filter_map(|line| line.strip_suffix("(1)")) {
        assert!(written.contains(&format!("/{name}.1\n")), "{name}");
    }
    assert_eq!(place.run("man").well().replace("\\-", "-"), main);
    place.run("man --dir /nowhere/at/all").failed(1);
}

#[test]
fn the_manual_page_has_no_mistake_that_groff_would_tell_of() {
    let place = Place::empty();
    let groff = Command::new("groff").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !groff.is_ok_and(|status| status.success()) {
        crate::place::say_skipped("groff is not there: nobody has read the manual page");
        return;
    }
    let page = place.folder.path().join("page.1");
    fs::write(&page, place.run("man").well()).unwrap();
    let output = Command::new("groff").args(["-man", "-ww", "-Tutf8", "-z"]).arg(&page).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}
