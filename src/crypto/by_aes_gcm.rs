//! AES-256-GCM, from the crate aes-gcm.
//!
//! `(C, T) = AES-256-GCM-Seal(K, N, A, P)` and `P or failure = AES-256-GCM-Open(K, N, A, C, T)`, with nonces of 96
//! and tags of 128 bits: NIST SP 800-38D. Both work in place. Implements *Sealing* of FORMAT.md.

use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::{Aes256Gcm, Tag as GcmTag};

use super::{Nonce, Tag, Unauthentic};

/// The cipher with its key K. The crate wipes the key on drop.
pub(super) struct Cipher(Aes256Gcm);

impl Cipher {
    pub(super) fn new(key: &[u8; 32]) -> Self {
        Cipher(Aes256Gcm::new(key.into()))
    }

    pub(super) fn seal(&self, nonce: &Nonce, aad: &[u8], text: &mut [u8]) -> Tag {
        // Cannot fail: AES-GCM refuses only plaintexts over 64 GiB, and a frame is at most 64 MiB long.
        self.0
            .encrypt_inout_detached(nonce.into(), aad, text.into())
            .expect("a frame is shorter than 64 GiB")
            .into()
    }

    pub(super) fn open(&self, nonce: &Nonce, aad: &[u8], text: &mut [u8], tag: &Tag) -> Result<(), Unauthentic> {
        let tag: &GcmTag = tag.into();
        self.0.decrypt_inout_detached(nonce.into(), aad, text.into(), tag).map_err(|_| Unauthentic)
    }
}
