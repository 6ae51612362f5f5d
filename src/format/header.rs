//! The header page: what kind of file this is, and what its keys are derived from.
//!
//! Parses and encodes the page. It has no key, so it never checks the authenticator: `log/header.rs` does.
//! Implements *Header* of FORMAT.md.

use super::base::{BASE_LEN, BASES_AT};
use super::mark::MARK_PAGE_LEN;
use super::{bytes_at, stray_byte};
use crate::crypto::keys::GenerationId;

pub(crate) const HEADER_PAGE_LEN: usize = 4096;
/// The first frame follows the header page and the mark page. A shorter file is damaged.
pub(crate) const FIRST_FRAME_AT: usize = HEADER_PAGE_LEN + MARK_PAGE_LEN;
const COPY_OFFSETS: [usize; 2] = [0, 2048];

// One copy of the header.
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

pub(crate) const MAGIC: [u8; 12] = *b"\x89BKPYLOG\r\n\x1a\n";
pub(crate) const VERSION: u16 = 2;
/// The log has a base record.
pub(crate) const HAS_BASE: u32 = 1;
const KNOWN_FLAGS: u32 = HAS_BASE;
/// Of the flags that it does not know, a reader may ignore these. A writer may not.
const WRITER_FLAGS: u32 = 0xFFFF_0000;

/// The length of what the authenticator covers.
pub(crate) const AUTHENTICATED_LEN: usize = AUTHENTICATOR_AT;

/// A header whose CRC is right. Its authenticator is not checked yet: that takes the agent key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) id: GenerationId,
    pub(crate) flags: u32,
    pub(crate) authenticated: [u8; AUTHENTICATED_LEN],
    pub(crate) authenticator: [u8; 32],
}

/// The result of parsing the header page.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ParsedHeaderPage {
    /// Neither copy has the magic.
    NotAStore,
    /// At least one copy has the magic, but the file ends before its first frame could begin. With the first copy
    /// that has a right CRC, if there is one.
    CutShort(Option<Header>),
    /// At least one copy has the magic, but no copy has the magic and a right CRC.
    Damaged,
    /// The first copy with a right CRC has a version, flags or reserved bytes that this crate does not know.
    Unsupported { version: u16, flags: u32 },
    /// The first copy with a right CRC.
    Valid(Header),
}

/// Parses the header page at the start of `pages`, the bytes before the first frame. They are fewer than
/// [`FIRST_FRAME_AT`] only if the file is shorter.
pub(crate) fn parse_page(pages: &[u8]) -> ParsedHeaderPage {
    if !has_magic(pages) {
        return ParsedHeaderPage::NotAStore;
    }
    let copies = || COPY_OFFSETS.iter().find_map(|&at| parse_copy(pages.get(at..)?));
    let is_short = pages.len() < FIRST_FRAME_AT;
    match copies() {
        Some(ParsedHeaderPage::Valid(header)) if is_short => ParsedHeaderPage::CutShort(Some(header)),
        None if is_short => ParsedHeaderPage::CutShort(None),
        // A log of another version may be shorter.
        parsed => parsed.unwrap_or(ParsedHeaderPage::Damaged),
    }
}

impl Header {
    pub(crate) fn has_base(&self) -> bool {
        self.flags & HAS_BASE != 0
    }
}

/// Whether a flag is set that a writer must know, and this one does not.
pub(crate) fn refuses_writers(flags: u32) -> bool {
    flags & WRITER_FLAGS & !KNOWN_FLAGS != 0
}

/// Lists what is wrong with a page that [`parse_page`] accepted, each fault with its offset: for `verify`. What is
/// wrong with its base record is up to `base.rs`.
pub(crate) fn copy_faults(page: &[u8]) -> Vec<(u64, &'static str)> {
    let copies = COPY_OFFSETS.map(|at| page.get(at..at + COPY_LEN).unwrap_or_default());
    let mut found = Vec::new();
    for (at, copy) in COPY_OFFSETS.into_iter().zip(copies) {
        if parse_copy(copy).is_none() {
            found.push((at as u64, "a copy of the header is damaged"));
        }
    }
    if found.is_empty() && copies[0] != copies[1] {
        found.push((COPY_OFFSETS[1] as u64, "the header copies differ"));
    }
    let copies = COPY_OFFSETS.map(|at| at..at + COPY_LEN);
    let has_base = matches!(parse_page(page), ParsedHeaderPage::Valid(header) if header.has_base());
    let bases = BASES_AT.map(|at| if has_base { at..at + BASE_LEN } else { at..at });
    let used = [copies, bases].concat();
    if let Some(at) = stray_byte(page.get(..HEADER_PAGE_LEN).unwrap_or(page), &used) {
        found.push((at as u64, "the header page has non-zero bytes that belong to nothing"));
    }
    found
}

/// Where no copy of the header has a right CRC: every header that can be put together from both copies, each field
/// from one of them. The right one is the one whose authenticator fits the agent key.
pub(crate) fn candidates(page: &[u8]) -> impl Iterator<Item = Header> {
    // Bit `number` of `choice` says which copy the field is taken from. The last bit is the flags, since all that
    // this version knows is one.
    let field = |choice: u8, number: u8, at| {
        let copy = COPY_OFFSETS.get(usize::from(choice >> number & 1));
        copy.map(|copy| copy + at)
    };
    // A file that ends before its first frame could begin has none, so no header is worth recovering.
    let choices = if page.len() < FIRST_FRAME_AT { 0..0 } else { 0..32 };
    choices.filter_map(move |choice| {
        let id = GenerationId {
            generation: u64::from_le_bytes(bytes_at(page, field(choice, 0, GENERATION_AT)?)?),
            store_id: bytes_at(page, field(choice, 1, STORE_ID_AT)?)?,
            salt: bytes_at(page, field(choice, 2, SALT_AT)?)?,
        };
        let authenticator = bytes_at(page, field(choice, 3, AUTHENTICATOR_AT)?)?;
        let flags = if choice >> 4 & 1 == 0 { 0 } else { HAS_BASE };
        Some(Header { id, flags, authenticated: encode_authenticated(&id, flags), authenticator })
    })
}

/// Encodes what precedes the first frame of a new log: both copies, and zeros. `authenticator` is that of
/// `authenticated`.
#[allow(clippy::indexing_slicing, reason = "fixed offsets in a buffer of two pages")]
pub(crate) fn encode_pages(authenticated: &[u8; AUTHENTICATED_LEN], authenticator: &[u8; 32]) -> Vec<u8> {
    let mut page = vec![0; FIRST_FRAME_AT];
    for at in COPY_OFFSETS {
        let copy = &mut page[at..at + COPY_LEN];
        copy[..AUTHENTICATOR_AT].copy_from_slice(authenticated);
        copy[AUTHENTICATOR_AT..CRC_AT].copy_from_slice(authenticator);
        let crc = crc32fast::hash(&copy[..CRC_AT]);
        copy[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
    }
    page
}

/// Encodes the bytes that the authenticator covers.
#[allow(clippy::indexing_slicing, reason = "fixed offsets in a buffer of 80 bytes")]
pub(crate) fn encode_authenticated(id: &GenerationId, flags: u32) -> [u8; AUTHENTICATED_LEN] {
    let mut bytes = [0; AUTHENTICATED_LEN];
    bytes[MAGIC_AT..VERSION_AT].copy_from_slice(&MAGIC);
    bytes[VERSION_AT..ZERO_16_AT].copy_from_slice(&VERSION.to_le_bytes());
    bytes[FLAGS_AT..ZERO_32_AT].copy_from_slice(&flags.to_le_bytes());
    bytes[GENERATION_AT..STORE_ID_AT].copy_from_slice(&id.generation.to_le_bytes());
    bytes[STORE_ID_AT..SALT_AT].copy_from_slice(&id.store_id);
    bytes[SALT_AT..AUTHENTICATOR_AT].copy_from_slice(&id.salt);
    bytes
}

/// Returns `None` if the magic or the CRC is wrong.
fn parse_copy(copy: &[u8]) -> Option<ParsedHeaderPage> {
    let crc = u32::from_le_bytes(bytes_at(copy, CRC_AT)?);
    if bytes_at(copy, MAGIC_AT) != Some(MAGIC) || crc != crc32fast::hash(copy.get(..CRC_AT)?) {
        return None;
    }
    let version = u16::from_le_bytes(bytes_at(copy, VERSION_AT)?);
    let flags = u32::from_le_bytes(bytes_at(copy, FLAGS_AT)?);
    let generation = u64::from_le_bytes(bytes_at(copy, GENERATION_AT)?);
    let zeros = bytes_at(copy, ZERO_16_AT) == Some([0; 2]) && bytes_at(copy, ZERO_32_AT) == Some([0; 4]);
    if version != VERSION || flags & !(KNOWN_FLAGS | WRITER_FLAGS) != 0 || !zeros || generation == 0 {
        return Some(ParsedHeaderPage::Unsupported { version, flags });
    }
    Some(ParsedHeaderPage::Valid(Header {
        id: GenerationId { generation, store_id: bytes_at(copy, STORE_ID_AT)?, salt: bytes_at(copy, SALT_AT)? },
        flags,
        authenticated: bytes_at(copy, 0)?,
        authenticator: bytes_at(copy, AUTHENTICATOR_AT)?,
    }))
}

/// Whether one of the copies has the magic.
pub(crate) fn has_magic(page: &[u8]) -> bool {
    COPY_OFFSETS.iter().any(|&at| bytes_at(page, at + MAGIC_AT) == Some(MAGIC))
}

/// Says for an error message what a file without the magic is.
pub(crate) fn describe_foreign(page: &[u8]) -> &'static str {
    // bbolt: the meta page's magic follows a page header of 16 bytes, in the byte order of the machine that wrote
    // it.
    const BBOLT_MAGIC: [u8; 4] = 0xED0C_DAED_u32.to_le_bytes();
    let mut swapped = BBOLT_MAGIC;
    swapped.reverse();
    match bytes_at(page, 16) {
        _ if page.is_empty() => "an empty file",
        Some(magic) if magic == BBOLT_MAGIC || magic == swapped => {
            "a bbolt file, which `backupy-state import FILE` or `import_bolt` imports into a new store"
        }
        _ => "a file of another kind",
    }
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, reason = "fixed offsets in a page that the tests make")]
mod tests {
    use super::*;

    const ID: GenerationId = GenerationId { generation: 3, store_id: [0x51; 16], salt: [0xA7; 32] };
    const AUTHENTICATOR: [u8; 32] = [0x3C; 32];

    fn page() -> Vec<u8> {
        encode_pages(&encode_authenticated(&ID, HAS_BASE), &AUTHENTICATOR)
    }

    /// Changes one byte of a copy and fixes its CRC.
    fn forge(page: &mut [u8], copy: usize, at: usize, byte: u8) {
        page[copy + at] = byte;
        let crc = crc32fast::hash(&page[copy..copy + CRC_AT]);
        page[copy + CRC_AT..copy + COPY_LEN].copy_from_slice(&crc.to_le_bytes());
    }

    #[test]
    fn an_encoded_page_parses_to_the_same_header() {
        let page = page();
        assert_eq!(page.len(), FIRST_FRAME_AT);
        assert_eq!(copy_faults(&page), []);
        let authenticated = encode_authenticated(&ID, HAS_BASE);
        let header = Header { id: ID, flags: HAS_BASE, authenticated, authenticator: AUTHENTICATOR };
        assert_eq!(parse_page(&page), ParsedHeaderPage::Valid(header));
    }

    #[test]
    fn one_good_copy_is_enough_and_the_other_is_a_fault() {
        let whole = parse_page(&page());
        for copy in COPY_OFFSETS {
            for at in 0..COPY_LEN {
                let mut page = page();
                page[copy + at] ^= 0x10;
                assert_eq!(parse_page(&page), whole, "byte {at} of the copy at {copy}");
                assert_eq!(copy_faults(&page), [(copy as u64, "a copy of the header is damaged")]);
            }
        }
    }

    #[test]
    fn copies_that_differ_and_bytes_outside_them_are_faults() {
        let mut page = page();
        forge(&mut page, 2048, STORE_ID_AT, 0);
        page[COPY_LEN] = 1;
        let differ = (2048, "the header copies differ");
        let not_zero = |at| (at, "the header page has non-zero bytes that belong to nothing");
        assert_eq!(copy_faults(&page), [differ, not_zero(COPY_LEN as u64)]);
    }

    #[test]
    fn the_place_of_the_base_record_is_zero_in_a_log_without_one() {
        let not_zero = |at| (at, "the header page has non-zero bytes that belong to nothing");
        for (flags, first_fault) in [(0, 1024), (HAS_BASE, 1024 + BASE_LEN as u64)] {
            let mut page = encode_pages(&encode_authenticated(&ID, flags), &AUTHENTICATOR);
            page[1024..=1024 + BASE_LEN].fill(1);
            assert_eq!(copy_faults(&page), [not_zero(first_fault)]);
        }
    }

    #[test]
    fn a_page_without_the_magic_in_either_copy_is_not_a_store() {
        let mut page = page();
        page[0] = 0;
        page[2048] = 0;
        for page in [&[][..], &[0; 11], &[0; FIRST_FRAME_AT], &page] {
            assert_eq!(parse_page(page), ParsedHeaderPage::NotAStore);
        }
    }

    #[test]
    fn the_magic_without_both_pages_or_a_right_crc_is_damage() {
        let page = page();
        let ParsedHeaderPage::Valid(whole) = parse_page(&page) else { panic!("a valid page is refused") };
        for len in MAGIC.len()..FIRST_FRAME_AT {
            let header = (len >= COPY_LEN).then_some(whole);
            assert_eq!(parse_page(&page[..len]), ParsedHeaderPage::CutShort(header), "{len} bytes");
        }
        let mut both = page;
        both[CRC_AT] ^= 1;
        both[2048 + SALT_AT] ^= 1;
        assert_eq!(parse_page(&both), ParsedHeaderPage::Damaged);
        both[0] = 0;
        assert_eq!(parse_page(&both), ParsedHeaderPage::Damaged);
    }

    #[test]
    fn the_first_copy_with_a_right_crc_decides_what_is_unsupported() {
        let reserved = [ZERO_16_AT, ZERO_16_AT + 1, ZERO_32_AT, ZERO_32_AT + 3];
        let rows = [
            (VERSION_AT, 1, 1, HAS_BASE),
            (VERSION_AT, 3, 3, HAS_BASE),
            (FLAGS_AT, 2, 2, 2),
            (FLAGS_AT + 1, 0x80, 2, HAS_BASE | 0x8000),
            (GENERATION_AT, 0, 2, HAS_BASE),
        ];
        let rows = rows.into_iter().chain(reserved.map(|at| (at, 1, 2, HAS_BASE)));
        for (at, byte, version, flags) in rows {
            let mut page = page();
            forge(&mut page, 0, at, byte);
            assert_eq!(parse_page(&page), ParsedHeaderPage::Unsupported { version, flags }, "byte {at}");
            assert_eq!(parse_page(&page[..HEADER_PAGE_LEN]), ParsedHeaderPage::Unsupported { version, flags });
            page[CRC_AT] ^= 1;
            assert!(matches!(parse_page(&page), ParsedHeaderPage::Valid(_)), "byte {at}");
        }
        let mut page = page();
        forge(&mut page, 2048, VERSION_AT, 3);
        assert!(matches!(parse_page(&page), ParsedHeaderPage::Valid(_)));
    }

    #[test]
    fn a_reader_ignores_the_flags_that_only_writers_must_know() {
        for at in [FLAGS_AT + 2, FLAGS_AT + 3] {
            let mut page = page();
            forge(&mut page, 0, at, 0x81);
            let ParsedHeaderPage::Valid(header) = parse_page(&page) else { panic!("byte {at} is refused") };
            assert!(header.has_base() && refuses_writers(header.flags));
        }
        let ParsedHeaderPage::Valid(header) = parse_page(&page()) else { panic!("a valid page is refused") };
        assert!(header.has_base() && !refuses_writers(header.flags));
    }

    #[test]
    fn a_file_that_is_not_a_store_is_described() {
        let mut bolt = [0; 64];
        bolt[16..20].copy_from_slice(&0xED0C_DAED_u32.to_le_bytes());
        assert!(describe_foreign(&bolt).starts_with("a bbolt file, which `backupy-state import FILE`"));
        bolt[16..20].reverse();
        assert!(describe_foreign(&bolt).starts_with("a bbolt file, which `backupy-state import FILE`"));
        assert_eq!(describe_foreign(&[]), "an empty file");
        assert_eq!(describe_foreign(b"text"), "a file of another kind");
    }
}
