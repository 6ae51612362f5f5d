//! One handle at a time, across processes and within one. The lock is free once its holder ends, in whatever way.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use backupy_state::testing::options_on;
use backupy_state::{Error, OpenOptions, Store};

use crate::common::{Child, Hooked, Hooks, Place, child_path, key, say, spawn, test_binary};

#[test]
fn child_that_holds_the_store() {
    let Some(path) = child_path() else { return };
    let store = Store::open(&path, &key()).unwrap();
    store.enqueue_job("run-1", b"one").unwrap();
    say("holds it");
    match std::env::var("ENDS_BY").as_deref() {
        Ok("close") => store.close().unwrap(),
        Ok("drop") => drop(store),
        Ok("exit") => std::process::exit(0),
        _ => loop {
            std::thread::park();
        },
    }
}

fn holder(place: &Place, ends_by: &str) -> Child {
    let mut command = test_binary("locking::child_that_holds_the_store", &place.path());
    let mut child = spawn(command.env("ENDS_BY", ends_by));
    child.expect("holds it");
    child
}

fn open_within(place: &Place, timeout: Duration) -> Result<Store, Error> {
    OpenOptions::new().lock_timeout(timeout).open(place.path(), &key())
}

const LONG: Duration = Duration::from_secs(60);

#[test]
fn a_store_that_another_process_holds_is_locked_and_its_pid_is_named() {
    let place = Place::new();
    let child = holder(&place, "kill");
    for timeout in [0, 1, 120].map(Duration::from_millis) {
        let error = open_within(&place, timeout).unwrap_err();
        let Error::Locked { holder, waited, ref path, .. } = error else { panic!("{error:?}") };
        assert_eq!(holder, Some(child.pid()));
        assert!(waited >= timeout);
        assert!(path.ends_with("state.db.lock"));
        assert!(error.to_string().contains(&format!("process {}", child.pid())), "{error}");
    }
}

#[test]
fn the_lock_of_a_killed_holder_is_free() {
    let place = Place::new();
    let mut child = holder(&place, "kill");
    child.kill();
    let store = open_within(&place, Duration::ZERO).unwrap();
    assert!(!store.recovery().clean);
    assert_eq!(store.queue_depth(), 1);
}

#[test]
fn the_lock_of_a_holder_that_closes_drops_or_exits_is_free() {
    for ends_by in ["close", "drop", "exit"] {
        let place = Place::new();
        let child = holder(&place, ends_by);
        let store = open_within(&place, LONG).unwrap();
        assert_eq!(store.recovery().clean, ends_by != "exit");
        assert_eq!(store.queue_depth(), 1);
        child.finish();
    }
}

#[test]
fn a_waiting_open_succeeds_when_the_holder_is_killed() {
    let place = Place::new();
    let mut child = holder(&place, "kill");
    std::thread::scope(|threads| {
        let waiting = threads.spawn(|| open_within(&place, LONG));
        std::thread::sleep(Duration::from_millis(100));
        assert!(!waiting.is_finished());
        child.kill();
        assert_eq!(waiting.join().unwrap().unwrap().queue_depth(), 1);
    });
}

#[test]
fn two_processes_that_contend_both_get_their_turns() {
    let place = Place::new();
    let mut children = [spawn_contender(&place, "a"), spawn_contender(&place, "b")];
    for child in &mut children {
        while let Some(line) = child.hear() {
            assert_eq!(line, "wrote one");
        }
    }
    children.into_iter().for_each(Child::finish);
    assert_eq!(place.open().queue_depth(), 2 * TURNS);
}

const TURNS: usize = 20;

fn spawn_contender(place: &Place, name: &str) -> Child {
    spawn(test_binary("locking::child_that_contends", &place.path()).env("CONTENDER", name))
}

#[test]
fn child_that_contends() {
    let Some(path) = child_path() else { return };
    let name = std::env::var("CONTENDER").unwrap();
    for turn in 0..TURNS {
        let store = OpenOptions::new().lock_timeout(LONG).open(&path, &key()).unwrap();
        let depth = store.queue_depth();
        store.enqueue_job(&format!("{name}-{turn}"), b"payload").unwrap();
        assert_eq!(store.queue_depth(), depth + 1, "no other process writes meanwhile");
        drop(store);
        say("wrote one");
    }
}

/// Each creates a marker file while it holds the store, which fails if there is one already.
#[test]
fn of_many_processes_that_race_exactly_one_holds_the_store_at_a_time() {
    let place = Place::new();
    let mut children: Vec<Child> = (0..RACERS)
        .map(|i| spawn(test_binary("locking::child_that_races", &place.path()).env("CONTENDER", i.to_string())))
        .collect();
    children.iter_mut().for_each(|child| child.expect("ready"));
    std::fs::write(place.at("go"), "").unwrap();
    for mut child in children {
        (0..RACES).for_each(|_| child.expect("was inside alone"));
        child.finish();
    }
    assert!(!place.at("inside").exists());
    assert_eq!(place.open().queue_depth(), RACERS * RACES);
}

const RACERS: usize = 32;
const RACES: usize = 3;

#[test]
fn child_that_races() {
    let Some(path) = child_path() else { return };
    let name = std::env::var("CONTENDER").unwrap();
    say("ready");
    while !path.with_file_name("go").exists() {
        std::thread::sleep(Duration::from_millis(1));
    }
    let marker = path.with_file_name("inside");
    for race in 0..RACES {
        let store = OpenOptions::new().lock_timeout(LONG).open(&path, &key()).unwrap();
        std::fs::File::create_new(&marker).unwrap();
        store.enqueue_job(&format!("{name}-{race}"), b"payload").unwrap();
        std::fs::remove_file(&marker).unwrap();
        drop(store);
        say("was inside alone");
    }
}

#[test]
fn a_second_handle_in_the_same_process_is_refused() {
    let place = Place::new();
    let store = place.open();
    let error = place.try_open().unwrap_err();
    assert!(matches!(error, Error::Locked { holder: Some(pid), .. } if pid == std::process::id()), "{error:?}");
    store.enqueue_job("run-1", b"the first handle still works").unwrap();
    store.close().unwrap();
    assert_eq!(place.try_open().unwrap().queue_depth(), 1);
}

#[test]
fn a_refused_open_does_not_free_the_lock() {
    let place = Place::new();
    let _store = place.open();
    for _ in 0..3 {
        assert!(matches!(place.try_open(), Err(Error::Locked { .. })));
    }
}

#[test]
fn a_store_that_could_not_be_opened_is_not_locked_afterwards() {
    let place = Place::new();
    place.open().close().unwrap();
    let wrong = backupy_state::AgentKey::new("another").unwrap();
    assert!(matches!(Store::open(place.path(), &wrong), Err(Error::WrongKey { .. })));
    assert!(place.try_open().is_ok());
}

#[test]
fn a_lock_file_with_anything_in_it_is_locked_and_only_a_pid_is_written_over() {
    let place = Place::new();
    let pid = std::process::id();
    let written = format!("{pid:>10}\n");
    for own in ["", "        71\n", "  71", "\0\0\0\0\0\0\0\0\0\0\0", "\0\0"] {
        std::fs::write(place.at("state.db.lock"), own).unwrap();
        let _store = place.open();
        let error = place.try_open().unwrap_err();
        assert!(matches!(error, Error::Locked { holder: Some(holder), .. } if holder == pid), "{error:?}");
        assert_eq!(std::fs::read_to_string(place.at("state.db.lock")).unwrap(), written);
    }
    for foreign in [
        "garbage",
        "4711\n",
        "      4711 ",
        "1\n2\n3\n",
        "99999999999",
        "\0\0\0\0\0\0\0\0\0\0\0\0",
        "a program's text",
    ] {
        std::fs::write(place.at("state.db.lock"), foreign).unwrap();
        let _store = place.open();
        let error = place.try_open().unwrap_err();
        assert!(matches!(error, Error::Locked { holder: None, .. }), "{error:?}");
        assert_eq!(std::fs::read_to_string(place.at("state.db.lock")).unwrap(), foreign);
    }
}

/// Removes the lock file once, before it can be locked.
#[derive(Clone, Debug, Default)]
struct RemovesLockFile(Arc<AtomicBool>);

impl Hooks for RemovesLockFile {
    fn opened(&self, path: &Path) {
        if path.ends_with("state.db.lock") && !self.0.swap(true, Ordering::SeqCst) {
            std::fs::remove_file(path).unwrap();
        }
    }
}

/// A lock on a file that has no name shuts nobody out.
#[test]
fn a_lock_file_that_is_removed_before_it_is_locked_is_made_anew() {
    let place = Place::new();
    let disk = Arc::new(Hooked::<RemovesLockFile>::default());
    let _store = options_on(disk).lock_timeout(LONG).open(place.path(), &key()).unwrap();
    let error = place.try_open().unwrap_err();
    let Error::Locked { path, holder, .. } = &error else { panic!("{error:?}") };
    assert!(path.ends_with("state.db.lock") && *holder == Some(std::process::id()), "{error:?}");
}
