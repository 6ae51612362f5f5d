//! The crate's one error type. A message says what happened, where, and what to do about it. It never holds a
//! payload, a configuration, a session id or a key. `kind.rs` has the kinds of errors, without their fields.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::format::bucket::{Bucket, HEARTBEAT_KEY, SESSION_KEY};

mod kind;

pub use kind::ErrorKind;

/// What a call of this crate returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call failed. The variants differ by what the caller can do next.
///
/// A message may hold paths, offsets, run ids and data keys. It never holds payloads, configurations, session ids
/// or keys. That of [`Io`](Error::Io) does not repeat its source, which [`source`](std::error::Error::source)
/// returns: print both, as `anyhow` and the like do.
///
/// ```
/// use backupy_state::{AgentKey, Error, OpenOptions};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let folder = tempfile::tempdir()?;
/// let missing = OpenOptions::new().create(false).open(folder.path().join("state.db"), &AgentKey::new("key")?);
/// assert!(matches!(missing, Err(Error::NotFound { .. })));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The caller passed something that can never work, such as an empty run id. Nothing was written.
    #[non_exhaustive]
    Invalid {
        /// What is wrong with it.
        what: String,
    },
    /// A value, a run id or a data key is over its limit. Nothing was written.
    #[non_exhaustive]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Its length in bytes.
        len: u64,
        /// The limit in bytes.
        max: u64,
    },
    /// There is no store at the path, and the call does not create one; or there is no file to import.
    #[non_exhaustive]
    NotFound {
        /// What is missing: `store` or `file`.
        what: &'static str,
        /// Where the call looked for it.
        path: PathBuf,
        /// The path that the caller gave, if `.db` was added to it and there is a file, though no store, without.
        given: Option<PathBuf>,
    },
    /// Another handle or process has the store open, or has the file open that was to be imported.
    #[non_exhaustive]
    Locked {
        /// The lock file, the log, a file next to it that another process is writing, or the file that was to be
        /// imported.
        path: PathBuf,
        /// The process id that the holder wrote into the lock file. `None` if it could not be read. In another
        /// process id namespace, such as a container, the same process has another id.
        holder: Option<u32>,
        /// How long the call waited.
        waited: Duration,
        /// What the caller can do about it.
        hint: &'static str,
    },
    /// The file at the path is not a store. It was not changed.
    #[non_exhaustive]
    NotAStore {
        /// The path.
        path: PathBuf,
        /// What it is instead.
        what: &'static str,
    },
    /// A newer version of this crate wrote the store, or a draft of it that was never released. It was not
    /// changed. Open it with that version.
    #[non_exhaustive]
    UnsupportedFormat {
        /// The log.
        path: PathBuf,
        /// Its format version.
        version: u16,
        /// Its feature flags.
        flags: u32,
    },
    /// The store was written under another agent key. It was not changed.
    #[non_exhaustive]
    WrongKey {
        /// The log.
        path: PathBuf,
        /// What may be wrong with the key, such as white space at its end.
        hint: Option<&'static str>,
    },
    /// Bytes that were durable once no longer match their checksum. The log was not changed.
    #[non_exhaustive]
    Corrupt {
        /// The log.
        path: PathBuf,
        /// Where the damage begins, in bytes from the start of the file.
        offset: u64,
        /// What did not match.
        what: &'static str,
        /// What the caller can do about it.
        hint: &'static str,
    },
    /// Bytes match their checksum but fail authentication, or belong elsewhere in the log. No accident of a disk
    /// does this: either the file was edited, or parts of other files were copied into it. A value is also
    /// reported like this if it was damaged after its frame was last checked: [`verify`](crate::verify()) tells
    /// the two apart.
    #[non_exhaustive]
    Unauthentic {
        /// The log.
        path: PathBuf,
        /// Where the frame or the value begins, in bytes from the start of the file.
        offset: u64,
        /// What failed.
        what: &'static str,
        /// The job whose payload failed. [`ack_job`](crate::Store::ack_job) removes it. The other jobs stay
        /// reachable by `job` and `dequeue_jobs_after`.
        run_id: Option<String>,
        /// The data key whose value failed. [`delete_data`](crate::Store::delete_data) and
        /// [`put_data`](crate::Store::put_data) remove the value.
        data_key: Option<String>,
        /// What the caller can do about it.
        hint: &'static str,
    },
    /// The store is another one, or older, than [`expect_at_least`](crate::OpenOptions::expect_at_least) demands:
    /// an older file was put back, or the end of the file was cut off. It was not changed.
    #[non_exhaustive]
    Stale {
        /// The log.
        path: PathBuf,
        /// How it differs from what was expected.
        what: &'static str,
    },
    /// The disk, the quota or the limit on the length of a file is reached. Nothing was written, and the store
    /// stays usable: free some space and call again.
    #[non_exhaustive]
    Full {
        /// The log.
        path: PathBuf,
        /// What is full.
        what: &'static str,
    },
    /// The queue would be over one of its [limits](crate::QueueLimits). Nothing was written: call again when jobs
    /// have been acked.
    #[non_exhaustive]
    QueueFull {
        /// What is limited: `jobs` or `bytes of payload`.
        what: &'static str,
        /// How many the queue would hold.
        len: u64,
        /// How many it may hold.
        max: u64,
    },
    /// The handle accepts no more writes: an earlier write or sync failed, or this process is a child, by `fork`,
    /// of the one that opened the store. After a failure, reads still work; drop the handle and open the store
    /// again to write.
    #[non_exhaustive]
    Failed {
        /// The log.
        path: PathBuf,
        /// Why, and what to do about it.
        what: &'static str,
    },
    /// The file at the store's path is not the one that the store has open any more: it was moved, removed or
    /// replaced. The store accepts no more writes, and has left the file that is there now alone. What earlier
    /// calls wrote is in the file that was open, if that still has a name. Reads still work until the handle is
    /// dropped.
    #[non_exhaustive]
    Replaced {
        /// The path.
        path: PathBuf,
    },
    /// The store was [closed](crate::Store::close). Nothing was written.
    #[non_exhaustive]
    Closed {
        /// The log.
        path: PathBuf,
    },
    /// The operating system refused an operation. After a write or a sync of the log, the effect of the call is
    /// unknown until the store is opened again.
    #[non_exhaustive]
    Io {
        /// The operation, as it reads after "could not".
        operation: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
}

impl Error {
    /// The message with that of its source, for where there is room for one text.
    pub(crate) fn with_source(&self) -> impl fmt::Display {
        struct WithSource<'a>(&'a Error);
        impl fmt::Display for WithSource<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)?;
                std::error::Error::source(self.0).map_or(Ok(()), |source| write!(f, ": {source}"))
            }
        }
        WithSource(self)
    }

    pub(crate) fn io(operation: &'static str, path: &Path, source: io::Error) -> Self {
        Error::Io { operation, path: path.to_path_buf(), source }
    }

    pub(crate) fn failed(path: &Path) -> Self {
        let what = "a previous write failed; reopen the store to write again";
        Error::Failed { path: path.to_path_buf(), what }
    }

    pub(crate) fn wrong_key(path: &Path, ends_in_white_space: bool) -> Self {
        let hint = "the given key ends in white space: is that part of it?";
        Error::WrongKey { path: path.to_path_buf(), hint: ends_in_white_space.then_some(hint) }
    }

    pub(crate) fn corrupt(path: &Path, offset: u64, what: &'static str) -> Self {
        Error::Corrupt { path: path.to_path_buf(), offset, what, hint: SALVAGE }
    }

    pub(crate) fn not_found(path: &Path) -> Self {
        Error::NotFound { what: "store", path: path.to_path_buf(), given: None }
    }

    pub(crate) fn unauthentic(path: &Path, offset: u64, what: &'static str) -> Self {
        Error::Unauthentic {
            path: path.to_path_buf(),
            offset,
            what,
            run_id: None,
            data_key: None,
            hint: NOT_CHANGED,
        }
    }

    /// Adds the key whose value failed: a run id or a data key by name, and what removes or replaces the value.
    pub(crate) fn about(mut self, bucket: Bucket, key: &[u8]) -> Self {
        if let Error::Unauthentic { run_id, data_key, hint, .. } = &mut self {
            (*run_id, *data_key) = bucket.names(key);
            *hint = match (bucket, key) {
                (Bucket::Queue, _) => "acking the job removes it",
                (Bucket::Data, _) => "delete or replace it",
                (Bucket::Logs, _) => "this is a log event; discarding the unreadable ones removes it",
                (Bucket::Config, _) => "this is the configuration; saving one replaces it",
                (Bucket::Registry, SESSION_KEY) => "this is the session; saving one replaces it",
                (Bucket::Registry, HEARTBEAT_KEY) => "this is the heartbeat; recording one replaces it",
                (Bucket::Registry, _) => NOT_CHANGED,
            };
        }
        self
    }

    /// For a store that was opened with the previous key, and could not be changed to the new one.
    pub(crate) fn before_rekey(mut self) -> Self {
        if let Error::Unauthentic { hint, .. } = &mut self {
            *hint =
                "the store is still under the previous key; open it with that one to remove or replace the value";
        }
        self
    }
}

/// Why a snapshot does not return what it has read. The file itself is not at fault.
pub(crate) const OVERTAKEN: &str = "the log no longer has the last frame of this snapshot; refresh it";

const SALVAGE: &str = "salvage it or restore a backup";
/// For an error about which nothing less can be done.
const NOT_CHANGED: &str = "it was not changed; salvage it or restore a backup";

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Invalid { what } => f.write_str(what),
            Error::TooLarge { what, len, max } => {
                write!(f, "{what} of {len} bytes is over the limit of {max} bytes; nothing was written")
            }
            Error::NotFound { what, path, given } => {
                write!(f, "there is no {what} at {}", path.display())?;
                let Some(given) = given else { return Ok(()) };
                write!(f, "; `.db` was added to the path, and {} is not a store either", given.display())
            }
            Error::Locked { path, holder, waited, hint } => {
                write!(f, "{} is in use", path.display())?;
                if let Some(pid) = holder {
                    write!(f, " by process {pid}")?;
                }
                write!(f, "; waited {:.1} s; {hint}", waited.as_secs_f64())
            }
            Error::NotAStore { path, what } => {
                write!(f, "{} is not a store but {what}; it was not changed", path.display())
            }
            Error::UnsupportedFormat { path, version: 1, .. } => write!(
                f,
                "{} is in format version 1, a draft that was never released; it was not changed; only the version \
                 of this crate that wrote it can open it",
                path.display()
            ),
            Error::UnsupportedFormat { path, version, flags } => write!(
                f,
                "{} was written by a newer version of this crate (format {version}, feature flags {flags:#x}); \
                 open it with that version",
                path.display()
            ),
            Error::WrongKey { path, hint } => {
                write!(f, "{} was written under another agent key; it was not changed", path.display())?;
                hint.map_or(Ok(()), |hint| write!(f, "; {hint}"))
            }
            Error::Corrupt { path, offset, what, hint } => {
                write!(f, "{} is damaged at offset {offset}: {what}; it was not changed; {hint}", path.display())
            }
            Error::Unauthentic { path, what: OVERTAKEN, .. } => write!(f, "{}: {OVERTAKEN}", path.display()),
            Error::Unauthentic { path, offset, what, run_id, data_key, hint } => {
                write!(f, "{} failed authentication at offset {offset}: {what}", path.display())?;
                match (run_id, data_key) {
                    (Some(id), _) => write!(f, "; this is the payload of job {id:?}; {hint}"),
                    (_, Some(key)) => write!(f, "; this is the value of data key {key:?}; {hint}"),
                    _ => write!(f, "; {hint}"),
                }
            }
            Error::Stale { path, what } => {
                write!(f, "{} does not match the anchor: {what}; it was not changed", path.display())
            }
            Error::Full { path, what } => {
                write!(f, "{what} for {}; nothing was written; free some space and try again", path.display())
            }
            Error::QueueFull { what, len, max } => write!(
                f,
                "the queue would hold {len} {what}, and its limit is {max}; nothing was written; ack jobs and try \
                 again"
            ),
            Error::Failed { path, what } => write!(f, "cannot write to {}: {what}", path.display()),
            Error::Replaced { path } => write!(
                f,
                "{} is not the file that the store has open: it was moved, removed or replaced; the store accepts \
                 no more writes, and has not changed what is there now; if the file it had open was moved, and no \
                 other agent uses the path, move it back; then open the store again",
                path.display()
            ),
            Error::Closed { path } => write!(f, "{} was closed; open it again", path.display()),
            Error::Io { operation, path, .. } => write!(f, "could not {operation} {}", path.display()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}
