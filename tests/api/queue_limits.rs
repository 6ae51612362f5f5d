//! The limits of the queue: what is refused, and what is not.

use backupy_state::{Batch, Enqueued, Error, OpenOptions, QueueLimits, Snapshot, Store};

use crate::common::{Place, key};

fn open(place: &Place, max_count: Option<u64>, max_bytes: Option<u64>) -> Store {
    let mut limits = QueueLimits::default();
    (limits.max_count, limits.max_bytes) = (max_count, max_bytes);
    OpenOptions::new().queue_limits(limits).open(place.path(), &key()).unwrap()
}

/// Refused with the numbers, and nothing is written.
#[track_caller]
fn assert_full(store: &Store, call: impl FnOnce(&Store) -> Result<(), Error>, expected: (&str, u64, u64)) {
    let before = (store.stats().seq, store.queue_depth(), store.stats().queue_bytes);
    let refused = call(store).unwrap_err();
    assert!(refused.to_string().contains("ack jobs and try again"), "{refused}");
    let Error::QueueFull { what, len, max, .. } = refused else { panic!("{refused}") };
    assert_eq!((what, len, max), expected);
    assert_eq!((store.stats().seq, store.queue_depth(), store.stats().queue_bytes), before);
}

#[test]
fn a_queue_takes_as_many_jobs_and_bytes_as_its_limits_allow() {
    let place = Place::new();
    let store = open(&place, Some(3), Some(10));
    store.enqueue_job("a", b"1234").unwrap();
    store.enqueue_job("b", b"1234").unwrap();
    assert_full(&store, |store| store.enqueue_job("c", b"123").map(drop), ("bytes of payload", 11, 10));
    store.enqueue_job("c", b"12").unwrap();
    assert_full(&store, |store| store.enqueue_job("d", b"").map(drop), ("jobs", 4, 3));
    assert_full(&store, |store| store.enqueue_job("c", b"123").map(drop), ("bytes of payload", 11, 10));
    assert_eq!(store.enqueue_job("a", b"12").unwrap(), Enqueued::Replaced);
    assert_eq!(store.enqueue_job("c", b"1234").unwrap(), Enqueued::Replaced);
    store.ack_job("b").unwrap();
    assert_eq!(store.enqueue_job("d", b"1234").unwrap(), Enqueued::Added);
    let stats = store.stats();
    assert_eq!((stats.jobs, stats.queue_bytes, stats.queue_limits.max_count), (3, 10, Some(3)));
    // Nothing else is limited by them.
    store.save_config(1, &[0; 100]).unwrap();
    store.buffer_log(1, &[0; 100]).unwrap();
    assert_eq!(Snapshot::open(place.path(), &key()).unwrap().stats().queue_limits, QueueLimits::default());
}

#[test]
fn a_batch_is_judged_by_its_end() {
    let place = Place::new();
    let store = open(&place, Some(2), Some(10));
    let write = |batch: Batch| move |store: &Store| store.write(&batch);
    store.write(&Batch::new().enqueue_job("a", b"12345").enqueue_job("b", b"12345")).unwrap();
    // In the middle, there are three jobs, or 15 bytes.
    store.write(&Batch::new().enqueue_job("c", b"12345").ack_job("a")).unwrap();
    store.write(&Batch::new().enqueue_job("b", b"1234567890").enqueue_job("b", b"12345")).unwrap();
    let three = Batch::new().enqueue_job("d", b"").enqueue_job("e", b"").ack_job("c");
    assert_full(&store, write(three), ("jobs", 3, 2));
    assert_full(
        &store,
        write(Batch::new().record_heartbeat(1).enqueue_job("c", b"123456")),
        ("bytes of payload", 11, 10),
    );
    assert_eq!(store.last_heartbeat().unwrap(), None);
    store.write(&Batch::new().enqueue_job("d", b"").ack_job("d")).unwrap();
    assert_eq!(store.queue_depth(), 2);
}

#[test]
fn a_store_that_is_over_a_new_limit_opens_and_only_refuses_to_grow() {
    let place = Place::new();
    let jobs = (0..10).fold(Batch::new(), |batch, n| batch.enqueue_job(&n.to_string(), b"12345"));
    open(&place, None, None).write(&jobs).unwrap();
    let store = open(&place, Some(5), Some(20));
    assert_eq!((store.queue_depth(), store.stats().queue_bytes), (10, 50));
    assert_full(&store, |store| store.enqueue_job("new", b"").map(drop), ("jobs", 11, 5));
    assert_full(&store, |store| store.enqueue_job("0", b"123456").map(drop), ("bytes of payload", 51, 20));
    store.enqueue_job("0", b"1234").unwrap();
    store.write(&Batch::new().ack_job("1").enqueue_job("2", b"123456789")).unwrap();
    assert_eq!((store.queue_depth(), store.stats().queue_bytes), (9, 48));
    store.compact().unwrap();
    drop(store);
    // Also without an index file, and with one.
    for _ in 0..2 {
        assert_eq!(open(&place, Some(5), None).stats().queue_bytes, 48);
    }
}
