//! A real terminal, under tmux: what an operator sees of bars and colours, and what of them goes into a pipe.

use std::cell::Cell;
use std::fs;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::place::{KEY, Place, say_skipped};

/// A tmux server of its own, with one window.
struct Terminal<'a> {
    place: &'a Place,
    server: String,
    /// How many commands were run: the end of one must not pass for that of the next.
    runs: Cell<usize>,
}

impl<'a> Terminal<'a> {
    /// Of so many columns; `None` where there is no tmux.
    fn open(place: &'a Place, columns: usize) -> Option<Self> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let works = Command::new("tmux").arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status();
        if !works.is_ok_and(|status| status.success()) {
            say_skipped("tmux is not there: nobody has looked at a terminal");
            return None;
        }
        let server = format!("backupy-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let terminal = Terminal { place, server, runs: Cell::new(0) };
        // Waits for a line before each command, so that the recording begins before the command does.
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
        command.env("BACKUPY_STATE_DIR", self.place.folder.path()).env_remove("NO_COLOR");
        let output = command.output().unwrap();
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn recording(&self) -> std::path::PathBuf {
        self.place.folder.path().join(&self.server)
    }

    /// Runs the tool with these arguments in the window, and waits for its end.
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
            // What records is a process of its own, and on a busy machine it comes later than the window.
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
    /// The window when the command had ended, with its colours.
    shown: String,
    code: String,
    /// All that came until then.
    recorded: String,
}

/// With enough in it that reading takes a moment.
fn long_place() -> Place {
    let place = Place::filled();
    let store = place.open();
    for number in 0..20 {
        store.enqueue_job(&format!("large-{number}"), &[7; 200_000]).unwrap();
    }
    store.close().unwrap();
    place
}

#[test]
fn bars_are_drawn_in_a_terminal_and_are_gone_at_the_end() {
    let place = long_place();
    let backup = format!("backup {}/copy.db", place.folder.path().display());
    for (args, steps, report) in [
        ("verify", ["verifying   ["; 2], "intact      yes"),
        ("map", ["reading     ["; 2], "generation  1"),
        ("compact", ["writing     [", "checking    ["], "generation  2"),
        (&backup, ["writing     [", "checking    ["], "backup      "),
    ] {
        let Some(terminal) = Terminal::open(&place, 120) else { return };
        let seen = terminal.run("", args);
        assert_eq!(seen.code, "0", "{seen:?}");
        assert!(steps.iter().any(|step| seen.recorded.contains(&format!("\r{step}"))), "{args}: {seen:?}");
        assert!(seen.shown.contains(report) && !steps.iter().any(|step| seen.shown.contains(step)), "{seen:?}");
        // The report begins where the bar was.
        assert!(seen.shown.lines().any(|line| line.starts_with("state       /")), "{seen:?}");
    }
}

#[test]
fn no_bar_goes_into_a_pipe() {
    let place = long_place();
    for args in ["verify", "map", "compact"] {
        let said = place.run(args);
        assert!(said.well().starts_with("state       "), "{args}");
    }
    let Some(terminal) = Terminal::open(&place, 120) else { return };
    let errors = place.folder.path().join("errors");
    let seen = terminal.run("", &format!("verify 2> {}", errors.display()));
    assert!(!seen.recorded.contains("verifying") && fs::read(errors).unwrap().is_empty(), "{seen:?}");
}

#[test]
fn the_map_has_colours_in_a_terminal_unless_they_are_not_wanted() {
    let place = long_place();
    let Some(terminal) = Terminal::open(&place, 120) else { return };
    let colour = "\x1b[30m\x1b[48;5;36m#";
    let seen = terminal.run("", "map");
    assert!(seen.shown.contains(colour), "{seen:?}");
    for before in ["NO_COLOR=1", "TERM=dumb"] {
        let seen = terminal.run(before, "map");
        assert!(!seen.shown.contains('\x1b') && seen.shown.contains("#####"), "{seen:?}");
    }
    // Set, but empty, as no-color.org has it.
    assert!(terminal.run("NO_COLOR=", "map").shown.contains(colour));
    let piped = terminal.run("", "map | cat");
    assert!(!piped.shown.contains('\x1b') && piped.shown.contains("#####"), "{piped:?}");
}

#[test]
fn the_map_fits_a_narrow_terminal() {
    let place = long_place();
    for (columns, marks) in [(120, 64), (80, 64), (75, 32), (50, 32), (40, 16)] {
        let Some(terminal) = Terminal::open(&place, columns) else { return };
        let seen = terminal.run("NO_COLOR=1", "map");
        let rows = seen.shown.lines().filter(|line| line.trim_start().starts_with(|c: char| c.is_ascii_digit()));
        let widths: Vec<_> = rows.map(|row| row.len() - 12).collect();
        assert!(widths.contains(&marks), "{columns}: {seen:?}");
        assert!(widths.iter().all(|width| *width <= marks), "{columns}: {seen:?}");
    }
}

#[test]
fn a_look_that_is_cut_off_by_head_is_quiet() {
    let place = long_place();
    let Some(terminal) = Terminal::open(&place, 120) else { return };
    for look in ["frames", "map", "dump-state"] {
        let seen = terminal.run("", &format!("{look} | head -1"));
        assert_eq!((seen.code.as_str(), seen.shown.trim_end().lines().count()), ("0", 1), "{seen:?}");
    }
}
