//! A full disk: what removes something works, what adds something is refused, and nothing else changes.

use std::path::Path;
use std::sync::Arc;

use backupy_state::testing::{Access, Storage, log_rate, open_snapshot_on, options_on, policy, verify_on};
use backupy_state::{Batch, Error, LogAdmission, LogLimits, Store};

use super::survival::{fail_next, refuses_writes_and_still_reads, survives, survives_some};
use crate::common::{Image, depth};
use crate::sim::{Agent, Call, EIO, ENOSPC, FEW, Failure, Mode, Model, Op, PATH, Sim, key};

#[test]
fn full_disk_refuses_puts_and_lets_ack_and_drain_work() {
    let sim = Sim::new(11);
    sim.set_capacity(400 << 10);
    let mut agent = Agent::new(sim.clone(), Mode::Sync);
    agent.start().unwrap();
    agent.make(Call::BufferLog { ts_ms: 1, len: 100 }).unwrap();
    let mut jobs = 0;
    let refused = loop {
        match agent.make(Call::Enqueue { job: jobs, len: 4000 }) {
            Ok(()) => jobs += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, Error::Full { .. }), "{refused:?}");
    let refused = loop {
        if let Err(error) = agent.make(Call::BufferLog { ts_ms: 2, len: 0 }) {
            break error;
        }
    };
    assert!(matches!(refused, Error::Full { .. }), "{refused:?}");
    survives(&sim.world(), agent.oracle.allowed());
    // Buffered events and queued jobs can still be removed.
    agent.make(Call::DrainLogs { n: 500 }).unwrap();
    for job in 0..jobs {
        agent.make(Call::Ack { job }).unwrap();
    }
    assert!(matches!(agent.make(Call::Heartbeat), Err(Error::Full { .. })));
    survives(&sim.world(), agent.oracle.allowed());
    agent.make(Call::Reopen).unwrap();
    assert!(matches!(agent.make(Call::Enqueue { job: 0, len: 4000 }), Err(Error::Full { .. })));
    sim.set_capacity(800 << 10);
    agent.make(Call::Enqueue { job: 0, len: 4000 }).unwrap();
    survives(&sim.world(), agent.oracle.allowed());
}

/// A call that removes something also writes the count of dropped events. An ack must still count as one that only
/// removes.
#[test]
fn full_disk_lets_acks_work_while_a_count_of_drops_is_not_written_yet() {
    let sim = Sim::new(19);
    sim.set_capacity(400 << 10);
    let mut agent = Agent::new(sim.clone(), Mode::Buffered);
    agent.start().unwrap();
    let log = Call::BufferLog { ts_ms: 1, len: 100 };
    let mut jobs = 0;
    while agent.make(Call::Enqueue { job: jobs, len: 4000 }).is_ok() {
        jobs += 1;
        if jobs == 1 {
            (0..FEW).for_each(|_| agent.make(log).unwrap());
        }
    }
    while agent.make(Call::Heartbeat).is_ok() {}
    agent.make(Call::PeekLogs { n: 1 }).unwrap();
    agent.make(log).unwrap();
    assert_eq!(agent.store().stats().logs_dropped, 1);
    agent.make(Call::AckLogs { n: 1 }).unwrap();
    survives(&sim.world(), agent.oracle.allowed());

    // A batch that only acks, and the close, which has nothing else to write.
    let refused = agent.make(log);
    assert!(matches!(refused, Err(Error::Full { .. })), "{refused:?}");
    let mut limits = LogLimits::default();
    limits.rate = Some(log_rate(0, 0));
    agent.close().unwrap();
    let mut options = options_on(Arc::new(sim.clone()));
    options.mmap(false).log_limits(limits);
    let dropped = || options.open(PATH, &key()).unwrap();
    let store = dropped();
    assert_eq!(store.buffer_log(1, b"too fast").unwrap(), LogAdmission::Dropped);
    store.write(&Batch::new().ack_job("run-0")).unwrap();
    assert_eq!(store.buffer_log(1, b"too fast").unwrap(), LogAdmission::Dropped);
    assert_eq!((store.queue_depth(), store.stats().logs_dropped), (usize::from(jobs) - 1, 3));
    store.close().unwrap();
    assert_eq!(dropped().stats().logs_dropped, 3);
}

/// `write` and `ack_logs` borrow their batches: a refused one is passed again as it is.
#[test]
fn full_disk_refuses_a_batch_that_is_written_whole_once_there_is_space() {
    let sim = Sim::new(29);
    sim.set_capacity(400 << 10);
    let store = options_on(Arc::new(sim.clone())).mmap(false).open(PATH, &key()).unwrap();
    store.buffer_log(1, b"first").unwrap();
    store.buffer_log(2, b"second").unwrap();
    let peeked = store.peek_logs(9).unwrap();
    let batch = Batch::new().enqueue_job("run-1", &[7; 200 << 10]).buffer_log(3, b"third").record_heartbeat(5);
    store.write(&batch).unwrap();
    store.ack_job("run-1").unwrap();
    for _ in 0..2 {
        let refused = store.write(&batch);
        assert!(matches!(refused, Err(Error::Full { .. })), "{refused:?}");
        assert_eq!((store.queue_depth(), store.log_count(), store.stats().logs_dropped), (0, 3, 0));
    }
    sim.set_capacity(1 << 20);
    store.write(&batch).unwrap();
    assert_eq!((store.queue_depth(), store.log_count()), (1, 4));
    assert_eq!(store.ack_logs(&peeked).unwrap(), 2);
}

/// The index file takes no space from a call: it is removed before one is refused.
#[test]
fn full_disk_takes_the_index_file_first() {
    let has_index = |sim: &Sim| sim.live().contains_key(Path::new("/sim/state.db.index"));
    let fill = |mode| {
        let sim = Sim::new(23);
        sim.set_capacity(400 << 10);
        let mut agent = Agent::new(sim.clone(), mode);
        agent.start().unwrap();
        let mut jobs = 0;
        let mut had_index = false;
        while agent.make(Call::Enqueue { job: jobs, len: 2000 }).is_ok() {
            jobs += 1;
            had_index |= has_index(&sim);
        }
        assert_eq!(had_index, mode == Mode::Indexed);
        assert!(!has_index(&sim));
        (agent, sim, jobs)
    };
    let (_, _, jobs_without) = fill(Mode::Sync);
    let (mut agent, sim, jobs) = fill(Mode::Indexed);
    assert_eq!(jobs, jobs_without);
    // It is not written again while the disk is full.
    for job in 0..jobs {
        agent.make(Call::Ack { job }).unwrap();
        assert!(!has_index(&sim));
    }
    survives_some(&sim.world(), agent.oracle.allowed(), 200);
    // A compaction frees the space.
    agent.make(Call::Compact).unwrap();
    for job in 0..8 {
        agent.make(Call::Enqueue { job, len: 2000 }).unwrap();
    }
    assert!(has_index(&sim));
    agent.make(Call::Reopen).unwrap();
    assert!(agent.store().recovery().opening.by_index);
    survives_some(&sim.world(), agent.oracle.allowed(), 200);
}

/// The next session has no room for a quarantined tail or a reserve, and still opens.
#[test]
fn full_disk_lets_a_killed_store_open_and_ack() {
    let sim = Sim::new(12);
    let mut agent = Agent::new(sim.clone(), Mode::Sync);
    agent.start().unwrap();
    for job in 0..4 {
        agent.make(Call::Enqueue { job, len: 500 }).unwrap();
    }
    sim.set_capacity(sim.world().used());
    agent.make(Call::Kill).unwrap();
    for job in 0..4 {
        agent.make(Call::Ack { job }).unwrap();
    }
    agent.make(Call::Reopen).unwrap();
    survives(&sim.world(), agent.oracle.allowed());
}

/// Others share the disk: what a call takes and gives back may have failed them meanwhile.
#[test]
fn little_space_is_taken_only_as_needed_and_none_in_vain() {
    // A disk that tells how much space it has left.
    let sim = Sim::new(31);
    let mut agent = Agent::new(sim.clone(), Mode::Sync);
    agent.start().unwrap();
    agent.make(Call::Enqueue { job: 0, len: 500 }).unwrap();
    // Cuts off the space.
    agent.make(Call::Reopen).unwrap();
    let free = 600 << 10;
    sim.set_capacity(sim.world().used() + free);
    let (mut job, mut used) = (0, sim.world().used());
    let refused = loop {
        job += 1;
        let space = agent.store().stats().free_bytes;
        if let Err(error) = agent.make(Call::Enqueue { job, len: 7000 }) {
            break error;
        }
        let taken = sim.world().used() - used;
        // What the job and its ack take, up to a whole page, and a sixteenth of what is free.
        assert!(taken <= 8192 + 4096 + free / 16, "job {job} took {taken} bytes, of {space} that were there");
        used += taken;
    };
    assert!(matches!(refused, Error::Full { .. }), "{refused:?}");
    for len in [7000, 300_000, 16 << 20] {
        let before = sim.ops();
        assert!(matches!(agent.make(Call::Enqueue { job, len }), Err(Error::Full { .. })));
        let ops = &sim.trace()[before..];
        assert!(!ops.iter().any(|op| matches!(op, Op::Write | Op::SetLen)), "{len}: {ops:?}");
    }
    survives(&sim.world(), agent.oracle.allowed());
}

/// Drains use up their part of the reserve, and no more. The acks together are longer than that part.
#[test]
fn drains_leave_the_space_for_acks() {
    let sim = Sim::new(37);
    let mut options = options_on(Arc::new(sim.clone()));
    // It would free space for more drains, on a thread of its own.
    options.mmap(false).compaction(policy(|policy| policy.automatic = false));
    let store = options.open(PATH, &key()).unwrap();
    let run_id = |job: usize| format!("{job:0>1000}");
    let jobs = (0..100).fold(Batch::new(), |batch, job| batch.enqueue_job(&run_id(job), b""));
    store.write(&jobs).unwrap();
    store.write(&(0..5000).fold(Batch::new(), |batch, ts_ms| batch.buffer_log(ts_ms, b""))).unwrap();
    sim.set_capacity(sim.world().used());
    while store.enqueue_job("more", &[7; 5000]).is_ok() {}
    let drained = (0..).take_while(|_| store.drain_logs(1).is_ok()).count();
    assert!((500..1500).contains(&drained), "{drained}");
    store.ack_job("more").unwrap();
    for job in 0..100 {
        assert!(store.ack_job(&run_id(job)).unwrap(), "job {job}");
    }
    assert_eq!(store.queue_depth(), 0);
}

/// One record removes all that are older than the first readable one.
#[test]
fn a_full_disk_lets_any_number_of_unreadable_log_events_be_discarded() {
    let sim = Sim::new(47);
    let store = with_damaged_events(&sim, 5000, |i| i < 4990);
    fill(&sim, &store);
    assert!(matches!(store.peek_logs(1), Err(Error::Unauthentic { .. })));
    assert_eq!(store.discard_unreadable_logs().unwrap(), 4990);
    let batch = store.peek_logs(usize::MAX).unwrap();
    assert_eq!((batch.len(), batch.dropped()), (10, 4990));
    assert_eq!(store.ack_logs(&batch).unwrap(), 10);
}

/// Each of them takes a delete, and the space is enough for some 1,500.
#[test]
fn a_full_disk_lets_log_events_be_delivered_between_more_unreadable_ones_than_it_can_remove() {
    let sim = Sim::new(53);
    let store = with_damaged_events(&sim, 10_000, |i| i % 2 == 0);
    fill(&sim, &store);
    let (mut delivered, mut dropped) = (Vec::new(), 0);
    let mut deliver = || {
        let batch = store.peek_logs(usize::MAX).unwrap();
        delivered.extend(batch.events().iter().map(|event| event.ts_ms));
        dropped += batch.dropped();
        assert_eq!(store.ack_logs(&batch).unwrap(), batch.len());
        delivered.len()
    };
    for round in 0..10 {
        let refused = store.discard_unreadable_logs();
        assert!(matches!(refused, Err(Error::Full { .. })), "{refused:?}");
        // At least the oldest one has gone.
        let so_far = deliver();
        assert!(so_far > 1500 + round, "{so_far}");
    }
    let left = store.log_count() as u64 / 2;
    sim.set_capacity(u64::MAX);
    assert_eq!(store.discard_unreadable_logs().unwrap(), left);
    deliver();
    assert!(delivered.into_iter().eq((0..5000).map(|i| 2 * i + 1)));
    assert_eq!((dropped, store.log_count()), (5000, 0));
}

/// An event older than the batch was buffered after the peek, so that an ack names each of the batch. Of a batch
/// that begins with it, an ack names only the last one.
#[test]
fn a_batch_that_is_too_long_to_ack_on_a_full_disk_is_acked_after_another_peek() {
    let sim = Sim::new(59);
    let store = with_damaged_events(&sim, 5000, |_| false);
    let batch = store.peek_logs(usize::MAX).unwrap();
    store.buffer_log(-1, b"older").unwrap();
    fill(&sim, &store);
    let refused = store.ack_logs(&batch);
    assert!(matches!(refused, Err(Error::Full { .. })), "{refused:?}");
    let again = store.peek_logs(usize::MAX).unwrap();
    assert_eq!((again.len(), &again.events()[0].payload[..]), (5001, &b"older"[..]));
    assert_eq!(store.ack_logs(&again).unwrap(), 5001);
}

/// It is refused, or leaves enough of the reserve: else nothing could be drained afterwards, and the log not be
/// compacted.
#[test]
fn a_long_ack_on_a_full_disk_leaves_the_space_to_drain_the_rest_and_to_compact() {
    for (count, config_len, is_acked) in
        [(1600, 0, true), (3275, 0, false), (1600, 400_000, true), (9000, 400_000, false)]
    {
        let sim = Sim::new(61);
        let store = with_damaged_events(&sim, count, |_| false);
        store.save_config(1, &vec![1; config_len]).unwrap();
        let batch = store.peek_logs(usize::MAX).unwrap();
        store.buffer_log(-1, b"older").unwrap();
        fill(&sim, &store);
        let acked = store.ack_logs(&batch);
        assert!(if is_acked { acked.is_ok() } else { matches!(acked, Err(Error::Full { .. })) }, "{acked:?}");
        store.drain_logs(usize::MAX).unwrap();
        store.compact().unwrap();
    }
}

/// A store with so many log events, of which those that `is_damaged` selects fail authentication.
fn with_damaged_events(sim: &Sim, count: usize, is_damaged: impl Fn(usize) -> bool) -> Store {
    let mut limits = LogLimits::default();
    limits.rate = None;
    let mut options = options_on(Arc::new(sim.clone()));
    // An automatic compaction would free space.
    options.mmap(false).log_limits(limits).compaction(policy(|policy| policy.automatic = false));
    let open = || options.open(PATH, &key()).unwrap();
    let store = open();
    store.write(&(0..count).fold(Batch::new(), |batch, i| batch.buffer_log(i as i64, b"event"))).unwrap();
    store.close().unwrap();
    let mut image = Image { bytes: sim.live()[Path::new(PATH)].bytes() };
    let frame = image.frames()[0].clone();
    let values_at = frame.start + 48 + (4 + count * (4 + 16 + 4)) + 16;
    for i in (0..count).filter(|&i| is_damaged(i)) {
        image.flip(values_at + i * (b"event".len() + 16));
    }
    let file = sim.open(Path::new(PATH), Access::Write).unwrap();
    let bytes = &image.fix_crc(frame.start).bytes;
    assert_eq!(file.write_at(bytes, 0).unwrap(), bytes.len());
    drop(file);
    open()
}

/// Leaves nothing but the reserve.
fn fill(sim: &Sim, store: &Store) {
    sim.set_capacity(sim.world().used());
    while store.record_heartbeat(1).is_ok() {}
}

/// A copy of a log has no reserve, and other files have used most of the space since.
#[test]
fn little_room_is_enough_for_an_ack() {
    let sim = Sim::new(13);
    let mut agent = Agent::new(sim.clone(), Mode::Sync);
    agent.start().unwrap();
    agent.make(Call::Enqueue { job: 0, len: 500 }).unwrap();
    agent.close().unwrap();
    cut_off_reserve(&sim);
    agent.start().unwrap();
    sim.set_capacity(sim.world().used() + 4096);
    assert!(matches!(agent.make(Call::Enqueue { job: 1, len: 500 }), Err(Error::Full { .. })));
    agent.make(Call::Ack { job: 0 }).unwrap();

    // The next preallocated space begins after the ack, not on top of it.
    sim.set_capacity(u64::MAX);
    agent.make(Call::Enqueue { job: 2, len: 500 }).unwrap();
    survives(&sim.world(), agent.oracle.allowed());
}

/// `dd conv=sparse bs=64K` keeps zeros in front of the hole.
#[test]
fn a_hole_gives_no_space_for_acks_wherever_it_begins() {
    for zeros in [0, 1000, 20_000] {
        let sim = Sim::new(47);
        let mut agent = Agent::new(sim.clone(), Mode::Sync);
        agent.start().unwrap();
        (0..20).for_each(|job| agent.make(Call::Enqueue { job, len: 1000 }).unwrap());
        agent.close().unwrap();
        let log_len = verify_on(&sim, PATH, Some(&key()), |_| {}).unwrap().log_len;
        sim.make_hole(PATH, log_len + zeros);
        let snapshot = open_snapshot_on(Arc::new(sim.clone()), PATH, &key()).unwrap().stats();
        agent.start().unwrap();
        let stats = agent.store().stats();
        assert_eq!(snapshot.acks_on_full_disk, stats.acks_on_full_disk);
        assert!(stats.free_bytes < zeros + 512, "{stats:?}");
        agent.make(Call::Heartbeat).unwrap();
        assert_eq!(agent.store().stats().acks_on_full_disk, 20);
        sim.set_capacity(sim.world().used());
        (0..20).for_each(|job| agent.make(Call::Ack { job }).unwrap());
    }
}

/// A power cut takes what no sync has covered, and the old log with its reserve is gone.
#[test]
fn the_reserve_of_a_compacted_log_is_durable_before_the_log_gets_its_name() {
    let sim = Sim::new(48);
    let mut agent = Agent::new(sim.clone(), Mode::Sync);
    agent.start().unwrap();
    (0..20).for_each(|job| agent.make(Call::Enqueue { job, len: 1000 }).unwrap());
    let old = sim.world().named(Path::new(PATH));
    sim.record();
    agent.store().compact().unwrap();
    let stats = agent.store().stats();
    let mut seen = 0;
    for world in sim.take_moments().iter().map(|moment| &moment.world) {
        let named = world.named(Path::new(PATH));
        if named != old {
            seen += 1;
            let durable_len = world.inode(named.unwrap()).durable.len();
            assert!(durable_len >= stats.log_len + stats.reserved_bytes, "{durable_len}: {stats:?}");
        }
    }
    assert!(seen > 0 && stats.acks_on_full_disk == 20);
}

/// The log ends in the close frame of a compaction, so nothing else is left to sync.
#[test]
fn the_reserve_that_a_failed_compaction_takes_back_is_durable_after_close() {
    let sim = Sim::new(49);
    let mut agent = Agent::new(sim.clone(), Mode::Sync);
    agent.start().unwrap();
    (0..20).for_each(|job| agent.make(Call::Enqueue { job, len: 10_000 }).unwrap());
    agent.make(Call::Compact).unwrap();
    // The rest of a page.
    sim.set_capacity(sim.world().used() + 4096);
    let space = agent.store().stats().free_bytes;
    let compacted = agent.store().compact();
    assert!(matches!(compacted, Err(Error::Full { .. })), "{compacted:?}");
    let reserved = agent.store().stats().reserved_bytes;
    assert!(reserved.abs_diff(space) < 8192, "{reserved} of {space}");
    // The file system commits the length that the compaction has cut it to.
    agent.close().unwrap();
    let world = sim.world();
    let file = world.inode(world.named(Path::new(PATH)).unwrap());
    let least = file.lens.iter().copied().min().unwrap_or(u64::MAX).min(file.live.len());
    assert_eq!(least, file.live.len());
}

/// The space is kept by the close, before others fill the disk.
#[test]
fn data_can_be_deleted_on_a_full_disk_also_after_the_store_was_closed() {
    for is_closed in [false, true] {
        let sim = Sim::new(14);
        let mut agent = Agent::new(sim.clone(), Mode::Sync);
        agent.start().unwrap();
        agent.make(Call::PutData { key: 0, len: 5000 }).unwrap();
        agent.make(Call::PutData { key: 1, len: 50 }).unwrap();
        if is_closed {
            agent.close().unwrap();
        }
        sim.set_capacity(sim.world().used());
        if is_closed {
            agent.start().unwrap();
        }
        while agent.make(Call::PutData { key: 1, len: 5000 }).is_ok() {}
        while agent.make(Call::PutData { key: 1, len: 0 }).is_ok() {}
        assert!(matches!(agent.make(Call::PutData { key: 1, len: 0 }), Err(Error::Full { .. })));
        agent.make(Call::DeleteData { key: 0 }).unwrap();
        agent.make(Call::DeleteData { key: 1 }).unwrap();
        agent.make(Call::Compact).unwrap();
        survives(&sim.world(), agent.oracle.allowed());
    }
}

fn cut_off_reserve(sim: &Sim) {
    let log_len = verify_on(sim, PATH, Some(&key()), |_| {}).unwrap().log_len;
    sim.open(Path::new(PATH), Access::Write).unwrap().set_len(log_len).unwrap();
}

/// The next record is shorter, so the rest of this one would follow it.
#[test]
fn a_write_that_runs_full_halfway_leaves_no_torn_frame() {
    let sim = Sim::new(14);
    let mut agent = Agent::new(sim.clone(), Mode::Sync);
    agent.start().unwrap();
    agent.make(Call::Heartbeat).unwrap();
    let before = sim.ops();
    agent.make(Call::Heartbeat).unwrap();
    let write = sim.trace()[before..].iter().position(|&op| op == Op::Write).unwrap();
    sim.fail(sim.ops() + write, Failure::Short);
    sim.fail(sim.ops() + write + 1, Failure::Errno(ENOSPC));
    let made = agent.make(Call::Enqueue { job: 0, len: 5000 });
    assert!(matches!(made, Err(Error::Full { .. })), "{made:?}");
    assert_eq!(verify_on(&sim, PATH, Some(&key()), |_| {}).unwrap().torn_len, 0);
    agent.make(Call::Heartbeat).unwrap();
    assert_eq!(verify_on(&sim, PATH, Some(&key()), |_| {}).unwrap().torn_len, 0);
    survives(&sim.world(), agent.oracle.allowed());
}

/// A frame longer than one step of preallocation is written to space that is allocated but not zeroed yet.
#[test]
fn a_long_frame_that_finds_no_room_leaves_the_log_as_it_was() {
    let (call, before) = (Call::Enqueue { job: 0, len: 900_000 }, Call::Enqueue { job: 1, len: 400 });
    let used = || {
        let mut agent = Agent::new(Sim::new(19), Mode::Sync);
        agent.start().unwrap();
        agent.make(before).unwrap();
        // Cuts off the space.
        agent.make(Call::Reopen).unwrap();
        agent
    };
    let mut healthy = used();
    let begun = healthy.sim.ops();
    healthy.make(call).unwrap();
    let ops = &healthy.sim.trace()[begun..];
    let (allocating, writing) = (Op::SetLen, Op::Write);
    assert_eq!(ops.iter().filter(|&&op| op == allocating).count(), 1, "{ops:?}");
    let with_room = ops.iter().filter(|&&op| op == writing).count();
    assert!(with_room >= 2, "zeros for the reserve, and the frame: {ops:?}");

    for (n, &op) in ops.iter().enumerate().filter(|&(_, &op)| op == allocating || op == writing) {
        let mut agent = used();
        let len = agent.store().stats().log_len;
        agent.sim.fail(begun + n, Failure::Errno(ENOSPC));
        let made = agent.make(call);
        // If a smaller step suffices, the call succeeds.
        assert!(matches!(made, Ok(()) | Err(Error::Full { .. })), "{op:?} {n}: {made:?}");
        if made.is_err() {
            assert_eq!(agent.store().stats().log_len, len);
            agent.make(Call::Ack { job: 1 }).unwrap();
        }
        survives(&agent.sim.world(), agent.oracle.allowed());

        let mut agent = used();
        agent.sim.fail(begun + n, Failure::Errno(EIO));
        let made = agent.make(call);
        // What fails while the space is allocated fails only this call.
        match made {
            Err(Error::Io { operation: "allocate space in", .. }) => agent.make(call).unwrap(),
            // The frame, or a mark.
            Err(Error::Io { operation: "write" | "sync", .. }) => refuses_writes_and_still_reads(&agent),
            _ => panic!("{op:?} {n}: {made:?}"),
        }
        survives(&agent.sim.world(), agent.oracle.allowed());
    }
}

/// A delete that was not written has no effect on readers either.
#[test]
fn an_ack_that_finds_no_room_leaves_the_job_in_the_queue() {
    let mut agent = Agent::new(Sim::new(17), Mode::Sync);
    agent.start().unwrap();
    agent.make(Call::Enqueue { job: 0, len: 500 }).unwrap();
    fail_next(&mut agent, Op::Write, Failure::Errno(ENOSPC));
    let made = agent.make(Call::Ack { job: 0 });
    assert!(matches!(made, Err(Error::Full { .. })), "{made:?}");
    assert_eq!(&Model::read(agent.store()).unwrap(), &agent.oracle.current().without_logs());
    agent.make(Call::Ack { job: 0 }).unwrap();
}

/// From any operation on, the disk has not a byte left. All jobs can be acked one by one, all events drained, and
/// then the log compacted, also by a process that comes after a close or a kill.
/// What a compaction copies is in the reserve from the call on that adds it.
#[test]
fn a_call_that_adds_data_leaves_the_space_to_compact_it() {
    let sim = Sim::new(43);
    let mut agent = Agent::new(sim.clone(), Mode::Sync);
    agent.start().unwrap();
    agent.make(Call::Enqueue { job: 1, len: 100 }).unwrap();
    // Enough for the record, but not to copy it too.
    sim.set_capacity(sim.world().used() + 600_000);
    let refused = agent.store().put_data("cursor", &[7; 500_000]);
    assert!(matches!(refused, Err(Error::Full { .. })), "{refused:?}");
    sim.set_capacity(sim.world().used() + 1_200_000);
    agent.store().put_data("cursor", &[7; 500_000]).unwrap();
    sim.set_capacity(sim.world().used());
    agent.store().ack_job("run-1").unwrap();
    agent.store().compact().unwrap();
}

/// Others would run out of space while a copy is written in vain.
#[test]
fn nothing_is_written_to_a_disk_that_has_no_space_for_the_new_log() {
    // A disk that tells how much space it has.
    let sim = Sim::new(45);
    let mut agent = Agent::new(sim.clone(), Mode::Sync);
    agent.start().unwrap();
    for job in 0..10 {
        agent.make(Call::Enqueue { job, len: 300_000 }).unwrap();
    }
    sim.set_capacity(sim.world().used() + 500_000);
    let used = sim.world().used();
    sim.record();
    assert!(matches!(agent.store().compact(), Err(Error::Full { .. })));
    let most = sim.take_moments().iter().map(|moment| moment.world.used()).max();
    assert!(most <= Some(used), "{most:?} of {used}");
}

/// Of the reserve, the new log takes what there is space for, and does not first try to take more.
#[test]
fn a_compaction_with_little_room_leaves_the_rest_to_others() {
    // A disk that tells how much space it has.
    let sim = Sim::new(51);
    let mut agent = Agent::new(sim.clone(), Mode::Sync);
    agent.start().unwrap();
    agent.make(Call::SaveConfig { len: 60_000 }).unwrap();
    (0..20).for_each(|job| agent.make(Call::Enqueue { job, len: 1000 }).unwrap());
    let stats = agent.store().stats();
    // Enough for the live records and the acks, and not for all of the reserve.
    let capacity = sim.world().used() + stats.live_bytes + 80_000;
    sim.set_capacity(capacity);
    sim.record();
    agent.store().compact().unwrap();
    let most = sim.take_moments().iter().map(|moment| moment.world.used()).max().unwrap();
    assert!(most + 40_000 < capacity, "{most} of {capacity}");
    assert_eq!(agent.store().stats().acks_on_full_disk, 20);
}

/// The compaction gives back what acks do not need, finds no room even so, and others take what it gave back.
#[test]
fn acks_need_no_space_that_others_take_from_a_compaction() {
    let mut taken = 0;
    for n in 0..60 {
        let sim = Sim::new(41);
        let mut agent = Agent::new(sim.clone(), Mode::Sync);
        agent.start().unwrap();
        (0..20).for_each(|job| agent.make(Call::Enqueue { job, len: 1000 }).unwrap());
        sim.set_capacity(sim.world().used());
        let before = agent.store().stats().file_len;
        sim.fill_at(sim.ops() + n);
        match agent.store().compact() {
            // The new log has what the old one has given back, or what others have left of it.
            Ok(_) => continue,
            Err(error) => assert!(matches!(error, Error::Full { .. }), "{error}"),
        }
        taken += usize::from(agent.store().stats().file_len < before);
        assert_eq!(agent.store().stats().acks_on_full_disk, 20, "{n}");
        for job in 0..20 {
            let acked = agent.make(Call::Ack { job });
            assert!(acked.is_ok(), "taken before operation {n} of the compaction, job {job}: {acked:?}");
        }
    }
    assert!(taken > 0);
}

#[test]
fn whenever_the_disk_gets_full_all_can_be_removed_and_then_the_log_be_compacted() {
    for mode in [Mode::Sync, Mode::Buffered, Mode::Indexed] {
        for seed in [31, 32] {
            let ops = {
                let sim = Sim::new(seed);
                let mut agent = Agent::new(sim.clone(), mode);
                agent.start().unwrap();
                FILLING.iter().for_each(|&call| agent.make(call).unwrap());
                sim.ops()
            };
            for n in (0..ops).step_by(depth::full_disk_step()) {
                for end in [None, Some(Call::Reopen), Some(Call::Kill)] {
                    full_from(n, end, Sim::new(seed), mode);
                }
            }
        }
    }
}

fn full_from(n: usize, end: Option<Call>, sim: Sim, mode: Mode) {
    let what = format!("{mode:?}, full from operation {n}, {end:?}");
    sim.fill_at(n);
    let mut agent = Agent::new(sim.clone(), mode);
    if let Err(error) = agent.start() {
        assert!(matches!(error, Error::Full { .. }), "{what}: {error}");
        return;
    }
    for &call in &FILLING {
        let made = agent.make(call);
        // What adds something is refused, and so may be what copies it.
        let removes = matches!(call, Call::Ack { .. } | Call::DrainLogs { .. } | Call::DeleteData { .. });
        let may_be_full = !removes && !matches!(call, Call::Reopen | Call::Kill);
        let is_refused = matches!(made, Err(Error::Full { .. })) && may_be_full && sim.ops() > n;
        assert!(made.is_ok() || is_refused, "{what}: {call:?}: {made:?}");
    }
    assert!(sim.ops() > n, "{what}: the disk did not get full");
    end.into_iter().for_each(|end| agent.make(end).unwrap());
    for job in
        (0..20).filter(|job| agent.store().job(&format!("run-{job}")).unwrap().is_some()).collect::<Vec<_>>()
    {
        agent.make(Call::Ack { job }).unwrap_or_else(|error| panic!("{what}: ack {job}: {error}"));
    }
    agent.make(Call::DrainLogs { n: usize::MAX }).unwrap_or_else(|error| panic!("{what}: drain: {error}"));
    end.into_iter().for_each(|end| agent.make(end).unwrap());
    assert_eq!((agent.store().queue_depth(), agent.store().log_count()), (0, 0));
    if agent.store().stats().seq > 0 {
        // Else no put has ever found room, and there is no reserve to give back.
        agent.make(Call::Compact).unwrap_or_else(|error| panic!("{what}: compact: {error}"));
    }
    survives_some(&sim.world(), agent.oracle.allowed(), 20);
    sim.set_capacity(u64::MAX);
    agent.make(Call::Enqueue { job: 1, len: 500 }).unwrap();
}

/// What an agent does while the disk gets full.
const FILLING: [Call; 25] = [
    Call::SaveConfig { len: 300 },
    Call::Enqueue { job: 1, len: 4000 },
    Call::Enqueue { job: 2, len: 0 },
    Call::BufferLog { ts_ms: 1, len: 50 },
    Call::Enqueue { job: 3, len: 70_000 },
    Call::Ack { job: 1 },
    Call::Enqueue { job: 4, len: 300_000 },
    Call::Enqueue { job: 2, len: 9000 },
    Call::Batch { job: 2, len: 2000 },
    Call::PutData { key: 0, len: 300 },
    Call::PutData { key: 1, len: 5000 },
    Call::BufferLog { ts_ms: 2, len: 50 },
    Call::Reopen,
    Call::Enqueue { job: 6, len: 500 },
    Call::Heartbeat,
    Call::DrainLogs { n: 1 },
    Call::DeleteData { key: 0 },
    Call::Compact,
    Call::Enqueue { job: 7, len: 500 },
    Call::BufferLog { ts_ms: 3, len: 50 },
    Call::Kill,
    Call::Enqueue { job: 8, len: 500 },
    Call::Ack { job: 6 },
    Call::Rekey,
    Call::Enqueue { job: 9, len: 500 },
];
