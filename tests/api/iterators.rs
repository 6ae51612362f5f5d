//! The iterators over jobs, run ids and log events, while the store changes between their items.

use backupy_state::{Limit, LogEvent, OpenOptions, QueueOrder, QueuedJob, Result, Snapshot, Store};

use crate::common::{Place, key};

const ORDERS: [QueueOrder; 2] = [QueueOrder::RunId, QueueOrder::Fifo];

fn open(place: &Place, order: QueueOrder) -> Store {
    OpenOptions::new().queue_order(order).open(place.path(), &key()).unwrap()
}

fn shown(job: Result<QueuedJob>) -> (String, Vec<u8>) {
    let job = job.unwrap();
    (job.run_id, job.payload)
}

fn times(events: impl Iterator<Item = Result<LogEvent>>) -> Vec<i64> {
    events.map(|event| event.unwrap().ts_ms).collect()
}

#[test]
fn iterators_give_what_the_other_calls_give() {
    for order in ORDERS {
        let place = Place::new();
        let store = open(&place, order);
        assert!(
            store.jobs().next().is_none() && store.run_ids().next().is_none() && store.logs().next().is_none()
        );
        for (i, id) in ["d", "b", "f", "b", "é", "a run id that is longer than the 38 bytes of a short key"]
            .into_iter()
            .enumerate()
        {
            store.enqueue_job(id, &vec![7; 100 * i]).unwrap();
            store.buffer_log(-(i as i64 / 2), &[i as u8]).unwrap();
        }
        let check = |store: &Store| {
            let jobs = store.dequeue_jobs(usize::MAX).unwrap();
            let run_ids: Vec<_> = jobs.iter().map(|job| job.run_id.clone()).collect();
            assert_eq!(store.jobs().collect::<Result<Vec<_>>>().unwrap(), jobs);
            assert_eq!(store.run_ids().collect::<Vec<_>>(), run_ids);
            let events = store.peek_logs(usize::MAX).unwrap().events().to_vec();
            assert_eq!(store.logs().collect::<Result<Vec<_>>>().unwrap(), events);
            (jobs, run_ids, events)
        };
        let all = check(&store);
        store.close().unwrap();
        let store = open(&place, order);
        assert_eq!(check(&store), all);
        store.compact().unwrap();
        assert_eq!(check(&store), all);

        // A snapshot has the order of the run ids.
        let snapshot = Snapshot::open(place.path(), &key()).unwrap();
        let (mut jobs, mut run_ids, events) = all;
        jobs.sort_by(|a, b| a.run_id.cmp(&b.run_id));
        run_ids.sort();
        assert_eq!(snapshot.jobs().collect::<Result<Vec<_>>>().unwrap(), jobs);
        assert_eq!(snapshot.run_ids().collect::<Vec<_>>(), run_ids);
        assert_eq!(snapshot.logs().collect::<Result<Vec<_>>>().unwrap(), events);
    }
}

/// With and without a compaction between two items, which gives every job another place.
#[test]
fn a_job_is_given_once_if_it_was_queued_at_first_and_still_is() {
    for (order, is_compacted) in ORDERS.into_iter().flat_map(|order| [(order, false), (order, true)]) {
        let place = Place::new();
        let store = open(&place, order);
        for id in ["b", "d", "f", "h", "j"] {
            store.enqueue_job(id, b"first").unwrap();
        }
        let (mut jobs, mut run_ids) = (store.jobs(), store.run_ids());
        assert_eq!((jobs.size_hint(), run_ids.size_hint()), ((0, Some(5)), (0, Some(5))));
        assert_eq!(jobs.next().map(shown).unwrap(), ("b".to_owned(), b"first".to_vec()));
        assert_eq!(run_ids.next().unwrap(), "b");
        // One that was given, one that follows, one that is acked and enqueued again, and two new ones.
        store.enqueue_job("b", b"second").unwrap();
        store.enqueue_job("d", b"second").unwrap();
        store.ack_job("f").unwrap();
        store.ack_job("h").unwrap();
        store.enqueue_job("h", b"third").unwrap();
        store.enqueue_job("a", b"new").unwrap();
        store.enqueue_job("k", b"new").unwrap();
        if is_compacted {
            store.compact().unwrap();
        }
        let rest: Vec<_> = jobs.by_ref().map(shown).collect();
        let rest: Vec<_> = rest.iter().map(|(id, payload)| (id.as_str(), payload.as_slice())).collect();
        assert_eq!(rest, [("d", &b"second"[..]), ("h", b"third"), ("j", b"first")]);
        assert_eq!(run_ids.by_ref().collect::<Vec<_>>(), ["d", "h", "j"]);
        assert!(jobs.next().is_none() && run_ids.next().is_none());
        assert_eq!(jobs.size_hint(), (0, Some(0)));
    }
}

#[test]
fn a_log_event_is_given_once_if_it_was_buffered_at_first_and_still_is() {
    for is_compacted in [false, true] {
        let place = Place::new();
        let store = place.open();
        for ts in [10, 20, 30, 40] {
            store.buffer_log(ts, b"x").unwrap();
        }
        let mut logs = store.logs();
        assert_eq!(logs.size_hint(), (0, Some(4)));
        assert_eq!(logs.next().unwrap().unwrap().ts_ms, 10);
        store.drain_logs(2).unwrap();
        // Events with the times of others, which were not there at first.
        for ts in [20, 35, 40] {
            store.buffer_log(ts, b"new").unwrap();
        }
        if is_compacted {
            store.compact().unwrap();
        }
        let rest: Vec<_> = logs.map(|event| event.unwrap()).collect();
        assert_eq!(
            rest.iter().map(|event| (event.ts_ms, &*event.payload)).collect::<Vec<_>>(),
            [(30, &b"x"[..]), (40, b"x")]
        );
        assert_eq!(times(store.logs()), [20, 30, 35, 40, 40]);
    }
}

/// It would wait for ever if an iterator held a lock between two items.
#[test]
fn the_loop_may_make_every_call() {
    for order in ORDERS {
        let place = Place::new();
        let store = open(&place, order);
        for i in 0..20 {
            store.enqueue_job(&format!("run-{i}"), b"payload").unwrap();
            store.buffer_log(i, b"event").unwrap();
        }
        let mut given = 0;
        for job in store.jobs() {
            let job = job.unwrap();
            assert!(store.ack_job(&job.run_id).unwrap());
            store.enqueue_job(&format!("{}/done", job.run_id), b"ok").unwrap();
            if given % 8 == 0 {
                store.compact().unwrap();
            }
            given += 1;
        }
        assert_eq!((given, store.queue_depth()), (20, 20));
        for event in store.logs() {
            assert_eq!(store.drain_logs(1).unwrap(), [event.unwrap()]);
        }
        assert_eq!(store.log_count(), 0);
        for run_id in store.run_ids() {
            assert!(store.ack_job(&run_id).unwrap());
        }
        assert_eq!(store.queue_depth(), 0);
    }
}

#[test]
fn iterators_of_a_snapshot_keep_its_view() {
    let place = Place::new();
    let store = place.open();
    for id in ["a", "b"] {
        store.enqueue_job(id, b"first").unwrap();
        store.buffer_log(1, b"event").unwrap();
    }
    let snapshot = Snapshot::open(place.path(), &key()).unwrap();
    let (mut jobs, run_ids, logs) = (snapshot.jobs(), snapshot.run_ids(), snapshot.logs());
    assert_eq!(jobs.next().map(shown).unwrap().0, "a");
    store.ack_job("b").unwrap();
    store.drain_logs(9).unwrap();
    store.compact().unwrap();
    assert_eq!(jobs.map(shown).collect::<Vec<_>>(), [("b".to_owned(), b"first".to_vec())]);
    assert_eq!(run_ids.collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(times(logs), [1, 1]);
}

#[test]
fn iterators_and_pages_can_be_shown() {
    let place = Place::new();
    let store = place.open();
    store.enqueue_job("secret", b"secret").unwrap();
    store.buffer_log(1, b"secret").unwrap();
    let shown = format!("{:?} {:?} {:?} {:?}", store.jobs(), store.run_ids(), store.logs(), Limit::bytes(9));
    assert!(!shown.contains("secret"), "{shown}");
}
