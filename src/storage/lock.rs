//! The exclusive lock on `state.db.lock`, which makes a handle the only writer.
//!
//! The lock is not on the log: compaction renames a new file over it, and a lock belongs to the file, not to its
//! name. The lock file is never removed: else one process could hold the lock on the removed file, and another one
//! on a new file of the same name. Implements the lock of *Writing* in FORMAT.md.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::{Error, Result};

/// The open, locked lock file. Closing it unlocks.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

/// Tries at once, and then after pauses of 1 ms to 50 ms until `timeout` has passed. The last pause is cut short,
/// so that the last try is at the deadline.
pub(crate) fn acquire(path: &Path, timeout: Duration) -> Result<Lock> {
    let started = Instant::now();
    let file = open(path).map_err(|source| Error::io("open the lock file", path, source))?;
    let mut pause = Duration::from_millis(1);
    while !try_lock(&file).map_err(|source| Error::io("lock", path, source))? {
        let waited = started.elapsed();
        let left = timeout.saturating_sub(waited);
        if left.is_zero() {
            let hint = "a snapshot can be read without the lock";
            return Err(Error::Locked { path: path.to_path_buf(), holder: holder(&file), waited, hint });
        }
        thread::sleep(pause.min(left));
        pause = (pause * 2).min(PAUSE_MAX);
    }
    // The pid is only for the error message of another process. A full disk must not keep the agent from its
    // store.
    let _ = note_holder(&file);
    Ok(Lock { _file: file })
}

const PAUSE_MAX: Duration = Duration::from_millis(50);

fn open(path: &Path) -> io::Result<File> {
    let mut options = fs::OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    options.custom_flags((rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOFOLLOW).bits().cast_signed());
    let file = match options.clone().create_new(true).open(path) {
        Ok(file) => {
            give_to_owner_of_log(&file, path);
            file
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            options.create(true).truncate(false).open(path)?
        }
        Err(error) => return Err(error),
    };
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::new(ErrorKind::InvalidInput, "the lock file is not a regular file"))
    }
}

/// Gives a new lock file to the owner of the log. If root creates it from a shell, the agent must still be able to
/// open it. Without root, this fails and is not needed.
fn give_to_owner_of_log(file: &File, path: &Path) {
    if let Ok(log) = fs::symlink_metadata(path.with_extension("")) {
        let _ = std::os::unix::fs::fchown(file, Some(log.uid()), Some(log.gid()));
    }
}

fn try_lock(file: &File) -> io::Result<bool> {
    loop {
        match fs2::FileExt::try_lock_exclusive(file) {
            Ok(()) => return Ok(true),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Writes the pid with a fixed width, so that no digit of a longer old one is left after it.
fn note_holder(file: &File) -> io::Result<()> {
    file.write_all_at(format!("{:>10}\n", std::process::id()).as_bytes(), 0)
}

/// The pid that [`note_holder`] wrote, if it can be read.
fn holder(file: &File) -> Option<u32> {
    let mut text = [0; 11];
    file.read_exact_at(&mut text, 0).ok()?;
    std::str::from_utf8(&text).ok()?.trim().parse().ok()
}
