//! Every operation of the store on the real disk. For the queue, see `queue.rs`.

use std::sync::Arc;

use backupy_state::testing::{options_on, policy};
use backupy_state::{
    AgentKey, Batch, CompactionPolicy, Durability, Error, LogAdmission, OpenOptions, QueueOrder, Stats, Store,
    verify_each,
};

use crate::common::{Action, CountedDisk, Place, Random, State, key};

const VALUE_LEN_MAX: usize = 16 << 20;

fn drain(store: &Store, n: usize) -> Vec<(i64, Vec<u8>)> {
    store.drain_logs(n).unwrap().into_iter().map(|event| (event.ts_ms, event.payload)).collect()
}

#[test]
fn a_new_store_is_empty() {
    let place = Place::new();
    let store = place.open();
    assert_eq!(store.load_config().unwrap(), None);
    assert_eq!(store.dequeue_jobs(10).unwrap(), []);
    assert_eq!(store.job("run-1").unwrap(), None);
    assert!(!store.ack_job("run-1").unwrap());
    assert_eq!(store.load_session().unwrap(), None);
    assert_eq!(store.last_heartbeat().unwrap(), None);
    assert_eq!(store.drain_logs(10).unwrap(), []);
    assert_eq!((store.queue_depth(), store.log_count()), (0, 0));
    assert!(store.recovery().created && store.recovery().clean);
    assert_eq!(store.stats().seq, 0);
}

#[test]
fn the_last_configuration_is_the_one_that_is_loaded() {
    let place = Place::new();
    let store = place.open();
    store.save_config(u64::MAX, b"old").unwrap();
    store.save_config(0, b"\x00new\xFF").unwrap();
    let expected = Some((0, b"\x00new\xFF".to_vec()));
    assert_eq!(store.load_config().unwrap().map(|config| (config.version, config.raw)), expected);
    store.close().unwrap();
    assert_eq!(State::take(&place.open()).config, expected);
}

#[test]
fn the_last_session_and_heartbeat_are_the_ones_that_are_loaded() {
    let place = Place::new();
    let store = place.open();
    for time in [0, i64::MAX, i64::MIN] {
        store.save_session(&format!("session {time}"), time).unwrap();
        store.record_heartbeat(time).unwrap();
        assert_eq!(store.load_session().unwrap().unwrap().server_time_ms, time);
        assert_eq!(store.last_heartbeat().unwrap(), Some(time));
    }
    store.close().unwrap();
    let store = place.open();
    assert_eq!(store.load_session().unwrap().unwrap().session_id, format!("session {}", i64::MIN));
    assert_eq!(store.last_heartbeat().unwrap(), Some(i64::MIN));
}

/// Without what other programs change.
fn own_stats(store: &Store) -> Stats {
    let mut stats = store.stats();
    stats.disk_free_bytes = None;
    stats
}

#[test]
fn calls_with_nothing_to_do_write_nothing() {
    let place = Place::new();
    let store = place.open();
    store.enqueue_job("run-1", b"one").unwrap();
    let before = own_stats(&store);
    assert!(!store.ack_job("run-2").unwrap());
    assert!(!store.delete_data("run-1").unwrap());
    assert_eq!(store.drain_logs(5).unwrap(), []);
    store.sync().unwrap();
    assert_eq!(own_stats(&store), before);
}

#[test]
fn n_of_zero_gives_nothing_and_removes_nothing() {
    let place = Place::new();
    for order in [QueueOrder::RunId, QueueOrder::Fifo] {
        let store = OpenOptions::new().queue_order(order).open(place.path(), &key()).unwrap();
        store.enqueue_job("run-1", b"one").unwrap();
        store.buffer_log(1, b"event").unwrap();
        let before = own_stats(&store);
        assert_eq!(store.dequeue_jobs(0).unwrap(), []);
        assert_eq!(store.dequeue_jobs_after("a", 0).unwrap(), []);
        assert_eq!(store.drain_logs(0).unwrap(), []);
        assert_eq!(own_stats(&store), before);
    }
}

#[test]
fn more_than_there_is_gives_all_there_is() {
    let place = Place::new();
    let store = place.open();
    store.enqueue_job("run-1", b"one").unwrap();
    store.buffer_log(1, b"event").unwrap();
    assert_eq!(store.dequeue_jobs(usize::MAX).unwrap().len(), 1);
    assert_eq!(store.dequeue_jobs_after("a", usize::MAX).unwrap().len(), 1);
    assert_eq!(store.drain_logs(usize::MAX).unwrap().len(), 1);
}

#[test]
fn log_events_are_drained_by_time_and_ties_in_the_order_of_the_calls() {
    let place = Place::new();
    let store = place.open();
    let times = [5, i64::MAX, -1, 0, i64::MIN, 5, -1, i64::MAX, i64::MIN, 1];
    for (i, time) in times.into_iter().enumerate() {
        assert_eq!(store.buffer_log(time, format!("{i}").as_bytes()).unwrap(), LogAdmission::Buffered);
    }
    assert_eq!(store.log_count(), times.len());
    let mut expected: Vec<_> = times.into_iter().zip((0..).map(|i| format!("{i}").into_bytes())).collect();
    expected.sort_by_key(|(time, _)| *time);
    assert_eq!(drain(&store, 3), expected[..3]);
    assert_eq!(drain(&store, 100), expected[3..]);
    assert_eq!(store.log_count(), 0);
}

#[test]
fn ties_keep_their_order_over_reopening_and_draining() {
    let place = Place::new();
    for (i, drained) in [0, 0, 2, 0].into_iter().enumerate() {
        let store = place.open();
        assert_eq!(drain(&store, drained).len(), drained);
        store.buffer_log(7, format!("{i}").as_bytes()).unwrap();
        store.close().unwrap();
    }
    assert_eq!(drain(&place.open(), 9), [(7, b"2".to_vec()), (7, b"3".to_vec())]);
}

#[test]
fn drained_log_events_stay_drained_and_later_ones_of_an_earlier_time_stay() {
    let place = Place::new();
    let store = place.open();
    for time in [10, 20, 30] {
        store.buffer_log(time, b"event").unwrap();
    }
    assert_eq!(drain(&store, 2).len(), 2);
    store.buffer_log(5, b"late").unwrap();
    store.close().unwrap();
    let store = place.open();
    assert_eq!(drain(&store, 9), [(5, b"late".to_vec()), (30, b"event".to_vec())]);
}

#[test]
fn values_may_be_empty() {
    let place = Place::new();
    let store = place.open();
    store.save_config(1, b"").unwrap();
    store.enqueue_job("run-1", b"").unwrap();
    store.save_session("", 2).unwrap();
    store.buffer_log(3, b"").unwrap();
    store.close().unwrap();
    let state = State::take(&place.open());
    assert_eq!(state.config, Some((1, Vec::new())));
    assert_eq!(state.job("run-1").unwrap(), b"");
    assert_eq!(state.session, Some((String::new(), 2)));
    assert_eq!(state.logs, [(3, Vec::new())]);
}

#[test]
fn values_of_16_mib_are_kept_and_one_byte_more_is_too_large() {
    let place = Place::new();
    let store = place.open();
    let largest = "v".repeat(VALUE_LEN_MAX);
    store.save_config(1, largest.as_bytes()).unwrap();
    store.enqueue_job("run-1", largest.as_bytes()).unwrap();
    store.save_session(&largest, 2).unwrap();
    store.buffer_log(3, largest.as_bytes()).unwrap();

    let seq = store.stats().seq;
    let over = "v".repeat(VALUE_LEN_MAX + 1);
    let calls = [
        store.save_config(1, over.as_bytes()),
        store.enqueue_job("run-1", over.as_bytes()).map(drop),
        store.save_session(&over, 2),
        store.buffer_log(3, over.as_bytes()).map(drop),
    ];
    for call in calls {
        let (expected_len, expected_max) = (over.len() as u64, largest.len() as u64);
        assert!(
            matches!(call, Err(Error::TooLarge { len, max, .. }) if (len, max) == (expected_len, expected_max))
        );
    }
    assert_eq!(store.stats().seq, seq);
    store.close().unwrap();

    let state = State::take(&place.open());
    assert!(state.config == Some((1, largest.clone().into_bytes())));
    assert!(state.job("run-1").unwrap() == largest.as_bytes());
    assert!(state.logs == [(3, largest.clone().into_bytes())]);
    assert!(state.session == Some((largest, 2)));
}

/// The longest record is one frame of 64 MiB: a header of 48 bytes, a manifest of 4 bytes and 8 more for each put
/// with its key, and a tag of 16 bytes for the manifest and for each value.
#[test]
fn a_batch_of_64_mib_is_kept_and_one_that_needs_8_bytes_more_is_too_large() {
    const FRAME_LEN_MAX: usize = 64 << 20;
    let place = Place::new();
    let store = place.open();
    let ids = ["1", "2", "3", "4", "5"];
    let beside_values = 48 + 4 + 16 + ids.len() * (8 + 1 + 16);
    let last_len = FRAME_LEN_MAX - beside_values - 4 * (15 << 20);
    let batch = |last_len: usize| {
        let lens = [15 << 20, 15 << 20, 15 << 20, 15 << 20, last_len];
        ids.iter().zip(lens).fold(Batch::new(), |batch, (id, len)| batch.enqueue_job(id, &vec![7; len]))
    };
    let before = std::fs::read(place.path()).unwrap();
    let written = store.write(&batch(last_len + 1));
    let Err(Error::TooLarge { what: "a record", len, max, .. }) = written else { panic!("{written:?}") };
    assert_eq!((len, max), (FRAME_LEN_MAX as u64 + 8, FRAME_LEN_MAX as u64));
    assert_eq!(std::fs::read(place.path()).unwrap(), before);
    assert_eq!(store.queue_depth(), 0);

    store.write(&batch(last_len)).unwrap();
    drop(store);
    let store = place.open();
    assert_eq!(store.job("5").unwrap().unwrap().payload.len(), last_len);
    assert_eq!(store.queue_depth(), ids.len());
}

#[test]
fn random_actions_leave_what_the_model_holds() {
    for seed in 0..12 {
        let mut random = Random::new(seed);
        let place = Place::new();
        let mut options = OpenOptions::new();
        let durabilities = [Durability::Sync, Durability::Buffered];
        let mut pick = |choices: [Durability; 2]| choices[random.below(2)];
        options.durability(pick(durabilities)).heartbeat_durability(pick(durabilities));
        options.log_durability(pick(durabilities)).mmap(seed % 2 == 0);
        let mut state = State::default();
        for _ in 0..6 {
            let store = options.open(place.path(), &key()).unwrap();
            for _ in 0..random.below(60) {
                Action::random(&mut random).run(&store, &mut state);
                assert_eq!((store.queue_depth(), store.log_count()), (state.jobs.len(), state.logs.len()));
            }
            // Dropping a store closes it as well.
            if random.below(2) == 0 {
                store.close().unwrap();
            }
        }
        let store = options.open(place.path(), &key()).unwrap();
        assert!(store.recovery().clean, "seed {seed}");
        assert_eq!(State::take(&store), state, "seed {seed}");
    }
}

#[test]
fn values_are_read_with_the_map_and_without_it() {
    for mmap in [true, false] {
        let place = Place::new();
        let disk = CountedDisk::default();
        let store = options_on(Arc::new(disk.clone())).mmap(mmap).open(place.path(), &key()).unwrap();
        for i in 0..40_u8 {
            store.enqueue_job(&format!("run-{i:02}"), &vec![i; 20_000]).unwrap();
            let reads = disk.reads_of(|| {
                let newest = store.job(&format!("run-{i:02}")).unwrap().unwrap();
                assert!(newest.payload == vec![i; 20_000]);
            });
            assert_eq!(reads == 0, mmap, "{reads} reads");
        }
        let jobs = store.dequeue_jobs(100).unwrap();
        assert!(jobs.iter().zip(0..).all(|(job, i)| job.payload == vec![i; 20_000]));
        assert_eq!(jobs.len(), 40);
    }
}

#[test]
fn a_sync_call_syncs_once_and_a_buffered_one_not_at_all() {
    let disk = CountedDisk::default();
    let place = Place::new();
    let mut options = options_on(Arc::new(disk.clone()));
    options.log_durability(Durability::Buffered);
    let store = options.heartbeat_durability(Durability::Sync).open(place.path(), &key()).unwrap();

    let synced: [&dyn Fn(); 5] = [
        &|| store.save_config(1, b"config").unwrap(),
        &|| _ = store.enqueue_job("run-1", b"one").unwrap(),
        &|| _ = store.ack_job("run-1").unwrap(),
        &|| store.save_session("session", 1).unwrap(),
        &|| store.record_heartbeat(1).unwrap(),
    ];
    for (i, call) in synced.into_iter().enumerate() {
        assert_eq!(disk.syncs_of(call), 1, "call {i}");
    }
    assert_eq!(disk.syncs_of(|| _ = store.buffer_log(1, b"event").unwrap()), 0);
    assert_eq!(disk.syncs_of(|| drop(store.drain_logs(1).unwrap())), 0);
    assert_eq!(disk.syncs_of(|| store.sync().unwrap()), 1);
    assert_eq!(disk.syncs_of(|| store.sync().unwrap()), 0);
    assert_eq!(disk.syncs_of(|| _ = store.ack_job("run-1").unwrap()), 0);
}

#[test]
fn calls_without_a_setting_of_their_own_take_the_general_one() {
    let disk = CountedDisk::default();
    let place = Place::new();
    let mut options = options_on(Arc::new(disk.clone()));
    options.durability(Durability::Buffered);
    let store = options.open(place.path(), &key()).unwrap();
    let buffered = disk.syncs_of(|| {
        store.save_config(1, b"config").unwrap();
        store.enqueue_job("run-1", b"one").unwrap();
        store.save_session("session", 1).unwrap();
        store.record_heartbeat(1).unwrap();
        store.buffer_log(1, b"event").unwrap();
    });
    assert_eq!(buffered, 0);
    // One for the records, and then one for the close frame that vouches for them.
    assert_eq!(disk.syncs_of(|| store.close().unwrap()), 2);
}

#[test]
fn the_statistics_add_up() {
    let place = Place::new();
    let store = place.open();
    let mut random = Random::new(1);
    let mut state = State::default();
    for _ in 0..100 {
        Action::random(&mut random).run(&store, &mut state);
        let stats = store.stats();
        assert_eq!(stats.file_len, std::fs::metadata(store.path()).unwrap().len());
        assert_eq!(stats.file_len, stats.log_len + stats.free_bytes);
        assert_eq!(stats.log_len, 8192 + stats.live_bytes + stats.dead_bytes);
        assert_eq!((stats.jobs, stats.log_events), (state.jobs.len() as u64, state.logs.len() as u64));
        assert_eq!(stats.data_keys, state.data.len() as u64);
        assert_eq!(stats.data_bytes, state.data.values().map(Vec::len).sum::<usize>() as u64);
        let payloads: usize = state.jobs.iter().map(|(_, payload)| payload.len()).sum();
        assert!(stats.live_bytes >= payloads as u64);
    }
    let before = store.stats();
    store.close().unwrap();
    let after = place.open().stats();
    assert_eq!((after.live_bytes, after.seq), (before.live_bytes, before.seq + 1));
    assert_eq!(after.generation, 1);
    // What an ack of each job takes, and what other removals may need.
    let acks: usize = state.jobs.iter().map(|(run_id, _)| (72 + run_id.len()).next_multiple_of(8)).sum();
    let reserve = 65536 + acks as u64..=65536 + acks as u64 + after.live_bytes;
    assert!(reserve.contains(&after.free_bytes), "{after:?} of {reserve:?}");
}

/// A step is as long as the log, at least 1 MiB and at most 4 MiB. The reserve of 64 KiB and an ack of each
/// job follows it, up to a whole page. A step ends where the log has been compacted.
#[test]
fn the_log_grows_in_steps_and_keeps_its_reserve_ahead() {
    for min_len in [0, 1 << 20, 6 << 20] {
        grows_in_steps(policy(|policy| (policy.automatic, policy.min_len) = (false, min_len)), min_len);
        grows_in_steps(policy(|policy| policy.min_len = min_len), min_len);
    }
}

fn grows_in_steps(policy: CompactionPolicy, min_len: u64) {
    const KIB: u64 = 1 << 10;
    let place = Place::new();
    let store =
        OpenOptions::new().durability(Durability::Buffered).compaction(policy).open(place.path(), &key()).unwrap();
    let (few, some, many) = ([1000; 300], [100_000; 40], [12 << 20; 4]);
    let mut acks = 0;
    for (i, len) in few.into_iter().chain(some).chain(many).enumerate() {
        let before = store.stats();
        store.enqueue_job(&i.to_string(), &vec![1; len]).unwrap();
        let after = store.stats();
        acks += (72 + i.to_string().len() as u64).next_multiple_of(8);
        let needed = after.log_len + 64 * KIB + acks;
        let mut step = before.log_len.clamp(1024 * KIB, 4096 * KIB);
        // Half of the frames are live then. The log gets longer while it is compacted.
        let compacted_len = min_len.max(8192 + 2 * before.live_bytes + 128 * KIB);
        if after.log_len < compacted_len {
            step = step.min(compacted_len - after.log_len);
        }
        let grown = (needed + step).next_multiple_of(4 * KIB);
        let expected = if needed <= before.file_len { before.file_len } else { grown };
        assert_eq!(after.file_len, expected, "job {i}, after {before:?}");
        assert_eq!(std::fs::metadata(place.path()).unwrap().len(), expected);
    }
}

#[test]
fn nothing_is_live_when_everything_was_removed() {
    let place = Place::new();
    let store = place.open();
    for i in 0..10 {
        store.enqueue_job(&format!("run-{i}"), b"payload").unwrap();
        store.buffer_log(i, b"event").unwrap();
    }
    for i in 0..10 {
        store.ack_job(&format!("run-{i}")).unwrap();
    }
    store.drain_logs(10).unwrap();
    assert_eq!(store.stats().live_bytes, 0);
}

#[test]
fn an_empty_agent_key_is_invalid() {
    assert!(matches!(AgentKey::new(b""), Err(Error::Invalid { .. })));
    assert!(matches!(AgentKey::from_env("BACKUPY_TEST_VARIABLE_THAT_IS_NOT_SET"), Err(Error::Invalid { .. })));
    let place = Place::new();
    for empty in ["", "\n", "\r\n"] {
        std::fs::write(place.at("agent.key"), empty).unwrap();
        assert!(matches!(AgentKey::from_file(place.at("agent.key")), Err(Error::Invalid { .. })), "{empty:?}");
    }
    assert!(matches!(AgentKey::from_file(place.at("missing.key")), Err(Error::Io { .. })));
}

#[test]
fn a_key_file_is_the_key_without_one_newline() {
    let place = Place::new();
    place.open().close().unwrap();
    for ending in ["", "\n", "\r\n"] {
        std::fs::write(place.at("agent.key"), format!("{}{ending}", crate::common::KEY)).unwrap();
        let from_file = AgentKey::from_file(place.at("agent.key")).unwrap();
        assert!(Store::open(place.path(), &from_file).is_ok(), "{ending:?}");
    }
    std::fs::write(place.at("agent.key"), format!("{}\n\n", crate::common::KEY)).unwrap();
    let other = AgentKey::from_file(place.at("agent.key")).unwrap();
    assert!(matches!(Store::open(place.path(), &other), Err(Error::WrongKey { .. })));
}

#[test]
fn verify_each_shows_every_frame_and_what_its_record_does() {
    let place = Place::new();
    let store = place.open();
    store.save_config(1, b"raw").unwrap();
    store.enqueue_job("job", b"payload").unwrap();
    store.record_heartbeat(5).unwrap();
    store.buffer_log(7, b"event").unwrap();
    store.ack_job("job").unwrap();
    store.drain_logs(1).unwrap();
    store.close().unwrap();

    let (mut operations, mut closes, mut end) = (Vec::new(), Vec::new(), 8192);
    let report = verify_each(place.path(), Some(&key()), |frame| {
        assert_eq!(frame.offset, end);
        end += frame.len;
        closes.push(frame.is_close);
        operations.extend(frame.operations.iter().map(|operation| {
            (operation.action, operation.bucket, operation.key_len, operation.run_id.clone(), operation.value_len)
        }));
    });
    let job = || Some("job".to_owned());
    let expected = [
        ("put", "config", 7, None, Some(8 + 3)),
        ("put", "queue", 3, job(), Some(7)),
        ("put", "registry", 9, None, Some(8)),
        ("put", "logs", 16, None, Some(5)),
        ("delete", "queue", 3, job(), None),
        ("delete-through", "logs", 16, None, None),
    ];
    assert_eq!(operations, expected);
    assert_eq!(closes, [false, false, false, false, false, false, true]);
    assert!(report.unwrap().is_intact());
    assert_eq!(end, std::fs::metadata(place.path()).unwrap().len());
}
