//! The agent key: read from bytes, the environment or a file, wiped on drop, never shown.
//!
//! Derives nothing from it: `keys.rs` does. See *Keys* of FORMAT.md.

use std::fmt;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use zeroize::Zeroizing;

use crate::{Error, Result, events};

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

    /// Reads the key from an environment variable. One newline at its end (`\n` or `\r\n`) is not part of the key,
    /// so the same secret is the same key here and in [`from_file`](AgentKey::from_file).
    ///
    /// # Errors
    /// [`Error::Invalid`] if the variable is not set, or holds no key.
    ///
    /// ```no_run
    /// let key = backupy_state::AgentKey::from_env("BACKUPY_AGENT_KEY")?;
    /// # Ok::<(), backupy_state::Error>(())
    /// ```
    pub fn from_env(var: &str) -> Result<Self> {
        use std::os::unix::ffi::OsStringExt;

        let Some(value) = std::env::var_os(var) else {
            return Err(Error::Invalid { what: format!("the environment variable {var} is not set") });
        };
        let value = Zeroizing::new(value.into_vec());
        let key = without_newline(&value);
        if key.is_empty() {
            return Err(Error::Invalid { what: format!("the environment variable {var} is empty") });
        }
        AgentKey::new(key)
    }

    /// Reads the key from a file of at most 64 KiB, or from a pipe or a device. One newline at its end (`\n` or
    /// `\r\n`) is not part of the key.
    ///
    /// # Errors
    /// - [`Error::Io`]: the file cannot be read.
    /// - [`Error::Invalid`]: the file holds no key, or is over 64 KiB. Reading stops there, so a file without an
    ///   end is refused too.
    ///
    /// A regular file that every user can read causes a warning: an event of the feature `tracing`.
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
        let file = File::open(path).map_err(io_error)?;
        let metadata = file.metadata().map_err(io_error)?;
        let text = read_key_file(file).map_err(io_error)?;
        let invalid = |what| Error::Invalid { what: format!("the key file {} {what}", path.display()) };
        if text.len() > KEY_FILE_LEN_MAX {
            return Err(invalid("is over 64 KiB; give a file that holds only the key"));
        }
        let key = without_newline(&text);
        if key.is_empty() {
            return Err(invalid("is empty"));
        }
        if let Some(mode) = mode_if_readable_by_all(&metadata) {
            events::key_readable_by_all(path, mode);
        }
        AgentKey::new(key)
    }

    /// Whether the key looks like a line of text that was not trimmed. Such a key is allowed.
    pub(crate) fn ends_in_white_space(&self) -> bool {
        matches!(self.0.last(), Some(b' ' | b'\t' | b'\n' | b'\r'))
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
const KEY_FILE_LEN_MAX: usize = 64 << 10;
/// `S_IROTH` of POSIX.
const READABLE_BY_ALL: u32 = 0o004;

/// The mode of a key file that every user can read. A pipe or a device is no key file.
pub(crate) fn mode_if_readable_by_all(key_file: &Metadata) -> Option<u32> {
    let is_readable_by_all = key_file.is_file() && key_file.mode() & READABLE_BY_ALL != 0;
    is_readable_by_all.then(|| key_file.mode() & 0o7777)
}

/// Reads the whole file, or one byte over the limit.
fn read_key_file(file: impl Read) -> io::Result<Zeroizing<Vec<u8>>> {
    // Larger than what is read, so that `read_to_end` never moves the key to a larger buffer: it would not wipe
    // the old one.
    let mut text = Zeroizing::new(Vec::with_capacity(KEY_FILE_LEN_MAX + 2));
    file.take(KEY_FILE_LEN_MAX as u64 + 1).read_to_end(&mut text)?;
    Ok(text)
}

fn without_newline(text: &[u8]) -> &[u8] {
    text.strip_suffix(b"\r\n").or_else(|| text.strip_suffix(b"\n")).unwrap_or(text)
}

impl fmt::Debug for AgentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AgentKey(***)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives a byte at a time, and is interrupted before each.
    struct Slow {
        left: usize,
        is_interrupted: bool,
    }

    impl Read for Slow {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            self.is_interrupted = !self.is_interrupted;
            if self.is_interrupted {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let len = self.left.min(buf.len()).min(1);
            self.left -= len;
            buf[..len].fill(b'k');
            Ok(len)
        }
    }

    #[test]
    fn a_key_file_is_read_up_to_the_limit_into_one_buffer() {
        let max = KEY_FILE_LEN_MAX;
        for (len, read) in [(0, 0), (1, 1), (max, max), (max + 1, max + 1), (usize::MAX, max + 1)] {
            let text = read_key_file(Slow { left: len, is_interrupted: false }).unwrap();
            // A buffer that had grown would be larger.
            assert_eq!((text.len(), text.capacity()), (read, max + 2));
        }
        let text = read_key_file(io::repeat(b'k')).unwrap();
        assert_eq!((text.len(), text.capacity()), (max + 1, max + 2));
    }

    #[test]
    fn one_newline_is_not_part_of_the_key() {
        for (text, key) in [
            ("key", "key"),
            ("key\n", "key"),
            ("key\r\n", "key"),
            ("key\n\n", "key\n"),
            ("key\r", "key\r"),
            ("key\n\r", "key\n\r"),
            ("\nkey", "\nkey"),
            ("\r\n", ""),
            ("\n", ""),
            ("", ""),
        ] {
            assert_eq!(without_newline(text.as_bytes()), key.as_bytes(), "{text:?}");
        }
    }
}
