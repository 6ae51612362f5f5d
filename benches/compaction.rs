//! Compaction compared with a plain copy loop, and how it slows down concurrent writers.
#![allow(clippy::unwrap_used, reason = "a benchmark stops at the first failure")]

use std::fs::File;
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::{Aes256Gcm, Nonce};
use backupy_state::testing::policy;
use backupy_state::{Durability, OpenOptions, Stats, Store};

mod measure;

use measure::{compare, folder, key, run, run_id, time_each};

fn main() {
    run(&[
        ("compaction of 100 MB live", compaction),
        ("slowest write during compaction", slowest_write),
        ("file after 100,000 pairs, 100 live", file_len),
        ("open after 100,000 dead, 100 live", open),
    ]);
}

const VALUE_LEN: usize = 4096;
const VALUE_COUNT: usize = 25_000;

fn buffered() -> OpenOptions {
    OpenOptions::new()
        .durability(Durability::Buffered)
        .compaction(policy(|policy| policy.automatic = false))
        .clone()
}

/// Baseline: read, decrypt, seal and write as many values of the same length, 256 KiB at a time, with one sync.
fn compaction() {
    let folder = folder();
    let store = buffered().open(folder.path().join("state.db"), &key()).unwrap();
    (0..VALUE_COUNT).for_each(|i| drop(store.enqueue_job(&run_id(i), &[7; VALUE_LEN])));
    store.sync().unwrap();

    let sealed_len = VALUE_LEN + 16;
    let cipher = Aes256Gcm::new(&[7; 32].into());
    let nonce: Nonce<_> = [7; 12].into();
    let mut value = vec![7; VALUE_LEN];
    let tag = cipher.encrypt_inout_detached(&nonce, &[], value.as_mut_slice().into()).unwrap();
    value.extend_from_slice(&tag);
    let plain = folder.path().join("baseline");
    std::fs::write(&plain, value.repeat(VALUE_COUNT)).unwrap();

    let baseline = || {
        let begun = Instant::now();
        let (from, to) = (File::open(&plain).unwrap(), File::create(folder.path().join("copy")).unwrap());
        let mut bytes = vec![0; 64 * sealed_len];
        let mut at = 0;
        loop {
            let len = from.read_at(&mut bytes, at).unwrap();
            if len == 0 {
                break;
            }
            for value in bytes[..len].chunks_mut(sealed_len) {
                let (text, tag) = value.split_at_mut(VALUE_LEN);
                let expected: &aes_gcm::Tag = (&*tag).try_into().unwrap();
                cipher.decrypt_inout_detached(&nonce, &[], (&mut *text).into(), expected).unwrap();
                let sealed = cipher.encrypt_inout_detached(&nonce, &[], text.into()).unwrap();
                tag.copy_from_slice(&sealed);
            }
            black_box(crc32fast::hash(&bytes[..len]));
            to.write_all_at(&bytes[..len], at).unwrap();
            at += len as u64;
        }
        to.sync_all().unwrap();
        begun.elapsed()
    };
    let compact = || store.compact().unwrap().took;
    compare(compact, baseline);
}

/// Baseline: the slowest durable write without a compaction.
fn slowest_write() {
    let folder = folder();
    let store = buffered().durability(Durability::Sync).open(folder.path().join("state.db"), &key()).unwrap();
    let load =
        (0..VALUE_COUNT).fold(backupy_state::Batch::new(), |batch, i| batch.enqueue_job(&run_id(i), &[7; 1024]));
    store.write(&load).unwrap();
    let done = AtomicBool::new(false);
    let slowest = |compacting: bool| {
        done.store(!compacting, Ordering::Relaxed);
        std::thread::scope(|scope| {
            if compacting {
                scope.spawn(|| {
                    store.compact().unwrap();
                    done.store(true, Ordering::Relaxed);
                });
            }
            let mut slowest = Duration::ZERO;
            let mut count = 0;
            while !done.load(Ordering::Relaxed) || count < 2_000 {
                slowest = slowest.max(time_each(1, |_| store.record_heartbeat(count).unwrap()));
                count += 1;
            }
            slowest
        })
    };
    compare(|| slowest(true), || slowest(false));
}

/// Durable, with default options: the file's greatest length, and its length after the last call. No ratio.
fn file_len() {
    let folder = folder();
    let path = folder.path().join("state.db");
    let mut longest = 0;
    let store = churned(&path, Durability::Sync, |store| longest = store.stats().file_len.max(longest));
    let Stats { live_bytes, file_len, compaction, .. } = store.stats();
    let bound = live_bytes as f64 * 2.5 + f64::from(1 << 20);
    println!(
        "{file_len:>9} bytes, at most {longest}, which is {:.3} x the bound; {compaction:?}",
        longest as f64 / bound
    );
}

/// Enqueues and acks 100,000 jobs while 100 jobs remain in the queue.
fn churned(path: &std::path::Path, durability: Durability, mut each: impl FnMut(&Store)) -> Store {
    let store = OpenOptions::new().durability(durability).open(path, &key()).unwrap();
    for i in 0..100_000 {
        store.enqueue_job(&run_id(i), &[7; 512]).unwrap();
        if i >= 100 {
            store.ack_job(&run_id(i)).unwrap();
        }
        each(&store);
    }
    store
}

/// Opening after churn. No ratio.
fn open() {
    let folder = folder();
    let path = folder.path().join("state.db");
    churned(&path, Durability::Buffered, |_| {}).close().unwrap();
    // The file system is still busy with the files that a hundred compactions removed.
    std::thread::sleep(Duration::from_secs(2));
    let mut took: Vec<_> = (0..7)
        .map(|_| {
            let begun = Instant::now();
            let store = Store::open(&path, &key()).unwrap();
            let took = begun.elapsed();
            assert_eq!(store.queue_depth(), 100);
            took
        })
        .collect();
    took.sort();
    println!("{:>9.2} us", took[3].as_secs_f64() * 1e6);
}
