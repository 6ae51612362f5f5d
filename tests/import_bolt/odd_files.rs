//! Files that bbolt rarely or never writes, made by hand: odd but valid ones are imported, and the others are
//! refused with the place of the fault.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use backupy_state::testing::read_bolt;
use backupy_state::{Error, Result, check_bolt};

use crate::writer::{
    Agent, BRANCH, LEAF, Pages, Seals, Slot, bucket, child, fix_checksum, inline, page, tree, value,
};
use crate::{KEY, agent, expected, found, key};

const PAGE_LENS: [usize; 8] = [512, 1024, 2048, 4096, 8192, 16384, 32768, 65536];

/// The file with one more bucket, or another one in the place of the agent's.
fn with_bucket(slot: Slot, pages: Pages) -> Vec<u8> {
    let (mut agent, mut pages) = (agent(), pages);
    match &*slot.key {
        b"queue" => agent.jobs.clear(),
        b"logs_buffer" => agent.logs.clear(),
        _ => {}
    }
    let mut buckets = agent.buckets(KEY.as_bytes(), &mut pages, 4);
    buckets.retain(|other| other.key != slot.key);
    buckets.push(slot);
    buckets.sort_by(|a, b| a.key.cmp(&b.key));
    let root = pages.add(LEAF, &buckets);
    pages.finish(root)
}

fn with(slot: Slot) -> Vec<u8> {
    with_bucket(slot, Pages::new(1024))
}

#[track_caller]
fn assert_corrupt(file: &[u8], words: &str) {
    match read_bolt(file, &key()) {
        Err(Error::Corrupt { what, offset, .. }) => {
            assert!(what.contains(words), "{what}");
            assert!(offset < file.len() as u64, "{offset}");
        }
        other => panic!("{other:?}, not {words:?}"),
    }
}

#[test]
fn pages_may_have_any_length() {
    for page_len in PAGE_LENS {
        for per_page in [2, 3, 100] {
            let file = agent().file(KEY.as_bytes(), page_len, per_page);
            let state = read_bolt(&file, &key()).unwrap();
            assert!(!state.report.meta_page_damaged);
            assert_eq!(found(state), expected(&agent()), "{page_len}, {per_page}");
        }
    }
}

#[test]
fn a_page_may_run_over_into_many() {
    let jobs = (0..6).map(|i| (format!("run-{i}"), vec![i; 3000 * usize::from(i)])).collect();
    let agent = Agent { jobs, ..agent() };
    let file = agent.file(KEY.as_bytes(), 512, 4);
    assert_eq!(found(read_bolt(&file, &key()).unwrap()), expected(&agent));
}

#[test]
fn a_tree_may_be_deep() {
    let jobs = (0..600).map(|i| (format!("run-{i:03}"), vec![7; 9])).collect();
    let agent = Agent { jobs, ..agent() };
    let file = agent.file(KEY.as_bytes(), 512, 2);
    assert_eq!(found(read_bolt(&file, &key()).unwrap()), expected(&agent));
}

#[test]
fn a_file_without_buckets_or_with_empty_ones_holds_nothing() {
    let mut pages = Pages::new(4096);
    let root = pages.add(LEAF, &[]);
    for file in [pages.finish(root), Agent::default().file(KEY.as_bytes(), 4096, 4)] {
        let state = read_bolt(&file, &key()).unwrap();
        assert_eq!(found(state), expected(&Agent::default()));
    }
}

#[test]
fn the_list_of_free_pages_may_be_missing() {
    let mut pages = Pages::new(512);
    pages.has_freelist = false;
    let file = with_bucket(bucket(b"zzz", inline(&[])), pages);
    assert_eq!(found(read_bolt(&file, &key()).unwrap()), expected(&agent()));
}

#[test]
fn either_meta_page_is_enough_and_the_newer_one_counts() {
    for page_len in PAGE_LENS {
        let file = agent().file(KEY.as_bytes(), page_len, 4);
        for at in [0, page_len] {
            for byte in 16..80 {
                let mut damaged = file.clone();
                damaged[at + byte] ^= 0x10;
                let state = read_bolt(&damaged, &key()).unwrap();
                assert!(state.report.meta_page_damaged);
                assert_eq!(found(state), expected(&agent()), "{page_len}, {at}, {byte}");
            }
        }
        let mut damaged = file.clone();
        damaged[60] ^= 1;
        damaged[page_len + 60] ^= 1;
        assert_corrupt(&damaged, "neither meta page has a right checksum");
    }
    // The newer meta page is the second; if its root is an invalid page, the older one is not used instead.
    let mut file = agent().file(KEY.as_bytes(), 512, 4);
    file[512 + 32] ^= 0xFF;
    fix_checksum(&mut file, 512);
    assert_corrupt(&file, "a page that does not exist");
    let txid_at = 16 + 48;
    file[txid_at..txid_at + 8].copy_from_slice(&12_u64.to_le_bytes());
    fix_checksum(&mut file, 0);
    assert_eq!(found(read_bolt(&file, &key()).unwrap()), expected(&agent()));
}

#[test]
fn a_meta_page_with_a_right_checksum_may_still_be_wrong() {
    let forged = |at: usize, bytes: &[u8]| {
        let mut file = agent().file(KEY.as_bytes(), 512, 4);
        for meta in [0, 512] {
            file[meta + 16 + at..][..bytes.len()].copy_from_slice(bytes);
            fix_checksum(&mut file, meta);
        }
        read_bolt(&file, &key())
    };
    let foreign = |result: Result<_>, words: &str| match result {
        Err(Error::NotAStore { what, .. }) => assert!(what.contains(words), "{what}"),
        other => panic!("{other:?}"),
    };
    foreign(forged(0, b"text"), "a file of another kind");
    foreign(forged(0, &0xED0C_DAED_u32.to_be_bytes()), "big-endian byte order");
    foreign(forged(4, &3_u32.to_le_bytes()), "a version that cannot be imported");
    for page_len in [0_u32, 1, 64, 1000, u32::MAX, 1 << 31] {
        let result = forged(8, &page_len.to_le_bytes());
        assert!(matches!(result, Err(Error::Corrupt { offset: 0, .. })), "{page_len}: {result:?}");
    }
    for (at, number) in [(16, 0), (16, 1), (16, 2), (16, u64::MAX), (32, 0), (32, 1 << 60), (40, 0), (40, 3)] {
        let result = forged(at, &u64::to_le_bytes(number));
        assert!(matches!(result, Err(Error::Corrupt { .. })), "{at} {number}: {result:?}");
    }
}

#[test]
fn other_files_are_no_bbolt_files() {
    for bytes in [&b""[..], b"x", &[0; 4096], &[0xFF; 10_000], b"To do: milk, bread\n"] {
        assert!(matches!(read_bolt(bytes, &key()), Err(Error::NotAStore { .. })), "{} bytes", bytes.len());
    }
    let mut pages = Pages::new(512);
    let root = pages.add(LEAF, &[bucket(b"members", inline(&[value(b"a", b"b")]))]);
    let file = pages.finish(root);
    let error = read_bolt(&file, &key()).unwrap_err();
    assert!(matches!(error, Error::NotAStore { what: "another program's bbolt file", .. }), "{error:?}");
}

#[test]
fn a_missing_bucket_is_damage() {
    for missing in 0..4 {
        let mut pages = Pages::new(512);
        let mut buckets = agent().buckets(KEY.as_bytes(), &mut pages, 4);
        buckets.remove(missing);
        let root = pages.add(LEAF, &buckets);
        assert_corrupt(&pages.finish(root), "buckets is missing");
    }
}

#[test]
fn records_that_a_store_cannot_hold_are_reported() {
    let mut pages = Pages::new(512);
    let deep = pages.add_tree((0..9).map(|i| value(&[i], b"v")).collect(), 2);
    let outer = pages.add(LEAF, &[bucket(b"inner", tree(deep)), value(b"x", b"y")]);
    let file = with_bucket(bucket(b"later", tree(outer)), pages);
    let state = read_bolt(&file, &key()).unwrap();
    let left_out: Vec<_> = state.report.left_out.iter().map(|left| (&*left.bucket, left.keys)).collect();
    assert_eq!(left_out, [("later", 10)]);
    assert_eq!(found(state), expected(&agent()));

    let state = read_bolt(&with(bucket(b"registry", inline(&[value(b"mood", b"good")]))), &key()).unwrap();
    let left_out: Vec<_> = state.report.left_out.iter().map(|left| (&*left.bucket, left.keys)).collect();
    assert_eq!(left_out, [("registry", 1)]);
    assert_eq!((state.session, state.report.last_heartbeat_ms), (None, None));
}

#[test]
fn half_of_a_pair_is_damage() {
    let sealed = Seals::new(KEY.as_bytes()).seal(b"text");
    let seven = 7_u64.to_be_bytes();
    for (name, key, value_of, words) in [
        ("config", "current", &sealed[..], "or its version is missing"),
        ("config", "version", &seven, "or its version is missing"),
        ("registry", "session_id", &sealed, "or its time is missing"),
        ("registry", "server_time_ms", &seven, "or its time is missing"),
        ("registry", "last_heartbeat_ms", &seven[1..], "a number of eight bytes"),
    ] {
        assert_corrupt(&with(bucket(name.as_bytes(), inline(&[value(key.as_bytes(), value_of)]))), words);
    }
}

#[test]
fn keys_that_a_store_does_not_allow_are_refused() {
    let sealed = Seals::new(KEY.as_bytes()).seal(b"text");
    let queue = |run_id: &[u8]| with(bucket(b"queue", inline(&[value(run_id, &sealed)])));
    assert_corrupt(&queue(b""), "keys are not in order");
    for len in [1, 15, 17] {
        assert_corrupt(&with(bucket(b"logs_buffer", inline(&[value(&vec![1; len], &sealed)]))), "a log event");
    }
    let mut session = Seals::new(KEY.as_bytes());
    let fields = [value(b"server_time_ms", &[0; 8]), value(b"session_id", &session.seal(b"\xFF"))];
    assert_corrupt(&with(bucket(b"registry", inline(&fields))), "session id is not UTF-8");
}

#[test]
fn a_job_with_a_run_id_that_a_store_does_not_allow_is_named_and_everything_else_is_imported() {
    let mut seals = Seals::new(KEY.as_bytes());
    let (long, longest) = ([b'r'; 1025], [b'r'; 1024]);
    let run_ids = [b"a\x1b[2J\\\xff".as_slice(), &longest, &long, b"run-1", b"\xff"];
    let jobs: Vec<_> = run_ids.into_iter().map(|run_id| value(run_id, &seals.seal(run_id))).collect();
    let whole = |jobs: &[Slot]| {
        let mut pages = Pages::new(8192);
        let root = pages.add(LEAF, jobs);
        with_bucket(bucket(b"queue", tree(root)), pages)
    };
    let state = read_bolt(&whole(&jobs), &key()).unwrap();

    let imported: Vec<_> = state.jobs.iter().map(|job| job.run_id.as_bytes()).collect();
    assert_eq!(imported, [longest.as_slice(), b"run-1"]);
    assert!(state.jobs.iter().all(|job| job.payload == job.run_id.as_bytes()));
    let left_out: Vec<_> =
        state.report.left_out.iter().map(|left| (&*left.bucket, left.run_id.as_deref().unwrap())).collect();
    let cut = format!("{}...", "r".repeat(128));
    assert_eq!(left_out, [("queue", r"a\x1b[2J\\\xff"), ("queue", &cut), ("queue", r"\xff")]);
    let why: Vec<_> = state.report.left_out.iter().map(|left| left.why).collect();
    let (not_utf8, too_long) = ("its run id is not UTF-8", "its run id has more than 1,024 bytes");
    assert_eq!(why, [not_utf8, too_long, not_utf8]);
    assert_eq!((state.report.jobs, state.report.jobs_left_out()), (2, 3));
    let expected = expected(&agent());
    assert_eq!((state.config, state.session, state.logs), (expected.0, expected.1, expected.4));
}

/// Damage to a page can give a job such a run id, and is then found as any other.
#[test]
fn the_payload_of_a_job_that_is_left_out_is_checked() {
    let mut sealed = Seals::new(KEY.as_bytes()).seal(b"text");
    *sealed.last_mut().unwrap() ^= 1;
    assert_corrupt(&with(bucket(b"queue", inline(&[value(b"\xff", &sealed)]))), "failed authentication");
}

#[test]
fn a_job_or_a_log_event_over_the_limit_is_left_out_and_any_other_value_over_it_is_refused() {
    let queue = |len: usize| {
        let sealed = Seals::new(KEY.as_bytes()).seal(&vec![7; len]);
        let mut pages = Pages::new(4096);
        let root = pages.add(LEAF, &[value(b"run-1", &sealed)]);
        with_bucket(bucket(b"queue", tree(root)), pages)
    };
    assert_eq!(read_bolt(&queue(16 << 20), &key()).unwrap().jobs[0].payload.len(), 16 << 20);
    let state = read_bolt(&queue((16 << 20) + 1), &key()).unwrap();
    let [left] = &state.report.left_out[..] else { panic!("{:?}", state.report) };
    assert_eq!((left.run_id.as_deref(), left.why), (Some("run-1"), "its payload has more than 16 MiB"));
    assert_eq!((state.jobs.len(), state.logs.len(), state.report.jobs_left_out()), (0, 5, 1));

    let too_large = Seals::new(KEY.as_bytes()).seal(&vec![7; (16 << 20) + 1]);
    let logs = [value(&[0; 16], &too_large), value(&[1; 16], &Seals::new(KEY.as_bytes()).seal(b"text"))];
    let mut pages = Pages::new(4096);
    let root = pages.add(LEAF, &logs);
    let state = read_bolt(&with_bucket(bucket(b"logs_buffer", tree(root)), pages), &key()).unwrap();
    let [left] = &state.report.left_out[..] else { panic!("{:?}", state.report) };
    assert_eq!((&*left.bucket, left.keys, left.run_id.as_deref()), ("logs_buffer", 1, None));
    assert_eq!(left.why, "a log event has at most 16 MiB");
    assert_eq!((state.jobs.len(), state.logs.len(), state.report.log_events), (20, 1, 1));

    let config = [value(b"current", &too_large), value(b"version", &[0; 8])];
    let refused = read_bolt(&with(bucket(b"config", inline(&config))), &key());
    assert!(matches!(refused, Err(Error::TooLarge { what: "a configuration", .. })), "{refused:?}");
}

/// A run id that a store cannot hold is not a reason to read a payload that it cannot hold either.
#[test]
fn a_job_with_two_reasons_to_be_left_out_is_left_out() {
    let sealed = Seals::new(KEY.as_bytes()).seal(&vec![7; (16 << 20) + 1]);
    let mut pages = Pages::new(4096);
    let root = pages.add(LEAF, &[value(b"\xff", &sealed)]);
    let state = read_bolt(&with_bucket(bucket(b"queue", tree(root)), pages), &key()).unwrap();
    assert_eq!(state.report.jobs_left_out(), 1);
}

/// A sparse file: `len` bytes in a hole belong to the leaf of this bucket, which has one key without a value.
fn sparse(folder: &Path, name: &[u8], len: u64, change: impl FnOnce(&mut [u8])) -> PathBuf {
    const PAGE_LEN: usize = 4096;
    let mut pages = Pages::new(PAGE_LEN);
    pages.has_freelist = false;
    let leaf_id = pages.next_id() + 20;
    let mut file = with_bucket(bucket(name, tree(leaf_id)), pages);
    assert!(file.len() as u64 <= leaf_id * PAGE_LEN as u64);
    file.resize(leaf_id as usize * PAGE_LEN, 0);
    // Pages that nothing refers to are found only with a freelist.
    let mut leaf = page(leaf_id, LEAF, &[value(b"run-1", b"")]);
    let overflow = len / PAGE_LEN as u64;
    leaf[12..16].copy_from_slice(&(overflow as u32).to_le_bytes());
    change(&mut leaf);
    leaf.resize(PAGE_LEN, 0);
    file.extend(leaf);
    for meta in [0, PAGE_LEN] {
        file[meta + 56..meta + 64].copy_from_slice(&(leaf_id + 1 + overflow).to_le_bytes());
        fix_checksum(&mut file, meta);
    }
    let path = folder.join("sparse.db");
    fs::write(&path, &file).unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_len(file.len() as u64 + len).unwrap();
    path
}

/// Nor does it take memory for it.
#[test]
fn a_hole_that_bbolt_has_not_made_is_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = sparse(folder.path(), b"queue", 1 << 30, |_| {});
    let refused = check_bolt(&path, &key());
    let Err(Error::Corrupt { what, .. }) = refused else { panic!("{refused:?}") };
    assert!(what.contains("more overflow pages than its contents take"), "{what}");
}

/// 65,534 keys of 32 KiB, all of them zeros. With that much memory for all keys of a page, the program would fail.
#[test]
fn keys_in_a_hole_are_not_read_before_the_ones_before_them_are_checked() {
    const COUNT: u32 = 65_534;
    const KEY_LEN: u32 = 32_768;
    let folder = tempfile::tempdir().unwrap();
    let keys_len = u64::from(COUNT) * u64::from(KEY_LEN);
    let path = sparse(folder.path(), b"queue", keys_len + 16 * u64::from(COUNT), |_| {});
    let file = fs::File::options().read(true).write(true).open(&path).unwrap();
    let leaf_at = file.metadata().unwrap().len() - 4096 - keys_len - 16 * u64::from(COUNT);
    let header = |i: u32| [0, 16 * (COUNT - i) + i * KEY_LEN, KEY_LEN, 0];
    let headers: Vec<u8> = (0..COUNT).flat_map(header).flat_map(u32::to_le_bytes).collect();
    file.write_all_at(&u16::try_from(COUNT).unwrap().to_le_bytes(), leaf_at + 10).unwrap();
    file.write_all_at(&headers, leaf_at + 16).unwrap();
    let refused = check_bolt(&path, &key());
    assert!(matches!(refused, Err(Error::Corrupt { what: "the keys are not in order", .. })), "{refused:?}");

    let script = "ulimit -v 400000; exec \"$0\" --state \"$2\" import \"$1\"";
    let mut command = Command::new("sh");
    command.args(["-c", script, env!("CARGO_BIN_EXE_backupy-state")]).arg(&path);
    let output = command.arg(folder.path().join("state.db")).env("BACKUPY_AGENT_KEY", KEY).output().unwrap();
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(3) && err.contains("the keys are not in order"), "{output:?}");
}

#[test]
fn a_value_of_gigabytes_is_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let len: u32 = 3 << 30;
    let path = sparse(folder.path(), b"queue", len.into(), |leaf| {
        leaf[16 + 12..16 + 16].copy_from_slice(&len.to_le_bytes());
    });
    let report = check_bolt(&path, &key()).unwrap();
    assert_eq!((report.jobs, report.jobs_left_out()), (0, 1));
    let report = check_bolt(
        sparse(folder.path(), b"unknown", len.into(), |leaf| {
            leaf[16 + 12..16 + 16].copy_from_slice(&len.to_le_bytes());
        }),
        &key(),
    )
    .unwrap();
    assert_eq!(report.left_out.iter().map(|left| left.keys).sum::<u64>(), 1);
}

#[test]
fn a_value_that_is_not_sealed_or_whose_seal_does_not_fit_is_damage() {
    let sealed = Seals::new(KEY.as_bytes()).seal(b"text");
    let queue = |payload: &[u8]| with(bucket(b"queue", inline(&[value(b"run-1", payload)])));
    for wrong in [&b""[..], &[1], &sealed[..28], &[&[2], &sealed[1..]].concat()] {
        assert_corrupt(&queue(wrong), "not in the agent's sealed format");
    }
    for at in 1..sealed.len() {
        let mut broken = sealed.clone();
        broken[at] ^= 1;
        assert_corrupt(&queue(&broken), "failed authentication");
    }
}

#[test]
fn a_cycle_ends() {
    // A branch above itself, and one above its own parent.
    let mut pages = Pages::new(512);
    let own = pages.next_id();
    let root = pages.add(BRANCH, &[child(b"a", own)]);
    assert_corrupt(&with_bucket(bucket(b"queue", tree(root)), pages), "a second reference to a page");
    let mut pages = Pages::new(512);
    let lower = pages.next_id();
    pages.add(BRANCH, &[child(b"a", lower + 1)]);
    pages.add(BRANCH, &[child(b"a", lower)]);
    assert_corrupt(&with_bucket(bucket(b"queue", tree(lower)), pages), "a second reference to a page");
}

#[test]
fn a_tree_that_is_too_deep_is_refused() {
    let chain = |depth| {
        let mut pages = Pages::new(512);
        let sealed = Seals::new(KEY.as_bytes()).seal(b"text");
        let mut root = pages.add(LEAF, &[value(b"run-1", &sealed)]);
        for _ in 0..depth {
            root = pages.add(BRANCH, &[child(b"run-1", root)]);
        }
        with_bucket(bucket(b"queue", tree(root)), pages)
    };
    assert_eq!(read_bolt(&chain(64), &key()).unwrap().jobs.len(), 1);
    assert_corrupt(&chain(65), "too deep");
    assert_corrupt(&chain(5000), "too deep");
}

#[test]
fn buckets_within_buckets_may_be_as_deep_as_they_like() {
    let mut pages = Pages::new(512);
    let mut inner = pages.add(LEAF, &[value(b"k", b"v")]);
    for _ in 0..5000 {
        inner = pages.add(LEAF, &[bucket(b"b", tree(inner))]);
    }
    let state = read_bolt(&with_bucket(bucket(b"zzz", tree(inner)), pages), &key()).unwrap();
    assert_eq!(state.report.left_out[0].keys, 1);
}

#[test]
fn pages_that_do_not_fit_their_place_are_refused() {
    let sealed = Seals::new(KEY.as_bytes()).seal(b"text");
    let leaf = |pages: &mut Pages, id: &[u8]| pages.add(LEAF, &[value(id, &sealed)]);
    type Make<'a> = &'a dyn Fn(&mut Pages) -> u64;
    let cases: [(&str, Make<'_>); 12] = [
        ("a page that does not exist", &|_| 1),
        ("a page that does not exist", &|_| u64::MAX),
        ("a free page", &|_| 2),
        ("a second reference to a page", &|pages| {
            let shared = leaf(pages, b"a");
            pages.add(BRANCH, &[child(b"a", shared), child(b"b", shared)])
        }),
        ("id of another page", &|pages| {
            let root = leaf(pages, b"a");
            let at = pages.bytes.len() - pages.page_len;
            pages.bytes[at] ^= 1;
            root
        }),
        ("past the end of the file", &|pages| {
            let root = leaf(pages, b"a");
            let at = pages.bytes.len() - pages.page_len;
            pages.bytes[at + 12..at + 16].fill(0xFF);
            root
        }),
        ("neither a branch nor a leaf", &|pages| pages.add(3, &[])),
        ("the page has no keys", &|pages| pages.add(BRANCH, &[])),
        ("the page has no keys", &|pages| pages.add(LEAF, &[])),
        ("keys are not in order", &|pages| pages.add(LEAF, &[value(b"b", &sealed), value(b"a", &sealed)])),
        ("keys are not in order", &|pages| pages.add(LEAF, &[value(b"a", &sealed), value(b"a", &sealed)])),
        ("flags that bbolt does not set", &|pages| pages.add(LEAF, &[Slot { word: 2, ..value(b"a", &sealed) }])),
    ];
    for (words, make) in cases {
        let mut pages = Pages::new(512);
        let root = make(&mut pages);
        assert_corrupt(&with_bucket(bucket(b"queue", tree(root)), pages), words);
    }
    // Across pages: a child with keys before its branch's, after the next branch's, or with keys of another child.
    for keys in [[b"a", b"d"], [b"c", b"a"], [b"e", b"d"], [b"d", b"d"]] {
        let mut pages = Pages::new(512);
        let (first, second) = (leaf(&mut pages, keys[0]), leaf(&mut pages, keys[1]));
        let root = pages.add(BRANCH, &[child(b"b", first), child(b"d", second)]);
        assert_corrupt(&with_bucket(bucket(b"queue", tree(root)), pages), "keys are not in order");
    }
}

#[test]
fn a_page_that_is_not_packed_is_refused() {
    let sealed = Seals::new(KEY.as_bytes()).seal(b"text");
    let slots = [value(b"a", &sealed), value(b"b", &sealed)];
    // Of the page header the count, of the two keys each field of their headers.
    let fields =
        [(10, ""), (11, "more keys than fit"), (20, "out of place"), (24, "out of place"), (28, "out of place")];
    let of_the_last = [(36, "out of place"), (40, ""), (44, "")];
    for (at, words) in fields.into_iter().chain(of_the_last) {
        for change in [1, 0x80] {
            let mut pages = Pages::new(512);
            let root = pages.add(LEAF, &slots);
            let start = pages.bytes.len() - pages.page_len;
            pages.bytes[start + at] ^= change;
            assert_corrupt(&with_bucket(bucket(b"queue", tree(root)), pages), words);
        }
    }
    // No keys at all, where there were some.
    let mut pages = Pages::new(512);
    let root = pages.add(LEAF, &slots);
    let start = pages.bytes.len() - pages.page_len;
    pages.bytes[start + 10] = 0;
    assert_corrupt(&with_bucket(bucket(b"queue", tree(root)), pages), "has no keys");
    let mut pages = Pages::new(512);
    let root = pages.add(LEAF, &slots);
    let start = pages.bytes.len() - pages.page_len;
    pages.bytes[start + 10] = 0;
    assert_corrupt(&pages.finish(root), "marked as empty");
}

#[test]
fn a_bucket_within_a_value_is_as_long_as_what_it_holds() {
    let good = inline(&[value(b"mood", b"good")]);
    assert!(read_bolt(&with(bucket(b"registry", good.clone())), &key()).is_ok());
    for wrong in [&good[..good.len() - 1], &[&good[..], &[0]].concat(), &good[..31], &good[..16], &good[..15], b""]
    {
        let refused = read_bolt(&with(bucket(b"registry", wrong.to_vec())), &key());
        assert!(matches!(refused, Err(Error::Corrupt { .. })), "{refused:?}");
    }
    assert_corrupt(&with(bucket(b"registry", [&tree(0)[..], &page(0, BRANCH, &[])].concat())), "not a leaf");
    assert_corrupt(
        &with(bucket(b"registry", inline(&[bucket(b"b", inline(&[]))]))),
        "inside the value of another bucket",
    );
    assert_corrupt(&with(bucket(b"registry", [&tree(9)[..], &[0]].concat())), "length");
    assert_corrupt(&with(value(b"registry", b"x")), "in place of a bucket");
    let mut pages = Pages::new(512);
    let inner = pages.add(LEAF, &[]);
    let root = pages.add(LEAF, &[bucket(b"b", tree(inner))]);
    assert_corrupt(&with_bucket(bucket(b"queue", tree(root)), pages), "in place of a value");
}

#[test]
fn a_list_of_free_pages_that_cannot_be_is_refused() {
    let file = |ids: &[u64], count: u16| {
        let mut pages = Pages::new(512);
        pages.has_freelist = false;
        let buckets = agent().buckets(KEY.as_bytes(), &mut pages, 4);
        let root = pages.add(LEAF, &buckets);
        let list = pages.next_id();
        let slots = pages.bytes.len();
        pages.add(0x10, &[]);
        pages.bytes[slots + 10..slots + 12].copy_from_slice(&count.to_le_bytes());
        let ids: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
        pages.bytes[slots + 16..slots + 16 + ids.len()].copy_from_slice(&ids);
        let mut file = pages.finish(root);
        for meta in [0, 512] {
            file[meta + 48..meta + 56].copy_from_slice(&list.to_le_bytes());
            fix_checksum(&mut file, meta);
        }
        (file, root, list)
    };
    let (_, root, list) = file(&[], 0);
    assert!(read_bolt(&file(&[2], 1).0, &key()).is_ok());
    // A long list has its count before it.
    assert!(read_bolt(&file(&[1, 2], u16::MAX).0, &key()).is_ok());
    for (ids, count, words) in [
        (vec![root], 1, "a free page"),
        (vec![2, list], 2, "contains its own page"),
        (vec![2, 2], 2, "freelist is not in order"),
        (vec![0], 1, "freelist is not in order"),
        (vec![2, list + 1], 2, "freelist is not in order"),
        (vec![], 0, "neither in use nor free"),
        (vec![2], 63, "longer than its page"),
        (vec![62, 2], u16::MAX, "longer than its page"),
        (vec![u64::MAX, 2], u16::MAX, "longer than its page"),
    ] {
        assert_corrupt(&file(&ids, count).0, words);
    }
}
