//! The keys of a generation, and what is made of them: its authenticator, its MACs and its nonces. Implements
//! *Keys* of FORMAT.md, and the nonces of *Security*.
//!
//! | primitive | source |
//! |---|---|
//! | `PRK = HKDF-Extract(salt, IKM)`, `OKM = HKDF-Expand(PRK, info, L)` | HKDF-SHA-256, RFC 5869 |
//! | `HMAC-SHA-256(K, text)` | RFC 2104, FIPS 198-1 |
//!
//! `||` joins bytes, integers are little-endian unless it says otherwise, labels are ASCII. What the keys seal is
//! in `seal.rs`.

use ctutils::CtEq;
use hkdf::Hkdf;
use hkdf::hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::{Zeroize, Zeroizing};

#[cfg(feature = "import-bolt")]
use super::seal::BoltOpener;
use super::seal::{RunSealer, Sealer};
use super::{NONCE_LEN, Nonce, Tag};
use crate::AgentKey;

/// What the keys of a generation are derived from, besides the agent key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GenerationId {
    pub(crate) generation: u64,
    pub(crate) store_id: [u8; 16],
    pub(crate) salt: [u8; 32],
}

/// The pseudorandom key of one generation.
pub(crate) struct Prk(Hkdf<Sha256>);

impl Prk {
    /// `PRK = HKDF-Extract(salt, agent key)`.
    ///
    /// RFC 5869, section 2.2.
    pub(crate) fn extract(salt: &[u8], key: &AgentKey) -> Self {
        let (mut prk, hkdf) = Hkdf::<Sha256>::extract(Some(salt), key.as_bytes());
        // `hkdf` has a copy of its own.
        prk.as_mut_slice().zeroize();
        Prk(hkdf)
    }

    /// `authenticator = HKDF-Expand(PRK, "backupy-state v2 header" || header 0..80, 32)`.
    ///
    /// RFC 5869, section 2.3. It makes the sealing key-committing, which AES-GCM by itself is not: it ties the
    /// file to one agent key.
    pub(crate) fn authenticator(&self, header: &[u8; 80]) -> [u8; 32] {
        let mut authenticator = [0; 32];
        self.expand(&[b"backupy-state v2 header", header], &mut authenticator);
        authenticator
    }

    /// `frame key = HKDF-Expand(PRK, "backupy-state v2 frames" || store id || u64(generation), 32)`.
    ///
    /// RFC 5869, section 2.3.
    pub(crate) fn frame_sealer(&self, id: &GenerationId) -> Sealer {
        let mut key = Zeroizing::new([0; 32]);
        let info: [&[u8]; 3] = [b"backupy-state v2 frames", &id.store_id, &id.generation.to_le_bytes()];
        self.expand(&info, &mut key);
        Sealer::new(&key)
    }

    /// `MAC = HKDF-Expand(PRK, "backupy-state v2 base" || header 0..80 || base record 8..72, 32)`.
    ///
    /// RFC 5869, section 2.3.
    pub(crate) fn base_mac(&self, header: &[u8; 80], base: &[u8; 64]) -> [u8; 32] {
        let mut mac = [0; 32];
        self.expand(&[b"backupy-state v2 base", header, base], &mut mac);
        mac
    }

    /// `nonce key = HKDF-Expand(PRK, "backupy-state v2 nonces" || store id || u64(generation), 32)`.
    ///
    /// RFC 5869, section 2.3.
    pub(crate) fn nonce_key(&self, id: &GenerationId) -> NonceKey {
        let mut key = Zeroizing::new([0; 32]);
        let info: [&[u8]; 3] = [b"backupy-state v2 nonces", &id.store_id, &id.generation.to_le_bytes()];
        self.expand(&info, &mut key);
        // Cannot fail: HMAC takes keys of any length.
        NonceKey(Hmac::new_from_slice(&*key).expect("HMAC takes keys of any length"))
    }

    /// `run key = HKDF-Expand(PRK, "backupy-state index" || R, 32)`. R is the salt of the run.
    ///
    /// RFC 5869, section 2.3.
    pub(crate) fn run_sealer(&self, salt: &[u8; 32]) -> RunSealer {
        let mut key = Zeroizing::new([0; 32]);
        self.expand(&[b"backupy-state index", salt], &mut key);
        RunSealer::new(&key)
    }

    fn expand(&self, info: &[&[u8]], out: &mut [u8; 32]) {
        // Cannot fail: HKDF-Expand refuses only more than 255 times 32 bytes.
        self.0.expand_multi_info(info, out).expect("32 bytes are within the limit of HKDF-Expand");
    }
}

/// Makes the nonces of one generation.
pub(crate) struct NonceKey(Hmac<Sha256>);

impl NonceKey {
    /// `N = HMAC-SHA-256(nonce key, random || u64(clock) || u64(seq) || chain)`, its first 12 bytes.
    ///
    /// RFC 2104. `random` is from the operating system and `clock_ns` is its time, both asked for this attempt.
    /// Two clones of a process whose random generators repeat still differ by the clock, or by what they chain to.
    pub(crate) fn nonce(&self, random: &[u8; 32], clock_ns: u64, seq: u64, chain: &Tag) -> Nonce {
        let mut mac = self.0.clone();
        mac.update(random);
        mac.update(&clock_ns.to_le_bytes());
        mac.update(&seq.to_le_bytes());
        mac.update(chain);
        let mut nonce = [0; NONCE_LEN];
        nonce.copy_from_slice(&mac.finalize().into_bytes()[..NONCE_LEN]);
        nonce
    }

    /// `R = HMAC-SHA-256(nonce key, "index" || random || u64(clock) || tag of from || tag of to)`: the salt of a
    /// run.
    ///
    /// RFC 2104. `random` and `clock_ns` are as for a nonce. The text is longer than that of a nonce, so no salt
    /// is one.
    pub(crate) fn run_salt(&self, random: &[u8; 32], clock_ns: u64, from: &Tag, to: &Tag) -> [u8; 32] {
        let mut mac = self.0.clone();
        for part in [b"index", &random[..], &clock_ns.to_le_bytes(), from, to] {
            mac.update(part);
        }
        mac.finalize().into_bytes().into()
    }
}

/// Whether `a` equals `b`. The time that this takes does not depend on where they differ.
pub(crate) fn equal_in_constant_time(a: &[u8; 32], b: &[u8; 32]) -> bool {
    a.ct_eq(b).to_bool()
}

/// `K = HKDF(salt = "backupy-agent-state-salt", IKM = agent key, info = "backupy-agent/state-v1", 32)`: the key of
/// the Go agent's file.
///
/// RFC 5869: extract, then expand.
#[cfg(feature = "import-bolt")]
pub(crate) fn bolt_opener(key: &AgentKey) -> BoltOpener {
    let mut bolt_key = Zeroizing::new([0; 32]);
    Prk::extract(b"backupy-agent-state-salt", key).expand(&[b"backupy-agent/state-v1"], &mut bolt_key);
    BoltOpener::new(&bolt_key)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::crypto::Unauthentic;
    use crate::crypto::seal::MANIFEST_AAD_LEN;

    pub(in crate::crypto) const ID: GenerationId =
        GenerationId { generation: 1, store_id: [2; 16], salt: [3; 32] };
    pub(in crate::crypto) const NONCE: Nonce = [0xF0; NONCE_LEN];
    pub(in crate::crypto) const AAD: [u8; MANIFEST_AAD_LEN] = [5; MANIFEST_AAD_LEN];

    pub(in crate::crypto) fn prk(key: &str, id: &GenerationId) -> Prk {
        Prk::extract(&id.salt, &AgentKey::new(key).unwrap())
    }

    pub(in crate::crypto) fn sealer() -> Sealer {
        prk("key", &ID).frame_sealer(&ID)
    }

    #[test]
    fn the_frame_key_depends_on_generation_store_id_and_salt() {
        let mut sealed = *b"manifest";
        let tag = sealer().seal_manifest(&NONCE, &AAD, &mut sealed);
        let others = [
            GenerationId { generation: 2, ..ID },
            GenerationId { store_id: [0; 16], ..ID },
            GenerationId { salt: [0; 32], ..ID },
        ];
        for id in others {
            let opened = prk("key", &id).frame_sealer(&id).open_manifest(&NONCE, &AAD, &mut sealed.clone(), &tag);
            assert_eq!(opened, Err(Unauthentic), "{id:?}");
        }
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
    fn the_salt_of_a_run_depends_on_the_random_bytes_the_clock_and_both_ends() {
        let nonces = prk("key", &ID).nonce_key(&ID);
        let salt = nonces.run_salt(&[1; 32], 2, &[3; 16], &[4; 16]);
        let others = [
            nonces.run_salt(&[0; 32], 2, &[3; 16], &[4; 16]),
            nonces.run_salt(&[1; 32], 0, &[3; 16], &[4; 16]),
            nonces.run_salt(&[1; 32], 2, &[0; 16], &[4; 16]),
            nonces.run_salt(&[1; 32], 2, &[3; 16], &[0; 16]),
            prk("kez", &ID).nonce_key(&ID).run_salt(&[1; 32], 2, &[3; 16], &[4; 16]),
        ];
        assert!(others.iter().all(|other| *other != salt));
    }

    #[test]
    fn authenticators_are_equal_only_if_every_bit_is() {
        assert!(equal_in_constant_time(&[6; 32], &[6; 32]));
        for bit in 0..256 {
            let mut other = [6; 32];
            other[bit / 8] ^= 1 << (bit % 8);
            assert!(!equal_in_constant_time(&[6; 32], &other), "bit {bit}");
        }
    }
}
