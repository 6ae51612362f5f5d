//! Every cut and every flipped byte of a small log on the real disk, compared with the states after each record.

use backupy_state::Error;

use crate::common::{FIRST_FRAME_AT, MARK_PAGE, Place, State, Written, closed, depth, names, unclean};

#[test]
fn every_cut_of_a_closed_store_is_refused_where_the_log_ends() {
    let place = Place::new();
    let Written { image, .. } = closed();
    let frames = image.frames();
    for len in (FIRST_FRAME_AT..image.len()).step_by(depth::real_byte_step()) {
        let mut cut = image.clone();
        cut.cut(len);
        let whole = frames.iter().take_while(|frame| frame.end <= len);
        place.assert_corrupt(&cut, whole.last().map_or(FIRST_FRAME_AT, |frame| frame.end));
    }
}

#[test]
fn without_marks_every_cut_leaves_exactly_the_whole_records_or_is_refused() {
    let place = Place::new();
    let Written { mut image, states } = closed();
    image.without_marks();
    let frames = image.frames();
    for len in (0..image.len()).step_by(depth::real_byte_step()) {
        let mut cut = image.clone();
        cut.cut(len);
        if len < 12 {
            assert!(matches!(place.refuse(&cut), Error::NotAStore { .. }), "cut at {len}");
            continue;
        }
        if len < FIRST_FRAME_AT {
            place.assert_corrupt(&cut, 0);
            continue;
        }
        let whole = frames.iter().filter(|frame| frame.end <= len).count();
        let end = frames[..whole].last().map_or(FIRST_FRAME_AT, |frame| frame.end);
        // A frame may begin with a zero byte: cut right after it, there is nothing to quarantine.
        if cut.bytes[end..].iter().any(|&byte| byte != 0) {
            place.assert_torn(&cut, end, &states[whole]);
            continue;
        }
        let store = place.open_image(&cut);
        let report = store.recovery().clone();
        assert_eq!((report.clean, report.records, report.quarantined), (false, whole as u64, None));
        assert_eq!(names(place.folder()), ["state.db", "state.db.lock"]);
        assert_eq!(State::take(&store), states[whole]);
    }
}

#[test]
fn every_flipped_byte_of_a_closed_store_is_survived_quarantined_or_refused() {
    let place = Place::new();
    let Written { image, states } = closed();
    let frames = image.frames();
    let (close, records) = frames.split_last().unwrap();
    for mask in [0xFF, 0x01] {
        for at in (0..image.len()).step_by(depth::real_byte_step()) {
            let mut damaged = image.clone();
            damaged.bytes[at] ^= mask;
            if let Some(record) = records.iter().find(|record| record.contains(&at)) {
                place.assert_corrupt(&damaged, record.start);
            } else if close.contains(&at) {
                place.assert_corrupt(&damaged, close.start);
            } else {
                let store = place.open_image(&damaged);
                // One copy of the header is enough. Without its mark, the close frame may not have been durable.
                let is_marked = at < MARK_PAGE.start || damaged.proven() == image.proven();
                assert_eq!(store.recovery().clean, is_marked, "byte {at}");
                assert_eq!(State::take(&store), *states.last().unwrap());
            }
        }
    }
}

#[test]
fn every_flipped_byte_after_an_unclean_stop_is_refused_or_quarantined() {
    let place = Place::new();
    let Written { image, states } = unclean();
    let frames = image.frames();
    let (last, vouched_for) = frames.split_last().unwrap();
    for at in (FIRST_FRAME_AT..last.end).step_by(depth::real_byte_step()) {
        let mut damaged = image.clone();
        damaged.flip(at);
        match vouched_for.iter().find(|record| record.contains(&at)) {
            Some(record) => place.assert_corrupt(&damaged, record.start),
            None => place.assert_torn(&damaged, last.start, &states[states.len() - 2]),
        }
    }
}

#[test]
fn every_cut_of_the_last_record_before_zeros_is_a_torn_tail() {
    let place = Place::new();
    let Written { image, states } = unclean();
    let frames = image.frames();
    let last = frames.last().unwrap();
    // Its end may be zero anyway: then it is whole without it.
    let nonzero_end = last.start + image.bytes[last.clone()].iter().rposition(|&byte| byte != 0).unwrap() + 1;
    let nonzero_start = last.start + image.bytes[last.clone()].iter().position(|&byte| byte != 0).unwrap();
    for len in (nonzero_start + 1..nonzero_end).step_by(depth::real_byte_step()) {
        let mut cut = image.clone();
        cut.bytes[len..].fill(0);
        place.assert_torn(&cut, last.start, &states[states.len() - 2]);
    }
}

#[test]
fn every_nonzero_byte_in_the_preallocated_space_is_quarantined() {
    let place = Place::new();
    let written = unclean();
    let end = written.image.end();
    for at in [end, end + 1, end + 7, end + 8, end + 47, end + 48, end + 4096, written.image.len() - 1] {
        let mut damaged = written.image.clone();
        damaged.flip(at);
        place.assert_torn(&damaged, end, written.last());
    }
}
