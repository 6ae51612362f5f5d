//! A part of the file in memory.

use std::io;

use crate::storage::{self, File};

/// A stretch of the file in memory, moved on as it is asked for.
/// How much is read at once.
pub(super) const READ_LEN: usize = 64 << 10;

pub(super) struct Window<'a> {
    file: &'a dyn File,
    pub(super) file_len: u64,
    start: u64,
    bytes: Vec<u8>,
    /// How many of the bytes were read.
    held: usize,
}

impl<'a> Window<'a> {
    pub(super) fn new(file: &'a dyn File) -> io::Result<Self> {
        Ok(Window { file, file_len: file.len()?, start: 0, bytes: Vec::new(), held: 0 })
    }

    /// Forgets what was read, and asks for the file's length again.
    pub(super) fn renew(&mut self) -> io::Result<()> {
        self.held = 0;
        self.file_len = self.file.len()?;
        Ok(())
    }

    /// The `len` bytes at `offset`, or fewer where the file ends.
    pub(super) fn bytes(&mut self, offset: u64, len: usize) -> io::Result<&[u8]> {
        let left = self.file_len.saturating_sub(offset);
        let within = |len: usize| usize::try_from(left).map_or(len, |left| len.min(left));
        let len = within(len);
        let at = offset.checked_sub(self.start).and_then(|at| usize::try_from(at).ok());
        let at = at.map_or(self.held, |at| at.min(self.held));
        if self.held - at >= len {
            return Ok(&self.bytes[at..at + len]);
        }
        // What is held of it stays: a frame longer than one read is not read twice.
        self.bytes.copy_within(at..self.held, 0);
        let kept = self.held - at;
        let wanted = within(len.max(READ_LEN));
        if self.bytes.len() < wanted {
            // No more than the longest frame so far: doubling would hold up to twice that.
            self.bytes.reserve_exact(wanted - self.bytes.len());
            self.bytes.resize(wanted, 0);
        }
        (self.start, self.held) = (offset, 0);
        storage::read_exact_at(self.file, &mut self.bytes[kept..wanted], offset + kept as u64)?;
        self.held = wanted;
        Ok(&self.bytes[..len])
    }
}
