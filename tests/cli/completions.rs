//! `completions`: the scripts know every command, and bash can load its script.

use std::fs;
use std::process::Command;

use crate::sandbox::Sandbox;

#[test]
fn completions_contain_every_command_except_hidden_ones() {
    let sandbox = Sandbox::empty();
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = sandbox.outcome(sandbox.keyless(&format!("completions {shell}")).output().unwrap()).success();
        for word in ["health-check", "map", "drain", "--allow-secrets", "--key-file"] {
            assert!(
                script.contains(word) || shell == "fish" && script.contains(&word[2..]),
                "{shell} lacks {word}"
            );
        }
        assert!(!script.contains("demo-agent"), "{shell}");
    }
    assert_eq!(fs::read_dir(sandbox.folder.path()).unwrap().count(), 0);
}

#[test]
fn bash_completes_commands_and_their_options() {
    let sandbox = Sandbox::empty();
    let script = sandbox.folder.path().join("completions");
    fs::write(&script, sandbox.run("completions bash").success()).unwrap();
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
