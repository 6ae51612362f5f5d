//! The bytes of an entry of the index file: a key, with the place of its value, or that it was deleted.
//!
//! Of a key, only what it does not share with the key before it is in the file. So entries are encoded and
//! parsed in their order, each part from its first one on. Implements the entries of *Appendix: the index file*
//! of FORMAT.md.

use std::num::NonZeroU32;

use crate::crypto::NONCE_LEN;
use crate::format::bucket::{Bucket, RUN_ID_LEN_MAX};
use crate::format::bytes_at;
use crate::format::frame::SEQ_MAX;
use crate::format::location::Location;

// The head, the rest of the key, and of a put the location. The head has, from its lowest bit on: how many bytes
// of the key are those of the key before it, how many others follow, the bucket, and the kind.
const KEY_AT: usize = 4;
const REST_LEN_BIT: u32 = 11;
const BUCKET_BIT: u32 = 22;
const KIND_BIT: u32 = 25;
const KEY_LEN_MASK: u32 = (1 << REST_LEN_BIT) - 1;
const _: () = assert!(RUN_ID_LEN_MAX <= KEY_LEN_MASK as usize);
const DELETE: u32 = 0;
const PUT: u32 = 1;
/// This kind and those above it are short puts. Each is that of one `i`, from 0, and the offset and the length of
/// the value share 8 bytes.
const SHORT_PUT: u32 = 2;
const SHORT_PUTS: u32 = (1 << (u32::BITS - KIND_BIT)) - SHORT_PUT;
const VALUE_LEN_BIT: u32 = 40;
const SHORT_LOCATION_LEN: usize = 8 + 4 + NONCE_LEN;
const LOCATION_LEN: usize = 8 + 4 + 4 + 4 + NONCE_LEN;
pub(crate) const ENTRY_LEN_MAX: usize = KEY_AT + RUN_ID_LEN_MAX + LOCATION_LEN;

/// Appends an entry to the text of a part, which has room for [`ENTRY_LEN_MAX`] bytes: a key, with the place of
/// its value, or `None` if it was deleted. `last_key` is the key of the entry before, empty if there is none,
/// and becomes `key`.
pub(crate) fn encode(
    text: &mut Vec<u8>,
    last_key: &mut Vec<u8>,
    bucket: Bucket,
    key: &[u8],
    location: Option<&Location>,
) {
    let shared = last_key.iter().zip(key).take_while(|(a, b)| a == b).count();
    let rest = key.get(shared..).unwrap_or_default();
    let kind = location.map_or(DELETE, kind_of);
    text.extend_from_slice(&encode_head(shared, rest.len(), bucket.code(), kind));
    text.extend_from_slice(rest);
    if let Some(Location { value_offset, seq, i, len, nonce }) = location {
        let short_len = if kind == PUT { 0 } else { u64::from(*len) << VALUE_LEN_BIT };
        text.extend_from_slice(&(value_offset | short_len).to_le_bytes());
        text.extend_from_slice(&seq.get().to_le_bytes());
        if kind == PUT {
            text.extend_from_slice(&i.to_le_bytes());
            text.extend_from_slice(&len.to_le_bytes());
        }
        text.extend_from_slice(nonce);
    }
    last_key.truncate(shared);
    last_key.extend_from_slice(rest);
}

fn encode_head(shared: usize, rest_len: usize, bucket: u8, kind: u32) -> [u8; KEY_AT] {
    #[allow(clippy::cast_possible_truncation, reason = "a key has at most 1024 bytes")]
    let [shared, rest_len] = [shared as u32, rest_len as u32];
    (shared | rest_len << REST_LEN_BIT | u32::from(bucket) << BUCKET_BIT | kind << KIND_BIT).to_le_bytes()
}

/// The kind of a put.
fn kind_of(Location { value_offset, i, len, .. }: &Location) -> u32 {
    let is_short =
        *i < SHORT_PUTS && *value_offset < 1 << VALUE_LEN_BIT && *len < 1 << (u64::BITS - VALUE_LEN_BIT);
    if is_short { SHORT_PUT + i } else { PUT }
}

/// Hands the entries in the text of a part to `take`, each key as what it shares with the key before it, and the
/// rest. `None` if no writer writes the text.
pub(crate) fn parse_all(
    mut text: &[u8],
    mut take: impl FnMut(Bucket, [&[u8]; 2], Option<Location>),
) -> Option<()> {
    let mut key = Vec::with_capacity(RUN_ID_LEN_MAX);
    // Whether all keys were, so that only the rest of the next one must be looked at.
    let mut are_ascii = true;
    while !text.is_empty() {
        let head = u32::from_le_bytes(bytes_at(text, 0)?);
        let [shared, rest_len] = [head, head >> REST_LEN_BIT].map(|len| (len & KEY_LEN_MASK) as usize);
        let kind = head >> KIND_BIT;
        #[allow(clippy::cast_possible_truncation, reason = "three bits")]
        let bucket = Bucket::from_code((head >> BUCKET_BIT & 0b111) as u8)?;
        if shared > key.len() {
            return None;
        }
        let rest = text.get(KEY_AT..KEY_AT + rest_len)?;
        text = text.get(KEY_AT + rest_len..)?;
        key.truncate(shared);
        key.extend_from_slice(rest);
        are_ascii &= rest.is_ascii();
        let is_allowed = if are_ascii { bucket.allows_ascii(&key) } else { bucket.allows_key(&key) };
        if !is_allowed {
            return None;
        }
        let location = match kind {
            DELETE => None,
            PUT => Some(parse_location(take_chunk(&mut text)?)?),
            short => Some(parse_short_location(take_chunk(&mut text)?, short - SHORT_PUT)?),
        };
        if location.is_some_and(|location| location.seq() > SEQ_MAX || location.i == u32::MAX) {
            return None;
        }
        take(bucket, [key.get(..shared)?, rest], location);
    }
    Some(())
}

/// Takes the first `N` bytes off `text`.
fn take_chunk<'a, const N: usize>(text: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    let (chunk, rest) = text.split_first_chunk()?;
    *text = rest;
    Some(chunk)
}

fn parse_short_location(bytes: &[u8; SHORT_LOCATION_LEN], i: u32) -> Option<Location> {
    let range = u64::from_le_bytes(bytes_at(bytes, 0)?);
    Some(Location {
        value_offset: range & ((1 << VALUE_LEN_BIT) - 1),
        seq: NonZeroU32::new(u32::from_le_bytes(bytes_at(bytes, 8)?))?,
        i,
        #[allow(clippy::cast_possible_truncation, reason = "24 bits")]
        len: (range >> VALUE_LEN_BIT) as u32,
        nonce: bytes_at(bytes, 12)?,
    })
}

fn parse_location(bytes: &[u8; LOCATION_LEN]) -> Option<Location> {
    let number = |at| Some(u32::from_le_bytes(bytes_at(bytes, at)?));
    Some(Location {
        value_offset: u64::from_le_bytes(bytes_at(bytes, 0)?),
        seq: NonZeroU32::new(number(8)?)?,
        i: number(12)?,
        len: number(16)?,
        nonce: bytes_at(bytes, 20)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_that_no_writer_writes_are_refused() {
        let entry = |shared: usize, key: &[u8], bucket: u8, kind: u32| {
            [&encode_head(shared, key.len(), bucket, kind)[..], key].concat()
        };
        // At offset 0, of frame 1, without a length.
        let put = |key: &[u8]| [&entry(0, key, 2, PUT)[..], &[0; 8], &[1, 0, 0, 0], &[0; 20]].concat();
        let short_put = |key: &[u8]| [&entry(0, key, 2, SHORT_PUT)[..], &[0; 8], &[1, 0, 0, 0], &[0; 12]].concat();
        let parse = |text: &[u8]| parse_all(text, |_, _, _| {});
        for whole in [put(b"run"), short_put(b"run"), entry(0, b"run", 2, DELETE)] {
            assert_eq!(parse(&whole), Some(()));
            assert_eq!(parse(&[whole.clone(), entry(3, b"s", 2, DELETE)].concat()), Some(()));
            assert_eq!(parse(&[whole.clone(), entry(4, b"s", 2, DELETE)].concat()), None, "a prefix of no key");
            for len in 1..whole.len() {
                assert_eq!(parse(&whole[..len]), None, "cut to {len}");
            }
        }
        for whole in [put(b"run"), short_put(b"run")] {
            // The number of no frame.
            for (at, value) in [(4 + 3 + 8, 0), (4 + 3 + 11, 0x80)] {
                let mut text = whole.clone();
                text[at] = value;
                assert_eq!(parse(&text), None, "{value} at {at}");
            }
        }
        // More values than a frame can have.
        let mut text = put(b"run");
        text[4 + 3 + 12..][..4].fill(0xFF);
        assert_eq!(parse(&text), None, "the value after the last one");
        assert_eq!(parse(&entry(1, b"run", 2, DELETE)), None, "a prefix of no key");
        assert_eq!(parse(&entry(0, b"run", 6, DELETE)), None, "no bucket");
        // The first byte of two, and another character.
        let two_bytes = put("\u{e9}".as_bytes());
        assert_eq!(parse(&two_bytes), Some(()));
        assert_eq!(parse(&[two_bytes, entry(1, b"s", 2, DELETE)].concat()), None);
        assert_eq!(parse(&put(b"")), None);
        assert_eq!(parse(&put(&[0xFF])), None);
        assert_eq!(parse(&entry(0, b"k", 4, DELETE)), None);
    }
}
