//! The base record: where the part of a log that was made whole ends, and from what it was made.
//!
//! Parses and encodes its two copies in the header page. It has no key, so it never checks the MAC:
//! `log/header.rs` does. Implements *Base record* of FORMAT.md.

use super::header::HEADER_PAGE_LEN;
use super::position::{LogPosition, POSITION_LEN};
use super::{SaltedCrc, bytes_at};
use crate::crypto::Tag;

/// Where the copies begin in the header page.
pub(crate) const BASES_AT: [usize; 2] = [1024, 3072];

// One copy.
const CRC_AT: usize = 0;
const ZERO_AT: usize = 4;
const POSITION_AT: usize = 8;
const GENERATION_AT: usize = POSITION_AT + POSITION_LEN;
const SEQ_AT: usize = GENERATION_AT + 8;
const TAG_AT: usize = SEQ_AT + 8;
const MAC_AT: usize = TAG_AT + 16;
const MAC_LEN: usize = 32;
pub(crate) const BASE_LEN: usize = MAC_AT + MAC_LEN;
/// What the MAC covers, besides the header.
pub(crate) const AUTHENTICATED_LEN: usize = MAC_AT - POSITION_AT;

/// The base of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Base {
    /// After the close frame that ends it.
    pub(crate) position: LogPosition,
    pub(crate) origin: Origin,
}

/// The last frame of the log that a base was made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) generation: u64,
    /// 0 if the log had no frame. Then the tag is what its first frame would have been chained to.
    pub(crate) seq: u64,
    pub(crate) tag: Tag,
}

impl Origin {
    pub(crate) fn new(generation: u64, tip: LogPosition) -> Self {
        Origin { generation, seq: tip.seq, tag: tip.chain }
    }
}

/// One copy of the base record whose CRC is right. Its MAC is not checked yet: that takes the agent key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BaseCopy {
    /// `None` if no frame can be there, or bytes are not zero that must be.
    pub(crate) base: Option<Base>,
    /// The bytes that the MAC covers, besides the header.
    pub(crate) authenticated: [u8; AUTHENTICATED_LEN],
    pub(crate) mac: [u8; MAC_LEN],
}

/// The copies in a header page whose CRC is right, in order.
pub(crate) fn parse_copies<'a>(page: &'a [u8], crc: &'a SaltedCrc) -> impl Iterator<Item = BaseCopy> + 'a {
    BASES_AT.into_iter().filter_map(|at| parse_copy(page.get(at..)?.first_chunk()?, crc))
}

/// Lists the copies that do not check, each with its offset: for `verify`.
pub(crate) fn copy_faults(page: &[u8], crc: &SaltedCrc) -> Vec<(u64, &'static str)> {
    let copies = BASES_AT.map(|at| page.get(at..at + BASE_LEN).unwrap_or_default());
    let mut found = Vec::new();
    for (at, copy) in BASES_AT.into_iter().zip(copies) {
        let parsed = copy.first_chunk().and_then(|copy| parse_copy(copy, crc));
        if parsed.is_none_or(|copy| copy.base.is_none()) {
            found.push((at as u64, "a copy of the base record is damaged"));
        }
    }
    if found.is_empty() && copies[0] != copies[1] {
        found.push((BASES_AT[1] as u64, "the copies of the base record differ"));
    }
    found
}

fn parse_copy(copy: &[u8; BASE_LEN], crc: &SaltedCrc) -> Option<BaseCopy> {
    let stored = u32::from_le_bytes(bytes_at(copy, CRC_AT)?);
    if stored != crc.of(copy.get(ZERO_AT..)?) {
        return None;
    }
    let origin = Origin {
        generation: u64::from_le_bytes(bytes_at(copy, GENERATION_AT)?),
        seq: u64::from_le_bytes(bytes_at(copy, SEQ_AT)?),
        tag: bytes_at(copy, TAG_AT)?,
    };
    let has_zeros = bytes_at(copy, ZERO_AT) == Some([0; 4]);
    let position = LogPosition::parse(&bytes_at(copy, POSITION_AT)?).filter(|_| has_zeros);
    let base = position.map(|position| Base { position, origin });
    Some(BaseCopy { base, authenticated: bytes_at(copy, POSITION_AT)?, mac: bytes_at(copy, MAC_AT)? })
}

/// Encodes the base record. `mac` is that of the header and of the bytes that it gets.
pub(crate) fn encode(
    Base { position, origin }: &Base,
    crc: &SaltedCrc,
    mac: impl FnOnce(&[u8; AUTHENTICATED_LEN]) -> [u8; MAC_LEN],
) -> [u8; BASE_LEN] {
    let mut authenticated = [0; AUTHENTICATED_LEN];
    authenticated[..POSITION_LEN].copy_from_slice(&position.encode());
    authenticated[GENERATION_AT - POSITION_AT..SEQ_AT - POSITION_AT]
        .copy_from_slice(&origin.generation.to_le_bytes());
    authenticated[SEQ_AT - POSITION_AT..TAG_AT - POSITION_AT].copy_from_slice(&origin.seq.to_le_bytes());
    authenticated[TAG_AT - POSITION_AT..].copy_from_slice(&origin.tag);
    let mut copy = [0; BASE_LEN];
    copy[POSITION_AT..MAC_AT].copy_from_slice(&authenticated);
    copy[MAC_AT..].copy_from_slice(&mac(&authenticated));
    let crc = crc.of(&copy[ZERO_AT..]);
    copy[CRC_AT..ZERO_AT].copy_from_slice(&crc.to_le_bytes());
    copy
}

const _: () = assert!(BASES_AT[1] + BASE_LEN <= HEADER_PAGE_LEN);

#[cfg(test)]
#[allow(clippy::indexing_slicing, reason = "fixed offsets in a page that the tests make")]
mod tests {
    use super::*;

    const POSITION: LogPosition = LogPosition { end: 8192 + 320, seq: 5, chain: [0x3C; 16] };
    const BASE: Base = Base { position: POSITION, origin: Origin { generation: 6, seq: 77, tag: [0x1D; 16] } };

    fn crc() -> SaltedCrc {
        SaltedCrc::new(&[0x77; 32])
    }

    fn page() -> Vec<u8> {
        let mut page = vec![0; HEADER_PAGE_LEN];
        let copy = encode(&BASE, &crc(), |_| [0x99; 32]);
        BASES_AT.iter().for_each(|&at| page[at..at + BASE_LEN].copy_from_slice(&copy));
        page
    }

    fn bases(page: &[u8]) -> Vec<Option<Base>> {
        parse_copies(page, &crc()).map(|copy| copy.base).collect()
    }

    #[test]
    fn both_copies_parse_to_what_was_encoded() {
        let page = page();
        let authenticated = page[1032..1096].try_into().unwrap();
        let expected = BaseCopy { base: Some(BASE), authenticated, mac: [0x99; 32] };
        assert!(parse_copies(&page, &crc()).eq([expected; 2]));
        assert_eq!(copy_faults(&page, &crc()), []);
        assert_eq!(bases(&vec![0; HEADER_PAGE_LEN]), []);
    }

    #[test]
    fn a_changed_bit_costs_one_copy_and_is_a_fault() {
        for (at, bit) in BASES_AT.into_iter().flat_map(|at| (0..BASE_LEN * 8).map(move |bit| (at, bit))) {
            let mut page = page();
            page[at + bit / 8] ^= 1 << (bit % 8);
            assert_eq!(bases(&page), [Some(BASE)]);
            assert_eq!(copy_faults(&page, &crc()), [(at as u64, "a copy of the base record is damaged")]);
        }
    }

    #[test]
    fn a_right_crc_over_a_malformed_copy_still_counts_as_right() {
        for changed in [4, 7, 8 + 8] {
            let mut page = page();
            page[1024 + changed] = 1;
            let right = crc().of(&page[1024 + 4..1024 + BASE_LEN]);
            page[1024..1028].copy_from_slice(&right.to_le_bytes());
            assert_eq!(bases(&page), [None, Some(BASE)], "byte {changed}");
            assert_eq!(copy_faults(&page, &crc()), [(1024, "a copy of the base record is damaged")]);
        }
    }

    #[test]
    fn copies_that_differ_are_a_fault() {
        let mut page = page();
        let other = Base { position: LogPosition { seq: 4, ..POSITION }, ..BASE };
        let other = encode(&other, &crc(), |_| [0x99; 32]);
        page[3072..3072 + BASE_LEN].copy_from_slice(&other);
        assert_eq!(copy_faults(&page, &crc()), [(3072, "the copies of the base record differ")]);
    }
}
