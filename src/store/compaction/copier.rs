//! Copies the live records of a log into a new one while other threads write to it.
//!
//! First it copies what the index has, in the order of the log. Then it reads the frames that were written
//! meanwhile, in rounds. So damage to what is dead is neither found nor in the way.

use std::path::Path;
use std::sync::Arc;

use super::progress::Progress;
use crate::crypto::keys::GenerationId;
use crate::crypto::secret_vec::SecretVec;
use crate::format::base::Origin;
use crate::format::bucket::Bucket;
use crate::format::header::Header;
use crate::format::location::{Location, ValueCursor};
use crate::format::position::LogPosition;
use crate::format::record::{Action, Operation};
use crate::index::Key;
use crate::log::builder::LogBuilder;
use crate::log::scan::{self, OpenFrame, Window};
use crate::log::values::Values;
use crate::read::Reader;
use crate::store::shared::Shared;
use crate::{AgentKey, Error, Result};

/// A new log, and the position up to which the old one has been copied into it.
pub(super) struct Copier<'a> {
    shared: &'a Shared,
    progress: &'a Progress,
    old: Arc<Values>,
    copied: LogPosition,
    pub(super) new: LogBuilder,
    /// The values that failed authentication and were left out.
    left_out: Vec<(Bucket, Key, Location)>,
    /// Whether a copy without them is wanted.
    leaves_out_damaged: bool,
}

impl<'a> Copier<'a> {
    /// Creates the new log at `<path>.new`.
    pub(super) fn create(
        shared: &'a Shared,
        progress: &'a Progress,
        path: &Path,
        generation: u64,
        key: &AgentKey,
    ) -> Result<Self> {
        let Header { id, authenticator, .. } = shared.header();
        let old = shared.with_index(|_| ()).1;
        progress.reset();
        let copy = GenerationId { generation, ..id };
        let new = LogBuilder::create(&shared.storage, path, &copy, key, shared.queue_order)?;
        let copied = LogPosition::first(&authenticator);
        Ok(Copier { shared, progress, old, copied, new, left_out: Vec::new(), leaves_out_damaged: false })
    }

    /// Leaves out values that fail authentication.
    pub(super) fn leave_out_damaged(&mut self) {
        self.leaves_out_damaged = true;
    }

    /// The live keys that were left out.
    pub(super) fn left_out(&self) -> Vec<(Bucket, Key, Location)> {
        let is_live = |(bucket, key, location): &&(Bucket, Key, Location)| self.is_live(*bucket, key, *location);
        self.left_out.iter().filter(is_live).cloned().collect()
    }

    /// Copies what has been written so far: what is live, and then in rounds what was written meanwhile, until
    /// little is left or writers are faster than the copy.
    pub(super) fn catch_up(&mut self) -> Result<()> {
        self.copy_live()?;
        self.new.check(|offset| self.progress.note_read_back(offset, &self.shared.path))?;
        for _ in 0..ROUNDS_MAX {
            let tip = self.shared.write()?.log.tip();
            let left = tip.end - self.copied.end;
            self.copy_until(tip)?;
            self.new.check(|offset| self.progress.note_read_back(offset, &self.shared.path))?;
            if left <= LAST_ROUND_LEN {
                break;
            }
        }
        Ok(())
    }

    /// Copies the rest, up to `tip`, and ends the new log with a close frame and a base record.
    pub(super) fn finish(&mut self, tip: LogPosition) -> Result<()> {
        self.copy_until(tip)?;
        let origin = Origin::new(self.old.log().id.generation, tip);
        self.new.finish(origin, |offset| self.progress.note_read_back(offset, &self.shared.path))
    }

    /// Copies the live values, in the order in which they were put. What is dead is not read: damage there does
    /// not prevent a compaction.
    fn copy_live(&mut self) -> Result<()> {
        let tip = self.shared.write()?.log.tip();
        let old = Arc::clone(&self.old);
        let mut live = Vec::new();
        self.shared.each_key(&old.log().id, |bucket, key, location| {
            // What was put since is copied by the rounds.
            if location.seq() <= tip.seq {
                live.push((bucket, key.clone(), *location));
            }
            Ok(())
        })?;
        live.sort_unstable_by_key(|(_, _, location)| location.order());
        let mut window = Window::up_to(&*old.log().file, tip.end);
        for (bucket, key, location) in live {
            self.progress.check_not_stopping(&self.shared.path)?;
            let operation = Operation { action: Action::Put { value_len: location.len }, bucket, key: &key };
            if self.is_live(bucket, &key, location) {
                self.copy(&operation, location, |value| old.read_into(value, &mut window, location))?;
            }
        }
        self.copied = tip;
        self.new.flush()
    }

    /// Copies the live puts of the frames up to `tip`, and the deletes of keys that were copied before.
    fn copy_until(&mut self, tip: LogPosition) -> Result<()> {
        let old = Arc::clone(&self.old);
        scan::each_frame(old.log(), self.copied, tip, |frame| {
            self.progress.check_not_stopping(&self.shared.path)?;
            self.copy_frame(&old, frame)
        })?;
        self.copied = tip;
        self.new.flush()
    }

    fn copy_frame(&mut self, old: &Values, frame: &OpenFrame<'_>) -> Result<()> {
        let Some(manifest) = frame.manifest else { return Ok(()) };
        let mut locations = ValueCursor::new(frame.offset, &frame.header);
        for operation in manifest.operations() {
            match locations.locate(&operation) {
                // A put that is not live was replaced or deleted by a later frame, which is copied too.
                Some(location) if self.is_live(operation.bucket, operation.key, location) => {
                    self.copy(&operation, location, |value| old.open_into(value, frame, location))?;
                }
                // A delete of a key that an earlier round copied. A put that this round finds deleted is not
                // copied.
                None if self.new.index.removes_any(&operation) => self.new.add(&operation, |_| Ok(()))?,
                Some(_) | None => {}
            }
        }
        Ok(())
    }

    /// Copies a put. `append_value` appends its value.
    ///
    /// A count of dropped log events that fails authentication is always left out: the open store has the count,
    /// and writes it with its next record of log events, or when it is closed.
    fn copy(
        &mut self,
        operation: &Operation<'_>,
        location: Location,
        append_value: impl FnOnce(&mut SecretVec) -> Result<()>,
    ) -> Result<()> {
        match self.new.add(operation, append_value) {
            Err(Error::Unauthentic { .. }) if self.leaves_out_damaged || operation.is_drop_count() => {
                self.left_out.push((operation.bucket, operation.key.into(), location));
                Ok(())
            }
            added => added,
        }
    }

    fn is_live(&self, bucket: Bucket, key: &[u8], location: Location) -> bool {
        self.shared.with_index(|index| index.get(bucket, key) == Some(location)).0
    }
}

/// Bounds the rounds if writers are faster than the copy: the last round then copies all that is left.
const ROUNDS_MAX: usize = 8;
/// Writers wait during the last round: this much is copied in less than a millisecond.
const LAST_ROUND_LEN: u64 = 64 << 10;
