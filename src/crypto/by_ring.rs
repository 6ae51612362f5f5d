//! AES-256-GCM by the crate ring, for the feature `ring`: the same bytes, in less time.

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce as GcmNonce, Tag as GcmTag, UnboundKey};

use super::{Nonce, SealBroken, Tag};

/// Not wiped on drop: ring has no way to do it.
pub(super) struct Cipher(LessSafeKey);

impl Cipher {
    pub(super) fn new(key: &[u8; 32]) -> Self {
        // ring refuses only keys of another length.
        Cipher(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).expect("the key has 32 bytes")))
    }

    pub(super) fn seal(&self, nonce: &Nonce, aad: &[u8], text: &mut [u8]) -> Tag {
        let nonce = GcmNonce::assume_unique_for_key(*nonce);
        // AES-GCM refuses only texts over 64 GiB, and a frame ends at 64 MiB.
        let sealed = self.0.seal_in_place_separate_tag(nonce, Aad::from(aad), text);
        let mut tag = Tag::default();
        tag.copy_from_slice(sealed.expect("a frame is shorter than 64 GiB").as_ref());
        tag
    }

    pub(super) fn open(&self, nonce: &Nonce, aad: &[u8], text: &mut [u8], tag: &Tag) -> Result<(), SealBroken> {
        let nonce = GcmNonce::assume_unique_for_key(*nonce);
        let opened = self.0.open_in_place_separate_tag(nonce, Aad::from(aad), GcmTag::from(*tag), text, 0..);
        opened.map(drop).map_err(|_| SealBroken)
    }
}
