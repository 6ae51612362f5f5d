//! The agent does what `docs/agent.md` advises for errors.

#![allow(clippy::unwrap_used, reason = "a test panics where something is wrong")]

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use backupy_state::testing::options_on;
use backupy_state::{AgentKey, Store};
use sim::{PATH, Sim};

use super::{JOBS, Keys, LOST, OUTBOX, Work, work};
use crate::server::{Server, job_id, job_text};
use crate::{key, wait_until};

#[path = "../../tests/sim/mod.rs"]
mod sim;

#[test]
fn an_agent_on_a_full_disk_delivers_what_it_has_and_takes_jobs_again_once_there_is_space() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("sock");
    let sim = Sim::new(11);
    sim.set_capacity(400 << 10);
    let open = || {
        let key = AgentKey::new("key").unwrap();
        options_on(Arc::new(sim.clone())).mmap(false).open(PATH, &key).unwrap()
    };
    let store = open();
    store.enqueue_job(&format!("{JOBS}queued"), &[b'a'; 100_000]).unwrap();
    let mut messages = 0;
    while store.enqueue_job(&format!("{OUTBOX}{messages:03}"), &[b'B'; 4000]).is_ok() {
        messages += 1;
        let _ = store.buffer_log(1, format!("event {messages}").as_bytes());
    }
    while store.record_heartbeat(1).is_ok() {}
    let events = store.log_count();
    drop(store);

    // It starts with a full disk each time, and the server goes away now and then.
    let server = Server::start(&socket, 1).unwrap();
    let round_of_a_life = || Work::with(open(), socket.clone(), 1000).round().unwrap();
    wait_until("the messages and log events are delivered", || {
        round_of_a_life();
        server.books().done.len() >= messages && server.books().events.len() >= events
    });
    sim.set_capacity(4 << 20);
    wait_until("all jobs are done", || {
        round_of_a_life();
        open().queue_depth() == 0 && server.books().done.len() == messages + 2
    });
    let books = server.stop();
    assert_eq!(books.done["queued"], "A".repeat(100_000));
    assert_eq!(books.done[&job_id(0)], work(&job_text(0)));
}

#[test]
fn an_unreadable_payload_or_log_event_is_reported_and_the_others_are_delivered() {
    let folder = tempfile::tempdir().unwrap();
    let (path, socket) = (folder.path().join("state.db"), folder.path().join("sock"));
    let store = Store::open(&path, &AgentKey::new("key").unwrap()).unwrap();
    for run_id in [format!("{JOBS}a"), format!("{OUTBOX}b")] {
        store.enqueue_job(&run_id, b"damaged").unwrap();
        flip_in_newest_value(&path);
        store.enqueue_job(&format!("{run_id}2"), b"kept").unwrap();
    }
    store.buffer_log(1, b"damaged event").unwrap();
    flip_in_newest_value(&path);
    store.buffer_log(2, b"kept event").unwrap();

    let server = Server::start(&socket, 0).unwrap();
    let mut agent = Work::with(store, socket, 0);
    wait_until("everything is delivered", || {
        agent.round().unwrap();
        agent.store.queue_depth() + agent.store.log_count() == 0
    });
    drop(agent);
    let books = server.stop();
    let done = books.done.iter().map(|(id, result)| (&**id, &**result)).collect::<Vec<_>>();
    assert_eq!(done, [("a", LOST), ("a2", "KEPT"), ("b", LOST), ("b2", "kept")]);
    assert!(books.events.contains("kept event") && !books.events.contains("damaged event"));
    assert!(books.events.iter().any(|event| event.ends_with("1 unreadable log events were discarded")));
}

/// A change of the key reads every value, and the server repeats its order until it is obeyed.
#[test]
fn a_key_is_changed_once_what_is_unreadable_has_been_delivered() {
    for is_event in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let (path, socket) = (folder.path().join("state.db"), folder.path().join("sock"));
        let store = Store::open(&path, &key(1).unwrap()).unwrap();
        // More events than are delivered in one round.
        for n in 0..150 {
            store.buffer_log(n, format!("kept event {n}").as_bytes()).unwrap();
        }
        if is_event {
            store.buffer_log(1000, b"damaged event").unwrap();
        } else {
            store.enqueue_job(&format!("{OUTBOX}b"), b"damaged").unwrap();
        }
        flip_in_newest_value(&path);
        store.enqueue_job(&format!("{OUTBOX}c"), b"kept").unwrap();

        let server = Server::start(&socket, 1).unwrap();
        server.order_key(2);
        let mut agent = Work::with(store, socket, 1000);
        wait_until("the key is changed, and everything is delivered", || {
            agent.round().unwrap();
            let is_changed = server.books().key_ordered.is_none();
            is_changed && agent.store.queue_depth() + agent.store.log_count() == 0
        });
        agent.store.close().unwrap();
        // Ends its connection, which the server waits for.
        drop(agent);
        Store::open(&path, &key(2).unwrap()).unwrap();
        let books = server.stop();
        assert_eq!(books.done["c"], "kept");
        assert_eq!(books.done[&job_id(0)], work(&job_text(0)));
        assert!((0..150).all(|n| books.events.contains(&format!("kept event {n}"))));
    }
}

#[test]
fn an_agent_that_starts_with_another_key_first_delivers_what_is_unreadable() {
    let folder = tempfile::tempdir().unwrap();
    let (path, socket) = (folder.path().join("state.db"), folder.path().join("sock"));
    let store = Store::open(&path, &key(1).unwrap()).unwrap();
    store.enqueue_job(&format!("{OUTBOX}b"), b"damaged").unwrap();
    store.enqueue_job(&format!("{OUTBOX}c"), b"kept").unwrap();
    store.close().unwrap();
    tamper_with_first_value(&path);

    let server = Server::start(&socket, 0).unwrap();
    let mut agent = Work::open(&path, socket, Keys { current: 2, previous: Some(1) }, 0).unwrap();
    wait_until("everything is delivered", || {
        agent.round().unwrap();
        agent.store.queue_depth() + agent.store.log_count() == 0
    });
    agent.store.close().unwrap();
    drop(agent);
    Store::open(&path, &key(2).unwrap()).unwrap();
    let books = server.stop();
    assert_eq!((&*books.done["b"], &*books.done["c"]), (LOST, "kept"));
}

/// Flips a byte of the value that was written last: a frame ends with the tag of its value.
fn flip_in_newest_value(log: &Path) {
    let bytes = fs::read(log).unwrap();
    let at = bytes.iter().rposition(|&byte| byte != 0).unwrap() - 8;
    let file = fs::File::options().write(true).open(log).unwrap();
    file.write_all_at(&[!bytes[at]], at as u64).unwrap();
}

/// Changes the last value of the first frame, and corrects its CRCs: opening the store does not look at values.
fn tamper_with_first_value(log: &Path) {
    const FRAME_AT: usize = 8192;
    let mut bytes = fs::read(log).unwrap();
    let salt = bytes[48..80].to_vec();
    let len = u32::from_le_bytes(bytes[FRAME_AT + 8..FRAME_AT + 12].try_into().unwrap()) as usize;
    let frame = &mut bytes[FRAME_AT..FRAME_AT + len];
    frame[len - 8] ^= 1;
    let body_crc = crc32(&[&salt, &frame[48..]]);
    frame[4..8].copy_from_slice(&body_crc);
    let header_crc = crc32(&[&salt, &frame[4..48]]);
    frame[..4].copy_from_slice(&header_crc);
    fs::write(log, bytes).unwrap();
}

fn crc32(parts: &[&[u8]]) -> [u8; 4] {
    let mut crc = crc32fast::Hasher::new();
    parts.iter().for_each(|part| crc.update(part));
    crc.finalize().to_le_bytes()
}
