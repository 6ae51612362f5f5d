//! Opening a file takes at most twice its length, 300 bytes for each key of the largest number live at once, and 1
//! MiB, whatever lengths the file claims. Alone in its binary, because it replaces the allocator.

#![allow(clippy::unwrap_used, reason = "tests")]
#![allow(clippy::cast_possible_truncation, reason = "small files")]

#[path = "common/depth.rs"]
mod depth;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fs;
use std::path::Path;

use backupy_state::testing::policy;
use backupy_state::{AgentKey, Batch, Check, Durability, Error, OpenOptions, Result, Store, salvage, verify};

/// Counts what each thread holds.
struct Counting;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn note(bytes: isize) {
    // While a thread ends, its counters are gone.
    let _ = HELD.try_with(|held| {
        held.set(held.get() + bytes);
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(held.get())));
    });
}

// SAFETY: every call is passed to the system's allocator unchanged; counting allocates nothing.
#[allow(unsafe_code, reason = "an allocator can be counted in no other way")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size() as isize);
        // SAFETY: the caller's promises are the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(layout.size() as isize);
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        note(-(layout.size() as isize));
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const MIB: usize = 1 << 20;
const LARGEST: usize = 12 * MIB;

/// Runs `body` and gives the most it held at once.
fn peak_of<T>(body: impl FnOnce() -> T) -> (usize, T) {
    let before = HELD.get();
    PEAK.set(before);
    let result = body();
    ((PEAK.get() - before).cast_unsigned(), result)
}

fn key() -> AgentKey {
    AgentKey::new("bkpy_0123456789abcdef0123456789abcdef").unwrap()
}

fn open(path: &Path) -> Result<Store> {
    OpenOptions::new().mmap(false).open(path, &key())
}

/// Reads every frame.
fn open_by_replay(path: &Path) -> Result<Store> {
    OpenOptions::new().mmap(false).check(Check::Everything).open(path, &key())
}

/// A closed store with records of these lengths.
fn store_of(path: &Path, lens: &[usize]) {
    let store = open(path).unwrap();
    for (i, &len) in lens.iter().enumerate() {
        store.enqueue_job(&format!("run-{i}"), &vec![7; len]).unwrap();
    }
    store.close().unwrap();
}

#[test]
fn opening_holds_at_most_twice_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    store_of(&path, &[9 * MIB, 1, 10 * MIB, MIB, LARGEST]);
    let mut bytes = fs::read(&path).unwrap();
    let index = folder.path().join("state.db.index");
    let index_bytes = fs::read(&index).unwrap();
    // Without the reserve: the file ends with its last frame.
    let last = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    bytes.truncate((last + 1).next_multiple_of(8));
    let mut without_marks = bytes.clone();
    without_marks[4096..8192].fill(0);
    // Cut at every size, with and without a torn tail that no mark vouches for; and damaged in front of large
    // frames.
    let mut cases = Vec::new();
    for n in (1..=16).step_by(depth::sixteenths_step()) {
        let len = bytes.len() / 16 * n;
        cases.extend([(without_marks[..len].to_vec(), true), (bytes[..len].to_vec(), len == bytes.len())]);
    }
    cases.extend([8192, 8296, 5 * MIB, bytes.len() - 100].map(|at| {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1;
        (damaged, false)
    }));
    for (i, (case, opens)) in cases.iter().enumerate() {
        // With the index file of the whole log, an open may find less of the damage, but needs no more memory.
        for is_indexed in [true, false] {
            fs::write(&path, case).unwrap();
            let _ = fs::remove_file(&index);
            if is_indexed {
                fs::write(&index, &index_bytes).unwrap();
            }
            let (peak, opened) = peak_of(|| open(&path));
            assert!(peak <= 2 * case.len() + MIB, "case {i}: {peak} bytes for a file of {}", case.len());
            assert!(is_indexed || opened.is_ok() == *opens, "case {i}: {opened:?}");
            drop(opened);
        }
        let (peak, _) = peak_of(|| verify(&path, Some(&key())));
        assert!(peak <= 2 * case.len() + MIB, "case {i}: verify took {peak} bytes");
        let to = folder.path().join(format!("salvaged-{i}.db"));
        let (peak, salvaged) = peak_of(|| salvage(&path, &key(), &to));
        // As the new file is read back: a frame of the old one, and of the new one a frame and a value, each in
        // place of the one before it.
        assert!(peak <= 2 * case.len() + LARGEST + MIB, "case {i}: salvage took {peak} bytes");
        salvaged.unwrap();
        fs::remove_file(to).unwrap();
    }
}

#[test]
fn a_huge_length_in_a_small_file_allocates_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    store_of(&path, &[100, 100, 100]);
    let bytes = fs::read(&path).unwrap();
    let salt = &bytes[48..80];
    for len in [64_u32 << 20, (64 << 20) - 8, (64 << 20) + 8, u32::MAX, 0] {
        for manifest_len in [len.saturating_sub(64), u32::MAX, 0, 40] {
            let mut forged = bytes.clone();
            let frame = &mut forged[8192..];
            frame[8..12].copy_from_slice(&len.to_le_bytes());
            frame[12..16].copy_from_slice(&manifest_len.to_le_bytes());
            let crc = crc32(salt.iter().chain(&frame[4..48]));
            frame[..4].copy_from_slice(&crc.to_le_bytes());
            fs::write(&path, &forged).unwrap();
            let (peak, opened) = peak_of(|| open(&path));
            let is_refused = matches!(
                opened,
                Err(Error::Corrupt { offset: 8192, .. } | Error::Unauthentic { offset: 8192, .. })
            );
            assert!(is_refused, "len {len}, manifest {manifest_len}: {opened:?}");
            assert!(peak <= 2 * forged.len() + MIB, "{peak} bytes for len {len}, manifest {manifest_len}");
            assert_eq!(fs::read(&path).unwrap(), forged);
        }
    }
}

/// CRC-32/ISO-HDLC, bit by bit.
fn crc32<'a>(bytes: impl Iterator<Item = &'a u8>) -> u32 {
    let step = |crc: u32, _| if crc & 1 == 1 { crc >> 1 ^ 0xEDB8_8320 } else { crc >> 1 };
    !bytes.fold(!0, |crc, &byte| (0..8).fold(crc ^ u32::from(byte), step))
}

/// While a second thread opens manifests, only a limited number of them is in memory.
#[test]
fn opening_a_long_log_of_small_records_holds_few_of_them_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    let compaction = policy(|policy| policy.automatic = false);
    let store =
        OpenOptions::new().durability(Durability::Buffered).compaction(compaction).open(&path, &key()).unwrap();
    (0..100_000).for_each(|at| store.record_heartbeat(at).unwrap());
    store.close().unwrap();
    let len = fs::metadata(&path).unwrap().len() as usize;
    let (peak, opened) = peak_of(|| open_by_replay(&path));
    assert_eq!(opened.unwrap().recovery().records, 100_000);
    assert!(peak <= 2 * len + MIB, "{peak} bytes for a file of {len}");
}

/// The memory that the index takes for a file that is hardly more than keys.
#[test]
fn an_index_file_that_was_made_long_takes_no_memory() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    store_of(&path, &[600; 2000]);
    let index = fs::File::options().write(true).open(folder.path().join("state.db.index")).unwrap();
    let len = fs::metadata(&path).unwrap().len() as usize;
    // A hole, which takes no space.
    index.set_len(1 << 40).unwrap();
    let (peak, store) = peak_of(|| open(&path).unwrap());
    assert!(store.recovery().opening.by_index);
    assert!(peak <= 2 * len + 300 * 2000 + MIB, "{peak} bytes for {len}");
}

/// The keys of each bucket are a list of their own.
#[test]
fn an_index_file_that_was_made_long_takes_no_memory_for_each_bucket() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    let store = open(&path).unwrap();
    for number in 0..40 {
        let (key, value) = (format!("key-{number}"), [7; 600]);
        let batch = Batch::new().enqueue_job(&key, &value).put_data(&key, &value).buffer_log(number, &value);
        store.write(&batch).unwrap();
    }
    store.close().unwrap();
    let index = fs::File::options().write(true).open(folder.path().join("state.db.index")).unwrap();
    let len = fs::metadata(&path).unwrap().len() as usize;
    index.set_len(1 << 40).unwrap();
    let before = HELD.get();
    let (peak, store) = peak_of(|| open(&path).unwrap());
    assert!(store.recovery().opening.by_index);
    assert!(peak <= 2 * len + 300 * 120 + MIB, "{peak} bytes for {len}");
    let held = HELD.get() - before;
    assert!(held <= 300 * 120 + 100_000, "{held} bytes are kept");
}

#[test]
fn opening_many_small_jobs_takes_300_bytes_for_each_and_twice_the_file() {
    for count in [4_000, 40_000] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.db");
        let store = open(&path).unwrap();
        let batch = (0..count).fold(Batch::new(), |batch, i| batch.enqueue_job(&format!("run-{i}"), b""));
        store.write(&batch).unwrap();
        store.close().unwrap();
        let len = fs::metadata(&path).unwrap().len() as usize;
        let (peak, opened) = peak_of(|| open(&path));
        assert_eq!(opened.unwrap().queue_depth(), count);
        assert!(peak <= 2 * len + 300 * count + MIB, "{peak} bytes for {count} jobs in {len}");
    }
}

/// With run ids as long and as random as UUIDs, by an index file of many runs, of one run, and without one.
#[test]
fn a_hundred_thousand_jobs_hold_10_mib_and_24_while_they_are_opened() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    let store = open(&path).unwrap();
    let run_id = |i: u64| {
        let random = (i + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        format!("{:08x}-f00a-41db-aff5-{i:012x}", random >> 32)
    };
    for thousand in 0..100 {
        let jobs =
            (0..1000).fold(Batch::new(), |batch, i| batch.enqueue_job(&run_id(1000 * thousand + i), &[7; 100]));
        store.write(&jobs).unwrap();
    }
    store.close().unwrap();
    for is_compacted in [false, true] {
        if is_compacted {
            let store = open(&path).unwrap();
            store.compact().unwrap();
            store.close().unwrap();
        }
        for (by_index, open) in [(true, open as fn(&Path) -> Result<Store>), (false, open_by_replay)] {
            let before = HELD.get();
            let (peak, store) = peak_of(|| open(&path).unwrap());
            let held = (HELD.get() - before).cast_unsigned();
            let what =
                format!("{held} bytes, {peak} at the peak, compacted: {is_compacted}, by index: {by_index}");
            assert!(held <= 10 * MIB && peak <= 24 * MIB, "{what}");
            assert_eq!((store.recovery().opening.by_index, store.queue_depth()), (by_index, 100_000), "{what}");
        }
    }
}

/// Operations that later ones replace are not kept in memory until the end of the log.
#[test]
fn opening_a_short_log_of_many_void_operations_holds_few_of_them() {
    for events in [0_usize, 40_000] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.db");
        let compaction = policy(|policy| policy.automatic = false);
        let store = OpenOptions::new().compaction(compaction).open(&path, &key()).unwrap();
        store.write(&(0..events).fold(Batch::new(), |batch, i| batch.buffer_log(i as i64, b""))).unwrap();
        assert_eq!(store.drain_logs(usize::MAX).unwrap().len(), events);
        let run_ids = (0..50_000).map(|i| format!("{}", i % 100));
        let void = run_ids.fold(Batch::new(), |batch, id| batch.enqueue_job(&id, b"").ack_job(&id));
        store.write(&void).unwrap();
        store.close().unwrap();
        let len = fs::metadata(&path).unwrap().len() as usize;
        let (peak, opened) = peak_of(|| open_by_replay(&path));
        assert!(opened.unwrap().recovery().operations >= 100_000);
        assert!(peak <= 2 * len + 300 * events + MIB, "{peak} bytes for a file of {len}, {events} events");
    }
}

/// Each job has another run id, and none is left. Deletes of what is not there are not kept until the end of the
/// log.
#[test]
fn opening_a_log_of_jobs_that_are_gone_holds_few_of_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    let compaction = policy(|policy| policy.automatic = false);
    let store = OpenOptions::new().compaction(compaction).open(&path, &key()).unwrap();
    for thousand in 0..400 {
        let run_ids = (0..1000).map(|i| format!("{}", thousand * 1000 + i));
        let void = run_ids.fold(Batch::new(), |batch, id| batch.enqueue_job(&id, b"").ack_job(&id));
        store.write(&void).unwrap();
    }
    store.close().unwrap();
    let len = fs::metadata(&path).unwrap().len() as usize;
    let (peak, opened) = peak_of(|| open_by_replay(&path));
    assert_eq!(opened.unwrap().recovery().operations, 800_000);
    assert!(peak <= 2 * len + MIB, "{peak} bytes for a file of {len}");
}

#[test]
fn writing_a_record_of_many_operations_holds_a_few_times_its_length() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("state.db")).unwrap();
    // A manifest of a mebibyte.
    let run_ids: Vec<_> = (0..1024).map(|i| format!("{i:01000}")).collect();
    let batch = run_ids.iter().fold(Batch::new(), |batch, run_id| batch.enqueue_job(run_id, b""));
    let (peak, written) = peak_of(|| store.write(&batch));
    written.unwrap();
    assert!(peak <= 4 * MIB, "{peak} bytes");
}

/// An iterator holds one payload at a time, and about 40 bytes for each key.
#[test]
fn an_iterator_holds_one_payload() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    let mut options = OpenOptions::new();
    let store = options.durability(Durability::Buffered).mmap(false).open(&path, &key()).unwrap();
    let payload = vec![7; MIB];
    for i in 0..20 {
        store.enqueue_job(&format!("long-{i}"), &payload).unwrap();
        store.buffer_log(i, &payload).unwrap();
    }
    let few = (0..10_000).fold(Batch::new(), |batch, i| batch.enqueue_job(&format!("short-{i:05}"), b""));
    store.write(&few).unwrap();
    let (peak, count) = peak_of(|| store.jobs().map(Result::unwrap).count());
    assert_eq!(count, 10_020);
    assert!(peak < 2 * MIB + 45 * count, "{peak} bytes for {count} jobs");
    let (peak, count) = peak_of(|| store.run_ids().count());
    assert_eq!(count, 10_020);
    assert!(peak < 45 * count, "{peak} bytes for {count} run ids");
    let (peak, count) = peak_of(|| store.logs().map(Result::unwrap).count());
    assert_eq!(count, 20);
    assert!(peak < 2 * MIB, "{peak} bytes for {count} events");
}
