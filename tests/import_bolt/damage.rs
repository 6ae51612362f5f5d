//! Damage to a bbolt file: every byte changed, every cut. bbolt pages have no checksum, so damage may change keys
//! and plain numbers. It must never change a payload, and never lose one without a report.

use std::fs;

use backupy_state::testing::{BoltState, read_bolt};
use backupy_state::{AgentKey, Error, Result};

use crate::writer::Pages;
use crate::{KEY, agent, key, real_file};

type Sealed<'a> = (Option<&'a [u8]>, Option<&'a str>, bool, Vec<&'a [u8]>, Vec<&'a [u8]>);

/// What damage cannot change without being seen: how many there are of everything, and all that is sealed.
fn sealed(state: &BoltState) -> Sealed<'_> {
    let mut logs: Vec<_> = state.logs.iter().map(|event| &*event.payload).collect();
    // A wrong time puts an event in another place.
    logs.sort_unstable();
    (
        state.config.as_ref().map(|config| &*config.raw),
        state.session.as_ref().map(|session| &*session.session_id),
        state.report.last_heartbeat_ms.is_some(),
        state.jobs.iter().map(|job| &*job.payload).collect(),
        logs,
    )
}

/// The report names what a store cannot hold, and a damaged meta page, which gives an older state.
fn is_right_or_reported(state: &BoltState, whole: &BoltState) -> bool {
    sealed(state) == sealed(whole) || !state.report.left_out.is_empty() || state.report.meta_page_damaged
}

#[track_caller]
fn assert_seen(damaged: Result<BoltState>, whole: &BoltState, place: impl Fn() -> String) {
    match damaged {
        Ok(state) => assert!(is_right_or_reported(&state, whole), "{}: {state:?}", place()),
        Err(Error::Corrupt { .. } | Error::NotAStore { .. } | Error::TooLarge { .. }) => {}
        Err(error) => panic!("{}: {error:?}", place()),
    }
}

/// Changes every byte of the file in a few ways. Returns how many changes were refused.
fn change_every_byte(file: &[u8], key: &AgentKey) -> usize {
    let whole = read_bolt(file, key).unwrap();
    let (mut file, mut refused) = (file.to_vec(), 0);
    for at in 0..file.len() {
        let byte = file[at];
        for changed in [byte ^ 1, byte ^ 0x02, byte ^ 0x10, byte ^ 0x80, 0, 0xFF] {
            file[at] = changed;
            let damaged = read_bolt(&file, key);
            refused += usize::from(damaged.is_err());
            assert_seen(damaged, &whole, || format!("byte {at}: {byte:#x} to {changed:#x}"));
        }
        file[at] = byte;
    }
    refused
}

#[test]
fn a_changed_byte_of_a_real_file_never_changes_a_value_or_loses_one_unseen() {
    let file = fs::read(real_file("small.db")).unwrap();
    let key = AgentKey::new("bkpy_test_abcdefghijklmnopqrstuvwxyz012345").unwrap();
    assert!(change_every_byte(&file, &key) > 4000);
}

#[test]
fn a_changed_byte_of_a_file_with_branches_never_changes_a_value_or_loses_one_unseen() {
    let file = agent().file(KEY.as_bytes(), 512, 3);
    assert!(change_every_byte(&file, &key()) > 4000);
}

#[test]
fn a_cut_file_is_refused_or_whole() {
    let mut pages = Pages::new(512);
    let buckets = agent().buckets(KEY.as_bytes(), &mut pages, 3);
    let root = pages.add(crate::writer::LEAF, &buckets);
    let file = pages.finish(root);
    let whole = read_bolt(&file, &key()).unwrap();
    let mut right = 0;
    for len in 0..file.len() {
        match read_bolt(&file[..len], &key()) {
            Ok(state) => {
                assert_eq!(sealed(&state), sealed(&whole), "{len}");
                right += 1;
            }
            Err(Error::Corrupt { .. } | Error::NotAStore { .. }) => {}
            Err(error) => panic!("{len}: {error:?}"),
        }
    }
    // The list of free pages is the last page, and it is asked for.
    assert_eq!(right, 0);
}

#[test]
fn a_cut_real_file_is_refused_or_whole() {
    for (name, step) in [("small", 512), ("nofreelist", 1024), ("busy", 100_000)] {
        let file = fs::read(real_file(&format!("{name}.db"))).unwrap();
        let key = AgentKey::new("bkpy_test_abcdefghijklmnopqrstuvwxyz012345").unwrap();
        let whole = read_bolt(&file, &key).unwrap();
        for len in (0..file.len()).step_by(step) {
            if let Ok(state) = read_bolt(&file[..len], &key) {
                assert_eq!(state, whole, "{name} {len}");
            }
        }
    }
}

#[test]
fn pages_that_change_places_are_refused() {
    let file = agent().file(KEY.as_bytes(), 512, 3);
    let whole = read_bolt(&file, &key()).unwrap();
    let count = file.len() / 512;
    for (a, b) in (2..count).flat_map(|a| (2..a).map(move |b| (a, b))) {
        let mut swapped = file.clone();
        let (head, tail) = swapped.split_at_mut(a * 512);
        head[b * 512..][..512].swap_with_slice(&mut tail[..512]);
        assert_seen(read_bolt(&swapped, &key()), &whole, || format!("pages {a} and {b}"));
        // And with the numbers made right.
        for page in [a, b] {
            swapped[page * 512..][..8].copy_from_slice(&(page as u64).to_le_bytes());
        }
        assert_seen(read_bolt(&swapped, &key()), &whole, || format!("renumbered pages {a} and {b}"));
    }
}
