//! The baselines: the simplest code that could do the same work.

use std::collections::BTreeMap;
use std::fs::File;
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use backupy_state::Store;

use crate::engine::{Cipher, Engine, Job, Mode, TAG_LEN};
use crate::engines;
use crate::figure::{Figure, SECONDS, time_calls};
use crate::jobs::run_id;

/// A file of zeros, written and synced.
fn zeros(path: &Path, len: usize) -> File {
    let file = File::options().read(true).write(true).create_new(true).open(path).unwrap();
    // In pieces: one large write creates folios of 2 MiB, in which each small write costs three times as much.
    for at in (0..len).step_by(64 << 10) {
        file.write_all_at(&[0; 64 << 10], at as u64).unwrap();
    }
    file.sync_all().unwrap();
    file
}

/// Appends as many bytes as the store's frames have, with a sync after each.
pub(crate) struct Appender {
    /// Used in turn.
    frame_lens: Vec<usize>,
}

impl Appender {
    /// The frame that the store writes for one call.
    pub(crate) fn frame_of(folder: &Path, prepare: impl Fn(&dyn Engine), call: impl Fn(&dyn Engine)) -> Self {
        let folder = tempfile::tempdir_in(folder).unwrap();
        let store: Store = engines::open_store(folder.path(), Mode::Buffered);
        prepare(&store);
        let before = store.stats().log_len;
        call(&store);
        Appender { frame_lens: vec![usize::try_from(store.stats().log_len - before).unwrap()] }
    }

    pub(crate) fn and(self, other: Appender) -> Self {
        Appender { frame_lens: [self.frame_lens, other.frame_lens].concat() }
    }

    pub(crate) fn time(self, folder: &Path, count: usize, most: Duration) -> Figure {
        self.time_after(|| (), folder, count, most)
    }

    /// Does `work` before each append.
    pub(crate) fn time_after(self, work: impl Fn(), folder: &Path, count: usize, most: Duration) -> Figure {
        let lens = &self.frame_lens;
        let file = zeros(&folder.join("baseline"), (count + 2) * lens.iter().sum::<usize>() / lens.len());
        let frame = vec![7; *lens.iter().max().unwrap()];
        let mut at = 0;
        time_calls(count, most, |i| {
            work();
            let frame = &frame[..lens[i % lens.len()]];
            file.write_all_at(frame, at).unwrap();
            file.sync_data().unwrap();
            at += frame.len() as u64;
        })
    }
}

/// Appends frames as long as the store's, for any number of threads. A sync covers all that was written before it,
/// so the threads that wait for it need at most one more.
pub(crate) struct GroupAppender {
    file: File,
    frame: Vec<u8>,
    written: Mutex<u64>,
    synced: Mutex<u64>,
}

impl GroupAppender {
    pub(crate) fn new(folder: &Path, appender: Appender, count: usize) -> Self {
        let frame = vec![7; appender.frame_lens[0]];
        let file = zeros(&folder.join("baseline"), count * frame.len());
        GroupAppender { file, frame, written: Mutex::new(0), synced: Mutex::new(0) }
    }

    pub(crate) fn append(&self) {
        let end = {
            let mut written = self.written.lock().unwrap();
            self.file.write_all_at(&self.frame, *written).unwrap();
            *written += self.frame.len() as u64;
            *written
        };
        let mut synced = self.synced.lock().unwrap();
        if *synced < end {
            let covered = *self.written.lock().unwrap();
            self.file.sync_data().unwrap();
            *synced = covered;
        }
    }
}

/// Seals, checksums and writes frames of the same length as the store's.
pub(crate) struct PlainLoop<'a> {
    folder: &'a Path,
    cipher: Cipher,
    frame_len: usize,
}

/// Where the manifest begins in the frame of one job.
const MANIFEST_OFFSET: usize = 48;

impl<'a> PlainLoop<'a> {
    pub(crate) fn new(folder: &'a Path) -> Self {
        let appender = Appender::frame_of(folder, |_| {}, |engine| engine.enqueue(&run_id(0), &[7; 512]));
        PlainLoop { folder, cipher: Cipher::new(), frame_len: appender.frame_lens[0] }
    }

    /// One write per frame, without a sync.
    pub(crate) fn one_by_one(self, count: usize) -> Figure {
        let file = zeros(&self.folder.join("baseline"), (count + 1) * self.frame_len);
        let mut frame = vec![7; self.frame_len];
        let begun = Instant::now();
        for i in 0..count {
            self.seal(&mut frame);
            file.write_all_at(&frame, (i * self.frame_len) as u64).unwrap();
        }
        Figure::of(&[(SECONDS, begun.elapsed().as_secs_f64() / count as f64)])
    }

    /// The manifest and the value are sealed apart, as in the store's frame.
    fn seal(&self, frame: &mut [u8]) {
        let value_at = frame.len() - VALUE_LEN - TAG_LEN;
        for (at, end) in [(MANIFEST_OFFSET, value_at), (value_at, frame.len())] {
            let (text, tag) = frame[at..end].split_last_chunk_mut().unwrap();
            *tag = self.cipher.seal_in_place(self.cipher.nonce(), &AAD, text);
        }
        let crc = crc32fast::hash(&frame[4..]);
        frame[..4].copy_from_slice(&crc.to_le_bytes());
    }

    /// `run id, value, tag` of each job, all in one write.
    pub(crate) fn in_one_write(self, jobs: &[Job], mode: Mode) -> Figure {
        let file = File::create_new(self.folder.join("baseline")).unwrap();
        let begun = Instant::now();
        let mut bytes = Vec::with_capacity(jobs.iter().map(|(id, payload)| id.len() + payload.len() + 16).sum());
        let mut crc = crc32fast::Hasher::new();
        for (run_id, payload) in jobs {
            let first = bytes.len();
            bytes.extend_from_slice(run_id.as_bytes());
            let value = bytes.len();
            bytes.extend_from_slice(payload);
            let nonce = self.cipher.nonce();
            let tag = self.cipher.seal_in_place(nonce, &[], &mut bytes[value..]);
            bytes.extend_from_slice(&tag);
            crc.update(&bytes[first..]);
        }
        black_box(crc.finalize());
        file.write_all_at(&bytes, 0).unwrap();
        if mode == Mode::Durable {
            file.sync_data().unwrap();
        }
        Figure::of(&[(SECONDS, begun.elapsed().as_secs_f64() / jobs.len() as f64)])
    }
}

pub(crate) struct Values {
    cipher: Cipher,
    sealed: Vec<Vec<u8>>,
}

pub(crate) fn values_in_memory(count: usize, value: &[u8]) -> Values {
    let cipher = Cipher::new();
    let sealed = (0..count).map(|_| cipher.seal(&AAD, value)).collect();
    Values { cipher, sealed }
}

/// As long as the associated data in a frame.
const AAD: [u8; 12] = [0; 12];

impl Values {
    pub(crate) fn open_all(&self) -> Vec<Vec<u8>> {
        self.sealed.iter().map(|sealed| self.cipher.open_copy(&AAD, sealed)).collect()
    }
}

/// Sealed jobs in memory, by run id.
pub(crate) struct JobsInMemory {
    values: Values,
    /// Which of the values each has.
    jobs: BTreeMap<String, usize>,
}

impl JobsInMemory {
    pub(crate) fn new(count: usize, payload: &[u8]) -> Self {
        JobsInMemory {
            values: values_in_memory(count, payload),
            jobs: (0..count).map(|i| (run_id(i), i)).collect(),
        }
    }

    pub(crate) fn first(&self, count: usize) -> Vec<Job> {
        let Values { cipher, sealed } = &self.values;
        let open = |(run_id, &i): (&String, &usize)| (run_id.clone(), cipher.open_copy(&AAD, &sealed[i]));
        self.jobs.iter().take(count).map(open).collect()
    }
}

const RUN_ID_LEN: usize = 36;
const VALUE_LEN: usize = 512;

/// Writes a file of `run id, CRC, sealed value` for each job.
pub(crate) fn write_replay(folder: &Path, count: usize) {
    let values = values_in_memory(count, &[7; VALUE_LEN]);
    let record = |(i, sealed): (usize, &Vec<u8>)| {
        [run_id(i).as_bytes(), &crc32fast::hash(sealed).to_le_bytes(), sealed].concat()
    };
    let records: Vec<_> = values.sealed.iter().enumerate().map(record).collect();
    std::fs::write(folder.join("baseline"), records.concat()).unwrap();
}

pub(crate) fn replay(folder: &Path) -> Figure {
    let record_len = RUN_ID_LEN + 4 + VALUE_LEN + 28;
    let begun = Instant::now();
    let cipher = Cipher::new();
    let bytes = std::fs::read(folder.join("baseline")).unwrap();
    let mut jobs = BTreeMap::new();
    for record in bytes.chunks(record_len) {
        let (run_id, sealed) = record.split_at(RUN_ID_LEN);
        let (crc, sealed) = sealed.split_at(4);
        assert_eq!(crc, crc32fast::hash(sealed).to_le_bytes());
        jobs.insert(run_id.to_vec(), cipher.open_copy(&AAD, sealed));
    }
    let took = begun.elapsed();
    assert_eq!(jobs.len(), bytes.len() / record_len);
    drop(black_box(jobs));
    Figure::seconds(took)
}
