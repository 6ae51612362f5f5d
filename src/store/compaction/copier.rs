//! Taking over what is live, while it is being written to.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Shared;
use crate::format::bucket::Bucket;
use crate::format::frame::{Location, ValueCursor};
use crate::format::header::Header;
use crate::format::record::Operation;
use crate::index::Index;
use crate::log::writer::{Tip, Values};
use crate::log::builder::NewLog;
use crate::read::Reader;
use crate::crypto::seal::GenerationId;
use crate::log::scan::{self, Concurrency, Found, OpenFrame, Scan};
use crate::crypto::secret_vec::Wiped;
use crate::{AgentKey, Error, Result};

/// A new log, and how far the old one was taken over into it.
pub(super) struct Copy<'a> {
    shared: &'a Shared,
    old: Arc<Values>,
    taken: Tip,
    pub(super) new: NewLog,
}

impl<'a> Copy<'a> {
    /// Of what will be called `path`.
    pub(super) fn create(shared: &'a Shared, path: &Path, generation: u64, key: &AgentKey) -> Result<Self> {
        let live = &*shared.live;
        let Header { id, authenticator, .. } = live.header();
        let old = live.look(|_| ()).1;
        shared.checked.store(0, Ordering::Relaxed);
        let new = NewLog::create(&live.storage, path, &GenerationId { generation, ..id }, key, live.order)?;
        Ok(Copy { shared, old, taken: walk::first_tip(&authenticator), new })
    }

    /// Takes over what was written so far, in rounds, until little is left or writers are as fast as this is.
    pub(super) fn catch_up(&mut self) -> Result<()> {
        for _ in 0..ROUNDS_MAX {
            let tip = self.shared.live.write()?.log.tip();
            let left = tip.end - self.taken.end;
            self.take_until(tip)?;
            self.new.check(|checked| self.shared.keep_going_at(checked))?;
            if left <= LAST_ROUND_LEN {
                break;
            }
        }
        Ok(())
    }

    /// Takes over the rest, and puts a close frame behind it. Returns the length to use.
    pub(super) fn finish(&mut self, tip: Tip) -> Result<u64> {
        self.take_until(tip)?;
        self.new.finish(|checked| self.shared.keep_going_at(checked))
    }

    /// Copies what is still live of the frames up to `tip`, and what they delete.
    fn take_until(&mut self, tip: Tip) -> Result<()> {
        let old = Arc::clone(&self.old);
        let mut scan = Scan::new(old.log(), Concurrency::Exclusive, self.taken)?;
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
        self.new.flush()
    }

    fn take(&mut self, old: &Values, frame: &OpenFrame<'_>) -> Result<()> {
        let Some(manifest) = frame.manifest else { return Ok(()) };
        let mut places = ValueCursor::new(frame.offset, &frame.header);
        for operation in manifest.operations() {
            match places.place(&operation) {
                // What is not live any more was replaced or deleted by a later frame, which comes over too.
                Some(place) if self.is_current(&operation, place) => {
                    let value = |bytes: &mut Wiped| old.open_into(bytes, frame, place);
                    self.new.add(&operation, |bytes| value(bytes).map_err(|error| about(error, &operation)))?;
                }
                // Of what came over in an earlier round. In this round, nothing that a frame of it deletes is current.
                None if self.new.index.loses_by(&operation) => self.new.add(&operation, |_| Ok(()))?,
                Some(_) | None => {}
            }
        }
        Ok(())
    }

    fn is_current(&self, operation: &Operation<'_>, place: Location) -> bool {
        let find = |index: &Index| index.get(operation.bucket, operation.key) == Some(place);
        self.shared.live.look(find).0
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
