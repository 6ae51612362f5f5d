//! The agent key: read from bytes, the environment or a file, wiped on drop, never shown.
//!
//! Derives nothing from it: `seal.rs` does. See *Keys* of FORMAT.md.

use std::fmt;
use std::fs;
use std::path::Path;

use zeroize::Zeroizing;

use crate::{Error, Result};

/// The agent key: one byte or more. It is wiped on drop, and `Debug` prints `AgentKey(***)`.
///
/// The store derives its encryption keys from it with HKDF-SHA-256. HKDF does not strengthen a weak key: use 32
/// random bytes, not a password.
///
/// ```
/// let key = backupy_state::AgentKey::new("bkpy_0123456789abcdef0123456789abcdef")?;
/// assert_eq!(format!("{key:?}"), "AgentKey(***)");
/// # Ok::<(), backupy_state::Error>(())
/// ```
pub struct AgentKey(Zeroizing<Vec<u8>>);

impl AgentKey {
    /// Copies the key from `bytes`, unchanged. The caller wipes `bytes` if needed.
    ///
    /// # Errors
    /// [`Error::Invalid`] if `bytes` is empty.
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

    /// Reads the key from an environment variable, unchanged: a trailing newline is part of the key.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the variable is not set or empty.
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

    /// Reads the key from a file of at most 64 KiB. One newline at its end (`\n` or `\r\n`) is not part of the
    /// key.
    ///
    /// # Errors
    /// - [`Error::Io`]: the file cannot be read.
    /// - [`Error::TooLarge`]: the file is over 64 KiB, so it is not a key file.
    /// - [`Error::Invalid`]: the file holds no key.
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

    /// In place of `Clone`, so that each copy of a key is deliberate.
    pub(crate) fn duplicate(&self) -> Self {
        AgentKey(self.0.clone())
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// 64 KiB: far more than any key, and little to read if the path names the wrong file.
const KEY_FILE_LEN_MAX: u64 = 64 << 10;

impl fmt::Debug for AgentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AgentKey(***)")
    }
}
