//! What must be true of a store after something has failed.

use backupy_state::{Error, Result};

use crate::common::depth;
use crate::sim::world::World;
use crate::sim::{Agent, Call, Failure, Mode, Model, Op, Sim, crash, open};

pub(super) fn refuses_writes_and_still_reads(agent: &Agent) {
    agent.sim.heal();
    let ops = agent.sim.ops();
    let store = agent.store();
    assert!(matches!(store.sync(), Err(Error::Failed { .. })));
    assert!(matches!(store.ack_job("none"), Err(Error::Failed { .. })));
    assert!(matches!(store.drain_logs(0), Err(Error::Failed { .. })));
    assert!(matches!(store.enqueue_job("a", b"b"), Err(Error::Failed { .. })));
    assert_eq!(agent.sim.ops(), ops, "a failed store touches the disk");
    let read = Model::read(store).unwrap();
    assert!(agent.oracle.allowed().iter().any(|allowed| allowed.without_logs() == read), "reads {read:?}");
}

/// After a kill and after a power cut, with a healthy disk, the store opens, holds what was promised, and keeps
/// it.
pub(super) fn survives(world: &World, allowed: &[Model]) {
    survives_some(world, allowed, depth::survival_images());
}

/// Like [`survives`], with at most `images` images for each choice of names.
pub(super) fn survives_some(world: &World, allowed: &[Model], images: usize) {
    let sim = Sim::at(world.clone(), 1);
    opens_and_keeps(&sim, allowed, images);
    crash::some_images(world, 2, images, &mut |image| {
        let found = take(&Sim::on(image, 3)).unwrap();
        assert!(allowed.contains(&found), "after a power cut {found:#?}, not among {allowed:#?}");
    });
}

fn opens_and_keeps(sim: &Sim, allowed: &[Model], images: usize) {
    let store = open(sim, Mode::Sync).unwrap();
    let after = sim.world();
    let found = Model::take(&store).unwrap();
    assert!(allowed.contains(&found), "after a kill {found:#?}, not among {allowed:#?}");
    // What an open has returned is on the disk, whatever an earlier failed sync has lost.
    crash::some_images(&after, 4, images, &mut |image| assert_eq!(take(&Sim::on(image, 5)).unwrap(), found));
}

pub(super) fn take(sim: &Sim) -> Result<Model> {
    Model::take(&open(sim, Mode::Sync)?)
}

/// Makes the operation `op` of the next heartbeat fail. Records heartbeats first, to find out which operation of a
/// heartbeat that is.
pub(super) fn fail_next(agent: &mut Agent, op: Op, failure: Failure) {
    // If a mark is due, this one writes it, and the next two do not.
    agent.make(Call::Heartbeat).unwrap();
    let before = agent.sim.ops();
    agent.make(Call::Heartbeat).unwrap();
    let done = agent.sim.trace().split_off(before);
    assert_eq!(done.iter().filter(|&&done| done == Op::Write).count(), 1, "{done:?}");
    let at = done.iter().position(|&done| done == op).unwrap();
    agent.sim.fail(agent.sim.ops() + at, failure);
}
