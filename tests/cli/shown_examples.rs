//! The examples that `--help` and the documents show are run, each in a place where it makes sense.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use backupy_state::Batch;

use crate::help::commands;
use crate::remedies::section;
use crate::sandbox::{KEY, Sandbox};

const COMMAND_LINE: &str = include_str!("../../docs/command-line.md");
const BACKUP: &str = include_str!("../../docs/backup.md");

/// A folder with everything that an example names; for those that make a store, without one.
fn place(has_store: bool) -> Sandbox {
    let sandbox = Sandbox::empty();
    let at = |name: &str| sandbox.folder.path().join(name);
    for folder in ["go", "backup", "elsewhere", "node_exporter", "usr/share/bash-completion/completions"] {
        fs::create_dir_all(at(folder)).unwrap();
    }
    fs::copy(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/import_bolt/example.db"), at("go/state.db")).unwrap();
    for file in ["config.bin", "payload.bin", "cursor.bin"] {
        fs::write(at(file), "contents").unwrap();
    }
    sandbox.write_key_file("old.key", KEY);
    sandbox.write_key_file("new.key", "bkpy_fedcba9876543210fedcba9876543210");
    if has_store {
        let store = sandbox.fill();
        let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
        let batch = Batch::new().enqueue_job("run-0815", b"dump").put_data("dead/run-0815", b"dump");
        store.write(&batch.record_heartbeat(i64::try_from(now_ms).unwrap())).unwrap();
        store.close().unwrap();
    }
    sandbox
}

/// Runs the lines of an example one after the other, each with success.
#[track_caller]
fn run(lines: &[&str], command: &str) {
    let sandbox = place(!["init", "import"].contains(&command));
    let folder = sandbox.folder.path().to_str().unwrap().to_owned();
    let has = |words: &str| lines.iter().any(|line| line.contains(words));
    if has("--state /backup/state.db") && !has("backup /backup/state.db") {
        sandbox.run(&format!("backup {folder}/backup/state.db")).success();
    }
    for line in lines {
        // Where another program reads the output, its exit code would be the shell's.
        let line = match line.split_once(" | ") {
            Some((writes, reader)) if !reader.starts_with("backupy-state") => writes,
            _ => line,
        };
        let line = line
            .replace("/var/lib/backup-agent", &format!("{folder}/go"))
            .replace("/var/lib/node_exporter", &format!("{folder}/node_exporter"))
            .replace("/elsewhere", &format!("{folder}/elsewhere"))
            .replace("/usr/", &format!("{folder}/usr/"))
            .replace("--seconds 10", "--seconds 1")
            .replace("BACKUPY_AGENT_KEY=... ", "");
        let outcome = sandbox.shell(&line);
        assert_eq!(outcome.code, Some(0), "{line}: {outcome:?}");
    }
}

#[test]
fn each_example_of_the_help_works() {
    let sandbox = Sandbox::empty();
    let mut count = 0;
    for command in commands(&sandbox, "") {
        let help = sandbox.run(&format!("{command} --help")).success();
        let (_, examples) = help.split_once("\nExample:\n").unwrap();
        let lines: Vec<&str> = examples.lines().take_while(|line| line.starts_with("  ")).map(str::trim).collect();
        assert!(lines.iter().any(|line| line.contains("backupy-state")), "{examples}");
        run(&lines, command.trim());
        count += lines.len();
    }
    assert!(count >= 40, "{count}");
}

#[test]
fn each_example_of_the_documents_works() {
    let mut count = 0;
    let pages = [section(COMMAND_LINE, "## Examples"), section(COMMAND_LINE, "## Metrics"), BACKUP];
    for block in pages.iter().flat_map(|page| page.split("```sh\n").skip(1)) {
        let block = block.split("```").next().unwrap().replace("&&\n", "&&");
        let lines: Vec<&str> = block.lines().map(|line| line.split(" #").next().unwrap().trim()).collect();
        count += lines.len();
        run(&lines, "");
    }
    assert!(count >= 11, "{count}");
}
