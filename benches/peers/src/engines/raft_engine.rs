//! raft-engine: a log with its keys and values in memory. TiKV keeps the state of its regions in it.

use std::fs::{self, File};
use std::path::Path;

use raft_engine::{Config, Engine, LogBatch, ReadableSize};

use crate::engine::{Key, Kv, Mode, Table, Value};

pub(crate) struct RaftEngine {
    engine: Engine,
    mode: Mode,
}

const FILE_LEN: u64 = 2 << 20;

impl RaftEngine {
    pub(crate) fn open(folder: &Path, mode: Mode) -> Self {
        let folder = folder.join("state.raft");
        let is_new = !folder.exists();
        // Prefilling takes time and space, and a log that is only prepared for another process does not need it. A
        // log that has prefilled files keeps them.
        let prefill_for_recycle = if is_new { mode != Mode::Bulk } else { has_reserved_files(&folder) };
        let config = Config {
            dir: folder.to_str().unwrap().to_owned(),
            // Sealed values do not compress.
            batch_compression_threshold: ReadableSize(0),
            // Small files, zeroed before use and recycled when all their data is dead: a sync of space that was
            // only allocated costs more.
            target_file_size: ReadableSize(FILE_LEN),
            purge_threshold: ReadableSize(4 * FILE_LEN),
            enable_log_recycle: true,
            prefill_for_recycle,
            prefill_limit: Some(ReadableSize(4 * FILE_LEN)),
            ..Config::default()
        };
        let engine = Engine::open(config).unwrap();
        if is_new && prefill_for_recycle {
            // The first file is not prefilled. Filling it brings the log into the state of one that has been in
            // use.
            for _ in 0..=FILE_LEN / (64 << 10) {
                let mut filler = LogBatch::default();
                filler.put(region(Table::Registry), b"filler".to_vec(), vec![7; 64 << 10]).unwrap();
                engine.write(&mut filler, false).unwrap();
            }
            let mut end = LogBatch::default();
            end.delete(region(Table::Registry), b"filler".to_vec());
            engine.write(&mut end, true).unwrap();
            for file in fs::read_dir(&folder).unwrap() {
                File::open(file.unwrap().path()).unwrap().sync_all().unwrap();
            }
        }
        RaftEngine { engine, mode }
    }
}

fn has_reserved_files(folder: &Path) -> bool {
    let mut files = fs::read_dir(folder).unwrap();
    files.any(|file| file.unwrap().path().extension().is_some_and(|extension| extension == "reserved"))
}

/// The number of the region that a table is kept in.
fn region(table: Table) -> u64 {
    table as u64 + 1
}

impl Kv for RaftEngine {
    const LIKES_ORDER: bool = false;

    fn write(&self, table: Table, puts: Vec<(Key, Value)>, deletes: Vec<Key>) {
        let mut batch = LogBatch::with_capacity(puts.len() + deletes.len());
        for (key, value) in puts {
            batch.put(region(table), key, value).unwrap();
        }
        for key in deletes {
            batch.delete(region(table), key);
        }
        self.engine.write(&mut batch, self.mode == Mode::Durable).unwrap();
    }

    fn get(&self, table: Table, key: &[u8]) -> Option<Value> {
        self.engine.get(region(table), key)
    }

    fn first(&self, table: Table, count: usize) -> Vec<(Key, Value)> {
        let mut rows = Vec::with_capacity(count);
        let add = |key: &[u8], value: &[u8]| {
            rows.push((key.to_vec(), value.to_vec()));
            rows.len() < count
        };
        self.engine.scan_raw_messages(region(table), None, None, false, add).unwrap();
        rows
    }

    fn sync(&self) {
        self.engine.write(&mut LogBatch::default(), true).unwrap();
        let mut batch = LogBatch::default();
        batch.delete(region(Table::Registry), b"filler".to_vec());
        self.engine.write(&mut batch, true).unwrap();
    }

    /// TiKV calls this every ten seconds, from a timer.
    fn tidy(&self) {
        self.engine.purge_expired_files().unwrap();
    }

    fn close(self) {}
}
