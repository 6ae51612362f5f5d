//! Backups from a snapshot: while another process writes, from a place that cannot be written, and failing ones.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use backupy_state::{Batch, Error, OpenOptions, QueueOrder, Snapshot, Store, verify};

use crate::common::{
    Image, Place, Shown, child_path, is_root, key, listing, names, say, say_skipped, spawn, test_binary,
    with_mounts,
};
use crate::snapshots::{newest_job, snapshot};

fn assert_same_in_copy(shown: &Snapshot, copy: &Path) {
    let copied = snapshot(copy);
    assert_eq!(Shown::of(&copied), Shown::of(shown));
    assert_eq!(copied.stats().generation, shown.stats().generation);
    let report = verify(copy, Some(&key())).unwrap();
    assert!(report.is_intact() && report.ends_closed, "{report:?}");
}

#[test]
fn a_backup_has_what_the_snapshot_saw_after_the_writer_has_compacted_it_away() {
    let (place, copies) = (Place::new(), Place::new());
    let mut child = spawn(&mut test_binary("snapshots::child_that_compacts", &place.path()));
    child.expect("writing");
    for round in 0..6 {
        let mut shown = snapshot(place.path());
        while shown.queue_depth() == 0 {
            shown.refresh().unwrap();
        }
        while round % 2 == 0 && snapshot(place.path()).stats().generation == shown.stats().generation {
            child.assert_running();
        }
        let copy = copies.at(&format!("copy-{round}.db"));
        shown.backup(&copy).unwrap();
        assert_same_in_copy(&shown, &copy);
        assert_eq!(newest_job(&snapshot(&copy)), newest_job(&shown));
        let store = OpenOptions::new().create(false).open(&copy, &key()).unwrap();
        store.enqueue_job("run-new", b"written to the copy").unwrap();
        store.close().unwrap();
    }
    child.assert_running();
}

#[test]
fn a_backup_of_a_snapshot_takes_no_lock_and_writes_nothing_next_to_the_store() {
    let (place, copies) = (Place::new(), Place::new());
    let store = place.open();
    store.enqueue_job("run-1", b"one").unwrap();
    store.buffer_log(1, b"event").unwrap();
    store.save_config(1, b"configuration").unwrap();
    store.save_session("session", 5).unwrap();
    let before = listing(place.folder());
    let shown = snapshot(place.path());
    store.enqueue_job("run-2", b"after the snapshot").unwrap();
    store.ack_job("run-1").unwrap();
    let with_later_calls = listing(place.folder());
    shown.backup(copies.at("copy")).unwrap();
    assert_eq!(listing(place.folder()), with_later_calls);
    assert!(before != with_later_calls);
    assert_eq!(names(copies.folder()), ["copy.db"]);
    assert_same_in_copy(&shown, &copies.at("copy.db"));
    store.close().unwrap();
}

#[test]
fn a_backup_keeps_the_order_of_the_queue_and_is_an_older_state_of_the_same_store() {
    let place = Place::new();
    let store = place.open();
    for id in ["b", "c", "a", "b"] {
        store.enqueue_job(id, id.as_bytes()).unwrap();
    }
    store.backup(place.at("by-store.db")).unwrap();
    snapshot(place.path()).backup(place.at("by-snapshot.db")).unwrap();
    for name in ["by-store.db", "by-snapshot.db"] {
        let copy = place.at(name);
        let mut options = OpenOptions::new();
        options.queue_order(QueueOrder::Fifo).expect_at_least(snapshot(&copy).anchor());
        let copied = options.open(&copy, &key()).unwrap();
        assert_eq!(copied.run_ids().collect::<Vec<_>>(), ["c", "a", "b"]);
        copied.close().unwrap();
        // Fewer frames hold the same, so even an anchor from before the backup is past its end.
        match OpenOptions::new().expect_at_least(store.anchor()).open(&copy, &key()) {
            Err(Error::Stale { what, .. }) => assert_eq!(what, "its log ends before the expected frame"),
            opened => panic!("{opened:?}"),
        }
    }
}

#[test]
fn child_that_backs_up() {
    let Some(path) = child_path() else { return };
    let target = PathBuf::from(std::env::var_os("TARGET").unwrap());
    let writable = fs::File::create(path.with_file_name("another")).is_ok();
    say(&format!("writable: {writable}"));
    snapshot(&path).backup(target).unwrap();
    say("backed up");
}

#[test]
fn a_backup_can_be_made_from_a_file_system_that_is_mounted_read_only() {
    let (place, copies) = (Place::new(), Place::new());
    place.open().enqueue_job("run-1", b"one").unwrap();
    let script = "mount --bind \"$FOLDER\" \"$FOLDER\"; mount -o remount,bind,ro \"$FOLDER\"";
    let child = test_binary("snapshot_backups::child_that_backs_up", &place.path());
    let Some(mut command) = with_mounts(script, &child) else { return };
    let mut child = spawn(command.env("TARGET", copies.at("copy.db")));
    child.expect("writable: false");
    child.expect("backed up");
    child.finish();
    assert_same_in_copy(&snapshot(place.path()), &copies.at("copy.db"));
}

/// Closes the folder again so that it can be removed.
struct Opened<'a>(&'a Path);

impl Drop for Opened<'_> {
    fn drop(&mut self) {
        let _ = fs::set_permissions(self.0, Permissions::from_mode(0o700));
    }
}

#[test]
fn a_backup_needs_no_more_than_permission_to_read() {
    let (place, copies) = (Place::new(), Place::new());
    place.open().enqueue_job("run-1", b"one").unwrap();
    let modes: [(&Path, u32); 2] = [(&place.path(), 0o400), (place.folder(), 0o500)];
    for (path, mode) in modes {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }
    let _opened = Opened(place.folder());
    // Root may write all the same; the command line's test of this runs as another user.
    let before = listing(place.folder());
    snapshot(place.path()).backup(copies.at("copy.db")).unwrap();
    assert_eq!(listing(place.folder()), before);
    let copy = fs::metadata(copies.at("copy.db")).unwrap();
    assert_eq!(copy.mode() & 0o7777, 0o600, "its owner can use it");
    OpenOptions::new().create(false).open(copies.at("copy.db"), &key()).unwrap();
}

#[test]
fn a_backup_by_root_belongs_to_the_owner_of_the_store() {
    if !is_root() {
        say_skipped("only root can give a file to another user");
        return;
    }
    let place = Place::new();
    let store = place.open();
    store.enqueue_job("run-1", b"one").unwrap();
    chown(place.path(), Some(OWNER), Some(GROUP)).unwrap();
    fs::set_permissions(place.path(), Permissions::from_mode(0o644)).unwrap();
    store.backup(place.at("by-store.db")).unwrap();
    snapshot(place.path()).backup(place.at("by-snapshot.db")).unwrap();
    for name in ["by-store.db", "by-snapshot.db"] {
        let copy = fs::metadata(place.at(name)).unwrap();
        assert_eq!((copy.uid(), copy.gid(), copy.mode() & 0o7777), (OWNER, GROUP, 0o600), "{name}");
    }
}

const OWNER: u32 = 54_321;
const GROUP: u32 = 54_322;

#[test]
fn a_backup_of_a_snapshot_replaces_nothing() {
    let place = Place::new();
    place.open().enqueue_job("run-1", b"one").unwrap();
    let shown = snapshot(place.path());
    fs::write(place.at("text.db"), "a stranger's").unwrap();
    fs::create_dir(place.at("folder")).unwrap();
    let before = listing(place.folder());
    for target in ["text", "text.db", "state.db", "state", "state.db.new", "state.db.lock", "other.db/"] {
        let refused = shown.backup(place.at(target));
        assert!(matches!(refused, Err(Error::Invalid { .. })), "{target}: {refused:?}");
    }
    assert!(matches!(shown.backup("-"), Err(Error::Invalid { .. })));
    assert!(matches!(shown.backup(""), Err(Error::Invalid { .. })));
    assert!(matches!(shown.backup(place.at("folder")), Err(Error::NotAStore { .. })));
    assert!(matches!(shown.backup(place.at("nowhere/copy.db")), Err(Error::Io { .. })));
    assert_eq!(listing(place.folder()), before);
}

#[test]
fn a_backup_with_a_value_that_does_not_open_fails_and_leaves_nothing() {
    let (place, copies) = (Place::new(), Place::new());
    let store = place.open();
    for id in ["run-1", "run-2"] {
        store.enqueue_job(id, b"payload").unwrap();
    }
    store.close().unwrap();
    let shown = snapshot(place.path());
    let mut image = Image::read(place.path());
    let frame = image.frames()[0].clone();
    // A byte of the payload's tag: the padding is shorter than 8 bytes.
    image.flip(frame.end - 8).write(place.path());
    assert!(shown.job("run-1").is_err() && shown.job("run-2").is_ok());
    let failed = shown.backup(copies.at("copy.db"));
    assert!(matches!(&failed, Err(Error::Unauthentic { run_id: Some(id), .. }) if id == "run-1"), "{failed:?}");
    assert_eq!(names(copies.folder()), [""; 0]);
}

/// A failed sync can lose a record that a snapshot has. The next writer puts another one in its place.
#[test]
fn a_backup_of_frames_that_a_restarted_writer_has_overwritten_fails_and_leaves_nothing() {
    let cases = [
        // The lost value is as long as the other one, or longer. Without the ack, every value that is left opens.
        (Batch::new().enqueue_job("run-1", b"first"), Batch::new().enqueue_job("run-2", b"other")),
        (Batch::new().enqueue_job("run-1", b"first"), Batch::new().enqueue_job("run-2", b"a longer one")),
        (Batch::new().ack_job("run-0"), Batch::new().record_heartbeat(1)),
    ];
    for (lost, other) in cases {
        let (place, copies) = (Place::new(), Place::new());
        let store = place.open();
        for id in ["kept", "run-0"] {
            store.enqueue_job(id, b"payload").unwrap();
        }
        store.close().unwrap();
        let before = Image::read(place.path());
        let with = |batch: &Batch| {
            let fork = Place::new();
            before.write(fork.path());
            let store = fork.open();
            store.write(batch).unwrap();
            Image::read(fork.path())
        };
        let (with_lost, with_other) = (with(&lost), with(&other));
        with_lost.write(place.path());
        let mut shown = snapshot(place.path());
        with_other.write(place.path());
        let failed = shown.backup(copies.at("copy.db")).unwrap_err();
        assert!(matches!(failed, Error::Unauthentic { run_id: None, .. }), "{lost:?}: {failed:?}");
        assert!(failed.to_string().contains("refresh it"), "{lost:?}: {failed}");
        assert_eq!(names(copies.folder()), [""; 0], "{lost:?}");

        shown.refresh().unwrap();
        shown.backup(copies.at("copy.db")).unwrap();
        assert_same_in_copy(&shown, &copies.at("copy.db"));
    }
}

#[test]
fn an_interrupted_backup_is_no_store_at_the_name_and_the_next_one_replaces_it() {
    let (place, copies) = (Place::new(), Place::new());
    let store = Store::open(place.path(), &key()).unwrap();
    store.enqueue_job("run-1", b"one").unwrap();
    let shown = snapshot(place.path());
    shown.backup(copies.at("copy.db")).unwrap();
    // Without its mark, it is as a kill leaves it before the copy has its name.
    let mut unfinished = Image::read(copies.at("copy.db"));
    unfinished.without_marks().write(copies.at("copy.db.new"));
    fs::remove_file(copies.at("copy.db")).unwrap();
    let opened = OpenOptions::new().create(false).open(copies.at("copy.db"), &key());
    assert!(matches!(opened, Err(Error::NotFound { .. })), "{opened:?}");
    let _ = fs::remove_file(copies.at("copy.db.lock"));
    shown.backup(copies.at("copy.db")).unwrap();
    assert_eq!(names(copies.folder()), ["copy.db"]);
    assert_same_in_copy(&shown, &copies.at("copy.db"));
}
