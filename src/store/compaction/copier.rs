//! Taking over what is live, while it is being written to.

use std::path::Path;
use std::sync::Arc;

use super::progress::Progress;
use crate::crypto::seal::GenerationId;
use crate::crypto::secret_vec::SecretVec;
use crate::format::bucket::Bucket;
use crate::format::header::Header;
use crate::format::location::{Location, ValueCursor};
use crate::format::record::Operation;
use crate::index::Index;
use crate::log::builder::LogBuilder;
use crate::log::file::LogPosition;
use crate::log::scan::{Concurrency, OpenFrame, Scanned, Scanner};
use crate::log::values::Values;
use crate::read::Reader;
use crate::store::shared::Shared;
use crate::{AgentKey, Error, Result};

/// A new log, and how far the old one was taken over into it.
pub(super) struct Copier<'a> {
    shared: &'a Shared,
    progress: &'a Progress,
    old: Arc<Values>,
    taken: LogPosition,
    pub(super) new: LogBuilder,
}

impl<'a> Copier<'a> {
    /// Of what will be called `path`.
    pub(super) fn create(
        shared: &'a Shared,
        progress: &'a Progress,
        path: &Path,
        generation: u64,
        key: &AgentKey,
    ) -> Result<Self> {
        let Header { id, authenticator, .. } = shared.header();
        let old = shared.with_index(|_| ()).1;
        progress.set_checked(0);
        let new =
            LogBuilder::create(&shared.storage, path, &GenerationId { generation, ..id }, key, shared.order)?;
        Ok(Copier { shared, progress, old, taken: LogPosition::first(&authenticator), new })
    }

    /// Takes over what was written so far, in rounds, until little is left or writers are as fast as this is.
    pub(super) fn catch_up(&mut self) -> Result<()> {
        for _ in 0..ROUNDS_MAX {
            let tip = self.shared.write()?.log.tip();
            let left = tip.end - self.taken.end;
            self.take_until(tip)?;
            self.new.check(|offset| self.progress.reached(offset, &self.shared.path))?;
            if left <= LAST_ROUND_LEN {
                break;
            }
        }
        Ok(())
    }

    /// Takes over the rest, and puts a close frame behind it. Returns the length to use.
    pub(super) fn finish(&mut self, tip: LogPosition) -> Result<u64> {
        self.take_until(tip)?;
        self.new.finish(|offset| self.progress.reached(offset, &self.shared.path))
    }

    /// Copies what is still live of the frames up to `tip`, and what they delete.
    fn take_until(&mut self, tip: LogPosition) -> Result<()> {
        let old = Arc::clone(&self.old);
        let mut scan = Scanner::new(old.log(), Concurrency::Exclusive, self.taken)?;
        while scan.tip().seq < tip.seq {
            self.progress.check_not_stopping(&self.shared.path)?;
            match scan.next()? {
                Scanned::Frame(frame) => self.take(&old, &frame)?,
                Scanned::End | Scanned::Torn { .. } => {
                    return Err(Error::corrupt(old.path(), scan.tip().end, "frames that were written are gone"));
                }
            }
            self.taken = scan.tip();
        }
        self.new.flush()
    }

    fn take(&mut self, old: &Values, frame: &OpenFrame<'_>) -> Result<()> {
        let Some(manifest) = frame.manifest else { return Ok(()) };
        let mut locations = ValueCursor::new(frame.offset, &frame.header);
        for operation in manifest.operations() {
            match locations.locate(&operation) {
                // What is not live any more was replaced or deleted by a later frame, which comes over too.
                Some(location) if self.is_current(&operation, location) => {
                    let value = |bytes: &mut SecretVec| old.open_into(bytes, frame, location);
                    self.new.add(&operation, |bytes| value(bytes).map_err(|error| about(error, &operation)))?;
                }
                // Of what came over in an earlier round. In this round, nothing that a frame of it deletes is current.
                None if self.new.index.removes_any(&operation) => self.new.add(&operation, |_| Ok(()))?,
                Some(_) | None => {}
            }
        }
        Ok(())
    }

    fn is_current(&self, operation: &Operation<'_>, location: Location) -> bool {
        let find = |index: &Index| index.get(operation.bucket, operation.key) == Some(location);
        self.shared.with_index(find).0
    }
}

/// Until somebody acks the job whose payload was tampered with, no copy can be made.
fn about(error: Error, operation: &Operation<'_>) -> Error {
    match operation.bucket {
        Bucket::Queue => error.about_job(String::from_utf8_lossy(operation.key).into_owned()),
        _ => error,
    }
}

const ROUNDS_MAX: usize = 8;
/// What the writing end may be held for: less than a millisecond's work.
const LAST_ROUND_LEN: u64 = 64 << 10;
