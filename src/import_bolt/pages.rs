//! The trees of pages in a bbolt file: walks the keys of a bucket in order, and checks the structure on the way.
//!
//! Only the meta pages of bbolt have a checksum. So everything that bbolt's writer always does in the same way is
//! checked: a page has its own id in its header and is used once, keys and values are packed without gaps, keys
//! ascend within the bounds that the branches set, and no page in use is in the freelist. Follows bbolt 1.3
//! (`page.go`, `node.go`, `bucket.go`, `freelist.go`), little-endian. Knows nothing of what the agent stores.

use std::path::Path;

use super::corrupt;
use super::meta::{self, Meta};
use super::page::{
    BRANCH, BUCKET, FREELIST, LEAF, PAGE_HEADER_LEN, Page, SLOT_LEN, Slot, SlotHeader, u32_at, u64_at,
};
use super::source::{Extent, Source};
use crate::{Error, Result};

/// A bucket: a tree of pages or, if it is small, one page inside the bucket's value.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tree {
    /// The bucket's value: the id of the root page, a sequence number and, in a small bucket, the page.
    extent: Extent,
    /// The id of the root page; 0 if the page is inside the value.
    root: u64,
}

impl Tree {
    /// Where the bucket's value is in the file.
    pub(crate) fn offset(&self) -> u64 {
        self.extent.offset
    }
}

/// The value of a key.
pub(crate) enum Leaf {
    Value(Extent),
    Bucket(Tree),
}

/// A callback for every key of a bucket.
pub(crate) type Visit<'a> = &'a mut dyn FnMut(&[u8], Leaf) -> Result<()>;

/// An open bbolt file.
pub(crate) struct Pages<'a> {
    pub(crate) path: &'a Path,
    source: &'a dyn Source,
    meta: Meta,
    /// For each page in the file and below the high-water mark.
    uses: Vec<PageUse>,
    /// How many pages after these are in the freelist, so the file may end before them. `None` without a freelist.
    free_past_end: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum PageUse {
    Unseen,
    Free,
    Used,
}

impl<'a> Pages<'a> {
    /// Reads the meta pages and the freelist.
    pub(crate) fn open(path: &'a Path, source: &'a dyn Source) -> Result<Self> {
        let meta = meta::read(path, source)?;
        let file_len = source.len().map_err(|error| Error::io("read the length of", path, error))?;
        let count = meta.high_water.min(file_len / meta.page_len);
        let Ok(count) = usize::try_from(count) else {
            return Err(corrupt(path, meta.offset, "the file has more pages than this machine can address"));
        };
        if meta.root < META_COUNT {
            return Err(corrupt(path, meta.offset, "there is no root page"));
        }
        let mut uses = vec![PageUse::Unseen; count];
        uses.iter_mut().zip(0..META_COUNT).for_each(|(used, _)| *used = PageUse::Used);
        let mut pages = Pages { path, source, meta, uses, free_past_end: None };
        pages.read_freelist()?;
        Ok(pages)
    }

    /// Whether one of the two meta pages has a wrong checksum.
    pub(crate) fn one_meta_is_damaged(&self) -> bool {
        self.meta.other_is_damaged
    }

    /// The root bucket, which holds the other buckets.
    pub(crate) fn root(&self) -> Tree {
        Tree { extent: Extent { offset: self.meta.offset, len: 0 }, root: self.meta.root }
    }

    /// Fails if a page is neither in use nor free: damage has cut it off, with all keys in it. Call it after all
    /// buckets were walked. Without a freelist, it cannot find such a page and returns `Ok`.
    pub(crate) fn check_no_page_is_lost(&self) -> Result<()> {
        let Some(free_past_end) = self.free_past_end else { return Ok(()) };
        if let Some(lost) = self.uses.iter().position(|&used| used == PageUse::Unseen) {
            let offset = lost as u64 * self.meta.page_len;
            return Err(self.corrupt(offset, "the page is neither in use nor free"));
        }
        if self.meta.high_water - self.uses.len() as u64 != free_past_end {
            let end = self.uses.len() as u64 * self.meta.page_len;
            return Err(self.corrupt(end, "the file ends before its last page"));
        }
        Ok(())
    }

    /// Reads an extent that [`walk`](Self::walk) passed on.
    pub(crate) fn read(&self, extent: Extent) -> Result<Vec<u8>> {
        self.bytes(extent.offset, u64::from(extent.len))
    }

    pub(crate) fn corrupt(&self, offset: u64, what: &'static str) -> Error {
        corrupt(self.path, offset, what)
    }

    /// Calls `visit` with every key of the bucket, in ascending order. Each bucket can be walked once: a second
    /// use of a page is damage.
    pub(crate) fn walk(&mut self, tree: Tree, visit: Visit<'_>) -> Result<()> {
        if tree.root != 0 {
            let page = self.page(tree.root, tree.extent.offset)?;
            // The root bucket has a page even if it is empty. Any other empty bucket has its page inside its
            // value.
            if page.count == 0 && page.kind == LEAF && tree.extent.len == 0 {
                return self.slots(&page).map(drop);
            }
            return self.walk_page(&page, Bounds::default(), 0, visit);
        }
        let offset = tree.extent.offset + TREE_LEN;
        let bytes = self.bytes(offset, u64::from(tree.extent.len) - TREE_LEN)?;
        let page = self.parse(Page { offset, bytes, ..Page::default() })?;
        if page.id != 0 || page.overflow != 0 || page.kind != LEAF {
            return Err(self.corrupt(offset, "the page inside a bucket's value is not a leaf"));
        }
        let slots = self.slots(&page)?;
        if slots.iter().any(|slot| slot.flags_or_child != 0) {
            return Err(self.corrupt(offset, "a bucket inside the value of another bucket"));
        }
        if slots.last().map_or(PAGE_HEADER_LEN, |last| last.value.end) != page.bytes.len() {
            return Err(self.corrupt(offset, "the length of the bucket's value does not match its contents"));
        }
        self.walk_leaf(&page, &slots, Bounds::default(), visit)
    }

    fn walk_page(&mut self, page: &Page, bounds: Bounds<'_>, depth: usize, visit: Visit<'_>) -> Result<()> {
        let slots = match page.kind {
            LEAF | BRANCH if page.count == 0 => return Err(self.corrupt(page.offset, "the page has no keys")),
            LEAF => self.slots(page)?,
            BRANCH if depth == DEPTH_MAX => return Err(self.corrupt(page.offset, "the tree is too deep")),
            BRANCH => self.slots(page)?,
            _ => return Err(self.corrupt(page.offset, "the page is neither a branch nor a leaf")),
        };
        if page.kind == LEAF {
            return self.walk_leaf(page, &slots, bounds, visit);
        }
        self.check_order(page, &slots, bounds)?;
        for (i, slot) in slots.iter().enumerate() {
            let child = self.page(slot.flags_or_child, slot.offset)?;
            let above = slots.get(i + 1).map(|next| page.bytes_of(&next.key));
            let bounds = Bounds { from: Some(page.bytes_of(&slot.key)), below: above.or(bounds.below) };
            self.walk_page(&child, bounds, depth + 1, visit)?;
        }
        Ok(())
    }

    fn walk_leaf(&self, page: &Page, slots: &[Slot], bounds: Bounds<'_>, visit: Visit<'_>) -> Result<()> {
        self.check_order(page, slots, bounds)?;
        for slot in slots {
            let extent = Extent { offset: page.offset + slot.value.start as u64, len: slot.value_len };
            let leaf = match slot.flags_or_child {
                0 => Leaf::Value(extent),
                BUCKET => Leaf::Bucket(self.tree(page, slot, extent)?),
                _ => return Err(self.corrupt(slot.offset, "a key has flags that bbolt does not set")),
            };
            visit(page.bytes_of(&slot.key), leaf)?;
        }
        Ok(())
    }

    fn tree(&self, page: &Page, slot: &Slot, extent: Extent) -> Result<Tree> {
        let root = u64_at(page.bytes_of(&slot.value), 0);
        let has_right_len = match root {
            Some(0) => u64::from(extent.len) >= TREE_LEN + PAGE_HEADER_LEN as u64,
            _ => u64::from(extent.len) == TREE_LEN,
        };
        match root {
            Some(root) if has_right_len => Ok(Tree { extent, root }),
            _ => Err(self.corrupt(extent.offset, "the bucket's value has an impossible length")),
        }
    }

    fn check_order(&self, page: &Page, slots: &[Slot], bounds: Bounds<'_>) -> Result<()> {
        let mut previous = None;
        for slot in slots {
            let key = page.bytes_of(&slot.key);
            let ascends = previous.is_none_or(|previous| previous < key);
            let is_within = bounds.from.is_none_or(|from| from <= key) && bounds.below.is_none_or(|end| key < end);
            if key.is_empty() || !ascends || !is_within {
                return Err(self.corrupt(slot.offset, "the keys are not in order"));
            }
            previous = Some(key);
        }
        Ok(())
    }

    /// Where the keys and values of a page are. bbolt packs them after all headers, in order and without gaps.
    fn slots(&self, page: &Page) -> Result<Vec<Slot>> {
        let headers_end = PAGE_HEADER_LEN + usize::from(page.count) * SLOT_LEN;
        if page.bytes.len() < headers_end {
            return Err(self.corrupt(page.offset, "the page has more keys than fit in it"));
        }
        if page.count == 0 && page.bytes.iter().skip(PAGE_HEADER_LEN).any(|&byte| byte != 0) {
            return Err(self.corrupt(page.offset, "the page is marked as empty but is not"));
        }
        let mut slots = Vec::with_capacity(page.count.into());
        let mut end = headers_end;
        for i in 0..usize::from(page.count) {
            let at = PAGE_HEADER_LEN + i * SLOT_LEN;
            let offset = page.offset + at as u64;
            let Some(header) = SlotHeader::parse(page, at) else {
                return Err(self.corrupt(offset, "the page has more keys than fit in it"));
            };
            // Cannot overflow: each length is below 2^32.
            let key_end = end as u64 + u64::from(header.key_len);
            let value_end = key_end + u64::from(header.value_len);
            if u64::from(header.pos) != (end - at) as u64 || value_end > page.bytes.len() as u64 {
                return Err(self.corrupt(offset, "a key or its value is out of place"));
            }
            #[allow(clippy::cast_possible_truncation, reason = "within the page, which is in memory")]
            let (key_end, value_end) = (key_end as usize, value_end as usize);
            let value_len = header.value_len;
            slots.push(Slot {
                offset,
                key: end..key_end,
                value: key_end..value_end,
                value_len,
                flags_or_child: header.flags_or_child,
            });
            end = value_end;
        }
        Ok(slots)
    }

    /// Reads the page `id` with its overflow pages and marks them as used: a second reference is damage.
    /// `referrer` is where the reference is in the file, for the error.
    fn page(&mut self, id: u64, referrer: u64) -> Result<Page> {
        let limit = self.uses.len() as u64;
        if !(META_COUNT..limit).contains(&id) {
            return Err(self.corrupt(referrer, "a reference to a page that does not exist"));
        }
        let offset = id * self.meta.page_len;
        let header = self.bytes(offset, PAGE_HEADER_LEN as u64)?;
        let header = self.parse(Page { offset, bytes: header, ..Page::default() })?;
        if header.id != id {
            return Err(self.corrupt(offset, "the page has the id of another page"));
        }
        let count = 1 + u64::from(header.overflow);
        if count > limit - id {
            return Err(self.corrupt(offset, "the page extends past the end of the file"));
        }
        #[allow(clippy::cast_possible_truncation, reason = "at most the length of `uses`")]
        let range = id as usize..(id + count) as usize;
        for used in self.uses.iter_mut().take(range.end).skip(range.start) {
            match std::mem::replace(used, PageUse::Used) {
                PageUse::Unseen => {}
                PageUse::Free => return Err(corrupt(self.path, referrer, "a reference to a free page")),
                PageUse::Used => return Err(corrupt(self.path, referrer, "a second reference to a page")),
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

    /// Marks the free pages. A file without a freelist is valid, but then lost pages cannot be found.
    fn read_freelist(&mut self) -> Result<()> {
        let Some(id) = self.meta.freelist else { return Ok(()) };
        let page = self.page(id, self.meta.offset)?;
        if page.kind != FREELIST {
            return Err(self.corrupt(page.offset, "the page is not a freelist"));
        }
        // A count that does not fit the header's field comes before the ids.
        let (from, count) = match page.count {
            u16::MAX => (PAGE_HEADER_LEN + 8, u64_at(&page.bytes, PAGE_HEADER_LEN).unwrap_or(u64::MAX)),
            count => (PAGE_HEADER_LEN, count.into()),
        };
        let room = page.bytes.len().saturating_sub(from) / 8;
        if count > room as u64 {
            return Err(self.corrupt(page.offset, "the freelist is longer than its page"));
        }
        let (mut previous, mut free_past_end) = (META_COUNT - 1, 0);
        #[allow(clippy::cast_possible_truncation, reason = "at most what fits the page")]
        for i in 0..count as usize {
            let at = from + i * 8;
            let id = u64_at(&page.bytes, at).unwrap_or_default();
            if id <= previous || id >= self.meta.high_water {
                let what = "the freelist is not in order, or contains a page that does not exist";
                return Err(self.corrupt(page.offset + at as u64, what));
            }
            previous = id;
            match usize::try_from(id).ok().and_then(|id| self.uses.get_mut(id)) {
                Some(used @ PageUse::Unseen) => *used = PageUse::Free,
                Some(PageUse::Free | PageUse::Used) => {
                    return Err(self.corrupt(page.offset + at as u64, "the freelist contains its own page"));
                }
                None => free_past_end += 1,
            }
        }
        self.free_past_end = Some(free_past_end);
        Ok(())
    }

    /// Reads bytes of the file. `len` is bounded by the file's length, so it is safe to allocate.
    fn bytes(&self, offset: u64, len: u64) -> Result<Vec<u8>> {
        let too_long = || self.corrupt(offset, "the length is more than this machine can address");
        let mut bytes = vec![0; usize::try_from(len).map_err(|_| too_long())?];
        match self.source.read_exact_at(&mut bytes, offset) {
            Ok(()) => Ok(bytes),
            Err(error) => Err(Error::io("read", self.path, error)),
        }
    }
}

/// The bounds that the branches above a page set for its keys: from `from` on and below `below`.
#[derive(Clone, Copy, Default)]
struct Bounds<'a> {
    from: Option<&'a [u8]>,
    below: Option<&'a [u8]>,
}

/// The length of a bucket's value without the page in it: the id of its root page, and a sequence number.
const TREE_LEN: u64 = 16;
/// Pages 0 and 1 are the meta pages.
const META_COUNT: u64 = 2;

/// Bounds the recursion. bbolt's branches have at least two children, so a tree of this depth would have 2^64
/// leaves.
const DEPTH_MAX: usize = 64;
