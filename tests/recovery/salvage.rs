//! Salvage: whatever changes in the bytes of a store, every intact record is salvaged, no other is, and the
//! damaged file is not changed.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use backupy_state::testing::{Storage, salvage_on, verify_on};
use backupy_state::{AgentKey, Error, FaultKind, FrameInfo, SalvageReport};

use crate::common::depth;
use crate::sim::content::{Content, SECTOR_LEN};
use crate::sim::random::Random;
use crate::sim::subject::{Subject, end, in_parallel, small_call, start};
use crate::sim::world::{self, Image};
use crate::sim::{Agent, Call, Mode, Model, PATH, key, open};
use crate::sim::{EIO, ENOSPC, Failure, Sim};

const TO: &str = "/sim/salvaged.db";
const FIRST_FRAME_AT: usize = 8192;
const SESSIONS: usize = 3;
const RECORDS_PER_SESSION: usize = 16;

/// Each value is long enough that no two are alike.
fn distinct_call(random: &mut Random) -> Call {
    match small_call(random) {
        Call::Enqueue { job, len } => Call::Enqueue { job, len: len.max(8) },
        Call::BufferLog { ts_ms, len } => Call::BufferLog { ts_ms, len: len.max(8) },
        call => call,
    }
}

fn write(agent: &mut Agent, seed: u64, sessions: usize) {
    let mut random = Random::new(seed);
    for session in 1..=sessions {
        let begun = agent.oracle.history().len();
        while agent.oracle.history().len() < begun + RECORDS_PER_SESSION {
            agent.make(distinct_call(&mut random)).unwrap();
        }
        if session < sessions {
            agent.make(Call::Reopen).unwrap();
        }
    }
}

/// The closed store of some sessions.
fn closed() -> &'static Subject {
    static SUBJECT: OnceLock<Subject> = OnceLock::new();
    SUBJECT.get_or_init(|| {
        let mut agent = Agent::new(Sim::new(81), Mode::Sync);
        agent.start().unwrap();
        write(&mut agent, 82, SESSIONS);
        let subject = Subject::closed(&mut agent);
        assert_eq!(subject.frames.iter().filter(|frame| frame.is_close).count(), SESSIONS);
        assert!(subject.last_state().jobs.len() > 1 && !subject.last_state().logs.is_empty());
        subject
    })
}

/// The same kind of store, killed, with preallocated space.
fn killed() -> Subject {
    let mut agent = Agent::new(Sim::new(83), Mode::Mixed);
    agent.start().unwrap();
    write(&mut agent, 84, 2);
    agent.kill();
    Subject::new(&agent)
}

/// What was salvaged.
struct Salvaged {
    report: SalvageReport,
    /// The number of the last whole frame of the damaged file.
    last_seq: u64,
    model: Model,
}

impl Salvaged {
    /// The numbers of the frames that are lost, or of which a value is.
    fn lost(&self) -> BTreeSet<u64> {
        let ranges =
            self.report.lost.iter().map(|lost| lost.first_seq..=lost.last_seq.unwrap_or(u64::from(u32::MAX)));
        ranges.flat_map(|range| range.take(1000)).collect()
    }
}

/// Salvages, and checks what must be true of every salvage.
fn salvage(content: &Content) -> Result<Salvaged, Error> {
    let sim = Sim::on(&Image::from([(PathBuf::from(PATH), content.clone())]), 85);
    let storage: Arc<dyn Storage> = Arc::new(sim.clone());
    let mut last_seq = 0;
    let _ = verify_on(&sim, PATH, Some(&key()), |frame| last_seq = frame.seq);
    let salvaged = salvage_on(&storage, PATH, &key(), TO);
    let mut files = sim.live();
    let new = files.remove(&PathBuf::from(TO));
    assert_eq!(world::hash(&files), world::hash(&Image::from([(PathBuf::from(PATH), content.clone())])));
    assert_eq!(new.is_some(), salvaged.is_ok());
    let report = salvaged?;
    let new = Sim::on(&Image::from([(PathBuf::from(PATH), new.unwrap())]), 86);
    let verified = verify_on(&new, PATH, Some(&key()), |_| {}).unwrap();
    assert!(verified.is_intact() && verified.ends_closed, "{verified:?}");
    assert_eq!(verified.generation, report.generation);
    let store = open(&new, Mode::Sync).unwrap();
    assert!(store.recovery().clean);
    let model = Model::take(&store).unwrap();
    assert_eq!((report.jobs, report.log_events), (model.jobs.len() as u64, model.logs.len() as u64));
    assert_eq!((report.has_config, report.has_session), (model.config.is_some(), model.session.is_some()));
    assert!(report.lost.is_sorted_by_key(|lost| lost.offset) && report.more_lost == 0, "{report:?}");
    Ok(Salvaged { report, last_seq, model })
}

/// Everything a store holds, one by one, with the jobs and log events in their order.
fn items(model: &Model) -> Vec<String> {
    let mut items: Vec<_> = model.jobs.iter().map(|job| format!("job {job:?}")).collect();
    items.extend(model.logs.iter().map(|event| format!("event {event:?}")));
    items.extend(model.config.iter().map(|config| format!("config {config:?}")));
    items.extend(model.session.iter().map(|session| format!("session {session:?}")));
    items.extend(model.heartbeat.iter().map(|heartbeat| format!("heartbeat {heartbeat}")));
    items.extend((model.dropped > 0).then(|| format!("dropped {}", model.dropped)));
    items
}

/// The items of the last state, in order, that were put by records outside of `lost`.
fn must_come_over(subject: &Subject, lost: &BTreeSet<u64>) -> Vec<String> {
    let records: Vec<_> = subject.frames.iter().filter(|frame| !frame.is_close).map(|frame| frame.seq).collect();
    let history: Vec<BTreeSet<String>> =
        subject.history.iter().map(|model| items(model).into_iter().collect()).collect();
    let is_kept = |item: &String| {
        let put = history.iter().rposition(|state| !state.contains(item)).unwrap();
        !lost.contains(&records[put])
    };
    items(subject.last_state()).into_iter().filter(is_kept).collect()
}

/// Salvages a changed store of which at most the frames of these numbers may be lost.
fn check(subject: &Subject, content: &Content, allowed: &BTreeSet<u64>, what: &dyn Fn() -> String) {
    let salvaged = salvage(content).unwrap_or_else(|error| panic!("{}: {error}", what()));
    let mut lost = salvaged.lost();
    // What nothing vouches for looks like a torn tail, here as in every open.
    let torn = subject.frames.iter().filter(|frame| frame.seq > salvaged.last_seq);
    let lost_before = lost.len();
    lost.extend(torn.map(|frame| frame.seq));
    let is_torn = lost.len() > lost_before;
    let mut known = lost.clone();
    // After the last frame, the number of missing frames is unknown.
    known.retain(|&seq| seq <= subject.frames.last().unwrap().seq);
    assert!(known.is_subset(allowed), "{}: lost {lost:?}, allowed {allowed:?}: {:?}", what(), salvaged.report);
    check_content(subject, &salvaged, &lost, is_torn, what);
}

fn check_content(
    subject: &Subject,
    salvaged: &Salvaged,
    lost: &BTreeSet<u64>,
    is_torn: bool,
    what: &dyn Fn() -> String,
) {
    let came = items(&salvaged.model);
    let once: BTreeSet<_> = subject.history.iter().flat_map(items).collect();
    assert!(came.iter().all(|item| once.contains(item)), "{}: {came:#?}", what());
    let must = must_come_over(subject, lost);
    let kept: Vec<_> = came.iter().filter(|item| must.contains(item)).cloned().collect();
    assert_eq!(kept, must, "{}: {:?}", what(), salvaged.report);
    let last = items(subject.last_state());
    if came.iter().any(|item| !last.contains(item)) && !is_torn {
        assert!(salvaged.report.may_be_stale, "{}: {came:#?} and not {last:#?}", what());
    }
    if lost.is_empty() {
        assert_eq!(&salvaged.model, subject.last_state(), "{}", what());
        assert!(salvaged.report.is_complete() && !salvaged.report.may_be_stale);
    }
}

fn seqs(range: RangeInclusive<u64>) -> BTreeSet<u64> {
    range.collect()
}

#[test]
fn an_intact_store_is_salvaged_whole() {
    let empty = BTreeSet::new();
    check(closed(), &closed().content, &empty, &|| "closed".to_owned());
    let killed = killed();
    check(&killed, &killed.content, &empty, &|| "killed".to_owned());
}

#[test]
fn a_torn_tail_is_left_out_as_it_is_when_the_store_is_opened() {
    let subject = killed();
    let last = subject.frames.last().unwrap();
    for len in [start(last) + 1, start(last) + 47, start(last) + 60, end(last) - 1] {
        let mut content = subject.content.clone();
        content.set_len(len as u64);
        let opened = {
            let sim = Sim::on(&Image::from([(PathBuf::from(PATH), content.clone())]), 87);
            Model::take(&open(&sim, Mode::Sync).unwrap()).unwrap()
        };
        let salvaged = salvage(&content).unwrap();
        assert_eq!(salvaged.model, opened);
        assert!(salvaged.report.is_complete() && salvaged.report.torn_len > 0, "{:?}", salvaged.report);
    }
}

/// The frame alone may be lost: the tag that the next one needs is where the header says, or follows from what is
/// there. Only if one of the two lengths in the header is damaged, the next frame is lost too.
#[test]
fn a_flipped_bit_costs_at_most_what_its_frame_holds() {
    let subject = closed();
    // The header page is nearly all zeros.
    let header = (0..FIRST_FRAME_AT).step_by(211);
    let frames = (FIRST_FRAME_AT..subject.bytes.len()).step_by(17 * depth::salvaged_place_step());
    let places: Vec<_> = header.chain(frames).collect();
    in_parallel(places.len(), |i| {
        let at = places[i];
        let mut content = subject.content.clone();
        content.write(&[subject.bytes[at] ^ 1 << (at % 8)], at as u64);
        let allowed = subject.frame_at(at).map_or_else(BTreeSet::new, |frame| {
            let is_length = (8..16).contains(&(at - start(frame)));
            seqs(frame.seq..=frame.seq + u64::from(is_length))
        });
        check(subject, &content, &allowed, &|| format!("byte {at}"));
    });
}

#[test]
fn a_flipped_bit_of_a_checksum_a_tag_or_the_padding_costs_nothing() {
    let subject = closed();
    in_parallel(subject.frames.len() - 1, |number| {
        let frame = &subject.frames[number];
        let manifest_len = u32::from_le_bytes(subject.bytes_of(frame)[12..16].try_into().unwrap()) as usize;
        let tag = start(frame) + 48 + manifest_len;
        for at in [start(frame) + number % 4, start(frame) + 4 + number % 4, tag + number % 16] {
            let mut content = subject.content.clone();
            content.write(&[!subject.bytes[at]], at as u64);
            check(subject, &content, &BTreeSet::new(), &|| format!("byte {at} of frame {}", frame.seq));
        }
    });
}

/// If a frame is lost with its tag, the next frame cannot be authenticated and is lost too.
#[test]
fn a_zeroed_frame_costs_itself_and_the_next_one() {
    let subject = closed();
    in_parallel(subject.frames.len(), |number| {
        for count in [1, 2, 7] {
            let Some(last) = subject.frames.get(number + count - 1) else { continue };
            let first = &subject.frames[number];
            let mut content = subject.content.clone();
            content.write(&vec![0; end(last) - start(first)], first.offset);
            let allowed = seqs(first.seq..=last.seq + 1);
            check(subject, &content, &allowed, &|| format!("{count} frames zeroed from {}", first.seq));
        }
    });
}

#[test]
fn a_zeroed_or_garbled_sector_costs_what_it_touches_and_the_next_frame() {
    let subject = closed();
    let first_number = FIRST_FRAME_AT / SECTOR_LEN;
    in_parallel(subject.bytes.len().div_ceil(SECTOR_LEN) - first_number, |i| {
        let number = first_number + i;
        let mut random = Random::new(88 + i as u64);
        let range = number * SECTOR_LEN..((number + 1) * SECTOR_LEN).min(subject.bytes.len());
        for is_zero in [true, false] {
            let mut bytes = vec![0; range.len()];
            if !is_zero {
                random.fill(&mut bytes);
            }
            let mut content = subject.content.clone();
            content.write(&bytes, range.start as u64);
            let hit = |frame: &&FrameInfo| start(frame) < range.end && end(frame) > range.start;
            let mut hits = subject.frames.iter().filter(hit).map(|frame| frame.seq);
            let first = hits.next().unwrap();
            let allowed = seqs(first..=hits.next_back().unwrap_or(first) + 1);
            check(subject, &content, &allowed, &|| format!("sector {number}, zeros: {is_zero}"));
        }
    });
}

#[test]
fn many_faults_in_one_store_cost_what_they_touch() {
    let subject = closed();
    in_parallel(100, |seed| {
        let mut random = Random::new(1000 + seed as u64);
        let mut content = subject.content.clone();
        let mut allowed = BTreeSet::new();
        for _ in 0..2 + random.below(6) {
            let at = FIRST_FRAME_AT + random.below(subject.bytes.len() - FIRST_FRAME_AT);
            let longest = [1, 8, 60, 300][random.below(4)];
            let len = (1 + random.below(longest)).min(subject.bytes.len() - at);
            let mut bytes = vec![0; len];
            random.fill(&mut bytes);
            content.write(&bytes, at as u64);
            let hit = |frame: &&FrameInfo| start(frame) < at + len && end(frame) > at;
            for frame in subject.frames.iter().filter(hit) {
                allowed.extend([frame.seq, frame.seq + 1]);
            }
        }
        check(subject, &content, &allowed, &|| format!("seed {seed}"));
    });
}

#[test]
fn removed_and_swapped_frames_cost_themselves_and_the_next_one() {
    let subject = closed();
    let all: Vec<&[u8]> = subject.frames.iter().map(|frame| subject.bytes_of(frame)).collect();
    for first in (0..all.len() - 1).step_by(depth::salvaged_place_step()) {
        for count in [1, 2, 5] {
            let Some(rest) = all.get(first + count..).filter(|rest| !rest.is_empty()) else { continue };
            let content = subject.with_frames(first, rest.iter().copied());
            let allowed = seqs(first as u64 + 1..=(first + count) as u64 + 1);
            check(subject, &content, &allowed, &|| format!("{count} removed at {first}"));
        }
        let mut swapped = all.clone();
        swapped.swap(first, first + 1);
        let content = subject.with_frames(first, swapped[first..].iter().copied());
        check(subject, &content, &seqs(first as u64 + 1..=first as u64 + 3), &|| format!("swapped at {first}"));
    }
}

#[test]
fn repeated_frames_are_taken_once() {
    let subject = closed();
    let all: Vec<&[u8]> = subject.frames.iter().map(|frame| subject.bytes_of(frame)).collect();
    for place in (0..all.len()).step_by(depth::salvaged_place_step()) {
        for copied in [place / 2, place.saturating_sub(1)] {
            let then = [&[all[copied]], &all[place..]].concat();
            let content = subject.with_frames(place, then);
            check(subject, &content, &BTreeSet::new(), &|| format!("{copied} again at {place}"));
        }
        // Of several, each is chained to the one before it.
        if let Some(copied) = place.checked_sub(5) {
            let then = [&all[copied..copied + 3], &all[place..]].concat();
            let content = subject.with_frames(place, then);
            check(subject, &content, &BTreeSet::new(), &|| format!("{copied} and two more again at {place}"));
        }
        // One from further on costs at most itself and what it is in front of.
        let later = (place + 5).min(all.len() - 1);
        let content = subject.with_frames(place, [&[all[later]], &all[place..]].concat());
        check(subject, &content, &BTreeSet::new(), &|| format!("{later} early at {place}"));
    }
}

/// Its CRCs are under the salt of its own generation.
#[test]
fn frames_of_another_generation_are_never_taken() {
    let mut agent = Agent::new(Sim::new(91), Mode::Sync);
    agent.start().unwrap();
    write(&mut agent, 92, 1);
    let old = Subject::new(&agent);
    agent.make(Call::Compact).unwrap();
    for _ in 0..6 {
        agent.make(Call::Enqueue { job: 9, len: 30 }).unwrap();
    }
    agent.close().unwrap();
    let content = agent.sim.live()[&PathBuf::from(PATH)].clone();
    let bytes = content.bytes();
    let expected = agent.oracle.current().clone();
    for at in [FIRST_FRAME_AT, bytes.len()] {
        for frames in [&old.frames[3..4], &old.frames[..]] {
            let range = start(&frames[0])..end(frames.last().unwrap());
            let salvaged =
                salvage(&Content::of(&[&bytes[..at], &old.bytes[range], &bytes[at..]].concat())).unwrap();
            assert_eq!(salvaged.model, expected, "at {at}");
        }
    }
}

/// Every salvaged record was sealed with the key, in this generation.
#[test]
fn only_records_that_were_once_written_are_salvaged_from_a_fork() {
    let mut first = Agent::new(Sim::new(93), Mode::Sync);
    first.start().unwrap();
    write(&mut first, 94, 1);
    first.close().unwrap();
    let mut second = Agent::new(Sim::at(first.sim.world(), 95), Mode::Sync);
    second.oracle = first.oracle.clone();
    first.start().unwrap();
    second.start().unwrap();
    write(&mut first, 96, 1);
    write(&mut second, 96, 1);
    let (first, second) = (Subject::closed(&mut first), Subject::closed(&mut second));
    let once: BTreeSet<_> = first.history.iter().chain(&second.history).flat_map(items).collect();
    for (number, (ours, theirs)) in first.frames.iter().zip(&second.frames).enumerate() {
        assert_eq!(ours.len, theirs.len);
        let rest = &first.bytes[end(ours)..];
        let content = first.with_frames(number, [second.bytes_of(theirs), rest]);
        let salvaged = salvage(&content).unwrap();
        assert!(items(&salvaged.model).iter().all(|item| once.contains(item)), "frame {number}");
    }
}

#[test]
fn one_bad_value_costs_itself_unless_it_was_replaced_later() {
    let mut agent = Agent::new(Sim::new(97), Mode::Sync);
    agent.start().unwrap();
    let job = |job| Call::Enqueue { job, len: 20 };
    for call in [job(1), Call::Batch { job: 5, len: 20 }, job(2), job(1), Call::Ack { job: 2 }, job(3)] {
        agent.make(call).unwrap();
    }
    let subject = Subject::closed(&mut agent);
    let spoiled = |number: usize| {
        // The last byte before the padding, with the CRCs left as they were: it is in the record's last value.
        let frame = &subject.frames[number];
        let mut content = subject.content.clone();
        let at = subject.bytes_of(frame).iter().rposition(|&byte| byte != 0).unwrap() + start(frame);
        content.write(&[!subject.bytes[at]], at as u64);
        salvage(&content).unwrap()
    };
    // The batch loses its log event; its job and its heartbeat are salvaged.
    let batch = spoiled(1);
    assert_eq!(batch.report.lost.len(), 1);
    let lost = &batch.report.lost[0];
    assert_eq!((lost.first_seq, lost.last_seq, lost.keys.len(), lost.keys[0].bucket), (2, Some(2), 1, "logs"));
    assert!(!batch.report.may_be_stale);
    assert_eq!(
        (&batch.model.jobs, batch.model.heartbeat),
        (&subject.last_state().jobs, subject.last_state().heartbeat)
    );
    assert!(batch.model.logs.is_empty());
    // Values that were replaced or acked later.
    for number in [0, 2] {
        let salvaged = spoiled(number);
        assert!(salvaged.report.is_complete(), "{:?}", salvaged.report);
        assert_eq!(&salvaged.model, subject.last_state());
    }
    // A replacement is lost, so the value before it is back.
    let replaced = spoiled(3);
    let lost = &replaced.report.lost[0];
    assert_eq!(
        lost.keys[0].run_id,
        Some(subject.last_state().jobs.iter().find(|(id, _)| id.ends_with('1')).unwrap().0.clone())
    );
    assert!(replaced.report.may_be_stale);
    assert_eq!(replaced.model.jobs.len(), subject.last_state().jobs.len());
}

#[test]
fn keys_of_a_frame_that_cannot_be_checked_are_named() {
    let mut agent = Agent::new(Sim::new(98), Mode::Sync);
    agent.start().unwrap();
    for job in 1..=5 {
        agent.make(Call::Enqueue { job, len: 20 }).unwrap();
    }
    let subject = Subject::closed(&mut agent);
    let mut content = subject.content.clone();
    content.write(&vec![0; subject.frames[1].len as usize], subject.frames[1].offset);
    let salvaged = salvage(&content).unwrap();
    assert_eq!(salvaged.report.lost.len(), 1);
    let lost = &salvaged.report.lost[0];
    assert_eq!((lost.offset, lost.len), (subject.frames[1].offset, subject.frames[1].len + subject.frames[2].len));
    assert_eq!((lost.first_seq, lost.last_seq), (2, Some(3)));
    assert_eq!(lost.keys.len(), 1);
    assert_eq!(lost.keys[0].run_id.as_ref(), Some(&subject.last_state().jobs[2].0));
    // `verify` reports the same.
    let sim = Sim::on(&Image::from([(PathBuf::from(PATH), content)]), 99);
    let faults = verify_on(&sim, PATH, Some(&key()), |_| {}).unwrap().faults;
    let faults: Vec<_> = faults.iter().map(|fault| (fault.offset, fault.kind)).collect();
    let expected = [&subject.frames[1], &subject.frames[2]].map(|frame| (frame.offset, FaultKind::Damage));
    assert_eq!(faults, expected);
}

#[test]
fn without_a_header_or_the_key_nothing_is_made() {
    let subject = closed();
    let mut both = subject.content.clone();
    both.write(&[0xFF], 50);
    both.write(&[0xFF], 2048 + 50);
    assert!(matches!(salvage(&both), Err(Error::Corrupt { offset: 0, .. })));
    assert!(matches!(salvage(&Content::of(b"To do: milk")), Err(Error::NotAStore { .. })));
    let sim = Sim::on(&Image::from([(PathBuf::from(PATH), subject.content.clone())]), 100);
    let storage: Arc<dyn Storage> = Arc::new(sim.clone());
    let before = world::hash(&sim.live());
    let other = AgentKey::new("another").unwrap();
    assert!(matches!(salvage_on(&storage, PATH, &other, TO), Err(Error::WrongKey { .. })));
    assert!(matches!(salvage_on(&storage, "/sim/none.db", &key(), TO), Err(Error::NotFound { .. })));
    assert!(matches!(salvage_on(&storage, PATH, &key(), PATH), Err(Error::Invalid { .. })));
    assert_eq!(world::hash(&sim.live()), before);
}

/// If both copies of the header are damaged, each field may still be intact in one of them. The authenticator
/// decides.
#[test]
fn two_damaged_copies_of_the_header_are_put_together() {
    let subject = closed();
    // Version, generation, store id, salt, authenticator, CRC.
    let fields = [12, 24, 40, 60, 100, 113];
    let needed = [24, 40, 60, 100];
    for first in fields {
        for second in fields {
            let mut content = subject.content.clone();
            content.write(&[0x55], first);
            content.write(&[0x55], 2048 + second);
            let sim = Sim::on(&Image::from([(PathBuf::from(PATH), content.clone())]), 103);
            assert!(matches!(open(&sim, Mode::Sync), Err(Error::Corrupt { offset: 0, .. })));
            let report = verify_on(&sim, PATH, Some(&key()), |_| {}).unwrap();
            assert_eq!(
                (report.faults.len(), report.faults[0].offset, report.faults[0].kind),
                (1, 0, FaultKind::Damage)
            );
            if first == second && needed.contains(&first) {
                assert_eq!(report.frames, 0);
                assert!(matches!(salvage(&content), Err(Error::Corrupt { offset: 0, .. })));
                continue;
            }
            assert_eq!(report.frames, subject.frames.len() as u64);
            check(subject, &content, &BTreeSet::new(), &|| format!("bytes {first} and {}", 2048 + second));
            let other = AgentKey::new("another").unwrap();
            assert!(matches!(verify_on(&sim, PATH, Some(&other), |_| {}).map(|report| report.frames), Ok(0)));
        }
    }
    // A header page that is cut is followed by no frames.
    for len in [2048 + 116, FIRST_FRAME_AT as u64 - 1] {
        let mut content = subject.content.clone();
        content.set_len(len);
        let sim = Sim::on(&Image::from([(PathBuf::from(PATH), content.clone())]), 104);
        assert_eq!(verify_on(&sim, PATH, Some(&key()), |_| {}).unwrap().faults[0].offset, 0);
        assert!(matches!(salvage(&content), Err(Error::Corrupt { offset: 0, .. })));
    }
}

#[test]
fn whatever_call_fails_the_source_stays_and_the_target_is_whole_or_absent() {
    let subject = closed();
    let mut content = subject.content.clone();
    content.write(&[!subject.bytes[start(&subject.frames[9])]], subject.frames[9].offset + 40);
    let image = Image::from([(PathBuf::from(PATH), content)]);
    let expected = salvage(&image[&PathBuf::from(PATH)]).unwrap().model;
    let run = |sim: &Sim| salvage_on(&(Arc::new(sim.clone()) as Arc<dyn Storage>), PATH, &key(), TO);
    let count = {
        let sim = Sim::on(&image, 101);
        run(&sim).unwrap();
        sim.ops()
    };
    for n in 0..count {
        for code in [EIO, ENOSPC] {
            let sim = Sim::on(&image, 101);
            sim.fail(n, Failure::Errno(code));
            let salvaged = run(&sim);
            let mut files = sim.live();
            let new = files.remove(&PathBuf::from(TO));
            files.remove(&PathBuf::from("/sim/salvaged.db.new"));
            assert_eq!(world::hash(&files), world::hash(&image), "operation {n}");
            assert!(new.is_some() || salvaged.is_err(), "operation {n}");
            if let Err(error) = &salvaged {
                assert!(matches!(error, Error::Io { .. } | Error::Full { .. }), "operation {n}: {error}");
            }
            if let Some(new) = new {
                let sim = Sim::on(&Image::from([(PathBuf::from(PATH), new)]), 102);
                assert_eq!(Model::take(&open(&sim, Mode::Sync).unwrap()).unwrap(), expected, "operation {n}");
            }
        }
    }
}
