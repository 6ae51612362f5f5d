//! The two meta pages of a bbolt file. The newest one with a right checksum gives the page length, the root and
//! the freelist.
//!
//! Follows `db.go` of bbolt 1.3, little-endian. Reads no other pages.

use std::path::Path;

use super::corrupt;
use super::page::{PAGE_HEADER_LEN, u64_at};
use super::source::Source;
use crate::format::header::MAGIC;
use crate::{Error, Result};

/// A meta page with a right checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Meta {
    /// Where the meta page begins in the file.
    pub(super) offset: u64,
    pub(super) page_len: u64,
    /// The id of the root page of the root bucket, which holds the other buckets.
    pub(super) root: u64,
    /// The id of the page with the freelist. `None` if bbolt was told not to write one.
    pub(super) freelist: Option<u64>,
    /// All page ids are below this.
    pub(super) high_water: u64,
    /// Increases with every transaction.
    txid: u64,
    /// Whether the other meta page has a wrong checksum.
    pub(super) other_is_damaged: bool,
}

/// Returns the newest meta page with a right checksum. Transactions write the two in turn, so a crash damages at
/// most one.
pub(super) fn read(path: &Path, source: &dyn Source) -> Result<Meta> {
    let len = source.len().map_err(|error| Error::io("read the length of", path, error))?;
    let first = read_at(path, source, len, 0)?;
    let second = match first {
        ParsedMeta::Valid(meta) => read_at(path, source, len, meta.page_len)?,
        _ => find_second(path, source, len)?,
    };
    let metas = [first, second];
    let valid = || metas.iter().filter_map(ParsedMeta::valid);
    let Some(newest) = valid().max_by_key(|meta| meta.txid) else {
        return Err(refusal(path, source, len, metas));
    };
    // The page length of the first one determines where the second one is, and the second one must agree.
    if valid().any(|meta| meta.page_len != newest.page_len) {
        return Err(corrupt(path, 0, "the meta pages disagree on the page length"));
    }
    Ok(Meta { other_is_damaged: valid().count() < metas.len(), ..newest })
}

/// The result of parsing the bytes where a meta page may be.
#[derive(Clone, Copy)]
enum ParsedMeta {
    Valid(Meta),
    OtherVersion,
    OtherByteOrder,
    Damaged,
    NotBolt,
}

impl ParsedMeta {
    fn valid(&self) -> Option<Meta> {
        if let ParsedMeta::Valid(meta) = self { Some(*meta) } else { None }
    }
}

/// Looks for the second meta page if the first one is damaged, so that the page length is unknown: at each
/// possible page length, a meta page must give just that length.
fn find_second(path: &Path, source: &dyn Source, len: u64) -> Result<ParsedMeta> {
    let mut best = ParsedMeta::NotBolt;
    for page_len in (PAGE_LEN_LOG_MIN..PAGE_LEN_LOG_MAX).map(|log| 1 << log) {
        match read_at(path, source, len, page_len)? {
            ParsedMeta::Valid(meta) if meta.page_len == page_len => return Ok(ParsedMeta::Valid(meta)),
            ParsedMeta::Valid(_) | ParsedMeta::NotBolt => {}
            other => best = other,
        }
    }
    Ok(best)
}

fn read_at(path: &Path, source: &dyn Source, len: u64, offset: u64) -> Result<ParsedMeta> {
    let mut page = [0; META_END];
    if offset.checked_add(META_END as u64).is_none_or(|end| end > len) {
        return Ok(ParsedMeta::NotBolt);
    }
    source.read_exact_at(&mut page, offset).map_err(|error| Error::io("read", path, error))?;
    Ok(parse(&page, offset))
}

fn parse(page: &[u8; META_END], offset: u64) -> ParsedMeta {
    let (_, meta) = page.split_at(PAGE_HEADER_LEN);
    let number = |at| u64_at(meta, at).unwrap_or_default();
    let [m0, m1, m2, m3, v0, v1, v2, v3, p0, p1, p2, p3, ..] = *meta else { return ParsedMeta::NotBolt };
    let magic = u32::from_le_bytes([m0, m1, m2, m3]);
    let version = u32::from_le_bytes([v0, v1, v2, v3]);
    let page_len = u32::from_le_bytes([p0, p1, p2, p3]);
    if magic == BOLT_MAGIC.swap_bytes() {
        return ParsedMeta::OtherByteOrder;
    }
    if magic != BOLT_MAGIC {
        return ParsedMeta::NotBolt;
    }
    let (checked, _) = meta.split_at(CHECKSUM_AT);
    let checksum_is_right = fnv1a(checked) == number(CHECKSUM_AT);
    if checksum_is_right && version != VERSION {
        return ParsedMeta::OtherVersion;
    }
    let is_page_len =
        page_len.is_power_of_two() && (PAGE_LEN_LOG_MIN..PAGE_LEN_LOG_MAX).contains(&page_len.ilog2());
    if !checksum_is_right || !is_page_len {
        return ParsedMeta::Damaged;
    }
    let freelist = number(FREELIST_AT);
    ParsedMeta::Valid(Meta {
        offset,
        page_len: page_len.into(),
        root: number(ROOT_AT),
        freelist: (freelist != NO_FREELIST).then_some(freelist),
        high_water: number(HIGH_WATER_AT),
        txid: number(TXID_AT),
        other_is_damaged: false,
    })
}

/// Fails if the file is a store of this crate.
pub(super) fn refuse_store(path: &Path, source: &dyn Source) -> Result<()> {
    let mut magic = [0; MAGIC.len()];
    if source.read_exact_at(&mut magic, 0).is_ok() && magic == MAGIC {
        let what = format!("{} is already a store, not a bbolt file; open it directly", path.display());
        return Err(Error::Invalid { what });
    }
    Ok(())
}

/// The error for a file without a valid meta page.
fn refusal(path: &Path, source: &dyn Source, len: u64, metas: [ParsedMeta; 2]) -> Error {
    let foreign = |what| Error::NotAStore { path: path.to_path_buf(), what };
    if let Err(error) = refuse_store(path, source) {
        return error;
    }
    if metas.iter().any(|parsed| matches!(parsed, ParsedMeta::OtherVersion)) {
        return foreign("a bbolt file of a version that cannot be imported");
    }
    if metas.iter().any(|parsed| matches!(parsed, ParsedMeta::OtherByteOrder)) {
        return foreign("a bbolt file in big-endian byte order, which cannot be imported");
    }
    if metas.iter().any(|parsed| matches!(parsed, ParsedMeta::Damaged)) {
        return corrupt(path, 0, "neither meta page has a right checksum");
    }
    foreign(if len == 0 { "an empty file" } else { "a file of another kind, and not a bbolt file either" })
}

/// FNV-1a with 64 bits, the checksum of a meta page.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

const BOLT_MAGIC: u32 = 0xED0C_DAED;
const VERSION: u32 = 2;
/// The page id that means that no freelist was written.
const NO_FREELIST: u64 = u64::MAX;

// After the page header: magic, version, page length, flags, then these.
const ROOT_AT: usize = 16;
const FREELIST_AT: usize = 32;
const HIGH_WATER_AT: usize = 40;
const TXID_AT: usize = 48;
const CHECKSUM_AT: usize = 56;
const META_END: usize = PAGE_HEADER_LEN + CHECKSUM_AT + 8;

/// 128 bytes: the shortest page that holds a meta page.
const PAGE_LEN_LOG_MIN: u32 = 7;
/// 2 GiB: longer than a page of any machine.
const PAGE_LEN_LOG_MAX: u32 = 31;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_matches_published_vectors_of_fnv_1a() {
        for (text, hash) in
            [("", 0xcbf2_9ce4_8422_2325), ("a", 0xaf63_dc4c_8601_ec8c), ("foobar", 0x8594_4171_f739_67e8)]
        {
            assert_eq!(fnv1a(text.as_bytes()), hash, "{text}");
        }
    }

    #[test]
    fn reading_past_the_end_of_a_source_fails() {
        let bytes = &b"0123456789"[..];
        let read = |len, offset| {
            let mut buf = vec![0; len];
            bytes.read_exact_at(&mut buf, offset).map(|()| buf)
        };
        assert_eq!(read(4, 6).unwrap(), b"6789");
        assert_eq!(read(0, 10).unwrap(), b"");
        for (len, offset) in [(5, 6), (1, 10), (0, 11), (1, u64::MAX)] {
            assert!(read(len, offset).is_err(), "{len} at {offset}");
        }
    }
}
