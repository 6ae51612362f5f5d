//! The mark page: up to which frame the log was durable when it was last noted.
//!
//! Parses and encodes its two slots. When a mark is written is up to `log/marks.rs`, and what it proves to
//! `log/scan`. Implements *Mark page* of FORMAT.md.

use super::header::HEADER_PAGE_LEN;
use super::position::{LogPosition, POSITION_LEN};
use super::{SaltedCrc, bytes_at};

pub(crate) const MARK_PAGE_LEN: usize = 4096;
/// Where the page begins in the file.
pub(crate) const MARK_PAGE_AT: u64 = HEADER_PAGE_LEN as u64;
/// Where the slots begin in the page: in different sectors.
const SLOT_A_AT: usize = 0;
const SLOT_B_AT: usize = 2048;
const SLOTS_AT: [usize; 2] = [SLOT_A_AT, SLOT_B_AT];

// A slot.
const CRC_AT: usize = 0;
const ZERO_AT: usize = 4;
const POSITION_AT: usize = 8;
pub(crate) const SLOT_LEN: usize = POSITION_AT + POSITION_LEN;

/// A mark, and the slot that it is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    /// After a frame that was durable when the mark was written.
    pub(crate) position: LogPosition,
    slot_at: usize,
}

impl Mark {
    /// The mark that is to follow `last`: it goes to the other slot, so that a torn write leaves one of them.
    pub(crate) fn after(last: Option<Mark>, position: LogPosition) -> Self {
        let is_in_a = last.is_some_and(|last| last.slot_at == SLOT_A_AT);
        Mark { position, slot_at: if is_in_a { SLOT_B_AT } else { SLOT_A_AT } }
    }

    /// Where its slot begins in the file.
    pub(crate) fn offset(&self) -> u64 {
        MARK_PAGE_AT + self.slot_at as u64
    }

    pub(crate) fn encode(&self, crc: &SaltedCrc) -> [u8; SLOT_LEN] {
        let mut slot = [0; SLOT_LEN];
        slot[POSITION_AT..].copy_from_slice(&self.position.encode());
        let crc = crc.of(&slot[ZERO_AT..]);
        slot[CRC_AT..ZERO_AT].copy_from_slice(&crc.to_le_bytes());
        slot
    }
}

/// The mark of a mark page: of the slots that check, the one with the greater seq, and slot A of equal ones.
pub(crate) fn parse_page(page: &[u8], crc: &SaltedCrc) -> Option<Mark> {
    let [a, b] =
        SLOTS_AT.map(|slot_at| Some(Mark { position: parse_slot(slot_bytes(page, slot_at)?, crc)?, slot_at }));
    match (a, b) {
        (Some(a), Some(b)) => Some(if b.position.seq > a.position.seq { b } else { a }),
        (a, b) => a.or(b),
    }
}

/// How many slots hold something that is no mark. A power cut leaves one if it tears the write.
pub(crate) fn count_torn(page: &[u8], crc: &SaltedCrc) -> u64 {
    let slots = SLOTS_AT.iter().filter_map(|&at| slot_bytes(page, at));
    slots.filter(|slot| **slot != [0; SLOT_LEN] && parse_slot(slot, crc).is_none()).count() as u64
}

/// Where the file has a byte that neither a writer nor a torn write leaves: one that is not zero and not in the
/// sector of a slot.
pub(crate) fn stray_byte(page: &[u8]) -> Option<u64> {
    let sectors = SLOTS_AT.map(|at| at..at + SECTOR_LEN);
    super::stray_byte(page, &sectors).map(|at| MARK_PAGE_AT + at as u64)
}

/// What a disk writes whole or not at all.
const SECTOR_LEN: usize = 512;

fn slot_bytes(page: &[u8], at: usize) -> Option<&[u8; SLOT_LEN]> {
    page.get(at..)?.first_chunk()
}

fn parse_slot(slot: &[u8; SLOT_LEN], crc: &SaltedCrc) -> Option<LogPosition> {
    let stored = u32::from_le_bytes(bytes_at(slot, CRC_AT)?);
    let checks = stored == crc.of(slot.get(ZERO_AT..)?) && bytes_at(slot, ZERO_AT) == Some([0; 4]);
    // A slot of zeros does not check: its seq is 0.
    if checks { LogPosition::parse(&bytes_at(slot, POSITION_AT)?) } else { None }
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, reason = "fixed offsets in a page that the tests make")]
mod tests {
    use super::*;

    fn crc() -> SaltedCrc {
        SaltedCrc::new(&[0x77; 32])
    }

    fn position(seq: u64) -> LogPosition {
        LogPosition { end: 8192 + 64 * seq, seq, chain: [0x3C; 16] }
    }

    /// A page with a mark of each seq, in order.
    fn page(seqs: &[u64]) -> (Vec<u8>, Option<Mark>) {
        let mut page = vec![0; MARK_PAGE_LEN];
        let mut last = None;
        for &seq in seqs {
            let mark = Mark::after(last, position(seq));
            let at = mark.slot_at;
            page[at..at + SLOT_LEN].copy_from_slice(&mark.encode(&crc()));
            last = Some(mark);
        }
        (page, last)
    }

    #[test]
    fn the_last_mark_counts_and_the_one_before_it_is_kept() {
        assert_eq!(parse_page(&page(&[]).0, &crc()), None);
        for seqs in [&[1][..], &[1, 2], &[1, 2, 7], &[1, 2, 7, 9]] {
            let (page, last) = page(seqs);
            assert_eq!(parse_page(&page, &crc()), last, "{seqs:?}");
            assert_eq!(count_torn(&page, &crc()), 0);
        }
        let (mut page, _) = page(&[3, 5]);
        page[SLOTS_AT[1] + 20] ^= 1;
        assert_eq!(parse_page(&page, &crc()).unwrap().position, position(3));
        assert_eq!(count_torn(&page, &crc()), 1);
    }

    #[test]
    fn of_two_marks_of_one_seq_the_first_slot_counts() {
        let (mut page, _) = page(&[5, 5]);
        assert_eq!(parse_page(&page, &crc()).unwrap().offset(), MARK_PAGE_AT);
        page[..SLOT_LEN].fill(0);
        assert_eq!(parse_page(&page, &crc()).unwrap().offset(), MARK_PAGE_AT + 2048);
    }

    #[test]
    fn a_slot_with_a_changed_bit_or_under_another_salt_says_nothing() {
        let (whole, _) = page(&[5]);
        for bit in 0..SLOT_LEN * 8 {
            let mut page = whole.clone();
            page[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(parse_page(&page, &crc()), None, "bit {bit}");
            assert_eq!(count_torn(&page, &crc()), 1, "bit {bit}");
        }
        assert_eq!(parse_page(&whole, &SaltedCrc::new(&[0x78; 32])), None);
        for len in [0, 1, SLOT_LEN - 1] {
            assert_eq!(parse_page(&whole[..len], &crc()), None);
        }
    }

    #[test]
    fn the_zeros_of_a_slot_must_be_zero_even_if_its_crc_is_right() {
        let (mut page, _) = page(&[5]);
        page[ZERO_AT] = 1;
        let right = crc().of(&page[ZERO_AT..SLOT_LEN]);
        page[..4].copy_from_slice(&right.to_le_bytes());
        assert_eq!(parse_page(&page, &crc()), None);
    }

    #[test]
    fn a_byte_outside_the_sectors_of_the_slots_is_astray() {
        for at in [0, SLOT_LEN, 511, 2048, 2559] {
            let mut page = [0; MARK_PAGE_LEN];
            page[at] = 1;
            assert_eq!(stray_byte(&page), None, "byte {at}");
        }
        for at in [512, 2047, 2560, MARK_PAGE_LEN - 1] {
            let mut page = [0; MARK_PAGE_LEN];
            page[at] = 1;
            assert_eq!(stray_byte(&page), Some(MARK_PAGE_AT + at as u64));
        }
    }
}
