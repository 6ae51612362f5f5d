//! The files next to a log: they are never a store, a source or a target, and what an operator or a crash has left
//! at one of their names is neither lost nor in the way for good.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::{io, thread};

use backupy_state::testing::{Storage, options_on, salvage_on};
use backupy_state::{AgentKey, Error, OnDamage, OpenOptions, Snapshot, Store, salvage, verify};

use crate::common::{
    Child, Hooked, Hooks, Image, Listing, Place, Random, child_path, closed, existing, key, listing, names, say,
    spawn, test_binary, unclean,
};

/// The own names of `state.db`. A quarantined file may be read, the others may not even be that.
const WORKING: [&str; 5] =
    ["state.db.lock", "state.db.new", "state.db.index", "state.db.index.new", "state.db.damaged-1.new"];
const QUARANTINED: [&str; 4] = ["state.db.torn-1", "state.db.torn", "state.db.damaged-1", "state.db.damaged-23"];

fn own_names() -> impl Iterator<Item = &'static str> {
    WORKING.into_iter().chain(QUARANTINED)
}

/// What is in the folder; of the lock file, too, which a refused call must not even make.
fn everything(folder: &Path) -> (Vec<String>, Listing) {
    (names(folder), listing(folder))
}

fn assert_invalid<T: std::fmt::Debug>(result: Result<T, Error>, part: &str) {
    let error = result.unwrap_err();
    assert!(matches!(&error, Error::Invalid { what, .. } if what.contains(part)), "{error:?}");
}

fn wrong_key() -> AgentKey {
    AgentKey::new("another").unwrap()
}

/// A store of one job, closed.
fn place_with_store() -> Place {
    let place = Place::new();
    let store = place.open();
    store.enqueue_job("run-1", b"one").unwrap();
    store.close().unwrap();
    place
}

// ---- Own names are refused ----

#[test]
fn an_own_name_is_no_path_of_a_store() {
    let place = place_with_store();
    for is_there in [false, true] {
        for name in own_names().map(|name| place.at(name)).filter(|name| is_there || !name.exists()) {
            if is_there {
                fs::copy(place.path(), &name).unwrap();
            }
            let before = everything(place.folder());
            assert_invalid(Store::open(&name, &key()), &name.display().to_string());
            assert_invalid(existing().open(&name, &key()), &name.display().to_string());
            // By a link, it is the same file.
            symlink(&name, place.at("link.db")).unwrap();
            assert_invalid(Store::open(place.at("link.db"), &key()), &name.display().to_string());
            fs::remove_file(place.at("link.db")).unwrap();
            assert_eq!(everything(place.folder()), before);
        }
    }
}

#[test]
fn an_own_name_is_no_target_of_a_backup_or_a_salvage() {
    let place = place_with_store();
    let store = place.open();
    let before = everything(place.folder());
    for name in own_names().map(|name| place.at(name)) {
        assert_invalid(store.backup(&name), &name.display().to_string());
        assert_invalid(salvage(place.path(), &key(), &name), &name.display().to_string());
        assert_eq!(everything(place.folder()), before);
    }
}

#[test]
fn a_working_file_is_not_read_as_a_store() {
    let place = place_with_store();
    for name in WORKING.map(|name| place.at(name)) {
        fs::copy(place.path(), &name).unwrap();
        let before = everything(place.folder());
        assert_invalid(Snapshot::open(&name, &key()), &name.display().to_string());
        assert_invalid(verify(&name, None), &name.display().to_string());
        assert_invalid(salvage(&name, &key(), place.at("salvaged.db")), &name.display().to_string());
        assert_eq!(everything(place.folder()), before);
        fs::remove_file(&name).unwrap();
    }
}

#[test]
fn a_quarantined_file_can_be_read() {
    let place = place_with_store();
    for name in QUARANTINED.map(|name| place.at(name)) {
        fs::copy(place.path(), &name).unwrap();
        assert_eq!(Snapshot::open(&name, &key()).unwrap().queue_depth(), 1);
        assert!(verify(&name, Some(&key())).unwrap().is_intact());
    }
    let mut image = Image::read(place.path());
    image.flip(8192 + 60).write(place.at("state.db.damaged-1"));
    assert!(!verify(place.at("state.db.damaged-1"), Some(&key())).unwrap().is_intact());
    let report = salvage(place.at("state.db.damaged-1"), &key(), place.at("salvaged.db")).unwrap();
    assert_eq!(report.lost.len(), 1);
}

#[cfg(feature = "import-bolt")]
#[test]
fn an_own_name_is_no_source_of_an_import() {
    let place = Place::new();
    let store = place.open();
    let bolt = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bolt/small.db");
    fs::create_dir(place.at("sub")).unwrap();
    for name in own_names().chain(["state.db"]).map(|name| place.at(name)) {
        if name != place.path() {
            fs::write(&name, fs::read(&bolt).unwrap()).unwrap();
        }
        let before = everything(place.folder());
        assert_invalid(backupy_state::import_bolt(&name, &key(), &store), &name.display().to_string());
        let by_another_way = place.at("sub/..").join(name.file_name().unwrap());
        let why = if name == place.path() { "already a store" } else { "a store keeps" };
        assert_invalid(backupy_state::import_bolt(by_another_way, &key(), &store), why);
        assert_eq!(everything(place.folder()), before);
        assert!(name == place.path() || fs::read(&name).unwrap() == fs::read(&bolt).unwrap());
    }
}

// ---- What is at `state.db.new` ----

/// A salvaged store at `state.db.new`, where an operator has parked it.
fn parked() -> (Place, Image) {
    let place = place_with_store();
    salvage(place.path(), &key(), place.at("salvaged.db")).unwrap();
    fs::rename(place.at("salvaged.db"), place.at("state.db.new")).unwrap();
    let image = Image::read(place.at("state.db.new"));
    (place, image)
}

#[test]
fn a_salvaged_store_that_is_parked_at_new_is_kept_under_another_name() {
    let (place, image) = parked();
    let store = place.open();
    assert_eq!(store.queue_depth(), 1);
    assert_eq!(names(place.folder()), ["state.db", "state.db.damaged-1", "state.db.lock"]);
    assert!(Image::read(place.at("state.db.damaged-1")) == image);
    // While the store is open, as well.
    image.write(place.at("state.db.new"));
    store.compact().unwrap();
    assert!(Image::read(place.at("state.db.damaged-2")) == image);
    assert_eq!(Snapshot::open(place.at("state.db.damaged-2"), &key()).unwrap().queue_depth(), 1);
}

/// In the copied records: its mark still shows that the log has had a name.
#[test]
fn a_damaged_log_that_is_parked_at_new_is_kept_under_another_name() {
    let place = place_with_store();
    let store = place.open();
    (0..200).for_each(|i| _ = store.enqueue_job(&format!("run-{i}"), &[7; 1000]).unwrap());
    // It has all that the other one has, which is not kept for that.
    let older = Image::read(place.path());
    store.compact().unwrap();
    store.close().unwrap();
    let mut image = Image::read(place.path());
    image.flip(image.frames()[0].start + 60).write(place.at("state.db.new"));
    older.write(place.path());
    assert_eq!(place.open().queue_depth(), 200);
    assert!(Image::read(place.at("state.db.damaged-1")) == image);
    assert!(!place.at("state.db.new").exists());
}

#[test]
fn a_wrong_key_does_not_touch_what_is_parked_at_new() {
    let (place, _) = parked();
    let before = everything(place.folder());
    assert!(matches!(Store::open(place.path(), &wrong_key()), Err(Error::WrongKey { .. })));
    assert_eq!(everything(place.folder()), before);
}

/// A compaction was killed, and then the store was restored from a backup of an older generation.
#[test]
fn an_unfinished_copy_of_another_generation_does_not_keep_a_restored_store_from_being_opened() {
    let (place, mut image) = parked();
    image.without_marks().write(place.at("state.db.new"));
    let newer = place_with_store();
    let store = newer.open();
    (0..3).for_each(|_| _ = store.compact().unwrap());
    store.close().unwrap();
    image.write(newer.at("state.db.new"));
    // Another store, so it may be of value to somebody.
    let before = listing(newer.folder());
    assert_invalid(newer.try_open(), "state.db.new");
    assert_eq!(listing(newer.folder()), before);

    let store = place.open();
    assert!(!place.at("state.db.new").exists(), "it is the next generation");
    (0..3).for_each(|_| _ = store.compact().unwrap());
    store.close().unwrap();
    image.write(place.at("state.db.new"));
    assert_eq!(place.open().queue_depth(), 1);
    assert!(Image::read(place.at("state.db.damaged-1")) == image);
}

#[test]
fn the_beginning_of_another_store_at_new_is_an_error_that_names_it() {
    let (_other, image) = parked();
    let place = place_with_store();
    for len in [116, 4096, 8191] {
        let mut cut = image.clone();
        cut.cut(len).write(place.at("state.db.new"));
        let before = listing(place.folder());
        assert_invalid(place.try_open(), "state.db.new");
        assert_eq!(listing(place.folder()), before);
    }
}

#[test]
fn a_strangers_file_at_new_is_an_error_that_names_it() {
    let place = place_with_store();
    let bolt = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bolt/small.db");
    for bytes in [fs::read(bolt).unwrap(), b"a long text ".repeat(1000)] {
        let store = place.open();
        fs::write(place.at("state.db.new"), bytes).unwrap();
        let before = listing(place.folder());
        assert_invalid(store.compact(), "state.db.new");
        assert_eq!(listing(place.folder()), before);
        store.enqueue_job("run-2", b"two").unwrap();
        store.close().unwrap();
        let before = listing(place.folder());
        assert_invalid(place.try_open(), "state.db.new");
        assert_eq!(listing(place.folder()), before);
        fs::remove_file(place.at("state.db.new")).unwrap();
    }
    assert_eq!(place.open().queue_depth(), 2);
}

#[test]
fn a_store_at_new_without_a_log_is_an_error_and_none_is_created() {
    let place = place_with_store();
    fs::rename(place.path(), place.at("state.db.new")).unwrap();
    let before = everything(place.folder());
    for _ in 0..2 {
        assert_invalid(Store::open(place.path(), &key()), "state.db.new");
        assert_eq!(everything(place.folder()), before);
    }
}

#[test]
fn a_folder_or_a_link_at_new_is_an_error_that_names_it() {
    let place = place_with_store();
    fs::write(place.at("victim"), "the text of another program").unwrap();
    let new = place.at("state.db.new");
    for target in [None, Some("nowhere"), Some("victim")] {
        target.map_or_else(|| fs::create_dir(&new), |target| symlink(target, &new)).unwrap();
        let before = listing(place.folder());
        let error = place.try_open().unwrap_err();
        assert!(error.to_string().contains("state.db.new"), "{error}");
        assert_eq!(listing(place.folder()), before);
        if target.is_some() { fs::remove_file(&new) } else { fs::remove_dir(&new) }.unwrap();
        assert_eq!(place.try_open().unwrap().queue_depth(), 1);
    }
}

// ---- What is at `state.db.lock` ----

#[test]
fn a_lock_file_with_another_name_is_refused_and_not_written_to() {
    for is_symbolic in [false, true] {
        let place = place_with_store();
        let lock = place.at("state.db.lock");
        fs::remove_file(&lock).unwrap();
        fs::write(place.at("victim"), "the text of another program").unwrap();
        if is_symbolic { symlink("victim", lock) } else { fs::hard_link(place.at("victim"), lock) }.unwrap();
        let before = everything(place.folder());
        let error = place.try_open().unwrap_err();
        assert!(matches!(error, Error::Io { .. }) && error.to_string().contains("state.db.lock"), "{error:?}");
        assert_eq!(everything(place.folder()), before);
        fs::remove_file(place.at("state.db.lock")).unwrap();
        assert_eq!(place.open().queue_depth(), 1);
    }
}

// ---- Torn tails ----

#[test]
fn a_torn_tail_gets_the_next_number_if_something_is_at_its_name() {
    for is_folder in [false, true] {
        let place = Place::new();
        let first = place.at("state.db.torn-1");
        if is_folder { fs::create_dir(&first) } else { symlink("nowhere", &first) }.unwrap();
        let mut image = closed().image;
        image.append(b"torn").write(place.path());
        let store = place.open();
        assert!(store.recovery().quarantined.as_ref().is_some_and(|path| path.ends_with("state.db.torn-2")));
        assert_eq!(fs::read(place.at("state.db.torn-2")).unwrap(), b"torn");
        let found = fs::symlink_metadata(&first).unwrap();
        assert_eq!((found.is_dir(), found.is_symlink()), (is_folder, !is_folder));
        assert!(!place.at("nowhere").exists());
    }
}

#[test]
fn the_eight_newest_torn_tails_are_kept() {
    let place = Place::new();
    closed().image.write(place.path());
    for number in 1..=12 {
        let mut image = Image::read(place.path());
        image.append(format!("torn tail {number}").as_bytes()).write(place.path());
        place.open().close().unwrap();
    }
    let torn: Vec<_> = names(place.folder()).into_iter().filter(|name| name.contains("torn")).collect();
    assert_eq!(torn.len(), 8);
    for number in 5..=12 {
        let kept = fs::read_to_string(place.at(&format!("state.db.torn-{number}"))).unwrap();
        assert_eq!(kept, format!("torn tail {number}"));
    }
}

#[test]
fn what_is_no_torn_tail_is_not_removed_as_an_old_one() {
    let place = place_with_store();
    fs::copy(place.path(), place.at("state.db.torn-1")).unwrap();
    fs::write(place.at("notes"), "an operator's").unwrap();
    fs::hard_link(place.at("notes"), place.at("state.db.torn-2")).unwrap();
    for number in 3..=12 {
        let mut image = Image::read(place.path());
        image.append(format!("torn tail {number}").as_bytes()).write(place.path());
        place.open().close().unwrap();
    }
    assert_eq!(Snapshot::open(place.at("state.db.torn-1"), &key()).unwrap().queue_depth(), 1);
    assert_eq!(fs::read(place.at("state.db.torn-2")).unwrap(), b"an operator's");
}

// ---- Damaged logs ----

fn set_aside() -> OpenOptions {
    let mut options = existing();
    options.on_damage(OnDamage::SetAside);
    options
}

#[test]
fn a_ninth_damaged_log_is_refused_and_stays_where_it_is() {
    let place = Place::new();
    let intact = unclean().image;
    let damaged = |seed| {
        let mut image = intact.clone();
        let frame = image.frames()[1].clone();
        image.splice(frame.end - 8..frame.end, &Random::new(seed).bytes(8));
        image
    };
    for number in 1..=8 {
        damaged(number).write(place.path());
        drop(set_aside().open(place.path(), &key()).unwrap());
        assert!(Image::read(place.at(&format!("state.db.damaged-{number}"))) == damaged(number));
    }
    damaged(9).write(place.path());
    let before = listing(place.folder());
    assert_invalid(set_aside().open(place.path(), &key()), "too many");
    assert_eq!(listing(place.folder()), before);
    // One of which there is a copy needs no other.
    damaged(3).write(place.path());
    drop(set_aside().open(place.path(), &key()).unwrap());
}

// ---- Backups ----

/// Stops at the first sync after a file has been opened at `<path>.new`, and says so.
#[derive(Clone, Debug, Default)]
struct Stopping {
    is_armed: Arc<AtomicBool>,
}

impl Hooks for Stopping {
    fn open(&self, path: &Path) -> io::Result<bool> {
        self.is_armed.store(path.extension().is_some_and(|extension| extension == "new"), Ordering::SeqCst);
        Ok(false)
    }

    fn sync(&self) {
        if self.is_armed.load(Ordering::SeqCst) {
            say("copying");
            loop {
                thread::park();
            }
        }
    }
}

fn stopping_disk() -> Arc<dyn Storage> {
    Arc::new(Hooked::<Stopping>::default())
}

#[test]
fn child_that_stops_in_a_backup() {
    let Some(path) = child_path() else { return };
    let store = options_on(stopping_disk()).create(false).open(&path, &key()).unwrap();
    store.backup(path.with_file_name("copy.db")).unwrap();
}

#[test]
fn child_that_stops_in_a_salvage() {
    let Some(path) = child_path() else { return };
    salvage_on(&stopping_disk(), &path, &key(), path.with_file_name("copy.db")).unwrap();
}

fn child_that_stops(place: &Place, copying: &str) -> Child {
    let mut child = spawn(&mut test_binary(&format!("names::child_that_stops_in_a_{copying}"), &place.path()));
    child.expect("copying");
    child
}

#[test]
fn what_a_killed_backup_left_over_is_replaced_by_the_next_one() {
    let place = place_with_store();
    let copy = place.at("copy.db");
    child_that_stops(&place, "backup").kill();
    assert!(place.at("copy.db.new").exists());
    let store = place.open();
    store.enqueue_job("run-2", b"two").unwrap();
    // The left-over is of an older generation by now.
    store.compact().unwrap();
    store.backup(&copy).unwrap();
    assert!(!place.at("copy.db.new").exists());
    assert_eq!(existing().open(&copy, &key()).unwrap().queue_depth(), 2);
}

#[test]
fn a_copy_that_is_being_made_is_not_taken_for_a_left_over() {
    let place = place_with_store();
    let copy = place.at("copy.db");
    let mut child = child_that_stops(&place, "salvage");
    let before = listing(place.folder());
    assert_invalid(salvage(place.path(), &key(), &copy), "copy.db.new is in the way: a process is writing it");
    assert_invalid(place.open().backup(&copy), "copy.db.new is in the way: a process is writing it");
    assert_eq!(listing(place.folder())["copy.db.new"], before["copy.db.new"]);
    child.kill();
    salvage(place.path(), &key(), &copy).unwrap();
    assert!(!place.at("copy.db.new").exists());
    assert_eq!(existing().open(&copy, &key()).unwrap().queue_depth(), 1);
}

#[test]
fn what_a_backup_of_another_store_left_over_is_in_the_way() {
    let place = place_with_store();
    child_that_stops(&place, "backup").kill();
    let left_over = fs::read(place.at("copy.db.new")).unwrap();
    assert!(left_over.len() >= 8192);
    let other = Store::open(place.at("other.db"), &key()).unwrap();
    assert_invalid(other.backup(place.at("copy.db")), "copy.db.new");
    assert_eq!(fs::read(place.at("copy.db.new")).unwrap(), left_over);
}

// ---- Which path is meant ----

#[test]
fn a_name_that_leaves_no_space_for_those_of_the_files_next_to_it_is_refused() {
    let place = Place::new();
    let named = |len: usize| place.at(&format!("{}.db", "x".repeat(len - 3)));
    for len in [240, 246, 250, 255] {
        assert_invalid(Store::open(named(len), &key()), "too long");
        assert_eq!(names(place.folder()), Vec::<String>::new());
    }
    // Without its extension, too.
    assert_invalid(Store::open(place.at(&"x".repeat(237)), &key()), "too long");

    let path = named(239);
    let store = Store::open(&path, &key()).unwrap();
    for number in 0..3 {
        store.enqueue_job(&format!("run-{number}"), b"payload").unwrap();
    }
    store.compact().unwrap();
    assert_invalid(store.backup(named(240)), "too long");
    store.backup(place.at(&format!("{}.db", "y".repeat(236)))).unwrap();
    store.close().unwrap();
    let mut image = Image::read(&path);
    image.append(b"torn").write(&path);
    Store::open(&path, &key()).unwrap().close().unwrap();
    let mut image = Image::read(&path);
    image.flip(8192 + 60).write(&path);
    let store = set_aside().open(&path, &key()).unwrap();
    assert!(store.recovery().salvaged.is_some());
}

#[test]
fn a_store_without_an_extension_is_not_passed_over_for_a_new_one() {
    let place = place_with_store();
    let (restored, meant) = (place.at("restored"), place.at("restored.db"));
    fs::copy(place.path(), &restored).unwrap();
    let before = everything(place.folder());
    let open = || {
        [
            Store::open(&restored, &key()).map(drop),
            existing().open(&restored, &key()).map(drop),
            Snapshot::open(&restored, &key()).map(drop),
            verify(&restored, None).map(drop),
        ]
    };
    for refused in open() {
        let Err(Error::Invalid { what, .. }) = refused else { panic!("{refused:?}") };
        let both = [&restored, &meant].map(|path: &PathBuf| format!("{} ", path.display()));
        assert!(both.iter().all(|name| what.contains(name.trim_end())), "{what}");
        assert!(what.contains("is a store"), "{what}");
    }
    assert_eq!(everything(place.folder()), before);
    // With a store under the meant name, that is the one.
    fs::copy(place.path(), &meant).unwrap();
    assert!(open().iter().all(Result::is_ok));
    // And what is no store is in no one's way.
    fs::write(place.at("notes"), "text").unwrap();
    assert!(Store::open(place.at("notes"), &key()).unwrap().recovery().created);
}

#[test]
fn a_copy_can_be_opened_by_the_words_that_made_it() {
    let place = place_with_store();
    let store = place.open();
    fs::create_dir(place.at("elsewhere")).unwrap();
    symlink("elsewhere/linked.db", place.at("link.db")).unwrap();
    for words in ["copy", "copy.of.yesterday", "link"].map(|words| place.at(words)) {
        store.backup(&words).unwrap();
        assert_invalid(store.backup(&words), "already exists");
        assert_eq!(existing().open(&words, &key()).unwrap().queue_depth(), 1);
    }
    assert!(place.at("copy.db").exists() && place.at("elsewhere/linked.db").exists());
    assert!(fs::symlink_metadata(place.at("link.db")).unwrap().nlink() == 1);
    let report = salvage(place.path(), &key(), place.at("salvaged")).unwrap();
    assert_eq!(report.to, fs::canonicalize(place.at("salvaged.db")).unwrap());
    assert_eq!(existing().open(place.at("salvaged"), &key()).unwrap().queue_depth(), 1);
    let before = everything(place.folder());
    for words in ["-", "", "sub/", ".."] {
        assert_invalid(store.backup(words), "");
        assert_invalid(salvage(place.path(), &key(), words), "");
    }
    assert_eq!(everything(place.folder()), before);
}

#[test]
fn a_path_that_leaves_no_space_for_the_names_next_to_it_is_refused() {
    let place = Place::new();
    let mut folder = fs::canonicalize(place.folder()).unwrap();
    let name = "x".repeat(200);
    while folder.as_os_str().len() < 4075 - 201 {
        folder.push(&name);
    }
    folder.push("y".repeat(4075 - folder.as_os_str().len() - 1 - "/a.db".len()));
    fs::create_dir_all(&folder).unwrap();
    let path = folder.join("abcdef.db");
    assert_eq!(path.as_os_str().len(), 4080);
    assert_invalid(Store::open(&path, &key()), "too long");
    drop(Store::open(folder.join("abcde.db"), &key()).unwrap());
}
