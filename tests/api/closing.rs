//! `close`, which takes the store by reference: what later calls return, and calls that are under way.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use backupy_state::testing::options_on;
use backupy_state::{AgentKey, Batch, Error, ErrorKind, OpenOptions, Result, Store, verify};

use crate::common::{Hooked, Hooks, Place, Refusable, key};

/// Lets a sync, or the making of a compaction's or backup's new file, wait until the gate is opened; or fails
/// syncs.
#[derive(Clone, Debug, Default)]
struct Held {
    syncs: Arc<Gate>,
    new_files: Arc<Gate>,
    fails: Arc<AtomicBool>,
}

#[derive(Debug, Default)]
struct Gate {
    state: Mutex<State>,
    turned: Condvar,
}

#[derive(Debug, Default)]
struct State {
    is_shut: bool,
    arrived: usize,
}

impl Gate {
    fn shut(&self) {
        *self.state.lock().unwrap() = State { is_shut: true, arrived: 0 };
    }

    fn open(&self) {
        self.state.lock().unwrap().is_shut = false;
        self.turned.notify_all();
    }

    fn pass(&self) {
        let mut state = self.state.lock().unwrap();
        state.arrived += 1;
        self.turned.notify_all();
        drop(self.turned.wait_while(state, |state| state.is_shut).unwrap());
    }

    fn wait_for_arrival(&self) {
        let waited = self
            .turned
            .wait_timeout_while(self.state.lock().unwrap(), Duration::from_secs(60), |state| state.arrived == 0)
            .unwrap();
        assert!(!waited.1.timed_out(), "nothing has arrived");
    }
}

impl Hooks for Held {
    fn open(&self, path: &Path) -> io::Result<bool> {
        if path.extension().is_some_and(|extension| extension == "new") {
            self.new_files.pass();
        }
        Ok(false)
    }

    fn sync(&self) {
        self.syncs.pass();
    }

    fn refuse(&self, call: Refusable) -> io::Result<()> {
        match call {
            Refusable::Sync if self.fails.load(Ordering::SeqCst) => Err(io::Error::other("refused")),
            _ => Ok(()),
        }
    }
}

fn open_held(place: &Place) -> (Arc<Store>, Held) {
    let held = Held::default();
    let options = options_on(Arc::new(Hooked { hooks: held.clone(), ..Hooked::default() }));
    (Arc::new(options.open(place.path(), &key()).unwrap()), held)
}

fn is_closed<T>(result: Result<T>) -> bool {
    matches!(result, Err(Error::Closed { .. }))
}

#[test]
fn every_call_after_close_is_refused() {
    let place = Place::new();
    let store = place.open();
    store.enqueue_job("run-1", b"payload").unwrap();
    store.buffer_log(1, b"event").unwrap();
    let job = store.job("run-1").unwrap().unwrap();
    let batch = store.peek_logs(1).unwrap();
    let (mut jobs, mut logs) = (store.jobs(), store.logs());
    store.close().unwrap();

    assert!(is_closed(store.save_config(1, b"raw")) && is_closed(store.load_config()));
    assert!(is_closed(store.enqueue_job("run-2", b"payload")) && is_closed(store.ack_job("run-1")));
    assert!(is_closed(store.ack_delivered(&job)));
    assert!(is_closed(store.dequeue_jobs(1)) && is_closed(store.dequeue_jobs_after("a", 1)));
    assert!(is_closed(store.job("run-1")));
    assert!(is_closed(store.save_session("id", 1)) && is_closed(store.load_session()));
    assert!(is_closed(store.record_heartbeat(1)) && is_closed(store.last_heartbeat()));
    assert!(is_closed(store.buffer_log(1, b"event")) && is_closed(store.drain_logs(1)));
    assert!(is_closed(store.peek_logs(1)) && is_closed(store.ack_logs(&batch)));
    assert!(is_closed(store.discard_unreadable_logs()));
    assert!(is_closed(store.write(&Batch::new().record_heartbeat(1))) && is_closed(store.sync()));
    assert!(is_closed(store.compact()) && is_closed(store.rekey(&AgentKey::new("other").unwrap())));
    assert!(is_closed(store.backup(place.at("backup.db"))) && !place.at("backup.db").exists());
    // Iterators that were begun before, and after.
    assert!(is_closed(jobs.next().unwrap()) && jobs.next().is_none());
    assert!(is_closed(logs.next().unwrap()) && logs.next().is_none());
    assert!(is_closed(store.jobs().next().unwrap()));
}

#[test]
fn calls_without_a_result_answer_for_the_moment_of_closing() {
    let place = Place::new();
    let store = place.open();
    store.enqueue_job("run-1", b"payload").unwrap();
    store.buffer_log(1, b"event").unwrap();
    store.close().unwrap();
    let other = place.open();
    other.enqueue_job("run-2", b"payload").unwrap();
    assert_eq!((store.queue_depth(), store.queue_bytes(), store.log_count()), (1, 7, 1));
    assert_eq!(store.run_ids().collect::<Vec<_>>(), ["run-1"]);
    assert_eq!(store.path(), place.path());
    assert!(store.recovery().created);
    // The close frame was the third one.
    assert_eq!((store.anchor().seq(), store.stats().seq, store.stats().jobs), (3, 3, 1));
    assert_eq!(other.anchor().seq(), 4);
}

#[test]
fn a_store_that_was_closed_and_still_exists_leaves_the_file_to_the_next_one() {
    let place = Place::new();
    let first = place.open();
    first.enqueue_job("run-1", b"payload").unwrap();
    first.close().unwrap();
    let second = OpenOptions::new().lock_timeout(Duration::ZERO).open(place.path(), &key()).unwrap();
    assert!(second.recovery().clean);
    second.enqueue_job("run-2", b"payload").unwrap();
    assert!(is_closed(first.sync()));
    first.close().unwrap();
    drop(first);
    // The lock was not given back twice.
    let third = OpenOptions::new().lock_timeout(Duration::ZERO).open(place.path(), &key());
    assert!(matches!(third, Err(Error::Locked { .. })));
    second.enqueue_job("run-3", b"payload").unwrap();
    second.close().unwrap();
    assert!(verify(place.path(), Some(&key())).unwrap().is_intact());
    assert_eq!(place.open().queue_depth(), 3);
}

#[test]
fn a_second_close_returns_the_result_of_the_first_one() {
    let place = Place::new();
    let (store, held) = open_held(&place);
    store.enqueue_job("run-1", b"payload").unwrap();
    held.fails.store(true, Ordering::SeqCst);
    let first = store.close().unwrap_err();
    held.fails.store(false, Ordering::SeqCst);
    let second = store.close().unwrap_err();
    assert_eq!(first.kind(), ErrorKind::Io);
    assert_eq!(format!("{first:?}"), format!("{second:?}"));
    // It is unlocked all the same.
    assert_eq!(place.open().queue_depth(), 1);
}

#[test]
fn a_second_close_waits_for_the_first_one() {
    let place = Place::new();
    let (store, held) = open_held(&place);
    store.enqueue_job("run-1", b"payload").unwrap();
    held.syncs.shut();
    let close = || {
        let (store, (done, result)) = (Arc::clone(&store), mpsc::channel());
        thread::spawn(move || done.send(store.close()).unwrap());
        result
    };
    let first = close();
    held.syncs.wait_for_arrival();
    let second = close();
    // A wrong second close would return at once.
    assert!(second.recv_timeout(Duration::from_millis(50)).is_err());
    held.syncs.open();
    first.recv().unwrap().unwrap();
    second.recv().unwrap().unwrap();
    assert!(place.open().recovery().clean);
}

#[test]
fn a_call_that_has_written_its_record_succeeds_while_the_store_is_closed() {
    let place = Place::new();
    let (store, held) = open_held(&place);
    held.syncs.shut();
    let call = thread::spawn({
        let store = Arc::clone(&store);
        move || store.enqueue_job("run-1", b"payload")
    });
    held.syncs.wait_for_arrival();
    let closing = thread::spawn({
        let store = Arc::clone(&store);
        move || store.close()
    });
    held.syncs.open();
    call.join().unwrap().unwrap();
    closing.join().unwrap().unwrap();
    let store = place.open();
    assert!(store.recovery().clean);
    assert_eq!(store.queue_depth(), 1);
}

#[test]
fn closing_stops_a_copy_that_is_under_way() {
    let copies: [fn(&Store, &Place) -> Result<()>; 3] = [
        |store, _| store.compact().map(drop),
        |store, _| store.rekey(&AgentKey::new("other").unwrap()),
        |store, place| store.backup(place.at("backup.db")),
    ];
    for copy in copies {
        let place = Arc::new(Place::new());
        let (store, held) = open_held(&place);
        store.enqueue_job("run-1", b"payload").unwrap();
        held.new_files.shut();
        let copying = thread::spawn({
            let (store, place) = (Arc::clone(&store), Arc::clone(&place));
            move || copy(&store, &place)
        });
        held.new_files.wait_for_arrival();
        let closing = thread::spawn({
            let store = Arc::clone(&store);
            move || store.close()
        });
        // Long enough for the copy to be asked to stop before it continues.
        thread::sleep(Duration::from_millis(100));
        held.new_files.open();
        assert!(is_closed(copying.join().unwrap()));
        closing.join().unwrap().unwrap();
        assert!(!place.at("backup.db").exists() && !place.at("state.db.new").exists());
        let store = place.open();
        assert_eq!((store.stats().generation, store.queue_depth()), (1, 1));
        assert!(store.recovery().clean);
    }
}

/// Many threads write while one closes: what was acknowledged is there, and the rest was refused.
#[test]
fn closing_among_writing_threads_loses_nothing() {
    for _ in 0..20 {
        let place = Place::new();
        let store = place.open();
        let acknowledged = Mutex::new(0);
        thread::scope(|scope| {
            for thread in 0..4 {
                let (store, acknowledged) = (&store, &acknowledged);
                scope.spawn(move || {
                    for number in 0..50_000 {
                        match store.enqueue_job(&format!("{thread}-{number}"), b"payload") {
                            Ok(_) => *acknowledged.lock().unwrap() += 1,
                            Err(error) => return assert_eq!(error.kind(), ErrorKind::Closed),
                        }
                    }
                    panic!("no call was refused");
                });
            }
            while *acknowledged.lock().unwrap() < 8 {
                thread::yield_now();
            }
            store.close().unwrap();
        });
        assert_eq!(store.queue_depth(), *acknowledged.lock().unwrap());
        let reopened = place.open();
        assert!(reopened.recovery().clean);
        assert_eq!(reopened.queue_depth(), *acknowledged.lock().unwrap());
    }
}
