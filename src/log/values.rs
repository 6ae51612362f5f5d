//! Reading and opening the values of one generation, by location.

use std::io;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use super::file::LogFile;
use super::scan::OpenFrame;
use crate::crypto::secret_vec::{self, SecretVec};
use crate::crypto::{NONCE_LEN, Nonce, TAG_LEN};
use crate::format::location::Location;
use crate::storage::{self, Map};
use crate::{Error, Result};

/// The values of one generation, read by location.
pub(crate) struct Values {
    log: Arc<LogFile>,
    /// `None` where values are read by `pread` only.
    map: Option<RwLock<Option<Arc<Map>>>>,
}

impl Values {
    pub(crate) fn new(log: Arc<LogFile>, mmap: bool) -> Self {
        Values { log, map: mmap.then(RwLock::default) }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.log.path
    }

    pub(crate) fn log(&self) -> &LogFile {
        &self.log
    }

    /// Reads and opens the value at `location`. Of many values, [`ValueReader`] is quicker.
    ///
    /// # Errors
    /// As [`ValueReader::read`].
    pub(crate) fn read(&self, location: Location) -> Result<Vec<u8>> {
        self.reader().read(location)
    }

    /// To read some values, one after the other.
    pub(crate) fn reader(&self) -> ValueReader<'_> {
        let held = self.map.as_ref().map(|map| map.read().unwrap_or_else(PoisonError::into_inner));
        ValueReader { values: self, map: held.and_then(|map| map.clone()) }
    }

    /// Opens the value at `location`, which lies in `frame`, and appends it to `out`.
    pub(crate) fn open_into(&self, out: &mut SecretVec, frame: &OpenFrame<'_>, location: Location) -> Result<()> {
        let (start, len) = (location.offset_in_body(), location.len as usize);
        // The manifest was held against the frame's length, so the value is there.
        let sealed = frame.body.get(start..start + len + TAG_LEN).unwrap_or_default();
        let at = out.len();
        secret_vec::reserve(out, sealed.len());
        out.extend_from_slice(sealed);
        let opened = self.unseal(&mut out[at..], &frame.header.nonce, location);
        out.truncate(if opened.is_ok() { at + len } else { at });
        opened
    }

    /// The value opens, yet no writer of this format writes such a one.
    pub(crate) fn malformed(&self, location: Location) -> Error {
        Error::unauthentic(self.path(), location.value_offset(), "the value is not as its bucket's values are")
    }

    /// Opens ciphertext and tag in place.
    fn unseal(&self, sealed: &mut [u8], nonce: &Nonce, location: Location) -> Result<()> {
        let opened = sealed.split_last_chunk_mut().is_some_and(|(text, tag)| {
            self.log.sealer.open_value(nonce, location.seq(), location.i, text, tag).is_ok()
        });
        if opened {
            return Ok(());
        }
        Err(Error::unauthentic(self.path(), location.value_offset(), "the value's seal does not fit"))
    }

    fn read_file(&self, location: Location) -> io::Result<SealedValue> {
        let mut sealed = SealedValue { nonce: [0; NONCE_LEN], text: vec![0; location.len as usize + TAG_LEN] };
        storage::read_exact_at(&*self.log.file, &mut sealed.nonce, location.nonce_offset())?;
        storage::read_exact_at(&*self.log.file, &mut sealed.text, location.value_offset())?;
        Ok(sealed)
    }

    /// A map of the log as it is now, for others to use as well. Where mapping fails, there is still `pread`.
    fn renew_map(&self) -> Option<Arc<Map>> {
        let map = self.map.as_ref()?;
        let renewed = Arc::new(self.log.file.map().ok()??);
        *map.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&renewed));
        Some(renewed)
    }
}

/// Reads values by one map, without asking for it each time.
pub(crate) struct ValueReader<'a> {
    values: &'a Values,
    map: Option<Arc<Map>>,
}

impl ValueReader<'_> {
    /// Reads and opens the value at `location`.
    ///
    /// # Errors
    /// `Unauthentic` when its seal does not fit, without naming what it is; `Io`.
    pub(crate) fn read(&mut self, location: Location) -> Result<Vec<u8>> {
        let SealedValue { nonce, mut text } = match self.read_map(location) {
            Some(sealed) => sealed,
            None => self.values.read_file(location).map_err(self.values.log.io("read"))?,
        };
        self.values.unseal(&mut text, &nonce, location)?;
        text.truncate(location.len as usize);
        Ok(text)
    }

    fn read_map(&mut self, location: Location) -> Option<SealedValue> {
        let copy = |map: &Option<Arc<Map>>| SealedValue::copy(map.as_ref()?, location);
        copy(&self.map).or_else(|| {
            // The log has outgrown the map: a new one covers the space ahead too, so this happens once a step.
            self.map = self.values.renew_map();
            copy(&self.map)
        })
    }
}

/// A value as it lies in the log, and what opens it.
struct SealedValue {
    nonce: Nonce,
    /// Ciphertext and tag.
    text: Vec<u8>,
}

impl SealedValue {
    fn copy(map: &Map, location: Location) -> Option<Self> {
        let nonce = map.copy(location.nonce_offset())?;
        let len = location.len as usize + TAG_LEN;
        let mut text = Vec::with_capacity(len);
        map.append_to(&mut text, location.value_offset(), len).then_some(SealedValue { nonce, text })
    }
}
