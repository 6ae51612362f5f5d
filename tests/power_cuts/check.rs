//! Opens the image of each power cut, and asks the oracle.

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};

use backupy_state::Result as StoreResult;

use super::device::{FileSystem, Mounted};
use super::image::DiskImage;
use super::machine::RealMachine;
use super::recording::{Cut, Recording};
use super::workloads::{self, Workload};
use crate::common::depth::PowerCuts;
use crate::common::say;
use crate::sim::random::{Random, mix};
use crate::sim::{Machine, Mode, Model, Oracle};

/// What was tried.
#[derive(Clone, Debug, Default)]
pub(super) struct Figures {
    pub(super) workloads: u64,
    pub(super) cuts: u64,
    /// Those of them in a recovery from an earlier cut, or in the calls after it.
    pub(super) cuts_in_recoveries: u64,
    pub(super) images: u64,
    /// Summed over the cuts: how many changes had been acknowledged as durable.
    pub(super) acknowledged: u64,
    pub(super) torn_tails: u64,
    pub(super) by_index: u64,
    /// Calls that a full disk refused.
    pub(super) refused: u64,
    pub(super) failures: Vec<String>,
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Figures { workloads, cuts, cuts_in_recoveries, images, acknowledged, torn_tails, .. } = self;
        let Figures { by_index, refused, failures, .. } = self;
        write!(
            f,
            "{cuts} cuts, {cuts_in_recoveries} of them in recoveries, {images} images, {acknowledged} changes \
             acknowledged before, {torn_tails} torn tails, {by_index} opened by index, {workloads} workloads with \
             {refused} calls refused by a full disk, {} failures",
            failures.len()
        )
    }
}

/// Checks the cuts of one file system.
pub(super) struct Checker {
    kind: FileSystem,
    work: PathBuf,
    depth: PowerCuts,
    pub(super) figures: Figures,
}

/// The cuts of a recording.
struct Cuts<'a> {
    workload: &'a Workload,
    recording: &'a Recording,
    /// A tail that the recovery from an earlier cut has quarantined.
    torn: Option<&'a [u8]>,
    /// Images, with the number of backups that must be there and whether the store had been open; and what was
    /// found.
    known: HashMap<(u64, usize, bool), Found>,
}

/// What an image held.
#[derive(Clone)]
struct Found {
    model: Model,
    /// The torn tail that was quarantined.
    torn: Option<Vec<u8>>,
}

impl Checker {
    pub(super) fn new(kind: FileSystem, work: &Path, depth: PowerCuts) -> Self {
        Checker { kind, work: work.to_owned(), depth, figures: Figures::default() }
    }

    /// Runs the workload, and cuts power everywhere in it.
    pub(super) fn workload(&mut self, workload: &Workload, before: &DiskImage) {
        let recording = Recording::new(self.kind, &self.work, before, workload.mode, |agent| workload.run(agent));
        let recording = recording.unwrap();
        self.figures.workloads += 1;
        self.figures.refused += recording.agent.sim.refused();
        let mut random = Random::new(mix(workload.seed));
        let mut cuts = Cuts { workload, recording: &recording, torn: None, known: HashMap::new() };
        let mut again = Vec::new();
        recording.for_each_image(&recording.cuts(&mut random, self.depth.most), |cut, image| {
            let place = format!("{}, seed {}, {cut:?}", self.kind.name(), workload.seed);
            let found = self.cut(&mut cuts, cut, &image, &place);
            let is_chosen = random.below(self.depth.recovered_step) == 0;
            // There are few torn tails: what is written goes to preallocated space, which reads as zeros until the
            // file system has recorded otherwise.
            let is_torn = found.as_ref().is_some_and(|found| found.torn.is_some());
            if let Some(found) = found.filter(|_| is_chosen || is_torn && again.len() < TORN_RECOVERIES) {
                again.push((image, found, place));
            }
        });
        for (image, found, place) in again {
            self.recovery(workload, &image, &found, random.next(), &place);
        }
    }

    /// The image is mounted, the store opened and used; power is cut in all of this.
    fn recovery(&mut self, workload: &Workload, image: &DiskImage, found: &Found, seed: u64, place: &str) {
        let mut random = Random::new(seed);
        let recorded = caught(|| {
            Recording::new(self.kind, &self.work, image, Mode::Sync, |agent| {
                agent.oracle = Oracle::of(found.model.clone());
                agent.number_calls_from(CALLS_MAX);
                workload.go_on(agent, &mut random)
            })
        });
        let recording = match recorded {
            Ok(recording) => recording,
            Err(what) => return self.fail(format!("{place}, opened again: {what}"), image),
        };
        let torn = found.torn.as_deref();
        let mut cuts = Cuts { workload, recording: &recording, torn, known: HashMap::new() };
        recording.for_each_image(&recording.cuts(&mut random, self.depth.most_recovered), |cut, image| {
            self.figures.cuts_in_recoveries += 1;
            let place = format!("{place}, opened again, {cut:?}");
            self.cut(&mut cuts, cut, &image, &place);
        });
    }

    /// Checks what the image holds that a cut has left.
    fn cut(&mut self, cuts: &mut Cuts<'_>, cut: &Cut, image: &DiskImage, place: &str) -> Option<Found> {
        let Recording { agent, opened_at, .. } = cuts.recording;
        let log_len = cuts.recording.log_len_at(cut);
        self.figures.cuts += 1;
        self.figures.acknowledged += agent.acknowledged_at(log_len) as u64;
        let backups = agent.backups.iter().filter(|backup| backup.must_be_there(log_len)).count();
        let seen = (image.hash(), backups, log_len >= *opened_at);
        let found = match cuts.known.get(&seen) {
            Some(found) => Ok(found.clone()),
            None => caught(|| self.mounted(cuts, log_len, image)),
        };
        let allowed = agent.allowed_at(log_len);
        match found {
            Ok(found) if allowed.contains(&found.model) => {
                cuts.known.insert(seen, found.clone());
                return Some(found);
            }
            Ok(found) => self.fail(format!("{place}: found {:?}, not among {allowed:?}", found.model), image),
            Err(what) => self.fail(format!("{place}: {what}"), image),
        }
        None
    }

    fn mounted(&mut self, cuts: &Cuts<'_>, log_len: usize, image: &DiskImage) -> Result<Found, String> {
        self.figures.images += 1;
        let Cuts { workload, recording, torn, .. } = cuts;
        let mounted = Mounted::image(self.kind, &self.work, image)?;
        let machine = RealMachine::new(&mounted.at, None);
        let was_open = log_len >= recording.opened_at;
        let found = self.opened(workload, &machine, was_open).or_else(|error| {
            workloads::make_room_after(&machine, error)?;
            self.opened(workload, &machine, was_open)
        });
        let found = found.map_err(|error| error.to_string())?;
        workloads::free(&machine);
        if let Some(torn) = torn {
            assert!(
                torn_tails(&mounted.at).any(|kept| kept == *torn),
                "the torn tail of the recovery before is gone"
            );
        }
        for backup in &recording.agent.backups {
            let path = mounted.at.join(backup.path.file_name().unwrap());
            if path.exists() {
                backup.clone().at(path).check(&machine);
            } else {
                assert!(!backup.must_be_there(log_len), "{} is gone", path.display());
            }
        }
        workloads::check_files(workload, &mounted.at);
        Ok(found)
    }

    fn opened(&mut self, workload: &Workload, machine: &RealMachine, was_open: bool) -> StoreResult<Found> {
        let store = workload.open(machine, was_open)?;
        let recovery = store.recovery();
        self.figures.by_index += u64::from(recovery.opening.by_index);
        let torn = recovery.quarantined.as_ref().map(|path| fs::read(path).unwrap());
        self.figures.torn_tails += u64::from(torn.is_some());
        let model = Model::take(&store)?;
        machine.kill();
        Ok(Found { model, torn })
    }

    fn fail(&mut self, what: String, image: &DiskImage) {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}.img", self.kind.name()));
        say(&format!("FAILED: {}", what.replace('\n', " ")));
        if self.figures.failures.is_empty() {
            let _ = fs::remove_file(&path);
            image.save_to(&path);
            say(&format!("the image is in {}", path.display()));
        }
        self.figures.failures.push(what);
    }
}

/// No workload makes as many.
const CALLS_MAX: u64 = 1000;

/// How many recoveries from a torn tail are cut in a workload.
const TORN_RECOVERIES: usize = 2;

fn torn_tails(folder: &Path) -> impl Iterator<Item = Vec<u8>> {
    let paths = fs::read_dir(folder).unwrap().map(|found| found.unwrap().path());
    let is_torn = |path: &PathBuf| path.to_str().unwrap().contains("state.db.torn-");
    paths.filter(is_torn).map(|path| fs::read(path).unwrap())
}

/// A panic of `check` is an error too.
fn caught<T>(check: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    let panic = match panic::catch_unwind(AssertUnwindSafe(check)) {
        Ok(checked) => return checked,
        Err(panic) => panic,
    };
    Err(match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(panic) => {
            panic.downcast::<&str>().map_or("a panic without a text".to_owned(), |text| (*text).to_owned())
        }
    })
}
