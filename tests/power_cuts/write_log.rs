//! The log of a block device, as qemu's `blklogwrites` writes it: the format of Linux's `dm-log-writes`.
//!
//! A sector with the superblock, then for each request a sector that describes it, followed by what was written.

use std::ops::Range;

use super::image::DiskImage;

pub(super) const SECTOR_LEN: u64 = 512;
/// The physical sector of today's disks.
const PIECE_LEN: u64 = 4096;
const FLUSH: u64 = 1;
const FUA: u64 = 2;
const DISCARD: u64 = 4;

/// A request that the device has done.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// How long the log was with it.
    pub(super) log_len: u64,
    pub(super) request: Request,
}

#[derive(Clone, Debug)]
pub(super) enum Request {
    /// All that was written before is durable.
    Flush,
    Write {
        offset: u64,
        data: Range<usize>,
        /// Durable by itself.
        is_durable: bool,
    },
    Discard {
        offset: u64,
        len: u64,
    },
}

impl Request {
    /// What a disk may do of it, and not do the rest. File systems rely on no less.
    pub(super) fn pieces(&self) -> Vec<Request> {
        let Request::Write { offset, data, is_durable } = self else { return vec![self.clone()] };
        let mut pieces = Vec::new();
        let mut at = data.start;
        while at < data.end {
            let offset = offset + (at - data.start) as u64;
            let len = (PIECE_LEN - offset % PIECE_LEN) as usize;
            let end = data.end.min(at + len);
            pieces.push(Request::Write { offset, data: at..end, is_durable: *is_durable });
            at = end;
        }
        pieces
    }
}

pub(super) struct WriteLog {
    bytes: Vec<u8>,
    pub(super) entries: Vec<Entry>,
}

impl WriteLog {
    /// The requests up to a length of the log.
    pub(super) fn new(bytes: Vec<u8>, log_len: u64) -> Self {
        let mut entries: Vec<Entry> = Vec::new();
        let mut at = SECTOR_LEN;
        while let Some(entry) = entry_at(&bytes, at) {
            at = entry.log_len;
            if at > log_len {
                break;
            }
            entries.push(entry);
        }
        WriteLog { bytes, entries }
    }

    /// Does to `image` what the request did to the device.
    pub(super) fn redo(&self, request: &Request, image: &mut DiskImage) {
        match request {
            Request::Flush => {}
            Request::Write { offset, data, .. } => image.write(*offset, &self.bytes[data.clone()]),
            Request::Discard { offset, len } => image.zero(*offset, *len),
        }
    }
}

/// `None` at the end of the log.
fn entry_at(bytes: &[u8], at: u64) -> Option<Entry> {
    let header = bytes.get(at as usize..(at + SECTOR_LEN) as usize)?;
    let field = |n: usize| u64::from_le_bytes(header[n * 8..n * 8 + 8].try_into().unwrap());
    let (sector, sectors, flags) = (field(0), field(1), field(2));
    let (offset, len) = (sector * SECTOR_LEN, sectors * SECTOR_LEN);
    let data = at + SECTOR_LEN;
    if flags & FLUSH != 0 {
        assert_eq!(sectors, 0, "a flush that writes");
        return Some(Entry { log_len: data, request: Request::Flush });
    }
    if sectors == 0 {
        return None;
    }
    if flags & DISCARD != 0 {
        return Some(Entry { log_len: data, request: Request::Discard { offset, len } });
    }
    let end = data + len;
    assert!(end <= bytes.len() as u64, "a write whose bytes are not in the log");
    let request = Request::Write { offset, data: data as usize..end as usize, is_durable: flags & FUA != 0 };
    Some(Entry { log_len: end, request })
}
