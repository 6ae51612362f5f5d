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
        let too_many = || corrupt(path, meta.offset, "the file has more pages than this machine can address");
        let count = usize::try_from(count).map_err(|_| too_many())?;
        if meta.root < META_COUNT {
            return Err(corrupt(path, meta.offset, "there is no root page"));
        }
        let mut uses = Vec::new();
        // The file may be sparse, and longer than the memory has bytes for its pages.
        uses.try_reserve_exact(count).map_err(|_| too_many())?;
        uses.resize(count, PageUse::Unseen);
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
                return self.slots(&page, Bounds::default()).map(drop);
            }
            return self.walk_page(&page, Bounds::default(), 0, visit);
        }
        let offset = tree.extent.offset + TREE_LEN;
        let page = self.load(offset, u64::from(tree.extent.len) - TREE_LEN)?;
        if page.id != 0 || page.overflow != 0 || page.kind != LEAF {
            return Err(self.corrupt(offset, "the page inside a bucket's value is not a leaf"));
        }
        let slots = self.slots(&page, Bounds::default())?;
        if slots.iter().any(|slot| slot.flags_or_child != 0) {
            return Err(self.corrupt(offset, "a bucket inside the value of another bucket"));
        }
        if slots.last().map_or(offset + PAGE_HEADER_LEN as u64, |last| last.value.end()) != offset + page.len {
            return Err(self.corrupt(offset, "the length of the bucket's value does not match its contents"));
        }
        self.walk_leaf(&slots, visit)
    }

    fn walk_page(&mut self, page: &Page, bounds: Bounds<'_>, depth: usize, visit: Visit<'_>) -> Result<()> {
        let slots = match page.kind {
            LEAF | BRANCH if page.count == 0 => return Err(self.corrupt(page.offset, "the page has no keys")),
            LEAF => self.slots(page, bounds)?,
            BRANCH if depth == DEPTH_MAX => return Err(self.corrupt(page.offset, "the tree is too deep")),
            BRANCH => self.slots(page, bounds)?,
            _ => return Err(self.corrupt(page.offset, "the page is neither a branch nor a leaf")),
        };
        if page.kind == LEAF {
            return self.walk_leaf(&slots, visit);
        }
        for (i, slot) in slots.iter().enumerate() {
            let child = self.page(slot.flags_or_child, slot.offset)?;
            let above = slots.get(i + 1).map(|next| &*next.key);
            let bounds = Bounds { from: Some(&slot.key), below: above.or(bounds.below) };
            self.walk_page(&child, bounds, depth + 1, visit)?;
        }
        Ok(())
    }

    fn walk_leaf(&self, slots: &[Slot], visit: Visit<'_>) -> Result<()> {
        for slot in slots {
            let leaf = match slot.flags_or_child {
                0 => Leaf::Value(slot.value),
                BUCKET => Leaf::Bucket(self.tree(slot.value)?),
                _ => return Err(self.corrupt(slot.offset, "a key has flags that bbolt does not set")),
            };
            visit(&slot.key, leaf)?;
        }
        Ok(())
    }

    fn tree(&self, extent: Extent) -> Result<Tree> {
        let root = u64_at(&self.bytes(extent.offset, u64::from(extent.len).min(TREE_LEN))?, 0);
        let has_right_len = match root {
            Some(0) => u64::from(extent.len) >= TREE_LEN + PAGE_HEADER_LEN as u64,
            _ => u64::from(extent.len) == TREE_LEN,
        };
        match root {
            Some(root) if has_right_len => Ok(Tree { extent, root }),
            _ => Err(self.corrupt(extent.offset, "the bucket's value has an impossible length")),
        }
    }

    /// Reads the keys of a page, and finds their values. bbolt packs both after all headers, in order and without
    /// gaps, and allocates no more pages than they take: an overflow into the hole of a sparse file is damage.
    /// Values are not read here: they may be far longer than what a store can hold.
    ///
    /// Each key is compared with the one before as it is read. In the hole of a sparse file, all keys are equal,
    /// and those of one page could take gigabytes.
    fn slots(&self, page: &Page, bounds: Bounds<'_>) -> Result<Vec<Slot>> {
        let headers_end = headers_end(page);
        if page.len < headers_end {
            return Err(self.corrupt(page.offset, "the page has more keys than fit in it"));
        }
        let mut headers = Vec::with_capacity(page.count.into());
        let mut end = headers_end;
        for i in 0..usize::from(page.count) {
            let at = PAGE_HEADER_LEN + i * SLOT_LEN;
            let offset = page.offset + at as u64;
            let Some(header) = SlotHeader::parse(page, at) else {
                return Err(self.corrupt(offset, "the page has more keys than fit in it"));
            };
            let key_at = end;
            // Cannot overflow: each length is below 2^32.
            end += u64::from(header.key_len) + u64::from(header.value_len);
            if u64::from(header.pos) != key_at - at as u64 || end > page.len {
                return Err(self.corrupt(offset, "a key or its value is out of place"));
            }
            if header.key_len > KEY_LEN_MAX {
                return Err(self.corrupt(offset, "a key is longer than bbolt allows"));
            }
            headers.push((offset, key_at, header));
        }
        self.check_overflow(page, end)?;
        if page.count == 0 && page.bytes.iter().skip(PAGE_HEADER_LEN).any(|&byte| byte != 0) {
            return Err(self.corrupt(page.offset, "the page is marked as empty but is not"));
        }
        let mut slots: Vec<Slot> = Vec::with_capacity(headers.len());
        for (offset, key_at, header) in headers {
            let key = self.bytes_of(page, key_at, header.key_len)?;
            let ascends = slots.last().is_none_or(|previous| previous.key < key);
            if key.is_empty() || !ascends || !bounds.contains(&key) {
                return Err(self.corrupt(offset, "the keys are not in order"));
            }
            let value_at = page.offset + key_at + u64::from(header.key_len);
            let value = Extent { offset: value_at, len: header.value_len };
            slots.push(Slot { offset, key, value, flags_or_child: header.flags_or_child });
        }
        Ok(slots)
    }

    /// Fails if the contents of the page, which end at `end`, do not take its last page. Older versions of bbolt
    /// allocate one page more if the contents fill the one before.
    fn check_overflow(&self, page: &Page, end: u64) -> Result<()> {
        if u64::from(page.overflow) * self.meta.page_len > end {
            return Err(self.corrupt(page.offset, "the page has more overflow pages than its contents take"));
        }
        Ok(())
    }

    /// Bytes of the page, from memory if they are there.
    fn bytes_of(&self, page: &Page, at: u64, len: u32) -> Result<Vec<u8>> {
        let read = usize::try_from(at).ok().and_then(|at| page.bytes.get(at..)?.get(..usize::try_from(len).ok()?));
        read.map_or_else(|| self.bytes(page.offset + at, len.into()), |read| Ok(read.to_vec()))
    }

    /// Reads the page `id` with its overflow pages and marks them as used: a second reference is damage.
    /// `referrer` is where the reference is in the file, for the error.
    fn page(&mut self, id: u64, referrer: u64) -> Result<Page> {
        let limit = self.uses.len() as u64;
        if !(META_COUNT..limit).contains(&id) {
            return Err(self.corrupt(referrer, "a reference to a page that does not exist"));
        }
        let offset = id * self.meta.page_len;
        let mut page = self.load(offset, self.meta.page_len)?;
        if page.id != id {
            return Err(self.corrupt(offset, "the page has the id of another page"));
        }
        let count = 1 + u64::from(page.overflow);
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
        page.len = count * self.meta.page_len;
        let headers_end = headers_end(&page);
        if headers_end > page.bytes.len() as u64 && headers_end <= page.len {
            page.bytes = self.bytes(offset, headers_end)?;
        }
        Ok(page)
    }

    /// Reads the beginning of a page of this length. Its keys and values may be far longer.
    fn load(&self, offset: u64, len: u64) -> Result<Page> {
        let bytes = self.bytes(offset, len.min(READ_LEN))?;
        self.parse(Page { offset, len, bytes, ..Page::default() })
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
        let (from, pages) = (from as u64, 1 + u64::from(page.overflow));
        if count > page.len.saturating_sub(from) / 8 {
            return Err(self.corrupt(page.offset, "the freelist is longer than its page"));
        }
        // bbolt allocates them for the list as it was, with a count and with these pages still in it.
        self.check_overflow(&page, from + 8 * (1 + count + pages))?;
        let (mut previous, mut free_past_end) = (META_COUNT - 1, 0);
        let mut read = Vec::new();
        for i in 0..count {
            let at = page.offset + from + i * 8;
            let in_read = (i % IDS_READ) as usize * 8;
            if in_read == 0 {
                read = self.bytes(at, 8 * IDS_READ.min(count - i))?;
            }
            let id = u64_at(&read, in_read).unwrap_or_default();
            if id <= previous || id >= self.meta.high_water {
                let what = "the freelist is not in order, or contains a page that does not exist";
                return Err(self.corrupt(at, what));
            }
            previous = id;
            match usize::try_from(id).ok().and_then(|id| self.uses.get_mut(id)) {
                Some(used @ PageUse::Unseen) => *used = PageUse::Free,
                Some(PageUse::Free | PageUse::Used) => {
                    return Err(self.corrupt(at, "the freelist contains its own page"));
                }
                None => free_past_end += 1,
            }
        }
        self.free_past_end = Some(free_past_end);
        Ok(())
    }

    /// Reads bytes of the file. The callers bound `len`: by what they read at a time, or by what a store can hold.
    fn bytes(&self, offset: u64, len: u64) -> Result<Vec<u8>> {
        let too_long = || self.corrupt(offset, "the length is more than this machine can address");
        let len = usize::try_from(len).map_err(|_| too_long())?;
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(len).map_err(|_| too_long())?;
        bytes.resize(len, 0);
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

impl Bounds<'_> {
    fn contains(&self, key: &[u8]) -> bool {
        self.from.is_none_or(|from| from <= key) && self.below.is_none_or(|end| key < end)
    }
}

/// Where the headers of the keys end in a page.
fn headers_end(page: &Page) -> u64 {
    (PAGE_HEADER_LEN + usize::from(page.count) * SLOT_LEN) as u64
}

/// How much of a page is read at once: a page as long as any machine has them.
const READ_LEN: u64 = 64 << 10;
/// How many ids of free pages are read at once.
const IDS_READ: u64 = READ_LEN / 8;
/// `MaxKeySize` of bbolt.
const KEY_LEN_MAX: u32 = 32_768;

/// The length of a bucket's value without the page in it: the id of its root page, and a sequence number.
const TREE_LEN: u64 = 16;
/// Pages 0 and 1 are the meta pages.
const META_COUNT: u64 = 2;

/// Bounds the recursion. bbolt's branches have at least two children, so a tree of this depth would have 2^64
/// leaves.
const DEPTH_MAX: usize = 64;
