//! The header page: who wrote the log and what its keys are derived from. Implements *Header* of FORMAT.md.

use super::bytes_at;
use crate::seal::GenerationId;

pub(crate) const HEADER_PAGE_LEN: usize = 4096;
const COPY_OFFSETS: [usize; 2] = [0, 2048];

// One copy, as a ladder of offsets.
const MAGIC_AT: usize = 0;
const VERSION_AT: usize = 12;
const ZERO_16_AT: usize = 14;
const FLAGS_AT: usize = 16;
const ZERO_32_AT: usize = 20;
const GENERATION_AT: usize = 24;
const STORE_ID_AT: usize = 32;
const SALT_AT: usize = 48;
const AUTHENTICATOR_AT: usize = 80;
const CRC_AT: usize = 112;
const COPY_LEN: usize = 116;

const MAGIC: [u8; 12] = *b"\x89BKPYLOG\r\n\x1a\n";
const VERSION: u16 = 1;
const KNOWN_FLAGS: u32 = 0;

/// The bytes that the authenticator covers.
pub(crate) const AUTHENTICATED_LEN: usize = AUTHENTICATOR_AT;

/// A header whose CRC is right; whether the key is, only its authenticator tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) id: GenerationId,
    pub(crate) authenticated: [u8; AUTHENTICATED_LEN],
    pub(crate) authenticator: [u8; 32],
}

/// What the first bytes of a file are.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum HeaderSight {
    /// The magic is in neither copy.
    Foreign,
    /// The magic is there, but no copy checks.
    Damaged,
    /// A copy checks, and says what this version cannot read.
    Unsupported {
        version: u16,
        flags: u32,
    },
    Whole(Header),
}

/// Looks at the first page, or at less if the file is shorter.
pub(crate) fn parse_page(page: &[u8]) -> HeaderSight {
    if !COPY_OFFSETS.iter().any(|&at| bytes_at(page, at + MAGIC_AT) == Some(MAGIC)) {
        return HeaderSight::Foreign;
    }
    if page.len() < HEADER_PAGE_LEN {
        return HeaderSight::Damaged;
    }
    COPY_OFFSETS.iter().find_map(|&at| parse_copy(page.get(at..)?)).unwrap_or(HeaderSight::Damaged)
}

/// What is wrong with a page that `parse_page` found whole: with its offset, for `verify`.
pub(crate) fn blemishes(page: &[u8]) -> Vec<(u64, &'static str)> {
    let copies = COPY_OFFSETS.map(|at| page.get(at..at + COPY_LEN).unwrap_or_default());
    let mut found = Vec::new();
    for (at, copy) in COPY_OFFSETS.into_iter().zip(copies) {
        if parse_copy(copy).is_none() {
            found.push((at as u64, "a header copy does not check"));
        }
    }
    if found.is_empty() && copies[0] != copies[1] {
        found.push((COPY_OFFSETS[1] as u64, "the header copies differ"));
    }
    let is_rest = |at: usize| COPY_OFFSETS.iter().all(|&copy| !(copy..copy + COPY_LEN).contains(&at));
    if let Some((at, _)) = page.iter().enumerate().find(|&(at, &byte)| byte != 0 && is_rest(at)) {
        found.push((at as u64, "the rest of the header page is not zero"));
    }
    found
}

/// The whole page, given the authenticator of `authenticated`.
#[allow(clippy::indexing_slicing, reason = "fixed offsets in a buffer of a page")]
pub(crate) fn encode_page(authenticated: &[u8; AUTHENTICATED_LEN], authenticator: &[u8; 32]) -> Vec<u8> {
    let mut page = vec![0; HEADER_PAGE_LEN];
    for at in COPY_OFFSETS {
        let copy = &mut page[at..at + COPY_LEN];
        copy[..AUTHENTICATOR_AT].copy_from_slice(authenticated);
        copy[AUTHENTICATOR_AT..CRC_AT].copy_from_slice(authenticator);
        let crc = crc32fast::hash(&copy[..CRC_AT]);
        copy[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
    }
    page
}

/// The bytes that the authenticator covers.
#[allow(clippy::indexing_slicing, reason = "fixed offsets in a buffer of 80 bytes")]
pub(crate) fn encode_authenticated(id: &GenerationId) -> [u8; AUTHENTICATED_LEN] {
    let mut bytes = [0; AUTHENTICATED_LEN];
    bytes[MAGIC_AT..VERSION_AT].copy_from_slice(&MAGIC);
    bytes[VERSION_AT..ZERO_16_AT].copy_from_slice(&VERSION.to_le_bytes());
    bytes[GENERATION_AT..STORE_ID_AT].copy_from_slice(&id.generation.to_le_bytes());
    bytes[STORE_ID_AT..SALT_AT].copy_from_slice(&id.store_id);
    bytes[SALT_AT..AUTHENTICATOR_AT].copy_from_slice(&id.salt);
    bytes
}

/// `None` where the magic or the CRC is wrong.
fn parse_copy(copy: &[u8]) -> Option<HeaderSight> {
    let crc = u32::from_le_bytes(bytes_at(copy, CRC_AT)?);
    if bytes_at(copy, MAGIC_AT) != Some(MAGIC) || crc != crc32fast::hash(copy.get(..CRC_AT)?) {
        return None;
    }
    let version = u16::from_le_bytes(bytes_at(copy, VERSION_AT)?);
    let flags = u32::from_le_bytes(bytes_at(copy, FLAGS_AT)?);
    let generation = u64::from_le_bytes(bytes_at(copy, GENERATION_AT)?);
    let zeros = bytes_at(copy, ZERO_16_AT) == Some([0; 2]) && bytes_at(copy, ZERO_32_AT) == Some([0; 4]);
    if version != VERSION || flags & !KNOWN_FLAGS != 0 || !zeros || generation == 0 {
        return Some(HeaderSight::Unsupported { version, flags });
    }
    Some(HeaderSight::Whole(Header {
        id: GenerationId { generation, store_id: bytes_at(copy, STORE_ID_AT)?, salt: bytes_at(copy, SALT_AT)? },
        authenticated: bytes_at(copy, 0)?,
        authenticator: bytes_at(copy, AUTHENTICATOR_AT)?,
    }))
}

/// Names a foreign file for the error message.
pub(crate) fn describe_foreign(page: &[u8]) -> &'static str {
    // bbolt: a 16-byte page header, then the meta page's magic, in the byte order of the machine.
    const BBOLT_MAGIC: [u8; 4] = 0xED0C_DAED_u32.to_le_bytes();
    let mut swapped = BBOLT_MAGIC;
    swapped.reverse();
    match bytes_at(page, 16) {
        _ if page.is_empty() => "an empty file",
        Some(magic) if magic == BBOLT_MAGIC || magic == swapped => "a bbolt file",
        _ => "a file of another kind",
    }
}
