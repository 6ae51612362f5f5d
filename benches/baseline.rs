//! The store compared with a baseline: the simplest code that could do the same work with as many bytes.
//!
//! Store and baseline run in turn, and each figure is the median of the ratios of the rounds: it stays the same on
//! a slow or shared machine. `cargo bench --bench baseline` runs all benchmarks; `-- WORD` those whose name
//! contains WORD.
#![allow(clippy::unwrap_used, reason = "a benchmark stops at the first failure")]

use std::collections::BTreeMap;
use std::fs::File;
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::{Aes256Gcm, Nonce};
use backupy_state::{Durability, OpenOptions, Store};

mod measure;

use measure::{compare, folder, key, run, run_id, time_each};

fn main() {
    if let Some(path) = std::env::var_os(MEMORY_CHILD) {
        return memory_child(path.as_ref());
    }
    let benches: [(&str, fn()); 6] = [
        ("durable enqueue, 512 B", durable_enqueue),
        ("durable enqueue, 8 threads", eight_threads),
        ("buffered enqueue, 512 B", buffered_enqueue),
        ("open, 10,000 live jobs of 512 B", open),
        ("dequeue 100 jobs of 512 B", dequeue),
        ("memory of 100,000 live jobs of 512 B", memory),
    ];
    run(&benches);
}

const PAYLOAD: [u8; 512] = [7; 512];

fn enqueue(store: &Store, i: usize) {
    store.enqueue_job(&run_id(i), &PAYLOAD).unwrap();
}

/// A file of zeros, written and synced.
fn zeros(path: &Path, len: usize) -> File {
    let file = File::options().read(true).write(true).create_new(true).open(path).unwrap();
    // In pieces: one large write creates folios of 2 MiB, in which each small write costs three times as much.
    for at in (0..len).step_by(64 << 10) {
        file.write_all_at(&[0; 64 << 10], at as u64).unwrap();
    }
    file.sync_all().unwrap();
    file
}

/// The length of the frame that an enqueue of `PAYLOAD` writes.
fn frame_len() -> usize {
    let folder = folder();
    let store = Store::open(folder.path().join("state.db"), &key()).unwrap();
    let before = store.stats().log_len;
    store.enqueue_job(&run_id(0), &PAYLOAD).unwrap();
    usize::try_from(store.stats().log_len - before).unwrap()
}

/// Baseline: pwrite and fdatasync of as many bytes, over zeros that were synced before.
fn durable_enqueue() {
    const COUNT: usize = 2_000;
    let frame = vec![7; frame_len()];
    let store = || {
        let folder = folder();
        let store = Store::open(folder.path().join("state.db"), &key()).unwrap();
        time_each(COUNT, |i| enqueue(&store, i))
    };
    let baseline = || {
        let folder = folder();
        let file = zeros(&folder.path().join("baseline"), (COUNT + 1) * frame.len());
        time_each(COUNT, |i| {
            file.write_all_at(&frame, (i * frame.len()) as u64).unwrap();
            file.sync_data().unwrap();
        })
    };
    compare(store, baseline);
}

/// Baseline: the store with one thread. A ratio of 0.33 is three times its throughput.
fn eight_threads() {
    const COUNT: usize = 4_000;
    let with_threads = |threads: usize| {
        let folder = folder();
        let store = Store::open(folder.path().join("state.db"), &key()).unwrap();
        let begun = Instant::now();
        std::thread::scope(|scope| {
            for thread in 0..threads {
                let store = &store;
                scope.spawn(move || {
                    for i in (thread..COUNT).step_by(threads) {
                        enqueue(store, i);
                    }
                });
            }
        });
        begun.elapsed() / u32::try_from(COUNT).unwrap()
    };
    compare(|| with_threads(8), || with_threads(1));
}

/// Baseline: seal, CRC and pwrite of as many bytes.
fn buffered_enqueue() {
    const COUNT: usize = 20_000;
    let len = frame_len();
    let store = || {
        let folder = folder();
        let options = OpenOptions::new().durability(Durability::Buffered).clone();
        let store = options.open(folder.path().join("state.db"), &key()).unwrap();
        time_each(COUNT, |i| enqueue(&store, i))
    };
    let baseline = || {
        let folder = folder();
        let file = zeros(&folder.path().join("baseline"), (COUNT + 1) * len);
        let cipher = Aes256Gcm::new(&[7; 32].into());
        let mut frame = vec![7; len];
        time_each(COUNT, |i| {
            let tag = cipher.encrypt_inout_detached(&nonce(i), &[], (&mut frame[64..576]).into()).unwrap();
            frame[576..592].copy_from_slice(&tag);
            let crc = crc32fast::hash(&frame[4..]);
            frame[..4].copy_from_slice(&crc.to_le_bytes());
            file.write_all_at(&frame, (i * len) as u64).unwrap();
        })
    };
    compare(store, baseline);
}

/// A closed store with so many jobs.
fn filled_store(folder: &Path, count: usize) -> PathBuf {
    let path = folder.join("state.db");
    let store = OpenOptions::new().durability(Durability::Buffered).open(&path, &key()).unwrap();
    (0..count).for_each(|i| enqueue(&store, i));
    store.close().unwrap();
    path
}

/// Baseline: read the file, check the CRC of each value, decrypt it, and fill a map with the payloads.
fn open() {
    const COUNT: usize = 10_000;
    let folder = folder();
    let path = filled_store(folder.path(), COUNT);

    let plain = folder.path().join("baseline");
    let sealed = SealedValues::new(COUNT);
    let records = sealed.0.iter().enumerate().map(|(i, value)| [run_id(i).as_bytes(), value].concat());
    std::fs::write(&plain, records.collect::<Vec<_>>().concat()).unwrap();
    let store = || {
        let begun = Instant::now();
        let store = Store::open(&path, &key()).unwrap();
        let took = begun.elapsed();
        assert_eq!(store.queue_depth(), COUNT);
        took
    };
    let baseline = || {
        let begun = Instant::now();
        let bytes = std::fs::read(&plain).unwrap();
        let cipher = SealedValues::cipher();
        let mut jobs = BTreeMap::new();
        for (i, record) in bytes.chunks(36 + 4 + PAYLOAD.len() + 16).enumerate() {
            let (run_id, sealed) = record.split_at(36);
            let (crc, sealed) = sealed.split_at(4);
            assert_eq!(crc, crc32fast::hash(sealed).to_le_bytes());
            jobs.insert(run_id.to_vec(), SealedValues::open(&cipher, i, sealed));
        }
        assert_eq!(jobs.len(), COUNT);
        let took = begun.elapsed();
        drop(black_box(jobs));
        took
    };
    compare(store, baseline);
}

/// Baseline: decrypt 100 values in memory.
fn dequeue() {
    const COUNT: usize = 100;
    let folder = folder();
    let store = Store::open(folder.path().join("state.db"), &key()).unwrap();
    (0..COUNT).for_each(|i| enqueue(&store, i));
    let sealed = SealedValues::new(COUNT);
    let cipher = SealedValues::cipher();
    let store = || time_each(1_000, |_| drop(black_box(store.dequeue_jobs(COUNT).unwrap())));
    let baseline = || {
        time_each(1_000, |_| {
            let open = |(i, value): (usize, &Vec<u8>)| SealedValues::open(&cipher, i, &value[4..]);
            drop(black_box(sealed.0.iter().enumerate().map(open).collect::<Vec<_>>()));
        })
    };
    compare(store, baseline);
}

/// How much a fresh process grows when it opens the store, as the kernel counts it. No ratio.
fn memory() {
    const COUNT: usize = 100_000;
    let folder = folder();
    let path = filled_store(folder.path(), COUNT);
    let child = Command::new(std::env::current_exe().unwrap()).env(MEMORY_CHILD, &path).output().unwrap();
    assert!(child.status.success());
    println!("{}", String::from_utf8(child.stdout).unwrap().trim_end());
}

const MEMORY_CHILD: &str = "BASELINE_MEMORY_CHILD";

fn memory_child(path: &Path) {
    let before = resident_bytes();
    let store = Store::open(path, &key()).unwrap();
    let grown = resident_bytes() - before;
    println!("{:>9.2} MiB resident for {} jobs", grown as f64 / f64::from(1 << 20), store.queue_depth());
}

fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// `CRC || ciphertext || tag` of `PAYLOAD`, each with its own nonce and with associated data as long as in a
/// frame.
struct SealedValues(Vec<Vec<u8>>);

impl SealedValues {
    fn cipher() -> Aes256Gcm {
        Aes256Gcm::new(&[7; 32].into())
    }

    fn new(count: usize) -> Self {
        let cipher = Self::cipher();
        let seal = |i| {
            let mut value = PAYLOAD.to_vec();
            let tag = cipher.encrypt_inout_detached(&nonce(i), &aad(i), value.as_mut_slice().into()).unwrap();
            value.extend_from_slice(&tag);
            [crc32fast::hash(&value).to_le_bytes().as_slice(), &value].concat()
        };
        SealedValues((0..count).map(seal).collect())
    }

    fn open(cipher: &Aes256Gcm, i: usize, sealed: &[u8]) -> Vec<u8> {
        let (text, tag) = sealed.split_at(PAYLOAD.len());
        let mut text = text.to_vec();
        let tag: &aes_gcm::Tag = tag.try_into().unwrap();
        cipher.decrypt_inout_detached(&nonce(i), &aad(i), text.as_mut_slice().into(), tag).unwrap();
        text
    }
}

fn aad(i: usize) -> [u8; 12] {
    let mut aad = [0; 12];
    aad[..8].copy_from_slice(&(i as u64).to_le_bytes());
    aad
}

fn nonce(i: usize) -> Nonce<aes_gcm::aead::consts::U12> {
    let mut nonce = [0; 12];
    nonce[..8].copy_from_slice(&(i as u64).to_le_bytes());
    nonce.into()
}
