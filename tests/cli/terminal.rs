//! A real terminal, under tmux or script: progress bars and colours are shown there, and are not written to a
//! pipe.

use std::cell::Cell;
use std::fs;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::maintenance::MAINTENANCE;
use crate::sandbox::{KEY, Sandbox, report_skipped};

/// A separate tmux server with one window.
struct Terminal<'a> {
    sandbox: &'a Sandbox,
    server: String,
    /// The number of commands so far, which distinguishes the ends of successive commands.
    runs: Cell<usize>,
}

impl<'a> Terminal<'a> {
    /// Opens a window with this many columns; `None` if tmux is not installed.
    fn open(sandbox: &'a Sandbox, columns: usize) -> Option<Self> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let works = Command::new("tmux").arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status();
        if !works.is_ok_and(|status| status.success()) {
            report_skipped("tmux is not installed: the terminal was not checked");
            return None;
        }
        let server = format!("backupy-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let terminal = Terminal { sandbox, server, runs: Cell::new(0) };
        // Reads each command from a line of input, so that the recording begins before the first command.
        let shell =
            "n=0; while read -r line; do eval \"$line\"; c=$?; n=$((n+1)); echo \"run $n ended with $c\"; done";
        let columns = columns.to_string();
        terminal.tmux(&["new-session", "-d", "-x", &columns, "-y", "50", "sh", "-c", shell]);
        let record = format!("cat > {}", terminal.recording().display());
        terminal.tmux(&["pipe-pane", &record]);
        Some(terminal)
    }

    fn tmux(&self, args: &[&str]) -> String {
        let mut command = Command::new("tmux");
        command.args(["-u", "-L", &self.server, "-f", "/dev/null"]).args(args);
        command.env_remove("TMUX").env("BACKUPY_AGENT_KEY", KEY).env("TERM", "xterm-256color");
        command.env("BACKUPY_STATE_DIR", self.sandbox.folder.path()).env_remove("NO_COLOR");
        let output = command.output().unwrap();
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn recording(&self) -> std::path::PathBuf {
        self.sandbox.folder.path().join(&self.server)
    }

    /// Runs the program with these arguments in the window, and waits for its end.
    fn run(&self, before: &str, args: &str) -> Seen {
        let program = env!("CARGO_BIN_EXE_backupy-state");
        let line = format!("clear; {before} {program} {args}");
        self.tmux(&["send-keys", "-l", &line]);
        self.tmux(&["send-keys", "Enter"]);
        self.runs.set(self.runs.get() + 1);
        let ending = format!("run {} ended with ", self.runs.get());
        let begun = Instant::now();
        loop {
            let screen = self.tmux(&["capture-pane", "-p", "-e"]);
            // A separate process records, and may lag behind the window on a busy machine.
            let recorded = fs::read_to_string(self.recording()).unwrap_or_default();
            if let Some((shown, code)) = screen.split_once(&ending)
                && recorded.contains(&ending)
            {
                let code = code.split_whitespace().next().unwrap().to_owned();
                return Seen { shown: shown.to_owned(), code, recorded };
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "{args} does not end: {screen}");
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Terminal<'_> {
    fn drop(&mut self) {
        let mut kill = Command::new("tmux");
        let _ = kill.args(["-L", &self.server, "kill-server"]).stderr(Stdio::null()).status();
    }
}

#[derive(Debug)]
struct Seen {
    /// The window after the command has ended, with its colours.
    shown: String,
    code: String,
    /// All output so far.
    recorded: String,
}

/// A store that is large enough for a progress bar to appear.
fn large_sandbox() -> Sandbox {
    let sandbox = Sandbox::filled();
    let store = sandbox.open();
    for number in 0..20 {
        store.enqueue_job(&format!("large-{number}"), &[7; 200_000]).unwrap();
    }
    store.close().unwrap();
    sandbox
}

#[test]
fn a_terminal_shows_a_progress_bar_which_is_erased_at_the_end() {
    let sandbox = large_sandbox();
    let backup = format!("backup {}/copy.db", sandbox.folder.path().display());
    for (args, steps, report) in [
        ("verify", ["verifying   ["; 2], "intact      yes"),
        ("map", ["reading     ["; 2], "generation  1"),
        ("compact", ["writing     [", "checking    ["], "generation  2"),
        (&backup, ["writing     [", "checking    ["], "backup      "),
    ] {
        let Some(terminal) = Terminal::open(&sandbox, 120) else { return };
        let seen = terminal.run("", args);
        assert_eq!(seen.code, "0", "{seen:?}");
        assert!(steps.iter().any(|step| seen.recorded.contains(&format!("\r{step}"))), "{args}: {seen:?}");
        assert!(seen.shown.contains(report) && !steps.iter().any(|step| seen.shown.contains(step)), "{seen:?}");
        // The report replaces the bar.
        assert!(seen.shown.lines().any(|line| line.starts_with("state       /")), "{seen:?}");
    }
}

#[test]
fn a_pipe_gets_no_progress_bar() {
    let sandbox = large_sandbox();
    for args in ["verify", "map", "compact"] {
        let outcome = sandbox.run(args);
        assert!(outcome.success().starts_with("state       "), "{args}");
    }
    let Some(terminal) = Terminal::open(&sandbox, 120) else { return };
    let errors = sandbox.folder.path().join("errors");
    let seen = terminal.run("", &format!("verify 2> {}", errors.display()));
    assert!(!seen.recorded.contains("verifying") && fs::read(errors).unwrap().is_empty(), "{seen:?}");
}

#[test]
fn the_map_has_colours_in_a_terminal_unless_turned_off() {
    let sandbox = large_sandbox();
    let Some(terminal) = Terminal::open(&sandbox, 120) else { return };
    let colour = "\x1b[30m\x1b[48;5;36m#";
    let seen = terminal.run("", "map");
    assert!(seen.shown.contains(colour), "{seen:?}");
    for before in ["NO_COLOR=1", "TERM=dumb"] {
        let seen = terminal.run(before, "map");
        assert!(!seen.shown.contains('\x1b') && seen.shown.contains("#####"), "{seen:?}");
    }
    // An empty value does not turn colours off, as no-color.org specifies.
    assert!(terminal.run("NO_COLOR=", "map").shown.contains(colour));
    let piped = terminal.run("", "map | cat");
    assert!(!piped.shown.contains('\x1b') && piped.shown.contains("#####"), "{piped:?}");
}

#[test]
fn the_map_fits_a_narrow_terminal() {
    let sandbox = large_sandbox();
    for (columns, symbols) in [(120, 64), (80, 64), (75, 32), (50, 32), (40, 16)] {
        let Some(terminal) = Terminal::open(&sandbox, columns) else { return };
        let seen = terminal.run("NO_COLOR=1", "map");
        let rows = seen.shown.lines().filter(|line| line.trim_start().starts_with(|c: char| c.is_ascii_digit()));
        let widths: Vec<_> = rows.map(|row| row.len() - 12).collect();
        assert!(widths.contains(&symbols), "{columns}: {seen:?}");
        assert!(widths.iter().all(|width| *width <= symbols), "{columns}: {seen:?}");
    }
}

#[test]
fn a_narrow_terminal_breaks_lines_between_words() {
    let sandbox = large_sandbox();
    let Some(terminal) = Terminal::open(&sandbox, 40) else { return };
    for (args, code) in [
        ("verify", "0"),
        ("stats", "0"),
        ("health-check", "0"),
        ("map", "0"),
        ("dump-state", "0"),
        ("logs list", "0"),
        ("config get", "0"),
        ("queue show none", "6"),
        ("queue list --limt", "2"),
        ("verify --help", "0"),
    ] {
        let seen = terminal.run("NO_COLOR=1", args);
        assert_eq!(seen.code, code, "{seen:?}");
        // As the program wrote it, after `clear`: what is not wider than the terminal is not broken there.
        let recorded = seen.recorded.replace("\x1b[H\x1b[J\x1b[3J", "\n");
        let lines = recorded.split(['\n', '\r']).filter(|line| !line.starts_with("clear; "));
        let too_wide: Vec<_> = lines.filter(|line| line.chars().count() > 40).collect();
        assert_eq!(too_wide, [""; 0], "{args}");
        // Every word is there. Those with digits may differ from run to run, and bars and the map are narrower.
        let is_word = |word: &&str| !word.contains(|c: char| c.is_ascii_digit() || "#.x[".contains(c));
        let piped = sandbox.run(args);
        for word in format!("{} {}", piped.out, piped.err).split_whitespace().filter(is_word) {
            assert!(recorded.split_whitespace().any(|shown| shown == word), "{args}: {word}: {recorded}");
        }
    }
    let recorded = terminal.run("", "verify").recorded;
    let bars: Vec<_> = recorded.split('\r').filter(|part| part.starts_with("verifying ")).collect();
    assert!(!bars.is_empty() && bars.iter().all(|bar| bar.chars().count() == 39), "{bars:?}");
}

#[test]
fn output_cut_off_by_head_is_not_a_failure() {
    let sandbox = large_sandbox();
    let Some(terminal) = Terminal::open(&sandbox, 120) else { return };
    for read in ["frames", "map", "dump-state"] {
        let seen = terminal.run("", &format!("{read} | head -1"));
        assert_eq!((seen.code.as_str(), seen.shown.trim_end().lines().count()), ("0", 1), "{seen:?}");
    }
}

#[test]
fn the_progress_bar_uses_no_escape_codes_and_stays_out_of_the_report() {
    let sandbox = Sandbox::with_dead_space();
    for (command, steps) in [
        ("verify", ["verifying   ["; 2]),
        (MAINTENANCE[0], ["writing     [", "checking    ["]),
        (MAINTENANCE[2], ["writing     [", "checking    ["]),
        (MAINTENANCE[1], ["writing     [", "checking    ["]),
    ] {
        let report = sandbox.folder.path().join("report.json");
        let program = env!("CARGO_BIN_EXE_backupy-state");
        let line = format!("{program} {} --json > {}", sandbox.maintenance(command), report.display());
        // `script` opens a terminal and copies its output to stdout.
        let mut script = Command::new("script");
        script.args(["--quiet", "--return", "--command", &line, "/dev/null"]).stdin(Stdio::null());
        script
            .env("SHELL", "/bin/sh")
            .env("BACKUPY_AGENT_KEY", KEY)
            .env("BACKUPY_STATE_DIR", sandbox.folder.path());
        let output = script.output().expect("the test needs `script` of util-linux");
        assert!(output.status.success(), "{output:?}");
        let shown = String::from_utf8(output.stdout).unwrap();
        assert!(steps.iter().any(|step| shown.contains(&format!("\r{step}"))), "{shown:?}");
        // The bar is erased at the end, without colours or escape codes.
        assert!(
            shown.ends_with(&format!(" %\r\r{}\r\r\r", " ".repeat(50))) && !shown.contains('\x1b'),
            "{shown:?}"
        );
        let outcome: serde_json::Value = serde_json::from_slice(&fs::read(&report).unwrap()).unwrap();
        assert!(outcome["state"].is_string(), "{outcome}");
    }
}

#[test]
fn without_a_thread_for_the_bar_the_command_works_without_a_bar() {
    let sandbox = large_sandbox();
    let Some(program) = sandbox.limited_to(1) else { return };
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--command", &format!("{program} verify"), "/dev/null"]);
    script.stdin(Stdio::null()).env("SHELL", "/bin/sh").env("BACKUPY_AGENT_KEY", KEY);
    let output = script.env("BACKUPY_STATE_DIR", sandbox.folder.path()).output().unwrap();
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && shown.contains("intact      yes"), "{shown}");
    assert!(!shown.contains("verifying"), "the limit was not kept: {shown}");
}
