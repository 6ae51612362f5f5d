//! What a compacted log takes over from the log that it replaces: owner, group, mode, POSIX ACL, `user.*` extended
//! attributes and SELinux label.
//!
//! Everything is read and written through open files, never by name. Where something cannot be copied, fewer users
//! can open the new file than the old one, never more. Setuid, setgid and sticky bits, capabilities, IMA and EVM
//! are never copied.

use std::ffi::{CStr, CString};
use std::fs::{File, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};

use super::xattr::{self, Xattr};

/// The attributes of a file that a file replacing it should have. Default: those of a plain new file, for a
/// simulated disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes(Option<FileAttributes>);

impl Attributes {
    /// Reads the attributes of an open file.
    pub(super) fn of(file: &File) -> io::Result<Self> {
        let found = file.metadata()?;
        Ok(Self(Some(FileAttributes {
            uid: found.uid(),
            gid: found.gid(),
            mode: found.mode() & 0o777,
            acl: xattr::read(file, ACL),
            label: xattr::read(file, LABEL),
            user: xattr::read_user(file),
        })))
    }

    /// The owner and the group, and no access for anybody but the owner.
    pub(crate) fn owner_alone(&self) -> Self {
        let alone = |FileAttributes { uid, gid, .. }: &FileAttributes| FileAttributes {
            uid: *uid,
            gid: *gid,
            mode: 0o600,
            acl: Xattr::Missing,
            label: Xattr::Missing,
            user: Vec::new(),
        };
        Self(self.0.as_ref().map(alone))
    }

    /// Gives them to a new file. Fails if the owner or the mode cannot be set. If the group, the ACL or the label
    /// cannot be, only the owner can open the file.
    pub(super) fn apply_to(&self, file: &File) -> io::Result<()> {
        self.0.as_ref().map_or(Ok(()), |attributes| attributes.apply_to(file))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct FileAttributes {
    uid: u32,
    gid: u32,
    /// Only the permission bits. If the file has an ACL, those of the group are the ACL's mask.
    mode: u32,
    acl: Xattr,
    label: Xattr,
    user: Vec<(CString, Vec<u8>)>,
}

impl FileAttributes {
    fn apply_to(&self, file: &File) -> io::Result<()> {
        let new = file.metadata()?;
        // Closed to others until the end: with these bits, an ACL that the folder gave the file grants nothing.
        if new.mode() & 0o7777 != 0o600 {
            file.set_permissions(Permissions::from_mode(0o600))?;
        }
        let is_plain = xattr::read(file, ACL) == Xattr::Missing || xattr::remove(file, ACL).is_ok();
        if new.uid() != self.uid {
            fchown(file, Some(self.uid), None)?;
        }
        if new.gid() != self.gid {
            let _ = fchown(file, None, Some(self.gid));
        }
        // Some file systems ignore a change of the owner without an error, so the result is what counts.
        let new = file.metadata()?;
        if new.uid() != self.uid {
            // The owner could not open the file any more.
            return Err(io::Error::new(ErrorKind::PermissionDenied, "the owner of the file cannot be changed"));
        }
        let has_group = new.gid() == self.gid;
        for (name, value) in &self.user {
            let _ = xattr::write(file, name, value);
        }
        let has_label = self.copy_label(file);
        // Setting an ACL sets the mode too. So it comes after the label, and only if group and label are right.
        // Without the ACL, the owning group would gain the rights in its mask, and a user whom the ACL denies
        // would fall under `other`.
        let is_complete = has_group
            && has_label
            && match &self.acl {
                Xattr::Missing => is_plain,
                Xattr::Present(acl) => xattr::write(file, ACL, acl).is_ok(),
                Xattr::Unreadable => false,
            };
        let mode = if is_complete { self.mode } else { self.mode & 0o700 };
        file.set_permissions(Permissions::from_mode(mode))
    }

    /// Whether the new file then has the label.
    fn copy_label(&self, file: &File) -> bool {
        match &self.label {
            Xattr::Missing => true,
            Xattr::Unreadable => false,
            label if xattr::read(file, LABEL) == *label => true,
            Xattr::Present(label) => xattr::write(file, LABEL, label).is_ok(),
        }
    }
}

const ACL: &CStr = c"system.posix_acl_access";
const LABEL: &CStr = c"security.selinux";

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::OpenOptions;
    use std::os::unix::fs::OpenOptionsExt;
    use std::path::Path;
    use tempfile::TempDir;

    #[test]
    fn default_leaves_the_file_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let new = new_file(&folder.path().join("new"));
        let before = FileAttributes { mode: 0o640, ..of(&new) };
        new.set_permissions(Permissions::from_mode(0o640)).unwrap();
        Attributes::default().apply_to(&new).unwrap();
        assert_eq!(of(&new), before);
    }

    #[test]
    fn only_permission_bits_of_the_mode_are_copied() {
        let (_folder, old, new) = old_and_new();
        old.set_permissions(Permissions::from_mode(0o7754)).unwrap();
        new.set_permissions(Permissions::from_mode(0o7666)).unwrap();
        Attributes::of(&old).unwrap().apply_to(&new).unwrap();
        assert_eq!(mode_of(&new), 0o754);
    }

    #[test]
    fn owner_and_group_are_copied() {
        let (_folder, old, new) = old_and_new();
        if let Err(error) = fchown(&old, Some(OTHER_ID), Some(OTHER_ID + 1)) {
            println!("skipped: the owner cannot be changed here: {error}");
            return;
        }
        old.set_permissions(Permissions::from_mode(0o640)).unwrap();
        Attributes::of(&old).unwrap().apply_to(&new).unwrap();
        assert_eq!(of(&new), of(&old));
    }

    #[test]
    fn owner_alone_leaves_out_the_mode_and_the_access_of_others() {
        let (_folder, old, new) = old_and_new();
        old.set_permissions(Permissions::from_mode(0o444)).unwrap();
        new.set_permissions(Permissions::from_mode(0o666)).unwrap();
        Attributes::of(&old).unwrap().owner_alone().apply_to(&new).unwrap();
        assert_eq!(mode_of(&new), 0o600);
    }

    #[test]
    fn owner_that_cannot_be_copied_is_an_error_and_closes_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let new = new_file(&folder.path().join("new"));
        new.set_permissions(Permissions::from_mode(0o666)).unwrap();
        let wanted = FileAttributes { uid: NO_ID, ..of(&new) };
        assert_eq!(wanted.apply_to(&new).unwrap_err().kind(), ErrorKind::PermissionDenied);
        assert_eq!(mode_of(&new), 0o600);
    }

    #[test]
    fn what_cannot_be_copied_closes_the_file_to_all_but_its_owner() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new");
        let plain = FileAttributes { mode: 0o764, ..of(&new_file(&folder.path().join("plain"))) };
        let (acl, label) = (Xattr::Present(acl()), Xattr::Unreadable);
        for (what, wanted) in [
            ("group", FileAttributes { gid: NO_ID, ..plain.clone() }),
            ("group of an ACL", FileAttributes { gid: NO_ID, acl: acl.clone(), ..plain.clone() }),
            ("unread ACL", FileAttributes { acl: Xattr::Unreadable, ..plain.clone() }),
            // The kernel refuses it.
            ("malformed ACL", FileAttributes { acl: Xattr::Present(b"not an ACL".to_vec()), ..plain.clone() }),
            ("label", FileAttributes { label: label.clone(), ..plain.clone() }),
            ("label of a file with an ACL", FileAttributes { label, acl, ..plain.clone() }),
        ] {
            let new = new_file(&path);
            wanted.apply_to(&new).unwrap();
            assert_eq!(of(&new), FileAttributes { mode: 0o700, ..plain.clone() }, "{what}");
            std::fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn attribute_that_cannot_be_read_is_not_taken_for_a_missing_one() {
        let folder = tempfile::tempdir().unwrap();
        let file = new_file(&folder.path().join("file"));
        assert_eq!(xattr::read(&file, c"user.missing"), Xattr::Missing);
        // The kernel refuses an empty name with ERANGE.
        assert_eq!(xattr::read(&file, c""), Xattr::Unreadable);
    }

    #[test]
    fn acl_is_copied_and_the_owning_group_gains_nothing() {
        let (_folder, old, new) = old_and_new();
        if !can_set(&old, ACL, &acl()) {
            return;
        }
        Attributes::of(&old).unwrap().apply_to(&new).unwrap();
        assert_eq!(xattr::read(&new, ACL), Xattr::Present(acl()));
        assert_eq!(mode_of(&new), 0o664, "the group bits are the mask");
    }

    #[test]
    fn acl_inherited_from_the_folder_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let plain = of(&new_file(&folder.path().join("plain")));
        if !can_set(&File::open(folder.path()).unwrap(), c"system.posix_acl_default", &acl()) {
            return;
        }
        for (what, wanted, mode) in [
            ("the old file has none", FileAttributes { mode: 0o640, ..plain.clone() }, 0o640),
            ("its ACL is lost", FileAttributes { mode: 0o640, acl: Xattr::Unreadable, ..plain.clone() }, 0o600),
            ("its group is lost", FileAttributes { mode: 0o640, gid: NO_ID, ..plain.clone() }, 0o600),
        ] {
            let path = folder.path().join("new");
            let new = new_file(&path);
            assert!(matches!(xattr::read(&new, ACL), Xattr::Present(_)), "inherited");
            wanted.apply_to(&new).unwrap();
            assert_eq!(of(&new), FileAttributes { mode, ..plain.clone() }, "{what}");
            std::fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn user_attributes_are_copied() {
        let (_folder, old, new) = old_and_new();
        if !can_set(&old, c"user.empty", b"") || !can_set(&old, c"user.note", b"of\0the operator") {
            return;
        }
        Attributes::of(&old).unwrap().apply_to(&new).unwrap();
        assert_eq!(xattr::read(&new, c"user.empty"), Xattr::Present(Vec::new()));
        assert_eq!(xattr::read(&new, c"user.note"), Xattr::Present(b"of\0the operator".to_vec()));
    }

    #[test]
    fn user_attribute_that_cannot_be_copied_is_skipped() {
        let folder = tempfile::tempdir().unwrap();
        let new = new_file(&folder.path().join("new"));
        // No value may be this long.
        let user = vec![(c"user.note".to_owned(), vec![0; (1 << 16) + 1])];
        FileAttributes { mode: 0o640, user, ..of(&new) }.apply_to(&new).unwrap();
        assert_eq!(of(&new).user, []);
        assert_eq!(mode_of(&new), 0o640);
    }

    #[test]
    fn label_is_copied() {
        let (_folder, old, new) = old_and_new();
        if !can_set(&old, LABEL, b"system_u:object_r:var_lib_t:s0\0") {
            return;
        }
        old.set_permissions(Permissions::from_mode(0o640)).unwrap();
        Attributes::of(&old).unwrap().apply_to(&new).unwrap();
        assert_eq!(of(&new), of(&old));
    }

    #[test]
    fn capability_is_not_copied() {
        let (_folder, old, new) = old_and_new();
        // Version 2, effective, permitted: CAP_CHOWN.
        let value: Vec<u8> = [0x0200_0001_u32, 1, 0, 0, 0].into_iter().flat_map(u32::to_le_bytes).collect();
        if !can_set(&old, CAPABILITY, &value) {
            return;
        }
        Attributes::of(&old).unwrap().apply_to(&new).unwrap();
        assert_eq!(xattr::read(&old, CAPABILITY), Xattr::Present(value));
        assert_eq!(xattr::read(&new, CAPABILITY), Xattr::Missing);
    }

    /// The owner may write, user 4321 may not even read, the owning group may read, others may read. The mask lets
    /// a group write.
    fn acl() -> Vec<u8> {
        let entries =
            [(0x01, 6, NO_ID), (0x02, 0, OTHER_ID), (0x04, 4, NO_ID), (0x10, 6, NO_ID), (0x20, 4, NO_ID)];
        let mut acl = 2_u32.to_le_bytes().to_vec();
        for (tag, rights, id) in entries {
            acl.extend([tag, 0, rights, 0]);
            acl.extend(id.to_le_bytes());
        }
        acl
    }

    /// `chown` leaves the owner or the group as it is, even for root. In an ACL, an entry without an id.
    const NO_ID: u32 = u32::MAX;
    const OTHER_ID: u32 = 4321;
    const CAPABILITY: &CStr = c"security.capability";

    fn old_and_new() -> (TempDir, File, File) {
        let folder = tempfile::tempdir().unwrap();
        let (old, new) = (new_file(&folder.path().join("old")), new_file(&folder.path().join("new")));
        (folder, old, new)
    }

    /// As the log of a compaction is created.
    fn new_file(path: &Path) -> File {
        OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path).unwrap()
    }

    fn of(file: &File) -> FileAttributes {
        Attributes::of(file).unwrap().0.unwrap()
    }

    fn mode_of(file: &File) -> u32 {
        file.metadata().unwrap().mode() & 0o7777
    }

    /// Sets an attribute that this file system may not have, or this user may not set.
    fn can_set(file: &File, name: &CStr, value: &[u8]) -> bool {
        let set = xattr::write(file, name, value);
        if let Err(error) = &set {
            println!("skipped: {name:?} cannot be set here: {error}");
        }
        set.is_ok()
    }
}
