//! Logs that somebody has put in a place by a rename: in that of the store without a sync of the folder, and where
//! a copy is to be written.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use backupy_state::testing::{Access, Storage, salvage_on};
use backupy_state::{Error, Result};

use crate::common::depth::survival_images;
use crate::sim::content::Content;
use crate::sim::world::{self, Image, NameChange, World};
use crate::sim::{Agent, Call, ENOSPC, Failure, Mode, Op, PATH, Sim, crash, key, open, open_at};

/// The log of a store with one job, closed.
fn closed_log(seed: u64) -> Content {
    closed_log_with(seed, 20)
}

fn closed_log_with(seed: u64, len: usize) -> Content {
    let mut agent = Agent::new(Sim::new(seed), Mode::Sync);
    agent.start().unwrap();
    agent.make(Call::Enqueue { job: 0, len }).unwrap();
    agent.close().unwrap();
    agent.sim.live()[&PathBuf::from(PATH)].clone()
}

#[test]
fn a_call_acknowledged_after_a_rename_by_others_survives_losing_that_rename() {
    let restored = PathBuf::from("/sim/restored.db");
    let image = [(restored.clone(), closed_log(31))].into();
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

/// A log that was copied to its place, and not synced. It looks clean, because its marks were copied too.
#[test]
fn a_sync_of_a_copied_store_survives_losing_the_copy() {
    let sim = Sim::new(37);
    let file = sim.open(Path::new(PATH), Access::CreateNew).unwrap();
    file.write_at(&closed_log(36).bytes(), 0).unwrap();
    drop(file);

    let store = open(&sim, Mode::Sync).unwrap();
    assert!(store.recovery().clean);
    store.sync().unwrap();
    crash::images(&sim.world(), 38, &mut |image| {
        assert_eq!(open(&Sim::on(image, 39), Mode::Sync).unwrap().queue_depth(), 1);
    });
    // Once is enough.
    let ops = sim.ops();
    store.sync().unwrap();
    store.close().unwrap();
    assert!(!sim.trace()[ops..].contains(&Op::Sync));
}

/// A compaction that fails takes the reserve anew, and then close has a reason to write a close frame. What the
/// copy has is synced all the same.
#[test]
fn a_copied_store_survives_losing_the_copy_after_a_close_without_space_for_its_frame() {
    let mut closed = 0;
    for n in 0..12 {
        let sim = Sim::new(55);
        let file = sim.open(Path::new(PATH), Access::CreateNew).unwrap();
        file.write_at(&closed_log_with(56, 200_000).bytes(), 0).unwrap();
        drop(file);
        let store = open(&sim, Mode::Sync).unwrap();
        sim.set_capacity(sim.world().used() + 4096);
        assert!(matches!(store.store.compact(), Err(Error::Full { .. })));
        sim.fail(sim.ops() + n, Failure::Errno(ENOSPC));
        if store.close().is_err() {
            continue;
        }
        closed += 1;
        crash::some_images(&sim.world(), 57, 200, &mut |image| {
            let found = open(&Sim::on(image, 58), Mode::Sync);
            assert!(found.is_ok_and(|found| found.queue_depth() == 1), "operation {n} of close");
        });
    }
    assert!(closed > 0);
}

#[test]
fn a_copied_store_that_was_closed_survives_losing_the_copy() {
    let sim = Sim::new(48);
    let file = sim.open(Path::new(PATH), Access::CreateNew).unwrap();
    file.write_at(&closed_log(49).bytes(), 0).unwrap();
    drop(file);
    open(&sim, Mode::Sync).unwrap().close().unwrap();
    let mut images = 0;
    crash::images(&sim.world(), 50, &mut |image| {
        assert_eq!(open(&Sim::on(image, 51), Mode::Sync).unwrap().queue_depth(), 1);
        images += 1;
    });
    assert!(images > 0);
}

/// For the store itself, see `a_salvaged_store_that_is_parked_at_new_is_kept_under_another_name`.
#[test]
fn a_complete_copy_where_the_next_one_is_to_be_written_is_in_the_way_and_stays() {
    let (copy, new) = (Path::new("/sim/copy.db"), Path::new("/sim/copy.db.new"));
    let mut agent = Agent::new(Sim::new(35), Mode::Sync);
    agent.start().unwrap();
    agent.make(Call::Enqueue { job: 0, len: 20 }).unwrap();
    let disk: Arc<dyn Storage> = Arc::new(agent.sim.clone());
    let back_up = || agent.store().backup(copy);
    let salvage = || salvage_on(&disk, PATH, &key(), copy).map(drop);
    for make_copy in [&back_up as &dyn Fn() -> Result<()>, &salvage] {
        make_copy().unwrap();
        let id = disk.id(copy).unwrap().unwrap();
        assert!(disk.rename(copy, id, new, None).is_ok());
        let before = world::hash(&agent.sim.live());
        let made = make_copy();
        assert!(matches!(&made, Err(Error::Invalid { what, .. }) if what.contains("complete store")), "{made:?}");
        assert_eq!(world::hash(&agent.sim.live()), before);
        assert!(disk.remove_file(new, id).unwrap());
    }
}

/// Also if the rename that keeps it is lost, and the new file of the compaction is not.
#[test]
fn a_store_that_is_parked_at_new_survives_every_power_cut_of_a_compaction() {
    // It has the key and the generation that a left-over would have, and a mark.
    let mut image: Image = [(PATH.into(), closed_log(40))].into();
    let compacted = Sim::on(&image, 41);
    let store = open(&compacted, Mode::Sync).unwrap();
    store.compact().unwrap();
    store.close().unwrap();
    let parked = compacted.live()[Path::new(PATH)].clone();
    image.insert(format!("{PATH}.new").into(), parked.clone());
    for renames_at_once in [false, true] {
        let sim = Sim::on(&image, 42);
        sim.set_renames_at_once(renames_at_once);
        sim.record();
        let store = open(&sim, Mode::Sync).unwrap();
        store.compact().unwrap();
        let mut images = 0;
        for moment in sim.take_moments() {
            crash::some_images(&moment.world, 43, survival_images(), &mut |image| {
                assert!(image.values().any(|file| file.bytes() == parked.bytes()), "{:?}", image.keys());
                images += 1;
            });
        }
        assert!(images > 0);
    }
}

#[test]
fn a_salvaged_store_survives_a_power_cut_after_the_salvage() {
    let sim = Sim::on(&[(PATH.into(), closed_log(44))].into(), 45);
    sim.set_renames_at_once(true);
    let disk: Arc<dyn Storage> = Arc::new(sim.clone());
    let copy = Path::new("/sim/copy.db");
    salvage_on(&disk, Path::new(PATH), &key(), copy).unwrap();
    let mut images = 0;
    crash::images(&sim.world(), 46, &mut |image| {
        assert_eq!(open_at(&Sim::on(image, 47), Mode::Sync, copy, false).unwrap().queue_depth(), 1);
        images += 1;
    });
    assert!(images > 0);
}
