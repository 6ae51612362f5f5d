//! What a frame tells of the tag before it, where that tag is lost. Implements *Reading behind damage* of FORMAT.md.

use super::frame::FrameHeader;
use super::record::Manifest;
use crate::crypto::seal::Sealer;
use crate::crypto::secret_vec::SecretVec;
use crate::crypto::{TAG_LEN, Tag};

/// Tells which 16 bytes a manifest could have been chained to, thousands of times faster than opening it with each.
///
/// GCM's tag is linear in its associated data: with K the tag behind a chain of zeros, every bit of the chain adds
/// something of its own to K. So it takes one sealing for each of the 128 bits, and then a few lookups for any chain.
/// A chain that fits is as good as opening the manifest with it: without the key, nobody finds one.
pub(crate) struct ChainProbe {
    /// What the chain has to add to K.
    missing: u128,
    /// Of each byte of the chain, what each of its values adds.
    added: Vec<[u128; 256]>,
}

impl ChainProbe {
    /// How many times the manifest is sealed for it.
    pub(crate) const SEALINGS: u64 = 2 + 8 * TAG_LEN as u64;

    /// `None` where the body is cut short.
    pub(crate) fn new(header: &FrameHeader, body: &[u8], sealer: &Sealer) -> Option<Self> {
        let stored = u128::from_be_bytes(header.stored_tag(body)?);
        let mut text = SecretVec::default();
        header.load_manifest(body, &mut text).ok()?;
        // Sealing adds the key stream, which turns ciphertext into plaintext and back; the tag is over what comes out.
        // Nothing of it leaves the process, so that the nonce is used again does no harm.
        let mut tag_behind = |chain: u128| {
            let aad = header.manifest_aad(&chain.to_be_bytes());
            u128::from_be_bytes(sealer.seal_manifest(&header.nonce, &aad, &mut text))
        };
        let of_plaintext = tag_behind(0);
        let of_ciphertext = tag_behind(0);
        let mut added = vec![[0; 256]; TAG_LEN];
        let mut bit = 1 << 127;
        for of_byte in &mut added {
            for mask in [0x80, 0x40, 0x20, 0x10, 8, 4, 2, 1_usize] {
                // What a bit adds is the same over both texts, which take turns.
                let is_plaintext = (mask & 0xAA) != 0;
                let adds = tag_behind(bit) ^ if is_plaintext { of_plaintext } else { of_ciphertext };
                for (_, sum) in of_byte.iter_mut().enumerate().filter(|(value, _)| value & mask != 0) {
                    *sum ^= adds;
                }
                bit >>= 1;
            }
        }
        Some(ChainProbe { missing: of_ciphertext ^ stored, added })
    }

    /// Whether the manifest could have been chained to these bytes.
    pub(crate) fn fits(&self, chain: &Tag) -> bool {
        let all = self.added.iter().zip(chain);
        all.fold(0, |sum, (of_byte, &value)| sum ^ of_byte.get(usize::from(value)).unwrap_or(&0)) == self.missing
    }
}

impl FrameHeader {
    /// The tag that the manifest in `body` must have behind `chain`.
    pub(crate) fn expected_tag(
        &self,
        body: &[u8],
        chain: &Tag,
        sealer: &Sealer,
        text: &mut SecretVec,
    ) -> Option<Tag> {
        self.load_manifest(body, text).ok()?;
        let aad = self.manifest_aad(chain);
        // As above: to plaintext, and back to what stands there.
        sealer.seal_manifest(&self.nonce, &aad, text);
        Some(sealer.seal_manifest(&self.nonce, &aad, text))
    }

    /// What the manifest in `body` says, which nothing vouches for. `None` where it says nothing that makes sense.
    pub(crate) fn read_unproven<'t>(
        &self,
        body: &[u8],
        sealer: &Sealer,
        text: &'t mut SecretVec,
    ) -> Option<Option<Manifest<'t>>> {
        self.load_manifest(body, text).ok()?;
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

    /// The frame of so many jobs, chained to `chain`: its header and its body.
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
    fn a_probe_knows_the_chain_and_no_chain_near_it() {
        for jobs in [0, 1, 2, 3, 40] {
            for chain in [[0; TAG_LEN], [0xFF; TAG_LEN], std::array::from_fn(|i| 17 * i as u8)] {
                let (header, body) = sealed(jobs, &chain);
                let probe = ChainProbe::new(&header, &body, &sealer()).unwrap();
                assert!(probe.fits(&chain), "{jobs} jobs behind {chain:?}");
                for bit in 0..128 {
                    let mut near = chain;
                    near[bit / 8] ^= 1 << (bit % 8);
                    assert!(!probe.fits(&near), "{jobs} jobs, bit {bit}");
                }
            }
        }
    }

    #[test]
    fn a_probe_of_a_changed_manifest_does_not_know_the_chain() {
        let chain = [5; TAG_LEN];
        let (header, mut body) = sealed(1, &chain);
        body[3] ^= 1;
        assert!(!ChainProbe::new(&header, &body, &sealer()).unwrap().fits(&chain));
        assert!(ChainProbe::new(&header, &body[..20], &sealer()).is_none());
    }

    #[test]
    fn the_expected_tag_is_the_one_that_was_written() {
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
