//! Importing into new stores, into those of an interrupted import, into those that already have contents, and into
//! small log buffers; and a power cut at every operation.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use backupy_state::testing::{log_rate, options_on};
use backupy_state::{
    AgentKey, Batch, Error, ImportReport, LogLimits, OpenOptions, QueueLimits, Result, Store, WhenFull,
    import_bolt,
};
use tempfile::TempDir;

use crate::sim::world::Image;
use crate::sim::{EIO, ENOSPC, Failure, Sim, crash};
use crate::writer::Agent;
use crate::{Contents, KEY, agent, expected, key};

/// A bbolt file, and a store that it may go into.
struct Place {
    folder: TempDir,
}

impl Place {
    fn with(agent: &Agent) -> Self {
        let place = Place { folder: tempfile::tempdir().unwrap() };
        fs::write(place.from(), agent.file(KEY.as_bytes(), 4096, 5)).unwrap();
        place
    }

    fn from(&self) -> PathBuf {
        self.folder.path().join("old.db")
    }

    fn open(&self) -> Store {
        Store::open(self.folder.path().join("state.db"), &key()).unwrap()
    }

    fn import(&self, store: &Store) -> Result<ImportReport> {
        import_bolt(self.from(), &key(), store)
    }
}

/// Payloads of some 60 KiB, so that an import takes several records.
fn large() -> Agent {
    let payload = |i: u8| vec![i; 60_000 + usize::from(i)];
    Agent {
        jobs: (0..10).map(|i| (format!("run-{i:02}"), payload(i))).collect(),
        logs: (0..10).map(|i| (u64::from(i) / 3, i.into(), payload(i))).collect(),
        ..agent()
    }
}

fn contents(store: &Store) -> Contents {
    (
        store.load_config().unwrap(),
        store.load_session().unwrap(),
        store.last_heartbeat().unwrap(),
        store.dequeue_jobs(usize::MAX).unwrap(),
        store.peek_logs(usize::MAX).unwrap().events().to_vec(),
    )
}

fn assert_refused(place: &Place, store: &Store) {
    let (before, seq) = (contents(store), store.stats().seq);
    let error = place.import(store).unwrap_err();
    assert!(matches!(error, Error::Invalid { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("already holds other data") || text.contains("was used since"), "{text}");
    assert_eq!((contents(store), store.stats().seq), (before, seq));
}

#[test]
fn an_import_takes_several_records_and_a_second_one_none() {
    let place = Place::with(&large());
    let store = place.open();
    let report = place.import(&store).unwrap();
    assert_eq!(contents(&store), expected(&large()));
    let seq = store.stats().seq;
    assert!(seq > 4, "{seq}");
    assert_eq!((report.jobs, report.log_events, report.already_there), (10, 10, 0));

    let again = place.import(&store).unwrap();
    assert_eq!(again.already_there, 20);
    assert_eq!((contents(&store), store.stats().seq), (expected(&large()), seq));
}

#[test]
fn a_small_file_is_one_record() {
    let place = Place::with(&agent());
    let store = place.open();
    place.import(&store).unwrap();
    assert_eq!(store.stats().seq, 1);
}

#[test]
fn an_empty_file_writes_nothing() {
    let place = Place::with(&Agent::default());
    let store = place.open();
    assert_eq!(place.import(&store).unwrap(), place.import(&store).unwrap());
    assert_eq!(store.stats().seq, 0);
}

#[test]
fn what_came_over_is_durable_also_in_a_store_that_buffers() {
    let place = Place::with(&agent());
    let sim = Sim::new(3);
    let mut options = options_on(Arc::new(sim.clone()));
    let options = options.mmap(false);
    let store = options.durability(backupy_state::Durability::Buffered).open("/sim/state.db", &key()).unwrap();
    place.import(&store).unwrap();
    crash::some_images(&sim.world(), 4, 20, &mut |image| {
        assert_eq!(contents(&open(&Sim::on(image, 5)).unwrap()), expected(&agent()));
    });
}

#[test]
fn a_store_with_a_state_of_its_own_is_left_alone() {
    let place = Place::with(&agent());
    type Use<'a> = &'a dyn Fn(&Store) -> Result<()>;
    let uses: [Use<'_>; 10] = [
        &|store| store.put_data("cursor/orders", b"17"),
        // A queue that is empty, and was not.
        &|store| store.enqueue_job("run-99", b"new").and(store.ack_job("run-99")).map(drop),
        &|store| store.save_config(7, b"another"),
        &|store| store.save_config(7, b"interval = 42"),
        &|store| store.save_session("session-1", 5),
        &|store| store.record_heartbeat(1_700_000_060_000),
        &|store| store.enqueue_job("run-99", b"new").map(drop),
        &|store| store.enqueue_job("run-00", b"another payload").map(drop),
        &|store| store.enqueue_job("run-01", &[1; 41]).map(drop),
        &|store| store.buffer_log(5, b"first").map(drop),
    ];
    for used in uses {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path().join("state.db"), &key()).unwrap();
        used(&store).unwrap();
        assert_refused(&place, &store);
    }
}

#[test]
fn a_store_that_went_on_after_the_import_is_left_alone() {
    let place = Place::with(&agent());
    type Use<'a> = &'a dyn Fn(&Store) -> Result<()>;
    let uses: [Use<'_>; 10] = [
        &|store| store.put_data("cursor/orders", b"17"),
        &|store| store.ack_job("run-00").map(drop),
        &|store| store.ack_job("run-19").map(drop),
        &|store| store.enqueue_job("run-20", b"new").map(drop),
        &|store| store.enqueue_job("run-05", b"replaced").map(drop),
        &|store| store.drain_logs(1).map(drop),
        &|store| store.drain_logs(100).map(drop),
        &|store| store.buffer_log(10_000, b"new").map(drop),
        &|store| store.record_heartbeat(1_700_000_060_001),
        &|store| store.save_config(8, b"interval = 43"),
    ];
    for used in uses {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path().join("state.db"), &key()).unwrap();
        place.import(&store).unwrap();
        used(&store).unwrap();
        assert_refused(&place, &store);
    }
}

#[test]
fn an_interrupted_import_of_another_file_is_left_alone() {
    let place = Place::with(&agent());
    let store = place.open();
    // As far as the second record of an import.
    for i in 0..5 {
        store.enqueue_job(&format!("run-{i:02}"), &vec![i; 40 + usize::from(i)]).unwrap();
    }
    let mut other = agent();
    other.jobs[3].1[0] ^= 1;
    let place = Place { folder: place.folder };
    fs::write(place.from(), other.file(KEY.as_bytes(), 4096, 5)).unwrap();
    assert_refused(&place, &store);
    fs::write(place.from(), agent().file(KEY.as_bytes(), 4096, 5)).unwrap();
    assert_eq!(place.import(&store).unwrap().already_there, 5);
    assert_eq!(contents(&store), expected(&agent()));
}

#[test]
fn a_refused_file_writes_nothing() {
    let place = Place::with(&agent());
    let good = fs::read(place.from()).unwrap();
    let mut damaged = good.clone();
    // Of the last page with a payload: everything before it is good.
    let at = damaged.windows(10).rposition(|window| window == b"\x01\0\0\0\0\0\0\0\0\0").unwrap();
    damaged[at + 14] ^= 1;
    fs::write(place.from(), &damaged).unwrap();
    let store = place.open();
    let error = place.import(&store).unwrap_err();
    assert!(matches!(error, Error::Corrupt { what: "the value failed authentication", .. }), "{error:?}");
    fs::write(place.from(), &good).unwrap();
    let error = import_bolt(place.from(), &AgentKey::new("another").unwrap(), &store).unwrap_err();
    assert!(matches!(error, Error::WrongKey { .. }), "{error:?}");
    let spaced = AgentKey::new(format!("{KEY} ")).unwrap();
    let error = import_bolt(place.from(), &spaced, &store).unwrap_err();
    assert!(error.to_string().ends_with("the given key ends in white space: is that part of it?"), "{error}");
    let error = import_bolt(store.path(), &key(), &store).unwrap_err();
    assert!(matches!(&error, Error::Invalid { what, .. } if what.contains("is already a store")), "{error:?}");
    let error = import_bolt(place.folder.path(), &key(), &store).unwrap_err();
    assert!(matches!(error, Error::NotAStore { what: "a folder", .. }), "{error:?}");
    let error = import_bolt(place.folder.path().join("none.db"), &key(), &store).unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error:?}");
    assert_eq!(store.stats().seq, 0);
    place.import(&store).unwrap();
    assert_eq!(contents(&store), expected(&agent()));
}

#[test]
fn a_file_that_its_agent_has_open_is_refused() {
    let place = Place::with(&agent());
    let store = place.open();
    let agents = fs::File::open(place.from()).unwrap();
    fs2::FileExt::lock_exclusive(&agents).unwrap();
    let error = place.import(&store).unwrap_err();
    assert!(matches!(&error, Error::Locked { path, .. } if *path == place.from()), "{error:?}");
    assert!(error.to_string().ends_with("stop the agent that writes to it, then import again"), "{error}");
    fs2::FileExt::unlock(&agents).unwrap();
    // A reader of the bbolt file does not block the import.
    fs2::FileExt::lock_shared(&agents).unwrap();
    place.import(&store).unwrap();
    assert_eq!(contents(&store), expected(&agent()));
}

fn limits(max_count: Option<u64>, max_bytes: Option<u64>, when_full: WhenFull) -> LogLimits {
    let mut limits = LogLimits::default();
    (limits.max_count, limits.max_bytes, limits.when_full) = (max_count, max_bytes, when_full);
    limits
}

#[test]
fn log_events_over_the_limits_are_counted_and_reported() {
    let all = expected(&large()).4;
    for (limits, kept) in [
        (limits(Some(4), None, WhenFull::DropOldest), 6..10),
        (limits(Some(4), None, WhenFull::DropNewest), 0..4),
        (limits(None, Some(250_000), WhenFull::DropOldest), 6..10),
        (limits(None, Some(250_000), WhenFull::DropNewest), 0..4),
    ] {
        let place = Place::with(&large());
        let mut options = OpenOptions::new();
        let path = place.folder.path().join("state.db");
        let store = options.log_limits(limits).open(&path, &key()).unwrap();
        let report = place.import(&store).unwrap();
        assert_eq!((report.log_events, report.log_events_dropped), (10, 6), "{limits:?}");
        let batch = store.peek_logs(100).unwrap();
        assert_eq!((batch.events(), batch.dropped()), (&all[kept], 6), "{limits:?}");
        // And again, also after a reopening.
        assert_eq!(place.import(&store).unwrap().already_there, 20);
        store.close().unwrap();
        let store = options.open(&path, &key()).unwrap();
        assert_eq!(place.import(&store).unwrap().log_events_dropped, 6);
        assert_eq!(store.peek_logs(100).unwrap().dropped(), 6);
    }
}

#[test]
fn the_rate_of_the_log_buffer_does_not_bind_an_import() {
    let logs: Vec<_> = (0..300).map(|i| (i, i, b"event".to_vec())).collect();
    let agent = Agent { logs, ..agent() };
    let place = Place::with(&agent);
    let mut limits = LogLimits::default();
    limits.rate = Some(log_rate(1, 1));
    let path = place.folder.path().join("state.db");
    let store = OpenOptions::new().log_limits(limits).open(path, &key()).unwrap();
    assert_eq!(place.import(&store).unwrap().log_events_dropped, 0);
    assert_eq!(contents(&store), expected(&agent));
}

/// A store on a simulated disk.
fn open(sim: &Sim) -> Result<Store> {
    open_with(sim, LogLimits::default())
}

fn open_with(sim: &Sim, limits: LogLimits) -> Result<Store> {
    let mut options = options_on(Arc::new(sim.clone()));
    options.mmap(false).log_limits(limits).open("/sim/state.db", &key())
}

/// Cuts the power at every operation of an import; the next run completes it, whatever the disk then holds.
fn survives_power_cuts(agent: &Agent, limits: LogLimits) {
    let place = Place::with(agent);
    let whole = {
        let store = open_with(&Sim::new(7), limits).unwrap();
        (place.import(&store).unwrap(), contents(&store), store.peek_logs(0).unwrap().dropped())
    };
    let sim = Sim::new(7);
    sim.record();
    let store = open_with(&sim, limits).unwrap();
    place.import(&store).unwrap();
    drop(store);
    let (mut begun, mut ended, mut between) = (0, 0, 0);
    for moment in sim.take_moments() {
        crash::some_images(&moment.world, 8, 4, &mut |image| {
            let sim = Sim::on(image, 9);
            let store = open_with(&sim, limits).unwrap();
            let report = place.import(&store).unwrap();
            match report.already_there {
                0 => begun += 1,
                there if there == report.jobs + report.log_events => ended += 1,
                _ => between += 1,
            }
            let found = (report_of(&report), contents(&store));
            assert_eq!(found, (report_of(&whole.0), whole.1.clone()), "before operation {}", moment.ops);
            assert_eq!(store.peek_logs(0).unwrap().dropped(), whole.2);
        });
    }
    assert!(begun > 0 && ended > 0 && between > 10, "{begun} {between} {ended}");
}

/// The report without what differs from run to run.
fn report_of(report: &ImportReport) -> ImportReport {
    let mut report = report.clone();
    report.already_there = 0;
    report
}

#[test]
fn an_import_that_a_power_cut_interrupts_is_completed_by_the_next_run() {
    survives_power_cuts(&large(), LogLimits::default());
}

#[test]
fn an_import_into_a_small_log_buffer_that_a_power_cut_interrupts_is_completed_by_the_next_run() {
    survives_power_cuts(&large(), limits(Some(3), None, WhenFull::DropOldest));
    survives_power_cuts(&large(), limits(Some(3), None, WhenFull::DropNewest));
}

#[test]
fn an_import_of_nothing_but_jobs_or_events_is_completed_by_the_next_run() {
    let only_jobs = Agent { jobs: large().jobs, ..Agent::default() };
    survives_power_cuts(&only_jobs, LogLimits::default());
    let only_logs = Agent { logs: large().logs, ..Agent::default() };
    survives_power_cuts(&only_logs, LogLimits::default());
}

#[test]
fn an_import_of_which_an_operation_fails_is_completed_by_the_next_run() {
    let place = Place::with(&large());
    let sim = Sim::new(7);
    let store = open(&sim).unwrap();
    let from = sim.ops();
    place.import(&store).unwrap();
    let ops = from..sim.ops();
    assert!(ops.len() > 10);
    for (n, code) in ops.flat_map(|n| [(n, EIO), (n, ENOSPC)]) {
        let sim = Sim::new(7);
        let store = open(&sim).unwrap();
        sim.fail(n, Failure::Errno(code));
        let imported = place.import(&store);
        sim.heal();
        if let Err(error) = &imported {
            assert!(
                matches!(error, Error::Io { .. } | Error::Full { .. } | Error::Failed { .. }),
                "{n}: {error:?}"
            );
        }
        drop(store);
        sim.kill();
        let image: Image = sim.live();
        let store = open(&Sim::on(&image, 9)).unwrap();
        place.import(&store).unwrap();
        assert_eq!(contents(&store), expected(&large()), "{n}");
    }
}

#[test]
fn a_batch_of_the_agents_own_between_two_runs_is_noticed() {
    // The config was not imported yet, so only the jobs and events show the interrupted import.
    let place = Place::with(&agent());
    for batch in [
        Batch::new().enqueue_job("run-00", &[0; 40]).enqueue_job("run-02", &[2; 42]),
        Batch::new().enqueue_job("run-00", &[0; 40]).buffer_log(-5, b"of 1969"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path().join("state.db"), &key()).unwrap();
        store.write(&batch).unwrap();
        assert_refused(&place, &store);
    }
}

#[test]
fn an_import_over_the_limits_of_the_queue_is_completed_without_them() {
    let place = Place::with(&large());
    let path = place.folder.path().join("state.db");
    let mut limits = QueueLimits::default();
    limits.max_count = Some(7);
    let store = OpenOptions::new().queue_limits(limits).open(&path, &key()).unwrap();
    let refused = place.import(&store);
    assert!(matches!(refused, Err(Error::QueueFull { .. })), "{refused:?}");
    let written = store.queue_depth();
    assert!((1..=7).contains(&written), "{written}");
    assert!(matches!(place.import(&store), Err(Error::QueueFull { .. })));
    store.close().unwrap();

    let store = place.open();
    assert_eq!(place.import(&store).unwrap().already_there, written as u64);
    assert_eq!(contents(&store), expected(&large()));
}

/// In all of these stores, what is left is the beginning of an import.
#[test]
fn what_an_agent_has_delivered_between_two_runs_is_not_imported_again() {
    let only_jobs = Agent { jobs: large().jobs, ..Agent::default() };
    let only_logs = Agent { logs: large().logs, ..Agent::default() };
    type Use<'a> = &'a dyn Fn(&Store) -> Result<()>;
    let ack_all: Use<'_> = &|store| store.run_ids().try_for_each(|run_id| store.ack_job(&run_id).map(drop));
    let ack_last: Use<'_> = &|store| store.ack_job(&store.run_ids().last().unwrap()).map(drop);
    let drain: Use<'_> = &|store| store.drain_logs(usize::MAX).map(drop);
    for (agent, jobs_max, uses) in [
        (&large(), Some(7), &[ack_all, ack_last][..]),
        (&only_jobs, Some(7), &[ack_all, ack_last]),
        (&only_jobs, None, &[ack_all, ack_last]),
        (&only_logs, None, &[drain]),
    ] {
        for (used, then) in uses.iter().flat_map(|used| (0..4).map(move |then| (used, then))) {
            let place = Place::with(agent);
            let path = place.folder.path().join("state.db");
            let mut limits = QueueLimits::default();
            limits.max_count = jobs_max;
            let mut store = OpenOptions::new().queue_limits(limits).open(&path, &key()).unwrap();
            assert_eq!(place.import(&store).is_err(), jobs_max.is_some());
            used(&store).unwrap();
            match then {
                0 => {}
                1 => drop(store.compact().unwrap()),
                2 => {
                    store.close().unwrap();
                    store = place.open();
                }
                _ => {
                    drop(store);
                    store = place.open();
                }
            }
            assert_refused(&place, &store);
        }
    }
}

#[test]
fn a_store_that_was_only_opened_and_closed_is_new() {
    let place = Place::with(&agent());
    for _ in 0..3 {
        place.open().close().unwrap();
    }
    let store = place.open();
    place.import(&store).unwrap();
    assert_eq!(contents(&store), expected(&agent()));
}

#[test]
fn an_interrupted_import_is_completed_also_after_a_close_and_by_an_index_file() {
    let jobs = (0..3000).map(|i| (format!("run-{i:04}"), vec![7; 1000])).collect();
    let agent = Agent { jobs, ..large() };
    let place = Place::with(&agent);
    let path = place.folder.path().join("state.db");
    let mut limits = QueueLimits::default();
    limits.max_count = Some(2900);
    let store = OpenOptions::new().queue_limits(limits).open(&path, &key()).unwrap();
    assert!(matches!(place.import(&store), Err(Error::QueueFull { .. })));
    store.close().unwrap();
    let store = place.open();
    assert!(store.recovery().opening.by_index);
    let report = place.import(&store).unwrap();
    assert!((1..=2900).contains(&report.already_there), "{report:?}");
    assert_eq!(contents(&store), expected(&agent));
}
