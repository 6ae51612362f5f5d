//! A small agent and its server, which shows how an agent uses its store.
//!
//! `cargo run --example agent` runs for a few seconds and prints what happens. The server sends jobs, records what
//! the agent reports, and goes away at the worst moments, for example after it has recorded a message and before
//! it has confirmed it. The agent is stopped and started again, changes its key twice, and must refuse an older
//! file. At the end, every job must be done and counted once, every log event delivered, and nothing delivered
//! that was never sent.
//!
//! - `main.rs`: the sequence of events and the final check
//! - `agent.rs`: the agent; this is the part to copy from
//! - `link.rs`: the agent's connection to the server
//! - `server.rs`: the server and its records

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
    let agent = Agent::start(&state, &socket, Keys { current: 1, previous: None }, 0);
    wait_until("some jobs are done", || server.books().done.len() >= JOBS / 6);

    say("main", "the server orders another key; the agent continues to work");
    server.order_key(2);
    wait_until("the store is under key 2", || server.books().key_ordered.is_none());

    say("main", "the agent is told to stop, and finishes its current round");
    let mut logged = agent.stop()?;
    let older = fs::read(&state)?;

    say("main", "the agent starts again with key 3, and key 2 as the previous key");
    let agent = Agent::start(&state, &socket, Keys { current: 3, previous: Some(2) }, logged.len());
    wait_until("every job is done", || server.books().done.len() == JOBS);
    wait_until("the server has been away often enough", || server.books().outages == server::OUTAGES.len());
    wait_until("the agent has delivered everything", || has_delivered_all(&state));
    logged.extend(agent.stop()?);

    let books = server.stop();
    check_books(&books, &logged);
    check_store(&state, &books, &older)
}

/// A real agent reads its key from a safe place: `AgentKey::from_file` or `from_env`.
fn key(number: u32) -> Result<AgentKey> {
    Ok(AgentKey::new(format!("bkpy_agent_key_{number}_0123456789abcdef0123456789"))?)
}

/// Reads the store without its lock while the agent runs, as an operator would.
fn has_delivered_all(state: &Path) -> bool {
    let Ok(snapshot) = key(3).and_then(|key| Ok(Snapshot::open(state, &key)?)) else { return false };
    snapshot.queue_depth() + snapshot.log_count() == 0
}

/// Compares the server's records with the jobs that it sent and the log events that the agent wrote.
fn check_books(books: &Books, logged: &[String]) {
    for number in 0..JOBS {
        let result = books.done.get(&server::job_id(number));
        assert_eq!(
            result,
            Some(&agent::work(&server::job_text(number))),
            "job {number} was lost or has a wrong result"
        );
    }
    assert_eq!(books.done.len(), JOBS, "the server got results of jobs that it never sent");
    for event in logged {
        assert!(books.events.contains(event), "the log event {event:?} was lost");
    }
    assert_eq!(books.events.len(), logged.len(), "the server got log events that the agent never wrote");
    assert!(books.duplicates > 0, "nothing was delivered twice, so this run shows little");
    let (events, duplicates, outages) = (books.events.len(), books.duplicates, books.outages);
    say("main", &format!("{JOBS} jobs and {events} log events: nothing lost, nothing made up"));
    say("main", &format!("the server went away {outages} times and dropped {duplicates} duplicates"));
}

/// Checks that the agent has delivered everything, and that an older file is refused.
fn check_store(state: &Path, books: &Books, older: &[u8]) -> Result<()> {
    let anchor: Anchor = books.anchor.as_deref().ok_or("the server was never given an anchor")?.parse()?;
    let mut options = OpenOptions::new();
    let store = options.create(false).expect_at_least(anchor).open(state, &key(3)?)?;
    assert_eq!((store.queue_depth(), store.log_count()), (0, 0), "the agent stopped with undelivered messages");
    assert!(store.last_heartbeat()?.is_some() && store.load_session()?.is_some());
    store.close()?;

    fs::write(state, older)?;
    let refused = options.open(state, &key(2)?);
    assert!(matches!(refused, Err(Error::Stale { .. })), "an older file was accepted");
    say("main", "an older copy of the file is refused: it is older than the server's anchor");
    Ok(())
}

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < Duration::from_secs(30), "timed out while waiting until {what}");
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
