//! The log builder: writes a complete new log, for compaction, backup and salvage.
//!
//! The caller decides which operations the new log contains, and in which order. The builder:
//!
//! 1. creates `<path>.new`, with its own salt and frame key;
//! 2. collects the operations into frames of about 48 KiB, so that frame headers cost little;
//! 3. syncs, drops the page cache and reads back from the disk what it has written: every frame and every value
//!    must open. After a compaction there is no other copy of them;
//! 4. appends a close frame, which proves that all frames before it are durable, and writes the base record, which
//!    proves that all of them belong to the log. Both are read back too. The zeros of a reserve are written before
//!    the same sync, so that they are as durable.
//!
//! Then the file gets its final name. A compaction, and an open that salvages, rename it over the old log
//! themselves. For a backup or a salvaged copy, [`LogBuilder::name`] renames it to a name that is free. The mark
//! of the close frame comes last, once the folder is synced: without it, the log does not look clean, and an open
//! in between syncs the folder.
//!
//! If a step fails, the file is removed, and the old log is unchanged. If the process crashes, the file remains,
//! and `left_over` removes it when the next copy is to be made there, or the store is opened.
//!
//! Never touches the old log. Implements steps 1 to 4 of *Compaction* in *Writing* of FORMAT.md.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::create::{self, create_log};
use super::file::LogFile;
use super::frame_builder::{FRAME_LEN_TARGET, FrameBuilder};
use super::index_file;
use super::marks::Marks;
use super::place;
use super::reserve::Reserve;
use super::scan::{Concurrency, Scanned, Scanner};
use super::values::Values;
use super::writer::LogWriter;
use crate::crypto::keys::GenerationId;
use crate::crypto::secret_vec::SecretVec;
use crate::format::base::{self, BASE_LEN, BASES_AT, Base, Origin};
use crate::format::header::{self, HAS_BASE, HEADER_PAGE_LEN, Header};
use crate::format::location::ValueCursor;
use crate::format::position::LogPosition;
use crate::format::record::Operation;
use crate::index::{Index, QueueOrder};
use crate::report::MOUNTED;
use crate::storage::names::{NEW, sibling};
use crate::storage::{self, Attributes, File, FileId, Folder, RenameError, Storage, paths};
use crate::{AgentKey, Error, Result};

/// A new log under its temporary name. Dropping it removes the file, unless the file has been renamed.
pub(crate) struct LogBuilder {
    storage: Arc<dyn Storage>,
    /// `<path>.new`.
    temporary: PathBuf,
    is_named: bool,
    pub(crate) header: Header,
    pub(crate) file: Arc<LogFile>,
    pub(crate) log: LogWriter,
    /// The live operations of the frames that have been written.
    pub(crate) index: Index,
    /// The operations that have been added but not written.
    next_frame: FrameBuilder,
    /// Up to where the file has been synced and read back.
    checked: LogPosition,
}

impl LogBuilder {
    /// Creates an empty log at `<path>.new`, with the generation and the store id of `id` and a random salt.
    /// `path` is its final name.
    ///
    /// # Errors
    /// `Locked` if there is a file at `<path>.new`, `Full`, `Io`.
    pub(crate) fn create(
        storage: &Arc<dyn Storage>,
        path: &Path,
        id: &GenerationId,
        key: &AgentKey,
        order: QueueOrder,
    ) -> Result<Self> {
        let temporary = sibling(path, NEW);
        let GenerationId { generation, store_id, .. } = *id;
        let (log, header) = create_log(&**storage, &temporary, path, generation, store_id, HAS_BASE, key)?;
        let first = LogPosition::first(&header.authenticator);
        let file = Arc::new(log);
        let log = LogWriter::of_new_log(Arc::clone(&file), Arc::clone(storage), first);
        Ok(LogBuilder {
            storage: Arc::clone(storage),
            temporary,
            is_named: false,
            header,
            file,
            log,
            index: Index::new(order),
            next_frame: FrameBuilder::default(),
            checked: first,
        })
    }

    /// Gives the new file the owner, the permissions and the like of the log that it will replace.
    pub(crate) fn set_attributes(&self, attributes: &Attributes) -> Result<()> {
        let set_error = |source| Error::io("set the owner and the permissions of", &self.temporary, source);
        self.file.file.set_attributes(attributes).map_err(set_error)
    }

    /// Gives a new copy to the owner and the group of the log that it was made from, where this process may: root
    /// copies for an agent that is not root. Nobody else can open it, whatever the mode of the other log: a copy
    /// may be in a folder that others can reach.
    pub(crate) fn take_owner_of(&self, log: &dyn File) {
        if let Ok(attributes) = log.attributes() {
            // If the owner cannot be set, the caller owns the file.
            let _ = self.file.file.set_attributes(&attributes.owner_alone());
        }
    }

    /// Adds an operation to the next frame, and writes that frame if it is long enough. `append_value` appends the
    /// value of a put to the buffer that it gets; if it fails, nothing is added. If the value fails
    /// authentication, the error has its remedy: until that is removed or replaced, no copy can be made.
    pub(crate) fn add(
        &mut self,
        operation: &Operation<'_>,
        append_value: impl FnOnce(&mut SecretVec) -> Result<()>,
    ) -> Result<()> {
        let added = self.next_frame.add(operation, append_value);
        added.map_err(|error| error.about(operation.bucket, operation.key))?;
        if self.next_frame.bytes.len() >= FRAME_LEN_TARGET { self.flush() } else { Ok(()) }
    }

    /// Writes the operations that have been added since the last frame as one frame. It is not durable yet.
    pub(crate) fn flush(&mut self) -> Result<()> {
        let LogBuilder { next_frame, log, index, temporary, .. } = self;
        let changes = next_frame.changes();
        if !changes.is_empty() {
            let written = log.append_unseen(&changes).map_err(name_temporary(temporary))?;
            index.apply(changes.iter().map(|change| change.operation), written.locations);
        }
        next_frame.clear();
        Ok(())
    }

    /// Syncs the frames written since the last check, and reads them back from the disk. Calls `before_frame` with
    /// each frame's offset; an error that it returns ends the check.
    ///
    /// # Errors
    /// `Corrupt` or `Unauthentic` if the file is not as it was written, `Full`, `Io`, and those of `before_frame`.
    pub(crate) fn check(&mut self, before_frame: impl Fn(u64) -> Result<()>) -> Result<()> {
        self.read_back(before_frame).map_err(name_temporary(&self.temporary))
    }

    fn read_back(&mut self, before_frame: impl Fn(u64) -> Result<()>) -> Result<()> {
        // Guards against a power cut after the rename that keeps the new name but loses some of the contents.
        self.log.pending().wait()?;
        let unchecked = self.checked.end..self.log.tip().end;
        storage::drop_cache_if_allowed(&*self.file.file, unchecked, &self.file.path)?;
        let values = Values::new(Arc::clone(&self.file), false);
        let mut value = SecretVec::default();
        let mut scan = Scanner::new(&self.file, Concurrency::Exclusive, self.checked)?;
        while let Scanned::Frame(frame) = scan.next()? {
            before_frame(frame.offset)?;
            let mut locations = ValueCursor::new(frame.offset, &frame.header);
            let operations = frame.manifest.into_iter().flat_map(|manifest| manifest.operations());
            for location in operations.filter_map(|operation| locations.locate(&operation)) {
                value.clear();
                values.open_into(&mut value, &frame, location)?;
            }
        }
        self.checked = scan.tip();
        // Each tag depends on all manifests before it. So if the last tag is right, every manifest is the one that
        // was written.
        if self.checked != self.log.tip() || scan.file_len() != self.log.end().allocated {
            return Err(self.not_as_written(self.checked.end));
        }
        Ok(())
    }

    fn not_as_written(&self, offset: u64) -> Error {
        Error::corrupt(&self.temporary, offset, "the file does not contain what was written to it")
    }

    /// Ends the log with a close frame, writes the base record, takes the reserve, and checks all that has not
    /// been checked. The caller has flushed. `origin` is the last frame that the log was made from.
    pub(crate) fn finish(&mut self, origin: Origin, before_frame: impl Fn(u64) -> Result<()>) -> Result<()> {
        // Guards against a power cut that keeps the close frame but loses frames before it, which it vouches for.
        self.check(&before_frame)?;
        self.log.append_unseen(&[]).map_err(name_temporary(&self.temporary))?;
        let page = self.write_base_record(origin)?;
        // Before the last sync: the log that this one replaces has a reserve that is durable.
        self.log.take_reserve_unseen().map_err(name_temporary(&self.temporary))?;
        self.check(&before_frame)?;
        let is_as_written = create::begins_with(&*self.file.file, &self.file.path, &page);
        match is_as_written.map_err(name_temporary(&self.temporary))? {
            true => Ok(()),
            false => Err(self.not_as_written(0)),
        }
    }

    /// Writes both copies of the base record, for all frames up to now. The sync that makes the last frame durable
    /// makes them durable too. Returns the whole header page.
    fn write_base_record(&self, origin: Origin) -> Result<Vec<u8>> {
        let Header { authenticated, authenticator, .. } = &self.header;
        let base = Base { position: self.log.tip(), origin };
        let record = base::encode(&base, &self.file.crc, |base| self.file.prk.base_mac(authenticated, base));
        let mut page = header::encode_pages(authenticated, authenticator);
        page.truncate(HEADER_PAGE_LEN);
        for at in BASES_AT {
            page[at..at + BASE_LEN].copy_from_slice(&record);
            storage::write_all_at(&*self.file.file, &record, at as u64)
                .map_err(storage::full_or_io("write the base record in", &self.temporary))?;
        }
        Ok(page)
    }

    /// Sets the reserve that the finished log is to have. Without this, it has none.
    pub(crate) fn set_reserve(&mut self, reserve: Reserve) {
        self.log.set_reserve(reserve);
    }

    /// Renames the finished file over the log `old`, which is at `path`. Returns the folder, for the caller to
    /// sync. `operation` is for the error message.
    ///
    /// # Errors
    /// `Replaced` if `path` does not mean `old` any more; nothing was renamed. `Full`, `Io`.
    pub(crate) fn rename_over(
        &mut self,
        path: &Path,
        old: FileId,
        operation: &'static str,
    ) -> Result<Box<dyn Folder>> {
        // Opened first: after the rename, a lack of descriptors must not prevent the sync.
        let folder = paths::open_folder(&*self.storage, path)?;
        self.storage.rename(&self.temporary, self.file.file.id(), path, Some(old)).map_err(
            |error| match error {
                RenameError::TargetTaken => Error::Replaced { path: path.to_path_buf() },
                RenameError::SourceMoved => paths::moved(&self.temporary),
                RenameError::Io(source) if source.kind() == ErrorKind::ResourceBusy => mounted_by_itself(path),
                RenameError::Io(source) => storage::full_or_io(operation, path)(source),
            },
        )?;
        self.is_named = true;
        Ok(folder)
    }

    /// Renames the finished file to `target`, durably, and marks it. `operation` is for the error message if the
    /// rename fails.
    ///
    /// # Errors
    /// `Invalid` if there is something at `target`, which is not changed; `Full`; `Io`. If the sync of the
    /// folder fails, the file is complete at `target`, but a power cut may remove it.
    pub(crate) fn name(&mut self, target: &Path, operation: &'static str) -> Result<()> {
        let folder = paths::open_folder(&*self.storage, target)?;
        self.storage.rename(&self.temporary, self.file.file.id(), target, None).map_err(|error| match error {
            RenameError::TargetTaken => place::exists(target),
            RenameError::SourceMoved => paths::moved(&self.temporary),
            RenameError::Io(source) => storage::full_or_io(operation, target)(source),
        })?;
        self.is_named = true;
        // Of a log that was at this path before.
        index_file::remove(&*self.storage, target, self.file.file.id());
        // Guards against a power cut that removes the name after the caller was told of success.
        paths::sync(&*folder, target)?;
        // The folder is synced, so the log may look clean. If this fails, the copy is complete and durable anyway.
        let marks = Marks::new(None, self.storage.clock_ns());
        let _ = marks.write(&self.file, self.log.tip());
        Ok(())
    }

    /// A writer that continues the finished log under its final name, where `old` was.
    pub(crate) fn continuing_writer(&self, old: &LogWriter) -> LogWriter {
        LogWriter::in_place_of(old, Arc::clone(&self.file), Arc::clone(&self.storage), self.log.end())
    }
}

impl Drop for LogBuilder {
    fn drop(&mut self) {
        if !self.is_named {
            // If this fails, the file remains as after a crash.
            let _ = self.storage.remove_file(&self.temporary, self.file.file.id());
        }
    }
}

/// The error for a log over which nothing can be renamed.
pub(crate) fn mounted_by_itself(path: &Path) -> Error {
    Error::io("replace", path, io::Error::new(ErrorKind::ResourceBusy, MOUNTED))
}

/// Makes errors name the temporary file instead of the final path. A sync that finds the disk full becomes `Full`
/// here: only the new file is lost, so the store has not failed.
fn name_temporary(temporary: &Path) -> impl Fn(Error) -> Error + use<> {
    let path = temporary.to_path_buf();
    move |error| match error {
        Error::Io { operation, source, .. } => storage::full_or_io(operation, &path)(source),
        Error::Full { what, .. } => Error::Full { path: path.clone(), what },
        Error::Corrupt { offset, what, .. } => Error::corrupt(&path, offset, what),
        Error::Unauthentic { offset, what, .. } => Error::unauthentic(&path, offset, what),
        // Only the new file has lost its name.
        Error::Replaced { .. } => paths::moved(&path),
        error => error,
    }
}
