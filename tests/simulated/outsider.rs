//! An outsider renames, removes, links, replaces and truncates files between any two operations: no file that the
//! store did not make changes, nothing acknowledged is lost without an error, and two handles never write one log.

use std::io::{self, Write};
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::Instant;

use backupy_state::testing::open_snapshot_on;
use backupy_state::{Error, OnDamage, Result, Snapshot};

use crate::common::depth;
use crate::sim::content::Content;
use crate::sim::outsider::{Act, Compacts, Cut, beside_log, names_of};
use crate::sim::subject::in_parallel;
use crate::sim::world::{Image, World};
use crate::sim::{Agent, Call, Mode, Model, Moment, Op, Opened, Oracle, PATH, Sim, key, key_of};

use Call::{
    Ack, Backup, Batch, BufferLog, Compact, DrainLogs, Enqueue, Heartbeat, Rekey, Reopen, SaveConfig, Sync,
};

/// Histories of one call have one of these.
const CALLS: [Call; 14] = [
    Enqueue { job: 0, len: 30 },
    GROWING,
    Ack { job: 0 },
    SaveConfig { len: 1200 },
    Heartbeat,
    BufferLog { ts_ms: 1, len: 40 },
    DrainLogs { n: 2 },
    Batch { job: 0, len: 200 },
    Sync,
    Compact,
    Rekey,
    Backup,
    Reopen,
    Call::ReopenRekeyed,
];
/// Histories of two calls have two of these. A log that was compacted or opened grows with its next record.
const PAIRED: [Call; 8] =
    [Enqueue { job: 0, len: 30 }, Ack { job: 0 }, Sync, Compact, Rekey, Backup, Reopen, Call::ReopenRekeyed];
/// Long enough that its space is allocated before it is written.
const GROWING: Call = Enqueue { job: 1, len: 100 << 10 };
const MODES: [Mode; 2] = [Mode::Sync, Mode::Buffered];

const MOVED: &str = "/sim/moved.db";
const LINK: &str = "/sim/link.db";
const SEED: u64 = 31;

/// What is on the disk at first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    Empty,
    /// A store that was not closed. A torn tail follows its last frame.
    Torn,
    /// A store whose second frame is damaged. It is opened with [`OnDamage::SetAside`].
    Damaged,
    /// A store, and at `<path>.new` a complete one that could replace it.
    Parked,
}

#[derive(Clone, Debug)]
struct History {
    start: Start,
    mode: Mode,
    calls: Vec<Call>,
}

/// What the outsider does, once.
#[derive(Clone, Debug)]
struct Deed {
    name: String,
    acts: Vec<Act>,
}

impl Deed {
    /// Whether there is what it changes.
    fn applies(&self, world: &World) -> bool {
        self.acts.iter().all(|act| act.applies(world))
    }

    fn takes_name(&self, name: &Path) -> bool {
        self.acts.iter().any(|act| act.takes_name(name))
    }

    fn removes_lock(&self) -> bool {
        self.acts.iter().any(|act| matches!(act, Act::RemoveLock(_)))
    }

    fn visits(&self) -> bool {
        self.acts.iter().any(|act| matches!(act, Act::Open(..)))
    }

    fn truncates(&self) -> bool {
        self.acts.iter().any(|act| matches!(act, Act::Truncate(..)))
    }
}

#[test]
fn one_call_and_one_act_of_an_outsider_at_any_operation() {
    let none = histories(&[Start::Empty, Start::Torn, Start::Damaged, Start::Parked], &[vec![]]);
    let one: Vec<Vec<Call>> = CALLS.into_iter().map(|call| vec![call]).collect();
    let one = histories(&[Start::Empty], &one);
    check_all("up to one call", [none, one].concat(), depth::outsider_step());
}

#[test]
fn two_calls_and_one_act_of_an_outsider_at_any_operation() {
    let calls = PAIRED.into_iter().flat_map(|first| PAIRED.into_iter().map(move |second| vec![first, second]));
    check_all("two calls", histories(&[Start::Empty], &calls.collect::<Vec<_>>()), depth::outsider_pairs_step());
}

#[test]
fn a_call_after_a_recovery_and_one_act_of_an_outsider_at_any_operation() {
    let calls = [Enqueue { job: 0, len: 30 }, Compact, Reopen].map(|call| vec![call]);
    let histories = histories(&[Start::Torn, Start::Damaged, Start::Parked], &calls);
    check_all("one call after a recovery", histories, depth::outsider_step());
}

/// A refresh that runs while a file is renamed, removed or replaced shows one of the two files or an error, and
/// the next one shows the file that is there.
#[test]
fn a_refresh_follows_the_file_at_the_path() {
    let deeds = deeds(&History { start: Start::Empty, mode: Mode::Sync, calls: Vec::new() });
    for deed in deeds.iter().filter(|deed| !deed.visits()) {
        for at in 0.. {
            let mut agent = Agent::new(Sim::new(SEED), Mode::Sync);
            agent.start().unwrap();
            agent.make(Enqueue { job: 0, len: 30 }).unwrap();
            let mut snapshot = snapshot(&agent.sim, &key()).unwrap();
            agent.make(Enqueue { job: 2, len: 30 }).unwrap();
            let log = agent.sim.world().named(Path::new(PATH)).unwrap();
            agent.sim.let_outsider(agent.sim.ops() + at, deed.acts.clone());
            let refreshed = snapshot.refresh();
            if agent.sim.outsider_acted_at().is_none() {
                break;
            }
            if refreshed.is_ok() && !deed.truncates() {
                let shown = shown(&snapshot);
                let (before, other) = (shown_of(agent.oracle.current()), shown_of(&other_store().1));
                assert!([before, other].contains(&shown), "{} at {at}: {shown:?}", deed.name);
            }
            check_refreshed(&agent, &mut snapshot, log, &other_store().1, deed.truncates());
        }
    }
}

fn histories(starts: &[Start], calls: &[Vec<Call>]) -> Vec<History> {
    let with_calls = |start, mode| calls.iter().map(move |calls| History { start, mode, calls: calls.clone() });
    let with_mode = |start| MODES.into_iter().flat_map(move |mode| with_calls(start, mode));
    starts.iter().copied().flat_map(with_mode).collect()
}

/// Everything that an outsider may do to the files of this history.
fn deeds(history: &History) -> Vec<Deed> {
    let log = PathBuf::from(PATH);
    let new = beside_log(".new");
    let moved = PathBuf::from(MOVED);
    let move_away = |from: &Path| Act::Rename { from: from.to_owned(), to: moved.clone() };
    let store = || other_store().0.clone();
    let put = |path: &Path, content: Content| Act::Put(path.to_owned(), content);
    let link = || Act::Link { from: log.clone(), to: LINK.into() };
    let open = |path: &Path| Act::Open(path.to_owned(), Compacts::No);
    let compact = |path: &Path| Act::Open(path.to_owned(), Compacts::Yes);
    let lock = || Act::RemoveLock(beside_log(".lock"));
    let mut deeds = Vec::new();
    let mut add = |name: &str, acts: Vec<Act>| deeds.push(Deed { name: name.to_owned(), acts });
    add("removes the log", vec![Act::Remove(log.clone())]);
    add("moves the log away", vec![move_away(&log)]);
    add("moves the log to <path>.new", vec![Act::Rename { from: log.clone(), to: new.clone() }]);
    add("moves the log away, puts a store there", vec![move_away(&log), put(&log, store())]);
    add("moves the log away, puts a text there", vec![move_away(&log), put(&log, text())]);
    add("renames a store over the log", vec![put(&log, store())]);
    add("renames a text over the log", vec![put(&log, text())]);
    add("links the log", vec![link()]);
    for cut in [Cut::At(0), Cut::At(2000), Cut::At(4096), Cut::NearEnd] {
        add(&format!("truncates the log: {cut:?}"), vec![Act::Truncate(log.clone(), cut)]);
    }
    add("opens the store", vec![open(&log)]);
    add("opens the store, compacts the log", vec![compact(&log)]);
    add("removes the lock file, opens the store", vec![lock(), open(&log)]);
    add("links the log, opens the link", vec![link(), open(Path::new(LINK))]);
    add("removes the lock file, opens the store, compacts the log", vec![lock(), compact(&log)]);
    add("moves the log away, opens it there", vec![move_away(&log), open(&moved)]);
    let opens_new = vec![lock(), move_away(&log), open(&log)];
    add("removes the lock file, moves the log away, opens a new one", opens_new);
    add("puts a text at <path>.new", vec![put(&new, text())]);
    add("puts a long text at <path>.new", vec![put(&new, long_text())]);
    add("puts a store at <path>.new", vec![put(&new, store())]);
    add("puts the next generation at <path>.new", vec![put(&new, next_generation().clone())]);
    add("removes <path>.new", vec![Act::Remove(new.clone())]);
    add("moves <path>.new away, puts a text there", vec![move_away(&new), put(&new, text())]);
    add("creates <path>.damaged-1", vec![Act::Create(beside_log(".damaged-1"), text())]);
    add("creates <path>.torn-1", vec![Act::Create(beside_log(".torn-1"), text())]);
    if let Some(target) = backup_of(&history.calls) {
        let new = PathBuf::from(format!("{}.new", target.display()));
        add("puts a text at the target", vec![put(&target, text())]);
        add("puts a text at the target's .new", vec![put(&new, text())]);
        add("puts a store at the target's .new", vec![put(&new, store())]);
        add("removes the target's .new", vec![Act::Remove(new.clone())]);
        add("moves the target's .new away, puts a text there", vec![move_away(&new), put(&new, text())]);
    }
    deeds
}

/// Where the last backup of the history is made.
fn backup_of(calls: &[Call]) -> Option<PathBuf> {
    let last = calls.iter().rposition(|call| *call == Backup)?;
    let number = calls[..=last].iter().filter(|call| !call.begins_anew()).count();
    Some(PathBuf::from(format!("/sim/backup-{number}.db")))
}

fn check_all(what: &str, histories: Vec<History>, step: usize) {
    let begun = Instant::now();
    let (count, places, failed) = (AtomicUsize::new(0), AtomicUsize::new(0), Mutex::new(Vec::new()));
    in_parallel(histories.len(), |i| {
        let history = &histories[i];
        let moments = healthy(history);
        let ops = moments.last().unwrap().ops;
        // Each history begins elsewhere, so that together they try all operations.
        let mut place = i;
        for deed in deeds(history) {
            for at in 0..ops {
                let world = &moments.iter().find(|moment| moment.ops >= at).unwrap().world;
                if !deed.applies(world) {
                    continue;
                }
                place += 1;
                if place.is_multiple_of(step) {
                    if let Err(what) = check(history, &deed, at) {
                        failed.lock().unwrap().push((history.calls.len(), what));
                    }
                    count.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        places.fetch_add(place - i, Ordering::Relaxed);
    });
    let (count, places) = (count.into_inner(), places.into_inner());
    let _ = writeln!(io::stderr(), "{what}: {count} of {places} runs in {:.1?}", begun.elapsed());
    let failed = failed.into_inner().unwrap();
    if let Some((_, first)) = failed.iter().min_by_key(|(calls, _)| *calls) {
        panic!("{} of them fail, among them:\n{first}", failed.len());
    }
}

/// The disk before each operation of a run without an outsider that can change it.
fn healthy(history: &History) -> Vec<Moment> {
    let mut run = Run::new(history, None);
    run.agent.sim.record();
    run.history();
    run.agent.sim.take_moments()
}

fn check(history: &History, deed: &Deed, at: usize) -> Result<(), String> {
    let checked = panic::catch_unwind(AssertUnwindSafe(|| Run::new(history, Some((deed, at))).check()));
    checked.map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without a text");
        format!("{history:?}, an outsider {} before operation {at}\n{text}", deed.name)
    })
}

/// One history, with one deed of an outsider.
struct Run<'a> {
    history: &'a History,
    deed: Option<&'a Deed>,
    agent: Agent,
    /// The file that the agent's store has open, or had open last.
    log: Option<usize>,
    /// What was promised of each log that was open before.
    closed: Vec<(usize, Oracle)>,
    /// Whether a call has returned `Replaced` since the store was opened.
    is_replaced: bool,
    snapshot: Option<Snapshot>,
}

impl<'a> Run<'a> {
    fn new(history: &'a History, deed: Option<(&'a Deed, usize)>) -> Self {
        let (image, holds) = history.start.disk();
        let sim = Sim::on(&image, SEED);
        let closed = holds.map(|states| (sim.world().named(Path::new(PATH)).unwrap(), Oracle::of_history(states)));
        match history.start {
            Start::Damaged => sim.declare_foreign(Path::new(PATH)),
            Start::Parked => sim.declare_foreign(&beside_log(".new")),
            Start::Empty | Start::Torn => {}
        }
        if let Some((deed, at)) = deed {
            sim.let_outsider(at, deed.acts.clone());
        }
        let agent = Agent::new(sim, history.mode);
        let closed = closed.into_iter().collect();
        let deed = deed.map(|(deed, _)| deed);
        Run { history, deed, agent, log: None, closed, is_replaced: false, snapshot: None }
    }

    fn check(mut self) {
        self.history();
        assert!(self.acted_since(0), "the outsider did not act");
        self.agent.sim.check_foreign_files();
        self.agent.sim.kill();
        self.logs_hold_what_was_promised();
        self.backups_are_whole();
        self.torn_tail_is_kept();
    }

    fn history(&mut self) {
        if !self.open(false) {
            return;
        }
        for &call in &self.history.calls {
            if !call.begins_anew() {
                self.call(call);
                continue;
            }
            self.close();
            if !self.open(call == Call::ReopenRekeyed) {
                return;
            }
        }
        self.snapshot_follows();
        if self.acted_since(0) {
            self.nobody_else_can_open_the_log();
        }
        self.close();
    }

    /// Opens the store, at the second try if need be. Returns whether it is open.
    fn open(&mut self, rekeys: bool) -> bool {
        for _ in 0..2 {
            let begun = self.agent.sim.ops();
            let opened = self.try_open(rekeys);
            self.note_visit(begun, false);
            match opened {
                Ok(opened) => return self.opened(opened, begun),
                Err(error) => self.check_error(&error),
            }
        }
        false
    }

    fn try_open(&self, rekeys: bool) -> Result<Opened> {
        let is_other_key = self.agent.oracle.current().is_other_key;
        let mut options = self.history.mode.options(&self.agent.sim);
        if self.history.start == Start::Damaged && self.log.is_none() {
            options.on_damage(OnDamage::SetAside);
        }
        if rekeys {
            options.previous_key(key_of(is_other_key));
        }
        let open = |is_other_key| {
            let store = options.open(PATH, &key_of(is_other_key))?;
            Ok(Opened { store, is_other_key })
        };
        match open(is_other_key != rekeys) {
            Err(Error::WrongKey { .. }) if !rekeys => open(!is_other_key),
            opened => opened,
        }
    }

    fn opened(&mut self, opened: Opened, begun: usize) -> bool {
        let sim = self.agent.sim.clone();
        let log = only(&sim.files_open_to_write());
        self.log = Some(log);
        self.check_lock(begun);
        let is_created = opened.recovery().created;
        let was_absent = self.closed.is_empty() || self.takes_log_name();
        assert!(!is_created || was_absent, "a store was created where there was one");
        let oracle = if is_created { Oracle::default() } else { self.promised(log) };
        let oracle = if self.is_truncated() { Oracle::any_of(oracle.history()) } else { oracle };
        self.agent.oracle = oracle.under(opened.is_other_key);
        let mut of_agent = Some(log);
        while let Some(inode) = of_agent {
            sim.adopt(inode);
            of_agent = sim.predecessor(inode);
        }
        self.is_replaced = false;
        let key = key_of(opened.is_other_key);
        if let Err(error) = self.agent.started(opened) {
            assert!(self.is_truncated(), "reading after the open: {error}");
            self.close();
            return false;
        }
        self.snapshot = snapshot(&sim, &key).ok();
        true
    }

    /// The path is compared with the file once that is locked. So an act before that is noticed.
    fn check_lock(&self, begun: usize) {
        let visits = self.deed.is_some_and(Deed::visits);
        if visits && !self.takes_log_name() {
            assert!(!self.is_elsewhere(), "the outsider has replaced the file that was opened");
        }
        // Where something is found at `<path>.new`, that is locked last.
        let is_log_locked_last = self.history.start != Start::Parked && !self.puts_new() && !visits;
        let trace = self.agent.sim.trace();
        let locked_at = begun + trace[begun..].iter().rposition(|op| *op == Op::TryLock).unwrap();
        let acted_at = self.agent.sim.outsider_acted_at();
        if is_log_locked_last && acted_at.is_some_and(|at| (begun..=locked_at).contains(&at)) {
            assert!(!self.is_elsewhere(), "a file was opened that the path did not mean any more");
        }
    }

    /// What the store on this file must hold, whoever has written it.
    fn promised(&self, inode: usize) -> Oracle {
        let sim = &self.agent.sim;
        if let Some((_, oracle)) = self.closed.iter().rev().find(|(closed, _)| *closed == inode) {
            return oracle.clone();
        }
        if let Some(old) = sim.predecessor(inode) {
            return self.promised(old);
        }
        let hash = sim.world().inode(inode).live.hash();
        assert!(sim.is_foreign(inode) || hash == other_store().0.hash(), "a file of unknown origin was opened");
        Oracle::of(other_store().1.clone())
    }

    fn call(&mut self, call: Call) {
        let sim = self.agent.sim.clone();
        let (begun, log) = (sim.ops(), self.log.unwrap());
        let len = sim.world().inode(log).live.len();
        let made = self.agent.make(call);
        self.note_visit(begun, true);
        if self.was_replaced(begun, call, made.as_ref().err()) {
            return;
        }
        if let Err(error) = made {
            return self.check_error(&error);
        }
        self.log = Some(only(&sim.files_open_to_write()));
        assert!(self.log == Some(log) || sim.predecessor(self.log.unwrap()) == Some(log));
        let was_elsewhere = self.acted_before(begun) && self.is_elsewhere();
        let has_grown = sim.world().inode(log).live.len() > len;
        let looks = matches!(call, Sync | Compact | Rekey) || has_grown;
        assert!(!(was_elsewhere && looks), "{call:?} has not noticed that the path means another file");
        self.check_sync(begun);
    }

    /// A sync of a file that has no name promises nothing.
    fn check_sync(&self, begun: usize) {
        let sim = &self.agent.sim;
        let log = self.log.unwrap();
        if let Some(acted_at) = sim.outsider_acted_at()
            && sim.was_synced_since(log, begun.max(acted_at))
        {
            assert!(!names_of(&sim.world(), log).is_empty(), "a file without a name was synced without an error");
        }
    }

    /// Checks an answer against `Replaced`. Returns whether that is the answer.
    fn was_replaced(&mut self, begun: usize, call: Call, error: Option<&Error>) -> bool {
        let is_replaced = matches!(error, Some(Error::Replaced { .. }));
        if self.is_replaced {
            assert!(is_replaced, "{call:?} after Replaced: {error:?}");
            let trace = self.agent.sim.trace();
            let changes = [Op::Rename, Op::Link, Op::Remove, Op::Write, Op::SetLen, Op::Sync, Op::SyncDir];
            let change = trace[begun..].iter().find(|op| changes.contains(op));
            assert!(change.is_none(), "{call:?} after Replaced: {change:?}");
        }
        if is_replaced {
            assert!(self.acted_since(0) && self.is_elsewhere(), "{call:?} returned Replaced for no reason");
            if self.agent.is_open() && !self.is_truncated() {
                let read = Model::read(self.agent.store()).unwrap();
                let history = self.agent.oracle.history();
                assert!(history.iter().any(|state| state.without_logs() == read), "reads {read:?}");
            }
        }
        self.is_replaced |= is_replaced;
        is_replaced
    }

    fn close(&mut self) {
        let sim = self.agent.sim.clone();
        let begun = sim.ops();
        let closed = self.agent.close();
        self.closed.push((self.log.unwrap(), self.agent.oracle.clone()));
        self.note_visit(begun, false);
        assert!(sim.files_open_to_write().is_empty());
        if self.was_replaced(begun, Reopen, closed.as_ref().err()) {
            return;
        }
        if let Err(error) = closed {
            return self.check_error(&error);
        }
        let was_elsewhere = self.acted_before(begun) && self.is_elsewhere();
        assert!(!was_elsewhere, "close has not noticed that the path means another file");
        self.check_sync(begun);
    }

    fn check_error(&self, error: &Error) {
        assert!(self.acted_since(0), "{error} without an outsider");
        match error {
            Error::Invalid { .. } | Error::NotAStore { .. } | Error::NotFound { .. } | Error::Io { .. } => {}
            Error::Replaced { .. } => assert!(!self.agent.is_open()),
            // It has made a file there after the store had cleared the name.
            Error::Locked { path, .. } if path.extension().is_some_and(|extension| extension == "new") => {}
            Error::Corrupt { .. } | Error::Unauthentic { .. } | Error::Failed { .. } if self.is_truncated() => {}
            _ => panic!("{error:?}"),
        }
    }

    /// What the outsider got when it opened the store during a call of the agent.
    fn note_visit(&mut self, begun: usize, is_held: bool) {
        match self.agent.sim.take_visit() {
            None => {}
            Some(Err(Error::Locked { .. })) => {}
            // The new file of a creation or a compaction is in the way.
            Some(Err(Error::Invalid { .. })) if !is_held || self.takes_log_name() => {}
            Some(Err(Error::Corrupt { .. })) if !is_held && self.history.start == Start::Damaged => {}
            Some(Err(error)) => panic!("the outsider got {error:?}, from operation {begun} on"),
            Some(Ok(visit)) if is_held && !self.takes_log_name() => {
                panic!("the outsider has opened the store that the agent has open: {visit:?}");
            }
            Some(Ok(visit)) => {
                let writers = self.agent.sim.files_open_to_write();
                assert!(!is_held || !writers.contains(&visit.inode), "both have the log open: {visit:?}");
                let is_closed = |inode: &usize| self.closed.iter().any(|(closed, _)| closed == inode);
                // The outsider may have compacted the log.
                let candidates = [Some(visit.inode), self.agent.sim.predecessor(visit.inode)];
                let found = candidates.into_iter().flatten().find(is_closed);
                let before = found.map_or_else(Oracle::default, |inode| self.promised(inode));
                assert!(before.allowed().contains(&visit.before), "the outsider found {:#?}", visit.before);
                self.closed.push((visit.inode, Oracle::of(visit.after)));
            }
        }
    }

    /// No name of the log that is open, and no name that the agent uses, gives a second handle.
    fn nobody_else_can_open_the_log(&self) {
        let sim = &self.agent.sim;
        let world = sim.world();
        for name in names_of(&world, self.log.unwrap()).into_iter().chain([&PathBuf::from(PATH)]) {
            let opened = sim.open_another(name);
            // Such as `<path>.new`.
            let is_own_name = name.as_path() != Path::new(PATH) && name.to_str().unwrap().starts_with(PATH);
            match opened {
                Err(Error::Locked { .. }) => {}
                Err(Error::Invalid { .. }) if is_own_name => {}
                // Another store, for which nothing shuts the other agent out.
                Ok(_) if self.is_elsewhere() && self.deed.is_some_and(Deed::removes_lock) => {}
                // Not even the lock file is touched where there is no store.
                Err(Error::NotAStore { .. }) if self.is_elsewhere() || self.is_truncated() => {}
                opened => panic!("at {}: {opened:?}", name.display()),
            }
        }
    }

    fn snapshot_follows(&mut self) {
        let Some(mut snapshot) = self.snapshot.take() else { return };
        let begun = self.agent.sim.ops();
        let refreshed = snapshot.refresh();
        self.note_visit(begun, true);
        if !self.acted_since(0) {
            assert!(matches!(refreshed, Ok(()) | Err(Error::WrongKey { .. })), "{refreshed:?}");
            return;
        }
        let other = self.visited_at_path().unwrap_or_else(|| other_store().1.clone());
        check_refreshed(&self.agent, &mut snapshot, self.log.unwrap(), &other, self.is_truncated());
    }

    /// Each log that was open still has what was promised of it, under whatever name.
    fn logs_hold_what_was_promised(&self) {
        let sim = &self.agent.sim;
        let world = sim.world();
        let mut checked = Vec::new();
        for (inode, oracle) in self.closed.iter().rev() {
            let mut inode = *inode;
            while let Some(new) = sim.successor(inode) {
                inode = new;
            }
            // A log that was opened again is checked by what was promised last, and a damaged one by its bytes.
            let is_damaged = self.history.start == Start::Damaged && inode == self.closed[0].0;
            if !is_damaged && !checked.contains(&inode) && !names_of(&world, inode).is_empty() {
                self.holds(world.inode(inode).live.clone(), oracle);
                self.holds(world.inode(inode).durable.clone(), oracle);
            }
            checked.push(inode);
        }
    }

    fn holds(&self, content: Content, oracle: &Oracle) {
        let sim = Sim::on(&Image::from([(PathBuf::from(PATH), content)]), SEED);
        let options = Mode::Sync.options(&sim);
        let found =
            [false, true].into_iter().find_map(|is_other_key| match options.open(PATH, &key_of(is_other_key)) {
                Err(Error::WrongKey { .. }) => None,
                opened => Some(opened.and_then(|store| Model::take(&Opened { store, is_other_key }))),
            });
        match found.expect("one of the keys") {
            Err(Error::Corrupt { .. } | Error::Unauthentic { .. } | Error::NotAStore { .. })
                if self.is_truncated() => {}
            Ok(found) => {
                let allowed = if self.is_truncated() { oracle.history() } else { oracle.allowed() };
                let is_allowed = allowed.iter().any(|state| state.state == found.state);
                assert!(is_allowed, "found {found:#?}, not among {allowed:#?}");
            }
            Err(error) => panic!("{error}, instead of {:#?}", oracle.allowed()),
        }
    }

    fn backups_are_whole(&self) {
        let files = self.agent.sim.live();
        for backup in &self.agent.backups {
            let is_outsiders = self.deed.is_some_and(|deed| deed.takes_name(&backup.path));
            if backup.must_be_there(usize::MAX) && !is_outsiders && !self.is_truncated() {
                let copy = files.get(&backup.path).expect("a backup that was made");
                backup.check(&Sim::on(&Image::from([(backup.path.clone(), copy.clone())]), SEED));
            }
        }
    }

    /// The bytes after the last frame are still in a file, unless the outsider has taken that.
    fn torn_tail_is_kept(&self) {
        if self.history.start != Start::Torn || self.takes_log_name() || self.is_truncated() {
            return;
        }
        let is_kept = |content: &Content| content.bytes().windows(TAIL.len()).any(|bytes| bytes == TAIL);
        assert!(self.agent.sim.live().values().any(is_kept), "the torn tail is lost");
    }

    /// What the store at the path holds, if the outsider has made or changed it.
    fn visited_at_path(&self) -> Option<Model> {
        let inode = self.agent.sim.world().named(Path::new(PATH)).filter(|inode| self.log != Some(*inode))?;
        let visited = self.closed.iter().rev().find(|(closed, _)| *closed == inode)?;
        Some(visited.1.current().clone())
    }

    fn acted_since(&self, from: usize) -> bool {
        self.agent.sim.outsider_acted_at().is_some_and(|at| at >= from)
    }

    fn acted_before(&self, begun: usize) -> bool {
        self.agent.sim.outsider_acted_at().is_some_and(|at| at < begun)
    }

    fn is_truncated(&self) -> bool {
        self.acted_since(0) && self.deed.is_some_and(Deed::truncates)
    }

    fn puts_new(&self) -> bool {
        self.deed.is_some_and(|deed| deed.takes_name(&beside_log(".new")))
    }

    fn takes_log_name(&self) -> bool {
        self.acted_since(0) && self.deed.is_some_and(|deed| deed.takes_name(Path::new(PATH)))
    }

    /// Whether the path means another file than the one that is open.
    fn is_elsewhere(&self) -> bool {
        self.agent.sim.world().named(Path::new(PATH)) != self.log
    }
}

fn only(inodes: &[usize]) -> usize {
    assert_eq!(inodes.len(), 1, "files open to write: {inodes:?}");
    inodes[0]
}

fn snapshot(sim: &Sim, key: &backupy_state::AgentKey) -> Result<Snapshot> {
    open_snapshot_on(std::sync::Arc::new(sim.clone()), PATH, key)
}

/// A refresh shows what is at the path now: the file `log`, which the agent has open, or another store.
fn check_refreshed(agent: &Agent, snapshot: &mut Snapshot, log: usize, other: &Model, is_truncated: bool) {
    let (refreshed, world) = (snapshot.refresh(), agent.sim.world());
    let Some(inode) = world.named(Path::new(PATH)) else {
        return assert!(matches!(refreshed, Err(Error::NotFound { .. })), "{refreshed:?}");
    };
    if world.inode(inode).live.hash() == text().hash() {
        return assert!(matches!(refreshed, Err(Error::NotAStore { .. })), "{refreshed:?}");
    }
    let expected = if inode == log { agent.oracle.current() } else { other };
    match refreshed {
        // The log was put under the other key meanwhile, or the file that is there now is under the first one.
        Err(Error::WrongKey { .. }) => {
            assert!(agent.oracle.history().iter().any(|state| state.is_other_key), "{refreshed:?}");
        }
        Err(Error::Corrupt { .. } | Error::Unauthentic { .. } | Error::NotAStore { .. }) if is_truncated => {}
        Ok(()) if !is_truncated => assert_eq!(shown(snapshot), shown_of(expected)),
        refreshed => assert!(is_truncated, "{refreshed:?}"),
    }
}

/// What a reader sees, in the order of the run ids.
type Shown = (Vec<(String, Vec<u8>)>, Option<i64>);

fn shown(snapshot: &Snapshot) -> Shown {
    let jobs = snapshot.dequeue_jobs(usize::MAX).unwrap();
    let jobs = jobs.into_iter().map(|job| (job.run_id, job.payload)).collect();
    (jobs, snapshot.last_heartbeat().unwrap())
}

fn shown_of(model: &Model) -> Shown {
    let mut jobs = model.jobs.clone();
    jobs.sort();
    (jobs, model.heartbeat)
}

/// A closed log, and what it has held after each call.
fn store_of(seed: u64, calls: &[Call]) -> (Content, Vec<Model>) {
    let mut agent = Agent::new(Sim::new(seed), Mode::Sync);
    agent.start().unwrap();
    calls.iter().for_each(|&call| agent.make(call).unwrap());
    agent.close().unwrap();
    (agent.sim.live()[Path::new(PATH)].clone(), agent.oracle.history().to_vec())
}

/// Another store under the same key, with jobs of its own.
fn other_store() -> &'static (Content, Model) {
    static STORE: OnceLock<(Content, Model)> = OnceLock::new();
    STORE.get_or_init(|| {
        let (content, states) = store_of(SEED + 1, &[Enqueue { job: 7, len: 50 }, Enqueue { job: 8, len: 60 }]);
        (content, states.last().unwrap().clone())
    })
}

const FILLING: [Call; 3] =
    [Enqueue { job: 4, len: 300 }, Enqueue { job: 5, len: 600 }, Enqueue { job: 6, len: 90 }];

/// The store that the starts other than [`Start::Empty`] begin with.
fn first_store() -> &'static (Content, Vec<Model>) {
    static STORE: OnceLock<(Content, Vec<Model>)> = OnceLock::new();
    STORE.get_or_init(|| store_of(SEED, &FILLING))
}

/// The next generation of the first store: as complete as one that an operator has salvaged.
fn next_generation() -> &'static Content {
    static STORE: OnceLock<Content> = OnceLock::new();
    STORE.get_or_init(|| store_of(SEED, &[&FILLING[..], &[Compact]].concat()).0)
}

fn text() -> Content {
    Content::of(b"To do: milk, bread")
}

fn long_text() -> Content {
    Content::of(&b"To do: milk, bread. ".repeat(400))
}

/// No frame, and long enough to be unique.
const TAIL: &[u8] = b"The writer was killed while it wrote this frame.";

impl Start {
    /// The disk, and what the store at the path has held after each of its calls.
    fn disk(self) -> (Image, Option<Vec<Model>>) {
        if self == Start::Empty {
            return (Image::new(), None);
        }
        let (mut content, mut holds) = first_store().clone();
        let mut image = Image::new();
        match self {
            Start::Empty => {}
            Start::Torn => content.write(TAIL, content.len()),
            Start::Damaged => {
                // In the value of the second job.
                content.write(&[0xAA; 16], 8192 + 450 + 200);
                holds.iter_mut().for_each(|state| state.jobs.retain(|(run_id, _)| run_id != "run-5"));
            }
            Start::Parked => drop(image.insert(beside_log(".new"), next_generation().clone())),
        }
        image.insert(PathBuf::from(PATH), content);
        (image, Some(holds))
    }
}

#[test]
fn runs_without_an_outsider_find_no_fault() {
    for start in [Start::Empty, Start::Torn, Start::Damaged, Start::Parked] {
        for history in histories(&[start], &CALLS.map(|call| vec![call])) {
            healthy(&history);
        }
    }
}
