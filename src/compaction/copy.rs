//! A new log file on its way: what is live is packed into it, and it is read back from the disk.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use zeroize::Zeroizing;

use super::Shared;
use crate::format::frame::{ALIGNMENT, Location, ValueCursor};
use crate::format::header::Header;
use crate::format::record::Operation;
use crate::index::Index;
use crate::log::{Log, LogFile, Tip, Values};
use crate::pack::{PACK_LEN, Pack};
use crate::path::sibling;
use crate::reader::Reader;
use crate::walk::{self, Beside, Found, OpenFrame, Scan};
use crate::{AgentKey, Error, Result, recovery, storage};

/// A new log file on its way. Removed again when dropped, unless it has got its name.
pub(super) struct Copy<'a> {
    shared: &'a Shared,
    pub(super) temporary: PathBuf,
    pub(super) keep: bool,
    /// The old log, and how far it was taken over.
    old: Arc<Values>,
    taken: Tip,
    pub(super) header: Header,
    pub(super) file: Arc<LogFile>,
    pub(super) new: Log,
    pub(super) index: Index,
    pack: Pack,
    /// How far the new file was read back.
    checked: Tip,
}

impl<'a> Copy<'a> {
    /// Of what will be called `path`.
    pub(super) fn create(shared: &'a Shared, path: &Path, generation: u64, key: &AgentKey) -> Result<Self> {
        let live = &*shared.live;
        let Header { id, authenticator, .. } = live.header();
        let old = live.look(|_| ()).1;
        let temporary = sibling(path, ".new");
        let (log, header) = recovery::create_log(&*live.storage, &temporary, path, generation, id.store_id, key)?;
        let first = walk::first_tip(&header.authenticator);
        let file = Arc::new(log);
        let new = Log::new(Arc::clone(&file), Arc::clone(&live.storage), first, first.end, false);
        Ok(Copy {
            shared,
            temporary,
            keep: false,
            old,
            taken: walk::first_tip(&authenticator),
            header,
            file,
            new,
            index: Index::new(live.order),
            pack: Pack::default(),
            checked: first,
        })
    }

    /// Takes over what was written so far, in rounds, until little is left or writers are as fast as this is.
    pub(super) fn catch_up(&mut self) -> Result<()> {
        for _ in 0..ROUNDS_MAX {
            let tip = self.shared.live.write()?.log.tip();
            let left = tip.end - self.taken.end;
            self.take_until(tip)?;
            self.check()?;
            if left <= LAST_ROUND_LEN {
                break;
            }
        }
        Ok(())
    }

    /// Takes over the rest, and puts a close frame behind it, which vouches for all of it. Returns the length to use.
    pub(super) fn finish(&mut self, tip: Tip) -> Result<u64> {
        self.take_until(tip)?;
        self.check()?;
        self.new.append_unseen(&[]).map_err(of_new_file(&self.temporary))?;
        self.check()?;
        // Not a clean end yet: whoever opens the file before its folder is known to be synced has to sync the folder,
        // or a power cut would bring the old name back after new calls were acknowledged.
        let len = self.new.tip().end + ALIGNMENT as u64;
        self.file.file.set_len(len).map_err(storage::full_or_io("lengthen", &self.temporary))?;
        Ok(len)
    }

    /// Cuts off what kept the end from being a clean one.
    pub(super) fn end_cleanly(&self) -> Result<()> {
        self.file.file.set_len(self.new.tip().end).map_err(self.file.io("end"))
    }

    /// Copies what is still live of the frames up to `tip`, and what they delete.
    fn take_until(&mut self, tip: Tip) -> Result<()> {
        let old = Arc::clone(&self.old);
        let mut scan = Scan::new(old.log(), Beside::Nobody, self.taken)?;
        while scan.tip().seq < tip.seq {
            self.shared.keep_going()?;
            match scan.next()? {
                Found::Frame(frame) => self.take(&old, &frame)?,
                Found::End | Found::Torn { .. } => {
                    return Err(Error::corrupt(old.path(), scan.tip().end, "frames that were written are gone"));
                }
            }
            self.taken = scan.tip();
        }
        self.flush()
    }

    fn take(&mut self, old: &Values, frame: &OpenFrame<'_>) -> Result<()> {
        let Some(manifest) = frame.manifest else { return Ok(()) };
        let mut places = ValueCursor::new(frame.offset, &frame.header);
        for operation in manifest.operations() {
            match places.place(&operation) {
                // What is not live any more was replaced or deleted by a later frame, which comes over too.
                Some(place) if self.is_current(&operation, place) => {
                    self.pack.add(&operation, |bytes| old.open_into(bytes, frame, place))?;
                }
                // Of what came over in an earlier round. In this round, nothing that a frame of it deletes is current.
                None if self.index.loses_by(&operation) => self.pack.add(&operation, |_| Ok(()))?,
                Some(_) | None => {}
            }
            if self.pack.bytes.len() >= PACK_LEN {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn is_current(&self, operation: &Operation<'_>, place: Location) -> bool {
        let find = |index: &Index| index.get(operation.bucket, operation.key) == Some(place);
        self.shared.live.look(find).0
    }

    /// Writes what was packed as one frame.
    fn flush(&mut self) -> Result<()> {
        let Copy { pack, new, index, temporary, .. } = self;
        let changes = pack.changes();
        if !changes.is_empty() {
            let written = new.append_unseen(&changes).map_err(of_new_file(temporary))?;
            index.apply(changes.iter().map(|change| change.operation), written.places);
        }
        pack.clear();
        Ok(())
    }

    fn check(&mut self) -> Result<()> {
        self.read_back().map_err(of_new_file(&self.temporary))
    }

    /// Reads back from the disk what was written since the last check: every frame in its place, every value opens.
    /// The chain ends in the same tag only if all manifests are the ones that were written.
    fn read_back(&mut self) -> Result<()> {
        // Guards against a power cut after the rename: the name must never stand for less than all of it.
        self.new.pending().wait()?;
        self.file.file.drop_cache(self.checked.end).map_err(self.file.io("drop the page cache of"))?;
        let values = Values::new(Arc::clone(&self.file), false);
        let mut value = Zeroizing::default();
        let mut scan = Scan::new(&self.file, Beside::Nobody, self.checked)?;
        while let Found::Frame(frame) = scan.next()? {
            self.shared.keep_going()?;
            let mut places = ValueCursor::new(frame.offset, &frame.header);
            let operations = frame.manifest.into_iter().flat_map(|manifest| manifest.operations());
            for place in operations.filter_map(|operation| places.place(&operation)) {
                Vec::clear(&mut value);
                values.open_into(&mut value, &frame, place)?;
            }
        }
        self.checked = scan.tip();
        if self.checked != self.new.tip() || scan.file_len() != self.checked.end {
            let what = "the new log does not read back as it was written";
            return Err(Error::corrupt(&self.temporary, self.checked.end, what));
        }
        Ok(())
    }
}

impl Drop for Copy<'_> {
    fn drop(&mut self) {
        if !self.keep {
            // If this fails, the next open or compaction removes it.
            let _ = self.shared.live.storage.remove_file(&self.temporary);
        }
    }
}

/// The new file's errors name it as it is called so far. A disk that was found full only by a sync costs no more than
/// the new file, so it is `Full` like any other.
fn of_new_file(temporary: &Path) -> impl Fn(Error) -> Error {
    let path = temporary.to_path_buf();
    move |error| match error {
        Error::Io { operation, source, .. } => storage::full_or_io(operation, &path)(source),
        Error::Full { .. } => Error::Full { path: path.clone() },
        Error::Corrupt { offset, what, .. } => Error::corrupt(&path, offset, what),
        Error::Unauthentic { offset, what, .. } => Error::unauthentic(&path, offset, what),
        error => error,
    }
}

const ROUNDS_MAX: usize = 8;
/// What the writing end may be held for: less than a millisecond's work.
const LAST_ROUND_LEN: u64 = 64 << 10;
