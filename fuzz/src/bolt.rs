//! A bbolt file from any bytes, or a valid one with changes. The checksums of its meta pages are recomputed, so
//! that the changes are not rejected at once. The file is refused, or it is imported exactly as it was read and
//! only once, without any payload that the agent never sealed.

use std::sync::{Arc, OnceLock};

use arbitrary::{Arbitrary, Unstructured};
use backupy_state::testing::{BoltState, Storage, import_bolt_bytes, options_on, read_bolt};
use backupy_state::{Error, LogLimits};

use crate::bolt_writer::{Agent, LEAF, Pages, bucket, fix_checksum, inline, value};
use crate::sim::Sim;
use crate::sim::{PATH, key};

const KEY: &[u8] = crate::base::KEY;
const PAGE_LEN: usize = 512;
const CHANGES_MAX: usize = 6;

#[derive(Arbitrary, Debug)]
enum Change {
    Byte {
        at: u16,
        to: u8,
    },
    PageNumber {
        page: u8,
        to: u8,
    },
    Kind {
        page: u8,
        to: u8,
    },
    Count {
        page: u8,
        to: u16,
    },
    Overflow {
        page: u8,
        to: u8,
    },
    /// A field in the header of one of the page's keys.
    KeyField {
        page: u8,
        key: u8,
        field: u8,
        to: u16,
    },
    CopyPage {
        from: u8,
        to: u8,
        is_renumbered: bool,
    },
    SwapPages {
        one: u8,
        other: u8,
        is_renumbered: bool,
    },
    /// One of the eight-byte fields after the page length in a meta page.
    Meta {
        is_second: bool,
        field: u8,
        to: u64,
    },
    PageLen {
        is_second: bool,
        log: u8,
    },
    Cut {
        len: u16,
    },
}

#[derive(Arbitrary, Debug)]
struct Mutation {
    has_freelist: bool,
    checksums_stay: bool,
    changes: Vec<Change>,
}

pub fn run(bytes: &[u8]) {
    let Some((&mode, rest)) = bytes.split_first() else { return };
    match mode % 3 {
        0 => check(rest),
        1 => {
            let mut file = rest.to_vec();
            fix_checksums(&mut file);
            check(&file);
        }
        _ => {
            let Ok(mutation) = Mutation::arbitrary(&mut Unstructured::new(rest)) else { return };
            let mut file = base(mutation.has_freelist).to_vec();
            mutation.changes.iter().take(CHANGES_MAX).for_each(|change| apply(change, &mut file));
            if !mutation.checksums_stay {
                fix_checksums(&mut file);
            }
            check(&file);
        }
    }
}

/// A tree of three levels, with an overflow page, inline buckets, and a bucket that no agent has.
fn base(has_freelist: bool) -> &'static [u8] {
    static BASES: [OnceLock<Vec<u8>>; 2] = [const { OnceLock::new() }; 2];
    BASES[usize::from(has_freelist)].get_or_init(|| {
        let mut pages = Pages::new(PAGE_LEN);
        pages.has_freelist = has_freelist;
        let mut buckets = agent().buckets(KEY, &mut pages, 2);
        buckets.push(bucket(b"zzz", inline(&[value(b"a", b"b")])));
        let root = pages.add(LEAF, &buckets);
        pages.finish(root)
    })
}

fn agent() -> Agent {
    Agent {
        config: Some((7, b"interval = 42".to_vec())),
        session: Some(("session-1".to_owned(), 5)),
        heartbeat: Some(6),
        jobs: (0..7).map(|i| (format!("run-{i}"), vec![i; if i == 3 { 900 } else { 20 }])).collect(),
        logs: (0..5).map(|i| (i / 2, i, vec![b'e'; 3])).collect(),
    }
}

fn apply(change: &Change, file: &mut Vec<u8>) {
    let count = (file.len() / PAGE_LEN).max(1);
    let page_at = |page: u8| usize::from(page) % count * PAGE_LEN;
    let mut put = |at: usize, bytes: &[u8]| {
        if let Some(place) = file.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    };
    match *change {
        Change::Byte { at, to } => put(usize::from(at), &[to]),
        Change::PageNumber { page, to } => put(page_at(page), &[to]),
        Change::Kind { page, to } => put(page_at(page) + 8, &[to]),
        Change::Count { page, to } => put(page_at(page) + 10, &to.to_le_bytes()),
        Change::Overflow { page, to } => put(page_at(page) + 12, &[to]),
        Change::KeyField { page, key, field, to } => {
            let at = 16 + usize::from(key % 8) * 16 + usize::from(field % 4) * 4;
            put(page_at(page) + at, &to.to_le_bytes());
        }
        Change::CopyPage { from, to, is_renumbered } => {
            let (from, to) = (page_at(from), page_at(to));
            if from + PAGE_LEN <= file.len() && to + PAGE_LEN <= file.len() {
                file.copy_within(from..from + PAGE_LEN, to);
                renumber(file, to, is_renumbered);
            }
        }
        Change::SwapPages { one, other, is_renumbered } => {
            let (one, other) = (page_at(one), page_at(other));
            if one.max(other) + PAGE_LEN <= file.len() {
                for i in 0..PAGE_LEN {
                    file.swap(one + i, other + i);
                }
                renumber(file, one, is_renumbered);
                renumber(file, other, is_renumbered);
            }
        }
        Change::Meta { is_second, field, to } => {
            put(usize::from(is_second) * PAGE_LEN + 32 + usize::from(field % 5) * 8, &to.to_le_bytes());
        }
        Change::PageLen { is_second, log } => {
            put(usize::from(is_second) * PAGE_LEN + 24, &(1_u32 << (log % 32)).to_le_bytes());
        }
        Change::Cut { len } => file.truncate(usize::from(len)),
    }
}

fn renumber(file: &mut [u8], at: usize, is_renumbered: bool) {
    if is_renumbered {
        file[at..at + 8].copy_from_slice(&((at / PAGE_LEN) as u64).to_le_bytes());
    }
}

/// Recomputes the checksums of the first meta page and of the second, at the page length that the first one gives.
fn fix_checksums(file: &mut [u8]) {
    let Some(page_len) = file.get(24..28) else { return };
    let page_len = u32::from_le_bytes(page_len.try_into().unwrap()) as usize;
    for at in [0, if page_len >= 128 { page_len } else { PAGE_LEN }] {
        if at.checked_add(80).is_some_and(|end| end <= file.len()) {
            fix_checksum(file, at);
        }
    }
}

/// Reads the file, imports it twice and compares the store with what was read.
fn check(file: &[u8]) {
    let state = match read_bolt(file, &key()) {
        Ok(state) => state,
        Err(Error::Corrupt { offset, .. }) => return assert!(offset <= file.len() as u64, "{offset}"),
        Err(Error::NotAStore { .. } | Error::WrongKey { .. } | Error::TooLarge { .. }) => return,
        Err(Error::Invalid { what, .. }) => return assert!(what.contains("is already a store"), "{what}"),
        Err(error) => panic!("{error:?}"),
    };
    assert_sealed_by_the_agent(&state);
    let sim = Sim::new(1);
    let storage: Arc<dyn Storage> = Arc::new(sim);
    let mut limits = LogLimits::default();
    (limits.max_count, limits.max_bytes) = (None, None);
    let store = options_on(storage).mmap(false).log_limits(limits).open(PATH, &key()).unwrap();
    let report = import_bolt_bytes(file, &key(), &store).unwrap();
    assert_eq!(report, state.report);
    let seq = store.stats().seq;
    let again = import_bolt_bytes(file, &key(), &store).unwrap();
    assert_eq!((again.already_there, store.stats().seq), (report.jobs + report.log_events, seq));
    assert_eq!(store.load_config().unwrap(), state.config);
    assert_eq!(store.load_session().unwrap(), state.session);
    assert_eq!(store.last_heartbeat().unwrap(), report.last_heartbeat_ms);
    assert_eq!(store.dequeue_jobs(usize::MAX).unwrap(), state.jobs);
    assert_eq!(store.peek_logs(usize::MAX).unwrap().events(), state.logs);
}

/// Values that are not sealed under the agent key are never imported. The seeds hold the same values as the base.
fn assert_sealed_by_the_agent(state: &BoltState) {
    let agent = agent();
    let mut texts: Vec<&[u8]> = agent.jobs.iter().map(|(_, payload)| &payload[..]).collect();
    texts.extend(agent.logs.iter().map(|(_, _, payload)| &payload[..]));
    texts.extend(agent.config.iter().map(|(_, raw)| &raw[..]));
    texts.extend(agent.session.iter().map(|(id, _)| id.as_bytes()));
    let found = state.jobs.iter().map(|job| &job.payload[..]);
    let found = found.chain(state.logs.iter().map(|event| &event.payload[..]));
    let found = found.chain(state.config.iter().map(|config| &config.raw[..]));
    for text in found.chain(state.session.iter().map(|session| session.session_id.as_bytes())) {
        assert!(texts.contains(&text), "{text:?}");
    }
}
