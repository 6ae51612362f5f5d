//! Writes runs of the index file: at the end of the file that is there, or as the first run of a new one.
//!
//! Nothing is synced: what a power cut leaves of a run does not open, and then the log is replayed from an earlier
//! one. A new file is written at `<path>.index.new` and renamed. It replaces nothing but an index file. Which run
//! is written when is decided in `store/indexer.rs`, and so is that a sync has covered its frames.
//!
//! Implements *Appendix: the index file* of FORMAT.md.

use std::io::{self, ErrorKind};

use super::file::LogFile;
use super::index_file::{Runs, own_id, remove_if};
use crate::format::bucket::Bucket;
use crate::format::location::Location;
use crate::format::position::LogPosition;
use crate::index::file::{self, FIRST_RUN, RunEncoder, RunEnd};
use crate::storage::names::{INDEX, INDEX_NEW, sibling};
use crate::storage::{self, Access, File, RenameError, Storage};

/// A run that is being written. If it is dropped before [`finish`](Self::finish), a new file is removed; in one
/// that was there, what was written of the run remains, and does not open.
pub(crate) struct RunWriter<'a> {
    storage: &'a dyn Storage,
    log: &'a LogFile,
    file: Box<dyn File>,
    /// Where the next part goes.
    at: u64,
    encoder: RunEncoder,
    /// The runs before this one, if it does not begin a new file.
    before: Option<Runs>,
    is_finished: bool,
}

impl<'a> RunWriter<'a> {
    /// Begins the run that continues `runs`.
    ///
    /// # Errors
    /// `NotFound` if the file at the name is another one by now, or was changed.
    pub(crate) fn append(
        storage: &'a dyn Storage,
        log: &'a LogFile,
        runs: Runs,
        to: &LogPosition,
    ) -> io::Result<Self> {
        let file = storage.open(&sibling(&log.path, INDEX), Access::Write)?;
        let is_same = file.id() == runs.file && file.len()? == runs.len && file.names()? == 1;
        let from = runs.ends.last().filter(|_| is_same);
        let from = *from.ok_or(ErrorKind::NotFound)?;
        RunWriter::begin(storage, log, file, &from, to, Some(runs))
    }

    /// Begins a new file.
    ///
    /// # Errors
    /// `AlreadyExists` if a file that is no index file is in the way.
    pub(crate) fn create(
        storage: &'a dyn Storage,
        log: &'a LogFile,
        first: &LogPosition,
        to: &LogPosition,
    ) -> io::Result<Self> {
        let name = sibling(&log.path, INDEX_NEW);
        remove_if(storage, &name, || true);
        let file = storage.open(&name, Access::CreateNew)?;
        RunWriter::begin(storage, log, file, first, to, None)
    }

    fn begin(
        storage: &'a dyn Storage,
        log: &'a LogFile,
        file: Box<dyn File>,
        from: &LogPosition,
        to: &LogPosition,
        before: Option<Runs>,
    ) -> io::Result<Self> {
        let (at, last_tag) = before.as_ref().map_or((0, FIRST_RUN), |runs| (runs.len, runs.last_tag));
        let header = file::encode_header(&log.id);
        let mut random = [0; 32];
        let salted = storage.fill_random(&mut random);
        let salt = log.nonces.run_salt(&random, storage.clock_ns(), &from.chain, &to.chain);
        let encoder = RunEncoder::new(log.prk.run_sealer(&salt), &header, &last_tag);
        let is_new = before.is_none();
        let mut run = RunWriter { storage, log, file, at, encoder, before, is_finished: false };
        salted?;
        if is_new {
            // Who may read the log may read this, and nobody else.
            run.file.set_attributes(&log.file.attributes()?)?;
            run.write(&header)?;
        }
        run.write(&salt)?;
        Ok(run)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        write_part(&*self.file, &mut self.at, bytes)
    }

    /// Adds a key, with the place of its value, or `None` if it was deleted. Keys are added in the order of their
    /// buckets and bytes.
    pub(crate) fn add(&mut self, bucket: Bucket, key: &[u8], location: Option<&Location>) -> io::Result<()> {
        let RunWriter { file, at, encoder, .. } = self;
        encoder.add(bucket, key, location, &mut |part| write_part(&**file, at, part))
    }

    /// Ends the run, and gives a new file its name. A sync has covered the frames up to `end.until`.
    pub(crate) fn finish(mut self, end: &RunEnd) -> io::Result<Runs> {
        let RunWriter { file, at, encoder, .. } = &mut self;
        let last_tag = encoder.end(end, &mut |part| write_part(&**file, at, part))?;
        let (file, len) = (self.file.id(), self.at);
        let (mut ends, first_len) = match &self.before {
            Some(before) => (before.ends.clone(), before.first_len),
            None => {
                self.rename()?;
                (Vec::new(), len)
            }
        };
        self.is_finished = true;
        ends.push(end.to);
        Ok(Runs { file, len, first_len, ends, last_tag, are_whole_file: true })
    }

    fn rename(&self) -> io::Result<()> {
        let (name, new) = (sibling(&self.log.path, INDEX), sibling(&self.log.path, INDEX_NEW));
        let over = own_id(self.storage, &name);
        self.storage.rename(&new, self.file.id(), &name, over).map_err(|error| match error {
            RenameError::Io(error) => error,
            RenameError::SourceMoved => ErrorKind::NotFound.into(),
            RenameError::TargetTaken => ErrorKind::AlreadyExists.into(),
        })
    }
}

fn write_part(file: &dyn File, at: &mut u64, part: &[u8]) -> io::Result<()> {
    storage::write_all_at(file, part, *at)?;
    *at += part.len() as u64;
    Ok(())
}

impl Drop for RunWriter<'_> {
    fn drop(&mut self) {
        if self.before.is_none() && !self.is_finished {
            let new = sibling(&self.log.path, INDEX_NEW);
            // If this fails, the next run removes it.
            let _ = self.storage.remove_file(&new, self.file.id());
        }
    }
}
