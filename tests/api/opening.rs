//! Files that are not a store, or not one that can be opened: a typed error, and the file is not changed.

use std::fs;
use std::path::Path;

use backupy_state::{AgentKey, Error, Snapshot, Store, verify};

use crate::common::{Image, Place, assert_refused, key, listing, refuse_everywhere};

#[test]
fn foreign_files_are_not_stores_and_stay_as_they_are() {
    let place = Place::new();
    let text = "a text, and a long one, ".repeat(1000).into_bytes();
    let foreign = [
        Vec::new(),
        vec![0; 10],
        vec![0; 5000],
        vec![0; 1 << 20],
        text,
        vec![0xFF; 4096],
        b"\x89BKPYLOG\r\n\x1a".to_vec(),
    ];
    for bytes in foreign {
        fs::write(place.path(), bytes).unwrap();
        assert_refused!(place, place.path(), Error::NotAStore { .. });
    }
}

#[test]
fn an_empty_file_is_not_taken_for_a_new_store() {
    let place = Place::new();
    fs::write(place.path(), "").unwrap();
    assert_refused!(place, place.path(), Error::NotAStore { what: "an empty file", .. });
}

#[test]
fn a_bbolt_file_is_named_as_what_it_is() {
    let bolt = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bolt/small.db");
    let place = Place::new();
    fs::write(place.path(), fs::read(bolt).unwrap()).unwrap();
    assert_refused!(place, place.path(), Error::NotAStore { .. });
    let said = place.try_open().unwrap_err().to_string();
    let expected = format!(
        "{} is not a store but a bbolt file, which `backupy-state import FILE` or `import_bolt` imports into a \
         new store; it was not changed",
        place.path().display()
    );
    assert_eq!(said, expected);
}

/// A store with something in it, closed.
fn closed_store() -> (Place, Image) {
    let place = Place::new();
    let store = place.open();
    store.enqueue_job("run-1", b"one").unwrap();
    store.close().unwrap();
    let image = Image::read(place.path());
    (place, image)
}

#[test]
fn a_wrong_key_is_refused_and_changes_nothing() {
    let (place, _) = closed_store();
    let keys = ["x", "bkpy_0123456789abcdef0123456789abcdeF", "bkpy_0123456789abcdef0123456789abcdef "];
    let before = listing(place.folder());
    for wrong in keys.map(|key| AgentKey::new(key).unwrap()) {
        assert!(matches!(Store::open(place.path(), &wrong), Err(Error::WrongKey { .. })));
        assert!(matches!(Snapshot::open(place.path(), &wrong), Err(Error::WrongKey { .. })));
        assert!(matches!(verify(place.path(), Some(&wrong)), Err(Error::WrongKey { .. })));
    }
    assert_eq!(listing(place.folder()), before);
    assert_eq!(place.open().queue_depth(), 1);
}

#[test]
fn a_wrong_key_is_refused_before_a_torn_tail_is_touched() {
    let (place, mut image) = closed_store();
    image.append(b"torn").write(place.path());
    let before = listing(place.folder());
    let wrong = AgentKey::new("another").unwrap();
    assert!(matches!(Store::open(place.path(), &wrong), Err(Error::WrongKey { .. })));
    assert_eq!(listing(place.folder()), before);
}

#[test]
fn a_newer_version_is_refused_and_changes_nothing() {
    let (place, mut image) = closed_store();
    image.forge_header(12, &2_u16.to_le_bytes()).write(place.path());
    assert_refused!(place, place.path(), Error::UnsupportedFormat { version: 2, flags: 0, .. });
}

#[test]
fn every_unknown_flag_is_refused_and_changes_nothing() {
    let (place, image) = closed_store();
    for bit in 0..32 {
        let expected = 1_u32 << bit;
        image.clone().forge_header(16, &expected.to_le_bytes()).write(place.path());
        for error in refuse_everywhere(place.folder(), &place.path()) {
            assert!(matches!(error, Error::UnsupportedFormat { version: 1, flags, .. } if flags == expected));
        }
    }
}

#[test]
fn header_bytes_that_must_be_zero_and_are_not_are_refused() {
    let (place, image) = closed_store();
    for at in [14, 20] {
        image.clone().forge_header(at, &[1]).write(place.path());
        assert_refused!(place, place.path(), Error::UnsupportedFormat { version: 1, .. });
    }
}

#[test]
fn a_forged_header_is_a_wrong_key() {
    let (place, image) = closed_store();
    // The generation, the store id, the salt and the authenticator.
    for at in [24, 32, 48, 80, 111] {
        let mut forged = image.clone();
        let byte = forged.bytes[at] ^ 0x80;
        forged.forge_header(at, &[byte]).write(place.path());
        let before = listing(place.folder());
        assert!(matches!(place.try_open(), Err(Error::WrongKey { .. })), "byte {at}");
        assert!(matches!(Snapshot::open(place.path(), &key()), Err(Error::WrongKey { .. })), "byte {at}");
        assert_eq!(listing(place.folder()), before);
    }
}

#[test]
fn a_damaged_header_is_corrupt_and_changes_nothing() {
    let (place, image) = closed_store();
    image.clone().flip(50).flip(2048 + 50).write(place.path());
    let before = listing(place.folder());
    assert!(matches!(place.try_open(), Err(Error::Corrupt { offset: 0, .. })));
    assert!(matches!(Snapshot::open(place.path(), &key()), Err(Error::Corrupt { offset: 0, .. })));
    assert!(verify(place.path(), Some(&key())).is_ok_and(|report| !report.is_intact()));
    assert_eq!(listing(place.folder()), before);
}
