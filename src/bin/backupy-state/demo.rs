//! `demo`: an agent's day on a store, with kills. This file owns the day: the folder, the agents one after the other,
//! the look from beside, and the reckoning at the end.
//!
//! This process plays the supervisor, the server and the bookkeeper; each agent is a process of its own, and only its
//! pipe says what the store has acknowledged.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{self, ChildStdout, Command, Stdio};
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::{Duration, Instant};

use backupy_state::{Error, OpenOptions};

mod agent;
mod fate;
mod held;
mod ledger;
mod random;
mod report;
mod watch;
mod wire;

pub(crate) use agent::{AgentArgs, run as run_agent};

use fate::{Ending, Fate};
use ledger::Ledger;
use random::Random;
use report::Report;
use watch::Watch;
use wire::Message;

use crate::failure::Failure;
use crate::place::Place;
use crate::text::Out;

/// Play an agent's day, with kills, and check that nothing acknowledged is lost
///
/// An agent process works on a new store with several threads and is killed with SIGKILL at random moments, again and
/// again. Every call it makes is announced before and acknowledged after; at each restart and at the end, what the
/// store holds is compared with that list. It takes a store and a key of its own.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  backupy-state demo --seconds 10")]
pub(crate) struct Args {
    /// Where to put the store, and keep it [default: a temporary folder, removed at the end]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,

    /// How long the day is, up to 300 s
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=300))]
    seconds: u64,

    /// Repeat a schedule; what the threads make of it differs from run to run [default: any]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

/// Fewer would prove little.
const KILLS_MIN: u64 = 5;
const KILLS_A_SECOND: u64 = 3;

pub(crate) fn run(place: &Place, args: &Args, out: &mut Out) -> Result<(), Failure> {
    if place.state.is_some() || place.key_file.is_some() {
        return Err(Failure::usage(
            "the demo takes a store and a key of its own: give --dir, no --state or --key-file",
        ));
    }
    let seed = args.seed.unwrap_or_else(Random::any_seed);
    let folder = Folder::new(args.dir.as_deref(), seed)?;
    let path = folder.path.join("state.db");
    refuse_existing(&path)?;
    if !out.json {
        out.line(format_args!("An agent's day in {} s, on {}, with seed {seed}.", args.seconds, path.display()));
        out.line("It is killed again and again, and is never told:");
        out.flush();
    }

    match play(&path, args, seed, out) {
        Ok(()) => folder.remove(),
        Err(failure) => Err(failure.and(&format!("the store is kept in {}", folder.path.display()))),
    }
}

fn play(path: &Path, args: &Args, seed: u64, out: &mut Out) -> Result<(), Failure> {
    let mut day =
        Day { path, seed, random: Random::new(seed), ledger: Ledger::default(), report: Report::new(seed) };
    let watch = Watch::start(path)?;
    let lived = day.live(Duration::from_secs(args.seconds), out);
    let seen = watch.stop();
    lived?;
    day.reckon(&seen)?;
    day.report.show(&day.ledger, out);
    day.report.wrong(&day.ledger).map_or(Ok(()), |what| Err(Failure::failed(what)))
}

/// The demo begins with no store, and touches none that it did not make.
fn refuse_existing(path: &Path) -> Result<(), Failure> {
    let key = agent::demo_key()?;
    match OpenOptions::new().create(false).lock_timeout(Duration::ZERO).open(path, &key) {
        Err(Error::NotFound { .. }) => Ok(()),
        Err(error) => Err(error.into()),
        Ok(_) => {
            let path = path.display();
            Err(Failure::failed(format!(
                "{path} is the store of an earlier demo; remove it or give another --dir"
            )))
        }
    }
}

struct Day<'a> {
    path: &'a Path,
    seed: u64,
    random: Random,
    ledger: Ledger,
    report: Report,
}

impl Day<'_> {
    /// One agent after the other, until the time is over and enough of them were killed in the middle of a call.
    fn live(&mut self, time: Duration, out: &mut Out) -> Result<(), Failure> {
        let kills_wanted = KILLS_MIN.max(time.as_secs() * KILLS_A_SECOND);
        let mean_life = time.div_f64(f64::from(u32::try_from(kills_wanted + 1).unwrap_or(u32::MAX)));
        let begun = Instant::now();
        let mut orders = 0;
        for life in 0.. {
            let over = begun.elapsed() + mean_life >= time && self.report.kills_in_flight() >= KILLS_MIN;
            let ending = if over { Ending::Stop } else { Ending::Kill };
            let fate = Fate {
                ending,
                life: self.random.around(mean_life),
                random: Random::new(self.random.next()),
                orders: &mut orders,
            };
            self.live_once(life, fate)?;
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

    /// What compaction writes; a kill in the middle of it leaves it there, until the next agent opens the store.
    fn new_log(&self) -> PathBuf {
        self.path.with_extension("db.new")
    }

    fn live_once(&mut self, life: u64, fate: Fate<'_>) -> Result<(), Failure> {
        let program = std::env::current_exe().map_err(|error| could_not("find this program", &error))?;
        let mut child = Command::new(program)
            .arg("demo-agent")
            .arg(self.path)
            .args([self.seed, life].map(|number| number.to_string()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| could_not("start the agent", &error))?;
        let stdout = child.stdout.take().ok_or_else(|| Failure::failed("the agent has no stdout"))?;
        let ending = fate.ending;
        let (opened, is_open) = mpsc::channel();
        let (told, status) = thread::scope(|scope| {
            let fate = scope.spawn(move || fate.befall(child, &is_open));
            (self.listen(stdout, opened), fate.join())
        });
        let status = status.map_err(|_| Failure::failed("the supervisor failed"))?;
        let status = status.map_err(|error| could_not("wait for the agent", &error))?;
        told?;
        fate::check(ending, status)
    }

    /// Takes down what the agent says until it is dead, and passes on that its store is open.
    fn listen(&mut self, stdout: ChildStdout, opened: Sender<()>) -> Result<(), Failure> {
        for line in BufReader::new(stdout).split(b'\n') {
            let line = line.map_err(|error| could_not("read from the agent", &error))?;
            let message = std::str::from_utf8(&line).ok().and_then(Message::parse);
            match message {
                Some(Message::Failed { why }) => return Err(Failure::failed(format!("the agent failed: {why}"))),
                Some(message) => {
                    if let Message::Opened(report) = message {
                        self.report.note_open(report);
                        // If nobody waits for this any more, its fate has failed, and says so.
                        let _ = opened.send(());
                    }
                    self.ledger.note(message);
                }
                None => {
                    let line = String::from_utf8_lossy(&line);
                    return Err(Failure::failed(format!("the agent said {line:?}")));
                }
            }
        }
        Ok(())
    }

    /// Opens the store after the last agent, reads everything, and compares.
    fn reckon(&mut self, seen: &watch::Seen) -> Result<(), Failure> {
        let verified = backupy_state::verify(self.path, Some(&agent::demo_key()?))?;
        self.report.note_end(&verified, seen);
        let store = OpenOptions::new().create(false).open(self.path, &agent::demo_key()?)?;
        let held = held::held_by_store(&store)?;
        let events: Vec<_> = store.peek_logs(usize::MAX)?.events().iter().map(held::as_event).collect();
        store.close()?;
        self.report.left(held.keys().filter(|cell| cell.starts_with("job/")).count() as u64, events.len() as u64);
        self.ledger.settle(&held, &events);
        for (cell, mark) in &seen.values {
            self.ledger.check_seen(cell, *mark);
        }
        Ok(())
    }
}

fn could_not(what: &str, error: &std::io::Error) -> Failure {
    Failure::failed(format!("could not {what}: {error}"))
}

/// Where the store of the demo is.
struct Folder {
    path: PathBuf,
    is_temporary: bool,
}

impl Folder {
    fn new(given: Option<&Path>, seed: u64) -> Result<Self, Failure> {
        let temporary = || std::env::temp_dir().join(format!("backupy-state-demo-{}-{seed}", process::id()));
        let path = given.map_or_else(temporary, Path::to_path_buf);
        let is_temporary = given.is_none();
        // In a folder that others share, a name that exists may be somebody's trap.
        let made = fs::DirBuilder::new().recursive(!is_temporary).mode(0o700).create(&path);
        made.map_err(|error| could_not(&format!("make the folder {}", path.display()), &error))?;
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
