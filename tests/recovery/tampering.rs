//! Logs that fail authentication: their CRCs are right, and their seals, order or numbers are wrong.

use backupy_state::{
    Durability, Error, FaultKind, Jobs, LogLimits, Logs, OnDamage, OpenOptions, RunIds, Snapshot, verify,
};

use crate::common::{FIRST_FRAME_AT, Image, Place, Written, bare, closed, key, open_image};

#[test]
fn a_changed_manifest_is_unauthentic_even_with_right_crcs() {
    let Written { image, .. } = closed();
    for frame in image.frames() {
        let mut tampered = image.clone();
        tampered.flip(frame.start + 48).fix_crc(frame.start);
        Place::new().assert_unauthentic(&tampered, frame.start);
    }
}

#[test]
fn every_byte_of_a_frame_header_is_under_the_seal() {
    let Written { image, .. } = closed();
    let frame = image.frames()[4].clone();
    // After the CRCs and the length: a changed length would make another range of bytes the frame.
    for at in frame.start + 12..frame.start + 48 {
        let mut tampered = image.clone();
        tampered.flip(at).fix_crc(frame.start);
        Place::new().assert_unauthentic(&tampered, frame.start);
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
    Place::new().assert_unauthentic(&image, frame.start);
}

#[test]
fn a_removed_record_is_unauthentic() {
    let Written { image, .. } = closed();
    for frame in &image.frames()[..10] {
        let mut tampered = image.clone();
        tampered.splice(frame.clone(), &[]);
        Place::new().assert_unauthentic(&tampered, frame.start);
        assert_seen_without_a_key(&tampered, frame.start);
    }
}

#[test]
fn a_repeated_record_is_unauthentic() {
    let Written { image, .. } = bare();
    for frame in image.frames() {
        let mut tampered = image.clone();
        tampered.splice(frame.end..frame.end, &image.bytes[frame.clone()]);
        Place::new().assert_unauthentic(&tampered, frame.end);
        assert_seen_without_a_key(&tampered, frame.end);
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
    Place::new().assert_unauthentic(&tampered, both.start);
    assert_seen_without_a_key(&tampered, both.start);
}

/// The frames' numbers are in clear.
fn assert_seen_without_a_key(image: &Image, expected: usize) {
    let place = Place::new();
    image.write(place.path());
    let report = verify(place.path(), None).unwrap();
    assert_eq!((report.faults[0].kind, report.faults[0].offset), (FaultKind::Tampering, expected as u64));
}

#[test]
fn a_record_of_a_fork_of_the_same_store_is_unauthentic() {
    let Written { image, .. } = bare();
    let fork = |payload: &[u8]| {
        let (place, store) = open_image(&image);
        store.enqueue_job("run-3", payload).unwrap();
        store.enqueue_job("run-4", payload).unwrap();
        Image::read(place.path())
    };
    let (mut ours, theirs) = (fork(b"ours"), fork(b"none"));
    let frame = ours.frames()[11].clone();
    assert_eq!(theirs.frames()[11], frame);
    ours.splice(frame.clone(), &theirs.bytes[frame.clone()]);
    Place::new().assert_unauthentic(&ours, frame.start);
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
    let is_b = |error: Error| match error {
        Error::Unauthentic { run_id: Some(id), offset, .. } => id == "b" && offset == value_at as u64,
        _ => false,
    };
    assert!(is_b(store.dequeue_jobs(3).unwrap_err()));
    assert!(is_b(store.job("b").unwrap_err()));
    assert!(is_b(store.dequeue_jobs_after("a", 1).unwrap_err()));
    assert_eq!(store.job("a").unwrap().unwrap().payload, b"payload of a");
    assert_eq!(store.dequeue_jobs(1).unwrap()[0].run_id, "a");
    assert_eq!(store.dequeue_jobs_after("b", 3).unwrap()[0].run_id, "c");
    // Neither compaction nor rekey can copy it: their errors name the job.
    assert!(is_b(store.compact().unwrap_err()));
    let last_error = store.stats().compaction.last_error.unwrap();
    assert!(
        last_error.message.contains("this is the payload of job \"b\"; acking the job removes it"),
        "{last_error}"
    );
    assert!(store.ack_job("b").unwrap());
    assert_eq!(store.dequeue_jobs(3).unwrap().len(), 2);
    assert_eq!(store.compact().unwrap().generation, 2);
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

    assert_eq!(store.discard_unreadable_logs().unwrap(), 1);
    assert_eq!(store.discard_unreadable_logs().unwrap(), 0);
    let batch = store.peek_logs(3).unwrap();
    assert_eq!((batch.events()[0].ts_ms, batch.events().len(), batch.dropped()), (3, 1, 1));
    store.close().unwrap();
    let store = place.open();
    assert_eq!((store.log_count(), store.stats().logs_dropped), (1, 1));
}

/// It is one number, and the open store has it in memory.
#[test]
fn a_changed_count_of_drops_is_left_out_by_a_compaction_and_written_again() {
    let cases = [OnDamage::Refuse, OnDamage::SetAside].map(|it| [(it, true), (it, false)]);
    for (on_damage, is_known) in cases.into_iter().flatten() {
        let place = Place::new();
        let mut limits = LogLimits::default();
        limits.max_count = Some(2);
        let mut options = OpenOptions::new();
        options.log_limits(limits).on_damage(on_damage);
        let open = || options.open(place.path(), &key()).unwrap();
        let mut store = open();
        for time in 0..6 {
            store.buffer_log(time, b"event").unwrap();
        }
        // The count is the last value of the log, with its tag.
        let count_at = usize::try_from(store.stats().log_len).unwrap() - 24;
        if !is_known {
            store.close().unwrap();
        }
        let mut image = Image::read(place.path());
        let frame = image.frames().into_iter().find(|frame| frame.contains(&count_at)).unwrap();
        image.flip(count_at).fix_crc(frame.start);
        image.write(place.path());

        let snapshot = Snapshot::open(place.path(), &key()).unwrap();
        let batch = snapshot.peek_logs(9).unwrap();
        assert_eq!((batch.len(), batch.dropped()), (2, 0));
        snapshot.backup(place.at("copy.db")).unwrap();
        assert_eq!(Snapshot::open(place.at("copy.db"), &key()).unwrap().log_count(), 2);
        if !is_known {
            drop(store);
            store = open();
        }
        store.backup(place.at("backup.db")).unwrap();
        let dropped = if is_known { 4 } else { 0 };
        let report = store.compact().unwrap();
        assert_eq!(report.left_out.iter().map(|left| left.bucket).collect::<Vec<_>>(), ["registry"]);
        assert_eq!(report.damaged, None, "for one number, no log is kept");
        assert_eq!((store.log_count(), store.peek_logs(9).unwrap().dropped()), (2, dropped));
        assert_eq!(store.compact().unwrap().left_out, []);
        store.close().unwrap();
        drop(store);
        assert_eq!(place.open().peek_logs(9).unwrap().dropped(), dropped);
    }
}

/// A value that does not open is one item of an iterator, and the next one follows.
#[test]
fn an_iterator_goes_on_after_a_changed_value() {
    let place = Place::new();
    let store = place.open();
    for (ts_ms, id) in (0..).zip(["a", "b", "c"]) {
        store.enqueue_job(id, format!("payload of {id}").as_bytes()).unwrap();
        store.buffer_log(ts_ms, b"event").unwrap();
    }
    store.close().unwrap();
    let mut image = Image::read(place.path());
    let frames = image.frames();
    let job_at = frames[2].start + 48 + manifest_len_of_a_job("b") + 16;
    let event_at = frames[3].start + 48 + (4 + 4 + 16 + 4) + 16;
    image.flip(job_at).fix_crc(frames[2].start).flip(event_at).fix_crc(frames[3].start);
    image.write(place.path());

    let check = |jobs: Jobs<'_>, run_ids: RunIds<'_>, logs: Logs<'_>| {
        let jobs: Vec<_> = jobs.map(|job| job.map(|job| job.run_id)).collect();
        assert!(
            matches!(
                &jobs[..],
                [Ok(a), Err(Error::Unauthentic { run_id: Some(b), offset, .. }), Ok(c)]
                    if [a, b, c] == ["a", "b", "c"] && *offset == job_at as u64
            ),
            "{jobs:?}"
        );
        assert_eq!(run_ids.collect::<Vec<_>>(), ["a", "b", "c"]);
        let times: Vec<_> = logs.map(|event| event.map(|event| event.ts_ms)).collect();
        assert!(
            matches!(
                times[..],
                [Ok(0), Err(Error::Unauthentic { run_id: None, offset, .. }), Ok(2)] if offset == event_at as u64
            ),
            "{times:?}"
        );
    };
    let store = place.open();
    check(store.jobs(), store.run_ids(), store.logs());
    let snapshot = Snapshot::open(place.path(), &key()).unwrap();
    check(snapshot.jobs(), snapshot.run_ids(), snapshot.logs());
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

/// Otherwise anyone could cut a log anywhere and give it a clean end. A mark would name the right close frame, but
/// anyone can remove it.
#[test]
fn a_changed_close_frame_is_unauthentic() {
    let long = closed_log_for_two_threads();
    for mut image in [closed().image, long] {
        let close = image.without_marks().frames().pop().unwrap();
        for at in close.start + 48..close.end {
            let mut image = image.clone();
            image.flip(at).fix_crc(close.start);
            Place::new().assert_unauthentic(&image, close.start);
        }
    }
}

/// A log so long that opening it uses a second thread, which reads ahead of the one that reports faults.
fn closed_log_for_two_threads() -> Image {
    let place = Place::new();
    let store = OpenOptions::new().durability(Durability::Buffered).open(place.path(), &key()).unwrap();
    for i in 0..6000 {
        store.enqueue_job(&format!("run-{i}"), &[7; 700]).unwrap();
    }
    store.close().unwrap();
    let mut image = Image::read(place.path());
    image.without_space();
    assert!(image.len() > FIRST_FRAME_AT + (4 << 20));
    image
}

#[test]
fn in_a_long_log_the_first_fault_in_the_order_of_the_file_is_the_error() {
    let image = closed_log_for_two_threads();
    let frames = image.frames();
    // A frame that fails authentication before a damaged one, and the reverse; far apart and next to each other.
    for (first, second) in [(0, 1), (10, 11), (300, 3900), (3900, 3999), (1999, 2000)] {
        let (first, second) = (frames[first].clone(), frames[second].clone());
        let mut tampered = image.clone();
        tampered.flip(first.start + 60).fix_crc(first.start).flip(second.start + 60);
        Place::new().assert_unauthentic(&tampered, first.start);
        let mut damaged = image.clone();
        damaged.flip(first.start + 60).flip(second.start + 60).fix_crc(second.start);
        Place::new().assert_corrupt(&damaged, first.start);
    }
    // Only the close frame vouches for the last record.
    let last = &frames[frames.len() - 2];
    let mut tampered = image.clone();
    tampered.flip(last.start + 60).fix_crc(last.start);
    Place::new().assert_unauthentic(&tampered, last.start);
}
