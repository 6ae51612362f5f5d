//! The folder of the store. If it is a small file system of its own, others fill it and free it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate, statvfs};

pub(super) struct Disk {
    pub(super) at: PathBuf,
    may_fill: bool,
    pub(super) is_full: bool,
}

/// A larger file system is not the soak's own.
const LEN_MAX: u64 = 1 << 30;

impl Disk {
    pub(super) fn new(at: &Path) -> Self {
        let known = statvfs(at).unwrap();
        let may_fill = known.f_blocks * known.f_frsize <= LEN_MAX;
        let disk = Disk { at: at.to_path_buf(), may_fill, is_full: false };
        let is_full = disk.ballast().exists();
        Disk { is_full, ..disk }
    }

    pub(super) fn path(&self) -> PathBuf {
        self.at.join("state.db")
    }

    pub(super) fn may_fill(&self) -> bool {
        self.may_fill
    }

    /// Others take all space, or all but some.
    pub(super) fn fill(&mut self, spare: u64) {
        let ballast = File::create(self.ballast()).unwrap();
        let mut len = 0;
        for step in [16 << 20, 1 << 20, 64 << 10, 4 << 10] {
            while fallocate(&ballast, FallocateFlags::empty(), len, step).is_ok() {
                len += step;
            }
        }
        ballast.set_len(len.saturating_sub(spare)).unwrap();
        ballast.sync_all().unwrap();
        self.is_full = true;
    }

    pub(super) fn free(&mut self) {
        if self.is_full {
            fs::remove_file(self.ballast()).unwrap();
            self.is_full = false;
        }
    }

    fn ballast(&self) -> PathBuf {
        self.at.join("ballast")
    }
}
