//! Group commit and the failure latch, in every order in which threads can run: `src/log/group_commit.rs` itself,
//! over the mutexes of shuttle. All orders are tried for two threads, and very many chosen at random for four.
//!
//! The simulated sync does what a real one does: it covers the bytes written before it began, and only once it has
//! succeeded. Shuttle fails when a thread waits for ever, and prints the schedule. Alone in its binary, because it
//! compiles a file of the library with other mutexes.
#![allow(clippy::unwrap_used, reason = "a test panics where something is wrong")]

#[allow(dead_code, unreachable_pub, reason = "the store uses all of it")]
#[path = "../src/log/group_commit.rs"]
mod group_commit;
#[path = "common/depth.rs"]
mod depth;

/// What `group_commit.rs` takes from the crate that it is a part of.
mod format {
    pub(crate) mod position {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) struct LogPosition {
            pub(crate) seq: u64,
        }
    }
}
use shuttle::sync;

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use format::position::LogPosition;
use group_commit::{Failure, GroupCommit, Synced};
use shuttle::scheduler::DfsScheduler;
use shuttle::sync::{Arc, Mutex, mpsc};
use shuttle::{Config, Runner, thread};

/// Shuttle chooses the seed itself, and prints it with the schedule that failed.
const RANDOM_ORDERS: usize = 20_000;
/// Orders in which threads are delayed at the worst moments.
const UNFAIR_ORDERS: usize = 10_000;
const UNFAIR_CHANGES: usize = 4;
const EIO: i32 = 5;

fn after(seq: u64) -> LogPosition {
    LogPosition { seq }
}

/// A log: numbers of frames, and a disk. Its atomics are those of std: shuttle runs one thread at a time, and need
/// not reorder accesses to what only the test uses.
struct Log {
    commit: GroupCommit,
    /// The number of the last frame in the file. Locked while a frame is written, as in the store.
    written: Mutex<u64>,
    in_file: AtomicU64,
    on_disk: AtomicU64,
    syncing: AtomicBool,
    syncs: AtomicU64,
    /// The number of the sync that fails.
    fails_at: Option<u64>,
    sync_failed: AtomicBool,
    settled: AtomicBool,
    /// Whether the file has lost its name.
    nameless: AtomicBool,
}

impl Log {
    fn new(fails_at: Option<u64>) -> Arc<Self> {
        Arc::new(Log {
            commit: GroupCommit::new(after(0)),
            written: Mutex::new(0),
            in_file: AtomicU64::new(0),
            on_disk: AtomicU64::new(0),
            syncing: AtomicBool::new(false),
            syncs: AtomicU64::new(0),
            fails_at,
            sync_failed: AtomicBool::new(false),
            settled: AtomicBool::new(false),
            nameless: AtomicBool::new(false),
        })
    }

    /// A writing call of the store, up to its sync; nothing when the store has failed.
    fn write(&self) -> Option<u64> {
        let mut written = self.written.lock().unwrap();
        if self.commit.failure().is_some() {
            return None;
        }
        *written += 1;
        self.in_file.store(*written, Ordering::SeqCst);
        self.commit.note_written(after(*written));
        Some(*written)
    }

    fn sync(&self) -> io::Result<Synced> {
        assert!(!self.syncing.swap(true, Ordering::SeqCst), "two syncs at a time");
        assert!(!self.sync_failed.load(Ordering::SeqCst), "a sync after one that failed");
        let number = self.syncs.fetch_add(1, Ordering::SeqCst);
        let covered = self.in_file.load(Ordering::SeqCst);
        // Lets the other threads write.
        thread::yield_now();
        let fails = self.fails_at == Some(number);
        match fails {
            true => self.sync_failed.store(true, Ordering::SeqCst),
            false => self.on_disk.store(covered, Ordering::SeqCst),
        }
        self.syncing.store(false, Ordering::SeqCst);
        let nameless = self.nameless.load(Ordering::SeqCst);
        match fails {
            true => Err(io::Error::from_raw_os_error(EIO)),
            false => Ok(if nameless { Synced::Nameless } else { Synced::Named }),
        }
    }

    /// Waits for a frame and checks the answer against the disk. Returns whether it was acknowledged.
    fn wait(&self, seq: u64) -> bool {
        let mut syncs = 0;
        let waited = self.commit.wait_durable(seq, || {
            syncs += 1;
            self.sync()
        });
        assert!(syncs <= 1, "one call syncs once");
        match &waited {
            Ok(()) => assert!(self.is_safe(seq), "frame {seq} was acknowledged before its sync"),
            Err(Failure::Replaced) => assert!(self.nameless.load(Ordering::SeqCst)),
            Err(Failure::Io { os_code, .. }) => {
                assert_eq!(*os_code, Some(EIO));
                assert!(self.commit.failure().is_some());
            }
        }
        waited.is_ok()
    }

    /// Whether the frame would survive a power cut, in this generation or the next one.
    fn is_safe(&self, seq: u64) -> bool {
        self.on_disk.load(Ordering::SeqCst) >= seq || self.settled.load(Ordering::SeqCst)
    }

    /// The durable frame is never ahead of the disk, never goes back, and has its own tag.
    fn assert_mark(&self, at_least: u64) -> u64 {
        let durable = self.commit.durable();
        assert!(durable.seq <= self.on_disk.load(Ordering::SeqCst), "the mark is ahead of the disk");
        assert!(durable.seq >= at_least, "the mark went back");
        assert_eq!(durable, after(durable.seq));
        durable.seq
    }
}

/// Makes `calls` writing calls on each of `count` threads. Returns for each frame whether it was acknowledged.
fn write_from(log: &Arc<Log>, count: usize, calls: usize) -> Vec<(u64, bool)> {
    let threads: Vec<_> = (0..count)
        .map(|_| {
            let log = Arc::clone(log);
            thread::spawn(move || {
                let (mut told, mut durable) = (Vec::new(), 0);
                for _ in 0..calls {
                    let Some(seq) = log.write() else { break };
                    told.push((seq, log.wait(seq)));
                    durable = log.assert_mark(durable);
                }
                told
            })
        })
        .collect();
    threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
}

/// What must be true at the end, if nothing but syncs can fail and nothing was settled.
fn assert_fair(log: &Log, told: &[(u64, bool)]) {
    let durable = log.assert_mark(0);
    for &(seq, acknowledged) in told {
        assert_eq!(acknowledged, seq <= durable, "frame {seq}, durable up to {durable}");
    }
    assert_eq!(log.commit.failure().is_some(), log.sync_failed.load(Ordering::SeqCst));
    if log.commit.failure().is_none() {
        assert_eq!(durable, log.in_file.load(Ordering::SeqCst));
        assert!(log.syncs.load(Ordering::SeqCst) <= told.len() as u64);
    }
}

fn in_all_orders(run: impl Fn() + Send + Sync + 'static) {
    let every_order = DfsScheduler::new(None, false);
    let orders = Runner::new(every_order, Config::default()).run(run);
    println!("all {orders} orders");
}

fn in_many_orders(run: impl Fn() + Clone + Send + Sync + 'static) {
    shuttle::check_random(run.clone(), RANDOM_ORDERS / depth::schedule_step());
    shuttle::check_pct(run, UNFAIR_ORDERS / depth::schedule_step(), UNFAIR_CHANGES);
}

#[test]
fn two_threads_are_acknowledged_after_their_syncs_in_every_order() {
    for fails_at in [None, Some(0), Some(1)] {
        in_all_orders(move || {
            let log = Log::new(fails_at);
            let first = log.write().unwrap();
            let other = Arc::clone(&log);
            let other = thread::spawn(move || (first, other.wait(first)));
            let mut told: Vec<_> = log.write().map(|seq| (seq, log.wait(seq))).into_iter().collect();
            told.push(other.join().unwrap());
            assert_fair(&log, &told);
        });
    }
}

#[test]
fn four_threads_are_acknowledged_after_their_syncs_and_all_return() {
    for fails_at in [None, Some(0), Some(1), Some(2)] {
        in_many_orders(move || {
            let log = Log::new(fails_at);
            let told = write_from(&log, 4, 2);
            assert_fair(&log, &told);
        });
    }
}

/// Another write fails: from then on nothing is written, and calls that were not yet durable return the failure.
#[test]
fn a_failed_write_ends_writing_and_releases_all() {
    in_many_orders(|| {
        let log = Log::new(None);
        let failing = Arc::clone(&log);
        let failing = thread::spawn(move || {
            let _written = failing.written.lock().unwrap();
            failing.commit.fail(&io::Error::from_raw_os_error(EIO));
        });
        write_from(&log, 3, 2);
        failing.join().unwrap();
        assert!(log.commit.failure().is_some() && log.write().is_none());
        assert!(log.commit.durable().seq <= log.on_disk.load(Ordering::SeqCst));
    });
}

#[test]
fn every_waiter_gets_the_first_failure() {
    in_all_orders(|| {
        let log = Log::new(None);
        let seq = log.write().unwrap();
        log.commit.fail(&io::Error::from_raw_os_error(EIO));
        let other = Arc::clone(&log);
        let other = thread::spawn(move || other.commit.fail(Failure::Replaced));
        assert!(!log.wait(seq));
        other.join().unwrap();
        assert!(!log.wait(seq));
        assert_eq!(log.syncs.load(Ordering::SeqCst), 0, "what has failed is not synced");
    });
}

/// The switch to the next generation, which holds all of this one.
#[test]
fn settling_acknowledges_all_that_was_written() {
    for fails_at in [None, Some(0)] {
        in_many_orders(move || {
            let log = Log::new(fails_at);
            let settling = Arc::clone(&log);
            let settling = thread::spawn(move || {
                // As compaction does it: with the write lock held, and not after writing has failed.
                let mut written = settling.written.lock().unwrap();
                if settling.commit.failure().is_none() {
                    settling.settled.store(true, Ordering::SeqCst);
                    settling.commit.supersede();
                    assert!(settling.wait(*written));
                }
                *written += 0;
            });
            write_from(&log, 3, 1);
            settling.join().unwrap();
        });
    }
}

/// The old generation's sync hangs on a slow disk: no call waits for it once the next generation holds everything.
#[test]
fn settling_and_failing_release_waiters_while_a_sync_hangs() {
    for settles in [true, false] {
        in_all_orders(move || {
            let log = Log::new(None);
            let seq = log.write().unwrap();
            let (begun, has_begun) = mpsc::channel();
            let (go_on, may_go_on) = mpsc::channel();
            let hanging = Arc::clone(&log);
            let hanging = thread::spawn(move || {
                hanging.commit.wait_durable(seq, || {
                    begun.send(()).unwrap();
                    may_go_on.recv().unwrap();
                    Ok(Synced::Named)
                })
            });
            has_begun.recv().unwrap();
            let waiting = Arc::clone(&log);
            let waiting =
                thread::spawn(move || waiting.commit.wait_durable(seq, || panic!("two syncs at a time")));
            match settles {
                true => log.commit.supersede(),
                false => log.commit.fail(&io::Error::from_raw_os_error(EIO)),
            }
            assert_eq!(waiting.join().unwrap().is_ok(), settles);
            go_on.send(()).unwrap();
            // A sync that succeeds after writing has failed proves nothing about what was written.
            assert_eq!(hanging.join().unwrap().is_ok(), settles);
            assert_eq!(log.commit.durable().seq, u64::from(settles));
        });
    }
}

/// A compaction renames the next generation over the file, which loses its name before the next generation has
/// taken over.
#[test]
fn a_file_that_is_being_replaced_may_have_no_name() {
    in_many_orders(|| {
        let log = Log::new(None);
        let replacing = Arc::clone(&log);
        let replacing = thread::spawn(move || {
            let mut written = replacing.written.lock().unwrap();
            replacing.commit.set_replacing(true);
            replacing.nameless.store(true, Ordering::SeqCst);
            thread::yield_now();
            replacing.settled.store(true, Ordering::SeqCst);
            replacing.commit.supersede();
            *written += 0;
        });
        let told = write_from(&log, 3, 1);
        replacing.join().unwrap();
        assert!(told.iter().all(|&(_, acknowledged)| acknowledged), "{told:?}");
        assert_eq!(log.commit.failure(), None);
    });
}

/// The rename fails, and the file keeps its name, or the sync of the folder after it fails.
#[test]
fn a_replacement_that_fails_ends_the_wait() {
    for is_renamed in [false, true] {
        in_many_orders(move || {
            let log = Log::new(None);
            let replacing = Arc::clone(&log);
            let replacing = thread::spawn(move || {
                let mut written = replacing.written.lock().unwrap();
                replacing.commit.set_replacing(true);
                replacing.nameless.store(is_renamed, Ordering::SeqCst);
                thread::yield_now();
                match is_renamed {
                    true => replacing.commit.fail(&io::Error::from_raw_os_error(EIO)),
                    false => replacing.commit.set_replacing(false),
                }
                *written += 0;
            });
            let told = write_from(&log, 2, 1);
            replacing.join().unwrap();
            assert!(is_renamed || told.iter().all(|&(_, acknowledged)| acknowledged), "{told:?}");
        });
    }
}

/// The rename fails, and somebody else has removed the file: no next generation will take over.
#[test]
fn a_file_that_is_removed_while_its_replacement_fails_ends_the_wait() {
    in_many_orders(|| {
        let log = Log::new(None);
        log.nameless.store(true, Ordering::SeqCst);
        log.commit.set_replacing(true);
        let seq = log.write().unwrap();
        let waiting = Arc::clone(&log);
        let waiting = thread::spawn(move || waiting.commit.wait_durable(seq, || waiting.sync()));
        thread::yield_now();
        log.commit.set_replacing(false);
        assert_eq!(waiting.join().unwrap(), Err(Failure::Replaced));
    });
}

/// Somebody removes the file. What was acknowledged before is not looked at again.
#[test]
fn a_file_that_has_been_removed_takes_no_more_frames() {
    in_many_orders(|| {
        let log = Log::new(None);
        let removing = Arc::clone(&log);
        let removing = thread::spawn(move || removing.nameless.store(true, Ordering::SeqCst));
        write_from(&log, 2, 1);
        removing.join().unwrap();
        if let Some(seq) = log.write() {
            assert!(!log.wait(seq));
        }
        assert_eq!(log.commit.failure(), Some(Failure::Replaced));
        assert!(log.write().is_none());
    });
}
