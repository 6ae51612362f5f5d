//! SQLite with a write-ahead log.

use std::fs::File;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, OptionalExtension, params};

use crate::engine::{Key, Kv, Mode, Table, Value};

/// One connection, guarded by a mutex: SQLite allows only one writer anyway.
pub(crate) struct Sqlite(Mutex<Connection>);

impl Sqlite {
    pub(crate) fn open(folder: &Path, mode: Mode) -> Self {
        let is_new = !folder.join("state.sqlite").exists();
        let connection = Connection::open(folder.join("state.sqlite")).unwrap();
        // Only one process uses the database: no shared memory, and no lock for each transaction.
        connection.pragma_update(None, "locking_mode", "EXCLUSIVE").unwrap();
        connection.pragma_update(None, "journal_mode", "WAL").unwrap();
        if is_new && mode != Mode::Bulk {
            use_up_log(&connection);
        }
        // FULL syncs the log at each commit.
        let synchronous = if mode == Mode::Durable { "FULL" } else { "OFF" };
        connection.pragma_update(None, "synchronous", synchronous).unwrap();
        connection.pragma_update(None, "mmap_size", 1 << 30).unwrap();
        connection.set_prepared_statement_cache_capacity(32);
        for table in Table::ALL {
            // One tree instead of two: with row ids, a commit in churn writes twice as much.
            let columns = "(key BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID";
            connection.execute_batch(&format!("CREATE TABLE IF NOT EXISTS {} {columns}", table.name())).unwrap();
        }
        Sqlite(Mutex::new(connection))
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Brings the write-ahead log into the state of a database that has been in use. After its first checkpoint the
/// log is overwritten from its start, and a sync of it costs less than a sync of a growing file.
fn use_up_log(connection: &Connection) {
    connection.pragma_update(None, "synchronous", "OFF").unwrap();
    connection.execute_batch("CREATE TABLE filler (value INTEGER)").unwrap();
    connection.execute("INSERT INTO filler VALUES (0)", []).unwrap();
    for _ in 0..CHECKPOINT_PAGES {
        connection.execute("UPDATE filler SET value = value + 1", []).unwrap();
    }
    connection.execute_batch("DROP TABLE filler").unwrap();
    File::open(format!("{}-wal", connection.path().unwrap())).unwrap().sync_all().unwrap();
}

/// SQLite's default: a log of this many pages is checkpointed.
const CHECKPOINT_PAGES: usize = 1000;

impl Kv for Sqlite {
    const LIKES_ORDER: bool = true;

    fn write(&self, table: Table, puts: Vec<(Key, Value)>, deletes: Vec<Key>) {
        let mut connection = self.connection();
        let run = |connection: &Connection| {
            if !puts.is_empty() {
                let put = format!("INSERT OR REPLACE INTO {} VALUES (?, ?)", table.name());
                let mut put = connection.prepare_cached(&put).unwrap();
                puts.iter().for_each(|(key, value)| assert_eq!(put.execute(params![key, value]).unwrap(), 1));
            }
            if !deletes.is_empty() {
                let delete = format!("DELETE FROM {} WHERE key = ?", table.name());
                let mut delete = connection.prepare_cached(&delete).unwrap();
                deletes.iter().for_each(|key| assert_eq!(delete.execute([key]).unwrap(), 1));
            }
        };
        // A single statement is a transaction by itself.
        if puts.len() + deletes.len() == 1 {
            return run(&connection);
        }
        let transaction = connection.transaction().unwrap();
        run(&transaction);
        transaction.commit().unwrap();
    }

    fn get(&self, table: Table, key: &[u8]) -> Option<Value> {
        let connection = self.connection();
        let get = format!("SELECT value FROM {} WHERE key = ?", table.name());
        let mut get = connection.prepare_cached(&get).unwrap();
        get.query_row([key], |row| row.get(0)).optional().unwrap()
    }

    fn first(&self, table: Table, count: usize) -> Vec<(Key, Value)> {
        let connection = self.connection();
        let first = format!("SELECT key, value FROM {} ORDER BY key LIMIT ?", table.name());
        let mut first = connection.prepare_cached(&first).unwrap();
        let rows = first.query_map([i64::try_from(count).unwrap()], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        rows.map(Result::unwrap).collect()
    }

    fn sync(&self) {
        self.connection().pragma_update(None, "synchronous", "FULL").unwrap();
        self.write(Table::Registry, vec![(b"sync".to_vec(), vec![])], vec![]);
    }

    fn close(self) {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner).close().unwrap();
    }
}
