//! The queue: run ids, their order, replacing, acking, and dequeuing after a given job.

use backupy_state::testing::policy;
use backupy_state::{Batch, Check, Enqueued, Error, OpenOptions, QueueOrder, QueuedJob, Store};

use crate::common::{Place, Random, key};

fn fifo(place: &Place) -> Store {
    OpenOptions::new().queue_order(QueueOrder::Fifo).open(place.path(), &key()).unwrap()
}

fn run_ids(jobs: Vec<QueuedJob>) -> Vec<String> {
    jobs.into_iter().map(|job| job.run_id).collect()
}

#[test]
fn dequeue_removes_nothing_and_ack_removes_for_good() {
    let place = Place::new();
    let store = place.open();
    assert_eq!(store.enqueue_job("run-1", b"one").unwrap(), Enqueued::Added);
    assert_eq!(store.dequeue_jobs(1).unwrap(), store.dequeue_jobs(1).unwrap());
    assert_eq!(store.queue_depth(), 1);
    assert!(store.ack_job("run-1").unwrap());
    assert!(!store.ack_job("run-1").unwrap());
    assert_eq!(store.job("run-1").unwrap(), None);
    store.close().unwrap();
    assert_eq!(place.open().queue_depth(), 0);
}

#[test]
fn a_replaced_job_has_the_new_payload_only() {
    let place = Place::new();
    let store = place.open();
    assert_eq!(store.enqueue_job("run-1", b"the old payload").unwrap(), Enqueued::Added);
    assert_eq!(store.enqueue_job("run-1", b"new").unwrap(), Enqueued::Replaced);
    assert_eq!(store.job("run-1").unwrap().unwrap().payload, b"new");
    assert_eq!(store.queue_depth(), 1);
    store.ack_job("run-1").unwrap();
    assert_eq!(store.enqueue_job("run-1", b"again").unwrap(), Enqueued::Added);
    store.close().unwrap();
    assert_eq!(place.open().job("run-1").unwrap().unwrap().payload, b"again");
}

/// Every call that takes a run id.
fn calls_with(store: &Store, run_id: &str) -> Vec<Result<(), Error>> {
    vec![
        store.enqueue_job(run_id, b"payload").map(drop),
        store.job(run_id).map(drop),
        store.dequeue_jobs_after(run_id, 1).map(drop),
        store.dequeue_jobs_after(run_id, 0).map(drop),
        store.ack_job(run_id).map(drop),
    ]
}

#[test]
fn an_empty_run_id_is_invalid_in_every_call() {
    let place = Place::new();
    let store = place.open();
    for call in calls_with(&store, "") {
        assert!(matches!(call, Err(Error::Invalid { .. })), "{call:?}");
    }
    assert_eq!(store.stats().seq, 0);
}

#[test]
fn a_run_id_of_1024_bytes_is_allowed_and_one_more_is_too_large() {
    let place = Place::new();
    let store = place.open();
    for longest in ["x".repeat(1024), "é".repeat(512), "😀".repeat(256)] {
        for call in calls_with(&store, &longest) {
            assert!(call.is_ok(), "{call:?}");
        }
    }
    let seq = store.stats().seq;
    for (longer, expected_len) in [("x".repeat(1025), 1025), ("é".repeat(513), 1026)] {
        for call in calls_with(&store, &longer) {
            assert!(
                matches!(call, Err(Error::TooLarge { len, max: 1024, .. }) if len == expected_len),
                "{call:?}"
            );
        }
    }
    assert_eq!(store.stats().seq, seq);
}

#[test]
fn run_ids_may_be_any_text_and_are_in_byte_order() {
    let place = Place::new();
    let store = place.open();
    let mut ids = ["\0", "\n", " ", "Z", "a", "a\0", "aa", "é", "中文", "😀", "e\u{301}"].map(String::from);
    for id in &ids {
        store.enqueue_job(id, id.as_bytes()).unwrap();
    }
    store.close().unwrap();
    let store = place.open();
    ids.sort_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
    assert_eq!(run_ids(store.dequeue_jobs(100).unwrap()), ids);
    for id in &ids {
        assert_eq!(store.job(id).unwrap().unwrap().payload, id.as_bytes());
    }
}

#[test]
fn dequeue_after_continues_in_byte_order_whether_the_id_is_queued_or_not() {
    let place = Place::new();
    let store = place.open();
    for id in ["d", "b", "f"] {
        store.enqueue_job(id, b"").unwrap();
    }
    assert_eq!(run_ids(store.dequeue_jobs_after("b", 9).unwrap()), ["d", "f"]);
    assert_eq!(run_ids(store.dequeue_jobs_after("c", 1).unwrap()), ["d"]);
    assert_eq!(run_ids(store.dequeue_jobs_after("a", 9).unwrap()), ["b", "d", "f"]);
    assert_eq!(run_ids(store.dequeue_jobs_after("f", 9).unwrap()), Vec::<String>::new());
    assert_eq!(run_ids(store.dequeue_jobs_after("g", 9).unwrap()), Vec::<String>::new());
}

#[test]
fn fifo_dequeue_after_starts_at_the_front_when_the_id_is_not_queued() {
    let place = Place::new();
    let store = fifo(&place);
    for id in ["d", "b", "f"] {
        store.enqueue_job(id, b"").unwrap();
    }
    assert_eq!(run_ids(store.dequeue_jobs_after("b", 9).unwrap()), ["f"]);
    assert_eq!(run_ids(store.dequeue_jobs_after("d", 1).unwrap()), ["b"]);
    assert_eq!(run_ids(store.dequeue_jobs_after("f", 9).unwrap()), Vec::<String>::new());
    assert_eq!(run_ids(store.dequeue_jobs_after("c", 9).unwrap()), ["d", "b", "f"]);
    store.ack_job("b").unwrap();
    assert_eq!(run_ids(store.dequeue_jobs_after("b", 9).unwrap()), ["d", "f"]);
}

#[test]
fn fifo_puts_a_job_that_was_replaced_or_enqueued_again_at_the_back() {
    let place = Place::new();
    let store = fifo(&place);
    for id in ["d", "b", "f", "a"] {
        store.enqueue_job(id, b"first").unwrap();
    }
    store.enqueue_job("d", b"replaced").unwrap();
    assert_eq!(run_ids(store.dequeue_jobs(9).unwrap()), ["b", "f", "a", "d"]);
    store.ack_job("b").unwrap();
    store.enqueue_job("b", b"again").unwrap();
    assert_eq!(run_ids(store.dequeue_jobs(9).unwrap()), ["f", "a", "d", "b"]);
    assert_eq!(run_ids(store.dequeue_jobs(2).unwrap()), ["f", "a"]);
}

#[test]
fn fifo_order_is_kept_over_reopening_and_a_change_of_the_option() {
    let place = Place::new();
    let store = fifo(&place);
    for id in ["d", "b", "f", "d"] {
        store.enqueue_job(id, b"").unwrap();
    }
    store.close().unwrap();
    assert_eq!(run_ids(fifo(&place).dequeue_jobs(9).unwrap()), ["b", "f", "d"]);

    let by_run_id = place.open();
    assert_eq!(run_ids(by_run_id.dequeue_jobs(9).unwrap()), ["b", "d", "f"]);
    by_run_id.enqueue_job("b", b"").unwrap();
    by_run_id.enqueue_job("a", b"").unwrap();
    by_run_id.close().unwrap();
    assert_eq!(run_ids(fifo(&place).dequeue_jobs(9).unwrap()), ["f", "d", "b", "a"]);
}

/// More operations than an opening holds of so short a log before it throws out those that later ones have made
/// void.
#[test]
fn of_many_thousand_operations_the_last_on_each_job_counts_after_reopening() {
    for order in [QueueOrder::RunId, QueueOrder::Fifo] {
        let place = Place::new();
        let compaction = policy(|policy| policy.automatic = false);
        let mut options = OpenOptions::new();
        options.queue_order(order).compaction(compaction).check(Check::Everything);
        let store = options.open(place.path(), &key()).unwrap();
        let mut random = Random::new(7);
        for round in 0..40_u8 {
            let batch = (0..500).fold(Batch::new(), |batch, _| {
                // Some differ in their first bytes, others only after them.
                let run_id = [format!("{}", random.below(900)), format!("job number {}", random.below(900))];
                let run_id = &run_id[random.below(2)];
                match random.below(3) {
                    0 => batch.ack_job(run_id),
                    _ => batch.enqueue_job(run_id, &[round]),
                }
            });
            store.write(&batch.record_heartbeat(i64::from(round))).unwrap();
        }
        let all = store.dequeue_jobs(usize::MAX).unwrap();
        assert!(all.len() > 500);
        drop(store);
        let store = options.open(place.path(), &key()).unwrap();
        // Not 20,040: an ack of a job that is not queued is not written.
        assert!((10_000..20_040).contains(&store.recovery().operations));
        assert_eq!(store.dequeue_jobs(usize::MAX).unwrap(), all);
        assert_eq!(store.last_heartbeat().unwrap(), Some(39));
    }
}

/// It moves to the back, and the page after it still starts where its own page ended, over a compaction too.
#[test]
fn a_fifo_page_starts_where_the_one_before_ended_even_if_its_last_job_was_enqueued_again() {
    for (is_acked, compact_before, compact_after) in [
        (false, false, false),
        (true, false, false),
        (false, true, false),
        (false, false, true),
        (true, true, true),
    ] {
        let place = Place::new();
        let store = fifo(&place);
        for id in ["f", "e", "d", "c", "b", "a"] {
            store.enqueue_job(id, b"first").unwrap();
        }
        assert_eq!(run_ids(store.dequeue_jobs(2).unwrap()), ["f", "e"]);
        if compact_before {
            store.compact().unwrap();
        }
        if is_acked {
            store.ack_job("e").unwrap();
        }
        store.enqueue_job("e", b"again").unwrap();
        // The jobs before the end of the page may be gone too.
        store.ack_job("f").unwrap();
        if compact_after {
            store.compact().unwrap();
        }
        assert_eq!(run_ids(store.dequeue_jobs_after("e", 2).unwrap()), ["d", "c"]);
        store.ack_job("d").unwrap();
        store.ack_job("c").unwrap();
        assert_eq!(run_ids(store.dequeue_jobs_after("e", 2).unwrap()), ["b", "a"]);
        store.enqueue_job("a", b"again").unwrap();
        assert_eq!(run_ids(store.dequeue_jobs_after("a", 2).unwrap()), ["e", "a"]);
        assert_eq!(run_ids(store.dequeue_jobs_after("a", 2).unwrap()), Vec::<String>::new());
    }
}

/// Else a loop that continues after it would go back each time.
#[test]
fn a_fifo_page_that_returns_a_moved_job_makes_its_new_place_the_one_that_counts() {
    let place = Place::new();
    let store = fifo(&place);
    for id in ["a", "b", "c", "d"] {
        store.enqueue_job(id, b"").unwrap();
    }
    assert_eq!(run_ids(store.dequeue_jobs(2).unwrap()), ["a", "b"]);
    store.enqueue_job("b", b"").unwrap();
    store.enqueue_job("e", b"").unwrap();
    assert_eq!(run_ids(store.dequeue_jobs_after("b", 9).unwrap()), ["c", "d", "b", "e"]);
    // In the middle of that page.
    assert_eq!(run_ids(store.dequeue_jobs_after("b", 9).unwrap()), ["e"]);
    assert_eq!(run_ids(store.dequeue_jobs_after("a", 1).unwrap()), ["c"]);
}

/// Jobs are enqueued, enqueued again and acked, and the log is compacted, while a loop pages through the queue.
#[test]
fn paging_through_a_fifo_queue_leaves_out_no_job_and_goes_back_only_if_the_last_one_is_gone() {
    let place = Place::new();
    let store = fifo(&place);
    let mut random = Random::new(3);
    // What is queued: the number of its latest enqueue, and its run id.
    let mut queued = std::collections::BTreeMap::<u64, String>::new();
    let mut enqueues = 0;
    let mut last: Option<(u64, String)> = None;
    let (mut moved, mut compactions) = (0, 0);
    for _ in 0..2_000 {
        for _ in 0..random.below(3) {
            // Often the job that ended the page.
            let run_id = match &last {
                Some((_, run_id)) if random.below(3) == 0 => run_id.clone(),
                _ => format!("run-{}", random.below(30)),
            };
            queued.retain(|_, other| *other != run_id);
            if random.below(4) == 0 {
                store.ack_job(&run_id).unwrap();
            } else {
                enqueues += 1;
                store.enqueue_job(&run_id, &u64::to_le_bytes(enqueues)).unwrap();
                queued.insert(enqueues, run_id);
            }
        }
        if random.below(40) == 0 {
            store.compact().unwrap();
            compactions += 1;
        }
        let n = 1 + random.below(4);
        let from = match &last {
            Some((number, run_id)) if queued.values().any(|other| other == run_id) => {
                moved += u64::from(!queued.contains_key(number));
                *number + 1
            }
            _ => 0,
        };
        let page = match &last {
            Some((_, run_id)) => store.dequeue_jobs_after(run_id, n).unwrap(),
            None => store.dequeue_jobs(n).unwrap(),
        };
        let page = page.into_iter().map(|job| (u64::from_le_bytes(job.payload.try_into().unwrap()), job.run_id));
        let page: Vec<_> = page.collect();
        let expected = queued.range(from..).take(n).map(|(number, run_id)| (*number, run_id.clone()));
        assert_eq!(page, expected.collect::<Vec<_>>());
        last = page.last().cloned();
    }
    assert!(moved > 100 && compactions > 20, "{moved} moved, {compactions} compactions");
}
