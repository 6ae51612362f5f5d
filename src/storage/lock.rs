//! The exclusive lock on `state.db.lock`. Owns fs2; never touches the log.
//!
//! The lock is not on the log itself because compaction renames another file over the log, and a lock goes with
//! the file, not with the name. The lock file stays when the store is closed: removing it would let two processes
//! hold locks on two files of one name.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::{Error, Result};

/// The lock file, locked. Closing it unlocks.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

/// Tries at once, then with pauses from 1 ms up to 50 ms; the last try is at the deadline, not after it.
pub(crate) fn acquire(path: &Path, timeout: Duration) -> Result<Lock> {
    let started = Instant::now();
    let file = open(path).map_err(|source| Error::io("open the lock file", path, source))?;
    let mut pause = Duration::from_millis(1);
    while !try_lock(&file).map_err(|source| Error::io("lock", path, source))? {
        let waited = started.elapsed();
        let left = timeout.saturating_sub(waited);
        if left.is_zero() {
            let hint = "a snapshot can be read meanwhile";
            return Err(Error::Locked { path: path.to_path_buf(), holder: holder(&file), waited, hint });
        }
        thread::sleep(pause.min(left));
        pause = (pause * 2).min(PAUSE_MAX);
    }
    // The pid only makes a message better: a full disk must not keep the agent from its own store.
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

/// A shell of root's that makes the lock file must not lock the agent out with it. Nobody else can give files away, and need
/// not.
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

/// Writes the pid at a fixed width, so that no reader ever sees a part of an old number behind a new one.
fn note_holder(file: &File) -> io::Result<()> {
    file.write_all_at(format!("{:>10}\n", std::process::id()).as_bytes(), 0)
}

fn holder(file: &File) -> Option<u32> {
    let mut text = [0; 11];
    file.read_exact_at(&mut text, 0).ok()?;
    std::str::from_utf8(&text).ok()?.trim().parse().ok()
}
