//! Writes marks: notes in the log's mark page of how far the log was durable.
//!
//! A log cannot show by its own end that frames are missing from it: what is left ends like any other log. A mark
//! shows it. It names the last frame that a sync had covered when it was written, so a log that ends before that
//! frame was cut, or only copied in part.
//!
//! A mark needs no sync and no order of its own. If it is lost, the one before it remains, in the other slot, and
//! protects less. So most marks are written just before a sync that a call asks for anyway:
//!
//! - the first one of a session, if a frame was durable when the session began; else the first that finds one;
//! - after the log has grown, which makes the next sync slow anyway;
//! - after a minute.
//!
//! `close` writes one for the frames before its close frame, and one for the close frame once that is durable. A
//! compaction writes one for the close frame of the new log, once its folder is synced. The last two make the log
//! clean.
//!
//! A mark must never claim more than a sync has covered: that would make an ordinary crash look like damage.
//! Implements *Marks* in *Writing* of FORMAT.md.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::file::LogFile;
use super::scan::PAUSES_MS;
use crate::format::SaltedCrc;
use crate::format::mark::{self, MARK_PAGE_AT, MARK_PAGE_LEN, Mark};
use crate::format::position::LogPosition;
use crate::storage::{self, File, Storage};

/// Writes the marks of one log.
#[derive(Debug)]
pub(crate) struct Marks(Mutex<State>);

#[derive(Debug)]
struct State {
    last: Option<Mark>,
    /// Whether the next durable call writes a mark.
    is_due: bool,
    /// When a mark was last due, by the clock of the storage.
    last_due_ns: u64,
    /// Whether the log is about to be unlocked, so that another process may write its marks.
    has_ended: bool,
}

impl Marks {
    /// Begins a session on a log whose mark is `last`.
    pub(crate) fn new(last: Option<Mark>, now_ns: u64) -> Self {
        Marks(Mutex::new(State { last, is_due: true, last_due_ns: now_ns, has_ended: false }))
    }

    /// Writes no more marks. Waits for one that is being written.
    pub(crate) fn end(&self) {
        self.state().has_ended = true;
    }

    /// Makes the next durable call write a mark: the log has grown.
    pub(crate) fn set_due(&self) {
        self.state().is_due = true;
    }

    /// Writes a mark if one is due. A sync has covered the frames before `durable`, and the caller is about to
    /// call another one.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub(crate) fn write_if_due(&self, log: &LogFile, durable: LogPosition, now_ns: u64) -> io::Result<()> {
        let mut state = self.state();
        // The clock may have been set back.
        let is_due = state.is_due || now_ns.abs_diff(state.last_due_ns) >= SPACING_NS;
        if !is_due || durable.seq == 0 {
            return Ok(());
        }
        state.is_due = false;
        state.last_due_ns = now_ns;
        state.write(log, durable)
    }

    /// Writes a mark for the frames before `durable`, which a sync has covered, unless the last mark names as
    /// many.
    ///
    /// # Errors
    /// That of the write, unless it only found no space: then there is no new mark.
    pub(crate) fn write(&self, log: &LogFile, durable: LogPosition) -> io::Result<()> {
        self.state().write(log, durable)
    }

    /// Locks the state, poisoned or not: no code can panic halfway through a change of it.
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn write(&mut self, log: &LogFile, durable: LogPosition) -> io::Result<()> {
        if self.has_ended || self.last.map_or(0, |last| last.position.seq) >= durable.seq {
            return Ok(());
        }
        let next = Mark::after(self.last, durable);
        match storage::write_all_at(&*log.file, &next.encode(&log.crc), next.offset()) {
            Ok(()) => self.last = Some(next),
            // On a file system that copies on write, even this takes space. The other slot still has its mark.
            Err(error) if storage::is_full(&error) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

/// Reads the mark of a log. A file that ends before the page has none.
pub(crate) fn read(file: &dyn File, crc: &SaltedCrc) -> io::Result<Option<Mark>> {
    Ok(mark::parse_page(read_page(file, &mut [0; MARK_PAGE_LEN])?, crc))
}

/// How many marks of a log are torn, and where its mark page has a byte that belongs to nothing: for `verify`. A
/// writer may be in the middle of a mark, so what looks torn is read again, after pauses that the storage takes.
pub(crate) fn check(file: &dyn File, crc: &SaltedCrc, storage: &dyn Storage) -> io::Result<(u64, Option<u64>)> {
    let mut pauses = PAUSES_MS.iter();
    let mut page = [0; MARK_PAGE_LEN];
    loop {
        let page = read_page(file, &mut page)?;
        let torn = mark::count_torn(page, crc);
        match pauses.next() {
            Some(&pause) if torn > 0 => storage.sleep(Duration::from_millis(pause)),
            _ => return Ok((torn, mark::stray_byte(page))),
        }
    }
}

fn read_page<'p>(file: &dyn File, page: &'p mut [u8; MARK_PAGE_LEN]) -> io::Result<&'p [u8]> {
    let len = storage::read_at_most(file, page, MARK_PAGE_AT)?;
    Ok(&page[..len])
}

/// The least time between two marks that only the time makes due: often enough to lose little of the protection,
/// and seldom enough to cost nothing.
const SPACING_NS: u64 = 60_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::header::open_log;
    use crate::storage::{Access, Disk, Storage};
    use crate::{AgentKey, Store};

    /// Another process may own the log by then.
    #[test]
    fn no_mark_is_written_after_the_end_of_marks() {
        let folder = tempfile::tempdir().unwrap();
        let (path, key) = (folder.path().join("state.db"), AgentKey::new("key").unwrap());
        Store::open(&path, &key).unwrap().close().unwrap();
        let (log, _) = open_log(Disk.open(&path, Access::Write).unwrap().into(), &path, &key).unwrap();
        let position = |seq| LogPosition { end: 8192 + 64 * seq, seq, chain: [7; 16] };
        let marks = Marks::new(None, 0);
        let seq_of_mark = || read(&*log.file, &log.crc).unwrap().map(|mark| mark.position.seq);
        marks.write(&log, position(5)).unwrap();
        assert_eq!(seq_of_mark(), Some(5));
        marks.end();
        marks.write(&log, position(6)).unwrap();
        marks.write_if_due(&log, position(7), 0).unwrap();
        assert_eq!(seq_of_mark(), Some(5));
    }
}
