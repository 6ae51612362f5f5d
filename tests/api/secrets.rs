//! No value of a store is readable in its files, and no secret appears in `Debug`, errors or file names.

use std::fmt::Debug;
use std::fs;

use backupy_state::{AgentKey, Error, OpenOptions, Snapshot, Store, verify, verify_each};

use crate::common::{Image, KEY, Place, contains, key, listing};

const RUN_ID: &str = "run-id-that-is-secret-in-the-file";
const PAYLOAD: &str = "payload-that-is-secret";
const CONFIG: &str = "configuration-that-is-secret";
const SESSION: &str = "session-id-that-is-secret";
const EVENT: &str = "log-event-that-is-secret";
const DATA_KEY: &str = "data-key-that-is-hidden-in-the-file";
const DATA: &str = "value-of-data-that-is-secret";
/// What must never show in a message; run ids and data keys may.
const SECRETS: [&str; 6] = [KEY, PAYLOAD, CONFIG, SESSION, EVENT, DATA];

const CONFIG_VERSION: u64 = 0x1122_3344_5566_7788;
const SERVER_TIME_MS: i64 = 0x0123_4567_89AB_CDEF;
const HEARTBEAT_MS: i64 = 0x0FED_CBA9_8765_4321;
const EVENT_MS: i64 = 0x7A6B_5C4D_3E2F_1A0B;

fn fill(store: &Store) {
    store.save_config(CONFIG_VERSION, CONFIG.as_bytes()).unwrap();
    store.enqueue_job(RUN_ID, PAYLOAD.as_bytes()).unwrap();
    store.enqueue_job("run-id-that-goes-again", PAYLOAD.as_bytes()).unwrap();
    store.ack_job("run-id-that-goes-again").unwrap();
    store.save_session(SESSION, SERVER_TIME_MS).unwrap();
    store.record_heartbeat(HEARTBEAT_MS).unwrap();
    store.buffer_log(EVENT_MS, EVENT.as_bytes()).unwrap();
    store.drain_logs(1).unwrap();
    store.buffer_log(EVENT_MS, EVENT.as_bytes()).unwrap();
    store.put_data(DATA_KEY, DATA.as_bytes()).unwrap();
}

/// What must not be found in any file.
fn secret_bytes() -> Vec<(String, Vec<u8>)> {
    let texts = [RUN_ID, PAYLOAD, CONFIG, SESSION, EVENT, DATA_KEY, DATA, KEY, "run-id-that-goes-again"];
    // Parts are as bad as the whole.
    let parts = texts.iter().flat_map(|text| [&text[..8], &text[text.len() - 8..], text]);
    let mut secrets: Vec<_> = parts.map(|text| (text.to_owned(), text.as_bytes().to_vec())).collect();
    let bucket_keys = ["current", "session", "heartbeat"];
    secrets.extend(bucket_keys.map(|text| (text.to_owned(), text.as_bytes().to_vec())));
    let times = [SERVER_TIME_MS, HEARTBEAT_MS, EVENT_MS, EVENT_MS ^ i64::MIN].map(i64::cast_unsigned);
    for number in times.into_iter().chain([CONFIG_VERSION]) {
        secrets.push((format!("{number:#x} in little-endian"), number.to_le_bytes().to_vec()));
        secrets.push((format!("{number:#x} in big-endian"), number.to_be_bytes().to_vec()));
        secrets.push((format!("{number:#x} in figures"), number.to_string().into_bytes()));
    }
    secrets
}

fn assert_no_secret_in_files(place: &Place) {
    let mut files = listing(place.folder());
    assert!(!files.is_empty());
    files.retain(|_, file| !file.bytes.is_empty());
    let lock = fs::read(place.at("state.db.lock")).unwrap();
    let all = files.into_iter().map(|(name, file)| (name, file.bytes)).chain([("lock".to_owned(), lock)]);
    for (name, bytes) in all {
        for (what, secret) in secret_bytes() {
            assert!(!contains(&bytes, &secret), "{name} shows {what}");
        }
    }
}

#[test]
fn no_file_contains_a_secret() {
    let place = Place::new();
    let store = place.open();
    fill(&store);
    assert_no_secret_in_files(&place);
    // As a killed process leaves it.
    let mut image = Image::read(place.path());
    store.close().unwrap();
    assert_no_secret_in_files(&place);

    let end = image.end();
    image.cut(end - 100).write(place.path());
    drop(place.open());
    assert!(place.at("state.db.torn-1").exists());
    assert_no_secret_in_files(&place);
}

#[test]
fn equal_values_are_different_in_the_file() {
    let place = Place::new();
    let store = place.open();
    for _ in 0..2 {
        store.enqueue_job("run-1", &[0; 400]).unwrap();
    }
    store.close().unwrap();
    let image = Image::read(place.path());
    let frames = image.frames();
    let [first, second] = [0, 1].map(|i| &image.bytes[frames[i].start + 48..frames[i].end]);
    assert_eq!(first.len(), second.len());
    for (a, b) in first.chunks_exact(16).zip(second.chunks_exact(16)).take(20) {
        assert_ne!(a, b);
    }
}

#[test]
fn two_stores_of_one_key_have_nothing_in_common() {
    let images = [0, 1].map(|_| {
        let place = Place::new();
        place.open().enqueue_job(RUN_ID, &[0; 400]).unwrap();
        Image::read(place.path()).bytes
    });
    // The salt, the store id, the authenticator, and what is sealed in the first frame.
    for part in (32..112).chain(8192 + 48..8192 + 400).collect::<Vec<_>>().chunks_exact(16) {
        let range = part[0]..part[0] + 16;
        assert_ne!(images[0][range.clone()], images[1][range]);
    }
}

/// Plain, alternate and, for errors, as people see it.
fn assert_shows_no_secret(shown: &dyn Debug) {
    for text in [format!("{shown:?}"), format!("{shown:#?}")] {
        assert_text_has_no_secret(&text);
    }
}

fn assert_text_has_no_secret(text: &str) {
    for secret in SECRETS {
        assert!(!text.contains(secret), "{text}");
        // As a list of bytes, too.
        let bytes = format!("{:?}", secret.as_bytes());
        assert!(!text.replace(['\n', ' '], "").contains(bytes[1..40].replace(' ', "").as_str()), "{text}");
    }
}

#[test]
fn debug_shows_no_secret() {
    let place = Place::new();
    let options = OpenOptions::new();
    let store = options.open(place.path(), &key()).unwrap();
    fill(&store);
    let snapshot = Snapshot::open(place.path(), &key()).unwrap();
    assert_shows_no_secret(&key());
    assert_shows_no_secret(&options);
    assert_shows_no_secret(&store);
    assert_shows_no_secret(&snapshot);
    assert_shows_no_secret(store.recovery());
    assert_shows_no_secret(&store.stats());
    assert_shows_no_secret(&store.load_config().unwrap());
    assert_shows_no_secret(&store.load_session().unwrap());
    assert_shows_no_secret(&store.job(RUN_ID).unwrap());
    assert_shows_no_secret(&store.dequeue_jobs(9).unwrap());
    assert_shows_no_secret(&store.drain_logs(9).unwrap());
    let report = verify_each(place.path(), Some(&key()), |frame| assert_shows_no_secret(frame)).unwrap();
    assert_shows_no_secret(&report);
    assert_eq!(format!("{:?}", key()), "AgentKey(***)");
    assert!(format!("{:?}", store.job(RUN_ID)).contains(RUN_ID), "run ids may show");
    assert_shows_no_secret(&store.data_keys(""));
}

/// As many kinds of errors as a test can provoke, each from a call that was given secrets.
fn errors() -> Vec<Error> {
    let mut errors = Vec::new();
    let place = Place::new();
    let store = place.open();
    fill(&store);
    errors.push(place.try_open().unwrap_err());
    errors.push(store.enqueue_job("", PAYLOAD.as_bytes()).unwrap_err());
    errors.push(store.enqueue_job(&"x".repeat(1025), PAYLOAD.as_bytes()).unwrap_err());
    let large = PAYLOAD.repeat((16 << 20) / PAYLOAD.len() + 1);
    errors.push(store.save_config(1, large.as_bytes()).unwrap_err());
    errors.push(store.save_session(&large, 1).unwrap_err());
    errors.push(store.buffer_log(1, large.as_bytes()).unwrap_err());
    errors.push(store.enqueue_job("run-1", large.as_bytes()).unwrap_err());
    errors.push(store.put_data("cursor", large.as_bytes()).unwrap_err());
    errors.push(store.put_data("", DATA.as_bytes()).unwrap_err());
    store.close().unwrap();
    let image = Image::read(place.path());

    errors.push(Store::open("", &key()).unwrap_err());
    errors.push(Store::open(place.at("missing/state.db"), &key()).unwrap_err());
    errors.push(Snapshot::open(place.at("missing.db"), &key()).unwrap_err());
    errors.push(Store::open(place.path(), &AgentKey::new(PAYLOAD).unwrap()).unwrap_err());
    errors.push(Store::open(place.path(), &AgentKey::new(format!("{KEY}\n")).unwrap()).unwrap_err());
    std::fs::write(place.at("long.key"), KEY.repeat(2000)).unwrap();
    errors.push(AgentKey::from_file(place.at("long.key")).unwrap_err());
    errors.push(AgentKey::from_file(place.at("missing.key")).unwrap_err());
    let mut refuse = |image: &mut Image| {
        image.write(place.path());
        errors.push(place.try_open().unwrap_err());
        if let Ok(report) = verify(place.path(), Some(&key())) {
            assert_shows_no_secret(&report);
        }
    };
    refuse(&mut Image { bytes: SECRETS.concat().into_bytes() });
    refuse(image.clone().forge_header(12, &[3]));
    let frame = image.frames()[1].clone();
    refuse(image.clone().flip(frame.start + 60));
    refuse(image.clone().flip(frame.start + 60).fix_crc(frame.start));

    // One value of each kind whose seal does not fit: it was changed at its last byte, the tag of the value.
    let mut changed = image.clone();
    for frame in image.frames() {
        let last = image.bytes[frame.clone()].iter().rposition(|&byte| byte != 0).unwrap();
        // The tag of a manifest without values is left alone, or the store could not be opened.
        if [1, 2, 5, 6, 9, 10].contains(&image.bytes[frame.start + 16]) {
            changed.flip(frame.start + last).fix_crc(frame.start);
        }
    }
    changed.write(place.path());
    let store = place.open();
    errors.push(store.load_config().unwrap_err());
    errors.push(store.job(RUN_ID).unwrap_err());
    errors.push(store.dequeue_jobs(1).unwrap_err());
    errors.push(store.load_session().unwrap_err());
    errors.push(store.last_heartbeat().unwrap_err());
    errors.push(store.drain_logs(1).unwrap_err());
    errors.push(store.data(DATA_KEY).unwrap_err());
    errors
}

#[test]
fn errors_show_no_secret() {
    let errors = errors();
    for error in &errors {
        assert_shows_no_secret(error);
        assert_text_has_no_secret(&error.to_string());
        assert_shows_no_secret(&std::error::Error::source(error));
    }
    let has = |kind: fn(&Error) -> bool| errors.iter().any(kind);
    assert!(has(|error| matches!(error, Error::Invalid { .. })));
    assert!(has(|error| matches!(error, Error::TooLarge { .. })));
    assert!(has(|error| matches!(error, Error::NotFound { .. })));
    assert!(has(|error| matches!(error, Error::Locked { .. })));
    assert!(has(|error| matches!(error, Error::NotAStore { .. })));
    assert!(has(|error| matches!(error, Error::UnsupportedFormat { .. })));
    assert!(has(|error| matches!(error, Error::WrongKey { .. })));
    assert!(has(|error| matches!(error, Error::Corrupt { .. })));
    assert!(has(|error| matches!(error, Error::Unauthentic { run_id: None, .. })));
    assert!(has(|error| matches!(error, Error::Unauthentic { run_id: Some(_), .. })));
    assert!(has(|error| matches!(error, Error::Unauthentic { data_key: Some(_), .. })));
    assert!(has(|error| matches!(error, Error::Io { .. })));
}
