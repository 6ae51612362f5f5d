//! A log that somebody has put in its place by a rename, without a sync of the folder.

use std::path::PathBuf;

use crate::sim::world::{NameChange, World};
use crate::sim::{Agent, Call, Mode, PATH, Sim, crash, open};

#[test]
fn a_call_acknowledged_after_a_rename_by_others_survives_losing_that_rename() {
    let mut agent = Agent::new(Sim::new(31), Mode::Sync);
    agent.start().unwrap();
    agent.make(Call::Enqueue { job: 0, len: 20 }).unwrap();
    agent.close().unwrap();
    let restored = PathBuf::from("/sim/restored.db");
    let image = [(restored.clone(), agent.sim.live()[&PathBuf::from(PATH)].clone())].into();
    let mut world = World::of(&image);
    let inode = world.named(&restored).unwrap();
    world.change_name(NameChange::Rename { from: restored, to: PATH.into(), inode });

    let sim = Sim::at(world, 32);
    let store = open(&sim, Mode::Sync).unwrap();
    assert!(store.recovery().clean, "an unclean log would have its folder synced by its recovery");
    store.enqueue_job("acknowledged", b"payload").unwrap();
    let mut images = 0;
    crash::images(&sim.world(), 33, &mut |image| {
        let found = open(&Sim::on(image, 34), Mode::Sync).unwrap();
        assert!(found.job("acknowledged").unwrap().is_some());
        images += 1;
    });
    assert!(images > 0);
}
