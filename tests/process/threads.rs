//! Many threads on one handle.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use std::{fmt, io, thread};

use backupy_state::testing::options_on;
use backupy_state::{Durability, OpenOptions, Store};

use crate::common::{Hooked, Hooks, Place, key};

const WRITERS: usize = 8;
const CALLS: usize = 60;

fn payload(run_id: &str) -> Vec<u8> {
    run_id.as_bytes().repeat(1 + run_id.len() * 7 % 90)
}

/// Eight threads, each of which enqueues jobs, acks every third of them and buffers log events.
fn write_from_many_threads(store: &Store) {
    thread::scope(|threads| {
        for writer in 0..WRITERS {
            threads.spawn(move || {
                for call in 0..CALLS {
                    let run_id = format!("{writer}-{call:03}");
                    store.enqueue_job(&run_id, &payload(&run_id)).unwrap();
                    assert_eq!(store.job(&run_id).unwrap().unwrap().payload, payload(&run_id));
                    if call % 3 == 0 {
                        assert!(store.ack_job(&run_id).unwrap());
                        assert_eq!(store.job(&run_id).unwrap(), None);
                    }
                    store.buffer_log(i64::try_from(call).unwrap(), run_id.as_bytes()).unwrap();
                }
            });
        }
    });
}

fn assert_every_call_is_there(store: &Store) {
    let jobs = store.dequeue_jobs(usize::MAX).unwrap();
    let expected: Vec<String> = (0..WRITERS)
        .flat_map(|writer| (0..CALLS).filter(|call| call % 3 != 0).map(move |call| format!("{writer}-{call:03}")))
        .collect();
    assert_eq!(jobs.iter().map(|job| job.run_id.clone()).collect::<Vec<_>>(), expected);
    assert!(jobs.iter().all(|job| job.payload == payload(&job.run_id)));
    let mut events: Vec<_> =
        store.drain_logs(usize::MAX).unwrap().into_iter().map(|event| event.payload).collect();
    events.sort();
    let mut expected: Vec<_> = (0..WRITERS)
        .flat_map(|writer| (0..CALLS).map(move |call| format!("{writer}-{call:03}").into_bytes()))
        .collect();
    expected.sort();
    assert_eq!(events, expected);
}

#[test]
fn every_call_of_eight_threads_is_found_after_reopening() {
    let place = Place::new();
    let store = place.open();
    write_from_many_threads(&store);
    assert_eq!(store.stats().seq, (WRITERS * (2 * CALLS + CALLS / 3)) as u64);
    store.close().unwrap();
    let store = place.open();
    assert!(store.recovery().clean);
    assert_every_call_is_there(&store);
}

#[test]
fn every_call_of_eight_threads_is_found_without_a_close() {
    for durability in [Durability::Sync, Durability::Buffered] {
        let (place, killed) = (Place::new(), Place::new());
        let store = OpenOptions::new().durability(durability).open(place.path(), &key()).unwrap();
        write_from_many_threads(&store);
        std::fs::copy(place.path(), killed.path()).unwrap();
        let store = killed.open();
        assert!(!store.recovery().clean);
        assert_every_call_is_there(&store);
    }
}

#[test]
fn readers_see_whole_values_and_every_acknowledged_call_while_others_write() {
    for mmap in [true, false] {
        let place = Place::new();
        let store = OpenOptions::new().mmap(mmap).open(place.path(), &key()).unwrap();
        let (store, acknowledged, is_over) = (&store, &AtomicU64::new(0), &AtomicBool::new(false));
        thread::scope(|threads| {
            for _ in 0..3 {
                threads.spawn(move || {
                    while !is_over.load(Ordering::SeqCst) {
                        let before = acknowledged.load(Ordering::SeqCst);
                        let jobs = store.dequeue_jobs(usize::MAX).unwrap();
                        assert!(jobs.len() as u64 >= before);
                        assert!(jobs.iter().all(|job| job.payload == payload(&job.run_id)));
                        let seen = store.last_heartbeat().unwrap().unwrap_or(0);
                        assert!(seen.unsigned_abs() >= before);
                    }
                });
            }
            let writer = threads.spawn(move || {
                for call in 1..=200 {
                    let run_id = format!("run-{call}");
                    store.enqueue_job(&run_id, &payload(&run_id)).unwrap();
                    store.record_heartbeat(call).unwrap();
                    acknowledged.store(call.unsigned_abs(), Ordering::SeqCst);
                }
            });
            let written = writer.join();
            is_over.store(true, Ordering::SeqCst);
            written.unwrap();
        });
    }
}

#[test]
fn threads_that_drain_at_once_share_the_events_and_lose_none() {
    let place = Place::new();
    let store = &place.open();
    for i in 0..400_u32 {
        store.buffer_log(i64::from(i % 7), &i.to_le_bytes()).unwrap();
    }
    let mut drained: Vec<Vec<u8>> = thread::scope(|threads| {
        let drainers: Vec<_> = (0..4)
            .map(|_| {
                threads.spawn(move || {
                    let mut mine = Vec::new();
                    loop {
                        let events = store.drain_logs(3).unwrap();
                        if events.is_empty() {
                            return mine;
                        }
                        mine.extend(events.into_iter().map(|event| event.payload));
                    }
                })
            })
            .collect();
        drainers.into_iter().flat_map(|drainer| drainer.join().unwrap()).collect()
    });
    drained.sort_by_key(|payload| u32::from_le_bytes(payload[..].try_into().unwrap()));
    assert_eq!(drained, (0..400_u32).map(|i| i.to_le_bytes().to_vec()).collect::<Vec<_>>());
    assert_eq!(store.log_count(), 0);
}

#[test]
fn only_one_of_many_threads_adds_a_job_and_only_one_acks_it() {
    let place = Place::new();
    let store = &place.open();
    let count = |call: &(dyn Fn() -> bool + Sync)| {
        thread::scope(|threads| {
            let calls: Vec<_> = (0..WRITERS).map(|_| threads.spawn(call)).collect();
            calls.into_iter().map(|call| call.join().unwrap()).filter(|&won| won).count()
        })
    };
    for round in 0..20 {
        let run_id = format!("run-{round}");
        let added = || store.enqueue_job(&run_id, b"one").unwrap() == backupy_state::Enqueued::Added;
        assert_eq!(count(&added), 1);
        assert_eq!(count(&|| store.ack_job(&run_id).unwrap()), 1);
    }
}

/// While `Store::sync` syncs the folder of a store that others have put in its place, another call is made. The
/// sync fails.
#[derive(Clone, Default)]
struct DuringFolderSync {
    store: Arc<Mutex<Option<Arc<Store>>>>,
    is_close: bool,
    syncs: Arc<AtomicU64>,
    made: Arc<Mutex<Option<thread::JoinHandle<bool>>>>,
}

impl fmt::Debug for DuringFolderSync {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DuringFolderSync")
    }
}

impl Hooks for DuringFolderSync {
    fn sync(&self) {
        self.syncs.fetch_add(1, Ordering::SeqCst);
    }

    fn begin(&self) -> io::Result<()> {
        // The sync of the log is the first one, and that of its folder the second one.
        if self.syncs.load(Ordering::SeqCst) != 2 {
            return Ok(());
        }
        let Some(store) = self.store.lock().unwrap().take() else { return Ok(()) };
        let is_close = self.is_close;
        let call = thread::spawn(move || match is_close {
            true => store.close().is_ok(),
            false => store.enqueue_job("job", b"payload").is_ok(),
        });
        while !is_close && self.syncs.load(Ordering::SeqCst) == 2 {
            thread::sleep(Duration::from_millis(1));
        }
        // It has synced the log if it must, and would return now if it did not wait.
        thread::sleep(Duration::from_millis(100));
        *self.made.lock().unwrap() = Some(call);
        Err(io::Error::from_raw_os_error(5))
    }
}

#[test]
fn no_call_is_acknowledged_before_the_folder_of_a_copied_store_is_synced() {
    for is_close in [false, true] {
        let place = Place::new();
        place.open().close().unwrap();
        let hooks = DuringFolderSync { is_close, ..DuringFolderSync::default() };
        let disk = Hooked { hooks: hooks.clone(), ..Hooked::default() };
        let store = Arc::new(options_on(Arc::new(disk)).open(place.path(), &key()).unwrap());
        hooks.syncs.store(0, Ordering::SeqCst);
        *hooks.store.lock().unwrap() = Some(Arc::clone(&store));
        assert!(store.sync().is_err());
        let made = hooks.made.lock().unwrap().take().unwrap();
        assert!(!made.join().unwrap(), "a call succeeded before a sync of the folder that failed: {is_close}");
    }
}
