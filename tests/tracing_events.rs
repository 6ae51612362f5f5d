//! The events of the `tracing` feature: for open, recovery and failure, and never a secret. Alone in its binary:
//! other tests without a subscriber could make `tracing` disable an event for the whole process.
#![cfg(feature = "tracing")]
#![allow(clippy::unwrap_used, reason = "a test panics where something is wrong")]

mod common;

use std::fmt::{Debug, Write};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::sync::{Arc, LazyLock, Mutex};
use std::thread;

use backupy_state::{AgentKey, Error, Store};
use common::{Image, KEY, Place};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Dispatch, Event, Level, Metadata, Subscriber};

/// Keeps every event as a level and a line of text.
#[derive(Clone, Default)]
struct Listener {
    events: Arc<Mutex<Vec<(Level, String)>>>,
}

impl Subscriber for Listener {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut text = Text(String::new());
        event.record(&mut text);
        self.events.lock().unwrap().push((*event.metadata().level(), text.0));
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        write!(self.0, "{}={value:?} ", field.name()).unwrap();
    }
}

/// A place for a store. From the first one on, there is always a subscriber. Without one, `tracing` may disable an
/// event for the whole process when it first occurs, even if another thread sets a subscriber at that moment.
fn place() -> Place {
    static SOMEBODY: LazyLock<Dispatch> = LazyLock::new(|| Dispatch::new(Listener::default()));
    LazyLock::force(&SOMEBODY);
    Place::new()
}

/// The events during the call.
fn events_of(call: impl FnOnce()) -> Vec<(Level, String)> {
    let listener = Listener::default();
    tracing::subscriber::with_default(listener.clone(), call);
    let events = listener.events.lock().unwrap().clone();
    for (_, text) in &events {
        for secret in [KEY, "secret payload", "secret session", "secret configuration", "secret event"] {
            assert!(!text.contains(secret), "{text}");
        }
    }
    events
}

fn fill(store: &Store) {
    store.enqueue_job("run-1", b"secret payload").unwrap();
    store.save_session("secret session", 1).unwrap();
    store.save_config(1, b"secret configuration").unwrap();
    store.buffer_log(1, b"secret event").unwrap();
    store.drain_logs(1).unwrap();
    store.ack_job("run-1").unwrap();
}

/// Asserts that there is exactly one event, of this level and with all of these parts.
fn assert_one(events: &[(Level, String)], level: Level, parts: &[&str]) {
    assert_eq!(events.len(), 1, "{events:?}");
    assert_has(events, level, parts);
}

fn assert_has(events: &[(Level, String)], level: Level, parts: &[&str]) {
    let fits = |(of, text): &(Level, String)| *of == level && parts.iter().all(|part| text.contains(part));
    assert!(events.iter().any(fits), "{events:?}");
}

#[test]
fn opening_is_one_event_and_writing_is_none() {
    let place = place();
    let created = events_of(|| {
        let store = place.open();
        fill(&store);
        store.close().unwrap();
    });
    assert_one(&created, Level::INFO, &["opened the store", "state.db", "created=true", "records=0"]);
    let opened = events_of(|| drop(place.open()));
    assert_one(&opened, Level::INFO, &["opened the store", "created=false", "records=6", "operations=6"]);
}

#[test]
fn an_unclean_stop_and_a_torn_tail_are_warnings() {
    let (place, killed) = (place(), place());
    let store = place.open();
    fill(&store);
    Image::read(place.path()).write(killed.path());
    let opened = events_of(|| drop(killed.open()));
    assert_one(&opened, Level::WARN, &["unclean stop", "records=6"]);

    drop(store);
    Image::read(place.path()).append(b"torn").write(killed.path());
    let opened = events_of(|| drop(killed.open()));
    assert_has(&opened, Level::WARN, &["torn tail", "quarantined_bytes=4", "state.db.torn-1"]);
    assert_has(&opened, Level::WARN, &["unclean stop"]);
}

#[test]
fn an_open_that_fails_is_an_error_with_its_reason() {
    let place = place();
    let store = place.open();
    fill(&store);
    store.close().unwrap();
    let wrong_key = events_of(|| {
        let wrong = AgentKey::new("another").unwrap();
        assert!(matches!(Store::open(place.path(), &wrong), Err(Error::WrongKey { .. })));
    });
    assert_one(&wrong_key, Level::ERROR, &["could not open the store", "another agent key"]);

    let mut image = Image::read(place.path());
    let frame = image.frames()[1].clone();
    image.flip(frame.start + 60).write(place.path());
    let damaged = events_of(|| assert!(matches!(place.try_open(), Err(Error::Corrupt { .. }))));
    assert_one(&damaged, Level::ERROR, &["could not open the store", "damaged", &frame.start.to_string()]);
}

#[test]
fn a_store_that_is_in_use_is_an_error_event() {
    let place = place();
    let _store = place.open();
    let locked = events_of(|| assert!(matches!(place.try_open(), Err(Error::Locked { .. }))));
    assert_one(&locked, Level::ERROR, &["could not open the store", "in use"]);
}

#[test]
fn a_key_file_that_everybody_can_read_is_a_warning_with_its_path_and_mode() {
    let place = place();
    let path = place.at("agent.key");
    fs::write(&path, KEY).unwrap();
    for (mode, is_warned) in [(0o600, false), (0o640, false), (0o644, true), (0o604, true)] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let read = events_of(|| drop(AgentKey::from_file(&path).unwrap()));
        if is_warned {
            let mode = format!("mode={mode:04o} ");
            assert_one(&read, Level::WARN, &["every user can read the key file", "agent.key", &mode]);
        } else {
            assert_eq!(read, [], "{mode:o}");
        }
    }

    // A pipe is gone when it has been read, and its mode says nothing about who can read it.
    let fifo = place.at("key.fifo");
    assert!(Command::new("mkfifo").args(["-m", "644"]).arg(&fifo).status().unwrap().success());
    let to = fifo.clone();
    let writer = thread::spawn(move || fs::write(to, KEY).unwrap());
    assert_eq!(events_of(|| drop(AgentKey::from_file(&fifo).unwrap())), []);
    writer.join().unwrap();
}
