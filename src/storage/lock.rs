//! Waiting for a lock, and the lock file `state.db.lock`.
//!
//! Two locks make a handle the only writer: one on the lock file, one on the log itself. The lock file serves for
//! the time when there is no log, and while a compaction replaces it: an exclusive lock belongs to a file, not to
//! its name. The lock on the log still holds if somebody deletes the lock file, or reaches the log by another
//! name. The lock file is never removed: else one process could hold the lock on the removed file, and another one
//! on a new file of the same name. `store/lock.rs` takes both. Implements the locks of *Writing* in FORMAT.md.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process;
use std::time::{Duration, Instant};

use super::names::{LOCK, sibling};
use super::{Access, File, Storage, create_error, write_all_at};
use crate::{Error, Result};

/// How long a caller still waits for a lock.
pub(crate) struct Wait<'a> {
    storage: &'a dyn Storage,
    started: Instant,
    timeout: Duration,
    /// The pauses so far. A simulated disk takes none of them, and yet the wait ends.
    paused: Duration,
    pause: Duration,
}

impl<'a> Wait<'a> {
    pub(crate) fn new(storage: &'a dyn Storage, timeout: Duration) -> Self {
        Wait { storage, started: Instant::now(), timeout, paused: Duration::ZERO, pause: PAUSE_MIN }
    }

    /// Pauses before the next try. Returns `false` if the time is up. The last pause is cut short, so that the
    /// last try is at the deadline.
    pub(crate) fn pause(&mut self) -> bool {
        let left = self.timeout.saturating_sub(self.started.elapsed().max(self.paused));
        if left.is_zero() {
            return false;
        }
        let pause = self.pause.min(left);
        self.storage.sleep(pause);
        self.paused += pause;
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        true
    }

    pub(crate) fn waited(&self) -> Duration {
        self.started.elapsed()
    }
}

const PAUSE_MIN: Duration = Duration::from_millis(1);
const PAUSE_MAX: Duration = Duration::from_millis(50);

/// A process. Descriptors and locks are its own, and in a child of `fork` they are not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    pid: u32,
    /// The inode of its process id namespace. The first process of a container and a child of it in a namespace of
    /// its own both have the id 1.
    namespace: Option<u64>,
}

impl Owner {
    /// The present process.
    pub(crate) fn current() -> Self {
        let namespace = std::fs::metadata("/proc/self/ns/pid").ok().map(|found| found.ino());
        Owner { pid: process::id(), namespace }
    }

    /// Whether this is probably the present process: by its id alone, which takes no time.
    pub(crate) fn has_current_pid(self) -> bool {
        self.pid == process::id()
    }

    /// Whether this is the present process. Asked before anything is unlocked, closed or renamed.
    pub(crate) fn is_current(self) -> bool {
        self.has_current_pid() && self == Owner::current()
    }
}

/// The open, locked lock file. Dropping it unlocks, except in the child of a fork: there, it only closes the file.
#[derive(Debug)]
pub(crate) struct LockFile {
    file: Box<dyn File>,
    owner: Owner,
}

impl LockFile {
    /// Takes the lock on the lock file of the log at `path`.
    ///
    /// # Errors
    /// `Locked` if another handle has it until the time is up, `Full` if there is no space for a new one, `Io`.
    pub(crate) fn acquire(storage: &dyn Storage, path: &Path, wait: &mut Wait<'_>) -> Result<Self> {
        let path = sibling(path, LOCK);
        loop {
            let file = storage.open(&path, Access::Lock);
            let file = file.map_err(create_error("open the lock file", &path))?;
            if is_locked_now(storage, &path, &*file)? {
                return Ok(LockFile { file, owner: Owner::current() });
            }
            if !wait.pause() {
                let holder = holder(&*file);
                let hint = match holder {
                    Some(pid) if has_ended(pid) => FORKED_HINT,
                    _ => "a snapshot can be read without the lock",
                };
                return Err(Error::Locked { path, holder, waited: wait.waited(), hint });
            }
        }
    }

    /// The process that took the lock.
    pub(crate) fn owner(&self) -> Owner {
        self.owner
    }

    /// Writes the pid, for the error message of another process. With a fixed width, so that no digit of a longer
    /// old one is left after it. If the file is of another program, it is locked all the same, and not written to.
    pub(crate) fn note_holder(&self) {
        if !is_lock_file(&*self.file) {
            return;
        }
        // A full disk must not keep the agent from its store.
        let _ = write_all_at(&*self.file, format!("{:>10}\n", self.owner.pid).as_bytes(), 0);
    }
}

impl Drop for LockFile {
    fn drop(&mut self) {
        if self.owner.is_current() {
            // If this fails, closing the file unlocks, unless a child of a fork has a copy of it.
            let _ = self.file.unlock();
        }
    }
}

/// Tries to lock the file that was opened at `path`. Returns `false` if it is locked, or if the path means another
/// file by now: a lock on a removed file excludes no other process.
pub(crate) fn is_locked_now(storage: &dyn Storage, path: &Path, file: &dyn File) -> Result<bool> {
    let io_error = |source| Error::io("lock", path, source);
    Ok(file.try_lock().map_err(io_error)? && storage.id(path).map_err(io_error)? == Some(file.id()))
}

/// Whether the file is empty, or has what [`LockFile::note_holder`] writes, a part of it, or the zeros that a
/// power cut may leave instead.
fn is_lock_file(file: &dyn File) -> bool {
    let mut text = [0; HOLDER_LEN + 1];
    let Ok(len) = super::read_at_most(file, &mut text, 0) else { return false };
    let (pid, newline) = text[..len].split_at(len.min(HOLDER_LEN - 1));
    // No pid has ten digits.
    let is_pid = pid.first().is_none_or(|&byte| byte == b' ')
        && pid.iter().skip_while(|&&byte| byte == b' ').all(u8::is_ascii_digit);
    let is_noted = is_pid && matches!(newline, b"" | b"\n");
    is_noted || len <= HOLDER_LEN && text.iter().all(|&byte| byte == 0)
}

/// The pid that [`LockFile::note_holder`] wrote, if it can be read.
fn holder(file: &dyn File) -> Option<u32> {
    let mut text = [0; HOLDER_LEN];
    super::read_exact_at(file, &mut text, 0).ok().filter(|()| is_lock_file(file))?;
    std::str::from_utf8(&text).ok()?.trim().parse().ok()
}

/// A pid in ten places, and a newline.
const HOLDER_LEN: usize = 11;

/// Whether no process has this id any more. In another process id namespace, it may still run.
fn has_ended(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    pid.is_some_and(|pid| rustix::process::test_kill_process(pid) == Err(rustix::io::Errno::SRCH))
}

const FORKED_HINT: &str =
    "no such process runs here: a child of it may hold the lock, or a process in another container";
