//! A key as the index keeps it: inside the map where it is short, so that comparing follows no pointer.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::ops::Deref;

/// Up to the length of a UUID with its hyphens and a little more: what fits into 40 bytes.
const SHORT_LEN_MAX: usize = 38;

#[derive(Clone)]
pub(crate) enum Key {
    /// Zeros behind the first `len` bytes.
    Short {
        len: u8,
        bytes: [u8; SHORT_LEN_MAX],
    },
    Long(Box<[u8]>),
}

const _: () = assert!(size_of::<Key>() == 40);

impl Key {
    /// The first bytes as a number that compares as they do; zeros behind a shorter key.
    fn head(&self) -> u64 {
        let bytes: &[u8] = match self {
            Key::Short { bytes, .. } => bytes,
            Key::Long(bytes) => bytes,
        };
        // A long key has more than 38.
        bytes.first_chunk().map_or(0, |head| u64::from_be_bytes(*head))
    }

    /// As [`head`](Self::head), of what is left without so many bytes at the front.
    pub(super) fn head_after(&self, prefix_len: usize) -> u64 {
        let rest = self.get(prefix_len..).unwrap_or_default();
        let mut head = [0; 8];
        let len = rest.len().min(head.len());
        head[..len].copy_from_slice(&rest[..len]);
        u64::from_be_bytes(head)
    }
}

impl From<&[u8]> for Key {
    fn from(key: &[u8]) -> Self {
        let mut bytes = [0; SHORT_LEN_MAX];
        match (bytes.get_mut(..key.len()), u8::try_from(key.len())) {
            (Some(start), Ok(len)) => {
                start.copy_from_slice(key);
                Key::Short { len, bytes }
            }
            _ => Key::Long(key.into()),
        }
    }
}

impl Deref for Key {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Key::Short { len, bytes } => bytes.get(..usize::from(*len)).unwrap_or(bytes),
            Key::Long(bytes) => bytes,
        }
    }
}

impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        self
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        // Where the heads differ, so do the keys, and in the same way: a zero behind a key's end is below any byte but zero.
        self.head().cmp(&other.head()).then_with(|| (**self).cmp(other))
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.head() == other.head() && **self == **other
    }
}

impl Eq for Key {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_what_they_were_made_of_and_compare_as_their_bytes_do() {
        let long = [7; 1024];
        let mut keys: Vec<&[u8]> = vec![
            b"",
            b"\0",
            b"\0\0",
            b"a",
            b"a\0",
            b"a\0b",
            b"ab",
            b"abcdefg",
            b"abcdefg\0",
            b"abcdefg\0\0",
            b"abcdefgh",
            b"abcdefghi",
            b"\xff",
            b"\xff\xff\xff\xff\xff\xff\xff\xff",
            &long[..37],
            &long[..38],
            &long[..39],
            &long,
        ];
        keys.sort_unstable();
        for a in &keys {
            let key = Key::from(*a);
            assert_eq!(&*key, *a);
            for b in &keys {
                assert_eq!(key.cmp(&Key::from(*b)), a.cmp(b), "{a:?}, {b:?}");
                assert_eq!(key == Key::from(*b), a == b, "{a:?}, {b:?}");
            }
        }
    }
}
