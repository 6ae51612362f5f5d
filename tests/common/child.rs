//! Child processes: the test binary runs itself again, with one test that plays the child.
//!
//! Such a test does nothing unless [`child_path`] gives it a path. It writes lines to its standard output
//! ([`say`]), each in one call, so that half a line of a killed child is never taken for a whole one.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{ChildStdout, Command, Stdio};
use std::thread;
use std::time::Duration;

const PATH_VAR: &str = "BACKUPY_TEST_CHILD_PATH";
/// Tells a child's lines from what the test harness prints.
const MARK: char = '>';

/// The path that the parent names, in the child; elsewhere nothing.
pub(crate) fn child_path() -> Option<PathBuf> {
    std::env::var_os(PATH_VAR).map(PathBuf::from)
}

/// Says a line to the parent.
pub(crate) fn say(line: &str) {
    let line = format!("\n{MARK}{line}\n");
    std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
}

/// Says why a test does less than it could here. The harness would keep what `println` says of a test that passes.
pub(crate) fn say_skipped(why: &str) {
    std::io::stderr().lock().write_all(format!("\nSKIPPED: {why}\n").as_bytes()).unwrap();
}

/// The command that runs the test `test` (with its module: `locking::child_that_races`) of this binary as a child,
/// on `path`.
pub(crate) fn test_binary(test: &str, path: &Path) -> Command {
    child_command(std::env::current_exe().unwrap(), test, path)
}

fn child_command(program: impl AsRef<OsStr>, test: &str, path: &Path) -> Command {
    let mut command = Command::new(program);
    command.args([test, "--exact", "--nocapture", "--test-threads=1"]).env(PATH_VAR, path);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    command
}

/// The command, started by another program, whose last arguments it becomes.
pub(crate) fn started_by<S: AsRef<OsStr>>(program: &[S], plain: &Command) -> Command {
    let mut command = Command::new(&program[0]);
    command.args(&program[1..]).arg(plain.get_program()).args(plain.get_args());
    command.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    command
}

/// The command, started by a shell after `script`, in which `$FOLDER` is the folder of the child's path.
pub(crate) fn after_script(script: &str, plain: &Command) -> Command {
    let mut command = started_by(&["sh", "-c", &format!("set -e; {script}; exec \"$0\" \"$@\"")], plain);
    let path = plain.get_envs().find_map(|(name, value)| (name == PATH_VAR).then_some(value?));
    if let Some(folder) = path.and_then(|path| Path::new(path).parent()) {
        command.env("FOLDER", folder);
    }
    command
}

/// The same in a mount namespace of its own, so that no other process sees what the script mounts. `None`, and
/// says so, where this process may not make one.
pub(crate) fn with_mounts(script: &str, plain: &Command) -> Option<Command> {
    let program = ["unshare", "--mount", "--propagation", "private"];
    let mut probe = started_by(&program, &after_script("mount -t tmpfs none /mnt", &Command::new("true")));
    if probe.stderr(Stdio::null()).status().is_ok_and(|status| status.success()) {
        return Some(started_by(&program, &after_script(script, plain)));
    }
    say_skipped("there can be no mount namespace here: nothing is mounted");
    None
}

/// Whether this process may do everything, so that the modes of files do not bind it.
pub(crate) fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;

    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().metadata().unwrap().uid() == 0
}

/// A running child. Killed when it is dropped.
pub(crate) struct Child {
    process: std::process::Child,
    lines: BufReader<ChildStdout>,
}

pub(crate) fn spawn(command: &mut Command) -> Child {
    let mut process = command.spawn().unwrap();
    let lines = BufReader::new(process.stdout.take().unwrap());
    Child { process, lines }
}

impl Child {
    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// The next line that the child says; nothing when it has ended.
    pub(crate) fn hear(&mut self) -> Option<String> {
        next_line(&mut self.lines)
    }

    /// Waits for a line.
    pub(crate) fn expect(&mut self, line: &str) {
        assert_eq!(self.hear().as_deref(), Some(line));
    }

    /// Panics if the child has ended, so that no test waits for it in vain.
    pub(crate) fn assert_running(&mut self) {
        assert!(matches!(self.process.try_wait(), Ok(None)), "the child has ended");
    }

    /// SIGKILL. What the child said before can still be heard.
    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Listens for a while, so that the pipe does not fill up, then kills. Returns all that was said.
    pub(crate) fn hear_and_kill_after(&mut self, delay: Duration) -> Vec<String> {
        let Child { process, lines } = self;
        thread::scope(|threads| {
            let listener = threads.spawn(|| std::iter::from_fn(|| next_line(lines)).collect());
            thread::sleep(delay);
            process.kill().unwrap();
            process.wait().unwrap();
            listener.join().unwrap()
        })
    }

    /// Waits for the end of a child that must end well.
    pub(crate) fn finish(mut self) {
        while self.hear().is_some() {}
        assert!(self.process.wait().unwrap().success());
    }
}

fn next_line(lines: &mut impl BufRead) -> Option<String> {
    loop {
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        // A last line without its end was cut off by the kill.
        let line = line.strip_suffix('\n')?;
        if let Some(said) = line.strip_prefix(MARK) {
            return Some(said.to_owned());
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
