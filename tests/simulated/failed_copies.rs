//! Compactions, rekeys and backups that fail, or find little room.

use backupy_state::Error;

use super::survival::{refuses_writes_and_still_reads, survives, survives_some};
use crate::sim::{Agent, Call, EIO, Failure, Mode, Op, Sim};

/// A store with preallocated space, and the number of the last operation of this kind in `call`.
fn store_and_op_of(call: Call, op: Op) -> (Agent, usize) {
    let agent = || {
        let mut agent = Agent::new(Sim::new(15), Mode::Sync);
        agent.start().unwrap();
        for job in [0, 1, 0] {
            agent.make(Call::Enqueue { job, len: 3000 }).unwrap();
        }
        agent
    };
    let mut healthy = agent();
    healthy.make(call).unwrap();
    let n = healthy.sim.trace().iter().rposition(|&done| done == op).unwrap();
    let agent = agent();
    assert!(agent.sim.ops() <= n);
    (agent, n)
}

#[test]
fn a_folder_that_is_not_synced_after_the_switch_fails_the_store() {
    for call in [Call::Compact, Call::Rekey] {
        let (mut agent, n) = store_and_op_of(call, Op::SyncDir);
        agent.sim.fail(n, Failure::Errno(EIO));
        let made = agent.make(call);
        assert!(matches!(made, Err(Error::Io { operation: "sync the folder", .. })), "{made:?}");
        refuses_writes_and_still_reads(&agent);
        assert_eq!(agent.store().stats().compaction.failed, 1);
        survives(&agent.sim.world(), agent.oracle.allowed());
    }
}

/// The copy itself is complete.
#[test]
fn a_mark_that_cannot_be_written_after_the_switch_fails_the_store() {
    for call in [Call::Compact, Call::Rekey] {
        let (mut agent, n) = store_and_op_of(call, Op::Write);
        agent.sim.fail(n, Failure::Errno(EIO));
        agent.make(call).unwrap();
        refuses_writes_and_still_reads(&agent);
        assert_eq!(agent.store().stats().generation, 2);
        survives_some(&agent.sim.world(), agent.oracle.allowed(), 20);
    }
}

#[test]
fn a_failed_store_is_not_copied_and_its_disk_not_touched() {
    let (mut agent, n) = store_and_op_of(Call::Enqueue { job: 2, len: 3000 }, Op::Sync);
    agent.sim.fail(n, Failure::Errno(EIO));
    agent.make(Call::Enqueue { job: 2, len: 3000 }).unwrap_err();
    let before = agent.sim.ops();
    for call in [Call::Compact, Call::Rekey, Call::Backup] {
        let made = agent.make(call);
        assert!(matches!(made, Err(Error::Failed { .. })), "{call:?} returned {made:?}");
        assert_eq!(agent.sim.ops(), before, "{call:?} of a failed store touches the disk");
    }
}

/// The new file has room only if the preallocated space is given back.
#[test]
fn compaction_on_a_full_disk_uses_the_preallocated_space() {
    for call in [Call::Compact, Call::Rekey] {
        let (mut agent, _) = store_and_op_of(call, Op::Rename);
        agent.sim.set_capacity(agent.sim.world().used() + 100);
        let before = agent.store().stats();
        assert!(before.free_bytes > before.log_len);
        agent.make(call).unwrap();
        let after = agent.store().stats();
        assert_eq!((after.generation, after.compaction.completed, after.compaction.failed), (2, 1, 0));
        agent.make(Call::Enqueue { job: 2, len: 3000 }).unwrap();
        survives(&agent.sim.world(), agent.oracle.allowed());
    }
}

/// Not even the preallocated space is enough: the store works without a compaction, and calls that free space
/// succeed.
#[test]
fn compaction_that_finds_no_room_leaves_the_store_usable() {
    let (mut agent, n) = store_and_op_of(Call::Compact, Op::Rename);
    for job in 2..40 {
        agent.make(Call::Enqueue { job, len: 20_000 }).unwrap();
    }
    assert!(agent.sim.ops() > n);
    agent.sim.set_capacity(agent.sim.world().used());
    let made = agent.make(Call::Compact);
    assert!(matches!(made, Err(Error::Full { .. })), "{made:?}");
    let stats = agent.store().stats();
    assert_eq!((stats.generation, stats.compaction.failed), (1, 1));
    assert!(stats.free_bytes >= 60 << 10, "the reserve is gone: {stats:?}");
    survives(&agent.sim.world(), agent.oracle.allowed());
    for job in 0..40 {
        agent.make(Call::Ack { job }).unwrap();
    }
    agent.make(Call::Compact).unwrap();
    agent.make(Call::Enqueue { job: 0, len: 4000 }).unwrap();
    survives(&agent.sim.world(), agent.oracle.allowed());
}
