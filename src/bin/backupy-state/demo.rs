//! `demo`: an agent works on a store and is killed again and again. This file owns the course of the demo: the
//! folder, one agent process after another, the concurrent snapshots, and the final comparison.
//!
//! This process is the supervisor and the server, and keeps the ledger of acknowledged calls. Each agent is a
//! process of its own, which reports its calls through a pipe.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{self, ChildStdout, Command, Stdio};
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::{Duration, Instant};

use backupy_state::OpenOptions;

mod agent;
mod supervisor;
mod contents;
mod ledger;
mod random;
mod report;
mod observer;
mod protocol;

pub(crate) use agent::{AgentArgs, run as run_agent};

use ledger::Ledger;
use observer::Observer;
use protocol::Message;
use random::Random;
use report::Report;
use supervisor::{Ending, Supervisor};

use crate::failure::Failure;
use crate::target::{Target, absolute};
use crate::text::Out;

/// Kill an agent again and again, and check that no acknowledged call is lost
///
/// An agent process works on a new store with several threads, is killed with SIGKILL at random moments, and is
/// started again. It reports each call before it makes it and after the call has returned. At each restart and at
/// the end, the contents of the store are compared with these reports.
///
/// The demo uses a store and a key of its own, so it accepts neither --state nor --key-file. The key is built into
/// this program, and no secret: bkpy_demo_key_that_everybody_knows_0. With it in $BACKUPY_AGENT_KEY, the other
/// commands can look at a store that --dir has kept.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  backupy-state demo --seconds 10", args = refused_options())]
pub(crate) struct Args {
    /// The folder for the store, which is kept [default: a temporary folder, which is removed]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,

    /// The duration in seconds, up to 300
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=300))]
    seconds: u64,

    /// The seed of the schedule; the timing of the threads still differs from run to run [default: random]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

/// The global options that `run` refuses, with the same names, so that they are not in the help.
fn refused_options() -> [clap::Arg; 2] {
    [("state", "state"), ("key_file", "key-file")].map(|(id, name)| {
        let value = clap::value_parser!(PathBuf);
        clap::Arg::new(id).long(name).value_parser(value).global(true).hide(true)
    })
}

/// The least number of kills during a call; fewer would show little.
const KILLS_MIN: u64 = 5;
const KILLS_PER_SECOND: u64 = 3;

pub(crate) fn run(target: &Target, args: &Args, out: &mut Out) -> Result<(), Failure> {
    if target.state.is_some() || target.key_file.is_some() {
        let what = "the demo uses a store and a key of its own: give --dir instead of --state or --key-file";
        return Err(Failure::usage(what));
    }
    let seed = args.seed.unwrap_or_else(Random::any_seed);
    let folder = Folder::new(args.dir.as_deref(), seed)?;
    let path = folder.path.join("state.db");
    refuse_existing(&path)?;
    if !out.json {
        out.line(format_args!("An agent works on {} for {} s, with seed {seed}.", path.display(), args.seconds));
        out.line("It is killed again and again, without warning:");
        out.flush();
    }

    match play(&path, args, seed, out) {
        Ok(()) => folder.remove(),
        Err(failure) => Err(failure.and(&format!("the store is kept in {}", folder.path.display()))),
    }
}

fn play(path: &Path, args: &Args, seed: u64, out: &mut Out) -> Result<(), Failure> {
    let mut demo =
        Demo { path, seed, random: Random::new(seed), ledger: Ledger::default(), report: Report::new(seed) };
    let observer = Observer::start(path)?;
    let ran = demo.run_agents(Duration::from_secs(args.seconds), out);
    let seen = observer.stop();
    ran?;
    demo.check_final_state(&seen)?;
    demo.report.show(&absolute(path), &demo.ledger, out);
    demo.report.failure(&demo.ledger).map_or(Ok(()), |what| Err(Failure::failed(what)))
}

/// The demo starts without a store, and changes no file that it did not create.
fn refuse_existing(path: &Path) -> Result<(), Failure> {
    if fs::symlink_metadata(path).is_err() {
        return Ok(());
    }
    let path = path.display();
    Err(Failure::usage(format!("{path} already exists; it was not changed; remove it or give another --dir")))
}

struct Demo<'a> {
    path: &'a Path,
    seed: u64,
    random: Random,
    ledger: Ledger,
    report: Report,
}

impl Demo<'_> {
    /// Runs one agent after another, until the time is over and enough of them have been killed during a call.
    fn run_agents(&mut self, time: Duration, out: &mut Out) -> Result<(), Failure> {
        let kills_wanted = KILLS_MIN.max(time.as_secs() * KILLS_PER_SECOND);
        let mean_lifetime = time.div_f64(f64::from(u32::try_from(kills_wanted + 1).unwrap_or(u32::MAX)));
        let begun = Instant::now();
        let mut orders = 0;
        for number in 0.. {
            let over = begun.elapsed() + mean_lifetime >= time && self.report.kills_in_flight() >= KILLS_MIN;
            let ending = if over { Ending::Stop } else { Ending::Kill };
            let supervisor = Supervisor {
                ending,
                lifetime: self.random.around(mean_lifetime),
                random: Random::new(self.random.next()),
                orders: &mut orders,
            };
            self.run_agent(number, supervisor)?;
            if over {
                break;
            }
            let in_flight = self.ledger.note_death();
            self.report.note_kill(begun.elapsed(), in_flight, self.new_log().exists());
            if !out.json {
                out.line(self.report.last_kill());
                out.flush();
            }
        }
        self.report.took = begun.elapsed();
        Ok(())
    }

    /// The file that a compaction writes. A kill during the compaction leaves it, until the next agent opens the
    /// store.
    fn new_log(&self) -> PathBuf {
        self.path.with_extension("db.new")
    }

    fn run_agent(&mut self, number: u64, supervisor: Supervisor<'_>) -> Result<(), Failure> {
        let program = std::env::current_exe().map_err(|error| could_not("find this program", &error))?;
        let mut child = Command::new(program)
            .arg("demo-agent")
            .arg(self.path)
            .args([self.seed, number].map(|number| number.to_string()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| could_not("start the agent", &error))?;
        let stdout = child.stdout.take().ok_or_else(|| Failure::failed("the agent has no stdout"))?;
        let ending = supervisor.ending;
        let (opened, is_open) = mpsc::channel();
        let (recorded, status) = thread::scope(|scope| {
            // If it fails, the agent's stdin is closed, which ends the agent.
            let supervisor = thread::Builder::new().spawn_scoped(scope, move || supervisor.run(child, &is_open));
            let supervisor = supervisor.map_err(|error| could_not(START_THREAD, &error))?;
            Ok::<_, Failure>((self.record_messages(stdout, opened), supervisor.join()))
        })?;
        let status = status.map_err(|_| Failure::failed("the supervisor failed"))?;
        let status = status.map_err(|error| could_not("wait for the agent", &error))?;
        recorded?;
        supervisor::check(ending, status)
    }

    /// Records the agent's messages until it ends, and signals when its store is open.
    fn record_messages(&mut self, stdout: ChildStdout, opened: Sender<()>) -> Result<(), Failure> {
        for line in BufReader::new(stdout).split(b'\n') {
            let line = line.map_err(|error| could_not("read from the agent", &error))?;
            let message = std::str::from_utf8(&line).ok().and_then(Message::parse);
            match message {
                Some(Message::Failed { why }) => return Err(Failure::failed(format!("the agent failed: {why}"))),
                Some(message) => {
                    if let Message::Opened(report) = message {
                        self.report.note_open(report);
                        // This fails only if the supervisor has failed, which reports that itself.
                        let _ = opened.send(());
                    }
                    self.ledger.note(message);
                }
                None => {
                    let line = String::from_utf8_lossy(&line);
                    return Err(Failure::failed(format!("the agent sent an invalid message: {line:?}")));
                }
            }
        }
        Ok(())
    }

    /// Opens the store after the last agent has ended, and compares its contents with the ledger.
    fn check_final_state(&mut self, seen: &observer::Seen) -> Result<(), Failure> {
        let verified = backupy_state::verify(self.path, Some(&agent::demo_key()?))?;
        self.report.note_end(&verified, seen);
        let store = OpenOptions::new().create(false).open(self.path, &agent::demo_key()?)?;
        let held = contents::contents_of_store(&store)?;
        let events: Vec<_> = store.peek_logs(usize::MAX)?.events().iter().map(contents::as_event).collect();
        store.close()?;
        self.report.left(held.keys().filter(|cell| cell.starts_with("job/")).count() as u64, events.len() as u64);
        self.ledger.check_final(&held, &events);
        for (cell, digest) in &seen.values {
            self.ledger.check_seen(cell, *digest);
        }
        Ok(())
    }
}

const START_THREAD: &str = "start a thread";

fn could_not(what: &str, error: &std::io::Error) -> Failure {
    Failure::failed(format!("could not {what}: {error}"))
}

/// The folder of the demo's store.
struct Folder {
    path: PathBuf,
    is_temporary: bool,
}

impl Folder {
    fn new(given: Option<&Path>, seed: u64) -> Result<Self, Failure> {
        let temporary = || std::env::temp_dir().join(format!("backupy-state-demo-{}-{seed}", process::id()));
        let path = given.map_or_else(temporary, Path::to_path_buf);
        let is_temporary = given.is_none();
        // In a shared folder, another user may have created this name in advance, so an existing one is refused.
        let created = fs::DirBuilder::new().recursive(!is_temporary).mode(0o700).create(&path);
        created.map_err(|error| could_not(&format!("create the folder {}", path.display()), &error))?;
        Ok(Folder { path, is_temporary })
    }

    fn remove(&self) -> Result<(), Failure> {
        if !self.is_temporary {
            return Ok(());
        }
        fs::remove_dir_all(&self.path)
            .map_err(|error| could_not(&format!("remove the folder {}", self.path.display()), &error))
    }
}
