//! The two meta pages of a bbolt file: the newest one that checks says where everything else is.

use std::path::Path;

use super::page::{PAGE_HEADER_LEN, u64_at};
use super::source::Source;
use crate::format::header::MAGIC;
use crate::{Error, Result};

/// What the newest meta page says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Meta {
    /// Of the meta page, in the file.
    pub(super) offset: u64,
    pub(super) page_len: u64,
    /// The root page of the bucket of buckets.
    pub(super) root: u64,
    /// The page with the list of free pages, where it was written.
    pub(super) freelist: Option<u64>,
    /// No page has this number or a higher one.
    pub(super) high_water: u64,
    txid: u64,
    pub(super) other_is_damaged: bool,
}

/// Takes the newest of the meta pages that check. Transactions write them in turn, so a crash can damage one at most.
pub(super) fn read(path: &Path, source: &dyn Source) -> Result<Meta> {
    let len = source.len().map_err(|error| Error::io("read the length of", path, error))?;
    let first = sight(path, source, len, 0)?;
    let second = match first {
        Sight::Whole(meta) => sight(path, source, len, meta.page_len)?,
        _ => find_second(path, source, len)?,
    };
    let metas = [first, second];
    let whole = || metas.iter().filter_map(Sight::whole);
    let Some(newest) = whole().max_by_key(|meta| meta.txid) else {
        return Err(refusal(path, source, len, metas));
    };
    // The one at 0 tells where the other is, and that one must say the same.
    if whole().any(|meta| meta.page_len != newest.page_len) {
        return Err(Error::corrupt(path, 0, "its meta pages do not agree on the length of a page"));
    }
    Ok(Meta { other_is_damaged: whole().count() < metas.len(), ..newest })
}

/// What stands where a meta page may be.
#[derive(Clone, Copy)]
enum Sight {
    Whole(Meta),
    OtherVersion,
    OtherByteOrder,
    Damaged,
    Foreign,
}

impl Sight {
    fn whole(&self) -> Option<Meta> {
        if let Sight::Whole(meta) = self { Some(*meta) } else { None }
    }
}

/// Where the first one does not check, nothing says how long a page is: only one that agrees with its own place counts.
fn find_second(path: &Path, source: &dyn Source, len: u64) -> Result<Sight> {
    let mut best = Sight::Foreign;
    for page_len in (PAGE_LEN_LOG_MIN..PAGE_LEN_LOG_MAX).map(|log| 1 << log) {
        match sight(path, source, len, page_len)? {
            Sight::Whole(meta) if meta.page_len == page_len => return Ok(Sight::Whole(meta)),
            Sight::Whole(_) | Sight::Foreign => {}
            other => best = other,
        }
    }
    Ok(best)
}

fn sight(path: &Path, source: &dyn Source, len: u64, offset: u64) -> Result<Sight> {
    let mut page = [0; META_END];
    if offset.checked_add(META_END as u64).is_none_or(|end| end > len) {
        return Ok(Sight::Foreign);
    }
    source.read_exact_at(&mut page, offset).map_err(|error| Error::io("read", path, error))?;
    Ok(parse(&page, offset))
}

fn parse(page: &[u8; META_END], offset: u64) -> Sight {
    let (_, meta) = page.split_at(PAGE_HEADER_LEN);
    let number = |at| u64_at(meta, at).unwrap_or_default();
    let [m0, m1, m2, m3, v0, v1, v2, v3, p0, p1, p2, p3, ..] = *meta else { return Sight::Foreign };
    let magic = u32::from_le_bytes([m0, m1, m2, m3]);
    let version = u32::from_le_bytes([v0, v1, v2, v3]);
    let page_len = u32::from_le_bytes([p0, p1, p2, p3]);
    if magic == BOLT_MAGIC.swap_bytes() {
        return Sight::OtherByteOrder;
    }
    if magic != BOLT_MAGIC {
        return Sight::Foreign;
    }
    let (checked, _) = meta.split_at(CHECKSUM_AT);
    let checks = fnv1a(checked) == number(CHECKSUM_AT);
    if checks && version != VERSION {
        return Sight::OtherVersion;
    }
    let is_length = page_len.is_power_of_two() && (PAGE_LEN_LOG_MIN..PAGE_LEN_LOG_MAX).contains(&page_len.ilog2());
    if !checks || !is_length {
        return Sight::Damaged;
    }
    let freelist = number(FREELIST_AT);
    Sight::Whole(Meta {
        offset,
        page_len: page_len.into(),
        root: number(ROOT_AT),
        freelist: (freelist != NO_FREELIST).then_some(freelist),
        high_water: number(HIGH_WATER_AT),
        txid: number(TXID_AT),
        other_is_damaged: false,
    })
}

/// Why there is nothing to import.
fn refusal(path: &Path, source: &dyn Source, len: u64, metas: [Sight; 2]) -> Error {
    let foreign = |what| Error::NotAStore { path: path.to_path_buf(), what };
    let mut magic = [0; MAGIC.len()];
    if source.read_exact_at(&mut magic, 0).is_ok() && magic == MAGIC {
        let what = format!("{} is a store already and no bbolt file; open it as it is", path.display());
        return Error::Invalid { what };
    }
    if metas.iter().any(|sight| matches!(sight, Sight::OtherVersion)) {
        return foreign("a bbolt file of a version that this one cannot import");
    }
    if metas.iter().any(|sight| matches!(sight, Sight::OtherByteOrder)) {
        return foreign("a bbolt file of a machine with the other byte order, which cannot be imported");
    }
    if metas.iter().any(|sight| matches!(sight, Sight::Damaged)) {
        return Error::corrupt(path, 0, "neither of its meta pages checks");
    }
    foreign(if len == 0 { "an empty file" } else { "a file of another kind, and no bbolt file either" })
}

/// FNV-1a, 64 bits.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

const BOLT_MAGIC: u32 = 0xED0C_DAED;
const VERSION: u32 = 2;
/// A page number that means that the list was not written.
const NO_FREELIST: u64 = u64::MAX;

// Behind the page header: magic, version, length of a page, flags, then these.
const ROOT_AT: usize = 16;
const FREELIST_AT: usize = 32;
const HIGH_WATER_AT: usize = 40;
const TXID_AT: usize = 48;
const CHECKSUM_AT: usize = 56;
const META_END: usize = PAGE_HEADER_LEN + CHECKSUM_AT + 8;

/// The shortest page that a meta page fits, and one that no machine has.
const PAGE_LEN_LOG_MIN: u32 = 7;
const PAGE_LEN_LOG_MAX: u32 = 31;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_that_of_its_published_vectors() {
        for (text, hash) in
            [("", 0xcbf2_9ce4_8422_2325), ("a", 0xaf63_dc4c_8601_ec8c), ("foobar", 0x8594_4171_f739_67e8)]
        {
            assert_eq!(fnv1a(text.as_bytes()), hash, "{text}");
        }
    }

    #[test]
    fn of_a_source_only_what_is_there_is_read() {
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
