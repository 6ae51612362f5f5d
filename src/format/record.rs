//! The manifest: a record's operations without their values.
//!
//! Encodes, parses and checks it in plaintext; sealing it is up to `frame.rs` and `encoding.rs`. Implements
//! *Records* of FORMAT.md.

use super::bucket::{Bucket, DROPPED_KEY, VALUE_PREFIX_LEN};
use super::bytes_at;
use crate::crypto::TAG_LEN;

// The manifest: a count, then the operations.
const COUNT_LEN: usize = 4;

// One operation: action, bucket, key length, key. In a put, the length of the value follows.
const ACTION_AT: usize = 0;
const KEY_LEN_AT: usize = 2;
const KEY_AT: usize = 4;
const VALUE_LEN_LEN: usize = 4;

const PUT: u8 = 1;
const DELETE: u8 = 2;
const DELETE_THROUGH: u8 = 3;

/// 16 MiB, as the caller passes it: four times the largest payload that an agent is known to store.
pub(crate) const VALUE_LEN_MAX: usize = 16 << 20;
/// The same with the number that the buckets config and registry store before the value.
const STORED_LEN_MAX: u32 = (16 << 20) + 8;
const _: () = assert!(STORED_LEN_MAX as usize == VALUE_LEN_MAX + VALUE_PREFIX_LEN);

/// One operation of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Operation<'a> {
    pub(crate) action: Action,
    pub(crate) bucket: Bucket,
    pub(crate) key: &'a [u8],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Put {
        value_len: u32,
    },
    Delete,
    /// Deletes every key of the bucket up to and including this one.
    DeleteThrough,
}

impl Operation<'_> {
    /// Whether it is about the count of dropped log events.
    pub(crate) fn is_drop_count(&self) -> bool {
        is_drop_count(self.bucket, self.key)
    }
}

/// Whether this is the key of the count of dropped log events.
pub(crate) fn is_drop_count(bucket: Bucket, key: &[u8]) -> bool {
    (bucket, key) == (Bucket::Registry, DROPPED_KEY)
}

/// An operation to be written. The value of a put is in two parts, which are stored one after the other, so that
/// the caller need not copy it to put a number before it.
#[derive(Clone, Copy)]
pub(crate) struct Change<'a> {
    pub(crate) operation: Operation<'a>,
    pub(crate) value: [&'a [u8]; 2],
}

impl<'a> Change<'a> {
    pub(crate) fn is_put(&self) -> bool {
        matches!(self.operation.action, Action::Put { .. })
    }

    /// The caller must have checked `body` against [`VALUE_LEN_MAX`].
    pub(crate) fn put(bucket: Bucket, key: &'a [u8], prefix: &'a [u8], body: &'a [u8]) -> Self {
        debug_assert!(body.len() <= VALUE_LEN_MAX && prefix.len() <= VALUE_PREFIX_LEN);
        #[allow(clippy::cast_possible_truncation, reason = "every caller checks it against 16 MiB")]
        let value_len = (prefix.len() + body.len()) as u32;
        Change { operation: Operation { action: Action::Put { value_len }, bucket, key }, value: [prefix, body] }
    }

    pub(crate) fn delete(bucket: Bucket, key: &'a [u8]) -> Self {
        Change { operation: Operation { action: Action::Delete, bucket, key }, value: [&[], &[]] }
    }

    pub(crate) fn delete_through(bucket: Bucket, key: &'a [u8]) -> Self {
        Change { operation: Operation { action: Action::DeleteThrough, bucket, key }, value: [&[], &[]] }
    }

    /// Whether it removes something, or is the count of dropped events, which is written together with a removal.
    pub(crate) fn frees(&self) -> bool {
        !self.is_put() || self.operation.is_drop_count()
    }
}

/// The length of the manifest of these changes, in bytes.
pub(crate) fn manifest_len(changes: &[Change<'_>]) -> u64 {
    COUNT_LEN as u64 + changes.iter().map(|change| operation_len(&change.operation)).sum::<u64>()
}

/// The length of the manifest of one delete, in bytes.
pub(crate) fn delete_manifest_len(key_len: usize) -> u64 {
    (COUNT_LEN + KEY_AT + key_len) as u64
}

/// How many bytes the operation takes in a manifest.
pub(crate) fn operation_len(operation: &Operation<'_>) -> u64 {
    let value_len_len = if matches!(operation.action, Action::Put { .. }) { VALUE_LEN_LEN } else { 0 };
    (KEY_AT + operation.key.len() + value_len_len) as u64
}

/// Appends the manifest of `changes` to `out`.
pub(crate) fn encode_manifest(changes: &[Change<'_>], out: &mut Vec<u8>) {
    #[allow(clippy::cast_possible_truncation, reason = "64 MiB, the limit of a frame, hold far fewer than 2^32")]
    out.extend_from_slice(&(changes.len() as u32).to_le_bytes());
    for Change { operation, .. } in changes {
        let action = match operation.action {
            Action::Put { .. } => PUT,
            Action::Delete => DELETE,
            Action::DeleteThrough => DELETE_THROUGH,
        };
        debug_assert!(operation.bucket.allows_key(operation.key));
        #[allow(clippy::cast_possible_truncation, reason = "keys are at most 1024 bytes")]
        let key_len = operation.key.len() as u16;
        out.extend_from_slice(&[action, operation.bucket.code()]);
        out.extend_from_slice(&key_len.to_le_bytes());
        out.extend_from_slice(operation.key);
        if let Action::Put { value_len } = operation.action {
            out.extend_from_slice(&value_len.to_le_bytes());
        }
    }
}

/// A manifest whose every operation is checked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manifest<'a> {
    operations: &'a [u8],
    count: u32,
    puts: u32,
    sealed_values_len: u64,
}

impl<'a> Manifest<'a> {
    /// Refuses a manifest that no writer of this format writes. The text says why.
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, &'static str> {
        let count = u32::from_le_bytes(bytes_at(bytes, 0).ok_or("the manifest is too short")?);
        if count == 0 {
            return Err("the manifest has no operation");
        }
        let operations = bytes.get(COUNT_LEN..).unwrap_or_default();
        let mut rest = operations;
        let (mut puts, mut sealed_values_len) = (0, 0);
        for _ in 0..count {
            if let Action::Put { value_len } = checked_operation(&mut rest)?.action {
                puts += 1;
                sealed_values_len += u64::from(value_len) + TAG_LEN as u64;
            }
        }
        if !rest.is_empty() {
            return Err("the manifest has bytes after its last operation");
        }
        Ok(Manifest { operations, count, puts, sealed_values_len })
    }

    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    /// How many of the operations are puts.
    pub(crate) fn puts(&self) -> u32 {
        self.puts
    }

    /// How many bytes all values take in the frame, with their tags.
    pub(crate) fn sealed_values_len(&self) -> u64 {
        self.sealed_values_len
    }

    pub(crate) fn operations(&self) -> impl Iterator<Item = Operation<'a>> + use<'a> {
        let mut rest = self.operations;
        // `parse` has split all of them, so the first failure is the end.
        std::iter::from_fn(move || split_operation(&mut rest).ok())
    }
}

fn checked_operation<'a>(rest: &mut &'a [u8]) -> Result<Operation<'a>, &'static str> {
    let operation = split_operation(rest)?;
    if !operation.bucket.allows_key(operation.key) {
        return Err("an operation has a key that its bucket does not allow");
    }
    if matches!(operation.action, Action::Put { value_len } if value_len > STORED_LEN_MAX) {
        return Err("a value is over its limit");
    }
    Ok(operation)
}

/// Splits the next operation off, without checking its key and the length of its value against their limits.
fn split_operation<'a>(rest: &mut &'a [u8]) -> Result<Operation<'a>, &'static str> {
    const SHORT: &str = "an operation is cut short";
    let bytes = *rest;
    let [action, bucket] = bytes_at(bytes, ACTION_AT).ok_or(SHORT)?;
    let key_len = usize::from(u16::from_le_bytes(bytes_at(bytes, KEY_LEN_AT).ok_or(SHORT)?));
    let key_end = KEY_AT + key_len;
    let key = bytes.get(KEY_AT..key_end).ok_or(SHORT)?;
    let (action, end) = match action {
        PUT => {
            let value_len = u32::from_le_bytes(bytes_at(bytes, key_end).ok_or(SHORT)?);
            (Action::Put { value_len }, key_end + VALUE_LEN_LEN)
        }
        DELETE => (Action::Delete, key_end),
        DELETE_THROUGH => (Action::DeleteThrough, key_end),
        _ => return Err("an operation is of an unknown kind"),
    };
    let bucket = Bucket::from_code(bucket).ok_or("an operation names an unknown bucket")?;
    *rest = bytes.get(end..).ok_or(SHORT)?;
    Ok(Operation { action, bucket, key })
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation, reason = "limits far below 2^32")]
mod tests {
    use super::*;
    use crate::format::bucket::{CONFIG_KEY, HEARTBEAT_KEY, LOG_KEY_LEN, RUN_ID_LEN_MAX};

    #[test]
    fn a_manifest_of_every_operation_reads_back_as_it_was_encoded() {
        let run_id = [b'r'; RUN_ID_LEN_MAX];
        let changes = [
            Change::put(Bucket::Config, CONFIG_KEY, &[7; 8], b"raw"),
            Change::put(Bucket::Queue, &run_id, &[], &[]),
            Change::put(Bucket::Registry, HEARTBEAT_KEY, &[1; 8], &[]),
            Change::delete(Bucket::Queue, b"job"),
            Change::delete_through(Bucket::Logs, &[9; LOG_KEY_LEN]),
        ];
        let mut bytes = Vec::new();
        encode_manifest(&changes, &mut bytes);
        assert_eq!(bytes.len() as u64, manifest_len(&changes));

        let manifest = Manifest::parse(&bytes).unwrap();
        assert_eq!((manifest.count(), manifest.puts()), (5, 3));
        assert_eq!(manifest.sealed_values_len(), (11 + 16) + 16 + (8 + 16));
        assert!(manifest.operations().eq(changes.iter().map(|change| change.operation)));
    }

    #[test]
    fn a_value_of_the_largest_length_is_accepted() {
        let len = (VALUE_PREFIX_LEN + VALUE_LEN_MAX) as u32;
        let bytes = [&[1, 0, 0, 0, PUT, 2, 1, 0, b'j'], &len.to_le_bytes()[..]].concat();
        assert_eq!(Manifest::parse(&bytes).unwrap().sealed_values_len(), u64::from(len) + 16);
    }

    /// One row for each reason, and for each field at which an operation can be cut short.
    #[test]
    fn each_malformed_manifest_is_refused_for_its_own_reason() {
        let too_long = (VALUE_PREFIX_LEN + VALUE_LEN_MAX + 1) as u32;
        let too_long = [&[1, 0, 0, 0, PUT, 2, 1, 0, b'j'], &too_long.to_le_bytes()[..]].concat();
        let long_key = [&[1, 0, 0, 0, DELETE, 2, 1, 4], &[b'r'; RUN_ID_LEN_MAX + 1][..]].concat();
        let rows: [(&[u8], &str); 18] = [
            (&[], "the manifest is too short"),
            (&[1, 0, 0], "the manifest is too short"),
            (&[0, 0, 0, 0], "the manifest has no operation"),
            (&[1, 0, 0, 0], "an operation is cut short"),
            (&[1, 0, 0, 0, DELETE], "an operation is cut short"),
            (&[1, 0, 0, 0, DELETE, 2, 1], "an operation is cut short"),
            (&[1, 0, 0, 0, DELETE, 2, 2, 0, b'j'], "an operation is cut short"),
            (&[1, 0, 0, 0, PUT, 2, 1, 0, b'j', 0, 0, 0], "an operation is cut short"),
            (&[2, 0, 0, 0, DELETE, 2, 1, 0, b'j'], "an operation is cut short"),
            (&[255, 255, 255, 255, DELETE, 2, 1, 0, b'j'], "an operation is cut short"),
            (&[1, 0, 0, 0, DELETE, 2, 1, 0, b'j', 0], "the manifest has bytes after its last operation"),
            (&[1, 0, 0, 0, 0, 2, 1, 0, b'j'], "an operation is of an unknown kind"),
            (&[1, 0, 0, 0, 4, 2, 1, 0, b'j'], "an operation is of an unknown kind"),
            (&[1, 0, 0, 0, DELETE, 0, 1, 0, b'j'], "an operation names an unknown bucket"),
            (&[1, 0, 0, 0, DELETE, 6, 1, 0, b'j'], "an operation names an unknown bucket"),
            (&[1, 0, 0, 0, DELETE_THROUGH, 2, 0, 0], "an operation has a key that its bucket does not allow"),
            (&long_key, "an operation has a key that its bucket does not allow"),
            (&too_long, "a value is over its limit"),
        ];
        for (bytes, reason) in rows {
            assert_eq!(Manifest::parse(bytes).unwrap_err(), reason, "{bytes:?}");
        }
    }
}
