//! The kinds of errors: what is left of an [`Error`] without its fields, to count, to compare and to decide.

use std::fmt;

use super::Error;

/// Which kind of failure an [`Error`] is, to count and to compare: [`Error::kind`] returns it.
///
/// It is displayed in words, such as `wrong key`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum ErrorKind {
    /// [`Error::Invalid`]
    Invalid,
    /// [`Error::TooLarge`]
    TooLarge,
    /// [`Error::NotFound`]
    NotFound,
    /// [`Error::Locked`]
    Locked,
    /// [`Error::NotAStore`]
    NotAStore,
    /// [`Error::UnsupportedFormat`]
    UnsupportedFormat,
    /// [`Error::WrongKey`]
    WrongKey,
    /// [`Error::Corrupt`]
    Corrupt,
    /// [`Error::Unauthentic`]
    Unauthentic,
    /// [`Error::Stale`]
    Stale,
    /// [`Error::Full`]
    Full,
    /// [`Error::QueueFull`]
    QueueFull,
    /// [`Error::Failed`]
    Failed,
    /// [`Error::Replaced`]
    Replaced,
    /// [`Error::Closed`]
    Closed,
    /// [`Error::Io`]
    Io,
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            ErrorKind::Invalid => "invalid",
            ErrorKind::TooLarge => "too large",
            ErrorKind::NotFound => "not found",
            ErrorKind::Locked => "locked",
            ErrorKind::NotAStore => "not a store",
            ErrorKind::UnsupportedFormat => "unsupported format",
            ErrorKind::WrongKey => "wrong key",
            ErrorKind::Corrupt => "corrupt",
            ErrorKind::Unauthentic => "unauthentic",
            ErrorKind::Stale => "stale",
            ErrorKind::Full => "full",
            ErrorKind::QueueFull => "queue full",
            ErrorKind::Failed => "failed",
            ErrorKind::Replaced => "replaced",
            ErrorKind::Closed => "closed",
            ErrorKind::Io => "I/O",
        })
    }
}

impl Error {
    /// Returns which kind of failure it is.
    ///
    /// ```
    /// use backupy_state::{AgentKey, ErrorKind};
    ///
    /// let error = AgentKey::new("").unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::Invalid);
    /// println!("{} errors: {error}", error.kind());
    /// ```
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::Invalid { .. } => ErrorKind::Invalid,
            Error::TooLarge { .. } => ErrorKind::TooLarge,
            Error::NotFound { .. } => ErrorKind::NotFound,
            Error::Locked { .. } => ErrorKind::Locked,
            Error::NotAStore { .. } => ErrorKind::NotAStore,
            Error::UnsupportedFormat { .. } => ErrorKind::UnsupportedFormat,
            Error::WrongKey { .. } => ErrorKind::WrongKey,
            Error::Corrupt { .. } => ErrorKind::Corrupt,
            Error::Unauthentic { .. } => ErrorKind::Unauthentic,
            Error::Stale { .. } => ErrorKind::Stale,
            Error::Full { .. } => ErrorKind::Full,
            Error::QueueFull { .. } => ErrorKind::QueueFull,
            Error::Failed { .. } => ErrorKind::Failed,
            Error::Replaced { .. } => ErrorKind::Replaced,
            Error::Closed { .. } => ErrorKind::Closed,
            Error::Io { .. } => ErrorKind::Io,
        }
    }

    /// Returns whether the same call can succeed later without any other change to the program: the disk or the
    /// queue was full, or another process had the lock. Nothing was written.
    ///
    /// ```
    /// # use backupy_state::{AgentKey, OpenOptions, Store};
    /// # use std::time::Duration;
    /// # let folder = tempfile::tempdir()?;
    /// # let (path, key) = (folder.path().join("state.db"), AgentKey::new("key")?);
    /// let store = Store::open(&path, &key)?;
    /// let second = OpenOptions::new().lock_timeout(Duration::ZERO).open(&path, &key);
    /// assert!(second.unwrap_err().is_retryable());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Error::Full { .. } | Error::QueueFull { .. } | Error::Locked { .. })
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::path::Path;
    use std::time::Duration;

    use super::*;

    #[test]
    fn only_a_full_disk_a_full_queue_and_a_lock_are_worth_another_try() {
        let path = Path::new("state.db");
        let what = "reason";
        let errors = [
            Error::Invalid { what: what.to_owned() },
            Error::TooLarge { what, len: 2, max: 1 },
            Error::not_found(path),
            Error::Locked { path: path.into(), holder: None, waited: Duration::ZERO, hint: what },
            Error::NotAStore { path: path.into(), what },
            Error::UnsupportedFormat { path: path.into(), version: 3, flags: 0 },
            Error::wrong_key(path, false),
            Error::corrupt(path, 0, what),
            Error::unauthentic(path, 0, what),
            Error::Stale { path: path.into(), what },
            Error::Full { path: path.into(), what },
            Error::QueueFull { what, len: 2, max: 1 },
            Error::failed(path),
            Error::Replaced { path: path.into() },
            Error::Closed { path: path.into() },
            Error::io("read", path, io::ErrorKind::Other.into()),
        ];
        let retryable: Vec<_> = errors.iter().filter(|error| error.is_retryable()).map(Error::kind).collect();
        assert_eq!(retryable, [ErrorKind::Locked, ErrorKind::Full, ErrorKind::QueueFull]);
        let mut names: Vec<_> = errors.iter().map(|error| error.kind().to_string()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), errors.len(), "each kind has a name of its own: {names:?}");
    }
}
