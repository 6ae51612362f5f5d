//! Copying what is live into a new log file, beside running writers: compaction, new keys, backups.
//!
//! Implements *Compaction* of FORMAT.md. The old log is read frame by frame, and what is still live is packed into a new
//! file under a new salt. What was written meanwhile is caught up with in rounds, each synced and read back; only the
//! last and smallest one holds the writing end. Nothing of the old log is touched: until the rename, a failure costs
//! the new file and nothing else.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use copier::Copy;

use crate::index::Index;
use crate::store::shared::{Live, Writing, lock};
use crate::log::writer::{GiveBack, Log, Values};
use crate::log::builder::{self, NewLog};
use crate::read::{CompactionStats, Reader, View};
use crate::storage;
use crate::{AgentKey, Error, Result, events};
use crate::log::writer::recovery;

mod copier;

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
    /// Up to where the copy that is being made was read back.
    checked: AtomicU64,
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
            checked: AtomicU64::new(0),
            record: Mutex::default(),
        };
        Compactor { shared: Arc::new(shared), thread: Mutex::new(None) }
    }

    pub(crate) fn stats(&self) -> CompactionStats {
        self.shared.record().stats.clone()
    }

    pub(crate) fn checked(&self) -> u64 {
        self.shared.checked.load(Ordering::Relaxed)
    }

    /// Starts a thread if a compaction is due, none is running, and the last failure is long enough ago.
    pub(crate) fn start_if_due(&self) {
        let shared = &self.shared;
        if !shared.live.compaction_is_due() || shared.running.swap(true, Ordering::AcqRel) {
            return;
        }
        if shared.is_pausing() {
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

    /// For a store that is being closed: ends what runs, and compacts a log of which next to nothing is live.
    pub(crate) fn finish(&self) {
        self.stop();
        let shared = &self.shared;
        if shared.live.compaction_is_due_at_close() && !shared.is_pausing() {
            shared.stopping.store(false, Ordering::Release);
            // Where it fails, the log is closed as it is.
            let _ = shared.run(&lock(&shared.key), GiveBack::AllButTheReserve);
            shared.stopping.store(true, Ordering::Release);
        }
    }

    /// Ends a compaction that runs on its own thread, and waits for the thread to be gone.
    fn stop(&self) {
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
        let done = match self.replace_log(key) {
            Err(full @ Error::Full { .. }) => self.run_with_less_ahead(key, give_back, full),
            done => done,
        };
        if !self.stopping.load(Ordering::Acquire) {
            self.note(&done);
        }
        done
    }

    /// Gives space ahead back to the full disk, and tries again. It stays `full` where there is none to give.
    fn run_with_less_ahead(&self, key: &AgentKey, give_back: GiveBack, full: Error) -> Result<CompactionReport> {
        if !self.live.write()?.log.give_back(give_back)? {
            return Err(full);
        }
        let done = self.replace_log(key);
        if let Ok(mut writing) = self.live.write() {
            writing.log.take_reserve_again();
        }
        done
    }

    /// Makes the next generation and puts it in the place of this one.
    fn replace_log(&self, key: &AgentKey) -> Result<CompactionReport> {
        let begun = Instant::now();
        drop(self.live.write()?);
        let mut copy = self.begin_next_generation(key)?;
        copy.catch_up()?;
        let writing = self.live.write()?;
        let bytes_before = writing.log.tip().end;
        let file_len = copy.finish(writing.log.tip())?;
        self.put_in_place(&mut copy, &writing)?;
        let report = CompactionReport {
            generation: copy.new.header.id.generation,
            bytes_before,
            bytes_after: copy.new.log.tip().end,
            took: begun.elapsed(),
        };
        self.go_on_in(&mut copy, writing, file_len);
        Ok(report)
    }

    fn begin_next_generation(&self, key: &AgentKey) -> Result<Copy<'_>> {
        let Live { path, storage, .. } = &*self.live;
        recovery::remove_leftovers(&**storage, path)?;
        let generation = self.live.header().id.generation + 1;
        let copy = Copy::create(self, path, generation, key)?;
        storage
            .copy_owner_and_mode(path, copy.new.temporary())
            .map_err(|source| Error::io("keep the owner and mode of", path, source))?;
        Ok(copy)
    }

    /// Gives the new file the old one's name, durably.
    fn put_in_place(&self, copy: &mut Copy<'_>, writing: &Writing<'_>) -> Result<()> {
        let Live { path, storage, .. } = &*self.live;
        let (same, _) = self.live.look(|index| copy.new.index.holds_as_much_as(index));
        if !same {
            let what = "the compacted log does not hold what the old one does; please report this";
            return Err(Error::corrupt(path, 0, what));
        }
        if writing.log.commit().has_failed() {
            return Err(Error::Failed { path: path.clone() });
        }
        storage
            .rename(copy.new.temporary(), path)
            .map_err(storage::full_or_io("put the compacted log in the place of", path))?;
        copy.new.keep();
        // Nobody knows which of the two files a power cut would leave under the name.
        recovery::sync_folder(&**storage, path)
            .inspect_err(|_| writing.log.commit().fail(&std::io::ErrorKind::Other.into()))
    }

    fn go_on_in(&self, copy: &mut Copy<'_>, writing: Writing<'_>, file_len: u64) {
        let NewLog { log, file, header, index, .. } = &mut copy.new;
        let mut index = std::mem::replace(index, Index::new(self.live.order));
        // A batch that was peeked before names its events by their ordinals.
        self.live.look(|old| index.count_ordinals_on_from(old));
        let values = Arc::new(Values::new(Arc::clone(file), self.live.mmap));
        let view = View { header: *header, index, values };
        let log = Log::new(Arc::clone(file), Arc::clone(&self.live.storage), log.tip(), file_len, true);
        drop(writing.switch(log, view));
    }

    /// Makes a copy of this generation under another name.
    fn backup(&self, path: &Path, key: &AgentKey) -> Result<()> {
        drop(self.live.write()?);
        let target = new_log::free_target(&*self.live.storage, &self.live.path, path)?;
        let mut copy = Copy::create(self, &target, self.live.header().id.generation, key)?;
        copy.catch_up()?;
        // Held to the end: what is replaced behind the tip meanwhile would be left out with nothing in its place.
        let writing = self.live.write()?;
        copy.finish(writing.log.tip())?;
        drop(writing);
        copy.new.name(&target, "name the backup")
    }

    /// An error when the store is being closed.
    fn keep_going(&self) -> Result<()> {
        if self.stopping.load(Ordering::Acquire) {
            return Err(Error::Failed { path: self.live.path.clone() });
        }
        Ok(())
    }

    /// The same, and notes for whoever watches how far the copy was read back.
    fn keep_going_at(&self, checked: u64) -> Result<()> {
        self.checked.store(checked, Ordering::Relaxed);
        self.keep_going()
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

    /// Whether the last failure was too short a time ago.
    fn is_pausing(&self) -> bool {
        self.record().pause.is_some_and(|(until, _)| Instant::now() < until)
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        lock(&self.record)
    }
}
