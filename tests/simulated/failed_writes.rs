//! Writes and syncs of the log that fail: the store takes no more writes, and a failed sync is never repeated.

use backupy_state::Error;

use super::survival::{fail_next, refuses_writes_and_still_reads, survives, survives_some};
use crate::sim::world::FailedSync;
use crate::sim::{Agent, Call, EIO, ENOSPC, Failure, Mode, Op, Sim};

/// The short form of the test of all failures, for the two that matter most.
#[test]
fn a_failed_sync_is_never_repeated_and_no_record_it_lost_is_shown_again() {
    for failed_sync in [FailedSync::LosesAll, FailedSync::LosesSome, FailedSync::KeepsAll] {
        let mut agent = Agent::new(Sim::new(15), Mode::Sync);
        agent.start().unwrap();
        agent.make(Call::Heartbeat).unwrap();
        agent.sim.set_failed_sync(failed_sync);
        fail_next(&mut agent, Op::Sync, Failure::Errno(EIO));
        let syncs = agent.sim.count(Op::Sync);
        let made = agent.make(Call::Enqueue { job: 0, len: 700 });
        assert!(matches!(made, Err(Error::Io { operation: "sync", .. })), "{made:?}");
        refuses_writes_and_still_reads(&agent);
        assert!(matches!(agent.close(), Err(Error::Failed { .. })));
        assert_eq!(agent.sim.count(Op::Sync), syncs + 1);
        survives(&agent.sim.world(), agent.oracle.allowed());
    }
}

/// The whole tail after the last synced frame is read again, not only the part next to that frame or to the end.
#[test]
fn of_a_long_tail_that_a_failed_sync_lost_no_record_is_shown_again() {
    for failed_sync in [FailedSync::LosesAll, FailedSync::LosesSome, FailedSync::KeepsAll] {
        let mut agent = Agent::new(Sim::new(21), Mode::Buffered);
        agent.start().unwrap();
        agent.make(Call::Enqueue { job: 0, len: 100_000 }).unwrap();
        agent.make(Call::Sync).unwrap();
        for job in 1..5 {
            agent.make(Call::Enqueue { job, len: 40_000 }).unwrap();
        }
        agent.sim.set_failed_sync(failed_sync);
        // A mark is written first.
        let sync = agent.sim.ops() + 1;
        agent.sim.fail(sync, Failure::Errno(EIO));
        let made = agent.make(Call::Sync);
        assert!(matches!(made, Err(Error::Io { operation: "sync", .. })), "{made:?}");
        assert_eq!(agent.sim.trace()[sync], Op::Sync);
        survives_some(&agent.sim.world(), agent.oracle.allowed(), 20);
    }
}

#[test]
fn a_failed_write_ends_writing() {
    let mut agent = Agent::new(Sim::new(16), Mode::Sync);
    agent.start().unwrap();
    agent.make(Call::Heartbeat).unwrap();
    fail_next(&mut agent, Op::Write, Failure::Errno(EIO));
    let begun = agent.sim.ops();
    let made = agent.make(Call::Enqueue { job: 0, len: 700 });
    assert!(matches!(made, Err(Error::Io { operation: "write", .. })), "{made:?}");
    // Not even a mark is written after it.
    assert_eq!(agent.sim.trace()[begun..].iter().filter(|&&op| op == Op::Write).count(), 1);
    refuses_writes_and_still_reads(&agent);
    survives(&agent.sim.world(), agent.oracle.allowed());
}

/// A new store has no preallocated space, so its first call allocates some.
#[test]
fn an_io_error_while_the_log_grows_fails_only_that_call() {
    let new_store = || {
        let mut agent = Agent::new(Sim::new(18), Mode::Sync);
        agent.start().unwrap();
        agent
    };
    let call = Call::Enqueue { job: 0, len: 700 };
    let mut healthy = new_store();
    let begun = healthy.sim.ops();
    healthy.make(call).unwrap();
    let growing = begun + healthy.sim.trace()[begun..].iter().position(|&op| op == Op::Write).unwrap();

    let mut agent = new_store();
    agent.sim.fail(growing, Failure::Errno(EIO));
    let made = agent.make(call);
    assert!(matches!(made, Err(Error::Io { operation: "allocate space in", .. })), "{made:?}");
    agent.make(call).unwrap();
    agent.make(Call::Heartbeat).unwrap();
    survives(&agent.sim.world(), agent.oracle.allowed());
}

/// A mark rides on the sync of a call, so its failure is one of the sync. Without space there is only no new mark.
#[test]
fn a_mark_that_cannot_be_written_ends_writing_unless_the_disk_is_full() {
    let before_the_first_mark = || {
        let mut agent = Agent::new(Sim::new(20), Mode::Sync);
        agent.start().unwrap();
        agent.make(Call::Heartbeat).unwrap();
        agent
    };
    let mut healthy = before_the_first_mark();
    let begun = healthy.sim.ops();
    healthy.make(Call::Heartbeat).unwrap();
    let ops = healthy.sim.trace()[begun..].to_vec();
    let writes: Vec<_> = (0..ops.len()).filter(|&n| ops[n] == Op::Write).collect();
    assert_eq!(writes.len(), 2, "the frame and the mark: {ops:?}");

    let mut agent = before_the_first_mark();
    agent.sim.fail(begun + writes[1], Failure::Errno(ENOSPC));
    agent.make(Call::Heartbeat).unwrap();
    agent.make(Call::Enqueue { job: 0, len: 700 }).unwrap();
    survives(&agent.sim.world(), agent.oracle.allowed());

    let mut agent = before_the_first_mark();
    agent.sim.fail(begun + writes[1], Failure::Errno(EIO));
    let made = agent.make(Call::Heartbeat);
    assert!(matches!(made, Err(Error::Io { operation: "sync", .. })), "{made:?}");
    refuses_writes_and_still_reads(&agent);
    survives(&agent.sim.world(), agent.oracle.allowed());
}
