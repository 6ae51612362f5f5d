//! Opens the image of each power cut, and asks the oracle.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::fs;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};

use backupy_state::Result as StoreResult;

use super::device::{FileSystem, Mounted};
use super::image::DiskImage;
use super::machine::RealMachine;
use super::recording::Recording;
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
            "{cuts} cuts, {cuts_in_recoveries} of them in recoveries, {images} images, {acknowledged} acknowledged \
             changes looked for, {torn_tails} torn tails, {by_index} opened by index, {workloads} workloads with \
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

/// Images, with the number of backups that must be there and whether the store had been open, and what was found.
type Known = HashMap<(u64, usize, bool), Found>;

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
        let cuts = recording.cuts(&mut random, self.depth.step);
        let mut known = HashMap::new();
        let mut again = Vec::new();
        recording.for_each_image(&cuts, |cut, image| {
            self.figures.cuts += 1;
            let log_len = recording.log_len_at(cut);
            let place = format!("{}, seed {}, {cut:?}", self.kind.name(), workload.seed);
            let found = self.image(workload, &recording, log_len, &image, None, &mut known, &place);
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
        let recording = Recording::new(self.kind, &self.work, image, Mode::Sync, |agent| {
            agent.oracle = Oracle::of(found.model.clone());
            workload.go_on(agent, &mut random)
        });
        let recording = match recording {
            Ok(recording) => recording,
            Err(error) => return self.fail(format!("{place}: {error}"), image),
        };
        let cuts = recording.cuts(&mut random, self.depth.step);
        let mut known = HashMap::new();
        recording.for_each_image(&cuts, |cut, image| {
            self.figures.cuts += 1;
            self.figures.cuts_in_recoveries += 1;
            let log_len = recording.log_len_at(cut);
            let place = format!("{place}, opened again, {cut:?}");
            let torn = found.torn.as_deref();
            self.image(workload, &recording, log_len, &image, torn, &mut known, &place);
        });
    }

    /// Checks what the image holds. `torn` is a tail that the recovery before had quarantined.
    #[allow(clippy::too_many_arguments, reason = "each is another thing")]
    fn image(
        &mut self,
        workload: &Workload,
        recording: &Recording,
        log_len: usize,
        image: &DiskImage,
        torn: Option<&[u8]>,
        known: &mut Known,
        place: &str,
    ) -> Option<Found> {
        let Recording { agent, opened_at, .. } = recording;
        let allowed = agent.allowed_at(log_len);
        let was_open = log_len >= *opened_at;
        self.figures.acknowledged += agent.acknowledged_at(log_len) as u64;
        let backups = agent.backups.iter().filter(|backup| backup.must_be_there(log_len)).count();
        let found = match known.get(&(image.hash(), backups, was_open)) {
            Some(found) => found.clone(),
            None => {
                self.figures.images += 1;
                let checked = || self.mounted(workload, recording, log_len, image, torn);
                match panic::catch_unwind(AssertUnwindSafe(checked)).unwrap_or_else(|panic| Err(text_of(panic))) {
                    Ok(found) => found,
                    Err(what) => {
                        self.fail(format!("{place}: {what}"), image);
                        return None;
                    }
                }
            }
        };
        known.insert((image.hash(), backups, was_open), found.clone());
        if allowed.contains(&found.model) {
            return Some(found);
        }
        self.fail(format!("{place}: found {:#?}, not among {allowed:#?}", found.model), image);
        None
    }

    fn mounted(
        &mut self,
        workload: &Workload,
        recording: &Recording,
        log_len: usize,
        image: &DiskImage,
        torn: Option<&[u8]>,
    ) -> Result<Found, String> {
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
            let is_kept = torn_tails(&mounted.at).values().any(|kept| kept == torn);
            assert!(is_kept, "the torn tail of the recovery before is gone");
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

/// How many recoveries from a torn tail are cut in a workload.
const TORN_RECOVERIES: usize = 3;

fn torn_tails(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let paths = fs::read_dir(folder).unwrap().map(|found| found.unwrap().path());
    let is_torn = |path: &PathBuf| path.to_str().unwrap().contains("state.db.torn-");
    paths.filter(is_torn).map(|path| (path.clone(), fs::read(&path).unwrap())).collect()
}

fn text_of(panic: Box<dyn std::any::Any + Send>) -> String {
    match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(panic) => {
            panic.downcast::<&str>().map_or("a panic without a text".to_owned(), |text| (*text).to_owned())
        }
    }
}
