//! Decrypts a manifest whose tag is damaged, or whose chain is lost.
//!
//! What it returns proves nothing: `log/scan/resync.rs` looks for the proof, or reports the frame as unproven.
//! Implements row G2 of *Opening*, FORMAT.md.

use super::frame::FrameHeader;
use super::record::Manifest;
use crate::crypto::seal::Sealer;
use crate::crypto::secret_vec::SecretVec;
use crate::crypto::{TAG_LEN, Tag};

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
        // Sealing XORs the key stream, so the first call turns the ciphertext into plaintext, and the second one
        // seals it again. Using the nonce again does no harm: nothing that is sealed here leaves the process.
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
        // As above.
        sealer.seal_manifest(&self.nonce, &self.manifest_aad(&[0; TAG_LEN]), text);
        self.parse_manifest(text).ok()
    }
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::cast_possible_truncation, reason = "frames that the tests make")]
mod tests {
    use super::*;
    use crate::AgentKey;
    use crate::crypto::keys::{GenerationId, Prk};
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
