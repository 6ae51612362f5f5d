//! Anchors that the caller keeps: a store that is older than its anchor, or a fork of it, is refused and not
//! changed.

use std::fs;
use std::path::PathBuf;

use backupy_state::{AgentKey, Anchor, Durability, Error, OpenOptions, Snapshot, Store};
use tempfile::TempDir;

fn key() -> AgentKey {
    AgentKey::new("bkpy_0123456789abcdef0123456789abcdef").unwrap()
}

struct Place {
    _folder: TempDir,
    path: PathBuf,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.db");
        Place { _folder: folder, path }
    }

    fn open(&self) -> Store {
        Store::open(&self.path, &key()).unwrap()
    }

    fn lock(&self) -> PathBuf {
        self.path.with_extension("db.lock")
    }

    fn open_at_least(&self, head: Anchor) -> Result<Store, Error> {
        OpenOptions::new().expect_at_least(head).open(&self.path, &key())
    }

    fn is_stale(&self, head: Anchor, expected: &str) {
        let before = fs::read(&self.path).unwrap_or_default();
        match self.open_at_least(head) {
            Err(Error::Stale { what, .. }) => assert_eq!(what, expected),
            other => panic!("{other:?}"),
        }
        assert_eq!(fs::read(&self.path).unwrap_or_default(), before);
    }
}

#[test]
fn the_same_and_any_later_state_are_not_stale() {
    let place = Place::new();
    let store = place.open();
    let empty = store.anchor();
    store.save_config(1, b"one").unwrap();
    let one = store.anchor();
    store.save_config(2, b"two").unwrap();
    let two = store.anchor();
    assert!(empty.seq() < one.seq() && one.seq() < two.seq());
    store.close().unwrap();
    for head in [empty, one, two] {
        place.open_at_least(head).unwrap().close().unwrap();
    }
}

#[test]
fn an_older_copy_of_the_file_is_stale() {
    let place = Place::new();
    let store = place.open();
    store.save_config(1, b"one").unwrap();
    store.close().unwrap();
    let older = fs::read(&place.path).unwrap();
    let store = place.open();
    store.save_config(2, b"two").unwrap();
    let head = store.anchor();
    store.close().unwrap();
    fs::write(&place.path, older).unwrap();
    place.is_stale(head, "its log ends before the expected frame");
}

#[test]
fn a_torn_tail_of_a_stale_store_is_not_cut_off() {
    let place = Place::new();
    let store = place.open();
    store.save_config(1, b"one").unwrap();
    let head = store.anchor();
    // As a killed process leaves it: without a close frame, and without a mark for the only frame.
    let mut bytes = fs::read(&place.path).unwrap();
    drop(store);
    let middle_of_the_first_frame = 8192 + 60;
    bytes.truncate(middle_of_the_first_frame);
    fs::write(&place.path, bytes).unwrap();
    place.is_stale(head, "its log ends before the expected frame");
}

#[test]
fn a_fork_of_the_same_length_is_stale() {
    let place = Place::new();
    place.open().close().unwrap();
    let fork = fs::read(&place.path).unwrap();
    let store = place.open();
    store.save_config(1, b"one").unwrap();
    let head = store.anchor();
    store.close().unwrap();
    fs::write(&place.path, fork).unwrap();
    let store = place.open();
    store.save_config(1, b"two").unwrap();
    store.close().unwrap();
    place.is_stale(head, "its log has a different frame with the expected number");
}

/// The base only says from which frame it was made. Where that frame is after the anchor's, or of a later
/// generation, nothing shows that the fork had another frame in the place of the anchor's.
#[test]
fn a_fork_is_stale_unless_it_was_compacted_after_it_had_got_further_or_more_than_once() {
    const SHORTER: &str = "its log ends before the expected frame";
    const LONGER: &str = "its log has a different frame with the expected number";
    const COMPACTED: &str = "it was made from a log without the expected frame";
    let rows = [(1, 0, Some(SHORTER)), (9, 0, Some(LONGER)), (1, 1, Some(COMPACTED)), (9, 1, None), (1, 2, None)];
    for (records, compactions, stale) in rows {
        let place = Place::new();
        let store = place.open();
        store.save_config(1, b"common").unwrap();
        store.close().unwrap();
        let fork = fs::read(&place.path).unwrap();
        let store = place.open();
        (0..5).for_each(|ts| store.record_heartbeat(ts).unwrap());
        let head = store.anchor();
        store.close().unwrap();

        fs::write(&place.path, fork).unwrap();
        let store = place.open();
        (0..records).for_each(|ts| store.record_heartbeat(ts).unwrap());
        (0..compactions).for_each(|_| drop(store.compact().unwrap()));
        store.close().unwrap();
        match stale {
            Some(what) => place.is_stale(head, what),
            None => drop(place.open_at_least(head).unwrap()),
        }
    }
}

#[test]
fn another_store_is_stale() {
    let (place, other) = (Place::new(), Place::new());
    other.open().close().unwrap();
    let head = place.open().anchor();
    other.is_stale(head, "it is a different store");
}

#[test]
fn no_file_at_all_is_stale_and_none_is_made() {
    let place = Place::new();
    let head = place.open().anchor();
    fs::remove_file(&place.path).unwrap();
    fs::remove_file(place.lock()).unwrap();
    place.is_stale(head, "the file does not exist");
    let refused = OpenOptions::new().create(false).expect_at_least(head).open(&place.path, &key());
    assert!(matches!(refused, Err(Error::Stale { .. })), "{refused:?}");
    assert!(!place.path.exists() && !place.lock().exists());
}

#[test]
fn an_older_generation_is_stale_and_a_newer_one_is_not() {
    let place = Place::new();
    let store = place.open();
    store.save_config(1, b"one").unwrap();
    let before = store.anchor();
    let older = fs::read(&place.path).unwrap();
    store.compact().unwrap();
    let after = store.anchor();
    assert_eq!(after.generation(), before.generation() + 1);
    store.close().unwrap();
    for head in [before, after] {
        place.open_at_least(head).unwrap().close().unwrap();
    }
    fs::write(&place.path, older).unwrap();
    place.is_stale(after, "its generation is older");
}

#[test]
fn a_backup_in_the_place_of_the_store_is_stale() {
    let place = Place::new();
    let store = place.open();
    (0..9).for_each(|version| store.save_config(version, b"one").unwrap());
    let head = store.anchor();
    let backup = place.path.with_file_name("backup.db");
    store.backup(&backup).unwrap();
    store.close().unwrap();
    fs::rename(backup, &place.path).unwrap();
    assert!(matches!(place.open_at_least(head), Err(Error::Stale { .. })));
}

/// An anchor that is ahead of the disk would turn a power cut into a stale store.
#[test]
fn the_head_covers_only_what_is_durable() {
    let place = Place::new();
    let store = OpenOptions::new().durability(Durability::Buffered).open(&place.path, &key()).unwrap();
    let empty = store.anchor();
    store.save_config(1, b"one").unwrap();
    assert_eq!(store.anchor(), empty);
    store.sync().unwrap();
    assert_eq!(store.anchor().seq(), empty.seq() + 1);
    assert_eq!(Snapshot::open(&place.path, &key()).unwrap().anchor(), store.anchor());
}

#[test]
fn only_the_text_of_an_anchor_parses_as_an_anchor() {
    let place = Place::new();
    let store = place.open();
    store.save_config(1, b"one").unwrap();
    let head = store.anchor();
    let text = head.to_string();
    assert_eq!(text.parse::<Anchor>().unwrap(), head);
    let longer = format!("{text}0");
    let upper = text.to_uppercase();
    let signed = text.replacen(".1.", ".+1.", 1);
    for wrong in ["", "x", ".1.1.", &longer, &upper, &signed, &format!("{text}.1"), &text[1..]] {
        assert!(matches!(wrong.parse::<Anchor>(), Err(Error::Invalid { .. })), "{wrong}");
    }
}
