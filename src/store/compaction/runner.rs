//! Runs one compaction, rekey or backup at a time, on whichever thread calls it.

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::copier::Copier;
use super::progress::Progress;
use crate::index::Index;
use crate::log::builder::LogBuilder;
use crate::log::values::Values;
use crate::log::writer::{LogWriter, Release};
use crate::read::Reader;
use crate::storage::{self, paths};
use crate::store::shared::{Shared, View, WriteGuard, lock};
use crate::{AgentKey, CompactionReport, CompactionStats, Error, Result, events};

pub(super) struct Runner {
    pub(super) shared: Arc<Shared>,
    /// The agent key in force. Whoever holds it is the only one to compact.
    pub(super) key: Mutex<AgentKey>,
    pub(super) running: AtomicBool,
    pub(super) progress: Progress,
    history: Mutex<History>,
}

/// How it went so far.
#[derive(Default)]
struct History {
    stats: CompactionStats,
    /// After a failure: not again before this moment, and twice as long after the next one.
    pause: Option<(Instant, Duration)>,
}

const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(3600);

impl Runner {
    pub(super) fn new(shared: Arc<Shared>, key: AgentKey) -> Self {
        Runner {
            shared,
            key: Mutex::new(key),
            running: AtomicBool::new(false),
            progress: Progress::default(),
            history: Mutex::default(),
        }
    }

    pub(super) fn stats(&self) -> CompactionStats {
        self.history().stats.clone()
    }

    pub(super) fn run_automatic(&self) {
        let key = lock(&self.key);
        if self.shared.compaction_is_due() && !self.progress.is_stopping() {
            let _ = self.run(&key, Release::AllButReserve);
        }
    }

    pub(super) fn run(&self, key: &AgentKey, release: Release) -> Result<CompactionReport> {
        let done = match self.replace_log(key) {
            Err(full @ Error::Full { .. }) => self.run_with_less_preallocated(key, release, full),
            done => done,
        };
        if !self.progress.is_stopping() {
            self.note(&done);
        }
        done
    }

    /// Gives space ahead back to the full disk, and tries again. It stays `full` where there is none to give.
    fn run_with_less_preallocated(
        &self,
        key: &AgentKey,
        release: Release,
        full: Error,
    ) -> Result<CompactionReport> {
        if !self.shared.write()?.log.release(release)? {
            return Err(full);
        }
        let done = self.replace_log(key);
        if let Ok(mut guard) = self.shared.write() {
            guard.log.retake_reserve();
        }
        done
    }

    /// Makes the next generation and puts it in the place of this one.
    fn replace_log(&self, key: &AgentKey) -> Result<CompactionReport> {
        let started = Instant::now();
        drop(self.shared.write()?);
        let mut copy = self.begin_next_generation(key)?;
        copy.catch_up()?;
        let guard = self.shared.write()?;
        let bytes_before = guard.log.tip().end;
        let file_len = copy.finish(guard.log.tip())?;
        self.put_in_place(&mut copy, &guard)?;
        let report = CompactionReport {
            generation: copy.new.header.id.generation,
            bytes_before,
            bytes_after: copy.new.log.tip().end,
            took: started.elapsed(),
        };
        self.switch_to(&mut copy, guard, file_len);
        Ok(report)
    }

    fn begin_next_generation(&self, key: &AgentKey) -> Result<Copier<'_>> {
        let Shared { path, storage, .. } = &*self.shared;
        paths::remove_leftovers(&**storage, path)?;
        let generation = self.shared.header().id.generation + 1;
        let copy = Copier::create(&self.shared, &self.progress, path, generation, key)?;
        storage
            .copy_owner_and_mode(path, copy.new.temporary())
            .map_err(|source| Error::io("keep the owner and mode of", path, source))?;
        Ok(copy)
    }

    /// Gives the new file the old one's name, durably.
    fn put_in_place(&self, copy: &mut Copier<'_>, guard: &WriteGuard<'_>) -> Result<()> {
        let Shared { path, storage, .. } = &*self.shared;
        let (same, _) = self.shared.with_index(|index| copy.new.index.is_same_size_as(index));
        if !same {
            let what = "the compacted log does not hold what the old one does; please report this";
            return Err(Error::corrupt(path, 0, what));
        }
        if guard.log.group_commit().has_failed() {
            return Err(Error::Failed { path: path.clone() });
        }
        storage
            .rename(copy.new.temporary(), path)
            .map_err(storage::full_or_io("put the compacted log in the location of", path))?;
        copy.new.keep();
        // Nobody knows which of the two files a power cut would leave under the name.
        paths::sync_folder(&**storage, path)
            .inspect_err(|_| guard.log.group_commit().fail(&std::io::ErrorKind::Other.into()))
    }

    fn switch_to(&self, copy: &mut Copier<'_>, guard: WriteGuard<'_>, file_len: u64) {
        let LogBuilder { log, file, header, index, .. } = &mut copy.new;
        let mut index = std::mem::replace(index, Index::new(self.shared.order));
        // A batch that was peeked before names its events by their ordinals.
        self.shared.with_index(|old| index.continue_ordinals_from(old));
        let values = Arc::new(Values::new(Arc::clone(file), self.shared.mmap));
        let view = View { header: *header, index, values };
        let log = LogWriter::new(Arc::clone(file), Arc::clone(&self.shared.storage), log.tip(), file_len, true);
        drop(guard.switch(log, view));
    }

    /// Makes a copy of this generation under another name.
    pub(super) fn backup(&self, path: &Path, key: &AgentKey) -> Result<()> {
        drop(self.shared.write()?);
        let target = paths::free_target(&*self.shared.storage, &self.shared.path, path)?;
        let mut copy =
            Copier::create(&self.shared, &self.progress, &target, self.shared.header().id.generation, key)?;
        copy.catch_up()?;
        // Held to the end: what is replaced behind the tip meanwhile would be left out with nothing in its place.
        let guard = self.shared.write()?;
        copy.finish(guard.log.tip())?;
        drop(guard);
        copy.new.name(&target, "name the backup")
    }

    pub(super) fn note(&self, done: &Result<CompactionReport>) {
        let mut history = self.history();
        match done {
            Ok(report) => {
                events::compacted(&self.shared.path, report);
                history.stats.completed += 1;
                history.stats.last_error = None;
                history.pause = None;
            }
            Err(error) => {
                events::compaction_failed(&self.shared.path, error);
                history.stats.failed += 1;
                history.stats.last_error = Some(error.to_string());
                let pause = history.pause.map_or(PAUSE_MIN, |(_, pause)| (pause * 2).min(PAUSE_MAX));
                history.pause = Some((Instant::now() + pause, pause));
            }
        }
    }

    /// Whether the last failure was too short a time ago.
    pub(super) fn is_pausing(&self) -> bool {
        self.history().pause.is_some_and(|(until, _)| Instant::now() < until)
    }

    fn history(&self) -> MutexGuard<'_, History> {
        lock(&self.history)
    }
}
