//! The pages of a bbolt file, read only: which meta page counts, and the keys of a bucket in their order.
//!
//! Pure over a range of bytes. bbolt guards nothing but its meta pages by a checksum, so whatever its writer always does
//! the same way is checked: a page bears its number and is used once, what it holds is packed without gaps, keys ascend
//! within the bounds that the branches set, and no page in use is in the list of free ones. It follows bbolt 1.3
//! (`page.go`, `node.go`, `bucket.go`, `freelist.go`), little-endian.

use std::path::Path;

use super::meta::{self, Meta};
use super::page::{
    BRANCH, BUCKET, FREELIST, LEAF, PAGE_HEADER_LEN, Page, SLOT_LEN, Slot, SlotHeader, u32_at, u64_at,
};
use super::source::{Place, Source};
use crate::{Error, Result};

/// A bucket: a tree of pages, or one page inside of its value.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tree {
    /// Where it stands: its number of the root page, its sequence, and perhaps the page.
    place: Place,
    root: u64,
}

impl Tree {
    /// Of the bucket's value, in the file.
    pub(crate) fn offset(&self) -> u64 {
        self.place.offset
    }
}

/// What is under a key.
pub(crate) enum Leaf {
    Value(Place),
    Bucket(Tree),
}

/// Called with every key of a bucket.
pub(crate) type Each<'a> = &'a mut dyn FnMut(&[u8], Leaf) -> Result<()>;

/// An open file.
pub(crate) struct Pages<'a> {
    pub(crate) path: &'a Path,
    source: &'a dyn Source,
    meta: Meta,
    /// Of each page that the file has and the meta page knows.
    uses: Vec<Use>,
    /// How many pages behind these are free, and so need not be there. `None` without the list.
    free_behind: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    Unseen,
    Free,
    Taken,
}

impl<'a> Pages<'a> {
    /// Reads the meta pages and the list of free pages.
    pub(crate) fn open(path: &'a Path, source: &'a dyn Source) -> Result<Self> {
        let meta = meta::read(path, source)?;
        let file_len = source.len().map_err(|error| Error::io("read the length of", path, error))?;
        let count = meta.high_water.min(file_len / meta.page_len);
        let Ok(count) = usize::try_from(count) else {
            return Err(Error::corrupt(path, meta.offset, "it has more pages than this machine can count"));
        };
        if meta.root < META_COUNT {
            return Err(Error::corrupt(path, meta.offset, "it has no root page"));
        }
        let mut uses = vec![Use::Unseen; count];
        uses.iter_mut().zip(0..META_COUNT).for_each(|(used, _)| *used = Use::Taken);
        let mut pages = Pages { path, source, meta, uses, free_behind: None };
        pages.read_freelist()?;
        Ok(pages)
    }

    /// Whether one of the meta pages does not check.
    pub(crate) fn one_meta_is_damaged(&self) -> bool {
        self.meta.other_is_damaged
    }

    /// The bucket of buckets.
    pub(crate) fn root(&self) -> Tree {
        Tree { place: Place { offset: self.meta.offset, len: 0 }, root: self.meta.root }
    }

    /// Called when every bucket was walked: a page that is neither in use nor free has been lost, with all that is in it. Where
    /// the list of free pages was not written, nobody can tell.
    pub(crate) fn check_that_none_is_lost(&self) -> Result<()> {
        let Some(free_behind) = self.free_behind else { return Ok(()) };
        if let Some(lost) = self.uses.iter().position(|&used| used == Use::Unseen) {
            let offset = lost as u64 * self.meta.page_len;
            return Err(self.corrupt(offset, "the page is neither in use nor free, so something has lost it"));
        }
        if self.meta.high_water - self.uses.len() as u64 != free_behind {
            let end = self.uses.len() as u64 * self.meta.page_len;
            return Err(self.corrupt(end, "the file ends before the last of its pages"));
        }
        Ok(())
    }

    /// The bytes at a place that a walk has given.
    pub(crate) fn read(&self, place: Place) -> Result<Vec<u8>> {
        self.bytes(place.offset, u64::from(place.len))
    }

    pub(crate) fn corrupt(&self, offset: u64, what: &'static str) -> Error {
        Error::corrupt(self.path, offset, what)
    }

    /// Calls `each` with every key of the bucket, in ascending order. A page is walked once in the life of this reader.
    pub(crate) fn walk(&mut self, tree: Tree, each: Each<'_>) -> Result<()> {
        if tree.root != 0 {
            let page = self.page(tree.root, tree.place.offset)?;
            // An empty bucket is inside of its value, but for the one that is in no bucket.
            if page.count == 0 && page.kind == LEAF && tree.place.len == 0 {
                return self.slots(&page).map(drop);
            }
            return self.walk_page(&page, Bounds::default(), 0, each);
        }
        let offset = tree.place.offset + TREE_LEN;
        let bytes = self.bytes(offset, u64::from(tree.place.len) - TREE_LEN)?;
        let page = self.parse(Page { offset, bytes, ..Page::default() })?;
        if page.id != 0 || page.overflow != 0 || page.kind != LEAF {
            return Err(self.corrupt(offset, "the page inside of a bucket's value is no leaf"));
        }
        let slots = self.slots(&page)?;
        if slots.iter().any(|slot| slot.word != 0) {
            return Err(self.corrupt(offset, "a bucket stands inside of another's value"));
        }
        if slots.last().map_or(PAGE_HEADER_LEN, |last| last.value.end) != page.bytes.len() {
            return Err(self.corrupt(offset, "the bucket's value is not as long as what it holds"));
        }
        self.walk_leaf(&page, &slots, Bounds::default(), each)
    }

    fn walk_page(&mut self, page: &Page, bounds: Bounds<'_>, depth: usize, each: Each<'_>) -> Result<()> {
        let slots = match page.kind {
            LEAF | BRANCH if page.count == 0 => return Err(self.corrupt(page.offset, "the page has no keys")),
            LEAF => self.slots(page)?,
            BRANCH if depth == DEPTH_MAX => return Err(self.corrupt(page.offset, "the tree is too deep")),
            BRANCH => self.slots(page)?,
            _ => return Err(self.corrupt(page.offset, "the page is neither a branch nor a leaf")),
        };
        if page.kind == LEAF {
            return self.walk_leaf(page, &slots, bounds, each);
        }
        self.check_order(page, &slots, bounds)?;
        for (i, slot) in slots.iter().enumerate() {
            let child = self.page(slot.word, slot.at)?;
            let above = slots.get(i + 1).map(|next| page.bytes_of(&next.key));
            let bounds = Bounds { from: Some(page.bytes_of(&slot.key)), below: above.or(bounds.below) };
            self.walk_page(&child, bounds, depth + 1, each)?;
        }
        Ok(())
    }

    fn walk_leaf(&self, page: &Page, slots: &[Slot], bounds: Bounds<'_>, each: Each<'_>) -> Result<()> {
        self.check_order(page, slots, bounds)?;
        for slot in slots {
            let place = Place { offset: page.offset + slot.value.start as u64, len: slot.value_len };
            let leaf = match slot.word {
                0 => Leaf::Value(place),
                BUCKET => Leaf::Bucket(self.tree(page, slot, place)?),
                _ => return Err(self.corrupt(slot.at, "a key has flags that bbolt does not set")),
            };
            each(page.bytes_of(&slot.key), leaf)?;
        }
        Ok(())
    }

    fn tree(&self, page: &Page, slot: &Slot, place: Place) -> Result<Tree> {
        let root = u64_at(page.bytes_of(&slot.value), 0);
        let is_whole = match root {
            Some(0) => u64::from(place.len) >= TREE_LEN + PAGE_HEADER_LEN as u64,
            _ => u64::from(place.len) == TREE_LEN,
        };
        match root {
            Some(root) if is_whole => Ok(Tree { place, root }),
            _ => Err(self.corrupt(place.offset, "a bucket's value has a length that bbolt does not give it")),
        }
    }

    fn check_order(&self, page: &Page, slots: &[Slot], bounds: Bounds<'_>) -> Result<()> {
        let mut before = None;
        for slot in slots {
            let key = page.bytes_of(&slot.key);
            let ascends = before.is_none_or(|before| before < key);
            let is_within = bounds.from.is_none_or(|from| from <= key) && bounds.below.is_none_or(|end| key < end);
            if key.is_empty() || !ascends || !is_within {
                return Err(self.corrupt(slot.at, "the keys are not in their order"));
            }
            before = Some(key);
        }
        Ok(())
    }

    /// Where the keys and values of a page are. bbolt packs them behind their headers, in order and without gaps.
    fn slots(&self, page: &Page) -> Result<Vec<Slot>> {
        let headers_end = PAGE_HEADER_LEN + usize::from(page.count) * SLOT_LEN;
        if page.bytes.len() < headers_end {
            return Err(self.corrupt(page.offset, "the page has more keys than fit it"));
        }
        if page.count == 0 && page.bytes.iter().skip(PAGE_HEADER_LEN).any(|&byte| byte != 0) {
            return Err(self.corrupt(page.offset, "the page says that it is empty, and is not"));
        }
        let mut slots = Vec::with_capacity(page.count.into());
        let mut end = headers_end;
        for i in 0..usize::from(page.count) {
            let at = PAGE_HEADER_LEN + i * SLOT_LEN;
            let offset = page.offset + at as u64;
            let Some(header) = SlotHeader::parse(page, at) else {
                return Err(self.corrupt(offset, "the page has more keys than fit it"));
            };
            // At most 2^32 each, so the sums are far from 2^64.
            let key_end = end as u64 + u64::from(header.key_len);
            let value_end = key_end + u64::from(header.value_len);
            if u64::from(header.pos) != (end - at) as u64 || value_end > page.bytes.len() as u64 {
                return Err(self.corrupt(offset, "a key or its value is not where it belongs"));
            }
            #[allow(clippy::cast_possible_truncation, reason = "within the page, which is in memory")]
            let (key_end, value_end) = (key_end as usize, value_end as usize);
            let value_len = header.value_len;
            slots.push(Slot {
                at: offset,
                key: end..key_end,
                value: key_end..value_end,
                value_len,
                word: header.word,
            });
            end = value_end;
        }
        Ok(slots)
    }

    /// The page of this number, to which what stands at `referrer` points. Each is given once.
    fn page(&mut self, id: u64, referrer: u64) -> Result<Page> {
        let limit = self.uses.len() as u64;
        if !(META_COUNT..limit).contains(&id) {
            return Err(self.corrupt(referrer, "it points to a page that the file does not have"));
        }
        let offset = id * self.meta.page_len;
        let header = self.bytes(offset, PAGE_HEADER_LEN as u64)?;
        let header = self.parse(Page { offset, bytes: header, ..Page::default() })?;
        if header.id != id {
            return Err(self.corrupt(offset, "the page bears the number of another one"));
        }
        let count = 1 + u64::from(header.overflow);
        if count > limit - id {
            return Err(self.corrupt(offset, "the page reaches over the end of the file"));
        }
        // Below the number of pages that are in memory.
        #[allow(clippy::cast_possible_truncation, reason = "see above")]
        let range = id as usize..(id + count) as usize;
        for used in self.uses.iter_mut().take(range.end).skip(range.start) {
            match std::mem::replace(used, Use::Taken) {
                Use::Unseen => {}
                Use::Free => return Err(Error::corrupt(self.path, referrer, "it points to a page that is free")),
                Use::Taken => {
                    let what = "it points to a page that is in use elsewhere";
                    return Err(Error::corrupt(self.path, referrer, what));
                }
            }
        }
        let bytes = self.bytes(offset, count * self.meta.page_len)?;
        Ok(Page { bytes, ..header })
    }

    fn parse(&self, page: Page) -> Result<Page> {
        let parsed = (|| {
            let [b0, b1, b2, b3] = *page.bytes.get(8..12)?.first_chunk()?;
            let (kind, count) = (u16::from_le_bytes([b0, b1]), u16::from_le_bytes([b2, b3]));
            Some((u64_at(&page.bytes, 0)?, kind, count, u32_at(&page.bytes, 12)?))
        })();
        match parsed {
            Some((id, kind, count, overflow)) => Ok(Page { id, kind, count, overflow, ..page }),
            None => Err(self.corrupt(page.offset, "the page is too short")),
        }
    }

    /// Notes which pages are free. A file without the list is as good, but says less.
    fn read_freelist(&mut self) -> Result<()> {
        let Some(id) = self.meta.freelist else { return Ok(()) };
        let page = self.page(id, self.meta.offset)?;
        if page.kind != FREELIST {
            return Err(self.corrupt(page.offset, "the page is no list of free pages"));
        }
        // A count that does not fit its field stands before the numbers.
        let (from, count) = match page.count {
            u16::MAX => (PAGE_HEADER_LEN + 8, u64_at(&page.bytes, PAGE_HEADER_LEN).unwrap_or(u64::MAX)),
            count => (PAGE_HEADER_LEN, count.into()),
        };
        let room = page.bytes.len().saturating_sub(from) / 8;
        if count > room as u64 {
            return Err(self.corrupt(page.offset, "the list of free pages is longer than its page"));
        }
        let (mut before, mut free_behind) = (META_COUNT - 1, 0);
        #[allow(clippy::cast_possible_truncation, reason = "at most what fits the page")]
        for i in 0..count as usize {
            let at = from + i * 8;
            let id = u64_at(&page.bytes, at).unwrap_or_default();
            if id <= before || id >= self.meta.high_water {
                let what = "the list of free pages is not in its order, or names one that there is not";
                return Err(self.corrupt(page.offset + at as u64, what));
            }
            before = id;
            match usize::try_from(id).ok().and_then(|id| self.uses.get_mut(id)) {
                Some(used @ Use::Unseen) => *used = Use::Free,
                Some(Use::Free | Use::Taken) => {
                    return Err(self.corrupt(page.offset + at as u64, "the list of free pages names itself"));
                }
                None => free_behind += 1,
            }
        }
        self.free_behind = Some(free_behind);
        Ok(())
    }

    /// The length is within the file, which is why it may be in memory.
    fn bytes(&self, offset: u64, len: u64) -> Result<Vec<u8>> {
        let too_long = || self.corrupt(offset, "it is larger than the memory of this machine");
        let mut bytes = vec![0; usize::try_from(len).map_err(|_| too_long())?];
        match self.source.read_exact_at(&mut bytes, offset) {
            Ok(()) => Ok(bytes),
            Err(error) => Err(Error::io("read", self.path, error)),
        }
    }
}

/// What the branches above a page say of its keys.
#[derive(Clone, Copy, Default)]
struct Bounds<'a> {
    from: Option<&'a [u8]>,
    below: Option<&'a [u8]>,
}

/// A bucket's value before the page in it: the number of its root page, and a sequence.
const TREE_LEN: u64 = 16;
/// Pages 0 and 1 are no one's children.
const META_COUNT: u64 = 2;

/// With two children a branch, far more pages than a file can have.
const DEPTH_MAX: usize = 64;
