//! Frames that no store writes: sealed with the right key, by FORMAT.md alone, from any fields and any manifest.

use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{Aes256Gcm, Nonce};

use crate::page_reader::{Header, crc32};

#[derive(Clone)]
pub(crate) struct Draft {
    pub(crate) len: Option<u32>,
    pub(crate) manifest_len: Option<u32>,
    pub(crate) seq: u64,
    pub(crate) durable_seq: u64,
    pub(crate) kind: u8,
    pub(crate) zero: [u8; 3],
    pub(crate) manifest: Vec<u8>,
    pub(crate) values: Vec<Vec<u8>>,
    /// Behind the values, in place of padding up to a multiple of 8.
    pub(crate) padding: Option<Vec<u8>>,
}

impl Draft {
    /// The frame, with lengths that fit unless the draft says others.
    pub(crate) fn seal(&self, chain: &[u8; 16], header: &Header) -> Vec<u8> {
        let nonce = [0xC5; 12];
        let cipher = Aes256Gcm::new((&header.frame_key).into());
        let seal = |nonce: [u8; 12], aad: &[u8], msg: &[u8]| {
            cipher.encrypt(&Nonce::from(nonce), Payload { msg, aad }).unwrap()
        };
        let mut values = Vec::new();
        for (i, value) in (0_u32..).zip(&self.values) {
            let mut nonce = nonce;
            nonce[8..].iter_mut().zip((i + 1).to_be_bytes()).for_each(|(byte, mask)| *byte ^= mask);
            values.extend(seal(nonce, &[&self.seq.to_le_bytes()[..], &i.to_le_bytes()].concat(), value));
        }
        let padding_len = (48 + self.manifest.len() + 16 + values.len()).next_multiple_of(8)
            - (48 + self.manifest.len() + 16 + values.len());
        values.extend(self.padding.clone().unwrap_or(vec![0; padding_len]));

        let len = self.len.unwrap_or((48 + self.manifest.len() + 16 + values.len()) as u32);
        let sealed_part = [
            &len.to_le_bytes()[..],
            &self.manifest_len.unwrap_or(self.manifest.len() as u32).to_le_bytes(),
            &self.seq.to_le_bytes(),
            &self.durable_seq.to_le_bytes(),
            &nonce,
            &[self.kind],
            &self.zero,
        ]
        .concat();
        let body = [seal(nonce, &[&sealed_part, &chain[..]].concat(), &self.manifest), values].concat();
        let mut frame = [&[0; 8], &sealed_part[..], &body].concat();
        fix_crcs(&mut frame, &header.salt);
        frame
    }
}

/// Puts the CRCs right that belong to a frame of these bytes.
pub(crate) fn fix_crcs(frame: &mut [u8], salt: &[u8; 32]) {
    let body_crc = crc32(&[salt, &frame[48..]]);
    frame[4..8].copy_from_slice(&body_crc.to_le_bytes());
    let header_crc = crc32(&[salt, &frame[4..48]]);
    frame[..4].copy_from_slice(&header_crc.to_le_bytes());
}
