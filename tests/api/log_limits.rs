//! The limits of the log buffer, and at-least-once delivery by peek and ack.

use backupy_state::testing::log_rate;
use backupy_state::{AgentKey, Batch, LogAdmission, LogLimits, OpenOptions, Store, WhenFull};

fn open(path: &std::path::Path, change: impl FnOnce(&mut LogLimits)) -> Store {
    let mut limits = LogLimits::default();
    change(&mut limits);
    OpenOptions::new().log_limits(limits).open(path, &AgentKey::new("key").unwrap()).unwrap()
}

fn times(store: &Store) -> Vec<i64> {
    store.peek_logs(usize::MAX).unwrap().events().iter().map(|event| event.ts_ms).collect()
}

#[test]
fn a_full_buffer_drops_the_oldest_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    let store = open(&path, |limits| limits.max_count = Some(3));
    for ts in [1, 2, 3] {
        assert_eq!(store.buffer_log(ts, b"x").unwrap(), LogAdmission::Buffered);
    }
    assert_eq!(store.buffer_log(4, b"x").unwrap(), LogAdmission::DroppedOldest(1));
    assert_eq!(times(&store), [2, 3, 4]);
    // Older than all that is buffered: it comes in, and those buffered make room.
    assert_eq!(store.buffer_log(0, b"x").unwrap(), LogAdmission::DroppedOldest(1));
    assert_eq!(times(&store), [0, 3, 4]);
    assert_eq!(store.stats().logs_dropped, 2);
    drop(store);
    let store = open(&path, |limits| limits.max_count = Some(1));
    assert_eq!(store.peek_logs(1).unwrap().dropped(), 2);
    assert_eq!(store.buffer_log(9, b"x").unwrap(), LogAdmission::DroppedOldest(3));
    assert_eq!(times(&store), [9]);
    assert_eq!(store.stats().logs_dropped, 5);
}

const HOUR_MS: i64 = 3_600_000;
const NOW_MS: i64 = 1_800_000_000_000;

/// A clock that was years ahead has been set right: its events make room for those of today, and these for none.
#[test]
fn a_full_buffer_keeps_what_was_buffered_after_the_clock_was_set_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    let store = open(&path, |limits| limits.max_count = Some(100));
    let (ahead, mut dropped) = (NOW_MS + 4 * 365 * 24 * HOUR_MS, 0);
    for (ts_ms, payload) in (0..10).map(|n| (NOW_MS + n, b"1")).chain((0..90).map(|n| (ahead + n, b"2"))) {
        store.buffer_log(ts_ms, payload).unwrap();
    }
    for n in 0..100 {
        assert_eq!(store.buffer_log(NOW_MS + 1000 * (n + 1), b"after").unwrap(), LogAdmission::DroppedOldest(1));
        dropped += 1;
        // The earliest one of those that are ahead has gone.
        let last = times(&store).pop().unwrap();
        assert!(n >= 89 || last == ahead + 89, "after {n}: {last}");
    }
    let kept = store.peek_logs(usize::MAX).unwrap();
    let after = kept.events().iter().filter(|event| event.payload == b"after").count();
    assert_eq!((kept.events().len(), after, store.stats().logs_dropped), (100, 100, dropped));
    // The same in one record, also if the clock jumps to the ends of time.
    for (was, is) in [(i64::MAX, NOW_MS), (NOW_MS, i64::MIN), (i64::MIN, i64::MAX)] {
        let events = |ts_ms| (0..100).fold(Batch::new(), move |batch, _| batch.buffer_log(ts_ms, b"x"));
        store.write(&events(was)).unwrap();
        store.write(&events(is)).unwrap();
        assert_eq!(times(&store), [is; 100]);
        dropped += 200;
        assert_eq!(store.stats().logs_dropped, dropped);
    }
    drop(store);
    let store = open(&path, |_| ());
    assert_eq!((store.log_count(), store.stats().logs_dropped), (100, dropped));
}

/// Events of several sources come out of order by minutes.
#[test]
fn an_event_within_an_hour_of_the_new_one_is_not_taken_for_one_of_a_wrong_clock() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("state.db"), |limits| limits.max_count = Some(3));
    for ts_ms in [0, HOUR_MS, HOUR_MS] {
        store.buffer_log(ts_ms, b"x").unwrap();
    }
    store.buffer_log(0, b"x").unwrap();
    assert_eq!(times(&store), [0, HOUR_MS, HOUR_MS]);
    store.buffer_log(-1, b"x").unwrap();
    assert_eq!(times(&store), [-1, 0, HOUR_MS]);
}

#[test]
fn a_full_buffer_drops_the_newest_when_asked_to() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    let store = open(&path, |limits| {
        limits.max_bytes = Some(10);
        limits.when_full = WhenFull::DropNewest;
    });
    assert_eq!(store.buffer_log(1, b"123456").unwrap(), LogAdmission::Buffered);
    assert_eq!(store.buffer_log(2, b"12345").unwrap(), LogAdmission::Dropped);
    assert_eq!(store.buffer_log(3, b"1234").unwrap(), LogAdmission::Buffered);
    assert_eq!(times(&store), [1, 3]);
    assert_eq!(store.stats().logs_dropped, 1);
}

#[test]
fn as_many_of_the_oldest_make_room_as_the_bytes_of_the_new_one_need() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("state.db"), |limits| limits.max_bytes = Some(10));
    for ts_ms in 1..=5 {
        store.buffer_log(ts_ms, b"12").unwrap();
    }
    let seq = store.stats().seq;
    assert_eq!(store.buffer_log(6, b"12345").unwrap(), LogAdmission::DroppedOldest(3));
    assert_eq!(store.stats().seq, seq + 1, "they go and it comes in one record");
    assert_eq!(store.buffer_log(7, &[0; 10]).unwrap(), LogAdmission::DroppedOldest(3));
    assert_eq!((store.log_count(), store.stats().logs_dropped), (1, 6));
}

#[test]
fn an_event_larger_than_the_buffer_is_dropped_whatever_when_full_says() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("state.db"), |limits| limits.max_bytes = Some(4));
    store.buffer_log(1, b"1234").unwrap();
    assert_eq!(store.buffer_log(2, b"12345").unwrap(), LogAdmission::Dropped);
    assert_eq!(times(&store), [1]);
}

#[test]
fn events_over_the_rate_are_dropped_and_the_count_survives_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    let no_refill = |limits: &mut LogLimits| limits.rate = Some(log_rate(0, 2));
    let store = open(&path, no_refill);
    let admissions: Vec<_> = (0..5).map(|ts| store.buffer_log(ts, b"x").unwrap()).collect();
    use LogAdmission::{Buffered, Dropped};
    assert_eq!(admissions, [Buffered, Buffered, Dropped, Dropped, Dropped]);
    store.close().unwrap();
    let store = open(&path, no_refill);
    assert_eq!(store.stats().logs_dropped, 3);
    // Events in a batch do not count against the rate.
    store.write(&(0..4).fold(Batch::new(), |batch, ts| batch.buffer_log(ts, b"x"))).unwrap();
    assert_eq!(store.log_count(), 6);
    let batch = store.peek_logs(10).unwrap();
    assert_eq!((batch.events().len(), batch.dropped()), (6, 3));
    assert_eq!(store.ack_logs(&batch).unwrap(), 6);
    assert_eq!(store.stats().logs_dropped, 0);
    drop(store);
    assert_eq!(open(&path, no_refill).stats().logs_dropped, 0);
}

#[test]
fn a_batch_larger_than_the_buffer_keeps_its_last_events() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("state.db"), |limits| limits.max_count = Some(3));
    store.buffer_log(100, b"x").unwrap();
    store.write(&(0..5).fold(Batch::new(), |batch, ts| batch.buffer_log(ts, b"x"))).unwrap();
    assert_eq!(times(&store), [2, 3, 4]);
    assert_eq!(store.stats().logs_dropped, 3);
}

#[test]
fn ack_removes_exactly_what_was_peeked() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    let store = open(&path, |_| {});
    for ts in [10, 20, 30] {
        store.buffer_log(ts, b"x").unwrap();
    }
    let batch = store.peek_logs(2).unwrap();
    let same = batch.clone();
    store.buffer_log(5, b"older, but not peeked").unwrap();
    assert_eq!(store.ack_logs(&batch).unwrap(), 2);
    assert_eq!(times(&store), [5, 30]);
    assert_eq!(store.ack_logs(&same).unwrap(), 0);
    let batch = store.peek_logs(2).unwrap();
    assert_eq!(store.drain_logs(1).unwrap()[0].ts_ms, 5);
    assert_eq!(store.ack_logs(&batch).unwrap(), 1);
    drop(store);
    assert_eq!(open(&path, |_| {}).log_count(), 0);
}

/// A full disk keeps space for short removals only.
#[test]
fn the_rest_of_a_batch_is_acked_by_a_short_record_whatever_part_of_it_is_gone() {
    for (is_evicted, is_newer_added) in [(false, false), (true, false), (false, true), (true, true)] {
        let folder = tempfile::tempdir().unwrap();
        let count = if is_evicted { Some(2000) } else { None };
        let store = open(&folder.path().join("state.db"), |limits| limits.max_count = count);
        store.write(&(0..2000).fold(Batch::new(), |batch, ts| batch.buffer_log(10 * ts, b"x"))).unwrap();
        let batch = store.peek_logs(1995).unwrap();
        if is_evicted {
            store.buffer_log(30_000, b"an event for which the oldest one is evicted").unwrap();
        } else {
            assert_eq!(store.ack_logs(&batch.first(10)).unwrap(), 10);
        }
        if is_newer_added {
            store.buffer_log(19_905, b"not peeked, between the last ones that were").unwrap();
        }
        let buffered = store.log_count();
        let len_before = store.stats().log_len;
        let expected = 1995 - if is_evicted { 1 + usize::from(is_newer_added) } else { 10 };
        assert_eq!(store.ack_logs(&batch).unwrap(), expected);
        assert_eq!(store.log_count(), buffered - expected);
        let record_len = store.stats().log_len - len_before;
        assert!(record_len < 400, "{record_len}");
        assert_eq!(times(&store).first(), Some(if is_newer_added { &19_905 } else { &19_950 }));
    }
}

#[test]
fn drops_between_peek_and_ack_stay_counted() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("state.db"), |limits| limits.max_count = Some(2));
    for ts in 0..3 {
        store.buffer_log(ts, b"x").unwrap();
    }
    let batch = store.peek_logs(1).unwrap();
    assert_eq!(batch.dropped(), 1);
    store.buffer_log(3, b"x").unwrap();
    // The peeked event made room meanwhile.
    assert_eq!(store.ack_logs(&batch).unwrap(), 0);
    assert_eq!(store.stats().logs_dropped, 1);
    assert_eq!(times(&store), [2, 3]);
}

/// Two batches report the same drops. Later drops were not reported yet.
#[test]
fn drops_are_subtracted_once_and_only_after_they_were_reported() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("state.db"), |limits| limits.max_count = Some(2));
    for ts in 0..4 {
        store.buffer_log(ts, b"x").unwrap();
    }
    let (first, again) = (store.peek_logs(1).unwrap(), store.peek_logs(1).unwrap());
    assert_eq!((first.dropped(), again.dropped()), (2, 2));
    assert_eq!(store.ack_logs(&first).unwrap(), 1);
    for ts in 4..6 {
        store.buffer_log(ts, b"x").unwrap();
    }
    assert_eq!(store.ack_logs(&again).unwrap(), 0);
    assert_eq!(store.stats().logs_dropped, 1);

    // A drain in between has reset the count.
    let before = store.peek_logs(1).unwrap();
    store.drain_logs(1).unwrap();
    for ts in 6..8 {
        store.buffer_log(ts, b"x").unwrap();
    }
    store.ack_logs(&before).unwrap();
    assert_eq!(store.peek_logs(9).unwrap().dropped(), 1);
}

/// Five drops and three events. Each part is acked, and each drop is reported by one batch only.
#[test]
fn a_part_of_a_batch_is_acked_without_the_drops() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    let three = |limits: &mut LogLimits| limits.max_count = Some(3);
    let store = open(&path, three);
    for ts in 0..8 {
        store.buffer_log(ts, b"x").unwrap();
    }
    let batch = store.peek_logs(9).unwrap();
    assert_eq!((batch.len(), batch.is_empty(), batch.dropped()), (3, false, 5));
    let none = batch.first(0);
    assert_eq!((none.len(), none.is_empty(), none.dropped()), (0, true, 0));
    assert_eq!(store.ack_logs(&none).unwrap(), 0);
    let part = batch.first(2);
    assert_eq!((part.events(), part.dropped()), (&batch.events()[..2], 0));
    assert_eq!(store.ack_logs(&part).unwrap(), 2);
    assert_eq!((times(&store), store.stats().logs_dropped), (vec![7], 5));

    // The rest, with the drops: from a new peek, or by the whole batch.
    assert_eq!(store.peek_logs(9).unwrap().dropped(), 5);
    assert_eq!(batch.first(3), batch);
    assert_eq!(batch.first(usize::MAX), batch);
    assert_eq!(store.ack_logs(&batch.first(3)).unwrap(), 1);
    assert_eq!((store.log_count(), store.stats().logs_dropped), (0, 0));

    // A part of it subtracts no later drops.
    for ts in 10..14 {
        store.buffer_log(ts, b"x").unwrap();
    }
    assert_eq!(store.ack_logs(&part).unwrap(), 0);
    assert_eq!((store.ack_logs(&batch).unwrap(), store.stats().logs_dropped), (0, 1));
    store.close().unwrap();
    assert_eq!(open(&path, three).stats().logs_dropped, 1);
}
