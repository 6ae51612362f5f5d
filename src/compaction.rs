//! Copying what is live into a new log file, beside running writers: compaction, new keys, backups.
//!
//! Implements *Compaction* of FORMAT.md. The old log is read frame by frame, and what is still live is packed into a new
//! file under a new salt. What was written meanwhile is caught up with in rounds, each synced and read back; only the
//! last and smallest one holds the writing end. Nothing of the old log is touched: until the rename, a failure costs
//! the new file and nothing else.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use crate::format::bucket::Bucket;
use crate::format::frame::{ALIGNMENT, Location, ValueCursor};
use crate::format::header::Header;
use crate::format::record::{Action, Change, Operation};
use crate::index::Index;
use crate::live::Live;
use crate::log::{GiveBack, Log, LogFile, Tip, Values};
use crate::path::sibling;
use crate::reader::{CompactionStats, Reader, View};
use crate::storage::PathKind;
use crate::walk::{self, Beside, Found, OpenFrame, Scan};
use crate::{AgentKey, Error, Result, events, recovery};

/// What [`Store::compact`](crate::Store::compact) did.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CompactionReport {
    /// The number of the new log file among those of the store.
    pub generation: u64,
    /// The length of the old log in bytes, without the space ahead.
    pub bytes_before: u64,
    /// The length of the new one.
    pub bytes_after: u64,
    /// How long it took.
    pub took: Duration,
}

/// Runs compactions, one at a time: on a thread of its own when one is due, or on the caller's.
pub(crate) struct Compactor {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    live: Arc<Live>,
    /// The agent key in force. Whoever holds it is the only one to compact.
    key: Mutex<AgentKey>,
    running: AtomicBool,
    stopping: AtomicBool,
    record: Mutex<Record>,
}

/// How it went so far.
#[derive(Default)]
struct Record {
    stats: CompactionStats,
    /// After a failure: not again before this moment, and twice as long after the next one.
    pause: Option<(Instant, Duration)>,
}

const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(3600);

impl Compactor {
    pub(crate) fn new(live: Arc<Live>, key: AgentKey) -> Self {
        let shared = Shared {
            live,
            key: Mutex::new(key),
            running: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            record: Mutex::default(),
        };
        Compactor { shared: Arc::new(shared), thread: Mutex::new(None) }
    }

    pub(crate) fn stats(&self) -> CompactionStats {
        self.shared.record().stats.clone()
    }

    /// Starts a thread if a compaction is due, none is running, and the last failure is long enough ago.
    pub(crate) fn start_if_due(&self) {
        let shared = &self.shared;
        if !shared.live.compaction_is_due() || shared.running.swap(true, Ordering::AcqRel) {
            return;
        }
        if shared.record().pause.is_some_and(|(until, _)| Instant::now() < until) {
            shared.running.store(false, Ordering::Release);
            return;
        }
        let for_thread = Arc::clone(shared);
        let run = move || {
            for_thread.run_automatic();
            for_thread.running.store(false, Ordering::Release);
        };
        match thread::Builder::new().name("state-compaction".to_owned()).spawn(run) {
            // The one before has ended, or `running` would have been set.
            Ok(thread) => drop(lock(&self.thread).replace(thread)),
            Err(source) => {
                let error = Error::io("start a thread to compact", &shared.live.path, source);
                shared.note(&Err(error));
                shared.running.store(false, Ordering::Release);
            }
        }
    }

    /// Ends a compaction that runs on its own thread, and waits for the thread to be gone.
    pub(crate) fn stop(&self) {
        self.shared.stopping.store(true, Ordering::Release);
        if let Some(thread) = lock(&self.thread).take() {
            // It cannot have panicked without a bug; closing the store matters more than its message.
            let _ = thread.join();
        }
    }

    pub(crate) fn compact(&self) -> Result<CompactionReport> {
        let key = lock(&self.shared.key);
        self.shared.run(&key, GiveBack::All)
    }

    pub(crate) fn rekey(&self, new_key: &AgentKey) -> Result<()> {
        let mut key = lock(&self.shared.key);
        self.shared.run(new_key, GiveBack::All)?;
        *key = new_key.duplicate();
        Ok(())
    }

    pub(crate) fn backup(&self, path: &Path) -> Result<()> {
        let key = lock(&self.shared.key);
        self.shared.backup(path, &key)
    }
}

impl Shared {
    fn run_automatic(&self) {
        let key = lock(&self.key);
        if self.live.compaction_is_due() && !self.stopping.load(Ordering::Acquire) {
            let _ = self.run(&key, GiveBack::AllButTheReserve);
        }
    }

    fn run(&self, key: &AgentKey, give_back: GiveBack) -> Result<CompactionReport> {
        let mut done = self.replace_log(key);
        if matches!(done, Err(Error::Full { .. }))
            && let Ok(mut writing) = self.live.write()
            && matches!(writing.log.give_back(give_back), Ok(true))
        {
            drop(writing);
            done = self.replace_log(key);
            if let Ok(mut writing) = self.live.write() {
                writing.log.take_reserve_again();
            }
        }
        if !self.stopping.load(Ordering::Acquire) {
            self.note(&done);
        }
        done
    }

    /// Makes the next generation and puts it in the place of this one.
    fn replace_log(&self, key: &AgentKey) -> Result<CompactionReport> {
        let begun = Instant::now();
        drop(self.live.write()?);
        let Live { path, storage, mmap, .. } = &*self.live;
        let generation = self.live.header().id.generation + 1;
        let temporary = sibling(path, ".new");
        recovery::remove_leftovers(&**storage, path)?;
        let mut copy = Copy::create(self, &temporary, path, generation, key)?;
        storage
            .copy_owner_and_mode(path, &temporary)
            .map_err(|source| Error::io("keep the owner and mode of", path, source))?;
        copy.catch_up()?;
        let writing = self.live.write()?;
        let bytes_before = writing.log.tip().end;
        let file_len = copy.finish(writing.log.tip())?;
        let (same, _) = self.live.look(|index| copy.index.holds_as_much_as(index));
        if !same {
            let what = "the compacted log does not hold what the old one does; please report this";
            return Err(Error::corrupt(path, 0, what));
        }
        if writing.log.commit().has_failed() {
            return Err(Error::Failed { path: path.clone() });
        }
        storage
            .rename(&temporary, path)
            .map_err(|source| Error::io("put the compacted log in the place of", path, source))?;
        copy.keep = true;
        if let Err(error) = recovery::sync_folder(&**storage, path) {
            // Nobody knows which of the two files a power cut would leave under the name.
            writing.log.commit().fail(&std::io::ErrorKind::Other.into());
            return Err(error);
        }
        let Copy { new, file, header, index, .. } = &mut copy;
        let mut index = std::mem::replace(index, Index::new(self.live.order));
        // A batch that was peeked before names its events by their ordinals.
        self.live.look(|old| index.count_ordinals_on_from(old));
        let view = View { header: *header, index, values: Arc::new(Values::new(Arc::clone(file), *mmap)) };
        let tip = new.tip();
        let log = Log::new(Arc::clone(file), Arc::clone(storage), tip, file_len, true);
        drop(writing.switch(log, view));
        Ok(CompactionReport {
            generation: header.id.generation,
            bytes_before,
            bytes_after: tip.end,
            took: begun.elapsed(),
        })
    }

    /// Makes a copy of this generation under another name.
    fn backup(&self, path: &Path, key: &AgentKey) -> Result<()> {
        drop(self.live.write()?);
        let Live { storage, .. } = &*self.live;
        let target = storage.resolve(path).map_err(|source| Error::io("find", path, source))?;
        let refuse =
            || Error::Invalid { what: format!("{} exists already; it was not changed", target.display()) };
        let kind = storage.kind(&target).map_err(|source| Error::io("look at", &target, source))?;
        if kind != PathKind::Missing {
            return Err(refuse());
        }
        let temporary = sibling(&target, ".new");
        let mut copy = Copy::create(self, &temporary, &target, self.live.header().id.generation, key)?;
        copy.catch_up()?;
        // Held to the end: what is replaced behind the tip meanwhile would be left out with nothing in its place.
        let writing = self.live.write()?;
        copy.finish(writing.log.tip())?;
        drop(writing);
        storage.rename_new(&temporary, &target).map_err(|source| match source.kind() {
            std::io::ErrorKind::AlreadyExists => refuse(),
            _ => Error::io("name the backup", &target, source),
        })?;
        copy.keep = true;
        recovery::sync_folder(&**storage, &target)?;
        let end = copy.new.tip().end;
        copy.file.file.set_len(end).map_err(copy.file.io("end"))
    }

    /// An error when the store is being closed.
    fn keep_going(&self) -> Result<()> {
        if self.stopping.load(Ordering::Acquire) {
            return Err(Error::Failed { path: self.live.path.clone() });
        }
        Ok(())
    }

    fn note(&self, done: &Result<CompactionReport>) {
        let mut record = self.record();
        match done {
            Ok(report) => {
                events::compacted(&self.live.path, report);
                record.stats.completed += 1;
                record.stats.last_error = None;
                record.pause = None;
            }
            Err(error) => {
                events::compaction_failed(&self.live.path, error);
                record.stats.failed += 1;
                record.stats.last_error = Some(error.to_string());
                let pause = record.pause.map_or(PAUSE_MIN, |(_, pause)| (pause * 2).min(PAUSE_MAX));
                record.pause = Some((Instant::now() + pause, pause));
            }
        }
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        lock(&self.record)
    }
}

/// No code under these mutexes panics halfway through a change.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A new log file on its way. Removed again when dropped, unless it has got its name.
struct Copy<'a> {
    shared: &'a Shared,
    temporary: PathBuf,
    keep: bool,
    /// The old log, and how far it was taken over.
    old: Arc<Values>,
    taken: Tip,
    header: Header,
    file: Arc<LogFile>,
    new: Log,
    index: Index,
    pack: Pack,
    /// How far the new file was read back.
    checked: Tip,
}

impl<'a> Copy<'a> {
    fn create(shared: &'a Shared, temporary: &Path, path: &Path, generation: u64, key: &AgentKey) -> Result<Self> {
        let live = &*shared.live;
        let Header { id, authenticator, .. } = live.header();
        let old = live.look(|_| ()).1;
        let (log, header) = recovery::create_log(&*live.storage, temporary, path, generation, id.store_id, key)?;
        let first = walk::first_tip(&header.authenticator);
        let file = Arc::new(log);
        let new = Log::new(Arc::clone(&file), Arc::clone(&live.storage), first, first.end, false);
        Ok(Copy {
            shared,
            temporary: temporary.to_path_buf(),
            keep: false,
            old,
            taken: walk::first_tip(&authenticator),
            header,
            file,
            new,
            index: Index::new(live.order),
            pack: Pack::default(),
            checked: first,
        })
    }

    /// Takes over what was written so far, in rounds, until little is left or writers are as fast as this is.
    fn catch_up(&mut self) -> Result<()> {
        for _ in 0..ROUNDS_MAX {
            let tip = self.shared.live.write()?.log.tip();
            let left = tip.end - self.taken.end;
            self.take_until(tip)?;
            self.check()?;
            if left <= LAST_ROUND_LEN {
                break;
            }
        }
        Ok(())
    }

    /// Takes over the rest, and puts a close frame behind it, which vouches for all of it. Returns the length to use.
    fn finish(&mut self, tip: Tip) -> Result<u64> {
        self.take_until(tip)?;
        self.check()?;
        self.new.append_unseen(&[])?;
        self.check()?;
        // Not a clean end yet: whoever opens the file before its folder is known to be synced has to sync the folder,
        // or a power cut would bring the old name back after new calls were acknowledged.
        let len = self.new.tip().end + ALIGNMENT as u64;
        self.file.file.set_len(len).map_err(self.file.io("lengthen"))?;
        Ok(len)
    }

    /// Copies what is still live of the frames up to `tip`, and what they delete.
    fn take_until(&mut self, tip: Tip) -> Result<()> {
        let old = Arc::clone(&self.old);
        let mut scan = Scan::new(old.log(), Beside::Nobody, self.taken)?;
        while scan.tip().seq < tip.seq {
            self.shared.keep_going()?;
            match scan.next()? {
                Found::Frame(frame) => self.take(&old, &frame)?,
                Found::End | Found::Torn { .. } => {
                    return Err(Error::corrupt(old.path(), scan.tip().end, "frames that were written are gone"));
                }
            }
            self.taken = scan.tip();
        }
        self.flush()
    }

    fn take(&mut self, old: &Values, frame: &OpenFrame<'_>) -> Result<()> {
        let Some(manifest) = frame.manifest else { return Ok(()) };
        let mut places = ValueCursor::new(frame.offset, &frame.header);
        for operation in manifest.operations() {
            match places.place(&operation) {
                // What is not live any more was replaced or deleted by a later frame, which comes over too.
                Some(place) if self.is_current(&operation, place) => {
                    self.pack.add(&operation, |bytes| old.open_into(bytes, frame, place))?;
                }
                // Of what came over in an earlier round. In this round, nothing that a frame of it deletes is current.
                None if self.index.loses_by(&operation) => self.pack.add(&operation, |_| Ok(()))?,
                Some(_) | None => {}
            }
            if self.pack.bytes.len() >= PACK_LEN {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn is_current(&self, operation: &Operation<'_>, place: Location) -> bool {
        let find = |index: &Index| index.get(operation.bucket, operation.key) == Some(place);
        self.shared.live.look(find).0
    }

    /// Writes what was packed as one frame.
    fn flush(&mut self) -> Result<()> {
        let Copy { pack, new, index, .. } = self;
        let changes = pack.changes();
        if !changes.is_empty() {
            let written = new.append_unseen(&changes)?;
            index.apply(changes.iter().map(|change| change.operation), written.places);
        }
        pack.clear();
        Ok(())
    }

    /// Reads back from the disk what was written since the last check: every frame in its place, every value opens.
    /// The chain ends in the same tag only if all manifests are the ones that were written.
    fn check(&mut self) -> Result<()> {
        // Guards against a power cut after the rename: the name must never stand for less than all of it.
        self.new.pending().wait()?;
        self.file.file.drop_cache(self.checked.end).map_err(self.file.io("drop the page cache of"))?;
        let values = Values::new(Arc::clone(&self.file), false);
        let mut value = Zeroizing::default();
        let mut scan = Scan::new(&self.file, Beside::Nobody, self.checked)?;
        while let Found::Frame(frame) = scan.next()? {
            self.shared.keep_going()?;
            let mut places = ValueCursor::new(frame.offset, &frame.header);
            let operations = frame.manifest.into_iter().flat_map(|manifest| manifest.operations());
            for place in operations.filter_map(|operation| places.place(&operation)) {
                Vec::clear(&mut value);
                values.open_into(&mut value, &frame, place)?;
            }
        }
        self.checked = scan.tip();
        if self.checked != self.new.tip() || scan.file_len() != self.checked.end {
            let what = "the new log does not read back as it was written";
            return Err(Error::corrupt(&self.temporary, self.checked.end, what));
        }
        Ok(())
    }
}

impl Drop for Copy<'_> {
    fn drop(&mut self) {
        if !self.keep {
            // If this fails, the next open or compaction removes it.
            let _ = self.shared.live.storage.remove_file(&self.temporary);
        }
    }
}

const ROUNDS_MAX: usize = 8;
/// What the writing end may be held for: less than a millisecond's work.
const LAST_ROUND_LEN: u64 = 64 << 10;
/// Long enough that a frame's own bytes do not count, short enough to stay in the processor's cache.
pub(crate) const PACK_LEN: usize = 48 << 10;

/// Operations that will be one frame.
#[derive(Default)]
pub(crate) struct Pack {
    operations: Vec<Packed>,
    /// Their keys and values.
    pub(crate) bytes: Zeroizing<Vec<u8>>,
}

struct Packed {
    action: Action,
    bucket: Bucket,
    key_at: usize,
    value_at: usize,
    end: usize,
}

impl Pack {
    /// `append_value` appends the value of a put.
    pub(crate) fn add(
        &mut self,
        operation: &Operation<'_>,
        append_value: impl FnOnce(&mut Vec<u8>) -> Result<()>,
    ) -> Result<()> {
        let Operation { action, bucket, key } = *operation;
        let key_at = self.bytes.len();
        self.bytes.extend_from_slice(key);
        let value_at = self.bytes.len();
        append_value(&mut self.bytes)?;
        self.operations.push(Packed { action, bucket, key_at, value_at, end: self.bytes.len() });
        Ok(())
    }

    pub(crate) fn changes(&self) -> Vec<Change<'_>> {
        let changes = self.operations.iter().map(|&Packed { action, bucket, key_at, value_at, end }| Change {
            operation: Operation { action, bucket, key: &self.bytes[key_at..value_at] },
            value: [&self.bytes[value_at..end], &[]],
        });
        changes.collect()
    }

    pub(crate) fn clear(&mut self) {
        self.operations.clear();
        self.bytes.clear();
    }
}
