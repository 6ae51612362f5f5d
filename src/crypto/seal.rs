//! All cryptography: key derivation, nonces, associated data, the chain. The only user of the crypto crates.
//!
//! Implements the sections *Keys* and *Sealing* of FORMAT.md. Does no I/O; random bytes are handed in.
//!
//! - HKDF-SHA-256: RFC 5869. `HKDF-Extract(salt, IKM) -> PRK`, `HKDF-Expand(PRK, info, L) -> OKM`.
//! - AES-256-GCM with 96-bit nonces and 128-bit tags: NIST SP 800-38D.

#[cfg(not(feature = "ring"))]
use super::by_aes_gcm::Cipher;
#[cfg(feature = "ring")]
use super::by_ring::Cipher;
use ctutils::CtEq;
use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::{Zeroize, Zeroizing};

use super::{NONCE_LEN, Nonce, SealBroken, TAG_LEN, Tag};
use crate::AgentKey;

/// What is sealed with a manifest: its frame's header from `len` on, and the chain.
pub(crate) const MANIFEST_AAD_LEN: usize = 40 + TAG_LEN;

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
        Sealer(Cipher::new(&key))
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

/// Seals and opens the manifests and values of one generation. Wiped on drop, as far as the cipher does that.
pub(crate) struct Sealer(Cipher);

impl Sealer {
    /// Seals in place: nonce N, AAD = header bytes 8..48 || previous frame's manifest tag.
    pub(crate) fn seal_manifest(&self, nonce: &Nonce, aad: &[u8; MANIFEST_AAD_LEN], text: &mut [u8]) -> Tag {
        self.0.seal(nonce, aad, text)
    }

    /// Opens in place what [`seal_manifest`](Self::seal_manifest) sealed.
    pub(crate) fn open_manifest(
        &self,
        nonce: &Nonce,
        aad: &[u8; MANIFEST_AAD_LEN],
        text: &mut [u8],
        tag: &Tag,
    ) -> Result<(), SealBroken> {
        self.0.open(nonce, aad, text, tag)
    }

    /// Seals value `i` of frame `seq` in place: nonce N with its last 4 bytes XOR (i + 1), AAD = seq || i.
    pub(crate) fn seal_value(&self, frame_nonce: &Nonce, seq: u64, i: u32, text: &mut [u8]) -> Tag {
        self.0.seal(&value_nonce(frame_nonce, i), &value_aad(seq, i), text)
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
        self.0.open(&value_nonce(frame_nonce, i), &value_aad(seq, i), text, tag)
    }
}

/// Opens the values of the agent that kept its state in bbolt.
#[cfg(feature = "import-bolt")]
pub(crate) struct BoltOpener(Cipher);

#[cfg(feature = "import-bolt")]
impl BoltOpener {
    /// HKDF(salt = "backupy-agent-state-salt", IKM = agent key, info = "backupy-agent/state-v1", 32).
    pub(crate) fn new(key: &AgentKey) -> Self {
        let (mut prk, hkdf) = Hkdf::<Sha256>::extract(Some(b"backupy-agent-state-salt"), key.as_bytes());
        prk.as_mut_slice().zeroize();
        let mut key = Zeroizing::new([0; 32]);
        Prk(hkdf).expand(&[b"backupy-agent/state-v1"], &mut key);
        BoltOpener(Cipher::new(&key))
    }

    /// Opens in place: the value's own nonce, no associated data.
    pub(crate) fn open(&self, nonce: &Nonce, text: &mut [u8], tag: &Tag) -> Result<(), SealBroken> {
        self.0.open(nonce, &[], text, tag)
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

#[cfg(test)]
mod tests {
    use super::*;

    const ID: GenerationId = GenerationId { generation: 1, store_id: [2; 16], salt: [3; 32] };
    const NONCE: Nonce = [0xF0; NONCE_LEN];
    const AAD: [u8; MANIFEST_AAD_LEN] = [5; MANIFEST_AAD_LEN];

    fn prk(key: &str, id: &GenerationId) -> Prk {
        Prk::extract(&id.salt, &AgentKey::new(key).unwrap())
    }

    fn sealer() -> Sealer {
        prk("key", &ID).frame_sealer(&ID)
    }

    #[test]
    fn a_manifest_opens_under_its_own_nonce_data_tag_and_key_only() {
        let mut sealed = *b"manifest";
        let tag = sealer().seal_manifest(&NONCE, &AAD, &mut sealed);
        let open = |sealer: Sealer, nonce: Nonce, aad: [u8; MANIFEST_AAD_LEN], mut text: [u8; 8], tag: Tag| {
            sealer.open_manifest(&nonce, &aad, &mut text, &tag).map(|()| text)
        };
        assert_eq!(open(sealer(), NONCE, AAD, sealed, tag), Ok(*b"manifest"));

        let (mut nonce, mut aad, mut text, mut other) = (NONCE, AAD, sealed, tag);
        for byte in [&mut nonce[11], &mut aad[55], &mut text[7], &mut other[15]] {
            *byte ^= 1;
        }
        assert_eq!(open(sealer(), nonce, AAD, sealed, tag), Err(SealBroken));
        assert_eq!(open(sealer(), NONCE, aad, sealed, tag), Err(SealBroken));
        assert_eq!(open(sealer(), NONCE, AAD, text, tag), Err(SealBroken));
        assert_eq!(open(sealer(), NONCE, AAD, sealed, other), Err(SealBroken));
        assert_eq!(open(prk("kez", &ID).frame_sealer(&ID), NONCE, AAD, sealed, tag), Err(SealBroken));
    }

    #[test]
    fn the_frame_key_depends_on_all_of_the_generations_id() {
        let mut sealed = *b"manifest";
        let tag = sealer().seal_manifest(&NONCE, &AAD, &mut sealed);
        let others = [
            GenerationId { generation: 2, ..ID },
            GenerationId { store_id: [0; 16], ..ID },
            GenerationId { salt: [0; 32], ..ID },
        ];
        for id in others {
            let opened = prk("key", &id).frame_sealer(&id).open_manifest(&NONCE, &AAD, &mut sealed.clone(), &tag);
            assert_eq!(opened, Err(SealBroken), "{id:?}");
        }
    }

    #[test]
    fn a_value_opens_in_its_own_place_only() {
        let mut sealed = *b"value";
        let tag = sealer().seal_value(&NONCE, 7, 1, &mut sealed);
        let open = |nonce, seq, i| {
            let mut text = sealed;
            sealer().open_value(nonce, seq, i, &mut text, &tag).map(|()| text)
        };
        assert_eq!(open(&NONCE, 7, 1), Ok(*b"value"));
        assert_eq!(open(&NONCE, 8, 1), Err(SealBroken));
        assert_eq!(open(&NONCE, 7, 0), Err(SealBroken));
        assert_eq!(open(&[0xF1; NONCE_LEN], 7, 1), Err(SealBroken));
        // The nonces of 0xF1 and 0xF0 frames can meet; then the associated data still tells the places apart.
        let mut meeting = NONCE;
        meeting[11] ^= 2 ^ 1;
        assert_eq!(value_nonce(&meeting, 0), value_nonce(&NONCE, 1));
        assert_eq!(open(&meeting, 7, 0), Err(SealBroken));
    }

    #[cfg(feature = "ring")]
    #[test]
    fn each_cipher_opens_what_the_other_has_sealed() {
        let key = [0xA5; 32];
        let (ours, theirs) =
            (super::super::by_aes_gcm::Cipher::new(&key), super::super::by_ring::Cipher::new(&key));
        for len in (0..300).chain([4096, 70_001]) {
            let text: Vec<u8> = (0..=250).cycle().take(len).collect();
            let aad = &text[..len.min(56)];
            let (mut a, mut b) = (text.clone(), text.clone());
            let tag = ours.seal(&NONCE, aad, &mut a);
            assert_eq!((theirs.seal(&NONCE, aad, &mut b), &b), (tag, &a));
            let mut other = tag;
            other[15] ^= 1;
            assert_eq!(ours.open(&NONCE, aad, &mut a.clone(), &other), Err(SealBroken));
            assert_eq!(theirs.open(&NONCE, aad, &mut b.clone(), &other), Err(SealBroken));
            assert_eq!(theirs.open(&NONCE, aad, &mut a, &tag), Ok(()));
            assert_eq!(ours.open(&NONCE, aad, &mut b, &tag), Ok(()));
            assert_eq!((a, b), (text.clone(), text));
        }
    }

    #[test]
    fn no_two_nonces_of_a_frame_are_alike() {
        let mut nonces: Vec<_> = (0..1000).map(|i| value_nonce(&NONCE, i)).chain([NONCE]).collect();
        nonces.sort_unstable();
        nonces.dedup();
        assert_eq!(nonces.len(), 1001);
        assert_eq!(value_nonce(&NONCE, 0x0102_0303)[8..], [0xF1, 0xF2, 0xF3, 0xF4]);
    }

    #[test]
    fn the_authenticator_depends_on_the_key_the_salt_and_the_header() {
        let authenticator = prk("key", &ID).authenticator(&[9; 80]);
        let other_salt = GenerationId { salt: [0; 32], ..ID };
        let mut other_header = [9; 80];
        other_header[79] = 8;
        assert_ne!(prk("kez", &ID).authenticator(&[9; 80]), authenticator);
        assert_ne!(prk("key", &other_salt).authenticator(&[9; 80]), authenticator);
        assert_ne!(prk("key", &ID).authenticator(&other_header), authenticator);
    }

    #[test]
    fn authenticators_are_equal_only_where_every_bit_is() {
        assert!(equal_in_constant_time(&[6; 32], &[6; 32]));
        for bit in 0..256 {
            let mut other = [6; 32];
            other[bit / 8] ^= 1 << (bit % 8);
            assert!(!equal_in_constant_time(&[6; 32], &other), "bit {bit}");
        }
    }
}
