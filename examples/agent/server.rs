//! The server: sends each job until it is accepted, records each message once, and goes away at the worst moments.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::{Result, say};

/// When the server goes away without an answer: the kind of message, how many of that kind it has received, and
/// whether it records this one first. If it does not, an agent that removed the message too early has lost it; if
/// it does, a correct agent sends the message twice.
pub(crate) const OUTAGES: [(&str, usize, bool); 7] = [
    ("accepted", 3, false),
    ("done", 4, true),
    ("log", 9, true),
    ("keep", 6, false),
    ("accepted", 30, true),
    ("done", 40, false),
    ("log", 60, false),
];
const AWAY: Duration = Duration::from_millis(250);
/// How many jobs the server sends at a time: few, so that new jobs arrive while others run.
const SENT_AT_ONCE: usize = 3;

#[derive(Default)]
pub(crate) struct Books {
    to_send: Vec<(String, String)>,
    pub(crate) key_ordered: Option<u32>,
    sent_since_none: usize,
    received: BTreeMap<String, usize>,
    /// The result of each job, by id.
    pub(crate) done: BTreeMap<String, String>,
    pub(crate) events: BTreeSet<String>,
    pub(crate) anchor: Option<String>,
    /// The number of repeated messages, which were dropped.
    pub(crate) duplicates: usize,
    pub(crate) outages: usize,
    ended: bool,
}

pub(crate) struct Server {
    socket: PathBuf,
    books: Arc<Mutex<Books>>,
    thread: JoinHandle<io::Result<()>>,
}

pub(crate) fn job_id(number: usize) -> String {
    format!("run-{number:03}")
}

pub(crate) fn job_text(number: usize) -> String {
    format!("dump table {number}")
}

impl Server {
    pub(crate) fn start(socket: &Path, jobs: usize) -> Result<Self> {
        let to_send = (0..jobs).rev().map(|number| (job_id(number), job_text(number))).collect();
        let books = Arc::new(Mutex::new(Books { to_send, ..Books::default() }));
        let listener = UnixListener::bind(socket)?;
        let (thread_books, thread_socket) = (Arc::clone(&books), socket.to_owned());
        let thread = thread::spawn(move || serve(listener, &thread_socket, &thread_books));
        Ok(Server { socket: socket.to_owned(), books, thread })
    }

    pub(crate) fn books(&self) -> MutexGuard<'_, Books> {
        lock(&self.books)
    }

    pub(crate) fn order_key(&self, number: u32) {
        self.books().key_ordered = Some(number);
    }

    pub(crate) fn stop(self) -> Books {
        self.books().ended = true;
        // Wakes the server if it is waiting for a connection.
        let _ = UnixStream::connect(&self.socket);
        self.thread.join().expect("the server panicked").expect("the server's socket failed");
        std::mem::take(&mut *lock(&self.books))
    }
}

fn serve(mut listener: UnixListener, socket: &Path, books: &Mutex<Books>) -> io::Result<()> {
    loop {
        let (agent, _) = listener.accept()?;
        if lock(books).ended {
            return Ok(());
        }
        // The server ignores an agent that disconnects, even in the middle of a line.
        if !matches!(talk(agent, books), Ok(Ending::GoAway)) {
            continue;
        }
        drop(listener);
        fs::remove_file(socket)?;
        thread::sleep(AWAY);
        listener = UnixListener::bind(socket)?;
        if lock(books).ended {
            // `stop` could not connect to wake it while it was away.
            return Ok(());
        }
    }
}

enum Ending {
    AgentLeft,
    GoAway,
}

fn talk(agent: UnixStream, books: &Mutex<Books>) -> io::Result<Ending> {
    let mut answers = agent.try_clone()?;
    for line in BufReader::new(agent).lines() {
        match lock(books).receive(&line?) {
            Some(answer) => answers.write_all(format!("{answer}\n").as_bytes())?,
            None => return Ok(Ending::GoAway),
        }
    }
    Ok(Ending::AgentLeft)
}

impl Books {
    /// Returns the answer, or `None` if the server goes away instead.
    fn receive(&mut self, line: &str) -> Option<String> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let count = self.received.entry(word.to_owned()).or_default();
        *count += 1;
        let outage = OUTAGES.iter().find(|(at, nth, _)| *at == word && nth == count);
        let Some((_, _, is_recorded)) = outage else { return Some(self.record(word, rest)) };
        if *is_recorded {
            self.record(word, rest);
        }
        self.outages += 1;
        let when = if *is_recorded { "after" } else { "before" };
        say("server", &format!("goes away {when} recording {line:?}, without an answer"));
        None
    }

    fn record(&mut self, word: &str, rest: &str) -> String {
        match word {
            "hello" => return format!("session-{} 1700000000000", self.outages),
            "anchor" => return self.anchor.clone().unwrap_or("none".to_owned()),
            "poll" => return self.order(),
            "keep" => self.anchor = Some(rest.to_owned()),
            "accepted" => self.to_send.retain(|(id, _)| id != rest),
            "rekeyed" => self.key_ordered = None,
            "done" => {
                let (id, result) = rest.split_once(' ').unwrap_or((rest, ""));
                let before = self.done.insert(id.to_owned(), result.to_owned());
                self.count_duplicate(before.is_some(), &format!("done {id}"));
            }
            "log" => {
                let is_new = self.events.insert(rest.to_owned());
                self.count_duplicate(!is_new, &format!("log {rest}"));
            }
            _ => return "unknown".to_owned(),
        }
        "ok".to_owned()
    }

    /// Repeats the same job until it is accepted.
    fn order(&mut self) -> String {
        if let Some(number) = self.key_ordered {
            return format!("key {number}");
        }
        self.sent_since_none += 1;
        match self.to_send.last() {
            Some((id, text)) if self.sent_since_none <= SENT_AT_ONCE => format!("job {id} {text}"),
            _ => {
                self.sent_since_none = 0;
                "none".to_owned()
            }
        }
    }

    fn count_duplicate(&mut self, is_duplicate: bool, what: &str) {
        if is_duplicate {
            self.duplicates += 1;
            say("server", &format!("drops {what:?}, a duplicate"));
        }
    }
}

/// Ignores poisoning: no change of the books can panic halfway.
fn lock(books: &Mutex<Books>) -> MutexGuard<'_, Books> {
    books.lock().unwrap_or_else(PoisonError::into_inner)
}
