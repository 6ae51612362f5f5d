//! Frames with any fields, manifest and values, sealed under the right key or another, with correct CRCs: the
//! store must decode them as FORMAT.md says.

use arbitrary::{Arbitrary, Unstructured};

use crate::base::{FIRST_FRAME_AT, KEY, base, frames};
use crate::checks::check_log;
use crate::page_reader::{self, Header};
use crate::page_writer::{Draft, fix_crcs};

const FRAMES_MAX: usize = 4;

#[derive(Arbitrary, Debug)]
struct Frame {
    is_sealed: bool,
    seq_off_by: Option<i8>,
    durable_seq: u64,
    is_close: bool,
    odd_kind: Option<u8>,
    odd_zero: Option<[u8; 3]>,
    manifest: Manifest,
    odd_padding: Option<Vec<u8>>,
    odd_len: Option<u32>,
    odd_manifest_len: Option<u32>,
    /// More or fewer values than the manifest lists.
    values_off_by: Option<i8>,
    /// A byte changed after sealing; the CRCs are recomputed.
    changed: Option<(u16, u8)>,
}

#[derive(Arbitrary, Debug)]
enum Manifest {
    Any(Vec<u8>),
    Of(Vec<Operation>),
}

#[derive(Arbitrary, Debug)]
struct Operation {
    kind: u8,
    bucket: u8,
    key: Key,
    odd_key_len: Option<u16>,
    odd_value_len: Option<u32>,
    value: Vec<u8>,
}

#[derive(Arbitrary, Debug)]
enum Key {
    Current,
    Session,
    Heartbeat,
    Dropped,
    Log([u8; 16]),
    Short(u8),
    Any(Vec<u8>),
    Data(Vec<u8>),
}

#[derive(Arbitrary, Debug)]
enum Tail {
    Nothing,
    Zeros(u8),
    Bytes(Vec<u8>),
}

pub fn run(bytes: &[u8]) {
    let mut input = Unstructured::new(bytes);
    let base = base();
    let real = frames(&base.unmarked);
    let kept = usize::from(input.arbitrary::<u8>().unwrap_or(0)) % 4;
    let mut log = base.unmarked[..kept.checked_sub(1).map_or(FIRST_FRAME_AT, |last| real[last].end)].to_vec();
    let before = page_reader::read(&log, KEY).unwrap_or_else(|refusal| panic!("{refusal:?}"));
    let last = before.frames.last();
    let (mut seq, first) = (kept as u64, before.header.authenticator[..16].try_into().unwrap());
    let mut chain = last.map_or(first, |frame| frame.manifest_tag);
    let count = 1 + usize::from(input.arbitrary::<u8>().unwrap_or(0)) % FRAMES_MAX;
    for _ in 0..count {
        let Ok(frame) = Frame::arbitrary(&mut input) else { break };
        seq += 1;
        let bytes = encode(&frame, seq, &chain, &before.header);
        chain = tag_of(&bytes).unwrap_or(chain);
        log.extend(bytes);
        if input.is_empty() {
            break;
        }
    }
    match Tail::arbitrary(&mut input).unwrap_or(Tail::Nothing) {
        Tail::Nothing => {}
        Tail::Zeros(count) => log.resize(log.len() + usize::from(count), 0),
        Tail::Bytes(bytes) => log.extend(bytes),
    }
    check_log(&log);
}

fn encode(frame: &Frame, seq: u64, chain: &[u8; 16], header: &Header) -> Vec<u8> {
    let seq = seq.wrapping_add_signed(frame.seq_off_by.unwrap_or(0).into());
    let (manifest, mut values) = frame.manifest.encode();
    if let Some(off_by) = frame.values_off_by {
        values.resize(values.len().saturating_add_signed((off_by % 3).into()), vec![7; 5]);
    }
    let is_close = frame.is_close && frame.odd_kind.is_none();
    let draft = Draft {
        len: frame.odd_len,
        manifest_len: frame.odd_manifest_len,
        seq,
        durable_seq: if is_close { seq.saturating_sub(1) } else { frame.durable_seq % seq.max(1) },
        kind: frame.odd_kind.unwrap_or(if is_close { 2 } else { 1 }),
        zero: frame.odd_zero.unwrap_or_default(),
        manifest: if is_close { Vec::new() } else { manifest },
        values: if is_close { Vec::new() } else { values },
        padding: frame.odd_padding.clone(),
    };
    let mut bytes = draft.seal(chain, header);
    if !frame.is_sealed {
        // As if sealed under another key.
        bytes[48] ^= 1;
        fix_crcs(&mut bytes, &header.salt);
    }
    if let Some((at, mask)) = frame.changed {
        let at = 8 + usize::from(at) % (bytes.len() - 8);
        bytes[at] ^= mask;
        fix_crcs(&mut bytes, &header.salt);
    }
    bytes
}

/// The manifest's tag, at the offset that the frame's header gives.
fn tag_of(frame: &[u8]) -> Option<[u8; 16]> {
    let manifest_len = u32::from_le_bytes(frame[12..16].try_into().unwrap()) as usize;
    frame.get(48..)?.get(manifest_len..)?.first_chunk().copied()
}

impl Manifest {
    fn encode(&self) -> (Vec<u8>, Vec<Vec<u8>>) {
        let operations = match self {
            Manifest::Any(bytes) => return (bytes.clone(), Vec::new()),
            Manifest::Of(operations) => operations,
        };
        let mut bytes = (operations.len() as u32).to_le_bytes().to_vec();
        let mut values = Vec::new();
        for Operation { kind, bucket, key, odd_key_len, odd_value_len, value } in operations {
            // Mostly valid kinds and buckets.
            let kind = if *kind < 250 { kind % 3 + 1 } else { *kind };
            let (own_bucket, key) = key.encode();
            let bucket = if *bucket < 250 { own_bucket } else { *bucket };
            let key_len = odd_key_len.unwrap_or(key.len() as u16);
            bytes.extend([kind, bucket]);
            bytes.extend(key_len.to_le_bytes());
            bytes.extend(key);
            if kind == 1 {
                bytes.extend(odd_value_len.unwrap_or(value.len() as u32).to_le_bytes());
                values.push(value.clone());
            }
        }
        (bytes, values)
    }
}

impl Key {
    /// Returns the key's bucket and bytes.
    fn encode(&self) -> (u8, Vec<u8>) {
        match self {
            Key::Current => (1, b"current".to_vec()),
            Key::Short(id) => (2, vec![b'a' + id % 26]),
            Key::Any(bytes) => (2, bytes.clone()),
            Key::Session => (3, b"session".to_vec()),
            Key::Heartbeat => (3, b"heartbeat".to_vec()),
            Key::Dropped => (3, b"dropped".to_vec()),
            Key::Log(key) => (4, key.to_vec()),
            Key::Data(bytes) => (5, bytes.clone()),
        }
    }
}
