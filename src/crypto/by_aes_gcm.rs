//! AES-256-GCM by the crate aes-gcm.

use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::{Aes256Gcm, Tag as GcmTag};

use super::{Nonce, SealBroken, Tag};

/// Wiped on drop.
pub(super) struct Cipher(Aes256Gcm);

impl Cipher {
    pub(super) fn new(key: &[u8; 32]) -> Self {
        Cipher(Aes256Gcm::new(key.into()))
    }

    pub(super) fn seal(&self, nonce: &Nonce, aad: &[u8], text: &mut [u8]) -> Tag {
        // AES-GCM refuses only texts over 64 GiB, and a frame ends at 64 MiB.
        self.0
            .encrypt_inout_detached(nonce.into(), aad, text.into())
            .expect("a frame is shorter than 64 GiB")
            .into()
    }

    pub(super) fn open(&self, nonce: &Nonce, aad: &[u8], text: &mut [u8], tag: &Tag) -> Result<(), SealBroken> {
        let tag: &GcmTag = tag.into();
        self.0.decrypt_inout_detached(nonce.into(), aad, text.into(), tag).map_err(|_| SealBroken)
    }
}
