//! One generation's log file: appending frames, reading values, growing, cutting.
//!
//! Implements *Writing* of FORMAT.md. Who syncs, and the failure latch, are in `commit.rs`; what the values mean is
//! not known here.

use std::io;
use std::sync::Arc;

use super::file::{LogFile, LogPosition};
use super::group_commit::GroupCommit;
use super::nonces::Nonces;
use crate::format::encoding::{self, FrameSeal, Workspace};
use crate::format::frame::{ALIGNMENT, FRAME_LEN_MAX, SEQ_MAX};
use crate::format::location::ValueCursor;
use crate::format::record::Change;
use crate::storage::{self, Storage};
use crate::{Error, Result};

/// The writing end. Whoever holds it is the only writer.
pub(crate) struct LogWriter {
    file: Arc<LogFile>,
    storage: Arc<dyn Storage>,
    tip: LogPosition,
    /// The length of the file; from the tip to here, it reads as zeros.
    allocated: u64,
    /// Whether the last frame is a close frame, and durable.
    closed: bool,
    group_commit: Arc<GroupCommit>,
    nonces: Nonces,
    workspace: Workspace,
}

/// A frame that was written: for the index, and to wait for its sync without holding the log.
pub(crate) struct Written {
    pub(crate) locations: ValueCursor,
    pub(crate) pending: Pending,
}

/// What was written up to some frame, durable or not yet.
pub(crate) struct Pending {
    file: Arc<LogFile>,
    group_commit: Arc<GroupCommit>,
    seq: u64,
}

impl Pending {
    /// Returns when it is durable.
    pub(crate) fn wait(&self) -> Result<()> {
        // Guards against a power cut after the caller was told that its record is durable.
        self.group_commit.wait_durable(self.seq, || self.file.file.sync_data()).map_err(self.file.io("sync"))
    }
}

impl LogWriter {
    /// Everything up to `tip` is durable.
    pub(crate) fn new(
        file: Arc<LogFile>,
        storage: Arc<dyn Storage>,
        tip: LogPosition,
        allocated: u64,
        closed: bool,
    ) -> Self {
        let group_commit = Arc::new(GroupCommit::new(tip.frame_id()));
        LogWriter {
            file,
            storage,
            tip,
            allocated,
            closed,
            group_commit,
            nonces: Nonces::new(),
            workspace: Workspace::default(),
        }
    }

    pub(crate) fn group_commit(&self) -> &GroupCommit {
        &self.group_commit
    }

    /// Everything written so far.
    pub(crate) fn pending(&self) -> Pending {
        Pending { file: Arc::clone(&self.file), group_commit: Arc::clone(&self.group_commit), seq: self.tip.seq }
    }

    pub(crate) fn tip(&self) -> LogPosition {
        self.tip
    }

    pub(crate) fn allocated(&self) -> u64 {
        self.allocated
    }

    /// Appends one record. On return it stands in the file, but is not durable.
    ///
    /// After `Full` and `TooLarge` the file is as it was; after any other error the log has failed, unless the
    /// system's random generator was what failed.
    pub(crate) fn append(&mut self, changes: &[Change<'_>]) -> Result<Written> {
        let len = encoding::frame_len(changes);
        if len > FRAME_LEN_MAX as u64 {
            return Err(Error::TooLarge { what: "a record", len, max: FRAME_LEN_MAX as u64 });
        }
        let frees = changes.iter().all(Change::frees);
        self.make_room(len, if frees { 0 } else { RESERVE_LEN })?;
        self.write(changes)
    }

    /// Ends the log cleanly: sync, close frame, sync, space ahead cut off. Where not even a close frame finds room, the
    /// log is synced and cut without one. A log that already ends with a close frame is only cut.
    pub(crate) fn close(&mut self) -> Result<()> {
        if !self.closed {
            self.write_close_frame()?;
            self.closed = true;
        }
        if self.allocated > self.tip.end { self.cut_to(self.tip.end) } else { Ok(()) }
    }

    fn write_close_frame(&mut self) -> Result<()> {
        // The close frame vouches for all before it, so a power cut must not be able to keep it and lose them.
        self.pending().wait()?;
        // A little more than it needs: if its own sync fails, zeros behind it keep it from looking like a clean end.
        let len = encoding::frame_len(&[]) + ALIGNMENT as u64;
        match self.make_room(len, 0).and_then(|()| self.write(&[])) {
            // Guards against a power cut after close has reported success.
            Ok(written) => written.pending.wait(),
            Err(Error::Full { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Appends one record behind the end of a file that nobody else sees yet, without space ahead.
    pub(crate) fn append_unseen(&mut self, changes: &[Change<'_>]) -> Result<Written> {
        self.write(changes)
    }

    /// Gives the space ahead back to the file system. Returns whether there was any.
    pub(crate) fn release(&mut self, what: Release) -> Result<bool> {
        let kept = match what {
            Release::AllButReserve => RESERVE_LEN,
            Release::All => 0,
        };
        let had_more = self.allocated > self.tip.end + kept;
        if had_more {
            self.cut_to(self.tip.end + kept)?;
        }
        Ok(had_more)
    }

    /// Takes the reserve again, where the disk has it. What else goes wrong, the next call that writes will tell.
    pub(crate) fn retake_reserve(&mut self) {
        let _ = self.make_room(0, 0);
    }

    fn cut_to(&mut self, len: u64) -> Result<()> {
        self.file.file.set_len(len).map_err(|source| {
            self.group_commit.fail(&source);
            Error::io("cut the space ahead off", &self.file.path, source)
        })?;
        self.allocated = len;
        Ok(())
    }

    fn write(&mut self, changes: &[Change<'_>]) -> Result<Written> {
        let seq = self.tip.seq + 1;
        if seq > SEQ_MAX {
            return Err(Error::TooLarge { what: "a generation's count of frames", len: seq, max: SEQ_MAX });
        }
        let nonce = self.nonces.next(|bytes| self.storage.fill_random(bytes));
        let nonce = nonce.map_err(self.file.io("get nonces from the system's random generator for"))?;
        let LogFile { sealer, crc, file, .. } = &*self.file;
        let durable_seq = self.group_commit.durable().seq;
        let seal = FrameSeal { sealer, crc, chain: &self.tip.chain, seq, durable_seq, nonce };
        let encoded = encoding::encode(changes, &seal, &mut self.workspace, |bytes, at| {
            storage::write_all_at(&**file, bytes, self.tip.end + at as u64)
        });
        self.workspace.shrink_to(FRAME_KEPT_LEN);
        let (header, chain) = match encoded {
            Ok(encoded) => encoded,
            Err(error) => return Err(self.undo_write(error)),
        };
        let locations = ValueCursor::new(self.tip.end, &header);
        self.tip = LogPosition { end: self.tip.end + u64::from(header.len), seq, chain };
        self.closed = false;
        self.group_commit.note_written(self.tip.frame_id());
        Ok(Written { locations, pending: self.pending() })
    }

    /// Cuts off what a failed write left behind the last good end, and says what the call returns.
    fn undo_write(&mut self, error: io::Error) -> Error {
        let cut = self.file.file.set_len(self.tip.end);
        if cut.is_ok() && storage::is_full(&error) {
            self.allocated = self.tip.end;
            return Error::Full { path: self.file.path.clone() };
        }
        self.group_commit.fail(&error);
        Error::io("write", &self.file.path, error)
    }

    /// Sees to it that `len` bytes of zeros lie ahead, which the next frame goes over, and behind them the reserve, if the disk has them. `reserve`
    /// is what must stay ahead in any case: a put leaves all of it, what gives space back may use it up.
    fn make_room(&mut self, len: u64, reserve: u64) -> Result<()> {
        let wanted = self.tip.end + len + RESERVE_LEN;
        if wanted <= self.allocated {
            return Ok(());
        }
        let step = (self.tip.end / STEP_FRACTION).clamp(STEP_LEN_MIN, STEP_LEN_MAX);
        for target in [wanted + step, wanted, self.tip.end + len + reserve] {
            if target <= self.allocated {
                return Ok(());
            }
            match self.grow_to(target.next_multiple_of(SECTOR_LEN), self.tip.end + len) {
                Ok(()) => return Ok(()),
                Err(error) if storage::is_full(&error) => {}
                Err(error) => {
                    self.group_commit.fail(&error);
                    return Err(Error::io("allocate space in", &self.file.path, error));
                }
            }
        }
        Err(Error::Full { path: self.file.path.clone() })
    }

    /// Writes zeros up to `target`. They are allocated as they are written, which a later full disk cannot take
    /// back, and no sync of a frame has to convert or allocate anything. Where a long frame that ends at `frame_end` goes over
    /// them at once, writing them would take as long as writing the frame: there they are only allocated.
    fn grow_to(&mut self, target: u64, frame_end: u64) -> io::Result<()> {
        let grown = self.allocate_for(frame_end).and_then(|from| self.write_zeros(from, target));
        if let Err(error) = grown {
            // Zeros do no harm, but a full disk should get them back.
            self.file.file.set_len(self.allocated)?;
            return Err(error);
        }
        self.allocated = target;
        Ok(())
    }

    /// Returns where zeros are still to be written from.
    fn allocate_for(&self, frame_end: u64) -> io::Result<u64> {
        if frame_end < self.allocated + ALLOCATED_LEN_MIN {
            return Ok(self.allocated);
        }
        match self.file.file.allocate(frame_end) {
            Ok(()) => Ok(frame_end),
            Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(self.allocated),
            Err(error) => Err(error),
        }
    }

    fn write_zeros(&self, from: u64, until: u64) -> io::Result<()> {
        let mut at = from;
        while at < until {
            let len = (until - at).min(ZEROS.len() as u64);
            #[allow(clippy::cast_possible_truncation, reason = "at most the length of ZEROS")]
            storage::write_all_at(&*self.file.file, &ZEROS[..len as usize], at)?;
            at += len;
        }
        Ok(())
    }
}

/// What is kept for acks, deletes and drains when the disk is full.
const RESERVE_LEN: u64 = 64 << 10;
const STEP_LEN_MIN: u64 = 256 << 10;
const STEP_LEN_MAX: u64 = 4 << 20;
/// How much of what a frame goes over is only allocated: less is written as fast.
const ALLOCATED_LEN_MIN: u64 = 64 << 10;
/// A step is this part of the log, so that the file stays within its bound.
const STEP_FRACTION: u64 = 8;
/// File systems allocate in pages: a step that ends inside one wastes the rest.
const SECTOR_LEN: u64 = 4096;
/// A frame buffer of this size is kept from one record to the next.
const FRAME_KEPT_LEN: usize = 64 << 10;

static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// How much of the space ahead a compaction may have on a full disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Release {
    /// One that runs by itself: acks and drains go on meanwhile, and need the reserve.
    AllButReserve,
    /// One that somebody asked for.
    All,
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::AgentKey;
    use crate::crypto::TAG_LEN;
    use crate::crypto::seal::{GenerationId, Prk};
    use crate::format::SaltedCrc;
    use crate::format::bucket::Bucket;
    use crate::format::record::{Action, Operation};
    use crate::storage::{Access, Disk};

    const CHANGE: Change<'_> = Change {
        operation: Operation { action: Action::Delete, bucket: Bucket::Queue, key: b"job" },
        value: [&[]; 2],
    };

    /// In a file of its own, behind a frame `seq` that is not there.
    fn log_behind(seq: u64, folder: &Path) -> LogWriter {
        let path = folder.join("state.db");
        let file = Disk.open(&path, Access::CreateNew).unwrap();
        let id = GenerationId { generation: 1, store_id: [1; 16], salt: [2; 32] };
        let sealer = Prk::extract(&id.salt, &AgentKey::new("key").unwrap()).frame_sealer(&id);
        let log = LogFile { path, file, sealer, crc: SaltedCrc::new(&id.salt) };
        let tip = LogPosition { end: 4096, seq, chain: [0; TAG_LEN] };
        LogWriter::new(Arc::new(log), Arc::new(Disk), tip, tip.end, false)
    }

    #[test]
    fn a_generation_ends_with_its_highest_number() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = log_behind(SEQ_MAX - 1, folder.path());
        log.append(&[CHANGE]).unwrap();
        let tip = log.tip();
        assert_eq!(tip.seq, SEQ_MAX);
        assert!(matches!(log.append(&[CHANGE]), Err(Error::TooLarge { max: SEQ_MAX, .. })));
        assert_eq!(log.tip(), tip);
    }

    #[test]
    fn the_reserve_is_given_back_only_when_all_is_and_taken_again() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = log_behind(0, folder.path());
        log.append(&[CHANGE]).unwrap();
        let end = log.tip().end;
        let mut frees = |what| (log.release(what).unwrap(), log.allocated(), log.file.file.len().unwrap());
        let reserve_only = end + RESERVE_LEN;
        assert_eq!(frees(Release::AllButReserve), (true, reserve_only, reserve_only));
        assert_eq!(frees(Release::AllButReserve), (false, reserve_only, reserve_only));
        assert_eq!(frees(Release::All), (true, end, end));
        assert_eq!(frees(Release::All), (false, end, end));
        assert_eq!(frees(Release::AllButReserve), (false, end, end));
        log.retake_reserve();
        assert!(log.allocated() >= reserve_only);
        assert_eq!(log.file.file.len().unwrap(), log.allocated());
    }
}
