//! Opening: what each sight means, what is done, and that nothing else changes. The oracle is the list of states
//! that the store went through while the log was written.

mod common;

use std::fs;
use std::os::unix::fs::MetadataExt;

use backupy_state::{Durability, Error, FaultKind, OpenOptions, Store, verify};
use common::{Action, HEADER_PAGE_LEN, Image, Place, State, existing, key, listing, names};

/// A log, and the state after each of its records: `states[0]` is empty.
struct Written {
    image: Image,
    states: Vec<State>,
}

impl Written {
    fn last(&self) -> &State {
        self.states.last().unwrap()
    }
}

fn actions() -> Vec<Action> {
    let text = |text: &str| text.as_bytes().to_vec();
    vec![
        Action::SaveConfig(7, text("configuration")),
        Action::Enqueue("run-1".into(), text("one")),
        Action::Enqueue("run-2".into(), text("two, a little longer")),
        Action::SaveSession("session".into(), -5),
        Action::BufferLog(20, text("later")),
        Action::BufferLog(10, text("earlier")),
        Action::Enqueue("run-1".into(), text("")),
        Action::Drain(1),
        Action::Ack("run-2".into()),
        Action::Heartbeat(1_700_000_000_000),
    ]
}

/// A small store, written with a sync after each call: every record but the last is vouched for.
fn write(place: &Place, durability: Durability) -> (Store, Vec<State>) {
    let store = OpenOptions::new().durability(durability).open(place.path(), &key()).unwrap();
    let mut states = vec![State::default()];
    for action in actions() {
        let mut state = states.last().unwrap().clone();
        assert!(action.run(&store, &mut state), "each action is a record");
        states.push(state);
    }
    (store, states)
}

fn closed() -> Written {
    let place = Place::new();
    let (store, states) = write(&place, Durability::Sync);
    store.close().unwrap();
    Written { image: Image::read(place.path()), states }
}

/// As a killed process leaves it: the close frame is not there, but the space ahead is, of which this is a part.
fn unclean() -> Written {
    let place = Place::new();
    let (_store, states) = write(&place, Durability::Sync);
    let mut image = Image::read(place.path());
    let end = image.end();
    assert!(image.len() > end + 5000);
    image.cut(end + 5000);
    Written { image, states }
}

/// The unclean log without the space ahead.
fn bare() -> Written {
    let Written { mut image, states } = unclean();
    let end = image.end();
    image.cut(end);
    Written { image, states }
}

/// Opens a log that can be opened.
fn open(image: &Image) -> (Place, Store) {
    let place = Place::new();
    image.write(place.path());
    let store = place.try_open().unwrap();
    (place, store)
}

/// Opens a log that must be refused, sees that nothing in the folder changes, and returns why.
fn refuse(image: &Image) -> Error {
    let place = Place::new();
    image.write(place.path());
    let before = listing(place.folder());
    let error = place.try_open().unwrap_err();
    assert_eq!(listing(place.folder()), before);
    error
}

fn assert_corrupt(image: &Image, expected: usize) {
    let error = refuse(image);
    assert!(matches!(error, Error::Corrupt { offset, .. } if offset == expected as u64), "{error:?}");
}

fn assert_unauthentic(image: &Image, expected: usize) {
    let error = refuse(image);
    assert!(matches!(error, Error::Unauthentic { offset, .. } if offset == expected as u64), "{error:?}");
}

/// Opens a log whose bytes from `end` on are a torn tail, sees where they are put, and what is left.
fn assert_torn(image: &Image, end: usize, expected: &State) {
    let (place, store) = open(image);
    let nonzero_end = image.bytes.iter().rposition(|&byte| byte != 0).unwrap() + 1;
    let tail = &image.bytes[end..nonzero_end];
    let report = store.recovery().clone();
    assert_eq!(report.bytes_set_aside, tail.len() as u64);
    assert_eq!(fs::read(report.set_aside.unwrap()).unwrap(), tail);
    assert!(!report.clean && !report.created);
    assert_eq!(Image::read(place.path()).bytes, image.bytes[..end]);
    assert_eq!(State::take(&store), *expected);
}

// ---- Every cut and every flipped byte ----

#[test]
fn every_cut_leaves_exactly_the_whole_records_or_is_refused() {
    let Written { image, states } = closed();
    let frames = image.frames();
    for len in 0..image.len() {
        let mut cut = image.clone();
        cut.cut(len);
        if len < 12 {
            assert!(matches!(refuse(&cut), Error::NotAStore { .. }), "cut at {len}");
            continue;
        }
        if len < HEADER_PAGE_LEN {
            assert_corrupt(&cut, 0);
            continue;
        }
        let whole = frames.iter().filter(|frame| frame.end <= len).count();
        let end = frames[..whole].last().map_or(HEADER_PAGE_LEN, |frame| frame.end);
        // A frame may begin with a zero: cut behind it, there is nothing to set aside.
        if cut.bytes[end..].iter().any(|&byte| byte != 0) {
            assert_torn(&cut, end, &states[whole]);
            continue;
        }
        let (place, store) = open(&cut);
        let report = store.recovery().clone();
        assert_eq!((report.clean, report.records, report.set_aside), (false, whole as u64, None));
        assert_eq!(names(place.folder()), ["state.db", "state.db.lock"]);
        assert_eq!(State::take(&store), states[whole]);
    }
}

#[test]
fn every_flipped_byte_of_a_closed_store_is_survived_set_aside_or_refused() {
    let Written { image, states } = closed();
    let frames = image.frames();
    let (close, records) = frames.split_last().unwrap();
    for mask in [0xFF, 0x01] {
        for at in 0..image.len() {
            let mut damaged = image.clone();
            damaged.bytes[at] ^= mask;
            if let Some(record) = records.iter().find(|record| record.contains(&at)) {
                assert_corrupt(&damaged, record.start);
            } else if close.contains(&at) {
                assert_torn(&damaged, close.start, states.last().unwrap());
            } else {
                let (_place, store) = open(&damaged);
                assert!(store.recovery().clean, "one header copy is enough, byte {at}");
                assert_eq!(State::take(&store), *states.last().unwrap());
            }
        }
    }
}

#[test]
fn every_flipped_byte_after_an_unclean_stop_is_refused_or_set_aside() {
    let Written { image, states } = unclean();
    let frames = image.frames();
    let (last, vouched_for) = frames.split_last().unwrap();
    for at in HEADER_PAGE_LEN..last.end {
        let mut damaged = image.clone();
        damaged.flip(at);
        match vouched_for.iter().find(|record| record.contains(&at)) {
            Some(record) => assert_corrupt(&damaged, record.start),
            None => assert_torn(&damaged, last.start, &states[states.len() - 2]),
        }
    }
}

#[test]
fn every_cut_of_the_last_record_before_zeros_is_a_torn_tail() {
    let Written { image, states } = unclean();
    let frames = image.frames();
    let last = frames.last().unwrap();
    // Its end may be zero anyway: then it is whole without it.
    let nonzero_end = last.start + image.bytes[last.clone()].iter().rposition(|&byte| byte != 0).unwrap() + 1;
    let nonzero_start = last.start + image.bytes[last.clone()].iter().position(|&byte| byte != 0).unwrap();
    for len in nonzero_start + 1..nonzero_end {
        let mut cut = image.clone();
        cut.bytes[len..].fill(0);
        assert_torn(&cut, last.start, &states[states.len() - 2]);
    }
}

#[test]
fn every_byte_in_the_space_ahead_that_is_not_zero_is_set_aside() {
    let written = unclean();
    let end = written.image.end();
    for at in [end, end + 1, end + 7, end + 8, end + 47, end + 48, end + 4096, written.image.len() - 1] {
        let mut damaged = written.image.clone();
        damaged.flip(at);
        assert_torn(&damaged, end, written.last());
    }
}

// ---- One test for each row of the table ----

#[test]
fn no_file_is_a_new_store() {
    let place = Place::new();
    let store = place.open();
    let report = store.recovery();
    assert!(report.created && report.clean);
    assert_eq!((report.records, report.operations, report.bytes_set_aside), (0, 0, 0));
    assert_eq!(names(place.folder()), ["state.db", "state.db.lock"]);
}

#[test]
fn a_store_that_was_closed_is_clean_and_opening_it_changes_nothing() {
    let written = closed();
    let (place, store) = open(&written.image);
    let report = store.recovery();
    assert!(report.clean && !report.created);
    assert_eq!((report.records, report.operations), (10, 10));
    store.close().unwrap();
    assert_eq!(Image::read(place.path()), written.image);
    assert_eq!(State::take(&place.open()), *written.last());
}

#[test]
fn a_store_that_was_not_closed_is_unclean_and_whole() {
    let written = unclean();
    let (place, store) = open(&written.image);
    let report = store.recovery();
    assert!(!report.clean && !report.created);
    assert_eq!((report.records, report.bytes_set_aside), (10, 0));
    assert_eq!(names(place.folder()), ["state.db", "state.db.lock"]);
    store.close().unwrap();
    let store = place.open();
    assert!(store.recovery().clean, "the close afterwards makes it clean");
    assert_eq!(State::take(&store), *written.last());
}

#[test]
fn a_dropped_store_is_as_clean_as_a_closed_one() {
    let place = Place::new();
    drop(write(&place, Durability::Buffered));
    assert!(place.open().recovery().clean);
}

#[test]
fn a_close_frame_before_the_end_of_the_file_is_unclean() {
    let mut written = closed();
    written.image.append(&[0; 100]);
    let (_place, store) = open(&written.image);
    assert!(!store.recovery().clean);
    assert_eq!(store.recovery().set_aside, None);
    assert_eq!(State::take(&store), *written.last());
}

#[test]
fn a_close_frame_that_later_records_follow_is_unclean() {
    let place = Place::new();
    closed().image.write(place.path());
    let store = place.open();
    store.enqueue_job("run-3", b"three").unwrap();
    let (_place, store) = open(&Image::read(place.path()));
    assert!(!store.recovery().clean);
    assert_eq!(store.recovery().records, 11);
}

#[test]
fn zeros_up_to_the_end_are_the_end_however_many_they_are() {
    for zeros in [1, 7, 8, 63, 4096, 300_000] {
        let mut written = bare();
        written.image.append(&vec![0; zeros]);
        let (_place, store) = open(&written.image);
        assert_eq!(store.recovery().set_aside, None, "{zeros} zeros");
        assert_eq!(State::take(&store), *written.last());
    }
}

#[test]
fn a_header_alone_is_an_empty_store_that_was_not_closed() {
    let mut written = closed();
    written.image.cut(HEADER_PAGE_LEN);
    let (_place, store) = open(&written.image);
    assert!(!store.recovery().clean && !store.recovery().created);
    assert_eq!(State::take(&store), State::default());
}

#[test]
fn one_good_header_copy_is_enough_and_verify_reports_the_other() {
    for copy in [0, 2048] {
        let mut written = closed();
        written.image.splice(copy..copy + 116, &[0xAA; 116]);
        let (place, store) = open(&written.image);
        let report = verify(place.path(), Some(&key())).unwrap();
        assert_eq!(report.faults.len(), 1);
        assert_eq!((report.faults[0].kind, report.faults[0].offset), (FaultKind::Header, copy as u64));
        assert_eq!(State::take(&store), *written.last());
    }
}

#[test]
fn two_bad_header_copies_are_a_damaged_header() {
    let mut written = closed();
    written.image.flip(100).flip(2048 + 30);
    assert_corrupt(&written.image, 0);
}

#[test]
fn a_torn_tail_is_set_aside_and_the_store_goes_on() {
    let mut written = bare();
    let torn = b"the beginning of a frame that never became whole";
    written.image.append(torn).append(&[0; 500]);
    let (place, store) = open(&written.image);
    let report = store.recovery();
    assert_eq!(report.set_aside.as_deref(), Some(store.path().with_file_name("state.db.torn").as_path()));
    assert_eq!((report.bytes_set_aside, report.records), (torn.len() as u64, 10));
    assert_eq!(fs::read(place.at("state.db.torn")).unwrap(), torn);

    store.enqueue_job("run-3", b"written where the tail was").unwrap();
    store.close().unwrap();
    let store = place.open();
    assert!(store.recovery().clean);
    assert_eq!(store.recovery().set_aside, None);
    assert_eq!(store.job("run-3").unwrap().unwrap().payload, b"written where the tail was");
    assert!(place.at("state.db.torn").exists(), "it is kept until there is another");
}

#[test]
fn a_torn_tail_replaces_an_older_one() {
    let place = Place::new();
    fs::write(place.at("state.db.torn"), "an older tail, and a longer one than the next").unwrap();
    let mut written = bare();
    written.image.append(b"newer").write(place.path());
    let _store = place.try_open().unwrap();
    assert_eq!(fs::read(place.at("state.db.torn")).unwrap(), b"newer");
}

#[test]
fn a_large_torn_tail_is_set_aside_whole() {
    let mut written = bare();
    let tail: Vec<u8> = (0..1_000_000_u32).map(|i| i.to_le_bytes()[0] | 1).collect();
    let end = written.image.len();
    written.image.append(&tail);
    assert_torn(&written.image, end, written.last());
}

#[test]
fn records_that_no_sync_covered_are_torn_from_the_first_bad_one_on() {
    let place = Place::new();
    let (_store, states) = write(&place, Durability::Buffered);
    let image = Image::read(place.path());
    for (records, frame) in image.frames().into_iter().enumerate() {
        let mut damaged = image.clone();
        damaged.flip(frame.start + 50);
        assert_torn(&damaged, frame.start, &states[records]);
    }
}

#[test]
fn a_sync_vouches_for_the_buffered_records_before_it() {
    let place = Place::new();
    let (store, _) = write(&place, Durability::Buffered);
    store.sync().unwrap();
    store.record_heartbeat(1).unwrap();
    let image = Image::read(place.path());
    for frame in &image.frames()[..10] {
        let mut damaged = image.clone();
        damaged.flip(frame.start + 50);
        assert_corrupt(&damaged, frame.start);
    }
}

#[test]
fn damage_before_a_record_that_vouches_for_it_is_refused_however_large_it_is() {
    let Written { image, .. } = unclean();
    let frames = image.frames();
    let mut zeroed = image.clone();
    zeroed.bytes[frames[2].start..frames[7].end].fill(0);
    assert_corrupt(&zeroed, frames[2].start);
    let mut random = image.clone();
    random.bytes[HEADER_PAGE_LEN..frames[8].end].fill(0xA5);
    assert_corrupt(&random, HEADER_PAGE_LEN);
}

#[test]
fn a_frame_of_another_store_does_not_check() {
    let Written { mut image, .. } = unclean();
    let other = unclean().image;
    let frame = image.frames()[3].clone();
    image.splice(frame.clone(), &other.bytes[frame.clone()]);
    assert_corrupt(&image, frame.start);
}

#[test]
fn a_header_that_claims_a_huge_frame_costs_no_memory() {
    let Written { mut image, states } = bare();
    let last = image.frames().pop().unwrap();
    image.splice(last.start + 8..last.start + 12, &(64_u32 << 20).to_le_bytes());
    // Only the header's CRC can be made right: the body it claims is not there.
    image.fix_header_crc(last.start);
    assert_torn(&image, last.start, &states[9]);
}

// ---- Tampering: the CRCs are right, the seals are not ----

#[test]
fn a_changed_manifest_is_unauthentic_even_with_right_crcs() {
    let Written { image, .. } = closed();
    for frame in image.frames() {
        let mut tampered = image.clone();
        tampered.flip(frame.start + 48).fix_crc(frame.start);
        assert_unauthentic(&tampered, frame.start);
    }
}

#[test]
fn every_byte_of_a_frame_header_is_under_the_seal() {
    let Written { image, .. } = closed();
    let frame = image.frames()[4].clone();
    // Behind the CRCs and the length, which would say where the next frame is.
    for at in frame.start + 12..frame.start + 48 {
        let mut tampered = image.clone();
        tampered.flip(at).fix_crc(frame.start);
        assert_unauthentic(&tampered, frame.start);
    }
}

#[test]
fn padding_that_is_not_zero_is_unauthentic() {
    let place = Place::new();
    let store = place.open();
    store.enqueue_job("run-1", b"odd").unwrap();
    store.close().unwrap();
    let mut image = Image::read(place.path());
    let frame = image.frames()[0].clone();
    let values_end = frame.start + 48 + manifest_len_of_a_job("run-1") + 16 + 3 + 16;
    assert!(values_end < frame.end);
    image.flip(frame.end - 1).fix_crc(frame.start);
    assert_unauthentic(&image, frame.start);
}

#[test]
fn a_removed_record_is_unauthentic() {
    let Written { image, .. } = closed();
    for frame in &image.frames()[..10] {
        let mut tampered = image.clone();
        tampered.splice(frame.clone(), &[]);
        assert_unauthentic(&tampered, frame.start);
    }
}

#[test]
fn a_repeated_record_is_unauthentic() {
    let Written { image, .. } = bare();
    for frame in image.frames() {
        let mut tampered = image.clone();
        tampered.splice(frame.end..frame.end, &image.bytes[frame.clone()]);
        assert_unauthentic(&tampered, frame.end);
    }
}

#[test]
fn swapped_records_are_unauthentic() {
    let Written { image, .. } = closed();
    let frames = image.frames();
    let both = frames[1].start..frames[2].end;
    let swapped = [&image.bytes[frames[2].clone()], &image.bytes[frames[1].clone()]].concat();
    let mut tampered = image.clone();
    tampered.splice(both.clone(), &swapped);
    assert_unauthentic(&tampered, both.start);
}

#[test]
fn a_record_of_a_fork_of_the_same_store_is_unauthentic() {
    let Written { image, .. } = bare();
    let fork = |payload: &[u8]| {
        let (place, store) = open(&image);
        store.enqueue_job("run-3", payload).unwrap();
        store.enqueue_job("run-4", payload).unwrap();
        Image::read(place.path())
    };
    let (mut ours, theirs) = (fork(b"ours"), fork(b"none"));
    let frame = ours.frames()[11].clone();
    assert_eq!(theirs.frames()[11], frame);
    ours.splice(frame.clone(), &theirs.bytes[frame.clone()]);
    assert_unauthentic(&ours, frame.start);
}

#[test]
fn a_changed_value_is_unauthentic_when_it_is_read_and_blocks_nothing_else() {
    let place = Place::new();
    let store = place.open();
    for id in ["a", "b", "c"] {
        store.enqueue_job(id, format!("payload of {id}").as_bytes()).unwrap();
    }
    store.close().unwrap();
    let mut image = Image::read(place.path());
    let frame = image.frames()[1].clone();
    let value_at = frame.start + 48 + manifest_len_of_a_job("b") + 16;
    image.flip(value_at).fix_crc(frame.start);
    image.write(place.path());

    let store = place.open();
    let is_b = |error: Error| matches!(error, Error::Unauthentic { run_id: Some(id), offset, .. } if id == "b" && offset == value_at as u64);
    assert!(is_b(store.dequeue_jobs(3).unwrap_err()));
    assert!(is_b(store.job("b").unwrap_err()));
    assert!(is_b(store.dequeue_jobs_after("a", 1).unwrap_err()));
    assert_eq!(store.job("a").unwrap().unwrap().payload, b"payload of a");
    assert_eq!(store.dequeue_jobs(1).unwrap()[0].run_id, "a");
    assert_eq!(store.dequeue_jobs_after("b", 3).unwrap()[0].run_id, "c");
    assert!(store.ack_job("b").unwrap());
    assert_eq!(store.dequeue_jobs(3).unwrap().len(), 2);
    store.close().unwrap();
    assert_eq!(place.open().dequeue_jobs(3).unwrap().len(), 2);
}

/// The manifest of one put into the queue: count, operation, key and value length.
fn manifest_len_of_a_job(run_id: &str) -> usize {
    4 + 4 + run_id.len() + 4
}

#[test]
fn a_changed_log_event_ends_the_drain_before_it_and_is_never_dropped_silently() {
    let place = Place::new();
    let store = place.open();
    for time in 1..=3 {
        store.buffer_log(time, b"event").unwrap();
    }
    store.close().unwrap();
    let mut image = Image::read(place.path());
    let frame = image.frames()[1].clone();
    let value_at = frame.start + 48 + (4 + 4 + 16 + 4) + 16;
    image.flip(value_at).fix_crc(frame.start);
    image.write(place.path());

    let store = place.open();
    assert_eq!(store.drain_logs(3).unwrap().len(), 1);
    assert!(matches!(store.drain_logs(3), Err(Error::Unauthentic { offset, .. }) if offset == value_at as u64));
    assert_eq!(store.log_count(), 2);
}

#[test]
fn a_changed_config_and_session_are_unauthentic_when_they_are_read() {
    let place = Place::new();
    let store = place.open();
    store.save_config(1, b"configuration").unwrap();
    store.save_session("session", 2).unwrap();
    store.record_heartbeat(3).unwrap();
    store.close().unwrap();
    let mut image = Image::read(place.path());
    for (frame, key_len) in image.frames().into_iter().zip([7, 7, 9]) {
        image.flip(frame.start + 48 + (4 + 4 + key_len + 4) + 16).fix_crc(frame.start);
    }
    image.write(place.path());
    let store = place.open();
    assert!(matches!(store.load_config(), Err(Error::Unauthentic { .. })));
    assert!(matches!(store.load_session(), Err(Error::Unauthentic { .. })));
    assert!(matches!(store.last_heartbeat(), Err(Error::Unauthentic { .. })));
}

// ---- What recovery leaves behind ----

#[test]
fn a_torn_tail_that_cannot_be_set_aside_is_not_cut_off() {
    let mut written = bare();
    written.image.append(b"torn");
    let place = Place::new();
    written.image.write(place.path());
    // A folder cannot be replaced by a file.
    fs::create_dir(place.at("state.db.torn")).unwrap();
    assert!(matches!(place.try_open(), Err(Error::Io { .. })));
    assert!(Image::read(place.path()) == written.image);
    fs::remove_dir(place.at("state.db.torn")).unwrap();
    assert_eq!(State::take(&place.try_open().unwrap()), *written.last());
}

#[test]
fn the_copy_of_a_torn_tail_is_for_its_owner_only() {
    let mut written = bare();
    written.image.append(b"torn");
    let (place, _store) = open(&written.image);
    assert_eq!(fs::metadata(place.at("state.db.torn")).unwrap().mode() & 0o777, 0o600);
}

#[test]
fn opening_twice_gives_the_same_as_opening_once() {
    let mut written = bare();
    written.image.append(b"torn");
    let (place, store) = open(&written.image);
    let once = Image::read(place.path());
    let place_of_once = Place::new();
    once.write(place_of_once.path());
    drop(store);
    let again = existing().open(place_of_once.path(), &key()).unwrap();
    assert_eq!(again.recovery().records, 10);
    assert_eq!(State::take(&again), *written.last());
}
