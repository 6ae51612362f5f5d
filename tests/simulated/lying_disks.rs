//! Disks that lie: an operation reports success and has done something else.

use std::collections::{BTreeMap, HashMap};
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use backupy_state::testing::{open_snapshot_on, verify_on};
use backupy_state::{Check, Error, Result};

use super::survival;
use crate::common::depth;
use crate::sim::lies::{About, Touch};
use crate::sim::random::mix;
use crate::sim::world::{self, FailedSync, World};
use crate::sim::{Agent, Call, Failure, Lie, Mode, Model, Oracle, PATH, Sim, crash, key_of};

/// What a store shows: its values by their names, without a value where it was refused.
type Shown = BTreeMap<String, Option<Vec<u8>>>;

/// What a store shows of each value. `Store` and `Snapshot` have the same calls, and no trait.
macro_rules! shown {
    ($store:expr, $is_other_key:expr) => {{
        let store = $store;
        let mut shown = Shown::from([("key".to_owned(), Some(vec![u8::from($is_other_key)]))]);
        let mut show = |name: String, read: Result<Option<Vec<u8>>>| match read {
            Ok(None) => None,
            Ok(value) => shown.insert(name, value),
            Err(error) => {
                assert_names_the_place(&error);
                shown.insert(name, None)
            }
        };
        show("config".to_owned(), store.load_config().map(|it| it.map(|it| config(it.version, &it.raw))));
        let session = |it: backupy_state::Session| session(&it.session_id, it.server_time_ms);
        show("session".to_owned(), store.load_session().map(|it| it.map(session)));
        let heartbeat = store.last_heartbeat().map(|it| it.map(|it| it.to_be_bytes().to_vec()));
        show("heartbeat".to_owned(), heartbeat);
        for run_id in store.run_ids() {
            let payload = store.job(&run_id).map(|it| it.map(|it| it.payload));
            show(format!("job {run_id}"), payload);
        }
        for (i, event) in store.logs().enumerate() {
            show(format!("event {i}"), event.map(|event| Some(config(event.ts_ms as u64, &event.payload))));
        }
        for key in store.data_keys("") {
            let value = store.data(&key);
            show(format!("data {key}"), value);
        }
        shown
    }};
}

fn config(version: u64, raw: &[u8]) -> Vec<u8> {
    [&version.to_be_bytes(), raw].concat()
}

fn session(id: &str, time: i64) -> Vec<u8> {
    config(time as u64, id.as_bytes())
}

/// Whether a store that shows this is in the state `model`, as far as it was not refused.
fn is_state(shown: &Shown, model: &Model) -> bool {
    let mut expected = BTreeMap::from([("key".to_owned(), vec![u8::from(model.is_other_key)])]);
    let config_value = model.config.as_ref().map(|(version, raw)| config(*version, raw));
    expected.extend(config_value.map(|value| ("config".to_owned(), value)));
    let session_value = model.session.as_ref().map(|(id, time)| session(id, *time));
    expected.extend(session_value.map(|value| ("session".to_owned(), value)));
    expected.extend(model.heartbeat.map(|it| ("heartbeat".to_owned(), it.to_be_bytes().to_vec())));
    expected.extend(model.jobs.iter().map(|(run_id, payload)| (format!("job {run_id}"), payload.clone())));
    let events = model.logs.iter().enumerate();
    expected.extend(events.map(|(i, (ts_ms, payload))| (format!("event {i}"), config(*ts_ms as u64, payload))));
    expected.extend(model.data.iter().map(|(key, value)| (format!("data {key}"), value.clone())));
    shown.len() == expected.len()
        && shown.iter().zip(&expected).all(|((name, value), (expected_name, expected))| {
            name == expected_name && value.as_ref().is_none_or(|value| value == expected)
        })
}

fn is_whole(shown: &Shown) -> bool {
    shown.values().all(Option::is_some)
}

/// What is noticed is reported with the file, and where in it.
fn assert_names_the_place(error: &Error) {
    let is_typed = match error {
        Error::Corrupt { path, .. } | Error::Unauthentic { path, .. } | Error::NotAStore { path, .. } => {
            path.starts_with("/sim")
        }
        Error::Failed { .. } => true,
        // No file: the folder was not synced.
        Error::NotFound { path, .. } => path.starts_with("/sim"),
        Error::Invalid { what, .. } => what.starts_with("/sim/") && what.contains("is in the way"),
        _ => false,
    };
    assert!(is_typed, "{error:?}");
}

/// What a disk shows after the next open, in each way to look.
struct Look {
    live: Result<Shown>,
    /// With [`Check::Everything`].
    everything: Result<Shown>,
    snapshot: Result<Shown>,
    is_intact: bool,
    torn: bool,
}

impl Look {
    fn at(world: &World) -> Look {
        let open = |check, is_other| {
            let sim = Sim::at(world.clone(), 1);
            let store = Mode::Sync.options(&sim).check(check).open(PATH, &key_of(is_other))?;
            let torn = store.recovery().quarantined.is_some();
            Ok((shown!(&store, is_other), torn))
        };
        let snapshot = |is_other| {
            let sim = Sim::at(world.clone(), 1);
            let snapshot = open_snapshot_on(Arc::new(sim), PATH, &key_of(is_other))?;
            Ok(shown!(&snapshot, is_other))
        };
        let live = with_either_key(|is_other| open(Check::Live, is_other));
        let torn = live.as_ref().is_ok_and(|(_, torn)| *torn);
        let verify = |is_other| {
            Ok(verify_on(&Sim::at(world.clone(), 1), PATH, Some(&key_of(is_other)), |_| {})?.is_intact())
        };
        Look {
            live: live.map(|(shown, _)| shown),
            everything: with_either_key(|is_other| open(Check::Everything, is_other)).map(|(shown, _)| shown),
            snapshot: with_either_key(snapshot),
            is_intact: with_either_key(verify).unwrap_or(false),
            torn,
        }
    }
}

fn with_either_key<T>(look: impl Fn(bool) -> Result<T>) -> Result<T> {
    match look(false) {
        Err(Error::WrongKey { .. }) => look(true),
        looked => looked,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Verdict {
    /// All that was acknowledged is there.
    Right,
    /// The same, but values are refused.
    RefusesValues,
    /// It is refused to open it.
    RefusesToOpen,
    /// An older state, and nothing is said.
    Older,
    /// An older state, and the bytes of a torn tail are kept.
    Torn,
}

impl Verdict {
    fn of(found: &Result<Shown>, is_torn: bool, allowed: &[Model], history: &[Model]) -> Verdict {
        match found {
            Err(error) => {
                assert_names_the_place(error);
                Verdict::RefusesToOpen
            }
            Ok(shown) if allowed.iter().any(|state| is_state(shown, state)) => {
                if is_whole(shown) { Verdict::Right } else { Verdict::RefusesValues }
            }
            Ok(shown) if history.iter().any(|state| is_state(shown, state)) => {
                if is_torn { Verdict::Torn } else { Verdict::Older }
            }
            Ok(shown) => panic!("shows what never was: {shown:?}, not among {history:#?}"),
        }
    }
}

/// Where a session begins.
#[derive(Clone)]
struct Beginning {
    name: &'static str,
    mode: Mode,
    world: World,
    oracle: Oracle,
}

impl Beginning {
    fn all(mode: Mode) -> Vec<Beginning> {
        let fresh = || Agent::new(Sim::new(mix(3)), mode);
        let at = |name, agent: &Agent| Beginning {
            name,
            mode,
            world: agent.sim.world(),
            oracle: agent.oracle.clone(),
        };
        let mut all = vec![at("fresh", &fresh())];
        let mut agent = fresh();
        agent.start().unwrap();
        for call in [
            Call::Enqueue { job: 0, len: 30 },
            Call::PutData { key: 0, len: 700 },
            Call::BufferLog { ts_ms: 1, len: 60 },
            Call::Enqueue { job: 2, len: 30 },
        ] {
            agent.make(call).unwrap();
        }
        all.push(at("killed", &agent));
        agent.close().unwrap();
        all.push(at("closed", &agent));
        all
    }
}

/// The calls of a session.
const CALLS: [Call; 17] = [
    Call::SaveConfig { len: 1200 },
    Call::Enqueue { job: 0, len: 60 },
    Call::Enqueue { job: 1, len: 700 },
    Call::Ack { job: 0 },
    Call::SaveSession { len: 100 },
    Call::Heartbeat,
    Call::BufferLog { ts_ms: -1, len: 300 },
    Call::DrainLogs { n: 2 },
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

/// A session in which one operation lies.
struct Case<'a> {
    beginning: &'a Beginning,
    calls: &'a [Call],
    touch: Touch,
    lie: Lie,
}

impl Case<'_> {
    fn name(&self) -> String {
        let Case { beginning: Beginning { name, mode, .. }, calls, touch, lie } = self;
        format!("{mode:?} {name} {calls:?}: {touch:?} {lie:?}")
    }

    fn row(&self) -> String {
        let about = match (&self.touch.about, self.touch.name.as_str()) {
            (About::Write { range, .. }, "state.db") if range.start < 4096 => "header",
            (About::Write { range, .. }, "state.db") if range.start < 8192 => "mark",
            (About::Write { is_zero: true, .. }, "state.db") => "zeros",
            (About::SyncDir, _) => "folder",
            (_, name) => name,
        };
        let what = match self.lie {
            Lie::LostWrite => "lost write",
            Lie::WroteAt(_) | Lie::WroteToFile(_) => "wrote elsewhere",
            Lie::LostSync(how) => match how {
                FailedSync::LosesAll => "lost sync",
                FailedSync::LosesSome => "half a sync",
                FailedSync::KeepsAll => "late sync",
            },
            Lie::Stale(_) => "stale read",
            Lie::StaleForGood(_) => "stale for good",
            Lie::ReadAnother(..) => "read another",
        };
        let sector = match self.lie {
            Lie::Stale(n) | Lie::StaleForGood(n) | Lie::ReadAnother(n, _) if about == "state.db" => match n {
                0..8 => " header",
                8..16 => " mark",
                _ => " frames",
            },
            _ => "",
        };
        format!("{what} {about}{sector}")
    }
}

/// The lies that are tried in the place of an operation.
fn lies_about(touch: &Touch) -> Vec<Lie> {
    match &touch.about {
        About::Sync => {
            [FailedSync::LosesAll, FailedSync::LosesSome, FailedSync::KeepsAll].map(Lie::LostSync).into()
        }
        About::SyncDir => vec![Lie::LostSync(FailedSync::KeepsAll)],
        About::Write { range, is_zero: true } if range.start > 0 => {
            vec![Lie::LostWrite, Lie::WroteAt(0), Lie::WroteAt(8192), Lie::WroteToFile(0)]
        }
        About::Write { range, .. } => {
            let at = range.start;
            let near = [at.wrapping_sub(512), at + 512, at.wrapping_sub(4096), at + 4096];
            let far = [0, 2048, 4096, 6144, 8192];
            let mut places: Vec<u64> = near.into_iter().chain(far).filter(|&to| to < 1 << 40 && to != at).collect();
            places.sort_unstable();
            places.dedup();
            let elsewhere = places.into_iter().map(Lie::WroteAt);
            let mut lies = vec![Lie::LostWrite, Lie::WroteToFile(0), Lie::WroteToFile(1)];
            lies.extend(elsewhere);
            lies
        }
        About::Read { nonzero, older } => {
            let ends = |numbers: &[usize]| {
                let all = numbers.iter().copied().enumerate();
                all.filter(|(i, _)| *i < 3 || i + 4 > numbers.len()).map(|(_, n)| n).collect::<Vec<_>>()
            };
            let stale = ends(older).into_iter().flat_map(|n| [Lie::Stale(n), Lie::StaleForGood(n)]);
            let others = |n: usize| [n + 1, n.saturating_sub(1), 16].map(|other| Lie::ReadAnother(n, other));
            stale.chain(ends(nonzero).into_iter().flat_map(others)).collect()
        }
    }
}

/// All lies in a session.
fn cases<'a>(beginning: &'a Beginning, calls: &'a [Call]) -> Vec<Case<'a>> {
    let sim = Sim::at(beginning.world.clone(), 5);
    sim.record_touches();
    let mut agent = Agent::new(sim, beginning.mode);
    agent.oracle = beginning.oracle.clone();
    agent.start().unwrap();
    for &call in calls {
        agent.make(call).unwrap();
    }
    drop(shown!(&**agent.store(), agent.store().is_other_key));
    let touches = { agent.close().unwrap(); agent.sim.take_touches() };
    let case = |touch: Touch| {
        lies_about(&touch).into_iter().map(move |lie| Case { beginning, calls, touch: touch.clone(), lie })
    };
    touches.into_iter().flat_map(case).collect()
}

#[derive(Default)]
struct Tally {
    looks: Mutex<HashMap<u64, Arc<Look>>>,
    counts: Mutex<BTreeMap<(String, &'static str), BTreeMap<Verdict, (usize, String)>>>,
}

impl Tally {
    fn look(&self, world: &World) -> Arc<Look> {
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

    fn count(&self, case: &Case<'_>, when: &'static str, verdict: Verdict) {
        let mut counts = self.counts.lock().unwrap();
        let of_row = counts.entry((case.row(), when)).or_default();
        of_row.entry(verdict).or_insert_with(|| (0, case.name())).0 += 1;
    }

    fn check(&self, case: &Case<'_>) {
        let sim = Sim::at(case.beginning.world.clone(), 5);
        sim.fail(case.touch.number, Failure::Lie(case.lie));
        let mut agent = Agent::new(sim, case.beginning.mode);
        agent.oracle = case.beginning.oracle.clone();
        agent.takes_older_states = true;
        let before = agent.oracle.current().clone();
        let mut refused = Vec::new();
        let started = agent.start();
        if started.is_ok() {
            let is_right = *agent.oracle.current() == before;
            self.count(case, "open", if is_right { Verdict::Right } else { Verdict::Older });
            for &call in case.calls {
                if agent.is_open() {
                    refused.extend(agent.make(call).err());
                }
            }
        } else {
            self.count(case, "open", Verdict::RefusesToOpen);
        }
        refused.extend(started.err());
        if agent.is_open() {
            let shown = shown!(&**agent.store(), agent.store().is_other_key);
            assert!(is_state(&shown, agent.oracle.current()), "{shown:?}");
            let has_refused = !refused.is_empty() || !is_whole(&shown);
            self.count(case, "running", if has_refused { Verdict::RefusesValues } else { Verdict::Right });
        }
        refused.iter().for_each(assert_names_the_place);
        if agent.sim.ops() > case.touch.number {
            self.endings(case, &agent, "killed");
        }
        if agent.is_open() && agent.close().is_ok() {
            self.endings(case, &agent, "closed");
        }
    }

    fn endings(&self, case: &Case<'_>, agent: &Agent, how: &'static str) {
        let world = agent.sim.world();
        self.ending(case, agent, how, &world);
        if world.has_lost() {
            let mut evicted = world.clone();
            evicted.drop_caches();
            self.ending(case, agent, if how == "killed" { "killed, evicted" } else { "closed, evicted" }, &evicted);
        }
        let cut = if how == "killed" { "killed, cut" } else { "closed, cut" };
        crash::some_images(&world, 7, 4, &mut |image| self.ending(case, agent, cut, &World::of(image)));
    }

    fn ending(&self, case: &Case<'_>, agent: &Agent, when: &'static str, world: &World) {
        let look = self.look(world);
        let (allowed, history) = (agent.oracle.allowed(), agent.oracle.history());
        let verdict = |found, torn| Verdict::of(found, torn, allowed, history);
        let live = verdict(&look.live, look.torn);
        let everything = verdict(&look.everything, look.torn);
        let snapshot = verdict(&look.snapshot, look.torn);
        self.count(case, when, live);
        assert!(everything == live || everything == Verdict::RefusesToOpen, "{when}: {live:?} {everything:?}");
    }
}

#[test]
fn lies() {
    let beginnings: Vec<_> =
        [Mode::Sync, Mode::Buffered, Mode::Indexed].into_iter().flat_map(Beginning::all).collect();
    let singles = CALLS.map(|call| [call]);
    let sessions = beginnings.iter().flat_map(|it| singles.iter().map(move |calls| (it, &calls[..])));
    let cases: Vec<_> = sessions.flat_map(|(beginning, calls)| cases(beginning, calls)).collect();
    let step = depth::lie_step();
    let cases: Vec<_> = cases.iter().step_by(step).collect();
    println!("{} cases", cases.len());
    let tally = Tally::default();
    let next = AtomicUsize::new(0);
    let failed = Mutex::new(BTreeMap::<String, (usize, String)>::new());
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(panic) = panic::catch_unwind(AssertUnwindSafe(|| tally.check(case))) {
                        let text = panic.downcast::<String>().map_or("?".to_owned(), |text| *text);
                        failed.lock().unwrap().entry(case.row()).or_insert((0, format!("{}\n{text}", case.name()))).0 += 1;
                    }
                }
            });
        }
    });
    for ((row, when), verdicts) in tally.counts.lock().unwrap().iter() {
        println!("{row} | {when} | {}", verdicts.iter().map(|(v, (n, _))| format!("{v:?} {n}")).collect::<Vec<_>>().join(", "));
    }
    println!("{} looks", tally.looks.lock().unwrap().len());
    for ((row, when), verdicts) in tally.counts.lock().unwrap().iter() {
        for (v, (_, name)) in verdicts.iter().filter(|(v, _)| matches!(v, Verdict::Older | Verdict::Torn)) {
            println!("EXAMPLE {row} | {when} | {v:?} | {name}");
        }
    }
    let failed = failed.into_inner().unwrap();
    for (row, (n, text)) in &failed {
        println!("FAILED {row}: {n}: {}", &text[..text.len().min(1500)]);
    }
    assert!(failed.is_empty());
}

/// Nothing vouches for the last record of a killed process. If the log is taken to end before it, the next record
/// is written over it.
#[test]
fn a_last_record_that_one_read_does_not_show_is_found_by_the_second_reading() {
    let mut agent = Agent::new(Sim::new(mix(9)), Mode::Sync);
    agent.start().unwrap();
    agent.make(Call::Enqueue { job: 0, len: 700 }).unwrap();
    agent.make(Call::Enqueue { job: 1, len: 700 }).unwrap();
    agent.kill();
    let (world, expected) = (agent.sim.world(), agent.oracle.current().clone());
    let sim = Sim::at(world.clone(), 1);
    sim.record_touches();
    assert_eq!(survival::take(&sim).unwrap(), expected);
    let mut lies = 0;
    for touch in sim.take_touches() {
        let About::Read { older, .. } = &touch.about else { continue };
        for &sector in older.iter().filter(|&&sector| sector >= 16) {
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
