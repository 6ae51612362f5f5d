//! Background compactions that do not finish: the store is closed or dropped during one, or one fails repeatedly.
//! And the compaction that closing a store makes.

use std::borrow::Cow;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use backupy_state::testing::{Storage, options_on, policy};
use backupy_state::{CompactionPolicy, ErrorKind, OnDamage, OpenOptions, Store};

use crate::common::{Hooked, Hooks, Place, key, listing};

/// What happens to the new file of a compaction.
#[derive(Clone, Debug, Default)]
struct NewFileHooks {
    /// So many times, the new file cannot be made.
    refusals: Arc<AtomicUsize>,
    tries: Arc<AtomicUsize>,
    /// Its first frame waits here.
    gate: Option<Arc<Gate>>,
}

#[derive(Debug, Default)]
struct Gate {
    state: Mutex<(bool, bool)>,
    turned: Condvar,
}

impl Gate {
    fn pass(&self) {
        let mut state = self.state.lock().unwrap();
        state.0 = true;
        self.turned.notify_all();
        drop(self.turned.wait_while(state, |(_, is_open)| !*is_open).unwrap());
    }

    fn wait_for_arrival(&self) {
        let waited = self.turned.wait_timeout_while(
            self.state.lock().unwrap(),
            Duration::from_secs(60),
            |(is_there, _)| !*is_there,
        );
        assert!(!waited.unwrap().1.timed_out(), "no compaction has begun");
    }

    fn open(&self) {
        self.state.lock().unwrap().1 = true;
        self.turned.notify_all();
    }
}

impl Hooks for NewFileHooks {
    fn open(&self, path: &Path) -> io::Result<bool> {
        let is_compaction = path.ends_with("state.db.new") && path.with_extension("").exists();
        if is_compaction {
            self.tries.fetch_add(1, Ordering::SeqCst);
            let left = self.refusals.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
            if left.is_ok() {
                return Err(io::Error::other("refused"));
            }
        }
        Ok(is_compaction)
    }

    fn write<'a>(&self, bytes: &'a [u8], offset: u64) -> Cow<'a, [u8]> {
        if let Some(gate) = self.gate.as_ref().filter(|_| offset > 0) {
            gate.pass();
        }
        bytes.into()
    }
}

/// The machine's disk with these hooks.
fn disk(hooks: &NewFileHooks) -> Arc<dyn Storage> {
    Arc::new(Hooked { hooks: hooks.clone(), ..Hooked::default() })
}

fn open(place: &Place, hooks: &NewFileHooks) -> Store {
    let mut options = options_on(disk(hooks));
    options.compaction(policy(|policy| {
        policy.automatic = true;
        policy.min_len = 0;
        policy.dead_ratio = 0.1;
    }));
    options.open(place.path(), &key()).unwrap()
}

/// Enough dead bytes for a compaction to be due at every later call, and live ones that fill more than one of its
/// frames.
fn wear(store: &Store) {
    for number in 0..4 {
        store.enqueue_job(&format!("live-{number}"), &[number; 50_000]).unwrap();
    }
    for _ in 0..4 {
        store.save_config(1, &[7; 50_000]).unwrap();
    }
}

#[test]
fn closing_or_dropping_the_store_stops_a_compaction_and_loses_nothing() {
    for is_closed in [true, false] {
        let (place, gate) = (Place::new(), Arc::new(Gate::default()));
        let store = open(&place, &NewFileHooks { gate: Some(Arc::clone(&gate)), ..NewFileHooks::default() });
        wear(&store);
        gate.wait_for_arrival();
        assert!(place.at("state.db.new").exists());
        store.enqueue_job("during the compaction", b"payload").unwrap();
        let ending = thread::spawn(move || if is_closed { store.close().unwrap() } else { drop(store) });
        // Long enough for the compaction to be asked to stop before it continues.
        thread::sleep(Duration::from_millis(100));
        gate.open();
        ending.join().unwrap();

        assert_eq!(listing(place.folder()).into_keys().collect::<Vec<_>>(), ["state.db", "state.db.index"]);
        let store = place.open();
        assert!(store.recovery().clean);
        assert_eq!((store.stats().generation, store.queue_depth()), (1, 5));
        assert_eq!(store.job("live-3").unwrap().unwrap().payload, [3; 50_000]);
        assert_eq!(store.load_config().unwrap().unwrap().raw, [7; 50_000]);
    }
}

/// Once a compaction has given the new log its name, and calls continue there, the first mark waits.
#[derive(Clone, Debug, Default)]
struct RenamedHooks {
    new: Arc<Mutex<Option<PathBuf>>>,
    gate: Arc<Gate>,
}

impl Hooks for RenamedHooks {
    fn open(&self, path: &Path) -> io::Result<bool> {
        if path.ends_with("state.db.new") && path.with_extension("").exists() {
            *self.new.lock().unwrap() = Some(path.to_path_buf());
            return Ok(true);
        }
        Ok(false)
    }

    fn write<'a>(&self, bytes: &'a [u8], _offset: u64) -> Cow<'a, [u8]> {
        let renamed = self.new.lock().unwrap().take_if(|new| !new.exists());
        if renamed.is_some() {
            self.gate.pass();
        }
        bytes.into()
    }
}

#[test]
fn a_compaction_that_ends_while_the_store_is_closed_tells_what_it_left_out() {
    let (place, hooks) = (Place::new(), RenamedHooks::default());
    let mut options = options_on(Arc::new(Hooked { hooks: hooks.clone(), ..Hooked::default() }));
    options.on_damage(OnDamage::SetAside).compaction(policy(|policy| {
        policy.automatic = true;
        policy.min_len = 0;
        policy.dead_ratio = 0.5;
    }));
    let store = Arc::new(options.open(place.path(), &key()).unwrap());
    store.enqueue_job("lost", &[7; 1000]).unwrap();
    let mut bytes = std::fs::read(place.path()).unwrap();
    bytes[usize::try_from(store.stats().log_len).unwrap() - 500] ^= 1;
    std::fs::write(place.path(), bytes).unwrap();
    // The last of these makes it due: another call would wait for it.
    for _ in 0..3 {
        store.save_config(1, &[7; 50_000]).unwrap();
    }
    hooks.gate.wait_for_arrival();
    let closing = thread::spawn({
        let store = Arc::clone(&store);
        move || store.close()
    });
    // Long enough for the compaction to be asked to stop.
    thread::sleep(Duration::from_millis(100));
    hooks.gate.open();
    closing.join().unwrap().unwrap();
    let compaction = store.stats().compaction;
    let left_out: Vec<_> = compaction.left_out.iter().filter_map(|lost| lost.run_id.as_deref()).collect();
    assert_eq!((left_out, compaction.completed), (vec!["lost"], 1));
    assert!(compaction.damaged.is_some());
}

/// Some hundred jobs come and go; `live_len` bytes stay.
fn come_and_go(store: &Store, live_len: usize) {
    store.save_config(1, &vec![7; live_len]).unwrap();
    for i in 0..500_u32 {
        store.enqueue_job(&format!("run-{i}"), &[i.to_le_bytes()[0]; 512]).unwrap();
        if i >= 10 {
            store.ack_job(&format!("run-{i}")).unwrap();
        }
    }
}

/// The next opening reads ten jobs and not a thousand records.
#[test]
fn closing_or_dropping_compacts_a_log_of_which_little_is_live() {
    for is_closed in [true, false] {
        let place = Place::new();
        let store = place.open();
        come_and_go(&store, 1000);
        if is_closed {
            store.close().unwrap();
        } else {
            drop(store);
        }
        assert_eq!(listing(place.folder()).into_keys().collect::<Vec<_>>(), ["state.db"]);
        let store = place.open();
        assert!(store.recovery().clean && store.recovery().records < 5, "{:?}", store.recovery());
        let stats = store.stats();
        assert_eq!((stats.generation, stats.jobs), (2, 10));
        assert!(stats.log_len < 16 << 10, "{stats:?}");
        assert_eq!(store.job("run-9").unwrap().unwrap().payload, [9; 512]);
        assert_eq!(store.load_config().unwrap().unwrap().raw, [7; 1000]);
    }
}

#[test]
fn closing_does_not_compact_a_log_below_the_thresholds_or_with_compaction_off() {
    let by_hand = policy(|policy| policy.automatic = false);
    let wasteful = policy(|policy| policy.dead_ratio = 0.99);
    for (policy, live_len) in [(by_hand, 1000), (wasteful, 10_000), (CompactionPolicy::default(), 130 << 10)] {
        let place = Place::new();
        let store = OpenOptions::new().compaction(policy).open(place.path(), &key()).unwrap();
        come_and_go(&store, live_len);
        store.close().unwrap();
        assert_eq!(place.open().stats().generation, 1, "{policy:?}, {live_len} bytes");
    }
}

#[test]
fn closing_succeeds_where_its_compaction_fails() {
    let (place, hooks) =
        (Place::new(), NewFileHooks { refusals: Arc::new(AtomicUsize::new(1)), ..NewFileHooks::default() });
    let store = options_on(disk(&hooks)).open(place.path(), &key()).unwrap();
    come_and_go(&store, 1000);
    store.close().unwrap();
    assert_eq!(hooks.tries.load(Ordering::SeqCst), 1, "and not once more as the store is dropped");
    let store = place.open();
    assert!(store.recovery().clean);
    assert_eq!((store.stats().generation, store.queue_depth()), (1, 10));
}

/// A progress bar must not reach its end while half of the work is still to do.
#[test]
fn the_progress_of_a_copy_is_visible() {
    let place = Place::new();
    let mut options = OpenOptions::new();
    options.compaction(policy(|policy| policy.automatic = false));
    let store = options.open(place.path(), &key()).unwrap();
    wear(&store);
    assert_eq!(backupy_state::testing::copy_progress(&store), 0);
    let report = store.compact().unwrap();
    let checked = backupy_state::testing::copy_progress(&store);
    assert!((report.bytes_after - 1000..report.bytes_after).contains(&checked), "{checked} of {report:?}");
}

#[test]
fn a_compaction_that_failed_is_tried_again_after_a_pause_and_not_by_every_call() {
    let (place, hooks) =
        (Place::new(), NewFileHooks { refusals: Arc::new(AtomicUsize::new(1)), ..NewFileHooks::default() });
    let store = open(&place, &hooks);
    wear(&store);
    let begun = Instant::now();
    let beat_until = |is_over: &dyn Fn() -> bool| {
        while !is_over() {
            store.record_heartbeat(1).unwrap();
            assert!(begun.elapsed() < Duration::from_secs(60));
        }
    };
    beat_until(&|| store.stats().compaction.failed == 1);
    let said = store.stats().compaction.last_error.unwrap();
    assert_eq!(said.kind, ErrorKind::Io);
    assert!(said.message.contains("state.db.new: refused"), "{said}");
    let failed = Instant::now();
    beat_until(&|| store.stats().compaction.completed == 1);
    // It pauses for a second; a part of that was over before this test saw it.
    assert!(failed.elapsed() > Duration::from_millis(500), "{:?}", failed.elapsed());
    let stats = store.stats();
    assert_eq!((stats.generation, stats.compaction.failed, stats.compaction.last_error), (2, 1, None));
    assert_eq!(hooks.tries.load(Ordering::SeqCst), 2);
}
