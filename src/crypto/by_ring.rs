//! AES-256-GCM, from the crate ring: the same bytes in less time, with the feature `ring`.
//!
//! `(C, T) = AES-256-GCM-Seal(K, N, A, P)` and `P or failure = AES-256-GCM-Open(K, N, A, C, T)`, with nonces of 96
//! and tags of 128 bits: NIST SP 800-38D. Both work in place. Implements *Sealing* of FORMAT.md.

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce as GcmNonce, Tag as GcmTag, UnboundKey};

use super::{Nonce, Tag, Unauthentic};

/// The cipher with its key K, which is not wiped on drop: ring offers no way to do so.
pub(super) struct Cipher(LessSafeKey);

impl Cipher {
    pub(super) fn new(key: &[u8; 32]) -> Self {
        // Cannot fail: ring refuses only keys of another length.
        Cipher(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).expect("the key has 32 bytes")))
    }

    pub(super) fn seal(&self, nonce: &Nonce, aad: &[u8], text: &mut [u8]) -> Tag {
        let nonce = GcmNonce::assume_unique_for_key(*nonce);
        // Cannot fail: AES-GCM refuses only plaintexts over 64 GiB, and a frame is at most 64 MiB long.
        let sealed = self.0.seal_in_place_separate_tag(nonce, Aad::from(aad), text);
        let mut tag = Tag::default();
        tag.copy_from_slice(sealed.expect("a frame is shorter than 64 GiB").as_ref());
        tag
    }

    pub(super) fn open(&self, nonce: &Nonce, aad: &[u8], text: &mut [u8], tag: &Tag) -> Result<(), Unauthentic> {
        let nonce = GcmNonce::assume_unique_for_key(*nonce);
        let opened = self.0.open_in_place_separate_tag(nonce, Aad::from(aad), GcmTag::from(*tag), text, 0..);
        opened.map(drop).map_err(|_| Unauthentic)
    }
}
