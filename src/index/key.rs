//! A key as the index stores it: a short one inside the map's own nodes, so that comparing it follows no pointer.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::ops::Deref;

/// What fits into a `Key` of 40 bytes. A UUID with hyphens has 36.
const SHORT_LEN_MAX: usize = 38;

/// The bytes of a key. Compares as the bytes do.
#[derive(Clone)]
pub(crate) enum Key {
    /// The bytes after the first `len` are zero.
    Short { len: u8, bytes: [u8; SHORT_LEN_MAX] },
    /// More than `SHORT_LEN_MAX` bytes.
    Long(Box<[u8]>),
}

const _: () = assert!(size_of::<Key>() == 40);

impl Key {
    /// Appends to the key in place.
    pub(super) fn append(&mut self, more: &[u8]) {
        *self = match self {
            Key::Short { len, bytes } => {
                let old_len = usize::from(*len);
                let new_len = old_len + more.len();
                if let (Some(to), Ok(new_len)) = (bytes.get_mut(old_len..new_len), u8::try_from(new_len)) {
                    to.copy_from_slice(more);
                    *len = new_len;
                    return;
                }
                Key::Long([&bytes[..old_len], more].concat().into())
            }
            Key::Long(bytes) => Key::Long([bytes, more].concat().into()),
        };
    }

    /// The first 8 bytes as a number that compares as they do. A shorter key is extended with zeros.
    fn head(&self) -> u64 {
        let bytes: &[u8] = match self {
            Key::Short { bytes, .. } => bytes,
            Key::Long(bytes) => bytes,
        };
        // Both have at least 8 bytes: a long key has more than `SHORT_LEN_MAX`.
        bytes.first_chunk().map_or(0, |head| u64::from_be_bytes(*head))
    }
}

/// The first 8 bytes as a number that compares as they do. Fewer are extended with zeros.
pub(super) fn head_of(bytes: &[u8]) -> u64 {
    let head = bytes.first_chunk().copied().unwrap_or_else(|| {
        let mut head = [0; 8];
        head.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        head
    });
    u64::from_be_bytes(head)
}

impl Default for Key {
    fn default() -> Self {
        Key::Short { len: 0, bytes: [0; SHORT_LEN_MAX] }
    }
}

impl From<&[u8]> for Key {
    fn from(key: &[u8]) -> Self {
        let mut new = Key::default();
        new.append(key);
        new
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
        // If the heads differ, the keys compare as their heads do: the zeros that extend a short key are the
        // lowest bytes. Most comparisons end here.
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
    fn a_key_has_the_bytes_it_was_made_of_and_compares_as_they_do() {
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
            for at in 0..=a.len() {
                let mut appended = Key::from(&a[..at]);
                appended.append(&a[at..]);
                assert!(appended == key, "{a:?} at {at}");
            }
            for b in &keys {
                assert_eq!(key.cmp(&Key::from(*b)), a.cmp(b), "{a:?}, {b:?}");
                assert_eq!(key == Key::from(*b), a == b, "{a:?}, {b:?}");
            }
        }
    }
}
