//! Files that were changed at random: the store and both readers see the same, also past the damage.

use std::sync::Arc;

use backupy_state::testing::options_on;
use backupy_state::{AgentKey, Batch, Durability};

use crate::agree;
use crate::agree::PATH;
use crate::depth;
use crate::memory::Memory;
use crate::page_reader::{self, Frame, Log};
use crate::page_writer::fix_crcs;
use crate::random::Random;

const KEY: &[u8] = b"the key of the changed files";

/// A log of some sessions; with a base if it was compacted, and closed or killed.
fn log(random: &mut Random) -> Vec<u8> {
    let memory = Arc::new(Memory::default());
    for session in 0..1 + random.below(3) {
        let mut options = options_on(memory.clone());
        options.log_durability(Durability::Buffered).heartbeat_durability(Durability::Buffered);
        let store = options.open(PATH, &AgentKey::new(KEY).unwrap()).unwrap();
        for _ in 0..random.below(12) {
            let run_id = format!("run-{}", random.below(4));
            let len = random.below(60);
            let payload = random.bytes(len);
            match random.below(6) {
                0 => drop(store.ack_job(&run_id).unwrap()),
                1 => store.record_heartbeat(5).unwrap(),
                2 => drop(store.buffer_log(random.below(4) as i64, &payload).unwrap()),
                3 => store.write(&Batch::new().ack_job(&run_id).save_config(session as u64, &payload)).unwrap(),
                _ => drop(store.enqueue_job(&run_id, &payload).unwrap()),
            }
        }
        if random.below(3) == 0 {
            store.compact().unwrap();
        }
        let mut left = memory.bytes(PATH);
        drop(store);
        if random.below(2) == 0 {
            left = memory.bytes(PATH);
        }
        // Some of the preallocated zeros.
        let end = page_reader::read(&left, KEY).unwrap().end;
        left.truncate(left.len().min(end + random.below(200)));
        memory.put(PATH, left);
    }
    memory.bytes(PATH)
}

/// Changes the file once.
fn mutate(file: &mut Vec<u8>, log: &Log, random: &mut Random) {
    let frame_at =
        |random: &mut Random| -> Option<&Frame> { log.frames.get(random.below(log.frames.len().max(1))) };
    match random.below(9) {
        0 => file.truncate(8192 + random.below(file.len().saturating_sub(8192) + 1)),
        1 => {
            let from = 8192 + random.below(file.len().saturating_sub(8192) + 1);
            let until = file.len().min(from + random.below(300));
            file[from.min(until)..until].fill([0, 0xFF, 0x5A][random.below(3)]);
        }
        2 => {
            let len = random.below(100);
            file.extend(random.bytes(len));
        }
        // The first pages: header, base record, marks.
        3 => {
            let at = [0, 1024, 2048, 3072, 4096, 6144][random.below(6)] + random.below(120);
            file[at] ^= 1 << random.below(8);
        }
        4 => file[4096..8192].fill(0),
        5 | 6 => {
            let Some(frame) = frame_at(random) else { return };
            let at = frame.offset + random.below(frame.len);
            if let Some(byte) = file.get_mut(at) {
                *byte ^= 1 << random.below(8);
            }
            let range = frame.offset..frame.offset + frame.len;
            if random.below(2) == 0 && range.end <= file.len() {
                fix_crcs(&mut file[range], &log.header.salt);
            }
        }
        7 => {
            let Some(frame) = frame_at(random).filter(|frame| frame.offset + frame.len <= file.len()) else {
                return;
            };
            file.drain(frame.offset..frame.offset + frame.len);
        }
        _ => {
            let (Some(frame), Some(other)) = (frame_at(random), frame_at(random)) else { return };
            let bytes = file.get(frame.offset..frame.offset + frame.len).unwrap_or_default().to_vec();
            let at = other.offset.min(file.len());
            file.splice(at..at, bytes);
        }
    }
}

#[test]
fn the_store_and_the_readers_agree_on_files_that_were_changed_at_random() {
    let mut rows = std::collections::BTreeMap::new();
    for seed in 0..depth::mutated_logs() {
        let mut random = Random::new(seed);
        let whole = log(&mut random);
        let read = page_reader::read(&whole, KEY).unwrap();
        for _ in 0..20 {
            let mut file = whole.clone();
            for _ in 0..1 + random.below(3) {
                mutate(&mut file, &read, &mut random);
            }
            let row = agree(&file, KEY, &format!("seed {seed}"));
            *rows.entry(row).or_insert(0) += 1;
        }
    }
    println!("{rows:?}");
    for row in ["E1", "E2", "E3", "F2", "F3", "F4", "F6"] {
        assert!(rows.contains_key(row), "{row}: {rows:?}");
    }
}
