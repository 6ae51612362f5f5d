//! Crafted files: whoever can write the file cannot make reading it take more than a multiple of its length.

use std::fs;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use backupy_state::testing::{Storage, open_snapshot_on, options_on, policy, salvage_on, verify_on};
use backupy_state::{Durability, OpenOptions, verify};

use crate::common::{CountedDisk, FIRST_FRAME_AT, Image, Place, key, say_skipped};

/// A closed log with this many records of one heartbeat each.
fn log_of(records: usize) -> Image {
    let place = Place::new();
    let compaction = policy(|policy| policy.automatic = false);
    let mut options = OpenOptions::new();
    let store =
        options.durability(Durability::Buffered).compaction(compaction).open(place.path(), &key()).unwrap();
    (0..records).for_each(|ts| store.record_heartbeat(ts as i64).unwrap());
    store.close().unwrap();
    let mut image = Image::read(place.path());
    image.without_space();
    image
}

/// In the place of the frame's header: a whole one with other fields.
fn forge(image: &mut Image, at: usize, len: u32, seq: u64, durable_seq: u64) {
    image.bytes[at + 8..at + 12].copy_from_slice(&len.to_le_bytes());
    image.bytes[at + 12..at + 16].copy_from_slice(&0_u32.to_le_bytes());
    image.bytes[at + 16..at + 24].copy_from_slice(&seq.to_le_bytes());
    image.bytes[at + 24..at + 32].copy_from_slice(&durable_seq.to_le_bytes());
    image.fix_header_crc(at);
}

/// Each frame has a wrong header CRC, and far behind it a header that vouches for no frame after it.
fn with_a_witness_for_each_frame(records: usize) -> Image {
    let mut image = log_of(records);
    let frames = image.frames();
    for frame in &frames {
        image.flip(frame.start);
    }
    let template = image.bytes[frames[0].clone()].to_vec();
    for seq in 1..=frames.len() as u64 {
        let at = image.len();
        image.append(&template);
        forge(&mut image, at, 64, seq + 1, seq);
    }
    image
}

#[test]
fn witnesses_far_behind_are_searched_for_once() {
    let mut read = Vec::new();
    for records in [2000, 8000] {
        let image = with_a_witness_for_each_frame(records);
        let (place, disk) = (Place::new(), CountedDisk::default());
        image.write(place.path());
        let storage: Arc<dyn Storage> = Arc::new(disk.clone());
        let verified = disk.bytes_read_of(|| {
            let report = verify_on(&disk, place.path(), Some(&key()), |_| {}).unwrap();
            assert!(!report.is_intact());
        });
        let salvaged = disk.bytes_read_of(|| {
            let report = salvage_on(&storage, place.path(), &key(), place.at("salvaged.db")).unwrap();
            assert_eq!(report.records, records as u64);
        });
        let mut options = options_on(storage);
        let opened = disk.bytes_read_of(|| drop(options.create(false).open(place.path(), &key()).unwrap_err()));
        read.extend([verified, salvaged, opened].map(|bytes| bytes / image.len() as u64));
    }
    // Eight doubtful places are looked at again five times each, down to the end of the file.
    assert!(read.iter().all(|&times| times <= 80), "{read:?} times the file were read");
}

/// Each header claims all that follows it. Together that is thousands of times the file, and a body that does not
/// match its CRC costs its length. So there is a limit, after which no body matches, not even that of a whole
/// frame.
#[test]
fn without_the_key_only_so_many_bodies_are_compared_with_their_crc() {
    for (headers, is_found) in [(10, true), (16_000, false)] {
        let mut image = log_of(1);
        let frame = image.bytes[image.frames()[0].clone()].to_vec();
        image.cut(FIRST_FRAME_AT);
        let len = headers * 64;
        image.append(&vec![0xA5; len]).append(&frame);
        for i in 0..headers {
            let at = FIRST_FRAME_AT + i * 64;
            let left = (image.len() - at) as u32;
            image.bytes[at + 32..at + 48].fill(0);
            image.bytes[at + 44] = 1;
            forge(&mut image, at, left, i as u64 + 1, i as u64);
        }
        let last = FIRST_FRAME_AT + len;
        // It also vouches for the forged ones, so that they are damage and no torn tail.
        image.bytes[last + 16..last + 24].copy_from_slice(&(headers as u64 + 1).to_le_bytes());
        image.bytes[last + 24..last + 32].copy_from_slice(&(headers as u64).to_le_bytes());
        image.fix_crc(last);
        let place = Place::new();
        image.write(place.path());
        let report = verify(place.path(), None).unwrap();
        assert_eq!(report.frames, u64::from(is_found), "{headers} forged headers");
    }
}

/// Before each frame, a header without right CRCs. It has the expected seq, and a manifest down to the end of the
/// file: or to `len`, in a file that is as long as that only by a hole.
fn with_a_claim_before_each_frame(records: usize, len: Option<u32>) -> Image {
    let mut image = log_of(records);
    image.without_marks();
    let frames: Vec<_> = image.frames().into_iter().map(|frame| image.bytes[frame].to_vec()).collect();
    let end = image.len() + frames.len() * 48;
    image.cut(FIRST_FRAME_AT);
    for frame in &frames {
        let len = len.unwrap_or((end - image.len()) as u32);
        let mut header = [0; 48];
        header[8..12].copy_from_slice(&len.to_le_bytes());
        header[12..16].copy_from_slice(&(len - 64).to_le_bytes());
        header[16..24].copy_from_slice(&frame[16..24]);
        header[44] = 1;
        image.bytes.extend_from_slice(&[&header, &frame[..]].concat());
    }
    image
}

/// How many bytes `verify` and `salvage` read from the file at this place.
fn bytes_read_past_damage(place: &Place) -> [u64; 2] {
    let disk = CountedDisk::default();
    let storage: Arc<dyn Storage> = Arc::new(disk.clone());
    let verified = disk.bytes_read_of(|| {
        let report = verify_on(&disk, place.path(), Some(&key()), |_| {}).unwrap();
        assert!(!report.is_intact());
    });
    let salvaged =
        disk.bytes_read_of(|| drop(salvage_on(&storage, place.path(), &key(), place.at("salvaged.db"))));
    [verified, salvaged]
}

/// Each costs a read of all that follows, and three passes of GCM over it.
#[test]
fn headers_that_claim_all_that_follows_are_tried_by_their_seal_only_so_often() {
    // As above, and what the budget allows.
    for records in [500, 2000] {
        let image = with_a_claim_before_each_frame(records, None);
        let place = Place::new();
        image.write(place.path());
        let read = bytes_read_past_damage(&place).map(|bytes| bytes / image.len() as u64);
        assert!(read.iter().all(|&times| times <= 100), "{read:?} times the file were read");
    }
}

/// The hole costs nothing to make. So it does not make the work that is allowed a multiple of its length.
#[test]
fn a_hole_does_not_buy_more_tries() {
    const HOLE_LEN: u64 = 8 << 30;
    let (place, len) = (Place::new(), 64 << 20);
    with_a_claim_before_each_frame(40, Some(len)).write(place.path());
    if fs::File::options().write(true).open(place.path()).unwrap().set_len(HOLE_LEN).is_err() {
        return say_skipped("the file system has no long files");
    }
    let read = bytes_read_past_damage(&place);
    assert!(read.iter().all(|&bytes| bytes <= 12 * u64::from(len)), "{read:?} bytes were read");
}

/// A whole frame that nothing has sealed, before each frame, with a body down to the end of the file. To find out
/// that its seal is not right, its CRC is compared first, and that costs its length. So there is a limit, after
/// which no body matches.
#[test]
fn whole_frames_that_overlap_are_compared_with_their_crc_only_so_often() {
    for (records, is_all_found) in [(5, true), (4000, false)] {
        let mut image = log_of(records);
        image.without_marks();
        let frames: Vec<_> = image.frames().into_iter().map(|frame| image.bytes[frame].to_vec()).collect();
        image.cut(FIRST_FRAME_AT);
        let mut forged = Vec::new();
        for frame in &frames {
            forged.push(image.len());
            image.bytes.extend_from_slice(&[&[0; 64], &frame[..]].concat());
        }
        for (frame, at) in frames.iter().zip(forged).rev() {
            let seq = u64::from_le_bytes(frame[16..24].try_into().unwrap());
            let left = (image.len() - at) as u32;
            image.bytes[at + 44] = 1;
            forge(&mut image, at, left, seq, 0);
            image.fix_crc(at);
        }
        let place = Place::new();
        image.write(place.path());
        let report = verify(place.path(), Some(&key())).unwrap();
        assert_eq!(report.frames == frames.len() as u64, is_all_found, "{} of {records}", report.frames);
    }
}

/// A log that somebody has extended, and one with a byte far behind its end.
#[test]
fn a_hole_is_not_read() {
    const HOLE_LEN: u64 = 8 << 30;
    for has_byte_behind in [false, true] {
        let (place, disk) = (Place::new(), CountedDisk::default());
        log_of(10).write(place.path());
        let file = fs::File::options().write(true).open(place.path()).unwrap();
        if file.set_len(HOLE_LEN).is_err() {
            return say_skipped("the file system has no long files");
        }
        if has_byte_behind {
            file.write_all_at(b"x", HOLE_LEN - 1).unwrap();
        }
        let storage: Arc<dyn Storage> = Arc::new(disk.clone());
        let read = disk.bytes_read_of(|| {
            let snapshot = open_snapshot_on(storage, place.path(), &key()).unwrap();
            assert_eq!(snapshot.last_heartbeat().unwrap(), Some(9));
        });
        assert!(read < 8 << 20, "{read} bytes were read");
    }
}
