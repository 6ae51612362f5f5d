//! The cases of recovery: what opening does with each, and that it changes nothing else. For changed bytes under
//! valid checksums, see `tampering.rs`; for every cut and flip, `cuts_and_flips.rs` and `damage.rs`.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use backupy_state::testing::{options_on, verify_on};
use backupy_state::{Durability, Error, FaultKind, verify};

use crate::common::{
    CountedDisk, FIRST_FRAME_AT, Image, Place, SLOT_LEN, SLOTS, State, Written, bare, closed, existing, key,
    names, open_image, unclean, write,
};

#[test]
fn no_file_is_a_new_store() {
    let place = Place::new();
    let store = place.open();
    let report = store.recovery();
    assert!(report.created && report.clean);
    assert_eq!((report.records, report.operations, report.quarantined_bytes), (0, 0, 0));
    assert_eq!(names(place.folder()), ["state.db", "state.db.lock"]);
}

#[test]
fn a_store_that_was_closed_is_clean_and_opening_it_changes_nothing() {
    let written = closed();
    let (place, store) = open_image(&written.image);
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
    let (place, store) = open_image(&written.image);
    let report = store.recovery();
    assert!(!report.clean && !report.created);
    assert_eq!((report.records, report.quarantined_bytes), (10, 0));
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
fn a_log_is_clean_if_the_mark_names_its_close_frame_whatever_its_length_is() {
    for zeros in [0, 1, 100, 300_000] {
        let mut written = closed();
        written.image.append(&vec![0; zeros]);
        let (_place, store) = open_image(&written.image);
        assert!(store.recovery().clean, "{zeros} zeros");
        assert_eq!(State::take(&store), *written.last());
    }
}

#[test]
fn a_close_frame_that_no_mark_names_is_unclean() {
    for lost in [&[0][..], &[1], &[0, 1]] {
        let mut written = closed();
        let (named, _) = written.image.proven().unwrap();
        lost.iter().for_each(|&slot| written.image.bytes[SLOTS[slot]..][..SLOT_LEN].fill(0));
        let is_lost = written.image.proven().is_none_or(|(seq, _)| seq < named);
        let (_place, store) = open_image(&written.image);
        assert_eq!(store.recovery().clean, !is_lost, "slots {lost:?}");
        assert_eq!(State::take(&store), *written.last());
    }
}

#[test]
fn a_record_that_the_mark_names_is_unclean() {
    let mut written = unclean();
    let last = written.image.frames().pop().unwrap();
    let tag = written.image.tag_of(last.start);
    written.image.put_mark(0, 10, last.end as u64, &tag);
    let (_place, store) = open_image(&written.image);
    assert!(!store.recovery().clean);
    assert_eq!(State::take(&store), *written.last());
}

#[test]
fn a_close_frame_that_later_records_follow_is_unclean() {
    let place = Place::new();
    closed().image.write(place.path());
    let store = place.open();
    store.enqueue_job("run-3", b"three").unwrap();
    let (_place, store) = open_image(&Image::read(place.path()));
    assert!(!store.recovery().clean);
    assert_eq!(store.recovery().records, 11);
}

#[test]
fn zeros_up_to_the_end_are_the_end_however_many_they_are() {
    for zeros in [1, 7, 8, 63, 4096, 300_000] {
        let mut written = bare();
        written.image.append(&vec![0; zeros]);
        let (_place, store) = open_image(&written.image);
        assert_eq!(store.recovery().quarantined, None, "{zeros} zeros");
        assert_eq!(State::take(&store), *written.last());
    }
}

#[test]
fn a_header_alone_is_an_empty_store_that_was_not_closed() {
    let mut written = closed();
    written.image.cut(FIRST_FRAME_AT);
    Place::new().assert_corrupt(&written.image, FIRST_FRAME_AT);
    written.image.without_marks();
    let (_place, store) = open_image(&written.image);
    assert!(!store.recovery().clean && !store.recovery().created);
    assert_eq!(State::take(&store), State::default());
}

#[test]
fn one_good_header_copy_is_enough_and_verify_reports_the_other() {
    for copy in [0, 2048] {
        let mut written = closed();
        written.image.splice(copy..copy + 116, &[0xAA; 116]);
        let (place, store) = open_image(&written.image);
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
    Place::new().assert_corrupt(&written.image, 0);
}

#[test]
fn a_torn_tail_is_quarantined_and_the_store_is_usable() {
    let mut written = bare();
    let torn = b"the beginning of a frame that never became whole";
    written.image.append(torn).append(&[0; 500]);
    let (place, store) = open_image(&written.image);
    let report = store.recovery();
    assert_eq!(report.quarantined.as_deref(), Some(store.path().with_file_name("state.db.torn-1").as_path()));
    assert_eq!((report.quarantined_bytes, report.records), (torn.len() as u64, 10));
    assert_eq!(fs::read(place.at("state.db.torn-1")).unwrap(), torn);

    store.enqueue_job("run-3", b"written where the tail was").unwrap();
    store.close().unwrap();
    let store = place.open();
    assert!(store.recovery().clean);
    assert_eq!(store.recovery().quarantined, None);
    assert_eq!(store.job("run-3").unwrap().unwrap().payload, b"written where the tail was");
    assert!(place.at("state.db.torn-1").exists(), "it is kept");
}

#[test]
fn each_torn_tail_gets_a_name_of_its_own_and_the_eight_newest_are_kept() {
    let place = Place::new();
    let Written { image, .. } = bare();
    for number in 1..=11_u8 {
        image.clone().append(&[number]).write(place.path());
        let report = place.try_open().unwrap().recovery().clone();
        assert!(report.quarantined.unwrap().ends_with(format!("state.db.torn-{number}")));
    }
    let kept = names(place.folder()).into_iter().filter(|name| name.contains(".torn"));
    let mut kept: Vec<_> = kept.map(|name| fs::read(place.at(&name)).unwrap()).collect();
    kept.sort();
    assert_eq!(kept, (4..=11).map(|number| vec![number]).collect::<Vec<_>>());
}

/// A crash may come between the copy and the cut.
#[test]
fn a_torn_tail_that_was_kept_before_is_not_kept_twice() {
    let place = Place::new();
    let Written { mut image, .. } = bare();
    image.append(b"the same tail");
    for _ in 0..3 {
        image.write(place.path());
        let report = place.try_open().unwrap().recovery().clone();
        assert!(report.quarantined.unwrap().ends_with("state.db.torn-1"));
    }
    assert!(!place.at("state.db.torn-2").exists());
}

#[test]
fn a_large_torn_tail_is_quarantined_whole() {
    let mut written = bare();
    let tail: Vec<u8> = (0..1_000_000_u32).map(|i| i.to_le_bytes()[0] | 1).collect();
    let end = written.image.len();
    written.image.append(&tail);
    Place::new().assert_torn(&written.image, end, written.last());
}

#[test]
fn records_that_no_sync_covered_are_torn_from_the_first_bad_one_on() {
    let place = Place::new();
    let (_store, states) = write(&place, Durability::Buffered);
    let image = Image::read(place.path());
    for (records, frame) in image.frames().into_iter().enumerate() {
        let mut damaged = image.clone();
        damaged.flip(frame.start + 50);
        Place::new().assert_torn(&damaged, frame.start, &states[records]);
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
        Place::new().assert_corrupt(&damaged, frame.start);
    }
}

#[test]
fn damage_before_a_record_that_vouches_for_it_is_refused_however_large_it_is() {
    let Written { image, .. } = unclean();
    let frames = image.frames();
    let mut zeroed = image.clone();
    zeroed.bytes[frames[2].start..frames[7].end].fill(0);
    Place::new().assert_corrupt(&zeroed, frames[2].start);
    let mut random = image.clone();
    random.bytes[FIRST_FRAME_AT..frames[8].end].fill(0xA5);
    Place::new().assert_corrupt(&random, FIRST_FRAME_AT);
}

#[test]
fn a_frame_of_another_store_does_not_check() {
    let Written { mut image, .. } = unclean();
    let other = unclean().image;
    let frame = image.frames()[3].clone();
    image.splice(frame.clone(), &other.bytes[frame.clone()]);
    Place::new().assert_corrupt(&image, frame.start);
}

#[test]
fn a_header_that_claims_a_huge_frame_costs_no_memory() {
    let Written { mut image, states } = bare();
    let last = image.frames().pop().unwrap();
    image.splice(last.start + 8..last.start + 12, &(64_u32 << 20).to_le_bytes());
    // Only the header's CRC can be made right: the body it claims is not there.
    image.fix_header_crc(last.start);
    Place::new().assert_torn(&image, last.start, &states[9]);
}

// ---- What recovery leaves on the disk ----

#[test]
fn a_torn_tail_does_not_get_a_name_that_is_taken() {
    let mut written = bare();
    written.image.append(b"torn");
    let place = Place::new();
    written.image.write(place.path());
    fs::create_dir(place.at("state.db.torn-1")).unwrap();
    std::os::unix::fs::symlink("nowhere", place.at("state.db.torn-2")).unwrap();
    let store = place.try_open().unwrap();
    assert!(store.recovery().quarantined.as_ref().unwrap().ends_with("state.db.torn-3"));
    assert_eq!(fs::read(place.at("state.db.torn-3")).unwrap(), b"torn");
    assert_eq!(State::take(&store), *written.last());
    assert!(!place.at("nowhere").exists());
}

#[test]
fn the_copy_of_a_torn_tail_is_for_its_owner_only() {
    let mut written = bare();
    written.image.append(b"torn");
    let (place, _store) = open_image(&written.image);
    assert_eq!(fs::metadata(place.at("state.db.torn-1")).unwrap().mode() & 0o777, 0o600);
}

#[test]
fn opening_twice_gives_the_same_as_opening_once() {
    let mut written = bare();
    written.image.append(b"torn");
    let (place, store) = open_image(&written.image);
    let once = Image::read(place.path());
    let place_of_once = Place::new();
    once.write(place_of_once.path());
    drop(store);
    let again = existing().open(place_of_once.path(), &key()).unwrap();
    assert_eq!(again.recovery().records, 10);
    assert_eq!(State::take(&again), *written.last());
}

/// Both records have the same number and the same key. If they had the same nonce too, AES-GCM would reveal both.
#[test]
fn a_record_in_the_place_of_a_torn_one_has_another_nonce() {
    let Written { mut image, .. } = bare();
    let last = image.frames().pop().unwrap();
    let nonce = |image: &Image| image.bytes[last.start + 32..last.start + 44].to_vec();
    let mut nonces = vec![nonce(&image)];
    image.flip(last.start + 50);
    for _ in 0..3 {
        let (place, store) = open_image(&image);
        store.record_heartbeat(1_700_000_000_001).unwrap();
        let again = Image::read(place.path());
        assert_eq!(again.frames().pop(), Some(last.clone()));
        nonces.push(nonce(&again));
    }
    nonces.sort();
    nonces.dedup();
    assert_eq!(nonces.len(), 4);
}

/// A log in which one record is so long that the next one begins `distance` bytes after its start.
fn far_apart(distance: usize) -> Image {
    let place = Place::new();
    let store = place.open();
    store.enqueue_job("run-1", b"one").unwrap();
    store.enqueue_job("run-2", b"").unwrap();
    let empty = Image::read(place.path()).frames()[1].len();
    store.ack_job("run-2").unwrap();
    store.enqueue_job("run-2", &vec![7; distance - empty]).unwrap();
    store.record_heartbeat(1).unwrap();
    let image = Image::read(place.path());
    assert_eq!(image.frames()[3].len(), distance);
    image
}

#[test]
fn a_frame_that_vouches_for_damage_is_found_at_any_distance() {
    // Around the length of one read, so that the header that vouches spans two reads; and far more than that.
    let once = 64 << 10;
    for distance in (once - 56..=once + 16).step_by(8).chain([3 * once, 4_000_000]) {
        let mut image = far_apart(distance);
        let long = image.frames()[3].start;
        image.flip(long + 8);
        Place::new().assert_corrupt(&image, long);
    }
}

/// A log of 25 jobs. Record 17 is damaged, and so are eight records before it, after which a reader without the
/// lock makes no more pauses. Records 18 to 20 vouch for the first 16, and those from 21 on for the first 17.
fn jobs_after_much_damage() -> Image {
    let place = Place::new();
    let store = place.open();
    for i in 0..25 {
        store.enqueue_job(&format!("run-{i}"), b"job").unwrap();
    }
    let mut image = Image::read(place.path());
    image.cut(image.end());
    for (i, frame) in image.frames().iter().enumerate() {
        if i >= 17 {
            let durable_seq = if i < 20 { 16 } else { 17 };
            vouch_for(&mut image, frame.start, durable_seq);
        }
        if i <= 16 && i % 2 == 0 {
            image.flip(frame.end - 1);
        }
    }
    image
}

/// Makes the header at an offset vouch for the frames up to `durable_seq`.
fn vouch_for(image: &mut Image, header_at: usize, durable_seq: u64) {
    image.bytes[header_at + 24..][..8].copy_from_slice(&durable_seq.to_le_bytes());
    image.fix_header_crc(header_at);
}

/// What a reader without the key reports: the number of faults, and where the last whole frame ends.
fn faults_and_end(image: &Image) -> (usize, u64) {
    let place = Place::new();
    image.write(place.path());
    let report = verify(place.path(), None).unwrap();
    assert!(report.torn_len > 0);
    (report.faults.len(), report.log_len)
}

#[test]
fn a_frame_that_vouches_for_damage_does_not_vouch_for_later_records() {
    let mut image = jobs_after_much_damage();
    let frames = image.frames();
    image.flip(frames[19].end - 1);
    assert_eq!(faults_and_end(&image), (9, frames[19].start as u64));
}

#[test]
fn a_record_does_not_vouch_for_the_one_whose_place_it_took() {
    let mut image = jobs_after_much_damage();
    let frames = image.frames();
    vouch_for(&mut image, frames[20].start, 20);
    image.cut(frames[20].end).flip(frames[20].end - 1).splice(frames[19].clone(), &[]);
    assert_eq!(faults_and_end(&image), (9, frames[19].start as u64));
}

/// A write in progress does not explain more damaged places than that, and each repeated read takes time.
#[test]
fn eight_places_that_look_damaged_are_looked_at_again_and_no_more() {
    let place = Place::new();
    let store = place.open();
    for i in 0..20 {
        store.enqueue_job(&format!("run-{i}"), b"job").unwrap();
    }
    let (disk, mut whole) = (CountedDisk::default(), Image::read(place.path()));
    drop(store);
    // Short enough for one read.
    whole.cut(whole.end());
    let reads = |damaged: usize| {
        let mut image = whole.clone();
        for frame in whole.frames().iter().step_by(2).take(damaged) {
            image.flip(frame.end - 1);
        }
        image.write(place.path());
        let verify = || verify_on(&disk, place.path(), None, |_| {}).unwrap();
        disk.reads_of(|| assert_eq!(verify().faults.len(), damaged))
    };
    let [seven, eight, nine] = [7, 8, 9].map(reads);
    assert!(seven < eight, "{seven}, {eight}");
    assert_eq!(eight, nine);
}

/// A writer may not have finished that frame, so a reader without the lock pauses before it reports damage. The
/// holder of the lock is the only writer, and need not.
#[test]
fn a_reader_pauses_before_it_reports_damage_and_the_writer_does_not() {
    let (place, mut image) = (Place::new(), unclean().image);
    image.flip(image.frames()[2].end - 1).write(place.path());
    let disk = CountedDisk::default();
    let pauses_ms =
        disk.pauses_ms_of(|| assert_eq!(verify_on(&disk, place.path(), None, |_| {}).unwrap().faults.len(), 1));
    assert_eq!(pauses_ms, 1 + 2 + 4 + 8 + 16);
    let options = options_on(Arc::new(disk.clone()));
    let opened = || assert!(matches!(options.open(place.path(), &key()), Err(Error::Corrupt { .. })));
    assert_eq!(disk.pauses_ms_of(opened), 0);

    // On the real disk, these are real pauses.
    let begun = Instant::now();
    assert!(!verify(place.path(), None).unwrap().is_intact());
    assert!(begun.elapsed() >= Duration::from_millis(pauses_ms));
}

/// After a failed sync, the page cache can show zeros where the disk has something else.
#[test]
fn bytes_after_the_last_record_that_only_the_disk_has_are_quarantined() {
    let Written { image: cached, states } = unclean();
    let (place, disk, end) = (Place::new(), CountedDisk::default(), cached.end());
    cached.write(place.path());
    let (mut on_disk, path) = (cached, place.path());
    on_disk.bytes[end..end + 100].fill(0xA5);
    // The first read is of the header, the second one of the log.
    disk.before_read(3, move || on_disk.write(path));
    let store = options_on(Arc::new(disk)).open(place.path(), &key()).unwrap();
    assert_eq!((store.recovery().records, store.recovery().quarantined_bytes), (10, 100));
    assert_eq!(State::take(&store), *states.last().unwrap());
}
