//! A backup from a snapshot: copies what the view has into a new log, without the lock of the store.
//!
//! Only reads the store. A live writer may append, compact and cut the file meanwhile: the view is of the file
//! that the snapshot has open, and once all values are read, the last frame of the view must still be in it.
//! Implements *Alongside a writer* and *Compaction* of FORMAT.md, for a copy at another path.

use std::path::Path;

use super::{LogView, Snapshot};
use crate::format::base::Origin;
use crate::format::bucket::Bucket;
use crate::format::record::{Action, Operation};
use crate::index::QueueOrder;
use crate::log::builder::LogBuilder;
use crate::log::left_over::{self, Unfinished};
use crate::log::place;
use crate::log::scan::Window;
use crate::read::Reader;
use crate::{Error, Result};

impl Snapshot {
    /// Writes what this snapshot sees to a new store at `path`, under the same key. Takes no lock, and writes
    /// nothing next to the store: it works while the agent runs, for a user who may only read the file, and from a
    /// file system that is mounted read-only. On return the copy is durable. `path` means what it means to
    /// [`Store::open`](crate::Store::open): without an extension, `.db` is added.
    ///
    /// As with [`Store::backup`](crate::Store::backup), the copy is compact, has the id and the generation of the
    /// store, and belongs to the owner of the store if this process may set that. It has every record of the view,
    /// also those that the writer has not synced yet. A compaction by the writer meanwhile does not affect it.
    ///
    /// # Errors
    /// - [`Error::Invalid`]: there is a file at `path`, which is not changed, or `path` names no file or one of
    ///   those that a store keeps next to its log.
    /// - [`Error::Unauthentic`]: a value fails authentication, or the writer has restarted and has overwritten
    ///   frames of this view: [`refresh`](Snapshot::refresh) it. For a job's payload, the error names the run id.
    /// - [`Error::Locked`]: another process is making a copy at the same path.
    /// - [`Error::Full`], [`Error::Io`], and [`Error::Corrupt`] if the copy, read back, is not as it was written.
    ///
    /// After an error there is no store at `path`, unless only the last sync of its folder failed. A left-over of
    /// an interrupted backup to the same path is replaced.
    ///
    /// ```
    /// # use backupy_state::{AgentKey, Snapshot, Store};
    /// # let folder = tempfile::tempdir()?;
    /// # let (path, key) = (folder.path().join("state.db"), AgentKey::new("key")?);
    /// let store = Store::open(&path, &key)?;
    /// store.enqueue_job("run-1", b"dump of orders")?;
    /// // In another process:
    /// let copy = folder.path().join("backup.db");
    /// Snapshot::open(&path, &key)?.backup(&copy)?;
    /// assert_eq!(Snapshot::open(&copy, &key)?.queue_depth(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn backup(&self, path: impl AsRef<Path>) -> Result<()> {
        self.backup_noting(path.as_ref(), |_| {})
    }

    /// [`backup`](Snapshot::backup), which notes up to which offset the new file has been read back.
    pub(crate) fn backup_noting(&self, path: &Path, read_back: impl Fn(u64)) -> Result<()> {
        let LogView { log, header, replay, .. } = &self.view;
        let target = place::free_target(&*self.storage, path)?;
        left_over::clear(&*self.storage, &target, Unfinished::Copy(&header.id))?;
        let order = QueueOrder::RunId;
        let mut new = LogBuilder::create(&self.storage, &target, &header.id, &self.key, order)?;
        new.take_owner_of(&*log.file);
        let before_frame = |offset| {
            read_back(offset);
            Ok(())
        };
        self.confirmed(self.copy_live(&mut new))?;
        new.finish(Origin::new(header.id.generation, replay.tip), before_frame)?;
        new.name(&target, "create the backup")
    }

    /// Copies the live values in the order in which they were put, so that the queue keeps both of its orders.
    fn copy_live(&self, new: &mut LogBuilder) -> Result<()> {
        let LogView { values, log, replay, .. } = &self.view;
        let index = &replay.index;
        let keys = |bucket| index.iter(bucket).map(move |(key, location)| (bucket, key, location));
        let mut live: Vec<_> = Bucket::ALL.into_iter().flat_map(keys).collect();
        live.sort_unstable_by_key(|(_, _, location)| location.order());
        let mut window = Window::up_to(&*log.file, replay.tip.end);
        for (bucket, key, location) in live {
            let operation = Operation { action: Action::Put { value_len: location.len }, bucket, key };
            match new.add(&operation, |value| values.read_into(value, &mut window, location)) {
                // Nobody has the count: the copy is without it, as the store is when it is opened.
                Err(Error::Unauthentic { .. }) if operation.is_drop_count() => {}
                added => added?,
            }
        }
        new.flush()
    }
}
