//! Opening a store: which file the path means, the lock, creation or recovery, and the change of key.
//!
//! The order of the steps is here. What each of them reads, and what it may change, is in `log/recovery.rs` and
//! `on_damage.rs`.

use std::path::Path;
use std::sync::Arc;

use super::handle::Store;
use super::{lock, on_damage};
use crate::log::place::{self, Purpose};
use crate::log::quarantine;
use crate::log::recovery::{self, Recovered};
use crate::storage::lock::Wait;
use crate::storage::{File, paths};
use crate::{AgentKey, Error, OpenOptions, Result, events};

impl OpenOptions {
    /// Opens the store at `path`, creating or recovering it as needed. A path without an extension gets `.db`; if
    /// the last component of the path is a symbolic link, the store is where it points.
    ///
    /// On return, everything that [`Store::recovery`] reports as replayed is durable. Only if the file was copied
    /// to its place and not synced, a power cut can still take it, until the first durable call or
    /// [`Store::sync`].
    ///
    /// # Errors
    /// - [`Error::Invalid`]: the path is empty, names no file, belongs to the files next to another store or is
    ///   too long for the names of its own; the path without `.db` is a store, and the one with `.db` does not
    ///   exist; or a file that is no left-over is at the path followed by `.new`.
    /// - [`Error::NotFound`]: there is no file, and `create(false)` was set.
    /// - [`Error::Locked`]: another handle holds the store.
    /// - [`Error::NotAStore`], [`Error::UnsupportedFormat`], [`Error::WrongKey`], [`Error::Corrupt`],
    ///   [`Error::Unauthentic`], [`Error::Stale`]: the file at the path cannot be used. Not a byte of it was
    ///   changed.
    /// - [`Error::Full`]: the disk has no space to create the store, to quarantine a torn tail or a damaged log,
    ///   or to rewrite the log under the new key.
    /// - [`Error::Io`]: the operating system refused an operation, for instance because the folder does not exist.
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
    fn open_with(options: &OpenOptions, path: &Path, key: &AgentKey) -> Result<Store> {
        let opened = Store::open_silently(options, path, key);
        match &opened {
            Ok(store) => events::opened(store.path(), &store.recovery),
            Err(error) => events::open_failed(path, error),
        }
        opened
    }

    fn open_silently(options: &OpenOptions, path: &Path, key: &AgentKey) -> Result<Store> {
        let storage = &*options.storage;
        let given = path;
        let path = place::resolve(storage, given, Purpose::Store)?;
        // Checked before the lock is taken, or a failed open would leave a lock file where there is no store.
        if !paths::is_file(storage, &path)? {
            match options.expected {
                Some(_) => return Err(is_missing(&path)),
                None if options.create => {}
                None => return Err(place::not_found(storage, given, &path)),
            }
        }
        let mut wait = Wait::new(storage, options.lock_timeout);
        let lock_file = lock::lock_file(storage, &path, &mut wait)?;
        let (recovered, current_key) = loop {
            let log = lock::log(storage, &path, &mut wait)?;
            // Noted only now: until the log is locked too, another process may be the writer.
            lock_file.note_holder();
            match log {
                Some(file) => match open_existing(options, file, &path, key) {
                    // Another process is still writing a file next to the log.
                    Err(Error::Locked { .. }) if wait.pause() => {}
                    opened => break opened?,
                },
                None => match create(options, &path, key) {
                    // A file has appeared at the path.
                    Ok(None) => {}
                    // Another process, with another lock file, is creating the store.
                    Err(Error::Locked { .. }) if wait.pause() => {}
                    created => {
                        if let Some(created) = created? {
                            break (created, key);
                        }
                    }
                },
            }
        };
        let mut store = Store::new(options, path, current_key, recovered, lock_file)?;
        if !std::ptr::eq(current_key, key) {
            store.rekey(key).map_err(Error::before_rekey)?;
            store.recovery.rekeyed = true;
        }
        store.recovery.damaged = quarantine::damaged_logs(storage, store.path());
        Ok(store)
    }
}

/// The error for a missing store of which an anchor is expected.
fn is_missing(path: &Path) -> Error {
    Error::Stale { path: path.to_path_buf(), what: "the file does not exist" }
}

/// Creates the log at `path`. `None` if a file has appeared there.
fn create(options: &OpenOptions, path: &Path, key: &AgentKey) -> Result<Option<Recovered>> {
    match options.expected {
        Some(_) => Err(is_missing(path)),
        None if options.create => recovery::create(&*options.storage, path, key, options.queue_order),
        None => Err(Error::not_found(path)),
    }
}

/// Opens the locked log at `path`. Also returns the key that opens it: `key` or the previous one.
fn open_existing<'a>(
    options: &'a OpenOptions,
    file: Arc<dyn File>,
    path: &Path,
    key: &'a AgentKey,
) -> Result<(Recovered, &'a AgentKey)> {
    let open = |current_key| on_damage::open(options, Arc::clone(&file), path, current_key, key);
    match (open(key), &options.previous_key) {
        (Err(Error::WrongKey { .. }), Some(previous)) => open(previous),
        // A damaged header does not show which key it was written under. If the previous one does not fit either,
        // the first error counts.
        (Err(error @ Error::Corrupt { offset: 0, .. }), Some(previous)) => match open(previous) {
            Err(Error::WrongKey { .. } | Error::Corrupt { offset: 0, .. }) => Err(error),
            opened => opened,
        },
        (opened, _) => opened,
    }
}
