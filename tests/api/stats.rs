//! What `stats` counts since the store was opened, and what a snapshot cannot know.

use std::path::Path;
use std::time::Duration;

use backupy_state::{AgentKey, Durability, LogLimits, OpenOptions, SinceOpened, Snapshot, Store};

fn key() -> AgentKey {
    AgentKey::new("key").unwrap()
}

fn since_opened(store: &Store) -> SinceOpened {
    store.stats().since_opened.unwrap()
}

/// A store that buffers only three log events.
fn open_small(path: &Path) -> Store {
    let mut limits = LogLimits::default();
    limits.max_count = Some(3);
    OpenOptions::new().log_limits(limits).open(path, &key()).unwrap()
}

#[test]
fn each_sync_of_the_log_is_counted_with_its_time() {
    let folder = tempfile::tempdir().unwrap();
    let mut options = OpenOptions::new();
    let store =
        options.heartbeat_durability(Durability::Buffered).open(folder.path().join("state.db"), &key()).unwrap();
    assert_eq!(since_opened(&store), SinceOpened::default());
    store.enqueue_job("run-1", b"payload").unwrap();
    let first = since_opened(&store);
    assert!(first.sync_time == first.longest_sync && first.sync_time > Duration::ZERO, "{first:?}");
    store.record_heartbeat(1).unwrap();
    let buffered = since_opened(&store);
    assert_eq!((first.syncs, buffered.syncs, buffered.sync_time), (1, 1, first.sync_time));
    store.sync().unwrap();
    let second = since_opened(&store);
    assert_eq!(second.syncs, 2);
    assert!(second.sync_time > first.sync_time && second.longest_sync < second.sync_time, "{second:?}");
    store.close().unwrap();
}

#[test]
fn the_bytes_written_are_those_of_the_frames_over_a_compaction_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    let store = Store::open(&path, &key()).unwrap();
    let empty = store.stats().log_len;
    store.enqueue_job("run-1", &[0; 5000]).unwrap();
    store.ack_job("run-1").unwrap();
    let before = store.stats();
    assert_eq!(since_opened(&store).bytes_written, before.log_len - empty);
    let report = store.compact().unwrap();
    let after = store.stats();
    assert_eq!(since_opened(&store), before.since_opened.unwrap());
    assert_eq!((before.compaction.bytes_written, after.compaction.bytes_written), (0, report.bytes_after));
    store.enqueue_job("run-2", b"payload").unwrap();
    let (last, written) = (store.stats(), since_opened(&store));
    assert_eq!(written.bytes_written, before.log_len - empty + last.log_len - report.bytes_after);
    assert_eq!(written.syncs, 3);
    store.close().unwrap();
    let store = Store::open(&path, &key()).unwrap();
    assert_eq!(since_opened(&store), SinceOpened::default());
}

#[test]
fn drops_since_the_store_was_opened_are_counted_on_over_a_drain() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    let store = open_small(&path);
    for ts_ms in 0..5 {
        store.buffer_log(ts_ms, b"event").unwrap();
    }
    assert_eq!((store.stats().logs_dropped, since_opened(&store).logs_dropped), (2, 2));
    store.drain_logs(1).unwrap();
    for ts_ms in 5..7 {
        store.buffer_log(ts_ms, b"event").unwrap();
    }
    assert_eq!((store.stats().logs_dropped, since_opened(&store).logs_dropped), (1, 3));
    store.close().unwrap();
    let store = open_small(&path);
    assert_eq!((store.stats().logs_dropped, since_opened(&store).logs_dropped), (1, 0));
}

#[test]
fn the_oldest_log_event_is_that_with_the_earliest_time() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    let store = Store::open(&path, &key()).unwrap();
    assert_eq!(store.stats().oldest_log_ms, None);
    for ts_ms in [7, -3, 9] {
        store.buffer_log(ts_ms, b"event").unwrap();
    }
    let snapshot = Snapshot::open(&path, &key()).unwrap();
    assert_eq!((store.stats().oldest_log_ms, snapshot.stats().oldest_log_ms), (Some(-3), Some(-3)));
    store.drain_logs(1).unwrap();
    assert_eq!(store.stats().oldest_log_ms, Some(7));
}

#[test]
fn a_snapshot_does_not_know_what_the_store_has_done_since_it_was_opened() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    let store = Store::open(&path, &key()).unwrap();
    store.enqueue_job("run-1", b"payload").unwrap();
    assert_eq!(Snapshot::open(&path, &key()).unwrap().stats().since_opened, None);
}
