//! Compaction, rekey and backup on the real disk.

use backupy_state::testing::policy;
use backupy_state::{AgentKey, Durability, Error, OpenOptions, Snapshot, Store, salvage, verify};

fn key() -> AgentKey {
    AgentKey::new("bkpy_0123456789abcdef0123456789abcdef").unwrap()
}

fn fill(store: &Store, pairs: usize, live: usize) {
    for i in 0..live {
        store.enqueue_job(&format!("live-{i:04}"), &[1; 200]).unwrap();
    }
    for i in 0..pairs {
        store.enqueue_job(&format!("dead-{i}"), &[2; 200]).unwrap();
        store.ack_job(&format!("dead-{i}")).unwrap();
    }
}

#[test]
fn compaction_keeps_what_is_live_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    let store = OpenOptions::new().durability(Durability::Buffered).open(&path, &key()).unwrap();
    store.save_config(3, b"cfg").unwrap();
    store.save_session("sess", 9).unwrap();
    store.record_heartbeat(11).unwrap();
    for i in 0..10 {
        store.buffer_log(i, b"event").unwrap();
    }
    store.drain_logs(4).unwrap();
    fill(&store, 500, 100);
    let mut before = Snapshot::open(&path, &key()).unwrap();
    let report = store.compact().unwrap();
    assert_eq!(report.generation, 2);
    assert!(report.bytes_after < report.bytes_before / 4, "{report:?}");
    println!("{report:?} {:?}", store.stats());
    let check = |jobs: Vec<backupy_state::QueuedJob>| {
        assert_eq!(jobs.len(), 100);
        assert!(jobs.iter().all(|job| job.payload == [1; 200]));
    };
    check(store.dequeue_jobs(1000).unwrap());
    check(before.dequeue_jobs(1000).unwrap());
    before.refresh().unwrap();
    assert_eq!(before.stats().generation, 2);
    check(before.dequeue_jobs(1000).unwrap());
    store.enqueue_job("more", b"x").unwrap();
    store.close().unwrap();
    assert!(verify(&path, Some(&key())).unwrap().is_intact());
    let store = Store::open(&path, &key()).unwrap();
    assert_eq!(store.queue_depth(), 101);
    assert_eq!(store.load_config().unwrap().unwrap().raw, b"cfg");
    assert_eq!(store.load_session().unwrap().unwrap().session_id, "sess");
    assert_eq!(store.last_heartbeat().unwrap(), Some(11));
    assert_eq!(
        store.drain_logs(100).unwrap().iter().map(|event| event.ts_ms).collect::<Vec<_>>(),
        [4, 5, 6, 7, 8, 9]
    );
}

#[test]
fn a_store_that_churns_compacts_itself_and_stays_small() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    let store = OpenOptions::new().durability(Durability::Buffered).open(&path, &key()).unwrap();
    fill(&store, 20_000, 100);
    println!("{:?}", store.stats());
    // Each is a thread's work, and a busy machine may have had no time for it yet.
    while store.stats().compaction.completed == 0 {
        fill(&store, 1000, 0);
    }
    assert_eq!(store.stats().compaction.failed, 0);
    store.close().unwrap();
    let store = Store::open(&path, &key()).unwrap();
    assert_eq!(store.queue_depth(), 100);
}

/// What is live does not change, and one job is enqueued and acked again and again.
#[test]
fn no_space_is_preallocated_beyond_the_length_at_which_a_log_is_compacted() {
    for (live_len, min_len) in [(2 << 20, 1 << 20), (48 << 10, 64 << 10)] {
        let folder = tempfile::tempdir().unwrap();
        let mut options = OpenOptions::new();
        options.durability(Durability::Buffered).compaction(policy(|policy| policy.min_len = min_len));
        let store = options.open(folder.path().join("state.db"), &key()).unwrap();
        for number in 0..live_len / (16 << 10) {
            store.put_data(&format!("live-{number}"), &[7; 16 << 10]).unwrap();
        }
        let payload = [1; 8000];
        while store.stats().compaction.completed < 3 {
            let completed = store.stats().compaction.completed;
            store.enqueue_job("job", &payload).unwrap();
            store.ack_job("job").unwrap();
            let stats = store.stats();
            let frames_len = stats.log_len - 8192;
            if stats.log_len + (128 << 10) >= min_len && stats.dead_bytes > frames_len / 2 {
                while store.stats().compaction.completed == completed {
                    std::thread::sleep(std::time::Duration::from_millis(1));
                }
            } else {
                let preallocated_len = stats.file_len - stats.reserved_bytes;
                let longest = min_len.max(8192 + 2 * stats.live_bytes + (128 << 10)) + 8300 + 4096;
                assert!(preallocated_len <= longest, "{preallocated_len} for {longest}: {stats:?}");
            }
        }
    }
}

#[test]
fn rekey_leaves_a_store_that_only_the_new_key_opens() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    let store = Store::open(&path, &key()).unwrap();
    store.enqueue_job("a", b"b").unwrap();
    let new = AgentKey::new("another").unwrap();
    store.rekey(&new).unwrap();
    // At once, and not only after the next compaction.
    assert!(matches!(Snapshot::open(&path, &key()), Err(Error::WrongKey { .. })));
    assert_eq!(Snapshot::open(&path, &new).unwrap().queue_depth(), 1);
    store.enqueue_job("c", b"d").unwrap();
    store.compact().unwrap();
    store.close().unwrap();
    assert!(matches!(Store::open(&path, &key()), Err(Error::WrongKey { .. })));
    assert_eq!(Store::open(&path, &new).unwrap().queue_depth(), 2);
}

#[test]
fn a_backup_is_a_store_of_its_own_and_never_replaces_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    let store = Store::open(&path, &key()).unwrap();
    store.enqueue_job("a", b"b").unwrap();
    // The same words make the copy and open it.
    let backup = folder.path().join("backup");
    store.backup(&backup).unwrap();
    assert!(!backup.exists() && folder.path().join("backup.db").exists());
    assert!(matches!(store.backup(&backup), Err(Error::Invalid { .. })));
    store.enqueue_job("c", b"d").unwrap();
    let copy = Store::open(&backup, &key()).unwrap();
    assert_eq!(copy.queue_depth(), 1);
    assert!(copy.recovery().clean);
}

/// The next open would take a copy of that name for what a crash has left, and remove it.
#[test]
fn a_copy_never_gets_the_name_of_a_left_over_of_the_store_itself() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    let store = Store::open(&path, &key()).unwrap();
    let left_over = folder.path().join("state.db.new");
    for copied in [store.backup(&left_over), salvage(&path, &key(), &left_over).map(drop)] {
        assert!(matches!(copied, Err(Error::Invalid { .. })), "{copied:?}");
    }
    assert!(!left_over.exists());
}

#[test]
fn a_file_in_the_place_of_an_unfinished_copy_is_named_and_not_changed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    let store = Store::open(&path, &key()).unwrap();
    let (backup, left_over) = (folder.path().join("backup.db"), folder.path().join("backup.db.new"));
    std::fs::write(&left_over, b"a text").unwrap();
    for copied in [store.backup(&backup), salvage(&path, &key(), &backup).map(drop)] {
        let said = copied.unwrap_err().to_string();
        assert!(said.starts_with(&format!("{} is in the way", left_over.display())), "{said}");
    }
    assert_eq!(std::fs::read(&left_over).unwrap(), b"a text");
    std::fs::remove_file(&left_over).unwrap();
    store.backup(&backup).unwrap();
}
