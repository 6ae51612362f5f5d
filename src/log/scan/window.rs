//! The part of the file that a scanner has in memory.
//!
//! A scanner asks for ranges with rising offsets, each mostly a little after the last. The window reads 32 KiB or
//! the length asked for, whichever is more, so its buffer grows to the longest frame and no further. It uses
//! `pread`, not the memory map: an I/O error must be an error here, never a SIGBUS or an end of file.

use std::io;

use crate::storage::{self, File};

/// How many bytes are read at once, unless more are asked for.
pub(super) const READ_LEN: usize = 32 << 10;

pub(crate) struct Window<'a> {
    file: &'a dyn File,
    /// The length of the file when it was last queried.
    pub(super) file_len: u64,
    /// The offset in the file of the first byte of `bytes`.
    start: u64,
    bytes: Vec<u8>,
    /// How many of `bytes` are valid. The rest is left over from longer reads.
    valid_len: usize,
}

impl<'a> Window<'a> {
    pub(crate) fn new(file: &'a dyn File) -> io::Result<Self> {
        Ok(Window::up_to(file, file.len()?))
    }

    /// A window on the first `len` bytes of a file that has them.
    pub(crate) fn up_to(file: &'a dyn File, len: u64) -> Self {
        Window { file, file_len: len, start: 0, bytes: Vec::new(), valid_len: 0 }
    }

    /// Another window on the same file.
    pub(super) fn beside(&self) -> Self {
        Window::up_to(self.file, self.file_len)
    }

    /// Where the first byte at `offset` or later is that need not be zero, within the file.
    pub(super) fn skip_hole(&self, offset: u64) -> u64 {
        self.file.skip_hole(offset).clamp(offset, self.file_len.max(offset))
    }

    /// Discards what was read, and queries the file's length again.
    pub(super) fn renew(&mut self) -> io::Result<()> {
        self.valid_len = 0;
        self.file_len = self.file.len()?;
        Ok(())
    }

    /// Returns the `len` bytes at `offset`, or fewer if the file ends before.
    pub(crate) fn bytes(&mut self, offset: u64, len: usize) -> io::Result<&[u8]> {
        let left = self.file_len.saturating_sub(offset);
        let within = |len: usize| usize::try_from(left).map_or(len, |left| len.min(left));
        let len = within(len);
        let at = offset.checked_sub(self.start).and_then(|at| usize::try_from(at).ok());
        let at = at.map_or(self.valid_len, |at| at.min(self.valid_len));
        if self.valid_len - at >= len {
            return Ok(&self.bytes[at..at + len]);
        }
        // Keep the bytes that are there already, so that no part of a long frame is read twice.
        self.bytes.copy_within(at..self.valid_len, 0);
        let kept = self.valid_len - at;
        let wanted = within(len.max(READ_LEN));
        if self.bytes.len() < wanted {
            // Exactly what is needed: doubling would take up to twice the longest frame.
            self.bytes.reserve_exact(wanted - self.bytes.len());
            self.bytes.resize(wanted, 0);
        }
        // If the read fails, nothing is valid.
        (self.start, self.valid_len) = (offset, 0);
        storage::read_exact_at(self.file, &mut self.bytes[kept..wanted], offset + kept as u64)?;
        self.valid_len = wanted;
        Ok(&self.bytes[..len])
    }
}
