//! The log builder: writes a complete new log, for compaction, backup and salvage.
//!
//! The caller decides which operations the new log contains, and in which order. The builder:
//!
//! 1. creates `<path>.new`, with its own salt and frame key;
//! 2. collects the operations into frames of about 48 KiB, so that frame headers cost little;
//! 3. syncs, drops the page cache and reads back from the disk what it has written: every frame and every value
//!    must open. After a compaction there is no other copy of them;
//! 4. appends a close frame, which proves that all frames before it are durable, and reads that back too. 8 zeros
//!    follow it, so that the log does not look clean until its folder is synced.
//!
//! Then the file gets its final name. A compaction, and an open that salvages, rename it over the old log
//! themselves. For a backup or a salvaged copy, [`LogBuilder::name`] renames it to a name that is free.
//!
//! If a step fails, the file is removed, and the old log is unchanged. If the process crashes, the file remains,
//! and `left_over` removes it when the next copy is to be made there, or the store is opened.
//!
//! Never touches the old log. Implements steps 1 to 4 of *Compaction* in *Writing* of FORMAT.md.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::create::create_log;
use super::file::{LogFile, LogPosition};
use super::frame_builder::{FRAME_LEN_TARGET, FrameBuilder};
use super::place;
use super::scan::{Concurrency, Scanned, Scanner};
use super::values::Values;
use super::writer::LogWriter;
use crate::crypto::seal::GenerationId;
use crate::crypto::secret_vec::SecretVec;
use crate::format::encoding;
use crate::format::frame::ALIGNMENT;
use crate::format::header::Header;
use crate::format::location::ValueCursor;
use crate::format::record::Operation;
use crate::index::{Index, QueueOrder};
use crate::report::MOUNTED;
use crate::storage::names::{NEW, sibling};
use crate::storage::{self, Attributes, FileId, Folder, RenameError, Storage, paths};
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
    /// How many zeros follow the last frame.
    zeros_len: u64,
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
            next_frame: FrameBuilder::default(),
            checked: first,
            zeros_len: 0,
        })
    }

    /// Gives the new file the owner, the permissions and the like of the log that it will replace.
    pub(crate) fn set_attributes(&self, attributes: &Attributes) -> Result<()> {
        let set_error = |source| Error::io("set the owner and the permissions of", &self.temporary, source);
        self.file.file.set_attributes(attributes).map_err(set_error)
    }

    /// Keeps the file when the builder is dropped: it has been renamed.
    fn keep(&mut self) {
        self.is_named = true;
    }

    /// Adds an operation to the next frame, and writes that frame if it is long enough. `append_value` appends the
    /// value of a put to the buffer that it gets; if it fails, nothing is added.
    pub(crate) fn add(
        &mut self,
        operation: &Operation<'_>,
        append_value: impl FnOnce(&mut SecretVec) -> Result<()>,
    ) -> Result<()> {
        self.next_frame.add(operation, append_value)?;
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
        match self.file.file.drop_cache(self.checked.end) {
            // In a sandbox that does not allow this, the check reads what is in the page cache.
            Err(error) if storage::is_refused(&error) => {}
            dropped => dropped.map_err(self.file.io("drop the page cache of"))?,
        }
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
        if self.checked != self.log.tip() || scan.file_len() != self.checked.end + self.zeros_len {
            let what = "the file does not contain what was written to it";
            return Err(Error::corrupt(&self.temporary, self.checked.end, what));
        }
        Ok(())
    }

    /// Ends the log with a close frame, and checks all that has not been checked. The caller has flushed. Returns
    /// the length of the file, which includes 8 zeros.
    pub(crate) fn finish(&mut self, before_frame: impl Fn(u64) -> Result<()>) -> Result<u64> {
        // Guards against a power cut that keeps the close frame but loses frames before it, which it vouches for.
        self.check(&before_frame)?;
        // The zeros make the log unclean, so that the next open syncs the folder. A crash may come between the
        // rename and the sync of the folder; without another sync, a power cut could then bring the old log back
        // after calls on the new one were acknowledged. They are there before the close frame: a log without them
        // has had its final name.
        self.zeros_len = ALIGNMENT as u64;
        let len = self.log.tip().end + encoding::frame_len(&[]) + self.zeros_len;
        self.file.file.set_len(len).map_err(storage::full_or_io("extend", &self.temporary))?;
        self.log.append_unseen(&[]).map_err(name_temporary(&self.temporary))?;
        self.check(&before_frame)?;
        Ok(len)
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
        self.keep();
        Ok(folder)
    }

    /// Renames the finished file to `target`, durably, and cuts off its zeros. `operation` is for the error
    /// message if the rename fails.
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
        self.keep();
        // Guards against a power cut that removes the name after the caller was told of success.
        paths::sync(&*folder, target)?;
        // The folder is synced, so the log may look clean.
        self.file.file.set_len(self.log.tip().end).map_err(self.file.io("shorten"))
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
