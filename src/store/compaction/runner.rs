//! Runs one compaction, rekey or backup on the calling thread, and remembers how it ended.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::copier::Copier;
use super::progress::Progress;
use crate::format::bucket::Bucket;
use crate::format::location::Location;
use crate::format::record::is_drop_count;
use crate::index::{Index, Key};
use crate::log::builder::{self, LogBuilder};
use crate::log::group_commit::Failure;
use crate::log::index_file;
use crate::log::left_over::{self, Unfinished};
use crate::log::reserve::Release;
use crate::log::values::Values;
use crate::log::{place, quarantine};
use crate::read::Reader;
use crate::report::MOUNTED;
use crate::storage::{self, paths};
use crate::store::indexer;
use crate::store::shared::{Shared, View, WriteGuard, lock};
use crate::{
    AgentKey, CompactionFailure, CompactionReport, CompactionStats, Error, LostKey, OnDamage, Result, events,
};

pub(super) struct Runner {
    pub(super) shared: Arc<Shared>,
    /// The agent key of the store. Locked for as long as a copy runs, so that only one runs at a time.
    pub(super) key: Mutex<AgentKey>,
    pub(super) progress: Progress,
    history: Mutex<History>,
}

/// How compactions have ended so far.
#[derive(Default)]
struct History {
    stats: CompactionStats,
    /// After a failure: when the next automatic compaction may start, and how long the wait was.
    backoff: Option<(Instant, Duration)>,
    /// Where the last compaction has kept a log that was in its way, until the event is emitted.
    kept: Option<PathBuf>,
    /// Why the new log could not be marked, until the event is emitted.
    mark_error: Option<Error>,
    /// Why the new log has no index file, until the event is emitted.
    index_error: Option<Error>,
}

impl Runner {
    pub(super) fn new(shared: Arc<Shared>, key: AgentKey) -> Self {
        Runner { shared, key: Mutex::new(key), progress: Progress::default(), history: Mutex::default() }
    }

    pub(super) fn stats(&self) -> CompactionStats {
        let unavailable = self.shared.is_mounted.then_some(MOUNTED);
        CompactionStats { unavailable, ..self.history().stats.clone() }
    }

    pub(super) fn run_automatic(&self) {
        let done = {
            let key = lock(&self.key);
            // Checked again: another compaction may have run while this one waited for the key.
            let is_wanted = self.shared.compaction_is_due() && !self.progress.is_stopping();
            is_wanted.then(|| self.run(&key, Release::AllButRemovals, self.shared.on_damage))
        };
        done.iter().for_each(|done| self.note(done));
    }

    /// Compacts the log, into a new one under `key`. On return the new log is durable. The caller has locked the
    /// key, and notes the result once it has unlocked it.
    pub(super) fn run(&self, key: &AgentKey, release: Release, on_damage: OnDamage) -> Result<CompactionReport> {
        let done = match self.replace_log(key, on_damage) {
            Err(Error::Full { .. }) if self.give_back(release)? => self.replace_log(key, on_damage),
            done => done,
        };
        if let Ok(mut guard) = self.shared.write() {
            // The new log may have found no space for it while the old one was there.
            guard.log.take_reserve();
        }
        if done.is_ok() {
            self.history().index_error = indexer::begin_anew(&self.shared).err();
        }
        done
    }

    /// Gives the index file and preallocated space back to the full disk. Returns whether there was any. Fails if
    /// the path means another file by now: there is nothing to compact in that place.
    fn give_back(&self, release: Release) -> Result<bool> {
        let mut guard = self.shared.write()?;
        guard.log.check_place()?;
        let log = guard.log.file_id();
        let was_removed = index_file::remove(&*self.shared.storage, &self.shared.path, log);
        Ok(guard.log.release(release)? || was_removed)
    }

    /// Writes the next generation and replaces the log with it.
    fn replace_log(&self, key: &AgentKey, on_damage: OnDamage) -> Result<CompactionReport> {
        let started = Instant::now();
        self.progress.check_not_stopping(&self.shared.path)?;
        self.check_room()?;
        let mut copier = self.begin_next_generation(key, on_damage)?;
        copier.catch_up()?;
        let guard = self.shared.write()?;
        let bytes_before = guard.log.tip().end;
        let (reserve, _) = self.shared.with_index(|index| self.shared.reserve(index));
        copier.new.set_reserve(reserve);
        copier.finish(guard.log.tip())?;
        let left_out = copier.left_out();
        let damaged = self.rename_over_log(&mut copier, &guard, &left_out)?;
        let report = CompactionReport {
            generation: copier.new.header.id.generation,
            bytes_before,
            bytes_after: copier.new.log.tip().end,
            left_out: left_out.iter().map(|(bucket, key, _)| LostKey::new(*bucket, key)).collect(),
            damaged,
            took: started.elapsed(),
        };
        self.switch_to(&mut copier, guard);
        Ok(report)
    }

    /// Fails if the store has failed, or if the disk has less space than the new log will take: others would run
    /// out of space while it is written in vain.
    fn check_room(&self) -> Result<()> {
        let free = self.shared.write()?.log.file().file.free_space();
        let (needed, _) = self.shared.with_index(|index| index.live_bytes() + self.shared.reserve(index).acks());
        if free.is_some_and(|free| free.free < needed) {
            return Err(storage::full_or_io("compact", &self.shared.path)(ErrorKind::StorageFull.into()));
        }
        Ok(())
    }

    fn begin_next_generation(&self, key: &AgentKey, on_damage: OnDamage) -> Result<Copier<'_>> {
        let Shared { path, storage, .. } = &*self.shared;
        if self.shared.is_mounted {
            return Err(builder::mounted_by_itself(path));
        }
        let id = self.shared.header().id;
        if let Some(kept) = left_over::clear_silently(&**storage, path, Unfinished::NextGeneration(&id))? {
            self.history().kept = Some(kept);
        }
        let mut copier = Copier::create(&self.shared, &self.progress, path, id.generation + 1, key)?;
        if on_damage == OnDamage::SetAside {
            copier.leave_out_damaged();
        }
        let attributes = self.shared.write()?.log.attributes()?;
        copier.new.set_attributes(&attributes)?;
        Ok(copier)
    }

    /// Renames the new file over the log, durably. If keys were left out, keeps the old log and returns its name.
    fn rename_over_log(
        &self,
        copier: &mut Copier<'_>,
        guard: &WriteGuard<'_>,
        left_out: &[(Bucket, Key, Location)],
    ) -> Result<Option<PathBuf>> {
        let path = &self.shared.path;
        let (same_size, _) = self.shared.with_index(|index| copier.new.index.is_same_size_as(index, left_out));
        if !same_size {
            let what = "the compacted log does not match the old one; this is a bug, please report it";
            return Err(Error::corrupt(path, 0, what));
        }
        guard.log.check_not_failed()?;
        // For a count of dropped events alone, the old log is not worth keeping.
        let damaged = match left_out.iter().all(|(bucket, key, _)| is_drop_count(*bucket, key)) {
            true => None,
            false => Some(quarantine::quarantine_damaged(&*self.shared.storage, path, &*guard.log.file().file)?),
        };
        let group_commit = guard.log.group_commit();
        // From here on, a thread that syncs may find the old log without a name.
        group_commit.set_replacing(true);
        let operation = "replace the log with the compacted one at";
        let renamed = copier.new.rename_over(path, guard.log.file_id(), operation);
        let folder = renamed.inspect_err(|error| {
            if matches!(error, Error::Replaced { .. }) {
                group_commit.fail(Failure::Replaced);
            }
            group_commit.set_replacing(false);
        })?;
        // Guards against a power cut that brings the old log back after calls on the new one were acknowledged. If
        // the sync fails, a power cut could leave either of the two files at the path, so writing ends.
        paths::sync(&*folder, path).inspect_err(|_| group_commit.fail(&std::io::ErrorKind::Other.into()))?;
        Ok(damaged)
    }

    fn switch_to(&self, copier: &mut Copier<'_>, guard: WriteGuard<'_>) {
        let log = copier.new.continuing_writer(&guard.log);
        let (commits, tip) = (Arc::clone(log.commits()), log.tip());
        let LogBuilder { file, header, index, .. } = &mut copier.new;
        let mut index = std::mem::replace(index, Index::new(self.shared.queue_order));
        // A batch that was peeked before the compaction names its events by their ordinals, so none may be reused.
        self.shared.with_index(|old| index.continue_ordinals_from(old.ordinals_end()));
        let values = Arc::new(Values::new(Arc::clone(file), self.shared.mmap));
        let view = View { header: *header, index, values };
        drop(guard.switch(log, view));
        // The folder is synced, so the log may look clean. A failure ends writing to the new log, but does not
        // undo the compaction or the change of key.
        self.history().mark_error = commits.write_mark(tip).err();
    }

    /// Copies the live records into a new file at `path`, with the generation of the store.
    pub(super) fn backup(&self, path: &Path, key: &AgentKey) -> Result<()> {
        self.progress.check_not_stopping(&self.shared.path)?;
        // A store that has failed is not backed up.
        drop(self.shared.write()?);
        let target = place::free_target(&*self.shared.storage, path)?;
        let id = self.shared.header().id;
        left_over::clear(&*self.shared.storage, &target, Unfinished::Copy(&id))?;
        let mut copier = Copier::create(&self.shared, &self.progress, &target, id.generation, key)?;
        copier.new.take_owner_of(&*self.shared.write()?.log.file().file);
        copier.catch_up()?;
        // Held until the copy is complete: a value that is replaced meanwhile would be missing from the backup,
        // since the old put is skipped as dead, and the new one is after the tip.
        let guard = self.shared.write()?;
        copier.finish(guard.log.tip())?;
        drop(guard);
        copier.new.name(&target, "create the backup")
    }

    /// Emits the events of a compaction, and records how it ended unless closing the store has stopped it. One
    /// that has renamed its file succeeds also while the store is closed. The caller holds no lock.
    pub(super) fn note(&self, done: &Result<CompactionReport>) {
        self.tell_incidents();
        if done.is_ok() || !self.progress.is_stopping() {
            self.tell_end(done);
        }
    }

    /// Like [`note`](Self::note), for the compaction of a store that is being closed.
    pub(super) fn note_last(&self, done: &Result<CompactionReport>) {
        self.tell_incidents();
        self.tell_end(done);
    }

    fn tell_incidents(&self) {
        let (kept, mark_error, index_error) = {
            let mut history = self.history();
            (history.kept.take(), history.mark_error.take(), history.index_error.take())
        };
        if let Some(kept) = kept {
            events::left_over_kept(&self.shared.path, &kept);
        }
        if let Some(error) = mark_error {
            events::failed(&self.shared.path, &error, true);
        }
        if let Some(error) = index_error {
            events::index_failed(&self.shared.path, &error);
        }
    }

    /// Each failure in a row doubles the wait before the next automatic compaction.
    fn tell_end(&self, done: &Result<CompactionReport>) {
        self.record(done);
        match done {
            Ok(report) => events::compacted(&self.shared.path, report),
            Err(error) => events::compaction_failed(&self.shared.path, error),
        }
    }

    fn record(&self, done: &Result<CompactionReport>) {
        let mut history = self.history();
        match done {
            Ok(report) => {
                history.stats.completed += 1;
                history.stats.bytes_written += report.bytes_after;
                history.stats.left_out.extend_from_slice(&report.left_out);
                history.stats.damaged = report.damaged.clone().or(history.stats.damaged.take());
                history.stats.last_error = None;
                history.backoff = None;
            }
            Err(error) => {
                history.stats.failed += 1;
                let (kind, message) = (error.kind(), error.with_source().to_string());
                history.stats.last_error = Some(CompactionFailure { kind, message });
                let wait = history.backoff.map_or(BACKOFF_MIN, |(_, wait)| (wait * 2).min(BACKOFF_MAX));
                history.backoff = Some((Instant::now() + wait, wait));
            }
        }
    }

    /// Whether an automatic compaction may start.
    pub(super) fn may_start(&self) -> bool {
        !self.progress.is_stopping() && !self.is_backing_off()
    }

    /// Whether the last compaction failed so recently that no automatic one may start.
    pub(super) fn is_backing_off(&self) -> bool {
        self.history().backoff.is_some_and(|(until, _)| Instant::now() < until)
    }

    fn history(&self) -> MutexGuard<'_, History> {
        lock(&self.history)
    }
}

const BACKOFF_MIN: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(3600);
