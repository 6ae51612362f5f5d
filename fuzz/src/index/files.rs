//! The logs with their index files that are mutated: the same bytes in each run, with every state that the store
//! had.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use arbitrary::Arbitrary;
use backupy_state::testing::{index_every, open_snapshot_on};
use backupy_state::{Anchor, Check, OpenOptions, Opening, Store};

use super::runs::{Draft, Source};
use crate::base::{self, Base, call, frames, log_of};
use crate::sim::content::Content;
use crate::sim::world::Image;
use crate::sim::{Mode, Model, PATH, Sim, key};

pub const INDEX: &str = "/sim/state.db.index";
pub const INDEX_NEW: &str = "/sim/state.db.index.new";
/// After so many bytes of frames, the index file gets a run: two to four frames.
const RUN_LEN: u64 = 300;

/// A log with an index file.
#[derive(Arbitrary, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// Three sessions. The last one was killed.
    Main,
    /// Equal to `Main` in the first session. Then come frames that are as long as those of `Main`, and others.
    Fork,
    /// The previous generation.
    Older,
    /// `Main` after its first session.
    Early,
    /// `Main` and a close frame, with an index file that was begun anew when the log had all these frames.
    Anew,
}

pub struct Pair {
    pub log: Vec<u8>,
    pub index: Vec<u8>,
    pub source: Source,
    /// Those of its frames.
    pub anchors: Vec<Anchor>,
}

/// What the store held after a frame.
pub struct State {
    pub model: Model,
    /// A log that has the frame.
    pub log: Which,
}

pub struct Files {
    pairs: Vec<Pair>,
    pub states: HashMap<Anchor, State>,
    /// Those of the states, in an order of their own.
    pub anchors: Vec<Anchor>,
    /// The logs, for the mutations of `open_mutated`.
    pub base: Base,
}

impl Files {
    pub fn pair(&self, which: Which) -> &Pair {
        &self.pairs[which as usize]
    }
}

pub fn files() -> &'static Files {
    static FILES: OnceLock<Files> = OnceLock::new();
    FILES.get_or_init(make)
}

/// How the store is opened here.
pub fn options(sim: &Sim, mode: Mode, check: Check) -> OpenOptions {
    let mut options = mode.options(sim);
    index_every(&mut options, RUN_LEN).check(check);
    options
}

/// A disk with these files.
pub fn image(log: &[u8], index: Option<&[u8]>) -> Image {
    let files = [Some((PATH, log)), index.map(|index| (INDEX, index))];
    files.into_iter().flatten().map(|(path, file)| (Path::new(path).to_owned(), Content::of(file))).collect()
}

/// The bytes of a file, if there is one with this name.
pub fn bytes_of(sim: &Sim, path: &str) -> Option<Vec<u8>> {
    Some(sim.live().get(Path::new(path))?.bytes())
}

fn make() -> Files {
    let mut maker = Maker::default();
    let sim = Sim::new(1);
    let store = open(&sim, Mode::Sync);
    maker.calls(&sim, &store, Which::Older, 0..14);
    let older = pair(&sim);
    store.compact().unwrap();
    maker.record(&sim, Which::Main);
    maker.calls(&sim, &store, Which::Main, 14..20);
    store.close().unwrap();
    maker.record(&sim, Which::Main);
    let early = pair(&sim);

    let fork = Sim::at(sim.world(), 2);
    let store = open(&fork, Mode::Sync);
    maker.calls(&fork, &store, Which::Fork, (70..75).chain(20..26));
    store.close().unwrap();
    maker.record(&fork, Which::Fork);
    let store = open(&sim, Mode::Sync);
    maker.calls(&sim, &store, Which::Main, 30..40);
    store.close().unwrap();
    maker.record(&sim, Which::Main);
    // The buffer for log events is small in this mode, so some are dropped. No sync covers the calls about them
    // before the last one, so none of the last frames proves that those before it were durable.
    let store = open(&sim, Mode::Mixed);
    maker.calls(&sim, &store, Which::Main, 40..51);
    maker.calls(&sim, &store, Which::Main, [51, 59, 67, 55]);
    store.sync().unwrap();
    let main = pair(&sim);
    sim.kill();
    drop(store);

    let anew = Sim::on(&image(&main.log, None), 3);
    open(&anew, Mode::Sync).close().unwrap();
    maker.record(&anew, Which::Anew);
    let pairs = vec![main, pair(&fork), older, early, pair(&anew)];
    let log = |which: Which| pairs[which as usize].log.clone();
    let base = Base {
        main: log(Which::Main),
        fork: log(Which::Fork),
        older: log(Which::Older),
        unmarked: Vec::new(),
        states: Vec::new(),
    };
    pairs.iter().for_each(check_drafted);
    // Every call wrote one frame, and every session ended with one, so there is a state for each.
    assert!(pairs.iter().flat_map(|pair| &pair.anchors).all(|anchor| maker.states.contains_key(anchor)));
    Files { pairs, states: maker.states, anchors: maker.anchors, base }
}

fn open(sim: &Sim, mode: Mode) -> Store {
    options(sim, mode, Check::Live).open(PATH, &key()).unwrap()
}

fn pair(sim: &Sim) -> Pair {
    let log = log_of(sim);
    Pair {
        index: bytes_of(sim, INDEX).unwrap(),
        source: Source::new(&log),
        anchors: frames(&log).into_iter().filter_map(|frame| anchor_at(&log, frame.end)).collect(),
        log,
    }
}

/// The anchor of the frame that ends at `end`; `None` if the log cannot end there.
fn anchor_at(log: &[u8], end: usize) -> Option<Anchor> {
    let mut log = log[..end].to_vec();
    log[base::SLOTS[0]..base::FIRST_FRAME_AT].fill(0);
    Some(open_snapshot_on(Arc::new(Sim::on(&image(&log, None), 0)), PATH, &key()).ok()?.anchor())
}

/// The store uses an index file that was made without it.
fn check_drafted(Pair { log, source, .. }: &Pair) {
    let drafts = [Draft::plain(2, 2), Draft::plain(1, 0)];
    let sim = Sim::on(&image(log, Some(&source.index_file(&drafts))), 0);
    let store = open(&sim, Mode::Sync);
    let Opening { by_index, replayed_bytes, .. } = store.recovery().opening;
    // The first run is copied after the third frame, while two more are written. The second one has those.
    let end = frames(log)[4].end as u64;
    assert!(by_index && replayed_bytes == store.stats().log_len - end, "{:?}", store.recovery());
}

#[derive(Default)]
struct Maker {
    states: HashMap<Anchor, State>,
    anchors: Vec<Anchor>,
}

impl Maker {
    fn calls(&mut self, sim: &Sim, store: &Store, log: Which, numbers: impl IntoIterator<Item = u64>) {
        for number in numbers {
            call(store, number).unwrap();
            self.record(sim, log);
        }
    }

    /// Notes what the log has now, without its index file.
    fn record(&mut self, sim: &Sim, log: Which) {
        let sim = Sim::on(&image(&log_of(sim), None), 0);
        let anchor = open_snapshot_on(Arc::new(sim.clone()), PATH, &key()).unwrap().anchor();
        let model = Model::on_copy(&sim.world()).unwrap();
        self.anchors.push(anchor);
        self.states.insert(anchor, State { model, log });
    }
}
