//! A queue that is long when others fill the disk to the last byte: all of it can be acked, one job at a time, the
//! log events drained, and then the log compacted. Also by a process that comes after a close or a kill.

use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use backupy_state::testing::{Access, Disk, Storage, policy};
use backupy_state::{Batch, Error, LogLimits, OpenOptions, Snapshot, Store};

use super::full_disk::Mount;
use crate::common::{Place, child_path, depth, key, say, say_skipped, spawn, test_binary};

#[test]
fn a_long_queue_on_a_full_tmpfs_can_be_removed() {
    Mount::tmpfs("size=24M").into_iter().for_each(|mount| cycles(&mount, true));
}

#[test]
fn a_long_queue_on_a_full_ext4_can_be_removed() {
    Mount::ext4(48 << 20).into_iter().for_each(|mount| cycles(&mount, true));
}

/// Smaller ones are not made any more.
#[test]
fn a_long_queue_on_a_full_xfs_can_be_removed() {
    Mount::of_image("xfs", 320 << 20, &["mkfs.xfs", "-q"]).into_iter().for_each(|mount| cycles(&mount, true));
}

/// It needs some megabytes for a new file.
#[test]
fn a_long_queue_on_a_full_btrfs_can_be_removed() {
    Mount::of_image("btrfs", 320 << 20, &["mkfs.btrfs", "-q"]).into_iter().for_each(|mount| cycles(&mount, false));
}

/// It keeps the space of the log that a compaction replaces.
#[test]
fn a_reader_that_holds_the_old_log_takes_no_space_from_acks() {
    let Some(mount) = Mount::tmpfs("size=3M") else { return };
    let path = mount.path();
    let mut options = OpenOptions::new();
    // With short steps of preallocation.
    options.compaction(policy(|policy| (policy.automatic, policy.min_len) = (false, 0)));
    let store = options.open(&path, &key()).unwrap();
    for job in 0..200 {
        store.enqueue_job(&run_id(job), &[7; 20]).unwrap();
    }
    for version in 0..110 {
        store.save_config(version, &[7; 1000]).unwrap();
    }
    let _reader = Snapshot::open(&path, &key()).unwrap();
    fill_disk(&mount.at);
    // What the log gives back is enough for the new one with the acks, and not for the whole reserve.
    let compacted = store.compact();
    assert!(compacted.is_ok() || matches!(compacted, Err(Error::Full { .. })), "{compacted:?}");
    fill_disk(&mount.at);
    assert_eq!(store.stats().acks_on_full_disk, 200, "{compacted:?}");
    for job in 0..200 {
        store.ack_job(&run_id(job)).unwrap_or_else(|error| panic!("{compacted:?}, job {job}: {error}"));
    }
}

/// `cp --sparse`, `tar -S` and `rsync -S` make holes of the zeros, and `dd conv=sparse` of all but the first ones.
#[test]
fn a_sparse_copy_takes_its_reserve_with_the_first_call_that_writes() {
    for zeros in [200, 70_000] {
        let place = Place::new();
        let (log_len, len) = closed_log(&place.path());
        let file = fs::File::options().write(true).open(place.path()).unwrap();
        file.set_len(log_len + zeros).unwrap();
        file.set_len(len).unwrap();
        file.sync_all().unwrap();
        if is_allocated(&place.path(), len) {
            return say_skipped("this file system makes no holes: no test of a sparse copy");
        }
        let acks = Snapshot::open(place.path(), &key()).unwrap().stats().acks_on_full_disk;
        let store = open(&place.path());
        // Up to the end of the page.
        let few = 100 + zeros / 100;
        assert!(acks < few && acks == store.stats().acks_on_full_disk, "{acks}: {:?}", store.stats());
        store.record_heartbeat(1).unwrap();
        store.sync().unwrap();
        assert!(is_allocated(&place.path(), len), "{zeros}");
        assert_eq!((store.queue_depth(), store.stats().acks_on_full_disk), (2000, 2000), "{zeros}");
    }
}

/// A power cut can leave such space, and SEEK_DATA takes it for a hole, unless it was read into the page cache.
#[test]
fn space_that_is_allocated_and_was_not_written_yet_is_kept() {
    let place = Place::new();
    let (log_len, len) = closed_log(&place.path());
    let file = Disk.open(&place.path(), Access::Write).unwrap();
    file.set_len(log_len).unwrap();
    if file.allocate(len).is_err() {
        return say_skipped("this file system cannot allocate: no test of space that was not written yet");
    }
    // Without a mark, the log is not clean, and its pages are dropped from the cache.
    assert_eq!(file.write_at(&[0; 4096], 4096).unwrap(), 4096);
    file.sync_data().unwrap();
    assert!(is_allocated(&place.path(), len));
    let seen = Snapshot::open(place.path(), &key()).unwrap().stats().acks_on_full_disk;
    let store = open(&place.path());
    assert_eq!((seen, store.stats().acks_on_full_disk, store.stats().file_len), (2000, 2000, len));
}

/// A log that was closed, with a reserve of some 200 kB for 2000 jobs. Returns where its frames end, and its
/// length.
fn closed_log(path: &Path) -> (u64, u64) {
    let store = open(path);
    for job in 0..2000 {
        store.enqueue_job(&run_id(job), &[7; 64]).unwrap();
    }
    store.close().unwrap();
    let stats = Snapshot::open(path, &key()).unwrap().stats();
    assert!(stats.free_bytes > 200_000, "{stats:?}");
    (stats.log_len, stats.file_len)
}

fn is_allocated(path: &Path, len: u64) -> bool {
    fs::metadata(path).unwrap().blocks() * 512 >= len
}

/// The compaction gives back the rest of the page in which the log ends, which it owns all the same.
#[test]
fn a_failed_compaction_takes_back_what_it_gave_back() {
    let Some(mount) = Mount::tmpfs("size=3M") else { return };
    let mut limits = LogLimits::default();
    limits.rate = None;
    let mut options = OpenOptions::new();
    options.log_limits(limits).compaction(policy(|policy| policy.automatic = false));
    let store = options.open(mount.path(), &key()).unwrap();
    store.write(&(0..5000).fold(Batch::new(), |batch, ts_ms| batch.buffer_log(ts_ms, &[7; 100]))).unwrap();
    fill_disk(&mount.at);
    while store.record_heartbeat(2).is_ok() {}
    let before = store.stats();
    // So that the log ends within a page.
    assert!(!before.log_len.is_multiple_of(4096) && before.disk_free_bytes == Some(0), "{before:?}");
    let compacted = store.compact();
    assert!(matches!(compacted, Err(Error::Full { .. })), "{compacted:?}");
    assert_eq!((store.stats().file_len, store.stats().disk_free_bytes), (before.file_len, Some(0)));
    store.drain_logs(1).unwrap();
}

/// It says that it has no space at all.
#[test]
fn a_file_system_without_figures_takes_what_it_can() {
    let Some(mount) = Mount::of_type("ramfs") else { return };
    let store = open(&mount.path());
    for job in 0..100 {
        store.enqueue_job(&run_id(job), &[7; 50_000]).unwrap();
    }
    assert_eq!(store.stats().disk_free_bytes, None);
    store.compact().unwrap();
}

/// How the process that filled the queue ends, and at which points of the cycle the store is closed and opened.
#[derive(Clone, Copy, Debug)]
struct Course {
    is_killed: bool,
    closes: [bool; 3],
}

/// `compacts`: whether the file system has space for a new file, once the reserve was given back.
fn cycles(mount: &Mount, compacts: bool) {
    let (jobs, count) = depth::full_queue();
    for cycle in 0..count {
        let bit = |n: usize| cycle >> n & 1 == 1;
        cycle_of(mount, jobs, compacts, Course { is_killed: !bit(0), closes: [bit(1), bit(0), !bit(1)] });
    }
    println!("{count} cycles of {jobs} jobs");
}

fn cycle_of(mount: &Mount, jobs: usize, compacts: bool, course: Course) {
    let path = mount.path();
    let mut child = test_binary("full_queue::child_that_fills_the_queue", &path);
    let mut child = spawn(child.env(JOBS_VAR, jobs.to_string()).env(CLOSES_VAR, (!course.is_killed).to_string()));
    child.expect("filled");
    fill_disk(&mount.at);
    drop(child);

    let mut store = open(&path);
    assert_eq!((store.queue_depth(), store.log_count()), (jobs, EVENTS), "{course:?}");
    // The space that was preallocated beyond the reserve is used first.
    let mut jobs = jobs;
    while store.enqueue_job(&run_id(jobs), &[7; 64]).is_ok() {
        jobs += 1;
    }
    let refused = store.enqueue_job(&run_id(jobs), &[7; 64]);
    assert!(matches!(refused, Err(Error::Full { .. })), "{course:?}: {refused:?}");
    assert_eq!(store.stats().acks_on_full_disk, jobs as u64, "{course:?}");
    for job in 0..jobs {
        if job == jobs / 3 && course.closes[0] {
            store = reopened(store, &path);
        }
        let acked = store.ack_job(&run_id(job));
        assert!(matches!(acked, Ok(true)), "{course:?}: job {job}: {acked:?}, {:?}", store.stats());
    }
    if course.closes[1] {
        store = reopened(store, &path);
    }
    while store.log_count() > 0 {
        store.drain_logs(10).unwrap_or_else(|error| panic!("{course:?}: {error}, {:?}", store.stats()));
    }
    if course.closes[2] {
        store = reopened(store, &path);
    }
    let compacted = store.compact();
    assert!(compacted.is_ok() || !compacts, "{course:?}: {compacted:?}, {:?}", store.stats());
    for ballast in ballast_in(&mount.at) {
        fs::remove_file(ballast).unwrap();
    }
    store.compact().unwrap();
    store.enqueue_job("one more", &[7; 5000]).unwrap();
    store.ack_job("one more").unwrap();
    store.close().unwrap();
}

fn reopened(store: Store, path: &Path) -> Store {
    store.close().unwrap();
    open(path)
}

fn open(path: &Path) -> Store {
    // A compaction would free space before the last ack.
    OpenOptions::new().compaction(policy(|policy| policy.automatic = false)).open(path, &key()).unwrap()
}

#[test]
fn child_that_fills_the_queue() {
    let Some(path) = child_path() else { return };
    let store = open(&path);
    let jobs: usize = std::env::var(JOBS_VAR).unwrap().parse().unwrap();
    for first in (0..jobs).step_by(500) {
        let batch = (first..jobs.min(first + 500))
            .fold(Batch::new(), |batch, job| batch.enqueue_job(&run_id(job), &[7; 64]));
        store.write(&batch).unwrap();
    }
    for ts_ms in 0..EVENTS as i64 {
        store.buffer_log(ts_ms, &[7; 100]).unwrap();
    }
    if std::env::var(CLOSES_VAR).unwrap() == "true" {
        store.close().unwrap();
        say("filled");
    } else {
        say("filled");
        std::thread::park();
    }
}

fn run_id(job: usize) -> String {
    let random = (job as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    format!("{:08x}-f00a-41db-aff5-{job:012x}", random >> 32)
}

/// Others take every byte. What they have written is on the disk when this returns.
fn fill_disk(folder: &Path) {
    for n in 0.. {
        let Ok(mut ballast) = fs::File::create(folder.join(format!("ballast-{n}"))) else { break };
        let mut written = 0;
        for len in [1 << 20, 4096, 1] {
            while ballast.write_all(&vec![1; len]).is_ok() {
                written += len;
            }
        }
        // What is left may only become known once it has been written.
        let _ = ballast.sync_all();
        if written == 0 {
            break;
        }
    }
}

fn ballast_in(folder: &Path) -> Vec<std::path::PathBuf> {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    names.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("ballast")).collect()
}

const EVENTS: usize = 100;
const JOBS_VAR: &str = "BACKUPY_TEST_JOBS";
const CLOSES_VAR: &str = "BACKUPY_TEST_CLOSES";
