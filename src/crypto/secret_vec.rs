//! Buffers of plaintext that leave no copy of it behind in freed memory as they grow.

use std::ops::{Deref, DerefMut};

/// Bytes that are wiped when they are dropped, with what they held before they were made shorter. As `Zeroizing` does, but by
/// words: that one takes a step for each byte, as long as sealing it takes.
#[derive(Default)]
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

/// Makes room for `more` bytes behind what `text` holds, and for no more than that.
pub(crate) fn reserve(text: &mut SecretVec, more: usize) {
    if text.capacity() - text.len() < more {
        // Growing in place would free the old buffer without wiping it.
        let mut larger = SecretVec(Vec::with_capacity(text.len() + more));
        larger.extend_from_slice(text);
        *text = larger;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_keeps_what_it_holds_and_grows_by_what_is_asked_for() {
        let mut text = SecretVec::from(b"held".to_vec());
        reserve(&mut text, 100);
        assert_eq!((&text[..], text.capacity()), (&b"held"[..], 104));
        let at = text.as_ptr();
        reserve(&mut text, 100);
        text.extend_from_slice(&[7; 100]);
        assert_eq!((text.as_ptr(), text.len()), (at, 104));
    }
}
