//! What every engine can do, in the store's terms, and how the values of a peer are sealed.

use std::sync::{Mutex, PoisonError};

use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::{Aes256Gcm, Nonce, Tag};

/// An agent's state in some engine. Each writing call is one transaction.
pub(crate) trait Engine: Send + Sync {
    fn enqueue(&self, run_id: &str, payload: &[u8]);
    /// All in one transaction.
    fn enqueue_all(&self, jobs: &[Job]);
    fn ack(&self, run_id: &str);
    fn ack_all(&self, run_ids: &[String]);
    /// Reads the first jobs without removing them; returns how many.
    fn dequeue(&self, count: usize) -> usize;
    /// `None` if the time grows with the number of jobs.
    fn depth(&self) -> Option<u64>;
    fn save_config(&self, raw: &[u8]);
    /// Returns the configuration's length.
    fn load_config(&self) -> usize;
    fn heartbeat(&self, ts_ms: i64);
    fn log(&self, ts_ms: i64, payload: &[u8]);
    /// Reads and removes the oldest log events; returns how many.
    fn drain(&self, count: usize) -> usize;
    /// Makes the writes of [`Mode::Buffered`] durable.
    fn sync(&self);
    /// Periodic maintenance, for engines whose users must call it.
    fn tidy(&self) {}
    fn close(self: Box<Self>);
}

pub(crate) type Job = (String, Vec<u8>);

/// What a writing call promises when it returns.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Mode {
    /// The data survives a power cut.
    Durable,
    /// The kernel has the data.
    Buffered,
    /// As `Buffered`, in a process that only prepares what another process opens.
    Bulk,
}

/// The tables of a peer, one for each bucket of the store.
#[derive(Clone, Copy)]
pub(crate) enum Table {
    Config,
    Queue,
    Registry,
    Logs,
}

impl Table {
    pub(crate) const ALL: [Table; 4] = [Table::Config, Table::Queue, Table::Registry, Table::Logs];

    pub(crate) fn name(self) -> &'static str {
        ["config", "queue", "registry", "logs"][self as usize]
    }
}

pub(crate) type Key = Vec<u8>;
pub(crate) type Value = Vec<u8>;

/// What a peer offers: an ordered map from keys to values, both of them bytes.
pub(crate) trait Kv: Send + Sync {
    /// Whether a large transaction is faster with sorted keys.
    const LIKES_ORDER: bool;

    /// One transaction.
    fn write(&self, table: Table, puts: Vec<(Key, Value)>, deletes: Vec<Key>);
    fn get(&self, table: Table, key: &[u8]) -> Option<Value>;
    fn first(&self, table: Table, count: usize) -> Vec<(Key, Value)>;
    /// Exact and in constant time; `None` if the engine has no such call.
    fn count(&self, _table: Table) -> Option<u64> {
        None
    }
    fn sync(&self);
    fn tidy(&self) {}
    fn close(self);
}

/// A peer whose values are sealed, each bound to its key.
pub(crate) struct Sealed<K> {
    kv: K,
    cipher: Cipher,
    next_log: Mutex<u64>,
}

impl<K: Kv> Sealed<K> {
    pub(crate) fn new(kv: K) -> Self {
        Sealed { kv, cipher: Cipher::new(), next_log: Mutex::new(0) }
    }

    fn sealed(&self, key: &[u8], value: &[u8]) -> (Key, Value) {
        (key.to_vec(), self.cipher.seal(key, value))
    }

    fn first(&self, table: Table, count: usize) -> Vec<(Key, Value)> {
        let open = |(key, sealed): (Key, Value)| {
            let value = self.cipher.open(&key, sealed);
            (key, value)
        };
        self.kv.first(table, count).into_iter().map(open).collect()
    }
}

impl<K: Kv> Engine for Sealed<K> {
    fn enqueue(&self, run_id: &str, payload: &[u8]) {
        self.kv.write(Table::Queue, vec![self.sealed(run_id.as_bytes(), payload)], vec![]);
    }

    fn enqueue_all(&self, jobs: &[Job]) {
        let puts = jobs.iter().map(|(run_id, payload)| self.sealed(run_id.as_bytes(), payload));
        let mut puts: Vec<_> = puts.collect();
        if K::LIKES_ORDER {
            puts.sort_unstable();
        }
        self.kv.write(Table::Queue, puts, vec![]);
    }

    fn ack(&self, run_id: &str) {
        self.kv.write(Table::Queue, vec![], vec![run_id.into()]);
    }

    fn ack_all(&self, run_ids: &[String]) {
        self.kv.write(Table::Queue, vec![], run_ids.iter().map(|id| id.as_bytes().to_vec()).collect());
    }

    fn dequeue(&self, count: usize) -> usize {
        std::hint::black_box(self.first(Table::Queue, count)).len()
    }

    fn depth(&self) -> Option<u64> {
        self.kv.count(Table::Queue)
    }

    fn save_config(&self, raw: &[u8]) {
        self.kv.write(Table::Config, vec![self.sealed(b"current", raw)], vec![]);
    }

    fn load_config(&self) -> usize {
        let raw = self.cipher.open(b"current", self.kv.get(Table::Config, b"current").unwrap());
        std::hint::black_box(raw).len()
    }

    fn heartbeat(&self, ts_ms: i64) {
        self.kv.write(Table::Registry, vec![self.sealed(b"heartbeat", &ts_ms.to_le_bytes())], vec![]);
    }

    fn log(&self, ts_ms: i64, payload: &[u8]) {
        let ordinal = {
            let mut next = self.next_log.lock().unwrap_or_else(PoisonError::into_inner);
            *next += 1;
            *next
        };
        let key = [ts_ms.to_be_bytes(), ordinal.to_be_bytes()].concat();
        self.kv.write(Table::Logs, vec![self.sealed(&key, payload)], vec![]);
    }

    fn drain(&self, count: usize) -> usize {
        let events = std::hint::black_box(self.first(Table::Logs, count));
        let count = events.len();
        self.kv.write(Table::Logs, vec![], events.into_iter().map(|(key, _)| key).collect());
        count
    }

    fn sync(&self) {
        self.kv.sync();
    }

    fn tidy(&self) {
        self.kv.tidy();
    }

    fn close(self: Box<Self>) {
        self.kv.close();
    }
}

/// AES-256-GCM as `ciphertext || tag || nonce`, so that a value can be decrypted in place.
pub(crate) struct Cipher {
    cipher: Aes256Gcm,
    /// Fetched from the operating system many at a time: a call for each would cost as much as sealing.
    nonces: Mutex<Vec<[u8; NONCE_LEN]>>,
}

const NONCE_LEN: usize = 12;
pub(crate) const TAG_LEN: usize = 16;
const NONCES_FETCHED: usize = 64;

impl Cipher {
    pub(crate) fn new() -> Self {
        Cipher { cipher: Aes256Gcm::new(&[7; 32].into()), nonces: Mutex::default() }
    }

    pub(crate) fn nonce(&self) -> [u8; NONCE_LEN] {
        let mut nonces = self.nonces.lock().unwrap_or_else(PoisonError::into_inner);
        nonces.pop().unwrap_or_else(|| {
            let mut fetched = [[0; NONCE_LEN]; NONCES_FETCHED];
            getrandom::fill(fetched.as_flattened_mut()).unwrap();
            nonces.extend(&fetched[1..]);
            fetched[0]
        })
    }

    /// Encrypts in place and returns the tag.
    pub(crate) fn seal_in_place(&self, nonce: [u8; NONCE_LEN], aad: &[u8], value: &mut [u8]) -> [u8; TAG_LEN] {
        self.cipher.encrypt_inout_detached(&Nonce::from(nonce), aad, value.into()).unwrap().into()
    }

    pub(crate) fn seal(&self, aad: &[u8], value: &[u8]) -> Vec<u8> {
        let mut sealed = Vec::with_capacity(value.len() + TAG_LEN + NONCE_LEN);
        sealed.extend_from_slice(value);
        let nonce = self.nonce();
        let tag = self.seal_in_place(nonce, aad, &mut sealed);
        sealed.extend_from_slice(&tag);
        sealed.extend_from_slice(&nonce);
        sealed
    }

    /// Decrypts in place.
    pub(crate) fn open(&self, aad: &[u8], mut sealed: Vec<u8>) -> Vec<u8> {
        let len = sealed.len() - TAG_LEN - NONCE_LEN;
        let (value, rest) = sealed.split_at_mut(len);
        self.open_in_place(aad, value, rest);
        sealed.truncate(len);
        sealed
    }

    /// Decrypts a copy.
    pub(crate) fn open_copy(&self, aad: &[u8], sealed: &[u8]) -> Vec<u8> {
        let (value, rest) = sealed.split_at(sealed.len() - TAG_LEN - NONCE_LEN);
        let mut value = value.to_vec();
        self.open_in_place(aad, &mut value, rest);
        value
    }

    fn open_in_place(&self, aad: &[u8], value: &mut [u8], tag_and_nonce: &[u8]) {
        let (tag, nonce) = tag_and_nonce.split_at(TAG_LEN);
        let (tag, nonce): (&Tag, &Nonce<_>) = (tag.try_into().unwrap(), nonce.try_into().unwrap());
        self.cipher.decrypt_inout_detached(nonce, aad, value.into(), tag).unwrap();
    }
}
