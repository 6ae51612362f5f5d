//! Encoding a frame: the manifest, the values, the seals and the CRCs.
//!
//! Hands the bytes to a callback and never writes them itself; the sealer, the nonce and the numbers come from the
//! caller. Implements the writing half of *Frame* and *Sealing* of FORMAT.md.

use super::SaltedCrc;
use super::frame::{
    ALIGNMENT, AUTHENTICATED_LEN, BODY_CRC_AT, CLOSE, DURABLE_SEQ_AT, FRAME_HEADER_LEN, FRAME_LEN_MIN,
    FrameHeader, FrameKind, HEADER_CRC_AT, KIND_AT, LEN_AT, MANIFEST_LEN_AT, NONCE_AT, RECORD, SEQ_AT,
    manifest_aad,
};
use super::record::{self, Action, Change};
use crate::crypto::seal::Sealer;
use crate::crypto::{NONCE_LEN, Nonce, TAG_LEN, Tag};

/// What the encoding of a frame depends on, besides its changes.
pub(crate) struct FrameSeal<'a> {
    pub(crate) sealer: &'a Sealer,
    pub(crate) crc: &'a SaltedCrc,
    /// The manifest tag of the frame before it.
    pub(crate) chain: &'a Tag,
    pub(crate) seq: u64,
    pub(crate) durable_seq: u64,
    /// Random, and fresh for every attempt to write a frame.
    pub(crate) nonce: Nonce,
}

/// The length of the frame of these changes, in bytes. Without changes, the length of a close frame.
pub(crate) fn frame_len(changes: &[Change<'_>]) -> u64 {
    let manifest_len = if changes.is_empty() { 0 } else { record::manifest_len(changes) };
    let values_len: u64 = changes.iter().map(sealed_value_len).sum();
    (FRAME_LEN_MIN as u64 + manifest_len + values_len).next_multiple_of(ALIGNMENT as u64)
}

/// The length of the frame of a record that only acks a job.
pub(crate) fn ack_frame_len(run_id_len: usize) -> u64 {
    let manifest_len = record::delete_manifest_len(run_id_len);
    (FRAME_LEN_MIN as u64 + manifest_len).next_multiple_of(ALIGNMENT as u64)
}

fn sealed_value_len(change: &Change<'_>) -> u64 {
    match change.operation.action {
        Action::Put { value_len } => u64::from(value_len) + TAG_LEN as u64,
        Action::Delete | Action::DeleteThrough => 0,
    }
}

/// The buffer for encoding, kept from one frame to the next to save the allocation: the header and the sealed
/// manifest, then sealed values that are not written yet.
#[derive(Debug, Default)]
pub(crate) struct Workspace(Vec<u8>);

impl Workspace {
    /// Frees what is allocated beyond `len` bytes.
    pub(crate) fn shrink_to(&mut self, len: usize) {
        self.0.clear();
        self.0.shrink_to(len);
    }
}

/// Encodes a frame: a record or, without changes, a close frame. Returns its header and the chain of the next
/// frame.
///
/// `write` gets bytes and their offset from the start of the frame: the whole frame in one call or, if it is
/// longer than [`PIECE_LEN`], one piece a call. The piece with the header comes last: a crash before it leaves no
/// frame.
///
/// The caller must have checked [`frame_len`] against `FRAME_LEN_MAX`.
#[allow(clippy::indexing_slicing, reason = "fixed offsets in a buffer that this function has just made longer")]
pub(crate) fn encode<E>(
    changes: &[Change<'_>],
    seal: &FrameSeal<'_>,
    workspace: &mut Workspace,
    mut write: impl FnMut(&[u8], usize) -> Result<(), E>,
) -> Result<(FrameHeader, Tag), E> {
    let Workspace(bytes) = workspace;
    let kind = if changes.is_empty() { FrameKind::Close } else { FrameKind::Record };
    #[allow(clippy::cast_possible_truncation, reason = "the caller has checked the frame limit")]
    let len = frame_len(changes) as u32;
    let is_short = len as usize <= PIECE_LEN;
    bytes.clear();
    let manifest_len = usize::try_from(record::manifest_len(changes)).unwrap_or_default();
    bytes.reserve(if is_short { len as usize } else { FRAME_LEN_MIN + manifest_len });
    bytes.resize(FRAME_HEADER_LEN, 0);
    if kind == FrameKind::Record {
        record::encode_manifest(changes, bytes);
    }
    #[allow(clippy::cast_possible_truncation, reason = "shorter than the frame")]
    let manifest_len = (bytes.len() - FRAME_HEADER_LEN) as u32;

    let header = &mut bytes[..FRAME_HEADER_LEN];
    header[LEN_AT..MANIFEST_LEN_AT].copy_from_slice(&len.to_le_bytes());
    header[MANIFEST_LEN_AT..SEQ_AT].copy_from_slice(&manifest_len.to_le_bytes());
    header[SEQ_AT..DURABLE_SEQ_AT].copy_from_slice(&seal.seq.to_le_bytes());
    header[DURABLE_SEQ_AT..NONCE_AT].copy_from_slice(&seal.durable_seq.to_le_bytes());
    header[NONCE_AT..KIND_AT].copy_from_slice(&seal.nonce);
    header[KIND_AT] = match kind {
        FrameKind::Record => RECORD,
        FrameKind::Close => CLOSE,
    };
    let mut authenticated = [0; AUTHENTICATED_LEN];
    authenticated.copy_from_slice(&header[LEN_AT..]);

    let aad = manifest_aad(&authenticated, seal.chain);
    let chain = seal.sealer.seal_manifest(&seal.nonce, &aad, &mut bytes[FRAME_HEADER_LEN..]);
    bytes.extend_from_slice(&chain);

    let head_len = bytes.len();
    let mut body_crc = seal.crc.clone();
    // Where in the buffer the bytes begin that are not in the CRC yet, and where in the frame the values that are
    // not written yet.
    let (mut crc_from, mut written_to) = (FRAME_HEADER_LEN, head_len);
    for (i, change) in (0..).zip(changes.iter().filter(|change| sealed_value_len(change) != 0)) {
        if bytes.len() - head_len >= PIECE_LEN {
            body_crc.update(&bytes[crc_from..]);
            write(&bytes[head_len..], written_to)?;
            written_to += bytes.len() - head_len;
            bytes.truncate(head_len);
            crc_from = head_len;
        }
        let start = bytes.len();
        // No `SecretVec` here: when this grows, the buffer that is freed holds sealed bytes only.
        bytes.reserve(change.value.iter().map(|part| part.len()).sum::<usize>() + TAG_LEN + ALIGNMENT);
        change.value.iter().for_each(|part| bytes.extend_from_slice(part));
        let tag = seal.sealer.seal_value(&seal.nonce, seal.seq, i, &mut bytes[start..]);
        bytes.extend_from_slice(&tag);
    }
    bytes.resize(head_len + len as usize - written_to, 0);
    body_crc.update(&bytes[crc_from..]);

    let body_crc = body_crc.finish();
    bytes[BODY_CRC_AT..LEN_AT].copy_from_slice(&body_crc.to_le_bytes());
    let header_crc = seal.crc.of(&bytes[BODY_CRC_AT..FRAME_HEADER_LEN]);
    bytes[HEADER_CRC_AT..BODY_CRC_AT].copy_from_slice(&header_crc.to_le_bytes());
    if is_short {
        write(bytes, 0)?;
    } else {
        write(&bytes[head_len..], written_to)?;
        write(&bytes[..head_len], 0)?;
    }

    let FrameSeal { seq, durable_seq, nonce, .. } = *seal;
    Ok((FrameHeader { len, manifest_len, seq, durable_seq, nonce, kind, body_crc, authenticated }, chain))
}

const _: () = assert!(NONCE_AT + NONCE_LEN == KIND_AT);

/// A frame up to this length is written at once, a longer one in pieces of about this length. 256 KiB stay in the
/// processor's cache between sealing, the CRC and the write.
const PIECE_LEN: usize = 256 << 10;

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::cast_possible_truncation, reason = "frames that the tests make")]
pub(in crate::format) mod tests {
    use super::*;
    use crate::AgentKey;
    use crate::crypto::keys::{GenerationId, Prk};
    use crate::crypto::secret_vec::SecretVec;
    use crate::format::bucket::Bucket;
    use crate::format::frame::{ParsedFrameHeader, parse_header};
    use crate::format::location::ValueCursor;

    /// Encodes a frame into `out` and checks that the pieces cover it, the header last.
    pub(crate) fn encode_whole(
        changes: &[Change<'_>],
        seal: &FrameSeal<'_>,
        out: &mut Vec<u8>,
    ) -> (FrameHeader, Tag) {
        let mut missing = frame_len(changes) as usize;
        out.resize(missing, 0xEE);
        let encoded = encode(changes, seal, &mut Workspace::default(), |bytes, at| {
            out[at..][..bytes.len()].copy_from_slice(bytes);
            missing -= bytes.len();
            assert!((at == 0) == (missing == 0), "the header comes last");
            Ok::<_, std::convert::Infallible>(())
        });
        assert_eq!(missing, 0);
        encoded.unwrap()
    }

    const SALT: [u8; 32] = [0x77; 32];
    pub(in crate::format) const CHAIN: Tag = [0x55; TAG_LEN];
    const NONCE: Nonce = [0x33; NONCE_LEN];

    pub(in crate::format) fn sealer() -> Sealer {
        let id = GenerationId { generation: 1, store_id: [1; 16], salt: SALT };
        Prk::extract(&SALT, &AgentKey::new("key").unwrap()).frame_sealer(&id)
    }

    pub(in crate::format) fn crc() -> SaltedCrc {
        SaltedCrc::new(&SALT)
    }

    pub(in crate::format) fn changes() -> [Change<'static>; 4] {
        [
            Change::put(Bucket::Queue, b"a", &[], b"first"),
            Change::delete(Bucket::Queue, b"b"),
            Change::put(Bucket::Config, b"current", &[7; 8], b"raw"),
            Change::put(Bucket::Queue, b"c", &[], b""),
        ]
    }

    pub(in crate::format) fn frame(
        changes: &[Change<'_>],
        seq: u64,
        durable_seq: u64,
    ) -> (Vec<u8>, FrameHeader, Tag) {
        let (sealer, crc) = (sealer(), crc());
        let seal = FrameSeal { sealer: &sealer, crc: &crc, chain: &CHAIN, seq, durable_seq, nonce: NONCE };
        let mut bytes = Vec::new();
        let (header, chain) = encode_whole(changes, &seal, &mut bytes);
        (bytes, header, chain)
    }

    #[test]
    fn a_frame_encoded_in_pieces_is_whole_and_each_of_its_values_opens() {
        let around = |len: usize| [len - 90, len - 89, len - 1, len, len + 3];
        let long: Vec<_> = (0..2 * PIECE_LEN + 7).map(|i| (i % 251) as u8).collect();
        for len in around(PIECE_LEN).into_iter().chain(around(PIECE_LEN / 3)).chain([2 * PIECE_LEN + 7]) {
            let keys = [[b'a'], [b'b'], [b'c'], [b'd']];
            let mut changes: Vec<_> =
                keys.iter().map(|key| Change::put(Bucket::Queue, key, &[], &long[..len])).collect();
            changes.insert(2, Change::delete(Bucket::Queue, b"e"));
            let (bytes, header, chain) = frame(&changes, 9, 4);
            let body = &bytes[FRAME_HEADER_LEN..];
            assert!(header.body_checks(body, &crc()), "values of {len}");
            assert_eq!(parse_header(&bytes, &crc()), ParsedFrameHeader::Plausible(header));
            assert_eq!(open(&bytes, &CHAIN), Ok(chain));
            let mut locations = ValueCursor::new(0, &header);
            for location in changes.iter().filter_map(|change| locations.locate(&change.operation)) {
                let mut value = body[location.offset_in_body(0).unwrap()..][..len + TAG_LEN].to_vec();
                let (text, tag) = value.split_last_chunk_mut().unwrap();
                sealer().open_value(&NONCE, 9, location.i, text, tag).unwrap();
                assert_eq!(text, &long[..len]);
            }
        }
    }

    pub(in crate::format) fn fix_header_crc(bytes: &mut [u8]) {
        let header_crc = crc().of(&bytes[BODY_CRC_AT..FRAME_HEADER_LEN]);
        bytes[..BODY_CRC_AT].copy_from_slice(&header_crc.to_le_bytes());
    }

    pub(in crate::format) fn open(bytes: &[u8], chain: &Tag) -> Result<Tag, &'static str> {
        let ParsedFrameHeader::Plausible(header) = parse_header(bytes, &crc()) else { panic!("no header") };
        let mut text = SecretVec::default();
        header.open_manifest(&bytes[FRAME_HEADER_LEN..], chain, &sealer(), &mut text).map(|(_, tag)| tag)
    }

    /// A record frame with that manifest, followed by `rest` in place of values and padding.
    pub(in crate::format) fn sealed(manifest: &[u8], rest: &[u8]) -> Vec<u8> {
        let (mut bytes, ..) = frame(&changes(), 9, 4);
        let len = (FRAME_LEN_MIN + manifest.len() + rest.len()) as u32;
        bytes[LEN_AT..MANIFEST_LEN_AT].copy_from_slice(&len.to_le_bytes());
        bytes[MANIFEST_LEN_AT..SEQ_AT].copy_from_slice(&(manifest.len() as u32).to_le_bytes());
        fix_header_crc(&mut bytes);
        let ParsedFrameHeader::Plausible(header) = parse_header(&bytes, &crc()) else { panic!("no header") };
        bytes.truncate(FRAME_HEADER_LEN);
        bytes.extend_from_slice(manifest);
        let tag = sealer().seal_manifest(&NONCE, &header.manifest_aad(&CHAIN), &mut bytes[FRAME_HEADER_LEN..]);
        [&bytes, &tag[..], rest].concat()
    }

    #[test]
    fn a_record_reads_back_as_it_was_encoded() {
        let changes = changes();
        let (bytes, written, chain) = frame(&changes, 9, 4);
        assert_eq!(bytes.len() as u64, frame_len(&changes));
        let ParsedFrameHeader::Plausible(header) = parse_header(&bytes, &crc()) else { panic!("no header") };
        assert_eq!(header, written);
        assert_eq!((header.seq, header.durable_seq, header.kind), (9, 4, FrameKind::Record));
        assert!(header.body_checks(&bytes[FRAME_HEADER_LEN..], &crc()));

        let mut text = SecretVec::default();
        let (sealer, body) = (sealer(), &bytes[FRAME_HEADER_LEN..]);
        let (manifest, tag) = header.open_manifest(body, &CHAIN, &sealer, &mut text).unwrap();
        assert_eq!(tag, chain);
        let mut locations = ValueCursor::new(8192, &header);
        let locations: Vec<_> =
            manifest.unwrap().operations().map(|operation| locations.locate(&operation)).collect();
        let expected: [Option<&[u8]>; 4] =
            [Some(b"first"), None, Some(b"\x07\x07\x07\x07\x07\x07\x07\x07raw"), Some(b"")];
        for (location, expected) in locations.into_iter().zip(expected) {
            let value = location.map(|location| {
                let at = (location.value_offset - 8192) as usize;
                let (text, rest) = bytes[at..].split_at(location.len as usize);
                let (mut text, tag) = (text.to_vec(), rest.first_chunk().unwrap());
                sealer.open_value(&NONCE, location.seq(), location.i, &mut text, tag).unwrap();
                text
            });
            assert_eq!(value.as_deref(), expected);
        }
    }

    #[test]
    fn a_close_frame_is_a_header_and_a_tag() {
        let (bytes, written, chain) = frame(&[], 9, 8);
        assert_eq!(bytes.len(), FRAME_LEN_MIN);
        assert_eq!(parse_header(&bytes, &crc()), ParsedFrameHeader::Plausible(written));
        assert_eq!(written.kind, FrameKind::Close);
        assert_eq!(open(&bytes, &CHAIN), Ok(chain));
    }
}
