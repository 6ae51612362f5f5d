//! Operations that lie: they report success and have done something else.

use std::ops::Range;

use super::DiskState;
use super::content::{Content, SECTOR_LEN};
use super::world::FailedSync;

/// What an operation has done instead of what it reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// A write has changed no byte. The file is as long as if it had.
    LostWrite,
    /// A write went to this offset of the file, and left its own place as it was. What would be after the end of
    /// the file went to no file.
    WroteAt(u64),
    /// A write went to the same offset of another file: the nth of those that have a name.
    WroteToFile(usize),
    /// A sync of a file has done what a failed one does, and that of a folder nothing.
    LostSync(FailedSync),
    /// A read returned this sector as it was before its last write.
    Stale(usize),
    /// As [`Lie::Stale`], and so does every later read.
    StaleForGood(usize),
    /// A read returned the second of these sectors in place of the first.
    ReadAnother(usize, usize),
}

/// A read, a write or a sync, for a test that chooses lies about it.
#[derive(Clone, Debug)]
pub struct Touch {
    /// The number of the operation.
    pub number: usize,
    /// The name of the file, without its folder; empty if it has none, for the lock file and for a folder.
    pub name: String,
    pub about: About,
}

#[derive(Clone, Debug)]
pub enum About {
    /// The sectors that are not zero, and those that have held something else.
    Read {
        nonzero: Vec<usize>,
        older: Vec<usize>,
    },
    Write {
        range: Range<u64>,
        is_zero: bool,
    },
    Sync,
    SyncDir,
}

impl DiskState {
    /// Notes what the operation that was begun last is about, if a test asked for it.
    pub(super) fn note(&mut self, inode: Option<usize>, about: impl FnOnce(&DiskState) -> About) {
        if self.touches.is_none() {
            return;
        }
        let is_named = |(_, other): &(_, &usize)| Some(**other) == inode;
        let name = self.world.names.iter().find(is_named).and_then(|(path, _)| path.file_name());
        let name = name.map_or(String::new(), |name| name.to_string_lossy().into_owned());
        let touch = Touch { number: self.ops.len() - 1, name, about: about(self) };
        self.touches.iter_mut().for_each(|touches| touches.push(touch.clone()));
    }

    pub(super) fn touched_by_read(&self, inode: usize, len: usize, offset: u64) -> About {
        let file = self.world.inode(inode);
        let end = (offset + len as u64).min(file.live.len());
        let sectors = offset as usize / SECTOR_LEN..(end as usize).div_ceil(SECTOR_LEN);
        let nonzero = sectors.clone().filter(|&number| file.live.sector(number).is_some()).collect();
        let older = sectors.filter(|number| file.older.contains_key(number)).collect();
        About::Read { nonzero, older }
    }

    /// A write that lies.
    pub(super) fn lie_in_write(&mut self, inode: usize, bytes: &[u8], offset: u64, lie: Lie) {
        let end = offset + bytes.len() as u64;
        let file = self.world.inode_mut(inode);
        if file.live.len() < end {
            file.set_len(end);
        }
        self.write_elsewhere(Some(inode), bytes, offset, lie);
    }

    /// Writes where a write went that lies. `inode` is the file that it was meant for, but for a lock file.
    pub(super) fn write_elsewhere(&mut self, inode: Option<usize>, bytes: &[u8], offset: u64, lie: Lie) {
        let (inode, at) = match lie {
            Lie::WroteAt(at) => (inode, at),
            Lie::WroteToFile(nth) => {
                let mut others = self.world.names.values().filter(|&&other| Some(other) != inode);
                (others.nth(nth).copied(), offset)
            }
            _ => return,
        };
        let Some(inode) = inode else { return };
        let file = self.world.inode_mut(inode);
        let len = bytes.len().min(file.live.len().saturating_sub(at) as usize);
        if len > 0 {
            file.write(&bytes[..len], at);
        }
    }

    /// What a read that lies takes for the content of the file.
    pub(super) fn lie_in_read(&mut self, inode: usize, lie: Lie) -> Content {
        let file = self.world.inode_mut(inode);
        let mut content = file.live.clone();
        match lie {
            Lie::Stale(number) => content.put_sector(number, file.older.get(&number).cloned().flatten()),
            Lie::StaleForGood(number) => {
                file.revert(number);
                content = file.live.clone();
            }
            Lie::ReadAnother(number, other) => content.put_sector(number, file.live.sector(other).cloned()),
            _ => {}
        }
        content
    }
}
