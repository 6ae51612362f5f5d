//! Bringing over what is still authentic of a damaged store, into a new one.
//!
//! The damaged log is read as `verify` reads it, behind damage too (`walk/resync.rs`), and never written to. What an
//! authentic manifest says is done again in the new file, in its order; an operation that is lost has no effect.

use std::path::Path;
use std::sync::Arc;

use super::losses::Losses;
use crate::crypto::seal::GenerationId;
use crate::format::bucket::{Bucket, CONFIG_KEY, SESSION_KEY};
use crate::format::header::Header;
use crate::format::location::ValueCursor;
use crate::index::QueueOrder;
use crate::log::builder::LogBuilder;
use crate::log::file::LogPosition;
use crate::log::header;
use crate::log::scan::{Concurrency, OpenFrame, Resync, ResyncItem};
use crate::log::values::Values;
use crate::storage::{Disk, Storage, paths};
use crate::{AgentKey, Anchor, Error, Result, SalvageReport};

/// Brings everything that is still authentic in the store `from`, in order, into a new store `to`, under the same key. Not
/// a byte of `from` is changed, and it needs no lock. Works on every file that [`verify`](crate::verify) calls damaged, as
/// long as each field of its header is good in one of the two copies; of a store that is intact, it is a copy.
///
/// The report lists what was lost. A lost put brings back nothing, and a lost delete or ack removes nothing: what it
/// was about may be there again, in an older form. So jobs are still delivered at least once, and perhaps again. A torn
/// tail, which the next open would set aside, is not brought over either.
///
/// The new store has the same store id and the next generation: put in the place of the old one, it passes an
/// [anchor](crate::Anchor) of the old one. It belongs to whom the old one does, where the caller may give it away. When
/// this returns, it is durable. Where anything fails, there is nothing at `to`. Both paths mean what they say for `to`,
/// and as for [`Store::open`](crate::Store::open) for `from`.
///
/// # Errors
/// [`Error::Invalid`] when something stands at `to`, of which nothing is changed, or `to` is `<from>.new`. [`Error::NotFound`],
/// [`Error::NotAStore`], [`Error::UnsupportedFormat`], [`Error::WrongKey`]; [`Error::Corrupt`] when both copies of the header
/// are damaged in the same field, without which nothing can be opened; [`Error::Full`], [`Error::Io`].
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
/// let second_payload = 4096 + 120 + 100;
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
    let from = paths::resolve(&**storage, from)?;
    let source = Source::open(&**storage, &from, key)?;
    let target = paths::free_target(&**storage, &from, to)?;
    let (mut new, report) = source.copy_into(storage, key, &target, Concurrency::WithWriter(&**storage))?;
    // Root salvages for an agent that is not root. Nobody else can give files away: then it is the caller's.
    let _ = storage.copy_owner_and_mode(&from, new.temporary());
    new.name(&target, "name the salvaged store")?;
    Ok(report)
}

/// A damaged log.
pub(crate) struct Source {
    values: Values,
    pub(crate) header: Header,
    /// The frame whose tag somebody wants to know.
    expected: Option<Anchor>,
}

impl Source {
    pub(crate) fn open(storage: &dyn Storage, path: &Path, key: &AgentKey) -> Result<Self> {
        let file = paths::open_file(storage, path)?;
        let page = header::read_header_page(&*file, path)?;
        let (header, _) = header::recover_header(&page, path, key)?;
        let log = header::with_keys(file, path, key, &header)?;
        Ok(Source { values: Values::new(Arc::new(log), false), header, expected: None })
    }

    /// It must not be older than this, as far as its numbers and tags tell; else `Stale`.
    pub(crate) fn expecting(self, expected: Option<Anchor>) -> Self {
        Source { expected, ..self }
    }

    /// Makes a new log for `target`, synced and read back, of everything that is authentic.
    pub(crate) fn copy_into(
        &self,
        storage: &Arc<dyn Storage>,
        key: &AgentKey,
        target: &Path,
        concurrency: Concurrency<'_>,
    ) -> Result<(LogBuilder, SalvageReport)> {
        let Header { id, authenticator, .. } = self.header;
        let id = GenerationId { generation: id.generation.saturating_add(1), ..id };
        let mut salvaged = Salvaged::new(LogBuilder::create(storage, target, &id, key, QueueOrder::RunId)?);
        let mut losses = Losses::default();
        let mut watched =
            self.expected.filter(|anchor| anchor.seq() == 0).map(|_| LogPosition::first(&authenticator));
        let mut walk = Resync::new(self.values.log(), concurrency, LogPosition::first(&authenticator))?;
        let torn_len = loop {
            match walk.next()? {
                ResyncItem::Frame { frame, .. } => salvaged.take(&self.values, &frame, &mut losses)?,
                ResyncItem::Fault(_) => {}
                ResyncItem::Unproven(frame) => losses.note_unproven(&frame),
                ResyncItem::Gap(gap) => losses.note_gap(&gap),
                ResyncItem::End { torn_until } => break torn_until.map_or(0, |until| until - walk.tip().end),
            }
            if self.expected.is_some_and(|anchor| anchor.seq() == walk.tip().seq) {
                watched = Some(walk.tip());
            }
        };
        self.check_age(watched, walk.tip())?;
        let Salvaged { mut new, records, operations, .. } = salvaged;
        new.flush()?;
        new.finish(|_| Ok(()))?;
        let index = &new.index;
        let (lost, more_lost, may_be_stale) = losses.list();
        let report = SalvageReport {
            from: self.values.path().to_path_buf(),
            to: target.to_path_buf(),
            generation: id.generation,
            records,
            operations,
            jobs: index.count(Bucket::Queue) as u64,
            log_events: index.count(Bucket::Logs) as u64,
            has_config: index.get(Bucket::Config, CONFIG_KEY).is_some(),
            has_session: index.get(Bucket::Registry, SESSION_KEY).is_some(),
            torn_len,
            lost,
            more_lost,
            may_be_stale,
        };
        Ok((new, report))
    }

    /// Where the expected frame itself is lost, an authentic one with a higher number has to do.
    fn check_age(&self, watched: Option<LogPosition>, tip: LogPosition) -> Result<()> {
        let Some(anchor) = self.expected else { return Ok(()) };
        let tag_at = |seq| watched.map(|watched| watched.chain).or((tip.seq > seq).then(|| anchor.tag()));
        match anchor.shortfall(&self.header, tag_at) {
            Some(what) => Err(Error::Stale { path: self.values.path().to_path_buf(), what }),
            None => Ok(()),
        }
    }
}

/// What was brought over so far.
struct Salvaged {
    new: LogBuilder,
    records: u64,
    operations: u64,
}

impl Salvaged {
    fn new(new: LogBuilder) -> Self {
        Salvaged { new, records: 0, operations: 0 }
    }

    /// Takes over what the frame's record does, but for the puts whose values are lost.
    fn take(&mut self, old: &Values, frame: &OpenFrame<'_>, losses: &mut Losses) -> Result<()> {
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
