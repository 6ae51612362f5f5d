//! Larger stores of random calls, in which the store and the reader written from the page must see the same.

use std::sync::Arc;

use backupy_state::testing::options_on;
use backupy_state::{AgentKey, Batch, Durability, LogLimits, Store};

use crate::agree;
use crate::agree::{PATH, agree_on_orders};
use crate::memory::Memory;
use crate::page_reader;
use crate::page_writer::fix_crcs;
use crate::random::Random;

const KEY: &[u8] = b"another agent key, of any length that is not zero";

#[test]
fn a_reader_written_from_the_page_reads_what_the_store_writes() {
    for seed in 0..12 {
        let mut random = Random::new(seed);
        let memory = Arc::new(Memory::default());
        let mut files = Vec::new();
        for session in 0..4 {
            let store = open(&memory);
            if random.below(3) == 0 {
                store.compact().unwrap();
            }
            for call in 0..60 {
                random_call(&store, &mut random);
                if call % 20 == 0 {
                    files.push((format!("seed {seed}, session {session}, call {call}"), memory.bytes(PATH)));
                }
            }
            files.push((format!("seed {seed}, session {session}, unclosed"), memory.bytes(PATH)));
            if random.below(2) == 0 {
                store.close().unwrap();
            } else {
                // As after a kill in the middle of a write: the session's last frame is torn.
                let mut killed = memory.bytes(PATH);
                drop(store);
                let last = page_reader::read(&killed, KEY).unwrap().frames.pop().unwrap();
                // Nothing that was durable, or nothing that a mark names.
                let is_marked = page_reader::read(&killed, KEY).unwrap().header.mark;
                if is_marked.is_none_or(|mark| mark.seq < last.seq) {
                    killed[last.offset + last.len / 2..].fill(0);
                }
                memory.put(PATH, killed);
            }
            files.push((format!("seed {seed}, session {session}, ended"), memory.bytes(PATH)));
        }
        for (what, file) in files {
            let row = agree(&file, KEY, &what);
            assert!(row.starts_with('E'), "{what}: {row}");
            agree_on_orders(&file, KEY, &what);
        }
    }
}

#[test]
fn a_compacted_log_one_under_a_new_key_and_a_backup_are_ordinary_logs() {
    let new_key = b"the key after a rekey";
    let mut random = Random::new(99);
    // Without these, it repeats after 256 bytes, and so may a salt.
    let memory = Memory::with_random(random.bytes(16 << 10));
    let store = open(&memory);
    (0..100).for_each(|_| random_call(&store, &mut random));
    let id = |file: &[u8], key, row| {
        assert_eq!(agree(file, key, "a copy"), row);
        let header = page_reader::read(file, key).unwrap().header;
        (header.store_id, header.generation, header.salt)
    };
    let before = page_reader::read(&memory.bytes(PATH), KEY).unwrap().header;
    store.compact().unwrap();
    let compacted = id(&memory.bytes(PATH), KEY, "E1");
    store.rekey(&AgentKey::new(new_key).unwrap()).unwrap();
    let rekeyed = id(&memory.bytes(PATH), new_key, "E1");
    store.backup("/copy.db").unwrap();
    let copied = id(&memory.bytes("/copy.db"), new_key, "E1");

    let ids = [(before.store_id, before.generation, before.salt), compacted, rekeyed, copied];
    assert!(ids.iter().all(|id| id.0 == before.store_id));
    assert_eq!(ids.map(|id| id.1), [1, 2, 3, 3]);
    let salts: std::collections::BTreeSet<_> = ids.iter().map(|id| id.2).collect();
    assert_eq!(salts.len(), 4);
    assert_eq!(agree(&memory.bytes(PATH), KEY, "the key before"), "H7");
}

#[test]
fn values_and_frames_of_the_largest_size_are_as_on_the_page() {
    let memory = Arc::new(Memory::default());
    let store = open(&memory);
    let largest = vec![0xA5; 16 << 20];
    store.save_config(u64::MAX, &largest).unwrap();
    store.enqueue_job(&"r".repeat(1024), &largest).unwrap();
    store.close().unwrap();
    assert_eq!(agree(&memory.bytes(PATH), KEY, "two values of 16 MiB"), "E1");
}

/// The count of dropped events is read when the store is opened: all the same, it is only one value.
#[test]
fn a_count_of_dropped_events_that_fails_its_seal_blocks_nothing_else() {
    let memory = Arc::new(Memory::default());
    let store = open(&memory);
    store.enqueue_job("job", b"payload").unwrap();
    for ts_ms in 0..7 {
        store.buffer_log(ts_ms, b"event").unwrap();
    }
    store.close().unwrap();
    let mut file = memory.bytes(PATH);
    let log = page_reader::read(&file, KEY).unwrap();
    assert_eq!(log.contents.dropped(), Ok(1));
    let frame = &log.frames[log.frames.len() - 2];
    let count = frame.values.last().unwrap();
    assert_eq!(count.plaintext.as_deref(), Some(&[1, 0, 0, 0, 0, 0, 0, 0][..]));
    file[count.offset] ^= 1;
    fix_crcs(&mut file[frame.offset..frame.offset + frame.len], &log.header.salt);
    assert_eq!(agree(&file, KEY, "a count that fails its seal"), "E1");
}

/// For one salt in 2^32, the CRC of a header of zeros is zero, so such a header checks.
#[test]
fn zeros_are_the_end_of_the_log_under_every_salt() {
    let salt = [&[0; 28][..], &[0x94, 0x01, 0x7A, 0xBE]].concat();
    assert_eq!(page_reader::crc32(&[&salt, &[0; 44]]), 0);
    let memory = Memory::with_random([vec![0x1D; 16], salt].concat());
    let store = open(&memory);
    store.record_heartbeat(5).unwrap();
    assert_eq!(agree(&memory.bytes(PATH), KEY, "zeros ahead"), "E2");
}

fn open(memory: &Arc<Memory>) -> Store {
    let mut options = options_on(memory.clone());
    options.log_durability(Durability::Buffered).heartbeat_durability(Durability::Buffered);
    // Few enough that events are dropped.
    let mut limits = LogLimits::default();
    limits.max_count = Some(6);
    options.log_limits(limits);
    options.open(PATH, &AgentKey::new(KEY).unwrap()).unwrap()
}

fn random_call(store: &Store, random: &mut Random) {
    let run_id = format!("lauf-ü-{}", random.below(12));
    match random.below(12) {
        0 => store.save_config(random.next(), &random_bytes(random)).unwrap(),
        1..=3 => drop(store.enqueue_job(&run_id, &random_bytes(random)).unwrap()),
        4 => drop(store.ack_job(&run_id).unwrap()),
        5 => store.save_session(&run_id, random.next().cast_signed()).unwrap(),
        6 => store.record_heartbeat(random.next().cast_signed()).unwrap(),
        7 => drop(store.buffer_log(random_time(random), &random_bytes(random)).unwrap()),
        8 => drop(store.drain_logs(random.below(4)).unwrap()),
        9 => store.put_data(&run_id, &random_bytes(random)).unwrap(),
        10 => drop(store.delete_data(&run_id).unwrap()),
        _ => {
            let mut batch = Batch::new();
            for _ in 0..random.below(12) {
                let run_id = format!("lauf-ü-{}", random.below(12));
                batch = match random.below(6) {
                    0 => batch.ack_job(&run_id),
                    1 => batch.buffer_log(random_time(random), &random_bytes(random)),
                    2 => batch.save_config(random.next(), b""),
                    3 => batch.put_data(&run_id, &random_bytes(random)),
                    4 => batch.delete_data(&run_id),
                    _ => batch.enqueue_job(&run_id, &random_bytes(random)),
                };
            }
            store.write(&batch).unwrap();
        }
    }
}

fn random_bytes(random: &mut Random) -> Vec<u8> {
    let len = random.below(200);
    random.bytes(len)
}

/// Few times, so that ties occur; on both sides of 1970 and at the ends.
fn random_time(random: &mut Random) -> i64 {
    [i64::MIN, -1_500, -1, 0, 1, 1_700_000_000_000, i64::MAX][random.below(7)]
}
