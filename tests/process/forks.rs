//! A child made by `fork` owns nothing of a store that its parent has opened, however it ends and however long it
//! lives.
//!
//! The standard library forks before it runs a command, and calls a function in the child: that function is what
//! plays here. The store is opened by a process of its own, so that no other test holds a lock of the allocator or
//! of stdout at the moment of the fork.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use std::{fs, io, thread};

use backupy_state::testing::{options_on, policy};
use backupy_state::{Error, Store};

use crate::common::{
    Hooked, Hooks, Place, child_path, every_writing_call, existing, key, listing, names, say, spawn, started_by,
    test_binary,
};

/// Forks, calls `act` in the child with a store that was the parent's, and waits until it returns. A panic there
/// is one here.
fn fork(store: &Shared, mut act: impl FnMut(Store) + Send + Sync + 'static) {
    let store = Arc::clone(store);
    let mut command = Command::new("true");
    let in_child = move || {
        // The child's copy: the parent's still has its store.
        let store = store.lock().unwrap().take().unwrap();
        let acted = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| act(store)));
        acted.map_err(|_| io::ErrorKind::Other.into())
    };
    // SAFETY: after a fork, only the forking thread is left, so a lock that another thread held is never freed.
    // The allocator's locks are free: the C library sees to it. The other threads of this process do not print,
    // and what they hold of the store's own locks is what these tests are about.
    #[allow(unsafe_code, reason = "the only fork that is not followed by an exec at once")]
    unsafe {
        command.pre_exec(in_child);
    }
    assert!(command.status().expect("the child does what the test says").success());
}

/// The parent's store, of which a fork makes a copy.
type Shared = Arc<Mutex<Option<Store>>>;

fn shared(store: Store) -> Shared {
    Arc::new(Mutex::new(Some(store)))
}

fn take(shared: &Shared) -> Store {
    shared.lock().unwrap().take().unwrap()
}

/// Runs the test `parent` in a process of its own, and waits until it has done all it should. Should it hang, it
/// is killed with its children.
fn run(parent: &str, place: &Place) {
    let parent = test_binary(&format!("forks::{parent}"), &place.path());
    let mut parent = spawn(&mut started_by(&["timeout", "--signal=KILL", "60"], &parent));
    parent.expect("done");
    parent.finish();
}

fn wait_for(path: &Path) {
    let deadline = Instant::now() + PATIENCE;
    while !path.exists() {
        assert!(Instant::now() < deadline, "{} has not come", path.display());
        thread::sleep(Duration::from_millis(1));
    }
}

const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn every_call_of_a_forked_child_fails_and_changes_nothing() {
    let place = Place::new();
    run("parent_whose_child_makes_every_call", &place);
    assert_eq!(place.open().queue_depth(), 2);
}

#[test]
fn parent_whose_child_makes_every_call() {
    let Some(path) = child_path() else { return };
    let folder = path.parent().unwrap().to_owned();
    let store = Store::open(&path, &key()).unwrap();
    // So that a close would compact.
    (0..200).for_each(|version| store.save_config(version, &[0; 1000]).unwrap());
    store.enqueue_job("run-1", b"one").unwrap();
    let store = shared(store);
    let before = listing(&folder);
    fork(&store, |store| {
        for (call, refused) in every_call(&store).into_iter().enumerate() {
            assert!(matches!(refused, Err(Error::Failed { .. })), "call {call}: {refused:?}");
        }
        assert!(matches!(store.close(), Err(Error::Failed { .. })));
    });
    fork(&store, drop);
    assert_eq!(listing(&folder), before);

    // Both locks are still held.
    let assert_locked = |by: &str| {
        let error = existing().open(&path, &key()).unwrap_err();
        assert!(matches!(&error, Error::Locked { path, .. } if path.ends_with(by)), "{error:?}");
    };
    assert_locked("state.db.lock");
    fs::remove_file(path.with_file_name("state.db.lock")).unwrap();
    assert_locked("state.db");
    let store = take(&store);
    store.enqueue_job("run-2", b"two").unwrap();
    store.close().unwrap();
    let store = existing().open(&path, &key()).unwrap();
    assert!(store.recovery().clean);
    assert_eq!(store.queue_depth(), 2);
    say("done");
}

fn only_item<T>(mut items: impl Iterator<Item = Result<T, Error>>) -> Result<(), Error> {
    let first = items.next().unwrap();
    assert!(items.next().is_none());
    first.map(drop)
}

fn every_call(store: &Store) -> Vec<Result<(), Error>> {
    let mut made = every_writing_call(store);
    made.extend([
        store.load_config().map(drop),
        store.load_session().map(drop),
        store.last_heartbeat().map(drop),
        store.dequeue_jobs(1).map(drop),
        store.dequeue_jobs_after("run-1", 1).map(drop),
        only_item(store.jobs()),
        only_item(store.logs()),
        store.job("run-1").map(drop),
        store.data("cursor").map(drop),
        store.peek_logs(1).map(drop),
    ]);
    made
}

// ---- A fork while threads of the store work ----

/// Stops in the creation of the new log of a compaction, until the test lets it go on.
#[derive(Clone, Debug, Default)]
struct Held {
    is_held: Arc<AtomicBool>,
    may_go_on: Arc<AtomicBool>,
}

impl Hooks for Held {
    fn open(&self, path: &Path) -> io::Result<bool> {
        let is_compaction = path.ends_with("state.db.new") && path.with_extension("").exists();
        if is_compaction {
            self.is_held.store(true, Ordering::SeqCst);
            while !self.may_go_on.load(Ordering::SeqCst) {
                thread::sleep(Duration::from_millis(1));
            }
        }
        Ok(false)
    }
}

#[test]
fn a_child_that_is_forked_during_a_compaction_does_not_wait_for_its_thread() {
    run("parent_that_compacts", &Place::new());
}

#[test]
fn parent_that_compacts() {
    let Some(path) = child_path() else { return };
    let folder = path.parent().unwrap().to_owned();
    let disk = Hooked::<Held>::default();
    let held = disk.hooks.clone();
    let early = policy(|policy| policy.min_len = 0);
    let store = options_on(Arc::new(disk)).compaction(early).open(&path, &key()).unwrap();
    (0..40).for_each(|version| store.save_config(version, &[0; 1000]).unwrap());
    let deadline = Instant::now() + PATIENCE;
    while !held.is_held.load(Ordering::SeqCst) {
        assert!(Instant::now() < deadline, "no compaction has begun");
        thread::sleep(Duration::from_millis(1));
    }
    let store = shared(store);
    let before = listing(&folder);
    fork(&store, |store| {
        assert!(every_call(&store).iter().all(|refused| matches!(refused, Err(Error::Failed { .. }))));
    });
    assert_eq!(listing(&folder), before);
    held.may_go_on.store(true, Ordering::SeqCst);
    let store = take(&store);
    while store.stats().compaction.completed == 0 {
        assert!(Instant::now() < deadline, "{:?}", store.stats().compaction);
        thread::sleep(Duration::from_millis(1));
    }
    store.close().unwrap();
    assert!(existing().open(&path, &key()).unwrap().load_config().unwrap().is_some());
    say("done");
}

// ---- Who has the lock ----

fn forked(path: &Path) -> PathBuf {
    path.with_file_name("forked")
}

fn end(path: &Path) -> PathBuf {
    path.with_file_name("end")
}

/// Forks a child that keeps its copies of the descriptors until the file `end` is there.
fn fork_one_that_lives_on(store: &Shared, path: &Path) -> thread::JoinHandle<()> {
    let (store, forked_file, end) = (Arc::clone(store), forked(path), end(path));
    let thread = thread::spawn(move || {
        fork(&store, move |store| {
            fs::write(&forked_file, "").unwrap();
            wait_for(&end);
            drop(store);
        });
    });
    wait_for(&forked(path));
    thread
}

#[test]
fn the_close_of_a_parent_unlocks_although_its_child_lives() {
    run("parent_that_closes_before_its_child", &Place::new());
}

#[test]
fn parent_that_closes_before_its_child() {
    let Some(path) = child_path() else { return };
    let store = shared(Store::open(&path, &key()).unwrap());
    let child = fork_one_that_lives_on(&store, &path);
    take(&store).close().unwrap();
    let store = existing().open(&path, &key()).unwrap();
    store.enqueue_job("run-1", b"one").unwrap();
    // The child ends now, and drops what was a store.
    fs::write(end(&path), "").unwrap();
    child.join().unwrap();
    assert!(matches!(existing().open(&path, &key()), Err(Error::Locked { .. })));
    store.close().unwrap();
    assert!(existing().open(&path, &key()).unwrap().recovery().clean);
    say("done");
}

#[test]
fn a_child_that_outlives_its_killed_parent_keeps_the_lock_and_the_error_says_so() {
    let place = Place::new();
    let mut parent = spawn(&mut test_binary("forks::parent_that_is_killed", &place.path()));
    parent.expect("forked");
    let pid = parent.pid();
    let before = existing().open(place.path(), &key()).unwrap_err();
    let Error::Locked { holder, hint, .. } = before else { panic!("{before:?}") };
    assert!(holder == Some(pid) && !hint.contains("child"), "{hint}");
    parent.kill();
    let after = existing().open(place.path(), &key()).unwrap_err();
    fs::write(end(&place.path()), "").unwrap();
    let Error::Locked { holder, hint, .. } = after else { panic!("{after:?}") };
    assert_eq!(holder, Some(pid));
    assert!(hint.contains("child"), "{hint}");

    let store = existing().lock_timeout(PATIENCE).open(place.path(), &key()).unwrap();
    assert_eq!(store.queue_depth(), 1);
    assert_eq!(names(place.folder()), ["end", "forked", "state.db", "state.db.lock"]);
}

#[test]
fn parent_that_is_killed() {
    let Some(path) = child_path() else { return };
    let store = shared(Store::open(&path, &key()).unwrap());
    store.lock().unwrap().as_ref().unwrap().enqueue_job("run-1", b"one").unwrap();
    let _child = fork_one_that_lives_on(&store, &path);
    say("forked");
    loop {
        thread::park();
    }
}
