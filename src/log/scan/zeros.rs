//! The zeros at the end of a log, found backward from the end of the file.
//!
//! A log ends only where nothing but zeros follows, so opening reads all of its preallocated space: with many
//! queued jobs, more bytes than the index file has. A second thread does this while the index file is read.

use std::io;
use std::ops::Range;
use std::thread;

use super::window::READ_LEN;
use crate::storage::{self, File};

/// Does `work`, and looks meanwhile for the zeros that the file ends with. They are `None` for a short file, or if
/// no thread can be started, and where they could not be read.
pub(crate) fn look_for_zeros_during<T>(file: &dyn File, work: impl FnOnce() -> T) -> (T, Option<Range<u64>>) {
    let is_long = file.len().is_ok_and(|len| len >= THREAD_LEN_MIN);
    thread::scope(|scope| {
        let search = || zeros_at_end(file).ok().flatten();
        let thread = is_long.then(|| thread::Builder::new().spawn_scoped(scope, search).ok()).flatten();
        let done = work();
        (done, thread.and_then(|thread| thread.join().ok()).flatten())
    })
}

/// The range of zeros that the file ends with. `None` if it is longer than any preallocated space, as in a file
/// with a hole, which the file system knows better than a search does.
fn zeros_at_end(file: &dyn File) -> io::Result<Option<Range<u64>>> {
    let len = file.len()?;
    let mut bytes = vec![0; READ_LEN];
    let mut end = len;
    while end > 0 && len - end <= ZEROS_LEN_MAX {
        let start = end.saturating_sub(READ_LEN as u64);
        #[allow(clippy::cast_possible_truncation, reason = "at most READ_LEN")]
        let part = &mut bytes[..(end - start) as usize];
        storage::read_exact_at(file, part, start)?;
        if let Some(last) = last_nonzero(part) {
            return Ok(Some(start + last as u64 + 1..len));
        }
        end = start;
    }
    Ok((end == 0).then_some(0..len))
}

/// Where the last byte is that is not zero.
pub(super) fn last_nonzero(bytes: &[u8]) -> Option<usize> {
    let part = bytes.chunks(ZERO_CHECK_LEN).rposition(|part| !is_zero(part))?;
    let until = bytes.len().min((part + 1) * ZERO_CHECK_LEN);
    bytes[..until].iter().rposition(|&byte| byte != 0)
}

// A fixed length without an early exit compiles to vector instructions: preallocated space can be long.
pub(super) fn is_zero(part: &[u8]) -> bool {
    part.iter().fold(0, |all, byte| all | byte) == 0
}

/// In a shorter file, starting a thread takes longer than it saves.
const THREAD_LEN_MIN: u64 = 16 << 20;
/// More than the longest reserve and the longest step together.
const ZEROS_LEN_MAX: u64 = 128 << 20;
/// How many bytes are compared with zero at once.
const ZERO_CHECK_LEN: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{Access, Disk, Storage};

    fn zeros_of(nonzero: &[u64], len: u64) -> Option<Range<u64>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let plain = std::fs::File::create(&path).unwrap();
        plain.set_len(len).unwrap();
        for &at in nonzero {
            std::os::unix::fs::FileExt::write_all_at(&plain, &[1], at).unwrap();
        }
        let file = Disk.open(&path, Access::Read).unwrap();
        let found = zeros_at_end(&*file).unwrap();
        let (done, during) = look_for_zeros_during(&*file, || 7);
        assert_eq!((done, during), (7, found.clone().filter(|_| len >= THREAD_LEN_MIN)));
        found
    }

    #[test]
    fn the_zeros_begin_after_the_last_byte_that_is_not_zero() {
        let len = 3 * READ_LEN as u64 + 100;
        for last in [0, 1, 99, 100, 511, 512, 65_535, 65_536, 65_635, 65_636, len - 2, len - 1] {
            assert_eq!(zeros_of(&[0, last], len), Some(last + 1..len), "{last}");
        }
        assert_eq!(zeros_of(&[], len), Some(0..len));
        assert_eq!(zeros_of(&[], 0), Some(0..0));
        assert_eq!(zeros_of(&[19 << 20], 20 << 20), Some((19 << 20) + 1..20 << 20));
    }

    #[test]
    fn a_hole_is_left_to_the_file_system() {
        assert_eq!(zeros_of(&[10], 1 << 40), None);
    }
}
