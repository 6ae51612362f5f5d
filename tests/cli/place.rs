//! A folder with a store in it, the command on it, and what the command said.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use backupy_state::{AgentKey, Store};
use serde_json::Value;
use tempfile::TempDir;

pub(crate) const KEY: &str = "bkpy_0123456789abcdef0123456789abcdef";
pub(crate) const RAW_CONFIG: &str = "interval = 42, the raw configuration";
pub(crate) const SESSION_ID: &str = "session-of-a-secret-kind";
pub(crate) const PAYLOAD: &str = "a payload that nobody may see";
pub(crate) const EVENT: &str = "an event that nobody may see";
pub(crate) const SERVER_TIME_MS: i64 = 1_700_000_000_123;
pub(crate) const HEARTBEAT_MS: i64 = 1_700_000_060_000;

pub(crate) struct Place {
    pub(crate) folder: TempDir,
}

impl Place {
    /// Without a store.
    pub(crate) fn empty() -> Self {
        Place { folder: tempfile::tempdir().unwrap() }
    }

    /// With a store that was filled and closed.
    pub(crate) fn filled() -> Self {
        let place = Place::empty();
        place.fill().close().unwrap();
        place
    }

    /// A store with a little of everything, open.
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

    pub(crate) fn state(&self) -> PathBuf {
        self.folder.path().join("state.db")
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        fs::read(self.state()).unwrap()
    }

    pub(crate) fn write(&self, bytes: &[u8]) {
        fs::write(self.state(), bytes).unwrap();
    }

    /// Breaks the seal of the last value in the frame of this number, and no checksum.
    pub(crate) fn tamper_with_frame(&self, seq: usize) {
        let frames = self.run("frames --json").out;
        let frame: Value = serde_json::from_str(frames.lines().nth(seq - 1).unwrap()).unwrap();
        let number = |name: &str| usize::try_from(frame[name].as_u64().unwrap()).unwrap();
        let mut bytes = self.bytes();
        // The last byte but the padding.
        tamper(&mut bytes, number("offset"), number("len"), number("len") - 8);
        self.write(&bytes);
    }

    /// The command without a key, with the folder where it looks for the state.
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

    pub(crate) fn run(&self, args: &str) -> Said {
        self.said(self.command(args).output().unwrap())
    }

    /// With something on its stdin.
    pub(crate) fn fed(&self, args: &str, stdin: &[u8]) -> Said {
        let mut command = self.command(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // A command that fails early does not read it.
        let _ = child.stdin.take().unwrap().write_all(stdin);
        self.said(child.wait_with_output().unwrap())
    }

    /// Puts words in the place of what differs from run to run.
    pub(crate) fn said(&self, output: Output) -> Said {
        let folder = fs::canonicalize(self.folder.path()).unwrap();
        let tame = |bytes| {
            let text = String::from_utf8(bytes).unwrap();
            without_ages(&text.replace(folder.to_str().unwrap(), "[DIR]"))
        };
        Said { code: output.status.code(), out: tame(output.stdout), err: tame(output.stderr) }
    }
}

/// `(5 s ago)` differs from run to run.
fn without_ages(text: &str) -> String {
    let Some((before, rest)) = text.split_once(" ago)") else { return text.to_owned() };
    let (before, _age) = before.rsplit_once('(').unwrap();
    format!("{before}([AGE]){}", without_ages(rest))
}

#[derive(Debug)]
pub(crate) struct Said {
    /// `None`: a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Said {
    /// It went well; this is what it said.
    #[track_caller]
    pub(crate) fn well(self) -> String {
        assert_eq!((self.code, self.err.as_str()), (Some(0), ""), "{}", self.out);
        self.out
    }

    /// It went well and said JSON.
    #[track_caller]
    pub(crate) fn json(self) -> Value {
        serde_json::from_str(&self.well()).unwrap()
    }

    /// It failed with this code, in one sentence on stderr.
    #[track_caller]
    pub(crate) fn failed(&self, code: i32) -> &str {
        assert_eq!(self.code, Some(code), "{self:?}");
        let sentence = self.err.strip_prefix("backupy-state: ").expect(&self.err);
        let sentence = sentence.strip_suffix('\n').expect(&self.err);
        assert!(!sentence.contains('\n') && !sentence.starts_with(char::is_uppercase), "{sentence}");
        sentence
    }
}

/// Every command that looks at a store.
pub(crate) const LOOKS: [&str; 17] = [
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
    "session",
    "heartbeat",
    "anchor",
];

/// A call of each command that writes a value or removes one, with what it reads on its stdin.
pub(crate) const WRITES: [(&str, &str); 7] = [
    ("config set --version 8 -", RAW_CONFIG),
    ("queue enqueue run-1 -", PAYLOAD),
    ("queue ack run-1", ""),
    ("logs add -", EVENT),
    ("logs drain --discard", ""),
    ("logs discard-unreadable", ""),
    ("heartbeat record", ""),
];

/// CRC-32/ISO-HDLC, bit by bit: slow, and not the code under test.
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

/// Changes a byte in the body of the frame at `offset` and makes its CRCs right again, as one who has no key could.
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

/// Not through the harness, which would swallow it: a test that did not run must not pass for one that did.
pub(crate) fn say_skipped(why: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED: {why}");
}
