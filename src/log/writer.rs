//! One generation's log file: appending frames, reading values, growing, cutting.
//!
//! Implements *Writing* of FORMAT.md. Who syncs, and the failure latch, are in `commit.rs`; what the values mean is
//! not known here.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use crate::log::group_commit::{Commit, Mark};
use crate::format::SaltedCrc;
use crate::format::frame::{self, ALIGNMENT, FRAME_LEN_MAX, FrameSeal, Location, SEQ_MAX, ValueCursor, Workspace};
use crate::format::record::Change;
use crate::log::nonces::Nonces;
use crate::crypto::seal::{NONCE_LEN, Nonce, Sealer, TAG_LEN, Tag};
use crate::storage::{self, File, Map, Storage};
use crate::log::scan::OpenFrame;
use crate::crypto::secret_vec::{self, Wiped};
use crate::{Error, Result};

/// An open log file with the keys of its generation.
pub(crate) struct LogFile {
    pub(crate) path: PathBuf,
    pub(crate) file: Box<dyn File>,
    pub(crate) sealer: Sealer,
    pub(crate) crc: SaltedCrc,
}

impl LogFile {
    pub(crate) fn io(&self, operation: &'static str) -> impl Fn(io::Error) -> Error {
        move |source| Error::io(operation, &self.path, source)
    }
}

/// Where the log ends, and what the next frame is chained to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tip {
    pub(crate) end: u64,
    pub(crate) seq: u64,
    pub(crate) chain: Tag,
}

impl Tip {
    pub(crate) fn mark(&self) -> Mark {
        Mark { seq: self.seq, tag: self.chain }
    }
}

/// The writing end. Whoever holds it is the only writer.
pub(crate) struct Log {
    log: Arc<LogFile>,
    storage: Arc<dyn Storage>,
    tip: Tip,
    /// The length of the file; from the tip to here, it reads as zeros.
    allocated: u64,
    /// Whether the last frame is a close frame, and durable.
    closed: bool,
    commit: Arc<Commit>,
    nonces: Nonces,
    workspace: Workspace,
}

/// A frame that was written: for the index, and to wait for its sync without holding the log.
pub(crate) struct Written {
    pub(crate) places: ValueCursor,
    pub(crate) pending: Pending,
}

/// What was written up to some frame, durable or not yet.
pub(crate) struct Pending {
    log: Arc<LogFile>,
    commit: Arc<Commit>,
    seq: u64,
}

impl Pending {
    /// Returns when it is durable.
    pub(crate) fn wait(&self) -> Result<()> {
        // Guards against a power cut after the caller was told that its record is durable.
        self.commit.wait_durable(self.seq, || self.log.file.sync_data()).map_err(self.log.io("sync"))
    }
}

impl Log {
    /// Everything up to `tip` is durable.
    pub(crate) fn new(
        log: Arc<LogFile>,
        storage: Arc<dyn Storage>,
        tip: Tip,
        allocated: u64,
        closed: bool,
    ) -> Self {
        let commit = Arc::new(Commit::new(tip.mark()));
        Log {
            log,
            storage,
            tip,
            allocated,
            closed,
            commit,
            nonces: Nonces::new(),
            workspace: Workspace::default(),
        }
    }

    pub(crate) fn commit(&self) -> &Commit {
        &self.commit
    }

    /// Everything written so far.
    pub(crate) fn pending(&self) -> Pending {
        Pending { log: Arc::clone(&self.log), commit: Arc::clone(&self.commit), seq: self.tip.seq }
    }

    pub(crate) fn tip(&self) -> Tip {
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
        let len = frame::frame_len(changes);
        if len > FRAME_LEN_MAX as u64 {
            return Err(Error::TooLarge { what: "a record", len, max: FRAME_LEN_MAX as u64 });
        }
        let gives_back = changes.iter().all(Change::gives_back);
        self.make_room(len, if gives_back { 0 } else { RESERVE_LEN })?;
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
        let len = frame::frame_len(&[]) + ALIGNMENT as u64;
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
    pub(crate) fn give_back(&mut self, what: GiveBack) -> Result<bool> {
        let kept = match what {
            GiveBack::AllButTheReserve => RESERVE_LEN,
            GiveBack::All => 0,
        };
        let had_more = self.allocated > self.tip.end + kept;
        if had_more {
            self.cut_to(self.tip.end + kept)?;
        }
        Ok(had_more)
    }

    /// Takes the reserve again, where the disk has it. What else goes wrong, the next call that writes will tell.
    pub(crate) fn take_reserve_again(&mut self) {
        let _ = self.make_room(0, 0);
    }

    fn cut_to(&mut self, len: u64) -> Result<()> {
        self.log.file.set_len(len).map_err(|source| {
            self.commit.fail(&source);
            Error::io("cut the space ahead off", &self.log.path, source)
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
        let nonce = nonce.map_err(self.log.io("get nonces from the system's random generator for"))?;
        let LogFile { sealer, crc, file, .. } = &*self.log;
        let durable_seq = self.commit.durable().seq;
        let seal = FrameSeal { sealer, crc, chain: &self.tip.chain, seq, durable_seq, nonce };
        let encoded = frame::encode(changes, &seal, &mut self.workspace, |bytes, at| {
            storage::write_all_at(&**file, bytes, self.tip.end + at as u64)
        });
        self.workspace.shrink_to(FRAME_KEPT_LEN);
        let (header, chain) = match encoded {
            Ok(encoded) => encoded,
            Err(error) => return Err(self.undo_write(error)),
        };
        let places = ValueCursor::new(self.tip.end, &header);
        self.tip = Tip { end: self.tip.end + u64::from(header.len), seq, chain };
        self.closed = false;
        self.commit.note_written(self.tip.mark());
        Ok(Written { places, pending: self.pending() })
    }

    /// Cuts off what a failed write left behind the last good end, and says what the call returns.
    fn undo_write(&mut self, error: io::Error) -> Error {
        let cut = self.log.file.set_len(self.tip.end);
        if cut.is_ok() && storage::is_full(&error) {
            self.allocated = self.tip.end;
            return Error::Full { path: self.log.path.clone() };
        }
        self.commit.fail(&error);
        Error::io("write", &self.log.path, error)
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
                    self.commit.fail(&error);
                    return Err(Error::io("allocate space in", &self.log.path, error));
                }
            }
        }
        Err(Error::Full { path: self.log.path.clone() })
    }

    /// Writes zeros up to `target`. They are allocated as they are written, which a later full disk cannot take
    /// back, and no sync of a frame has to convert or allocate anything. Where a long frame that ends at `frame_end` goes over
    /// them at once, writing them would take as long as writing the frame: there they are only allocated.
    fn grow_to(&mut self, target: u64, frame_end: u64) -> io::Result<()> {
        let grown = self.allocate_for(frame_end).and_then(|from| self.write_zeros(from, target));
        if let Err(error) = grown {
            // Zeros do no harm, but a full disk should get them back.
            self.log.file.set_len(self.allocated)?;
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
        match self.log.file.allocate(frame_end) {
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
            storage::write_all_at(&*self.log.file, &ZEROS[..len as usize], at)?;
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
pub(crate) enum GiveBack {
    /// One that runs by itself: acks and drains go on meanwhile, and need the reserve.
    AllButTheReserve,
    /// One that somebody asked for.
    All,
}

/// The values of one generation, read by location.
pub(crate) struct Values {
    log: Arc<LogFile>,
    /// `None` where values are read by `pread` only.
    map: Option<RwLock<Option<Arc<Map>>>>,
}

impl Values {
    pub(crate) fn new(log: Arc<LogFile>, mmap: bool) -> Self {
        Values { log, map: mmap.then(RwLock::default) }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.log.path
    }

    pub(crate) fn log(&self) -> &LogFile {
        &self.log
    }

    /// Reads and opens the value at `place`. Of many values, [`Reading`] is quicker.
    ///
    /// # Errors
    /// As [`Reading::read`].
    pub(crate) fn read(&self, place: Location) -> Result<Vec<u8>> {
        self.reading().read(place)
    }

    /// To read some values, one after the other.
    pub(crate) fn reading(&self) -> Reading<'_> {
        let held = self.map.as_ref().map(|map| map.read().unwrap_or_else(PoisonError::into_inner));
        Reading { values: self, map: held.and_then(|map| map.clone()) }
    }

    /// Opens the value at `place`, which lies in `frame`, and appends it to `out`.
    pub(crate) fn open_into(&self, out: &mut Wiped, frame: &OpenFrame<'_>, place: Location) -> Result<()> {
        let (start, len) = (place.offset_in_body(), place.len as usize);
        // The manifest was held against the frame's length, so the value is there.
        let sealed = frame.body.get(start..start + len + TAG_LEN).unwrap_or_default();
        let at = out.len();
        wiped::reserve(out, sealed.len());
        out.extend_from_slice(sealed);
        let opened = self.unseal(&mut out[at..], &frame.header.nonce, place);
        out.truncate(if opened.is_ok() { at + len } else { at });
        opened
    }

    /// The value opens, yet no writer of this format writes such a one.
    pub(crate) fn malformed(&self, place: Location) -> Error {
        Error::unauthentic(self.path(), place.value_offset(), "the value is not as its bucket's values are")
    }

    /// Opens ciphertext and tag in place.
    fn unseal(&self, sealed: &mut [u8], nonce: &Nonce, place: Location) -> Result<()> {
        let opened = sealed
            .split_last_chunk_mut()
            .is_some_and(|(text, tag)| self.log.sealer.open_value(nonce, place.seq(), place.i, text, tag).is_ok());
        if opened {
            return Ok(());
        }
        Err(Error::unauthentic(self.path(), place.value_offset(), "the value's seal does not fit"))
    }

    fn read_file(&self, place: Location) -> io::Result<Sealed> {
        let mut sealed = Sealed { nonce: [0; NONCE_LEN], text: vec![0; place.len as usize + TAG_LEN] };
        storage::read_exact_at(&*self.log.file, &mut sealed.nonce, place.nonce_offset())?;
        storage::read_exact_at(&*self.log.file, &mut sealed.text, place.value_offset())?;
        Ok(sealed)
    }

    /// A map of the log as it is now, for others to use as well. Where mapping fails, there is still `pread`.
    fn renew_map(&self) -> Option<Arc<Map>> {
        let map = self.map.as_ref()?;
        let renewed = Arc::new(self.log.file.map().ok()??);
        *map.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&renewed));
        Some(renewed)
    }
}

/// Reads values by one map, without asking for it each time.
pub(crate) struct Reading<'a> {
    values: &'a Values,
    map: Option<Arc<Map>>,
}

impl Reading<'_> {
    /// Reads and opens the value at `place`.
    ///
    /// # Errors
    /// `Unauthentic` when its seal does not fit, without naming what it is; `Io`.
    pub(crate) fn read(&mut self, place: Location) -> Result<Vec<u8>> {
        let Sealed { nonce, mut text } = match self.read_map(place) {
            Some(sealed) => sealed,
            None => self.values.read_file(place).map_err(self.values.log.io("read"))?,
        };
        self.values.unseal(&mut text, &nonce, place)?;
        text.truncate(place.len as usize);
        Ok(text)
    }

    fn read_map(&mut self, place: Location) -> Option<Sealed> {
        let copy = |map: &Option<Arc<Map>>| Sealed::copy(map.as_ref()?, place);
        copy(&self.map).or_else(|| {
            // The log has outgrown the map: a new one covers the space ahead too, so this happens once a step.
            self.map = self.values.renew_map();
            copy(&self.map)
        })
    }
}

/// A value as it lies in the log, and what opens it.
struct Sealed {
    nonce: Nonce,
    /// Ciphertext and tag.
    text: Vec<u8>,
}

impl Sealed {
    fn copy(map: &Map, place: Location) -> Option<Self> {
        let nonce = map.copy(place.nonce_offset())?;
        let len = place.len as usize + TAG_LEN;
        let mut text = Vec::with_capacity(len);
        map.append_to(&mut text, place.value_offset(), len).then_some(Sealed { nonce, text })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::AgentKey;
    use crate::format::bucket::Bucket;
    use crate::format::record::{Action, Operation};
    use crate::crypto::seal::{GenerationId, Prk};
    use crate::storage::{Access, Disk};

    const CHANGE: Change<'_> = Change {
        operation: Operation { action: Action::Delete, bucket: Bucket::Queue, key: b"job" },
        value: [&[]; 2],
    };

    /// In a file of its own, behind a frame `seq` that is not there.
    fn log_behind(seq: u64, folder: &Path) -> Log {
        let path = folder.join("state.db");
        let file = Disk.open(&path, Access::CreateNew).unwrap();
        let id = GenerationId { generation: 1, store_id: [1; 16], salt: [2; 32] };
        let sealer = Prk::extract(&id.salt, &AgentKey::new("key").unwrap()).frame_sealer(&id);
        let log = LogFile { path, file, sealer, crc: SaltedCrc::new(&id.salt) };
        let tip = Tip { end: 4096, seq, chain: [0; TAG_LEN] };
        Log::new(Arc::new(log), Arc::new(Disk), tip, tip.end, false)
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
        let mut gives_back = |what| (log.give_back(what).unwrap(), log.allocated(), log.log.file.len().unwrap());
        let reserve_only = end + RESERVE_LEN;
        assert_eq!(gives_back(GiveBack::AllButTheReserve), (true, reserve_only, reserve_only));
        assert_eq!(gives_back(GiveBack::AllButTheReserve), (false, reserve_only, reserve_only));
        assert_eq!(gives_back(GiveBack::All), (true, end, end));
        assert_eq!(gives_back(GiveBack::All), (false, end, end));
        assert_eq!(gives_back(GiveBack::AllButTheReserve), (false, end, end));
        log.take_reserve_again();
        assert!(log.allocated() >= reserve_only);
        assert_eq!(log.log.file.len().unwrap(), log.allocated());
    }
}
