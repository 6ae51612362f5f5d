//! The state of a disk: for each file what a reader sees now (live) and what a power cut leaves for sure
//! (durable).
//!
//! What the model assumes of a disk, and nothing more:
//! - A sync of a file makes its bytes and its length durable; names become durable only by a sync of the folder.
//! - Durable bytes that were not written since do not change, even next to bytes that are being written.
//! - After a *failed* sync the cache still shows what was written and counts it as clean: no later sync writes it,
//!   and once the cache is dropped, the old bytes are back.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::content::{Content, SECTOR_LEN, Sector};
use super::random::Random;

/// The files of a disk by name, all of it durable.
pub type Image = BTreeMap<PathBuf, Content>;

/// What a failed sync does to the sectors that it should have written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailedSync {
    /// It writes none, and the cache counts all of them as clean.
    LosesAll,
    /// It writes some, and the others are lost.
    LosesSome,
    /// It writes none, and they still count as unsynced.
    KeepsAll,
}

/// The bytes of a sector that were written since the last sync; none where `from == to`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Touched {
    pub from: u16,
    pub to: u16,
}

impl Touched {
    pub fn is_some(self) -> bool {
        self.from < self.to
    }
}

/// A file, with or without a name.
#[derive(Clone, Debug, Default)]
pub struct Inode {
    pub live: Content,
    pub durable: Content,
    pub touched: Vec<Touched>,
    /// Sectors that a failed sync has lost: the cache shows them, the disk never got them.
    lost: BTreeSet<usize>,
    /// What sectors held before their last write.
    pub older: BTreeMap<usize, Option<Sector>>,
    /// Lengths the file has had since the last sync.
    pub lens: BTreeSet<u64>,
    /// Sectors that take no space: zeros that were not written.
    holes: BTreeSet<usize>,
}

impl Inode {
    fn durable(content: Content) -> Self {
        Inode { live: content.clone(), durable: content, ..Inode::default() }
    }

    /// Where a read or write of sectors must look for changes.
    pub fn touched_sectors(&self) -> impl Iterator<Item = usize> {
        self.touched.iter().enumerate().filter(|(_, touched)| touched.is_some()).map(|(number, _)| number)
    }

    pub fn write(&mut self, bytes: &[u8], offset: u64) {
        self.touch(offset, offset + bytes.len() as u64);
        self.lens.insert(self.live.len());
        let before = self.live.clone();
        self.live.write(bytes, offset);
        let sectors = offset as usize / SECTOR_LEN..(offset as usize + bytes.len()).div_ceil(SECTOR_LEN);
        self.holes.retain(|number| !sectors.contains(number));
        for number in sectors.filter(|&number| !before.same_sector(&self.live, number)) {
            self.older.insert(number, before.sector(number).cloned());
        }
    }

    /// The sector is again what it was before its last write, as if that had never reached the disk.
    pub fn revert(&mut self, number: usize) {
        let older = self.older.get(&number).cloned().flatten();
        self.live.put_sector(number, older.clone());
        self.durable.put_sector(number, older);
        self.lost.remove(&number);
    }

    pub fn set_len(&mut self, len: u64) {
        let old = self.live.len();
        self.touch(len.min(old), len.max(old));
        self.lens.insert(old);
        self.live.set_len(len);
        self.holes.retain(|&number| number < len as usize / SECTOR_LEN);
    }

    /// Makes a hole of the whole sectors from `offset` on, which must be zeros.
    pub fn make_hole(&mut self, offset: u64) {
        let sectors = (offset as usize).div_ceil(SECTOR_LEN)..self.live.len() as usize / SECTOR_LEN;
        assert!(sectors.clone().all(|number| self.live.sector(number).is_none()), "not zeros");
        self.holes.extend(sectors);
    }

    /// Where the first hole at `offset` or later begins.
    pub fn next_hole(&self, offset: u64) -> Option<u64> {
        let number = self.holes.range(offset as usize / SECTOR_LEN..).next()?;
        Some(offset.max((number * SECTOR_LEN) as u64))
    }

    /// How much space the file takes.
    pub fn used(&self) -> u64 {
        self.live.len() - (self.holes.len() * SECTOR_LEN) as u64
    }

    /// How many more bytes it takes once `range` has been written.
    pub fn needed(&self, range: Range<u64>) -> u64 {
        let sectors = range.start as usize / SECTOR_LEN..(range.end as usize).div_ceil(SECTOR_LEN);
        let filled = self.holes.range(sectors).count() * SECTOR_LEN;
        range.end.saturating_sub(self.live.len()) + filled as u64
    }

    fn touch(&mut self, from: u64, to: u64) {
        let (from, to) = (from as usize, to as usize);
        let sectors = from / SECTOR_LEN..to.div_ceil(SECTOR_LEN);
        if self.touched.len() < sectors.end {
            self.touched.resize(sectors.end, Touched::default());
        }
        for number in sectors {
            let start = number * SECTOR_LEN;
            let begin = from.saturating_sub(start) as u16;
            let end = (to - start).min(SECTOR_LEN) as u16;
            let touched = &mut self.touched[number];
            if touched.is_some() {
                *touched = Touched { from: touched.from.min(begin), to: touched.to.max(end) };
            } else {
                *touched = Touched { from: begin, to: end };
            }
            self.lost.remove(&number);
        }
    }

    pub fn sync(&mut self) {
        if self.lost.is_empty() {
            self.durable = self.live.clone();
        } else {
            self.durable.set_len(self.live.len());
            for number in 0..self.live.len().div_ceil(SECTOR_LEN as u64) as usize {
                if !self.lost.contains(&number) {
                    self.durable.put_sector(number, self.live.sector(number).cloned());
                }
            }
        }
        self.touched.clear();
        self.lens.clear();
    }

    pub fn fail_sync(&mut self, how: FailedSync, random: &mut Random) {
        if how == FailedSync::KeepsAll {
            return;
        }
        let numbers: Vec<usize> = self.touched_sectors().collect();
        for number in numbers {
            let is_written = how == FailedSync::LosesSome && random.below(2) == 0;
            if is_written {
                self.durable.put_sector(number, self.live.sector(number).cloned());
            } else if !self.live.same_sector(&self.durable, number) {
                self.lost.insert(number);
            }
        }
        self.touched.clear();
    }

    pub fn drop_cache(&mut self, range: Range<u64>) {
        let sectors = range.start as usize / SECTOR_LEN..(range.end as usize).div_ceil(SECTOR_LEN);
        let dropped: Vec<usize> = self.lost.range(sectors).copied().collect();
        for number in dropped {
            self.lost.remove(&number);
            self.live.put_sector(number, self.durable.sector(number).cloned());
        }
    }
}

/// A change of names that is not durable yet.
#[derive(Clone, Debug)]
pub enum NameChange {
    Create { path: PathBuf, inode: usize },
    Rename { from: PathBuf, to: PathBuf, inode: usize },
    Remove { path: PathBuf },
}

impl NameChange {
    pub fn apply(&self, names: &mut Names) {
        match self {
            NameChange::Create { path, inode } => {
                names.insert(path.clone(), *inode);
            }
            NameChange::Rename { from, to, inode } => {
                names.remove(from);
                names.insert(to.clone(), *inode);
            }
            NameChange::Remove { path } => {
                names.remove(path);
            }
        }
    }
}

pub type Names = BTreeMap<PathBuf, usize>;

/// Everything on the disk. Cheap to clone: files are shared until one of the clones changes them.
#[derive(Clone, Debug, Default)]
pub struct World {
    inodes: Vec<Arc<Inode>>,
    pub names: Names,
    pub durable_names: Names,
    /// What turns the durable names into the live ones, in order.
    pub name_changes: Vec<NameChange>,
}

impl World {
    /// As it is after a power cut: nothing is in flight.
    pub fn of(image: &Image) -> Self {
        let mut world = World::default();
        for (path, content) in image {
            // An image does not say which names are of one file. Each log has a salt of its own, so two files that
            // are equal are one.
            let same =
                world.inodes.iter().position(|inode| inode.live.len() > 0 && inode.live.hash() == content.hash());
            let inode = same.unwrap_or(world.inodes.len());
            world.names.insert(path.clone(), inode);
            if inode == world.inodes.len() {
                world.inodes.push(Arc::new(Inode::durable(content.clone())));
            }
        }
        world.durable_names = world.names.clone();
        world
    }

    pub fn inode(&self, number: usize) -> &Inode {
        &self.inodes[number]
    }

    pub fn inode_mut(&mut self, number: usize) -> &mut Inode {
        Arc::make_mut(&mut self.inodes[number])
    }

    pub fn named(&self, path: &Path) -> Option<usize> {
        self.names.get(path).copied()
    }

    pub fn create(&mut self, path: &Path) -> usize {
        let inode = self.inodes.len();
        self.inodes.push(Arc::default());
        self.change_name(NameChange::Create { path: path.to_owned(), inode });
        inode
    }

    pub fn change_name(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.name_changes.push(change);
    }

    pub fn sync_names(&mut self) {
        self.durable_names = self.names.clone();
        self.name_changes.clear();
    }

    /// What is there if nothing is lost: a killed process leaves this.
    pub fn live(&self) -> Image {
        self.names.iter().map(|(path, &inode)| (path.clone(), self.inode(inode).live.clone())).collect()
    }

    /// Whether the cache shows bytes that the disk does not have and will not get.
    pub fn has_lost(&self) -> bool {
        self.inodes.iter().any(|inode| !inode.lost.is_empty())
    }

    /// The cache is dropped: what the disk never got is gone.
    pub fn drop_caches(&mut self) {
        for inode in &mut self.inodes {
            let len = inode.live.len().max(inode.durable.len());
            Arc::make_mut(inode).drop_cache(0..len);
        }
    }

    /// How many bytes the named files take.
    pub fn used(&self) -> u64 {
        self.names.values().map(|&inode| self.inode(inode).used()).sum()
    }
}

pub fn hash(image: &Image) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    for (path, content) in image {
        path.hash(&mut hasher);
        content.hash().hash(&mut hasher);
    }
    hasher.finish()
}
