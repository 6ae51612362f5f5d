//! The bytes of the log, one file for one section of FORMAT.md: pure functions, no I/O, no clock, no randomness.

pub(crate) mod bucket;
pub(crate) mod chain;
pub(crate) mod encoding;
pub(crate) mod frame;
pub(crate) mod header;
pub(crate) mod location;
pub(crate) mod record;

/// CRC-32/ISO-HDLC over `salt || bytes`, so that bytes of another store or generation never check.
#[derive(Clone)]
pub(crate) struct SaltedCrc(crc32fast::Hasher);

impl SaltedCrc {
    pub(crate) fn new(salt: &[u8; 32]) -> Self {
        let mut crc = crc32fast::Hasher::new();
        crc.update(salt);
        SaltedCrc(crc)
    }

    pub(crate) fn of(&self, bytes: &[u8]) -> u32 {
        let mut crc = self.clone();
        crc.update(bytes);
        crc.finish()
    }

    fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(self) -> u32 {
        self.0.finalize()
    }
}

/// The `N` bytes at `offset`, if there are as many.
fn bytes_at<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
    bytes.get(offset..)?.first_chunk().copied()
}
