//! The names of the files next to a log, which belong to the store: `.lock`, `.new`, `.torn-<n>`, `.damaged-<n>`,
//! `.index` and `.index.new`.
//!
//! Only names, no file is looked at. A name never proves what a file is: who removes or replaces one of these
//! files looks at the file first.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// What is appended to the name of a log.
pub(crate) const LOCK: &str = ".lock";
pub(crate) const NEW: &str = ".new";
pub(crate) const INDEX: &str = ".index";
pub(crate) const INDEX_NEW: &str = ".index.new";
const TORN: &str = ".torn";
const DAMAGED: &str = ".damaged";

/// The longest of these suffixes: `.torn-` and a number of ten digits. A log whose name leaves no space for it is
/// refused.
pub(crate) const SUFFIX_LEN_MAX: usize = 16;
/// The longest name of a file.
pub(crate) const NAME_LEN_MAX: usize = 255;

/// The longest path.
pub(crate) const PATH_LEN_MAX: usize = 4095;

/// A kind of file next to a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OwnName {
    /// A torn tail or a damaged log that was quarantined. It may be read.
    Quarantined,
    /// A file that the store works with.
    Working,
}

/// The path with `suffix` appended to its file name.
pub(crate) fn sibling(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// The name of the quarantined torn tail with this number.
pub(crate) fn torn(path: &Path, number: u32) -> PathBuf {
    sibling(path, &format!("{TORN}-{number}"))
}

/// The name of the quarantined damaged log with this number.
pub(crate) fn damaged(path: &Path, number: u32) -> PathBuf {
    sibling(path, &format!("{DAMAGED}-{number}"))
}

/// The number of a torn tail of the log at `path`, if `name` is one's name.
pub(crate) fn torn_number(path: &Path, name: &OsStr) -> Option<u32> {
    let of_log = path.file_name()?.as_encoded_bytes();
    let number = name.as_encoded_bytes().strip_prefix(of_log)?.strip_prefix(TORN.as_bytes())?;
    std::str::from_utf8(number.strip_prefix(b"-")?).ok()?.parse().ok()
}

/// Which file next to a log has this name, if one has. The name of a log has an extension, so `state.db.new`
/// belongs to `state.db`, and `state.new` to no log.
pub(crate) fn own_name(path: &Path) -> Option<OwnName> {
    Some(split(path)?.1)
}

/// The name of the log that the path means, or from which the quarantined file comes that it means.
pub(crate) fn log_name(path: &Path) -> Option<&[u8]> {
    match split(path) {
        Some((log, OwnName::Quarantined)) => Some(log),
        _ => Some(path.file_name()?.as_encoded_bytes()),
    }
}

/// Splits the name of a file next to a log into the log's name and what the file is.
fn split(path: &Path) -> Option<(&[u8], OwnName)> {
    let name = path.file_name()?.as_encoded_bytes();
    let (log, kind) = [LOCK, NEW, INDEX]
        .into_iter()
        .find_map(|suffix| Some((name.strip_suffix(suffix.as_bytes())?, OwnName::Working)))
        .or_else(|| {
            let digits = name.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
            let (stem, _) = name.split_at(name.len() - digits);
            let unnumbered = stem.strip_suffix(b"-").filter(|_| digits > 0).unwrap_or(name);
            let log = [TORN, DAMAGED].into_iter().find_map(|suffix| unnumbered.strip_suffix(suffix.as_bytes()))?;
            Some((log, OwnName::Quarantined))
        })?;
    has_extension(log).then_some((log, kind))
}

fn has_extension(name: &[u8]) -> bool {
    name.iter().skip(1).any(|&byte| byte == b'.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_belongs_to_a_log_only_if_the_rest_of_it_is_the_name_of_one() {
        let own = |name: &str| own_name(Path::new(name));
        for name in
            ["state.db.lock", "state.db.new", "/a/state.db.index", "state.db.index.new", "s.db.damaged-1.new"]
        {
            assert_eq!(own(name), Some(OwnName::Working), "{name}");
        }
        for name in ["state.db.torn-1", "state.db.torn", "state.db.damaged-12", "/a.b/state.db.damaged"] {
            assert_eq!(own(name), Some(OwnName::Quarantined), "{name}");
        }
        for name in
            ["state.db", "state.new", "state.lock", "torn-1", ".torn-1", "new", "state.db.torn-", "a.db.new.db"]
        {
            assert_eq!(own(name), None, "{name}");
        }
    }

    #[test]
    fn a_quarantined_file_leads_to_its_log() {
        for (name, log) in [
            ("/a/state.db", "state.db"),
            ("state.db.damaged-1", "state.db"),
            ("state.db.torn-12", "state.db"),
            ("state.db.new", "state.db.new"),
        ] {
            assert_eq!(log_name(Path::new(name)), Some(log.as_bytes()), "{name}");
        }
    }

    #[test]
    fn the_number_of_a_torn_tail_is_read_from_its_name() {
        let number = |name: &str| torn_number(Path::new("/a/state.db"), OsStr::new(name));
        assert_eq!(number("state.db.torn-1"), Some(1));
        assert_eq!(number("state.db.torn-4294967295"), Some(u32::MAX));
        for name in
            ["state.db.torn", "state.db.torn-", "other.db.torn-1", "state.db.torn-1x", "state.db.torn-4294967296"]
        {
            assert_eq!(number(name), None, "{name}");
        }
        assert_eq!(torn(Path::new("x"), u32::MAX).as_os_str().len(), 1 + SUFFIX_LEN_MAX);
    }
}
