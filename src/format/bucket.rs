//! The five buckets, and which keys and values each of them allows.
//!
//! Knows the shape of a value, never its meaning. Implements *Buckets and their keys* of FORMAT.md.

use super::bytes_at;

pub(crate) const CONFIG_KEY: &[u8] = b"current";
pub(crate) const SESSION_KEY: &[u8] = b"session";
pub(crate) const HEARTBEAT_KEY: &[u8] = b"heartbeat";
/// Its value is the number of log events that were dropped since the last ack or drain.
pub(crate) const DROPPED_KEY: &[u8] = b"dropped";
/// Part of the format, as all limits are: it bounds the memory that one key can take.
pub(crate) const RUN_ID_LEN_MAX: usize = 1024;
pub(crate) const DATA_KEY_LEN_MAX: usize = RUN_ID_LEN_MAX;
pub(crate) const LOG_KEY_LEN: usize = 16;
/// The number before a configuration (its version) or a session id (the server's time).
pub(crate) const VALUE_PREFIX_LEN: usize = 8;

pub(crate) const BUCKET_COUNT: usize = 5;

/// A map from keys to values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Bucket {
    Config,
    Queue,
    Registry,
    Logs,
    /// The agent's own values.
    Data,
}

impl Bucket {
    pub(crate) const ALL: [Bucket; BUCKET_COUNT] =
        [Bucket::Config, Bucket::Queue, Bucket::Registry, Bucket::Logs, Bucket::Data];

    pub(crate) fn code(self) -> u8 {
        match self {
            Bucket::Config => 1,
            Bucket::Queue => 2,
            Bucket::Registry => 3,
            Bucket::Logs => 4,
            Bucket::Data => 5,
        }
    }

    /// The name in reports and on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Bucket::Config => "config",
            Bucket::Queue => "queue",
            Bucket::Registry => "registry",
            Bucket::Logs => "logs",
            Bucket::Data => "data",
        }
    }

    /// The key as reports and errors name it: a run id, or a data key.
    pub(crate) fn names(self, key: &[u8]) -> (Option<String>, Option<String>) {
        let text = || Some(String::from_utf8_lossy(key).into_owned());
        match self {
            Bucket::Queue => (text(), None),
            Bucket::Data => (None, text()),
            Bucket::Config | Bucket::Registry | Bucket::Logs => (None, None),
        }
    }

    pub(crate) fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Bucket::Config,
            2 => Bucket::Queue,
            3 => Bucket::Registry,
            4 => Bucket::Logs,
            5 => Bucket::Data,
            _ => return None,
        })
    }

    /// Whether a writer of this format can use the key.
    pub(crate) fn allows_key(self, key: &[u8]) -> bool {
        match self {
            // Most keys are ASCII, and that is seen sooner.
            Bucket::Queue | Bucket::Data => {
                self.allows_ascii(key) && (key.is_ascii() || std::str::from_utf8(key).is_ok())
            }
            _ => self.allows_ascii(key),
        }
    }

    /// As [`allows_key`](Self::allows_key), of a key that is known to be ASCII.
    pub(crate) fn allows_ascii(self, key: &[u8]) -> bool {
        match self {
            Bucket::Config => key == CONFIG_KEY,
            Bucket::Queue | Bucket::Data => (1..=RUN_ID_LEN_MAX).contains(&key.len()),
            Bucket::Registry => [SESSION_KEY, HEARTBEAT_KEY, DROPPED_KEY].contains(&key),
            Bucket::Logs => key.len() == LOG_KEY_LEN,
        }
    }

    /// Whether a writer of this format can store the value under the key, which the bucket must allow.
    pub(crate) fn allows_value(self, key: &[u8], value: &[u8]) -> bool {
        match self {
            Bucket::Config => value.len() >= VALUE_PREFIX_LEN,
            Bucket::Registry if key == SESSION_KEY => {
                value.get(VALUE_PREFIX_LEN..).is_some_and(|id| std::str::from_utf8(id).is_ok())
            }
            Bucket::Registry => value.len() == VALUE_PREFIX_LEN,
            Bucket::Queue | Bucket::Logs | Bucket::Data => true,
        }
    }
}

/// The key of a log event. The byte order of encoded keys is the order of times, before 1970 too, and then of
/// ordinals: delete-through relies on it.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_five_codes_name_a_bucket() {
        let named: Vec<_> = (0..=u8::MAX).filter_map(Bucket::from_code).collect();
        assert_eq!(named, Bucket::ALL);
        assert!(named.iter().all(|&bucket| Bucket::from_code(bucket.code()) == Some(bucket)));
    }

    #[test]
    fn a_bucket_allows_the_keys_that_the_store_uses_and_no_others() {
        let longest = [b'r'; RUN_ID_LEN_MAX];
        let too_long = [b'r'; RUN_ID_LEN_MAX + 1];
        type Keys<'a> = &'a [&'a [u8]];
        let rows: [(Bucket, Keys<'_>, Keys<'_>); 5] = [
            (Bucket::Config, &[b"current"], &[b"", b"curren", b"current\0", b"session"]),
            (Bucket::Queue, &[b"a", b"\0", "ü".as_bytes(), &longest], &[b"", b"\xFF", &too_long]),
            (Bucket::Registry, &[b"session", b"heartbeat", b"dropped"], &[b"", b"current", b"Session"]),
            (Bucket::Logs, &[&[0; 16], &[0xFF; 16]], &[b"", &[0; 15], &[0; 17]]),
            (Bucket::Data, &[b"a", b"\0", "ü".as_bytes(), &longest], &[b"", b"\xFF", &too_long]),
        ];
        for (bucket, allowed, refused) in rows {
            assert!(allowed.iter().all(|key| bucket.allows_key(key)), "{bucket:?}");
            assert!(!refused.iter().any(|key| bucket.allows_key(key)), "{bucket:?}");
        }
    }

    #[test]
    fn a_bucket_allows_the_values_that_its_readers_can_read_and_no_others() {
        let rows: [(Bucket, &[u8], &[u8], bool); 13] = [
            (Bucket::Config, CONFIG_KEY, &[7; 8], true),
            (Bucket::Config, CONFIG_KEY, &[7; 9], true),
            (Bucket::Config, CONFIG_KEY, &[7; 7], false),
            (Bucket::Registry, SESSION_KEY, &[7; 8], true),
            (Bucket::Registry, SESSION_KEY, b"01234567\xFF", false),
            (Bucket::Registry, SESSION_KEY, &[7; 7], false),
            (Bucket::Registry, HEARTBEAT_KEY, &[7; 8], true),
            (Bucket::Registry, HEARTBEAT_KEY, &[7; 9], false),
            (Bucket::Registry, DROPPED_KEY, &[7; 7], false),
            (Bucket::Registry, DROPPED_KEY, &[7; 8], true),
            (Bucket::Queue, b"job", b"", true),
            (Bucket::Logs, &[0; LOG_KEY_LEN], b"", true),
            (Bucket::Data, b"cursor", b"", true),
        ];
        for (bucket, key, value, allowed) in rows {
            assert_eq!(bucket.allows_value(key, value), allowed, "{bucket:?} {key:?} {value:?}");
        }
    }

    #[test]
    fn the_byte_order_of_log_keys_is_the_order_of_times_and_then_of_ordinals() {
        let times = [i64::MIN, i64::MIN + 1, -256, -1, 0, 1, 255, 256, i64::MAX];
        let keys =
            times.into_iter().flat_map(|ts_ms| [0, 1, 256, u64::MAX].map(|ordinal| LogKey { ts_ms, ordinal }));
        let keys: Vec<_> = keys.collect();
        assert!(keys.is_sorted());
        assert!(keys.iter().map(|key| key.encode()).is_sorted());
        assert!(keys.iter().all(|key| LogKey::decode(&key.encode()) == Some(*key)));
        assert_eq!(LogKey::decode(&[0; 15]), None);
    }
}
