//! The contents of a block device, in memory. Copies share the pages that are equal.

use std::collections::BTreeMap;
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

const PAGE_LEN: usize = 4096;

type Page = [u8; PAGE_LEN];

/// Where there is no page, all bytes are zero.
#[derive(Clone, Debug)]
pub(super) struct DiskImage {
    len: u64,
    pages: BTreeMap<u64, (Arc<Page>, u64)>,
    hash: u64,
}

impl DiskImage {
    pub(super) fn new(len: u64) -> Self {
        DiskImage { len, pages: BTreeMap::new(), hash: 0 }
    }

    pub(super) fn read_from(path: &Path) -> Self {
        let mut file = File::open(path).unwrap();
        let mut image = DiskImage::new(file.metadata().unwrap().len());
        let mut bytes = vec![0; 1 << 20];
        let mut at = 0;
        while at < image.len {
            let part = (image.len - at).min(bytes.len() as u64) as usize;
            file.read_exact(&mut bytes[..part]).unwrap();
            image.write(at, &bytes[..part]);
            at += part as u64;
        }
        image
    }

    /// Makes a new file of it, with holes: a file of its own, so that no cache can know an earlier image.
    pub(super) fn save_to(&self, path: &Path) {
        let file = File::create_new(path).unwrap();
        file.set_len(self.len).unwrap();
        for (number, (page, _)) in &self.pages {
            file.write_all_at(&page[..], number * PAGE_LEN as u64).unwrap();
        }
    }

    /// Equal for images with equal bytes.
    pub(super) fn hash(&self) -> u64 {
        self.hash
    }

    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) {
        self.change(offset, bytes.len() as u64, |page, range, at| page.copy_from_slice(&bytes[at..at + range]));
    }

    pub(super) fn zero(&mut self, offset: u64, len: u64) {
        self.change(offset, len, |part, _, _| part.fill(0));
    }

    /// Calls `change` for each page, with the part of it that changes, its length and how far it is from `offset`.
    fn change(&mut self, offset: u64, len: u64, change: impl Fn(&mut [u8], usize, usize)) {
        assert!(offset + len <= self.len, "a write beyond the end of the device");
        let mut done = 0;
        while done < len {
            let (number, within) =
                ((offset + done) / PAGE_LEN as u64, ((offset + done) % PAGE_LEN as u64) as usize);
            let part = (PAGE_LEN - within).min((len - done) as usize);
            let mut page = match self.pages.remove(&number) {
                Some((page, hash)) => {
                    self.hash ^= hash;
                    *page
                }
                None => [0; PAGE_LEN],
            };
            change(&mut page[within..within + part], part, done as usize);
            if page.iter().any(|&byte| byte != 0) {
                let hash = hash_of(number, &page);
                self.hash ^= hash;
                self.pages.insert(number, (Arc::new(page), hash));
            }
            done += part as u64;
        }
    }
}

fn hash_of(number: u64, page: &Page) -> u64 {
    let mut hasher = DefaultHasher::new();
    (number, page).hash(&mut hasher);
    hasher.finish()
}
