//! The agent. Whatever it has promised or means to tell is in its store first; the server is told afterwards, and what it has
//! confirmed is removed. So a crash between any two lines repeats something, and loses nothing.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use backupy_state::{AgentKey, Anchor, Batch, OpenOptions, Store};

use crate::link::{Link, Order};
use crate::{Result, key, say};

/// The key of the store, and the one it may still be under.
pub(crate) struct Keys {
    pub(crate) now: AgentKey,
    pub(crate) before: Option<AgentKey>,
}

/// A running agent, as whoever starts and stops it has it.
pub(crate) struct Agent {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Vec<String>>>,
}

impl Agent {
    /// `logged` is how many log events there were before: each has a number.
    pub(crate) fn start(state: &Path, socket: &Path, keys: Keys, logged: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (state, socket, stopped) = (state.to_owned(), socket.to_owned(), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            let mut work = Work::open(&state, socket, keys, logged)?;
            while !stopped.load(Ordering::Relaxed) {
                work.round()?;
            }
            // Everything durable, and the next open need not look for a torn tail.
            work.store.close()?;
            say("agent", "stopped");
            Ok(work.logged)
        });
        Agent { stop, thread }
    }

    /// Asks it to stop, and waits. Returns the log events that it has written, for the reckoning.
    pub(crate) fn stop(self) -> Result<Vec<String>> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| "the agent panicked")?
    }
}

struct Work {
    store: Store,
    socket: PathBuf,
    link: Option<Link>,
    was_away: bool,
    logged: Vec<String>,
    logged_before: usize,
}

impl Work {
    fn open(state: &Path, socket: PathBuf, keys: Keys, logged: usize) -> Result<Self> {
        let mut options = OpenOptions::new();
        if let Some(before) = keys.before {
            options.previous_key(before);
        }
        // The server keeps the anchor: whoever puts an older file here cannot also change what the server knows. Where the server
        // cannot be asked, an agent must decide; this one works on.
        let anchor = Link::connect(&socket).and_then(|mut link| link.anchor()).ok().flatten();
        if let Some(anchor) = &anchor {
            options.expect_at_least(anchor.parse::<Anchor>()?);
        }
        let store = options.open(state, &keys.now)?;
        let recovery = store.recovery();
        let (created, clean, rekeyed) = (recovery.created, recovery.clean, recovery.rekeyed);
        let checked =
            if anchor.is_some() { "not older than the server's anchor" } else { "the server has no anchor" };
        say("agent", &format!("open: created {created}, clean {clean}, rekeyed {rekeyed}; {checked}"));
        Ok(Work { store, socket, link: None, was_away: false, logged: Vec::new(), logged_before: logged })
    }

    /// Works whether the server is there or not, and tells it what there is to tell when it is.
    fn round(&mut self) -> Result<()> {
        self.run_jobs()?;
        match self.talk() {
            Ok(()) => {}
            Err(Trouble::Store(error)) => return Err(error),
            Err(Trouble::Server) => {
                self.link = None;
                if !self.was_away {
                    self.was_away = true;
                    say("agent", "the server is away; working on");
                    self.log("the server went away")?;
                }
            }
        }
        thread::sleep(Duration::from_millis(10));
        Ok(())
    }

    /// The job goes and its completion message comes in one record: there is never neither, and never both.
    fn run_jobs(&mut self) -> Result<()> {
        for job in self.store.dequeue_jobs_after(JOBS, 4)? {
            let Some(id) = job.run_id.strip_prefix(JOBS) else { break };
            let result = work(&String::from_utf8(job.payload)?);
            let event = self.event(&format!("ran {id}"));
            let batch = Batch::new()
                .ack_job(&job.run_id)
                .enqueue_job(&format!("{OUTBOX}{id}"), result.as_bytes())
                .buffer_log(now_ms(), event.as_bytes());
            self.store.write(batch)?;
            self.logged.push(event);
        }
        Ok(())
    }

    fn talk(&mut self) -> Result<(), Trouble> {
        let mut link = match self.link.take() {
            Some(link) => link,
            None => self.connect()?,
        };
        self.take_orders(&mut link)?;
        self.deliver_outbox(&mut link)?;
        self.deliver_logs(&mut link)?;
        // What the server has confirmed is durable; so is all before this point.
        link.keep_anchor(&self.store.anchor().to_string())?;
        self.link = Some(link);
        Ok(())
    }

    fn connect(&mut self) -> Result<Link, Trouble> {
        let mut link = Link::connect(&self.socket)?;
        let (session_id, server_time_ms) = link.hello()?;
        self.store.write(Batch::new().save_session(&session_id, server_time_ms).record_heartbeat(now_ms()))?;
        if std::mem::take(&mut self.was_away) {
            say("agent", "the server is back");
        }
        Ok(link)
    }

    /// A job is in the queue, durably, before the server hears that it was accepted. If the answer is lost, the server sends it again,
    /// under the same id: it takes its own place, or runs twice and is told twice, and the server drops the second.
    fn take_orders(&self, link: &mut Link) -> Result<(), Trouble> {
        loop {
            match link.poll()? {
                Order::Job { id, text } => {
                    self.store.enqueue_job(&format!("{JOBS}{id}"), text.as_bytes())?;
                    link.accepted(&id)?;
                }
                Order::Key(number) => {
                    self.store.rekey(&key(number).map_err(Trouble::Store)?)?;
                    say("agent", &format!("the store is under key {number}"));
                    link.rekeyed(number)?;
                }
                Order::None => return Ok(()),
            }
        }
    }

    /// A completion message stays until the server has confirmed it.
    fn deliver_outbox(&self, link: &mut Link) -> Result<(), Trouble> {
        for message in self.store.dequeue_jobs_after(OUTBOX, usize::MAX)? {
            let Some(id) = message.run_id.strip_prefix(OUTBOX) else { break };
            link.done(id, &String::from_utf8_lossy(&message.payload))?;
            self.store.ack_job(&message.run_id)?;
        }
        Ok(())
    }

    /// Peeked, told, and only then acked: not drained.
    fn deliver_logs(&self, link: &mut Link) -> Result<(), Trouble> {
        let batch = self.store.peek_logs(100)?;
        for event in batch.events() {
            link.log(&String::from_utf8_lossy(&event.payload))?;
        }
        self.store.ack_logs(batch)?;
        Ok(())
    }

    fn event(&self, what: &str) -> String {
        format!("event {}: {what}", self.logged_before + self.logged.len())
    }

    fn log(&mut self, what: &str) -> Result<()> {
        let event = self.event(what);
        self.store.buffer_log(now_ms(), event.as_bytes())?;
        self.logged.push(event);
        Ok(())
    }
}

/// What a job does.
pub(crate) fn work(text: &str) -> String {
    text.to_uppercase()
}

/// Run ids of the two queues in the queue. Both are read from their first possible id on.
const JOBS: &str = "job/";
const OUTBOX: &str = "done/";

/// Whose fault it is: an agent goes on without its server, and not without its store.
enum Trouble {
    Server,
    Store(Box<dyn std::error::Error + Send + Sync>),
}

impl From<std::io::Error> for Trouble {
    fn from(_: std::io::Error) -> Self {
        Trouble::Server
    }
}

impl From<backupy_state::Error> for Trouble {
    fn from(error: backupy_state::Error) -> Self {
        Trouble::Store(error.into())
    }
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
