//! Each row of the table in `docs/damage.md`: the damage is made, a command shows the message with the exit code
//! of the row, the row's advice is followed, and the store works again.

use std::any::Any;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use backupy_state::{AgentKey, Store};

use crate::health_check::sandbox_with_unreadable_drops;
use crate::remedies::{Row, commands_in, rows};
use crate::sandbox::{KEY, Outcome, Sandbox, crc32, report_skipped};

/// A damaged store, and what a command has shown of it.
struct Damaged {
    sandbox: Sandbox,
    shown: Outcome,
    /// What still holds it while the advice is followed, such as an agent.
    holder: Option<Box<dyn Any>>,
    /// What stands in the advice for something that the operator knows.
    known: Vec<(&'static str, String)>,
}

impl Damaged {
    fn shown_by(sandbox: Sandbox, command: &str) -> Option<Self> {
        let shown = sandbox.run(command);
        Some(Damaged { sandbox, shown, holder: None, known: Vec::new() })
    }

    fn knowing(mut self, name: &'static str, value: impl ToString) -> Option<Self> {
        self.known.push((name, value.to_string()));
        Some(self)
    }

    /// The command, with what the operator knows in its place.
    fn filled_in(&self, command: &str) -> String {
        self.known.iter().fold(command.to_owned(), |command, (name, value)| command.replace(name, value))
    }

    fn held_by(self, holder: impl Any) -> Option<Self> {
        Some(Damaged { holder: Some(Box::new(holder)), ..self })
    }
}

/// Makes the damage. `None`, and says so, where that is not possible.
type Make = fn() -> Option<Damaged>;

/// Words of the message of each row, and how to see it.
const CASES: [(&str, Make); 38] = [
    ("ok: ", || Damaged::shown_by(Sandbox::filled(), "health-check")),
    ("is damaged at offset", || Damaged::shown_by(with_flipped_byte(8192 + 60), "stats")),
    ("is not intact: damage", || Damaged::shown_by(with_flipped_byte(8192 + 60), "verify")),
    ("is not intact: header", || Damaged::shown_by(with_flipped_byte(2048 + 30), "verify")),
    ("is not intact: tampering", || Damaged::shown_by(tampered(CONFIG_FRAME), "verify")),
    ("; it was not changed; ", || {
        let sandbox = with_backup();
        sandbox.tamper_with_manifest(CONFIG_FRAME);
        Damaged::shown_by(sandbox, "config get")
    }),
    ("this is the payload of job", || {
        Damaged::shown_by(tampered(JOB_FRAME), "queue show run-1")?.knowing("ID", "run-1")
    }),
    ("this is the value of data key", || {
        Damaged::shown_by(tampered_data("cursor"), "data get cursor")?.knowing("KEY", "cursor")
    }),
    ("the count of dropped log events is unreadable", || {
        Damaged::shown_by(sandbox_with_unreadable_drops(), "health-check --max-dropped 0")
    }),
    ("log event ... is unreadable", || Damaged::shown_by(tampered(LOG_FRAME), "logs peek")),
    ("this is a log event", || Damaged::shown_by(tampered(LOG_FRAME), "compact")),
    ("this is the configuration", || {
        let sandbox = tampered(CONFIG_FRAME);
        fs::write(sandbox.folder.path().join("raw"), "backup at 02:00").unwrap();
        Damaged::shown_by(sandbox, "compact")?.knowing("N", 8)?.knowing("FILE", "raw")
    }),
    ("this is the session", || Damaged::shown_by(tampered(SESSION_FRAME), "compact")),
    ("this is the heartbeat", || Damaged::shown_by(tampered(HEARTBEAT_FRAME), "compact")),
    ("is not intact: index", index_that_differs),
    ("does not match the anchor", older),
    ("has cut the file", || {
        while_draining(|sandbox| File::options().write(true).open(sandbox.state())?.set_len(9000))
    }),
    ("under another agent key", || shown_with(|command| command.env("BACKUPY_AGENT_KEY", "another"))),
    ("no agent key", || shown_with(|command| command.env_remove("BACKUPY_AGENT_KEY"))),
    ("is in use by process", locked),
    ("no such process runs here", held_by_an_orphan),
    ("by another name", || {
        let sandbox = Sandbox::filled();
        let agent = sandbox.open();
        fs::remove_file(sandbox.folder.path().join("state.db.lock")).unwrap();
        Damaged::shown_by(sandbox, "compact --lock-timeout 0")?.held_by(agent)
    }),
    ("could not open the lock file", || {
        let sandbox = Sandbox::filled();
        let lock = sandbox.folder.path().join("state.db.lock");
        fs::hard_link(&lock, lock.with_file_name("copy")).unwrap();
        Damaged::shown_by(sandbox, "compact")
    }),
    ("there is no store", || {
        let sandbox = with_backup();
        fs::remove_file(sandbox.state()).unwrap();
        Damaged::shown_by(sandbox, "stats")
    }),
    ("could not find", || {
        let sandbox = Sandbox::filled();
        let command = format!("stats --state {}", sandbox.folder.path().join("missing/state.db").display());
        Damaged::shown_by(sandbox, &command)
    }),
    ("is not a store but", || {
        let sandbox = with_backup();
        sandbox.write(b"To do: milk, bread\n");
        Damaged::shown_by(sandbox, "stats")
    }),
    ("a draft", || Damaged::shown_by(of_version(1), "stats")),
    ("a newer version", || Damaged::shown_by(of_version(3), "stats")),
    ("but the path means", || {
        let sandbox = Sandbox::filled();
        let name = sandbox.folder.path().join("state");
        fs::rename(sandbox.state(), &name).unwrap();
        Damaged::shown_by(sandbox, &format!("stats --state {}", name.display()))?.knowing("NAME", name.display())
    }),
    ("keeps for its own files", || {
        let sandbox = Sandbox::filled();
        let command = format!("stats --state {}.lock", sandbox.state().display());
        Damaged::shown_by(sandbox, &command)
    }),
    ("is in the way", || {
        let sandbox = Sandbox::filled();
        fs::write(sandbox.folder.path().join("state.db.new"), "milk, bread, ".repeat(1000)).unwrap();
        Damaged::shown_by(sandbox, "compact")
    }),
    ("too many damaged logs", too_many_damaged_logs),
    ("no space left on the disk", || on_a_disk("size=1m", "dd if=/dev/zero of=disk/filler bs=1k; true")),
    ("no free inode", || on_a_disk("nr_inodes=3", ": > disk/filler")),
    ("ulimit -f", beyond_the_limit),
    ("a previous write failed", after_a_failed_sync),
    ("is not the file that the store has open", replaced),
    ("compaction is unavailable", || {
        let sandbox = Sandbox::filled();
        let shown = sandbox.run_mounted("stats")?;
        Some(Damaged { sandbox, shown, holder: None, known: Vec::new() })
    }),
];

const CONFIG_FRAME: usize = 1;
const SESSION_FRAME: usize = 2;
const HEARTBEAT_FRAME: usize = 3;
const JOB_FRAME: usize = 4;
const LOG_FRAME: usize = 9;
/// The first after the close frame of a filled store.
const DATA_FRAME: usize = 12;

fn case_of(row: &Row) -> Make {
    let mut cases = CASES.iter().filter(|(words, _)| row.message.contains(words));
    let (Some((_, make)), None) = (cases.next(), cases.next()) else { panic!("not one case for {row:?}") };
    *make
}

/// A message names commands for what it is about; the table may know more of the situation.
#[test]
fn each_command_in_the_message_of_a_row_works() {
    let mut tried = Vec::new();
    for row in rows() {
        let make = case_of(&row);
        let Some(damaged) = make() else { continue };
        for command in commands_in(&damaged.shown.err) {
            let damaged = make().unwrap();
            damaged.sandbox.follow(&[damaged.filled_in(&command)]);
            tried.push(command);
        }
    }
    for advised in ["salvage NEW.db", "queue ack ID", "logs discard-unreadable", "dump-state"] {
        assert!(tried.iter().any(|command| command.ends_with(advised)), "{advised}: {tried:?}");
    }
}

#[test]
fn each_row_of_the_table_is_shown_with_its_exit_code_and_its_advice_works() {
    let rows = rows();
    assert_eq!(rows.len(), CASES.len());
    for row in &rows {
        for remedy in row.remedies() {
            let Some(damaged) = case_of(row)() else { continue };
            row.assert_shown(&damaged.shown);
            damaged.sandbox.follow(&remedy.iter().map(|command| damaged.filled_in(command)).collect::<Vec<_>>());
            drop(damaged.holder);
            damaged.sandbox.works();
        }
    }
}

/// A filled store, and a backup of it.
fn with_backup() -> Sandbox {
    let sandbox = Sandbox::empty();
    let store = sandbox.fill();
    let folder = sandbox.folder.path().join("backup");
    fs::create_dir(&folder).unwrap();
    store.backup(folder.join("state.db")).unwrap();
    sandbox.close(store);
    sandbox
}

fn with_flipped_byte(at: usize) -> Sandbox {
    let sandbox = with_backup();
    let mut bytes = sandbox.bytes();
    bytes[at] ^= 1;
    sandbox.write(&bytes);
    sandbox
}

fn tampered(frame: usize) -> Sandbox {
    let sandbox = with_backup();
    sandbox.tamper_with_frame(frame);
    sandbox
}

fn tampered_data(key: &str) -> Sandbox {
    let sandbox = with_backup();
    let store = sandbox.open();
    store.put_data(key, b"value").unwrap();
    sandbox.close(store);
    sandbox.tamper_with_frame(DATA_FRAME);
    sandbox
}

fn of_version(version: u8) -> Sandbox {
    let sandbox = with_backup();
    let mut bytes = sandbox.bytes();
    for copy in [0, 2048] {
        bytes[copy + 12] = version;
        let crc = crc32(&[&bytes[copy..copy + 112]]);
        bytes[copy + 112..copy + 116].copy_from_slice(&crc);
    }
    sandbox.write(&bytes);
    sandbox
}

/// No test can make one, since an index file is sealed, and ignored unless it fits the log. So this is the message
/// of another fault, with the name of this one, next to a store with a sound index file.
fn index_that_differs() -> Option<Damaged> {
    let shown = with_flipped_byte(2048 + 30).run("verify");
    let err = shown.err.replace("header", "index");
    let sandbox = Sandbox::filled();
    let store = sandbox.open();
    for i in 0..400 {
        store.enqueue_job(&format!("run-{i}"), &[7; 1000]).unwrap();
    }
    store.close().unwrap();
    assert!(sandbox.folder.path().join("state.db.index").exists());
    Some(Damaged { sandbox, shown: Outcome { err, ..shown }, holder: None, known: Vec::new() })
}

fn older() -> Option<Damaged> {
    let sandbox = with_backup();
    let anchor = sandbox.run("anchor").success();
    let newest = Sandbox::empty();
    newest.open().close().unwrap();
    fs::copy(newest.state(), sandbox.state()).unwrap();
    Damaged::shown_by(sandbox, &format!("anchor --expect {}", anchor.trim()))
}

fn shown_with(change: impl FnOnce(&mut Command) -> &mut Command) -> Option<Damaged> {
    let sandbox = Sandbox::filled();
    let shown = sandbox.outcome(change(&mut sandbox.command("verify")).output().unwrap());
    Some(Damaged { sandbox, shown, holder: None, known: Vec::new() })
}

fn locked() -> Option<Damaged> {
    let sandbox = Sandbox::filled();
    let agent = sandbox.open();
    Damaged::shown_by(sandbox, "compact --lock-timeout 0")?.held_by(agent)
}

/// As a child of a killed agent leaves it: another process has the lock than the one that is noted.
fn held_by_an_orphan() -> Option<Damaged> {
    let sandbox = Sandbox::filled();
    let mut ended = Command::new("true").spawn().unwrap();
    ended.wait().unwrap();
    let mut lock = File::options().write(true).open(sandbox.folder.path().join("state.db.lock")).unwrap();
    lock.write_all(format!("{:>10}\n", ended.id()).as_bytes()).unwrap();
    fs2::FileExt::lock_exclusive(&lock).unwrap();
    Damaged::shown_by(sandbox, "compact --lock-timeout 0")?.held_by(lock)
}

/// A salvaged store that an operator has put at `state.db.new` is kept, and there is no name left for it.
fn too_many_damaged_logs() -> Option<Damaged> {
    let sandbox = Sandbox::filled();
    let folder = sandbox.folder.path();
    sandbox
        .shell("backupy-state salvage salvaged.db && backupy-state --state salvaged.db heartbeat record")
        .success();
    for number in 1..=8 {
        fs::write(folder.join(format!("state.db.damaged-{number}")), number.to_string()).unwrap();
    }
    fs::rename(folder.join("salvaged.db"), folder.join("state.db.new")).unwrap();
    Damaged::shown_by(sandbox, "compact")
}

/// Changes something while a command has the store open: it waits, in the middle of its output, for its reader.
fn while_draining(change: impl FnOnce(&Sandbox) -> std::io::Result<()>) -> Option<Damaged> {
    let sandbox = with_backup();
    let store = sandbox.open();
    store.buffer_log(7, "a long event ".repeat(100_000).as_bytes()).unwrap();
    store.close().unwrap();
    let mut command = sandbox.command("logs drain --allow-secrets");
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut out = child.stdout.take().unwrap();
    out.read_exact(&mut [0]).unwrap();
    change(&sandbox).unwrap();
    out.read_to_end(&mut Vec::new()).unwrap();
    let shown = sandbox.outcome(child.wait_with_output().unwrap());
    Some(Damaged { sandbox, shown, holder: None, known: Vec::new() })
}

/// A command shows it; an agent, which still runs, has the file open.
fn replaced() -> Option<Damaged> {
    let Damaged { shown, .. } = while_draining(|sandbox| fs::remove_file(sandbox.state()))?;
    let sandbox = Sandbox::filled();
    let agent = sandbox.open();
    fs::remove_file(sandbox.state()).unwrap();
    agent.record_heartbeat(1).unwrap_err();
    let is_log = |fd: &Path| fs::read_link(fd).is_ok_and(|file| file.starts_with(sandbox.folder.path()));
    let fds = fs::read_dir("/proc/self/fd").unwrap().map(|fd| fd.unwrap().path());
    let fd = fds.filter(|fd| is_log(fd)).find(|fd| fs::read_link(fd).unwrap().ends_with("state.db (deleted)"))?;
    let number = fd.file_name().unwrap().to_str().unwrap().to_owned();
    Damaged { sandbox, shown, holder: None, known: Vec::new() }
        .held_by(agent)?
        .knowing("PID", std::process::id())?
        .knowing("/fd/N", format!("/fd/{number}"))
}

/// Fills a disk of its own, enqueues, frees it, and enqueues again, with success.
fn on_a_disk(options: &str, fill: &str) -> Option<Damaged> {
    let sandbox = Sandbox::filled();
    let folder = sandbox.folder.path().to_path_buf();
    fs::write(folder.join("payload"), vec![7; 20_000]).unwrap();
    fs::create_dir(folder.join("disk")).unwrap();
    let enqueue = "backupy-state --state disk/state.db queue enqueue run-9 payload";
    let script = format!(
        "mount -t tmpfs -o {options} tmpfs disk || exit 98; cp state.db disk; {{ {fill}; }} 2>/dev/null; \
         {enqueue}; code=$?; rm disk/filler; {enqueue} >&2 || exit 99; exit $code"
    );
    let shown = sandbox.shell(&format!("unshare --mount --map-root-user sh -c '{script}'"));
    if shown.code == Some(98) || shown.err.starts_with("unshare") {
        report_skipped("no file system can be mounted here: a full disk was not tested");
        return None;
    }
    Some(Damaged { sandbox, shown, holder: None, known: Vec::new() })
}

fn beyond_the_limit() -> Option<Damaged> {
    let sandbox = Sandbox::filled();
    fs::write(sandbox.folder.path().join("payload"), vec![7; 1 << 20]).unwrap();
    let enqueue = "backupy-state queue enqueue run-9 payload";
    let shown = sandbox.shell(&format!("trap '' XFSZ; ulimit -f 100; {enqueue}"));
    sandbox.shell(enqueue).success();
    Some(Damaged { sandbox, shown, holder: None, known: Vec::new() })
}

/// Says what a call after a failed one returns.
#[test]
fn agent_whose_sync_fails() {
    let Some(path) = std::env::var_os(AGENT_VAR) else { return };
    let store = Store::open(path, &AgentKey::new(KEY).unwrap()).unwrap();
    let calls = (0..20).map(|i| store.record_heartbeat(i));
    let errors: Vec<_> = calls.filter_map(Result::err).collect();
    println!("\n{AGENT_VAR} {}", errors[1]);
}

fn after_a_failed_sync() -> Option<Damaged> {
    let sandbox = Sandbox::filled();
    let mut agent = Command::new("strace");
    agent.args([
        "-f",
        "-qq",
        "-o",
        "/dev/null",
        "-e",
        "trace=fdatasync",
        "-e",
        "inject=fdatasync:error=EIO:when=8+",
    ]);
    agent.arg(std::env::current_exe().unwrap());
    agent.args(["damage_table::agent_whose_sync_fails", "--exact", "--nocapture"]).env(AGENT_VAR, sandbox.state());
    let Some(output) = agent.output().ok().filter(|output| output.status.success()) else {
        report_skipped("there is no strace here: a failed sync was not tested");
        return None;
    };
    let outcome = sandbox.outcome(output);
    let said = outcome.out.lines().find_map(|line| line.strip_prefix(AGENT_VAR)).expect(&outcome.out);
    let shown = Outcome { code: None, out: said.trim().to_owned(), err: String::new() };
    Some(Damaged { sandbox, shown, holder: None, known: Vec::new() })
}

const AGENT_VAR: &str = "BACKUPY_TEST_AGENT";
