//! Values that are read through the memory map, the crate's only `unsafe`: up to its end, after its renewals, and
//! while the mapped file is replaced. `tests/sanitizers map` runs these tests under valgrind.

use std::thread;

use backupy_state::{OpenOptions, Snapshot, Store};

use crate::common::{Place, Random, key};

const VALUES: u64 = 24;

/// Of different lengths, together several times what the log grows by.
fn value(n: u64) -> Vec<u8> {
    let mut bytes = vec![0; 1 + 19_999 * n as usize];
    Random::new(n).fill(&mut bytes);
    bytes
}

fn put(store: &Store, n: u64) {
    store.enqueue_job(&format!("{n:02}"), &value(n)).unwrap();
}

#[test]
fn values_are_read_through_the_map_and_its_renewals() {
    let place = Place::new();
    let store = place.open();
    let mut lens = Vec::new();
    for n in 0..VALUES {
        put(&store, n);
        lens.push(store.stats().file_len);
        // The newest value may be beyond the map, the others are not.
        for known in (0..=n).rev() {
            assert!(store.job(&format!("{known:02}")).unwrap().unwrap().payload == value(known), "{known} of {n}");
        }
    }
    lens.dedup();
    assert!(lens.len() > 3, "the log has outgrown its map only {} times", lens.len());
}

#[test]
fn readers_keep_their_map_while_the_log_is_replaced_and_removed() {
    let place = Place::new();
    let store = place.open();
    (0..VALUES).for_each(|n| put(&store, n));
    let snapshot = Snapshot::open(place.path(), &key()).unwrap();
    let mut jobs = store.jobs();
    assert!(jobs.next().unwrap().unwrap().payload == value(0));
    store.compact().unwrap();
    assert!(jobs.next().unwrap().unwrap().payload == value(1));
    for (n, job) in (2..).zip(jobs) {
        assert!(job.unwrap().payload == value(n), "{n}");
    }
    store.close().unwrap();
    drop(store);
    std::fs::remove_file(place.path()).unwrap();
    assert!(snapshot.jobs().map(|job| job.unwrap().payload).eq((0..VALUES).map(value)));
}

#[test]
fn threads_read_while_the_map_is_renewed_and_replaced() {
    let place = Place::new();
    let store = &place.open();
    put(store, 0);
    thread::scope(|threads| {
        for _ in 0..3 {
            threads.spawn(move || {
                while store.queue_depth() < VALUES as usize {
                    for job in store.dequeue_jobs(8).unwrap() {
                        assert!(job.payload == value(job.run_id.parse().unwrap()));
                    }
                }
            });
        }
        for n in 1..VALUES {
            put(store, n);
            if n % 8 == 0 {
                store.compact().unwrap();
            }
        }
    });
}

#[test]
fn without_a_map_the_same_values_are_read() {
    let place = Place::new();
    let store = OpenOptions::new().mmap(false).open(place.path(), &key()).unwrap();
    (0..VALUES).for_each(|n| put(&store, n));
    assert!(store.jobs().map(|job| job.unwrap().payload).eq((0..VALUES).map(value)));
}
