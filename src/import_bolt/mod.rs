//! The way in for an operator who comes from the Go agent, which kept its state in a bbolt file.
//!
//! Reading order: `transfer.rs` (what is written, and how a second run goes on), `contents.rs` (buckets and seals),
//! `pages.rs`, `page.rs` and `meta.rs` (the file itself). The file is opened to read, and never changed.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use crate::storage::Disk;
use crate::storage::paths;
use crate::{AgentKey, Config, Error, LogEvent, QueuedJob, Result, Session, Store};

mod transfer;
mod contents;
mod pages;
mod meta;
mod page;
mod source;

pub use contents::LeftOut;
use contents::{Contents, Opener};
use pages::Pages;
use source::Source;
use transfer::Transfer;

/// What [`import_bolt`] brought over. It holds no payloads, configuration, session id or key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ImportReport {
    /// The server's number of the configuration; `None` where there was none.
    pub config_version: Option<u64>,
    /// Whether there was a session.
    pub session: bool,
    /// The last heartbeat, in ms since 1970.
    pub last_heartbeat_ms: Option<i64>,
    /// How many jobs the file holds.
    pub jobs: u64,
    /// How many log events the file holds.
    pub log_events: u64,
    /// How many of these the limits of the store's log buffer dropped. The store counts them as it does other drops, and
    /// [`LogBatch::dropped`](crate::LogBatch::dropped) tells them.
    pub log_events_dropped: u64,
    /// How many jobs and log events an earlier run had brought over.
    pub already_there: u64,
    /// What the file holds that a store has no place for.
    pub left_out: Vec<LeftOut>,
    /// Whether one of the two meta pages does not check, as after a crash in the midst of a transaction: what came over is
    /// as of the transaction before.
    pub meta_page_damaged: bool,
}

/// Brings the state of the Go agent, a bbolt file, over into a store: configuration, session, heartbeat, jobs and log events.
///
/// `key` is the agent key that the file's values are under; the store may have another. The path means what it says, and the
/// file is only read. All of it is read, checked and opened before anything is written: a damaged file imports nothing.
///
/// The store must be new, or hold what an interrupted import of the same file had brought. Then the call goes on where
/// that one ended, and nothing is there twice; one that was complete changes nothing. Nothing else should use the store
/// meanwhile: start the agent when this has returned. It writes records of some 256 KiB, configuration and session in the
/// last one, and all of it is durable on return.
///
/// bbolt guards neither the keys nor the structure of its file, so all that its writer always does alike is checked: no page is
/// out of its place, in two places or lost (where the list of free pages was written, as bbolt does by default). Each
/// payload, the configuration and the session id have a seal that damage cannot pass. What it may still change unseen is a
/// run id, a time, or the version of the configuration; a key or bucket that it made unknown is in
/// [`left_out`](ImportReport::left_out), and a damaged meta page in [`meta_page_damaged`](ImportReport::meta_page_damaged).
/// Whoever can write the file can also exchange whole values, and put an older file in its place.
///
/// ```
/// use backupy_state::{AgentKey, Store, check_bolt, import_bolt};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let old = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/import_bolt/example.db");
/// # let path = folder.path().join("state.db");
/// let key = AgentKey::new("bkpy_0123456789abcdef0123456789abcdef")?;
/// check_bolt(&old, &key)?; // before a store is made for what may not come
/// let store = Store::open(&path, &key)?;
/// let report = import_bolt(&old, &key, &store)?;
/// assert_eq!(report.jobs, store.queue_depth() as u64);
/// assert!(report.left_out.is_empty());
/// store.close()?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// Nothing is written, unless an error is one of writing:
/// - [`Error::NotFound`], [`Error::NotAStore`]: there is no file, or no bbolt file, or another program's.
/// - [`Error::Locked`]: a process has the file open to write. Stop the old agent.
/// - [`Error::WrongKey`]: not one value opens under the key. (Damage to the only value of a file looks the same.)
/// - [`Error::Corrupt`]: the file is damaged; the offset says where.
/// - [`Error::TooLarge`]: a run id over 1024 bytes, or a value over 16 MiB.
/// - [`Error::Invalid`]: the store holds anything else, or what stands at the path is a store of this crate.
/// - [`Error::Io`], and as every writing call: what was written stays, and the next run goes on from there.
pub fn import_bolt(from: impl AsRef<Path>, key: &AgentKey, into: &Store) -> Result<ImportReport> {
    let from = from.as_ref();
    let file = open(from)?;
    with_checked(from, &file, key, |checked| checked.import(into))
}

/// Reads and checks all of a bbolt file as [`import_bolt`] does, without a store: what would come over.
///
/// # Errors
/// As [`import_bolt`], but for those of the store.
///
/// ```
/// # use std::path::Path;
/// # use backupy_state::{AgentKey, check_bolt};
/// let old = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/import_bolt/example.db");
/// let key = AgentKey::new("bkpy_0123456789abcdef0123456789abcdef")?;
/// println!("{} jobs would come over", check_bolt(&old, &key)?.jobs);
/// # Ok::<(), backupy_state::Error>(())
/// ```
pub fn check_bolt(from: impl AsRef<Path>, key: &AgentKey) -> Result<ImportReport> {
    let from = from.as_ref();
    let file = open(from)?;
    with_checked(from, &file, key, |checked| Ok(checked.report()))
}

/// All that a bbolt file holds, opened: for tests and fuzzing. No part of the stable interface.
#[doc(hidden)]
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "as in the store")]
pub struct BoltState {
    pub report: ImportReport,
    pub config: Option<Config>,
    pub session: Option<Session>,
    pub jobs: Vec<QueuedJob>,
    pub logs: Vec<LogEvent>,
}

/// Reads the bytes of a bbolt file: for tests and fuzzing. No part of the stable interface.
///
/// # Errors
/// As [`check_bolt`].
#[doc(hidden)]
pub fn read_bolt(bytes: &[u8], key: &AgentKey) -> Result<BoltState> {
    with_checked(Path::new("bolt.db"), &bytes, key, |checked| checked.state())
}

/// As [`import_bolt`], from the bytes of a bbolt file: for fuzzing. No part of the stable interface.
///
/// # Errors
/// As [`import_bolt`].
#[doc(hidden)]
pub fn import_bolt_bytes(bytes: &[u8], key: &AgentKey, into: &Store) -> Result<ImportReport> {
    with_checked(Path::new("bolt.db"), &bytes, key, |checked| checked.import(into))
}

/// A file of which everything checks.
struct Checked<'a> {
    contents: &'a Contents,
    pages: &'a Pages<'a>,
    opener: &'a Opener,
}

fn with_checked<T>(
    path: &Path,
    source: &dyn Source,
    key: &AgentKey,
    then: impl FnOnce(&Checked<'_>) -> Result<T>,
) -> Result<T> {
    let mut pages = Pages::open(path, source)?;
    let contents = Contents::read(&mut pages)?;
    let opener = Opener::new(key);
    contents.check(&pages, &opener)?;
    then(&Checked { contents: &contents, pages: &pages, opener: &opener })
}

impl Checked<'_> {
    fn import(&self, into: &Store) -> Result<ImportReport> {
        let Checked { contents, pages, opener } = *self;
        let found = Transfer { contents, pages, opener, into }.run()?;
        Ok(ImportReport {
            already_there: (found.jobs + found.logs) as u64,
            log_events_dropped: into.stats().logs_dropped,
            ..self.report()
        })
    }

    fn report(&self) -> ImportReport {
        let Contents { config, session, heartbeat, jobs, logs, left_out } = self.contents;
        ImportReport {
            config_version: config.map(|(version, _)| version),
            session: session.is_some(),
            last_heartbeat_ms: *heartbeat,
            jobs: jobs.len() as u64,
            log_events: logs.len() as u64,
            left_out: left_out.clone(),
            meta_page_damaged: self.pages.one_meta_is_damaged(),
            ..ImportReport::default()
        }
    }

    fn state(&self) -> Result<BoltState> {
        let value = |place| Ok(self.opener.value(self.pages, place)?.to_vec());
        let config = self.contents.config.map(|(version, place)| Ok(Config { version, raw: value(place)? }));
        let session = self.contents.session.map(|(server_time_ms, place)| {
            let session_id = String::from_utf8_lossy(&value(place)?).into_owned();
            Ok(Session { session_id, server_time_ms })
        });
        let jobs = self
            .contents
            .jobs
            .iter()
            .map(|(run_id, place)| Ok(QueuedJob { run_id: run_id.clone(), payload: value(*place)? }));
        let logs = self.contents.logs.iter();
        let logs = logs.map(|(ts_ms, place)| Ok(LogEvent { ts_ms: *ts_ms, payload: value(*place)? }));
        Ok(BoltState {
            report: self.report(),
            config: config.transpose()?,
            session: session.transpose()?,
            jobs: jobs.collect::<Result<_>>()?,
            logs: logs.collect::<Result<_>>()?,
        })
    }
}

/// Opens the file, and takes the lock that bbolt's readers take: its writer holds the other one as long as it has the file
/// open. Closing the file lets go of it.
fn open(path: &Path) -> Result<fs::File> {
    if !paths::is_file(&Disk, path)? {
        return Err(Error::NotFound { path: path.to_path_buf() });
    }
    // Without O_NONBLOCK, a FIFO put there since it was looked at would hang the open.
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let opened = fs::OpenOptions::new().read(true).custom_flags(flags).open(path);
    let file = opened.map_err(|source| Error::io("open", path, source))?;
    match fs2::FileExt::try_lock_shared(&file) {
        Ok(()) => Ok(file),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Err(Error::Locked {
            path: path.to_path_buf(),
            holder: None,
            waited: Duration::ZERO,
            hint: "stop the agent that writes to it, then import it",
        }),
        Err(source) => Err(Error::io("lock", path, source)),
    }
}
