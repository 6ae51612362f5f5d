//! A real log, changed step by step, with recomputed CRCs: if it opens, its contents are a state that the store
//! had.

use arbitrary::{Arbitrary, Unstructured};

use crate::base::{self, BASE_LEN, BASES, Base, FIRST_FRAME_AT, FRAME_HEADER_LEN, SLOT_LEN, SLOTS, base};
use crate::checks::{check_log, check_salvage};
use crate::sim::Model;

const MUTATIONS_MAX: usize = 8;
const LEN_MAX: usize = 32 << 10;

/// One change. Offsets and numbers wrap around at the log's length and the number of frames.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Mutation {
    Flip {
        at: u16,
        bit: u8,
    },
    Overwrite {
        at: u16,
        bytes: [u8; 8],
    },
    Zero {
        from: u16,
        len: u16,
    },
    Cut {
        len: u16,
    },
    Grow {
        zeros: u16,
    },
    Append {
        bytes: [u8; 48],
    },
    Insert {
        from: Source,
        frame: u8,
        before: u8,
    },
    Replace {
        from: Source,
        frame: u8,
        instead: u8,
    },
    Remove {
        frame: u8,
    },
    Swap {
        a: u8,
        b: u8,
    },
    /// A field of a frame's header. Both CRCs are recomputed, or only the header's.
    Field {
        frame: u8,
        field: Field,
        value: u64,
        both: bool,
    },
    /// A byte after a frame's header. Both CRCs are recomputed.
    Body {
        frame: u8,
        at: u16,
        mask: u8,
    },
    FixCrcs {
        frame: u8,
    },
    /// A byte of one or both header copies. Their CRCs are recomputed.
    Header {
        copies: u8,
        at: u8,
        mask: u8,
    },
    /// A byte of one or both copies of the base record. Their CRCs are recomputed.
    BaseRecord {
        copies: u8,
        at: u8,
        mask: u8,
    },
    /// A mark that names a frame of the log, or almost.
    Mark {
        slot: bool,
        frame: u8,
        seq_off_by: i8,
        end_off_by: i8,
        tag_mask: u8,
    },
    /// Both marks are removed.
    Unmark,
    /// A byte of a header copy, a copy of the base record or a mark. No CRC is recomputed.
    Page {
        part: u8,
        at: u8,
        mask: u8,
    },
}

#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Source {
    Same,
    Fork,
    Older,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Field {
    Len,
    ManifestLen,
    Seq,
    DurableSeq,
    Kind,
    Nonce,
}

pub fn run(bytes: &[u8]) {
    let mut input = Unstructured::new(bytes);
    let base = base();
    let mut log = if input.arbitrary().unwrap_or(false) { base.fork.clone() } else { base.main.clone() };
    for _ in 0..MUTATIONS_MAX {
        let Ok(mutation) = Mutation::arbitrary(&mut input) else { break };
        mutate(&mut log, &mutation, base);
        log.truncate(LEN_MAX);
        if input.is_empty() {
            break;
        }
    }
    if let Some(found) = check_log(&log) {
        assert!(base.states.contains(&found), "the store never had this state: {found:#?}");
    }
    if let Some(found) = check_salvage(&log) {
        let existed = |has: &dyn Fn(&Model) -> bool| base.states.iter().any(has);
        for job in &found.jobs {
            assert!(existed(&|state| state.jobs.contains(job)), "never written: {job:?}");
        }
        for event in &found.logs {
            assert!(existed(&|state| state.logs.contains(event)), "never written: {event:?}");
        }
        assert!(existed(&|state| state.config == found.config), "never written: {:?}", found.config);
        assert!(existed(&|state| state.session == found.session), "never written: {:?}", found.session);
        assert!(existed(&|state| state.heartbeat == found.heartbeat), "never written: {:?}", found.heartbeat);
    }
}

pub fn mutate(log: &mut Vec<u8>, mutation: &Mutation, base: &Base) {
    let len = log.len();
    // Offsets start near the end of the first pages, which are mostly zeros.
    let place = |at: u16| (FIRST_FRAME_AT - 8 + usize::from(at) % (len + 8 - FIRST_FRAME_AT).max(1)).min(len);
    let frames = base::frames(log);
    let frame = |number: u8| frames.get(usize::from(number) % frames.len().max(1)).cloned();
    match *mutation {
        Mutation::Flip { at, bit } => {
            if let Some(byte) = log.get_mut(place(at)) {
                *byte ^= 1 << (bit % 8);
            }
        }
        Mutation::Overwrite { at, bytes } => {
            let at = place(at);
            let end = len.min(at + bytes.len());
            log[at..end].copy_from_slice(&bytes[..end - at]);
        }
        Mutation::Zero { from, len: count } => {
            let at = place(from);
            log[at..len.min(at + usize::from(count) % 1024)].fill(0);
        }
        Mutation::Cut { len } => log.truncate(place(len)),
        Mutation::Grow { zeros } => log.resize(len + usize::from(zeros) % 1024, 0),
        Mutation::Append { bytes } => log.extend(bytes),
        Mutation::Insert { from, frame: number, before } => {
            if let (Some(bytes), Some(place)) = (frame_bytes(from, number, log, base), frame(before)) {
                log.splice(place.start..place.start, bytes);
            }
        }
        Mutation::Replace { from, frame: number, instead } => {
            if let (Some(bytes), Some(place)) = (frame_bytes(from, number, log, base), frame(instead)) {
                log.splice(place, bytes);
            }
        }
        Mutation::Remove { frame: number } => drop(frame(number).map(|place| log.drain(place))),
        Mutation::Swap { a, b } => {
            if let (Some(a), Some(b)) = (frame(a.min(b)), frame(a.max(b)))
                && a.end <= b.start
            {
                let (first, between, second) =
                    (log[a.clone()].to_vec(), log[a.end..b.start].to_vec(), &log[b.clone()]);
                let swapped = [second, &between, &first].concat();
                log.splice(a.start..b.end, swapped);
            }
        }
        Mutation::Field { frame: number, field, value, both } => {
            let Some(place) = frame(number) else { return };
            set_field(&mut log[place.clone()], field, value);
            if both {
                base::fix_crcs(log, place);
            } else {
                base::fix_header_crc(log, place.start);
            }
        }
        Mutation::Body { frame: number, at, mask } => {
            let Some(place) = frame(number) else { return };
            let body = place.start + FRAME_HEADER_LEN..place.end;
            log[body.start + usize::from(at) % body.len()] ^= mask;
            base::fix_crcs(log, place);
        }
        Mutation::FixCrcs { frame: number } => {
            if let Some(place) = frame(number) {
                base::fix_crcs(log, place);
            }
        }
        Mutation::Header { copies, at, mask } => {
            for copy in [0, 2048].into_iter().filter(|copy| copies & 1 << (copy / 2048) != 0) {
                let Some(header) = log.get_mut(copy..copy + 116) else { return };
                header[usize::from(at) % 112] ^= mask;
                let crc = crc32fast::hash(&header[..112]);
                header[112..].copy_from_slice(&crc.to_le_bytes());
            }
        }
        Mutation::BaseRecord { copies, at, mask } => {
            for (_, place) in BASES.into_iter().enumerate().filter(|(number, _)| copies & 1 << number != 0) {
                let Some(copy) = log.get_mut(place..place + BASE_LEN) else { return };
                copy[4 + usize::from(at) % (BASE_LEN - 4)] ^= mask;
                base::fix_position_crc(log, place, BASE_LEN);
            }
        }
        Mutation::Mark { slot, frame: number, seq_off_by, end_off_by, tag_mask } => {
            let Some(named) = frame(number) else { return };
            let tag_at = named.start + FRAME_HEADER_LEN + u32_at(log, named.start + 12) as usize;
            let Some(&tag) = log.get(tag_at..).and_then(|rest| rest.first_chunk::<16>()) else { return };
            let seq = u64::from(u32_at(log, named.start + 16)).wrapping_add_signed(seq_off_by.into());
            let end = (named.end as u64).wrapping_add_signed(8 * i64::from(end_off_by));
            let place = SLOTS[usize::from(slot)];
            log[place + 4..place + 8].fill(0);
            log[place + 8..place + 16].copy_from_slice(&seq.to_le_bytes());
            log[place + 16..place + 24].copy_from_slice(&end.to_le_bytes());
            log[place + 24..place + SLOT_LEN].copy_from_slice(&tag);
            log[place + 24] ^= tag_mask;
            base::fix_position_crc(log, place, SLOT_LEN);
        }
        Mutation::Unmark => {
            if let Some(page) = log.get_mut(SLOTS[0]..FIRST_FRAME_AT) {
                page.fill(0);
            }
        }
        Mutation::Page { part, at, mask } => {
            let (place, len) = [(0, 116), (2048, 116), (BASES[0], BASE_LEN), (BASES[1], BASE_LEN)]
                .into_iter()
                .chain(SLOTS.map(|slot| (slot, SLOT_LEN)))
                .nth(usize::from(part) % 6)
                .unwrap();
            if let Some(byte) = log.get_mut(place + usize::from(at) % len) {
                *byte ^= mask;
            }
        }
    }
}

fn u32_at(log: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(log[at..at + 4].try_into().unwrap())
}

fn frame_bytes(from: Source, number: u8, log: &[u8], base: &Base) -> Option<Vec<u8>> {
    let log = match from {
        Source::Same => log,
        Source::Fork => &base.fork,
        Source::Older => &base.older,
    };
    let frames = base::frames(log);
    let frame = frames.get(usize::from(number) % frames.len().max(1))?;
    Some(log[frame.clone()].to_vec())
}

fn set_field(frame: &mut [u8], field: Field, value: u64) {
    let (at, len) = match field {
        Field::Len => (8, 4),
        Field::ManifestLen => (12, 4),
        Field::Seq => (16, 8),
        Field::DurableSeq => (24, 8),
        Field::Nonce => (32, 8),
        Field::Kind => (44, 4),
    };
    frame[at..at + len].copy_from_slice(&value.to_le_bytes()[..len]);
}
