//! What a file holds, by sectors that are shared between all images of it. Sectors of zeros take no room.

use std::sync::Arc;

use super::random::mix;

/// What a disk writes whole or not at all.
pub const SECTOR_LEN: usize = 512;

/// A sector that is not all zeros, with its hash.
#[derive(Clone, Debug)]
pub struct Sector(Arc<(u64, [u8; SECTOR_LEN])>);

impl Sector {
    /// `None` for zeros.
    pub fn new(bytes: [u8; SECTOR_LEN]) -> Option<Self> {
        if is_zero(&bytes) {
            return None;
        }
        let words = bytes.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap()));
        let hash = words.fold(0, |hash, word| mix(hash ^ word).wrapping_add(word));
        Some(Sector(Arc::new((hash, bytes))))
    }

    pub fn bytes(&self) -> &[u8; SECTOR_LEN] {
        &self.0.1
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    // Without an early exit, so that it is done by vectors.
    bytes.iter().fold(0, |all, byte| all | byte) == 0
}

/// The bytes of a file.
#[derive(Clone, Debug, Default)]
pub struct Content {
    len: u64,
    /// As many as the last one that is not zero needs, or more.
    sectors: Vec<Option<Sector>>,
}

impl Content {
    pub fn of(bytes: &[u8]) -> Self {
        let mut content = Content::default();
        content.write(bytes, 0);
        content
    }

    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.len as usize];
        self.read(&mut bytes, 0);
        bytes
    }

    /// Without the zeros at its end, so that preallocated space makes no difference.
    pub fn trimmed_bytes(&self) -> Vec<u8> {
        let mut bytes = self.bytes();
        bytes.truncate(bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1));
        bytes
    }

    pub fn sector(&self, number: usize) -> Option<&Sector> {
        self.sectors.get(number)?.as_ref()
    }

    pub fn sector_bytes(&self, number: usize) -> [u8; SECTOR_LEN] {
        self.sector(number).map_or([0; SECTOR_LEN], |sector| *sector.bytes())
    }

    pub fn put_sector(&mut self, number: usize, sector: Option<Sector>) {
        if number >= self.sectors.len() {
            if sector.is_none() {
                return;
            }
            self.sectors.resize(number + 1, None);
        }
        self.sectors[number] = sector;
    }

    /// Whether the sector is the same in both.
    pub fn same_sector(&self, other: &Content, number: usize) -> bool {
        match (self.sector(number), other.sector(number)) {
            (None, None) => true,
            (Some(a), Some(b)) => Arc::ptr_eq(&a.0, &b.0) || a.bytes() == b.bytes(),
            _ => false,
        }
    }

    /// Reads what there is, up to the end of the file.
    pub fn read(&self, buf: &mut [u8], offset: u64) -> usize {
        let len = (self.len.saturating_sub(offset)).min(buf.len() as u64) as usize;
        let mut done = 0;
        while done < len {
            let at = offset as usize + done;
            let (number, from) = (at / SECTOR_LEN, at % SECTOR_LEN);
            let part = &mut buf[done..len.min(done + SECTOR_LEN - from)];
            match self.sector(number) {
                Some(sector) => part.copy_from_slice(&sector.bytes()[from..from + part.len()]),
                None if number >= self.sectors.len() => {
                    buf[done..len].fill(0);
                    break;
                }
                None => part.fill(0),
            }
            done += SECTOR_LEN - from;
        }
        len
    }

    pub fn write(&mut self, bytes: &[u8], offset: u64) {
        let mut done = 0;
        while done < bytes.len() {
            let at = offset as usize + done;
            let (number, from) = (at / SECTOR_LEN, at % SECTOR_LEN);
            let part = &bytes[done..bytes.len().min(done + SECTOR_LEN - from)];
            if self.sector(number).is_some() || !is_zero(part) {
                let mut sector = self.sector_bytes(number);
                sector[from..from + part.len()].copy_from_slice(part);
                self.put_sector(number, Sector::new(sector));
            }
            done += part.len();
        }
        self.len = self.len.max(offset + bytes.len() as u64);
    }

    /// Cuts, or lengthens with zeros.
    pub fn set_len(&mut self, len: u64) {
        self.len = len;
        let whole = len as usize / SECTOR_LEN;
        let left = len as usize % SECTOR_LEN;
        if left != 0 && self.sector(whole).is_some() {
            let mut sector = self.sector_bytes(whole);
            sector[left..].fill(0);
            self.put_sector(whole, Sector::new(sector));
        }
        self.sectors.truncate(len.div_ceil(SECTOR_LEN as u64) as usize);
    }

    pub fn hash(&self) -> u64 {
        let sectors = self.sectors.iter().enumerate();
        let hashes = sectors.filter_map(|(number, sector)| Some((number as u64, sector.as_ref()?.0.0)));
        hashes.fold(mix(self.len), |hash, (number, sector)| mix(hash ^ mix(number).wrapping_add(sector)))
    }
}
