//! Buffers of plaintext that leave no copy of it behind in freed memory as they grow.

use zeroize::Zeroizing;

/// Bytes that are wiped when they are dropped.
pub(crate) type Wiped = Zeroizing<Vec<u8>>;

/// Makes room for `more` bytes behind what `text` holds, and for no more than that.
pub(crate) fn reserve(text: &mut Wiped, more: usize) {
    if text.capacity() - text.len() < more {
        // Growing in place would free the old buffer without wiping it.
        let mut larger = Zeroizing::new(Vec::with_capacity(text.len() + more));
        larger.extend_from_slice(text);
        *text = larger;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_keeps_what_it_holds_and_grows_by_what_is_asked_for() {
        let mut text = Zeroizing::new(b"held".to_vec());
        reserve(&mut text, 100);
        assert_eq!((&**text, text.capacity()), (&b"held"[..], 104));
        let at = text.as_ptr();
        reserve(&mut text, 100);
        text.extend_from_slice(&[7; 100]);
        assert_eq!((text.as_ptr(), text.len()), (at, 104));
    }
}
