//! `OnDamage::SetAside`: after every crash and every failing call, the path names the damaged store or a new one
//! with every authentic record, and the damaged bytes are never lost.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use backupy_state::testing::{Storage, index_every, options_on, policy};
use backupy_state::{Anchor, Error, OnDamage, OpenOptions, QueueOrder, Result, Store};

use crate::common::Image as Bytes;
use crate::sim::content::Content;
use crate::sim::random::mix;
use crate::sim::subject::{Subject, start};
use crate::sim::world::{self, Image, World};
use crate::sim::{Agent, Call, Mode, Model, Opened, PATH, key, open, other_key};
use crate::sim::{EDQUOT, EIO, ENOSPC, Failure, Op, Sim, crash};

const EPERM: i32 = 1;
const KEPT: &str = "/sim/state.db.damaged-1";

fn options(sim: &Sim) -> OpenOptions {
    let mut options = options_on(Arc::new(sim.clone()));
    options.mmap(false).queue_order(QueueOrder::Fifo);
    options.compaction(policy(|policy| policy.automatic = false));
    options.on_damage(OnDamage::SetAside);
    options
}

fn take(store: Store) -> Model {
    Model::take(&Opened { store, is_other_key: false }).unwrap()
}

/// A store of six jobs, of which the third is damaged; and its jobs without that one.
fn damaged() -> (Subject, Image, Model) {
    let mut agent = Agent::new(Sim::new(111), Mode::Sync);
    agent.start().unwrap();
    for job in 1..=6 {
        agent.make(Call::Enqueue { job, len: 200 }).unwrap();
    }
    agent.make(Call::BufferLog { ts_ms: 1, len: 20 }).unwrap();
    let subject = Subject::closed(&mut agent);
    let mut content = subject.content.clone();
    content.write(&[0xAA; 16], subject.frames[2].offset + 150);
    let mut expected = subject.last_state().clone();
    expected.jobs.remove(2);
    (subject, Image::from([(PathBuf::from(PATH), content)]), expected)
}

fn bytes_of<'a>(image: &'a Image, path: &str) -> Option<&'a Content> {
    image.get(&PathBuf::from(path))
}

/// The damaged bytes are there, under the store's name or another.
fn assert_kept(files: &Image, damaged: &Content, what: &str) {
    let is_kept = files.iter().any(|(path, content)| {
        let name = path.to_str().unwrap();
        (name == PATH || name.starts_with("/sim/state.db.damaged-")) && content.hash() == damaged.hash()
    });
    assert!(is_kept, "{what}: {:?}", files.keys());
}

#[test]
fn the_store_opens_and_reports_what_is_lost() {
    let (subject, image, expected) = damaged();
    let sim = Sim::on(&image, 112);
    assert!(matches!(open(&sim, Mode::Sync), Err(Error::Corrupt { .. })));
    let store = options(&sim).open(PATH, &key()).unwrap();
    let report = store.recovery().salvaged.clone().unwrap();
    assert_eq!((report.from.to_str(), report.to.to_str()), (Some(KEPT), Some(PATH)));
    assert_eq!(report.lost.len(), 1);
    assert_eq!(report.lost[0].keys[0].run_id.as_ref(), Some(&subject.last_state().jobs[2].0));
    assert_eq!(store.stats().generation, 2);
    assert_eq!(take(store), expected);
    let files = sim.live();
    assert_eq!(files.len(), 2);
    assert_eq!(bytes_of(&files, KEPT).unwrap().hash(), bytes_of(&image, PATH).unwrap().hash());
    // The next opening reports only that the damaged log is kept, and none does once it was moved.
    for moved in [false, true] {
        let kept = PathBuf::from(KEPT);
        if moved {
            let id = sim.id(&kept).unwrap().unwrap();
            assert!(sim.rename(&kept, id, Path::new("/sim/elsewhere"), None).is_ok());
        }
        let store = options(&sim).open(PATH, &key()).unwrap();
        assert!(store.recovery().clean && store.recovery().salvaged.is_none());
        assert_eq!(store.recovery().damaged, if moved { vec![] } else { vec![kept] });
    }
}

#[test]
fn names_that_are_taken_stay_as_they_are() {
    let (_, mut image, expected) = damaged();
    for number in [1, 2, 4] {
        image.insert(PathBuf::from(format!("/sim/state.db.damaged-{number}")), Content::of(b"another file"));
    }
    let sim = Sim::on(&image, 113);
    let store = options(&sim).open(PATH, &key()).unwrap();
    assert!(store.recovery().salvaged.as_ref().unwrap().from.ends_with("state.db.damaged-3"));
    assert_eq!(take(store), expected);
    let files = sim.live();
    for number in [1, 2, 4] {
        assert_eq!(bytes_of(&files, &format!("/sim/state.db.damaged-{number}")).unwrap().bytes(), b"another file");
    }
}

/// Where the file system has no links, the log is copied to that name, with `.new` after it until the copy is
/// whole.
#[test]
fn a_file_in_the_place_of_an_unfinished_copy_stays_as_it_is() {
    let (_, mut image, expected) = damaged();
    let in_the_way = "/sim/state.db.damaged-1.new";
    image.insert(PathBuf::from(in_the_way), Content::of(b"another file"));
    let sim = Sim::on(&image, 114);
    without_links(&image, &sim);
    let store = options(&sim).open(PATH, &key()).unwrap();
    assert!(store.recovery().salvaged.as_ref().unwrap().from.ends_with("state.db.damaged-2"));
    assert_eq!(take(store), expected);
    assert_eq!(bytes_of(&sim.live(), in_the_way).unwrap().bytes(), b"another file");
}

#[test]
fn files_with_other_faults_than_damage_are_refused_and_not_changed() {
    let (subject, _, _) = damaged();
    let mut both_headers = subject.content.clone();
    both_headers.write(&[0xFF], 60);
    both_headers.write(&[0xFF], 2048 + 60);
    let mut newer = subject.bytes.clone();
    for copy in [0, 2048] {
        newer[copy + 12] = 3;
        let crc = crc32fast::hash(&newer[copy..copy + 112]);
        newer[copy + 112..copy + 116].copy_from_slice(&crc.to_le_bytes());
    }
    let cases = [
        (Content::of(b"To do: milk, bread"), key(), "NotAStore"),
        (Content::of(&newer), key(), "UnsupportedFormat"),
        (subject.content.clone(), other_key(), "WrongKey"),
        (both_headers, key(), "Corrupt"),
    ];
    for (content, key, expected) in cases {
        let image = Image::from([(PathBuf::from(PATH), content)]);
        let sim = Sim::on(&image, 114);
        let refused = options(&sim).open(PATH, &key);
        assert!(format!("{refused:?}").contains(expected), "{refused:?}");
        assert_eq!(world::hash(&sim.live()), world::hash(&image), "{expected}");
    }
}

/// Crashing the agent at a chosen moment must neither yield an empty store nor destroy the damaged bytes.
#[test]
fn a_power_cut_at_any_operation_leaves_the_damaged_store_or_what_is_authentic() {
    for has_links in [true, false] {
        let (_, image, expected) = damaged();
        let sim = Sim::on(&image, 115);
        if !has_links {
            without_links(&image, &sim);
        }
        sim.record();
        let store = options(&sim).open(PATH, &key()).unwrap();
        let moments = sim.take_moments();
        assert!(store.recovery().salvaged.is_some());
        drop(store);
        assert!(moments.len() > 10);
        let (mut images, mut damaged_still) = (0, 0);
        for moment in moments {
            crash::some_images(&moment.world, mix(moment.ops as u64), 60, &mut |found| {
                images += 1;
                let what = format!("links: {has_links}, cut before operation {}", moment.ops);
                let content = bytes_of(found, PATH).unwrap_or_else(|| panic!("{what}: no store"));
                damaged_still += u32::from(content.hash() == bytes_of(&image, PATH).unwrap().hash());
                assert_kept(found, bytes_of(&image, PATH).unwrap(), &what);
                let again = Sim::on(found, 116);
                let store = options(&again).open(PATH, &key()).unwrap_or_else(|error| panic!("{what}: {error}"));
                assert_eq!(take(store), expected, "{what}");
                assert_kept(&again.live(), bytes_of(&image, PATH).unwrap(), &what);
            });
        }
        println!("links: {has_links}: {images} images, {damaged_still} of them before the new one");
        assert!(damaged_still > 0 && damaged_still < images);
    }
}

/// Every link fails, as on a file system that has none.
fn without_links(image: &Image, sim: &Sim) {
    let trial = Sim::on(image, 115);
    options(&trial).open(PATH, &key()).unwrap();
    let link = trial.trace().iter().position(|&op| op == Op::Link).unwrap();
    sim.fail(link, Failure::Errno(EPERM));
}

/// What a killed process leaves is not durable yet: the next process must get no acknowledgement that a power cut
/// undoes.
#[test]
fn what_is_acknowledged_after_a_kill_survives_a_power_cut() {
    let (_, image, expected) = damaged();
    let sim = Sim::on(&image, 117);
    sim.record();
    drop(options(&sim).open(PATH, &key()).unwrap());
    for moment in sim.take_moments() {
        let next = Sim::at(moment.world.clone(), 118);
        next.kill();
        let store = options(&next).open(PATH, &key()).unwrap();
        store.save_config(77, b"acknowledged").unwrap();
        crash::some_images(&next.world(), 119, 20, &mut |found| {
            let store = open(&Sim::on(found, 120), Mode::Sync).unwrap();
            let mut expected = expected.clone();
            expected.config = Some((77, b"acknowledged".to_vec()));
            assert_eq!(Model::take(&store).unwrap(), expected, "killed before operation {}", moment.ops);
        });
    }
}

#[test]
fn whatever_call_fails_the_next_opening_finds_all_that_is_authentic() {
    let (_, image, expected) = damaged();
    failing_calls_lose_nothing(&image, &expected, |options| options.open(PATH, &key()));
}

/// The header does not show the key, so both are tried. What fails under the right one is not taken for a header
/// that nobody can read: its error would say that a backup is to be restored.
#[test]
fn whatever_call_fails_under_the_previous_key_is_reported() {
    let (_, image, expected) = damaged();
    let image = with_damaged_header(image);
    failing_calls_lose_nothing(&image, &expected, |options| options.previous_key(key()).open(PATH, &other_key()));
}

fn failing_calls_lose_nothing(image: &Image, expected: &Model, open: impl Fn(&mut OpenOptions) -> Result<Store>) {
    let count = {
        let sim = Sim::on(image, 121);
        let store = open(&mut options(&sim)).unwrap();
        let count = sim.ops();
        drop(store);
        count
    };
    for n in 0..count {
        for code in [EIO, ENOSPC, EDQUOT] {
            for is_sticky in [false, true] {
                let what = format!("operation {n}, error {code}, sticky: {is_sticky}");
                let sim = Sim::on(image, 121);
                if is_sticky {
                    sim.fail_from(n, Failure::Errno(code));
                } else {
                    sim.fail(n, Failure::Errno(code));
                }
                let opened = open(&mut options(&sim));
                match &opened {
                    Ok(store) => assert!(store.recovery().damaged.contains(&PathBuf::from(KEPT)), "{what}"),
                    Err(error) => {
                        assert!(matches!(error, Error::Io { .. } | Error::Full { .. }), "{what}: {error}");
                    }
                }
                sim.heal();
                sim.kill();
                drop(opened);
                assert_kept(&sim.live(), bytes_of(image, PATH).unwrap(), &what);
                let store = open(&mut options(&sim)).unwrap_or_else(|error| panic!("{what}: {error}"));
                assert_eq!(take(store), *expected, "{what}");
            }
        }
    }
}

/// The process is killed while it quarantines the log, so what it wrote is in the page cache only. The next
/// process finds it there.
#[test]
fn a_damaged_log_survives_a_kill_in_its_quarantine_and_then_a_power_cut() {
    let (_, image, _) = damaged();
    let damaged = bytes_of(&image, PATH).unwrap();
    for has_links in [true, false] {
        let sim = Sim::on(&image, 118);
        if !has_links {
            without_links(&image, &sim);
        }
        sim.record();
        drop(options(&sim).open(PATH, &key()).unwrap());
        for moment in sim.take_moments() {
            let sim = Sim::at(moment.world, 119);
            sim.record();
            drop(options(&sim).open(PATH, &key()).unwrap());
            for second in sim.take_moments() {
                crash::some_images(&second.world, 120, 200, &mut |image| {
                    let what =
                        format!("links {has_links}, killed before {}, cut before {}", moment.ops, second.ops);
                    assert_kept(image, damaged, &what);
                });
            }
        }
    }
}

#[test]
fn an_anchor_is_checked_against_the_authentic_records() {
    let (subject, image, expected) = damaged();
    let whole = Sim::on(&Image::from([(PathBuf::from(PATH), subject.content.clone())]), 122);
    let head = open(&whole, Mode::Sync).unwrap().anchor();
    let opened = options(&Sim::on(&image, 123)).expect_at_least(head).open(PATH, &key()).unwrap();
    assert_eq!(take(opened), expected);
    // The frame that the anchor names is lost: a later one satisfies it.
    let mut lost = subject.content.clone();
    lost.write(&[0; 100], subject.frames[2].offset);
    let lost = Image::from([(PathBuf::from(PATH), lost)]);
    let third = head.to_string().replace(&format!(".{}.", head.seq()), ".3.").parse::<Anchor>().unwrap();
    let opened = options(&Sim::on(&lost, 123)).expect_at_least(third).open(PATH, &key()).unwrap();
    assert_eq!(opened.recovery().salvaged.as_ref().unwrap().lost[0].last_seq, Some(4));
    // The log ends before the anchor, has another frame there, or the anchor is of another store: nothing is
    // moved.
    let later = head.to_string().replace(&format!(".{}.", head.seq()), ".99.").parse::<Anchor>().unwrap();
    let other = head.to_string().replace(&format!(".{}.", head.seq()), ".4.").parse::<Anchor>().unwrap();
    let foreign = open(&Sim::new(126), Mode::Sync).unwrap().anchor();
    for expected in [later, other, foreign] {
        let sim = Sim::on(&image, 124);
        let refused = options(&sim).expect_at_least(expected).open(PATH, &key());
        assert!(matches!(refused, Err(Error::Stale { .. })), "{refused:?}");
        assert_eq!(world::hash(&sim.live()), world::hash(&image));
    }
}

#[test]
fn a_log_that_failed_authentication_is_quarantined_and_rekeyed() {
    let (subject, _, _) = damaged();
    let frames: Vec<_> = subject.frames.iter().map(|frame| subject.bytes_of(frame)).collect();
    let content = subject.with_frames(2, frames[3..].iter().copied());
    let image = Image::from([(PathBuf::from(PATH), content)]);
    let sim = Sim::on(&image, 125);
    assert!(matches!(open(&sim, Mode::Sync), Err(Error::Unauthentic { .. })));
    let store = options(&sim).previous_key(key()).open(PATH, &other_key()).unwrap();
    assert!(store.recovery().salvaged.is_some() && store.recovery().rekeyed);
    // At once under the new key: a change of key after it could fail, and with it the report of what is lost.
    assert_eq!(store.stats().generation, 2);
    // The removed frame is lost, and the next one, which can no longer be authenticated.
    assert_eq!(take(store).jobs.len(), 4);
    assert_eq!(start(&subject.frames[0]), 8192);
}

/// Both copies of the header are damaged in different fields. Which key it was written under shows only when the
/// fields are combined.
fn with_damaged_header(mut image: Image) -> Image {
    let content = image.get_mut(&PathBuf::from(PATH)).unwrap();
    content.write(&[0x55; 4], 32);
    content.write(&[0x55; 4], 2048 + 80);
    image
}

#[test]
fn a_damaged_header_is_combined_under_the_previous_key_too() {
    let (_, image, expected) = damaged();
    let sim = Sim::on(&with_damaged_header(image), 12);
    let mut options = options(&sim);
    assert!(matches!(options.open(PATH, &other_key()), Err(Error::Corrupt { offset: 0, .. })));
    let store = options.previous_key(key()).open(PATH, &other_key()).unwrap();
    assert!(store.recovery().rekeyed && store.recovery().salvaged.is_some());
    assert_eq!(take(store).jobs, expected.jobs);
}

/// A crash between the last sync of a compaction and its rename, and damage since then.
#[test]
fn a_complete_copy_next_to_a_damaged_log_is_kept() {
    let (new, (subject, image, expected)) = (new(), damaged());
    let whole = Sim::on(&Image::from([(PathBuf::from(PATH), subject.content.clone())]), 131);
    let opened = open(&whole, Mode::Sync).unwrap();
    whole.record();
    opened.store.compact().unwrap();
    // Incomplete ones, too: of these, nothing is needed.
    let unfinished = whole.take_moments().into_iter().filter_map(|moment| {
        let files = Sim::at(moment.world, 132).live();
        Some((files.get(&new)?.clone(), files.len()))
    });
    let copies: Vec<Content> = unfinished.map(|(content, _)| content).collect();
    let mut kept = 0;
    for copy in copies {
        let mut files = image.clone();
        files.insert(new.clone(), copy.clone());
        let sim = Sim::on(&files, 133);
        assert!(open(&sim, Mode::Sync).is_err());
        assert_eq!(world::hash(&sim.live()), world::hash(&files), "an open that refuses changes nothing");

        let store = options(&sim).open(PATH, &key()).unwrap();
        let damaged = store.recovery().damaged.clone();
        assert_eq!(take(store), expected);
        let files = sim.live();
        assert!(!files.contains_key(&new));
        if let [first, second] = &damaged[..] {
            assert_eq!(files[first].hash(), copy.hash());
            assert_eq!(files[second].hash(), bytes_of(&image, PATH).unwrap().hash());
            kept += 1;
            // It is a store with all jobs.
            let sim = Sim::on(&Image::from([(PathBuf::from(PATH), copy)]), 134);
            let whole = open(&sim, Mode::Sync).unwrap();
            assert_eq!(Model::take(&whole).unwrap(), *subject.last_state());
        }
    }
    assert!(kept > 0);
}

/// The damaged log is kept once. A salvaged copy is kept too if it was complete, since it could be that of a
/// compaction. It is completed last, right before its rename.
#[test]
fn salvaging_again_after_a_crash_keeps_the_damaged_log_once() {
    const BASE_AT: usize = 1024;
    let (_, image, expected) = damaged();
    let sim = Sim::on(&image, 135);
    sim.record();
    drop(options(&sim).open(PATH, &key()).unwrap());
    let mut kept = Vec::new();
    for moment in sim.take_moments() {
        let sim = Sim::at(moment.world, 136);
        let is_complete = sim
            .live()
            .get(&new())
            .is_some_and(|copy| copy.bytes().get(BASE_AT..).is_some_and(|b| b[..4] != [0; 4]));
        let store = options(&sim).open(PATH, &key()).unwrap();
        let damaged = store.recovery().damaged.clone();
        let log = bytes_of(&image, PATH).unwrap().hash();
        assert_eq!(sim.live()[Path::new(KEPT)].hash(), log, "before operation {}", moment.ops);
        assert_eq!(damaged.len(), 1 + usize::from(is_complete), "before operation {}", moment.ops);
        kept.push(is_complete);
        assert_eq!(take(store), expected);
    }
    let complete = kept.iter().filter(|is_complete| **is_complete).count();
    assert!(complete > 0 && complete < 20, "{complete}");
}

/// A store of which one value is found to be damaged only when it is read.
fn with_one_unreadable_value() -> Image {
    let sim = Sim::new(149);
    let opened = open(&sim, Mode::Sync).unwrap();
    let value_at = opened.stats().log_len;
    opened.store.put_data("key", &[7; 100]).unwrap();
    opened.store.put_data("kept", &[8; 100]).unwrap();
    opened.close().unwrap();
    drop(opened);
    Image::from([(PathBuf::from(PATH), with_unreadable_value(&sim.live()[Path::new(PATH)], value_at))])
}

/// What `make` leaves if it is killed right before its rename over the log.
fn killed_before_the_rename(sim: &Sim, make: impl FnOnce()) -> Sim {
    sim.record();
    make();
    let moments = sim.take_moments();
    let log_of = |world: &World| world.named(Path::new(PATH));
    let first = log_of(&moments[0].world);
    let is_before = |world: &World| log_of(world) == first && world.named(&new()).is_some();
    Sim::at(moments.into_iter().rfind(|moment| is_before(&moment.world)).unwrap().world, 150)
}

/// The agent is killed at this moment more often than copies can be kept. It opens its store all the same.
#[test]
fn a_copy_that_cannot_be_kept_stays_and_is_in_the_way_of_a_compaction_only() {
    let mut sim = Sim::on(&with_one_unreadable_value(), 151);
    for _ in 0..8 {
        sim =
            killed_before_the_rename(&sim, || drop(options(&sim).open(PATH, &key()).unwrap().compact().unwrap()));
    }
    // The log has one of the names, and seven copies the others.
    let store = options(&sim).open(PATH, &key()).unwrap();
    assert_eq!(store.recovery().damaged.len(), 8);
    let copy = sim.live()[&new()].clone();
    store.enqueue_job("job", &[9; 300]).unwrap();
    let refused = store.compact().unwrap_err().to_string();
    assert!(refused.contains("too many damaged logs") && refused.contains("move them"), "{refused}");
    store.close().unwrap();
    drop(store);
    let store = options(&sim).open(PATH, &key()).unwrap();
    assert_eq!((store.queue_depth(), store.data("kept").unwrap()), (1, Some(vec![8; 100])));
    assert_eq!(sim.live()[&new()].hash(), copy.hash());

    // The operator moves them.
    let mut files = sim.live();
    files.retain(|path, _| !path.to_str().unwrap().contains(".damaged-"));
    let sim = Sim::on(&files, 152);
    let store = options(&sim).open(PATH, &key()).unwrap();
    assert_eq!(sim.live()[Path::new(KEPT)].hash(), copy.hash());
    store.compact().unwrap();
    assert_eq!(store.queue_depth(), 1);
}

/// A salvage was interrupted, and the store is used on without a change of key. So its log is kept, but only as
/// it is by now.
#[test]
fn a_complete_copy_is_kept_if_its_log_has_a_second_name_and_was_damaged_since() {
    let sim = Sim::on(&with_one_unreadable_value(), 152);
    let sim = killed_before_the_rename(&sim, || {
        drop(options(&sim).previous_key(key()).open(PATH, &other_key()).unwrap());
    });
    let store = options(&sim).open(PATH, &key()).unwrap();
    assert_eq!(store.recovery().damaged[0], Path::new(KEPT));
    store.delete_data("key").unwrap();
    let job_at = store.stats().log_len;
    store.enqueue_job("job", &[9; 300]).unwrap();
    store.enqueue_job("next", &[9; 300]).unwrap();
    let sim = killed_before_the_rename(&sim, || drop(store.compact().unwrap()));
    drop(store);
    let mut files = sim.live();
    // One file with two names.
    for name in [PATH, KEPT] {
        files.get_mut(Path::new(name)).unwrap().write(&[0xAA; 16], job_at + 150);
    }
    let copy = files[&new()].clone();
    let sim = Sim::on(&files, 153);
    let store = options(&sim).open(PATH, &key()).unwrap();
    let damaged = store.recovery().damaged.clone();
    assert_eq!(store.queue_depth(), 1);
    assert!(damaged.iter().any(|name| sim.live()[name].hash() == copy.hash()), "{damaged:?}");
}

/// An opening with the index file does not read that frame. Without that file, the log is damaged.
#[test]
fn a_complete_copy_is_kept_if_a_frame_is_damaged_that_the_index_file_has() {
    let sim = Sim::new(155);
    let mut options = options(&sim);
    index_every(&mut options, 4096);
    let store = options.open(PATH, &key()).unwrap();
    let frame_at = store.stats().log_len;
    (0..40).for_each(|n| store.put_data(&format!("key-{n}"), &[n; 1000]).unwrap());
    store.close().unwrap();
    drop(store);
    let sim = killed_before_the_rename(&sim, || drop(options.open(PATH, &key()).unwrap().compact().unwrap()));
    for (damage_at, is_kept) in [(None, false), (Some(frame_at + 20), true)] {
        let mut files = sim.live();
        let copy = files[&new()].clone();
        let log = files.get_mut(Path::new(PATH)).unwrap();
        damage_at.iter().for_each(|at| log.write(&[0xAA; 4], *at));
        let sim = Sim::on(&files, 156);
        let mut options = self::options(&sim);
        let store = index_every(&mut options, 4096).open(PATH, &key()).unwrap();
        assert!(store.recovery().opening.by_index && store.data("key-0").unwrap().is_some());
        assert_eq!(store.recovery().damaged.len(), usize::from(is_kept));
        assert!(!is_kept || sim.live()[Path::new(KEPT)].hash() == copy.hash());
    }
}

/// The log `sim` has, and the complete copy that a compaction of it makes.
fn with_complete_copy(sim: &Sim) -> (Content, Content) {
    let opened = open(sim, Mode::Sync).unwrap();
    let log = sim.live()[Path::new(PATH)].clone();
    let killed = killed_before_the_rename(sim, || drop(opened.store.compact().unwrap()));
    (log, killed.live().remove(&new()).unwrap())
}

fn new() -> PathBuf {
    PathBuf::from(format!("{PATH}.new"))
}

/// A value that is found to be damaged only when it is read.
#[test]
fn a_complete_copy_is_kept_if_the_log_has_an_unreadable_value() {
    for changes_key in [false, true] {
        let sim = Sim::new(142);
        let opened = open(&sim, Mode::Sync).unwrap();
        let value_at = opened.stats().log_len;
        opened.store.put_data("key", &[7; 100]).unwrap();
        opened.close().unwrap();
        drop(opened);
        let (log, copy) = with_complete_copy(&sim);
        let files =
            Image::from([(PathBuf::from(PATH), with_unreadable_value(&log, value_at)), (new(), copy.clone())]);

        let sim = Sim::on(&files, 143);
        let store = match changes_key {
            true => options(&sim).previous_key(key()).open(PATH, &other_key()).unwrap(),
            false => options(&sim).open(PATH, &key()).unwrap(),
        };
        assert!(!store.data("key").is_ok_and(|value| value.is_some()));
        assert_eq!(store.recovery().damaged[0], Path::new(KEPT));
        assert_eq!(sim.live()[Path::new(KEPT)].hash(), copy.hash());
    }
}

/// Next to a complete copy, the whole log is read. A sector that cannot be read keeps the copy, and not the store
/// from being opened.
#[test]
fn a_complete_copy_keeps_no_store_from_being_opened() {
    let sim = Sim::new(147);
    let opened = open(&sim, Mode::Sync).unwrap();
    for n in 0..30 {
        opened.store.put_data(&format!("key-{n}"), &[n; 40_000]).unwrap();
    }
    opened.close().unwrap();
    drop(opened);
    let (log, copy) = with_complete_copy(&sim);
    let alone = Image::from([(PathBuf::from(PATH), log)]);
    let mut with_copy = alone.clone();
    with_copy.insert(new(), copy);
    let [alone, with_copy] = [alone, with_copy].map(|files| {
        let sim = Sim::on(&files, 148);
        drop(options(&sim).open(PATH, &key()).unwrap());
        let fails = |n: &usize| {
            let sim = Sim::on(&files, 148);
            sim.fail(*n, Failure::Errno(EIO));
            options(&sim).open(PATH, &key()).is_err()
        };
        (0..sim.ops()).filter(fails).count()
    });
    // The name, the header and the marks of the copy are read, and it is removed.
    assert!(with_copy - alone < 20, "{with_copy} calls can fail, and {alone} without the copy");
}

/// A backup has the generation of its store.
#[test]
fn a_complete_copy_is_kept_if_an_older_log_was_put_in_its_place() {
    let sim = Sim::new(144);
    let opened = open(&sim, Mode::Sync).unwrap();
    opened.store.put_data("old", &[7; 100]).unwrap();
    opened.close().unwrap();
    let older = sim.live()[Path::new(PATH)].clone();
    drop(opened);
    let opened = open(&sim, Mode::Sync).unwrap();
    opened.store.put_data("new", &[8; 100]).unwrap();
    opened.close().unwrap();
    drop(opened);
    let (log, copy) = with_complete_copy(&sim);
    for (log, is_kept) in [(older, true), (log, false)] {
        let sim = Sim::on(&Image::from([(PathBuf::from(PATH), log), (new(), copy.clone())]), 145);
        let opened = open(&sim, Mode::Sync).unwrap();
        assert_eq!(opened.recovery().damaged.len(), usize::from(is_kept));
        assert!(!sim.live().contains_key(&new()));
    }
}

/// The index file only saves time, and the salvaged log needs its space.
#[test]
fn a_log_is_salvaged_on_a_disk_that_its_index_file_fills() {
    let (_, mut image, expected) = damaged();
    let mut index = b"\x89BKPYIDX\r\n\x1a\n".to_vec();
    index.resize(100_000, 1);
    image.insert(PathBuf::from(format!("{PATH}.index")), Content::of(&index));
    let sim = Sim::on(&image, 146);
    sim.set_capacity(sim.world().used() + 4096);
    let store = options(&sim).open(PATH, &key()).unwrap();
    assert_eq!(take(store), expected);
}

/// The log with a changed value of 100 bytes, in the frame at `frame_at`, whose CRC is right.
fn with_unreadable_value(log: &Content, frame_at: u64) -> Content {
    let (mut changed, at) = (Bytes { bytes: log.bytes() }, usize::try_from(frame_at).unwrap());
    changed.flip(at + 100).fix_crc(at);
    Content::of(&changed.bytes)
}

/// The change of key would leave the value out, and the report of the opening would not say so.
#[test]
fn a_value_that_is_lost_by_the_change_of_key_is_in_the_report() {
    let (_, image, _) = damaged();
    let sim = Sim::on(&image, 137);
    let intact = options(&sim).open(PATH, &key()).unwrap();
    let value_at = intact.stats().log_len;
    intact.put_data("lost", &[7; 100]).unwrap();
    intact.put_data("kept", &[8; 100]).unwrap();
    intact.close().unwrap();
    drop(intact);
    let log = with_unreadable_value(&sim.live()[Path::new(PATH)], value_at);
    let sim = Sim::on(&Image::from([(PathBuf::from(PATH), log)]), 138);
    let mut options = options(&sim);
    options.previous_key(key()).on_damage(OnDamage::Refuse);
    let refused = options.open(PATH, &other_key()).unwrap_err().to_string();
    assert!(
        refused.contains("data key \"lost\"") && refused.contains("still under the previous key"),
        "{refused}"
    );
    let store = options.on_damage(OnDamage::SetAside).open(PATH, &other_key()).unwrap();
    let report = store.recovery();
    let lost = &report.salvaged.as_ref().unwrap().lost;
    assert_eq!(lost[0].keys[0].data_key.as_deref(), Some("lost"));
    assert!(report.rekeyed && report.damaged.len() == 1);
    assert_eq!((store.data("lost").unwrap(), store.data("kept").unwrap()), (None, Some(vec![8; 100])));
}
