//! The log that is mutated: the same bytes in each run, with every state that the store had.

use std::ops::Range;
use std::path::Path;
use std::sync::OnceLock;

use backupy_state::{Batch, Result, Store};

use crate::sim::Sim;
use crate::sim::{Mode, Model, Opened, PATH, open};

/// The key of the workload in `tests/sim/`.
pub const KEY: &[u8] = b"bkpy_0123456789abcdef0123456789abcdef";
pub const FIRST_FRAME_AT: usize = 8192;
pub const FRAME_HEADER_LEN: usize = 48;
const MARK_PAGE: Range<usize> = 4096..FIRST_FRAME_AT;
/// Where the two marks are.
pub const SLOTS: [usize; 2] = [4096, 6144];
pub const SLOT_LEN: usize = 40;
/// Where the two copies of the base record are.
pub const BASES: [usize; 2] = [1024, 3072];
pub const BASE_LEN: usize = 104;

/// Logs of one store.
pub struct Base {
    /// Three sessions. The last one was killed, so the preallocated space remains.
    pub main: Vec<u8>,
    /// Equal to `main` in the first session, then other calls under other nonces.
    pub fork: Vec<u8>,
    /// The previous generation. All its live data is also in `main`.
    pub older: Vec<u8>,
    /// The same without its marks: nothing but its frames says how long it is.
    pub unmarked: Vec<u8>,
    /// The states of `main` and `fork` after each frame.
    pub states: Vec<Model>,
}

pub fn base() -> &'static Base {
    static BASE: OnceLock<Base> = OnceLock::new();
    BASE.get_or_init(make)
}

fn make() -> Base {
    let mut states = vec![Model::default()];
    let sim = Sim::new(1);
    let store = open(&sim, Mode::Sync).unwrap();
    for number in 0..12 {
        call(&store, number).unwrap();
    }
    let older = log_of(&sim);
    store.compact().unwrap();
    record_state(&mut states, &sim);
    session(&mut states, &sim, store, 12..17);
    sim.kill();

    let fork = Sim::at(sim.world(), 2);
    session(&mut states, &fork, open(&fork, Mode::Sync).unwrap(), 20..25);
    session(&mut states, &sim, open(&sim, Mode::Sync).unwrap(), 30..35);
    let last = open(&sim, Mode::Mixed).unwrap();
    for number in 40..48 {
        call(&last, number).unwrap();
        record_state(&mut states, &sim);
    }
    let main = log_of(&sim);
    sim.kill();
    drop(last);
    let mut unmarked = older.clone();
    unmarked[MARK_PAGE].fill(0);
    Base { main, fork: log_of(&fork), older, unmarked, states }
}

fn session(states: &mut Vec<Model>, sim: &Sim, store: Opened, calls: std::ops::Range<u64>) {
    for number in calls {
        call(&store, number).unwrap();
        record_state(states, sim);
    }
    store.store.close().unwrap();
}

fn record_state(states: &mut Vec<Model>, sim: &Sim) {
    states.push(Model::on_copy(&sim.world()).unwrap());
}

/// Makes the call that `number` selects.
pub fn call(store: &Store, number: u64) -> Result<()> {
    let text = format!("call {number}");
    let bytes = text.as_bytes();
    let run_id = format!("run-{}", number % 4);
    let ts_ms = number as i64 % 5 - 2;
    match number % 8 {
        0 => store.save_config(number, bytes)?,
        1 | 2 => drop(store.enqueue_job(&run_id, bytes)?),
        3 => drop(store.buffer_log(ts_ms, bytes)?),
        4 => {
            let batch = Batch::new().ack_job(&run_id).enqueue_job("run-9", bytes).record_heartbeat(ts_ms);
            store.write(&batch.buffer_log(ts_ms, bytes))?;
        }
        5 => drop(store.ack_job(&run_id)?),
        6 => store.save_session(&text, ts_ms)?,
        _ => drop(store.drain_logs(1)?),
    }
    Ok(())
}

pub fn log_of(sim: &Sim) -> Vec<u8> {
    let world = sim.world();
    let log = world.inode(world.named(Path::new(PATH)).unwrap()).live.trimmed_bytes();
    // Keeps as much of the preallocated space as the shortest frame takes.
    let end = log.len().next_multiple_of(8);
    [log, vec![0; 128]].concat()[..end + 64].to_vec()
}

/// The ranges of the frames, according to their length fields, up to the first length that cannot be right.
pub fn frames(log: &[u8]) -> Vec<Range<usize>> {
    let mut frames = Vec::new();
    let mut at = FIRST_FRAME_AT;
    while let Some(len) = log.get(at + 8..at + 12) {
        let len = u32::from_le_bytes(len.try_into().unwrap()) as usize;
        if len < FRAME_HEADER_LEN + 16 || len > log.len() - at {
            break;
        }
        frames.push(at..at + len);
        at += len;
    }
    frames
}

/// Recomputes both CRCs of the frame.
pub fn fix_crcs(log: &mut [u8], frame: Range<usize>) {
    let (start, end) = (frame.start, frame.end);
    let body_crc = salted_crc(log, start + FRAME_HEADER_LEN..end);
    log[start + 4..start + 8].copy_from_slice(&body_crc.to_le_bytes());
    fix_header_crc(log, start);
}

pub fn fix_header_crc(log: &mut [u8], at: usize) {
    let header_crc = salted_crc(log, at + 4..at + FRAME_HEADER_LEN);
    log[at..at + 4].copy_from_slice(&header_crc.to_le_bytes());
}

/// Recomputes the CRC of the mark or the copy of the base record of `len` bytes at `at`.
pub fn fix_position_crc(log: &mut [u8], at: usize, len: usize) {
    let crc = salted_crc(log, at + 4..at + len);
    log[at..at + 4].copy_from_slice(&crc.to_le_bytes());
}

fn salted_crc(log: &[u8], range: Range<usize>) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&log[48..80]);
    crc.update(&log[range]);
    crc.finalize()
}
