//! Bringing over what is still authentic of a damaged store, into a new one.
//!
//! The damaged log is read as `verify` reads it, behind damage too (`walk/resync.rs`), and never written to. What an
//! authentic manifest says is done again in the new file, in its order; an operation that is lost has no effect.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use zeroize::Zeroizing;

use crate::format::bucket::{Bucket, CONFIG_KEY, SESSION_KEY};
use crate::format::frame::{ALIGNMENT, ValueCursor};
use crate::format::header::Header;
use crate::format::record::Manifest;
use crate::index::Index;
use crate::log::{Log, LogFile, Tip, Values};
use crate::losses::{Losses, SalvageReport};
use crate::options::QueueOrder;
use crate::pack::{PACK_LEN, Pack};
use crate::path::sibling;
use crate::snapshot::open_file;
use crate::storage::{Disk, PathKind, Storage};
use crate::walk::{self, Beside, Found, OpenFrame, Piece, Resync, Scan};
use crate::{AgentKey, Error, Head, Result, path, recovery};

/// Brings everything that is still authentic in the store `from`, in order, into a new store `to`, under the same key. Not
/// a byte of `from` is changed, and it needs no lock. Works on every file that [`verify`](crate::verify) calls damaged, as
/// long as one copy of its header is good; of a store that is intact, it is a copy.
///
/// The report lists what was lost. A lost put brings back nothing, and a lost delete or ack removes nothing: what it
/// was about may be there again, in an older form. So jobs are still delivered at least once, and perhaps again. A torn
/// tail, which the next open would set aside, is not brought over either.
///
/// The new store has the same store id and the next generation: put in the place of the old one, it passes an
/// [anchor](crate::Head) of the old one. When this returns, it is durable. Where anything fails, there is nothing at
/// `to`. Both paths mean what they say for `to`, and as for [`Store::open`](crate::Store::open) for `from`.
///
/// # Errors
/// [`Error::Invalid`] when something stands at `to`; nothing of it is changed. [`Error::NotFound`],
/// [`Error::NotAStore`], [`Error::UnsupportedFormat`], [`Error::WrongKey`]; [`Error::Corrupt`] when both copies of the header
/// are damaged, without which nothing can be opened; [`Error::Full`], [`Error::Io`].
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
    salvage_on(&(Arc::new(Disk) as Arc<dyn Storage>), from, key, to)
}

/// On another file system than the machine's: for tests. No part of the stable interface.
///
/// # Errors
/// As [`salvage`].
#[doc(hidden)]
pub fn salvage_on(
    storage: &Arc<dyn Storage>,
    from: impl AsRef<Path>,
    key: &AgentKey,
    to: impl AsRef<Path>,
) -> Result<SalvageReport> {
    let (from, to) = (path::resolve(&**storage, from.as_ref())?, to.as_ref());
    let source = Source::open(&**storage, &from, key)?;
    let target = storage.resolve(to).map_err(|source| Error::io("find", to, source))?;
    let refuse = || Error::Invalid { what: format!("{} exists already; it was not changed", target.display()) };
    let kind = storage.kind(&target).map_err(|source| Error::io("look at", &target, source))?;
    if kind != PathKind::Missing {
        return Err(refuse());
    }
    let temporary = sibling(&target, ".new");
    let (mut new, report) = source.bring_over(storage, key, &temporary, &target, Beside::Writer)?;
    storage.rename_new(&temporary, &target).map_err(|source| match source.kind() {
        ErrorKind::AlreadyExists => refuse(),
        _ => Error::io("name the salvaged store", &target, source),
    })?;
    new.keep();
    // Guards against a power cut that takes the name back after the caller was told that it is there.
    recovery::sync_folder(&**storage, &target)?;
    let end = new.log.tip().end;
    new.file.file.set_len(end).map_err(new.file.io("end"))?;
    Ok(report)
}

/// A damaged log.
pub(crate) struct Source {
    values: Values,
    pub(crate) header: Header,
    /// The frame whose tag somebody wants to know.
    expected: Option<Head>,
}

impl Source {
    pub(crate) fn open(storage: &dyn Storage, path: &Path, key: &AgentKey) -> Result<Self> {
        let (log, header) = recovery::open_log(open_file(storage, path)?, path, key)?;
        Ok(Source { values: Values::new(Arc::new(log), false), header, expected: None })
    }

    /// It must not be older than this, as far as its numbers and tags tell; else `Stale`.
    pub(crate) fn expecting(self, expected: Option<Head>) -> Self {
        Source { expected, ..self }
    }

    /// Makes a new log at `temporary`, synced and read back, of everything that is authentic.
    pub(crate) fn bring_over(
        &self,
        storage: &Arc<dyn Storage>,
        key: &AgentKey,
        temporary: &Path,
        target: &Path,
        beside: Beside,
    ) -> Result<(NewLog, SalvageReport)> {
        let Header { id, authenticator, .. } = self.header;
        let generation = id.generation.saturating_add(1);
        let created = recovery::create_log(&**storage, temporary, target, generation, id.store_id, key)?;
        let mut new = NewLog::new(storage, temporary, created);
        let mut losses = Losses::default();
        let mut watched = self.expected.filter(|head| head.seq() == 0).map(|_| walk::first_tip(&authenticator));
        let mut walk = Resync::new(self.values.log(), beside, walk::first_tip(&authenticator))?;
        let torn_len = loop {
            match walk.next()? {
                Piece::Frame { frame, .. } => new.take(&self.values, &frame, &mut losses)?,
                Piece::Fault(_) => {}
                Piece::Unproven(frame) => losses.note_unproven(&frame),
                Piece::Gap(gap) => losses.note_gap(&gap),
                Piece::End { torn_until } => break torn_until.map_or(0, |until| until - walk.tip().end),
            }
            if self.expected.is_some_and(|head| head.seq() == walk.tip().seq) {
                watched = Some(walk.tip());
            }
        };
        self.check_age(watched, walk.tip())?;
        let index = new.finish()?;
        let (lost, more_lost, may_be_stale) = losses.list();
        let report = SalvageReport {
            from: self.values.path().to_path_buf(),
            to: target.to_path_buf(),
            generation,
            records: new.records,
            operations: new.operations,
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
    fn check_age(&self, watched: Option<Tip>, tip: Tip) -> Result<()> {
        let Some(head) = self.expected else { return Ok(()) };
        let tag_at = |seq| watched.map(|watched| watched.chain).or((tip.seq > seq).then(|| head.tag()));
        match head.shortfall(&self.header, tag_at) {
            Some(what) => Err(Error::Stale { path: self.values.path().to_path_buf(), what }),
            None => Ok(()),
        }
    }
}

/// A new log file on its way. Removed again when dropped, unless it has got its name.
pub(crate) struct NewLog {
    storage: Arc<dyn Storage>,
    temporary: Option<PathBuf>,
    file: Arc<LogFile>,
    first: Tip,
    log: Log,
    pack: Pack,
    value: Zeroizing<Vec<u8>>,
    records: u64,
    operations: u64,
}

impl NewLog {
    fn new(storage: &Arc<dyn Storage>, temporary: &Path, (log, header): (LogFile, Header)) -> Self {
        let first = walk::first_tip(&header.authenticator);
        let file = Arc::new(log);
        let log = Log::new(Arc::clone(&file), Arc::clone(storage), first, first.end, false);
        NewLog {
            storage: Arc::clone(storage),
            temporary: Some(temporary.to_path_buf()),
            file,
            first,
            log,
            pack: Pack::default(),
            value: Zeroizing::default(),
            records: 0,
            operations: 0,
        }
    }

    /// It has got its name.
    pub(crate) fn keep(&mut self) {
        self.temporary = None;
    }

    /// Takes over what the frame's record does, but for the puts whose values are lost.
    fn take(&mut self, old: &Values, frame: &OpenFrame<'_>, losses: &mut Losses) -> Result<()> {
        let Some(manifest) = frame.manifest else { return Ok(()) };
        self.records += 1;
        let mut places = ValueCursor::new(frame.offset, &frame.header);
        for operation in manifest.operations() {
            let place = places.place(&operation);
            Vec::clear(&mut self.value);
            if let Some(place) = place {
                let opened = old.open_into(&mut self.value, frame, place);
                if opened.is_err() || !operation.bucket.allows_value(operation.key, &self.value) {
                    losses.note_value(&operation, place);
                    continue;
                }
            }
            losses.note_superseded(&operation);
            let value = &self.value;
            self.pack.add(&operation, |bytes| {
                bytes.extend_from_slice(value);
                Ok(())
            })?;
            self.operations += 1;
            if self.pack.bytes.len() >= PACK_LEN {
                self.flush()?;
            }
        }
        Ok(())
    }

    /// Writes what was packed as one frame.
    fn flush(&mut self) -> Result<()> {
        let changes = self.pack.changes();
        if !changes.is_empty() {
            self.log.append_unseen(&changes)?;
        }
        self.pack.clear();
        Ok(())
    }

    /// Makes all of it durable, with a close frame behind it, and reads it back. Returns what it holds.
    fn finish(&mut self) -> Result<Index> {
        self.flush()?;
        // The close frame vouches for all before it, so a power cut must not be able to keep it and lose them.
        self.log.pending().wait()?;
        self.log.append_unseen(&[])?;
        // Guards against a power cut after the file has got its name: that must never stand for less than all of it.
        self.log.pending().wait()?;
        let index = self.read_back()?;
        // Not a clean end yet: whoever opens the file before its folder is known to be synced has to sync the folder.
        let len = self.log.tip().end + ALIGNMENT as u64;
        self.file.file.set_len(len).map_err(self.file.io("lengthen"))?;
        Ok(index)
    }

    /// From the disk: every frame in its place, every value opens. The chain ends in the same tag only if all manifests
    /// are the ones that were written.
    fn read_back(&mut self) -> Result<Index> {
        self.file.file.drop_cache(self.first.end).map_err(self.file.io("drop the page cache of"))?;
        let values = Values::new(Arc::clone(&self.file), false);
        let mut index = Index::new(QueueOrder::RunId);
        let mut scan = Scan::new(&self.file, Beside::Nobody, self.first)?;
        while let Found::Frame(frame) = scan.next()? {
            let start = ValueCursor::new(frame.offset, &frame.header);
            let mut places = start;
            for place in frame.manifest.iter().flat_map(Manifest::operations).filter_map(|it| places.place(&it)) {
                Vec::clear(&mut self.value);
                values.open_into(&mut self.value, &frame, place)?;
            }
            index.apply(frame.manifest.iter().flat_map(Manifest::operations), start);
        }
        if scan.tip() != self.log.tip() || scan.file_len() != scan.tip().end {
            let what = "the new log does not read back as it was written";
            return Err(Error::corrupt(&self.file.path, scan.tip().end, what));
        }
        Ok(index)
    }
}

impl Drop for NewLog {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            // If this fails, the name stays taken until somebody removes it.
            let _ = self.storage.remove_file(temporary);
        }
    }
}
