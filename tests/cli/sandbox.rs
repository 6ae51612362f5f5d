//! A temporary folder for a store, the command line run on it, and its output.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use backupy_state::{AgentKey, Store};
use serde_json::Value;
use tempfile::TempDir;

pub(crate) const KEY: &str = "bkpy_0123456789abcdef0123456789abcdef";
pub(crate) const RAW_CONFIG: &str = "interval = 42, the raw configuration";
pub(crate) const SESSION_ID: &str = "session-of-a-secret-kind";
pub(crate) const PAYLOAD: &str = "a payload that no one may see";
pub(crate) const EVENT: &str = "an event that no one may see";
pub(crate) const SERVER_TIME_MS: i64 = 1_700_000_000_123;
pub(crate) const HEARTBEAT_MS: i64 = 1_700_000_060_000;

pub(crate) struct Sandbox {
    pub(crate) folder: TempDir,
}

impl Sandbox {
    /// A folder without a store.
    pub(crate) fn empty() -> Self {
        Sandbox { folder: tempfile::tempdir().unwrap() }
    }

    /// A folder with a store that has been filled and closed.
    pub(crate) fn filled() -> Self {
        let sandbox = Sandbox::empty();
        sandbox.close(sandbox.fill());
        sandbox
    }

    /// Opens a store and writes some of every kind of value.
    pub(crate) fn fill(&self) -> Store {
        let store = self.open();
        store.save_config(7, RAW_CONFIG.as_bytes()).unwrap();
        store.save_session(SESSION_ID, SERVER_TIME_MS).unwrap();
        store.record_heartbeat(HEARTBEAT_MS).unwrap();
        store.enqueue_job("run-1", PAYLOAD.as_bytes()).unwrap();
        store.enqueue_job("run-2", b"\x00\xffbinary").unwrap();
        store.enqueue_job("run-3", b"acked soon").unwrap();
        store.ack_job("run-3").unwrap();
        store.buffer_log(5, EVENT.as_bytes()).unwrap();
        store.buffer_log(6, EVENT.as_bytes()).unwrap();
        store.drain_logs(1).unwrap();
        store
    }

    pub(crate) fn open(&self) -> Store {
        Store::open(self.state(), &AgentKey::new(KEY).unwrap()).unwrap()
    }

    /// Closes the store and cuts off the reserve, so that the file ends with its last frame.
    pub(crate) fn close(&self, store: Store) {
        store.close().unwrap();
        let mut bytes = self.bytes();
        let last = bytes.iter().rposition(|byte| *byte != 0).unwrap();
        bytes.truncate((last + 1).next_multiple_of(8));
        self.write(&bytes);
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.folder.path().join("state.db")
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        fs::read(self.state()).unwrap()
    }

    /// Every file of the folder, with its bytes.
    pub(crate) fn contents(&self) -> BTreeMap<String, Vec<u8>> {
        let read = |name: String| {
            let bytes = fs::read(self.folder.path().join(&name)).unwrap();
            (name, bytes)
        };
        self.files().into_iter().map(read).collect()
    }

    /// Puts a file at each name that belongs to the store, where there is none, and returns their paths.
    pub(crate) fn with_own_files(&self, bytes: &[u8]) -> Vec<String> {
        let path = |name: &str| self.folder.path().join(name).to_str().unwrap().to_owned();
        let paths: Vec<String> = OWN_NAMES.into_iter().map(path).collect();
        for path in paths.iter().filter(|path| !Path::new(path).exists()) {
            fs::write(path, bytes).unwrap();
        }
        paths
    }

    /// Runs the command where the state file is mounted by itself, as a container runtime mounts a single file.
    /// `None` if nothing can be mounted here.
    pub(crate) fn run_mounted(&self, args: &str) -> Option<Outcome> {
        let state = self.state();
        let in_namespace = |program: &Path, args: &str| {
            let mut command = Command::new("unshare");
            if fs::metadata(self.folder.path()).unwrap().uid() != 0 {
                command.arg("--map-root-user");
            }
            command.args(["--mount", "sh", "-c", "mount --bind \"$0\" \"$0\" && exec \"$@\""]);
            command.arg(&state).arg(program).args(args.split_whitespace());
            command.env("BACKUPY_STATE_DIR", self.folder.path()).env("BACKUPY_AGENT_KEY", KEY).output()
        };
        if !in_namespace(Path::new("true"), "").is_ok_and(|output| output.status.success()) {
            report_skipped("no file can be mounted here: a state file that is mounted by itself was not tested");
            return None;
        }
        Some(self.outcome(in_namespace(Path::new(env!("CARGO_BIN_EXE_backupy-state")), args).unwrap()))
    }

    /// Writes a key file that only its owner can read, and returns its path.
    pub(crate) fn write_key_file(&self, name: &str, text: &str) -> String {
        let path = self.folder.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path.to_str().unwrap().to_owned()
    }

    pub(crate) fn write(&self, bytes: &[u8]) {
        fs::write(self.state(), bytes).unwrap();
    }

    /// Changes the last value in frame `seq` so that it fails authentication but not its checksums.
    pub(crate) fn tamper_with_frame(&self, seq: usize) {
        // A byte of the last tag: the padding is shorter than 8 bytes.
        self.tamper(seq, |len| len - 8);
    }

    /// The first byte of the manifest, which comes after the header.
    pub(crate) fn tamper_with_manifest(&self, seq: usize) {
        self.tamper(seq, |_| 48);
    }

    fn tamper(&self, seq: usize, at: impl FnOnce(usize) -> usize) {
        let frames = self.run("frames --json").out;
        let frame: Value = serde_json::from_str(frames.lines().nth(seq - 1).unwrap()).unwrap();
        let number = |name: &str| usize::try_from(frame[name].as_u64().unwrap()).unwrap();
        let mut bytes = self.bytes();
        tamper(&mut bytes, number("offset"), number("len"), at(number("len")));
        self.write(&bytes);
    }

    /// The command without a key, on the state in this folder.
    pub(crate) fn keyless(&self, args: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_backupy-state"));
        command.args(args.split_whitespace());
        command.env_remove("BACKUPY_AGENT_KEY");
        command.env("BACKUPY_STATE_DIR", self.folder.path());
        command
    }

    pub(crate) fn command(&self, args: &str) -> Command {
        let mut command = self.keyless(args);
        command.env("BACKUPY_AGENT_KEY", KEY);
        command
    }

    pub(crate) fn run(&self, args: &str) -> Outcome {
        self.outcome(self.command(args).output().unwrap())
    }

    /// The program, at the end of a command for the shell that lets its user have this many processes and threads.
    /// The limit does not apply to root, so root runs a copy of the program as another user, who can then write to
    /// the folder. `None` if that is not possible here.
    pub(crate) fn limited_to(&self, threads: usize) -> Option<String> {
        static USERS: AtomicU32 = AtomicU32::new(0);
        let mut limited = format!("prlimit --nproc={threads} ");
        let folder = self.folder.path();
        let program = folder.join("backupy-state");
        fs::copy(env!("CARGO_BIN_EXE_backupy-state"), &program).unwrap();
        if fs::metadata(folder).unwrap().uid() == 0 {
            // A user without any other process.
            let user = 100_000 + std::process::id() * 16 + USERS.fetch_add(1, Relaxed) % 16;
            limited += &format!("setpriv --reuid={user} --regid={user} --clear-groups ");
            for (path, mode) in [(folder.to_path_buf(), 0o777), (self.state(), 0o644)] {
                if path.exists() {
                    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
                }
            }
        }
        limited += program.to_str().unwrap();
        let works = Command::new("sh").args(["-c", &format!("{limited} --version")]).output().unwrap();
        if !works.status.success() {
            report_skipped(
                "no process can run with a limit on its threads here: the lack of threads was not tested",
            );
            return None;
        }
        Some(limited)
    }

    /// Runs the command with this stdin.
    pub(crate) fn fed(&self, args: &str, stdin: &[u8]) -> Outcome {
        let mut command = self.command(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // A command that fails early does not read its stdin.
        let _ = child.stdin.take().unwrap().write_all(stdin);
        self.outcome(child.wait_with_output().unwrap())
    }

    /// Replaces what differs from run to run by placeholders.
    pub(crate) fn outcome(&self, output: Output) -> Outcome {
        let folder = fs::canonicalize(self.folder.path()).unwrap();
        let normalized = |bytes| {
            let text = String::from_utf8(bytes).unwrap();
            without_ages(&text.replace(folder.to_str().unwrap(), "[DIR]"))
        };
        Outcome { code: output.status.code(), out: normalized(output.stdout), err: normalized(output.stderr) }
    }
}

/// Bytes that are not text, and that must be read back unchanged.
pub(crate) const BINARY: &[u8] = b"\x00\xff\n\r\n binary \xfe";

impl Sandbox {
    pub(crate) fn stdout_of(&self, args: &str) -> Vec<u8> {
        let output = self.command(args).output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        output.stdout
    }
}

/// Replaces ages such as `(5 s ago)`.
fn without_ages(text: &str) -> String {
    let Some((before, rest)) = text.split_once(" ago)") else { return text.to_owned() };
    let (before, _age) = before.rsplit_once('(').unwrap();
    format!("{before}([AGE]){}", without_ages(rest))
}

#[derive(Debug)]
pub(crate) struct Outcome {
    /// `None` if a signal ended the process.
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Outcome {
    /// Asserts success, and returns the stdout.
    #[track_caller]
    pub(crate) fn success(self) -> String {
        assert_eq!((self.code, self.err.as_str()), (Some(0), ""), "{}", self.out);
        self.out
    }

    /// Asserts success, and parses the stdout as JSON.
    #[track_caller]
    pub(crate) fn json(self) -> Value {
        serde_json::from_str(&self.success()).unwrap()
    }

    /// Asserts this exit code, and one object on stdout whose `error` has the message on stderr. Returns the
    /// object.
    #[track_caller]
    pub(crate) fn failed_json(&self, code: i32) -> Value {
        let report: Value = serde_json::from_str(&self.out).expect(&self.out);
        assert_eq!(report["error"]["message"], self.failed(code), "{self:?}");
        report
    }

    /// Asserts this exit code and a one-sentence message on stderr, and returns the message.
    #[track_caller]
    pub(crate) fn failed(&self, code: i32) -> &str {
        assert_eq!(self.code, Some(code), "{self:?}");
        let sentence = self.err.strip_prefix("backupy-state: ").expect(&self.err);
        let sentence = sentence.strip_suffix('\n').expect(&self.err);
        assert!(!sentence.contains('\n') && !sentence.starts_with(char::is_uppercase), "{sentence}");
        sentence
    }
}

/// The names next to `state.db` that belong to the store.
pub(crate) const OWN_NAMES: [&str; 7] = [
    "state.db.lock",
    "state.db.new",
    "state.db.torn",
    "state.db.torn-1",
    "state.db.damaged-1",
    "state.db.index",
    "state.db.index.new",
];

/// What is printed where the log is mounted by itself.
pub(crate) const MOUNTED: &str = "compaction is unavailable: the log is mounted by itself, so no other file \
                                  can take its place; mount its folder instead";

/// Every command that only reads a store.
pub(crate) const READS: [&str; 18] = [
    "health-check",
    "dump-state",
    "verify",
    "verify --no-key",
    "stats",
    "frames",
    "frames --no-key",
    "map",
    "map --no-key",
    "config get",
    "queue list",
    "queue show run-1",
    "logs peek",
    "logs list",
    "data list",
    "session",
    "heartbeat",
    "anchor",
];

/// A call of each command that writes or removes a value, with its stdin.
pub(crate) const WRITES: [(&str, &str); 8] = [
    ("config set --version 8 -", RAW_CONFIG),
    ("queue enqueue run-1 -", PAYLOAD),
    ("queue ack run-1", ""),
    ("logs add -", EVENT),
    ("logs drain --discard", ""),
    ("logs discard-unreadable", ""),
    ("data put cursor -", PAYLOAD),
    ("heartbeat record", ""),
];

/// CRC-32/ISO-HDLC, bit by bit: slow, but independent of the code under test.
pub(crate) fn crc32(parts: &[&[u8]]) -> [u8; 4] {
    let mut crc = u32::MAX;
    for byte in parts.iter().copied().flatten() {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0xEDB8_8320 } else { crc >> 1 };
        }
    }
    (!crc).to_le_bytes()
}

/// Changes a byte in the body of the frame at `offset` and corrects its CRCs, as is possible without the key.
fn tamper(bytes: &mut [u8], offset: usize, len: usize, at: usize) {
    let salt = bytes[48..80].to_vec();
    let frame = &mut bytes[offset..offset + len];
    frame[at] ^= 1;
    let body_crc = crc32(&[&salt, &frame[48..]]);
    frame[4..8].copy_from_slice(&body_crc);
    let header_crc = crc32(&[&salt, &frame[4..48]]);
    frame[..4].copy_from_slice(&header_crc);
}

#[test]
fn the_crc_of_these_tests_has_the_known_check_value() {
    assert_eq!(crc32(&[b"1234", b"56789"]), 0xCBF4_3926_u32.to_le_bytes());
}

/// Writes past the test harness, which captures output: a skipped test must not look like one that ran.
pub(crate) fn report_skipped(why: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED: {why}");
}
