//! A log file on its way, which nobody else sees yet: what compaction, backups and salvage write.
//!
//! Operations are packed many a frame, synced, and read back from the disk before the file gets its name.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::create::create_log;
use super::file::{LogFile, LogPosition};
use super::frame_builder::{FRAME_LEN_TARGET, FrameBuilder};
use super::scan::{Concurrency, Scanned, Scanner};
use super::values::Values;
use super::writer::LogWriter;
use crate::crypto::seal::GenerationId;
use crate::crypto::secret_vec::SecretVec;
use crate::format::frame::ALIGNMENT;
use crate::format::header::Header;
use crate::format::location::ValueCursor;
use crate::format::record::Operation;
use crate::index::{Index, QueueOrder};
use crate::storage::paths::{self, sibling};
use crate::storage::{self, Storage};
use crate::{AgentKey, Error, Result};

/// Removed again when dropped, unless it has got its name.
pub(crate) struct LogBuilder {
    storage: Arc<dyn Storage>,
    temporary: PathBuf,
    is_named: bool,
    pub(crate) header: Header,
    pub(crate) file: Arc<LogFile>,
    pub(crate) log: LogWriter,
    /// What was written so far.
    pub(crate) index: Index,
    pack: FrameBuilder,
    /// How far it was read back.
    checked: LogPosition,
}

impl LogBuilder {
    /// At `<path>.new`, for what will be called `path`, with the generation and the store id of `id`.
    pub(crate) fn create(
        storage: &Arc<dyn Storage>,
        path: &Path,
        id: &GenerationId,
        key: &AgentKey,
        order: QueueOrder,
    ) -> Result<Self> {
        let temporary = sibling(path, ".new");
        let (log, header) = create_log(&**storage, &temporary, path, id.generation, id.store_id, key)?;
        let first = LogPosition::first(&header.authenticator);
        let file = Arc::new(log);
        let log = LogWriter::new(Arc::clone(&file), Arc::clone(storage), first, first.end, false);
        Ok(LogBuilder {
            storage: Arc::clone(storage),
            temporary,
            is_named: false,
            header,
            file,
            log,
            index: Index::new(order),
            pack: FrameBuilder::default(),
            checked: first,
        })
    }

    /// What it is called so far.
    pub(crate) fn temporary(&self) -> &Path {
        &self.temporary
    }

    /// It has got its name, and stays.
    pub(crate) fn keep(&mut self) {
        self.is_named = true;
    }

    /// `append_value` appends the value of a put.
    pub(crate) fn add(
        &mut self,
        operation: &Operation<'_>,
        append_value: impl FnOnce(&mut SecretVec) -> Result<()>,
    ) -> Result<()> {
        self.pack.add(operation, append_value)?;
        if self.pack.bytes.len() >= FRAME_LEN_TARGET { self.flush() } else { Ok(()) }
    }

    /// Writes what was packed as one frame.
    pub(crate) fn flush(&mut self) -> Result<()> {
        let LogBuilder { pack, log, index, temporary, .. } = self;
        let changes = pack.changes();
        if !changes.is_empty() {
            let written = log.append_unseen(&changes).map_err(of_new_file(temporary))?;
            index.apply(changes.iter().map(|change| change.operation), written.locations);
        }
        pack.clear();
        Ok(())
    }

    /// Makes durable what was written since the last check, and reads it back. `check_not_stopping` is told how far that is, and may end
    /// it with an error.
    pub(crate) fn check(&mut self, check_not_stopping: impl Fn(u64) -> Result<()>) -> Result<()> {
        self.read_back(check_not_stopping).map_err(of_new_file(&self.temporary))
    }

    /// From the disk: every frame in its place, every value opens. The chain ends in the same tag only if all manifests
    /// are the ones that were written.
    fn read_back(&mut self, check_not_stopping: impl Fn(u64) -> Result<()>) -> Result<()> {
        // Guards against a power cut after the rename: the name must never stand for less than all of it.
        self.log.pending().wait()?;
        self.file.file.drop_cache(self.checked.end).map_err(self.file.io("drop the page cache of"))?;
        let values = Values::new(Arc::clone(&self.file), false);
        let mut value = SecretVec::default();
        let mut scan = Scanner::new(&self.file, Concurrency::Exclusive, self.checked)?;
        while let Scanned::Frame(frame) = scan.next()? {
            check_not_stopping(frame.offset)?;
            let mut locations = ValueCursor::new(frame.offset, &frame.header);
            let operations = frame.manifest.into_iter().flat_map(|manifest| manifest.operations());
            for location in operations.filter_map(|operation| locations.locate(&operation)) {
                value.clear();
                values.open_into(&mut value, &frame, location)?;
            }
        }
        self.checked = scan.tip();
        if self.checked != self.log.tip() || scan.file_len() != self.checked.end {
            let what = "the new log does not read back as it was written";
            return Err(Error::corrupt(&self.temporary, self.checked.end, what));
        }
        Ok(())
    }

    /// Puts a close frame behind all of it, which vouches for it, and checks that. Returns the length of the file.
    pub(crate) fn finish(&mut self, check_not_stopping: impl Fn(u64) -> Result<()>) -> Result<u64> {
        self.check(&check_not_stopping)?;
        self.log.append_unseen(&[]).map_err(of_new_file(&self.temporary))?;
        self.check(&check_not_stopping)?;
        // Not a clean end yet: whoever opens the file before its folder is known to be synced has to sync the folder,
        // or a power cut would bring the old name back after new calls were acknowledged.
        let len = self.log.tip().end + ALIGNMENT as u64;
        self.file.file.set_len(len).map_err(storage::full_or_io("lengthen", &self.temporary))?;
        Ok(len)
    }

    /// Gives the file the name `target`, durably, where nothing has it. `operation` is what fails if that does.
    pub(crate) fn name(&mut self, target: &Path, operation: &'static str) -> Result<()> {
        self.storage.rename_new(&self.temporary, target).map_err(|source| match source.kind() {
            std::io::ErrorKind::AlreadyExists => paths::exists(target),
            _ => storage::full_or_io(operation, target)(source),
        })?;
        self.keep();
        // Guards against a power cut that takes the name back after the caller was told that it is there.
        paths::sync_folder(&*self.storage, target)?;
        // From here on its end may be a clean one.
        self.file.file.set_len(self.log.tip().end).map_err(self.file.io("end"))
    }
}

impl Drop for LogBuilder {
    fn drop(&mut self) {
        if !self.is_named {
            // If this fails, the next open or compaction removes it; of a copy, somebody has to.
            let _ = self.storage.remove_file(&self.temporary);
        }
    }
}

/// The new file's errors name it as it is called so far. A disk that was found full only by a sync costs no more than
/// the new file, so it is `Full` like any other.
fn of_new_file(temporary: &Path) -> impl Fn(Error) -> Error + use<> {
    let path = temporary.to_path_buf();
    move |error| match error {
        Error::Io { operation, source, .. } => storage::full_or_io(operation, &path)(source),
        Error::Full { .. } => Error::Full { path: path.clone() },
        Error::Corrupt { offset, what, .. } => Error::corrupt(&path, offset, what),
        Error::Unauthentic { offset, what, .. } => Error::unauthentic(&path, offset, what),
        error => error,
    }
}
