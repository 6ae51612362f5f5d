//! Snapshots while another process writes. The writer makes the same calls in every run, so the state that a
//! snapshot must show follows from a number in it.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use backupy_state::testing::open_snapshot_on;
use backupy_state::{Batch, Durability, Error, FaultKind, OpenOptions, Snapshot, Store, verify};

use crate::common::{
    Action, Child, CountedDisk, FIRST_FRAME_AT, Image, Place, Random, Shown, State, child_path, disk_and_memory,
    key, listing, names, say, spawn, test_binary,
};

/// The writer's calls. After each of them it records a heartbeat: the number of calls so far.
fn calls() -> impl Iterator<Item = Action> {
    let mut random = Random::new(11);
    std::iter::from_fn(move || {
        Some(match random.below(8) {
            // Long enough for a reader to find one half written.
            0 => {
                Action::Enqueue(format!("run-{}", random.below(12)), vec![random.next().to_le_bytes()[0]; 60_000])
            }
            _ => match Action::random(&mut random) {
                Action::Heartbeat(time) => Action::BufferLog(time, Vec::new()),
                action => action,
            },
        })
    })
}

/// The states that the writer goes through, kept up to the one that was shown last.
struct States {
    calls: Box<dyn Iterator<Item = Action>>,
    heartbeat: i64,
    state: State,
    next_call: Action,
}

impl States {
    fn new() -> Self {
        let mut calls = Box::new(calls());
        let next_call = calls.next().unwrap();
        States { calls, heartbeat: 0, state: State::default(), next_call }
    }

    /// Checks that the snapshot shows the state after some heartbeat, or after the call that follows it, and
    /// returns the heartbeat.
    fn assert_shown_by(&mut self, snapshot: &Snapshot) -> i64 {
        let heartbeat = snapshot.last_heartbeat().unwrap().unwrap_or(0);
        while self.heartbeat < heartbeat {
            self.state.apply(&self.next_call);
            self.heartbeat += 1;
            self.state.heartbeat = Some(self.heartbeat);
            self.next_call = self.calls.next().unwrap();
        }
        assert_eq!(self.heartbeat, heartbeat, "a snapshot never goes back");
        let shown = Shown::of(snapshot);
        let mut next = self.state.clone();
        next.apply(&self.next_call);
        assert!(shown == Shown::by(&self.state) || shown == Shown::by(&next), "heartbeat {heartbeat}");
        heartbeat
    }
}

#[test]
fn child_that_writes() {
    let Some(path) = child_path() else { return };
    let durability = if std::env::var_os("BUFFERED").is_some() { Durability::Buffered } else { Durability::Sync };
    let store = OpenOptions::new().durability(durability).open(&path, &key()).unwrap();
    let mut state = State::default();
    say("writing");
    for (call, heartbeat) in calls().zip(1..=CALLS) {
        call.run(&store, &mut state);
        Action::Heartbeat(heartbeat).run(&store, &mut state);
    }
    say("wrote all");
    loop {
        std::thread::park();
    }
}

const CALLS: i64 = 800;

fn writer(place: &Place) -> Child {
    let mut child = spawn(&mut test_binary("snapshots::child_that_writes", &place.path()));
    child.expect("writing");
    child
}

pub(crate) fn snapshot(path: impl AsRef<Path>) -> Snapshot {
    Snapshot::open(path, &key()).unwrap()
}

#[test]
fn a_refreshed_snapshot_shows_ever_later_states_and_never_half_a_record() {
    for buffered in [false, true] {
        let place = Place::new();
        let mut command = test_binary("snapshots::child_that_writes", &place.path());
        if buffered {
            command.env("BUFFERED", "1");
        }
        let mut child = spawn(&mut command);
        child.expect("writing");
        let mut states = States::new();
        let mut shown = snapshot(place.path());
        while states.assert_shown_by(&shown) < CALLS {
            child.assert_running();
            shown.refresh().unwrap();
        }
        child.expect("wrote all");
    }
}

#[test]
fn every_new_snapshot_shows_a_whole_state() {
    let place = Place::new();
    let mut child = writer(&place);
    let mut states = States::new();
    while states.assert_shown_by(&snapshot(place.path())) < CALLS {
        child.assert_running();
    }
}

#[test]
fn a_snapshot_keeps_its_view_until_it_is_refreshed() {
    let place = Place::new();
    let store = place.open();
    store.enqueue_job("run-1", b"first").unwrap();
    store.save_config(1, b"configuration").unwrap();
    store.buffer_log(1, b"event").unwrap();
    let mut shown = snapshot(place.path());
    store.enqueue_job("run-1", b"replaced").unwrap();
    store.enqueue_job("run-2", b"added").unwrap();
    store.save_config(2, b"").unwrap();
    store.drain_logs(1).unwrap();
    assert_eq!(shown.job("run-1").unwrap().unwrap().payload, b"first");
    assert_eq!(shown.job("run-2").unwrap(), None);
    assert_eq!(shown.load_config().unwrap().unwrap().version, 1);
    assert_eq!((shown.queue_depth(), shown.log_count()), (1, 1));
    store.close().unwrap();
    assert_eq!(shown.job("run-1").unwrap().unwrap().payload, b"first");

    shown.refresh().unwrap();
    assert_eq!(shown.job("run-1").unwrap().unwrap().payload, b"replaced");
    assert_eq!((shown.queue_depth(), shown.log_count()), (2, 0));
}

#[test]
fn a_snapshot_pages_through_the_queue_like_the_store() {
    let place = Place::new();
    let store = place.open();
    for id in ["d", "b", "f"] {
        store.enqueue_job(id, id.as_bytes()).unwrap();
    }
    let shown = snapshot(place.path());
    assert_eq!(shown.dequeue_jobs(2).unwrap(), store.dequeue_jobs(2).unwrap());
    assert_eq!(shown.dequeue_jobs_after("c", 9).unwrap(), store.dequeue_jobs_after("c", 9).unwrap());
    assert_eq!(shown.dequeue_jobs(0).unwrap(), []);
    assert!(matches!(shown.job(""), Err(Error::Invalid { .. })));
    assert!(matches!(shown.dequeue_jobs_after(&"x".repeat(1025), 1), Err(Error::TooLarge { .. })));
}

#[test]
fn a_snapshot_takes_no_lock_and_writes_nothing() {
    let place = Place::new();
    let store = place.open();
    store.enqueue_job("run-1", b"one").unwrap();
    let before = listing(place.folder());
    let mut shown = snapshot(place.path());
    shown.refresh().unwrap();
    assert_eq!(shown.queue_depth(), 1);
    assert_eq!(listing(place.folder()), before);
    store.close().unwrap();

    // Without a lock file, there is none afterwards; and the store can be opened while the snapshot lives.
    fs::remove_file(place.at("state.db.lock")).unwrap();
    shown.refresh().unwrap();
    let _another = snapshot(place.path());
    assert_eq!(names(place.folder()), ["state.db"]);
    assert!(place.try_open().is_ok());
}

#[test]
fn a_snapshot_of_a_killed_writer_shows_everything_up_to_the_torn_tail() {
    let place = Place::new();
    let mut child = writer(&place);
    let mut shown = snapshot(place.path());
    while shown.last_heartbeat().unwrap() < Some(20) {
        child.assert_running();
        shown.refresh().unwrap();
    }
    child.kill();
    let mut image = Image::read(place.path());
    let last = image.frames().pop().unwrap();
    // The next frame, of which only the first half got into the file.
    let half = image.bytes[last.start + 1..last.start + 1 + last.len() / 2].to_vec();
    // Right after a compaction, the log has almost no preallocated space.
    let until = image.len().min(last.end + half.len());
    image.splice(last.end..until, &half).write(place.path());

    let before = listing(place.folder());
    shown.refresh().unwrap();
    let mut states = States::new();
    let heartbeat = states.assert_shown_by(&shown);
    assert_eq!(states.assert_shown_by(&snapshot(place.path())), heartbeat);
    assert_eq!(listing(place.folder()), before);

    // The next writer cuts the tail off; the snapshot then reads what it writes there.
    let store = place.open();
    assert_eq!(store.last_heartbeat().unwrap(), Some(heartbeat));
    assert!(store.recovery().quarantined.is_some());
    store.enqueue_job("after the kill", b"new").unwrap();
    shown.refresh().unwrap();
    assert_eq!(shown.job("after the kill").unwrap().unwrap().payload, b"new");
}

#[test]
fn a_snapshot_stays_usable_while_the_store_is_closed_and_reopened() {
    let place = Place::new();
    let mut shown = {
        place.open().close().unwrap();
        snapshot(place.path())
    };
    let mut state = State::default();
    let mut random = Random::new(3);
    for _ in 0..5 {
        let store = place.open();
        for _ in 0..10 {
            Action::random(&mut random).run(&store, &mut state);
            shown.refresh().unwrap();
            assert_eq!(Shown::of(&shown), Shown::by(&state));
        }
        store.close().unwrap();
        shown.refresh().unwrap();
        assert_eq!(Shown::of(&shown), Shown::by(&state));
    }
}

/// The check that the file is still the one that was read must not cost what its last record is long.
#[test]
fn reading_many_values_of_one_large_record_reads_little_more_than_these() {
    const JOBS: usize = 500;
    let place = Place::new();
    let ids: Vec<String> = (0..JOBS).map(|i| format!("run-{i:03}")).collect();
    let batch = ids.iter().fold(Batch::new(), |batch, id| batch.enqueue_job(id, &[7; 1000]));
    let store = place.open();
    store.write(&batch).unwrap();
    let disk = CountedDisk::default();
    let shown = open_snapshot_on(Arc::new(disk.clone()), place.path(), &key()).unwrap();
    let read = disk.bytes_read_of(|| {
        assert_eq!(shown.jobs().map(Result::unwrap).count(), JOBS);
        assert_eq!(ids.iter().filter(|id| shown.job(id).unwrap().is_some()).count(), JOBS);
    });
    assert!(read < 2 * JOBS as u64 * 1200, "{read} bytes were read");
    // If its values cannot be read, the record is read once to know why. A byte of each is changed, and its CRC is
    // right.
    let mut image = Image::read(place.path());
    let frame = image.frames()[0].clone();
    let values_at = frame.end - JOBS * 1016;
    for job in 0..JOBS {
        image.flip(values_at + job * 1016);
    }
    image.fix_crc(frame.start).write(place.path());
    let read = disk.bytes_read_of(|| {
        assert_eq!(shown.jobs().filter(Result::is_err).count(), JOBS);
        assert_eq!(ids.iter().filter(|id| shown.job(id).is_err()).count(), JOBS);
    });
    assert!(read < 3 * JOBS as u64 * 1200, "{read} bytes were read");
}

/// A backup is copied over the log, and the next record takes the place of one that the snapshot has read. That
/// job is not damaged: to ack it would lose it.
#[test]
fn a_snapshot_whose_log_was_changed_under_it_blames_no_value() {
    let place = Place::new();
    let store = place.open();
    store.enqueue_job("run-1", b"one").unwrap();
    store.close().unwrap();
    let older = fs::read(place.path()).unwrap();
    let store = place.open();
    let batch = Batch::new().enqueue_job("run-2", b"two").save_config(1, b"one").put_data("key", b"value");
    store.write(&batch.record_heartbeat(1).buffer_log(1, b"event").save_session("id", 1)).unwrap();
    let mut shown = snapshot(place.path());
    store.close().unwrap();
    fs::write(place.path(), older).unwrap();
    let store = place.open();
    store.enqueue_job("run-3", &[3; 100]).unwrap();

    let jobs: Result<Vec<_>, _> = shown.jobs().collect();
    let errors = [
        shown.job("run-2").unwrap_err(),
        shown.dequeue_jobs(9).unwrap_err(),
        shown.load_config().unwrap_err(),
        shown.load_session().unwrap_err(),
        shown.last_heartbeat().unwrap_err(),
        shown.data("key").unwrap_err(),
        shown.peek_logs(9).unwrap_err(),
        jobs.unwrap_err(),
        shown.backup(place.at("backup.db")).unwrap_err(),
    ];
    let expected = "the log no longer has the last frame of this snapshot; refresh it";
    for error in errors {
        assert!(
            matches!(&error, Error::Unauthentic { what, run_id: None, data_key: None, .. } if *what == expected)
        );
        assert_eq!(error.to_string(), format!("{}: {expected}", place.path().display()));
    }
    shown.refresh().unwrap();
    assert_eq!(shown.dequeue_jobs(9).unwrap().len(), 2);
}

/// A failed sync has lost a sector of a record that nothing vouches for. It is a torn tail, and no job is at
/// fault.
#[test]
fn a_record_of_which_a_part_was_lost_is_refreshed_away() {
    for more in [0, 1] {
        let place = Place::new();
        let store = OpenOptions::new().durability(Durability::Buffered).open(place.path(), &key()).unwrap();
        store.enqueue_job("run-1", b"one").unwrap();
        let last = store.stats().log_len;
        store.enqueue_job("run-2", &[2; 3000]).unwrap();
        (0..more).for_each(|_| store.record_heartbeat(1).unwrap());
        let mut shown = snapshot(place.path());
        let crashed = fs::File::options().write(true).open(place.path()).unwrap();
        crashed.write_all_at(&[0; 512], (last + 1500) / 512 * 512).unwrap();

        let jobs: Result<Vec<_>, _> = shown.jobs().collect();
        for error in [shown.job("run-2").unwrap_err(), shown.dequeue_jobs(9).unwrap_err(), jobs.unwrap_err()] {
            assert!(error.to_string().ends_with("refresh it"), "{error}");
        }
        assert_eq!(shown.job("run-1").unwrap().unwrap().payload, b"one");
        shown.refresh().unwrap();
        assert_eq!((shown.queue_depth(), shown.job("run-2").unwrap()), (1, None));
    }
}

/// A damaged value is known to be damaged wherever a frame after it is durable. That says nothing of the records
/// at the end.
#[test]
fn a_damaged_value_does_not_make_a_later_record_that_was_lost_look_damaged() {
    // Close to the end, and far from it.
    for len in [0, 200_000] {
        let place = Place::new();
        let store = OpenOptions::new().durability(Durability::Buffered).open(place.path(), &key()).unwrap();
        let damaged = store.stats().log_len;
        store.enqueue_job("run-1", &[1; 3000]).unwrap();
        store.put_data("key", &vec![3; len]).unwrap();
        store.sync().unwrap();
        store.record_heartbeat(1).unwrap();
        let last = store.stats().log_len;
        store.enqueue_job("run-2", &[2; 3000]).unwrap();
        let mut shown = snapshot(place.path());
        let file = fs::File::options().write(true).open(place.path()).unwrap();
        file.write_all_at(&[0; 512], damaged + 1500).unwrap();
        if len > 0 {
            assert!(matches!(shown.job("run-1"), Err(Error::Unauthentic { run_id: Some(_), .. })));
        }
        file.write_all_at(&[0; 512], (last + 1500) / 512 * 512).unwrap();
        let error = shown.job("run-2").unwrap_err();
        assert!(error.to_string().ends_with("refresh it"), "{error}");
        assert!(matches!(shown.job("run-1"), Err(Error::Unauthentic { run_id: Some(_), .. })));
        assert!(matches!(shown.refresh(), Err(Error::Corrupt { .. })));
    }
}

#[test]
fn a_snapshot_sees_that_another_store_took_the_place() {
    let (place, other) = (Place::new(), Place::new());
    place.open().enqueue_job("run-1", b"one").unwrap();
    other.open().enqueue_job("run-2", b"two").unwrap();
    let mut shown = snapshot(place.path());
    fs::rename(other.path(), place.path()).unwrap();
    assert_eq!(shown.job("run-1").unwrap().unwrap().payload, b"one");
    shown.refresh().unwrap();
    assert_eq!(shown.job("run-1").unwrap(), None);
    assert_eq!(shown.job("run-2").unwrap().unwrap().payload, b"two");
}

#[test]
fn a_snapshot_whose_refresh_fails_keeps_its_view() {
    let place = Place::new();
    let store = place.open();
    store.enqueue_job("run-1", b"one").unwrap();
    let mut shown = snapshot(place.path());
    drop(store);
    fs::rename(place.path(), place.at("moved.db")).unwrap();
    assert!(matches!(shown.refresh(), Err(Error::NotFound { .. })));
    assert_eq!(shown.job("run-1").unwrap().unwrap().payload, b"one");
    fs::rename(place.at("moved.db"), place.path()).unwrap();
    assert!(shown.refresh().is_ok());
}

#[test]
fn damage_that_stays_is_reported() {
    let place = Place::new();
    let store = place.open();
    for i in 0..4 {
        store.enqueue_job(&format!("run-{i}"), b"payload").unwrap();
    }
    store.close().unwrap();
    let mut shown = snapshot(place.path());
    let mut image = Image::read(place.path());
    let frame = image.frames()[1].clone();
    image.flip(frame.start + 60).write(place.path());
    let error = Snapshot::open(place.path(), &key()).unwrap_err();
    assert!(matches!(error, Error::Corrupt { offset, .. } if offset == frame.start as u64), "{error:?}");
    // What was read before is not read again.
    assert!(shown.refresh().is_ok());
    assert_eq!(shown.job("run-0").unwrap().unwrap().payload, b"payload");
}

/// What looks like damage may be half written, so it is looked at up to six times, after the header. Each look
/// reads the mark and the bytes and, where no mark vouches for these, searches for a witness. Here the writer is
/// done before read `n`.
#[test]
fn what_only_looks_like_damage_is_looked_at_again() {
    for (is_marked, last_of_use) in [(true, 1 + 6 * 2), (false, 1 + 6 * 3 - 1)] {
        for n in 1..=last_of_use + 1 {
            let place = Place::new();
            let store = place.open();
            for i in 0..4 {
                store.enqueue_job(&format!("run-{i}"), b"payload").unwrap();
            }
            store.close().unwrap();
            let mut image = Image::read(place.path());
            image.without_space();
            if !is_marked {
                image.without_marks();
            }
            let whole = image.bytes.clone();
            let frame = image.frames()[1].clone();
            image.flip(frame.start + 60).write(place.path());
            let (disk, path) = (CountedDisk::default(), place.path());
            disk.before_read(n, move || fs::write(path, whole).unwrap());
            let opened = open_snapshot_on(Arc::new(disk), place.path(), &key());
            if n <= last_of_use {
                assert_eq!(opened.unwrap().queue_depth(), 4, "whole before read {n}");
            } else {
                assert!(matches!(opened, Err(Error::Corrupt { .. })), "{opened:?}");
            }
        }
    }
}

/// A mark names only frames that were in the file before it. So a reader reads the mark first.
#[test]
fn a_mark_that_is_written_during_a_look_is_no_sign_of_damage() {
    let place = Place::new();
    let store = place.open();
    store.enqueue_job("run-0", b"payload").unwrap();
    store.close().unwrap();
    let mut before = Image::read(place.path());
    let store = place.open();
    store.enqueue_job("run-1", b"payload").unwrap();
    store.close().unwrap();
    let mut after = Image::read(place.path());
    // Without the reserve, the file gets longer.
    for image in [&mut before, &mut after] {
        image.without_space();
    }
    for n in 1..=4 {
        before.write(place.path());
        let (disk, path, after) = (Arc::new(CountedDisk::default()), place.path(), after.clone());
        disk.before_read(n, move || after.write(path));
        let pauses_ms = disk.pauses_ms_of(|| {
            let shown = open_snapshot_on(Arc::clone(&disk) as Arc<_>, place.path(), &key()).unwrap();
            assert!((1..=2).contains(&shown.queue_depth()), "written before read {n}");
        });
        assert_eq!(pauses_ms, 0, "written before read {n}");
    }
}

/// A writer cuts off the preallocated space when it closes, and a torn tail when it opens.
#[test]
fn a_file_that_is_cut_between_a_look_at_its_length_and_a_read_is_looked_at_again() {
    let place = Place::new();
    let store = place.open();
    store.enqueue_job("run-0", b"payload").unwrap();
    store.enqueue_job("run-1", b"payload").unwrap();
    // As a killed process leaves it, without the preallocated space: no mark vouches for the second frame.
    let mut image = Image::read(place.path());
    drop(store);
    let (first_end, end) = (image.frames()[0].end as u64, image.end());
    image.cut(end).write(place.path());
    let (disk, path) = (CountedDisk::default(), place.path());
    // The first read is that of the header, the second one that of the mark.
    disk.before_read(3, move || {
        fs::OpenOptions::new().write(true).open(path).unwrap().set_len(first_end).unwrap();
    });
    let shown = open_snapshot_on(Arc::new(disk), place.path(), &key()).unwrap();
    assert_eq!(shown.queue_depth(), 1);
}

/// A failed sync can lose a record that a snapshot has shown. The next writer puts another one in its place.
#[test]
fn a_record_that_another_took_the_place_of_is_not_shown_with_its_bytes() {
    let place = Place::new();
    let store = place.open();
    store.enqueue_job("run-0", b"kept").unwrap();
    store.close().unwrap();
    let before = Image::read(place.path());
    let with = |run_id: &str, payload: &[u8]| {
        let fork = Place::new();
        before.write(fork.path());
        let store = fork.open();
        store.enqueue_job(run_id, payload).unwrap();
        Image::read(fork.path())
    };
    let (first, second) = (with("run-1", b"first"), with("run-2", b"other"));
    first.write(place.path());
    let mut shown = snapshot(place.path());
    assert_eq!(shown.job("run-1").unwrap().unwrap().payload, b"first");

    second.write(place.path());
    // The other value opens in this one's place, so only the frame shows that it is another one.
    let read = shown.job("run-1");
    assert!(matches!(read, Err(Error::Unauthentic { .. })), "{read:?}");
    shown.refresh().unwrap();
    assert_eq!(shown.job("run-1").unwrap(), None);
    assert_eq!(shown.job("run-2").unwrap().unwrap().payload, b"other");
}

/// Every value of an iterator is checked, and the rest would be no better.
#[test]
fn an_iterator_of_a_snapshot_ends_once_another_record_has_taken_the_place_of_one_it_shows() {
    let place = Place::new();
    let store = place.open();
    for id in ["run-0", "run-1"] {
        store.enqueue_job(id, b"kept").unwrap();
        store.buffer_log(1, b"event").unwrap();
    }
    store.close().unwrap();
    let before = Image::read(place.path());
    let with = |run_id: &str| {
        let fork = Place::new();
        before.write(fork.path());
        let store = fork.open();
        store.write(&Batch::new().enqueue_job(run_id, b"last").buffer_log(2, b"last")).unwrap();
        Image::read(fork.path())
    };
    with("run-2").write(place.path());
    let shown = snapshot(place.path());
    let (mut jobs, mut logs) = (shown.jobs(), shown.logs());
    assert_eq!(jobs.next().unwrap().unwrap().run_id, "run-0");
    assert_eq!(logs.next().unwrap().unwrap().payload, b"event");

    with("run-3").write(place.path());
    let (job, event) = (jobs.next().unwrap(), logs.next().unwrap());
    assert!(matches!(job, Err(Error::Unauthentic { run_id: None, .. })), "{job:?}");
    assert!(matches!(event, Err(Error::Unauthentic { .. })), "{event:?}");
    assert!(jobs.next().is_none() && logs.next().is_none());
}

#[test]
fn a_snapshot_of_a_store_that_is_being_created_is_not_found_or_whole() {
    for _ in 0..20 {
        let place = Place::new();
        let path = place.path();
        let creating = std::thread::spawn(move || Store::open(path, &key()).unwrap());
        loop {
            match Snapshot::open(place.path(), &key()) {
                Ok(shown) => break assert_eq!(shown.stats().seq, 0),
                Err(error) => assert!(matches!(error, Error::NotFound { .. }), "{error:?}"),
            }
        }
        drop(creating.join().unwrap());
    }
}

// ---- Every kind of reader, while a writer compacts ----

/// Some of the payloads are long enough for a reader to find one half written.
fn payload(number: u64) -> Vec<u8> {
    let len = if number.is_multiple_of(8) { 60_000 } else { 100 + 37 * (number % 8) };
    number.to_le_bytes().into_iter().cycle().take(len as usize).collect()
}

#[test]
fn child_that_compacts() {
    let Some(path) = child_path() else { return };
    let store = Store::open(&path, &key()).unwrap();
    say("writing");
    for number in 0.. {
        store.enqueue_job(&format!("run-{}", number % 12), &payload(number)).unwrap();
        if number % 3 == 2 {
            store.ack_job(&format!("run-{}", (number + 6) % 12)).unwrap();
        }
        if number % 20 == 19 {
            store.compact().unwrap();
        }
    }
}

/// Checks that each payload is one that the writer wrote. Returns the number of the newest.
pub(crate) fn newest_job(snapshot: &Snapshot) -> Option<u64> {
    let jobs = snapshot.dequeue_jobs(usize::MAX).unwrap();
    let number_of = |payload: &[u8]| u64::from_le_bytes(payload[..8].try_into().unwrap());
    assert!(jobs.iter().all(|job| job.payload == payload(number_of(&job.payload))));
    jobs.iter().map(|job| number_of(&job.payload)).max()
}

/// Returns how many marks are torn.
fn assert_intact(path: &Path, with_key: bool) -> u64 {
    let report = verify(path, with_key.then(key).as_ref()).unwrap();
    assert!(report.is_intact(), "{report:?}");
    report.torn_marks
}

/// A copy that was read from front to back, 4 KiB at a time.
struct Copied {
    image: Image,
    /// Whether the copy has bytes that the writer wrote after bytes before them were read.
    is_overtaken: bool,
}

fn copy_from_front(path: &Path) -> Copied {
    let log = fs::File::open(path).unwrap();
    let (mut bytes, mut page) = (Vec::new(), [0; 4096]);
    loop {
        match log.read_at(&mut page, bytes.len() as u64).unwrap() {
            0 => break,
            len => bytes.extend_from_slice(&page[..len]),
        }
    }
    // Frames are never changed. So where the log is another one by now, the copy has not got what came later.
    let mut now = vec![0; bytes.len()];
    let len = log.read_at(&mut now, 0).unwrap();
    now[len..].fill(0);
    let first_missing = (FIRST_FRAME_AT..bytes.len()).find(|&at| bytes[at] != now[at]);
    let is_overtaken = first_missing.is_some_and(|at| bytes[at..].iter().any(|&byte| byte != 0));
    Copied { image: Image { bytes }, is_overtaken }
}

/// In a copy that was overtaken, a frame may be missing that a later one vouches for. That is damage, but what
/// mark and base vouch for is there.
fn assert_damaged_only_after_the_mark(path: &Path, image: &Image) {
    let proven_end = image.proven().map_or(0, |(_, end)| end);
    for key in [Some(&key()), None] {
        let report = verify(path, key).unwrap();
        for fault in &report.faults {
            assert!(fault.kind == FaultKind::Damage && fault.offset >= proven_end, "{report:?}");
        }
    }
    match Snapshot::open(path, &key()) {
        Ok(shown) => drop(newest_job(&shown)),
        Err(Error::Corrupt { offset, .. }) => assert!(offset >= proven_end, "damage at {offset}"),
        Err(error) => panic!("{error:?}"),
    }
}

/// Runs rounds for two seconds, or until there were enough of them. A round tells whether it counts.
fn repeat(mut round: impl FnMut() -> bool) {
    let (started, mut rounds) = (Instant::now(), 0);
    while started.elapsed() < BUSY || rounds < ROUNDS_MIN {
        rounds += usize::from(round());
        assert!(started.elapsed() < 30 * BUSY, "only {rounds} rounds");
    }
}

const BUSY: Duration = Duration::from_secs(2);
const ROUNDS_MIN: usize = 20;

/// On the disk, and on a file system where a sync takes no time, so that there are many more calls.
#[test]
fn no_reader_takes_a_writer_that_compacts_for_damage() {
    for folder in disk_and_memory() {
        let (path, copy) = (&folder.path().join("state.db"), &folder.path().join("copy.db"));
        let mut child = spawn(&mut test_binary("snapshots::child_that_compacts", path));
        child.expect("writing");
        let first = snapshot(path).stats().generation;
        thread::scope(|threads| {
            threads.spawn(|| {
                let mut newest = None;
                repeat(|| {
                    let newer = newest_job(&snapshot(path));
                    assert!(newer >= newest, "a snapshot shows job {newer:?} after {newest:?}");
                    newest = newer;
                    true
                });
            });
            threads.spawn(|| {
                let (mut shown, mut newest) = (snapshot(path), None);
                repeat(|| {
                    shown.refresh().unwrap();
                    let newer = newest_job(&shown);
                    assert!(newer >= newest, "a snapshot shows job {newer:?} after {newest:?}");
                    newest = newer;
                    true
                });
            });
            for with_key in [true, false] {
                threads.spawn(move || {
                    repeat(|| {
                        assert_eq!(assert_intact(path, with_key), 0);
                        true
                    });
                });
            }
            threads.spawn(|| {
                repeat(|| {
                    let Copied { image, is_overtaken } = copy_from_front(path);
                    image.write(copy);
                    if is_overtaken {
                        assert_damaged_only_after_the_mark(copy, &image);
                        return false;
                    }
                    newest_job(&snapshot(copy));
                    // One of its marks may have been half written.
                    assert!([true, false].into_iter().all(|with_key| assert_intact(copy, with_key) <= 1));
                    true
                });
            });
        });
        child.assert_running();
        assert!(snapshot(path).stats().generation > first + 2);
    }
}
