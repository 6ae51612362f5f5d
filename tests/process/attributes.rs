//! The file that takes the place of a log has its owner, group, mode, ACL and `user.*` attributes, whoever makes
//! it.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

use backupy_state::{OnDamage, Store};
use rustix::fs::{XattrFlags, fgetxattr, fsetxattr};

use crate::common::{Image, Place, existing, is_root, key, say_skipped};

const ACL: &str = "system.posix_acl_access";
const OTHER_ID: u32 = 4321;
const NO_ID: u32 = u32::MAX;

/// The owner may write, user 4321 may read, the owning group may do nothing, though the mask, which `chmod` and
/// `stat` take for the group's rights, lets a group read.
fn acl() -> Vec<u8> {
    let entries = [(0x01, 6, NO_ID), (0x02, 4, OTHER_ID), (0x04, 0, NO_ID), (0x10, 4, NO_ID), (0x20, 0, NO_ID)];
    let mut acl = 2_u32.to_le_bytes().to_vec();
    for (tag, rights, id) in entries {
        acl.extend([tag, 0, rights, 0]);
        acl.extend(u32::to_le_bytes(id));
    }
    acl
}

fn attribute(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 1 << 16];
    let len = fgetxattr(File::open(path).unwrap(), name, value.as_mut_slice()).ok()?;
    value.truncate(len);
    Some(value)
}

fn set(path: &Path, name: &str, value: &[u8]) -> bool {
    let set = fsetxattr(File::open(path).unwrap(), name, value, XattrFlags::empty());
    if let Err(error) = set {
        say_skipped(&format!("{name} cannot be set here: {error}"));
    }
    set.is_ok()
}

/// A log with attributes that a new file has not.
fn place_with_attributes() -> Option<Place> {
    let place = Place::new();
    let store = place.open();
    for run_id in ["run-1", "run-2", "run-3"] {
        store.enqueue_job(run_id, b"payload").unwrap();
    }
    store.close().unwrap();
    let path = place.path();
    if is_root() {
        chown(&path, Some(OTHER_ID), Some(OTHER_ID + 1)).unwrap();
    }
    let is_set = set(&path, "user.backup.note", b"of the operator") && set(&path, ACL, &acl());
    is_set.then_some(place)
}

fn assert_kept(path: &Path, inode: u64) {
    let found = fs::metadata(path).unwrap();
    assert_ne!(found.ino(), inode, "it is another file");
    if is_root() {
        assert_eq!((found.uid(), found.gid()), (OTHER_ID, OTHER_ID + 1));
    }
    assert_eq!(found.mode() & 0o7777, 0o640, "the group bits are the mask");
    assert_eq!(attribute(path, ACL), Some(acl()), "the owning group gains nothing");
    assert_eq!(attribute(path, "user.backup.note").as_deref(), Some(&b"of the operator"[..]));
}

fn inode(path: &Path) -> u64 {
    fs::metadata(path).unwrap().ino()
}

#[test]
fn compaction_and_rekey_keep_the_attributes_of_the_log() {
    let Some(place) = place_with_attributes() else { return };
    let before = inode(&place.path());
    let store = place.open();
    store.compact().unwrap();
    assert_kept(&place.path(), before);
    let before = inode(&place.path());
    store.rekey(&key()).unwrap();
    assert_kept(&place.path(), before);
}

#[test]
fn a_damaged_log_that_is_set_aside_passes_on_its_attributes_and_keeps_them() {
    let Some(place) = place_with_attributes() else { return };
    let before = inode(&place.path());
    Image::read(place.path()).flip(8192 + 60).write(place.path());
    let store = existing().on_damage(OnDamage::SetAside).open(place.path(), &key()).unwrap();
    assert!(store.recovery().salvaged.is_some());
    assert_kept(&place.path(), before);
    let damaged = place.at("state.db.damaged-1");
    assert_eq!(inode(&damaged), before);
    assert_eq!(attribute(&damaged, ACL), Some(acl()));
}

#[test]
fn the_mode_of_a_log_without_an_acl_is_kept() {
    let place = Place::new();
    let store = Store::open(place.path(), &key()).unwrap();
    for mode in [0o600, 0o640, 0o666, 0o400] {
        fs::set_permissions(place.path(), Permissions::from_mode(mode)).unwrap();
        store.compact().unwrap();
        assert_eq!(fs::metadata(place.path()).unwrap().mode() & 0o7777, mode);
        assert_eq!(attribute(&place.path(), ACL), None);
    }
}

/// The folder gives a new file an ACL: the log had none, and must not get one.
#[test]
fn an_acl_that_the_folder_gives_to_new_files_is_not_taken_for_that_of_the_log() {
    let place = Place::new();
    let store = place.open();
    fs::set_permissions(place.path(), Permissions::from_mode(0o640)).unwrap();
    if set(place.folder(), "system.posix_acl_default", &acl()) {
        store.compact().unwrap();
        assert_eq!(fs::metadata(place.path()).unwrap().mode() & 0o7777, 0o640);
        assert_eq!(attribute(&place.path(), ACL), None);
    }
}

/// Root's command line may be the one that cuts off a torn tail. The agent's user must be able to remove it later.
#[test]
fn a_torn_tail_that_is_kept_is_for_the_owner_of_the_log() {
    if !is_root() {
        say_skipped("only root can give files away: the owner of a torn tail was not tested");
        return;
    }
    let place = Place::new();
    place.open().close().unwrap();
    chown(place.path(), Some(OTHER_ID), Some(OTHER_ID + 1)).unwrap();
    Image::read(place.path()).append(b"torn").write(place.path());
    let store = place.open();
    let found = fs::metadata(store.recovery().quarantined.as_ref().unwrap()).unwrap();
    assert_eq!((found.uid(), found.gid(), found.mode() & 0o7777), (OTHER_ID, OTHER_ID + 1, 0o600));
}
