//! Writes bbolt files by hand, of any page length and with any oddity. Written from bbolt's sources; shares
//! nothing with the reader that it tests.

#![allow(dead_code, unreachable_pub, reason = "each user takes what it needs")]
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "small files of tests")]

use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::{Aes256Gcm, Nonce};
use hkdf::Hkdf;
use sha2::Sha256;

pub const LEAF: u16 = 2;
pub const BRANCH: u16 = 1;
pub const BUCKET: u32 = 1;

/// A key of a page: its flags in a leaf, its child in a branch.
pub struct Slot {
    pub key: Vec<u8>,
    pub value: Vec<u8>,
    pub word: u64,
}

pub fn value(key: &[u8], value: &[u8]) -> Slot {
    Slot { key: key.into(), value: value.into(), word: 0 }
}

pub fn bucket(name: &[u8], value: Vec<u8>) -> Slot {
    Slot { key: name.into(), value, word: BUCKET.into() }
}

pub fn child(key: &[u8], page: u64) -> Slot {
    Slot { key: key.into(), value: Vec::new(), word: page }
}

/// The value of a bucket whose keys are in a tree of pages.
pub fn tree(root: u64) -> Vec<u8> {
    [root.to_le_bytes(), 7_u64.to_le_bytes()].concat()
}

/// The value of a bucket that holds its page.
pub fn inline(slots: &[Slot]) -> Vec<u8> {
    [tree(0), page(0, LEAF, slots)].concat()
}

/// A page as long as it needs to be.
pub fn page(id: u64, kind: u16, slots: &[Slot]) -> Vec<u8> {
    let mut bytes = id.to_le_bytes().to_vec();
    bytes.extend(kind.to_le_bytes());
    bytes.extend((slots.len() as u16).to_le_bytes());
    bytes.extend(0_u32.to_le_bytes());
    let mut end = 16 + 16 * slots.len();
    for (i, Slot { key, value, word }) in slots.iter().enumerate() {
        let pos = (end - 16 - 16 * i) as u32;
        let fields = match kind {
            BRANCH => [pos, key.len() as u32, *word as u32, (*word >> 32) as u32],
            _ => [*word as u32, pos, key.len() as u32, value.len() as u32],
        };
        bytes.extend(fields.iter().flat_map(|field| field.to_le_bytes()));
        end += key.len() + value.len();
    }
    for Slot { key, value, .. } in slots {
        bytes.extend(key);
        bytes.extend(value);
    }
    bytes
}

/// A file in the making.
pub struct Pages {
    pub page_len: usize,
    /// From page 2 on, which stays free.
    pub bytes: Vec<u8>,
    pub has_freelist: bool,
}

impl Pages {
    pub fn new(page_len: usize) -> Self {
        let mut bytes = page(2, LEAF, &[]);
        bytes.resize(page_len, 0);
        Pages { page_len, bytes, has_freelist: true }
    }

    pub fn next_id(&self) -> u64 {
        (2 + self.bytes.len() / self.page_len) as u64
    }

    /// Adds a page, or as many as it takes. Returns its number.
    pub fn add(&mut self, kind: u16, slots: &[Slot]) -> u64 {
        self.add_bytes(page(self.next_id(), kind, slots))
    }

    fn add_bytes(&mut self, mut page: Vec<u8>) -> u64 {
        let id = self.next_id();
        let count = page.len().div_ceil(self.page_len);
        page.resize(count * self.page_len, 0);
        page[12..16].copy_from_slice(&(count as u32 - 1).to_le_bytes());
        self.bytes.extend(page);
        id
    }

    /// Adds leaves with at most `per_page` keys each, and as many levels of branches as it takes. Returns the
    /// root.
    pub fn add_tree(&mut self, slots: Vec<Slot>, per_page: usize) -> u64 {
        let mut kind = LEAF;
        let mut level = slots;
        loop {
            let mut above = Vec::new();
            while !level.is_empty() {
                let rest = level.split_off(per_page.min(level.len()));
                let key = level[0].key.clone();
                above.push(child(&key, self.add(kind, &level)));
                level = rest;
            }
            if let [root] = &above[..] {
                return root.word;
            }
            (kind, level) = (BRANCH, above);
        }
    }

    /// The file, with this root page.
    pub fn finish(mut self, root: u64) -> Vec<u8> {
        let mut freelist = u64::MAX;
        if self.has_freelist {
            let id = self.next_id();
            let mut page = id.to_le_bytes().to_vec();
            page.extend([0x10, 0, 1, 0, 0, 0, 0, 0]);
            page.extend(2_u64.to_le_bytes());
            freelist = self.add_bytes(page);
        }
        let high_water = self.next_id();
        let metas = [0, 1].map(|id| self.meta(id, root, freelist, high_water));
        [metas.concat(), self.bytes].concat()
    }

    /// Transaction 10 or 11, which is the newer one.
    fn meta(&self, id: u64, root: u64, freelist: u64, high_water: u64) -> Vec<u8> {
        let mut page = id.to_le_bytes().to_vec();
        page.extend([4, 0, 0, 0, 0, 0, 0, 0]);
        for field in [0xED0C_DAED, 2, self.page_len as u32, 0] {
            page.extend(field.to_le_bytes());
        }
        for field in [root, 0, freelist, high_water, 10 + id, 0] {
            page.extend(field.to_le_bytes());
        }
        fix_checksum(&mut page, 0);
        page.resize(self.page_len, 0);
        page
    }
}

/// Recomputes the checksum of the meta page at the offset.
pub fn fix_checksum(file: &mut [u8], at: usize) {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for &byte in &file[at + 16..at + 72] {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    }
    file[at + 72..at + 80].copy_from_slice(&hash.to_le_bytes());
}

/// What an agent keeps.
#[derive(Clone, Debug, Default)]
pub struct Agent {
    pub config: Option<(u64, Vec<u8>)>,
    pub session: Option<(String, u64)>,
    pub heartbeat: Option<u64>,
    /// By run id.
    pub jobs: Vec<(String, Vec<u8>)>,
    /// By time and number.
    pub logs: Vec<(u64, u64, Vec<u8>)>,
}

impl Agent {
    /// The four buckets, and pages of the queue and the logs with at most so many keys each.
    pub fn buckets(&self, key: &[u8], pages: &mut Pages, per_page: usize) -> Vec<Slot> {
        let mut seals = Seals::new(key);
        let mut config = Vec::new();
        if let Some((version, raw)) = &self.config {
            config.push(value(b"current", &seals.seal(raw)));
            config.push(value(b"version", &version.to_be_bytes()));
        }
        let mut registry = Vec::new();
        if let Some(heartbeat) = self.heartbeat {
            registry.push(value(b"last_heartbeat_ms", &heartbeat.to_be_bytes()));
        }
        if let Some((id, server_time)) = &self.session {
            registry.push(value(b"server_time_ms", &server_time.to_be_bytes()));
            registry.push(value(b"session_id", &seals.seal(id.as_bytes())));
        }
        registry.sort_by(|a, b| a.key.cmp(&b.key));
        let jobs = self.jobs.iter().map(|(id, payload)| value(id.as_bytes(), &seals.seal(payload))).collect();
        let mut seals = Seals { count: 1 << 20, ..seals };
        let logs = self.logs.iter().map(|(ts_ms, seq, payload)| {
            value(&[ts_ms.to_be_bytes(), seq.to_be_bytes()].concat(), &seals.seal(payload))
        });
        let logs = logs.collect();
        let mut tree_of = |slots: Vec<Slot>| match slots.len() {
            0 => inline(&[]),
            _ => tree(pages.add_tree(slots, per_page)),
        };
        vec![
            bucket(b"config", inline(&config)),
            bucket(b"logs_buffer", tree_of(logs)),
            bucket(b"queue", tree_of(jobs)),
            bucket(b"registry", inline(&registry)),
        ]
    }

    pub fn file(&self, key: &[u8], page_len: usize, per_page: usize) -> Vec<u8> {
        let mut pages = Pages::new(page_len);
        let buckets = self.buckets(key, &mut pages, per_page);
        let root = pages.add(LEAF, &buckets);
        pages.finish(root)
    }
}

/// Seals as the agent does, with nonces that count.
pub struct Seals {
    cipher: Aes256Gcm,
    count: u64,
}

impl Seals {
    pub fn new(key: &[u8]) -> Self {
        let mut derived = [0; 32];
        let hkdf = Hkdf::<Sha256>::new(Some(b"backupy-agent-state-salt"), key);
        hkdf.expand(b"backupy-agent/state-v1", &mut derived).unwrap();
        Seals { cipher: Aes256Gcm::new((&derived).into()), count: 0 }
    }

    pub fn seal(&mut self, text: &[u8]) -> Vec<u8> {
        self.count += 1;
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&self.count.to_be_bytes());
        let mut sealed = text.to_vec();
        let in_place = sealed.as_mut_slice().into();
        let tag = self.cipher.encrypt_inout_detached(&Nonce::from(nonce), &[], in_place).unwrap();
        [&[1], &nonce[..], &sealed, &tag[..]].concat()
    }
}
