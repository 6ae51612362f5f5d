//! Extended attributes, read and written through an open file.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;

use rustix::fs::{XattrFlags, fgetxattr, flistxattr, fremovexattr, fsetxattr};
use rustix::io::{Errno, retry_on_intr};

/// An extended attribute that a file may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Xattr {
    Missing,
    Present(Vec<u8>),
    /// There may be one.
    Unreadable,
}

/// The most that Linux returns, for a value (`XATTR_SIZE_MAX`) and for a list of names (`XATTR_LIST_MAX`).
/// With this much room, nothing can outgrow the buffer between two calls.
const LEN_MAX: usize = 1 << 16;

pub(super) fn read(file: &File, name: &CStr) -> Xattr {
    let mut value = vec![0; LEN_MAX];
    match retry_on_intr(|| fgetxattr(file, name, value.as_mut_slice())) {
        Ok(len) => Xattr::Present(value[..len].to_vec()),
        Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::NOSYS) => Xattr::Missing,
        Err(_) => Xattr::Unreadable,
    }
}

/// The `user.*` attributes that can be read. They grant no rights, so the others are left out.
pub(super) fn read_user(file: &File) -> Vec<(CString, Vec<u8>)> {
    let mut names = vec![0; LEN_MAX];
    let len = retry_on_intr(|| flistxattr(file, names.as_mut_slice())).unwrap_or(0);
    let names = names[..len].split_inclusive(|&byte| byte == 0);
    let names = names.filter(|name| name.starts_with(b"user.")).filter_map(|name| {
        let name = CStr::from_bytes_with_nul(name).ok()?;
        match read(file, name) {
            Xattr::Present(value) => Some((name.to_owned(), value)),
            Xattr::Missing | Xattr::Unreadable => None,
        }
    });
    names.collect()
}

pub(super) fn write(file: &File, name: &CStr, value: &[u8]) -> io::Result<()> {
    Ok(retry_on_intr(|| fsetxattr(file, name, value, XattrFlags::empty()))?)
}

pub(super) fn remove(file: &File, name: &CStr) -> io::Result<()> {
    Ok(retry_on_intr(|| fremovexattr(file, name))?)
}
