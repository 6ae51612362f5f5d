//! Keys, sealing and buffers that are wiped. The only user of the crypto crates.
//!
//! `agent_key` reads the caller's secret, `keys` derives what is needed from it, and `seal` uses that, by the
//! cipher of `by_aes_gcm` or `by_ring`. `secret_vec` holds plaintext.
//!
//! Does no I/O but for the key file, and makes no random bytes: salts and nonces are passed in.

pub(crate) mod agent_key;
pub(crate) mod keys;
pub(crate) mod seal;
pub(crate) mod secret_vec;
#[cfg_attr(feature = "ring", cfg(test))]
mod by_aes_gcm;
#[cfg(feature = "ring")]
mod by_ring;

/// The length of an AES-256-GCM tag, in bytes. It follows its ciphertext.
pub(crate) const TAG_LEN: usize = 16;
/// The length of an AES-256-GCM nonce, in bytes: 96 bits.
pub(crate) const NONCE_LEN: usize = 12;
pub(crate) type Tag = [u8; TAG_LEN];
pub(crate) type Nonce = [u8; NONCE_LEN];

/// The tag does not fit: other bytes, another place or another key. AES-GCM cannot tell which.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unauthentic;
