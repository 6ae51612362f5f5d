//! Opening a store.

use std::path::Path;

use super::handle::Store;
use super::on_damage;
use crate::log::recovery::{self, Recovered};
use crate::storage::paths;
use crate::{AgentKey, Error, OpenOptions, Result, events};

impl OpenOptions {
    /// Opens the store at `path`, creating and recovering it as needed. A path without extension gets `.db`; a
    /// symbolic link at its end is followed.
    ///
    /// When it returns, everything that [`Store::recovery`] reports as replayed is durable.
    ///
    /// # Errors
    /// - [`Error::Invalid`](crate::Error::Invalid): the path is empty or names no file.
    /// - [`Error::NotFound`](crate::Error::NotFound): no file, and `create(false)`.
    /// - [`Error::Locked`](crate::Error::Locked): another handle holds the store.
    /// - [`Error::NotAStore`](crate::Error::NotAStore), [`Error::UnsupportedFormat`](crate::Error::UnsupportedFormat),
    ///   [`Error::WrongKey`](crate::Error::WrongKey), [`Error::Corrupt`](crate::Error::Corrupt),
    ///   [`Error::Unauthentic`](crate::Error::Unauthentic), [`Error::Stale`](crate::Error::Stale): what stands there; not a byte of it was changed.
    /// - [`Error::Full`](crate::Error::Full): no space to create the store, to set a torn tail or a damaged log aside, or to put
    ///   it under the new key.
    /// - [`Error::Io`](crate::Error::Io): anything the operating system refused, such as a folder that is not there.
    ///
    /// ```
    /// # use backupy_state::{AgentKey, Error, OpenOptions};
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("state.db");
    /// let key = AgentKey::new("bkpy_0123456789abcdef0123456789abcdef")?;
    /// match OpenOptions::new().open(&path, &key) {
    ///     Ok(store) => println!("{} jobs to do", store.queue_depth()),
    ///     Err(error @ Error::Locked { .. }) => eprintln!("{error}"),
    ///     Err(error) => return Err(error.into()),
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn open(&self, path: impl AsRef<Path>, key: &AgentKey) -> Result<Store> {
        Store::open_with(self, path.as_ref(), key)
    }
}

impl Store {
    pub(crate) fn open_with(options: &OpenOptions, path: &Path, key: &AgentKey) -> Result<Store> {
        let opened = Store::open_silently(options, path, key);
        match &opened {
            Ok(store) => events::opened(store.path(), &store.recovery),
            Err(error) => events::open_failed(path, error),
        }
        opened
    }

    fn open_silently(options: &OpenOptions, path: &Path, key: &AgentKey) -> Result<Store> {
        let storage = &*options.storage;
        let path = paths::resolve(storage, path)?;
        // Before the lock: its file would be left behind.
        let may_be_missing = options.create || options.expected.is_some();
        if !paths::is_file(storage, &path)? && !may_be_missing {
            return Err(Error::NotFound { path });
        }
        let lock = storage.lock(&paths::sibling(&path, ".lock"), options.lock_timeout)?;
        paths::remove_leftovers(storage, &path)?;
        let (recovered, current_key) = open_or_create(options, &path, key)?;
        let mut store = Store::new(options, path, current_key, recovered, lock)?;
        if !std::ptr::eq(current_key, key) {
            store.rekey(key)?;
            store.recovery.rekeyed = true;
        }
        Ok(store)
    }
}

/// Opens what stands at the path, or creates it. Also returns the key that it is under.
fn open_or_create<'a>(
    options: &'a OpenOptions,
    path: &Path,
    key: &'a AgentKey,
) -> Result<(Recovered, &'a AgentKey)> {
    let (storage, order, expected) = (&*options.storage, options.queue_order, options.expected.as_ref());
    if !paths::is_file(storage, path)? {
        return match expected {
            Some(_) => Err(Error::Stale { path: path.to_path_buf(), what: "there is no file at all" }),
            None if options.create => Ok((recovery::create(storage, path, key, order)?, key)),
            None => Err(Error::NotFound { path: path.to_path_buf() }),
        };
    }
    let open = |key| Ok((on_damage::open(options, path, key)?, key));
    match (open(key), &options.previous_key) {
        (Err(Error::WrongKey { .. }), Some(previous)) => open(previous),
        (opened, _) => opened,
    }
}
