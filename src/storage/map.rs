//! The memory map. Owns the crate's only `unsafe` block.

use std::fs;
use std::io;

/// A read-only memory map of a file.
#[derive(Debug)]
pub struct Map(memmap2::Mmap);

impl Map {
    /// A map of the whole file as long as it is now.
    pub(super) fn of(file: &fs::File) -> io::Result<Self> {
        // SAFETY: a map is sound while nobody shortens the file or changes the bytes that are being looked at.
        // - The store holds the exclusive lock and only appends; it cuts the file back only behind the last whole
        //   frame, and a `Map` is asked only for values of whole frames.
        // - No reference into the map leaves `Map`, which does nothing but copy bytes out; they are
        //   authenticated as a copy, so even a foreign process that writes into the file can cause no more than a
        //   failed seal.
        // - A foreign process that shortens the file, or a device that cannot deliver a page, raises SIGBUS, which
        //   ends the process; `OpenOptions::mmap(false)` is documented as the way to rule that out.
        #[allow(unsafe_code, reason = "the one map of the crate")]
        let map = unsafe { memmap2::MmapOptions::new().map(file) }?;
        Ok(Map(map))
    }

    /// Appends the `len` bytes at `offset` to `out`, if the map holds all of them.
    #[must_use]
    pub fn append_to(&self, out: &mut Vec<u8>, offset: u64, len: usize) -> bool {
        let bytes = self.bytes(offset, len);
        out.extend_from_slice(bytes.unwrap_or_default());
        bytes.is_some()
    }

    /// Copies the `N` bytes at `offset`, if the map holds all of them.
    #[must_use]
    pub fn copy<const N: usize>(&self, offset: u64) -> Option<[u8; N]> {
        self.bytes(offset, N)?.try_into().ok()
    }

    fn bytes(&self, offset: u64, len: usize) -> Option<&[u8]> {
        let start = usize::try_from(offset).ok()?;
        self.0.get(start..start.checked_add(len)?)
    }
}
