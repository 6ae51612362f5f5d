//! The frame: a record's bytes in the log, sealed and chained to the frame before it.
//!
//! Parses and checks one frame. It never decides what a bad frame means for the log, and never opens values.
//! Implements *Frame* of FORMAT.md, and of *Sealing* what concerns manifests.

use super::record::Manifest;
use super::{SaltedCrc, bytes_at};
use crate::crypto::seal::{MANIFEST_AAD_LEN, Sealer};
use crate::crypto::secret_vec::{self, SecretVec};
use crate::crypto::{Nonce, TAG_LEN, Tag};

// The frame header.
pub(super) const HEADER_CRC_AT: usize = 0;
pub(super) const BODY_CRC_AT: usize = 4;
pub(super) const LEN_AT: usize = 8;
pub(super) const MANIFEST_LEN_AT: usize = 12;
pub(super) const SEQ_AT: usize = 16;
pub(super) const DURABLE_SEQ_AT: usize = 24;
pub(super) const NONCE_AT: usize = 32;
pub(super) const KIND_AT: usize = 44;
const ZERO_AT: usize = 45;
pub(crate) const FRAME_HEADER_LEN: usize = 48;

/// Each frame begins at a multiple of this.
pub(crate) const ALIGNMENT: usize = 8;
/// The header and the tag of an empty manifest: the length of a close frame.
pub(crate) const FRAME_LEN_MIN: usize = FRAME_HEADER_LEN + TAG_LEN;
/// 64 MiB: recovery reads one whole frame into memory.
pub(crate) const FRAME_LEN_MAX: usize = 64 << 20;
/// Nonces are 96 bits that cannot be told from random ones. Within these two limits, two nonces of a generation
/// are equal with a probability of at most 2^-32: see *Security* in FORMAT.md.
pub(crate) const SEQ_MAX: u64 = 1 << 31;
/// The most manifests and values that are sealed in a generation.
pub(crate) const SEALINGS_MAX: u64 = (1 << 32) - 1;

pub(super) const RECORD: u8 = 1;
pub(super) const CLOSE: u8 = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FrameKind {
    Record,
    /// Written by a clean close. It proves that every frame before it was durable.
    Close,
}

/// A frame header with a right CRC and plausible fields. Its body is not checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    pub(crate) len: u32,
    pub(crate) manifest_len: u32,
    pub(crate) seq: u64,
    pub(crate) durable_seq: u64,
    pub(crate) nonce: Nonce,
    pub(crate) kind: FrameKind,
    pub(super) body_crc: u32,
    /// The bytes of the header that the manifest's seal covers: all but the two CRCs.
    pub(super) authenticated: [u8; AUTHENTICATED_LEN],
}

pub(super) const AUTHENTICATED_LEN: usize = FRAME_HEADER_LEN - LEN_AT;

/// The result of parsing 48 bytes as a frame header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ParsedFrameHeader {
    /// There is no header: too few bytes, only zeros, or a wrong CRC.
    Absent,
    /// The CRC is right, but no writer writes such a header. The text says why.
    Implausible(&'static str),
    Plausible(FrameHeader),
}

/// A quick test before [`parse_header`], at a hundredth of the cost of its CRC. True for every header that a
/// writer writes, false for zeros and for nearly all other bytes.
pub(crate) fn may_be_header(bytes: &[u8]) -> bool {
    matches!(bytes.get(KIND_AT..FRAME_HEADER_LEN), Some([RECORD | CLOSE, 0, 0, 0]))
}

/// Parses the header at the start of `bytes`.
pub(crate) fn parse_header(bytes: &[u8], crc: &SaltedCrc) -> ParsedFrameHeader {
    let Some(bytes) = bytes.first_chunk::<FRAME_HEADER_LEN>() else { return ParsedFrameHeader::Absent };
    if *bytes == [0; FRAME_HEADER_LEN] {
        // Preallocated space. The check below would accept it under one salt in 2^32: that with which the CRC of
        // zeros is zero.
        return ParsedFrameHeader::Absent;
    }
    match bytes_at(bytes, HEADER_CRC_AT) {
        Some(stored) if u32::from_le_bytes(stored) == crc.of(&bytes[BODY_CRC_AT..]) => {}
        _ => return ParsedFrameHeader::Absent,
    }
    match parse_fields(bytes) {
        Ok(header) => ParsedFrameHeader::Plausible(header),
        Err(what) => ParsedFrameHeader::Implausible(what),
    }
}

/// Parses the 48 bytes without checking their CRC. The caller must check them against the manifest's seal.
pub(crate) fn parse_unchecked(bytes: &[u8]) -> Option<FrameHeader> {
    parse_fields(bytes.first_chunk()?).ok()
}

/// Where a frame whose header begins with these bytes stores its tag, and where it ends, counted from its
/// beginning. Of the header, only the two lengths need be right.
pub(crate) fn tag_and_end(bytes: &[u8]) -> Option<(u64, u64)> {
    let u32_at = |at| bytes_at(bytes, at).map(u32::from_le_bytes);
    let (len, manifest_len) = (u32_at(LEN_AT)?, u32_at(MANIFEST_LEN_AT)?);
    let end_of_tag = u64::from(manifest_len) + FRAME_LEN_MIN as u64;
    let is_in_range = (len as usize).is_multiple_of(ALIGNMENT) && len as usize <= FRAME_LEN_MAX;
    (is_in_range && end_of_tag <= u64::from(len)).then_some((end_of_tag - TAG_LEN as u64, u64::from(len)))
}

fn parse_fields(bytes: &[u8; FRAME_HEADER_LEN]) -> Result<FrameHeader, &'static str> {
    // Cannot happen: every field is within the 48 bytes.
    const SHORT: &str = "the frame header is cut short";
    let u32_at = |at| bytes_at(bytes, at).map(u32::from_le_bytes).ok_or(SHORT);
    let u64_at = |at| bytes_at(bytes, at).map(u64::from_le_bytes).ok_or(SHORT);
    let header = FrameHeader {
        len: u32_at(LEN_AT)?,
        manifest_len: u32_at(MANIFEST_LEN_AT)?,
        seq: u64_at(SEQ_AT)?,
        durable_seq: u64_at(DURABLE_SEQ_AT)?,
        nonce: bytes_at(bytes, NONCE_AT).ok_or(SHORT)?,
        kind: match bytes[KIND_AT] {
            RECORD => FrameKind::Record,
            CLOSE => FrameKind::Close,
            _ => return Err("the frame is of an unknown kind"),
        },
        body_crc: u32_at(BODY_CRC_AT)?,
        authenticated: bytes_at(bytes, LEN_AT).ok_or(SHORT)?,
    };
    let len = header.len as usize;
    if !len.is_multiple_of(ALIGNMENT) || !(FRAME_LEN_MIN..=FRAME_LEN_MAX).contains(&len) {
        return Err("the frame's length is out of range");
    }
    if header.manifest_len as usize > len - FRAME_LEN_MIN {
        return Err("the manifest is longer than its frame");
    }
    if header.seq == 0 || header.seq > SEQ_MAX {
        return Err("the frame's seq is out of range");
    }
    if header.durable_seq >= header.seq {
        return Err("the frame's durable_seq is not below its seq");
    }
    if bytes[ZERO_AT..] != [0; FRAME_HEADER_LEN - ZERO_AT] {
        return Err("the frame header's reserved bytes are not zero");
    }
    let is_bare = header.manifest_len == 0 && len == FRAME_LEN_MIN && header.durable_seq == header.seq - 1;
    if header.kind == FrameKind::Close && !is_bare {
        return Err("malformed close frame");
    }
    Ok(header)
}

impl FrameHeader {
    /// Whether `body`, the frame without its header, has the right length and CRC.
    pub(crate) fn body_checks(&self, body: &[u8], crc: &SaltedCrc) -> bool {
        body.len() == self.len as usize - FRAME_HEADER_LEN && crc.of(body) == self.body_crc
    }

    /// Opens and parses the manifest of `body`, and checks the frame's padding. `chain` is the tag of the manifest
    /// before it; the returned tag is the chain of the next frame. The plaintext is in `text`. A close frame has
    /// no manifest.
    pub(crate) fn open_manifest<'t>(
        &self,
        body: &[u8],
        chain: &Tag,
        sealer: &Sealer,
        text: &'t mut SecretVec,
    ) -> Result<(Option<Manifest<'t>>, Tag), &'static str> {
        let tag = self.stored_tag(body).ok_or(SHORT_BODY)?;
        let manifest = self.unseal_manifest(body, chain, &tag, sealer, text)?;
        self.check_padding(manifest.as_ref(), body.last_chunk().ok_or(SHORT_BODY)?)?;
        Ok((manifest, tag))
    }

    /// Checks that the frame ends with its values and fewer than 8 zeros. `last_bytes` are the last 8 bytes of the
    /// frame.
    pub(crate) fn check_padding(
        &self,
        manifest: Option<&Manifest<'_>>,
        last_bytes: &[u8; ALIGNMENT],
    ) -> Result<(), &'static str> {
        let padding_len = (self.len as usize - FRAME_HEADER_LEN).saturating_sub(self.values_end(manifest));
        if padding_len >= ALIGNMENT {
            return Err("the frame is longer than its contents");
        }
        let padding = last_bytes.get(ALIGNMENT - padding_len..).unwrap_or_default();
        if padding.iter().any(|&byte| byte != 0) {
            return Err("the frame's padding is not zero");
        }
        Ok(())
    }

    /// As [`open_manifest`](Self::open_manifest), but with `tag` in place of the one in `body`, and without the
    /// padding check.
    pub(crate) fn unseal_manifest<'t>(
        &self,
        body: &[u8],
        chain: &Tag,
        tag: &Tag,
        sealer: &Sealer,
        text: &'t mut SecretVec,
    ) -> Result<Option<Manifest<'t>>, &'static str> {
        self.load_manifest(body, text)?;
        self.unseal_in_place(text, chain, tag, sealer)?;
        self.parse_manifest(text)
    }

    /// Opens the sealed manifest in `text` in place.
    pub(crate) fn unseal_in_place(
        &self,
        text: &mut [u8],
        chain: &Tag,
        tag: &Tag,
        sealer: &Sealer,
    ) -> Result<(), &'static str> {
        sealer.open_manifest(&self.nonce, &self.manifest_aad(chain), text, tag).map_err(|_| BROKEN_SEAL)
    }

    /// Parses the manifest in `text`, which must be plaintext, and checks that its values fit the frame.
    pub(crate) fn parse_manifest<'t>(&self, text: &'t [u8]) -> Result<Option<Manifest<'t>>, &'static str> {
        if self.kind == FrameKind::Close {
            return Ok(None);
        }
        let manifest = Manifest::parse(text)?;
        if self.values_end(Some(&manifest)) > self.len as usize - FRAME_HEADER_LEN {
            return Err("the values are longer than their frame");
        }
        Ok(Some(manifest))
    }

    /// The tag that follows the manifest in `body`.
    pub(crate) fn stored_tag(&self, body: &[u8]) -> Option<Tag> {
        bytes_at(body, self.manifest_len as usize)
    }

    /// The sealed manifest in `body`.
    pub(crate) fn sealed_manifest<'b>(&self, body: &'b [u8]) -> Option<&'b [u8]> {
        body.get(..self.manifest_len as usize)
    }

    /// Copies the sealed manifest of `body` into `text`.
    pub(super) fn load_manifest(&self, body: &[u8], text: &mut SecretVec) -> Result<(), &'static str> {
        let sealed = self.sealed_manifest(body).ok_or(SHORT_BODY)?;
        text.clear();
        secret_vec::reserve(text, sealed.len());
        text.extend_from_slice(sealed);
        Ok(())
    }

    /// Where the values end, counted from the end of the header. Saturates, so that a sum that overflows is past
    /// the end of any frame.
    fn values_end(&self, manifest: Option<&Manifest<'_>>) -> usize {
        let values_len = manifest.map_or(0, Manifest::sealed_values_len);
        usize::try_from(values_len)
            .map_or(usize::MAX, |len| len.saturating_add(self.manifest_len as usize + TAG_LEN))
    }

    pub(super) fn manifest_aad(&self, chain: &Tag) -> [u8; MANIFEST_AAD_LEN] {
        manifest_aad(&self.authenticated, chain)
    }
}

pub(crate) const BROKEN_SEAL: &str = "the frame failed authentication";
const SHORT_BODY: &str = "the frame's body is cut short";

pub(super) fn manifest_aad(authenticated: &[u8; AUTHENTICATED_LEN], chain: &Tag) -> [u8; MANIFEST_AAD_LEN] {
    let mut aad = [0; MANIFEST_AAD_LEN];
    aad[..AUTHENTICATED_LEN].copy_from_slice(authenticated);
    aad[AUTHENTICATED_LEN..].copy_from_slice(chain);
    aad
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::cast_possible_truncation, reason = "frames that the tests make")]
mod tests {
    use super::*;
    use crate::format::encoding::tests::{CHAIN, changes, crc, fix_header_crc, frame, open, sealed};

    #[test]
    fn the_quick_test_refuses_zeros_and_unknown_kinds() {
        assert!(!may_be_header(&[0; FRAME_HEADER_LEN]) && !may_be_header(&[0xFF; FRAME_HEADER_LEN]));
        assert!(!may_be_header(&[]));
    }

    #[test]
    fn a_header_with_a_changed_bit_or_cut_short_or_under_another_salt_is_absent() {
        let (bytes, ..) = frame(&changes(), 9, 4);
        for bit in 0..FRAME_HEADER_LEN * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(parse_header(&changed, &crc()), ParsedFrameHeader::Absent, "bit {bit}");
        }
        assert_eq!(parse_header(&bytes[..FRAME_HEADER_LEN - 1], &crc()), ParsedFrameHeader::Absent);
        assert_eq!(parse_header(&bytes, &SaltedCrc::new(&[0x78; 32])), ParsedFrameHeader::Absent);
    }

    #[test]
    fn each_implausible_header_is_refused_for_its_own_reason() {
        const LEN: &str = "the frame's length is out of range";
        const SEQ: &str = "the frame's seq is out of range";
        const SELF: &str = "the frame's durable_seq is not below its seq";
        const CLOSE_FRAME: &str = "malformed close frame";
        let (record, header, _) = frame(&changes(), 9, 4);
        let (close, ..) = frame(&[], 9, 8);
        let too_long = (FRAME_LEN_MAX + ALIGNMENT) as u32;
        let rows: [(&[u8], usize, &[u8], &str); 16] = [
            (&record, KIND_AT, &[0], "the frame is of an unknown kind"),
            (&record, KIND_AT, &[3], "the frame is of an unknown kind"),
            (&record, LEN_AT, &(header.len + 4).to_le_bytes(), LEN),
            (&record, LEN_AT, &56_u32.to_le_bytes(), LEN),
            (&record, LEN_AT, &too_long.to_le_bytes(), LEN),
            (&record, MANIFEST_LEN_AT, &(header.len - 63).to_le_bytes(), "the manifest is longer than its frame"),
            (&record, SEQ_AT, &0_u64.to_le_bytes(), SEQ),
            (&record, SEQ_AT, &(SEQ_MAX + 1).to_le_bytes(), SEQ),
            (&record, DURABLE_SEQ_AT, &9_u64.to_le_bytes(), SELF),
            (&record, DURABLE_SEQ_AT, &u64::MAX.to_le_bytes(), SELF),
            (&record, ZERO_AT, &[1], "the frame header's reserved bytes are not zero"),
            (&record, ZERO_AT + 2, &[1], "the frame header's reserved bytes are not zero"),
            (&record, KIND_AT, &[CLOSE], CLOSE_FRAME),
            (&close, LEN_AT, &72_u32.to_le_bytes(), CLOSE_FRAME),
            (&close, LEN_AT, &[72, 0, 0, 0, 8, 0, 0, 0], CLOSE_FRAME),
            (&close, DURABLE_SEQ_AT, &7_u64.to_le_bytes(), CLOSE_FRAME),
        ];
        for (bytes, at, field, reason) in rows {
            let mut bytes = bytes.to_vec();
            bytes[at..at + field.len()].copy_from_slice(field);
            fix_header_crc(&mut bytes);
            assert_eq!(parse_header(&bytes, &crc()), ParsedFrameHeader::Implausible(reason), "{at}: {field:?}");
        }
    }

    #[test]
    fn fields_at_their_limits_are_plausible() {
        let (record, header, _) = frame(&changes(), 9, 4);
        let rows: [(usize, &[u8]); 4] = [
            (LEN_AT, &(FRAME_LEN_MAX as u32).to_le_bytes()),
            (MANIFEST_LEN_AT, &(header.len - 64).to_le_bytes()),
            (SEQ_AT, &SEQ_MAX.to_le_bytes()),
            (DURABLE_SEQ_AT, &8_u64.to_le_bytes()),
        ];
        for (at, field) in rows {
            let mut bytes = record.clone();
            bytes[at..at + field.len()].copy_from_slice(field);
            fix_header_crc(&mut bytes);
            assert!(matches!(parse_header(&bytes, &crc()), ParsedFrameHeader::Plausible(_)), "{at}: {field:?}");
        }
    }

    #[test]
    fn a_body_passes_its_crc_only_whole_and_unchanged() {
        let (bytes, header, _) = frame(&changes(), 9, 4);
        let body = &bytes[FRAME_HEADER_LEN..];
        assert!(!header.body_checks(&body[..body.len() - 1], &crc()));
        assert!(!header.body_checks(&[body, &[0]].concat(), &crc()));
        for bit in 0..body.len() * 8 {
            let mut changed = body.to_vec();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(!header.body_checks(&changed, &crc()), "bit {bit}");
        }
    }

    #[test]
    fn a_seal_covers_the_header_the_chain_the_manifest_and_its_tag() {
        const BROKEN: Result<Tag, &str> = Err("the frame failed authentication");
        let (bytes, header, _) = frame(&changes(), 9, 4);
        assert_eq!(open(&bytes, &[0x56; TAG_LEN]), BROKEN);
        let manifest_end = FRAME_LEN_MIN + header.manifest_len as usize;
        for at in
            [MANIFEST_LEN_AT, SEQ_AT, DURABLE_SEQ_AT, NONCE_AT].into_iter().chain(FRAME_HEADER_LEN..manifest_end)
        {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            fix_header_crc(&mut changed);
            assert_eq!(open(&changed, &CHAIN), BROKEN, "byte {at}");
        }
    }

    #[test]
    fn each_frame_that_does_not_fit_its_manifest_is_refused_for_its_own_reason() {
        let put = |value_len: u8| [1, 0, 0, 0, 1, 2, 3, 0, b'j', b'o', b'b', value_len, 0, 0, 0];
        let delete = [1, 0, 0, 0, 2, 2, 1, 0, b'j'];
        type Row<'a> = (&'a [u8], &'a [u8], Result<(), &'a str>);
        let rows: [Row<'_>; 9] = [
            (&delete, &[0; 7], Ok(())),
            (&delete, &[0, 0, 0, 0, 0, 0, 1], Err("the frame's padding is not zero")),
            (&delete, &[0; 15], Err("the frame is longer than its contents")),
            (&put(1), &[0; 17], Ok(())),
            (&put(2), &[0; 17], Err("the values are longer than their frame")),
            (&put(255), &[0; 17], Err("the values are longer than their frame")),
            (&[], &[], Err("the manifest is too short")),
            (&[0; 4], &[0; 4], Err("the manifest has no operation")),
            (&[0; 3], &[0; 5], Err("the manifest is too short")),
        ];
        for (manifest, rest, expected) in rows {
            assert_eq!(open(&sealed(manifest, rest), &CHAIN).map(drop), expected, "{manifest:?} {}", rest.len());
        }
    }
}
