//! Disks that lie: an operation reports success and has done something else. No lie leads to a wrong answer: a
//! value is the one that was written or is refused, and the state is the last one, or it is refused to open the
//! store. Where this cannot be promised, an older state is shown. Where that is, the table in section 12 of
//! FORMAT.md says, and the test takes it by its word.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Write};
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

use backupy_state::{Anchor, Error, Result};

use super::shown::{Look, Shown, assert_names_the_place, is_refused_by, is_state, is_whole, shown_by};
use super::told_lies::{Beginning, Case, Row, SEED, Verdict, When};
use crate::common::depth;
use crate::sim::world::{self, World};
use crate::sim::{Agent, Call, Failure, Mode, PATH, Sim, crash};

/// Prints even if the test passes. The output of `println` is captured.
macro_rules! report {
    ($($said:tt)*) => {
        let _ = writeln!(io::stderr(), $($said)*);
    };
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
        // A reader looks neither for a log that has lost its name nor at what is in the writer's way.
        let (snapshot, _) = verdict(&look.snapshot);
        let is_in_the_way = matches!(look.live, Err(Error::Invalid { .. }));
        let is_as_good = snapshot == live
            || world.has_lost()
            || matches!(case.row(), Row::Syncs | Row::Folder)
            || (is_in_the_way && snapshot == Verdict::Right);
        assert!(is_as_good, "{when:?}: {live:?}, but a snapshot {snapshot:?} {:?}", look.live.as_ref().err());
        let is_noticed = matches!(live, Verdict::Refused | Verdict::ValueRefused);
        // Verify looks at the log alone.
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
/// How many images of a power cut are looked at.
const CUTS: usize = 4;
