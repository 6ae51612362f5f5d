//! The failure of a command: its message and its exit code.

use std::fmt;
use std::process::ExitCode;

use backupy_state::{Error, ErrorKind};
use serde::Serialize;

use crate::advice::for_a_shell;
use crate::line::print_to_stderr;

/// The exit codes, which `--help` documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    Success = 0,
    Failure = 1,
    Usage = 2,
    Damage = 3,
    WrongKey = 4,
    Locked = 5,
    NotFound = 6,
    NotAStore = 7,
}

/// For `--help` and the manual pages. `docs/command-line.md` has them too.
pub(crate) const EXIT_CODES: [(&str, &str); 8] = [
    ("0", "success"),
    ("1", "failure"),
    ("2", "usage: invalid arguments, no key, or a target that exists"),
    ("3", "damage: damaged, forged or lost data, or a store older than `anchor --expect` allows"),
    ("4", "wrong key"),
    ("5", "locked by another process"),
    ("6", "not found: the store, or what was asked for in it"),
    ("7", "not a store, or a store in an unsupported format"),
];

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

/// One sentence for stderr, the exit code, and for JSON a name of what is wrong.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Failure {
    #[serde(skip)]
    pub(crate) exit: Exit,
    kind: Kind,
    message: String,
}

/// What JSON has as the kind of a failure.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(untagged)]
enum Kind {
    /// Of an error of the library.
    Error(ErrorKind),
    /// Of any other failure.
    Exit(&'static str),
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Failure { exit, kind: Kind::Exit(exit.kind()), message: message.into() }
    }

    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Failure::new(Exit::Failure, message)
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Failure::new(Exit::Usage, message)
    }

    /// The same failure with another exit code.
    pub(crate) fn exiting(self, exit: Exit) -> Self {
        Failure { exit, ..self }
    }

    /// Adds a clause to the message.
    pub(crate) fn and(self, more: &str) -> Self {
        Failure { message: format!("{}; {more}", self.message), ..self }
    }

    /// Prints the message to stderr. If that fails, only the exit code reports the failure.
    pub(crate) fn print(&self) {
        print_to_stderr(&format!("backupy-state: {self}"));
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure { exit: Exit::of(&error), kind: Kind::Error(error.kind()), message: for_a_shell(&error) }
    }
}

/// The message of an error, and that of its source.
pub(crate) fn with_source(error: &Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

impl Exit {
    /// The kind of a failure that no error of the library has caused.
    fn kind(self) -> &'static str {
        match self {
            Exit::Success | Exit::Failure => "failure",
            Exit::Usage => "usage",
            Exit::Damage => "damage",
            Exit::WrongKey => "wrong_key",
            Exit::Locked => "locked",
            Exit::NotFound => "not_found",
            Exit::NotAStore => "not_a_store",
        }
    }

    pub(crate) fn of(error: &Error) -> Self {
        match error {
            Error::Invalid { .. } => Exit::Usage,
            Error::Corrupt { .. } | Error::Unauthentic { .. } | Error::Stale { .. } => Exit::Damage,
            Error::WrongKey { .. } => Exit::WrongKey,
            Error::Locked { .. } => Exit::Locked,
            Error::NotFound { .. } => Exit::NotFound,
            Error::NotAStore { .. } | Error::UnsupportedFormat { .. } => Exit::NotAStore,
            // If the folder does not exist, neither does the store.
            Error::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => Exit::NotFound,
            _ => Exit::Failure,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use backupy_state::{AgentKey, Store};

    use super::*;

    #[test]
    fn a_store_whose_file_is_replaced_is_a_failure() -> Result<(), Box<dyn std::error::Error>> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("state.db");
        let store = Store::open(&path, &AgentKey::new("key")?)?;
        fs::remove_file(&path)?;
        let error = store.record_heartbeat(1).expect_err("the file is gone");
        assert!(matches!(error, Error::Replaced { .. }), "{error:?}");
        assert_eq!(Exit::of(&error), Exit::Failure);
        Ok(())
    }
}
