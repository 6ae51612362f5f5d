//! Names that change while a store is open: two handles never write one log, and a file that another process has
//! put in its place is left alone.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use backupy_state::testing::{options_on, policy};
use backupy_state::{AgentKey, Durability, Error, OnDamage, OpenOptions, Result, Snapshot, Store, salvage};

use crate::common::{
    CountedDisk, Hooked, Hooks, Image, Place, bare, child_path, depth, disk_and_memory, every_writing_call,
    existing, key, listing, names, say, spawn, test_binary, with_mounts,
};

// ---- One log, two ways to it ----

#[test]
fn child_that_tries_to_open() {
    let Some(path) = child_path() else { return };
    say(&match existing().open(path, &key()) {
        Ok(_) => "opened".to_owned(),
        Err(Error::Locked { path, .. }) => format!("locked: {}", path.file_name().unwrap().display()),
        Err(error) => error.to_string(),
    });
}

fn opener(path: &Path) -> Command {
    test_binary("identity::child_that_tries_to_open", path)
}

/// Neither another process nor a second handle of this one can open the log.
fn assert_locked(path: &Path) {
    let error = existing().open(path, &key()).unwrap_err();
    assert!(matches!(error, Error::Locked { .. }), "{error:?}");
    let mut child = spawn(&mut opener(path));
    child.expect(&format!("locked: {}", path.file_name().unwrap().display()));
    child.finish();
}

#[test]
fn a_store_whose_lock_file_was_removed_is_still_locked() {
    let place = Place::new();
    let store = place.open();
    fs::remove_file(place.at("state.db.lock")).unwrap();
    assert_locked(&place.path());
    store.enqueue_job("run-1", b"one").unwrap();
    store.compact().unwrap();
    // The lock file that the refused handles made is no one's.
    assert_locked(&place.path());
    store.close().unwrap();
    assert_eq!(place.try_open().unwrap().queue_depth(), 1);
}

#[test]
fn a_second_name_of_an_open_log_is_locked() {
    let place = Place::new();
    let store = place.open();
    fs::hard_link(place.path(), place.at("second.db")).unwrap();
    assert_locked(&place.at("second.db"));
    store.close().unwrap();
    assert!(existing().open(place.at("second.db"), &key()).is_ok());
}

#[test]
fn an_open_log_that_is_mounted_at_another_path_is_locked() {
    let place = Place::new();
    let _store = place.open();
    let script = "touch $FOLDER/mounted.db; mount --bind $FOLDER/state.db $FOLDER/mounted.db";
    let Some(mut command) = with_mounts(script, &opener(&place.at("mounted.db"))) else { return };
    let mut child = spawn(&mut command);
    child.expect("locked: mounted.db");
    child.finish();
}

/// A handle that has been opened by the name that the log had before is no handle of the log.
#[test]
fn a_log_that_is_replaced_while_it_is_being_locked_is_opened_anew() {
    let place = Place::new();
    let store = place.open();
    store.backup(place.at("restored.db")).unwrap();
    store.close().unwrap();
    existing().open(place.at("restored.db"), &key()).unwrap().enqueue_job("run-1", b"one").unwrap();
    let disk = CountedDisk::default();
    let (restored, path) = (place.at("restored.db"), place.path());
    // The first look at the header is before the lock file is locked, the second one before the log is.
    disk.before_read(2, move || fs::rename(restored, path).unwrap());
    let store = options_on(Arc::new(disk)).open(place.path(), &key()).unwrap();
    assert!(!place.at("restored.db").exists());
    assert_eq!(store.queue_depth(), 1);
    store.sync().unwrap();
}

// ---- A log that is mounted by itself ----

/// As a container runtime mounts a single file.
const MOUNTED_BY_ITSELF: &str = "mount --bind $FOLDER/state.db $FOLDER/state.db";

/// Runs the test `child` where the store of `place` is mounted by itself. Returns whether that is possible here.
fn run_where_it_is_mounted(place: &Place, child: &str) -> bool {
    let plain = test_binary(&format!("identity::{child}"), &place.path());
    let Some(mut command) = with_mounts(MOUNTED_BY_ITSELF, &plain) else { return false };
    let mut child = spawn(&mut command);
    child.expect("done");
    child.finish();
    true
}

#[test]
fn a_log_that_is_mounted_by_itself_is_not_compacted_and_says_why() {
    let place = Place::new();
    place.open().close().unwrap();
    if run_where_it_is_mounted(&place, "child_that_compacts_a_mounted_log") {
        assert_eq!(names(place.folder()), ["state.db", "state.db.index", "state.db.lock"]);
        assert_eq!(place.open().queue_depth(), 1);
    }
}

#[test]
fn child_that_compacts_a_mounted_log() {
    let Some(path) = child_path() else { return };
    let folder = path.parent().unwrap();
    let store = wasteful().open(&path, &key()).unwrap();
    for version in 0..300 {
        store.save_config(version, &[0; 1000]).unwrap();
    }
    store.enqueue_job("run-1", b"one").unwrap();
    let stats = store.stats().compaction;
    assert_eq!((stats.completed, stats.failed), (0, 0), "none was tried by itself");
    assert!(stats.unavailable.is_some_and(|why| why.contains("mount its folder")));
    assert_eq!(Snapshot::open(&path, &key()).unwrap().stats().compaction.unavailable, stats.unavailable);
    for refused in [store.compact().map(drop), store.rekey(&AgentKey::new("another").unwrap())] {
        let error = refused.unwrap_err();
        assert!(
            matches!(&error, Error::Io { source, .. } if source.to_string().contains("mounted by itself")),
            "{error:?}"
        );
        assert_eq!(names(folder), ["state.db", "state.db.lock"]);
    }
    store.backup(path.with_file_name("copy.db")).unwrap();
    fs::remove_file(path.with_file_name("copy.db")).unwrap();
    store.close().unwrap();
    assert!(existing().open(&path, &key()).unwrap().recovery().clean);
    say("done");
}

/// Compacts by itself, as early as it can.
fn wasteful() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.compaction(policy(|policy| policy.min_len = 0));
    options
}

/// What a supervisor does with an agent that cannot start.
#[test]
fn a_damaged_log_that_is_mounted_by_itself_leaves_no_pile_of_copies() {
    let place = Place::new();
    let mut image = closed_image();
    let second = image.frames()[1].clone();
    image.flip(second.end - 20).write(place.path());
    if run_where_it_is_mounted(&place, "child_that_sets_a_mounted_log_aside") {
        assert_eq!(names(place.folder()), ["state.db", "state.db.lock"]);
        assert!(Image::read(place.path()) == image);
    }
}

#[test]
fn child_that_sets_a_mounted_log_aside() {
    let Some(path) = child_path() else { return };
    for _ in 0..3 {
        let error = set_aside().open(&path, &key()).unwrap_err();
        assert!(
            matches!(&error, Error::Io { source, .. } if source.to_string().contains("mounted by itself")),
            "{error:?}"
        );
    }
    say("done");
}

fn closed_image() -> Image {
    crate::common::closed().image
}

fn set_aside() -> OpenOptions {
    let mut options = existing();
    options.on_damage(OnDamage::SetAside);
    options
}

// ---- Another file at the path ----

/// Two agents: the folder of the first one was renamed and made anew, and the second one has opened a store there.
struct Agents {
    place: Place,
    first: Store,
    second: Store,
}

impl Agents {
    fn new(options: &OpenOptions, before: impl FnOnce(&Store)) -> Self {
        let place = Place::new();
        fs::create_dir(place.at("data")).unwrap();
        let first = options.open(place.at("data/state.db"), &key()).unwrap();
        first.enqueue_job("first-1", b"of the first agent").unwrap();
        before(&first);
        fs::rename(place.at("data"), place.at("moved")).unwrap();
        fs::create_dir(place.at("data")).unwrap();
        let second = Store::open(place.at("data/state.db"), &key()).unwrap();
        second.enqueue_job("second-1", b"of the second agent").unwrap();
        Agents { place, first, second }
    }

    /// Makes the call, and checks that it and all later ones of the first agent fail, and that both agents keep
    /// what they have acknowledged.
    fn assert_replaced<T>(self, call: impl FnOnce(&Store) -> Result<T>) {
        let Agents { place, first, second } = self;
        let before = listing(&place.at("data"));
        let error = call(&first).err().expect("the store was replaced");
        assert!(matches!(error, Error::Replaced { .. }), "{error:?}");
        assert_every_writing_call_is_refused(&first);
        assert_eq!(first.job("first-1").unwrap().unwrap().payload, b"of the first agent");
        assert!(matches!(first.close(), Err(Error::Replaced { .. })));
        assert_eq!(listing(&place.at("data")), before);

        second.enqueue_job("second-2", b"two").unwrap();
        second.compact().unwrap();
        second.close().unwrap();
        assert_eq!(existing().open(place.at("data/state.db"), &key()).unwrap().queue_depth(), 2);
        let first = existing().open(place.at("moved/state.db"), &key()).unwrap();
        assert!(first.job("first-1").unwrap().is_some());
        assert_eq!(names(&place.at("moved")), ["state.db", "state.db.lock"]);
    }
}

fn assert_every_writing_call_is_refused(store: &Store) {
    for (call, refused) in every_writing_call(store).into_iter().enumerate() {
        assert!(matches!(refused, Err(Error::Replaced { .. })), "call {call}: {refused:?}");
    }
}

fn two_agents() -> Agents {
    Agents::new(&OpenOptions::new(), |_| ())
}

#[test]
fn compact_leaves_the_store_of_another_agent_alone() {
    two_agents().assert_replaced(Store::compact);
}

#[test]
fn rekey_leaves_the_store_of_another_agent_alone() {
    two_agents().assert_replaced(|store| store.rekey(&AgentKey::new("another").unwrap()));
}

#[test]
fn sync_leaves_the_store_of_another_agent_alone() {
    two_agents().assert_replaced(Store::sync);
}

/// Until the file grows, its frames are safe under its new name.
#[test]
fn the_store_of_another_agent_is_noticed_when_the_log_grows() {
    two_agents().assert_replaced(|store| {
        (0..200)
            .find_map(|number| store.enqueue_job(&format!("run-{number}"), &[0; 10_000]).err())
            .map_or(Ok(()), Err)
    });
}

#[test]
fn an_automatic_compaction_leaves_the_store_of_another_agent_alone() {
    let waste = |store: &Store| (0..15).for_each(|version| store.save_config(version, &[0; 1000]).unwrap());
    Agents::new(&wasteful(), waste).assert_replaced(|store| {
        assert_eq!(store.stats().compaction.completed, 0);
        let deadline = Instant::now() + Duration::from_secs(30);
        for version in 15..20 {
            store.save_config(version, &[0; 1000])?;
        }
        while store.stats().compaction.failed == 0 {
            assert!(Instant::now() < deadline, "no compaction was tried");
            thread::sleep(Duration::from_millis(1));
        }
        store.record_heartbeat(1)
    });
}

#[test]
fn close_and_drop_leave_the_store_of_another_agent_alone() {
    for (closes, versions) in [(true, 0), (false, 0), (true, WASTE), (false, WASTE)] {
        let Agents { place, first, second } = Agents::new(&OpenOptions::new(), |store| waste(store, versions));
        let before = listing(&place.at("data"));
        if closes {
            assert!(matches!(first.close(), Err(Error::Replaced { .. })));
        } else {
            drop(first);
        }
        assert_eq!(listing(&place.at("data")), before);
        second.close().unwrap();
        assert_eq!(existing().open(place.at("data/state.db"), &key()).unwrap().queue_depth(), 1);
    }
}

/// So many configurations that `close` compacts.
const WASTE: u64 = 200;

fn waste(store: &Store, versions: u64) {
    (0..versions).for_each(|version| store.save_config(version, &[0; 1000]).unwrap());
}

/// After the last look at the path that comes before the copy.
#[test]
fn a_folder_that_is_made_anew_during_a_compaction_is_left_alone() {
    let calls: [fn(Store); 4] = [
        |store| assert!(matches!(store.compact(), Err(Error::Replaced { .. }))),
        |store| assert!(matches!(store.rekey(&AgentKey::new("another").unwrap()), Err(Error::Replaced { .. }))),
        |store| assert!(matches!(store.close(), Err(Error::Replaced { .. }))),
        drop,
    ];
    for call in calls {
        let place = Place::new();
        let [data, moved, other] = ["data", "moved", "other.db"].map(|name| place.at(name));
        fs::create_dir(&data).unwrap();
        let image = closed_image();
        image.write(&other);
        let disk = Arc::new(Hooked::<BeforeCreation>::default());
        let store = options_on(Arc::clone(&disk) as Arc<_>).open(data.join("state.db"), &key()).unwrap();
        waste(&store, WASTE);
        let path = data.join("state.db");
        *disk.hooks.0.lock().unwrap() = Some(Box::new(move || {
            fs::rename(&data, moved).unwrap();
            fs::create_dir(&data).unwrap();
            fs::rename(other, data.join("state.db")).unwrap();
        }));
        call(store);
        assert!(Image::read(&path) == image);
        assert_eq!(names(&place.at("data")), ["state.db"]);
        let moved = existing().open(place.at("moved/state.db"), &key()).unwrap();
        assert_eq!(moved.load_config().unwrap().map(|config| config.version), Some(WASTE - 1));
    }
}

#[test]
fn a_file_system_that_is_mounted_over_the_folder_is_left_alone() {
    let place = Place::new();
    fs::create_dir(place.at("data")).unwrap();
    let plain = test_binary("identity::child_whose_folder_is_mounted_over", &place.at("data/state.db"));
    let Some(mut command) = with_mounts("true", &plain) else { return };
    let mut child = spawn(&mut command);
    child.expect("done");
    child.finish();
    assert_eq!(existing().open(place.at("data/state.db"), &key()).unwrap().queue_depth(), 1);
}

#[test]
fn child_whose_folder_is_mounted_over() {
    let Some(path) = child_path() else { return };
    let folder = path.parent().unwrap();
    let store = Store::open(&path, &key()).unwrap();
    store.enqueue_job("run-1", b"one").unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "none"]).arg(folder).status();
    assert!(mounted.unwrap().success());
    assert!(matches!(store.compact(), Err(Error::Replaced { .. })));
    assert_every_writing_call_is_refused(&store);
    drop(store);
    assert_eq!(names(folder), Vec::<String>::new());
    say("done");
}

#[test]
fn a_restored_file_that_is_moved_over_the_log_is_left_alone() {
    let place = Place::new();
    let store = place.open();
    store.enqueue_job("first-1", b"one").unwrap();
    store.backup(place.at("restored.db")).unwrap();
    let restored = Image::read(place.at("restored.db"));
    fs::rename(place.at("restored.db"), place.path()).unwrap();
    assert!(matches!(store.enqueue_job("run-2", b"two"), Err(Error::Replaced { .. })), "the next durable call");
    assert_every_writing_call_is_refused(&store);
    assert!(store.job("first-1").unwrap().is_some());
    drop(store);
    assert!(Image::read(place.path()) == restored);
    assert_eq!(names(place.folder()), ["state.db", "state.db.lock"]);
    assert_eq!(place.open().queue_depth(), 1);
}

#[test]
fn a_log_that_is_removed_is_noticed_by_the_next_durable_call() {
    for with_folder in [false, true] {
        let removed = |durability| {
            let place = Place::new();
            fs::create_dir(place.at("data")).unwrap();
            let path = place.at("data/state.db");
            let store = OpenOptions::new().durability(durability).open(&path, &key()).unwrap();
            store.enqueue_job("first-1", b"one").unwrap();
            if with_folder { fs::remove_dir_all(place.at("data")) } else { fs::remove_file(path) }.unwrap();
            (place, store)
        };
        let (_place, store) = removed(Durability::Sync);
        assert!(matches!(store.enqueue_job("run-2", b"two"), Err(Error::Replaced { .. })));
        assert_every_writing_call_is_refused(&store);
        assert!(store.job("first-1").unwrap().is_some());

        let (_place, store) = removed(Durability::Buffered);
        store.enqueue_job("run-2", b"two").unwrap();
        assert!(matches!(store.sync(), Err(Error::Replaced { .. })));
        assert_every_writing_call_is_refused(&store);

        let (place, store) = removed(Durability::Buffered);
        assert!(matches!(store.close(), Err(Error::Replaced { .. })));
        assert!(!place.at("data/state.db").exists());
    }
}

// ---- A file that appears ----

/// Calls a function once, right before a file is created at `<path>.new`.
#[derive(Clone, Default)]
struct BeforeCreation(Arc<Mutex<Option<Call>>>);

type Call = Box<dyn FnOnce() + Send>;

impl std::fmt::Debug for BeforeCreation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BeforeCreation").finish_non_exhaustive()
    }
}

impl Hooks for BeforeCreation {
    fn open(&self, path: &Path) -> io::Result<bool> {
        if path.extension().is_some_and(|extension| extension == "new")
            && let Some(call) = self.0.lock().unwrap().take()
        {
            call();
        }
        Ok(false)
    }
}

/// A disk on which `from` is copied to `to` between a look at `to` and the creation of a store there.
fn disk_where_a_file_appears(from: PathBuf, to: PathBuf) -> Arc<Hooked<BeforeCreation>> {
    let disk = Hooked::<BeforeCreation>::default();
    *disk.hooks.0.lock().unwrap() = Some(Box::new(move || assert!(fs::copy(from, to).is_ok())));
    Arc::new(disk)
}

#[test]
fn a_store_that_appears_while_one_is_created_is_opened() {
    let place = Place::new();
    bare().image.write(place.at("other.db"));
    let disk = disk_where_a_file_appears(place.at("other.db"), place.path());
    let store = options_on(disk).open(place.path(), &key()).unwrap();
    assert!(!store.recovery().created);
    assert_eq!(store.queue_depth(), bare().last().jobs.len());
    assert!(!place.at("state.db.new").exists());
}

#[test]
fn a_strangers_file_that_appears_while_a_store_is_created_is_not_replaced() {
    let place = Place::new();
    fs::write(place.at("text"), "a stranger's").unwrap();
    let disk = disk_where_a_file_appears(place.at("text"), place.path());
    let error = options_on(disk).open(place.path(), &key()).unwrap_err();
    assert!(matches!(error, Error::NotAStore { .. }), "{error:?}");
    assert_eq!(fs::read(place.path()).unwrap(), b"a stranger's");
    assert!(!place.at("state.db.new").exists());
}

#[test]
fn a_file_that_appears_at_the_target_of_a_backup_is_not_replaced() {
    let place = Place::new();
    fs::write(place.at("text"), "a stranger's").unwrap();
    let target = place.at("backup.db");
    let disk = Arc::new(Hooked::<BeforeCreation>::default());
    let store = options_on(Arc::clone(&disk) as Arc<_>).open(place.path(), &key()).unwrap();
    *disk.hooks.0.lock().unwrap() = {
        let (text, target) = (place.at("text"), target.clone());
        Some(Box::new(move || assert!(fs::copy(text, target).is_ok())))
    };
    let error = store.backup(&target).unwrap_err();
    assert!(matches!(&error, Error::Invalid { what, .. } if what.contains("backup.db")), "{error:?}");
    assert_eq!(fs::read(&target).unwrap(), b"a stranger's");
    assert_eq!(names(place.folder()), ["backup.db", "state.db", "state.db.lock", "text"]);
}

/// Each creates a store at the same path, without the lock of the others: the lock file is removed all the time.
#[test]
fn of_processes_that_create_a_store_at_once_none_replaces_that_of_another() {
    for _ in 0..depth::creation_races() {
        let place = Place::new();
        let mut children: Vec<_> = (0..CREATORS)
            .map(|i| {
                let mut command = test_binary("identity::child_that_creates_a_store", &place.path());
                spawn(command.env("JOB", format!("run-{i}")))
            })
            .collect();
        children.iter_mut().for_each(|child| child.expect("ready"));
        fs::write(place.at("go"), "").unwrap();
        for mut child in children {
            child.expect("enqueued");
            child.finish();
        }
        assert_eq!(place.open().queue_depth(), CREATORS);
    }
}

const CREATORS: usize = 3;

#[test]
fn child_that_creates_a_store() {
    let Some(path) = child_path() else { return };
    let job = std::env::var("JOB").unwrap();
    say("ready");
    while !path.with_file_name("go").exists() {
        thread::yield_now();
    }
    // It is started again if it finds the others at work.
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let _ = fs::remove_file(path.with_file_name("state.db.lock"));
        match Store::open(&path, &key()) {
            Ok(store) => {
                store.enqueue_job(&job, b"payload").unwrap();
                store.close().unwrap();
                break say("enqueued");
            }
            Err(Error::Locked { .. }) => {}
            Err(error) => assert!(error.to_string().contains("state.db.new"), "{error}"),
        }
        assert!(Instant::now() < deadline);
    }
}

// ---- Readers ----

#[test]
fn a_refreshed_snapshot_follows_a_copy_that_replaced_the_log() {
    let place = Place::new();
    closed_image().write(place.path());
    fs::copy(place.path(), place.at("copy.db")).unwrap();
    let mut snapshot = Snapshot::open(place.path(), &key()).unwrap();
    let depth = snapshot.queue_depth();
    // The same bytes, and so the same header.
    fs::rename(place.at("copy.db"), place.path()).unwrap();
    snapshot.refresh().unwrap();
    assert_eq!(snapshot.queue_depth(), depth);
    let store = place.open();
    store.enqueue_job("later", b"job").unwrap();
    snapshot.refresh().unwrap();
    assert_eq!(snapshot.queue_depth(), depth + 1);
}

#[test]
fn a_snapshot_whose_log_was_removed_says_so() {
    let place = Place::new();
    closed_image().write(place.path());
    let mut snapshot = Snapshot::open(place.path(), &key()).unwrap();
    fs::remove_file(place.path()).unwrap();
    assert!(matches!(snapshot.refresh(), Err(Error::NotFound { .. })));
    assert!(salvage(place.path(), &key(), place.at("salvaged.db")).is_err());
}

/// The first durable call of a session also syncs the folder.
#[test]
fn a_folder_that_was_removed_before_the_first_durable_call_is_replaced() {
    let place = Place::new();
    let folder = place.at("data");
    fs::create_dir(&folder).unwrap();
    Store::open(folder.join("state.db"), &key()).unwrap().enqueue_job("run-1", b"one").unwrap();
    let mut options = existing();
    let store = options.heartbeat_durability(Durability::Buffered).open(folder.join("state.db"), &key()).unwrap();
    assert!(store.recovery().clean);
    store.record_heartbeat(1).unwrap();
    fs::remove_dir_all(&folder).unwrap();
    assert!(matches!(store.enqueue_job("run-2", b"two"), Err(Error::Replaced { .. })));
}

/// As `copytruncate` of logrotate does it.
#[test]
fn a_log_that_is_cut_while_it_is_open_is_an_error_of_the_next_sync_and_of_close() {
    // To nothing, within the mark page, and within the frames.
    for len in [0, 5000, 9096] {
        for is_closed in [false, true] {
            let place = Place::new();
            let store = OpenOptions::new().mmap(false).open(place.path(), &key()).unwrap();
            (0..20).for_each(|i| _ = store.enqueue_job(&format!("run-{i}"), &[7; 100]).unwrap());
            fs::File::options().write(true).open(place.path()).unwrap().set_len(len).unwrap();
            let cut = if is_closed { store.close() } else { store.sync() };
            assert!(matches!(cut, Err(Error::Corrupt { offset, .. }) if offset == len), "{cut:?}");
            if is_closed {
                let again = store.close();
                assert!(matches!(again, Err(Error::Corrupt { offset, .. }) if offset == len), "{again:?}");
            }
        }
    }
}

/// The compaction that was running has the next generation locked.
#[test]
fn a_store_that_has_failed_leaves_no_compaction_behind() {
    let place = Place::new();
    let store = place.open();
    let payload = vec![7; 1 << 20];
    (0..60).for_each(|i| _ = store.enqueue_job(&format!("run-{i}"), &payload).unwrap());
    (0..40).for_each(|i| _ = store.enqueue_job(&format!("run-{i}"), &payload[1..]).unwrap());
    // More than half is dead from here on, so a compaction begins.
    (0..30).for_each(|i| _ = store.ack_job(&format!("run-{i}")).unwrap());
    while !place.at("state.db.new").exists() && store.stats().compaction.completed == 0 {
        thread::yield_now();
    }
    fs::rename(place.path(), place.at("moved.db")).unwrap();
    assert!(store.sync().is_err());
    fs::rename(place.at("moved.db"), place.path()).unwrap();
    drop(store);
    assert!(!place.at("state.db.new").exists());
    let store = existing().lock_timeout(Duration::ZERO).open(place.path(), &key()).unwrap();
    assert_eq!(store.queue_depth(), 30);
}

// ---- No false alarm ----

const WRITERS: usize = 8;

/// On the disk, and on a file system where a sync takes no time, so that there are many more compactions.
#[test]
fn writers_do_not_take_a_compaction_for_an_outsider() {
    for folder in disk_and_memory() {
        let path = folder.path().join("state.db");
        write_and_compact(&path, depth::raced_compactions());
        let store = existing().open(&path, &key()).unwrap();
        assert_eq!(store.queue_depth(), WRITERS);
    }
}

/// Writes from several threads during at least so many compactions, and ten times as many durable calls. None of
/// them fails.
fn write_and_compact(path: &Path, compactions: usize) {
    let store = &Store::open(path, &key()).unwrap();
    let (is_over, calls) = (&AtomicBool::new(false), &AtomicUsize::new(0));
    let keys = ["one", "another"].map(|key| AgentKey::new(key).unwrap());
    thread::scope(|threads| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                threads.spawn(move || {
                    // Also one that gets no turn until it is over.
                    store.enqueue_job(&format!("run-{writer}"), &[0; 300]).unwrap();
                    while !is_over.load(Ordering::Relaxed) {
                        let call = calls.fetch_add(1, Ordering::Relaxed);
                        let done = if call % 16 == 15 {
                            store.sync()
                        } else {
                            store.enqueue_job(&format!("run-{writer}"), &[0; 300]).map(drop)
                        };
                        done.unwrap_or_else(|error| panic!("writer {writer}, call {call}: {error}"));
                    }
                })
            })
            .collect();
        let mut number = 0;
        while !is_over.load(Ordering::Relaxed) {
            let done = match number % 8 {
                7 => store.rekey(&keys[number / 8 % 2]),
                _ => store.compact().map(drop),
            };
            number += 1;
            let is_enough = number >= compactions && calls.load(Ordering::Relaxed) >= 10 * compactions;
            let is_writer_gone = writers.iter().any(thread::ScopedJoinHandle::is_finished);
            is_over.fetch_or(is_enough || done.is_err() || is_writer_gone, Ordering::Relaxed);
            done.unwrap();
        }
    });
    store.rekey(&key()).unwrap();
    store.sync().unwrap();
}
