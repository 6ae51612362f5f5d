//! Limits of count and bytes, in every call that takes one.

use std::sync::Arc;

use backupy_state::testing::options_on;
use backupy_state::{Limit, LogBatch, LogEvent, OpenOptions, QueueOrder, QueuedJob, Snapshot};

use crate::common::{CountedDisk, Place, key};

/// The lengths of the payloads, in queue order and in drain order.
const LENS: [usize; 6] = [10, 20, 0, 30, 500, 5];

fn lens_of(jobs: &[QueuedJob]) -> Vec<usize> {
    jobs.iter().map(|job| job.payload.len()).collect()
}

fn lens_of_events(events: &[LogEvent]) -> Vec<usize> {
    events.iter().map(|event| event.payload.len()).collect()
}

/// Which limit lets how many of `LENS` through.
fn cases() -> Vec<(Limit, usize)> {
    vec![
        (Limit::from(0), 0),
        (Limit::from(2), 2),
        (Limit::count(7), 6),
        (Limit::count(usize::MAX), 6),
        // The first one is given, whatever its length.
        (Limit::bytes(0), 1),
        (Limit::bytes(9), 1),
        (Limit::bytes(29), 1),
        // An empty one still fits.
        (Limit::bytes(30), 3),
        (Limit::bytes(59), 3),
        (Limit::bytes(60), 4),
        // A shorter one after one that does not fit is not given: the order has no gaps.
        (Limit::bytes(559), 4),
        (Limit::bytes(560), 5),
        (Limit::bytes(565), 6),
        (Limit::bytes(usize::MAX), 6),
        (Limit::bytes(60).and_count(2), 2),
        (Limit::count(5).and_bytes(30), 3),
        (Limit::bytes(0).and_count(0), 0),
        (Limit::count(3).and_count(9), 3),
        (Limit::count(9).and_count(3), 3),
        (Limit::bytes(30).and_bytes(900), 3),
        (Limit::bytes(900).and_bytes(30), 3),
    ]
}

#[test]
fn jobs_are_given_up_to_the_limit() {
    for order in [QueueOrder::RunId, QueueOrder::Fifo] {
        let place = Place::new();
        let store = OpenOptions::new().queue_order(order).open(place.path(), &key()).unwrap();
        store.enqueue_job("0", &[7; 100]).unwrap();
        for (i, len) in LENS.into_iter().enumerate() {
            store.enqueue_job(&format!("run-{i}"), &vec![7; len]).unwrap();
        }
        let snapshot = Snapshot::open(place.path(), &key()).unwrap();
        for (limit, expected) in cases() {
            let after = store.dequeue_jobs_after("0", limit).unwrap();
            assert_eq!(lens_of(&after), LENS[..expected], "{limit:?}");
            assert_eq!(snapshot.dequeue_jobs_after("0", limit).unwrap(), after);
        }
        store.ack_job("0").unwrap();
        let snapshot = Snapshot::open(place.path(), &key()).unwrap();
        for (limit, expected) in cases() {
            let first = store.dequeue_jobs(limit).unwrap();
            assert_eq!(lens_of(&first), LENS[..expected], "{limit:?}");
            assert_eq!(snapshot.dequeue_jobs(limit).unwrap(), first);
        }
        assert_eq!(lens_of(&store.dequeue_jobs_after("run-3", Limit::bytes(1)).unwrap()), [500]);
        assert_eq!(store.dequeue_jobs_after("run-5", Limit::bytes(9)).unwrap(), []);
    }
}

#[test]
fn log_events_are_given_up_to_the_limit_and_a_drain_removes_no_more() {
    for (limit, expected) in cases() {
        let place = Place::new();
        let store = place.open();
        assert!(store.peek_logs(limit).unwrap().is_empty());
        for (ts_ms, len) in (0..).zip(LENS) {
            store.buffer_log(ts_ms, &vec![7; len]).unwrap();
        }
        let snapshot = Snapshot::open(place.path(), &key()).unwrap();
        let lens = |batch: LogBatch| lens_of_events(batch.events());
        assert_eq!(lens(store.peek_logs(limit).unwrap()), LENS[..expected], "{limit:?}");
        assert_eq!(lens(snapshot.peek_logs(limit).unwrap()), LENS[..expected], "{limit:?}");
        assert_eq!(lens_of_events(&store.drain_logs(limit).unwrap()), LENS[..expected], "{limit:?}");
        assert_eq!(lens_of_events(&store.drain_logs(usize::MAX).unwrap()), LENS[expected..]);
    }
}

/// The lengths are in the index.
#[test]
fn no_payload_is_read_that_is_not_given() {
    let (place, disk) = (Place::new(), CountedDisk::default());
    let store = options_on(Arc::new(disk.clone())).mmap(false).open(place.path(), &key()).unwrap();
    for i in 0..50_u8 {
        store.enqueue_job(&format!("run-{i:02}"), &[i; 1000]).unwrap();
        store.buffer_log(i.into(), &[i; 1000]).unwrap();
    }
    let limit = Limit::bytes(3999);
    let read = |call: &dyn Fn() -> usize| {
        let (mut count, mut bytes) = (0, 0);
        let reads = disk.reads_of(|| bytes = disk.bytes_read_of(|| count = call()));
        (count, reads, bytes)
    };
    let sealed = 3 * 1016;
    assert_eq!(read(&|| store.dequeue_jobs(limit).unwrap().len()), (3, 3, sealed));
    assert_eq!(read(&|| store.dequeue_jobs_after("run-40", limit).unwrap().len()), (3, 3, sealed));
    assert_eq!(read(&|| store.peek_logs(limit).unwrap().len()), (3, 3, sealed));
    assert_eq!(read(&|| store.drain_logs(limit).unwrap().len()), (3, 3, sealed));
    assert_eq!(read(&|| store.dequeue_jobs(0).unwrap().len()), (0, 0, 0));
}
