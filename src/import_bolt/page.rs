//! The layout of a bbolt page: its header, and the headers of the keys in it. Follows `page.go` of bbolt 1.3.
//!
//! Only decodes numbers; `pages.rs` checks them.

use super::source::Extent;

/// A page with its overflow pages, or the page inside the value of a small bucket.
#[derive(Default)]
pub(super) struct Page {
    /// Where the page begins in the file.
    pub(super) offset: u64,
    pub(super) id: u64,
    pub(super) kind: u16,
    pub(super) count: u16,
    /// How many pages after this one belong to it.
    pub(super) overflow: u32,
    /// With its overflow pages.
    pub(super) len: u64,
    /// Its first bytes, at least the headers of all keys.
    pub(super) bytes: Vec<u8>,
}

/// A key and its value.
pub(super) struct Slot {
    /// Where the header of the key is in the file.
    pub(super) offset: u64,
    pub(super) key: Vec<u8>,
    pub(super) value: Extent,
    /// In a leaf the flags of the key, in a branch the id of the child page.
    pub(super) flags_or_child: u64,
}

/// The header of a key.
pub(super) struct SlotHeader {
    /// Where the key is, counted from the start of this header.
    pub(super) pos: u32,
    pub(super) key_len: u32,
    pub(super) value_len: u32,
    pub(super) flags_or_child: u64,
}

impl SlotHeader {
    pub(super) fn parse(page: &Page, at: usize) -> Option<Self> {
        let number = |i: usize| u32_at(&page.bytes, at + 4 * i);
        Some(match page.kind {
            LEAF => SlotHeader {
                flags_or_child: number(0)?.into(),
                pos: number(1)?,
                key_len: number(2)?,
                value_len: number(3)?,
            },
            _ => SlotHeader {
                pos: number(0)?,
                key_len: number(1)?,
                flags_or_child: u64_at(&page.bytes, at + 8)?,
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
/// The length of a key's header, in branches and leaves.
pub(super) const SLOT_LEN: usize = 16;

pub(super) const BRANCH: u16 = 0x01;
pub(super) const LEAF: u16 = 0x02;
pub(super) const FREELIST: u16 = 0x10;
/// The flag of a key that holds a bucket.
pub(super) const BUCKET: u64 = 0x01;
