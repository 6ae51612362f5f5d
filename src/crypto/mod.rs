//! Keys, seals and wiped buffers. The only user of the crypto crates.

pub(crate) mod agent_key;
pub(crate) mod seal;
pub(crate) mod secret_vec;
#[cfg_attr(feature = "ring", cfg(test))]
mod by_aes_gcm;
#[cfg(feature = "ring")]
mod by_ring;

/// What AES-256-GCM puts behind a ciphertext.
pub(crate) const TAG_LEN: usize = 16;
/// A 96-bit nonce.
pub(crate) const NONCE_LEN: usize = 12;
pub(crate) type Tag = [u8; TAG_LEN];
pub(crate) type Nonce = [u8; NONCE_LEN];

/// The seal did not fit: other bytes, another place or another key.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct SealBroken;
