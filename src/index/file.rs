//! The bytes of the index file: where the live values of a log are, sealed, so that opening need not read every
//! frame.
//!
//! ```text
//! 0        64
//! | header | run 0 | run 1 | ...            the file
//! | salt | part 0 | part 1 | ... | end |     a run
//! | len | kind | sealed text | tag |        a part
//! ```
//!
//! A run says what the frames of a log between two positions have changed: one entry for each key, with the
//! place of its value, or that it was deleted (`entry.rs`). The first run begins where the log does, and each
//! other where the last one ended.
//!
//! Encodes and parses, and does no I/O. Whether a run fits its log is decided in `log/index_file.rs`. Implements
//! *Appendix: the index file* of FORMAT.md.

use std::io;

use crate::crypto::keys::GenerationId;
use crate::crypto::seal::RunSealer;
use crate::crypto::secret_vec::{self, SecretVec};
use crate::crypto::{TAG_LEN, Tag, Unauthentic};
use crate::format::bucket::Bucket;
use crate::format::bytes_at;
use crate::format::frame::SEALINGS_MAX;
use crate::format::location::Location;
use crate::format::position::{LogPosition, POSITION_LEN};
use crate::index::entry::{self, ENTRY_LEN_MAX};

// The header of the file.
const VERSION_AT: usize = 12;
const GENERATION_AT: usize = 16;
const SALT_AT: usize = 24;
pub(crate) const FILE_HEADER_LEN: usize = 64;

pub(crate) const MAGIC: [u8; 12] = *b"\x89BKPYIDX\r\n\x1a\n";
const VERSION: u16 = 2;

/// The salt before the parts of a run.
pub(crate) const RUN_SALT_LEN: usize = 32;

// The head of a part. Its sealed text and its tag follow.
const KIND_AT: usize = 4;
pub(crate) const PART_HEAD_LEN: usize = 8;

const ENTRIES: u32 = 1;
const END: u32 = 2;

// The end of a run: three positions and two numbers.
const NUMBERS_AT: usize = 3 * POSITION_LEN;
const END_LEN: usize = NUMBERS_AT + 16;

/// A part is sealed once it has this many bytes: one more entry still fits.
const PART_LEN: usize = 32 << 10;
pub(crate) const PART_LEN_MAX: usize = PART_LEN + ENTRY_LEN_MAX;
/// What all parts of a run are sealed with besides their own text: the header of the file, and the end of the run
/// before.
const AAD_LEN: usize = FILE_HEADER_LEN + TAG_LEN;
/// In place of the tag with which the run before ends: there is none.
pub(crate) const FIRST_RUN: Tag = [0; TAG_LEN];

/// The first bytes of the index file of a generation.
pub(crate) fn encode_header(id: &GenerationId) -> [u8; FILE_HEADER_LEN] {
    let mut header = [0; FILE_HEADER_LEN];
    header[..VERSION_AT].copy_from_slice(&MAGIC);
    header[VERSION_AT..VERSION_AT + 2].copy_from_slice(&VERSION.to_le_bytes());
    header[GENERATION_AT..SALT_AT].copy_from_slice(&id.generation.to_le_bytes());
    header[SALT_AT..SALT_AT + 32].copy_from_slice(&id.salt);
    header
}

/// Where a run ends, and what the writer needs to know of the log up to there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RunEnd {
    /// A replay continues here.
    pub(crate) to: LogPosition,
    /// Before the frame that ends at `until`.
    pub(crate) before_until: LogPosition,
    /// At or after `to`. While the run was made, the store was in use, so some of its entries may come from frames
    /// between the two: a replay must reach this position, or the run does not fit.
    pub(crate) until: LogPosition,
    /// How many values the frames up to `to` have, live or not.
    pub(crate) values: u64,
    /// One more than the highest ordinal of all log events that were put.
    pub(crate) next_ordinal: u64,
}

/// The place of a part in its file: what it is sealed with besides its text.
struct Place {
    sealer: RunSealer,
    aad: [u8; AAD_LEN],
    /// The number of the next part.
    number: u64,
}

impl Place {
    fn new(sealer: RunSealer, header: &[u8; FILE_HEADER_LEN], before: &Tag) -> Self {
        let mut aad = [0; AAD_LEN];
        aad[..FILE_HEADER_LEN].copy_from_slice(header);
        aad[FILE_HEADER_LEN..].copy_from_slice(before);
        Place { sealer, aad, number: 0 }
    }
}

/// Encodes one run, part by part.
pub(crate) struct RunEncoder {
    place: Place,
    /// The head and the text of the next part.
    part: SecretVec,
    /// The key of the last entry in it.
    last_key: Vec<u8>,
}

impl RunEncoder {
    /// `header` is that of the file, and `before` the tag with which the run before ends, or [`FIRST_RUN`]: so no
    /// run opens after another one than that after which it was written.
    pub(crate) fn new(sealer: RunSealer, header: &[u8; FILE_HEADER_LEN], before: &Tag) -> Self {
        let part = SecretVec::from(Vec::with_capacity(PART_HEAD_LEN + PART_LEN_MAX + TAG_LEN));
        RunEncoder { place: Place::new(sealer, header, before), part, last_key: Vec::new() }
    }

    /// Adds an entry. Keys are added in the order of their buckets and bytes. Hands each part that is full to
    /// `write`.
    pub(crate) fn add(
        &mut self,
        bucket: Bucket,
        key: &[u8],
        location: Option<&Location>,
        write: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        if self.part.is_empty() {
            self.part.extend_from_slice(&[0; PART_HEAD_LEN]);
            self.last_key.clear();
        }
        entry::encode(&mut self.part, &mut self.last_key, bucket, key, location);
        if self.part.len() >= PART_HEAD_LEN + PART_LEN { self.seal(ENTRIES, write).map(drop) } else { Ok(()) }
    }

    /// Ends the run. Returns its last tag.
    pub(crate) fn end(&mut self, end: &RunEnd, write: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<Tag> {
        if !self.part.is_empty() {
            self.seal(ENTRIES, write)?;
        }
        self.part.extend_from_slice(&[0; PART_HEAD_LEN]);
        for position in [end.to, end.before_until, end.until] {
            self.part.extend_from_slice(&position.encode());
        }
        self.part.extend_from_slice(&end.values.to_le_bytes());
        self.part.extend_from_slice(&end.next_ordinal.to_le_bytes());
        self.seal(END, write)
    }

    fn seal(&mut self, kind: u32, write: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<Tag> {
        let RunEncoder { place: Place { sealer, aad, number }, part, .. } = self;
        let (head, text) = part.split_at_mut(PART_HEAD_LEN);
        #[allow(clippy::cast_possible_truncation, reason = "at most PART_LEN_MAX")]
        head[..KIND_AT].copy_from_slice(&(text.len() as u32).to_le_bytes());
        head[KIND_AT..].copy_from_slice(&kind.to_le_bytes());
        let tag = sealer.seal_part(kind, *number, aad, text);
        secret_vec::reserve(part, TAG_LEN);
        part.extend_from_slice(&tag);
        write(part)?;
        part.clear();
        *number += 1;
        Ok(tag)
    }
}

/// The length and the kind of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PartHead {
    pub(crate) len: usize,
    kind: u32,
}

/// Parses the head of a part. `None` if no writer writes it.
pub(crate) fn parse_part_head(head: &[u8; PART_HEAD_LEN]) -> Option<PartHead> {
    let len = usize::try_from(u32::from_le_bytes(bytes_at(head, 0)?)).ok()?;
    let kind = u32::from_le_bytes(bytes_at(head, KIND_AT)?);
    let is_possible = match kind {
        ENTRIES => (1..=PART_LEN_MAX).contains(&len),
        END => len == END_LEN,
        _ => false,
    };
    is_possible.then_some(PartHead { len, kind })
}

/// Opens the parts of one run, in order.
pub(crate) struct RunOpener(Place);

/// What an opened part has.
pub(crate) enum Part {
    Entries,
    /// The end of its run, and its tag.
    End(RunEnd, Tag),
}

impl RunOpener {
    /// As [`RunEncoder::new`].
    pub(crate) fn new(sealer: RunSealer, header: &[u8; FILE_HEADER_LEN], before: &Tag) -> Self {
        RunOpener(Place::new(sealer, header, before))
    }

    /// Opens the next part in place. `sealed` is its text and its tag.
    pub(crate) fn open(&mut self, head: PartHead, sealed: &mut [u8]) -> Result<Part, Unauthentic> {
        let Place { sealer, aad, number } = &mut self.0;
        let (text, tag) = sealed.split_last_chunk_mut().ok_or(Unauthentic)?;
        sealer.open_part(head.kind, *number, aad, text, tag)?;
        *number += 1;
        match head.kind {
            END => Ok(Part::End(parse_end(text).ok_or(Unauthentic)?, *tag)),
            _ => Ok(Part::Entries),
        }
    }
}

fn parse_end(text: &[u8]) -> Option<RunEnd> {
    let position = |number: usize| LogPosition::parse_any(&bytes_at(text, number * POSITION_LEN)?);
    let values = u64::from_le_bytes(bytes_at(text, NUMBERS_AT)?);
    let end = RunEnd {
        to: position(0)?,
        before_until: position(1)?,
        until: position(2)?,
        values,
        next_ordinal: u64::from_le_bytes(bytes_at(text, NUMBERS_AT + 8)?),
    };
    (values <= SEALINGS_MAX).then_some(end)
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;
    use crate::AgentKey;
    use crate::crypto::NONCE_LEN;
    use crate::crypto::keys::Prk;

    const ID: GenerationId = GenerationId { generation: 3, store_id: [2; 16], salt: [3; 32] };

    fn sealer() -> RunSealer {
        Prk::extract(&ID.salt, &AgentKey::new("key").unwrap()).run_sealer(&[9; 32])
    }

    fn location(number: u32) -> Location {
        let seq = NonZeroU32::new(number + 1).unwrap();
        let (value_offset, i) = (8192 + u64::from(number), number % 2);
        Location { value_offset, seq, i, len: 2 * number, nonce: [7; NONCE_LEN] }
    }

    fn end() -> RunEnd {
        let position = |seq| LogPosition { end: 8192 + 64 * seq, seq, chain: [5; TAG_LEN] };
        let [to, before_until, until] = [2, 3, 4].map(position);
        RunEnd { to, before_until, until, values: 6, next_ordinal: 7 }
    }

    type Entry = (Bucket, Vec<u8>, Option<Location>);

    fn encode(before: &Tag, entries: &[Entry]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut write = |part: &[u8]| {
            bytes.extend_from_slice(part);
            Ok(())
        };
        let mut encoder = RunEncoder::new(sealer(), &encode_header(&ID), before);
        for (bucket, key, location) in entries {
            encoder.add(*bucket, key, location.as_ref(), &mut write).unwrap();
        }
        let tag = encoder.end(&end(), &mut write).unwrap();
        assert!(bytes.ends_with(&tag));
        bytes
    }

    fn decode(before: &Tag, mut bytes: &[u8]) -> Option<(Vec<Entry>, RunEnd)> {
        let mut opener = RunOpener::new(sealer(), &encode_header(&ID), before);
        let mut entries = Vec::new();
        loop {
            let (head, rest) = bytes.split_first_chunk::<PART_HEAD_LEN>()?;
            let head = parse_part_head(head)?;
            let (sealed, rest) = rest.split_at_checked(head.len + TAG_LEN)?;
            let mut sealed = sealed.to_vec();
            if let Part::End(end, tag) = opener.open(head, &mut sealed).ok()? {
                assert!(sealed.ends_with(&tag));
                return rest.is_empty().then_some((entries, end));
            }
            let take = |bucket, key: [&[u8]; 2], location| entries.push((bucket, key.concat(), location));
            entry::parse_all(&sealed[..head.len], take)?;
            bytes = rest;
        }
    }

    #[test]
    fn a_run_of_any_length_reads_back_as_it_was_encoded_and_in_its_own_place_only() {
        for count in [0, 1, 2, 3000] {
            let entry = |number: u32| {
                let key = format!("run-{number:05}{}", "x".repeat(number as usize % 900)).into_bytes();
                (Bucket::Queue, key, (!number.is_multiple_of(3)).then(|| location(number)))
            };
            let mut entries: Vec<Entry> = (0..count).map(entry).collect();
            entries.insert(0, (Bucket::Config, b"current".to_vec(), Some(location(1))));
            let (before, other) = ([4; TAG_LEN], [5; TAG_LEN]);
            let bytes = encode(&before, &entries);
            assert_eq!(decode(&before, &bytes), Some((entries, end())));
            assert_eq!(decode(&other, &bytes), None);
            assert_eq!(decode(&before, &bytes[..bytes.len() - 1]), None);
        }
    }

    #[test]
    fn a_location_of_any_size_reads_back() {
        let mut entries: Vec<Entry> = Vec::new();
        for value_offset in [0, (1 << 40) - 1, 1 << 40, u64::MAX] {
            for (i, len) in [
                (0, 0),
                (0, (1 << 24) - 1),
                (0, 1 << 24),
                (0, u32::MAX),
                (1, 0),
                (125, 7),
                (126, 7),
                (u32::MAX - 1, 5),
            ] {
                let location = Location { value_offset, i, len, ..location(3) };
                let key = format!("run-{:02}", entries.len()).into_bytes();
                entries.push((Bucket::Queue, key, Some(location)));
            }
        }
        assert_eq!(decode(&FIRST_RUN, &encode(&FIRST_RUN, &entries)), Some((entries, end())));
    }
}
