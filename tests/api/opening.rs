//! Files that are not a store, or not one that can be opened: a typed error, and the file is not changed.

use std::fs;
use std::path::Path;

use aes_gcm::Aes256Gcm;
use aes_gcm::aead::{Aead, KeyInit, Payload};
use backupy_state::{AgentKey, Error, OnDamage, OpenOptions, Snapshot, Store, salvage, verify};
use hkdf::Hkdf;
use sha2::Sha256;

use crate::common::{Image, KEY, Place, assert_refused, existing, key, listing, refuse_everywhere};

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
    image.forge_header(12, &3_u16.to_le_bytes()).write(place.path());
    assert_refused!(place, place.path(), Error::UnsupportedFormat { version: 3, flags: 0, .. });
    // Its first frame may begin earlier.
    image.cut(4096).write(place.path());
    assert_refused!(place, place.path(), Error::UnsupportedFormat { version: 3, flags: 0, .. });
}

#[test]
fn the_draft_version_is_refused_in_its_own_words_and_changes_nothing() {
    let (place, mut image) = closed_store();
    image.forge_header(12, &1_u16.to_le_bytes()).cut(4096 + 64).write(place.path());
    assert_refused!(place, place.path(), Error::UnsupportedFormat { version: 1, flags: 0, .. });
    let said = place.try_open().unwrap_err().to_string();
    let expected = format!(
        "{} is in format version 1, a draft that was never released; it was not changed; only the version of this \
         crate that wrote it can open it",
        place.path().display()
    );
    assert_eq!(said, expected);
}

#[test]
fn every_unknown_flag_for_readers_is_refused_and_changes_nothing() {
    let (place, image) = closed_store();
    for bit in 1..16 {
        let expected = 1_u32 << bit;
        image.clone().forge_header(16, &expected.to_le_bytes()).write(place.path());
        for error in refuse_everywhere(place.folder(), &place.path()) {
            assert!(matches!(error, Error::UnsupportedFormat { version: 2, flags, .. } if flags == expected));
        }
    }
}

/// A log of one job in one frame, without a mark, in which a newer writer has set a flag.
fn log_with_flag(flag: u32) -> Image {
    let place = Place::new();
    let store = place.open();
    store.enqueue_job("run-1", b"one").unwrap();
    let mut image = Image::read(place.path());
    let frame = image.frames()[0].start;
    let old_chain = image.bytes[80..96].to_vec();

    image.forge_header(16, &flag.to_le_bytes());
    let prk = Hkdf::<Sha256>::new(Some(&image.bytes[48..80]), KEY.as_bytes());
    let expand = |info: &[&[u8]]| {
        let mut okm = [0; 32];
        prk.expand_multi_info(info, &mut okm).unwrap();
        okm
    };
    let authenticator = expand(&[b"backupy-state v2 header", &image.bytes[..80]]);
    let frame_key = expand(&[b"backupy-state v2 frames", &image.bytes[32..48], &image.bytes[24..32]]);
    image.forge_header(80, &authenticator);

    // The frame is chained to the authenticator, so its manifest is sealed anew.
    let bytes = &image.bytes[frame..];
    let manifest = 48..48 + usize::from(bytes[12]) + 16;
    let nonce = <&[u8; 12]>::try_from(&bytes[32..44]).unwrap().into();
    let cipher = Aes256Gcm::new(&frame_key.into());
    let aad = [&bytes[8..48], &old_chain].concat();
    let text = cipher.decrypt(nonce, Payload { msg: &bytes[manifest.clone()], aad: &aad }).unwrap();
    let aad = [&bytes[8..48], &authenticator[..16]].concat();
    let sealed = cipher.encrypt(nonce, Payload { msg: &text, aad: &aad }).unwrap();
    image.splice(frame + manifest.start..frame + manifest.end, &sealed).fix_crc(frame);
    image
}

#[test]
fn a_log_that_is_sealed_anew_without_a_new_flag_can_be_opened() {
    let place = Place::new();
    log_with_flag(0).write(place.path());
    assert_eq!(place.open().job("run-1").unwrap().unwrap().payload, b"one");
}

#[test]
fn a_short_file_with_an_unknown_flag_for_writers_is_unsupported_and_not_salvaged() {
    let place = Place::new();
    let mut image = log_with_flag(1 << 16);
    image.bytes.truncate(5000);
    image.write(place.path());
    let before = listing(place.folder());
    let error = OpenOptions::new().on_damage(OnDamage::SetAside).open(place.path(), &key()).unwrap_err();
    assert!(matches!(error, Error::UnsupportedFormat { version: 2, flags: 0x1_0000, .. }), "{error:?}");
    assert_eq!(listing(place.folder()), before);
    assert!(matches!(Snapshot::open(place.path(), &key()), Err(Error::Corrupt { offset: 0, .. })));
}

#[test]
fn an_unknown_flag_for_writers_keeps_a_store_from_being_opened_and_not_from_being_read() {
    for bit in 16..32 {
        let expected = 1_u32 << bit;
        let place = Place::new();
        log_with_flag(expected).write(place.path());
        let before = listing(place.folder());
        for options in [&OpenOptions::new(), &existing(), OpenOptions::new().on_damage(OnDamage::SetAside)] {
            let error = options.open(place.path(), &key()).unwrap_err();
            let is_expected =
                matches!(error, Error::UnsupportedFormat { version: 2, flags, .. } if flags == expected);
            assert!(is_expected, "bit {bit}: {error:?}");
        }
        let mut shown = Snapshot::open(place.path(), &key()).unwrap();
        shown.refresh().unwrap();
        assert_eq!(shown.job("run-1").unwrap().unwrap().payload, b"one", "bit {bit}");
        for key in [Some(&key()), None] {
            let report = verify(place.path(), key).unwrap();
            assert!(report.is_intact() && report.frames == 1, "bit {bit}: {report:?}");
        }
        assert_eq!(listing(place.folder()), before);

        let report = salvage(place.path(), &key(), place.at("salvaged.db")).unwrap();
        assert!(report.lost.is_empty(), "bit {bit}: {report:?}");
        // The new log is one of this version, without the flag.
        let salvaged = existing().open(place.at("salvaged.db"), &key()).unwrap();
        assert_eq!(salvaged.job("run-1").unwrap().unwrap().payload, b"one", "bit {bit}");
        assert_eq!(listing(place.folder())["state.db"], before["state.db"]);
    }
}

#[test]
fn header_bytes_that_must_be_zero_and_are_not_are_refused() {
    let (place, image) = closed_store();
    for at in [14, 20] {
        image.clone().forge_header(at, &[1]).write(place.path());
        assert_refused!(place, place.path(), Error::UnsupportedFormat { version: 2, .. });
    }
}

#[test]
fn a_forged_header_is_a_wrong_key() {
    let (place, image) = closed_store();
    // A known flag, the generation, the store id, the salt and the authenticator.
    for (at, bit) in [(16, 1), (24, 0x80), (32, 0x80), (48, 0x80), (80, 0x80), (111, 0x80)] {
        let mut forged = image.clone();
        let byte = forged.bytes[at] ^ bit;
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
