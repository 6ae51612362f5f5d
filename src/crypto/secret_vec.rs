//! Buffers for plaintext that leave no copy of it in freed memory, when they grow and when they are dropped.
//!
//! What the caller copies out of one is the caller's to wipe.

use std::ops::{Deref, DerefMut};

/// Bytes that are wiped on drop, up to the buffer's capacity: also what was in it before it was made shorter.
///
/// `Zeroizing<Vec<u8>>` does the same byte by byte, which takes as long as sealing the bytes; this does it by
/// words.
///
/// Only [`reserve`] makes it larger without leaving a copy: a `Vec` method that grows it would free the old buffer
/// unwiped.
#[derive(Clone, Default)]
pub(crate) struct SecretVec(Vec<u8>);

impl From<Vec<u8>> for SecretVec {
    fn from(bytes: Vec<u8>) -> Self {
        SecretVec(bytes)
    }
}

impl Deref for SecretVec {
    type Target = Vec<u8>;

    fn deref(&self) -> &Vec<u8> {
        &self.0
    }
}

impl DerefMut for SecretVec {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }
}

impl Drop for SecretVec {
    fn drop(&mut self) {
        self.0.resize(self.0.capacity(), 0);
        zeroize::zeroize_bytes(&mut self.0);
    }
}

/// Makes room for `more` bytes after those in `text`, and no more than that. A buffer that is too small is wiped
/// and replaced.
pub(crate) fn reserve(text: &mut SecretVec, more: usize) {
    if text.capacity() - text.len() < more {
        // `Vec::reserve` would free the old buffer without wiping it.
        let mut larger = SecretVec(Vec::with_capacity(text.len() + more));
        larger.extend_from_slice(text);
        *text = larger;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserve_keeps_the_contents_and_makes_exactly_the_room_asked_for() {
        let mut text = SecretVec::from(b"held".to_vec());
        reserve(&mut text, 100);
        assert_eq!((&text[..], text.capacity()), (&b"held"[..], 104));
        let at = text.as_ptr();
        reserve(&mut text, 100);
        text.extend_from_slice(&[7; 100]);
        assert_eq!((text.as_ptr(), text.len()), (at, 104));
    }
}
