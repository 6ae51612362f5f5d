//! LMDB, through heed: a memory-mapped, copy-on-write B-tree.
#![allow(unsafe_code, reason = "mapping a file is unsafe; no other process changes it")]

use std::path::Path;

use heed::types::Bytes;
use heed::{CommitOrAbort, Database, Env, EnvFlags, EnvOpenOptions, WithTls};

use crate::engine::{Key, Kv, Mode, Table, Value};

pub(crate) struct Lmdb {
    env: Env<WithTls>,
    databases: [Database<'static, Bytes, Bytes>; 4],
}

/// More than any workload needs. Unused space costs nothing.
const MAP_SIZE: usize = 1 << 30;

impl Lmdb {
    pub(crate) fn open(folder: &Path, mode: Mode) -> Self {
        // The default is durable: one fdatasync for the pages and a synchronous write for the root.
        let flags = if mode == Mode::Durable { EnvFlags::empty() } else { EnvFlags::NO_SYNC };
        // SAFETY: the folder is used by this process alone, so the mapped file does not change under it.
        let env =
            unsafe { EnvOpenOptions::new().map_size(MAP_SIZE).max_dbs(4).flags(flags).open(folder) }.unwrap();
        let transaction = env.write_txn().unwrap();
        let databases = env.create_databases_and_commit(transaction, |opener, transaction| {
            let databases =
                Table::ALL.map(|table| opener.create_database(transaction, Some(table.name())).unwrap());
            Ok::<_, heed::Error>(CommitOrAbort::<_, ()>::Commit(databases))
        });
        let databases = databases.unwrap().unwrap_commit();
        Lmdb { env, databases }
    }
}

impl Kv for Lmdb {
    const LIKES_ORDER: bool = true;

    fn write(&self, table: Table, puts: Vec<(Key, Value)>, deletes: Vec<Key>) {
        let database = self.databases[table as usize];
        let mut transaction = self.env.write_txn().unwrap();
        for (key, value) in &puts {
            database.put(&mut transaction, key, value).unwrap();
        }
        for key in &deletes {
            database.delete(&mut transaction, key).unwrap();
        }
        transaction.commit().unwrap();
    }

    fn get(&self, table: Table, key: &[u8]) -> Option<Value> {
        let transaction = self.env.read_txn().unwrap();
        self.databases[table as usize].get(&transaction, key).unwrap().map(<[u8]>::to_vec)
    }

    fn first(&self, table: Table, count: usize) -> Vec<(Key, Value)> {
        let transaction = self.env.read_txn().unwrap();
        let rows = self.databases[table as usize].iter(&transaction).unwrap().take(count);
        rows.map(|row| row.map(|(key, value)| (key.to_vec(), value.to_vec())).unwrap()).collect()
    }

    fn count(&self, table: Table) -> Option<u64> {
        let transaction = self.env.read_txn().unwrap();
        Some(self.databases[table as usize].len(&transaction).unwrap())
    }

    fn sync(&self) {
        self.env.force_sync().unwrap();
    }

    fn close(self) {
        self.env.prepare_for_closing().wait();
    }
}
