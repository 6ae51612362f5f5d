//! The index file: opening by it gives what a replay gives, whatever the file is, and a value of another log is
//! never taken for one of this log.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::{fmt, fs, thread};

use backupy_state::testing::{index_every, options_on, policy};
use backupy_state::{
    Anchor, Batch, Check, Error, FaultKind, IndexFile, OnDamage, OpenOptions, QueueOrder, Snapshot, Store,
    salvage, verify,
};

use crate::common::{
    Action, Hooked, Hooks, Image, Place, Random, Refusable, Shown, State, depth, disk_and_memory, key, listing,
    names, say_skipped,
};

/// Options with which even a short log has an index file of several runs.
fn indexed() -> OpenOptions {
    let mut options = OpenOptions::new();
    index_every(&mut options, 400).compaction(policy(|policy| policy.automatic = false));
    options
}

/// Reads every frame, and writes no index file.
fn replaying() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.check(Check::Everything).compaction(policy(|policy| policy.automatic = false));
    options
}

fn index_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".index");
    name.into()
}

/// A log and its index file, in memory.
#[derive(Clone)]
struct Pair {
    log: Image,
    index: Option<Vec<u8>>,
}

impl Pair {
    fn read(path: &Path) -> Self {
        Pair { log: Image::read(path), index: fs::read(index_of(path)).ok() }
    }

    fn with(&self, index: &[u8]) -> Self {
        Pair { log: self.log.clone(), index: Some(index.to_vec()) }
    }

    fn write(&self, path: &Path) {
        self.log.write(path);
        match &self.index {
            Some(index) => fs::write(index_of(path), index).unwrap(),
            None => drop(fs::remove_file(index_of(path))),
        }
    }
}

/// A store of 40 random calls in three sessions, after each of which its files are kept. The last one is the
/// whole.
fn sessions(seed: u64, path: &Path) -> (Vec<Pair>, State) {
    let mut random = Random::new(seed);
    let mut state = State::default();
    let mut kept = Vec::new();
    for _ in 0..3 {
        let store = indexed().open(path, &key()).unwrap();
        for _ in 0..14 {
            Action::random(&mut random).run(&store, &mut state);
            kept.push(Pair::read(path));
        }
        store.close().unwrap();
        kept.push(Pair::read(path));
    }
    (kept, state)
}

/// Opens the pair by its index file and without one, and checks that both show the same. Returns whether the index
/// file was used, and what the store holds.
fn agree(pair: &Pair, what: &str) -> (bool, State) {
    let place = Place::new();
    let shown = |options: &OpenOptions| {
        pair.write(&place.path());
        let snapshot = Snapshot::open(place.path(), &key()).unwrap();
        let store = options.open(place.path(), &key()).unwrap();
        let stats = store.stats();
        let sizes = (stats.live_bytes, stats.dead_bytes, stats.seq, stats.jobs, stats.log_events);
        let shown = (Shown::of(&snapshot), sizes, store.recovery().clean, store.anchor());
        let by_index = (store.recovery().opening.by_index, snapshot.stats().opening.by_index);
        (by_index, shown, State::take(&store))
    };
    let (by_index, with, taken) = shown(&OpenOptions::new());
    let (by_replay, without, replayed) = shown(&replaying());
    assert_eq!(by_index.0, by_index.1, "{what}: the store and the snapshot differ");
    assert!(!by_replay.0);
    assert!(with == without && taken == replayed, "{what}: {taken:?} by index, {replayed:?} by replay");
    pair.write(&place.path());
    let report = verify(place.path(), Some(&key())).unwrap();
    assert!(report.is_intact(), "{what}: {report:?}");
    let expected = if by_index.0 { IndexFile::Agrees } else { IndexFile::NotUsed };
    assert_eq!(report.index, expected, "{what}");
    // The latest enqueue decides.
    let fifo = |check| {
        pair.write(&place.path());
        let mut options = OpenOptions::new();
        let store = options.queue_order(QueueOrder::Fifo).check(check).open(place.path(), &key()).unwrap();
        store.dequeue_jobs(usize::MAX).unwrap()
    };
    assert_eq!(fifo(Check::Live), fifo(Check::Everything), "{what}");
    (by_index.0, taken)
}

#[test]
fn after_each_call_a_store_opens_by_its_index_file_to_what_a_replay_shows() {
    for seed in 1..=4 {
        let place = Place::new();
        let (kept, state) = sessions(seed, &place.path());
        let mut used = 0;
        for (i, pair) in kept.iter().enumerate() {
            used += usize::from(agree(pair, &format!("seed {seed}, call {i}")).0);
        }
        assert!(used > kept.len() / 2, "{used} of {}", kept.len());
        assert_eq!(agree(kept.last().unwrap(), "the last").1, state);
    }
}

/// An index file of an earlier moment is behind its log; one of a later moment is ahead of it. One that is ahead
/// may have an earlier run that fits.
#[test]
fn an_index_file_of_any_other_moment_changes_nothing() {
    let place = Place::new();
    let (kept, _) = sessions(7, &place.path());
    let (mut behind, mut ahead) = (0, 0);
    for (i, log) in kept.iter().enumerate().step_by(4) {
        for (j, other) in kept.iter().enumerate().step_by(3) {
            let Some(index) = &other.index else { continue };
            let (used, _) = agree(&log.with(index), &format!("log {i}, index file {j}"));
            if j < i {
                behind += usize::from(used);
            } else {
                ahead += usize::from(used);
            }
        }
    }
    assert!(behind > 20 && ahead > 20, "{behind}, {ahead}");
}

#[test]
fn an_index_file_that_was_cut_or_changed_anywhere_changes_nothing() {
    let place = Place::new();
    let (kept, _) = sessions(9, &place.path());
    let pair = kept.last().unwrap();
    let index = pair.index.clone().unwrap();
    let mut used = 0;
    for at in (0..index.len()).step_by(19 * depth::real_byte_step()) {
        used += usize::from(agree(&pair.with(&index[..at]), &format!("cut to {at}")).0);
        let mut flipped = index.clone();
        flipped[at] ^= 1 << (at % 8);
        used += usize::from(agree(&pair.with(&flipped), &format!("flipped at {at}")).0);
    }
    // The runs before the changed one.
    assert!(used > 0);
    for tail in [&[0; 700][..], &index[64..], b"more"] {
        assert!(agree(&pair.with(&[&index, tail].concat()), "with a tail").0);
    }
    for head in [&[][..], &[0; 64], &[0; 5000], b"\x89BKPYIDX\r\n\x1a\n"] {
        assert!(!agree(&pair.with(head), "only a head").0);
    }
}

/// Two stores that were one: the same file, copied, and continued in two ways. And a store that has nothing to do
/// with it, and a later generation.
#[test]
fn an_index_file_of_a_fork_another_store_or_another_generation_does_not_fit() {
    let place = Place::new();
    let (kept, _) = sessions(11, &place.path());
    let last = kept.last().unwrap();
    let fork = Place::new();
    // Two forks of an early moment, with more frames after it than a run has.
    let early = &kept[3];
    early.write(&fork.path());
    let store = indexed().open(fork.path(), &key()).unwrap();
    for number in 0..40 {
        store.enqueue_job(&format!("fork-{number}"), &[number; 60]).unwrap();
    }
    store.close().unwrap();
    let forked = Pair::read(&fork.path());
    let other = Place::new();
    let (of_other, _) = sessions(12, &other.path());
    let store = indexed().open(place.path(), &key()).unwrap();
    store.compact().unwrap();
    store.close().unwrap();
    let compacted = Pair::read(&place.path());
    assert!(compacted.index.is_some());
    let pairs =
        [("main", last), ("fork", &forked), ("other", of_other.last().unwrap()), ("compacted", &compacted)];
    for (log_name, log) in pairs {
        for (index_name, index) in pairs {
            let what = format!("{index_name} next to {log_name}");
            let used = agree(&log.with(index.index.as_ref().unwrap()), &what).0;
            // A fork may share the runs before it.
            let may_share = [log_name, index_name].iter().all(|name| ["main", "fork"].contains(name));
            assert!(used == (log_name == index_name) || may_share, "{what}");
            if may_share && log_name != index_name {
                assert!(!used || early.index.is_some(), "{what}");
            }
        }
    }
}

/// Two logs that differ in one frame: a fork. The frame has the same number, length and place in both.
fn fork_with_one_other_frame() -> (Pair, Pair) {
    let (place, fork) = (Place::new(), Place::new());
    let store = indexed().open(place.path(), &key()).unwrap();
    for number in 0..4 {
        store.enqueue_job(&format!("job-{number}"), &[number; 100]).unwrap();
    }
    // As if the machine had been copied while it ran.
    Pair::read(&place.path()).write(&fork.path());
    for number in 4..20 {
        store.enqueue_job(&format!("job-{number}"), &[number; 100]).unwrap();
    }
    store.close().unwrap();
    let store = indexed().open(fork.path(), &key()).unwrap();
    for number in 4..20 {
        store.enqueue_job(&format!("job-{number}"), &[100 + number; 100]).unwrap();
    }
    store.close().unwrap();
    (Pair::read(&place.path()), Pair::read(&fork.path()))
}

/// Its CRC is right, its number is right, and its values open under the nonce that stands next to them. Only the
/// index file knows that it is not the frame that was there.
#[test]
fn a_value_of_a_fork_that_was_spliced_into_an_old_frame_is_caught_when_it_is_read() {
    let (main, fork) = fork_with_one_other_frame();
    let place = Place::new();
    let mut spliced = main.clone();
    let frame = main.log.frames()[7].clone();
    assert_eq!(fork.log.frames()[7], frame);
    let bytes = fork.log.bytes[frame.clone()].to_vec();
    spliced.log.splice(frame.clone(), &bytes);
    spliced.write(&place.path());

    let store = OpenOptions::new().open(place.path(), &key()).unwrap();
    assert!(store.recovery().opening.by_index);
    let error = store.job("job-7").unwrap_err();
    assert!(matches!(&error, Error::Unauthentic { run_id: Some(id), .. } if id == "job-7"), "{error:?}");
    assert!(store.dequeue_jobs(usize::MAX).is_err());
    for number in (0..20).filter(|&number| number != 7) {
        assert_eq!(store.job(&format!("job-{number}")).unwrap().unwrap().payload, [number; 100]);
    }
    let snapshot = Snapshot::open(place.path(), &key()).unwrap();
    assert!(snapshot.job("job-7").is_err() && snapshot.job("job-8").is_ok());
    // It is not copied either.
    assert!(matches!(store.compact(), Err(Error::Unauthentic { run_id: Some(id), .. }) if id == "job-7"));
    assert!(store.ack_job("job-7").unwrap());
    store.compact().unwrap();
    assert_eq!(store.queue_depth(), 19);
    drop(store);

    spliced.write(&place.path());
    let report = verify(place.path(), Some(&key())).unwrap();
    assert!(report.faults.iter().any(|fault| fault.offset == frame.start as u64), "{report:?}");
    let error = replaying().open(place.path(), &key()).unwrap_err();
    assert!(matches!(error, Error::Unauthentic { offset, .. } if offset == frame.start as u64), "{error:?}");
}

#[test]
fn an_anchor_of_each_frame_holds_and_one_of_a_fork_does_not() {
    let (main, fork) = fork_with_one_other_frame();
    let anchors = |pair: &Pair| -> Vec<Anchor> {
        let place = Place::new();
        pair.write(&place.path());
        let id = Snapshot::open(place.path(), &key()).unwrap().anchor().to_string();
        let id = id.split('.').next().unwrap();
        let frames = pair.log.frames().into_iter().zip(1..);
        let anchor = |(frame, seq): (std::ops::Range<usize>, u64)| {
            let tag = u128::from_be_bytes(pair.log.tag_of(frame.start));
            format!("{id}.1.{seq}.{tag:032x}").parse().unwrap()
        };
        frames.map(anchor).collect()
    };
    let place = Place::new();
    let open = |pair: &Pair, anchor: Anchor| {
        pair.write(&place.path());
        let opened = OpenOptions::new().expect_at_least(anchor).open(place.path(), &key());
        opened.inspect(|store| assert!(store.recovery().opening.by_index)).map(drop)
    };
    for (i, (of_main, of_fork)) in anchors(&main).into_iter().zip(anchors(&fork)).enumerate() {
        open(&main, of_main).unwrap();
        assert_eq!(open(&main, of_fork).is_ok(), i < 4, "frame {i}");
        if i >= 4 {
            assert!(matches!(open(&main, of_fork), Err(Error::Stale { .. })));
        }
    }
    // With a frame of the fork in its place, the walk to an anchor before it does not lead to the end of a run,
    // unless that end is before it too.
    let mut refused = 0;
    for (i, frame) in main.log.frames().into_iter().enumerate().take(20).skip(4) {
        let mut spliced = main.clone();
        spliced.log.splice(frame.clone(), &fork.log.bytes[frame.clone()]);
        // The first frame of the fork is chained to the same one.
        let fault = if i == 4 { frame.end } else { frame.start };
        let is_refused = |opened: Result<(), Error>| match opened {
            Err(Error::Unauthentic { offset, .. }) => offset == fault as u64,
            Err(error) => panic!("frame {i}: {error}"),
            Ok(()) => false,
        };
        assert!(is_refused(open(&spliced, anchors(&fork)[i])), "frame {i}");
        refused += usize::from(is_refused(open(&spliced, anchors(&main)[i - 1])));
    }
    assert!(refused > 4, "{refused}");
}

/// Puts something at a path.
type Plan<'a> = dyn Fn(&Path) + 'a;

#[test]
fn what_is_no_index_file_is_never_touched() {
    let (place, beside) = (Place::new(), Place::new());
    for name in ["state.db.index", "state.db.index.new"] {
        let plans: [(&str, &Plan); 7] = [
            ("a text", &|at| fs::write(at, "notes of the operator").unwrap()),
            ("a disk", &|at| fs::write(at, [&[0; 512][..], b"partition 1"].concat()).unwrap()),
            ("a large disk", &|at| fs::write(at, [&[0; 200_000][..], b"partition 1"].concat()).unwrap()),
            ("a folder", &|at| fs::create_dir(at).unwrap()),
            ("a link", &|at| {
                fs::write(beside.at("target"), b"\x89BKPYIDX\r\n\x1a\n").unwrap();
                std::os::unix::fs::symlink(beside.at("target"), at).unwrap();
            }),
            ("two names", &|at| {
                fs::write(beside.at("other"), b"\x89BKPYIDX\r\n\x1a\n").unwrap();
                fs::hard_link(beside.at("other"), at).unwrap();
            }),
            ("a log", &|at| assert!(fs::copy(place.at("a.db"), at).unwrap() >= 8192)),
        ];
        for (what, plan) in plans {
            Store::open(place.at("a.db"), &key()).unwrap().close().unwrap();
            if !fs::metadata(beside.folder()).is_ok_and(|it| same_device(&it, place.folder())) {
                say_skipped("the folders are on two file systems");
            }
            plan(&place.at(name));
            let before = listing(place.folder()).remove(name).unwrap();
            let store = indexed().open(place.path(), &key()).unwrap();
            for number in 0..40 {
                store.enqueue_job(&format!("run-{number}"), &[number; 50]).unwrap();
            }
            store.compact().unwrap();
            store.close().unwrap();
            assert_eq!(place.at("state.db.index").symlink_metadata().is_ok(), name == "state.db.index");
            assert_eq!(listing(place.folder()).remove(name).unwrap(), before, "{what} at {name}");
            let store = indexed().open(place.path(), &key()).unwrap();
            assert_eq!((store.queue_depth(), store.recovery().opening.by_index), (40, false), "{what} at {name}");
            drop(store);
            for name in names(place.folder()) {
                let path = place.at(&name);
                if path.is_dir() { fs::remove_dir(path) } else { fs::remove_file(path) }.unwrap();
            }
            for name in names(beside.folder()) {
                fs::remove_file(beside.at(&name)).unwrap();
            }
        }
    }
}

fn same_device(found: &fs::Metadata, folder: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    found.dev() == fs::metadata(folder).unwrap().dev()
}

/// A power cut leaves a file of which only the name or a part was written.
#[test]
fn what_a_power_cut_leaves_of_an_index_file_is_replaced() {
    for left in [&[][..], &[0; 300], &[0; 100_000], b"\x89BKPYIDX\r\n\x1a\n torn"] {
        for name in ["state.db.index", "state.db.index.new"] {
            let place = Place::new();
            fs::write(place.at(name), left).unwrap();
            let store = indexed().open(place.path(), &key()).unwrap();
            store
                .write(&(0..30).fold(Batch::new(), |batch, i| batch.enqueue_job(&format!("{i}"), b"job")))
                .unwrap();
            store.close().unwrap();
            let store = indexed().open(place.path(), &key()).unwrap();
            assert!(store.recovery().opening.by_index, "{} bytes at {name}", left.len());
            assert!(!place.at("state.db.index.new").exists());
        }
    }
}

/// A hole takes no time to read, so no length is too much.
#[test]
fn a_power_cut_that_leaves_only_the_length_of_an_index_file_does_no_harm() {
    let place = Place::new();
    fs::File::create(index_of(&place.path())).unwrap().set_len(1 << 32).unwrap();
    indexed_each().open(place.path(), &key()).unwrap().close().unwrap();
    assert!(fs::metadata(index_of(&place.path())).unwrap().len() < 8192);
}

#[test]
fn no_copy_is_left_with_the_index_file_of_another_log() {
    let place = Place::new();
    let (kept, _) = sessions(15, &place.path());
    let stale = kept.last().unwrap().index.clone().unwrap();
    let copy = place.at("copy.db");
    let store = indexed().open(place.path(), &key()).unwrap();
    fs::write(index_of(&copy), &stale).unwrap();
    store.backup(&copy).unwrap();
    assert!(!index_of(&copy).exists());
    store.close().unwrap();
    fs::remove_file(&copy).unwrap();
    fs::write(index_of(&copy), &stale).unwrap();
    salvage(place.path(), &key(), &copy).unwrap();
    assert!(!index_of(&copy).exists());

    // A log that is too short after its compaction gets none.
    let store = OpenOptions::new().open(place.path(), &key()).unwrap();
    assert!(index_of(&place.path()).exists());
    store.compact().unwrap();
    assert!(!index_of(&place.path()).exists());
    store.close().unwrap();

    // Under another key, and after a compaction, the file is the new log's.
    for rekeyed in [false, true] {
        let mut key = key();
        let store = indexed().open(place.path(), &key).unwrap();
        store.write(&(0..30).fold(Batch::new(), |batch, i| batch.enqueue_job(&format!("{i}"), b"job"))).unwrap();
        if rekeyed {
            key = backupy_state::AgentKey::new("another").unwrap();
            store.rekey(&key).unwrap();
        } else {
            store.compact().unwrap();
        }
        assert!(Snapshot::open(place.path(), &key).unwrap().stats().opening.by_index);
        store.close().unwrap();
        assert!(indexed().open(place.path(), &key).unwrap().recovery().opening.by_index);
    }

    let damaged = Place::new();
    let store = damaged.open();
    for number in 0..6 {
        store.enqueue_job(&format!("{number}"), b"job").unwrap();
    }
    store.close().unwrap();
    let mut image = Image::read(damaged.path());
    let frame = image.frames()[2].start;
    image.flip(frame + 50).write(damaged.path());
    fs::write(index_of(&damaged.path()), &stale).unwrap();
    OpenOptions::new().on_damage(OnDamage::SetAside).open(damaged.path(), &crate::common::key()).unwrap();
    assert!(!index_of(&damaged.path()).exists());
}

/// A store of six jobs, of which the third is acked, opened by its index file after `damage`.
fn damaged_store(place: &Place, options: &OpenOptions, damage: impl FnOnce(&mut Image)) -> Store {
    let store = indexed().open(place.path(), &key()).unwrap();
    for number in 0..6 {
        store.enqueue_job(&format!("job-{number}"), &[number; 200]).unwrap();
    }
    store.ack_job("job-2").unwrap();
    store.close().unwrap();
    let mut image = Image::read(place.path());
    damage(&mut image);
    image.write(place.path());
    let store = options.open(place.path(), &key()).unwrap();
    assert!(store.recovery().opening.by_index);
    store
}

#[test]
fn damage_to_what_is_dead_does_not_prevent_a_compaction() {
    let place = Place::new();
    let store = damaged_store(&place, &OpenOptions::new(), |image| {
        // Its header, its manifest and its value.
        let frame = image.frames()[2].clone();
        for at in (frame.start..frame.end - 1).step_by(7) {
            image.flip(at);
        }
    });
    assert!(!verify(place.path(), Some(&key())).unwrap().is_intact());
    store.compact().unwrap();
    assert!(verify(place.path(), Some(&key())).unwrap().is_intact());
    store.close().unwrap();
    let store = replaying().open(place.path(), &key()).unwrap();
    let jobs: Vec<_> = store.dequeue_jobs(usize::MAX).unwrap().into_iter().map(|job| job.run_id).collect();
    assert_eq!(jobs, ["job-0", "job-1", "job-3", "job-4", "job-5"]);
}

#[test]
fn a_damaged_live_value_is_named_and_set_aside_only_if_asked() {
    let damage = |image: &mut Image| {
        let end = image.frames()[4].end;
        image.flip(end - 100);
    };
    let place = Place::new();
    let store = damaged_store(&place, &OpenOptions::new(), damage);
    let before = Image::read(place.path());
    let error = store.compact().unwrap_err();
    assert!(matches!(&error, Error::Unauthentic { run_id: Some(id), .. } if id == "job-4"), "{error:?}");
    assert_eq!(Image::read(place.path()), before);
    assert_eq!((store.queue_depth(), store.job("job-5").unwrap().unwrap().payload), (5, vec![5; 200]));

    let place = Place::new();
    let mut options = OpenOptions::new();
    let store = damaged_store(&place, options.on_damage(OnDamage::SetAside), damage);
    let before = Image::read(place.path());
    let report = store.compact().unwrap();
    let left_out: Vec<_> = report.left_out.iter().map(|key| (key.bucket, key.run_id.clone().unwrap())).collect();
    assert_eq!(left_out, [("queue", "job-4".to_owned())]);
    let kept = report.damaged.unwrap();
    assert_eq!(kept, place.at("state.db.damaged-1"));
    assert_eq!(Image::read(&kept).frames(), before.frames());
    // What was removed before stays removed.
    let ids = |store: &Store| -> Vec<_> {
        store.dequeue_jobs(usize::MAX).unwrap().into_iter().map(|job| job.run_id).collect()
    };
    assert_eq!(ids(&store), ["job-0", "job-1", "job-3", "job-5"]);
    store.close().unwrap();
    let store = replaying().open(place.path(), &key()).unwrap();
    assert_eq!(ids(&store), ["job-0", "job-1", "job-3", "job-5"]);
    assert!(store.compact().unwrap().left_out.is_empty());
}

/// The store that is being closed could not report it.
#[test]
fn closing_leaves_out_no_damaged_value() {
    let place = Place::new();
    let mut options = OpenOptions::new();
    options.on_damage(OnDamage::SetAside);
    let store = damaged_store(&place, &options, |image| {
        let end = image.frames()[4].end;
        image.flip(end - 100);
    });
    // So many dead bytes that closing compacts.
    store.save_config(1, &[7; 200_000]).unwrap();
    store.save_config(2, b"short").unwrap();
    store.close().unwrap();
    let stats = store.stats().compaction;
    assert_eq!((stats.completed, stats.failed), (0, 1));
    drop(store);
    let store = options.open(place.path(), &key()).unwrap();
    assert!(matches!(store.job("job-4"), Err(Error::Unauthentic { .. })));
    assert!(store.recovery().damaged.is_empty());
    assert_eq!(store.compact().unwrap().left_out.len(), 1);
    drop(store);
    let store = options.open(place.path(), &key()).unwrap();
    assert_eq!(store.recovery().damaged, [place.at("state.db.damaged-1")]);
}

/// The ordinal of an event that is gone is in no frame that is read. If it were given out again, a batch that was
/// peeked before would name an event that it does not have.
#[test]
fn an_ordinal_is_not_given_out_again_after_opening_by_index() {
    for is_compacted in [false, true] {
        let place = Place::new();
        let store = indexed().open(place.path(), &key()).unwrap();
        store.write(&(0..20).fold(Batch::new(), |batch, i| batch.enqueue_job(&format!("{i}"), &[i; 90]))).unwrap();
        store.buffer_log(5, b"first").unwrap();
        let batch = store.peek_logs(1).unwrap();
        assert_eq!(store.drain_logs(1).unwrap().len(), 1);
        if is_compacted {
            store.compact().unwrap();
        }
        store.close().unwrap();
        let store = indexed().open(place.path(), &key()).unwrap();
        assert!(store.recovery().opening.by_index);
        store.buffer_log(5, b"second").unwrap();
        assert_eq!(store.ack_logs(&batch).unwrap(), 0);
        assert_eq!(store.log_count(), 1);
    }
}

/// Where a run begins in an index file: its salt.
fn salts(index: &[u8]) -> Vec<[u8; 32]> {
    let mut at = 64;
    let mut salts = Vec::new();
    while at < index.len() {
        salts.push(index[at..at + 32].try_into().unwrap());
        at += 32;
        loop {
            let part = |at: usize| u32::from_le_bytes(index[at..at + 4].try_into().unwrap());
            let (len, kind) = (part(at) as usize, part(at + 4));
            at += 8 + len + 16;
            if kind == 2 {
                break;
            }
        }
    }
    salts
}

/// The bytes of each run.
fn runs(index: &[u8]) -> Vec<&[u8]> {
    let begins = salts(index).into_iter().map(|salt| index.windows(32).position(|part| part == salt).unwrap());
    let begins: Vec<_> = begins.chain([index.len()]).collect();
    begins.windows(2).map(|run| &index[run[0]..run[1]]).collect()
}

#[test]
fn no_two_runs_are_sealed_under_one_key() {
    let place = Place::new();
    let (kept, _) = sessions(21, &place.path());
    let mut seen = std::collections::BTreeMap::new();
    for index in kept.iter().filter_map(|pair| pair.index.as_ref()) {
        let salts = salts(index);
        let mut from = 64;
        for (i, salt) in salts.iter().enumerate() {
            let next = salts.get(i + 1).and_then(|next| index.windows(32).position(|part| part == next));
            let run = &index[from..next.unwrap_or(index.len())];
            // A run that is still there has the same bytes.
            assert_eq!(*seen.entry(*salt).or_insert(run.to_vec()), run);
            from = next.unwrap_or(index.len());
        }
    }
    assert!(seen.len() > 8, "{}", seen.len());
}

#[test]
fn everything_is_checked_if_asked_and_the_report_says_what_was_read() {
    let place = Place::new();
    let store = damaged_store(&place, &OpenOptions::new(), |_| {});
    // Less than is worth a run.
    assert!(store.recovery().opening.replayed_bytes < 400);
    assert_eq!(store.stats().opening, store.recovery().opening);
    store.enqueue_job("later", b"job").unwrap();
    let len = store.stats().log_len;
    let snapshot = Snapshot::open(place.path(), &key()).unwrap();
    assert!(snapshot.stats().opening.by_index && (64..300).contains(&snapshot.stats().opening.replayed_bytes));
    drop(store);
    let mut image = Image::read(place.path());
    let frame = image.frames()[2].start;
    image.flip(frame + 60).write(place.path());
    let error = replaying().open(place.path(), &key()).unwrap_err();
    assert!(matches!(error, Error::Corrupt { offset, .. } if offset == frame as u64), "{error:?}");
    let store = Store::open(place.path(), &key()).unwrap();
    assert!(store.recovery().opening.by_index);
    image.flip(frame + 60).write(place.path());
    drop(store);
    let store = replaying().open(place.path(), &key()).unwrap();
    let opening = store.recovery().opening;
    assert!(!opening.by_index && opening.replayed_bytes >= len - 8192, "{opening:?}");
}

/// Damage after the frames that the index file knows has the verdict and the offset that a replay has, also if
/// there is more damage before.
#[test]
fn a_fault_after_the_last_run_is_reported_as_by_a_replay() {
    let place = Place::new();
    let store = indexed().open(place.path(), &key()).unwrap();
    for number in 0..10 {
        store.enqueue_job(&format!("job-{number}"), &[number; 100]).unwrap();
        if number == 6 {
            fs::copy(index_of(&place.path()), place.at("early")).unwrap();
        }
    }
    let pair = Pair::read(&place.path()).with(&fs::read(place.at("early")).unwrap());
    let frames = pair.log.frames();
    for (early, late) in [(None, 8), (Some(2), 8), (None, 9), (Some(0), 9)] {
        let mut pair = pair.clone();
        for frame in early.into_iter().chain([late]) {
            let at = frames[frame].start + 60;
            pair.log.flip(at);
        }
        let place = Place::new();
        pair.write(&place.path());
        let by_index = OpenOptions::new().open(place.path(), &key()).map(|store| store.queue_depth());
        pair.write(&place.path());
        let by_replay = replaying().open(place.path(), &key()).map(|store| store.queue_depth());
        match (&by_index, &by_replay) {
            (Err(a), Err(b)) => assert_eq!(a.to_string(), b.to_string()),
            // Only the last frame is damaged, which nothing vouches for.
            (Ok(a), Ok(b)) => assert_eq!(a, b),
            (Ok(_), Err(_)) if early.is_some() && late == 9 => {}
            _ => panic!("{early:?}, {late}: {by_index:?}, {by_replay:?}"),
        }
    }
    drop(store);
    assert_eq!(
        verify(place.path(), Some(&key())).unwrap().faults.iter().filter(|it| it.kind == FaultKind::Index).count(),
        0
    );
}

/// Writes to the store while its index file is written anew.
#[derive(Clone, Default)]
struct Meanwhile {
    store: Arc<Mutex<Option<Arc<Store>>>>,
    /// The number of the last frame before and after.
    seqs: Arc<Mutex<Option<(u64, u64)>>>,
}

impl fmt::Debug for Meanwhile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Meanwhile")
    }
}

impl Hooks for Meanwhile {
    fn opened(&self, path: &Path) {
        let store = self.store.lock().unwrap().take_if(|_| path.to_string_lossy().ends_with(".index.new"));
        let Some(store) = store else { return };
        let before = store.stats().seq;
        for number in 0..3 {
            store.enqueue_job(&format!("meanwhile-{number}"), &[number; 100]).unwrap();
        }
        assert!(store.ack_job("job-0").unwrap());
        store.enqueue_job("job-1", b"replaced meanwhile").unwrap();
        *self.seqs.lock().unwrap() = Some((before, store.stats().seq));
    }
}

/// The files of a store that was written to while its index file was written anew: so the first run has keys of
/// frames after the one where a replay continues. And how many frames there were before and after.
fn written_meanwhile(path: &Path) -> (Pair, usize, usize) {
    let hooks = Meanwhile::default();
    let mut options = options_on(Arc::new(Hooked { hooks: hooks.clone(), ..Hooked::default() }));
    index_every(&mut options, 700).compaction(policy(|policy| policy.automatic = false));
    let store = Arc::new(options.open(path, &key()).unwrap());
    *hooks.store.lock().unwrap() = Some(Arc::clone(&store));
    for number in 0..4 {
        store.enqueue_job(&format!("job-{number}"), &[number; 100]).unwrap();
    }
    let pair = Pair::read(path);
    let (before, after) = hooks.seqs.lock().unwrap().unwrap();
    assert_eq!((pair.log.frames().len() as u64, after - before), (after, 5));
    (pair, before as usize, after as usize)
}

#[test]
fn a_run_that_was_written_in_use_fits_only_a_log_with_all_that_it_may_have() {
    let place = Place::new();
    let (pair, before, after) = written_meanwhile(&place.path());
    let (used, state) = agree(&pair, "whole");
    assert!(used && state.job("job-0").is_none() && state.job("meanwhile-2").is_some(), "{state:?}");
    // The store goes on, and so does the index file.
    let on = Place::new();
    pair.write(&on.path());
    let store = indexed().open(on.path(), &key()).unwrap();
    for number in 0..20 {
        store.ack_job(&format!("meanwhile-{number}")).unwrap();
        store.enqueue_job(&format!("later-{number}"), &[number; 100]).unwrap();
        assert!(agree(&Pair::read(&on.path()), "continued").0);
    }
    drop(store);
    // A log that a power cut has made shorter has less than the run says.
    for count in before..after {
        let mut cut = pair.clone();
        let end = cut.log.frames()[count].start;
        cut.log.without_marks().cut(end);
        assert!(!agree(&cut, &format!("{count} frames")).0);
    }
}

/// No key is needed to put bytes of one log into a value of another one, and to make its CRC right. Such a log has
/// the last frame of the run at its offset, and a frame with its number, but they are not the same.
#[test]
fn a_run_does_not_fit_a_fork_that_has_its_last_frame_inside_a_value() {
    let place = Place::new();
    let (pair, before, after) = written_meanwhile(&place.path());
    let frames = pair.log.frames();
    let mut fork = pair.clone();
    fork.index = None;
    fork.log.without_marks().cut(frames[before].start);
    fork.write(&place.path());
    let store = replaying().open(place.path(), &key()).unwrap();
    store.enqueue_job("big", &[7; 4000]).unwrap();
    for number in 0..9 {
        store.enqueue_job(&format!("of the fork {number}"), b"job").unwrap();
    }
    store.close().unwrap();
    fork = Pair::read(&place.path());
    let (big, last) = (fork.log.frames()[before].clone(), frames[after - 1].clone());
    assert!(big.start < last.start && last.end < big.end - 16);
    fork.log.splice(last.clone(), &pair.log.bytes[last]).fix_crc(big.start);
    for index in [None, pair.index] {
        Pair { index, ..fork.clone() }.write(&place.path());
        let snapshot = Snapshot::open(place.path(), &key()).unwrap();
        let store = OpenOptions::new().open(place.path(), &key()).unwrap();
        assert!(!store.recovery().opening.by_index && !snapshot.stats().opening.by_index);
        assert_eq!((store.queue_depth(), snapshot.queue_depth()), (14, 14));
        assert_eq!(store.job("job-1").unwrap().unwrap().payload, [1; 100]);
    }
}

/// With the real thread. The files are copied while writers are at work, as a kill would leave them.
#[test]
fn runs_that_a_thread_writes_while_eight_others_use_the_store_agree_with_the_log() {
    for folder in disk_and_memory() {
        let path = folder.path().join("state.db");
        let store = OpenOptions::new().open(&path, &key()).unwrap();
        let is_memory = folder.path().starts_with("/dev/shm");
        let (rounds, per_round) = if is_memory { (6, 150) } else { (3, 25) };
        let mut used = 0;
        for round in 0..rounds {
            thread::scope(|scope| {
                for writer in 0..8 {
                    let store = &store;
                    scope.spawn(move || {
                        for i in 0..per_round {
                            let id = |i: usize| format!("{round}-{writer}-{i}");
                            store.enqueue_job(&id(i), &[i as u8; 2000]).unwrap();
                            store.buffer_log(i as i64, b"event").unwrap();
                            if i % 3 == 2 {
                                store.ack_job(&id(i - 1)).unwrap();
                                store.drain_logs(1).unwrap();
                            }
                        }
                    });
                }
            });
            // The index file first: the log has at least what it knows.
            let index = fs::read(index_of(&path)).ok();
            let pair = Pair { log: Image::read(&path), index };
            used += usize::from(agree(&pair, &format!("round {round}")).0);
        }
        assert!(!is_memory || used >= 2, "{used}");
        let jobs = store.queue_depth();
        store.close().unwrap();
        let store = OpenOptions::new().open(&path, &key()).unwrap();
        assert_eq!((store.recovery().opening.by_index, store.queue_depth()), (true, jobs));
    }
}

/// Makes the store write a run of its index file after each call.
fn indexed_each() -> OpenOptions {
    let mut options = OpenOptions::new();
    index_every(&mut options, 1).compaction(policy(|policy| policy.automatic = false));
    options
}

/// Two forks differ in the last frame of a run, and in no frame before it.
#[test]
fn a_run_does_not_fit_a_fork_that_begins_with_its_last_frame() {
    let (place, fork) = (Place::new(), Place::new());
    let store = indexed_each().open(place.path(), &key()).unwrap();
    store.enqueue_job("job", b"first").unwrap();
    // As if the machine had been copied while it ran.
    Pair::read(&place.path()).write(&fork.path());
    store.enqueue_job("job", b"of the main log").unwrap();
    let main = Pair::read(&place.path());
    let store = indexed_each().open(fork.path(), &key()).unwrap();
    store.enqueue_job("job", b"of the fork ...").unwrap();
    let forked = Pair::read(&fork.path());
    for (log, index) in [(&main, &forked), (&forked, &main)] {
        assert!(agree(&log.with(index.index.as_ref().unwrap()), "of a fork").0);
    }
}

#[test]
fn a_key_that_was_replaced_and_deleted_since_the_last_run_is_gone() {
    let place = Place::new();
    let store = indexed().open(place.path(), &key()).unwrap();
    for number in 0..4 {
        store.enqueue_job(&format!("job-{number}"), &[number; 300]).unwrap();
    }
    store.write(&Batch::new().enqueue_job("job-0", &[9; 600]).ack_job("job-0")).unwrap();
    let (used, state) = agree(&Pair::read(&place.path()), "replaced and deleted");
    assert!(used && state.job("job-0").is_none());
}

/// What is removed after an index file was written in use is removed by the next run too.
#[test]
fn a_key_that_was_put_while_the_file_was_written_can_be_removed_later() {
    let place = Place::new();
    let hooks = Meanwhile::default();
    let mut options = options_on(Arc::new(Hooked { hooks: hooks.clone(), ..Hooked::default() }));
    index_every(&mut options, 700).compaction(policy(|policy| policy.automatic = false));
    let store = Arc::new(options.open(place.path(), &key()).unwrap());
    *hooks.store.lock().unwrap() = Some(Arc::clone(&store));
    for number in 0..4 {
        store.enqueue_job(&format!("job-{number}"), &[number; 100]).unwrap();
    }
    assert!(hooks.seqs.lock().unwrap().is_some());
    for number in 0..3 {
        assert!(store.ack_job(&format!("meanwhile-{number}")).unwrap());
        store.enqueue_job(&format!("later-{number}"), &[number; 700]).unwrap();
        assert!(agree(&Pair::read(&place.path()), "continued").0);
    }
}

/// Puts a key while an index file is written, and removes it once it has been copied.
#[derive(Clone, Default)]
struct PutAndRemoved {
    store: Arc<Mutex<Option<Arc<Store>>>>,
    steps: Arc<Mutex<u32>>,
}

impl fmt::Debug for PutAndRemoved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PutAndRemoved")
    }
}

impl PutAndRemoved {
    fn step(&self, step: u32, make: impl FnOnce(&Store)) {
        if let Some(store) = &*self.store.lock().unwrap() {
            let mut steps = self.steps.lock().unwrap();
            if *steps == step {
                *steps += 1;
                drop(steps);
                make(store);
            }
        }
    }
}

impl Hooks for PutAndRemoved {
    fn open(&self, path: &Path) -> std::io::Result<bool> {
        Ok(path.to_string_lossy().ends_with(".index.new"))
    }

    fn opened(&self, path: &Path) {
        if path.to_string_lossy().ends_with(".index.new") {
            self.step(0, |store| {
                assert_eq!(store.enqueue_job("0", b"meanwhile").unwrap(), backupy_state::Enqueued::Added);
            });
        }
    }

    fn write<'a>(&self, bytes: &'a [u8], _: u64) -> std::borrow::Cow<'a, [u8]> {
        if bytes.len() > 30_000 {
            self.step(1, |store| assert!(store.ack_job("0").unwrap()));
        }
        bytes.into()
    }
}

#[test]
fn a_key_that_was_put_copied_and_removed_while_the_file_was_written_is_gone() {
    let place = Place::new();
    let hooks = PutAndRemoved::default();
    let mut options = options_on(Arc::new(Hooked { hooks: hooks.clone(), ..Hooked::default() }));
    index_every(&mut options, 200_000).compaction(policy(|policy| policy.automatic = false));
    let store = Arc::new(options.open(place.path(), &key()).unwrap());
    *hooks.store.lock().unwrap() = Some(Arc::clone(&store));
    // More than a part of a run, and more keys than are copied at once.
    let long = "x".repeat(1000);
    let jobs = (0..600).fold(Batch::new(), |batch, i| batch.enqueue_job(&format!("{i:03}{long}"), b"job"));
    store.write(&jobs).unwrap();
    assert_eq!(*hooks.steps.lock().unwrap(), 2);
    assert!(agree(&Pair::read(&place.path()), "begun").0);
    store.save_config(1, &[7; 300_000]).unwrap();
    let (used, state) = agree(&Pair::read(&place.path()), "continued");
    assert!(used && state.job("0").is_none());
}

/// How many syncs there were, how many before the call, and how many before the end of the run.
type Syncs = (u32, Option<u32>, Option<u32>);

/// Makes a buffered call that the sync before a run does not cover.
#[derive(Clone, Default)]
struct Uncovered {
    store: Arc<Mutex<Option<Arc<Store>>>>,
    syncs: Arc<Mutex<Syncs>>,
    during_a_sync: bool,
}

impl fmt::Debug for Uncovered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Uncovered")
    }
}

impl Uncovered {
    fn make(&self) {
        if let Some(store) = self.store.lock().unwrap().take() {
            store.record_heartbeat(7).unwrap();
            let mut syncs = self.syncs.lock().unwrap();
            syncs.1 = Some(syncs.0);
        }
    }
}

impl Hooks for Uncovered {
    fn open(&self, path: &Path) -> std::io::Result<bool> {
        Ok(path.to_string_lossy().contains(".index"))
    }

    fn opened(&self, path: &Path) {
        if !self.during_a_sync && path.to_string_lossy().ends_with(".index.new") {
            self.make();
        }
    }

    fn sync(&self) {
        self.syncs.lock().unwrap().0 += 1;
        if self.during_a_sync {
            self.make();
        }
    }

    fn write<'a>(&self, bytes: &'a [u8], _: u64) -> std::borrow::Cow<'a, [u8]> {
        // The end of a run.
        if bytes.get(4..8) == Some(&[2, 0, 0, 0]) {
            let mut syncs = self.syncs.lock().unwrap();
            if syncs.1.is_some() && syncs.2.is_none() {
                syncs.2 = Some(syncs.0);
            }
        }
        bytes.into()
    }
}

#[test]
fn a_run_ends_only_after_a_sync_has_covered_its_frames() {
    for during_a_sync in [false, true] {
        let place = Place::new();
        let hooks = Uncovered { during_a_sync, ..Uncovered::default() };
        let disk = Hooked { hooks: hooks.clone(), disk: Arc::new(backupy_state::testing::Disk) };
        let mut options = options_on(Arc::new(disk));
        index_every(&mut options, 1).heartbeat_durability(backupy_state::Durability::Buffered);
        let store = Arc::new(options.open(place.path(), &key()).unwrap());
        if during_a_sync {
            // The run that is continued.
            store.enqueue_job("first", b"job").unwrap();
        }
        *hooks.store.lock().unwrap() = Some(Arc::clone(&store));
        store.enqueue_job("job", b"job").unwrap();
        let (_, before, end) = *hooks.syncs.lock().unwrap();
        assert!(end.unwrap() > before.unwrap(), "{before:?}, {end:?}, during a sync: {during_a_sync}");
    }
}

/// A run with the same number, of an index file that the same log has had before.
#[test]
fn a_run_that_does_not_begin_where_the_one_before_it_ended_does_not_fit() {
    let place = Place::new();
    let store = indexed().open(place.path(), &key()).unwrap();
    for number in 0..3 {
        store.enqueue_job(&format!("job-{number}"), &[number; 500]).unwrap();
    }
    let old = Pair::read(&place.path()).index.unwrap();
    drop(store);
    fs::remove_file(index_of(&place.path())).unwrap();
    let store = indexed().open(place.path(), &key()).unwrap();
    for number in 3..6 {
        store.enqueue_job(&format!("job-{number}"), &[number; 500]).unwrap();
    }
    let new = Pair::read(&place.path());
    let (old_runs, new_runs) = (runs(&old), runs(new.index.as_ref().unwrap()));
    assert!(old_runs.len() > 1 && new_runs.len() > 1);
    let spliced = [&old[..64], old_runs[0], new_runs[1]].concat();
    assert!(agree(&new.with(&spliced), "spliced").0);
}

/// The first runs of two forks end at one frame. That of one fork was written while a job was acked, and the
/// second run of the other one has no reason to delete that job.
#[test]
fn a_run_does_not_fit_after_another_one_than_that_after_which_it_was_written() {
    let place = Place::new();
    let hooks = Meanwhile::default();
    let mut options = options_on(Arc::new(Hooked { hooks: hooks.clone(), ..Hooked::default() }));
    index_every(&mut options, 20_000).compaction(policy(|policy| policy.automatic = false));
    let store = Arc::new(options.open(place.path(), &key()).unwrap());
    for number in 0..4 {
        store.enqueue_job(&format!("job-{number}"), &[number; 6000]).unwrap();
    }
    *hooks.store.lock().unwrap() = Some(Arc::clone(&store));
    store.compact().unwrap();
    let (before, _) = hooks.seqs.lock().unwrap().unwrap();
    let one = Pair::read(&place.path());
    assert!(agree(&one, "one fork").0);

    let fork = Place::new();
    let mut other = Pair { index: None, ..one.clone() };
    let base_end = one.log.frames()[before as usize].start;
    other.log.without_marks().cut(base_end);
    other.write(&fork.path());
    options.open(fork.path(), &key()).unwrap().close().unwrap();
    let store = indexed().open(fork.path(), &key()).unwrap();
    assert!(store.recovery().opening.by_index);
    // So long that the values of the first fork end before the end of the run.
    store.enqueue_job("later", &[7; 6000]).unwrap();
    let other = Pair::read(&fork.path());
    assert!(agree(&other, "the other fork").0);

    let (one, of_other) = (one.index.unwrap(), other.index.as_ref().unwrap());
    assert_eq!(runs(of_other).len(), 2);
    let spliced = [&one[..64], runs(&one)[0], runs(of_other)[1]].concat();
    let (used, state) = agree(&other.with(&spliced), "spliced");
    assert!(!used && state.job("job-0").is_some());
}

#[test]
fn an_index_file_with_another_header_is_not_used() {
    let place = Place::new();
    let (kept, _) = sessions(9, &place.path());
    let pair = kept.last().unwrap();
    for at in 0..64 {
        let mut index = pair.index.clone().unwrap();
        index[at] ^= 1;
        assert!(!agree(&pair.with(&index), &format!("flipped at {at}")).0);
    }
}

#[test]
fn a_record_at_the_end_of_a_run_that_the_mark_names_is_unclean() {
    let place = Place::new();
    let store = indexed_each().open(place.path(), &key()).unwrap();
    store.enqueue_job("job", b"job").unwrap();
    let mut pair = Pair::read(&place.path());
    let frames = pair.log.frames();
    let last = frames.last().unwrap().clone();
    let tag = pair.log.tag_of(last.start);
    pair.log.put_mark(0, frames.len() as u64, last.end as u64, &tag);
    let other = Place::new();
    pair.write(&other.path());
    let store = OpenOptions::new().open(other.path(), &key()).unwrap();
    assert!(store.recovery().opening.by_index && !store.recovery().clean);
}

/// Another store takes the place of this one while its index file is written.
#[derive(Clone, Debug, Default)]
struct Replacing(Arc<Mutex<Option<(PathBuf, PathBuf)>>>);

impl Hooks for Replacing {
    fn opened(&self, path: &Path) {
        let moved = self.0.lock().unwrap().take_if(|_| path.to_string_lossy().ends_with(".index.new"));
        let Some((from, to)) = moved else { return };
        fs::rename(&from, &to).unwrap();
        fs::rename(index_of(&from), index_of(&to)).unwrap();
    }
}

#[test]
fn the_index_file_of_a_store_that_has_taken_the_place_is_left_alone() {
    let place = Place::new();
    let store = indexed_each().open(place.at("other.db"), &key()).unwrap();
    store.enqueue_job("of the other", b"job").unwrap();
    store.close().unwrap();
    let index = fs::read(index_of(&place.at("other.db"))).unwrap();
    let hooks = Replacing(Arc::new(Mutex::new(Some((place.at("other.db"), place.path())))));
    let mut options = options_on(Arc::new(Hooked { hooks, ..Hooked::default() }));
    let store = index_every(&mut options, 1).open(place.path(), &key()).unwrap();
    store.enqueue_job("job", b"job").unwrap();
    assert_eq!(fs::read(index_of(&place.path())).unwrap(), index);
    drop(store);
    assert_eq!(fs::read(index_of(&place.path())).unwrap(), index);
    assert!(!place.at("state.db.index.new").exists());
}

/// The disk is full once another store has taken the place.
#[derive(Clone, Debug, Default)]
struct ReplacingOnFullDisk {
    replacing: Replacing,
    is_full: Arc<AtomicBool>,
}

impl Hooks for ReplacingOnFullDisk {
    fn opened(&self, path: &Path) {
        let is_planned = || self.replacing.0.lock().unwrap().is_some();
        let was_planned = is_planned();
        self.replacing.opened(path);
        self.is_full.fetch_or(was_planned && !is_planned(), Ordering::Relaxed);
    }

    fn refuse(&self, call: Refusable) -> std::io::Result<()> {
        let is_full = self.is_full.load(Ordering::Relaxed);
        if is_full && call == Refusable::Write { Err(ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
}

#[test]
fn on_a_full_disk_the_index_file_of_a_store_that_has_taken_the_place_is_left_alone() {
    type Made<'a> = dyn Fn(&Store) -> Result<(), Error> + 'a;
    let calls: [(&str, &Made<'_>); 3] = [
        ("a compaction", &|store| store.compact().map(drop)),
        ("a put", &|store| store.enqueue_job("job", b"job").map(drop)),
        ("a run", &|store| store.enqueue_job("job", &[8; 500]).map(drop)),
    ];
    let mut changed = Vec::new();
    for (what, make) in calls {
        let place = Place::new();
        let store = indexed_each().open(place.at("other.db"), &key()).unwrap();
        store.enqueue_job("of the other", b"job").unwrap();
        store.close().unwrap();
        let index = fs::read(index_of(&place.at("other.db"))).unwrap();
        let hooks = ReplacingOnFullDisk::default();
        let mut options = options_on(Arc::new(Hooked { hooks: hooks.clone(), ..Hooked::default() }));
        if what == "a run" {
            index_every(&mut options, 1000);
        }
        let store = options.open(place.path(), &key()).unwrap();
        store.enqueue_job("first", &[7; 500]).unwrap();
        assert!(!index_of(&place.path()).exists());
        let moved = (place.at("other.db"), place.path());
        if what == "a run" {
            *hooks.replacing.0.lock().unwrap() = Some(moved);
        } else {
            fs::rename(&moved.0, &moved.1).unwrap();
            fs::rename(index_of(&moved.0), index_of(&moved.1)).unwrap();
            hooks.is_full.store(true, Ordering::Relaxed);
        }
        let made = make(&store);
        if fs::read(index_of(&place.path())).ok() != Some(index) {
            changed.push(what);
        }
        match what {
            "a compaction" => assert!(matches!(made, Err(Error::Replaced { .. })), "{made:?}"),
            "a put" => assert!(matches!(made, Err(Error::Full { .. })), "{made:?}"),
            _ => assert!(made.is_ok() && !place.at("other.db").exists(), "{made:?}"),
        }
    }
    assert!(changed.is_empty(), "the index file was removed or changed by {changed:?}");
}

#[test]
fn the_index_file_has_the_mode_of_its_log() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    indexed_each().open(place.path(), &key()).unwrap().close().unwrap();
    for mode in [0o640, 0o644] {
        fs::set_permissions(place.path(), fs::Permissions::from_mode(mode)).unwrap();
        let _ = fs::remove_file(index_of(&place.path()));
        let store = indexed_each().open(place.path(), &key()).unwrap();
        store.enqueue_job("job", b"job").unwrap();
        assert_eq!(fs::metadata(index_of(&place.path())).unwrap().permissions().mode() & 0o777, mode);
        drop(store);
    }
}

#[test]
fn the_order_of_the_latest_enqueue_is_kept_over_compaction() {
    let place = Place::new();
    let mut options = OpenOptions::new();
    let store = options.queue_order(QueueOrder::Fifo).open(place.path(), &key()).unwrap();
    for run_id in ["c", "a", "b", "c"] {
        store.enqueue_job(run_id, b"job").unwrap();
    }
    store.compact().unwrap();
    let ids: Vec<_> = store.dequeue_jobs(usize::MAX).unwrap().into_iter().map(|job| job.run_id).collect();
    assert_eq!(ids, ["a", "b", "c"].map(str::to_owned));
    for run_id in ["a", "c"] {
        store.enqueue_job(run_id, b"job").unwrap();
    }
    store.compact().unwrap();
    let ids: Vec<_> = store.dequeue_jobs(usize::MAX).unwrap().into_iter().map(|job| job.run_id).collect();
    assert_eq!(ids, ["b", "a", "c"].map(str::to_owned));
}
