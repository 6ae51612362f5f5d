//! Disks that lie: an operation reports success and has done something else. No lie leads to a wrong answer: a
//! value is the one that was written or is refused, and the state is the last one, or it is refused to open the
//! store. Where this cannot be promised, an older state is shown. Where that is, the table in section 12 of
//! FORMAT.md says, and the test takes it by its word.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{self, Write};
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

use backupy_state::testing::open_snapshot_on;
use backupy_state::{Anchor, Error, OnDamage, Result};

use super::shown::{
    Look, Shown, assert_names_the_place, is_refused_by, is_state, is_whole, shown_by, shown_by_snapshot,
};
use super::survival;
use crate::common::depth;
use crate::sim::content::{Content, SECTOR_LEN};
use crate::sim::lies::{About, Touch};
use crate::sim::random::mix;
use crate::sim::world::{self, FailedSync, World};
use crate::sim::{Agent, Call, Failure, Lie, Mode, Oracle, PATH, Sim, crash, key, open};

/// Prints even if the test passes. The output of `println` is captured.
macro_rules! report {
    ($($said:tt)*) => {
        let _ = writeln!(io::stderr(), $($said)*);
    };
}

/// The rows of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Row {
    Reading,
    Harmless,
    NewFile,
    Record,
    Sync,
    Syncs,
    Folder,
}

impl Row {
    const ALL: [Row; 7] =
        [Row::Reading, Row::Harmless, Row::NewFile, Row::Record, Row::Sync, Row::Syncs, Row::Folder];

    /// How the row begins in FORMAT.md.
    fn text(self) -> &'static str {
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
    fn noticed(self) -> &'static [When] {
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
            Row::Folder => &[KilledAndCut, ClosedAndCut],
        }
    }

    /// When an older state is shown, which only an anchor tells from the last one.
    fn missed(self) -> &'static [When] {
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
enum When {
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
enum Verdict {
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
struct Case<'a> {
    beginning: &'a Beginning,
    calls: &'a [Call],
    touch: Touch,
    lie: Lie,
    is_lasting: bool,
}

impl<'a> Case<'a> {
    /// All lies in a session.
    fn all(beginning: &'a Beginning, calls: &'a [Call]) -> Vec<Case<'a>> {
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

    fn row(&self) -> Row {
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
    fn missed_max(&self) -> Option<usize> {
        let is_one = matches!(self.row(), Row::Record | Row::Sync) && self.beginning.mode != Mode::Buffered;
        is_one.then_some(1)
    }
}

/// The lies that are tried in place of what an operation does.
fn lies_about(touch: &Touch) -> Vec<Lie> {
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
struct Beginning {
    mode: Mode,
    world: World,
    oracle: Oracle,
}

impl Beginning {
    /// No store, and one that was killed, has a torn tail, or was closed.
    fn all(mode: Mode) -> [Beginning; 4] {
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

    fn agent_on(&self, sim: Sim) -> Agent {
        let mut agent = Agent::new(sim, self.mode);
        agent.oracle = self.oracle.clone();
        agent
    }
}

/// How often each verdict was found.
type Found = BTreeMap<(Row, When), BTreeMap<Verdict, usize>>;

#[derive(Default)]
struct Lies {
    /// By the hash of the disk.
    looks: Mutex<HashMap<u64, Arc<Look>>>,
    found: Mutex<Found>,
    told: AtomicUsize,
}

impl Lies {
    /// Tells the lies on two threads, and names the first one that is not as the table says.
    fn tell(&self, cases: &[Case<'_>]) {
        let next = AtomicUsize::new(0);
        let wrong = Mutex::new(BTreeMap::new());
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                        if let Err(panic) = panic::catch_unwind(AssertUnwindSafe(|| self.tell_one(case))) {
                            let what = panic.downcast::<String>().map_or_else(|_| String::new(), |what| *what);
                            wrong.lock().unwrap().entry(case.row()).or_insert((case, what));
                        }
                    }
                });
            }
        });
        self.told.fetch_add(cases.len(), Ordering::Relaxed);
        let wrong = wrong.into_inner().unwrap();
        for (row, (Case { beginning, calls, touch, lie, is_lasting }, what)) in &wrong {
            let mode = beginning.mode;
            report!("{row:?}: {mode:?} {calls:?} {touch:?} {lie:?} {is_lasting}\n{what:.1500}\n");
        }
        assert!(wrong.is_empty());
    }

    fn tell_one(&self, case: &Case<'_>) {
        let sim = Sim::at(case.beginning.world.clone(), SEED);
        match case.is_lasting {
            true => sim.fail_from(case.touch.number, Failure::Lie(case.lie)),
            false => sim.fail(case.touch.number, Failure::Lie(case.lie)),
        }
        let mut agent = case.beginning.agent_on(sim);
        agent.takes_older_states = true;
        let before = agent.oracle.current().clone();
        let mut refused = Vec::new();
        match agent.start() {
            Ok(()) if *agent.oracle.current() == before => self.note(case, When::Opening, Verdict::Right),
            Ok(()) => self.note(case, When::Opening, Verdict::Missed),
            Err(error) => {
                assert_names_the_place(&error);
                self.note(case, When::Opening, Verdict::Refused);
            }
        }
        for &call in case.calls {
            if agent.is_open() {
                refused.extend(agent.make(call).err());
            }
        }
        refused.iter().for_each(assert_names_the_place);
        let kept = agent.is_open().then(|| Kept::by(&agent));
        if agent.is_open() {
            let shown = shown_by(agent.store(), agent.store().is_other_key);
            assert!(is_state(&shown, agent.oracle.current()), "shows {shown:?}");
            let is_right = refused.is_empty() && is_whole(&shown);
            self.note(case, When::Running, if is_right { Verdict::Right } else { Verdict::ValueRefused });
        }
        if agent.sim.ops() > case.touch.number {
            self.end(case, &agent, kept, [When::Killed, When::KilledAndCut]);
        }
        if agent.is_open() && agent.close().is_ok() {
            self.end(case, &agent, kept, [When::Closed, When::ClosedAndCut]);
        }
    }

    /// The process has ended. The next one starts at once, or after a power cut.
    fn end(&self, case: &Case<'_>, agent: &Agent, kept: Option<Kept>, [at_once, cut]: [When; 2]) {
        let world = agent.sim.world();
        self.look(case, agent, kept, at_once, &world);
        let mut evicted = world.clone();
        evicted.drop_caches();
        // The next process would find the same, but what the disk has not got.
        self.look(case, agent, kept, if world.has_lost() { cut } else { at_once }, &evicted);
        crash::some_images(&world, 7, CUTS, &mut |image| self.look(case, agent, kept, cut, &World::of(image)));
        backups_are_whole_or_refused(case, agent, &evicted);
    }

    fn look(&self, case: &Case<'_>, agent: &Agent, kept: Option<Kept>, when: When, world: &World) {
        let look = self.look_at(world);
        let verdict = |found: &Result<Shown>| verdict(found, agent, look.is_torn);
        let (live, at) = verdict(&look.live);
        self.note(case, when, live);
        if let Some(at) = at {
            let missed = agent.oracle.history().len() - agent.oracle.allowed().len() - at;
            assert!(case.missed_max().is_none_or(|max| missed <= max), "{when:?}: {missed} records are missed");
            if let Some(Kept { anchor, at: kept_at }) = kept {
                assert!(at >= kept_at || is_refused_by(anchor, world), "{when:?}: {anchor} does not show it");
            }
        }
        // Reading everything notices no less. What an index file covers, it may take for a torn tail.
        let (everything, _) = verdict(&look.everything);
        assert!(
            everything == live || everything == Verdict::Refused || world.has_lost(),
            "{when:?}: {everything:?}"
        );
        // A reader does not look for a log that has lost its name.
        let (snapshot, _) = verdict(&look.snapshot);
        let is_as_good = snapshot == live || world.has_lost() || matches!(case.row(), Row::Syncs | Row::Folder);
        assert!(is_as_good, "{when:?}: {live:?}, but a snapshot {snapshot:?} {:?}", look.live.as_ref().err());
        let is_noticed = matches!(live, Verdict::Refused | Verdict::ValueRefused);
        // There verify looks at the log alone.
        let is_in_the_way = matches!(look.live, Err(Error::Invalid { .. }));
        assert!(
            !is_noticed || is_in_the_way || !look.is_intact || world.has_lost(),
            "{when:?}: verify finds no fault"
        );
    }

    fn look_at(&self, world: &World) -> Arc<Look> {
        if world.has_lost() {
            return Arc::new(Look::at(world));
        }
        let hash = world::hash(&world.live());
        if let Some(look) = self.looks.lock().unwrap().get(&hash) {
            return Arc::clone(look);
        }
        let look = Arc::new(Look::at(world));
        self.looks.lock().unwrap().insert(hash, Arc::clone(&look));
        look
    }

    fn note(&self, case: &Case<'_>, when: When, verdict: Verdict) {
        let row = case.row();
        *self.found.lock().unwrap().entry((row, when)).or_default().entry(verdict).or_default() += 1;
        let is_allowed = match verdict {
            Verdict::Right => true,
            Verdict::ValueRefused | Verdict::Refused => row.noticed().contains(&when),
            Verdict::Missed | Verdict::MissedAsTornTail => row.missed().contains(&when),
        };
        assert!(is_allowed, "{when:?}: {verdict:?}");
    }
}

/// What a caller has kept outside the store.
#[derive(Clone, Copy)]
struct Kept {
    anchor: Anchor,
    /// Which state of the history it stands for.
    at: usize,
}

impl Kept {
    fn by(agent: &Agent) -> Kept {
        let at = agent.oracle.history().len() - agent.oracle.allowed().len();
        Kept { anchor: agent.store().anchor(), at }
    }
}

/// The verdict, and if the state is an older one, which state of the history it is.
fn verdict(found: &Result<Shown>, agent: &Agent, is_torn: bool) -> (Verdict, Option<usize>) {
    let shown = match found {
        Ok(shown) => shown,
        Err(error) => {
            assert_names_the_place(error);
            return (Verdict::Refused, None);
        }
    };
    if agent.oracle.allowed().iter().any(|state| is_state(shown, state)) {
        return (if is_whole(shown) { Verdict::Right } else { Verdict::ValueRefused }, None);
    }
    let history = agent.oracle.history();
    let at = history.iter().rposition(|state| is_state(shown, state));
    assert!(at.is_some(), "shows what never was: {shown:?}, not among {history:#?}");
    (if is_torn { Verdict::MissedAsTornTail } else { Verdict::Missed }, at)
}

fn backups_are_whole_or_refused(case: &Case<'_>, agent: &Agent, world: &World) {
    for backup in &agent.backups {
        let mut image = world.live();
        let Some(content) = image.remove(&backup.path) else { continue };
        let disk = World::of(&[(Path::new(PATH).to_owned(), content)].into());
        match Look::at(&disk).live {
            Ok(shown) => assert!(is_state(&shown, &backup.holds), "a backup shows {shown:?}"),
            Err(error) => {
                assert_names_the_place(&error);
                let is_done = backup.must_be_there(agent.sim.ops());
                assert!(!is_done || case.row() != Row::NewFile, "a backup that was reported: {error}");
            }
        }
    }
}

#[test]
fn no_lie_of_the_disk_leads_to_a_wrong_answer() {
    let begun = Instant::now();
    let lies = Lies::default();
    let beginnings: Vec<_> = MODES.into_iter().flat_map(Beginning::all).collect();
    let singles = CALLS.iter().map(|&call| vec![call]);
    let pairs = CALLS.iter().flat_map(|&first| CALLS.map(|second| vec![first, second]));
    let histories: Vec<_> = singles.chain(pairs.step_by(depth::lied_pairs_step())).collect();
    for beginning in &beginnings {
        for calls in &histories {
            let step = if calls.len() > 1 { depth::lie_in_pairs_step() } else { depth::lie_step() };
            // Each history begins with another lie.
            let begin = lies.told.load(Ordering::Relaxed) % step;
            let cases: Vec<_> = Case::all(beginning, calls).into_iter().skip(begin).step_by(step).collect();
            lies.tell(&cases);
        }
    }
    let (told, looks) = (lies.told.into_inner(), lies.looks.into_inner().unwrap().len());
    report!("{told} lies, {looks} distinct disks in {:.1?}", begun.elapsed());
    let found = lies.found.into_inner().unwrap();
    if depth::lie_step() == 1 {
        is_what_the_table_says(&found);
    }
}

/// No case of the table is there in vain.
fn is_what_the_table_says(found: &Found) {
    for row in Row::ALL {
        let when = |is_it: fn(Verdict) -> bool| {
            let of_row = found.iter().filter(|((other, _), _)| *other == row);
            of_row
                .filter(|(_, verdicts)| verdicts.keys().any(|it| is_it(*it)))
                .map(|((_, when), _)| *when)
                .collect()
        };
        let noticed: Vec<When> = when(|it| matches!(it, Verdict::ValueRefused | Verdict::Refused));
        let missed: Vec<When> = when(|it| matches!(it, Verdict::Missed | Verdict::MissedAsTornTail));
        assert_eq!((&noticed[..], &missed[..]), (row.noticed(), row.missed()), "{row:?}: {found:#?}");
    }
}

#[test]
fn each_row_of_the_table_is_in_format_md() {
    let page = include_str!("../../FORMAT.md");
    let rows: Vec<_> = page.lines().filter(|line| line.starts_with("| J")).collect();
    assert_eq!(rows.len(), Row::ALL.len());
    for (line, row) in rows.into_iter().zip(Row::ALL) {
        assert!(line.starts_with(row.text()), "{line}");
        let is_never_missed = line.ends_with("| never |") || line.contains("| never by a writer;");
        assert_eq!(is_never_missed, row.missed().is_empty(), "{line}");
    }
}

const MODES: [Mode; 3] = [Mode::Sync, Mode::Buffered, Mode::Indexed];
const CALLS: [Call; 17] = [
    Call::SaveConfig { len: 1200 },
    Call::Enqueue { job: 0, len: 60 },
    Call::Enqueue { job: 1, len: 700 },
    Call::Ack { job: 0 },
    Call::SaveSession { len: 100 },
    Call::Heartbeat,
    Call::BufferLog { ts_ms: -1, len: 300 },
    // One that is followed by an event that is refused ends early.
    Call::DrainLogs { n: 1 },
    Call::Batch { job: 0, len: 200 },
    Call::AckLogs { n: 1 },
    Call::PutData { key: 0, len: 30 },
    Call::DeleteData { key: 0 },
    Call::Sync,
    Call::Compact,
    Call::Rekey,
    Call::ReopenRekeyed,
    Call::Backup,
];
const SEED: u64 = 5;
/// How many images of a power cut are looked at.
const CUTS: usize = 4;
const FRAMES_AT: usize = 8192;

/// The disk after the process was killed in the middle of one more record, and what there is of that.
fn torn_after(agent: &Agent) -> (World, Vec<u8>) {
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

/// Nothing vouches for the last record of a killed process. If the log is taken to end before it, the next record
/// is written over it.
#[test]
fn a_last_record_that_one_read_does_not_show_is_found_by_the_second_reading() {
    // Of a long one, the rest looks like a torn tail; of a short one, there is none.
    for len in [700, 30] {
        let mut agent = Agent::new(Sim::new(mix(9)), Mode::Sync);
        agent.start().unwrap();
        agent.make(Call::Enqueue { job: 0, len: 700 }).unwrap();
        agent.make(Call::Enqueue { job: 1, len }).unwrap();
        agent.kill();
        let (world, expected) = (agent.sim.world(), agent.oracle.current().clone());
        let sim = Sim::at(world.clone(), 1);
        sim.record_touches();
        assert_eq!(survival::take(&sim).unwrap(), expected);
        let mut lies = 0;
        for touch in sim.take_touches() {
            let About::Read { older, .. } = &touch.about else { continue };
            for &sector in older.iter().filter(|&&sector| sector * SECTOR_LEN >= FRAMES_AT) {
                let sim = Sim::at(world.clone(), 1);
                sim.fail(touch.number, Failure::Lie(Lie::Stale(sector)));
                match survival::take(&sim) {
                    Ok(found) => assert_eq!(found, expected, "{touch:?}, sector {sector} is stale"),
                    Err(error) => assert_names_the_place(&error),
                }
                lies += 1;
            }
        }
        assert!(lies > 4, "{lies}");
    }
}

#[test]
fn a_reader_that_one_read_misleads_shows_an_earlier_state_until_it_looks_again() {
    let [_, killed, _, _] = Beginning::all(Mode::Sync);
    let read = |lie: Option<(usize, Lie)>| {
        let sim = Sim::at(killed.world.clone(), 1);
        sim.record_touches();
        lie.into_iter().for_each(|(n, lie)| sim.fail(n, Failure::Lie(lie)));
        let snapshot = open_snapshot_on(Arc::new(sim.clone()), PATH, &key());
        (snapshot, sim)
    };
    let mut earlier = 0;
    for touch in read(None).1.take_touches() {
        for lie in lies_about(&touch).into_iter().filter(|lie| !matches!(lie, Lie::StaleForGood(_))) {
            let mut snapshot = match read(Some((touch.number, lie))).0 {
                Ok(snapshot) => snapshot,
                Err(error) => {
                    assert_names_the_place(&error);
                    continue;
                }
            };
            let shown = shown_by_snapshot(&snapshot, false);
            assert!(killed.oracle.history().iter().any(|state| is_state(&shown, state)), "{touch:?} {lie:?}");
            earlier += usize::from(!is_state(&shown, killed.oracle.current()));
            snapshot.refresh().unwrap();
            assert!(is_state(&shown_by_snapshot(&snapshot, false), killed.oracle.current()), "{touch:?} {lie:?}");
        }
    }
    assert!(earlier > 0);
}

/// Nothing that is written later could be read without its header.
#[test]
fn a_new_store_whose_header_is_not_on_the_disk_is_refused_at_once() {
    let create = |lie: Option<(usize, Lie)>| {
        let sim = Sim::new(mix(11));
        lie.into_iter().for_each(|(n, lie)| sim.fail(n, Failure::Lie(lie)));
        sim.record_touches();
        let opened = open(&sim, Mode::Sync).map(drop);
        (sim, opened)
    };
    let mut lies = 0;
    for touch in create(None).0.take_touches().into_iter().filter(|touch| touch.name == "state.db.new") {
        let wrong = match touch.about {
            About::Write { .. } => vec![Lie::LostWrite, Lie::WroteAt(512)],
            About::Sync => vec![Lie::LostSync(FailedSync::LosesAll)],
            _ => continue,
        };
        for lie in wrong {
            let (sim, opened) = create(Some((touch.number, lie)));
            assert!(matches!(opened, Err(Error::Io { operation: "create", .. })), "{touch:?} {lie:?}: {opened:?}");
            assert!(sim.live().is_empty());
            lies += 1;
        }
    }
    assert_eq!(lies, 3);
}

/// Else its bytes would be nowhere.
#[test]
fn a_torn_tail_is_cut_off_only_once_its_copy_is_on_the_disk() {
    let mut agent = Agent::new(Sim::new(mix(13)), Mode::Sync);
    agent.start().unwrap();
    agent.make(Call::Enqueue { job: 0, len: 30 }).unwrap();
    let (world, tail) = torn_after(&agent);
    let sim = Sim::at(world.clone(), 1);
    sim.record_touches();
    drop(open(&sim, Mode::Sync).unwrap());
    let mut lies = 0;
    for touch in sim.take_touches().into_iter().filter(|touch| touch.name.contains(".torn-")) {
        let wrong = match touch.about {
            About::Write { .. } => vec![Lie::LostWrite, Lie::WroteAt(512), Lie::WroteToFile(0)],
            About::Sync => [FailedSync::LosesAll, FailedSync::LosesSome].map(Lie::LostSync).into(),
            _ => continue,
        };
        for lie in wrong {
            let sim = Sim::at(world.clone(), 1);
            sim.fail(touch.number, Failure::Lie(lie));
            // The log is not damaged, so it is not set aside.
            let opened = Mode::Sync.options(&sim).on_damage(OnDamage::SetAside).open(PATH, &key()).map(drop);
            let is_refused = matches!(&opened, Err(Error::Io { path, .. }) if path.ends_with("state.db.torn-1"));
            assert!(is_refused, "{touch:?} {lie:?}: {opened:?}");
            let mut world = sim.world();
            world.drop_caches();
            let holds_tail = |content: &Content| content.trimmed_bytes().windows(tail.len()).any(|it| it == tail);
            assert!(lie == Lie::WroteToFile(0) || world.live().values().any(holds_tail), "{touch:?} {lie:?}");
            lies += 1;
        }
    }
    assert_eq!(lies, 5);
}
