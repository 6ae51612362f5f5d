//! Batches: all or nothing, in the order of the calls, in one record with one sync.

use std::sync::Arc;

use backupy_state::testing::options_on;
use backupy_state::{Batch, Durability, Error, LogLimits, OpenOptions, QueueOrder, Snapshot, Store, WhenFull};

use crate::common::{CountedDisk, Place, key};

fn run_ids(store: &Store) -> Vec<String> {
    store.dequeue_jobs(usize::MAX).unwrap().into_iter().map(|job| job.run_id).collect()
}

#[test]
fn later_calls_on_the_same_key_win() {
    let place = Place::new();
    let store = place.open();
    store.enqueue_job("acked", b"before").unwrap();
    store.enqueue_job("acked and queued again", b"before").unwrap();
    let batch = Batch::new()
        .ack_job("acked")
        .ack_job("acked and queued again")
        .enqueue_job("acked and queued again", b"after")
        .enqueue_job("replaced", b"first")
        .enqueue_job("replaced", b"second")
        .enqueue_job("queued and acked", b"")
        .ack_job("queued and acked")
        .ack_job("never queued")
        .save_config(1, b"one")
        .save_config(2, b"two")
        .save_session("first", 1)
        .save_session("second", 2)
        .record_heartbeat(2)
        .record_heartbeat(1);
    store.write(&batch).unwrap();
    let check = |store: &Store| {
        let jobs = store.dequeue_jobs(9).unwrap();
        let jobs: Vec<_> = jobs.iter().map(|job| (job.run_id.as_str(), job.payload.as_slice())).collect();
        assert_eq!(jobs, [("acked and queued again", b"after".as_slice()), ("replaced", b"second")]);
        let config = store.load_config().unwrap().unwrap();
        assert_eq!((config.version, config.raw), (2, b"two".to_vec()));
        let session = store.load_session().unwrap().unwrap();
        assert_eq!((session.session_id.as_str(), session.server_time_ms), ("second", 2));
        assert_eq!(store.last_heartbeat().unwrap(), Some(1));
    };
    check(&store);
    store.close().unwrap();
    check(&place.open());
}

#[test]
fn jobs_and_events_keep_the_order_of_the_calls() {
    let place = Place::new();
    let open = || OpenOptions::new().queue_order(QueueOrder::Fifo).open(place.path(), &key()).unwrap();
    let store = open();
    store.enqueue_job("b", b"").unwrap();
    let batch = Batch::new().enqueue_job("z", b"").enqueue_job("a", b"").enqueue_job("b", b"").buffer_log(5, b"1");
    store.write(&batch.enqueue_job("z", b"").buffer_log(5, b"2").buffer_log(-5, b"0")).unwrap();
    assert_eq!(run_ids(&store), ["a", "b", "z"]);
    store.close().unwrap();
    let store = open();
    assert_eq!(run_ids(&store), ["a", "b", "z"]);
    let events = store.drain_logs(9).unwrap();
    assert_eq!(events.iter().map(|event| event.payload.as_slice()).collect::<Vec<_>>(), [b"0", b"1", b"2"]);
}

#[test]
fn a_batch_is_one_record_with_one_sync_or_none() {
    for (durability, syncs) in [(Durability::Sync, 1), (Durability::Buffered, 0)] {
        let (place, disk) = (Place::new(), CountedDisk::default());
        let mut options = options_on(Arc::new(disk.clone()));
        // What a batch holds takes the durability of the batch.
        options.log_durability(Durability::Sync).heartbeat_durability(Durability::Sync);
        let store = options.durability(durability).open(place.path(), &key()).unwrap();
        store.enqueue_job("run-1", b"").unwrap();
        let seq = store.stats().seq;
        let batch = Batch::new().ack_job("run-1").enqueue_job("run-1/done", b"ok").buffer_log(1, b"done");
        assert_eq!(disk.syncs_of(|| store.write(&batch.record_heartbeat(1)).unwrap()), syncs);
        assert_eq!(store.stats().seq, seq + 1);
        assert_eq!(disk.syncs_of(|| store.write(&Batch::new()).unwrap()), 0);
        assert_eq!(store.stats().seq, seq + 1);
        // Another process sees all of it.
        let beside = Snapshot::open(place.path(), &key()).unwrap();
        assert_eq!((beside.queue_depth(), beside.log_count()), (1, 1));
    }
}

#[test]
fn an_ack_of_a_job_that_is_not_there_is_not_written() {
    let place = Place::new();
    let store = place.open();
    store.enqueue_job("run-1", b"payload").unwrap();
    let len = |batch| {
        let before = store.stats().log_len;
        store.write(&batch).unwrap();
        store.stats().log_len - before
    };
    assert_eq!(len(Batch::new().ack_job("never").ack_job("queued")), 0);
    let one = len(Batch::new().ack_job("run-1"));
    store.enqueue_job("run-1", b"payload").unwrap();
    assert_eq!(len(Batch::new().ack_job("never").ack_job("run-1").ack_job("run-1")), one);
    // What the batch itself has enqueued is there.
    store.write(&Batch::new().enqueue_job("run-2", b"").ack_job("run-2").enqueue_job("run-3", b"")).unwrap();
    assert_eq!(run_ids(&store), ["run-3"]);
}

#[test]
fn whatever_is_wrong_with_a_call_nothing_of_the_batch_is_written() {
    let place = Place::new();
    let store = place.open();
    let (long, large) = ("x".repeat(1025), vec![0; (16 << 20) + 1]);
    let whole = || Batch::new().enqueue_job("run-1", b"payload").record_heartbeat(1);
    let invalid = [whole().enqueue_job("", b""), whole().ack_job(""), Batch::new().ack_job("").ack_job(&long)];
    for wrong in invalid {
        let refused = store.write(&wrong.save_config(1, b"behind it"));
        assert!(matches!(refused, Err(Error::Invalid { .. })), "{refused:?}");
    }
    let too_large = [
        whole().enqueue_job(&long, b""),
        whole().ack_job(&long),
        whole().enqueue_job("run-2", &large),
        whole().save_config(1, &large),
        whole().save_session(&String::from_utf8(large.clone()).unwrap(), 1),
        whole().buffer_log(1, &large),
    ];
    for wrong in too_large {
        let refused = store.write(&wrong.save_config(1, b"behind it").ack_job(""));
        assert!(matches!(refused, Err(Error::TooLarge { .. })), "{refused:?}");
    }
    assert_eq!((store.stats().seq, store.queue_depth(), store.load_config().unwrap()), (0, 0, None));
}

/// The rate does not bind a batch; count and bytes do, and what does not come in costs the rest nothing.
#[test]
fn events_of_a_batch_that_do_not_come_in_leave_the_rest_of_it() {
    let place = Place::new();
    let mut limits = LogLimits::default();
    (limits.max_bytes, limits.when_full) = (Some(10), WhenFull::DropNewest);
    let store = OpenOptions::new().log_limits(limits).open(place.path(), &key()).unwrap();
    let batch = Batch::new().buffer_log(1, b"12345").buffer_log(2, b"123456").buffer_log(3, b"12345");
    store.write(&batch.enqueue_job("run-1", b"payload").buffer_log(4, b"1")).unwrap();
    let batch = store.peek_logs(9).unwrap();
    assert_eq!(batch.events().iter().map(|event| event.ts_ms).collect::<Vec<_>>(), [1, 3]);
    assert_eq!((batch.dropped(), store.queue_depth()), (2, 1));
    // Nothing but an event that does not come in: nothing is written, and it is counted.
    let seq = store.stats().seq;
    store.write(&Batch::new().buffer_log(5, b"x")).unwrap();
    assert_eq!((store.stats().seq, store.stats().logs_dropped), (seq, 3));
}

#[test]
fn a_batch_can_be_written_again_and_cloned() {
    let place = Place::new();
    let store = place.open();
    let batch = Batch::new().enqueue_job("run-1", b"payload").buffer_log(1, b"event").save_config(1, b"raw");
    store.write(&batch).unwrap();
    store.ack_job("run-1").unwrap();
    store.write(&batch.clone().enqueue_job("run-2", b"")).unwrap();
    assert_eq!((run_ids(&store), store.log_count()), (vec!["run-1".to_owned(), "run-2".to_owned()], 2));
    assert_eq!(store.job("run-1").unwrap().unwrap().payload, b"payload");
}

/// An invalid one is refused each time, and its clones too.
#[test]
fn an_invalid_batch_stays_invalid() {
    let place = Place::new();
    let store = place.open();
    let invalid = Batch::new().record_heartbeat(1).ack_job("").enqueue_job("run-1", b"");
    let too_large = Batch::new().ack_job(&"x".repeat(1025)).ack_job("");
    for _ in 0..2 {
        assert!(matches!(store.write(&invalid), Err(Error::Invalid { .. })));
        let refused = store.write(&too_large.clone().record_heartbeat(1));
        assert!(matches!(refused, Err(Error::TooLarge { len: 1025, max: 1024, .. })), "{refused:?}");
    }
    assert_eq!(store.stats().seq, 0);
}

#[test]
fn a_batch_counts_its_calls() {
    let batch = Batch::new();
    assert_eq!((batch.len(), batch.is_empty()), (0, true));
    let batch = batch.ack_job("run-1").enqueue_job("run-1", b"").buffer_log(1, b"").save_session("s", 1);
    assert_eq!((batch.len(), batch.is_empty()), (4, false));
    // Those of an invalid batch too, of which no call is written.
    let batch = Batch::new().ack_job("");
    assert_eq!((batch.len(), batch.is_empty()), (1, false));
    assert_eq!(batch.record_heartbeat(1).len(), 2);
}
