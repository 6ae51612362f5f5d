//! The writer: appends frames to one generation's log, preallocates space for them, and closes the log.
//!
//! A log in use ends in zeros:
//!
//! ```text
//! 0        4096        8192                         tip.end                   allocated
//! | header | mark page | frame 1 | ... | frame n    | zeros                   |
//! ```
//!
//! **Append.** A frame is encoded in memory and written over the zeros at the tip. The sync that follows makes
//! only data durable: neither the file's length nor its blocks change, so the file system need not commit its
//! journal. `append` returns a [`Pending`], which the caller waits for after it has released the write lock; so
//! while one thread syncs, others append, and `group_commit` lets the next sync cover all of them. Just before
//! some of these syncs, a mark is written: see `marks`.
//!
//! **Space.** When the zeros run out, the writer adds more, and some of them are kept for records that only remove
//! something: see `space` and `reserve`.
//!
//! **Failure.** A failed write is undone: the file is cut at the tip. If the disk was full and the cut succeeds,
//! the log is as before and stays usable. After any other failed write, what the file contains is unknown, so the
//! failure is latched in `group_commit`, and only a new open writes again.
//!
//! **Identity.** The file may be moved, removed or replaced while it is open. So the writer asks whether the path
//! still means its file before it grows or closes the log, and after each sync whether the file still has a name.
//! If not, the log has failed: what is written from then on would be lost.
//!
//! Never repeats a failed sync, and never looks into values. Implements *Writing* of FORMAT.md.

use std::io;
use std::sync::Arc;

use super::commits::{Commits, Pending};
use super::file::LogFile;
use super::group_commit::{Failure, GroupCommit};
use super::index_file;
use super::marks::Marks;
use super::reserve::{Demand, Reserve};
use super::syncs::Syncs;
use crate::format::encoding::{self, FrameSeal, Workspace};
use crate::format::frame::{FRAME_LEN_MAX, SEALINGS_MAX, SEQ_MAX};
use crate::format::location::ValueCursor;
use crate::format::mark::Mark;
use crate::format::position::LogPosition;
use crate::format::record::Change;
use crate::storage::{self, Attributes, FileId, Storage, paths};
use crate::{Error, Result};

/// Appends frames to a log. A log has at most one writer at a time.
pub(crate) struct LogWriter {
    pub(super) commits: Arc<Commits>,
    /// After the last frame.
    pub(super) tip: LogPosition,
    /// Before the last frame. `None` if there is no frame.
    before_tip: Option<LogPosition>,
    /// The length of the file. From the tip to here, the file contains zeros.
    pub(super) allocated: u64,
    /// How many values were sealed in this generation.
    values: u64,
    /// Whether the last frame is a close frame, and durable together with the space after it.
    pub(super) is_closed: bool,
    pub(super) reserve: Reserve,
    /// A log as long as this is about to be compacted, so that no zeros are added beyond it in advance.
    pub(super) compacted_len: u64,
    workspace: Workspace,
    /// Where the tip was when this writer began.
    began_at: u64,
    /// How many bytes of frames were written since the store was opened, before this writer began.
    written_before: u64,
}

/// Where a log ends, for the writer that continues it. Everything up to there is durable.
pub(crate) struct LogEnd {
    pub(crate) tip: LogPosition,
    /// Before the last frame. `None` if there is no frame.
    pub(crate) before_tip: Option<LogPosition>,
    /// The length of the file.
    pub(crate) allocated: u64,
    /// How many values were sealed in this generation.
    pub(crate) values: u64,
    /// Whether the last frame is a close frame.
    pub(crate) is_closed: bool,
}

/// How much there is in a log, for the decision to compact it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LogSize {
    /// Where the last frame ends.
    pub(crate) len: u64,
    /// The number of the last frame.
    pub(crate) seq: u64,
    /// How many values were sealed.
    pub(crate) values: u64,
}

/// A frame that is in the file, but not durable yet.
pub(crate) struct Written {
    /// Where its values are, for the index.
    pub(crate) locations: ValueCursor,
    pub(crate) pending: Pending,
}

impl LogWriter {
    /// Continues a log that has its name, and writes marks to it. `last` is its mark.
    pub(crate) fn new(file: Arc<LogFile>, storage: Arc<dyn Storage>, end: LogEnd, last: Option<Mark>) -> Self {
        let marks = Marks::new(last, storage.clock_ns());
        LogWriter::continuing(Commits::new(file, storage, end.tip, Some(marks), Arc::default()), end)
    }

    /// Continues a log that takes the place of `old`, and has no mark. Continues the counts of `old`.
    pub(super) fn in_place_of(
        old: &LogWriter,
        file: Arc<LogFile>,
        storage: Arc<dyn Storage>,
        end: LogEnd,
    ) -> Self {
        let marks = Marks::new(None, storage.clock_ns());
        let commits = Commits::new(file, storage, end.tip, Some(marks), Arc::clone(old.syncs()));
        LogWriter { written_before: old.bytes_written(), ..LogWriter::continuing(commits, end) }
    }

    /// Begins a log that does not have its name yet.
    pub(crate) fn of_new_log(file: Arc<LogFile>, storage: Arc<dyn Storage>, tip: LogPosition) -> Self {
        let end = LogEnd { tip, before_tip: None, allocated: tip.end, values: 0, is_closed: false };
        LogWriter::continuing(Commits::new(file, storage, tip, None, Arc::default()), end)
    }

    fn continuing(commits: Commits, end: LogEnd) -> Self {
        let LogEnd { tip, before_tip, allocated, values, is_closed } = end;
        let commits = Arc::new(commits);
        let (reserve, workspace) = (Reserve::default(), Workspace::default());
        let (began_at, written_before) = (tip.end, 0);
        LogWriter {
            commits,
            tip,
            before_tip,
            allocated,
            values,
            is_closed,
            reserve,
            compacted_len: 0,
            workspace,
            began_at,
            written_before,
        }
    }

    /// The syncs since the store was opened.
    pub(crate) fn syncs(&self) -> &Arc<Syncs> {
        self.commits.syncs()
    }

    /// How many bytes of frames were written since the store was opened.
    pub(crate) fn bytes_written(&self) -> u64 {
        self.written_before + (self.tip.end - self.began_at)
    }

    pub(crate) fn group_commit(&self) -> &GroupCommit {
        &self.commits.group_commit
    }

    pub(crate) fn commits(&self) -> &Arc<Commits> {
        &self.commits
    }

    /// Where a finished log ends: all of it is durable, and its last frame is a close frame.
    pub(super) fn end(&self) -> LogEnd {
        let LogWriter { tip, before_tip, values, .. } = *self;
        LogEnd { tip, before_tip, allocated: self.allocated.max(tip.end), values, is_closed: true }
    }

    pub(crate) fn size(&self) -> LogSize {
        LogSize { len: self.tip.end, seq: self.tip.seq, values: self.values }
    }

    pub(crate) fn file(&self) -> &Arc<LogFile> {
        &self.commits.file
    }

    /// All frames that have been written so far.
    pub(crate) fn pending(&self) -> Pending {
        Pending::new(&self.commits, self.tip.seq)
    }

    pub(crate) fn tip(&self) -> LogPosition {
        self.tip
    }

    /// The position before the last frame; `None` if there is no frame.
    pub(crate) fn before_tip(&self) -> Option<LogPosition> {
        self.before_tip
    }

    pub(crate) fn allocated(&self) -> u64 {
        self.allocated
    }

    /// Sets the reserve for what is live now.
    pub(crate) fn set_reserve(&mut self, reserve: Reserve) {
        self.reserve = reserve;
    }

    /// Sets the length at which the log is about to be compacted.
    pub(crate) fn set_compacted_len(&mut self, len: u64) {
        self.compacted_len = len;
    }

    /// Fails for good if the path means another file by now, or the file was cut.
    pub(crate) fn check_place(&self) -> Result<()> {
        let path = &self.file().path;
        if paths::id_at(&*self.commits.storage, path)? == Some(self.file_id()) {
            return self.check_length();
        }
        self.group_commit().fail(Failure::Replaced);
        Err(Error::Replaced { path: path.clone() })
    }

    /// Fails for good if another process has cut the file: what is written after the cut could not be read again.
    fn check_length(&self) -> Result<()> {
        let len = self.file().file.len().map_err(self.file().io("look at"))?;
        if len >= self.tip.end {
            return Ok(());
        }
        self.group_commit().fail(&io::Error::from(io::ErrorKind::UnexpectedEof));
        Err(Error::corrupt(&self.file().path, len, "another process has cut the file while it was open"))
    }

    /// Fails if the log takes no more writes.
    pub(crate) fn check_not_failed(&self) -> Result<()> {
        match self.group_commit().failure() {
            None => Ok(()),
            Some(Failure::Replaced) => Err(Error::Replaced { path: self.file().path.clone() }),
            Some(Failure::Io { .. }) => Err(Error::failed(&self.file().path)),
        }
    }

    /// Frees the lock on the file.
    pub(crate) fn unlock(&self) {
        // If this fails, closing the file unlocks, unless a child of a fork has a copy of it.
        let _ = self.file().file.unlock();
    }

    /// Which file this writes.
    pub(crate) fn file_id(&self) -> FileId {
        self.file().file.id()
    }

    /// The owner, the permissions and the like of the file.
    pub(crate) fn attributes(&self) -> Result<Attributes> {
        self.file().file.attributes().map_err(self.file().io("look at"))
    }

    /// Appends one record. On return it is in the file, but not durable until [`Pending::wait`] returns.
    ///
    /// # Errors
    /// - `TooLarge`, `Full`: the log is unchanged.
    /// - `Replaced`: the log has failed.
    /// - `Io`: the log has failed, and takes no more writes; except if nothing of the record was written, because
    ///   no space could be allocated, no random bytes could be had, or the path could not be looked at.
    pub(crate) fn append(&mut self, changes: &[Change<'_>]) -> Result<Written> {
        let len = encoding::frame_len(changes);
        if len > FRAME_LEN_MAX as u64 {
            return Err(Error::TooLarge { what: "a record", len, max: FRAME_LEN_MAX as u64 });
        }
        self.make_room(len, self.reserve.around(changes))?;
        self.write(changes)
    }

    /// Ends the log cleanly, durably: syncs it, writes a close frame, syncs that, marks it, and cuts off the
    /// preallocated space, or what is more than the reserve if that may be needed.
    ///
    /// If the disk has no space even for a close frame, the log ends without one: it is synced and cut. If nothing
    /// was written since the log was closed, it gets no other close frame.
    pub(crate) fn close(&mut self) -> Result<()> {
        // Others may have put the log in its place, and not synced it.
        self.commits.sync_what_was_found()?;
        // Another thread may have tried at the same time, in vain.
        self.check_not_failed()?;
        self.check_place()?;
        if !self.is_closed {
            self.write_close_frame()?;
        }
        // Not synced: if a power cut loses the mark, the log is merely unclean.
        self.commits.write_mark(self.tip)?;
        // Not synced: zeros that a power cut brings back do no harm.
        self.cut_to_space(self.reserve.kept_by_close(self.tip.end)).map(drop)
    }

    fn write_close_frame(&mut self) -> Result<()> {
        // Guards against a power cut that keeps the close frame but loses frames before it, which it vouches for.
        self.pending().wait()?;
        let before = self.tip;
        let least = self.reserve.kept_by_close_frame();
        let made = self.make_room(encoding::frame_len(&[]), Demand { least, wanted: least });
        match made.and_then(|()| self.write(&[])) {
            Ok(written) => {
                // Durable with the next sync, so that a power cut that loses the mark of the close frame leaves
                // one.
                self.commits.write_mark(before)?;
                // Guards against a power cut after close has reported success.
                written.pending.wait()?;
                self.is_closed = true;
                Ok(())
            }
            Err(Error::Full { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Appends one record, or a close frame if there are no changes, without preallocation or a reserve: for a new
    /// log that does not have its name yet.
    pub(crate) fn append_unseen(&mut self, changes: &[Change<'_>]) -> Result<Written> {
        self.write(changes)
    }

    /// Writes a frame at the tip: a record, or a close frame if there are no changes.
    fn write(&mut self, changes: &[Change<'_>]) -> Result<Written> {
        let seq = self.tip.seq + 1;
        let values = self.values + changes.iter().filter(|change| change.is_put()).count() as u64;
        if seq > SEQ_MAX {
            return Err(Error::TooLarge { what: "a generation's count of frames", len: seq, max: SEQ_MAX });
        }
        if seq + values > SEALINGS_MAX {
            let what = "a generation's count of frames and values";
            return Err(Error::TooLarge { what, len: seq + values, max: SEALINGS_MAX });
        }
        let LogFile { sealer, nonces, crc, file, .. } = &*self.commits.file;
        // Fetched for each attempt, and none ahead: a process that is restored from a snapshot of its memory would
        // use those again.
        let mut random = [0; 32];
        let storage = &self.commits.storage;
        storage.fill_random(&mut random).map_err(self.file().io("get random bytes for"))?;
        let nonce = nonces.nonce(&random, storage.clock_ns(), seq, &self.tip.chain);
        let durable_seq = self.group_commit().durable().seq;
        let seal = FrameSeal { sealer, crc, chain: &self.tip.chain, seq, durable_seq, nonce };
        let encoded = encoding::encode(changes, &seal, &mut self.workspace, |bytes, at| {
            storage::write_all_at(&**file, bytes, self.tip.end + at as u64)
        });
        self.workspace.shrink_to(KEPT_BUFFER_LEN);
        let (header, chain) = match encoded {
            Ok(encoded) => encoded,
            Err(error) => return Err(self.undo_write(error)),
        };
        let locations = ValueCursor::new(self.tip.end, &header);
        self.before_tip = Some(self.tip);
        self.tip = LogPosition { end: self.tip.end + u64::from(header.len), seq, chain };
        self.values = values;
        self.is_closed = false;
        self.group_commit().note_written(self.tip);
        Ok(Written { locations, pending: self.pending() })
    }

    /// Cuts off what a failed write has left after the tip. Returns the error for the caller.
    fn undo_write(&mut self, error: io::Error) -> Error {
        let cut = self.file().file.set_len(self.tip.end);
        if cut.is_ok() && storage::is_full(&error) {
            self.allocated = self.tip.end;
            // It only saves time, and the next call may need its space.
            index_file::remove(&*self.commits.storage, &self.file().path, self.file_id());
            return storage::full_or_io("write", &self.file().path)(error);
        }
        self.group_commit().fail(&error);
        Error::io("write", &self.file().path, error)
    }
}

/// Longer encoding buffers are freed after each record, so that one large record does not hold memory for good.
const KEPT_BUFFER_LEN: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Mutex;

    use super::*;
    use crate::AgentKey;
    use crate::crypto::TAG_LEN;
    use crate::crypto::keys::{GenerationId, Prk};
    use crate::format::SaltedCrc;
    use crate::format::bucket::Bucket;
    use crate::format::record::{Action, Operation};
    use crate::storage::{Access, Disk, File};

    const CHANGE: Change<'_> = Change {
        operation: Operation { action: Action::Delete, bucket: Bucket::Queue, key: b"job" },
        value: [&[]; 2],
    };

    /// A new log whose last frame claims to have been `seq`, after `values` values.
    fn log_at(seq: u64, values: u64, folder: &Path) -> LogWriter {
        let path = folder.join("state.db");
        let file: Arc<dyn File> = Disk.open(&path, Access::CreateNew).unwrap().into();
        file.set_len(8192).unwrap();
        let id = GenerationId { generation: 1, store_id: [1; 16], salt: [2; 32] };
        let prk = Prk::extract(&id.salt, &AgentKey::new("key").unwrap());
        let log = LogFile {
            path,
            file,
            unsynced_folder: Mutex::default(),
            id,
            sealer: prk.frame_sealer(&id),
            nonces: prk.nonce_key(&id),
            prk,
            crc: SaltedCrc::new(&id.salt),
            base: None,
        };
        let tip = LogPosition { end: 8192, seq, chain: [0; TAG_LEN] };
        let end = LogEnd { tip, before_tip: None, allocated: tip.end, values, is_closed: false };
        LogWriter::new(Arc::new(log), Arc::new(Disk), end, None)
    }

    #[test]
    fn a_frame_after_the_last_seq_is_refused_and_leaves_the_log_unchanged() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = log_at(SEQ_MAX - 1, 0, folder.path());
        log.append(&[CHANGE]).unwrap();
        let tip = log.tip();
        assert_eq!(tip.seq, SEQ_MAX);
        assert!(matches!(log.append(&[CHANGE]), Err(Error::TooLarge { max: SEQ_MAX, .. })));
        assert_eq!(log.tip(), tip);
    }

    #[test]
    fn a_record_with_more_values_than_a_generation_may_seal_is_refused_and_leaves_the_log_unchanged() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = log_at(9, SEALINGS_MAX - 13, folder.path());
        let put = |key| Change::put(Bucket::Queue, key, &[], b"job");
        log.append(&[put(b"a"), put(b"b")]).unwrap();
        let tip = log.tip();
        assert!(matches!(log.append(&[put(b"c")]), Err(Error::TooLarge { max: SEALINGS_MAX, .. })));
        assert_eq!(log.tip(), tip);
        log.append(&[]).unwrap();
    }
}
