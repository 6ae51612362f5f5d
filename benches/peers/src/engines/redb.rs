//! redb: a copy-on-write B-tree.

use std::path::Path;

use redb::{Database, Durability, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition};

use crate::engine::{Key, Kv, Mode, Table, Value};

pub(crate) struct Redb {
    database: Database,
    mode: Mode,
}

fn table(table: Table) -> TableDefinition<'static, &'static [u8], &'static [u8]> {
    TableDefinition::new(table.name())
}

impl Redb {
    pub(crate) fn open(folder: &Path, mode: Mode) -> Self {
        let is_new = !folder.join("state.redb").exists();
        let database = Database::create(folder.join("state.redb")).unwrap();
        if is_new {
            let transaction = database.begin_write().unwrap();
            for bucket in Table::ALL {
                transaction.open_table(table(bucket)).unwrap();
            }
            transaction.commit().unwrap();
        }
        Redb { database, mode }
    }
}

impl Kv for Redb {
    const LIKES_ORDER: bool = true;

    fn write(&self, bucket: Table, puts: Vec<(Key, Value)>, deletes: Vec<Key>) {
        let mut transaction = self.database.begin_write().unwrap();
        // The default is durable: one sync per commit, and a checksum shows after a crash whether the commit was
        // complete.
        transaction
            .set_durability(if self.mode == Mode::Durable { Durability::Immediate } else { Durability::None })
            .unwrap();
        {
            let mut table = transaction.open_table(table(bucket)).unwrap();
            for (key, value) in &puts {
                table.insert(key.as_slice(), value.as_slice()).unwrap();
            }
            for key in &deletes {
                table.remove(key.as_slice()).unwrap();
            }
        }
        transaction.commit().unwrap();
    }

    fn get(&self, bucket: Table, key: &[u8]) -> Option<Value> {
        let transaction = self.database.begin_read().unwrap();
        let table = transaction.open_table(table(bucket)).unwrap();
        table.get(key).unwrap().map(|value| value.value().to_vec())
    }

    fn first(&self, bucket: Table, count: usize) -> Vec<(Key, Value)> {
        let transaction = self.database.begin_read().unwrap();
        let table = transaction.open_table(table(bucket)).unwrap();
        let rows = table.iter().unwrap().take(count).map(Result::unwrap);
        rows.map(|(key, value)| (key.value().to_vec(), value.value().to_vec())).collect()
    }

    fn count(&self, bucket: Table) -> Option<u64> {
        let transaction = self.database.begin_read().unwrap();
        Some(transaction.open_table(table(bucket)).unwrap().len().unwrap())
    }

    fn sync(&self) {
        let mut transaction = self.database.begin_write().unwrap();
        // Otherwise an open after a crash reads the whole tree.
        transaction.set_quick_repair(true);
        transaction.commit().unwrap();
    }

    fn close(self) {}
}
