//! All cryptography: key derivation, nonces, associated data, the chain. The only user of the crypto crates.
//!
//! Implements the sections *Keys* and *Sealing* of FORMAT.md. Does no I/O; random bytes are handed in.
//!
//! - HKDF-SHA-256: RFC 5869. `HKDF-Extract(salt, IKM) -> PRK`, `HKDF-Expand(PRK, info, L) -> OKM`.
//! - AES-256-GCM with 96-bit nonces and 128-bit tags: NIST SP 800-38D.

use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::{Aes256Gcm, Tag as GcmTag};
use ctutils::CtEq;
use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::{Zeroize, Zeroizing};

use crate::AgentKey;

/// What AES-256-GCM puts behind a ciphertext.
pub(crate) const TAG_LEN: usize = 16;
/// A 96-bit nonce.
pub(crate) const NONCE_LEN: usize = 12;
/// What is sealed with a manifest: its frame's header from `len` on, and the chain.
pub(crate) const MANIFEST_AAD_LEN: usize = 40 + TAG_LEN;

pub(crate) type Tag = [u8; TAG_LEN];
pub(crate) type Nonce = [u8; NONCE_LEN];

/// The seal did not fit: other bytes, another place or another key.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct SealBroken;

/// What a generation is derived from, besides the agent key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GenerationId {
    pub(crate) generation: u64,
    pub(crate) store_id: [u8; 16],
    pub(crate) salt: [u8; 32],
}

/// HKDF-Extract of one generation: derives its header authenticator and its frame key.
pub(crate) struct Prk(Hkdf<Sha256>);

impl Prk {
    /// PRK = HKDF-Extract(salt, agent key).
    pub(crate) fn extract(salt: &[u8; 32], key: &AgentKey) -> Self {
        let (mut prk, hkdf) = Hkdf::<Sha256>::extract(Some(salt), key.as_bytes());
        prk.as_mut_slice().zeroize();
        Prk(hkdf)
    }

    /// HKDF-Expand(PRK, "backupy-state v1 header" || header bytes 0..80, 32).
    pub(crate) fn authenticator(&self, header: &[u8; 80]) -> [u8; 32] {
        let mut authenticator = [0; 32];
        self.expand(&[b"backupy-state v1 header", header], &mut authenticator);
        authenticator
    }

    /// HKDF-Expand(PRK, "backupy-state v1 frames" || store id || generation as u64, 32), ready to seal.
    pub(crate) fn frame_sealer(&self, id: &GenerationId) -> Sealer {
        let mut key = Zeroizing::new([0; 32]);
        let info: [&[u8]; 3] = [b"backupy-state v1 frames", &id.store_id, &id.generation.to_le_bytes()];
        self.expand(&info, &mut key);
        Sealer(Aes256Gcm::new((&*key).into()))
    }

    fn expand(&self, info: &[&[u8]], out: &mut [u8; 32]) {
        // HKDF-Expand refuses only more than 255 hash lengths, and this asks for one.
        self.0.expand_multi_info(info, out).expect("32 bytes are within the limit of HKDF-Expand");
    }
}

/// Compares in a time that does not tell where the difference is.
pub(crate) fn equal_in_constant_time(a: &[u8; 32], b: &[u8; 32]) -> bool {
    a.ct_eq(b).to_bool()
}

/// Seals and opens the manifests and values of one generation. Wiped on drop.
pub(crate) struct Sealer(Aes256Gcm);

impl Sealer {
    /// Seals in place: nonce N, AAD = header bytes 8..48 || previous frame's manifest tag.
    pub(crate) fn seal_manifest(&self, nonce: &Nonce, aad: &[u8; MANIFEST_AAD_LEN], text: &mut [u8]) -> Tag {
        self.seal(nonce, aad, text)
    }

    /// Opens in place what [`seal_manifest`](Self::seal_manifest) sealed.
    pub(crate) fn open_manifest(
        &self,
        nonce: &Nonce,
        aad: &[u8; MANIFEST_AAD_LEN],
        text: &mut [u8],
        tag: &Tag,
    ) -> Result<(), SealBroken> {
        self.open(nonce, aad, text, tag)
    }

    /// Seals value `i` of frame `seq` in place: nonce N with its last 4 bytes XOR (i + 1), AAD = seq || i.
    pub(crate) fn seal_value(&self, frame_nonce: &Nonce, seq: u64, i: u32, text: &mut [u8]) -> Tag {
        self.seal(&value_nonce(frame_nonce, i), &value_aad(seq, i), text)
    }

    /// Opens in place what [`seal_value`](Self::seal_value) sealed.
    pub(crate) fn open_value(
        &self,
        frame_nonce: &Nonce,
        seq: u64,
        i: u32,
        text: &mut [u8],
        tag: &Tag,
    ) -> Result<(), SealBroken> {
        self.open(&value_nonce(frame_nonce, i), &value_aad(seq, i), text, tag)
    }

    fn seal(&self, nonce: &Nonce, aad: &[u8], text: &mut [u8]) -> Tag {
        // AES-GCM refuses only texts over 64 GiB, and a frame ends at 64 MiB.
        self.0
            .encrypt_inout_detached(nonce.into(), aad, text.into())
            .expect("a frame is shorter than 64 GiB")
            .into()
    }

    fn open(&self, nonce: &Nonce, aad: &[u8], text: &mut [u8], tag: &Tag) -> Result<(), SealBroken> {
        let tag: &GcmTag = tag.into();
        self.0.decrypt_inout_detached(nonce.into(), aad, text.into(), tag).map_err(|_| SealBroken)
    }
}

fn value_nonce(frame_nonce: &Nonce, i: u32) -> Nonce {
    let [head @ .., a, b, c, d] = *frame_nonce;
    let [a, b, c, d] = (u32::from_be_bytes([a, b, c, d]) ^ (i + 1)).to_be_bytes();
    let mut nonce = [0; NONCE_LEN];
    nonce[..8].copy_from_slice(&head);
    nonce[8..].copy_from_slice(&[a, b, c, d]);
    nonce
}

fn value_aad(seq: u64, i: u32) -> [u8; 12] {
    let mut aad = [0; 12];
    aad[..8].copy_from_slice(&seq.to_le_bytes());
    aad[8..].copy_from_slice(&i.to_le_bytes());
    aad
}
