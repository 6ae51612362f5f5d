//! A small agent and its server: what an agent does with its store, from the first job to the last.
//!
//! `cargo run --example agent` plays it in a few seconds and says what happens. The server sends jobs, books what it is told,
//! and goes away at the worst moments: when it has booked something and not yet said so. The agent is stopped and started
//! again, gets a new key twice, and must not be fooled by an old file. At the end the books must be right: every job done
//! and counted once, every log event there, nothing that nobody sent.
//!
//! - `main.rs`: the story and the reckoning
//! - `agent.rs`: the agent; this is the part to copy from
//! - `link.rs`: the agent's end of the wire
//! - `server.rs`: the server and its books

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use backupy_state::{AgentKey, Anchor, Error, OpenOptions, Snapshot};

mod agent;
mod link;
mod server;

use agent::{Agent, Keys};
use server::{Books, Server};

type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

const JOBS: usize = 60;

fn main() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (state, socket) = (folder.path().join("state.db"), folder.path().join("server.sock"));
    let server = Server::start(&socket, JOBS)?;

    say("main", "the agent starts; there is no store yet");
    let agent = Agent::start(&state, &socket, Keys { now: key(1)?, before: None }, 0);
    wait_until("some jobs are done", || server.books().done.len() >= JOBS / 6);

    say("main", "the server asks for another key; the agent goes on working meanwhile");
    server.order_key(2);
    wait_until("the store is under key 2", || server.books().key_ordered.is_none());

    say("main", "the agent is asked to stop, and ends what it is doing first");
    let mut logged = agent.stop()?;
    let older = fs::read(&state)?;

    say("main", "it starts again with key 3 and, for the last time, key 2");
    let agent = Agent::start(&state, &socket, Keys { now: key(3)?, before: Some(key(2)?) }, logged.len());
    wait_until("every job is done", || server.books().done.len() == JOBS);
    wait_until("the server has been away often enough", || server.books().outages == server::OUTAGES.len());
    wait_until("the agent has told everything", || has_told_all(&state));
    logged.extend(agent.stop()?);

    let books = server.stop();
    reckon(&books, &logged);
    check_store(&state, &books, &older)
}

/// The keys would come from a safe place: `AgentKey::from_file` or `from_env`.
fn key(number: u32) -> Result<AgentKey> {
    Ok(AgentKey::new(format!("bkpy_agent_key_{number}_0123456789abcdef0123456789"))?)
}

/// Looks as an operator would, beside the running agent and without its lock.
fn has_told_all(state: &Path) -> bool {
    let Ok(seen) = key(3).and_then(|key| Ok(Snapshot::open(state, &key)?)) else { return false };
    seen.queue_depth() + seen.log_count() == 0
}

/// What the server was told against what was there to tell.
fn reckon(books: &Books, logged: &[String]) {
    for number in 0..JOBS {
        let result = books.done.get(&server::job_id(number));
        assert_eq!(result, Some(&agent::work(&server::job_text(number))), "job {number} was lost or done wrongly");
    }
    assert_eq!(books.done.len(), JOBS, "the server was told of jobs that it never sent");
    for event in logged {
        assert!(books.events.contains(event), "the log event {event:?} was lost");
    }
    assert_eq!(books.events.len(), logged.len(), "the server was told of log events that the agent never wrote");
    assert!(books.duplicates > 0, "nothing was delivered twice, so this has shown little");
    let (events, duplicates, outages) = (books.events.len(), books.duplicates, books.outages);
    say("main", &format!("{JOBS} jobs and {events} log events: nothing lost, nothing unknown"));
    say("main", &format!("the server went away {outages} times and dropped {duplicates} that came twice"));
}

/// The agent has kept nothing back, and only the newest file will do.
fn check_store(state: &Path, books: &Books, older: &[u8]) -> Result<()> {
    let anchor: Anchor = books.anchor.as_deref().ok_or("the server was never given an anchor")?.parse()?;
    let mut options = OpenOptions::new();
    let store = options.create(false).expect_at_least(anchor).open(state, &key(3)?)?;
    assert_eq!((store.queue_depth(), store.log_count()), (0, 0), "the agent stopped with something to tell");
    assert!(store.last_heartbeat()?.is_some() && store.load_session()?.is_some());
    store.close()?;

    fs::write(state, older)?;
    let refused = options.open(state, &key(2)?);
    assert!(matches!(refused, Err(Error::Stale { .. })), "an older file passes for the newest");
    say("main", "an older copy of the file is refused: it falls short of the server's anchor");
    Ok(())
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(30), "waited in vain until {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

fn say(who: &str, what: &str) {
    println!("{who:<7}| {what}");
}

#[test]
fn nothing_is_lost_while_the_server_comes_and_goes() {
    main().unwrap();
}
