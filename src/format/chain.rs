//! Recovers the chain value of a frame whose preceding tag is damaged.
//!
//! Works on one frame and the candidates that it is given; `log/scan/resync.rs` looks for the candidates in the
//! damaged bytes. Implements rows G1 to G3 of *Opening*, FORMAT.md.

use super::frame::FrameHeader;
use super::record::Manifest;
use crate::crypto::seal::Sealer;
use crate::crypto::secret_vec::SecretVec;
use crate::crypto::{TAG_LEN, Tag};

/// Tests which 16 bytes a manifest was chained to, thousands of times faster than opening the manifest with each.
///
/// The chain is associated data, and the tag of GCM is linear in it (NIST SP 800-38D, section 6.4: GHASH). Let K
/// be the tag with a chain of zeros: each bit set in the chain XORs a constant of its own into K. So one sealing
/// for each of the 128 bits finds the constants, and then 16 lookups test a chain.
///
/// A chain fits exactly if the manifest opens with it, so finding one takes the key.
pub(crate) struct ChainProbe {
    /// The stored tag XOR K: what the bits of the right chain XOR to.
    wanted: u128,
    /// For each byte of the chain and each of its 256 values: what its bits XOR into the tag.
    contributions: Vec<[u128; 256]>,
}

impl ChainProbe {
    /// How many times [`new`](Self::new) seals the manifest.
    pub(crate) const SEALINGS: u64 = 2 + 8 * TAG_LEN as u64;

    /// Returns `None` if the body is cut short.
    pub(crate) fn new(header: &FrameHeader, body: &[u8], sealer: &Sealer) -> Option<Self> {
        let stored = u128::from_be_bytes(header.stored_tag(body)?);
        let mut text = SecretVec::default();
        header.load_manifest(body, &mut text).ok()?;
        // Sealing XORs the key stream, so each call turns ciphertext into plaintext or back, and returns the tag
        // of what comes out. Using the nonce again does no harm: nothing that is sealed here leaves the process.
        let mut tag_with = |chain: u128| {
            let aad = header.manifest_aad(&chain.to_be_bytes());
            u128::from_be_bytes(sealer.seal_manifest(&header.nonce, &aad, &mut text))
        };
        let over_plaintext = tag_with(0);
        let over_ciphertext = tag_with(0);
        let mut contributions = vec![[0; 256]; TAG_LEN];
        let mut bit = 1 << 127;
        for of_byte in &mut contributions {
            for mask in [0x80, 0x40, 0x20, 0x10, 8, 4, 2, 1_usize] {
                // Plaintext and ciphertext take turns. What a bit contributes is the same over both.
                let is_plaintext = (mask & 0xAA) != 0;
                let of_bit = tag_with(bit) ^ if is_plaintext { over_plaintext } else { over_ciphertext };
                for (_, sum) in of_byte.iter_mut().enumerate().filter(|(value, _)| value & mask != 0) {
                    *sum ^= of_bit;
                }
                bit >>= 1;
            }
        }
        Some(ChainProbe { wanted: over_ciphertext ^ stored, contributions })
    }

    /// Whether the manifest opens with this chain.
    pub(crate) fn fits(&self, chain: &Tag) -> bool {
        let bytes = self.contributions.iter().zip(chain);
        bytes.fold(0, |sum, (of_byte, &value)| sum ^ of_byte.get(usize::from(value)).unwrap_or(&0)) == self.wanted
    }
}

impl FrameHeader {
    /// The tag that the sealed manifest in `body` must have with `chain`. It proves nothing until it is checked
    /// against a tag from elsewhere: the chain of the next frame.
    pub(crate) fn expected_tag(
        &self,
        body: &[u8],
        chain: &Tag,
        sealer: &Sealer,
        text: &mut SecretVec,
    ) -> Option<Tag> {
        self.load_manifest(body, text).ok()?;
        let aad = self.manifest_aad(chain);
        // As above: the first call turns the ciphertext into plaintext, the second one seals it again.
        sealer.seal_manifest(&self.nonce, &aad, text);
        Some(sealer.seal_manifest(&self.nonce, &aad, text))
    }

    /// Decrypts the manifest in `body` without authenticating it: it may be forged. Returns `None` if it does not
    /// parse, and `Some(None)` for a close frame.
    pub(crate) fn read_unproven<'t>(
        &self,
        body: &[u8],
        sealer: &Sealer,
        text: &'t mut SecretVec,
    ) -> Option<Option<Manifest<'t>>> {
        self.load_manifest(body, text).ok()?;
        // As above: sealing the ciphertext decrypts it.
        sealer.seal_manifest(&self.nonce, &self.manifest_aad(&[0; TAG_LEN]), text);
        self.parse_manifest(text).ok()
    }
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::cast_possible_truncation, reason = "frames that the tests make")]
mod tests {
    use super::*;
    use crate::AgentKey;
    use crate::crypto::seal::{GenerationId, Prk};
    use crate::format::SaltedCrc;
    use crate::format::bucket::Bucket;
    use crate::format::encoding::FrameSeal;
    use crate::format::encoding::tests::encode_whole;
    use crate::format::frame::FRAME_HEADER_LEN;
    use crate::format::record::Change;

    fn sealer() -> Sealer {
        let id = GenerationId { generation: 1, store_id: [2; 16], salt: [3; 32] };
        Prk::extract(&id.salt, &AgentKey::new("key").unwrap()).frame_sealer(&id)
    }

    /// A frame that puts `jobs` jobs, chained to `chain`: its header and its body.
    fn sealed(jobs: u8, chain: &Tag) -> (FrameHeader, Vec<u8>) {
        let ids: Vec<_> = (0..jobs).map(|i| [b'j', i]).collect();
        let changes: Vec<_> = ids.iter().map(|id| Change::put(Bucket::Queue, id, &[], id)).collect();
        let (sealer, crc) = (sealer(), SaltedCrc::new(&[3; 32]));
        let seal = FrameSeal { sealer: &sealer, crc: &crc, chain, seq: 9, durable_seq: 8, nonce: [7; 12] };
        let mut out = Vec::new();
        let (header, _) = encode_whole(&changes, &seal, &mut out);
        (header, out.split_off(FRAME_HEADER_LEN))
    }

    #[test]
    fn a_probe_accepts_the_chain_and_refuses_it_with_any_bit_changed() {
        for jobs in [0, 1, 2, 3, 40] {
            for chain in [[0; TAG_LEN], [0xFF; TAG_LEN], std::array::from_fn(|i| 17 * i as u8)] {
                let (header, body) = sealed(jobs, &chain);
                let probe = ChainProbe::new(&header, &body, &sealer()).unwrap();
                assert!(probe.fits(&chain), "{jobs} jobs, chain {chain:?}");
                for bit in 0..128 {
                    let mut near = chain;
                    near[bit / 8] ^= 1 << (bit % 8);
                    assert!(!probe.fits(&near), "{jobs} jobs, bit {bit}");
                }
            }
        }
    }

    #[test]
    fn a_probe_of_a_changed_manifest_refuses_the_chain() {
        let chain = [5; TAG_LEN];
        let (header, mut body) = sealed(1, &chain);
        body[3] ^= 1;
        assert!(!ChainProbe::new(&header, &body, &sealer()).unwrap().fits(&chain));
        assert!(ChainProbe::new(&header, &body[..20], &sealer()).is_none());
    }

    #[test]
    fn the_expected_tag_is_the_stored_one() {
        let chain = [5; TAG_LEN];
        for jobs in [0, 1, 7] {
            let (header, body) = sealed(jobs, &chain);
            let expected = header.expected_tag(&body, &chain, &sealer(), &mut SecretVec::default());
            assert_eq!(expected, header.stored_tag(&body));
            let mut text = SecretVec::default();
            let manifest = header.read_unproven(&body, &sealer(), &mut text).unwrap();
            assert_eq!(manifest.map_or(0, |manifest| manifest.count()), u32::from(jobs));
        }
    }
}
