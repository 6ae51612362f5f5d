//! What callers of the Go package relied on, and find here again: each of its behaviours is one test. The rest of
//! the file is about what differs on purpose, as the table in `docs/moving-from-go.md` lists it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use backupy_state::{AgentKey, Enqueued, Error, OpenOptions, Store};

use crate::common::{Image, Place, key, listing};

fn run_ids(store: &Store) -> Vec<String> {
    store.dequeue_jobs(usize::MAX).unwrap().into_iter().map(|job| job.run_id).collect()
}

// ---- What is the same ----

#[test]
fn a_job_enqueued_again_replaces_its_payload_and_the_depth_stays() {
    let place = Place::new();
    let store = place.open();
    store.enqueue_job("run-1", b"old").unwrap();
    store.enqueue_job("run-1", b"new").unwrap();
    assert_eq!(store.queue_depth(), 1);
    assert_eq!(store.dequeue_jobs(10).unwrap()[0].payload, b"new");
}

#[test]
fn jobs_are_dequeued_in_the_order_of_their_keys_and_stay_queued() {
    let place = Place::new();
    let store = place.open();
    for run_id in ["run-10", "run-2", "Run-3", "ä", "run-1"] {
        store.enqueue_job(run_id, b"payload").unwrap();
    }
    assert_eq!(run_ids(&store), ["Run-3", "run-1", "run-10", "run-2", "ä"]);
    assert_eq!(store.queue_depth(), 5);
}

#[test]
fn an_ack_of_an_unknown_run_id_is_no_error() {
    let place = Place::new();
    let store = place.open();
    store.enqueue_job("run-1", b"payload").unwrap();
    assert!(!store.ack_job("run-2").unwrap());
    assert!(store.ack_job("run-1").unwrap());
    assert!(!store.ack_job("run-1").unwrap());
}

/// In Go, so did a negative number, which a `usize` cannot be.
#[test]
fn a_limit_of_zero_gives_and_removes_nothing() {
    let place = Place::new();
    let store = place.open();
    store.enqueue_job("run-1", b"payload").unwrap();
    store.buffer_log(5, b"event").unwrap();
    assert_eq!(store.dequeue_jobs(0).unwrap(), []);
    assert_eq!(store.drain_logs(0).unwrap(), []);
    assert_eq!((store.queue_depth(), store.log_count()), (1, 1));
}

#[test]
fn db_is_added_to_a_path_without_an_extension_and_only_to_that() {
    let place = Place::new();
    for (given, meant) in [("state", "state.db"), ("other.db", "other.db"), ("state.bolt", "state.bolt")] {
        let store = Store::open(place.at(given), &key()).unwrap();
        assert_eq!(store.path().file_name().unwrap(), meant);
        assert!(place.at(meant).is_file());
    }
    assert!(!place.at("state").exists());
}

#[test]
fn the_file_is_for_its_owner_only() {
    let place = Place::new();
    let store = place.open();
    assert_eq!(fs::metadata(store.path()).unwrap().mode() & 0o7777, 0o600);
}

#[test]
fn a_store_that_is_open_is_locked_when_the_time_is_up() {
    let place = Place::new();
    let store = place.open();
    let timeout = Duration::from_millis(20);
    let error = OpenOptions::new().lock_timeout(timeout).open(place.path(), &key()).unwrap_err();
    let Error::Locked { holder, waited, .. } = error else { panic!("{error:?}") };
    assert_eq!(holder, Some(std::process::id()));
    assert!(waited >= timeout, "{waited:?}");
    store.close().unwrap();
    place.open();
}

#[test]
fn closing_twice_is_no_error_and_frees_the_lock_once() {
    let place = Place::new();
    let store = place.open();
    store.enqueue_job("run-1", b"payload").unwrap();
    store.close().unwrap();
    store.close().unwrap();
    assert!(matches!(store.enqueue_job("run-2", b"payload"), Err(Error::Closed { .. })));
    assert!(matches!(store.dequeue_jobs(1), Err(Error::Closed { .. })));
    assert!(matches!(store.load_config(), Err(Error::Closed { .. })));

    // Closing the old handle once more does not take the lock from the new one.
    let other = place.open();
    store.close().unwrap();
    drop(store);
    assert!(matches!(place.try_open(), Err(Error::Locked { .. })));
    assert_eq!(run_ids(&other), ["run-1"]);
}

#[test]
fn what_is_missing_is_told_from_what_cannot_be_opened() {
    let place = Place::new();
    let store = place.open();
    assert_eq!(store.load_config().unwrap(), None);
    assert_eq!(store.load_session().unwrap(), None);
    assert_eq!(store.last_heartbeat().unwrap(), None);
    assert_eq!(store.job("run-1").unwrap(), None);
    store.enqueue_job("run-1", b"payload").unwrap();
    store.save_config(7, b"configuration").unwrap();
    store.close().unwrap();

    // The seal of each value is changed, and the checksums are made right again.
    let mut image = Image::read(place.path());
    let frames = image.frames();
    for frame in &frames[..2] {
        image.flip(frame.end - 8).fix_crc(frame.start);
    }
    image.write(place.path());
    let store = place.open();
    let error = store.job("run-1").unwrap_err();
    assert!(matches!(&error, Error::Unauthentic { run_id: Some(id), .. } if id == "run-1"), "{error:?}");
    assert!(matches!(store.load_config(), Err(Error::Unauthentic { .. })));
    assert_eq!(store.load_session().unwrap(), None);
}

// ---- What differs ----

/// The Go package opened its file under any key, and failed when it read a value.
#[test]
fn a_wrong_key_is_refused_at_open_and_nothing_is_overwritten() {
    let place = Place::new();
    let store = place.open();
    store.enqueue_job("run-1", b"payload").unwrap();
    store.close().unwrap();
    let before = listing(place.folder());
    let wrong = AgentKey::new("another").unwrap();
    assert!(matches!(Store::open(place.path(), &wrong), Err(Error::WrongKey { .. })));
    assert_eq!(listing(place.folder()), before);
    assert_eq!(run_ids(&place.open()), ["run-1"]);
}

#[test]
fn a_run_id_has_1_to_1024_bytes() {
    let place = Place::new();
    let store = place.open();
    let longest = "r".repeat(1024);
    store.enqueue_job("r", b"").unwrap();
    store.enqueue_job(&longest, b"").unwrap();
    assert!(matches!(store.enqueue_job("", b""), Err(Error::Invalid { .. })));
    let too_long = store.enqueue_job(&format!("{longest}r"), b"");
    assert!(matches!(too_long, Err(Error::TooLarge { len: 1025, max: 1024, .. })), "{too_long:?}");
    assert_eq!(run_ids(&store), ["r", &longest]);
}

#[test]
fn an_ack_of_the_empty_run_id_is_invalid() {
    let place = Place::new();
    assert!(matches!(place.open().ack_job(""), Err(Error::Invalid { .. })));
}

#[test]
fn a_value_has_at_most_16_mib() {
    let place = Place::new();
    let store = place.open();
    let largest = vec![7; 16 << 20];
    store.enqueue_job("run-1", &largest).unwrap();
    let too_large = store.enqueue_job("run-2", &[&largest[..], &[7]].concat());
    assert!(matches!(too_large, Err(Error::TooLarge { len: 0x100_0001, max: 0x100_0000, .. })), "{too_large:?}");
    assert_eq!(run_ids(&store), ["run-1"]);
}

/// In the keys of bbolt, a negative time came after all others.
#[test]
fn events_from_before_1970_come_first() {
    let place = Place::new();
    let store = place.open();
    for ts_ms in [5, -5, 0, i64::MIN] {
        store.buffer_log(ts_ms, b"event").unwrap();
    }
    let times: Vec<_> = store.drain_logs(10).unwrap().into_iter().map(|event| event.ts_ms).collect();
    assert_eq!(times, [i64::MIN, -5, 0, 5]);
}

/// The agent numbered messages without an id from 1, in each process anew.
#[test]
fn a_numbered_message_of_the_process_before_is_replaced_and_the_call_reports_it() {
    let place = Place::new();
    let store = place.open();
    assert_eq!(store.enqueue_job("seq-1", b"before the restart").unwrap(), Enqueued::Added);
    store.close().unwrap();

    let store = place.open();
    assert_eq!(store.enqueue_job("seq-1", b"after the restart").unwrap(), Enqueued::Replaced);
    let jobs = store.dequeue_jobs(10).unwrap();
    assert_eq!((jobs.len(), &jobs[0].payload[..]), (1, &b"after the restart"[..]));
}
