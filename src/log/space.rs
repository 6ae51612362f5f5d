//! Preallocated space: zeros after the last frame of a log, for frames to come.
//!
//! When the zeros run out, the writer adds more: as much as the log is long, at least 1 MiB and at most 4 MiB,
//! beyond the reserve, but not beyond the length at which the log is compacted. Where the disk has little
//! space left, it adds less, and in the end only what the frame needs: others share the disk, and what a log takes
//! in vain may fail them. On a full disk it makes do with what is there, as far as `reserve` allows it.

use std::io;

use super::index_file;
use super::marks::Marks;
use super::reserve::{Demand, Release};
use super::writer::LogWriter;
use crate::storage::{self, FreeSpace};
use crate::{Error, Result};

impl LogWriter {
    /// Ensures `len` zeroed bytes after the tip for the next frame, and the zeros after them that are demanded.
    ///
    /// # Errors
    /// `Full` if the disk has no space for the least of them, `Replaced`, `Io`.
    pub(super) fn make_room(&mut self, len: u64, demand: Demand) -> Result<()> {
        match self.try_to_make_room(len, demand) {
            // The index file only saves time, so it goes first.
            Err(Error::Full { .. })
                if index_file::remove(&*self.commits.storage, &self.file().path, self.file_id()) =>
            {
                self.try_to_make_room(len, demand)
            }
            made => made,
        }
    }

    fn try_to_make_room(&mut self, len: u64, demand: Demand) -> Result<()> {
        let frame_end = self.tip.end + len;
        let wanted = frame_end + demand.wanted;
        if wanted <= self.allocated {
            return Ok(());
        }
        self.check_place()?;
        let free = self.file().file.free_space();
        let mut full = None;
        for needed in [wanted + self.step(frame_end, free), wanted, frame_end + demand.least] {
            if needed <= self.allocated {
                return Ok(());
            }
            let target = needed.next_multiple_of(PAGE_LEN);
            if self.may_grow_to(target, free) {
                let Err(error) = self.grow_to(target, frame_end) else { return Ok(()) };
                // Some of the zeros may have been written: they are harmless, but a full disk needs the space.
                // Nothing else was written, so the log has not failed.
                self.cut_to(self.allocated)?;
                if !storage::is_full(&error) {
                    return Err(Error::io("allocate space in", &self.file().path, error));
                }
                full = Some(error);
            }
        }
        let full = full.unwrap_or_else(|| io::ErrorKind::StorageFull.into());
        Err(storage::full_or_io("allocate space in", &self.file().path)(full))
    }

    /// Whether the disk may have the space. Else it is not even tried: what a failed try takes is missing to
    /// others meanwhile.
    fn may_grow_to(&self, target: u64, free: Option<FreeSpace>) -> bool {
        // The rest of the last page belongs to the file.
        let more = target.saturating_sub(self.allocated.next_multiple_of(PAGE_LEN));
        free.is_none_or(|free| more <= free.free)
    }

    /// How much is added beyond what is wanted now.
    fn step(&self, frame_end: u64, free: Option<FreeSpace>) -> u64 {
        let mut step = self.tip.end.clamp(STEP_LEN_MIN, STEP_LEN_MAX);
        if frame_end < self.compacted_len {
            step = step.min(self.compacted_len - frame_end);
        }
        step.min(free.map_or(step, |free| free.available / FREE_DIVISOR))
    }

    /// Takes the reserve if there is something to remove, and the disk has space for it. An error that ends
    /// writing is latched, so that the next writing call returns it. After any other one, the next call that needs
    /// the space tries again. What it takes becomes durable with the next sync.
    pub(crate) fn take_reserve(&mut self) {
        if self.reserve.is_for_removals() {
            let before = self.allocated;
            let wanted = self.reserve.len();
            let _ = self.make_room(0, Demand { least: 0, wanted });
            // Guards against a power cut after a close that has nothing else to sync: so it writes another close
            // frame.
            self.is_closed &= self.allocated == before;
        }
    }

    /// Like [`take_reserve`](Self::take_reserve), for a finished log that does not have its name yet. Without the
    /// part for acks, it must not replace the log in which jobs can be acked: another process may hold that file
    /// open, so that its space is never free.
    ///
    /// # Errors
    /// `Full` if there is no space for the part for acks, `Io`.
    pub(super) fn take_reserve_unseen(&mut self) -> Result<()> {
        if !self.reserve.is_for_removals() {
            return Ok(());
        }
        let end = self.tip.end;
        self.allocated = self.allocated.max(end);
        let free = self.file().file.free_space();
        let targets = [self.reserve.len(), self.reserve.acks()].map(|len| (end + len).next_multiple_of(PAGE_LEN));
        let mut taken = Err(io::ErrorKind::StorageFull.into());
        for target in targets {
            if !self.may_grow_to(target, free) {
                continue;
            }
            taken = self.grow_to(target, end);
            if taken.is_ok() {
                return Ok(());
            }
            self.file().file.set_len(end).map_err(self.file().io("allocate space in"))?;
        }
        match self.reserve.acks() {
            0 => Ok(()),
            _ => taken.map_err(storage::full_or_io("allocate space in", &self.file().path)),
        }
    }

    /// Gives preallocated space back to the file system, for a compaction. Returns whether there was any to give
    /// back.
    pub(crate) fn release(&mut self, release: Release) -> Result<bool> {
        self.cut_to_space(self.reserve.kept_by(release))
    }

    /// Cuts off all but `kept` bytes of the preallocated space. Returns whether there was more.
    pub(super) fn cut_to_space(&mut self, kept: u64) -> Result<bool> {
        let len = self.tip.end + kept;
        let is_longer = self.allocated > len;
        if is_longer {
            self.cut_to(len)?;
        }
        Ok(is_longer)
    }

    fn cut_to(&mut self, len: u64) -> Result<()> {
        self.file().file.set_len(len).map_err(|source| {
            self.group_commit().fail(&source);
            Error::io("cut off the preallocated space of", &self.file().path, source)
        })?;
        self.allocated = len;
        Ok(())
    }

    /// Extends the file with zeros up to `target`, for a frame that ends at `frame_end`.
    ///
    /// The zeros are written and not only allocated, so that no later sync has to convert allocated extents to
    /// written ones. Where a long frame is about to cover them, they are only allocated: writing them would take
    /// as long as writing the frame.
    fn grow_to(&mut self, target: u64, frame_end: u64) -> io::Result<()> {
        let from = self.allocate_for(frame_end)?;
        self.write_zeros(from, target)?;
        self.allocated = target;
        // The next sync commits the file system's journal anyway.
        self.commits.marks.iter().for_each(Marks::set_due);
        Ok(())
    }

    /// Allocates the space of a long frame. Returns the offset from which zeros must still be written.
    fn allocate_for(&self, frame_end: u64) -> io::Result<u64> {
        if frame_end < self.allocated + ALLOCATED_LEN_MIN {
            return Ok(self.allocated);
        }
        match self.file().file.allocate(frame_end) {
            Ok(()) => Ok(frame_end),
            Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(self.allocated),
            Err(error) => Err(error),
        }
    }

    fn write_zeros(&self, from: u64, until: u64) -> io::Result<()> {
        let mut at = from;
        while at < until {
            let len = (until - at).min(ZEROS.len() as u64);
            #[allow(clippy::cast_possible_truncation, reason = "at most the length of ZEROS")]
            storage::write_all_at(&*self.file().file, &ZEROS[..len as usize], at)?;
            at += len;
        }
        Ok(())
    }
}

/// A step of preallocation is as long as the log, but not longer than this: a call that waits for a step is rarer
/// than one in a hundred in all but short logs, and the file is at most so much longer than it must be.
const STEP_LEN_MAX: u64 = 4 << 20;
const STEP_LEN_MIN: u64 = 1 << 20;
/// A step is at most the space that the disk has left, divided by this.
const FREE_DIVISOR: u64 = 16;
/// Space that a frame covers is only allocated if it is at least this long: writing less is as fast.
const ALLOCATED_LEN_MIN: u64 = 64 << 10;
/// The file grows to multiples of this, because file systems allocate whole pages.
const PAGE_LEN: u64 = 4096;

static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
