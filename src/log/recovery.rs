//! From a path to a log that can be written: creation, the header, replay, and what becomes of a torn tail.
//!
//! Implements *Opening* of FORMAT.md. Changes nothing before it has seen the whole log, and then only a torn tail.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::format::SaltedCrc;
use crate::format::frame::{FrameKind, ValueCursor};
use crate::format::header::{self, HEADER_PAGE_LEN, Header, HeaderSight};
use crate::index::Index;
use crate::log::writer::{LogFile, Tip};
use crate::repair::losses::SalvageReport;
use crate::options::QueueOrder;
use crate::storage::paths::sibling;
use crate::crypto::seal::{self, GenerationId, Prk, Tag};
use crate::storage::{self, Access, File, Storage};
use crate::log::scan::{self, Concurrency, Ending, Found, Replayed, Scan};
use crate::{AgentKey, Anchor, Error, Result};
use crate::log::writer::quarantine as aside;

/// What opening a store found and did.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecoveryReport {
    /// There was no store, and this call made one.
    pub created: bool,
    /// The last session ended with a close, so nothing had to be looked at twice. True for a new store.
    pub clean: bool,
    /// The store was under [`previous_key`](crate::OpenOptions::previous_key), and is under the new key now.
    pub rekeyed: bool,
    /// How many records were replayed.
    pub records: u64,
    /// How many operations these held.
    pub operations: u64,
    /// The length of the torn tail that was cut off, in bytes.
    pub quarantined_bytes: u64,
    /// Where these bytes are now.
    pub quarantined: Option<PathBuf>,
    /// The store was damaged, and [`OnDamage::SetAside`](crate::OnDamage::SetAside) was asked for: where the damaged file is
    /// now, what was brought over into the new one, and what is lost. Only this opening tells; the damaged file stays.
    pub salvaged: Option<SalvageReport>,
    /// How long opening took, without the wait for the lock.
    pub took: Duration,
}

/// A log that is open, replayed and durable.
pub(crate) struct Recovered {
    pub(crate) log: Arc<LogFile>,
    pub(crate) header: Header,
    pub(crate) replay: Replay,
    pub(crate) allocated: u64,
    pub(crate) report: RecoveryReport,
}

/// Makes a new store: after a crash it is there whole or not at all.
pub(crate) fn create(storage: &dyn Storage, path: &Path, key: &AgentKey, order: QueueOrder) -> Result<Recovered> {
    let begun = Instant::now();
    let mut store_id = [0; 16];
    fill_random(storage, path, &mut store_id)?;
    let new = sibling(path, ".new");
    let (log, header) = create_log(storage, &new, path, 1, store_id, key)?;
    storage.rename(&new, path).map_err(storage::full_or_io("create", path))?;
    // Guards against a power cut that takes the name back after calls were acknowledged.
    sync_folder(storage, path)?;
    let replay = Replay::new(order, walk::first_tip(&header.authenticator));
    let report = RecoveryReport { created: true, clean: true, ..report(&replay, begun) };
    Ok(Recovered { log: Arc::new(log), header, replay, allocated: HEADER_PAGE_LEN as u64, report })
}

/// Makes a log file without frames at `temporary`, which the caller will rename to `path`. If it fails, nothing stays.
pub(crate) fn create_log(
    storage: &dyn Storage,
    temporary: &Path,
    path: &Path,
    generation: u64,
    store_id: [u8; 16],
    key: &AgentKey,
) -> Result<(LogFile, Header)> {
    let mut salt = [0; 32];
    fill_random(storage, path, &mut salt)?;
    let authenticated = header::encode_authenticated(&GenerationId { generation, store_id, salt });
    let authenticator = Prk::extract(&salt, key).authenticator(&authenticated);
    let file = storage.open(temporary, Access::CreateNew).map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => in_the_way(temporary),
        _ => storage::full_or_io("create", temporary)(source),
    })?;
    let written = storage::write_all_at(&*file, &header::encode_page(&authenticated, &authenticator), 0)
        // Guards against a power cut after the rename: the name must never stand for less than a whole header.
        .and_then(|()| file.sync_data());
    let opened = written.map_err(storage::full_or_io("create", path)).and_then(|()| open_log(file, path, key));
    opened.inspect_err(|_| {
        // If this fails too, the next open removes it.
        let _ = storage.remove_file(temporary);
    })
}

fn in_the_way(temporary: &Path) -> Error {
    let name = temporary.display();
    Error::Invalid {
        what: format!("{name} is in the way: a copy was cut short there, or is being made; remove it if none is"),
    }
}

fn fill_random(storage: &dyn Storage, path: &Path, bytes: &mut [u8]) -> Result<()> {
    storage.fill_random(bytes).map_err(|source| Error::io("get random bytes from the system for", path, source))
}

/// Opens an existing store and brings it to a durable state.
///
/// `expected` is held against the log before anything is changed.
pub(crate) fn open(
    storage: &dyn Storage,
    path: &Path,
    key: &AgentKey,
    order: QueueOrder,
    expected: Option<&Anchor>,
) -> Result<Recovered> {
    let begun = Instant::now();
    let file = storage.open(path, Access::Write).map_err(|source| Error::io("open", path, source))?;
    let (log, header) = open_log(file, path, key)?;
    let first = walk::first_tip(&header.authenticator);
    let from_start = || Replay::watching(order, first, expected.map(Anchor::seq));
    let mut replay = from_start();
    let mut ending = replay.run(&log, Concurrency::Exclusive)?;

    let clean = replay.ends_closed && ending == (Ending { file_len: replay.tip.end, torn_until: None });
    if !clean {
        // After a failed sync the page cache can show bytes that the disk never got. This sync writes what is
        // still dirty, and then the disk is asked for all that no earlier sync is known to have covered.
        log.file.sync_data().map_err(log.io("sync"))?;
        // Guards against a power cut that takes back the name of a store whose creation was cut short.
        sync_folder(storage, path)?;
        let vouched = replay.vouched_tip();
        log.file.drop_cache(vouched.end).map_err(log.io("drop the page cache of"))?;
        let mut again = Replay::new(order, vouched);
        let ending_again = again.run(&log, Concurrency::Exclusive)?;
        if again.tip != replay.tip || ending_again != ending {
            replay = from_start();
            ending = replay.run(&log, Concurrency::Exclusive)?;
        }
    }

    if let Some(what) = expected.and_then(|anchor| anchor.shortfall(&header, |_| replay.watched_tag)) {
        return Err(Error::Stale { path: path.to_path_buf(), what });
    }
    let mut report = RecoveryReport { clean, ..report(&replay, begun) };
    let mut allocated = ending.file_len;
    if let Some(until) = ending.torn_until {
        report.quarantined = Some(aside::set_torn_tail_aside(storage, &log, replay.tip.end, until)?);
        report.quarantined_bytes = until - replay.tip.end;
        allocated = replay.tip.end;
    }
    report.took = begun.elapsed();
    Ok(Recovered { log: Arc::new(log), header, replay, allocated, report })
}

fn report(replay: &Replay, begun: Instant) -> RecoveryReport {
    RecoveryReport {
        created: false,
        clean: false,
        rekeyed: false,
        records: replay.records,
        operations: replay.operations,
        quarantined_bytes: 0,
        quarantined: None,
        salvaged: None,
        took: begun.elapsed(),
    }
}

/// Reads the header page and derives the keys: what stands here, and is the key right?
pub(crate) fn open_log(file: Box<dyn File>, path: &Path, key: &AgentKey) -> Result<(LogFile, Header)> {
    let header = read_header(&*file, path)?;
    Ok((with_keys(file, path, key, &header)?, header))
}

/// The log with the keys of its header.
pub(crate) fn with_keys(file: Box<dyn File>, path: &Path, key: &AgentKey, header: &Header) -> Result<LogFile> {
    let Some(prk) = authentic_prk(key, header) else {
        return Err(Error::WrongKey { path: path.to_path_buf() });
    };
    let sealer = prk.frame_sealer(&header.id);
    let crc = SaltedCrc::new(&header.id.salt);
    Ok(LogFile { path: path.to_path_buf(), file, sealer, crc })
}

fn authentic_prk(key: &AgentKey, header: &Header) -> Option<Prk> {
    let prk = Prk::extract(&header.id.salt, key);
    let expected = prk.authenticator(&header.authenticated);
    seal::equal_in_constant_time(&expected, &header.authenticator).then_some(prk)
}

/// The header, for whoever goes on behind damage: where no copy checks, one is put together from both, if the key proves it
/// right. Returns the damage too.
pub(crate) fn header_behind_damage(page: &[u8], path: &Path, key: &AgentKey) -> Result<(Header, Option<Error>)> {
    match parse_header_page(page, path) {
        Err(damage @ Error::Corrupt { .. }) => {
            match header::candidates(page).find(|header| authentic_prk(key, header).is_some()) {
                Some(header) => Ok((header, Some(damage))),
                None => Err(damage),
            }
        }
        parsed => Ok((parsed?, None)),
    }
}

/// Reads the header page without a key.
pub(crate) fn read_header(file: &dyn File, path: &Path) -> Result<Header> {
    parse_header_page(&read_header_page(file, path)?, path)
}

pub(crate) fn parse_header_page(page: &[u8], path: &Path) -> Result<Header> {
    let path = path.to_path_buf();
    match header::parse_page(page) {
        HeaderSight::Whole(header) => Ok(header),
        HeaderSight::Foreign => Err(Error::NotAStore { path, what: header::describe_foreign(page) }),
        HeaderSight::Damaged => Err(Error::Corrupt { path, offset: 0, what: "neither copy of the header checks" }),
        HeaderSight::Unsupported { version, flags } => Err(Error::UnsupportedFormat { path, version, flags }),
    }
}

pub(crate) fn read_header_page(file: &dyn File, path: &Path) -> Result<Vec<u8>> {
    let mut page = vec![0; HEADER_PAGE_LEN];
    let len = storage::read_at_most(file, &mut page, 0)
        .map_err(|source| Error::io("read the header of", path, source))?;
    page.truncate(len);
    Ok(page)
}

/// Removes what a crash during creation left behind. The caller holds the lock.
pub(crate) fn remove_leftovers(storage: &dyn Storage, path: &Path) -> Result<()> {
    let new = sibling(path, ".new");
    match storage.remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::io("remove the left-over", &new, error))
        }
        _ => Ok(()),
    }
}

pub(crate) fn sync_folder(storage: &dyn Storage, path: &Path) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    storage.sync_dir(folder).map_err(|source| Error::io("sync the folder", folder, source))
}

/// Closer together, marks would take much memory in a log that was synced seldom, and spare no read.
const MARKS_APART: u64 = 64 << 10;

/// The state of a log up to its tip, and which of it is vouched for.
pub(crate) struct Replay {
    pub(crate) index: Index,
    pub(crate) tip: Tip,
    /// Whether the last frame is a close frame.
    pub(crate) ends_closed: bool,
    records: u64,
    operations: u64,
    /// The frame whose tag somebody wants to know, and that tag.
    watched_seq: Option<u64>,
    watched_tag: Option<Tag>,
    /// Before the last frame.
    before_last: Option<Tip>,
    /// Tips to look again from, oldest first: the first one is before all frames that no later frame vouches for.
    marks: VecDeque<Tip>,
}

impl Replay {
    pub(crate) fn new(order: QueueOrder, tip: Tip) -> Self {
        let index = Index::new(order);
        Replay {
            index,
            tip,
            ends_closed: false,
            records: 0,
            operations: 0,
            watched_seq: None,
            watched_tag: None,
            before_last: None,
            marks: VecDeque::new(),
        }
    }

    /// Keeps the tag of the frame `seq`.
    fn watching(order: QueueOrder, tip: Tip, seq: Option<u64>) -> Self {
        let watched_tag = (seq == Some(tip.seq)).then_some(tip.chain);
        Replay { watched_seq: seq, watched_tag, ..Replay::new(order, tip) }
    }

    /// Goes on from the tip up to the last whole frame. After an error, what came before it is taken.
    pub(crate) fn run(&mut self, log: &LogFile, concurrency: Concurrency<'_>) -> Result<Ending> {
        let ending = walk::replay(log, concurrency, self.tip, |frame| self.take(frame));
        self.index.settle();
        ending
    }

    /// Whether the frame at the tip still stands in the file: by the chain, so does everything before it.
    pub(crate) fn still_stands(&self, log: &LogFile, concurrency: Concurrency<'_>) -> Result<bool> {
        let Some(before) = self.before_last else { return Ok(true) };
        let mut scan = Scan::new(log, concurrency, before)?;
        let is_frame = matches!(scan.next()?, Found::Frame(_));
        Ok(is_frame && scan.tip() == self.tip)
    }

    fn take(&mut self, frame: &Replayed<'_>) {
        let header = &frame.header;
        self.ends_closed = header.kind == FrameKind::Close;
        if self.marks.back().is_none_or(|last| self.tip.end - last.end >= MARKS_APART) {
            self.marks.push_back(self.tip);
        }
        while self.marks.get(1).is_some_and(|next| next.seq <= header.durable_seq) {
            self.marks.pop_front();
        }
        self.before_last = Some(std::mem::replace(&mut self.tip, frame.tip));
        if self.watched_seq == Some(self.tip.seq) {
            self.watched_tag = Some(self.tip.chain);
        }
        if let Some(manifest) = &frame.manifest {
            self.records += 1;
            self.operations += u64::from(manifest.count());
            self.index.stage(manifest.operations(), ValueCursor::new(frame.offset, header));
        }
    }

    /// Not behind any frame that no later one vouches for.
    fn vouched_tip(&self) -> Tip {
        self.marks.front().copied().unwrap_or(self.tip)
    }
}
