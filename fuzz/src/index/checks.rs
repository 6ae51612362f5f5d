//! Opens logs with an index file and without one, and compares what the two have found.

use std::path::Path;
use std::sync::Arc;

use backupy_state::testing::{open_snapshot_on, verify_on};
use backupy_state::{
    Anchor, Check, Config, Error, IndexFile, LogEvent, Opening, QueuedJob, RecoveryReport, Result, Session,
    Snapshot, Stats, Store,
};

use super::files::{Files, INDEX, State, image, options};
use crate::base::{FIRST_FRAME_AT, frames};
use crate::checks::{Verdict, is_same, verdict};
use crate::sim::world::Image;
use crate::sim::{Mode, Model, PATH, Sim, key};

/// Everything that can be read, with what cannot be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents {
    config: Read<Option<(u64, Vec<u8>)>>,
    /// In queue order.
    jobs: Vec<(String, Read<Vec<u8>>)>,
    session: Read<Option<(String, i64)>>,
    heartbeat: Read<Option<i64>>,
    log_count: u64,
    /// Up to the first one that cannot be read.
    logs: Read<Vec<(i64, Vec<u8>)>>,
    dropped: u64,
}

type Read<T> = std::result::Result<T, Unreadable>;

/// The value at this offset does not open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable(u64);

fn readable<T>(read: Result<T>) -> Read<T> {
    read.map_err(|error| match error {
        Error::Unauthentic { offset, .. } => Unreadable(offset),
        // At no offset, so it is never excused.
        _ => Unreadable(u64::MAX),
    })
}

/// Implemented by both readers, whose calls are the same.
pub trait Reader {
    fn load_config(&self) -> Result<Option<Config>>;
    fn jobs(&self, after: Option<&str>, n: usize) -> Result<Vec<QueuedJob>>;
    fn load_session(&self) -> Result<Option<Session>>;
    fn last_heartbeat(&self) -> Result<Option<i64>>;
    fn logs(&self) -> Result<Vec<LogEvent>>;
    fn stats(&self) -> Stats;

    fn contents(&self) -> Contents {
        let Stats { log_events: log_count, logs_dropped: dropped, .. } = self.stats();
        let events = |logs: Vec<LogEvent>| logs.into_iter().map(|event| (event.ts_ms, event.payload)).collect();
        Contents {
            config: readable(self.load_config()).map(|read| read.map(|config| (config.version, config.raw))),
            jobs: self.each_job(),
            session: readable(self.load_session())
                .map(|read| read.map(|session| (session.session_id, session.server_time_ms))),
            heartbeat: readable(self.last_heartbeat()),
            log_count,
            logs: readable(self.logs()).map(events),
            dropped,
        }
    }

    /// One after the other, so that one that cannot be read does not hide the others.
    fn each_job(&self) -> Vec<(String, Read<Vec<u8>>)> {
        let mut jobs: Vec<(String, Read<Vec<u8>>)> = Vec::new();
        while (jobs.len() as u64) < self.stats().jobs {
            let after = jobs.last().map(|(run_id, _)| run_id.as_str());
            match self.jobs(after, 1) {
                Ok(mut next) => match next.pop() {
                    Some(QueuedJob { run_id, payload, .. }) => jobs.push((run_id, Ok(payload))),
                    None => break,
                },
                Err(Error::Unauthentic { offset, run_id: Some(run_id), .. }) => {
                    jobs.push((run_id, Err(Unreadable(offset))));
                }
                Err(_) => break,
            }
        }
        jobs
    }
}

macro_rules! reader {
    ($reader:ty) => {
        impl Reader for $reader {
            fn load_config(&self) -> Result<Option<Config>> {
                self.load_config()
            }

            fn jobs(&self, after: Option<&str>, n: usize) -> Result<Vec<QueuedJob>> {
                after.map_or_else(|| self.dequeue_jobs(n), |after| self.dequeue_jobs_after(after, n))
            }

            fn load_session(&self) -> Result<Option<Session>> {
                self.load_session()
            }

            fn last_heartbeat(&self) -> Result<Option<i64>> {
                self.last_heartbeat()
            }

            fn logs(&self) -> Result<Vec<LogEvent>> {
                Ok(self.peek_logs(usize::MAX)?.events().to_vec())
            }

            fn stats(&self) -> Stats {
                self.stats()
            }
        }
    };
}

reader!(Store);
reader!(Snapshot);

impl Contents {
    /// As a snapshot shows them.
    pub fn by_run_id(mut self) -> Self {
        self.jobs.sort_by(|(a, _), (b, _)| a.cmp(b));
        self
    }

    /// Whether these are the contents of a state, but for values that cannot be read. `is_changed` says whether a
    /// value's frame was changed in the log.
    fn are_of(&self, model: &Model, is_fifo: bool, is_changed: &dyn Fn(u64) -> bool) -> bool {
        let mut jobs: Vec<_> = model.jobs.iter().collect();
        if !is_fifo {
            jobs.sort();
        }
        let is_job = |((run_id, payload), (expected_id, expected)): (&(String, _), &(String, _))| {
            run_id == expected_id && is(payload, expected, is_changed)
        };
        // What ends the list of events early is not reported, and neither is a count that cannot be read.
        let are_logs = match &self.logs {
            Ok(logs) => model.logs.starts_with(logs),
            Err(Unreadable(offset)) => is_changed(*offset),
        };
        self.jobs.len() == jobs.len()
            && self.jobs.iter().zip(jobs).all(is_job)
            && is(&self.config, &model.config, is_changed)
            && is(&self.session, &model.session, is_changed)
            && is(&self.heartbeat, &model.heartbeat, is_changed)
            && self.log_count == model.logs.len() as u64
            && are_logs
            && [0, model.dropped].contains(&self.dropped)
    }
}

fn is<T: PartialEq>(read: &Read<T>, expected: &T, is_changed: &dyn Fn(u64) -> bool) -> bool {
    read.as_ref().map_or_else(|Unreadable(offset)| is_changed(*offset), |found| found == expected)
}

/// What opening a log has found and done.
#[derive(Debug, PartialEq)]
pub struct View {
    anchor: Anchor,
    pub contents: Contents,
    stats: Stats,
    /// `None` for a snapshot.
    recovery: Option<RecoveryReport>,
    /// Without the index file.
    files: Vec<(String, Vec<u8>)>,
}

/// A log that was opened.
#[derive(Debug)]
pub struct Opened {
    pub view: View,
    /// Where the frames end that the index file has, if it was used.
    pub indexed_end: Option<u64>,
}

pub type Outcome = std::result::Result<Opened, Verdict>;

impl Opened {
    pub fn store(store: &Store, sim: &Sim) -> Self {
        let mut recovery = store.recovery().clone();
        (recovery.opening, recovery.took) = Default::default();
        (recovery.records, recovery.operations) = Default::default();
        Opened::new(store, store.anchor(), Some(recovery), sim)
    }

    fn snapshot(snapshot: &Snapshot, sim: &Sim) -> Self {
        Opened::new(snapshot, snapshot.anchor(), None, sim)
    }

    fn new(reader: &impl Reader, anchor: Anchor, recovery: Option<RecoveryReport>, sim: &Sim) -> Self {
        let mut stats = reader.stats();
        let Opening { by_index, replayed_bytes, .. } = std::mem::take(&mut stats.opening);
        let indexed_end = by_index.then(|| stats.log_len - replayed_bytes);
        let files = files_but_index(&sim.live());
        Opened { view: View { anchor, contents: reader.contents(), stats, recovery, files }, indexed_end }
    }

    fn is_fifo(&self) -> bool {
        self.view.recovery.is_some()
    }
}

fn files_but_index(image: &Image) -> Vec<(String, Vec<u8>)> {
    let others = image.iter().filter(|(path, _)| *path != Path::new(INDEX));
    others.map(|(path, file)| (path.display().to_string(), file.bytes())).collect()
}

pub fn open_store(sim: &Sim, check: Check, expected: Option<Anchor>) -> Result<Store> {
    let mut options = options(sim, Mode::Sync, check);
    if let Some(expected) = expected {
        options.expect_at_least(expected);
    }
    options.open(PATH, &key())
}

/// Opens the log by its index file and without it, and compares the two. They must agree, unless only the replay
/// has met damage: in frames that the index file has. Then `check_alone` checks what was opened by index.
///
/// Returns the store that was opened by index, and the one that was not if the two agree.
pub fn check_stores(
    log: &[u8],
    index: Option<&[u8]>,
    check_alone: impl Fn(&Opened, u64),
) -> Option<(Disk, Option<Disk>)> {
    let (by_index, a) = open(log, index, Check::Live);
    let (by_replay, b) = open(log, None, Check::Live);
    let (everything, _) = open(log, index, Check::Everything);
    assert!(compare(&everything, &by_replay, |_, _| panic!("with an index file that was not to be read")));
    let agree = compare(&by_index, &by_replay, check_alone);
    Some((a?, b.filter(|_| agree)))
}

/// A disk with a store that is open.
pub struct Disk {
    pub sim: Sim,
    pub store: Store,
}

fn open(log: &[u8], index: Option<&[u8]>, check: Check) -> (Outcome, Option<Disk>) {
    let image = image(log, index);
    let sim = Sim::on(&image, 4);
    match open_store(&sim, check, None) {
        Ok(store) => (Ok(Opened::store(&store, &sim)), Some(Disk { sim, store })),
        Err(error) => {
            assert!(is_same(&sim.live(), &image), "a refused open changed a file");
            (Err(verdict(&error)), None)
        }
    }
}

/// As [`check_stores`], for snapshots.
pub fn check_snapshots(log: &[u8], index: Option<&[u8]>, check_alone: impl Fn(&Opened, u64)) {
    let open = |index| {
        let image = image(log, index);
        let sim = Sim::on(&image, 4);
        let opened = open_snapshot_on(Arc::new(sim.clone()), PATH, &key());
        let outcome = opened.map(|snapshot| Opened::snapshot(&snapshot, &sim)).map_err(|error| verdict(&error));
        assert!(is_same(&sim.live(), &image), "a reader changed a file");
        outcome
    };
    compare(&open(index), &open(None), check_alone);
}

/// Returns whether they agree.
fn compare(by_index: &Outcome, by_replay: &Outcome, check_alone: impl FnOnce(&Opened, u64)) -> bool {
    match (by_index, by_replay) {
        (Ok(opened @ Opened { indexed_end: Some(end), .. }), by_replay) if stops_before(by_replay, *end) => {
            check_alone(opened, *end);
            false
        }
        (Ok(by_index), Ok(by_replay)) => {
            assert_eq!(by_index.view, by_replay.view, "by index, and by replay");
            true
        }
        (Err(by_index), Err(by_replay)) => {
            assert_eq!(by_index, by_replay, "by index, and by replay");
            true
        }
        (by_index, by_replay) => panic!("by index {by_index:#?}, and by replay {by_replay:#?}"),
    }
}

/// Whether a replay did not get past damage in the frames that end at `end`: it has refused the log, or taken the
/// damage for a torn tail.
fn stops_before(by_replay: &Outcome, end: u64) -> bool {
    match by_replay {
        Ok(opened) => opened.view.stats.log_len < end,
        Err(Verdict::Damaged(offset) | Verdict::Tampered(offset)) => (FIRST_FRAME_AT as u64..end).contains(offset),
        Err(_) => false,
    }
}

/// With an expected anchor, both ways to open a log have the same verdict. `alone` is the anchor of a log that
/// opens by its index file alone: it has the frames of the log that the store had, also where the replay finds
/// others.
pub fn check_anchor(files: &Files, log: &[u8], index: Option<&[u8]>, expected: Anchor, alone: Option<Anchor>) {
    let open = |index| {
        let opened = open_store(&Sim::on(&image(log, index), 4), Check::Live, Some(expected));
        opened.map(|store| store.anchor()).map_err(|error| verdict(&error))
    };
    let (by_index, by_replay) = (open(index), open(None));
    if by_index == by_replay {
        return;
    }
    let Some(alone) = alone else {
        panic!("expecting {expected}: by index {by_index:?}, and by replay {by_replay:?}");
    };
    let frames = &files.pair(files.states[&alone].log).anchors;
    let has_frame = expected.seq() <= alone.seq() && frames.contains(&expected);
    let is_satisfied = has_frame || expected.generation() < alone.generation();
    assert_eq!(by_index, if is_satisfied { Ok(alone) } else { Err(Verdict::Stale) }, "expecting {expected}");
}

/// `verify` reports the same with the index file and without it, and never that it differs from the log. Returns
/// what it reports about the index file, if it compares it: it does not if the log has a fault.
pub fn check_verify(log: &[u8], index: Option<&[u8]>) -> Option<IndexFile> {
    let verify = |index| {
        let image = image(log, index);
        let sim = Sim::on(&image, 4);
        let report = verify_on(&sim, PATH, Some(&key()), |_| {});
        assert!(is_same(&sim.live(), &image), "verify changed a file");
        report.map_err(|error| verdict(&error))
    };
    let (mut with, without) = (verify(index), verify(None));
    let mut found = None;
    if let (Ok(with), Ok(without)) = (&mut with, &without) {
        found = Some(std::mem::replace(&mut with.index, without.index));
    }
    assert_eq!(with, without, "with an index file, and without");
    assert_ne!(found, Some(IndexFile::Differs));
    found.filter(|found| *found != IndexFile::NotCompared)
}

/// Checks a log that opens by its index file alone: it has a state that the store had, and each value of it is
/// right, or cannot be read because its frame was changed. The frames are those up to `end`.
pub fn check_alone(files: &Files, log: &[u8], opened: &Opened, end: u64) {
    let View { anchor, contents, .. } = &opened.view;
    let state = files.states.get(anchor);
    let State { model, log: which } =
        state.unwrap_or_else(|| panic!("the store never had this state: {contents:#?}"));
    let original = &files.pair(*which).log;
    assert!(log[..end as usize] != original[..end as usize], "a log that is as it was written was refused");
    let original_frames = frames(original);
    let is_changed = |offset| {
        let frame = original_frames.iter().find(|frame| frame.contains(&(offset as usize)));
        frame.is_some_and(|frame| log.get(frame.clone()) != original.get(frame.clone()))
    };
    assert!(
        contents.are_of(model, opened.is_fifo(), &is_changed),
        "the store never had this: {contents:#?}, but {model:#?}"
    );
}

/// An index file with forged runs may say anything. It must cause no panic, and a reader must change no file.
pub fn check_forged(log: &[u8], index: Option<&[u8]>) {
    let image = image(log, index);
    let sim = Sim::on(&image, 4);
    if let Ok(snapshot) = open_snapshot_on(Arc::new(sim.clone()), PATH, &key()) {
        snapshot.contents();
    }
    let _ = verify_on(&sim, PATH, Some(&key()), |_| {});
    assert!(is_same(&sim.live(), &image), "a reader changed a file");
    if let Ok(store) = open_store(&sim, Check::Live, None) {
        store.contents();
        // Nothing is written: who can forge a run can also forge a frame.
        sim.kill();
    }
}
