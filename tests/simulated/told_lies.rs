//! The lies that a disk tells in `lying_disks.rs`, and what the table in section 12 of FORMAT.md says of each.

use std::collections::BTreeSet;
use std::path::Path;

use super::shown::shown_by;
use crate::sim::content::SECTOR_LEN;
use crate::sim::lies::{About, Touch};
use crate::sim::random::mix;
use crate::sim::world::{FailedSync, World};
use crate::sim::{Agent, Call, Lie, Mode, Oracle, PATH, Sim};

/// The rows of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Row {
    Reading,
    Harmless,
    NewFile,
    Record,
    Sync,
    Syncs,
    Folder,
}

impl Row {
    pub(super) const ALL: [Row; 7] =
        [Row::Reading, Row::Harmless, Row::NewFile, Row::Record, Row::Sync, Row::Syncs, Row::Folder];

    /// How the row begins in FORMAT.md.
    pub(super) fn text(self) -> &'static str {
        match self {
            Row::Reading => "| J1 | gives other bytes in one read |",
            Row::Harmless => "| J2 | does not write a mark, preallocated zeros or a part of an index file |",
            Row::NewFile => "| J3 | does not write a part of a new file:",
            Row::Record => "| J4 | does not have a record as it was written:",
            Row::Sync => "| J5 | loses what one sync of the log has reported,",
            Row::Syncs => "| J6 | loses what all syncs from one on have reported |",
            Row::Folder => "| J7 | loses a name that a sync of the folder has reported |",
        }
    }

    /// When the store, or a value, is refused.
    pub(super) fn noticed(self) -> &'static [When] {
        use When::{Closed, ClosedAndCut, Killed, KilledAndCut, Opening, Running};
        match self {
            Row::Reading => &[Opening, Running],
            Row::Harmless => &[],
            // The call fails. What a power cut takes of a file that was complete is noticed later.
            Row::NewFile => &[Opening, Running, KilledAndCut, ClosedAndCut],
            Row::Record => &[Opening, Running, Killed, KilledAndCut, Closed, ClosedAndCut],
            Row::Sync => &[Killed, KilledAndCut, ClosedAndCut],
            // What is read back is missing at once.
            Row::Syncs => &[Opening, Running, Killed, KilledAndCut, ClosedAndCut],
            // What a kill in a later compaction leaves at `<path>.new` can be in the way. No such kill is tried.
            Row::Folder => &[],
        }
    }

    /// When an older state is shown, which only an anchor tells from the last one.
    pub(super) fn missed(self) -> &'static [When] {
        use When::{ClosedAndCut, Killed, KilledAndCut, Opening};
        match self {
            Row::Reading | Row::Harmless | Row::NewFile => &[],
            Row::Record | Row::Sync => &[Opening, Killed, KilledAndCut],
            Row::Syncs => &[Opening, Killed, KilledAndCut, ClosedAndCut],
            Row::Folder => &[KilledAndCut, ClosedAndCut],
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum When {
    /// In the session with the lie: when it opens the store, and while that is open.
    Opening,
    Running,
    /// In the next session.
    Killed,
    KilledAndCut,
    Closed,
    ClosedAndCut,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Verdict {
    /// All that was acknowledged is there.
    Right,
    /// The state is right, but not every value is given.
    ValueRefused,
    Refused,
    /// An older state.
    Missed,
    /// An older state, and the bytes after it are kept as a torn tail.
    MissedAsTornTail,
}

/// A session in which one operation lies, or all syncs from one on.
pub(super) struct Case<'a> {
    pub(super) beginning: &'a Beginning,
    pub(super) calls: &'a [Call],
    pub(super) touch: Touch,
    pub(super) lie: Lie,
    pub(super) is_lasting: bool,
}

impl<'a> Case<'a> {
    /// All lies in a session.
    pub(super) fn all(beginning: &'a Beginning, calls: &'a [Call]) -> Vec<Case<'a>> {
        let sim = Sim::at(beginning.world.clone(), SEED);
        sim.record_touches();
        let mut agent = beginning.agent_on(sim);
        agent.start().unwrap();
        calls.iter().for_each(|&call| agent.make(call).unwrap());
        shown_by(agent.store(), agent.store().is_other_key);
        agent.close().unwrap();
        let lies = |touch: Touch| {
            lies_about(&touch).into_iter().flat_map(move |lie| {
                let is_sync = matches!(touch.about, About::Sync) && lie != Lie::LostSync(FailedSync::LosesSome);
                let touch = touch.clone();
                let case = move |is_lasting| Case { beginning, calls, touch: touch.clone(), lie, is_lasting };
                [false].into_iter().chain(is_sync.then_some(true)).map(case)
            })
        };
        agent.sim.take_touches().into_iter().flat_map(lies).collect()
    }

    pub(super) fn row(&self) -> Row {
        let Touch { about, name, .. } = &self.touch;
        // Or a backup under its final name.
        let is_log = name.ends_with(".db");
        let begin = |sector: usize| sector * SECTOR_LEN;
        match (self.lie, about) {
            (Lie::LostSync(_), About::SyncDir) => Row::Folder,
            (Lie::LostSync(_), _) if self.is_lasting => Row::Syncs,
            (Lie::LostSync(_), _) if is_log => Row::Sync,
            (Lie::LostSync(_), _) => Row::NewFile,
            (Lie::Stale(_) | Lie::ReadAnother(..), _) => Row::Reading,
            (Lie::StaleForGood(sector), _) if is_log && begin(sector) >= FRAMES_AT => Row::Record,
            // Over the first copy of the header.
            (_, About::Write { .. }) if name.is_empty() => Row::Harmless,
            (Lie::WroteToFile(_), _) => Row::Record,
            (Lie::WroteAt(_), _) if is_log => Row::Record,
            // The reserve of a new log is written after that was read back.
            (Lie::WroteAt(_), About::Write { is_zero: true, .. }) => Row::Record,
            (Lie::LostWrite, About::Write { is_zero: true, .. }) => Row::Harmless,
            (Lie::LostWrite, About::Write { range, is_zero: false }) if is_log && range.start >= 8192 => {
                Row::Record
            }
            _ if is_log || name.contains(".index") => Row::Harmless,
            _ => Row::NewFile,
        }
    }

    /// The most records that may be missed. `None` if that depends on how many calls were not durable.
    pub(super) fn missed_max(&self) -> Option<usize> {
        let is_one = matches!(self.row(), Row::Record | Row::Sync) && self.beginning.mode != Mode::Buffered;
        is_one.then_some(1)
    }
}

/// The lies that are tried in place of what an operation does.
pub(super) fn lies_about(touch: &Touch) -> Vec<Lie> {
    match &touch.about {
        About::Sync => {
            [FailedSync::LosesAll, FailedSync::LosesSome, FailedSync::KeepsAll].map(Lie::LostSync).into()
        }
        About::SyncDir => vec![Lie::LostSync(FailedSync::KeepsAll)],
        // The lock file: nothing reads what is in it.
        About::Write { .. } if touch.name.is_empty() => vec![Lie::WroteToFile(0)],
        About::Write { is_zero: true, .. } => {
            vec![Lie::LostWrite, Lie::WroteAt(0), Lie::WroteAt(8192), Lie::WroteToFile(0)]
        }
        About::Write { range, .. } => {
            let at = range.start;
            let near = [Some(at + 512), Some(at + 4096), at.checked_sub(512), at.checked_sub(4096)];
            let far = [0, 2048, 4096, 6144, 8192];
            let places: BTreeSet<u64> = near.into_iter().flatten().chain(far).filter(|&to| to != at).collect();
            let lost = [Lie::LostWrite, Lie::WroteToFile(0), Lie::WroteToFile(1)];
            lost.into_iter().chain(places.into_iter().map(Lie::WroteAt)).collect()
        }
        About::Read { nonzero, older } => {
            let stale = first_and_last(older).flat_map(|sector| [Lie::Stale(sector), Lie::StaleForGood(sector)]);
            let others = |sector: usize| [sector + 1, sector.saturating_sub(1), FRAMES_AT / SECTOR_LEN];
            let another = |sector| others(sector).map(|other| Lie::ReadAnother(sector, other));
            stale.chain(first_and_last(nonzero).flat_map(another)).collect()
        }
    }
}

fn first_and_last(sectors: &[usize]) -> impl Iterator<Item = usize> {
    let is_near_an_end = |i: usize| i < 3 || i + 4 > sectors.len();
    sectors.iter().copied().enumerate().filter(move |(i, _)| is_near_an_end(*i)).map(|(_, sector)| sector)
}

/// What a session with a lie begins with.
pub(super) struct Beginning {
    pub(super) mode: Mode,
    pub(super) world: World,
    pub(super) oracle: Oracle,
}

impl Beginning {
    /// No store, and one that was killed, has a torn tail, or was closed.
    pub(super) fn all(mode: Mode) -> [Beginning; 4] {
        let mut agent = Agent::new(Sim::new(mix(3)), mode);
        let at = |agent: &Agent| Beginning { mode, world: agent.sim.world(), oracle: agent.oracle.clone() };
        let fresh = at(&agent);
        agent.start().unwrap();
        for call in [
            Call::Enqueue { job: 0, len: 30 },
            Call::PutData { key: 0, len: 700 },
            Call::BufferLog { ts_ms: 1, len: 60 },
            Call::Enqueue { job: 2, len: 30 },
        ] {
            agent.make(call).unwrap();
        }
        let killed = at(&agent);
        let (world, _) = torn_after(&agent);
        let torn = Beginning { world, ..at(&agent) };
        agent.close().unwrap();
        [fresh, killed, torn, at(&agent)]
    }

    pub(super) fn agent_on(&self, sim: Sim) -> Agent {
        let mut agent = Agent::new(sim, self.mode);
        agent.oracle = self.oracle.clone();
        agent
    }
}
/// The disk after the process was killed in the middle of one more record, and what there is of that.
pub(super) fn torn_after(agent: &Agent) -> (World, Vec<u8>) {
    let log = Path::new(PATH);
    let mut next = Agent::new(Sim::at(agent.sim.world(), SEED), Mode::Sync);
    next.oracle = agent.oracle.clone();
    next.start().unwrap();
    let end = next.sim.live()[log].trimmed_bytes().len();
    next.make(Call::Enqueue { job: 3, len: 2000 }).unwrap();
    next.kill();
    let mut world = next.sim.world();
    let inode = world.named(log).unwrap();
    world.inode_mut(inode).write(&[0; 4096], end as u64 + 1000);
    world.inode_mut(inode).sync();
    let tail = world.live()[log].trimmed_bytes().split_off(end);
    (world, tail)
}

pub(super) const SEED: u64 = 5;
pub(super) const FRAMES_AT: usize = 8192;
