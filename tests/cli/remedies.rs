//! The table of `docs/damage.md`, and the commands that it, other pages and messages advise, run by a shell as an
//! operator would run them.

use std::path::Path;
use std::process::Command;

use backupy_state::{AgentKey, Store};

use crate::sandbox::{KEY, Outcome, Sandbox};

const DAMAGE: &str = include_str!("../../docs/damage.md");
const BACKUP: &str = include_str!("../../docs/backup.md");

/// A row of the table: what is shown, and what to do about it.
#[derive(Debug)]
pub(crate) struct Row {
    /// The message, with `...` for what differs.
    pub(crate) message: String,
    /// `None` if no command shows it, only an agent.
    code: Option<i32>,
    what_to_do: String,
}

pub(crate) fn rows() -> Vec<Row> {
    let table = DAMAGE.lines().skip_while(|line| !line.starts_with("| you see |")).skip(2);
    let row = |line: &str| {
        let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [message, code, _, what_to_do] = cells[..] else { panic!("{line}") };
        let message = message.trim_matches('`').to_owned();
        Row { message, code: (code != "-").then(|| code.parse().expect(line)), what_to_do: what_to_do.to_owned() }
    };
    table.take_while(|line| line.starts_with('|')).map(row).collect()
}

impl Row {
    /// Asserts that this is the message and the exit code of the row.
    #[track_caller]
    pub(crate) fn assert_shown(&self, outcome: &Outcome) {
        let text = outcome.err.strip_prefix("backupy-state: ").unwrap_or(&outcome.out);
        assert!(is_like(text.trim_end(), &self.message), "{self:?}: {outcome:?}");
        if self.code.is_some() {
            assert_eq!(outcome.code, self.code, "{self:?}: {outcome:?}");
            assert_is_for_a_shell(text);
        }
    }

    /// What the row advises: one list of commands for each alternative.
    pub(crate) fn remedies(&self) -> Vec<Vec<String>> {
        let mut remedies = Vec::new();
        for (link, page, heading) in [
            ("](#salvage)", DAMAGE, "## Salvage"),
            ("](#the-file-was-replaced)", DAMAGE, "## The file was replaced"),
            ("](backup.md#restore)", BACKUP, "## Restore"),
        ] {
            if self.what_to_do.contains(link) {
                remedies.push(commands_in(section(page, heading)));
            }
        }
        let of_the_row = commands_in(&self.what_to_do);
        if remedies.is_empty() || !of_the_row.is_empty() {
            remedies.push(of_the_row);
        }
        remedies
    }
}

/// Whether the text has the parts of the pattern, in their order, from its start to its end.
fn is_like(text: &str, pattern: &str) -> bool {
    let mut rest = text;
    let parts: Vec<_> = pattern.split("...").map(str::trim).collect();
    for (i, part) in parts.iter().enumerate() {
        let Some(at) = rest.find(part) else { return false };
        if i == 0 && at > 0 {
            return false;
        }
        rest = &rest[at + part.len()..];
    }
    pattern.ends_with("...") || rest.is_empty()
}

/// Asserts that a message does not advise what only a program can do.
#[track_caller]
pub(crate) fn assert_is_for_a_shell(message: &str) {
    for word in ["snapshot", "reopen", "open the store", "acking", "salvage it", "OpenOptions"] {
        assert!(!message.contains(word), "{word}: {message}");
    }
}

pub(crate) fn section<'a>(page: &'a str, heading: &str) -> &'a str {
    let (_, section) = page.split_once(&format!("{heading}\n")).expect(heading);
    section.split("\n## ").next().unwrap()
}

/// The commands in a text: the lines of its blocks for a shell, and what else is marked as code and begins with a
/// program.
pub(crate) fn commands_in(text: &str) -> Vec<String> {
    let mut commands = Vec::new();
    for (i, part) in text.split("```").enumerate() {
        if i % 2 == 1 {
            commands.extend(part.strip_prefix("sh\n").unwrap_or("").lines().map(str::to_owned));
            continue;
        }
        let code = part.split('`').skip(1).step_by(2).map(str::to_owned);
        commands.extend(code.filter(|code| PROGRAMS.iter().any(|program| code.starts_with(program))));
    }
    commands
}

const PROGRAMS: [&str; 10] =
    ["backupy-state ", "mv ", "cp ", "install ", "rm ", "mkdir ", "chmod ", "fuser ", "ls ", "df"];

impl Sandbox {
    /// Runs the command in the folder of the store, which takes the place of the default one.
    pub(crate) fn shell(&self, command: &str) -> Outcome {
        let folder = self.folder.path().to_str().unwrap();
        // The user of the documents may not exist here.
        let command = command
            .replace(" -o backupy -g backupy", "")
            .replace("/var/lib/backupy", folder)
            .replace("/backup/", &format!("{folder}/backup/"));
        let programs = Path::new(env!("CARGO_BIN_EXE_backupy-state")).parent().unwrap().to_str().unwrap();
        let path = format!("{programs}:{}", std::env::var("PATH").unwrap());
        let mut shell = Command::new("sh");
        shell.args(["-c", &command]).current_dir(folder).env("PATH", path);
        shell.env("BACKUPY_STATE_DIR", folder).env("BACKUPY_AGENT_KEY", KEY);
        self.outcome(shell.output().unwrap())
    }

    /// Does what is advised, each command with success. One that reports damage ends with 3. A file that is gone
    /// already cannot be moved away.
    #[track_caller]
    pub(crate) fn follow(&self, commands: &[String]) {
        for command in commands {
            let outcome = self.shell(command);
            let reports =
                ["backupy-state salvage", "backupy-state verify"].iter().any(|it| command.starts_with(it));
            let finds = reports && outcome.code == Some(3);
            let is_gone = command.starts_with("mv ") && !self.state().exists() && outcome.code == Some(1);
            assert!(outcome.code == Some(0) || finds || is_gone, "{command}: {outcome:?}");
        }
    }

    /// Asserts that an agent can work with the store again.
    #[track_caller]
    pub(crate) fn works(&self) {
        let store = Store::open(self.state(), &AgentKey::new(KEY).unwrap()).unwrap();
        store.enqueue_job("afterwards", b"payload").unwrap();
        assert_eq!(store.job("afterwards").unwrap().unwrap().payload, b"payload");
        store.close().unwrap();
        self.run("health-check").success();
        self.run("verify").success();
    }
}

#[test]
fn a_pattern_is_found_from_its_start_to_its_end() {
    let text = "a.db is damaged at offset 7: bits; salvage";
    for pattern in ["... is damaged at offset ...", "a.db is ...", "...", "...: bits; salvage", text] {
        assert!(is_like(text, pattern), "{pattern}");
    }
    for pattern in ["is damaged at offset ...", "... is damaged at", "... offset ... damaged ...", "", "a.db"] {
        assert!(!is_like(text, pattern), "{pattern}");
    }
}
