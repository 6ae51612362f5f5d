//! The index file next to a log: reads it, so that opening need not read every frame, and removes it.
//!
//! The log is the truth. The index file only saves time: it can be missing, torn, old or another log's, and then
//! the log is replayed from its first frame. None of that is an error, and a file that does not begin as an index
//! file is never touched, unless it has only zeros.
//!
//! A run fits a log if it is sealed under the log's key, was written after the run before it, and the log has the
//! frame that it ends with. That frame's tag depends on every manifest before it. So an index file of an earlier
//! state fits, and the frames after it are replayed; one of a fork does not fit. What the run says of the frames
//! before it was authenticated when it was written. The nonces of the values are in it too, so a value opens only
//! if it is the one that was indexed.
//!
//! `index/file.rs` has the bytes, `index_writer.rs` writes them. Implements *Appendix: the index file* of
//! FORMAT.md.

use std::io;
use std::path::Path;

use super::file::LogFile;
use super::replay::Replay;
use super::scan::{self, Scanned, Scanner};
use crate::crypto::secret_vec::{self, SecretVec};
use crate::crypto::{TAG_LEN, Tag};
use crate::format::frame::FrameKind;
use crate::format::header::FIRST_FRAME_AT;
use crate::format::position::LogPosition;
use crate::index::entry;
use crate::index::file::{
    self, FILE_HEADER_LEN, FIRST_RUN, MAGIC, PART_HEAD_LEN, Part, RUN_SALT_LEN, RunEnd, RunOpener,
};
use crate::index::{Index, QueueOrder};
use crate::storage::names::{INDEX, INDEX_NEW, sibling};
use crate::storage::{self, Access, File, FileId, Storage};

/// What an index file says of its log.
pub(crate) struct Indexed {
    /// Continues where the last run ends.
    pub(crate) replay: Replay,
    pub(crate) runs: Runs,
    /// The runs have no values of frames after this one.
    pub(crate) last_seq: u64,
}

/// The runs of an index file that fit the log.
#[derive(Clone, Debug)]
pub(crate) struct Runs {
    pub(crate) file: FileId,
    /// Where the last of them ends in the file.
    pub(crate) len: u64,
    /// The ends of the runs, in order.
    pub(crate) ends: Vec<LogPosition>,
    /// The tag with which the last of them ends.
    pub(crate) last_tag: Tag,
    /// How long the file was when it had its first run only.
    pub(crate) first_len: u64,
    /// Whether the file has nothing else.
    pub(crate) are_whole_file: bool,
}

impl Runs {
    /// Where the frames end that the runs have.
    pub(crate) fn indexed_end(&self) -> u64 {
        self.ends.last().map_or(FIRST_FRAME_AT as u64, |end| end.end)
    }
}

/// Reads the index file of a log. `None` if there is none that fits.
pub(crate) fn read(storage: &dyn Storage, log: &LogFile, order: QueueOrder) -> Option<Indexed> {
    let file = storage.open(&sibling(&log.path, INDEX), Access::Read).ok()?;
    let header = file::encode_header(&log.id);
    let mut reader = PartReader {
        file: &*file,
        log,
        header,
        at: 0,
        before: FIRST_RUN,
        opener: None,
        text: SecretVec::default(),
    };
    if reader.take::<FILE_HEADER_LEN>()? != header {
        return None;
    }
    let (indexed, zeros) = scan::look_for_zeros_during(&*log.file, || read_runs(reader, order));
    let mut indexed = indexed?;
    indexed.replay.end_in(zeros);
    Some(indexed)
}

/// Reads the runs that fit the log. `None` if there are none.
fn read_runs(mut reader: PartReader<'_>, order: QueueOrder) -> Option<Indexed> {
    let (file, log) = (reader.file, reader.log);
    let mut index = Index::new(order);
    let expected = usize::try_from(file.len().unwrap_or(0) / SHORT_ENTRY_LEN).unwrap_or(usize::MAX);
    // What was staged before each run, its end, where it ends in the file, and with which tag.
    let mut runs: Vec<(_, RunEnd, u64, Tag)> = Vec::new();
    let mut staged = index.staged_lens();
    let mut values_end = 0;
    while let Some((part, text)) = reader.next() {
        let fits = match part {
            Part::Entries => entry::parse_all(text, |bucket, key, location| {
                let sealed_len = |len| u64::from(len) + TAG_LEN as u64;
                let end = location.map_or(0, |it| it.value_offset.saturating_add(sealed_len(it.len)));
                values_end = values_end.max(end);
                index.stage_entry(bucket, key, location, expected);
            }),
            // Else what is staged stays that of the runs before it.
            Part::End(end, tag) => (values_end <= end.until.end).then(|| {
                let staged_before = std::mem::replace(&mut staged, index.staged_lens());
                runs.push((staged_before, end, reader.at, tag));
            }),
        };
        if fits.is_none() {
            break;
        }
    }
    index.unstage(staged);
    while let Some((staged, end, len, last_tag)) = runs.pop() {
        if let Some(kind) = frame_at(log, &end) {
            index.merge_staged();
            index.continue_ordinals_from(end.next_ordinal);
            let first_len = runs.first().map_or(len, |(_, _, len, _)| *len);
            let ends = runs.iter().map(|(_, end, ..)| end.to).chain([end.to]).collect();
            let before = (end.to == end.until).then_some(end.before_until);
            let replay =
                Replay::continuing(index, end.to, end.until, before, kind == FrameKind::Close, end.values);
            let are_whole_file = file.len().is_ok_and(|file_len| file_len == len);
            let runs = Runs { file: file.id(), len, first_len, ends, last_tag, are_whole_file };
            return Some(Indexed { replay, runs, last_seq: end.until.seq });
        }
        index.unstage(staged);
    }
    None
}

/// The kind of the frame that a run ends with; `None` if the log does not have it.
fn frame_at(log: &LogFile, end: &RunEnd) -> Option<FrameKind> {
    // It was durable when the run was written, so no writer is in the middle of it.
    let mut scan = Scanner::up_to(log, end.before_until, end.until.end).ok()?;
    let Ok(Scanned::Frame(frame)) = scan.next() else { return None };
    let kind = frame.header.kind;
    (scan.tip() == end.until && end.to.seq <= end.until.seq).then_some(kind)
}

/// The tag of the frame `seq`, in a log that was opened by the runs that end at `ends`. Reads the frames from the
/// end of one run to the end of the next one, which must fit; `None` if it does not.
pub(crate) fn tag_of(log: &LogFile, first: LogPosition, ends: &[LogPosition], seq: u64) -> Option<Tag> {
    let (before, after) = ends.split_at(ends.partition_point(|end| end.seq <= seq));
    let start = *before.last().unwrap_or(&first);
    if start.seq == seq {
        return Some(start.chain);
    }
    let mut tag = None;
    let found = scan::each_frame(log, start, *after.first()?, |frame| {
        if frame.header.seq == seq {
            tag = frame.header.stored_tag(frame.body);
        }
        Ok(())
    });
    found.ok().and(tag)
}

/// An entry with a UUID as its key is longer. Where entries are shorter, a list is copied as it grows.
const SHORT_ENTRY_LEN: u64 = 48;

/// Reads and opens the parts of an index file from front to back.
struct PartReader<'a> {
    file: &'a dyn File,
    log: &'a LogFile,
    header: [u8; FILE_HEADER_LEN],
    /// Where the next part or run begins.
    at: u64,
    /// The tag with which the run before the next one ends.
    before: Tag,
    /// Opens the parts of the run that has been begun.
    opener: Option<RunOpener>,
    text: SecretVec,
}

impl PartReader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Some(bytes)
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Option<()> {
        storage::read_exact_at(self.file, bytes, self.at).ok()?;
        self.at += bytes.len() as u64;
        Some(())
    }

    /// The next part, and its entries. `None` at the end of the file, and for one that does not open.
    fn next(&mut self) -> Option<(Part, &[u8])> {
        let mut opener = match self.opener.take() {
            Some(opener) => opener,
            None => {
                let salt = self.take::<RUN_SALT_LEN>()?;
                RunOpener::new(self.log.prk.run_sealer(&salt), &self.header, &self.before)
            }
        };
        let head = file::parse_part_head(&self.take::<PART_HEAD_LEN>()?)?;
        let mut text = std::mem::take(&mut self.text);
        let len = head.len + TAG_LEN;
        let more = len.saturating_sub(text.len());
        secret_vec::reserve(&mut text, more);
        text.resize(len, 0);
        self.fill(&mut text)?;
        let part = opener.open(head, &mut text).ok()?;
        match part {
            Part::Entries => self.opener = Some(opener),
            Part::End(_, tag) => self.before = tag,
        }
        self.text = text;
        Some((part, self.text.get(..head.len)?))
    }
}

/// Removes the index file of `log`, also one that is being written, if `path` still means that log: else it is
/// that of the log which has taken the place. Returns whether there was one.
pub(crate) fn remove(storage: &dyn Storage, path: &Path, log: FileId) -> bool {
    // Asked once the index file is known: a store that takes the place brings its index file after its log.
    let is_in_place = || storage.id(path).is_ok_and(|found| found == Some(log));
    [INDEX, INDEX_NEW].map(|suffix| remove_if(storage, &sibling(path, suffix), is_in_place)).contains(&true)
}

/// Removes the file at `name` if it is an index file, and `is_allowed` says so. Returns whether it was removed.
pub(super) fn remove_if(storage: &dyn Storage, name: &Path, is_allowed: impl FnOnce() -> bool) -> bool {
    let file = own_id(storage, name).filter(|_| is_allowed());
    file.is_some_and(|file| storage.remove_file(name, file).is_ok_and(|removed| removed))
}

/// The file at `name`, if it is an index file: it begins as one, and has no other name. One that is empty or has
/// only zeros is one too: a power cut leaves that of a file that was not synced.
pub(super) fn own_id(storage: &dyn Storage, name: &Path) -> Option<FileId> {
    let file = storage.open(name, Access::Read).ok()?;
    let mut begin = [0; MAGIC.len()];
    storage::read_at_most(&*file, &mut begin, 0).ok()?;
    let is_own = begin == MAGIC || has_only_zeros(&*file).ok()?;
    (is_own && file.names().ok()? == 1).then_some(file.id())
}

/// Whether the file has only zeros. `false` if there are too many to read.
fn has_only_zeros(file: &dyn File) -> io::Result<bool> {
    let mut part = [0; ZEROS_PART_LEN];
    let mut at = 0;
    for _ in 0..ZEROS_LEN_MAX / ZEROS_PART_LEN {
        at = file.skip_hole(at);
        let len = storage::read_at_most(file, &mut part, at)?;
        if len == 0 {
            return Ok(true);
        }
        if part[..len].iter().any(|&byte| byte != 0) {
            return Ok(false);
        }
        at += len as u64;
    }
    Ok(false)
}

/// So many zeros are read in a few milliseconds, and an index file of 250,000 keys is so long. Holes are not read.
const ZEROS_LEN_MAX: usize = 16 << 20;
const ZEROS_PART_LEN: usize = 16 << 10;

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;
    use crate::format::bucket::Bucket;
    use crate::format::location::Location;
    use crate::log::index_writer::RunWriter;
    use crate::log::recovery::{self, Found, How, Recovered};
    use crate::log::scan::Concurrency;
    use crate::storage::Disk;
    use crate::{AgentKey, Check, OpenOptions, testing};

    const HOW: How<'_> = How { order: QueueOrder::RunId, expected: None, check: Check::Live };

    /// A log with a job, which was opened by its index file.
    fn opened_by_index(folder: &Path) -> Recovered {
        let (path, key) = (folder.join("state.db"), AgentKey::new("key").unwrap());
        let mut options = OpenOptions::new();
        let store = testing::index_every(&mut options, 1).open(&path, &key).unwrap();
        store.enqueue_job("run", b"job").unwrap();
        store.close().unwrap();
        let file = Disk.open(&path, Access::Write).unwrap().into();
        recovery::open(&Disk, file, &path, &key, HOW).unwrap()
    }

    /// It takes the key to write such a run.
    #[test]
    fn a_run_that_does_not_join_is_not_applied() {
        let folder = tempfile::tempdir().unwrap();
        let Recovered { log, end, runs, .. } = opened_by_index(folder.path());
        let (runs, to, before_until) = (runs.unwrap(), end.tip, end.before_tip.unwrap());
        let (seq, nonce) = (NonZeroU32::MIN, [1; 12]);
        let after_the_end = Location { value_offset: to.end, seq, i: 0, len: 4, nonce };
        let mut run = RunWriter::append(&Disk, &log, runs.clone(), &to).unwrap();
        run.add(Bucket::Queue, b"run", None).unwrap();
        run.add(Bucket::Queue, b"run-x", Some(&after_the_end)).unwrap();
        run.finish(&RunEnd { to, before_until, until: to, values: 1, next_ordinal: 0 }).unwrap();
        let found = read(&Disk, &log, QueueOrder::RunId).unwrap();
        assert_eq!((found.runs.ends, found.runs.are_whole_file), (runs.ends, false));
        let keys = found.replay.index.keys(Bucket::Queue);
        assert!(keys.iter().map(|key| &**key).eq([b"run"]), "{} keys", keys.len());
    }

    #[test]
    fn only_a_writer_notes_removed_keys_for_the_next_run() {
        let folder = tempfile::tempdir().unwrap();
        let Recovered { log, header, .. } = opened_by_index(folder.path());
        let first = LogPosition::first(&header.authenticator);
        for (concurrency, is_writer) in [(Concurrency::Exclusive, true), (Concurrency::WithWriter(&Disk), false)] {
            let mut found = Found::read(&Disk, &log, first, concurrency, HOW).unwrap();
            assert!(found.runs.is_some());
            assert_eq!(found.replay.index.note_removed_since(0).is_some(), is_writer);
        }
    }
}
