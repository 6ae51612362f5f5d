//! The damaged files of the section *Test vectors* of FORMAT.md: each is a change of one of its two files.

use std::fmt::{self, Write};
use std::ops::Range;
use std::sync::Arc;

use backupy_state::testing::{Storage, salvage_on};
use backupy_state::{AgentKey, Lost};

use crate::agree;
use crate::agree::PATH;
use crate::memory::Memory;
use crate::page_reader::{self, Log, Refusal, crc32};
use crate::vectors::{AGENT_KEY, Vector, to_hex};

/// A change that anyone can repeat by its words.
enum Change {
    /// Puts bytes in the place of others.
    Put(usize, Vec<u8>),
    Zero(Range<usize>),
    Remove(Range<usize>),
    CutTo(usize),
    Append(Vec<u8>),
}

impl Change {
    fn apply(&self, file: &mut Vec<u8>) {
        match self {
            Change::Put(at, bytes) => file[*at..*at + bytes.len()].copy_from_slice(bytes),
            Change::Zero(range) => file[range.clone()].fill(0),
            Change::Remove(range) => drop(file.drain(range.clone())),
            Change::CutTo(len) => file.truncate(*len),
            Change::Append(bytes) => file.extend_from_slice(bytes),
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::Put(at, bytes) => write!(f, "put {} at {at}", to_hex(bytes)),
            Change::Zero(Range { start, end }) => write!(f, "zero {start}..{end}"),
            Change::Remove(Range { start, end }) => write!(f, "remove {start}..{end}"),
            Change::CutTo(len) => write!(f, "cut to {len}"),
            Change::Append(bytes) => write!(f, "append {}", to_hex(bytes)),
        }
    }
}

/// A damaged file: which one it comes from, why it is on the page, and the changes.
struct Case {
    number: usize,
    what: &'static str,
    changes: Vec<Change>,
}

fn cases(vectors: &[Vector]) -> Vec<Case> {
    let (one, two) = (&vectors[0], &vectors[1]);
    let (log, compacted) = (one.log(), two.log());
    let file = &one.bytes;
    let at = |seq: usize| log.frames[seq - 1].offset;
    let range = |seq: usize| at(seq)..at(seq) + log.frames[seq - 1].len;
    let base_end = compacted.header.base.unwrap().end as usize;
    let inverted = |at: usize| Change::Put(at, vec![!file[at]]);
    let marks = || Change::Zero(4096..8192);
    let tag_at = |seq: usize| at(seq) + 48 + log.frames[seq - 1].manifest_len;
    let value_at = log.frames[0].values[0].offset;
    let last = log.frames.len();

    let mut cases = Vec::new();
    let mut add = |number, what, changes| cases.push(Case { number, what, changes });
    add(1, "both copies of the header, in different fields", vec![inverted(40), inverted(2048 + 90)]);
    add(1, "the magic in neither copy", vec![inverted(0), inverted(2048)]);
    add(1, "a short file", vec![Change::CutTo(8191)]);
    add(1, "a CRC", vec![inverted(at(3) + 4)]);
    add(1, "a manifest's tag, which frame 4 confirms", vec![inverted(tag_at(3))]);
    add(1, "a nonce; frame 4 is chained to the tag that is still there", vec![inverted(at(3) + 32)]);
    add(1, "a header; nothing says where its tag is", vec![Change::Zero(at(3)..at(3) + 48)]);
    add(1, "a value", vec![inverted(value_at)]);
    add(1, "a value, with right CRCs", with_right_crcs(&log, file, 1, value_at));
    add(1, "a manifest, with right CRCs", with_right_crcs(&log, file, 3, at(3) + 48));
    add(1, "a frame left out", vec![marks(), Change::Remove(range(4))]);
    add(1, "the end missing, as the mark shows", vec![Change::CutTo(range(5).end)]);
    add(1, "the end zeroed, as the mark shows", vec![Change::Zero(at(6) + 8..file.len())]);
    add(1, "the same without marks: a torn tail", vec![marks(), Change::Zero(at(7) + 8..file.len())]);
    add(1, "bytes after the last frame", vec![Change::Append(b"\x01\x02\x03".into())]);
    add(1, "a torn mark: the other one is left", vec![inverted(log.header.mark.unwrap().offset + 9)]);
    add(1, "a mark that names another tag", vec![marked(&log, last, 1)]);
    add(2, "both copies of the base record", vec![Change::Zero(1024..1128), Change::Zero(3072..3176)]);
    add(2, "a base record that is not authentic", base_with_another_mac(two));
    add(2, "the end of the base missing", vec![marks(), Change::CutTo(base_end - 64)]);
    add(2, "all after the base missing, without marks", vec![marks(), Change::CutTo(base_end)]);
    cases
}

/// Inverts a byte of frame `seq`, and puts its CRCs right.
fn with_right_crcs(log: &Log, file: &[u8], seq: usize, at: usize) -> Vec<Change> {
    let frame = &log.frames[seq - 1];
    let mut bytes = file[frame.offset..frame.offset + frame.len].to_vec();
    bytes[at - frame.offset] = !bytes[at - frame.offset];
    let inverted = bytes[at - frame.offset];
    crate::page_writer::fix_crcs(&mut bytes, &log.header.salt);
    vec![Change::Put(at, vec![inverted]), Change::Put(frame.offset, bytes[..8].to_vec())]
}

/// A mark for frame `seq` in the slot of the last one, with the first byte of its tag changed.
fn marked(log: &Log, seq: usize, by: u8) -> Change {
    let frame = &log.frames[seq - 1];
    let mut tag = frame.manifest_tag;
    tag[0] ^= by;
    let end = (frame.offset + frame.len) as u64;
    let mark = [&[0; 4][..], &frame.seq.to_le_bytes(), &end.to_le_bytes(), &tag].concat();
    let crc = crc32(&[&log.header.salt, &mark]);
    Change::Put(log.header.mark.unwrap().offset, [&crc.to_le_bytes()[..], &mark].concat())
}

/// The first copy of the base record with another MAC and the right CRC, and no second copy.
fn base_with_another_mac(vector: &Vector) -> Vec<Change> {
    let mut copy = vector.bytes[1024..1128].to_vec();
    copy[72] ^= 1;
    let crc = crc32(&[&vector.log().header.salt, &copy[4..]]);
    copy[..4].copy_from_slice(&crc.to_le_bytes());
    vec![Change::Put(1024, copy[..4].to_vec()), Change::Put(1096, vec![copy[72]]), Change::Zero(3072..3176)]
}

/// The table of the page. Each row is also checked against the store.
pub(crate) fn render(vectors: &[Vector]) -> String {
    let mut out = "\n### Damaged files\n\n| file | what is damaged | change | rule | lost |\n".to_owned();
    out += "|---|---|---|---|---|\n";
    for Case { number, what, changes } in cases(vectors) {
        let mut file = vectors[number - 1].bytes.clone();
        changes.iter().for_each(|change| change.apply(&mut file));
        let changes: Vec<_> = changes.iter().map(Change::to_string).collect();
        let row = agree(&file, AGENT_KEY, what);
        let rule = match page_reader::read(&file, AGENT_KEY) {
            Ok(log) if log.torn_until.is_some() => format!("{row}, torn from {}", log.end),
            Ok(_) => row.to_owned(),
            Err(Refusal { offset, .. }) if row.starts_with('H') && offset == 0 => row.to_owned(),
            Err(Refusal { offset, .. }) => format!("{row} at {offset}"),
        };
        writeln!(out, "| {number} | {what} | {} | {rule} | {} |", changes.join("; "), lost(file)).unwrap();
    }
    out += "\n";
    out
}

/// What a salvage loses.
fn lost(file: Vec<u8>) -> String {
    let storage: Arc<dyn Storage> = Memory::with_file(PATH, file);
    let salvaged = salvage_on(&storage, PATH, &AgentKey::new(AGENT_KEY).unwrap(), "/salvaged.db");
    let Ok(report) = salvaged else { return "everything".to_owned() };
    let describe = |lost: &Lost| {
        let from = lost.first_seq;
        match (lost.last_seq, lost.what) {
            (_, "a value that cannot be read") => format!("a value of frame {from}"),
            (None, _) => format!("from frame {from} on"),
            (Some(last), _) if last == from => format!("frame {from}"),
            (Some(last), _) => format!("frames {from} - {last}"),
        }
    };
    let lost: Vec<_> = report.lost.iter().map(describe).collect();
    if lost.is_empty() { "nothing".to_owned() } else { lost.join(", ") }
}
