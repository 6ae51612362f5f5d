//! Reading the agent key from a file, what a wrong key reports, and changing the key: by `rekey`, and by opening
//! with the previous key.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::thread;

use backupy_state::{AgentKey, Error, OpenOptions, Snapshot, Store, verify};

use crate::common::{KEY, Place};

fn key(text: &str) -> AgentKey {
    AgentKey::new(text).unwrap()
}

#[test]
fn a_store_under_the_previous_key_is_opened_and_rekeyed_in_one_step() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    let store = Store::open(&path, &key("old")).unwrap();
    store.enqueue_job("job", b"payload").unwrap();
    store.close().unwrap();

    let mut options = OpenOptions::new();
    options.previous_key(key("old"));
    let store = options.open(&path, &key("new")).unwrap();
    assert!(store.recovery().rekeyed);
    assert_eq!(store.job("job").unwrap().unwrap().payload, b"payload");
    store.close().unwrap();
    assert!(matches!(Store::open(&path, &key("old")), Err(Error::WrongKey { .. })));

    let again = options.open(&path, &key("new")).unwrap();
    assert!(!again.recovery().rekeyed);
    assert_eq!(again.stats().generation, 2);
}

#[test]
fn a_store_under_neither_key_is_refused_and_not_changed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    Store::open(&path, &key("third")).unwrap().close().unwrap();
    let before = fs::read(&path).unwrap();
    let opened = OpenOptions::new().previous_key(key("old")).open(&path, &key("new"));
    assert!(matches!(opened, Err(Error::WrongKey { .. })));
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn a_new_store_is_under_the_new_key() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    let store = OpenOptions::new().previous_key(key("old")).open(&path, &key("new")).unwrap();
    assert!(store.recovery().created && !store.recovery().rekeyed);
    drop(store);
    Store::open(&path, &key("new")).unwrap();
}

#[test]
fn compactions_after_a_rekey_are_under_the_new_key() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    let store = Store::open(&path, &key("old")).unwrap();
    store.enqueue_job("job", b"payload").unwrap();
    store.rekey(&key("new")).unwrap();
    store.compact().unwrap();
    let snapshot = Snapshot::open(&path, &key("new")).unwrap();
    assert_eq!(snapshot.stats().generation, 3);
    assert!(matches!(Snapshot::open(&path, &key("old")), Err(Error::WrongKey { .. })));
}

#[test]
fn owner_and_mode_of_the_log_survive_a_compaction() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    let store = Store::open(&path, &key("key")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    // Only root may give files away; as anybody else, the mode alone is looked at.
    let given_away = chown(&path, Some(12_345), Some(54_321)).is_ok();
    store.compact().unwrap();
    let found = fs::metadata(&path).unwrap();
    assert_eq!(found.permissions().mode() & 0o7777, 0o640);
    if given_away {
        assert_eq!((found.uid(), found.gid()), (12_345, 54_321));
    }
}

const KEY_FILE_LEN_MAX: usize = 64 << 10;

#[test]
fn a_key_file_of_64_kib_is_read() {
    let place = Place::new();
    let longest = "k".repeat(KEY_FILE_LEN_MAX - 1);
    fs::write(place.at("agent.key"), format!("{longest}\n")).unwrap();
    Store::open(place.path(), &AgentKey::from_file(place.at("agent.key")).unwrap()).unwrap().close().unwrap();
    Store::open(place.path(), &key(&longest)).unwrap();
}

#[test]
fn a_key_file_over_64_kib_is_refused_whatever_it_is() {
    let place = Place::new();
    fs::write(place.at("one-too-many.key"), vec![b'k'; KEY_FILE_LEN_MAX + 1]).unwrap();
    File::create(place.at("huge.key")).unwrap().set_len(1 << 40).unwrap();
    for path in [place.at("one-too-many.key"), place.at("huge.key"), "/dev/zero".into()] {
        let error = AgentKey::from_file(&path).unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }), "{error:?}");
        let message = error.to_string();
        assert!(message.contains(path.to_str().unwrap()) && message.contains("64 KiB"), "{message}");
    }
}

#[test]
fn a_key_file_that_ends_in_a_bare_carriage_return_is_read_unchanged() {
    let place = Place::new();
    fs::write(place.at("agent.key"), "key\r").unwrap();
    Store::open(place.path(), &AgentKey::from_file(place.at("agent.key")).unwrap()).unwrap().close().unwrap();
    Store::open(place.path(), &key("key\r")).unwrap();
}

#[test]
fn a_key_is_read_from_a_pipe_in_pieces() {
    let place = Place::new();
    place.open().close().unwrap();
    let fifo = place.at("key.fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let from_fifo = thread::scope(|threads| {
        threads.spawn(|| {
            let mut fifo = File::options().write(true).open(&fifo).unwrap();
            for piece in [&KEY[..10], &KEY[10..], "\n"] {
                fifo.write_all(piece.as_bytes()).unwrap();
                thread::sleep(std::time::Duration::from_millis(20));
            }
        });
        AgentKey::from_file(&fifo).unwrap()
    });
    Store::open(place.path(), &from_fifo).unwrap();
}

const WHITE_SPACE: &str = "the given key ends in white space: is that part of it?";

fn wrong_key_messages(path: &Path, key: &AgentKey) -> [String; 3] {
    let errors = [
        Store::open(path, key).unwrap_err(),
        Snapshot::open(path, key).unwrap_err(),
        verify(path, Some(key)).unwrap_err(),
    ];
    errors.map(|error| {
        assert!(matches!(error, Error::WrongKey { .. }), "{error:?}");
        error.to_string()
    })
}

#[test]
fn a_wrong_key_that_ends_in_white_space_is_reported_as_such() {
    let place = Place::new();
    place.open().close().unwrap();
    for ending in [" ", "\n", "\r", "\t", "\n\n"] {
        for message in wrong_key_messages(&place.path(), &key(&format!("{KEY}{ending}"))) {
            assert!(message.ends_with(&format!("it was not changed; {WHITE_SPACE}")), "{ending:?}: {message}");
            assert!(!message.contains(KEY), "{message}");
        }
    }
    for other in ["another", " another", "an other", "another\0", "another\u{a0}"] {
        for message in wrong_key_messages(&place.path(), &key(other)) {
            assert!(message.ends_with("it was not changed"), "{other:?}: {message}");
        }
    }
}
