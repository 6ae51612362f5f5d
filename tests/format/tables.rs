//! The decision tables of *Opening*: for each change to the page's file, the store decides by the row that the
//! page names.

use std::collections::BTreeSet;
use std::ops::Range;

use crate::agree;
use crate::page_reader::{self, Log, crc32};
use crate::page_writer::{Draft, fix_crcs};
use crate::vectors::{self, AGENT_KEY};

type Rows = BTreeSet<&'static str>;

#[test]
fn every_row_that_bytes_can_hit_is_on_the_page_and_hit() {
    let page = crate::page();
    let opening = page.split("## 11. Opening").nth(1).unwrap().split("## 12.").next().unwrap();
    let is_row = |cell: &str| {
        let (letter, number) = cell.split_at_checked(1).unwrap_or_default();
        ["H", "F", "E"].contains(&letter) && number.parse::<u32>().is_ok()
    };
    let on_page: BTreeSet<_> = opening.lines().filter_map(|line| line.split('|').nth(1)?.trim().into()).collect();
    let on_page: BTreeSet<_> = on_page.into_iter().filter(|cell| is_row(cell)).collect();
    // What is no file, and what only leads on to another row.
    let not_decided_by_bytes = ["H1", "H2", "H10", "F1", "F5", "F7"].into();
    let decided: BTreeSet<_> = on_page.difference(&not_decided_by_bytes).copied().collect();

    let [one, two] = vectors::vectors().map(|vector| vector.bytes);
    let mut unmarked = one.clone();
    unmarked[MARK_PAGE].fill(0);
    let mut hit = Rows::from([agree(&one, b"a wrong key", "wrong key")]);
    for file in [&one, &two, &unmarked] {
        hit.extend([cut(file), flip(file), flip_and_fix_crcs(file)].into_iter().flatten());
    }
    hit.extend([forge_header(&two), forge_positions(&two), forge_positions(&one)].into_iter().flatten());
    hit.extend(reseal(&one));
    assert_eq!(hit, decided);
}

const MARK_PAGE: Range<usize> = 4096..8192;

/// Every length.
fn cut(file: &[u8]) -> Rows {
    let mut rows: Rows =
        (0..file.len()).map(|len| agree(&file[..len], AGENT_KEY, &format!("cut to {len}"))).collect();
    let ending = agree(file, AGENT_KEY, "the whole file");
    for zeros in 1..100 {
        let longer = [file, &vec![0; zeros]].concat();
        assert_eq!(agree(&longer, AGENT_KEY, &format!("{zeros} zeros behind")), ending);
        let longer = [longer, vec![1]].concat();
        rows.insert(agree(&longer, AGENT_KEY, &format!("{zeros} zeros and a one behind")));
    }
    rows
}

/// Every bit that is not in the zeros of the first pages.
fn flip(file: &[u8]) -> Rows {
    let header = (0..116).chain(1024..1128).chain(2048..2164).chain(3072..3176);
    let meaningful = header.chain(4096..4136).chain(6144..6184).chain(8192..file.len());
    let mut rows = Rows::new();
    for at in meaningful {
        for bit in 0..8 {
            let mut changed = file.to_vec();
            changed[at] ^= 1 << bit;
            rows.insert(agree(&changed, AGENT_KEY, &format!("bit {bit} of byte {at}")));
        }
    }
    // Both copies at once: only then the header or the base record is lost.
    for at in [0, 11, 12, 24, 40, 100, 112, 1024, 1028, 1032, 1070, 1127] {
        let mut changed = file.to_vec();
        changed[at] ^= 4;
        changed[2048 + at] ^= 4;
        rows.insert(agree(&changed, AGENT_KEY, &format!("byte {at} of both copies")));
    }
    rows
}

/// Every bit of a header copy, with its CRC put right.
fn forge_header(file: &[u8]) -> Rows {
    let mut rows = Rows::new();
    for copy in [0, 2048] {
        for bit in 0..112 * 8 {
            let mut changed = file.to_vec();
            changed[copy + bit / 8] ^= 1 << (bit % 8);
            let crc = crc32(&[&changed[copy..copy + 112]]);
            changed[copy + 112..copy + 116].copy_from_slice(&crc.to_le_bytes());
            rows.insert(agree(&changed, AGENT_KEY, &format!("forged bit {bit} of the copy at {copy}")));
        }
    }
    rows
}

/// Every bit of the first copy of the base record, of both, and of each mark, with its CRC put right.
fn forge_positions(file: &[u8]) -> Rows {
    let salt: [u8; 32] = file[48..80].try_into().unwrap();
    let mut rows = Rows::new();
    for (places, len) in [(&[1024][..], 104), (&[1024, 3072], 104), (&[4096], 40), (&[6144], 40)] {
        for bit in 4 * 8..len * 8 {
            let mut changed = file.to_vec();
            for &at in places {
                changed[at + bit / 8] ^= 1 << (bit % 8);
                let crc = crc32(&[&salt, &changed[at + 4..at + len]]);
                changed[at..at + 4].copy_from_slice(&crc.to_le_bytes());
            }
            rows.insert(agree(&changed, AGENT_KEY, &format!("forged bit {bit} at {places:?}")));
        }
    }
    rows
}

/// Every bit of every frame, with its CRCs put right; and every frame in the place of every other.
fn flip_and_fix_crcs(file: &[u8]) -> Rows {
    let log = page_reader::read(file, AGENT_KEY).unwrap();
    let salt = &log.header.salt;
    let mut rows = Rows::new();
    for frame in &log.frames {
        for bit in 8 * 8..frame.len * 8 {
            let mut changed = file.to_vec();
            let bytes = &mut changed[frame.offset..frame.offset + frame.len];
            bytes[bit / 8] ^= 1 << (bit % 8);
            fix_crcs(bytes, salt);
            rows.insert(agree(&changed, AGENT_KEY, &format!("frame {}: bit {bit}, CRCs right", frame.seq)));
        }
        for other in &log.frames {
            let [bytes, others] = [frame, other].map(|frame| &file[frame.offset..frame.offset + frame.len]);
            let (before, behind) = (&file[..frame.offset], &file[frame.offset + frame.len..]);
            let what = format!("frame {} and {}", frame.seq, other.seq);
            rows.insert(agree(&[before, others, behind].concat(), AGENT_KEY, &format!("{what} in its place")));
            rows.insert(agree(&[before, others, bytes, behind].concat(), AGENT_KEY, &format!("{what} before it")));
        }
        let (before, behind) = (&file[..frame.offset], &file[frame.offset + frame.len..]);
        rows.insert(agree(&[before, behind].concat(), AGENT_KEY, &format!("frame {} left out", frame.seq)));
    }
    rows
}

/// Behind the last record, frames that are sealed with the right key but say what no writer says.
fn reseal(file: &[u8]) -> Rows {
    let log = page_reader::read(file, AGENT_KEY).unwrap();
    let mut rows = Rows::new();
    let mut check = |draft: Draft, row: &'static str, what: &str| {
        let chain = &log.frames.last().unwrap().manifest_tag;
        let changed = [file, &draft.seal(chain, &log.header)].concat();
        assert_eq!(agree(&changed, AGENT_KEY, what), row, "{what}");
        rows.insert(row);
    };
    let good = good_draft(&log);
    let len = good.seal(&[0; 16], &log.header).len() as u32;
    let with = |change: &dyn Fn(&mut Draft)| {
        let mut draft = good.clone();
        change(&mut draft);
        draft
    };
    check(good.clone(), "E2", "a good frame");
    check(with(&|draft| draft.values[0][0] ^= 1), "E2", "another value");

    check(with(&|draft| draft.len = Some(len + 4)), "F2", "a length that is no multiple of 8");
    check(with(&|draft| draft.len = Some(56)), "F2", "a length below the shortest frame");
    check(with(&|draft| draft.len = Some((1 << 26) + 8)), "F2", "a length over the longest frame");
    check(with(&|draft| draft.len = Some(1 << 26)), "E3", "a length over the file");
    check(with(&|draft| draft.manifest_len = Some(len - 63)), "F2", "a manifest longer than its frame");
    check(with(&|draft| draft.seq = 0), "F2", "seq 0");
    check(with(&|draft| draft.seq = (1 << 31) + 1), "F2", "a seq over its limit");
    check(with(&|draft| draft.seq += 1), "F3", "a seq left out");
    check(with(&|draft| draft.seq -= 1), "F2", "durable_seq = seq");
    check(with(&|draft| draft.durable_seq = u64::MAX), "F2", "durable_seq over seq");
    check(with(&|draft| draft.kind = 3), "F2", "an unknown kind");
    check(with(&|draft| draft.kind = 2), "F2", "a close frame with a record");
    check(with(&|draft| draft.zero = [0, 0, 1]), "F2", "bytes that are not zero");
    let close = Draft { kind: 2, manifest: Vec::new(), values: Vec::new(), ..good.clone() };
    check(close.clone(), "E2", "a second close frame, which no mark names");
    check(
        Draft { durable_seq: close.durable_seq - 1, ..close.clone() },
        "F2",
        "a close frame that vouches for less",
    );
    check(Draft { values: vec![Vec::new()], ..close.clone() }, "F2", "a close frame with a value");

    check(with(&|draft| draft.padding = Some(Vec::new())), "F2", "a length that is no multiple of 8");
    check(with(&|draft| draft.padding = Some(vec![0, 1])), "F4", "padding that is not zero");
    check(with(&|draft| draft.padding = Some(vec![0; 10])), "F4", "padding of 10 bytes");
    check(with(&|draft| draft.values = Vec::new()), "F4", "a frame that ends before its values");
    check(with(&|draft| draft.manifest = Vec::new()), "F4", "a manifest of no bytes");
    let bare = Draft { values: Vec::new(), ..good.clone() };
    check(Draft { manifest: vec![0; 4], ..bare.clone() }, "F4", "a record without operations");
    check(Draft { manifest: b"\x01\0\0\0\x02\x02\x01\0z".into(), ..bare }, "E2", "a record with one");
    check(with(&|draft| draft.manifest.push(0)), "F4", "a byte behind the operations");
    for (at, byte) in (0..good.manifest.len()).flat_map(|at| (0..=255).map(move |byte| (at, byte))) {
        let draft = with(&|draft| draft.manifest[at] = byte);
        let changed = [file, &draft.seal(&log.frames.last().unwrap().manifest_tag, &log.header)].concat();
        agree(&changed, AGENT_KEY, &format!("byte {at} of the manifest is {byte}"));
    }
    rows
}

/// Behind bytes that are no frame, headers that are witnesses and headers that are not.
#[test]
fn a_witness_is_a_plausible_header_at_a_multiple_of_8_that_vouches_for_the_missing_frame() {
    let [file, _] = vectors::vectors().map(|vector| vector.bytes);
    let log = page_reader::read(&file, AGENT_KEY).unwrap();
    let good = good_draft(&log);
    let missing = good.seq;
    let later = Draft { seq: missing + 1, durable_seq: missing, ..good.clone() };
    let check = |draft: &Draft, gap: usize, cut: usize, row: &str, what: &str| {
        let header = &draft.seal(&[0; 16], &log.header)[..48 - cut];
        let changed = [&file, &vec![1; gap], header].concat();
        assert_eq!(agree(&changed, AGENT_KEY, what), row, "{what}");
    };
    for gap in 1..200 {
        let row = if gap % 8 == 0 { "F6" } else { "E3" };
        check(&later, gap, 0, row, &format!("a header {gap} bytes behind"));
    }
    check(&later, 64, 1, "E3", "a header cut short by the end of the file");
    check(&Draft { durable_seq: missing - 1, ..later.clone() }, 64, 0, "E3", "a header that vouches for less");
    check(&Draft { seq: 1 << 31, ..later.clone() }, 64, 0, "F6", "a header with the last seq");
    check(&Draft { kind: 2, ..later.clone() }, 64, 0, "E3", "a close header that is too long");
    let close = Draft { kind: 2, manifest: Vec::new(), values: Vec::new(), ..later.clone() };
    check(&close, 64, 0, "F6", "a close header");
    type Row = (&'static str, &'static dyn Fn(&mut Draft));
    let implausible: [Row; 8] = [
        ("an unknown kind", &|draft| draft.kind = 3),
        ("bytes that are not zero", &|draft| draft.zero = [1, 0, 0]),
        ("a seq over its limit", &|draft| draft.seq = (1 << 31) + 1),
        ("a durable_seq that is the seq", &|draft| draft.durable_seq = draft.seq),
        ("a length below the shortest frame", &|draft| draft.len = Some(56)),
        ("a length over the longest frame", &|draft| draft.len = Some((1 << 26) + 8)),
        ("a length that is no multiple of 8", &|draft| draft.len = Some(100)),
        ("a manifest longer than its frame", &|draft| draft.manifest_len = Some(4096)),
    ];
    for (what, change) in implausible {
        let mut draft = later.clone();
        change(&mut draft);
        check(&draft, 64, 0, "E3", what);
    }
    // The scanner reads 64 KiB at a time: its search for a witness must continue across the end of a read.
    for gap in ((64 << 10) - 128..(64 << 10) + 128).step_by(8) {
        check(&later, gap, 0, "F6", &format!("a header {gap} bytes behind"));
    }
}

/// A put and a delete-through; 2 bytes of padding.
fn good_draft(log: &Log) -> Draft {
    let last = log.frames.last().unwrap().seq;
    let manifest = [&[2, 0, 0, 0, 1, 2, 2, 0][..], b"ab", &[3, 0, 0, 0, 3, 2, 1, 0], b"z"].concat();
    Draft {
        len: None,
        manifest_len: None,
        seq: last + 1,
        durable_seq: last,
        kind: 1,
        zero: [0; 3],
        manifest,
        values: vec![b"abc".to_vec()],
        padding: None,
    }
}
