//! Keeps the index file up to date while the store is in use, so that the next open need not read every frame.
//!
//! A run of the index file says what some frames of the log have changed. It is due after a megabyte of frames,
//! and `close` and a compaction write one if enough frames are new. A durable call that finds one due starts a
//! thread for it, which ends when the run is written. No other call than `close` waits while a run is sealed or
//! written.
//!
//! There are two kinds of runs:
//!
//! - One that continues the file: the puts of the new frames, which are read again from the log, and the keys that
//!   the index has noted as removed.
//! - One that begins the file anew: all live keys, copied from the index a few at a time. Writers go on meanwhile,
//!   so some keys may be in the state of a later frame. That does no harm, as a replay of the frames since the
//!   beginning leads to the same state; but it must reach the frame at which the copy ended.
//!
//! A run is written only after a sync has covered its frames, else it could say more than the log. If a run cannot
//! be written, the file is removed, and there is none until the next compaction or open: it only saves time. On a
//! full disk it is removed before anything else.
//!
//! Implements *Appendix: the index file* of FORMAT.md. `log/index_writer.rs` writes the bytes.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::background::Background;
use super::shared::{Shared, lock, superseded};
use crate::crypto::keys::GenerationId;
use crate::format::bucket::Bucket;
use crate::format::header::FIRST_FRAME_AT;
use crate::format::location::{Location, ValueCursor};
use crate::format::position::LogPosition;
use crate::index::file::RunEnd;
use crate::index::{Index, Key, QueueOrder};
use crate::log::commits::Pending;
use crate::log::file::LogFile;
use crate::log::index_file::{self, Runs};
use crate::log::index_writer::RunWriter;
use crate::log::scan;
use crate::settings::IndexPolicy;
use crate::storage::paths;
use crate::{Error, Result, events};

/// What the threads of a store share about the index file.
pub(crate) struct IndexState {
    policy: IndexPolicy,
    /// Where the log must end for the next run to be due.
    due_at: AtomicU64,
    is_due: AtomicBool,
    /// The runs in the file. Locked while a run is written, so that only one is.
    known: Mutex<Option<Known>>,
}

/// The runs of a generation's index file.
struct Known {
    id: GenerationId,
    runs: Runs,
}

impl IndexState {
    /// `runs` are those by which the log `id` was opened.
    pub(crate) fn new(policy: IndexPolicy, id: GenerationId, runs: Option<Runs>) -> Self {
        let indexed_end = runs.as_ref().map_or(FIRST_FRAME_AT as u64, Runs::indexed_end);
        IndexState {
            policy,
            due_at: AtomicU64::new(indexed_end + policy.run_len),
            is_due: AtomicBool::new(false),
            known: Mutex::new(runs.map(|runs| Known { id, runs })),
        }
    }

    /// Notes that the log has grown. The caller holds the write lock.
    pub(crate) fn note_tip(&self, tip: LogPosition) {
        if tip.end >= self.due_at.load(Ordering::Relaxed) {
            self.is_due.store(true, Ordering::Relaxed);
        }
    }

    /// The next run is due after so many bytes more. The caller holds the write lock.
    pub(crate) fn set_indexed(&self, end: u64) {
        self.is_due.store(false, Ordering::Relaxed);
        self.due_at.store(end.saturating_add(self.policy.run_len), Ordering::Relaxed);
    }

    /// Writes no more runs of this log: the disk is full, or another file is in the way.
    pub(crate) fn stop(&self) {
        self.is_due.store(false, Ordering::Relaxed);
        self.due_at.store(u64::MAX, Ordering::Relaxed);
    }

    fn is_stopped(&self) -> bool {
        self.due_at.load(Ordering::Relaxed) == u64::MAX
    }
}

/// Starts the threads that write runs.
pub(crate) struct Indexer {
    shared: Arc<Shared>,
    thread: Background,
}

impl Indexer {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Indexer { shared, thread: Background::default() }
    }

    /// Starts a thread if a run is due and none is being written. The caller holds no lock.
    pub(crate) fn start_if_due(&self) {
        let IndexState { is_due, policy, .. } = &self.shared.index;
        if !is_due.load(Ordering::Relaxed) {
            return;
        }
        let run_len = policy.run_len;
        let shared = Arc::clone(&self.shared);
        let is_open = || !self.shared.is_closed();
        let write = move || write_run_and_tell(&shared, run_len);
        if !policy.on_thread {
            self.thread.run_here(write);
        } else if self.thread.start("state-index", is_open, write).is_err() {
            // The next open takes longer.
            self.shared.index.stop();
        }
    }

    /// Waits for the run that is being written.
    pub(crate) fn wait(&self) {
        self.thread.wait();
    }

    /// Writes the last run of a log that has been closed, if there is enough to say.
    pub(crate) fn finish(&self) {
        self.wait();
        write_run_and_tell(&self.shared, self.shared.index.policy.worth_len);
    }
}

/// Writes the first run of a log that has just replaced another one, and removes the index file of that one.
///
/// # Errors
/// As [`write_run`].
pub(crate) fn begin_anew(shared: &Shared) -> Result<()> {
    let worth_len = shared.index.policy.worth_len;
    if !write_run(shared, worth_len)? {
        let known = lock(&shared.index.known);
        if known.is_none()
            && let Ok(guard) = shared.write_though_closed()
        {
            index_file::remove(&*shared.storage, &shared.path, guard.log.file_id());
        }
    }
    Ok(())
}

/// Writes the next run, if the log has `worth_len` more bytes of frames than the index file knows. Returns whether
/// it has.
///
/// # Errors
/// Why there is no index file now, for an event. The caller emits it once it holds no lock.
fn write_run(shared: &Shared, worth_len: u64) -> Result<bool> {
    let mut known = lock(&shared.index.known);
    let Some(job) = Job::begin(shared, &mut known, worth_len) else { return Ok(false) };
    let (id, log) = (job.log.id, job.log.file.id());
    match job.write(shared) {
        Ok(runs) => *known = Some(Known { id, runs }),
        // The name may mean another store's file by now.
        Err(Error::Replaced { .. }) => {}
        Err(error) => {
            index_file::remove(&*shared.storage, &shared.path, log);
            let was_removed = matches!(&error, Error::Io { source, .. } if source.kind() == ErrorKind::NotFound);
            if !was_removed {
                shared.index.stop();
            }
            return Err(error);
        }
    }
    Ok(true)
}

fn write_run_and_tell(shared: &Shared, worth_len: u64) {
    if let Err(error) = write_run(shared, worth_len) {
        events::index_failed(&shared.path, &error);
    }
}

/// A run that is to be written.
struct Job {
    log: Arc<LogFile>,
    /// Before the first frame of the log.
    first: LogPosition,
    /// The end of the last frame that the run has, and before that frame.
    to: LogPosition,
    before: LogPosition,
    values: u64,
    next_ordinal: u64,
    /// A sync that covers the frames.
    pending: Pending,
    kind: Kind,
}

enum Kind {
    /// Continues these runs. The keys are those that were removed since.
    Continuing(Runs, Vec<(Bucket, Key)>),
    /// Begins a new file.
    Whole,
}

impl Job {
    /// Fixes what the run has: everything up to now. Takes the runs that it continues out of `known`.
    fn begin(shared: &Shared, known: &mut Option<Known>, worth_len: u64) -> Option<Self> {
        let guard = shared.write_though_closed().ok()?;
        let state = &shared.index;
        let log = Arc::clone(guard.log.file());
        if known.as_ref().is_some_and(|known| known.id != log.id) {
            *known = None;
        }
        let (to, before) = (guard.log.tip(), guard.log.before_tip()?);
        let indexed_end = known.as_ref().map_or(FIRST_FRAME_AT as u64, |known| known.runs.indexed_end());
        let new_len = to.end - indexed_end;
        if state.is_stopped() || new_len < worth_len.max(1) {
            return None;
        }
        let first = LogPosition::first(&shared.header().authenticator);
        let (values, pending) = (guard.log.size().values, guard.log.pending());
        let (removed, next_ordinal, live_count) = guard
            .change_index(|index| (index.note_removed_since(to.seq), index.ordinals_end(), index.live_count()));
        let runs = known.take().map(|known| known.runs);
        let runs = runs.filter(|runs| {
            let len_max = LEN_MIN + 2 * runs.first_len.max(ENTRY_LEN * live_count as u64);
            runs.are_whole_file && runs.len <= len_max && new_len <= CONTINUING_LEN_MAX
        });
        let removed = removed.and_then(|removed| removed.into_keys());
        let kind = match runs.zip(removed) {
            Some((runs, removed)) => Kind::Continuing(runs, removed),
            None => {
                // Until the copy is complete, it may have any key.
                guard.change_index(|index| index.set_last_seq_of_runs(u64::MAX));
                Kind::Whole
            }
        };
        state.set_indexed(to.end);
        Some(Job { log, first, to, before, values, next_ordinal, pending, kind })
    }

    fn write(self, shared: &Shared) -> Result<Runs> {
        let Job { log, first, to, before, values, next_ordinal, pending, kind } = self;
        let write_error = log.io("write the index file of");
        match kind {
            Kind::Continuing(runs, removed) => {
                pending.wait()?;
                let from = runs.ends.last().copied().unwrap_or(first);
                let entries = entries_between(&log, from, to, removed)?;
                check_place(shared, &log)?;
                let mut run = RunWriter::append(&*shared.storage, &log, runs, &to).map_err(&write_error)?;
                for ((bucket, key), location) in &entries {
                    run.add(*bucket, key, location.as_ref()).map_err(&write_error)?;
                }
                let end = RunEnd { to, before_until: before, until: to, values, next_ordinal };
                run.finish(&end).map_err(&write_error)
            }
            Kind::Whole => {
                check_place(shared, &log)?;
                let mut run = RunWriter::create(&*shared.storage, &log, &first, &to).map_err(&write_error)?;
                shared.each_key(&log.id, |bucket, key, location| {
                    run.add(bucket, key, Some(location)).map_err(&write_error)
                })?;
                let (before_until, until, next_ordinal, pending) = end_of_copy(shared, &log)?;
                pending.wait()?;
                check_place(shared, &log)?;
                let end = RunEnd { to, before_until, until, values, next_ordinal };
                run.finish(&end).map_err(&write_error)
            }
        }
    }
}

type Entries = BTreeMap<(Bucket, Key), Option<Location>>;

/// What the frames between two positions have changed. `removed` are the keys from before that they have removed
/// or put anew.
fn entries_between(
    log: &LogFile,
    from: LogPosition,
    to: LogPosition,
    removed: Vec<(Bucket, Key)>,
) -> Result<Entries> {
    let mut index = Index::new(QueueOrder::RunId);
    scan::each_frame(log, from, to, |frame| {
        let operations = frame.manifest.iter().flat_map(|manifest| manifest.operations());
        index.stage(operations, ValueCursor::new(frame.offset, &frame.header));
        Ok(())
    })?;
    index.merge_staged();
    let mut entries: Entries = removed.into_iter().map(|key| (key, None)).collect();
    for bucket in Bucket::ALL {
        entries.extend(index.iter(bucket).map(|(key, location)| ((bucket, key.into()), Some(location))));
    }
    Ok(entries)
}

/// Fixes which frames the copied keys may come from: where the log ends now.
fn end_of_copy(shared: &Shared, log: &LogFile) -> Result<(LogPosition, LogPosition, u64, Pending)> {
    let guard = shared.write_though_closed()?;
    let (until, before) = (guard.log.tip(), guard.log.before_tip());
    let before = before.filter(|_| guard.log.file().id == log.id).ok_or_else(|| superseded(&log.path))?;
    let next_ordinal = guard.change_index(|index| {
        index.set_last_seq_of_runs(until.seq);
        index.ordinals_end()
    });
    Ok((before, until, next_ordinal, guard.log.pending()))
}

/// Fails if the path means another file by now: its index file is not to be replaced.
fn check_place(shared: &Shared, log: &LogFile) -> Result<()> {
    let found = paths::id_at(&*shared.storage, &shared.path)?;
    if found == Some(log.file.id()) { Ok(()) } else { Err(superseded(&log.path)) }
}

/// About the length of an entry, with a run id as long as a UUID.
const ENTRY_LEN: u64 = 64;
/// A file is written anew when it is longer than this, and about twice as long as it would be then.
const LEN_MIN: u64 = 64 << 10;
/// The frames of a continuing run are collected in memory. If there are more, the file is written anew.
const CONTINUING_LEN_MAX: u64 = 32 << 20;
