//! The frame: how a record lies in the log, sealed and chained. Implements *Frame* and *Sealing* of FORMAT.md.

use std::num::NonZeroU32;

use super::record::{self, Action, Change, Manifest, Operation};
use super::{SaltedCrc, bytes_at};
use crate::crypto::seal::{MANIFEST_AAD_LEN, NONCE_LEN, Nonce, Sealer, TAG_LEN, Tag};
use crate::crypto::secret_vec::{self, Wiped};

// The header, as a ladder of offsets.
const HEADER_CRC_AT: usize = 0;
const BODY_CRC_AT: usize = 4;
const LEN_AT: usize = 8;
const MANIFEST_LEN_AT: usize = 12;
const SEQ_AT: usize = 16;
const DURABLE_SEQ_AT: usize = 24;
const NONCE_AT: usize = 32;
const KIND_AT: usize = 44;
const ZERO_AT: usize = 45;
pub(crate) const FRAME_HEADER_LEN: usize = 48;

/// Frames begin at multiples of it.
pub(crate) const ALIGNMENT: usize = 8;
/// A header and the tag of a manifest of no bytes: the length of a close frame.
pub(crate) const FRAME_LEN_MIN: usize = FRAME_HEADER_LEN + TAG_LEN;
/// What recovery holds in memory at most for one frame.
pub(crate) const FRAME_LEN_MAX: usize = 64 << 20;
/// Random nonces of 96 bits: with 2^31 under one key, two are alike with a probability below 2^-32.
pub(crate) const SEQ_MAX: u64 = 1 << 31;

const RECORD: u8 = 1;
const CLOSE: u8 = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FrameKind {
    Record,
    /// Written by a clean close; vouches for all before it.
    Close,
}

/// A frame's header, of which the CRC and every field were checked; its body was not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    pub(crate) len: u32,
    pub(crate) manifest_len: u32,
    pub(crate) seq: u64,
    pub(crate) durable_seq: u64,
    pub(crate) nonce: Nonce,
    pub(crate) kind: FrameKind,
    body_crc: u32,
    sealed_part: [u8; SEALED_PART_LEN],
}

const SEALED_PART_LEN: usize = FRAME_HEADER_LEN - LEN_AT;

/// What 48 bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FrameSight {
    /// The CRC is wrong: no header, or a damaged one.
    None,
    /// The CRC is right, yet no writer writes such a header; the text says why.
    Impossible(&'static str),
    Header(FrameHeader),
}

/// Whether it is worth looking for a header at the start of `bytes`: true for every header that a writer writes, and
/// false for zeros and nearly all other bytes, at a hundredth of the cost of a CRC.
pub(crate) fn may_be_header(bytes: &[u8]) -> bool {
    matches!(bytes.get(KIND_AT..FRAME_HEADER_LEN), Some([RECORD | CLOSE, 0, 0, 0]))
}

/// Looks for a header at the start of `bytes`.
pub(crate) fn parse_header(bytes: &[u8], crc: &SaltedCrc) -> FrameSight {
    let Some(bytes) = bytes.first_chunk::<FRAME_HEADER_LEN>() else { return FrameSight::None };
    if *bytes == [0; FRAME_HEADER_LEN] {
        // Space ahead, also under the one salt in 2^32 with which the CRC of zeros is zero.
        return FrameSight::None;
    }
    match bytes_at(bytes, HEADER_CRC_AT) {
        Some(stored) if u32::from_le_bytes(stored) == crc.of(&bytes[BODY_CRC_AT..]) => {}
        _ => return FrameSight::None,
    }
    match parse_fields(bytes) {
        Ok(header) => FrameSight::Header(header),
        Err(what) => FrameSight::Impossible(what),
    }
}

/// What the 48 bytes say, whatever their CRC: for one who has a seal to hold them against.
pub(crate) fn parse_unchecked(bytes: &[u8]) -> Option<FrameHeader> {
    parse_fields(bytes.first_chunk()?).ok()
}

fn parse_fields(bytes: &[u8; FRAME_HEADER_LEN]) -> Result<FrameHeader, &'static str> {
    // No field reaches over the end of the 48 bytes.
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
        sealed_part: bytes_at(bytes, LEN_AT).ok_or(SHORT)?,
    };
    let len = header.len as usize;
    if !len.is_multiple_of(ALIGNMENT) || !(FRAME_LEN_MIN..=FRAME_LEN_MAX).contains(&len) {
        return Err("the frame's length is outside its limits");
    }
    if header.manifest_len as usize > len - FRAME_LEN_MIN {
        return Err("the manifest is longer than its frame");
    }
    if header.seq == 0 || header.seq > SEQ_MAX {
        return Err("the frame's seq is outside its limits");
    }
    if header.durable_seq >= header.seq {
        return Err("the frame vouches for itself");
    }
    if bytes[ZERO_AT..] != [0; FRAME_HEADER_LEN - ZERO_AT] {
        return Err("the frame header's last bytes are not zero");
    }
    let is_bare = header.manifest_len == 0 && len == FRAME_LEN_MIN && header.durable_seq == header.seq - 1;
    if header.kind == FrameKind::Close && !is_bare {
        return Err("the close frame is not as close frames are");
    }
    Ok(header)
}

impl FrameHeader {
    /// Whether `body`, the frame from offset 48 on, is what the header was written for.
    pub(crate) fn body_checks(&self, body: &[u8], crc: &SaltedCrc) -> bool {
        body.len() == self.len as usize - FRAME_HEADER_LEN && crc.of(body) == self.body_crc
    }

    /// Opens the manifest of `body` into `text`; the new chain is its tag. A close frame gives no manifest.
    pub(crate) fn open_manifest<'t>(
        &self,
        body: &[u8],
        chain: &Tag,
        sealer: &Sealer,
        text: &'t mut Wiped,
    ) -> Result<(Option<Manifest<'t>>, Tag), &'static str> {
        let tag = self.stored_tag(body).ok_or(SHORT_BODY)?;
        let manifest = self.unseal_manifest(body, chain, &tag, sealer, text)?;
        self.check_padding(manifest.as_ref(), body.last_chunk().ok_or(SHORT_BODY)?)?;
        Ok((manifest, tag))
    }

    /// `last_bytes` are the last of the frame.
    pub(crate) fn check_padding(
        &self,
        manifest: Option<&Manifest<'_>>,
        last_bytes: &[u8; ALIGNMENT],
    ) -> Result<(), &'static str> {
        let padding_len = (self.len as usize - FRAME_HEADER_LEN).saturating_sub(self.values_end(manifest));
        if padding_len >= ALIGNMENT {
            return Err("the frame is longer than its values");
        }
        let padding = last_bytes.get(ALIGNMENT - padding_len..).unwrap_or_default();
        if padding.iter().any(|&byte| byte != 0) {
            return Err("the frame's padding is not zero");
        }
        Ok(())
    }

    /// As [`open_manifest`](Self::open_manifest), but asks neither for the padding nor for the tag that stands in `body`.
    pub(crate) fn unseal_manifest<'t>(
        &self,
        body: &[u8],
        chain: &Tag,
        tag: &Tag,
        sealer: &Sealer,
        text: &'t mut Wiped,
    ) -> Result<Option<Manifest<'t>>, &'static str> {
        self.load_manifest(body, text)?;
        self.unseal_in_place(text, chain, tag, sealer)?;
        self.parse_manifest(text)
    }

    /// Opens the sealed manifest in `text` where it lies.
    pub(crate) fn unseal_in_place(
        &self,
        text: &mut [u8],
        chain: &Tag,
        tag: &Tag,
        sealer: &Sealer,
    ) -> Result<(), &'static str> {
        sealer.open_manifest(&self.nonce, &self.manifest_aad(chain), text, tag).map_err(|_| BROKEN_SEAL)
    }

    /// The manifest in `text`, which was opened before.
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

    /// The tag that stands behind the manifest in `body`.
    pub(crate) fn stored_tag(&self, body: &[u8]) -> Option<Tag> {
        bytes_at(body, self.manifest_len as usize)
    }

    /// The sealed manifest in `body`.
    pub(crate) fn sealed_manifest<'b>(&self, body: &'b [u8]) -> Option<&'b [u8]> {
        body.get(..self.manifest_len as usize)
    }

    /// Copies the sealed manifest of `body` into `text`.
    pub(super) fn load_manifest(&self, body: &[u8], text: &mut Wiped) -> Result<(), &'static str> {
        let sealed = self.sealed_manifest(body).ok_or(SHORT_BODY)?;
        text.clear();
        wiped::reserve(text, sealed.len());
        text.extend_from_slice(sealed);
        Ok(())
    }

    /// From the end of the header. Saturates, so that it is beyond any frame where it is no place at all.
    fn values_end(&self, manifest: Option<&Manifest<'_>>) -> usize {
        let values_len = manifest.map_or(0, Manifest::sealed_values_len);
        usize::try_from(values_len)
            .map_or(usize::MAX, |len| len.saturating_add(self.manifest_len as usize + TAG_LEN))
    }

    pub(super) fn manifest_aad(&self, chain: &Tag) -> [u8; MANIFEST_AAD_LEN] {
        manifest_aad(&self.sealed_part, chain)
    }
}

pub(crate) const BROKEN_SEAL: &str = "the frame's seal does not fit";
const SHORT_BODY: &str = "the frame's body is cut short";

fn manifest_aad(sealed_part: &[u8; SEALED_PART_LEN], chain: &Tag) -> [u8; MANIFEST_AAD_LEN] {
    let mut aad = [0; MANIFEST_AAD_LEN];
    aad[..SEALED_PART_LEN].copy_from_slice(sealed_part);
    aad[SEALED_PART_LEN..].copy_from_slice(chain);
    aad
}

/// Where a value lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Location {
    pub(crate) frame_offset: u64,
    /// Fits 32 bits: see [`SEQ_MAX`]. Never zero, so that an `Option` of a location is no longer.
    seq: NonZeroU32,
    /// From the start of the frame.
    value_at: u32,
    /// The value's number in its frame, from 0.
    pub(crate) i: u32,
    /// Without the tag.
    pub(crate) len: u32,
}

impl Location {
    pub(crate) fn seq(&self) -> u64 {
        u64::from(self.seq.get())
    }

    pub(crate) fn value_offset(&self) -> u64 {
        self.frame_offset + u64::from(self.value_at)
    }

    /// From the end of the frame's header.
    pub(crate) fn offset_in_body(&self) -> usize {
        self.value_at as usize - FRAME_HEADER_LEN
    }

    pub(crate) fn nonce_offset(&self) -> u64 {
        self.frame_offset + NONCE_AT as u64
    }

    /// Where the value was put in the order of all puts of its generation.
    pub(crate) fn order(&self) -> (u32, u32) {
        (self.seq.get(), self.i)
    }
}

/// Walks over a frame's operations and tells where the value of each put lies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ValueCursor {
    next: Location,
}

impl ValueCursor {
    pub(crate) fn new(frame_offset: u64, header: &FrameHeader) -> Self {
        #[allow(clippy::cast_possible_truncation, reason = "parse_fields and the writer keep seq within 2^31")]
        let seq = NonZeroU32::new(header.seq as u32).unwrap_or(NonZeroU32::MIN);
        #[allow(clippy::cast_possible_truncation, reason = "a small constant")]
        let value_at = FRAME_LEN_MIN as u32 + header.manifest_len;
        ValueCursor { next: Location { frame_offset, seq, value_at, i: 0, len: 0 } }
    }

    /// Where the frame begins in the file.
    pub(crate) fn frame_offset(&self) -> u64 {
        self.next.frame_offset
    }

    /// The location of the operation's value, if it has one.
    pub(crate) fn place(&mut self, operation: &Operation<'_>) -> Option<Location> {
        let Action::Put { value_len } = operation.action else { return None };
        let place = Location { len: value_len, ..self.next };
        #[allow(clippy::cast_possible_truncation, reason = "a small constant")]
        let sealed_len = value_len + TAG_LEN as u32;
        self.next.value_at += sealed_len;
        self.next.i += 1;
        Some(place)
    }
}

/// What a frame is sealed with, besides its changes.
pub(crate) struct FrameSeal<'a> {
    pub(crate) sealer: &'a Sealer,
    pub(crate) crc: &'a SaltedCrc,
    pub(crate) chain: &'a Tag,
    pub(crate) seq: u64,
    pub(crate) durable_seq: u64,
    pub(crate) nonce: Nonce,
}

/// How long the frame of these changes is; without changes, how long a close frame is.
pub(crate) fn frame_len(changes: &[Change<'_>]) -> u64 {
    let manifest_len = if changes.is_empty() { 0 } else { record::manifest_len(changes) };
    let values_len: u64 = changes.iter().map(sealed_value_len).sum();
    (FRAME_LEN_MIN as u64 + manifest_len + values_len).next_multiple_of(ALIGNMENT as u64)
}

fn sealed_value_len(change: &Change<'_>) -> u64 {
    match change.operation.action {
        Action::Put { value_len } => u64::from(value_len) + TAG_LEN as u64,
        Action::Delete | Action::DeleteThrough => 0,
    }
}

/// What a frame is made in, kept from one to the next.
#[derive(Debug, Default)]
pub(crate) struct Workspace {
    /// The header and the sealed manifest.
    head: Vec<u8>,
    /// The sealed values that were not written yet.
    piece: Vec<u8>,
}

impl Workspace {
    /// Gives back what is beyond `len` bytes.
    pub(crate) fn shrink_to(&mut self, len: usize) {
        for buffer in [&mut self.head, &mut self.piece] {
            buffer.clear();
            buffer.shrink_to(len);
        }
    }
}

/// Makes a frame: a record, or without changes a close frame. `write` is handed its bytes and where they go, from the start of
/// the frame: all at once, or for a long one piece by piece and the header last. The caller has held `frame_len` against
/// [`FRAME_LEN_MAX`]. Returns the header and the new chain.
#[allow(clippy::indexing_slicing, reason = "fixed offsets in a buffer that this function has just made longer")]
pub(crate) fn encode<E>(
    changes: &[Change<'_>],
    seal: &FrameSeal<'_>,
    workspace: &mut Workspace,
    mut write: impl FnMut(&[u8], usize) -> Result<(), E>,
) -> Result<(FrameHeader, Tag), E> {
    let Workspace { head, piece } = workspace;
    let kind = if changes.is_empty() { FrameKind::Close } else { FrameKind::Record };
    #[allow(clippy::cast_possible_truncation, reason = "the caller has checked the frame limit")]
    let len = frame_len(changes) as u32;
    head.clear();
    head.reserve(FRAME_LEN_MIN + usize::try_from(record::manifest_len(changes)).unwrap_or_default());
    head.resize(FRAME_HEADER_LEN, 0);
    if kind == FrameKind::Record {
        record::encode_manifest(changes, head);
    }
    #[allow(clippy::cast_possible_truncation, reason = "shorter than the frame")]
    let manifest_len = (head.len() - FRAME_HEADER_LEN) as u32;

    let header = &mut head[..FRAME_HEADER_LEN];
    header[LEN_AT..MANIFEST_LEN_AT].copy_from_slice(&len.to_le_bytes());
    header[MANIFEST_LEN_AT..SEQ_AT].copy_from_slice(&manifest_len.to_le_bytes());
    header[SEQ_AT..DURABLE_SEQ_AT].copy_from_slice(&seal.seq.to_le_bytes());
    header[DURABLE_SEQ_AT..NONCE_AT].copy_from_slice(&seal.durable_seq.to_le_bytes());
    header[NONCE_AT..KIND_AT].copy_from_slice(&seal.nonce);
    header[KIND_AT] = match kind {
        FrameKind::Record => RECORD,
        FrameKind::Close => CLOSE,
    };
    let mut sealed_part = [0; SEALED_PART_LEN];
    sealed_part.copy_from_slice(&header[LEN_AT..]);

    let aad = manifest_aad(&sealed_part, seal.chain);
    let chain = seal.sealer.seal_manifest(&seal.nonce, &aad, &mut head[FRAME_HEADER_LEN..]);
    head.extend_from_slice(&chain);
    let mut body_crc = seal.crc.clone();
    body_crc.update(&head[FRAME_HEADER_LEN..]);

    piece.clear();
    let mut written_to = head.len();
    for (i, change) in (0..).zip(changes.iter().filter(|change| sealed_value_len(change) != 0)) {
        if piece.len() >= PIECE_LEN {
            body_crc.update(piece);
            write(piece, written_to)?;
            written_to += piece.len();
            piece.clear();
        }
        let start = piece.len();
        // What is in it is sealed, so that a copy left behind as it grows tells nothing.
        piece.reserve(change.value.iter().map(|part| part.len()).sum::<usize>() + TAG_LEN + ALIGNMENT);
        change.value.iter().for_each(|part| piece.extend_from_slice(part));
        let tag = seal.sealer.seal_value(&seal.nonce, seal.seq, i, &mut piece[start..]);
        piece.extend_from_slice(&tag);
    }
    piece.resize(len as usize - written_to, 0);
    body_crc.update(piece);

    let body_crc = body_crc.finish();
    head[BODY_CRC_AT..LEN_AT].copy_from_slice(&body_crc.to_le_bytes());
    let header_crc = seal.crc.of(&head[BODY_CRC_AT..FRAME_HEADER_LEN]);
    head[HEADER_CRC_AT..BODY_CRC_AT].copy_from_slice(&header_crc.to_le_bytes());
    if len as usize <= PIECE_LEN {
        head.extend_from_slice(piece);
    } else {
        write(piece, written_to)?;
    }
    write(head, 0)?;

    let FrameSeal { seq, durable_seq, nonce, .. } = *seal;
    Ok((FrameHeader { len, manifest_len, seq, durable_seq, nonce, kind, body_crc, sealed_part }, chain))
}

const _: () = assert!(NONCE_AT + NONCE_LEN == KIND_AT);

/// A frame up to this length is written at once. A longer one is made in pieces of about as much, which stay in the processor's
/// cache until they are written.
const PIECE_LEN: usize = 256 << 10;

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::cast_possible_truncation, reason = "frames that the tests make")]
pub(crate) mod tests {
    use super::*;
    use crate::AgentKey;
    use crate::format::bucket::Bucket;
    use crate::crypto::seal::{GenerationId, Prk};

    #[test]
    fn zeros_and_other_kinds_are_no_headers_at_first_sight() {
        assert!(!may_be_header(&[0; FRAME_HEADER_LEN]) && !may_be_header(&[0xFF; FRAME_HEADER_LEN]));
        assert!(!may_be_header(&[]));
    }

    /// The frame in `out`, whatever pieces it comes in.
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
    const CHAIN: Tag = [0x55; TAG_LEN];
    const NONCE: Nonce = [0x33; NONCE_LEN];

    fn sealer() -> Sealer {
        let id = GenerationId { generation: 1, store_id: [1; 16], salt: SALT };
        Prk::extract(&SALT, &AgentKey::new("key").unwrap()).frame_sealer(&id)
    }

    fn crc() -> SaltedCrc {
        SaltedCrc::new(&SALT)
    }

    fn changes() -> [Change<'static>; 4] {
        [
            Change::put(Bucket::Queue, b"a", &[], b"first"),
            Change::delete(Bucket::Queue, b"b"),
            Change::put(Bucket::Config, b"current", &[7; 8], b"raw"),
            Change::put(Bucket::Queue, b"c", &[], b""),
        ]
    }

    fn frame(changes: &[Change<'_>], seq: u64, durable_seq: u64) -> (Vec<u8>, FrameHeader, Tag) {
        let (sealer, crc) = (sealer(), crc());
        let seal = FrameSeal { sealer: &sealer, crc: &crc, chain: &CHAIN, seq, durable_seq, nonce: NONCE };
        let mut bytes = Vec::new();
        let (header, chain) = encode_whole(changes, &seal, &mut bytes);
        (bytes, header, chain)
    }

    #[test]
    fn a_frame_made_in_pieces_is_whole_and_each_of_its_values_opens() {
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
            assert_eq!(parse_header(&bytes, &crc()), FrameSight::Header(header));
            assert_eq!(open(&bytes, &CHAIN), Ok(chain));
            let mut places = ValueCursor::new(0, &header);
            for place in changes.iter().filter_map(|change| places.place(&change.operation)) {
                let mut value = body[place.offset_in_body()..][..len + TAG_LEN].to_vec();
                let (text, tag) = value.split_last_chunk_mut().unwrap();
                sealer().open_value(&NONCE, 9, place.i, text, tag).unwrap();
                assert_eq!(text, &long[..len]);
            }
        }
    }

    fn fix_header_crc(bytes: &mut [u8]) {
        let header_crc = crc().of(&bytes[BODY_CRC_AT..FRAME_HEADER_LEN]);
        bytes[..BODY_CRC_AT].copy_from_slice(&header_crc.to_le_bytes());
    }

    fn open(bytes: &[u8], chain: &Tag) -> Result<Tag, &'static str> {
        let FrameSight::Header(header) = parse_header(bytes, &crc()) else { panic!("no header") };
        let mut text = Wiped::default();
        header.open_manifest(&bytes[FRAME_HEADER_LEN..], chain, &sealer(), &mut text).map(|(_, tag)| tag)
    }

    /// A record frame with that manifest, and behind it these bytes.
    fn sealed(manifest: &[u8], behind: &[u8]) -> Vec<u8> {
        let (mut bytes, ..) = frame(&changes(), 9, 4);
        let len = (FRAME_LEN_MIN + manifest.len() + behind.len()) as u32;
        bytes[LEN_AT..MANIFEST_LEN_AT].copy_from_slice(&len.to_le_bytes());
        bytes[MANIFEST_LEN_AT..SEQ_AT].copy_from_slice(&(manifest.len() as u32).to_le_bytes());
        fix_header_crc(&mut bytes);
        let FrameSight::Header(header) = parse_header(&bytes, &crc()) else { panic!("no header") };
        bytes.truncate(FRAME_HEADER_LEN);
        bytes.extend_from_slice(manifest);
        let tag = sealer().seal_manifest(&NONCE, &header.manifest_aad(&CHAIN), &mut bytes[FRAME_HEADER_LEN..]);
        [&bytes, &tag[..], behind].concat()
    }

    #[test]
    fn a_record_reads_back_as_it_was_written() {
        let changes = changes();
        let (bytes, written, chain) = frame(&changes, 9, 4);
        assert_eq!(bytes.len() as u64, frame_len(&changes));
        let FrameSight::Header(header) = parse_header(&bytes, &crc()) else { panic!("no header") };
        assert_eq!(header, written);
        assert_eq!((header.seq, header.durable_seq, header.kind), (9, 4, FrameKind::Record));
        assert!(header.body_checks(&bytes[FRAME_HEADER_LEN..], &crc()));

        let mut text = Wiped::default();
        let (sealer, body) = (sealer(), &bytes[FRAME_HEADER_LEN..]);
        let (manifest, tag) = header.open_manifest(body, &CHAIN, &sealer, &mut text).unwrap();
        assert_eq!(tag, chain);
        let mut places = ValueCursor::new(4096, &header);
        let places: Vec<_> = manifest.unwrap().operations().map(|operation| places.place(&operation)).collect();
        let expected: [Option<&[u8]>; 4] =
            [Some(b"first"), None, Some(b"\x07\x07\x07\x07\x07\x07\x07\x07raw"), Some(b"")];
        for (place, expected) in places.into_iter().zip(expected) {
            let value = place.map(|place| {
                let at = (place.value_offset() - 4096) as usize;
                let (text, rest) = bytes[at..].split_at(place.len as usize);
                let (mut text, tag) = (text.to_vec(), rest.first_chunk().unwrap());
                sealer.open_value(&NONCE, place.seq(), place.i, &mut text, tag).unwrap();
                text
            });
            assert_eq!(value.as_deref(), expected);
        }
    }

    #[test]
    fn a_close_frame_is_its_header_and_a_tag() {
        let (bytes, written, chain) = frame(&[], 9, 8);
        assert_eq!(bytes.len(), FRAME_LEN_MIN);
        assert_eq!(parse_header(&bytes, &crc()), FrameSight::Header(written));
        assert_eq!(written.kind, FrameKind::Close);
        assert_eq!(open(&bytes, &CHAIN), Ok(chain));
    }

    #[test]
    fn a_header_with_any_bit_changed_or_cut_short_or_under_another_salt_is_none() {
        let (bytes, ..) = frame(&changes(), 9, 4);
        for bit in 0..FRAME_HEADER_LEN * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(parse_header(&changed, &crc()), FrameSight::None, "bit {bit}");
        }
        assert_eq!(parse_header(&bytes[..FRAME_HEADER_LEN - 1], &crc()), FrameSight::None);
        assert_eq!(parse_header(&bytes, &SaltedCrc::new(&[0x78; 32])), FrameSight::None);
    }

    #[test]
    fn each_impossible_header_is_refused_for_its_own_reason() {
        const LEN: &str = "the frame's length is outside its limits";
        const SEQ: &str = "the frame's seq is outside its limits";
        const SELF: &str = "the frame vouches for itself";
        const CLOSE_FRAME: &str = "the close frame is not as close frames are";
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
            (&record, ZERO_AT, &[1], "the frame header's last bytes are not zero"),
            (&record, ZERO_AT + 2, &[1], "the frame header's last bytes are not zero"),
            (&record, KIND_AT, &[CLOSE], CLOSE_FRAME),
            (&close, LEN_AT, &72_u32.to_le_bytes(), CLOSE_FRAME),
            (&close, LEN_AT, &[72, 0, 0, 0, 8, 0, 0, 0], CLOSE_FRAME),
            (&close, DURABLE_SEQ_AT, &7_u64.to_le_bytes(), CLOSE_FRAME),
        ];
        for (bytes, at, field, reason) in rows {
            let mut bytes = bytes.to_vec();
            bytes[at..at + field.len()].copy_from_slice(field);
            fix_header_crc(&mut bytes);
            assert_eq!(parse_header(&bytes, &crc()), FrameSight::Impossible(reason), "{at}: {field:?}");
        }
    }

    #[test]
    fn the_limits_themselves_are_possible() {
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
            assert!(matches!(parse_header(&bytes, &crc()), FrameSight::Header(_)), "{at}: {field:?}");
        }
    }

    #[test]
    fn a_body_checks_only_whole_and_unchanged() {
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
        const BROKEN: Result<Tag, &str> = Err("the frame's seal does not fit");
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
            (&delete, &[0; 15], Err("the frame is longer than its values")),
            (&put(1), &[0; 17], Ok(())),
            (&put(2), &[0; 17], Err("the values are longer than their frame")),
            (&put(255), &[0; 17], Err("the values are longer than their frame")),
            (&[], &[], Err("the manifest is too short")),
            (&[0; 4], &[0; 4], Err("the manifest has no operation")),
            (&[0; 3], &[0; 5], Err("the manifest is too short")),
        ];
        for (manifest, behind, expected) in rows {
            assert_eq!(
                open(&sealed(manifest, behind), &CHAIN).map(drop),
                expected,
                "{manifest:?} {}",
                behind.len()
            );
        }
    }
}
