//! The runs of an index file: where they are in its bytes, and files that are made without the store, from the
//! frames of a log, which `page_reader` reads. Written from the appendix of FORMAT.md.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{Aes256Gcm, Nonce};
use arbitrary::Arbitrary;
use hkdf::Hkdf;
use sha2::Sha256;

use crate::base::KEY;
use crate::page_reader::{self, Log};

pub const MAGIC: [u8; 12] = *b"\x89BKPYIDX\r\n\x1a\n";
pub const HEADER_LEN: usize = 64;
pub const SALT_LEN: usize = 32;
pub const HEAD_LEN: usize = 8;
pub const TAG_LEN: usize = 16;
const ENTRIES: u32 = 1;
const END: u32 = 2;

/// A run in the bytes of an index file: a salt, and parts that each have a head, a text and a tag.
pub struct RunBytes {
    pub range: Range<usize>,
    pub parts: Vec<Range<usize>>,
}

/// The runs, according to the heads of their parts, up to the first head that cannot be right.
pub fn runs(file: &[u8]) -> Vec<RunBytes> {
    let mut runs = Vec::new();
    let (mut begin, mut at, mut parts) = (HEADER_LEN, HEADER_LEN + SALT_LEN, Vec::new());
    while let Some(head) = file.get(at..at + HEAD_LEN) {
        let number = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().unwrap());
        let end = at + HEAD_LEN + number(0) as usize + TAG_LEN;
        if end > file.len() || !(ENTRIES..=END).contains(&number(4)) {
            break;
        }
        parts.push(at..end);
        at = end;
        if number(4) == END {
            runs.push(RunBytes { range: begin..end, parts: std::mem::take(&mut parts) });
            (begin, at) = (end, end + SALT_LEN);
        }
    }
    runs
}

/// A run of a file that is made without the store.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub struct Draft {
    /// How many frames the run has.
    frames: u8,
    /// How many frames were written while the keys were copied. Only the first run copies them.
    late_frames: u8,
    /// Chooses for each key at which of these frames it was copied.
    copied_at: u64,
    /// How many entries a part has at most.
    part_count: u8,
    forged: Option<Forged>,
}

/// Bytes of a run that are changed before it is sealed: no store writes it.
#[derive(Arbitrary, Clone, Copy, Debug)]
struct Forged {
    at: u16,
    bytes: [u8; 8],
}

impl Draft {
    /// As the store may write it.
    pub fn plain(frames: u8, late_frames: u8) -> Self {
        Draft { frames, late_frames, copied_at: 0x0123_4567_89ab_cdef, part_count: 2, forged: None }
    }

    pub fn is_forged(&self) -> bool {
        self.forged.is_some()
    }
}

/// A bucket, and a key in it.
type Key = (u8, Vec<u8>);
type Keys = BTreeMap<Key, Location>;

#[derive(Clone, Copy, PartialEq)]
struct Location {
    value_offset: u64,
    seq: u32,
    i: u32,
    len: u32,
    nonce: [u8; 12],
}

/// A log that was read by FORMAT.md, with its live keys before the first frame and after each.
pub struct Source {
    log: Log,
    states: Vec<Keys>,
}

impl Source {
    pub fn new(log: &[u8]) -> Self {
        let log = page_reader::read(log, KEY).unwrap_or_else(|refusal| panic!("{refusal:?}"));
        let mut states = vec![Keys::new()];
        for frame in &log.frames {
            let mut keys = states.last().unwrap().clone();
            let mut values = (0..).zip(&frame.values);
            for operation in &frame.operations {
                let key = (operation.bucket, operation.key.clone());
                match operation.kind {
                    1 => {
                        let (i, value) = values.next().unwrap();
                        let (seq, len) = (frame.seq as u32, value.len as u32);
                        let value_offset = value.offset as u64;
                        keys.insert(key, Location { value_offset, seq, i, len, nonce: frame.nonce });
                    }
                    2 => drop(keys.remove(&key)),
                    _ => keys.retain(|other, _| other.0 != key.0 || other.1 > key.1),
                }
            }
            states.push(keys);
        }
        Source { log, states }
    }

    /// An index file of the log with these runs, as far as the log has frames for them.
    pub fn index_file(&self, drafts: &[Draft]) -> Vec<u8> {
        let header = self.header();
        let mut file = header.clone();
        let frame_count = self.log.frames.len();
        // After which frame the last run ends, and which keys it and those before it have.
        let (mut from, mut known, mut known_until) = (0, BTreeSet::new(), 0);
        // With which tag that run ends.
        let mut before = vec![0; TAG_LEN];
        for (number, draft) in drafts.iter().enumerate() {
            let to = known_until.max(from + 1 + usize::from(draft.frames) % frame_count);
            if to > frame_count || to == from {
                break;
            }
            let late_frames = if number == 0 { usize::from(draft.late_frames) % 8 } else { 0 };
            let until = frame_count.min(to + late_frames);
            let entries =
                if number == 0 { self.copied(to, until, draft.copied_at) } else { self.changed(from, to, &known) };
            for (key, location) in &entries {
                if location.is_some() {
                    known.insert(key.clone())
                } else {
                    known.remove(key)
                };
            }
            let end = self.end_text([to, until - 1, until]);
            file.extend(self.sealed(&header, &before, number, draft, &entries, end));
            before = file[file.len() - TAG_LEN..].to_vec();
            (from, known_until) = (to, until);
        }
        file
    }

    fn header(&self) -> Vec<u8> {
        let (generation, salt) = (self.log.header.generation, self.log.header.salt);
        let mut header = [&MAGIC[..], &2_u16.to_le_bytes(), &[0; 2], &generation.to_le_bytes(), &salt].concat();
        header.resize(HEADER_LEN, 0);
        header
    }

    /// All live keys, each as it was after some frame from `to` to `until`.
    fn copied(&self, to: usize, until: usize, copied_at: u64) -> Entries {
        let states = &self.states[to..=until];
        let keys: BTreeSet<_> = states.iter().flat_map(Keys::keys).collect();
        let at = |i: u32| copied_at.rotate_left(7 * i) as usize % states.len();
        let entry = |(i, key): (u32, &Key)| Some((key.clone(), Some(*states[at(i)].get(key)?)));
        (0..).zip(keys).filter_map(entry).collect()
    }

    /// What the frames between the two have put and not removed again, and which of the known keys are gone.
    fn changed(&self, from: usize, to: usize, known: &BTreeSet<Key>) -> Entries {
        let keys = &self.states[to];
        let puts = keys.iter().filter(|(_, location)| location.seq as usize > from);
        let gone = known.iter().filter(|key| !keys.contains_key(key));
        let puts = puts.map(|(key, location)| (key.clone(), Some(*location)));
        puts.chain(gone.map(|key| (key.clone(), None))).collect()
    }

    /// The text of the part that ends a run, from the numbers of the frames that its positions follow.
    fn end_text(&self, positions: [usize; 3]) -> Vec<u8> {
        let [to, _, until] = positions;
        let puts = |count: usize| self.log.frames[..count].iter().flat_map(|frame| &frame.operations);
        let values = puts(to).filter(|operation| operation.kind == 1).count() as u64;
        let events = puts(until).filter(|operation| operation.kind == 1 && operation.bucket == 4);
        let ordinals = events.map(|event| u64::from_be_bytes(event.key[8..].try_into().unwrap()));
        let next_ordinal = ordinals.max().map_or(0, |last| last + 1);
        let numbers = [values.to_le_bytes(), next_ordinal.to_le_bytes()].concat();
        positions.into_iter().flat_map(|number| self.position(number)).chain(numbers).collect()
    }

    /// The position after a frame.
    fn position(&self, number: usize) -> Vec<u8> {
        let (end, tag) = match number.checked_sub(1).map(|last| &self.log.frames[last]) {
            Some(frame) => (frame.offset + frame.len, &frame.manifest_tag[..]),
            None => (8192, &self.log.header.authenticator[..16]),
        };
        [&(number as u64).to_le_bytes(), &(end as u64).to_le_bytes(), tag].concat()
    }

    fn sealed(
        &self,
        header: &[u8],
        before: &[u8],
        number: usize,
        draft: &Draft,
        entries: &Entries,
        end_text: Vec<u8>,
    ) -> Vec<u8> {
        let entries: Vec<_> = entries.iter().collect();
        let parts = entries.chunks(1 + usize::from(draft.part_count) % 32);
        let mut texts: Vec<_> = parts.map(|part| (ENTRIES, entries_text(part))).chain([(END, end_text)]).collect();
        if let Some(Forged { at, bytes }) = draft.forged {
            // Offset 0 is in the last text, which has the fewest bytes and says the most.
            let count = texts.len();
            let text = &mut texts[count - 1 - usize::from(at >> 8) % count].1;
            let at = usize::from(at) % text.len();
            text.iter_mut().skip(at).zip(bytes).for_each(|(byte, forged)| *byte = forged);
        }
        let mut salt = [number as u8 + 1; SALT_LEN];
        salt[..8].copy_from_slice(&draft.copied_at.to_le_bytes());
        let hkdf = Hkdf::<Sha256>::from_prk(&self.log.header.prk).unwrap();
        let mut key = [0; 32];
        hkdf.expand(&[&b"backupy-state index"[..], &salt].concat(), &mut key).unwrap();
        let cipher = Aes256Gcm::new((&key).into());
        let aad = [header, before].concat();
        let mut run = salt.to_vec();
        for (part, (kind, text)) in (0_u64..).zip(&texts) {
            let nonce: [u8; 12] = [&kind.to_be_bytes()[..], &part.to_be_bytes()].concat().try_into().unwrap();
            run.extend((text.len() as u32).to_le_bytes());
            run.extend(kind.to_le_bytes());
            run.extend(cipher.encrypt(&Nonce::from(nonce), Payload { msg: text, aad: &aad }).unwrap());
        }
        run
    }
}

type Entries = BTreeMap<Key, Option<Location>>;

fn entries_text(entries: &[(&Key, &Option<Location>)]) -> Vec<u8> {
    let mut text = Vec::new();
    let mut last: &[u8] = &[];
    for ((bucket, key), location) in entries {
        let shared = last.iter().zip(key).take_while(|(a, b)| a == b).count();
        let (place, kind) = location.as_ref().map_or((Vec::new(), 0), place_and_kind);
        let head = shared | (key.len() - shared) << 11 | usize::from(*bucket) << 22 | kind << 25;
        text.extend((head as u32).to_le_bytes());
        text.extend(&key[shared..]);
        text.extend(place);
        last = key;
    }
    text
}

fn place_and_kind(Location { value_offset, seq, i, len, nonce }: &Location) -> (Vec<u8>, usize) {
    let [offset, seq, i_bytes, len_bytes] =
        [*value_offset, u64::from(*seq), u64::from(*i), u64::from(*len)].map(u64::to_le_bytes);
    if *i <= 125 && *value_offset < 1 << 40 && *len < 1 << 24 {
        return ([&offset[..5], &len_bytes[..3], &seq[..4], nonce].concat(), 2 + *i as usize);
    }
    ([&offset[..], &seq[..4], &i_bytes[..4], &len_bytes[..4], nonce].concat(), 1)
}
