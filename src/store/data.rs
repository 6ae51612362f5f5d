//! The writing calls on the agent's own data: small values by key, such as cursors, attempts and dead letters.

use super::handle::Store;
use crate::Result;
use crate::format::bucket::Bucket;
use crate::format::record::Change;
use crate::read::{check_data_key, check_value};

impl Store {
    /// Puts a value under a data key, replacing the previous one. The store does not interpret either.
    ///
    /// Data is for what the agent must remember besides its jobs: a cursor, the attempts of a job, a dead letter.
    /// Keys are any text; a prefix, as in `retry/run-1`, makes a group that
    /// [`data_keys`](Store::data_keys) lists. No limit but memory and disk is set on how many there are: each key
    /// is in memory, its value is not.
    ///
    /// [`OpenOptions::durability`](crate::OpenOptions::durability) sets how durable it is on return.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) for an empty key, [`Error::TooLarge`](crate::Error::TooLarge) for
    /// a key over 1024 bytes or a value over 16 MiB, and those of [every writing
    /// call](Store#errors-of-every-writing-call).
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let key = backupy_state::AgentKey::new("key")?;
    /// # let store = backupy_state::Store::open(folder.path().join("state.db"), &key)?;
    /// store.put_data("cursor/orders", b"row 4711")?;
    /// store.put_data("cursor/orders", b"row 5000")?;
    /// assert_eq!(store.data("cursor/orders")?.as_deref(), Some(&b"row 5000"[..]));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn put_data(&self, key: &str, value: &[u8]) -> Result<()> {
        check_data_key(key)?;
        check_value("a data value", value)?;
        let change = Change::put(Bucket::Data, key.as_bytes(), &[], value);
        self.commit(self.shared.write()?, &[change], self.durability)
    }

    /// Removes a data key and its value, also one that cannot be read. Returns whether it was there; if not,
    /// nothing is written.
    ///
    /// [`OpenOptions::durability`](crate::OpenOptions::durability) sets how durable the removal is on return.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) for an empty key, [`Error::TooLarge`](crate::Error::TooLarge) for
    /// one over 1024 bytes, and those of [every writing call](Store#errors-of-every-writing-call).
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let key = backupy_state::AgentKey::new("key")?;
    /// # let store = backupy_state::Store::open(folder.path().join("state.db"), &key)?;
    /// store.put_data("cursor/orders", b"row 4711")?;
    /// assert!(store.delete_data("cursor/orders")?);
    /// assert!(!store.delete_data("cursor/orders")?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn delete_data(&self, key: &str) -> Result<bool> {
        check_data_key(key)?;
        self.delete(Bucket::Data, key)
    }
}
