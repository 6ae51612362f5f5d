//! Keys, seals and wiped buffers. The only user of the crypto crates.

pub(crate) mod agent_key;
pub(crate) mod seal;
pub(crate) mod secret_vec;
#[cfg_attr(feature = "ring", cfg(test))]
mod by_aes_gcm;
#[cfg(feature = "ring")]
mod by_ring;
