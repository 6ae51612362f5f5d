//! What is read again, or read back from the disk, because one lie of the disk would lose something there.

use std::path::Path;
use std::sync::Arc;

use backupy_state::testing::{Access, Storage, open_snapshot_on};
use backupy_state::{Error, OnDamage};

use super::shown::{assert_names_the_place, is_state, shown_by_snapshot};
use super::survival;
use super::told_lies::{Beginning, FRAMES_AT, lies_about, torn_after};
use crate::sim::content::{Content, SECTOR_LEN};
use crate::sim::lies::About;
use crate::sim::random::mix;
use crate::sim::world::FailedSync;
use crate::sim::{Agent, Call, EIO, Failure, Lie, Mode, PATH, Sim, key, open};

/// Nothing vouches for the last record of a killed process. If the log is taken to end before it, the next record
/// is written over it.
#[test]
fn a_last_record_that_one_read_does_not_show_is_found_by_the_second_reading() {
    // Of a long one, the rest looks like a torn tail; of a short one, there is none.
    for len in [700, 30] {
        let mut agent = Agent::new(Sim::new(mix(9)), Mode::Sync);
        agent.start().unwrap();
        agent.make(Call::Enqueue { job: 0, len: 700 }).unwrap();
        agent.make(Call::Enqueue { job: 1, len }).unwrap();
        agent.kill();
        let (world, expected) = (agent.sim.world(), agent.oracle.current().clone());
        let sim = Sim::at(world.clone(), 1);
        sim.record_touches();
        assert_eq!(survival::take(&sim).unwrap(), expected);
        let mut lies = 0;
        for touch in sim.take_touches() {
            let About::Read { older, .. } = &touch.about else { continue };
            for &sector in older.iter().filter(|&&sector| sector * SECTOR_LEN >= FRAMES_AT) {
                let sim = Sim::at(world.clone(), 1);
                sim.fail(touch.number, Failure::Lie(Lie::Stale(sector)));
                match survival::take(&sim) {
                    Ok(found) => assert_eq!(found, expected, "{touch:?}, sector {sector} is stale"),
                    Err(error) => assert_names_the_place(&error),
                }
                lies += 1;
            }
        }
        assert!(lies > 4, "{lies}");
    }
}

#[test]
fn a_reader_that_one_read_misleads_shows_an_earlier_state_until_it_looks_again() {
    let [_, killed, _, _] = Beginning::all(Mode::Sync);
    let read = |lie: Option<(usize, Lie)>| {
        let sim = Sim::at(killed.world.clone(), 1);
        sim.record_touches();
        lie.into_iter().for_each(|(n, lie)| sim.fail(n, Failure::Lie(lie)));
        let snapshot = open_snapshot_on(Arc::new(sim.clone()), PATH, &key());
        (snapshot, sim)
    };
    let mut earlier = 0;
    for touch in read(None).1.take_touches() {
        for lie in lies_about(&touch).into_iter().filter(|lie| !matches!(lie, Lie::StaleForGood(_))) {
            let mut snapshot = match read(Some((touch.number, lie))).0 {
                Ok(snapshot) => snapshot,
                Err(error) => {
                    assert_names_the_place(&error);
                    continue;
                }
            };
            let shown = shown_by_snapshot(&snapshot, false);
            assert!(killed.oracle.history().iter().any(|state| is_state(&shown, state)), "{touch:?} {lie:?}");
            earlier += usize::from(!is_state(&shown, killed.oracle.current()));
            snapshot.refresh().unwrap();
            assert!(is_state(&shown_by_snapshot(&snapshot, false), killed.oracle.current()), "{touch:?} {lie:?}");
        }
    }
    assert!(earlier > 0);
}

/// A failed sync has lost a part of the last record. If the look at it fails, its job is not at fault either.
#[test]
fn a_read_that_fails_while_a_lost_record_is_looked_at_blames_no_job() {
    let mut agent = Agent::new(Sim::new(mix(12)), Mode::Buffered);
    agent.start().unwrap();
    agent.make(Call::Enqueue { job: 0, len: 3000 }).unwrap();
    let at = agent.store().stats().log_len - 2000;
    agent.make(Call::Heartbeat).unwrap();
    let run_id = agent.store().run_ids().next().unwrap();
    let world = agent.sim.world();
    let torn = |fails: Option<usize>| {
        let sim = Sim::at(world.clone(), 1);
        let snapshot = open_snapshot_on(Arc::new(sim.clone()), PATH, &key()).unwrap();
        sim.open(Path::new(PATH), Access::Write).unwrap().write_at(&[0; 16], at).unwrap();
        let before = sim.ops();
        fails.into_iter().for_each(|n| sim.fail(before + n, Failure::Errno(EIO)));
        let errors = [(); 2].map(|()| snapshot.job(&run_id).unwrap_err());
        (errors, sim.ops() - before)
    };
    let (_, ops) = torn(None);
    let mut failed = 0;
    for n in 0..ops {
        let (errors, _) = torn(Some(n));
        for error in errors {
            failed += usize::from(matches!(error, Error::Io { .. }));
            assert!(matches!(error, Error::Io { .. } | Error::Unauthentic { run_id: None, .. }), "{n}: {error}");
        }
    }
    assert!(failed > 2, "{failed}");
}

/// Nothing that is written later could be read without its header.
#[test]
fn a_new_store_whose_header_is_not_on_the_disk_is_refused_at_once() {
    let create = |lie: Option<(usize, Lie)>| {
        let sim = Sim::new(mix(11));
        lie.into_iter().for_each(|(n, lie)| sim.fail(n, Failure::Lie(lie)));
        sim.record_touches();
        let opened = open(&sim, Mode::Sync).map(drop);
        (sim, opened)
    };
    let mut lies = 0;
    for touch in create(None).0.take_touches().into_iter().filter(|touch| touch.name == "state.db.new") {
        let wrong = match touch.about {
            About::Write { .. } => vec![Lie::LostWrite, Lie::WroteAt(512)],
            About::Sync => vec![Lie::LostSync(FailedSync::LosesAll)],
            _ => continue,
        };
        for lie in wrong {
            let (sim, opened) = create(Some((touch.number, lie)));
            assert!(matches!(opened, Err(Error::Io { operation: "create", .. })), "{touch:?} {lie:?}: {opened:?}");
            assert!(sim.live().is_empty());
            lies += 1;
        }
    }
    assert_eq!(lies, 3);
}

/// Else its bytes would be nowhere.
#[test]
fn a_torn_tail_is_cut_off_only_once_its_copy_is_on_the_disk() {
    let mut agent = Agent::new(Sim::new(mix(13)), Mode::Sync);
    agent.start().unwrap();
    agent.make(Call::Enqueue { job: 0, len: 30 }).unwrap();
    let (world, tail) = torn_after(&agent);
    let sim = Sim::at(world.clone(), 1);
    sim.record_touches();
    drop(open(&sim, Mode::Sync).unwrap());
    let mut lies = 0;
    for touch in sim.take_touches().into_iter().filter(|touch| touch.name.contains(".torn-")) {
        let wrong = match touch.about {
            About::Write { .. } => vec![Lie::LostWrite, Lie::WroteAt(512), Lie::WroteToFile(0)],
            About::Sync => [FailedSync::LosesAll, FailedSync::LosesSome].map(Lie::LostSync).into(),
            _ => continue,
        };
        for lie in wrong {
            let sim = Sim::at(world.clone(), 1);
            sim.fail(touch.number, Failure::Lie(lie));
            // The log is not damaged, so it is not set aside.
            let opened = Mode::Sync.options(&sim).on_damage(OnDamage::SetAside).open(PATH, &key()).map(drop);
            let is_refused = matches!(&opened, Err(Error::Io { path, .. }) if path.ends_with("state.db.torn-1"));
            assert!(is_refused, "{touch:?} {lie:?}: {opened:?}");
            let mut world = sim.world();
            world.drop_caches();
            let holds_tail = |content: &Content| content.trimmed_bytes().windows(tail.len()).any(|it| it == tail);
            assert!(lie == Lie::WroteToFile(0) || world.live().values().any(holds_tail), "{touch:?} {lie:?}");
            lies += 1;
        }
    }
    assert_eq!(lies, 5);
}
