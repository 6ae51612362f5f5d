//! The server: sends jobs until they are accepted, books what it is told once, and goes away when it does most harm.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::{Result, say};

/// When it goes away without an answer: at which of the agent's words, counted, and whether it has booked that one. Not booked,
/// an agent that removed it too early has lost it; booked, one that is right tells it twice.
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
/// How many jobs it sends at a time, so that they come while others run.
const SENT_AT_ONCE: usize = 3;

#[derive(Default)]
pub(crate) struct Books {
    to_send: Vec<(String, String)>,
    pub(crate) key_ordered: Option<u32>,
    sent_since_none: usize,
    words_heard: BTreeMap<String, usize>,
    /// Id to result.
    pub(crate) done: BTreeMap<String, String>,
    pub(crate) events: BTreeSet<String>,
    pub(crate) anchor: Option<String>,
    /// What came again, and was dropped.
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
        let (its_books, its_socket) = (Arc::clone(&books), socket.to_owned());
        let thread = thread::spawn(move || serve(listener, &its_socket, &its_books));
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
        // Wakes it from waiting for an agent.
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
        // An agent that goes away in the middle of a line is no trouble of the server's.
        if !matches!(talk(agent, books), Ok(Ending::GoAway)) {
            continue;
        }
        drop(listener);
        fs::remove_file(socket)?;
        thread::sleep(AWAY);
        listener = UnixListener::bind(socket)?;
        if lock(books).ended {
            // Nobody could wake it meanwhile.
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
        match lock(books).hear(&line?) {
            Some(answer) => answers.write_all(format!("{answer}\n").as_bytes())?,
            None => return Ok(Ending::GoAway),
        }
    }
    Ok(Ending::AgentLeft)
}

impl Books {
    /// The answer, if there is one before it goes away.
    fn hear(&mut self, line: &str) -> Option<String> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let heard = self.words_heard.entry(word.to_owned()).or_default();
        *heard += 1;
        let outage = OUTAGES.iter().find(|(at, count, _)| *at == word && count == heard);
        let Some((_, _, booked)) = outage else { return Some(self.book(word, rest)) };
        if *booked {
            self.book(word, rest);
        }
        self.outages += 1;
        let when = if *booked { "after" } else { "before" };
        say("server", &format!("goes away {when} booking {line:?}, without an answer"));
        None
    }

    fn book(&mut self, word: &str, rest: &str) -> String {
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
            _ => return "what?".to_owned(),
        }
        "ok".to_owned()
    }

    /// The same job again and again, until it is accepted.
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
            say("server", &format!("drops {what:?}, which came before"));
        }
    }
}

/// Nothing panics halfway through a change of the books.
fn lock(books: &Mutex<Books>) -> MutexGuard<'_, Books> {
    books.lock().unwrap_or_else(PoisonError::into_inner)
}
