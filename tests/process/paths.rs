//! Which paths a store accepts, and what opening changes in the folder.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use backupy_state::{Error, Snapshot, Store, salvage, verify};

use crate::common::{
    Image, Place, assert_refused, child_path, existing, is_root, key, listing, names, say, spawn, test_binary,
};

#[test]
fn an_empty_path_is_invalid() {
    let place = Place::new();
    assert_refused!(place, "", Error::Invalid { .. });
}

#[test]
fn a_path_that_names_no_file_is_invalid() {
    let place = Place::new();
    for path in [place.at("sub/"), place.at("sub/.."), PathBuf::from("/"), PathBuf::from("..")] {
        assert_refused!(place, path, Error::Invalid { .. });
    }
}

#[test]
fn a_path_with_a_zero_byte_is_refused() {
    let place = Place::new();
    assert_refused!(place, place.at("st\0ate.db"), Error::Io { .. } | Error::Invalid { .. });
}

#[test]
fn a_path_without_extension_gets_db() {
    let place = Place::new();
    let store = Store::open(place.at("state"), &key()).unwrap();
    assert_eq!(store.path(), fs::canonicalize(place.folder()).unwrap().join("state.db"));
    assert_eq!(names(place.folder()), ["state.db", "state.db.lock"]);
    assert_eq!(Snapshot::open(place.at("state"), &key()).unwrap().path(), store.path());
}

#[test]
fn a_path_with_any_other_extension_is_kept() {
    let place = Place::new();
    drop(Store::open(place.at("state.log"), &key()).unwrap());
    assert_eq!(names(place.folder()), ["state.log", "state.log.lock"]);
}

#[test]
fn a_folder_is_not_a_store() {
    let place = Place::new();
    for name in ["folder.db", "plain"] {
        fs::create_dir(place.at(name)).unwrap();
        assert_refused!(place, place.at(name), Error::NotAStore { .. });
    }
    assert_eq!(names(place.folder()), ["folder.db", "plain"]);
}

fn make_fifo(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

#[test]
fn a_fifo_is_not_a_store() {
    let place = Place::new();
    make_fifo(&place.at("fifo.db"));
    assert_refused!(place, place.at("fifo.db"), Error::NotAStore { .. });
    assert_eq!(names(place.folder()), ["fifo.db"]);
}

/// As for a folder: no store is created next to it, say at `/dev/null.db`.
#[test]
fn a_fifo_without_extension_is_not_a_store() {
    let place = Place::new();
    make_fifo(&place.at("fifo"));
    assert_refused!(place, place.at("fifo"), Error::NotAStore { .. });
    assert_eq!(names(place.folder()), ["fifo"]);
}

#[test]
fn a_socket_is_not_a_store() {
    let place = Place::new();
    let _listener = UnixListener::bind(place.at("socket.db")).unwrap();
    assert_refused!(place, place.at("socket.db"), Error::NotAStore { .. });
    assert_eq!(names(place.folder()), ["socket.db"]);
}

#[test]
fn a_device_is_not_a_store() {
    let place = Place::new();
    for device in ["/dev/null", "/dev/zero"] {
        symlink(device, place.at("device.db")).unwrap();
        assert_refused!(place, place.at("device.db"), Error::NotAStore { .. });
        fs::remove_file(place.at("device.db")).unwrap();
        assert!(!Path::new(&format!("{device}.lock")).exists());
    }
    assert_eq!(names(place.folder()), Vec::<String>::new());
}

#[test]
fn a_missing_folder_is_an_io_error_and_is_not_created() {
    let place = Place::new();
    assert_refused!(place, place.at("missing/state.db"), Error::Io { .. });
    assert_refused!(place, place.at("missing/state"), Error::Io { .. });
    assert_eq!(names(place.folder()), Vec::<String>::new());
}

#[test]
fn a_file_where_the_folder_should_be_is_an_io_error() {
    let place = Place::new();
    fs::write(place.at("file"), "text").unwrap();
    assert_refused!(place, place.at("file/state.db"), Error::Io { .. });
}

#[test]
fn opening_a_missing_store_without_create_is_not_found_and_makes_no_file() {
    let place = Place::new();
    assert!(matches!(existing().open(place.path(), &key()), Err(Error::NotFound { .. })));
    assert!(matches!(Snapshot::open(place.path(), &key()), Err(Error::NotFound { .. })));
    assert!(matches!(verify(place.path(), None), Err(Error::NotFound { .. })));
    assert_eq!(names(place.folder()), Vec::<String>::new());
}

/// An operator who names a file that exists must see which one was looked at.
#[test]
fn a_file_without_extension_that_is_no_store_is_named_next_to_the_missing_one() {
    let place = Place::new();
    let (given, meant) = (place.at("passwd"), place.at("passwd.db"));
    fs::write(&given, "root:x:0:0\n").unwrap();
    let before = listing(place.folder());
    let errors = [
        existing().open(&given, &key()).unwrap_err(),
        Snapshot::open(&given, &key()).unwrap_err(),
        verify(&given, Some(&key())).unwrap_err(),
        verify(&given, None).unwrap_err(),
        salvage(&given, &key(), place.at("salvaged.db")).unwrap_err(),
    ];
    for error in errors {
        assert!(matches!(&error, Error::NotFound { given: Some(path), .. } if *path == given), "{error:?}");
        let expected = format!(
            "there is no store at {}; `.db` was added to the path, and {} is not a store either",
            meant.display(),
            given.display()
        );
        assert_eq!(error.to_string(), expected);
    }
    assert_eq!(listing(place.folder()), before);

    // A new store is made next to it, and it is then no longer spoken of.
    Store::open(&given, &key()).unwrap().close().unwrap();
    assert_eq!(Snapshot::open(&given, &key()).unwrap().path(), meant);
    fs::remove_file(&meant).unwrap();
    fs::remove_file(&given).unwrap();
    let error = Snapshot::open(&given, &key()).unwrap_err();
    assert!(matches!(error, Error::NotFound { given: None, .. }), "{error:?}");
}

// ---- Symbolic links ----

#[test]
fn a_symbolic_link_is_followed_and_the_lock_file_is_next_to_its_target() {
    let place = Place::new();
    fs::create_dir(place.at("data")).unwrap();
    symlink("data/real.db", place.path()).unwrap();
    // A dangling link: the store is made where it points to.
    let store = place.open();
    assert_eq!(store.path(), fs::canonicalize(place.at("data")).unwrap().join("real.db"));
    store.enqueue_job("run-1", b"one").unwrap();
    assert_eq!(names(&place.at("data")), ["real.db", "real.db.lock"]);
    assert!(matches!(existing().open(place.at("data/real.db"), &key()), Err(Error::Locked { .. })));
    store.close().unwrap();

    assert_eq!(place.open().queue_depth(), 1);
    assert_eq!(names(place.folder()), ["data", "state.db"]);
    assert!(fs::symlink_metadata(place.path()).unwrap().is_symlink());
}

#[test]
fn a_link_to_a_link_and_a_linked_folder_are_followed() {
    let place = Place::new();
    fs::create_dir(place.at("data")).unwrap();
    symlink("data", place.at("linked")).unwrap();
    symlink("linked/real.db", place.at("second.db")).unwrap();
    symlink(place.at("second.db"), place.path()).unwrap();
    let store = place.open();
    assert_eq!(store.path(), fs::canonicalize(place.at("data")).unwrap().join("real.db"));
}

#[test]
fn links_in_a_circle_are_an_io_error() {
    let place = Place::new();
    symlink("b.db", place.at("a.db")).unwrap();
    symlink("a.db", place.at("b.db")).unwrap();
    assert_refused!(place, place.at("a.db"), Error::Io { .. });
}

#[test]
fn a_link_into_a_missing_folder_is_an_io_error() {
    let place = Place::new();
    symlink("missing/real.db", place.path()).unwrap();
    assert_refused!(place, place.path(), Error::Io { .. });
}

#[test]
fn a_lock_file_that_is_a_link_is_refused_and_its_target_is_not_touched() {
    let place = Place::new();
    place.open().close().unwrap();
    fs::remove_file(place.at("state.db.lock")).unwrap();
    fs::write(place.at("victim"), "text").unwrap();
    symlink("victim", place.at("state.db.lock")).unwrap();
    assert!(matches!(place.try_open(), Err(Error::Io { .. })));
    assert_eq!(fs::read(place.at("victim")).unwrap(), b"text");
}

#[test]
fn a_link_in_the_place_of_a_left_over_is_refused_and_its_target_is_not_touched() {
    let place = Place::new();
    fs::write(place.at("victim"), "text").unwrap();
    symlink("victim", place.at("state.db.new")).unwrap();
    let refused = Store::open(place.path(), &key()).unwrap_err();
    assert!(refused.to_string().contains("state.db.new is in the way: it is a symbolic link"), "{refused}");
    assert_eq!(fs::read(place.at("victim")).unwrap(), b"text");
    assert_eq!(names(place.folder()), ["state.db.lock", "state.db.new", "victim"]);
}

// ---- Modes and left-overs ----

#[test]
fn child_that_makes_every_file() {
    let Some(path) = child_path() else { return };
    drop(Store::open(&path, &key()).unwrap());
    let mut image = Image::read(&path);
    image.append(b"torn").write(&path);
    drop(Store::open(&path, &key()).unwrap());
    say("done");
}

#[test]
fn every_file_is_for_its_owner_only_whatever_the_umask() {
    for umask in ["0", "022", "077"] {
        let place = Place::new();
        let plain = test_binary("paths::child_that_makes_every_file", &place.path());
        let mut with_umask = Command::new("sh");
        with_umask.args(["-c", &format!("umask {umask}; exec \"$0\" \"$@\"")]).arg(plain.get_program());
        with_umask.args(plain.get_args()).envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let mut child = spawn(with_umask.stdin(Stdio::null()).stdout(Stdio::piped()));
        child.expect("done");
        child.finish();
        assert_eq!(names(place.folder()), ["state.db", "state.db.lock", "state.db.torn-1"]);
        for name in names(place.folder()) {
            assert_eq!(fs::metadata(place.at(&name)).unwrap().mode() & 0o7777, 0o600, "{name}, umask {umask}");
        }
    }
}

#[test]
fn what_a_crash_during_creation_left_over_is_removed() {
    let place = Place::new();
    let other = Place::new();
    drop(other.open());
    let header = fs::read(other.path()).unwrap();
    let half_a_header = &header[..100];
    let left_overs: [(bool, &[u8]); 5] =
        [(false, half_a_header), (true, &[0; 4096]), (true, &[0; 8192]), (true, half_a_header), (true, &[])];
    for (has_store, left_over) in left_overs {
        fs::write(place.at("state.db.new"), left_over).unwrap();
        let store = place.open();
        assert_eq!(store.recovery().created, !has_store);
        assert_eq!(names(place.folder()), ["state.db", "state.db.lock"]);
    }
}

#[test]
fn a_folder_in_the_place_of_a_left_over_is_named_as_in_the_way() {
    let place = Place::new();
    place.open().enqueue_job("run-1", b"payload").unwrap();
    fs::create_dir(place.at("state.db.new")).unwrap();
    let opened = place.try_open();
    let Err(Error::Invalid { what, .. }) = &opened else { panic!("{opened:?}") };
    assert!(what.contains("state.db.new is in the way"), "{what}");
    fs::remove_dir(place.at("state.db.new")).unwrap();
    assert_eq!(place.open().queue_depth(), 1);
}

#[test]
fn a_left_over_is_not_removed_without_the_lock() {
    let place = Place::new();
    let store = place.open();
    fs::write(place.at("state.db.new"), [0; 100]).unwrap();
    assert!(matches!(place.try_open(), Err(Error::Locked { .. })));
    assert!(Snapshot::open(place.path(), &key()).is_ok());
    assert_eq!(fs::read(place.at("state.db.new")).unwrap(), [0; 100]);
    drop(store);
    drop(place.open());
    assert!(!place.at("state.db.new").exists());
}

#[test]
fn child_without_rights() {
    let Some(path) = child_path() else { return };
    say(&match Store::open(&path, &key()) {
        Ok(store) => format!("opened, {} jobs", store.queue_depth()),
        Err(Error::Io { .. }) => "io".to_owned(),
        Err(error) => format!("{error:?}"),
    });
    say(&match Snapshot::open(&path, &key()) {
        Ok(snapshot) => format!("snapshot of {} jobs", snapshot.queue_depth()),
        Err(error) => format!("{error:?}"),
    });
}

/// A store of one job whose files belong to an ordinary user, and a child process of that user.
fn store_of_another_user() -> (Place, Command) {
    let place = Place::new();
    let store = place.open();
    store.enqueue_job("run-1", b"one").unwrap();
    store.close().unwrap();
    let mut command = test_binary("paths::child_without_rights", &place.path());
    if is_root() {
        let copy = place.at("tests");
        // By a process of its own: what another test forks meanwhile would hold the copy open for writing, and it
        // could not be run.
        assert!(Command::new("cp").arg(command.get_program()).arg(&copy).status().unwrap().success());
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
        for path in [place.folder().to_path_buf(), place.path(), place.at("state.db.lock")] {
            std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
        }
        let mut copied = Command::new(copy);
        copied.args(command.get_args()).envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        copied.stdin(Stdio::null()).stdout(Stdio::piped()).uid(NOBODY).gid(NOBODY).current_dir("/");
        command = copied;
    }
    (place, command)
}

const NOBODY: u32 = 65534;

/// Root compacts, recovers and creates the missing lock file, and the agent can still use the store.
#[test]
fn a_shell_of_roots_does_not_lock_the_agent_out() {
    let (place, mut command) = store_of_another_user();
    fs::remove_file(place.at("state.db.lock")).unwrap();
    let mut image = Image::read(place.path());
    image.append(b"torn").write(place.path());
    let store = place.open();
    assert_eq!(store.recovery().quarantined_bytes, 4);
    store.compact().unwrap();
    store.close().unwrap();
    let mut image = Image::read(place.path());
    image.append(b"torn again").write(place.path());
    let mut child = spawn(&mut command);
    child.expect("opened, 1 jobs");
    child.finish();
}

/// What root salvages is put in the place of the damaged store, and the agent has to open it there.
#[test]
fn a_salvaged_store_belongs_to_the_agent() {
    let (place, mut command) = store_of_another_user();
    let salvaged = place.at("salvaged.db");
    salvage(place.path(), &key(), &salvaged).unwrap();
    fs::rename(salvaged, place.path()).unwrap();
    let mut child = spawn(&mut command);
    child.expect("opened, 1 jobs");
    child.finish();
}

/// Who may write to the folder may put a link where the new log is to be made.
#[test]
fn owner_and_mode_are_never_given_to_the_target_of_a_link() {
    let place = Place::new();
    let [log, new, victim] = ["state.db", "state.db.new", "victim"].map(|name| place.at(name));
    let store = place.open();
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    mode(&log, 0o640);
    fs::write(&victim, b"another file").unwrap();
    mode(&victim, 0o600);
    let before = fs::metadata(&victim).unwrap();
    symlink(&victim, &new).unwrap();
    let refused = store.compact().unwrap_err();
    assert!(refused.to_string().contains("state.db.new"), "{refused}");
    fs::remove_file(&new).unwrap();
    store.compact().unwrap();
    assert_eq!(fs::metadata(&log).unwrap().mode() & 0o7777, 0o640);
    let after = fs::metadata(&victim).unwrap();
    assert_eq!((after.mode(), after.uid(), after.mtime()), (before.mode(), before.uid(), before.mtime()));
    assert_eq!(fs::read(&victim).unwrap(), b"another file");
}

#[test]
fn a_folder_that_cannot_be_written_is_an_io_error_and_a_snapshot_can_still_be_read() {
    let (place, mut command) = store_of_another_user();
    fs::remove_file(place.at("state.db.lock")).unwrap();
    fs::set_permissions(place.folder(), fs::Permissions::from_mode(0o555)).unwrap();
    let before = listing(place.folder());
    let mut child = spawn(&mut command);
    child.expect("io");
    child.expect("snapshot of 1 jobs");
    child.finish();
    assert_eq!(listing(place.folder()), before);
    assert!(!place.at("state.db.lock").exists());
    fs::set_permissions(place.folder(), fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_log_that_cannot_be_written_is_an_io_error_and_a_snapshot_can_still_be_read() {
    let (place, mut command) = store_of_another_user();
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o400)).unwrap();
    let before = listing(place.folder());
    let mut child = spawn(&mut command);
    child.expect("io");
    child.expect("snapshot of 1 jobs");
    child.finish();
    assert_eq!(listing(place.folder()), before);
}
