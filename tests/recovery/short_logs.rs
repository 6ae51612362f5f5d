//! A log that is shorter than its mark or its base says is damaged, however it became shorter: cut, zeroed or
//! overwritten, from any byte on. The store never shows silently less.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use backupy_state::testing::{Storage, open_snapshot_on, options_on, salvage_on, verify_on};
use backupy_state::{AgentKey, Anchor, Error, FaultKind, FrameInfo, OnDamage, OpenOptions};

use crate::common::{BASE_LEN, BASES, FIRST_FRAME_AT, Image, MARK_PAGE, SLOT_LEN, SLOTS, depth};
use crate::sim::content::Content;
use crate::sim::subject::{end, in_parallel, start};
use crate::sim::world::{self, World};
use crate::sim::{Agent, Call, EIO, Failure, Mode, Op, PATH, Sim, crash, key, other_key};

const COPY: &str = "/sim/copy.db";

/// A log whose end is taken away.
#[derive(Clone)]
struct Whole {
    name: &'static str,
    image: Image,
    key: Arc<AgentKey>,
    frames: Vec<FrameInfo>,
    /// Of a state before the last compaction, if there was one.
    older: Option<Anchor>,
}

impl Whole {
    fn of(name: &'static str, sim: &Sim, path: &str, key: AgentKey, older: Option<Anchor>) -> Self {
        let image = Image { bytes: sim.live()[&PathBuf::from(path)].trimmed_bytes() };
        let mut frames = Vec::new();
        let report = verify_on(sim, path, Some(&key), |frame| frames.push(frame.clone())).unwrap();
        assert!(report.is_intact(), "{name}: {report:?}");
        // A frame may end in zeros.
        let mut image = image;
        let len = frames.last().map_or(FIRST_FRAME_AT, end);
        image.bytes.resize(len, 0);
        Whole { name, image, key: Arc::new(key), frames, older }
    }

    /// The first frame that is not what it was, and so the number of frames before it.
    fn first_changed(&self, damaged: &Image) -> Option<usize> {
        self.frames.iter().position(|frame| {
            let range = start(frame)..end(frame);
            damaged.bytes.get(range.clone()) != Some(&self.image.bytes[range])
        })
    }
}

fn jobs(agent: &mut Agent, count: u8) {
    for job in 0..count {
        agent.make(Call::Enqueue { job: job % 4, len: 30 }).unwrap();
        agent.make(Call::Heartbeat).unwrap();
    }
}

/// A store with some records, still open.
fn used(seed: u64) -> Agent {
    let mut agent = Agent::new(Sim::new(seed), Mode::Sync);
    agent.start().unwrap();
    jobs(&mut agent, 6);
    agent
}

fn every_kind() -> Vec<Whole> {
    let mut wholes = Vec::new();

    let mut empty = Agent::new(Sim::new(1), Mode::Sync);
    empty.start().unwrap();
    empty.close().unwrap();
    wholes.push(Whole::of("empty", &empty.sim, PATH, key(), None));

    let mut closed = used(2);
    closed.close().unwrap();
    wholes.push(Whole::of("closed", &closed.sim, PATH, key(), None));

    // Time passes: see `Sim::clock_ns`.
    let mut killed = used(3);
    jobs(&mut killed, 20);
    killed.kill();
    wholes.push(Whole::of("killed after some minutes", &killed.sim, PATH, key(), None));

    let mut compacted = used(4);
    let older = compacted.store().anchor();
    compacted.make(Call::Compact).unwrap();
    compacted.close().unwrap();
    wholes.push(Whole::of("compacted and closed", &compacted.sim, PATH, key(), Some(older)));

    let mut running = used(5);
    let older = running.store().anchor();
    running.make(Call::Compact).unwrap();
    jobs(&mut running, 5);
    running.kill();
    wholes.push(Whole::of("compacted, used and killed", &running.sim, PATH, key(), Some(older)));

    let mut rekeyed = used(6);
    let older = rekeyed.store().anchor();
    rekeyed.make(Call::Rekey).unwrap();
    rekeyed.close().unwrap();
    wholes.push(Whole::of("rekeyed", &rekeyed.sim, PATH, other_key(), Some(older)));

    let backed_up = used(7);
    backed_up.store().backup(COPY).unwrap();
    wholes.push(Whole::of("backed up", &backed_up.sim, COPY, key(), None));

    let mut salvaged = used(8);
    let older = salvaged.store().anchor();
    salvaged.close().unwrap();
    let storage: Arc<dyn Storage> = Arc::new(salvaged.sim.clone());
    salvage_on(&storage, PATH, &key(), COPY).unwrap();
    wholes.push(Whole::of("salvaged", &salvaged.sim, COPY, key(), Some(older)));

    let imported = Sim::new(9);
    let into = options_on(Arc::new(imported.clone())).open(PATH, &key()).unwrap();
    import(&into);
    into.close().unwrap();
    wholes.push(Whole::of("imported", &imported, PATH, key(), None));
    wholes
}

#[cfg(feature = "import-bolt")]
fn import(into: &backupy_state::Store) {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/bolt/");
    let contents = std::fs::read_to_string(format!("{folder}small.json")).unwrap();
    let agent_key = contents.split("\"agent_key\": \"").nth(1).unwrap().split('"').next().unwrap();
    let agent_key = AgentKey::new(agent_key).unwrap();
    let report = backupy_state::import_bolt(format!("{folder}small.db"), &agent_key, into).unwrap();
    assert!(report.jobs > 0);
}

#[cfg(not(feature = "import-bolt"))]
fn import(into: &backupy_state::Store) {
    into.enqueue_job("run-1", b"as if it came from elsewhere").unwrap();
}

/// How the end is taken away, from an offset on.
#[derive(Clone, Copy, Debug)]
enum Loss {
    Cut,
    Zeroed,
    Overwritten,
}

impl Loss {
    const ALL: [Loss; 3] = [Loss::Cut, Loss::Zeroed, Loss::Overwritten];

    fn apply(self, image: &Image, from: usize) -> Image {
        let mut image = image.clone();
        match self {
            Loss::Cut => image.bytes.truncate(from),
            Loss::Zeroed => image.bytes[from..].fill(0),
            Loss::Overwritten => image.bytes[from..].fill(0xA5),
        }
        image
    }
}

/// A disk with this log, and how to open it.
fn disk(whole: &Whole, damaged: &Image) -> (Sim, OpenOptions) {
    let sim = Sim::on(&world::Image::from([(PathBuf::from(PATH), Content::of(&damaged.bytes))]), 11);
    let mut options = options_on(Arc::new(sim.clone()));
    options.mmap(false);
    if let Some(anchor) = whole.older {
        options.expect_at_least(anchor);
    }
    (sim, options)
}

/// Checks that everything that reads the log says that it is damaged at `expected`.
fn is_damaged(whole: &Whole, damaged: &Image, expected: u64, what: &str) {
    let (sim, mut options) = disk(whole, damaged);
    let before = world::hash(&sim.live());
    let is_right = |error: &Error| matches!(error, Error::Corrupt { offset, .. } if *offset == expected);
    let opened = options.open(PATH, &whole.key).unwrap_err();
    assert!(is_right(&opened), "{what}: {opened}");
    let opened = open_snapshot_on(Arc::new(sim.clone()), PATH, &whole.key).unwrap_err();
    assert!(is_right(&opened), "{what}: {opened}");
    for key in [None, Some(&*whole.key)] {
        let report = verify_on(&sim, PATH, key, |_| {}).unwrap();
        let found = report.faults.iter().find(|fault| fault.kind != FaultKind::Header);
        let found = found.map(|fault| (fault.offset, fault.kind));
        assert_eq!(found, Some((expected, FaultKind::Damage)), "{what}: {report:?}");
    }
    assert_eq!(world::hash(&sim.live()), before, "{what}");

    // Where only CRCs or padding of the last proven frame are damaged, nothing is lost.
    let proven = damaged.proven().map_or(0, |(seq, _)| seq);
    let is_proven_record = |frame: &&FrameInfo| frame.seq <= proven && !frame.is_close;
    let proven_records = whole.frames.iter().filter(is_proven_record).count() as u64;
    let has_all_proven = |records| expected > 0 && records >= proven_records;
    let storage: Arc<dyn Storage> = Arc::new(sim.clone());
    match salvage_on(&storage, PATH, &whole.key, COPY) {
        Ok(report) => assert!(!report.is_complete() || has_all_proven(report.records), "{what}: {report:?}"),
        // Without a header there is nothing to salvage.
        Err(error) => assert!(expected == 0 && is_right(&error), "{what}: {error}"),
    }
    if expected > 0 {
        options.on_damage(OnDamage::SetAside);
        let store = match options.open(PATH, &whole.key) {
            // The anchor is of an older generation, and nothing but the base ties the log to that.
            Err(Error::Stale { .. }) if whole.older.is_some() => {
                let (_, mut options) = disk(&Whole { older: None, ..whole.clone() }, damaged);
                options.on_damage(OnDamage::SetAside).open(PATH, &whole.key).unwrap()
            }
            opened => opened.unwrap(),
        };
        let report = store.recovery().salvaged.as_ref().unwrap();
        assert!(!report.is_complete() || has_all_proven(report.records), "{what}: {report:?}");
    }
}

/// Opens what may be opened, and checks that it is not less than mark and base say.
fn is_not_less_than_proven(whole: &Whole, damaged: &Image, frames: usize, what: &str) {
    let (_, options) = disk(whole, damaged);
    let store = options.open(PATH, &whole.key).unwrap_or_else(|error| panic!("{what}: {error}"));
    let records = whole.frames[..frames].iter().filter(|frame| !frame.is_close).count();
    assert_eq!(store.recovery().records, records as u64, "{what}");
    assert!(damaged.proven().is_none_or(|(seq, _)| seq <= frames as u64), "{what}");
}

#[test]
fn a_log_that_is_shorter_than_its_mark_or_base_is_damaged_however_it_lost_its_end() {
    for whole in every_kind() {
        let (opened, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let has_base = whole.image.bytes[16] == 1;
        let step = depth::real_byte_step();
        in_parallel(whole.image.len().div_ceil(step), |i| {
            let from = i * step;
            for loss in Loss::ALL {
                let damaged = loss.apply(&whole.image, from);
                let what = format!("{}, {loss:?} from {from} on", whole.name);
                let Some(frames) = whole.first_changed(&damaged) else {
                    is_not_less_than_proven(&whole, &damaged, whole.frames.len(), &what);
                    continue;
                };
                let is_short = damaged.len() < FIRST_FRAME_AT;
                let is_base_lost = has_base && from < BASES[0] + BASE_LEN;
                // The magic, and the header.
                if from < 12 || matches!(loss, Loss::Zeroed | Loss::Overwritten) && from < 116 {
                    let error = disk(&whole, &damaged).1.open(PATH, &whole.key).unwrap_err();
                    assert!(matches!(error, Error::NotAStore { .. } | Error::Corrupt { .. }), "{what}: {error}");
                } else if is_short || is_base_lost {
                    is_damaged(&whole, &damaged, 0, &what);
                } else if damaged.proven().is_some_and(|(seq, _)| seq > frames as u64) {
                    is_damaged(&whole, &damaged, whole.frames[frames].offset, &what);
                    refused.fetch_add(1, Ordering::Relaxed);
                } else {
                    is_not_less_than_proven(&whole, &damaged, frames, &what);
                    opened.fetch_add(usize::from(from >= MARK_PAGE.end), Ordering::Relaxed);
                }
            }
        });
        let (opened, refused) = (opened.into_inner(), refused.into_inner());
        println!("{}: {refused} refused, {opened} opened", whole.name);
        assert!(refused > 8, "{}: {refused}", whole.name);
        // Only after a kill, the records since the last mark are not protected.
        assert_eq!(
            opened > 0,
            whole.name.ends_with("killed") || whole.name.starts_with("killed"),
            "{}",
            whole.name
        );
    }
}

/// The logs that have a base; their images without marks; and the number of the frame that the base names.
fn with_base_and_no_marks() -> impl Iterator<Item = (Whole, Image, u64)> {
    every_kind().into_iter().filter(|whole| whole.image.bytes[16] == 1).map(|whole| {
        let mut unmarked = whole.image.clone();
        let (base, _) = unmarked.without_marks().proven().unwrap();
        (whole, unmarked, base)
    })
}

/// Whoever can write the file can remove its marks. In a log with a base, that gains nothing.
#[test]
fn without_its_marks_a_log_still_cannot_end_before_its_base() {
    for (whole, unmarked, base) in with_base_and_no_marks() {
        for frame in whole.frames.iter().filter(|frame| frame.seq <= base) {
            let mut cut = unmarked.clone();
            cut.cut(start(frame));
            is_damaged(&whole, &cut, frame.offset, &format!("{}, cut before {}", whole.name, frame.seq));
        }
    }
}

#[test]
fn a_minute_of_work_is_marked() {
    let mut killed = used(12);
    jobs(&mut killed, 20);
    killed.kill();
    let whole = Whole::of("killed", &killed.sim, PATH, key(), None);
    let (marked, _) = whole.image.proven().unwrap();
    // The clock goes on by 10 seconds at each look, and a call takes two.
    let last = whole.frames.len() as u64;
    assert!(marked + 4 >= last && marked < last, "{marked} of {last}");
}

/// Nobody knows then that the base record itself is not authentic, but that it names another frame.
#[test]
fn without_the_key_a_base_record_that_names_another_frame_is_tampering() {
    for (whole, unmarked, base) in with_base_and_no_marks() {
        // The end and the tag of the frame that it names.
        for at in [8 + 10, 8 + 16] {
            let mut forged = unmarked.clone();
            forged.forge_bases(at);
            let report = verify_on(&disk(&whole, &forged).0, PATH, None, |_| {}).unwrap();
            let found: Vec<_> = report.faults.iter().map(|fault| (fault.offset, fault.kind)).collect();
            let named = whole.frames.iter().find(|frame| frame.seq == base).unwrap();
            assert_eq!(found, [(named.offset, FaultKind::Tampering)], "{}: byte {at}", whole.name);
        }
    }
}

/// Nothing else would show that its end is missing.
#[test]
fn a_log_that_has_lost_both_copies_of_its_base_record_is_damaged() {
    for whole in every_kind().into_iter().filter(|whole| whole.image.bytes[16] == 1) {
        let mut damaged = whole.image.clone();
        BASES.into_iter().for_each(|at| damaged.bytes[at..at + BASE_LEN].fill(0));
        is_damaged(&whole, &damaged, 0, &format!("{}, without its base record", whole.name));
    }
}

fn log_of(image: &world::Image) -> Image {
    Image { bytes: image[&PathBuf::from(PATH)].bytes() }
}

#[test]
fn a_mark_is_written_by_the_first_durable_call_and_after_growth_and_after_a_minute() {
    let mut agent = Agent::new(Sim::new(13), Mode::Sync);
    agent.start().unwrap();
    let marked = |agent: &Agent| log_of(&agent.sim.live()).proven().map(|(seq, _)| seq);
    let (short, growing) = (Call::Heartbeat, Call::Enqueue { job: 0, len: 1_200_000 });
    // The first call finds nothing durable to mark. A call takes 20 seconds.
    let rows = [
        (short, None),
        (short, Some(1)),
        (short, Some(1)),
        (growing, Some(3)),
        (short, Some(3)),
        (short, Some(3)),
        (short, Some(6)),
        (short, Some(6)),
    ];
    for (n, (call, expected)) in rows.into_iter().enumerate() {
        agent.make(call).unwrap();
        assert_eq!(marked(&agent), expected, "call {n}");
    }
    agent.kill();
    agent.start().unwrap();
    agent.make(short).unwrap();
    assert_eq!(marked(&agent), Some(8));

    // A compacted log, before its first record.
    agent.make(Call::Compact).unwrap();
    agent.kill();
    agent.start().unwrap();
    assert!(agent.store().recovery().clean);
}

/// A power cut may tear the write of a mark: then the one before it must still be there.
#[test]
fn a_mark_is_never_written_over_the_one_that_counts() {
    let mut agent = used(14);
    agent.sim.record();
    for session in 0..6 {
        jobs(&mut agent, 3 + session);
        agent.make(if session % 2 == 0 { Call::Reopen } else { Call::Kill }).unwrap();
        if session == 3 {
            agent.make(Call::Compact).unwrap();
        }
    }
    let logs: Vec<_> = agent.sim.take_moments().iter().map(|moment| log_of(&moment.world.live())).collect();
    let mut marks = 0;
    for (before, after) in logs.iter().zip(&logs[1..]) {
        let slot = |log: &Image, at: usize| log.bytes[at..at + SLOT_LEN].to_vec();
        let seq = |at: usize| u64::from_le_bytes(before.bytes[at + 8..at + 16].try_into().unwrap());
        let counts = SLOTS.into_iter().max_by_key(|&at| (seq(at), SLOTS[1] - at)).unwrap();
        let is_another_log = before.bytes[..FIRST_FRAME_AT / 2] != after.bytes[..FIRST_FRAME_AT / 2];
        if is_another_log || seq(counts) == 0 {
            continue;
        }
        assert_eq!(slot(before, counts), slot(after, counts), "over seq {}", seq(counts));
        marks += usize::from(SLOTS.into_iter().any(|at| slot(before, at) != slot(after, at)));
    }
    assert!(marks > 10, "{marks}");
}

/// A power cut after a close may lose the mark of the close frame. That of the frame before it is durable by then.
#[test]
fn a_power_cut_after_a_close_leaves_a_mark_of_the_last_record() {
    let mut agent = used(15);
    agent.close().unwrap();
    let (closed, _) = log_of(&agent.sim.live()).proven().unwrap();
    let world: World = agent.sim.world();
    let mut images = 0;
    crash::images(&world, 16, &mut |image| {
        let (left, _) = log_of(image).proven().unwrap();
        assert!(left + 1 >= closed, "{left} of {closed}");
        images += 1;
    });
    assert!(images > 1);
}

/// A compaction that fails before its rename leaves the next generation to whoever can read the folder. Put back
/// later, it is authentic and whole, and older than an anchor of the log that continued.
#[test]
fn an_anchor_detects_a_compacted_log_that_the_store_did_not_continue() {
    let mut agent = used(13);
    let before = agent.store().anchor();
    let from = agent.sim.ops();
    agent.make(Call::Compact).unwrap();
    let rename = agent.sim.trace()[from..].iter().position(|&op| op == Op::Rename).unwrap();

    let mut agent = used(13);
    assert_eq!(agent.store().anchor(), before);
    agent.sim.fail_from(from + rename, Failure::Errno(EIO));
    assert!(agent.store().compact().is_err());
    agent.sim.heal();
    let stolen = agent.sim.live()[&PathBuf::from(format!("{PATH}.new"))].clone();
    jobs(&mut agent, 5);
    let later = agent.store().anchor();
    assert_eq!(later.generation(), before.generation());

    let open = |expected, on_damage| {
        let sim = Sim::on(&world::Image::from([(PathBuf::from(PATH), stolen.clone())]), 11);
        let mut options = options_on(Arc::new(sim));
        options.mmap(false).on_damage(on_damage).expect_at_least(expected).open(PATH, &key())
    };
    for on_damage in [OnDamage::Refuse, OnDamage::SetAside] {
        assert_eq!(open(before, on_damage).unwrap().stats().generation, 2);
        let refused = open(later, on_damage);
        assert!(matches!(refused, Err(Error::Stale { .. })), "{refused:?}");
    }
    // A frame of another fork with the same number.
    let (id, tag) = before.to_string().rsplit_once('.').map(|(id, tag)| (id.to_owned(), tag.to_owned())).unwrap();
    let other = format!("{id}.{}", tag.chars().rev().collect::<String>()).parse().unwrap();
    let refused = open(other, OnDamage::Refuse);
    assert!(matches!(refused, Err(Error::Stale { .. })), "{refused:?}");
}

/// What the damaged log would have to hold can be seen only in its base.
#[test]
fn an_older_anchor_is_not_satisfied_by_what_is_left_of_a_base() {
    for whole in every_kind().into_iter().filter(|whole| whole.older.is_some()) {
        let mut cut = whole.image.clone();
        cut.without_marks().cut(start(&whole.frames[1]));
        let (_, mut options) = disk(&whole, &cut);
        let refused = options.on_damage(OnDamage::SetAside).open(PATH, &whole.key);
        assert!(matches!(refused, Err(Error::Stale { .. })), "{}: {refused:?}", whole.name);
    }
}
