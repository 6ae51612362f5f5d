//! Reads and decrypts single values of one generation.
//!
//! The index says where each value is; values stay sealed in the log until a caller asks for them. The bytes come
//! from a memory map of the file, which is shared by all readers, or from `pread` where there is no map or the
//! value is beyond its end. A map covers the file up to its length at the time it was made, preallocated space
//! included, so it is renewed only after the file has grown. Bytes are copied out of the map before they are
//! authenticated, because the mapped file can change at any moment.
//!
//! A value that fails authentication is an error for that value alone; all others stay readable. Never writes.
//! Implements *Sealing* of FORMAT.md, for values.

use std::io;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use super::file::LogFile;
use super::scan::{OpenFrame, Window};
use crate::crypto::TAG_LEN;
use crate::crypto::secret_vec::{self, SecretVec};
use crate::format::location::Location;
use crate::storage::{self, Map};
use crate::{Error, Result};

/// The values of one generation. Threads read them at the same time.
pub(crate) struct Values {
    log: Arc<LogFile>,
    /// The newest map. The outer `None` means that values are read with `pread` only; the inner one, that the file
    /// has not been mapped yet.
    map: Option<RwLock<Option<Arc<Map>>>>,
}

impl Values {
    /// `mmap` says whether the file may be mapped. Nothing is mapped before the first read.
    pub(crate) fn new(log: Arc<LogFile>, mmap: bool) -> Self {
        Values { log, map: mmap.then(RwLock::default) }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.log.path
    }

    pub(crate) fn log(&self) -> &LogFile {
        &self.log
    }

    /// Reads and opens the value at `location`. For many values, [`reader`](Self::reader) is faster.
    ///
    /// # Errors
    /// Those of [`ValueReader::read`].
    pub(crate) fn read(&self, location: Location) -> Result<Vec<u8>> {
        self.reader().read(location)
    }

    /// Returns a reader for several values, one after the other.
    pub(crate) fn reader(&self) -> ValueReader<'_> {
        let guard = self.map.as_ref().map(|map| map.read().unwrap_or_else(PoisonError::into_inner));
        ValueReader { values: self, map: guard.and_then(|map| map.clone()) }
    }

    /// Opens the value at `location` in `frame`, which has been read already, and appends the value to `out`. On
    /// an error, `out` is as before.
    pub(crate) fn open_into(&self, out: &mut SecretVec, frame: &OpenFrame<'_>, location: Location) -> Result<()> {
        // Parsing checked the manifest against the frame's length, so the value is within the body.
        let start = location.offset_in_body(frame.offset).unwrap_or(frame.body.len());
        let sealed = frame.body.get(start..start + location.len as usize + TAG_LEN).unwrap_or_default();
        self.open_sealed_into(out, sealed, location)
    }

    /// Reads the value at `location` through a window on the log, opens it, and appends it to `out`. On an error,
    /// `out` is as before.
    ///
    /// # Errors
    /// As [`ValueReader::read`].
    pub(crate) fn read_into(
        &self,
        out: &mut SecretVec,
        window: &mut Window<'_>,
        location: Location,
    ) -> Result<()> {
        let len = location.len as usize + TAG_LEN;
        let sealed = window.bytes(location.value_offset, len).map_err(self.log.io("read"))?;
        self.open_sealed_into(out, sealed, location)
    }

    fn open_sealed_into(&self, out: &mut SecretVec, sealed: &[u8], location: Location) -> Result<()> {
        let (at, len) = (out.len(), location.len as usize);
        secret_vec::reserve(out, sealed.len());
        out.extend_from_slice(sealed);
        let opened = self.unseal(&mut out[at..], location);
        out.truncate(if opened.is_ok() { at + len } else { at });
        opened
    }

    /// The error for a value that is authentic, but does not have the form that its bucket requires.
    pub(crate) fn malformed(&self, location: Location) -> Error {
        Error::unauthentic(self.path(), location.value_offset, "the value does not match its bucket's encoding")
    }

    /// Opens the value in place. `sealed` is its ciphertext and tag.
    fn unseal(&self, sealed: &mut [u8], location: Location) -> Result<()> {
        let opened = sealed.split_last_chunk_mut().is_some_and(|(text, tag)| {
            self.log.sealer.open_value(&location.nonce, location.seq(), location.i, text, tag).is_ok()
        });
        if opened {
            return Ok(());
        }
        Err(Error::unauthentic(self.path(), location.value_offset, "the value failed authentication"))
    }

    /// Reads the ciphertext and the tag from the file.
    fn read_file(&self, location: Location) -> io::Result<Vec<u8>> {
        let mut sealed = vec![0; location.len as usize + TAG_LEN];
        storage::read_exact_at(&*self.log.file, &mut sealed, location.value_offset)?;
        Ok(sealed)
    }

    /// Maps the file at its current length, for this reader and all later ones. `None` if the file cannot be
    /// mapped: then `pread` serves.
    fn renew_map(&self) -> Option<Arc<Map>> {
        let map = self.map.as_ref()?;
        let renewed = Arc::new(self.log.file.map().ok()??);
        *map.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&renewed));
        Some(renewed)
    }
}

/// Reads several values. It keeps the map, so that not every read takes the lock around it.
pub(crate) struct ValueReader<'a> {
    values: &'a Values,
    map: Option<Arc<Map>>,
}

impl ValueReader<'_> {
    /// Reads and opens the value at `location`.
    ///
    /// # Errors
    /// `Unauthentic` if the value fails authentication, `Io`. The caller adds which job it is.
    pub(crate) fn read(&mut self, location: Location) -> Result<Vec<u8>> {
        let mut value = match self.read_map(location) {
            Some(sealed) => sealed,
            None => self.values.read_file(location).map_err(self.values.log.io("read"))?,
        };
        self.values.unseal(&mut value, location)?;
        value.truncate(location.len as usize);
        Ok(value)
    }

    /// Copies the ciphertext and the tag from the map; `None` if they are not within it.
    fn read_map(&mut self, location: Location) -> Option<Vec<u8>> {
        let len = location.len as usize + TAG_LEN;
        let copy = |map: &Option<Arc<Map>>| {
            let mut sealed = Vec::with_capacity(len);
            map.as_ref()?.append_to(&mut sealed, location.value_offset, len).then_some(sealed)
        };
        copy(&self.map).or_else(|| {
            // The value is beyond the map. A new map covers the preallocated space too, so it lasts until the file
            // has grown by another step.
            self.map = self.values.renew_map();
            copy(&self.map)
        })
    }
}
