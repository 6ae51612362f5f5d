//! An open log file with the keys of its generation.
//!
//! The other files of `log/` share a [`LogFile`]. Nothing here reads or writes the file.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use crate::Error;
use crate::crypto::keys::{GenerationId, NonceKey, Prk};
use crate::crypto::seal::Sealer;
use crate::format::SaltedCrc;
use crate::format::base::Base;
use crate::storage::{File, Folder};

/// An open log file, with the keys that its header and the agent key give.
pub(crate) struct LogFile {
    pub(crate) path: PathBuf,
    /// The one handle of this process. It has the lock, if the log is open to write.
    pub(crate) file: Arc<dyn File>,
    /// The folder, until the name of the file is known to be durable. Whoever put a log in its place, by `mv` for
    /// instance, need not have synced it.
    pub(crate) unsynced_folder: Mutex<Option<Box<dyn Folder>>>,
    /// Which generation it is, as its header says.
    pub(crate) id: GenerationId,
    /// For the base record and the index file.
    pub(crate) prk: Prk,
    pub(crate) sealer: Sealer,
    pub(crate) nonces: NonceKey,
    pub(crate) crc: SaltedCrc,
    /// The base of the log. `None` if it has none, or if this is not known.
    pub(crate) base: Option<Base>,
}

impl LogFile {
    /// Maps an I/O error to [`Error::Io`] for this file, for `map_err`.
    pub(crate) fn io(&self, operation: &'static str) -> impl Fn(io::Error) -> Error {
        move |source| Error::io(operation, &self.path, source)
    }
}
