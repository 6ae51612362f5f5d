//! What makes frames durable: the sync that a thread waits for, and the mark that rides on it.
//!
//! The writer shares this with the threads that wait for their frames, so that they need not hold the write lock.
//! Which thread syncs is decided in `group_commit`, and which mark is due in `marks`. Implements steps R4 and R5,
//! and *Marks*, of *Writing* in FORMAT.md.

use std::io;
use std::sync::{Arc, PoisonError};

use super::file::LogFile;
use super::group_commit::{Failure, GroupCommit, Synced};
use super::marks::Marks;
use super::syncs::Syncs;
use crate::format::position::LogPosition;
use crate::storage::Storage;
use crate::{Error, Result};

/// One log file, and how far it is durable.
pub(crate) struct Commits {
    pub(super) file: Arc<LogFile>,
    pub(super) storage: Arc<dyn Storage>,
    pub(super) group_commit: GroupCommit,
    /// `None` for a log that does not have its name yet.
    pub(super) marks: Option<Marks>,
    syncs: Arc<Syncs>,
}

/// All frames up to one of them, which may not be durable yet.
pub(crate) struct Pending {
    commits: Arc<Commits>,
    seq: u64,
}

impl Pending {
    pub(super) fn new(commits: &Arc<Commits>, seq: u64) -> Self {
        Pending { commits: Arc::clone(commits), seq }
    }

    /// Waits until the frames are durable. Syncs if no other thread is syncing.
    pub(crate) fn wait(&self) -> Result<()> {
        let Commits { file, group_commit, .. } = &*self.commits;
        group_commit.wait_durable(self.seq, || self.commits.sync()).map_err(|failure| match failure {
            Failure::Replaced => Error::Replaced { path: file.path.clone() },
            Failure::Io { kind, os_code } => {
                let source = os_code.map_or_else(|| kind.into(), io::Error::from_raw_os_error);
                Error::io("sync", &file.path, source)
            }
        })
    }
}

impl Commits {
    /// Everything before `tip` is durable.
    pub(super) fn new(
        file: Arc<LogFile>,
        storage: Arc<dyn Storage>,
        tip: LogPosition,
        marks: Option<Marks>,
        syncs: Arc<Syncs>,
    ) -> Self {
        Commits { file, storage, group_commit: GroupCommit::new(tip), marks, syncs }
    }

    /// The syncs of this log, and of those that it has taken the place of since the store was opened.
    pub(crate) fn syncs(&self) -> &Arc<Syncs> {
        &self.syncs
    }

    fn sync(&self) -> io::Result<Synced> {
        let LogFile { file, unsynced_folder, .. } = &*self.file;
        if let Some(marks) = self.marks.as_ref().filter(|_| self.group_commit.failure().is_none()) {
            marks.write_if_due(&self.file, self.group_commit.durable(), self.storage.clock_ns())?;
        }
        // Guards against a power cut after the call has returned.
        self.syncs.timed(|| file.sync_data())?;
        let mut unsynced_folder = unsynced_folder.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(folder) = unsynced_folder.take() {
            // Guards against a power cut that takes the name of a log that was put in its place before it was
            // opened. A failure is latched while others wait for the folder, so that none of them succeeds.
            folder.sync().inspect_err(|error| self.group_commit.fail(error))?;
        }
        Ok(if file.names()? > 0 { Synced::Named } else { Synced::Nameless })
    }

    /// Syncs a clean log that was opened and not written to since: whoever put it in its place may not have done
    /// so.
    ///
    /// # Errors
    /// `Io`: the log has failed, and takes no more writes.
    pub(crate) fn sync_what_was_found(&self) -> Result<()> {
        let LogFile { file, unsynced_folder, .. } = &*self.file;
        // Locked until the end: a durable call that finds no folder takes it for synced.
        let mut unsynced_folder = unsynced_folder.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(folder) = unsynced_folder.take() else { return Ok(()) };
        // Guards against a power cut after the caller was told that everything is durable.
        let synced = self.syncs.timed(|| file.sync_data()).and_then(|()| folder.sync());
        synced.map_err(|source| {
            self.group_commit.fail(&source);
            Error::io("sync", &self.file.path, source)
        })
    }

    /// Writes no more marks. Waits for one that is being written.
    pub(crate) fn end_marks(&self) {
        self.marks.iter().for_each(Marks::end);
    }

    /// Writes a mark for the frames before `position`, which must be durable. It is not durable on return.
    ///
    /// # Errors
    /// `Io`: the log has failed, and takes no more writes.
    pub(crate) fn write_mark(&self, position: LogPosition) -> Result<()> {
        debug_assert!(position.seq <= self.group_commit.durable().seq);
        let Some(marks) = self.marks.as_ref().filter(|_| self.group_commit.failure().is_none()) else {
            return Ok(());
        };
        marks.write(&self.file, position).map_err(|source| {
            self.group_commit.fail(&source);
            Error::io("write a mark in", &self.file.path, source)
        })
    }
}
