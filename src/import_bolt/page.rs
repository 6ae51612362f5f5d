//! A page of a bbolt file as bytes: its header, and the headers of the keys in it.

use std::ops::Range;

/// A page with those that it runs over into, or the one inside of a value.
#[derive(Default)]
pub(super) struct Page {
    pub(super) offset: u64,
    pub(super) id: u64,
    pub(super) kind: u16,
    pub(super) count: u16,
    pub(super) overflow: u32,
    pub(super) bytes: Vec<u8>,
}

impl Page {
    pub(super) fn bytes_of(&self, range: &Range<usize>) -> &[u8] {
        self.bytes.get(range.clone()).unwrap_or_default()
    }
}

/// A key and what is under it, as ranges of the page.
pub(super) struct Slot {
    /// Of its header, in the file.
    pub(super) at: u64,
    pub(super) key: Range<usize>,
    pub(super) value: Range<usize>,
    pub(super) value_len: u32,
    /// Of a leaf the flags, of a branch the number of the child.
    pub(super) word: u64,
}

pub(super) struct SlotHeader {
    pub(super) pos: u32,
    pub(super) key_len: u32,
    pub(super) value_len: u32,
    pub(super) word: u64,
}

impl SlotHeader {
    pub(super) fn parse(page: &Page, at: usize) -> Option<Self> {
        let number = |i: usize| u32_at(&page.bytes, at + 4 * i);
        Some(match page.kind {
            LEAF => {
                SlotHeader { word: number(0)?.into(), pos: number(1)?, key_len: number(2)?, value_len: number(3)? }
            }
            _ => SlotHeader {
                pos: number(0)?,
                key_len: number(1)?,
                word: u64_at(&page.bytes, at + 8)?,
                value_len: 0,
            },
        })
    }
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().copied().map(u32::from_le_bytes)
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().copied().map(u64::from_le_bytes)
}

pub(super) const PAGE_HEADER_LEN: usize = 16;
/// The header of a key, in branches and leaves.
pub(super) const SLOT_LEN: usize = 16;

pub(super) const BRANCH: u16 = 0x01;
pub(super) const LEAF: u16 = 0x02;
pub(super) const FREELIST: u16 = 0x10;
/// The flag of a key that holds a bucket.
pub(super) const BUCKET: u64 = 0x01;
