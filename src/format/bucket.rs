//! What lies under which key. Implements *Buckets and their keys* of FORMAT.md.

use super::bytes_at;

/// One of the four.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bucket {
    Config,
    Queue,
    Registry,
    Logs,
}

pub(crate) const BUCKET_COUNT: usize = 4;

pub(crate) const CONFIG_KEY: &[u8] = b"current";
pub(crate) const SESSION_KEY: &[u8] = b"session";
pub(crate) const HEARTBEAT_KEY: &[u8] = b"heartbeat";
/// How many log events were dropped since the last ack or drain: a u64.
pub(crate) const DROPPED_KEY: &[u8] = b"dropped";
pub(crate) const RUN_ID_LEN_MAX: usize = 1024;
pub(crate) const LOG_KEY_LEN: usize = 16;
/// The number before a configuration (its version) or a session id (the server's time).
pub(crate) const VALUE_PREFIX_LEN: usize = 8;

impl Bucket {
    pub(crate) fn code(self) -> u8 {
        match self {
            Bucket::Config => 1,
            Bucket::Queue => 2,
            Bucket::Registry => 3,
            Bucket::Logs => 4,
        }
    }

    /// For people.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Bucket::Config => "config",
            Bucket::Queue => "queue",
            Bucket::Registry => "registry",
            Bucket::Logs => "logs",
        }
    }

    pub(crate) fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Bucket::Config,
            2 => Bucket::Queue,
            3 => Bucket::Registry,
            4 => Bucket::Logs,
            _ => return None,
        })
    }

    /// Whether a writer of this format could have used the key.
    pub(crate) fn allows_key(self, key: &[u8]) -> bool {
        match self {
            Bucket::Config => key == CONFIG_KEY,
            Bucket::Queue => (1..=RUN_ID_LEN_MAX).contains(&key.len()) && std::str::from_utf8(key).is_ok(),
            Bucket::Registry => [SESSION_KEY, HEARTBEAT_KEY, DROPPED_KEY].contains(&key),
            Bucket::Logs => key.len() == LOG_KEY_LEN,
        }
    }
}

/// The key of a log event: byte order is time order, for times before 1970 too, and ties keep their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LogKey {
    pub(crate) ts_ms: i64,
    pub(crate) ordinal: u64,
}

impl LogKey {
    pub(crate) fn encode(self) -> [u8; LOG_KEY_LEN] {
        let shifted = self.ts_ms.cast_unsigned() ^ SIGN_BIT;
        let mut key = [0; LOG_KEY_LEN];
        key[..8].copy_from_slice(&shifted.to_be_bytes());
        key[8..].copy_from_slice(&self.ordinal.to_be_bytes());
        key
    }

    pub(crate) fn decode(key: &[u8]) -> Option<Self> {
        let shifted = u64::from_be_bytes(bytes_at(key, 0)?);
        let ordinal = u64::from_be_bytes(bytes_at(key, 8)?);
        Some(LogKey { ts_ms: (shifted ^ SIGN_BIT).cast_signed(), ordinal })
    }
}

const SIGN_BIT: u64 = 1 << 63;
