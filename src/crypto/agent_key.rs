//! The agent key: where it comes from, and that it never shows.

use std::fmt;
use std::fs;
use std::path::Path;

use zeroize::Zeroizing;

use crate::{Error, Result};

/// The agent key: any non-empty bytes. It is wiped on drop, and `Debug` prints `AgentKey(***)`.
///
/// The store derives its keys from it by HKDF-SHA-256, which adds no strength: take at least 32 random bytes, not a
/// password.
///
/// ```
/// let key = backupy_state::AgentKey::new("bkpy_0123456789abcdef0123456789abcdef")?;
/// assert_eq!(format!("{key:?}"), "AgentKey(***)");
/// # Ok::<(), backupy_state::Error>(())
/// ```
pub struct AgentKey(Zeroizing<Vec<u8>>);

impl AgentKey {
    /// Takes the key as it is.
    ///
    /// # Errors
    /// [`Error::Invalid`] when it is empty.
    ///
    /// ```
    /// use backupy_state::{AgentKey, Error};
    ///
    /// let key = AgentKey::new([0x5A; 32])?;
    /// assert!(matches!(AgentKey::new(""), Err(Error::Invalid { .. })));
    /// # Ok::<(), Error>(())
    /// ```
    pub fn new(bytes: impl AsRef<[u8]>) -> Result<Self> {
        let bytes = bytes.as_ref();
        if bytes.is_empty() {
            return Err(Error::Invalid { what: "the agent key is empty".to_owned() });
        }
        Ok(AgentKey(Zeroizing::new(bytes.to_vec())))
    }

    /// Takes the key from an environment variable, byte for byte.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the variable is not set or empty.
    ///
    /// ```no_run
    /// let key = backupy_state::AgentKey::from_env("BACKUPY_AGENT_KEY")?;
    /// # Ok::<(), backupy_state::Error>(())
    /// ```
    pub fn from_env(var: &str) -> Result<Self> {
        use std::os::unix::ffi::OsStringExt;

        match std::env::var_os(var) {
            Some(value) if !value.is_empty() => AgentKey::new(Zeroizing::new(value.into_vec())),
            Some(_) => Err(Error::Invalid { what: format!("the environment variable {var} is empty") }),
            None => Err(Error::Invalid { what: format!("the environment variable {var} is not set") }),
        }
    }

    /// Takes the key from a file; one newline at its end (`\n` or `\r\n`) is stripped.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be read, [`Error::TooLarge`] when it is over 64 KiB (a key is not), and
    /// [`Error::Invalid`] when nothing is left.
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("agent.key");
    /// std::fs::write(&path, "bkpy_0123456789abcdef0123456789abcdef\n")?;
    /// let key = backupy_state::AgentKey::from_file(&path)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let io_error = |source| Error::io("read the key file", path, source);
        let len = fs::metadata(path).map_err(io_error)?.len();
        if len > KEY_FILE_LEN_MAX {
            return Err(Error::TooLarge { what: "a key file", len, max: KEY_FILE_LEN_MAX });
        }
        let text = Zeroizing::new(fs::read(path).map_err(io_error)?);
        let line = text.strip_suffix(b"\n").unwrap_or(&text);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            return Err(Error::Invalid { what: format!("the key file {} is empty", path.display()) });
        }
        AgentKey::new(line)
    }

    /// No `Clone`: copies of a key are made on purpose.
    pub(crate) fn duplicate(&self) -> Self {
        AgentKey(self.0.clone())
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Far over any key, far under what a mistaken path could make us read.
const KEY_FILE_LEN_MAX: u64 = 64 << 10;

impl fmt::Debug for AgentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AgentKey(***)")
    }
}
