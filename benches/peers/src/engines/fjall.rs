//! fjall: a log-structured merge tree with a journal.

use std::path::Path;

use fjall::config::CompressionPolicy;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use crate::engine::{Key, Kv, Mode, Table, Value};

pub(crate) struct Fjall {
    database: Database,
    keyspaces: [Keyspace; 4],
    mode: Mode,
}

impl Fjall {
    pub(crate) fn open(folder: &Path, mode: Mode) -> Self {
        // Sealed values do not compress: trying would only cost time.
        let options =
            || KeyspaceCreateOptions::default().data_block_compression_policy(CompressionPolicy::disabled());
        let database = Database::builder(folder.join("state.fjall"))
            .journal_compression(fjall::CompressionType::None)
            .open()
            .unwrap();
        let keyspaces = Table::ALL.map(|table| database.keyspace(table.name(), options).unwrap());
        Fjall { database, keyspaces, mode }
    }
}

impl Kv for Fjall {
    const LIKES_ORDER: bool = false;

    fn write(&self, table: Table, puts: Vec<(Key, Value)>, deletes: Vec<Key>) {
        let keyspace = &self.keyspaces[table as usize];
        // SyncData is an fdatasync, which is enough for a journal. Buffer hands the data to the kernel.
        let persist = if self.mode == Mode::Durable { PersistMode::SyncData } else { PersistMode::Buffer };
        let mut batch = self.database.batch().durability(Some(persist));
        for (key, value) in puts {
            batch.insert(keyspace, key, value);
        }
        for key in deletes {
            batch.remove(keyspace, key);
        }
        batch.commit().unwrap();
    }

    fn get(&self, table: Table, key: &[u8]) -> Option<Value> {
        self.keyspaces[table as usize].get(key).unwrap().map(|value| value.to_vec())
    }

    fn first(&self, table: Table, count: usize) -> Vec<(Key, Value)> {
        let copy = |row: fjall::Guard| {
            let (key, value) = row.into_inner().unwrap();
            (key.to_vec(), value.to_vec())
        };
        self.keyspaces[table as usize].iter().take(count).map(copy).collect()
    }

    fn sync(&self) {
        self.database.persist(PersistMode::SyncData).unwrap();
    }

    fn close(self) {}
}
