//! Acks that remove only what the caller has seen: `ack_delivered`, and the acks of a batch.

use std::fmt;
use std::sync::{Arc, Mutex};

use backupy_state::testing::options_on;
use backupy_state::{Batch, Error, LogLimits, OpenOptions, QueueOrder, Snapshot, Store};

use crate::common::{Hooked, Hooks, Place, key};

fn event(store: &Store, ts_ms: i64) {
    store.buffer_log(ts_ms, format!("event {ts_ms}").as_bytes()).unwrap();
}

fn times(store: &Store) -> Vec<i64> {
    store.logs().map(|event| event.unwrap().ts_ms).collect()
}

#[test]
fn a_delivered_job_is_removed_only_with_the_payload_that_was_delivered() {
    let place = Place::new();
    let store = place.open();
    store.enqueue_job("run-1", b"old").unwrap();
    let old = store.job("run-1").unwrap().unwrap();
    store.enqueue_job("run-1", b"new").unwrap();
    let seq = store.stats().seq;
    assert!(!store.ack_delivered(&old).unwrap());
    assert_eq!(store.stats().seq, seq, "nothing is written");
    let new = store.job("run-1").unwrap().unwrap();
    store.compact().unwrap();
    assert!(store.ack_delivered(&new).unwrap());
    assert!(!store.ack_delivered(&new).unwrap());
    store.close().unwrap();
    assert_eq!(place.open().queue_depth(), 0);
}

#[test]
fn a_delivered_job_is_removed_whatever_the_order_of_the_queue() {
    let place = Place::new();
    let store = OpenOptions::new().queue_order(QueueOrder::Fifo).open(place.path(), &key()).unwrap();
    for (run_id, payload) in [("b", "first"), ("a", "second"), ("b", "third")] {
        store.enqueue_job(run_id, payload.as_bytes()).unwrap();
    }
    for job in store.dequeue_jobs(10).unwrap() {
        assert!(store.ack_delivered(&job).unwrap());
    }
    assert_eq!(store.queue_depth(), 0);
}

/// Does something, once, as soon as a file is read.
#[derive(Clone, Default)]
struct Meanwhile(Arc<Mutex<Option<Action>>>);

type Action = Box<dyn FnOnce() + Send>;

impl fmt::Debug for Meanwhile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Meanwhile")
    }
}

impl Hooks for Meanwhile {
    fn read(&self, _: usize) {
        let action = self.0.lock().unwrap().take();
        action.into_iter().for_each(|action| action());
    }
}

#[test]
fn a_job_that_is_enqueued_anew_while_its_payload_is_compared_stays() {
    let (place, hooks) = (Place::new(), Meanwhile::default());
    let mut options = options_on(Arc::new(Hooked { hooks: hooks.clone(), ..Hooked::default() }));
    let store = Arc::new(options.mmap(false).open(place.path(), &key()).unwrap());
    let meanwhile: [fn(&Store); 3] = [
        |store| assert!(store.enqueue_job("run-1", b"new").is_ok()),
        |store| assert!(store.ack_job("run-1").is_ok()),
        |store| assert!(store.compact().is_ok()),
    ];
    for (action, left) in meanwhile.into_iter().zip([1, 0, 0]) {
        store.enqueue_job("run-1", b"old").unwrap();
        let job = store.job("run-1").unwrap().unwrap();
        let for_hook = Arc::clone(&store);
        *hooks.0.lock().unwrap() = Some(Box::new(move || action(&for_hook)));
        let acked = store.ack_delivered(&job).unwrap();
        assert!(hooks.0.lock().unwrap().is_none(), "nothing was read");
        assert_eq!((store.queue_depth(), acked), (left, store.stats().generation == 2));
        store.ack_job("run-1").unwrap();
    }
}

#[test]
fn a_batch_removes_a_delivered_job_with_its_payload_alone_at_its_turn() {
    let place = Place::new();
    let store = place.open();
    store.enqueue_job("run-1", b"old").unwrap();
    let old = store.job("run-1").unwrap().unwrap();
    // As it was peeked: removed, and what is enqueued after it in the same batch stays.
    store.write(&Batch::new().ack_delivered(&old).enqueue_job("run-1", b"new")).unwrap();
    assert_eq!(store.job("run-1").unwrap().unwrap().payload, b"new");
    // Another payload by now: the ack does nothing, the rest of the batch is written.
    store.write(&Batch::new().ack_delivered(&old).record_heartbeat(7)).unwrap();
    assert_eq!((store.queue_depth(), store.last_heartbeat().unwrap()), (1, Some(7)));
    // Against the payload that the batch itself has put, or after it has removed the job.
    store.write(&Batch::new().enqueue_job("run-1", b"old").ack_delivered(&old)).unwrap();
    assert_eq!(store.queue_depth(), 0);
    store.enqueue_job("run-1", b"old").unwrap();
    store.write(&Batch::new().enqueue_job("run-1", b"new").ack_delivered(&old)).unwrap();
    assert_eq!(store.queue_depth(), 1);
    store.enqueue_job("run-1", b"old").unwrap();
    let seq = store.stats().seq;
    store.write(&Batch::new().ack_job("run-1").ack_delivered(&old).ack_job("run-1")).unwrap();
    assert_eq!((store.queue_depth(), store.stats().seq), (0, seq + 1));
    store.write(&Batch::new().ack_delivered(&old)).unwrap();
    assert_eq!(store.stats().seq, seq + 1, "nothing is written");
}

#[test]
fn a_batch_with_an_ack_of_a_damaged_payload_writes_nothing() {
    let place = Place::new();
    let store = place.open();
    store.enqueue_job("run-1", &[7; 1000]).unwrap();
    let job = store.job("run-1").unwrap().unwrap();
    let mut bytes = std::fs::read(place.path()).unwrap();
    let value_at = usize::try_from(store.stats().log_len).unwrap() - 500;
    bytes[value_at] ^= 1;
    std::fs::write(place.path(), bytes).unwrap();
    let is_about_job = |error| matches!(error, Err(Error::Unauthentic { run_id: Some(id), .. }) if id == "run-1");
    assert!(is_about_job(store.ack_delivered(&job).map(drop)));
    assert!(is_about_job(store.write(&Batch::new().record_heartbeat(1).ack_delivered(&job))));
    assert_eq!(store.last_heartbeat().unwrap(), None);
    store.write(&Batch::new().ack_job("run-1").record_heartbeat(1)).unwrap();
    assert_eq!(store.queue_depth(), 0);
}

#[test]
fn a_batch_removes_the_peeked_events_that_are_still_there_and_no_others() {
    let place = Place::new();
    let store = place.open();
    (1..=4).for_each(|ts_ms| event(&store, ts_ms));
    let peeked = store.peek_logs(3).unwrap();
    store.drain_logs(1).unwrap();
    // New events with earlier times, one from before the batch and one in it.
    event(&store, 0);
    store.write(&Batch::new().buffer_log(1, b"in the batch").ack_logs(&peeked).record_heartbeat(5)).unwrap();
    assert_eq!(times(&store), [0, 1, 4]);
    // A second ack of the same events removes nothing and writes nothing.
    let seq = store.stats().seq;
    store.write(&Batch::new().ack_logs(&peeked).ack_logs(&peeked.first(1))).unwrap();
    assert_eq!(store.stats().seq, seq);
    assert_eq!(Snapshot::open(place.path(), &key()).unwrap().log_count(), 3);
}

#[test]
fn events_that_a_batch_acks_make_room_for_those_that_it_buffers() {
    let place = Place::new();
    let mut limits = LogLimits::default();
    limits.max_count = Some(3);
    let store = OpenOptions::new().log_limits(limits).open(place.path(), &key()).unwrap();
    (1..=3).for_each(|ts_ms| event(&store, ts_ms));
    let peeked = store.peek_logs(2).unwrap();
    store.write(&Batch::new().ack_logs(&peeked).buffer_log(4, b"").buffer_log(5, b"")).unwrap();
    assert_eq!((times(&store), store.peek_logs(9).unwrap().dropped()), (vec![3, 4, 5], 0));
    // One more than there is room for: the oldest that is left goes, and is counted.
    let peeked = store.peek_logs(1).unwrap();
    store.write(&Batch::new().ack_logs(&peeked).buffer_log(6, b"").buffer_log(7, b"")).unwrap();
    assert_eq!((times(&store), store.peek_logs(9).unwrap().dropped()), (vec![5, 6, 7], 1));
}

#[test]
fn a_batch_subtracts_the_drops_that_its_events_have_reported() {
    let place = Place::new();
    let mut limits = LogLimits::default();
    limits.max_count = Some(2);
    let options = OpenOptions::new().log_limits(limits).clone();
    let store = options.open(place.path(), &key()).unwrap();
    (1..=5).for_each(|ts_ms| event(&store, ts_ms));
    let peeked = store.peek_logs(9).unwrap();
    assert_eq!((peeked.len(), peeked.dropped()), (2, 3));
    event(&store, 6);
    store.write(&Batch::new().ack_logs(&peeked).ack_logs(&peeked)).unwrap();
    assert_eq!(store.peek_logs(9).unwrap().dropped(), 1);
    store.close().unwrap();
    let store = options.open(place.path(), &key()).unwrap();
    let peeked = store.peek_logs(9).unwrap();
    assert_eq!((times(&store), peeked.dropped()), (vec![6], 1));
    // A batch with nothing else.
    store.write(&Batch::new().ack_logs(&peeked)).unwrap();
    store.close().unwrap();
    assert_eq!(options.open(place.path(), &key()).unwrap().peek_logs(9).unwrap().dropped(), 0);
}

#[test]
fn a_batch_of_log_events_is_iterated_oldest_first() {
    let place = Place::new();
    let store = place.open();
    [3, 1, 2].into_iter().for_each(|ts_ms| event(&store, ts_ms));
    let batch = store.peek_logs(9).unwrap();
    assert_eq!((&batch).into_iter().map(|event| event.ts_ms).collect::<Vec<_>>(), [1, 2, 3]);
}

#[test]
fn the_store_id_is_the_same_after_a_compaction_a_change_of_the_key_and_in_a_backup() {
    let place = Place::new();
    let store = place.open();
    let id = store.anchor().store_id();
    store.compact().unwrap();
    store.rekey(&backupy_state::AgentKey::new("other").unwrap()).unwrap();
    assert_eq!(store.anchor().store_id(), id);
    let other = Place::new();
    assert_ne!(other.open().anchor().store_id(), id);
}
