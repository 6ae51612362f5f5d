//! The agent. It stores every job and every message before it tells the server about it, and removes a message
//! only after the server has confirmed it. So a crash between any two lines may repeat something, but loses
//! nothing.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use backupy_state::{Anchor, Batch, Error, OpenOptions, QueuedJob, Store};

use crate::link::{Link, Order};
use crate::{Result, key, say};

/// The number of the key for the store, and that of the previous key, if the store may still be under that one.
pub(crate) struct Keys {
    pub(crate) current: u32,
    pub(crate) previous: Option<u32>,
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
    /// Since a call failed for lack of space. The agent then takes and runs no jobs, and delivers what it has.
    is_full: bool,
    /// The key that the store could not be put under when it was opened, because a value is unreadable.
    key_due: Option<u32>,
    /// Since a change of the key was refused for such a value.
    key_refused: bool,
    logged: Vec<String>,
    logged_before: usize,
}

impl Work {
    fn open(state: &Path, socket: PathBuf, keys: Keys, logged: usize) -> Result<Self> {
        let mut options = OpenOptions::new();
        // The server keeps the anchor, out of reach of anyone who could put an older file here. If the server does
        // not answer, an agent must choose between safety and availability; this one starts without the check.
        let anchor = Link::connect(&socket).and_then(|mut link| link.anchor()).ok().flatten();
        if let Some(anchor) = &anchor {
            options.expect_at_least(anchor.parse::<Anchor>()?);
        }
        let (store, key_due) = Work::open_store(options, state, keys)?;
        let recovery = store.recovery();
        let (created, clean, rekeyed) = (recovery.created, recovery.clean, recovery.rekeyed);
        let checked =
            if anchor.is_some() { "not older than the server's anchor" } else { "no anchor from the server" };
        say("agent", &format!("open: created {created}, clean {clean}, rekeyed {rekeyed}; {checked}"));
        Ok(Work { key_due, ..Work::with(store, socket, logged) })
    }

    /// A change of the key reads every value, so one that is unreadable refuses it. The store is then opened under
    /// the previous key: the agent delivers what it has, which also removes that value, and changes the key later.
    fn open_store(options: OpenOptions, state: &Path, keys: Keys) -> Result<(Store, Option<u32>)> {
        let Keys { current, previous } = keys;
        let Some(previous) = previous else { return Ok((options.open(state, &key(current)?)?, None)) };
        let mut rekeying = options.clone();
        match rekeying.previous_key(key(previous)?).open(state, &key(current)?) {
            Err(Error::Unauthentic { .. }) => Ok((options.open(state, &key(previous)?)?, Some(current))),
            opened => Ok((opened?, None)),
        }
    }

    fn with(store: Store, socket: PathBuf, logged_before: usize) -> Self {
        Work {
            store,
            socket,
            link: None,
            was_away: false,
            is_full: false,
            key_due: None,
            key_refused: false,
            logged: Vec::new(),
            logged_before,
        }
    }

    /// Runs jobs whether the server is available or not, and talks to the server if it is.
    fn round(&mut self) -> Result<()> {
        if self.is_full {
            // A small call finds out whether there is space again, before a job is run for nothing.
            let written = self.store.record_heartbeat(now_ms());
            self.is_full = self.if_there_is_space(written)?.is_none();
        }
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
        if self.is_full {
            return Ok(());
        }
        for (run_id, payload) in self.next_jobs()? {
            let Some(id) = run_id.strip_prefix(JOBS) else { break };
            let result = payload.map_or_else(|| LOST.to_owned(), |payload| work(&payload));
            let event = self.event(&format!("ran {id}"));
            let batch = Batch::new()
                .ack_job(&run_id)
                .enqueue_job(&format!("{OUTBOX}{id}"), result.as_bytes())
                .buffer_log(now_ms(), event.as_bytes());
            let written = self.store.write(&batch);
            if self.if_there_is_space(written)?.is_none() {
                break;
            }
            self.logged.push(event);
        }
        Ok(())
    }

    /// The next jobs and their payloads: `None` if a payload failed authentication. Only that value is lost, so
    /// the agent reports it and continues.
    fn next_jobs(&self) -> Result<Vec<(String, Option<String>)>> {
        match self.store.dequeue_jobs_after(JOBS, 4) {
            Ok(jobs) => Ok(jobs.into_iter().map(|job| (job.run_id, Some(text(&job.payload)))).collect()),
            Err(Error::Unauthentic { run_id: Some(run_id), .. }) => Ok(vec![(run_id, None)]),
            Err(error) => Err(error.into()),
        }
    }

    fn talk(&mut self) -> Result<(), Failure> {
        let mut link = match self.link.take() {
            Some(link) => link,
            None => self.connect()?,
        };
        // Before the orders: this removes what is unreadable, which a change of the key would stop at each time.
        self.deliver_outbox(&mut link)?;
        self.deliver_logs(&mut link)?;
        if let Some(number) = self.key_due
            && self.rekey(number)?
        {
            self.key_due = None;
        }
        self.take_orders(&mut link)?;
        // The anchor of a store names only durable frames, so a power cut cannot make the store older than it.
        link.keep_anchor(&self.store.anchor().to_string())?;
        self.link = Some(link);
        Ok(())
    }

    fn connect(&mut self) -> Result<Link, Failure> {
        let mut link = Link::connect(&self.socket)?;
        let (session_id, server_time_ms) = link.hello()?;
        let session = Batch::new().save_session(&session_id, server_time_ms).record_heartbeat(now_ms());
        let written = self.store.write(&session);
        self.if_there_is_space(written)?;
        if std::mem::take(&mut self.was_away) {
            say("agent", "the server is back");
        }
        Ok(link)
    }

    /// Enqueues each job durably before telling the server that it was accepted. If that message is lost, the
    /// server sends the job again under the same id: it replaces the queued one, or runs a second time, and the
    /// server drops the second result. While the disk is full, the server keeps its orders.
    fn take_orders(&mut self, link: &mut Link) -> Result<(), Failure> {
        while !self.is_full {
            match link.poll()? {
                Order::Job { id, text } => {
                    let written = self.store.enqueue_job(&format!("{JOBS}{id}"), text.as_bytes());
                    if self.if_there_is_space(written)?.is_some() {
                        link.accepted(&id)?;
                    }
                }
                Order::Key(number) => {
                    if !self.rekey(number)? {
                        // The server repeats the order in the next round.
                        break;
                    }
                    link.rekeyed(number)?;
                }
                Order::None => break,
            }
        }
        Ok(())
    }

    /// Returns whether the store is now under this key. While a value is unreadable, it stays under the one it
    /// has. The rounds that follow remove most of such values.
    fn rekey(&mut self, number: u32) -> Result<bool, Failure> {
        let written = match self.store.rekey(&key(number).map_err(Failure::Store)?) {
            Err(error @ Error::Unauthentic { .. }) => {
                if !std::mem::replace(&mut self.key_refused, true) {
                    say("agent", &format!("the key is not changed yet: {error}"));
                    self.log("the key is not changed yet: a value is unreadable")?;
                }
                return Ok(false);
            }
            written => written,
        };
        let is_rekeyed = self.if_there_is_space(written)?.is_some();
        if is_rekeyed {
            self.key_refused = false;
            say("agent", &format!("the store is under key {number}"));
        }
        Ok(is_rekeyed)
    }

    /// Keeps each completion message until the server has confirmed it.
    fn deliver_outbox(&self, link: &mut Link) -> Result<(), Failure> {
        for run_id in self.store.run_ids() {
            let Some(id) = run_id.strip_prefix(OUTBOX) else { break };
            match self.store.job(&run_id) {
                Ok(Some(QueuedJob { payload, .. })) => link.done(id, &text(&payload))?,
                Ok(None) => {}
                Err(Error::Unauthentic { run_id: Some(_), .. }) => link.done(id, LOST)?,
                Err(error) => return Err(error.into()),
            }
            self.store.ack_job(&run_id)?;
        }
        Ok(())
    }

    /// Peeks, sends, and only then acks: draining would lose the events if the server went away.
    fn deliver_logs(&mut self, link: &mut Link) -> Result<(), Failure> {
        let batch = match self.store.peek_logs(100) {
            Err(Error::Unauthentic { .. }) => {
                // A full disk may have space to remove only the oldest ones. The next round continues after them.
                let discarded = self.store.discard_unreadable_logs();
                let Some(discarded) = self.if_there_is_space(discarded)? else { return Ok(()) };
                return Ok(self.log(&format!("{discarded} unreadable log events were discarded"))?);
            }
            peeked => peeked?,
        };
        for event in batch.events() {
            link.log(&text(&event.payload))?;
        }
        let acked = self.store.ack_logs(&batch);
        self.if_there_is_space(acked)?;
        Ok(())
    }

    fn event(&self, what: &str) -> String {
        format!("event {}: {what}", self.logged_before + self.logged.len())
    }

    /// On a full disk, an event about the agent itself is not worth more than to be left out.
    fn log(&mut self, what: &str) -> backupy_state::Result<()> {
        let event = self.event(what);
        let written = self.store.buffer_log(now_ms(), event.as_bytes());
        if self.if_there_is_space(written)?.is_some() {
            self.logged.push(event);
        }
        Ok(())
    }

    /// `None` if the disk or the queue is full: nothing was written then. What removes something still works, so
    /// an agent that continues makes space.
    fn if_there_is_space<T>(&mut self, written: backupy_state::Result<T>) -> backupy_state::Result<Option<T>> {
        match written {
            Ok(done) => Ok(Some(done)),
            Err(Error::Full { .. } | Error::QueueFull { .. }) => {
                self.is_full = true;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

fn text(payload: &[u8]) -> String {
    String::from_utf8_lossy(payload).into_owned()
}

/// The work of a job.
pub(crate) fn work(text: &str) -> String {
    text.to_uppercase()
}

/// Prefixes of run ids, which divide the queue into two: jobs to run, and completion messages to deliver.
const JOBS: &str = "job/";
const OUTBOX: &str = "done/";
/// What the server is told of a job whose payload failed authentication, or its result.
const LOST: &str = "lost: it failed authentication";

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

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
