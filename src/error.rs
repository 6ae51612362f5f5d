//! The one error type. Says what happened, where, and the way out; never a payload, a key or a session.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What a call of this crate returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call failed, by what the caller can do next.
///
/// Paths, offsets and run ids may show in a message; payloads, configuration, session ids and keys never do.
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
    Invalid {
        /// What was wrong with it.
        what: String,
    },
    /// A value or a run id is over its limit. Nothing was written.
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Its length in bytes.
        len: u64,
        /// The limit in bytes.
        max: u64,
    },
    /// There is no store at the path, and the call does not create one.
    NotFound {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// Another handle holds the store, or another process the file that was to be imported. Wait, or end its process.
    Locked {
        /// The lock file, or the file that was to be imported.
        path: PathBuf,
        /// The process that holds it, as that process knows itself, when it could be read.
        holder: Option<u32>,
        /// How long the call waited.
        waited: Duration,
        /// What can be done about it.
        hint: &'static str,
    },
    /// What stands at the path is no store. It was not changed.
    NotAStore {
        /// The path.
        path: PathBuf,
        /// What it is instead.
        what: &'static str,
    },
    /// The store was written by a newer version of this crate. It was not changed; open it with that version.
    UnsupportedFormat {
        /// The log.
        path: PathBuf,
        /// Its format version.
        version: u16,
        /// Its feature flags.
        flags: u32,
    },
    /// The store is whole, but was written under another agent key. It was not changed.
    WrongKey {
        /// The log.
        path: PathBuf,
    },
    /// Bytes that had been durable no longer check. The log was not changed.
    Corrupt {
        /// The log.
        path: PathBuf,
        /// Where the damage begins, in bytes from the start of the file.
        offset: u64,
        /// What did not check.
        what: &'static str,
    },
    /// Bytes check by CRC but fail their seal or do not belong where they are: somebody changed them on purpose.
    Unauthentic {
        /// The log.
        path: PathBuf,
        /// Where the frame or the value begins, in bytes from the start of the file.
        offset: u64,
        /// What did not fit.
        what: &'static str,
        /// The job whose payload it is. [`ack_job`](crate::Store::ack_job) removes it; the other jobs stay
        /// reachable by `job` and `dequeue_jobs_after`.
        run_id: Option<String>,
    },
    /// The store is not the one, or not as new, as [`expect_at_least`](crate::OpenOptions::expect_at_least) demands:
    /// somebody put an older file back, or cut off its end. It was not changed.
    Stale {
        /// The log.
        path: PathBuf,
        /// In what it falls short.
        what: &'static str,
    },
    /// The disk, or the quota, is full. Nothing was written and the store goes on: free some space and call again.
    Full {
        /// The log.
        path: PathBuf,
    },
    /// An earlier write or sync failed, so the store takes no more writes. Reads go on; drop the handle and open anew.
    Failed {
        /// The log.
        path: PathBuf,
    },
    /// The operating system refused an operation. If it was a write or a sync of the log, the effect of the call is
    /// unknown until the store is opened anew.
    Io {
        /// What was tried.
        operation: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

impl Error {
    pub(crate) fn io(operation: &'static str, path: &Path, source: io::Error) -> Self {
        Error::Io { operation, path: path.to_path_buf(), source }
    }

    pub(crate) fn corrupt(path: &Path, offset: u64, what: &'static str) -> Self {
        Error::Corrupt { path: path.to_path_buf(), offset, what }
    }

    pub(crate) fn unauthentic(path: &Path, offset: u64, what: &'static str) -> Self {
        Error::Unauthentic { path: path.to_path_buf(), offset, what, run_id: None }
    }

    /// Says which job's payload failed its seal.
    pub(crate) fn about_job(self, id: String) -> Self {
        match self {
            Error::Unauthentic { path, offset, what, .. } => {
                Error::Unauthentic { path, offset, what, run_id: Some(id) }
            }
            error => error,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Invalid { what } => f.write_str(what),
            Error::TooLarge { what, len, max } => {
                write!(f, "{what} of {len} bytes is over the limit of {max} bytes; nothing was written")
            }
            Error::NotFound { path } => write!(f, "there is no store at {}", path.display()),
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
            Error::UnsupportedFormat { path, version, flags } => write!(
                f,
                "{} was written by a newer version of this crate (format {version}, feature flags {flags:#x}); \
                 open it with that one",
                path.display()
            ),
            Error::WrongKey { path } => {
                write!(f, "{} was written under another agent key; it was not changed", path.display())
            }
            Error::Corrupt { path, offset, what } => write!(
                f,
                "{} is damaged at offset {offset}: {what}; it was not changed, salvage what is left or restore it",
                path.display()
            ),
            Error::Unauthentic { path, offset, what, run_id } => {
                write!(f, "{} was tampered with at offset {offset}: {what}", path.display())?;
                match run_id {
                    Some(id) => write!(f, "; it is the payload of job {id:?}, which ack_job removes"),
                    None => f.write_str("; it was not changed, salvage what is left or restore it"),
                }
            }
            Error::Stale { path, what } => {
                write!(f, "{} is not as new as expected: {what}; it was not changed", path.display())
            }
            Error::Full { path } => write!(
                f,
                "no space is left on the disk for {}; nothing was written, free some space and call again",
                path.display()
            ),
            Error::Failed { path } => write!(
                f,
                "an earlier write to {} failed, so it takes no more; close the store and open it anew",
                path.display()
            ),
            Error::Io { operation, path, source } => {
                write!(f, "could not {operation} {}: {source}", path.display())
            }
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
