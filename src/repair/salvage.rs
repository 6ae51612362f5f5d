//! Salvage: copies everything that is authentic in a damaged store into a new one.
//!
//! Applies the operations of all authentic frames to a new log, in their order; a lost operation has no effect.
//! Never writes to the damaged log, and never repairs it in place. Implements *Salvage* of FORMAT.md, section
//! *Opening*.

use std::path::Path;
use std::sync::Arc;

use super::losses::Losses;
use crate::crypto::keys::GenerationId;
use crate::format::base::Origin;
use crate::format::bucket::{Bucket, CONFIG_KEY, SESSION_KEY};
use crate::format::header::Header;
use crate::format::location::ValueCursor;
use crate::format::position::LogPosition;
use crate::index::QueueOrder;
use crate::log::builder::LogBuilder;
use crate::log::header;
use crate::log::left_over::{self, Unfinished};
use crate::log::place::{self, Purpose};
use crate::log::scan::{Concurrency, OpenFrame, Resync, ResyncItem};
use crate::log::values::Values;
use crate::storage::{Disk, File, Storage, paths};
use crate::{AgentKey, Anchor, Error, Result, SalvageReport};

/// Copies everything that is authentic in the store `from` into a new store `to`, under the same key.
///
/// `from` is only read, and without the lock. A damaged store can be salvaged if each field of its header is
/// intact in one of the two copies. Of an intact store, this makes a copy. A path without an extension gets `.db`,
/// as with [`Store::open`](crate::Store::open).
///
/// The report lists what was lost. A lost put restores nothing, and a lost delete or ack removes nothing: the key
/// may have an older value again, and an acked job may be queued again. So jobs are still delivered at least once.
/// A torn tail, which the next open of `from` would quarantine, is not copied.
///
/// The new store has the same store id and the next generation. In place of the old one, it satisfies an
/// [anchor](crate::Anchor) of the old one whose frame was not after the last one that was salvaged. It gets the
/// owner, group and mode of the old one if the caller may set them.
///
/// When this returns `Ok`, the new store is durable: it survives a power cut. On an error, nothing is created at
/// `to`, except if only the sync of its folder fails: then the new store is complete, but a power cut may remove
/// it.
///
/// # Errors
/// - [`Error::Invalid`]: there is something at `to`, which is not changed, or at `to` followed by `.new`; `to` is
///   a name that a store keeps for its own files; or one of the paths names no file.
/// - [`Error::NotFound`], [`Error::NotAStore`], [`Error::UnsupportedFormat`]: there is no store at `from` that
///   this version can read.
/// - [`Error::WrongKey`]: `from` is under another key.
/// - [`Error::Corrupt`]: both copies of the header are damaged in the same field, so no key can be derived.
/// - [`Error::Full`], [`Error::Io`].
///
/// ```
/// use backupy_state::{AgentKey, Error, Store, salvage};
///
/// # let folder = tempfile::tempdir()?;
/// # let (path, new) = (folder.path().join("state.db"), folder.path().join("salvaged.db"));
/// let key = AgentKey::new("bkpy_0123456789abcdef0123456789abcdef")?;
/// let store = Store::open(&path, &key)?;
/// for run_id in ["run-1", "run-2", "run-3"] {
///     store.enqueue_job(run_id, b"dump of orders")?;
/// }
/// store.close()?;
///
/// let mut bytes = std::fs::read(&path)?;
/// let second_payload = 8192 + 120 + 100;
/// bytes[second_payload] ^= 1;
/// std::fs::write(&path, bytes)?;
/// assert!(matches!(Store::open(&path, &key), Err(Error::Corrupt { .. })));
///
/// let report = salvage(&path, &key, &new)?;
/// assert_eq!(report.lost.len(), 1);
/// assert_eq!(report.lost[0].keys[0].run_id.as_deref(), Some("run-2"));
/// assert_eq!(Store::open(&new, &key)?.queue_depth(), 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn salvage(from: impl AsRef<Path>, key: &AgentKey, to: impl AsRef<Path>) -> Result<SalvageReport> {
    salvage_on(&(Arc::new(Disk) as Arc<dyn Storage>), from.as_ref(), key, to.as_ref())
}

pub(crate) fn salvage_on(
    storage: &Arc<dyn Storage>,
    from: &Path,
    key: &AgentKey,
    to: &Path,
) -> Result<SalvageReport> {
    let from = place::resolve(&**storage, from, Purpose::Reading)?;
    let file: Arc<dyn File> = paths::open_file(&**storage, &from)?.into();
    let source = Source::of(Arc::clone(&file), &from, key)?;
    let target = place::free_target(&**storage, to)?;
    left_over::clear(&**storage, &target, Unfinished::Copy(&source.id_of_copy()))?;
    let prepare = |new: &LogBuilder| {
        // Root may salvage for an agent that is not root. Without root this can fail: the caller then owns the
        // file.
        if let Ok(attributes) = file.attributes() {
            let _ = new.set_attributes(&attributes);
        }
        Ok(())
    };
    let concurrency = Concurrency::WithWriter(&**storage);
    let (mut new, report) = source.copy_into(storage, key, &target, concurrency, prepare, || Ok(()))?;
    new.name(&target, "rename the salvaged store to")?;
    Ok(report)
}

/// The log that is salvaged.
pub(crate) struct Source {
    values: Values,
    pub(crate) header: Header,
    /// Whether the log has a base record, and none of its copies can be used.
    is_base_lost: bool,
    /// The log must contain the frame of this anchor, or a later one.
    expected: Option<Anchor>,
}

impl Source {
    /// Checks the key of a log, which is at `path`. Puts the header together from both copies if neither is
    /// intact.
    pub(crate) fn of(file: Arc<dyn File>, path: &Path, key: &AgentKey) -> Result<Self> {
        let pages = header::read_first_pages(&*file, path)?;
        let (header, _) = header::recover_header(&pages, path, key).map_err(without_salvage)?;
        let (log, base_damage) = header::with_keys(file, path, key, &header, &pages)?;
        let values = Values::new(Arc::new(log), false);
        Ok(Source { values, header, is_base_lost: base_damage.is_some(), expected: None })
    }

    /// Makes [`copy_into`](Self::copy_into) fail with `Stale` if the log is older than the anchor.
    pub(crate) fn expecting(self, expected: Option<Anchor>) -> Self {
        Source { expected, ..self }
    }

    /// The copy is the next generation of the store.
    fn id_of_copy(&self) -> GenerationId {
        let id = self.header.id;
        GenerationId { generation: id.generation.saturating_add(1), ..id }
    }

    /// Copies everything that is authentic into a new log, which is complete, synced and read back, but does not
    /// have the name `target` yet. `prepare` is called with the empty log, and `before_end` before the log is
    /// ended: until then it is not complete.
    pub(crate) fn copy_into(
        &self,
        storage: &Arc<dyn Storage>,
        key: &AgentKey,
        target: &Path,
        concurrency: Concurrency<'_>,
        prepare: impl FnOnce(&LogBuilder) -> Result<()>,
        before_end: impl FnOnce() -> Result<()>,
    ) -> Result<(LogBuilder, SalvageReport)> {
        let Header { authenticator, .. } = self.header;
        let id = self.id_of_copy();
        let new = LogBuilder::create(storage, target, &id, key, QueueOrder::RunId)?;
        prepare(&new)?;
        let mut salvaged = Salvaged::new(new);
        let mut losses = Losses::default();
        let mut at_anchor =
            self.expected.filter(|anchor| anchor.seq() == 0).map(|_| LogPosition::first(&authenticator));
        let mut resync = Resync::new(self.values.log(), concurrency, LogPosition::first(&authenticator))?;
        let torn_len = loop {
            match resync.next()? {
                ResyncItem::Frame { frame, .. } => salvaged.copy_record(&self.values, &frame, &mut losses)?,
                ResyncItem::Fault(_) => {}
                ResyncItem::Unproven(frame) => losses.note_unproven(&frame),
                ResyncItem::Gap(gap) => losses.note_gap(&gap),
                ResyncItem::End { torn_until } => break torn_until.map_or(0, |until| until - resync.tip().end),
            }
            if self.expected.is_some_and(|anchor| anchor.seq() == resync.tip().seq) {
                at_anchor = Some(resync.tip());
            }
        };
        self.check_age(at_anchor, resync.tip())?;
        if self.is_base_lost {
            losses.note_unknown_end(resync.tip());
        }
        let Salvaged { mut new, records, operations } = salvaged;
        new.flush()?;
        before_end()?;
        new.finish(Origin::new(self.header.id.generation, resync.tip()), |_| Ok(()))?;
        let index = &new.index;
        let (lost, more_lost, may_be_stale) = losses.into_lost();
        let report = SalvageReport {
            from: self.values.path().to_path_buf(),
            to: target.to_path_buf(),
            generation: id.generation,
            records,
            operations,
            jobs: index.count(Bucket::Queue) as u64,
            log_events: index.count(Bucket::Logs) as u64,
            data_keys: index.count(Bucket::Data) as u64,
            has_config: index.get(Bucket::Config, CONFIG_KEY).is_some(),
            has_session: index.get(Bucket::Registry, SESSION_KEY).is_some(),
            torn_len,
            lost,
            more_lost,
            may_be_stale,
        };
        Ok((new, report))
    }

    /// Whether the log has a base, and an authentic frame at its end or after it.
    fn has_whole_base(&self, tip: LogPosition) -> bool {
        self.values.log().base.is_some_and(|base| tip.seq >= base.position.seq)
    }

    /// Checks the log against the expected anchor. `at_anchor` is the position of the anchor's frame. If that
    /// frame is lost, an authentic one with a higher seq will do.
    fn check_age(&self, at_anchor: Option<LogPosition>, tip: LogPosition) -> Result<()> {
        let Some(anchor) = self.expected else { return Ok(()) };
        let tag_at = |seq| at_anchor.map(|position| position.chain).or((tip.seq > seq).then(|| anchor.tag()));
        let base = self.values.log().base;
        let shortfall = if self.header.id.generation > anchor.generation() && !self.has_whole_base(tip) {
            Some("its base, which would tie it to the expected frame, is damaged or cut")
        } else {
            anchor.shortfall(&self.header, base.map(|base| base.origin), tag_at)
        };
        match shortfall {
            Some(what) => Err(Error::Stale { path: self.values.path().to_path_buf(), what }),
            None => Ok(()),
        }
    }
}

/// A header that cannot be put together from its two copies cannot be salvaged, so the error must not advise that.
fn without_salvage(error: Error) -> Error {
    match error {
        Error::Corrupt { path, offset, what, .. } => {
            Error::Corrupt { path, offset, what, hint: "it cannot be salvaged; restore a backup" }
        }
        error => error,
    }
}

/// What has been copied so far.
struct Salvaged {
    new: LogBuilder,
    records: u64,
    operations: u64,
}

impl Salvaged {
    fn new(new: LogBuilder) -> Self {
        Salvaged { new, records: 0, operations: 0 }
    }

    /// Applies the frame's record to the new log, except for puts whose value does not open.
    fn copy_record(&mut self, old: &Values, frame: &OpenFrame<'_>, losses: &mut Losses) -> Result<()> {
        let Some(manifest) = frame.manifest else { return Ok(()) };
        self.records += 1;
        let mut locations = ValueCursor::new(frame.offset, &frame.header);
        for operation in manifest.operations() {
            let location = locations.locate(&operation);
            let mut lost = None;
            let added = self.new.add(&operation, |bytes| {
                let Some(location) = location else { return Ok(()) };
                let at = bytes.len();
                let opened = old.open_into(bytes, frame, location).and_then(|()| {
                    let is_well_formed = operation.bucket.allows_value(operation.key, &bytes[at..]);
                    if is_well_formed { Ok(()) } else { Err(old.malformed(location)) }
                });
                opened.inspect_err(|_| lost = Some(location))
            });
            if let Some(location) = lost {
                losses.note_value(&operation, location);
                continue;
            }
            added?;
            losses.note_superseded(&operation);
            self.operations += 1;
        }
        Ok(())
    }
}
