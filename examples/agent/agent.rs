//! The agent. It stores every job and every message before it tells the server about it, and removes a message
//! only after the server has confirmed it. So a crash between any two lines may repeat something, but loses
//! nothing.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use backupy_state::{AgentKey, Anchor, Batch, OpenOptions, Store};

use crate::link::{Link, Order};
use crate::{Result, key, say};

/// The key for the store, and the previous key, if the store may still be under that one.
pub(crate) struct Keys {
    pub(crate) current: AgentKey,
    pub(crate) previous: Option<AgentKey>,
}

/// A handle to a running agent.
pub(crate) struct Agent {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Vec<String>>>,
}

impl Agent {
    /// Starts the agent. `logged` is the number of earlier log events, from which it continues to number them.
    pub(crate) fn start(state: &Path, socket: &Path, keys: Keys, logged: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (state, socket, stopped) = (state.to_owned(), socket.to_owned(), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            let mut work = Work::open(&state, socket, keys, logged)?;
            while !stopped.load(Ordering::Relaxed) {
                work.round()?;
            }
            // Makes everything durable, and spares the next open the search for a torn tail.
            work.store.close()?;
            say("agent", "stopped");
            Ok(work.logged)
        });
        Agent { stop, thread }
    }

    /// Stops the agent and waits for it. Returns the log events that it has written, for the final check.
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
        if let Some(previous) = keys.previous {
            options.previous_key(previous);
        }
        // The server keeps the anchor, out of reach of anyone who could put an older file here. If the server does
        // not answer, an agent must choose between safety and availability; this one starts without the check.
        let anchor = Link::connect(&socket).and_then(|mut link| link.anchor()).ok().flatten();
        if let Some(anchor) = &anchor {
            options.expect_at_least(anchor.parse::<Anchor>()?);
        }
        let store = options.open(state, &keys.current)?;
        let recovery = store.recovery();
        let (created, clean, rekeyed) = (recovery.created, recovery.clean, recovery.rekeyed);
        let checked =
            if anchor.is_some() { "not older than the server's anchor" } else { "no anchor from the server" };
        say("agent", &format!("open: created {created}, clean {clean}, rekeyed {rekeyed}; {checked}"));
        Ok(Work { store, socket, link: None, was_away: false, logged: Vec::new(), logged_before: logged })
    }

    /// Runs jobs whether the server is available or not, and talks to the server if it is.
    fn round(&mut self) -> Result<()> {
        self.run_jobs()?;
        match self.talk() {
            Ok(()) => {}
            Err(Failure::Store(error)) => return Err(error),
            Err(Failure::Server) => {
                self.link = None;
                if !self.was_away {
                    self.was_away = true;
                    say("agent", "the server is away; the agent continues");
                    self.log("the server went away")?;
                }
            }
        }
        thread::sleep(Duration::from_millis(10));
        Ok(())
    }

    /// Removes the job and adds its completion message in one record, so a crash leaves one of the two: never
    /// neither, never both.
    fn run_jobs(&mut self) -> Result<()> {
        for job in self.store.dequeue_jobs_after(JOBS, 4)? {
            let Some(id) = job.run_id.strip_prefix(JOBS) else { break };
            let result = work(&String::from_utf8(job.payload)?);
            let event = self.event(&format!("ran {id}"));
            let batch = Batch::new()
                .ack_job(&job.run_id)
                .enqueue_job(&format!("{OUTBOX}{id}"), result.as_bytes())
                .buffer_log(now_ms(), event.as_bytes());
            self.store.write(&batch)?;
            self.logged.push(event);
        }
        Ok(())
    }

    fn talk(&mut self) -> Result<(), Failure> {
        let mut link = match self.link.take() {
            Some(link) => link,
            None => self.connect()?,
        };
        self.take_orders(&mut link)?;
        self.deliver_outbox(&mut link)?;
        self.deliver_logs(&mut link)?;
        // The anchor of a store names only durable frames, so a power cut cannot make the store older than it.
        link.keep_anchor(&self.store.anchor().to_string())?;
        self.link = Some(link);
        Ok(())
    }

    fn connect(&mut self) -> Result<Link, Failure> {
        let mut link = Link::connect(&self.socket)?;
        let (session_id, server_time_ms) = link.hello()?;
        self.store.write(&Batch::new().save_session(&session_id, server_time_ms).record_heartbeat(now_ms()))?;
        if std::mem::take(&mut self.was_away) {
            say("agent", "the server is back");
        }
        Ok(link)
    }

    /// Enqueues each job durably before telling the server that it was accepted. If that message is lost, the
    /// server sends the job again under the same id: it replaces the queued one, or runs a second time, and the
    /// server drops the second result.
    fn take_orders(&self, link: &mut Link) -> Result<(), Failure> {
        loop {
            match link.poll()? {
                Order::Job { id, text } => {
                    self.store.enqueue_job(&format!("{JOBS}{id}"), text.as_bytes())?;
                    link.accepted(&id)?;
                }
                Order::Key(number) => {
                    self.store.rekey(&key(number).map_err(Failure::Store)?)?;
                    say("agent", &format!("the store is under key {number}"));
                    link.rekeyed(number)?;
                }
                Order::None => return Ok(()),
            }
        }
    }

    /// Keeps each completion message until the server has confirmed it.
    fn deliver_outbox(&self, link: &mut Link) -> Result<(), Failure> {
        for message in self.store.dequeue_jobs_after(OUTBOX, usize::MAX)? {
            let Some(id) = message.run_id.strip_prefix(OUTBOX) else { break };
            link.done(id, &String::from_utf8_lossy(&message.payload))?;
            self.store.ack_job(&message.run_id)?;
        }
        Ok(())
    }

    /// Peeks, sends, and only then acks: draining would lose the events if the server went away.
    fn deliver_logs(&self, link: &mut Link) -> Result<(), Failure> {
        let batch = self.store.peek_logs(100)?;
        for event in batch.events() {
            link.log(&String::from_utf8_lossy(&event.payload))?;
        }
        self.store.ack_logs(&batch)?;
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

/// The work of a job.
pub(crate) fn work(text: &str) -> String {
    text.to_uppercase()
}

/// Prefixes of run ids, which divide the queue into two: jobs to run, and completion messages to deliver.
const JOBS: &str = "job/";
const OUTBOX: &str = "done/";

/// Which side failed: an agent continues without its server, but not without its store.
enum Failure {
    Server,
    Store(Box<dyn std::error::Error + Send + Sync>),
}

impl From<std::io::Error> for Failure {
    fn from(_: std::io::Error) -> Self {
        Failure::Server
    }
}

impl From<backupy_state::Error> for Failure {
    fn from(error: backupy_state::Error) -> Self {
        Failure::Store(error.into())
    }
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
