//! Whatever changes in the bytes of a store, opening it shows a prefix of its history or returns an error with the
//! right offset, and a store that is refused is not changed.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use backupy_state::testing::{open_snapshot_on, verify_on};
use backupy_state::{Error, FaultKind, FrameInfo, Result};

use crate::common::{Image, depth};
use crate::sim::Sim;
use crate::sim::content::{Content, SECTOR_LEN};
use crate::sim::random::{Random, mix};
use crate::sim::subject::{RECORDS_PER_SESSION, Subject, end, in_parallel, small_call, start, write_sessions};
use crate::sim::world;
use crate::sim::{Agent, Call, Mode, Model, Oracle, PATH, key, open};

const FIRST_FRAME_AT: usize = 8192;
const SESSIONS: usize = 3;

/// The store all tests here damage, made once.
fn subject() -> &'static Subject {
    static SUBJECT: OnceLock<Subject> = OnceLock::new();
    SUBJECT.get_or_init(|| {
        let mut agent = Agent::new(Sim::new(21), Mode::Sync);
        agent.start().unwrap();
        write_sessions(&mut agent, 22, SESSIONS);
        let subject = Subject::closed(&mut agent);
        assert!(subject.history.len() > 200 && subject.frames.iter().filter(|frame| frame.is_close).count() == 3);
        println!("{} frames in {} bytes", subject.frames.len(), subject.bytes.len());
        subject
    })
}

/// Opens a store of these bytes and reads all of it. If it is refused, nothing may have changed.
fn look(content: Content) -> Result<Model> {
    let image = world::Image::from([(PathBuf::from(PATH), content)]);
    let sim = Sim::on(&image, 23);
    let found = open(&sim, Mode::Sync);
    if found.is_err() {
        assert_eq!(world::hash(&sim.live()), world::hash(&image), "a refused open changed the disk");
    }
    let store = found?;
    let read = Model::take(&store);
    sim.kill();
    read
}

/// Whether a later frame proves that the frame was durable.
fn is_vouched_for(frame: &FrameInfo, frames: &[FrameInfo]) -> bool {
    frames.iter().any(|later| later.durable_seq >= frame.seq)
}

/// Whether the marks or the base prove that the frame was durable.
fn is_proven(frame: &FrameInfo, content: &Content) -> bool {
    Image { bytes: content.bytes() }.proven().is_some_and(|(seq, _)| seq >= frame.seq)
}

/// Damage within one frame, within the header page, or in the preallocated space.
fn check_damaged_at(subject: &Subject, offset: usize, content: Content, what: &dyn Fn() -> String) {
    let looked = look(content.clone());
    match subject.frame_at(offset) {
        Some(frame) if is_vouched_for(frame, &subject.frames) || is_proven(frame, &content) => {
            let is_right = matches!(looked, Err(Error::Corrupt { offset, .. }) if offset == frame.offset);
            assert!(is_right, "{}: {looked:?}, the frame is at {}", what(), frame.offset);
        }
        // Nothing proves that the last frame was ever durable: it looks like a torn tail.
        Some(frame) => assert_eq!(&looked.unwrap(), subject.state_at(start(frame)), "{}", what()),
        // One copy of the header is enough, and bytes after the last frame are a torn tail.
        None => assert_eq!(&looked.unwrap(), subject.last_state(), "{}", what()),
    }
}

/// Checks bytes below `count`, as many as [`depth`] says.
fn in_sample(count: usize, check: impl Fn(usize) + Sync) {
    let step = depth::damaged_byte_step();
    in_parallel(count.div_ceil(step), |i| check(i * step));
}

/// The bits to flip in the byte at an offset.
fn flipped_bits(at: usize) -> impl Iterator<Item = usize> {
    (0..depth::flipped_bits()).map(move |i| (at + i) % 8)
}

#[test]
fn every_flipped_bit_is_found() {
    let subject = subject();
    in_sample(subject.bytes.len(), |at| {
        for bit in flipped_bits(at) {
            let mut content = subject.content.clone();
            content.write(&[subject.bytes[at] ^ 1 << bit], at as u64);
            check_damaged_at(subject, at, content, &|| format!("bit {bit} of byte {at} flipped"));
        }
    });
}

/// After a kill, with preallocated space: nothing vouches for the last record.
#[test]
fn every_flipped_bit_of_a_killed_store_is_found() {
    let mut agent = Agent::new(Sim::new(51), Mode::Sync);
    agent.start().unwrap();
    let mut random = Random::new(52);
    while agent.oracle.history().len() < 10 {
        agent.make(small_call(&mut random)).unwrap();
    }
    agent.kill();
    let subject = Subject::new(&agent);
    let frames_end = end(subject.frames.last().unwrap());
    assert!(subject.bytes.len() > frames_end + SECTOR_LEN);
    in_sample(frames_end + SECTOR_LEN, |at| {
        for bit in flipped_bits(at) {
            let mut content = subject.content.clone();
            content.write(&[subject.bytes[at] ^ 1 << bit], at as u64);
            check_damaged_at(&subject, at, content, &|| format!("bit {bit} of byte {at} flipped"));
        }
    });
}

#[test]
fn every_byte_set_to_zero_or_ff_is_found() {
    let subject = subject();
    in_sample(subject.bytes.len(), |at| {
        for byte in [0x00, 0xFF] {
            if subject.bytes[at] != byte {
                let mut content = subject.content.clone();
                content.write(&[byte], at as u64);
                check_damaged_at(subject, at, content, &|| format!("byte {at} set to {byte:#04x}"));
            }
        }
    });
}

#[test]
fn without_marks_every_cut_gives_the_records_before_it() {
    let subject = subject();
    let whole = subject.with_frames(subject.frames.len(), []);
    in_sample(subject.bytes.len(), |len| {
        let mut cut = whole.clone();
        cut.set_len(len as u64);
        let looked = look(cut);
        match len {
            0..12 => assert!(matches!(looked, Err(Error::NotAStore { .. })), "cut at {len}: {looked:?}"),
            12..FIRST_FRAME_AT => {
                assert!(matches!(looked, Err(Error::Corrupt { offset: 0, .. })), "cut at {len}: {looked:?}");
            }
            _ => assert_eq!(&looked.unwrap(), subject.state_at(len), "cut at {len}"),
        }
    });
}

/// Zeros from an offset on are what a crash leaves of a log with preallocated space.
#[test]
fn every_sector_zeroed_is_found() {
    let subject = subject();
    let count = subject.bytes.len().div_ceil(SECTOR_LEN);
    in_parallel(count, |number| {
        let from = number * SECTOR_LEN;
        let mut content = subject.content.clone();
        content.put_sector(number, None);
        let changed = (from..subject.bytes.len()).take(SECTOR_LEN).find(|&at| subject.bytes[at] != 0);
        if let Some(changed) = changed.filter(|_| number < count - 1) {
            check_damaged_at(subject, changed, content, &|| format!("sector {number} zeroed"));
        }
        let mut content = subject.with_frames(subject.frames.len(), []);
        (number..count).for_each(|number| content.put_sector(number, None));
        let looked = look(content);
        match number * SECTOR_LEN {
            0 => assert!(matches!(looked, Err(Error::NotAStore { .. })), "all zeros: {looked:?}"),
            from => {
                assert_eq!(&looked.unwrap(), subject.state_at(from), "zeros from sector {number} on, no marks");
            }
        }
    });
}

/// Readers without the lock report the same damage, and return none of the damaged records.
#[test]
fn verify_and_snapshot_see_what_open_sees() {
    let subject = subject();
    let vouched = subject.frames.iter().filter(|frame| is_vouched_for(frame, &subject.frames));
    for (i, frame) in vouched.enumerate().step_by(9) {
        let at = start(frame) + i % frame.len as usize;
        let mut content = subject.content.clone();
        content.write(&[!subject.bytes[at]], at as u64);
        let sim = Sim::on(&world::Image::from([(PathBuf::from(PATH), content)]), 61);
        let before = world::hash(&sim.live());
        for key in [None, Some(&key())] {
            let report = verify_on(&sim, PATH, key, |_| {}).unwrap();
            let faults: Vec<_> = report.faults.iter().map(|fault| (fault.offset, fault.kind)).collect();
            assert_eq!(faults[0], (frame.offset, FaultKind::Damage));
            // With the key, a value that does not open is one more fault; and so is the next frame, if a length in
            // the header of this one is damaged.
            let is_length = (8..16).contains(&(at - start(frame)));
            let is_within = |&(fault, kind)| {
                let is_next = is_length && fault == frame.offset + frame.len;
                kind == FaultKind::Damage && (subject.frame_at(fault as usize) == Some(frame) || is_next)
            };
            assert!(faults.len() <= 2 && faults.iter().all(is_within), "{faults:?} of {frame:?}");
        }
        let opened = open_snapshot_on(Arc::new(sim.clone()), PATH, &key());
        assert!(matches!(opened, Err(Error::Corrupt { offset, .. }) if offset == frame.offset), "{opened:?}");
        assert_eq!(world::hash(&sim.live()), before);
    }
}

#[test]
fn removed_frames_are_found() {
    let subject = subject();
    let frames = &subject.frames;
    let all: Vec<&[u8]> = frames.iter().map(|frame| subject.bytes_of(frame)).collect();
    for (removed, frame) in frames.iter().enumerate() {
        for count in [1, 2, 3, 70] {
            let Some(rest) = all.get(removed + count..).filter(|rest| !rest.is_empty()) else { continue };
            let looked = look(subject.with_frames(removed, rest.iter().copied()));
            assert_unauthentic(&looked, frame.offset, &format!("{count} frames removed at {removed}"));
        }
    }
}

/// Without the key there are only CRCs and numbers.
#[test]
fn verify_without_a_key_finds_removed_frames() {
    let subject = subject();
    let all: Vec<&[u8]> = subject.frames.iter().map(|frame| subject.bytes_of(frame)).collect();
    for removed in (0..all.len() - 1).step_by(10) {
        let content = subject.with_frames(removed, all[removed + 1..].iter().copied());
        let sim = Sim::on(&world::Image::from([(PathBuf::from(PATH), content)]), 62);
        let report = verify_on(&sim, PATH, None, |_| {}).unwrap();
        let faults: Vec<_> = report.faults.iter().map(|fault| (fault.offset, fault.kind)).collect();
        assert_eq!(faults, [(subject.frames[removed].offset, FaultKind::Tampering)]);
    }
}

#[test]
fn swapped_frames_are_found() {
    let subject = subject();
    let frames = &subject.frames;
    let mut all: Vec<&[u8]> = frames.iter().map(|frame| subject.bytes_of(frame)).collect();
    for first in 0..frames.len() - 1 {
        for second in [first + 1, first + 2, frames.len() - 1] {
            if second < frames.len() && first != second {
                all.swap(first, second);
                let looked = look(subject.with_frames(first, all[first..].iter().copied()));
                assert_unauthentic(&looked, frames[first].offset, &format!("frames {first} and {second} swapped"));
                all.swap(first, second);
            }
        }
    }
}

#[test]
fn duplicated_frames_are_found() {
    let subject = subject();
    let frames = &subject.frames;
    let all: Vec<&[u8]> = frames.iter().map(|frame| subject.bytes_of(frame)).collect();
    for place in 0..=frames.len() {
        for copied in [0, place / 2, place.saturating_sub(1)] {
            let then = [&[all[copied]], &all[place..]].concat();
            let looked = look(subject.with_frames(place, then));
            let offset = frames.get(place).map_or(subject.bytes.len() as u64, |frame| frame.offset);
            if place == copied {
                // Inserted before itself, it is in its right place, and the second one is not.
                assert_unauthentic(&looked, offset + frames[copied].len, "the first frame twice");
            } else {
                assert_unauthentic(&looked, offset, &format!("frame {copied} again at {place}"));
            }
        }
    }
}

fn assert_unauthentic(looked: &Result<Model>, expected: u64, what: &str) {
    let is_right = matches!(looked, Err(Error::Unauthentic { offset, .. }) if *offset == expected);
    assert!(is_right, "{what}: {looked:?}, expected at {expected}");
}

/// Two stores that continued from the same bytes.
#[test]
fn frames_of_a_fork_are_found() {
    let mut first = Agent::new(Sim::new(31), Mode::Sync);
    first.start().unwrap();
    write_sessions(&mut first, 32, 1);
    first.close().unwrap();
    let mut second = Agent::new(Sim::at(first.sim.world(), 33), Mode::Sync);
    second.oracle = first.oracle.clone();
    first.start().unwrap();
    second.start().unwrap();
    // The same calls, so that the frames of both are of the same lengths at the same places.
    write_sessions(&mut first, 34, 1);
    write_sessions(&mut second, 34, 1);
    let (first, second) = (Subject::closed(&mut first), Subject::closed(&mut second));
    let lens = |subject: &Subject| subject.frames.iter().map(|frame| frame.len).collect::<Vec<_>>();
    assert_eq!(lens(&first), lens(&second));
    let fork = (0..).find(|&i| first.bytes_of(&first.frames[i]) != second.bytes_of(&second.frames[i])).unwrap();
    assert_eq!(fork, RECORDS_PER_SESSION + 1);

    let frames = &first.frames;
    for at in fork..frames.len() {
        let ours: Vec<&[u8]> = frames[at..].iter().map(|frame| first.bytes_of(frame)).collect();
        let theirs: Vec<&[u8]> = second.frames[at..].iter().map(|frame| second.bytes_of(frame)).collect();
        // All frames from here on, and only this one.
        let rest = look(first.with_frames(at, theirs.iter().copied()));
        let one = look(first.with_frames(at, [&theirs[..1], &ours[1..]].concat()));
        if at > fork {
            assert_unauthentic(&rest, frames[at].offset, &format!("the fork's frames from {at} on"));
            assert_unauthentic(&one, frames[at].offset, &format!("the fork's frame {at}"));
        } else {
            // Taken from where the two stores part, it is the other store as a whole. A single frame of it does
            // not fit into ours.
            assert_eq!(&rest.unwrap(), second.last_state());
            assert_unauthentic(&one, frames[at + 1].offset, "the fork's first frame");
        }
    }
}

/// The logs before and after a compaction, with later records: the same store and agent key, but another salt. The
/// base record names the first frames of the later one.
#[test]
fn frames_of_an_earlier_generation_are_found() {
    let mut agent = Agent::new(Sim::new(81), Mode::Sync);
    agent.start().unwrap();
    write_sessions(&mut agent, 82, 1);
    agent.make(Call::Reopen).unwrap();
    let earlier = Subject::new(&agent);
    agent.make(Call::Compact).unwrap();
    // One record holds all that was live.
    agent.oracle = Oracle::of_history(vec![Model::default(), agent.oracle.current().clone()]);
    write_sessions(&mut agent, 83, 1);
    let later = Subject::closed(&mut agent);
    let theirs: Vec<&[u8]> = earlier.frames.iter().map(|frame| earlier.bytes_of(frame)).collect();
    let ours: Vec<&[u8]> = later.frames.iter().map(|frame| later.bytes_of(frame)).collect();
    let unmarked = later.with_frames(later.frames.len(), []);
    for (at, frame) in later.frames.iter().enumerate() {
        let Some(old) = earlier.frames.get(at).map(|_| &theirs[at..]) else { break };
        // Inserted, in place of one frame, and in place of all later frames.
        for then in [[&old[..1], &ours[at..]].concat(), [&old[..1], &ours[at + 1..]].concat(), old.to_vec()] {
            let has_later = then.len() > 1 && then.last() == ours.last();
            let looked = look(later.with_frames(at, then));
            let has_witness = has_later && is_vouched_for(frame, &later.frames[at + 1..]);
            if has_witness || is_proven(frame, &unmarked) {
                let is_right = matches!(looked, Err(Error::Corrupt { offset, .. }) if offset == frame.offset);
                assert!(is_right, "frame {at}: {looked:?}, expected at {}", frame.offset);
            } else {
                assert_eq!(&looked.unwrap(), later.state_at(start(frame)), "frame {at}");
            }
        }
    }
}

/// It is under the same agent key, but has its own salt: not even the CRC is right.
#[test]
fn frames_of_another_store_are_found() {
    let subject = subject();
    let mut other = Agent::new(Sim::new(mix(41)), Mode::Sync);
    other.start().unwrap();
    write_sessions(&mut other, 22, SESSIONS);
    let other = Subject::closed(&mut other);
    for (i, (frame, theirs)) in subject.frames.iter().zip(&other.frames).enumerate() {
        assert_eq!(frame.len, theirs.len);
        let mut content = subject.content.clone();
        content.write(other.bytes_of(theirs), frame.offset);
        check_damaged_at(subject, start(frame), content, &|| format!("frame {i} of another store"));
    }
}
