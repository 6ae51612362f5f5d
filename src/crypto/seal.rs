//! What is sealed under the keys of a generation, with which nonces and associated data. Implements *Sealing* of
//! FORMAT.md.
//!
//! `(C, T) = AES-256-GCM-Seal(K, N, A, P)` and `P or failure = AES-256-GCM-Open(K, N, A, C, T)` are those of NIST
//! SP 800-38D. `||` joins bytes, integers are little-endian unless it says otherwise. `keys.rs` derives the keys.

#[cfg(not(feature = "ring"))]
use super::by_aes_gcm::Cipher;
#[cfg(feature = "ring")]
use super::by_ring::Cipher;
use super::{NONCE_LEN, Nonce, TAG_LEN, Tag, Unauthentic};

/// The length of a manifest's associated data: 40 bytes of the frame header, and the chain.
pub(crate) const MANIFEST_AAD_LEN: usize = 40 + TAG_LEN;

/// Seals and opens the manifests and values of one generation, under its frame key.
///
/// The key is wiped on drop with aes-gcm, and not with ring, which offers no way to do so.
pub(crate) struct Sealer(Cipher);

impl Sealer {
    pub(super) fn new(frame_key: &[u8; 32]) -> Self {
        Sealer(Cipher::new(frame_key))
    }

    /// `AES-256-GCM-Seal(frame key, N, frame header 8..48 || chain, manifest)`, in place.
    ///
    /// NIST SP 800-38D, section 7.1. The chain is the manifest tag of the frame before it.
    pub(crate) fn seal_manifest(&self, nonce: &Nonce, aad: &[u8; MANIFEST_AAD_LEN], text: &mut [u8]) -> Tag {
        self.0.seal(nonce, aad, text)
    }

    /// `AES-256-GCM-Open(frame key, N, frame header 8..48 || chain, manifest, tag)`, in place.
    ///
    /// NIST SP 800-38D, section 7.2.
    pub(crate) fn open_manifest(
        &self,
        nonce: &Nonce,
        aad: &[u8; MANIFEST_AAD_LEN],
        text: &mut [u8],
        tag: &Tag,
    ) -> Result<(), Unauthentic> {
        self.0.open(nonce, aad, text, tag)
    }

    /// `AES-256-GCM-Seal(frame key, N', u64(seq) || u32(i), value i)`, in place.
    ///
    /// NIST SP 800-38D, section 7.1. N' is N with its last 4 bytes XOR big-endian u32(i + 1).
    pub(crate) fn seal_value(&self, frame_nonce: &Nonce, seq: u64, i: u32, text: &mut [u8]) -> Tag {
        self.0.seal(&value_nonce(frame_nonce, i), &value_aad(seq, i), text)
    }

    /// `AES-256-GCM-Open(frame key, N', u64(seq) || u32(i), value i, tag)`, in place.
    ///
    /// NIST SP 800-38D, section 7.2.
    pub(crate) fn open_value(
        &self,
        frame_nonce: &Nonce,
        seq: u64,
        i: u32,
        text: &mut [u8],
        tag: &Tag,
    ) -> Result<(), Unauthentic> {
        self.0.open(&value_nonce(frame_nonce, i), &value_aad(seq, i), text, tag)
    }
}

/// Seals and opens the parts of one run of the index file, under its run key. Each part has a number of its own.
pub(crate) struct RunSealer(Cipher);

impl RunSealer {
    pub(super) fn new(run_key: &[u8; 32]) -> Self {
        RunSealer(Cipher::new(run_key))
    }

    /// `AES-256-GCM-Seal(run key, big-endian u32(kind) || big-endian u64(number), aad, part)`, in place.
    ///
    /// NIST SP 800-38D, section 7.1. Numbering the parts and telling the last one apart is STREAM, by Hoang,
    /// Reyhanitabar, Rogaway and Vizar (2015).
    pub(crate) fn seal_part(&self, kind: u32, number: u64, aad: &[u8], text: &mut [u8]) -> Tag {
        self.0.seal(&part_nonce(kind, number), aad, text)
    }

    /// The reverse of [`seal_part`](Self::seal_part).
    ///
    /// NIST SP 800-38D, section 7.2.
    pub(crate) fn open_part(
        &self,
        kind: u32,
        number: u64,
        aad: &[u8],
        text: &mut [u8],
        tag: &Tag,
    ) -> Result<(), Unauthentic> {
        self.0.open(&part_nonce(kind, number), aad, text, tag)
    }
}

fn part_nonce(kind: u32, number: u64) -> Nonce {
    let mut nonce = [0; NONCE_LEN];
    nonce[..4].copy_from_slice(&kind.to_be_bytes());
    nonce[4..].copy_from_slice(&number.to_be_bytes());
    nonce
}

/// Opens values that the Go agent sealed in its bbolt file.
#[cfg(feature = "import-bolt")]
pub(crate) struct BoltOpener(Cipher);

#[cfg(feature = "import-bolt")]
impl BoltOpener {
    pub(super) fn new(bolt_key: &[u8; 32]) -> Self {
        BoltOpener(Cipher::new(bolt_key))
    }

    /// `AES-256-GCM-Open(K, N, nothing, value, tag)`, in place.
    ///
    /// NIST SP 800-38D, section 7.2. N is stored with the value.
    pub(crate) fn open(&self, nonce: &Nonce, text: &mut [u8], tag: &Tag) -> Result<(), Unauthentic> {
        self.0.open(nonce, &[], text, tag)
    }
}

/// N': differs from N and between the values of a frame, as i + 1 is never 0.
fn value_nonce(frame_nonce: &Nonce, i: u32) -> Nonce {
    let [first @ .., a, b, c, d] = *frame_nonce;
    let [a, b, c, d] = (u32::from_be_bytes([a, b, c, d]) ^ (i + 1)).to_be_bytes();
    let mut nonce = [0; NONCE_LEN];
    nonce[..8].copy_from_slice(&first);
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
    use crate::crypto::keys::tests::{AAD, ID, NONCE, prk, sealer};

    #[test]
    fn a_manifest_opens_only_with_its_own_nonce_data_tag_and_key() {
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
        assert_eq!(open(sealer(), nonce, AAD, sealed, tag), Err(Unauthentic));
        assert_eq!(open(sealer(), NONCE, aad, sealed, tag), Err(Unauthentic));
        assert_eq!(open(sealer(), NONCE, AAD, text, tag), Err(Unauthentic));
        assert_eq!(open(sealer(), NONCE, AAD, sealed, other), Err(Unauthentic));
        assert_eq!(open(prk("kez", &ID).frame_sealer(&ID), NONCE, AAD, sealed, tag), Err(Unauthentic));
    }

    #[test]
    fn a_value_opens_only_in_its_own_place() {
        let mut sealed = *b"value";
        let tag = sealer().seal_value(&NONCE, 7, 1, &mut sealed);
        let open = |nonce, seq, i| {
            let mut text = sealed;
            sealer().open_value(nonce, seq, i, &mut text, &tag).map(|()| text)
        };
        assert_eq!(open(&NONCE, 7, 1), Ok(*b"value"));
        assert_eq!(open(&NONCE, 8, 1), Err(Unauthentic));
        assert_eq!(open(&NONCE, 7, 0), Err(Unauthentic));
        assert_eq!(open(&[0xF1; NONCE_LEN], 7, 1), Err(Unauthentic));
        // The nonces of two values of two frames can be equal. The associated data still keeps the places apart.
        let mut colliding = NONCE;
        colliding[11] ^= 2 ^ 1;
        assert_eq!(value_nonce(&colliding, 0), value_nonce(&NONCE, 1));
        assert_eq!(open(&colliding, 7, 0), Err(Unauthentic));
    }

    #[cfg(feature = "ring")]
    #[test]
    fn each_cipher_opens_what_the_other_sealed() {
        let key = [0xA5; 32];
        let (aes_gcm, ring) =
            (super::super::by_aes_gcm::Cipher::new(&key), super::super::by_ring::Cipher::new(&key));
        for len in (0..300).chain([4096, 70_001]) {
            let text: Vec<u8> = (0..=250).cycle().take(len).collect();
            let aad = &text[..len.min(56)];
            let (mut a, mut b) = (text.clone(), text.clone());
            let tag = aes_gcm.seal(&NONCE, aad, &mut a);
            assert_eq!((ring.seal(&NONCE, aad, &mut b), &b), (tag, &a));
            let mut other = tag;
            other[15] ^= 1;
            assert_eq!(aes_gcm.open(&NONCE, aad, &mut a.clone(), &other), Err(Unauthentic));
            assert_eq!(ring.open(&NONCE, aad, &mut b.clone(), &other), Err(Unauthentic));
            assert_eq!(ring.open(&NONCE, aad, &mut a, &tag), Ok(()));
            assert_eq!(aes_gcm.open(&NONCE, aad, &mut b, &tag), Ok(()));
            assert_eq!((a, b), (text.clone(), text));
        }
    }

    #[test]
    fn all_nonces_of_a_frame_differ() {
        let mut nonces: Vec<_> = (0..1000).map(|i| value_nonce(&NONCE, i)).chain([NONCE]).collect();
        nonces.sort_unstable();
        nonces.dedup();
        assert_eq!(nonces.len(), 1001);
        assert_eq!(value_nonce(&NONCE, 0x0102_0303)[8..], [0xF1, 0xF2, 0xF3, 0xF4]);
    }

    #[test]
    fn a_part_of_a_run_opens_only_in_its_own_place() {
        let sealer = |salt| prk("key", &ID).run_sealer(&[salt; 32]);
        let mut sealed = *b"part";
        let tag = sealer(1).seal_part(1, 7, b"aad", &mut sealed);
        let open = |salt, kind, number, aad: &[u8]| {
            let mut text = sealed;
            sealer(salt).open_part(kind, number, aad, &mut text, &tag).map(|()| text)
        };
        assert_eq!(open(1, 1, 7, b"aad"), Ok(*b"part"));
        for other in [open(2, 1, 7, b"aad"), open(1, 2, 7, b"aad"), open(1, 1, 8, b"aad"), open(1, 1, 7, b"add")] {
            assert_eq!(other, Err(Unauthentic));
        }
    }
}
