//! Imports the state of the Go agent, which kept it in a bbolt file.
//!
//! From the top down: `transfer.rs` writes to the store, and continues an interrupted import; `contents.rs` knows
//! the agent's buckets and seals; `pages.rs`, `page.rs` and `meta.rs` read bbolt's structure; `source.rs` reads
//! bytes. The bbolt file is never changed.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use crate::log::place;
use crate::storage::{Disk, names, paths};
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

/// What [`import_bolt`] imported, or [`check_bolt`] would import. It contains no payload, configuration, session
/// id or key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct ImportReport {
    /// The version of the configuration; `None` if there is none.
    pub config_version: Option<u64>,
    /// Whether there is a session.
    pub session: bool,
    /// The time of the last heartbeat, in ms since 1970.
    pub last_heartbeat_ms: Option<i64>,
    /// The number of jobs in the file that a store can hold.
    pub jobs: u64,
    /// The number of log events in the file that a store can hold.
    pub log_events: u64,
    /// The number of those that the limits of the store's log buffer dropped. They are counted in
    /// [`LogBatch::dropped`](crate::LogBatch::dropped), as other dropped events.
    pub log_events_dropped: u64,
    /// The number of jobs and log events that an interrupted import had written before.
    pub already_there: u64,
    /// Keys in the file that a store has no place for, and jobs and log events that it cannot hold. They were not
    /// imported.
    pub left_out: Vec<LeftOut>,
    /// Whether one of the two meta pages is damaged, as after a crash during a transaction. The import is then as
    /// of the transaction before.
    pub meta_page_damaged: bool,
}

/// Imports the state of the Go agent, a bbolt file, into a store: configuration, session, heartbeat, jobs and log
/// events.
///
/// `key` is the agent key of the bbolt file; the store may have another one. The path is taken as given, and the
/// file is only read. The whole file is read and checked, and every value opened, before anything is written:
/// nothing is imported from a damaged file.
///
/// The store must be new, or hold what an interrupted import of the same file has written. Then this call
/// continues that import, and nothing is imported twice; after a complete import, it changes nothing. Nothing else
/// may use the store meanwhile: start the new agent after this has returned `Ok`. Where an agent has removed
/// something after an interrupted import, or the store was compacted or rekeyed, it cannot be continued.
///
/// A job whose run id is not UTF-8 or over 1024 bytes, or whose payload is over 16 MiB, cannot be in a store:
/// [`left_out`](ImportReport::left_out) names it, and everything else is imported. It counts the log events over
/// 16 MiB likewise.
///
/// Records of about 256 KiB are written, configuration, session and heartbeat in the last one. When this returns
/// `Ok`, everything is durable: it survives a power cut.
///
/// # What damage is found
/// bbolt has no checksum for keys and tree pages. Everything that its writer always does in the same way is
/// checked: each page is in its place and used exactly once. A page that nothing refers to is found only if the
/// file has a list of free pages, which bbolt writes by default. Payloads, configuration and session id are
/// authenticated.
///
/// Damage can still change a run id, a time or the configuration's version without being found. A key or a bucket
/// with a changed name can show up in [`left_out`](ImportReport::left_out), and a damaged meta page sets
/// [`meta_page_damaged`](ImportReport::meta_page_damaged). An attacker who can write the file can swap whole
/// values, or put an older file in its place.
///
/// ```
/// use backupy_state::{AgentKey, Store, check_bolt, import_bolt};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let old = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/import_bolt/example.db");
/// # let path = folder.path().join("state.db");
/// let key = AgentKey::new("bkpy_0123456789abcdef0123456789abcdef")?;
/// check_bolt(&old, &key)?; // fails before a store is created
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
/// With these, nothing was written:
/// - [`Error::NotFound`]: there is no file at the path.
/// - [`Error::NotAStore`]: the file is not a bbolt file, or another program's.
/// - [`Error::Locked`]: a process has the file open for writing. Stop the old agent.
/// - [`Error::WrongKey`]: no value opens under the key. Damage to the only value of a file looks the same.
/// - [`Error::Corrupt`]: the file is damaged at the given offset.
/// - [`Error::TooLarge`]: the configuration or the session id is over 16 MiB.
/// - [`Error::Invalid`]: the store holds anything else, or something was removed from it; there is a store of this
///   crate at the path; or the path belongs to the store.
///
/// With [`Error::Full`], [`Error::Failed`], [`Error::Io`], and [`Error::QueueFull`] if the store was opened with
/// [queue limits](crate::QueueLimits) that the jobs exceed, records may have been written. They stay, and the next
/// call continues after them: free some space, or open the store without these limits. A call after an agent has
/// acked one of these jobs is refused with `Invalid`: it would enqueue again what was delivered.
pub fn import_bolt(from: impl AsRef<Path>, key: &AgentKey, into: &Store) -> Result<ImportReport> {
    let from = from.as_ref();
    if place::belongs_to(&Disk, from, into.path()) && names::own_name(from).is_some() {
        return Err(place::reserved(from));
    }
    let file = open(from)?;
    with_checked(from, &file, key, |checked| checked.import(into))
}

/// Reads and checks a bbolt file as [`import_bolt`] does, and reports what it would import. Writes nothing.
///
/// # Errors
/// As [`import_bolt`], without those of the store.
///
/// ```
/// # use std::path::Path;
/// # use backupy_state::{AgentKey, check_bolt};
/// let old = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/import_bolt/example.db");
/// let key = AgentKey::new("bkpy_0123456789abcdef0123456789abcdef")?;
/// println!("{} jobs to import", check_bolt(&old, &key)?.jobs);
/// # Ok::<(), backupy_state::Error>(())
/// ```
pub fn check_bolt(from: impl AsRef<Path>, key: &AgentKey) -> Result<ImportReport> {
    let from = from.as_ref();
    let file = open(from)?;
    with_checked(from, &file, key, |checked| Ok(checked.report()))
}

/// The contents of a bbolt file, opened: for tests and fuzzing.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "for tests only; the fields are those of the public types")]
pub struct BoltState {
    pub report: ImportReport,
    pub config: Option<Config>,
    pub session: Option<Session>,
    pub jobs: Vec<QueuedJob>,
    pub logs: Vec<LogEvent>,
}

/// Reads the bytes of a bbolt file: for tests and fuzzing.
///
/// # Errors
/// As [`check_bolt`].
pub fn read_bolt(bytes: &[u8], key: &AgentKey) -> Result<BoltState> {
    with_checked(Path::new("bolt.db"), &bytes, key, |checked| checked.state())
}

/// As [`import_bolt`], from the bytes of a bbolt file: for fuzzing.
///
/// # Errors
/// As [`import_bolt`].
pub fn import_bolt_bytes(bytes: &[u8], key: &AgentKey, into: &Store) -> Result<ImportReport> {
    with_checked(Path::new("bolt.db"), &bytes, key, |checked| checked.import(into))
}

/// A file whose structure is checked, and whose every value opens.
struct CheckedFile<'a> {
    contents: &'a Contents,
    pages: &'a Pages<'a>,
    opener: &'a Opener,
}

fn with_checked<T>(
    path: &Path,
    source: &dyn Source,
    key: &AgentKey,
    then: impl FnOnce(&CheckedFile<'_>) -> Result<T>,
) -> Result<T> {
    let mut pages = Pages::open(path, source)?;
    let contents = Contents::read(&mut pages)?;
    let opener = Opener::new(key);
    contents.check(&pages, &opener, key)?;
    then(&CheckedFile { contents: &contents, pages: &pages, opener: &opener })
}

impl ImportReport {
    /// How many jobs were left out, because a store cannot hold them. They are not counted in
    /// [`jobs`](ImportReport::jobs).
    ///
    /// ```
    /// # use std::path::Path;
    /// # use backupy_state::{AgentKey, check_bolt};
    /// # let old = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/import_bolt/example.db");
    /// # let key = AgentKey::new("bkpy_0123456789abcdef0123456789abcdef")?;
    /// let report = check_bolt(&old, &key)?;
    /// if report.jobs_left_out() > 0 {
    ///     eprintln!("let the Go agent deliver these first: {:?}", report.left_out);
    /// }
    /// # Ok::<(), backupy_state::Error>(())
    /// ```
    #[must_use]
    pub fn jobs_left_out(&self) -> u64 {
        self.left_out.iter().filter(|left| left.run_id.is_some()).map(|left| left.keys).sum()
    }
}

impl CheckedFile<'_> {
    fn import(&self, into: &Store) -> Result<ImportReport> {
        let CheckedFile { contents, pages, opener } = *self;
        let earlier = Transfer { contents, pages, opener, into }.run()?;
        Ok(ImportReport {
            already_there: (earlier.jobs + earlier.logs) as u64,
            log_events_dropped: into.stats().logs_dropped,
            ..self.report()
        })
    }

    fn report(&self) -> ImportReport {
        let Contents { config, session, heartbeat, jobs, logs, left_out, .. } = self.contents;
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
        let value = |extent| Ok(self.opener.value(self.pages, extent)?.to_vec());
        let config = self.contents.config.map(|(version, extent)| Ok(Config { version, raw: value(extent)? }));
        let session = self.contents.session.map(|(server_time_ms, extent)| {
            let session_id = String::from_utf8_lossy(&value(extent)?).into_owned();
            Ok(Session { session_id, server_time_ms })
        });
        let jobs = self
            .contents
            .jobs
            .iter()
            .map(|(run_id, extent)| Ok(QueuedJob { run_id: run_id.clone(), payload: value(*extent)? }));
        let logs = self.contents.logs.iter();
        let logs = logs.map(|(ts_ms, extent)| Ok(LogEvent { ts_ms: *ts_ms, payload: value(*extent)? }));
        Ok(BoltState {
            report: self.report(),
            config: config.transpose()?,
            session: session.transpose()?,
            jobs: jobs.collect::<Result<_>>()?,
            logs: logs.collect::<Result<_>>()?,
        })
    }
}

/// The error for damage to a bbolt file. [`salvage`](crate::salvage()) does not know these files.
fn corrupt(path: &Path, offset: u64, what: &'static str) -> Error {
    let hint = "import what `bbolt compact` can copy of it, or an older copy of the file";
    Error::Corrupt { path: path.to_path_buf(), offset, what, hint }
}

/// Opens the file with the shared lock of bbolt's readers. A bbolt writer holds the exclusive lock as long as it
/// has the file open. Closing the file unlocks.
pub(crate) fn open(path: &Path) -> Result<fs::File> {
    if !paths::is_file(&Disk, path)? {
        return Err(Error::NotFound { what: "file", path: path.to_path_buf(), given: None });
    }
    // If a FIFO has replaced the file since the check above, opening it without O_NONBLOCK would hang.
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let opened = fs::OpenOptions::new().read(true).custom_flags(flags).open(path);
    let file = opened.map_err(|source| Error::io("open", path, source))?;
    // Before the lock, which an agent may have.
    meta::refuse_store(path, &file)?;
    match fs2::FileExt::try_lock_shared(&file) {
        Ok(()) => Ok(file),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Err(Error::Locked {
            path: path.to_path_buf(),
            holder: None,
            waited: Duration::ZERO,
            hint: "stop the agent that writes to it, then import again",
        }),
        Err(source) => Err(Error::io("lock", path, source)),
    }
}
