//! The events of the `tracing` feature: for open, recovery and failure, and never a secret; and who listens to
//! them may call the store. Alone in its binary: other tests without a subscriber could make `tracing` disable an
//! event for the whole process.
#![cfg(feature = "tracing")]
#![allow(clippy::unwrap_used, reason = "a test panics where something is wrong")]

mod common;

use std::cell::Cell;
use std::fmt::{Debug, Write};
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex, Once, Weak};
use std::thread::{self, ThreadId};
use std::time::Duration;

use backupy_state::testing::{Storage, options_on, policy};
use backupy_state::{AgentKey, Batch, Error, OpenOptions, Snapshot, Store, salvage};
use common::{Hooked, Hooks, Image, KEY, Place, Refusable, existing, key, without_hanging};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// Calls a function with each event and its fields in a line of text.
struct EachEvent<F>(F);

impl<F: Fn(&Event<'_>, &str) + Send + Sync + 'static> Subscriber for EachEvent<F> {
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
        (self.0)(event, &text.0);
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

/// A place for a store. From the first one on, there is always a subscriber, which [`route`]s events. Without one,
/// `tracing` may disable an event for the whole process when it first occurs, even if another thread sets a
/// subscriber at that moment.
fn place() -> Place {
    static ROUTER: Once = Once::new();
    ROUTER.call_once(|| tracing::subscriber::set_global_default(EachEvent(route)).unwrap());
    Place::new()
}

/// The events during the call.
fn events_of(call: impl FnOnce()) -> Vec<(Level, String)> {
    let events = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&events);
    let keep = move |event: &Event<'_>, text: &str| {
        heard.lock().unwrap().push((*event.metadata().level(), text.to_owned()));
    };
    tracing::subscriber::with_default(EachEvent(keep), call);
    let events = events.lock().unwrap().clone();
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

/// What a test does at each event of its store. The store that it gets is open, unless it is being closed.
type Layer = Arc<dyn Fn(&str) + Send + Sync>;

/// The layers, each with the folder of its store.
static LAYERS: Mutex<Vec<(PathBuf, Layer)>> = Mutex::new(Vec::new());

thread_local! {
    /// Whether this thread is in a layer, whose own calls cause events too.
    static IN_LAYER: Cell<bool> = const { Cell::new(false) };
}

/// Calls the layer of the store that an event is about, also for the threads that a store starts.
fn route(_: &Event<'_>, text: &str) {
    let is_about = |folder: &PathBuf| text.contains(&format!("path={}/", folder.display()));
    let layers = LAYERS.lock().unwrap();
    let layer = layers.iter().find(|(folder, _)| is_about(folder)).map(|(_, layer)| Arc::clone(layer));
    drop(layers);
    if let Some(layer) = layer
        && !IN_LAYER.replace(true)
    {
        layer(text);
        IN_LAYER.set(false);
    }
}

fn listen(place: &Place, layer: impl Fn(&str) + Send + Sync + 'static) {
    LAYERS.lock().unwrap().push((fs::canonicalize(place.folder()).unwrap(), Arc::new(layer)));
}

/// Opens a store, and from then on makes every kind of call on it at each of its events, on the thread of the
/// event. What the calls return does not matter, as long as they return. The texts of the events arrive after the
/// calls.
fn open_with_layer(place: &Place, options: &OpenOptions) -> (Arc<Store>, Receiver<(ThreadId, String)>) {
    let store = Arc::new(options.open(place.path(), &key()).unwrap());
    let (weak, path, copy) = (Arc::downgrade(&store), place.path(), place.at("copy"));
    let (send, events) = mpsc::channel();
    listen(place, move |text| {
        call_everything(&weak, &path, &copy);
        let _ = send.send((thread::current().id(), text.to_owned()));
    });
    (store, events)
}

fn call_everything(store: &Weak<Store>, path: &Path, copy: &Path) {
    // While the store is being closed, only its file is left to call.
    let _ = Snapshot::open(path, &key()).map(|mut snapshot| snapshot.refresh());
    let Some(store) = store.upgrade() else {
        let opened = existing().open(path, &key());
        assert!(matches!(opened, Err(Error::Locked { .. })), "{opened:?}");
        return;
    };
    let _ = (store.stats(), store.queue_depth(), store.anchor(), store.job("run-1"), store.dequeue_jobs(1));
    let _ = (store.enqueue_job("by the layer", b"job"), store.ack_job("run-1"), store.record_heartbeat(1));
    let _ = (store.buffer_log(1, b"event"), store.peek_logs(1).map(|batch| store.ack_logs(&batch)));
    let _ = (store.drain_logs(1), store.discard_unreadable_logs(), store.sync());
    let _ = (store.compact(), store.rekey(&key()), store.backup(copy), fs::remove_file(copy.with_extension("db")));
}

/// Waits for an event with this text. Returns the thread that it was emitted on.
#[track_caller]
fn await_event(events: &Receiver<(ThreadId, String)>, part: &str) -> ThreadId {
    let wait = || events.recv_timeout(Duration::from_secs(30)).expect(part);
    std::iter::repeat_with(wait).find(|(_, text)| text.contains(part)).unwrap().0
}

/// Fails the calls that it was told to.
#[derive(Clone, Debug, Default)]
struct Refusals(Arc<Mutex<Option<(Refusable, ErrorKind)>>>);

impl Hooks for Refusals {
    fn refuse(&self, call: Refusable) -> io::Result<()> {
        match *self.0.lock().unwrap() {
            Some((refused, kind)) if refused == call => Err(kind.into()),
            _ => Ok(()),
        }
    }
}

/// Opens a store with a layer on a disk that refuses calls.
fn open_refusing(place: &Place) -> (Arc<Store>, Receiver<(ThreadId, String)>, Refusals) {
    let hooked = Hooked::<Refusals>::default();
    let refusals = hooked.hooks.clone();
    let (store, events) = open_with_layer(place, &options_on(Arc::new(hooked) as Arc<dyn Storage>));
    fill(&store);
    (store, events, refusals)
}

/// Compacts by itself as soon as 16 KiB are dead.
fn eager() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.compaction(policy(|policy| policy.min_len = 0));
    options
}

fn write_dead_bytes(store: &Store) {
    for _ in 0..6 {
        store.save_config(1, &[7; 8 << 10]).unwrap();
    }
}

#[test]
fn a_layer_that_calls_the_store_gets_through_when_the_disk_is_full() {
    without_hanging(|| {
        let place = place();
        let (store, events, refusals) = open_refusing(&place);
        *refusals.0.lock().unwrap() = Some((Refusable::Write, ErrorKind::StorageFull));
        // Each call that appends by another way.
        for refused in [
            store.enqueue_job("run-2", b"job").map(drop),
            store.save_config(2, b"configuration"),
            store.buffer_log(2, b"event").map(drop),
            store.write(&Batch::new().enqueue_job("run-2", b"job").buffer_log(1, b"event")),
        ] {
            assert!(matches!(refused, Err(Error::Full { .. })), "{refused:?}");
            await_event(&events, "no space left on the disk");
        }
        assert!(matches!(store.compact(), Err(Error::Full { .. })));
        await_event(&events, "could not compact the log");
        *refusals.0.lock().unwrap() = None;
        store.enqueue_job("run-2", b"job").unwrap();
        store.buffer_log(2, b"event").unwrap();
        let batch = store.peek_logs(1).unwrap();
        *refusals.0.lock().unwrap() = Some((Refusable::Write, ErrorKind::StorageFull));
        for refused in
            [store.ack_job("run-2").map(drop), store.ack_logs(&batch).map(drop), store.drain_logs(1).map(drop)]
        {
            assert!(matches!(refused, Err(Error::Full { .. })), "{refused:?}");
            await_event(&events, "no space left on the disk");
        }
    });
}

#[test]
fn a_layer_that_calls_the_store_gets_through_when_a_write_a_sync_or_the_close_fails() {
    without_hanging(|| {
        for (call, part) in [(Refusable::Write, "operation=\"write\""), (Refusable::Sync, "operation=\"sync\"")] {
            let place = place();
            let (store, events, refusals) = open_refusing(&place);
            *refusals.0.lock().unwrap() = Some((call, ErrorKind::Other));
            assert!(matches!(store.enqueue_job("run-2", b"job"), Err(Error::Io { .. })));
            await_event(&events, part);
            assert!(matches!(store.compact(), Err(Error::Failed { .. })));
            await_event(&events, "could not compact the log");

            let place = self::place();
            let (store, events, refusals) = open_refusing(&place);
            *refusals.0.lock().unwrap() = Some((call, ErrorKind::Other));
            assert!(store.close().is_err());
            await_event(&events, part);
        }
    });
}

#[test]
fn a_layer_that_calls_the_store_gets_through_when_the_log_is_replaced() {
    without_hanging(|| {
        for remove in [false, true] {
            let place = place();
            let (store, events) = open_with_layer(&place, &OpenOptions::new());
            fill(&store);
            fs::rename(place.path(), place.at("elsewhere.db")).unwrap();
            if remove {
                fs::remove_file(place.at("elsewhere.db")).unwrap();
            }
            assert!(matches!(store.sync(), Err(Error::Replaced { .. })));
            await_event(&events, "moved, removed or replaced");
            assert!(matches!(store.compact(), Err(Error::Replaced { .. })));
            await_event(&events, "could not compact the log");
        }
    });
}

#[test]
fn a_layer_that_calls_the_store_gets_through_at_the_end_of_every_compaction() {
    without_hanging(|| {
        let place = place();
        let (store, events) = open_with_layer(&place, &OpenOptions::new());
        fill(&store);
        store.compact().unwrap();
        assert_eq!(await_event(&events, "compacted the log"), thread::current().id());
        store.rekey(&key()).unwrap();
        await_event(&events, "compacted the log");
        // Something is in the way of the new log.
        fs::create_dir(place.at("state.db.new")).unwrap();
        assert!(matches!(store.compact(), Err(Error::Invalid { .. })));
        await_event(&events, "in the way");
        assert!(matches!(store.rekey(&key()), Err(Error::Invalid { .. })));
        await_event(&events, "in the way");
    });
}

#[test]
fn a_layer_that_calls_the_store_gets_through_on_the_thread_of_a_compaction() {
    without_hanging(|| {
        let place = place();
        let (store, events) = open_with_layer(&place, &eager());
        write_dead_bytes(&store);
        assert_ne!(await_event(&events, "compacted the log"), thread::current().id());

        let place = self::place();
        let (store, events) = open_with_layer(&place, &eager());
        fs::create_dir(place.at("state.db.new")).unwrap();
        write_dead_bytes(&store);
        assert_ne!(await_event(&events, "in the way"), thread::current().id());
    });
}

/// An operator parks a store where the compaction is about to write: it is kept under another name.
#[test]
fn a_layer_that_calls_the_store_gets_through_when_a_left_over_is_kept() {
    without_hanging(|| {
        let place = place();
        let (store, events) = open_with_layer(&place, &OpenOptions::new());
        fill(&store);
        for (compact, number) in [(true, 1), (false, 2)] {
            salvage(place.path(), &key(), place.at("salvaged.db")).unwrap();
            fs::rename(place.at("salvaged.db"), place.at("state.db.new")).unwrap();
            if compact {
                store.compact().map(drop).unwrap();
            } else {
                store.rekey(&key()).unwrap();
            }
            await_event(&events, &format!("state.db.damaged-{number}"));
            await_event(&events, "compacted the log");
        }
    });
}

#[test]
fn a_layer_can_drop_or_close_the_last_handle_on_the_thread_of_a_compaction() {
    without_hanging(|| {
        for (close, fail) in [(false, false), (true, false), (false, true), (true, true)] {
            let place = place();
            let store = Arc::new(eager().open(place.path(), &key()).unwrap());
            store.enqueue_job("run-1", b"job").unwrap();
            if fail {
                fs::create_dir(place.at("state.db.new")).unwrap();
            }
            let last = Mutex::new(Some(Arc::clone(&store)));
            let (dropped, only_the_layer_is_left) = mpsc::channel();
            let only_the_layer_is_left = Mutex::new(only_the_layer_is_left);
            let (send, ended) = mpsc::channel();
            listen(&place, move |_| {
                let Some(store) = last.lock().unwrap().take() else { return };
                only_the_layer_is_left.lock().unwrap().recv().unwrap();
                let store = Arc::into_inner(store).unwrap();
                if close {
                    store.close().unwrap();
                } else {
                    drop(store);
                }
                send.send(()).unwrap();
            });
            write_dead_bytes(&store);
            drop(store);
            dropped.send(()).unwrap();
            ended.recv_timeout(Duration::from_secs(30)).expect("the store is closed");
            if fail {
                fs::remove_dir(place.at("state.db.new")).unwrap();
            }
            let store = place.try_open().unwrap();
            assert!(store.recovery().clean && store.queue_depth() == 1, "{:?}", store.recovery());
        }
    });
}

#[test]
fn a_layer_can_close_the_store_at_an_event_of_any_call() {
    without_hanging(|| {
        let calls: [fn(&Store) -> bool; 3] = [
            |store| store.enqueue_job("run-1", b"job").is_ok(),
            |store| store.close().is_ok(),
            |store| store.compact().is_ok(),
        ];
        for call in calls {
            let (place, refusals) = (place(), Refusals::default());
            let options = options_on(Arc::new(Hooked { hooks: refusals.clone(), ..Hooked::default() }));
            let store = Arc::new(options.open(place.path(), &key()).unwrap());
            fill(&store);
            let (weak, (send, results)) = (Arc::downgrade(&store), mpsc::channel());
            listen(&place, move |_| {
                if let Some(store) = weak.upgrade() {
                    let _ = send.send(store.close().is_ok());
                }
            });
            *refusals.0.lock().unwrap() = Some((Refusable::Sync, ErrorKind::Other));
            assert!(!call(&store));
            results.recv().unwrap();
            assert!(matches!(store.sync(), Err(Error::Closed { .. })));
            *refusals.0.lock().unwrap() = None;
            drop(store);
            place.open();
        }
    });
}

/// Closes the store on another thread as soon as the new file of a compaction is made.
#[derive(Clone, Debug, Default)]
struct CloseMeanwhile(Arc<Mutex<Option<Arc<Store>>>>);

impl Hooks for CloseMeanwhile {
    fn open(&self, path: &Path) -> io::Result<bool> {
        if path.ends_with("state.db.new")
            && !path.exists()
            && let Some(store) = self.0.lock().unwrap().take()
        {
            thread::spawn(move || store.close());
            // Long enough for the compaction to be asked to stop before it continues.
            thread::sleep(Duration::from_millis(100));
        }
        Ok(false)
    }
}

#[test]
fn a_left_over_that_is_kept_is_an_event_also_if_the_compaction_is_stopped() {
    let (place, hooks) = (place(), CloseMeanwhile::default());
    let options = options_on(Arc::new(Hooked { hooks: hooks.clone(), ..Hooked::default() }));
    let store = Arc::new(options.open(place.path(), &key()).unwrap());
    fill(&store);
    salvage(place.path(), &key(), place.at("salvaged.db")).unwrap();
    fs::rename(place.at("salvaged.db"), place.at("state.db.new")).unwrap();
    *hooks.0.lock().unwrap() = Some(Arc::clone(&store));
    let events = events_of(|| assert!(matches!(store.compact(), Err(Error::Closed { .. }))));
    assert_one(&events, Level::WARN, &["state.db.damaged-1"]);
}
