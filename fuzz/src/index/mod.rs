//! An index file and a log, each changed step by step, and in any combination: opening by the index file gives
//! what opening without it gives, and so after more calls.

use std::ops::Range;
use std::sync::Arc;

use arbitrary::{Arbitrary, Unstructured};
use backupy_state::testing::open_snapshot_on;
use backupy_state::{Check, Error, IndexFile};

use self::checks::{Disk, Opened, Reader, check_alone, check_anchor, check_forged, check_snapshots, check_stores};
use self::checks::{check_verify, open_store};
use self::files::{Files, INDEX, INDEX_NEW, Which, bytes_of, files};
use self::runs::{Draft, HEAD_LEN, HEADER_LEN, MAGIC, RunBytes, SALT_LEN, TAG_LEN, runs};
use crate::base::{self, FIRST_FRAME_AT, SLOTS, log_of};
use crate::checks::{Verdict, verdict};
use crate::open_mutated::{self, mutate};
use crate::sim::{PATH, key};

mod checks;
mod files;
mod runs;

const DRAFTS_MAX: usize = 4;
const CHANGES_MAX: usize = 8;
const STEPS_MAX: usize = 6;
const LEN_MAX: usize = 32 << 10;

/// The index file before it is changed.
#[derive(Arbitrary, Clone, Copy, Debug)]
enum Start {
    Of(Which),
    None,
    /// Not made by the store, for this log.
    Drafted {
        of: Which,
        drafts: u8,
    },
    /// Any bytes.
    Foreign {
        len: u8,
        bytes: [u8; 16],
    },
    /// What a power cut may leave.
    Zeros {
        len: u8,
    },
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Change {
    Index(IndexChange),
    Log(LogChange),
}

/// Offsets and numbers wrap around at the length of the part that they are in, and the number of runs.
#[derive(Arbitrary, Clone, Copy, Debug)]
enum IndexChange {
    Flip {
        place: Place,
        bit: u8,
    },
    Overwrite {
        place: Place,
        bytes: [u8; 8],
    },
    Zero {
        place: Place,
        len: u8,
    },
    Cut {
        place: Place,
    },
    Grow {
        zeros: u8,
    },
    Append {
        bytes: [u8; 48],
    },
    /// Nothing follows this run.
    CutAfter {
        run: u8,
    },
    Remove {
        run: u8,
    },
    Swap {
        a: u8,
        b: u8,
    },
    Insert {
        from: From,
        run: u8,
        before: u8,
    },
    Replace {
        from: From,
        run: u8,
        instead: u8,
    },
    /// The runs from this number on are those of the other file.
    Splice {
        from: From,
        run: u8,
    },
    RemovePart {
        run: u8,
        part: u8,
    },
    InsertPart {
        from: From,
        run: u8,
        part: u8,
        before_run: u8,
        before: u8,
    },
    /// The length and the kind in the head of a part.
    Head {
        run: u8,
        part: u8,
        len: Option<u32>,
        kind: Option<u32>,
    },
    Header {
        from: Which,
    },
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum From {
    Same,
    Of(Which),
}

/// An offset in some part of an index file.
#[derive(Arbitrary, Clone, Copy, Debug)]
enum Place {
    Any { at: u16 },
    Header { at: u8 },
    Salt { run: u8, at: u8 },
    Head { run: u8, part: u8, at: u8 },
    Text { run: u8, part: u8, at: u16 },
    Tag { run: u8, part: u8, at: u8 },
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum LogChange {
    Mutated(open_mutated::Mutation),
    /// Only zeros follow this frame.
    CutAfter {
        frame: u8,
        is_marked: bool,
    },
    /// The marks are those of another log.
    Marks {
        from: Which,
    },
    /// The frames from this number on, all or so many more, are those of another log.
    Splice {
        from: Which,
        frame: u8,
        count: Option<u8>,
    },
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Step {
    Call { number: u8 },
    Compact,
    Reopen,
    Kill,
}

pub fn run(bytes: &[u8]) {
    let mut input = Unstructured::new(bytes);
    let files = files();
    let Ok((of, start, anchor)) = <(Which, Start, Option<u8>)>::arbitrary(&mut input) else { return };
    let mut log = files.pair(of).log.clone();
    let (mut index, is_forged) = start_index(start, &mut input, files);
    let changes = input.arbitrary::<u8>().map_or(0, usize::from) % (CHANGES_MAX + 1);
    for _ in 0..changes {
        match Change::arbitrary(&mut input) {
            Ok(Change::Index(change)) => index.iter_mut().for_each(|index| change_index(index, change, files)),
            Ok(Change::Log(change)) => change_log(&mut log, change, files),
            Err(_) => break,
        }
        log.truncate(LEN_MAX);
        index.iter_mut().for_each(|index| index.truncate(LEN_MAX));
    }
    let mut steps = Vec::new();
    while !input.is_empty() && steps.len() < STEPS_MAX {
        steps.extend(Step::arbitrary(&mut input));
    }
    if is_forged {
        return check_forged(&log, index.as_deref());
    }
    check(files, &log, index.as_deref(), anchor, &steps);
}

fn check(files: &Files, log: &[u8], index: Option<&[u8]>, anchor: Option<u8>, steps: &[Step]) {
    let is_a_state = |opened: &Opened, end| check_alone(files, log, opened, end);
    let verified = check_verify(log, index);
    check_snapshots(log, index, is_a_state);
    let opened = check_stores(log, index, is_a_state);
    if let (Some(found), Some((by_index, Some(_)))) = (verified, &opened) {
        let is_used = by_index.store.recovery().opening.by_index;
        assert_eq!(found, if is_used { IndexFile::Agrees } else { IndexFile::NotUsed });
    }
    if let Some(anchor) = anchor {
        let anchor = files.anchors[usize::from(anchor) % files.anchors.len()];
        let alone = opened.as_ref().filter(|(_, by_replay)| by_replay.is_none());
        check_anchor(files, log, index, anchor, alone.map(|(by_index, _)| by_index.store.anchor()));
    }
    if let Some((by_index, by_replay)) = opened {
        check_after(steps, by_index, by_replay, index);
    }
}

/// Makes the calls on both stores, or on the one that opened by its index file alone, and checks what it then
/// holds. It must hold the same when it is opened again, by the index file that it has written and without it.
fn check_after(steps: &[Step], mut by_index: Disk, mut by_replay: Option<Disk>, index: Option<&[u8]>) {
    let mut snapshot = open_snapshot_on(Arc::new(by_index.sim.clone()), PATH, &key()).unwrap();
    for &step in steps {
        let made;
        (by_index, made) = make(by_index, step);
        if let Some(disk) = by_replay.take() {
            let (disk, made_too) = make(disk, step);
            assert_eq!(made, made_too, "{step:?}: by index, and by replay");
            by_replay = Some(disk);
        }
    }
    let contents = by_index.store.contents();
    if let Some(disk) = &by_replay {
        assert_eq!(contents, disk.store.contents(), "by index, and by replay");
    }
    snapshot.refresh().unwrap();
    assert_eq!(snapshot.contents(), contents.clone().by_run_id(), "the snapshot, and the store");

    let Disk { sim, store } = by_index;
    store.close().unwrap();
    assert_eq!(bytes_of(&sim, INDEX_NEW), None);
    let index_after = bytes_of(&sim, INDEX);
    if index.is_some_and(is_foreign) {
        assert!(index_after.as_deref() == index, "a file that is no index file was changed");
    }
    let (log, index) = (log_of(&sim), index_after);
    check_verify(&log, index.as_deref());
    let is_the_same = |opened: &Opened, _| assert_eq!(opened.view.contents, contents, "closed, and opened again");
    check_snapshots(&log, index.as_deref(), |opened, _| {
        assert_eq!(opened.view.contents, contents.clone().by_run_id(), "closed, and opened again");
    });
    let (again, again_by_replay) = check_stores(&log, index.as_deref(), is_the_same).unwrap();
    assert_eq!(again.store.contents(), contents, "closed, and opened again");
    assert!(by_replay.is_none() || again_by_replay.is_some(), "the calls have damaged the log");
}

fn make(disk: Disk, step: Step) -> (Disk, Result<(), Verdict>) {
    let Disk { sim, store } = disk;
    let made = match step {
        Step::Call { number } => base::call(&store, number.into()),
        Step::Compact => store.compact().map(drop),
        Step::Reopen | Step::Kill => {
            if let Step::Kill = step {
                sim.kill();
                drop(store);
            } else {
                store.close().unwrap();
            }
            let store = open_store(&sim, Check::Live, None).unwrap();
            return (Disk { sim, store }, Ok(()));
        }
    };
    (Disk { sim, store }, made.map_err(|error: Error| verdict(&error)))
}

/// Whether the store must leave the file alone.
fn is_foreign(index: &[u8]) -> bool {
    let begin = &index[..index.len().min(HEADER_LEN)];
    !begin.starts_with(&MAGIC) && begin.iter().any(|&byte| byte != 0)
}

/// Returns the file, and whether it has forged runs.
fn start_index(start: Start, input: &mut Unstructured<'_>, files: &Files) -> (Option<Vec<u8>>, bool) {
    let index = match start {
        Start::Of(which) => files.pair(which).index.clone(),
        Start::None => return (None, false),
        Start::Drafted { of, drafts } => {
            let drafts = 0..1 + usize::from(drafts) % DRAFTS_MAX;
            let drafts: Vec<Draft> = drafts.map_while(|_| input.arbitrary().ok()).collect();
            let index = files.pair(of).source.index_file(&drafts);
            return (Some(index), drafts.iter().any(Draft::is_forged));
        }
        Start::Foreign { len, bytes } => bytes.into_iter().cycle().take(len.into()).collect(),
        Start::Zeros { len } => vec![0; len.into()],
    };
    (Some(index), false)
}

fn change_index(index: &mut Vec<u8>, change: IndexChange, files: &Files) {
    let own = runs(index);
    let run = |number: u8| own.get(usize::from(number) % own.len().max(1)).map(|run| run.range.clone());
    match change {
        IndexChange::Flip { place, bit } => {
            let at = offset(index, place);
            index.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << (bit % 8));
        }
        IndexChange::Overwrite { place, bytes } => {
            let at = offset(index, place);
            index.iter_mut().skip(at).zip(bytes).for_each(|(byte, new)| *byte = new);
        }
        IndexChange::Zero { place, len } => {
            let at = offset(index, place);
            index.iter_mut().skip(at).take(len.into()).for_each(|byte| *byte = 0);
        }
        IndexChange::Cut { place } => index.truncate(offset(index, place)),
        IndexChange::Grow { zeros } => index.resize(index.len() + usize::from(zeros), 0),
        IndexChange::Append { bytes } => index.extend(bytes),
        IndexChange::CutAfter { run: number } => index.truncate(run(number).map_or(HEADER_LEN, |run| run.end)),
        IndexChange::Remove { run: number } => drop(run(number).map(|run| index.drain(run))),
        IndexChange::Swap { a, b } => {
            if let (Some(a), Some(b)) = (run(a.min(b)), run(a.max(b)))
                && a.end <= b.start
            {
                let swapped = [&index[b.clone()], &index[a.end..b.start], &index[a.clone()]].concat();
                index.splice(a.start..b.end, swapped);
            }
        }
        IndexChange::Insert { from, run: number, before } => {
            if let (Some(bytes), Some(place)) = (run_bytes(from, number, index, files), run(before)) {
                index.splice(place.start..place.start, bytes);
            }
        }
        IndexChange::Replace { from, run: number, instead } => {
            if let (Some(bytes), Some(place)) = (run_bytes(from, number, index, files), run(instead)) {
                index.splice(place, bytes);
            }
        }
        IndexChange::Splice { from, run: number } => {
            let source = source(from, index, files).to_vec();
            let (kept, taken) = (run(number), runs(&source));
            if let (Some(kept), Some(taken)) = (kept, taken.get(usize::from(number) % own.len().max(1))) {
                index.splice(kept.start.., source[taken.range.start..].iter().copied());
            }
        }
        IndexChange::RemovePart { run, part } => drop(part_of(&own, run, part).map(|part| index.drain(part))),
        IndexChange::InsertPart { from, run, part, before_run, before } => {
            let source = source(from, index, files).to_vec();
            let taken = part_of(&runs(&source), run, part);
            if let (Some(taken), Some(place)) = (taken, part_of(&own, before_run, before)) {
                index.splice(place.start..place.start, source[taken].iter().copied());
            }
        }
        IndexChange::Head { run, part, len, kind } => {
            let Some(part) = part_of(&own, run, part) else { return };
            for (at, number) in [(0, len), (4, kind)] {
                if let Some(number) = number {
                    index[part.start + at..part.start + at + 4].copy_from_slice(&number.to_le_bytes());
                }
            }
        }
        IndexChange::Header { from } => {
            let header = &files.pair(from).index[..HEADER_LEN];
            index.iter_mut().zip(header).for_each(|(byte, new)| *byte = *new);
        }
    }
}

fn source<'a>(from: From, same: &'a [u8], files: &'a Files) -> &'a [u8] {
    match from {
        From::Same => same,
        From::Of(which) => &files.pair(which).index,
    }
}

fn run_bytes(from: From, number: u8, same: &[u8], files: &Files) -> Option<Vec<u8>> {
    let source = source(from, same, files);
    let runs = runs(source);
    Some(source[runs.get(usize::from(number) % runs.len().max(1))?.range.clone()].to_vec())
}

fn part_of(runs: &[RunBytes], run: u8, part: u8) -> Option<Range<usize>> {
    let parts = &runs.get(usize::from(run) % runs.len().max(1))?.parts;
    Some(parts[usize::from(part) % parts.len()].clone())
}

fn offset(index: &[u8], place: Place) -> usize {
    let runs = runs(index);
    let part = |run, part| part_of(&runs, run, part);
    let (range, at) = match place {
        Place::Any { at } => (Some(0..index.len()), usize::from(at)),
        Place::Header { at } => (Some(0..HEADER_LEN), usize::from(at)),
        Place::Salt { run, at } => {
            let run = runs.get(usize::from(run) % runs.len().max(1));
            (run.map(|run| run.range.start..run.range.start + SALT_LEN), usize::from(at))
        }
        Place::Head { run, part: number, at } => {
            (part(run, number).map(|part| part.start..part.start + HEAD_LEN), usize::from(at))
        }
        Place::Text { run, part: number, at } => {
            let text = part(run, number).map(|part| part.start + HEAD_LEN..part.end - TAG_LEN);
            (text.filter(|text| !text.is_empty()), usize::from(at))
        }
        Place::Tag { run, part: number, at } => {
            (part(run, number).map(|part| part.end - TAG_LEN..part.end), usize::from(at))
        }
    };
    range.map_or(index.len(), |range| range.start + at % range.len().max(1))
}

fn change_log(log: &mut Vec<u8>, change: LogChange, files: &Files) {
    match change {
        LogChange::Mutated(mutation) => mutate(log, &mutation, &files.base),
        LogChange::CutAfter { frame, is_marked } => {
            let frames = base::frames(log);
            let Some(last) = frames.get(usize::from(frame) % frames.len().max(1)) else { return };
            log.truncate(last.end);
            log.resize(last.end + 64, 0);
            if !is_marked {
                log[SLOTS[0]..FIRST_FRAME_AT].fill(0);
            }
        }
        LogChange::Marks { from } => {
            let marks = &files.pair(from).log[SLOTS[0]..FIRST_FRAME_AT];
            log.iter_mut().skip(SLOTS[0]).zip(marks).for_each(|(byte, mark)| *byte = *mark);
        }
        LogChange::Splice { from, frame, count } => {
            let (own, other) = (base::frames(log), &files.pair(from).log);
            let number = usize::from(frame) % own.len().max(1);
            let range = |frames: &[Range<usize>], len| {
                let last = count.and_then(|count| frames.get(number + usize::from(count % 8)));
                Some(frames.get(number)?.start..last.map_or(len, |last| last.end))
            };
            let taken = range(&base::frames(other), other.len());
            if let (Some(place), Some(taken)) = (range(&own, log.len()), taken) {
                log.splice(place, other[taken].iter().copied());
            }
        }
    }
}
