//! The read-only memory map, and the crate's only `unsafe` block.
//!
//! Only copies bytes out; no reference into the map leaves this file.

use std::fs;
use std::io;

/// A read-only memory map of a file.
#[derive(Debug)]
pub struct Map(memmap2::Mmap);

impl Map {
    /// Maps the whole file, up to its current length.
    pub(super) fn of(file: &fs::File) -> io::Result<Self> {
        // SAFETY: a map is sound while no process truncates the file or changes the bytes that are being read.
        // - The store holds the exclusive lock and only appends. It truncates the file only after the last whole
        //   frame, and reads from a `Map` only values in whole frames.
        // - No reference into the map leaves `Map`, which only copies bytes out. The copy is authenticated, so a
        //   process that ignores the lock and writes into the file can cause no more than a failed authentication.
        // - A process that ignores the lock and truncates the file, or a device that cannot read a page, raises
        //   SIGBUS, which ends the process. `OpenOptions::mmap(false)` is documented as the way to exclude that.
        #[allow(unsafe_code, reason = "the only map of the crate")]
        let map = unsafe { memmap2::MmapOptions::new().map(file) }?;
        Ok(Map(map))
    }

    /// Appends the `len` bytes at `offset` to `out`. Returns false, and appends nothing, if the map ends before
    /// that.
    #[must_use]
    pub fn append_to(&self, out: &mut Vec<u8>, offset: u64, len: usize) -> bool {
        let bytes = self.bytes(offset, len);
        out.extend_from_slice(bytes.unwrap_or_default());
        bytes.is_some()
    }

    /// Copies the `N` bytes at `offset`. Returns `None` if the map ends before that.
    #[must_use]
    pub fn copy<const N: usize>(&self, offset: u64) -> Option<[u8; N]> {
        self.bytes(offset, N)?.try_into().ok()
    }

    fn bytes(&self, offset: u64, len: usize) -> Option<&[u8]> {
        let start = usize::try_from(offset).ok()?;
        self.0.get(start..start.checked_add(len)?)
    }
}
