//! Reads the header page: decides what a file is, and whether the agent key is the right one.
//!
//! The key is checked before anything is decrypted. The header has an authenticator that depends on the agent key;
//! if the CRC of the header is right and its authenticator is not, the key is wrong. So a wrong key is never taken
//! for damage. One good copy of the header is enough. The base record in the same page is checked here too.
//!
//! Never writes. `format/header.rs` and `format/base.rs` have the layout of the page. Implements the rules H3 to
//! H9 of *Opening* of FORMAT.md, and *A damaged header*.

use std::path::Path;
use std::sync::{Arc, Mutex};

use super::file::LogFile;
use crate::crypto::keys::{self, Prk};
use crate::format::SaltedCrc;
use crate::format::base::{self, Base};
use crate::format::header::{self, FIRST_FRAME_AT, Header, MAGIC, ParsedHeaderPage};
use crate::storage::{self, File};
use crate::{AgentKey, Error, Result};

/// Reads the header page, checks the key and the base record, and derives the keys of the generation.
///
/// # Errors
/// `NotAStore`, `Corrupt`, `Unauthentic`, `UnsupportedFormat`, `WrongKey`, `Io`.
pub(crate) fn open_log(file: Arc<dyn File>, path: &Path, key: &AgentKey) -> Result<(LogFile, Header)> {
    open_unless(file, path, key, |_| false)
}

/// As [`open_log`], for a writer, which also refuses flags that a reader may ignore.
pub(crate) fn open_log_to_write(file: Arc<dyn File>, path: &Path, key: &AgentKey) -> Result<(LogFile, Header)> {
    open_unless(file, path, key, header::refuses_writers)
}

fn open_unless(
    file: Arc<dyn File>,
    path: &Path,
    key: &AgentKey,
    refuses: impl FnOnce(u32) -> bool,
) -> Result<(LogFile, Header)> {
    let pages = read_first_pages(&*file, path)?;
    // As flags that no reader may ignore, these come before the length of the file.
    if let ParsedHeaderPage::Valid(Header { flags, .. }) | ParsedHeaderPage::CutShort(Some(Header { flags, .. })) =
        header::parse_page(&pages)
        && refuses(flags)
    {
        return Err(Error::UnsupportedFormat { path: path.to_path_buf(), version: header::VERSION, flags });
    }
    let header = parse_first_pages(&pages, path)?;
    let (log, base_damage) = with_keys(file, path, key, &header, &pages)?;
    base_damage.map_or(Ok((log, header)), Err)
}

/// Checks the key against a header that has been read from `file`, and derives the keys of the generation. Also
/// returns the damage if the log has a base, but no copy of its base record can be used.
///
/// # Errors
/// `WrongKey`.
pub(crate) fn with_keys(
    file: Arc<dyn File>,
    path: &Path,
    key: &AgentKey,
    header: &Header,
    pages: &[u8],
) -> Result<(LogFile, Option<Error>)> {
    let Some(prk) = authentic_prk(key, header) else {
        return Err(Error::wrong_key(path, key.ends_in_white_space()));
    };
    let crc = SaltedCrc::new(&header.id.salt);
    let (base, damage) = match find_base(pages, header, Some(&prk), &crc, path) {
        Ok(base) => (base, None),
        Err(damage) => (None, Some(damage)),
    };
    let log = LogFile {
        path: path.to_path_buf(),
        file,
        unsynced_folder: Mutex::default(),
        id: header.id,
        sealer: prk.frame_sealer(&header.id),
        nonces: prk.nonce_key(&header.id),
        prk,
        crc,
        base,
    };
    Ok((log, damage))
}

/// The base of a log, from the first copy of its base record that can be used: with right CRC and zeros and, if
/// the key is given, the right MAC.
pub(crate) fn find_base(
    pages: &[u8],
    header: &Header,
    prk: Option<&Prk>,
    crc: &SaltedCrc,
    path: &Path,
) -> Result<Option<Base>> {
    if !header.has_base() {
        return Ok(None);
    }
    let mut has_right_crc = false;
    for copy in base::parse_copies(pages, crc) {
        has_right_crc = true;
        let is_authentic = prk.is_none_or(|prk| {
            let expected = prk.base_mac(&header.authenticated, &copy.authenticated);
            keys::equal_in_constant_time(&expected, &copy.mac)
        });
        if copy.base.is_some() && is_authentic {
            return Ok(copy.base);
        }
    }
    Err(match has_right_crc {
        true => Error::unauthentic(path, base::BASES_AT[0] as u64, "the base record failed authentication"),
        false => Error::corrupt(path, 0, "both copies of the base record are damaged"),
    })
}

/// The key material of the generation; `None` if the authenticator shows that the key is wrong.
fn authentic_prk(key: &AgentKey, header: &Header) -> Option<Prk> {
    let prk = Prk::extract(&header.id.salt, key);
    let expected = prk.authenticator(&header.authenticated);
    keys::equal_in_constant_time(&expected, &header.authenticator).then_some(prk)
}

/// Parses a header page for `verify` and salvage. If both copies are damaged, combines a header from their fields,
/// whose authenticator must be right for the key. Returns the header, and the damage if it was combined.
pub(crate) fn recover_header(pages: &[u8], path: &Path, key: &AgentKey) -> Result<(Header, Option<Error>)> {
    match parse_first_pages(pages, path) {
        Err(damage @ Error::Corrupt { .. }) => {
            match header::candidates(pages).find(|header| authentic_prk(key, header).is_some()) {
                Some(header) => Ok((header, Some(damage))),
                None => Err(damage),
            }
        }
        parsed => Ok((parsed?, None)),
    }
}

/// Whether the file begins as a log does. One that cannot be read does not.
pub(crate) fn begins_as_log(file: &dyn File) -> bool {
    let mut magic = [0; MAGIC.len()];
    storage::read_exact_at(file, &mut magic, 0).is_ok() && magic == MAGIC
}

/// Fails with `NotAStore` if the file has not the magic of a store.
pub(crate) fn refuse_foreign(file: &dyn File, path: &Path) -> Result<()> {
    match read_header(file, path) {
        Err(error @ (Error::NotAStore { .. } | Error::Io { .. })) => Err(error),
        _ => Ok(()),
    }
}

/// Reads and parses the header page. Needs no key, and so proves nothing about who wrote it.
pub(crate) fn read_header(file: &dyn File, path: &Path) -> Result<Header> {
    parse_first_pages(&read_first_pages(file, path)?, path)
}

/// Parses the header page in the first bytes of the file at `path`, and maps the verdict to an error.
pub(crate) fn parse_first_pages(pages: &[u8], path: &Path) -> Result<Header> {
    match header::parse_page(pages) {
        ParsedHeaderPage::Valid(header) => Ok(header),
        ParsedHeaderPage::NotAStore => {
            Err(Error::NotAStore { path: path.to_path_buf(), what: header::describe_foreign(pages) })
        }
        ParsedHeaderPage::CutShort(_) => {
            Err(Error::corrupt(path, 0, "the file ends before its first frame could begin"))
        }
        ParsedHeaderPage::Damaged => Err(Error::corrupt(path, 0, "both copies of the header are damaged")),
        ParsedHeaderPage::Unsupported { version, flags } => {
            Err(Error::UnsupportedFormat { path: path.to_path_buf(), version, flags })
        }
    }
}

/// Reads the header page and the mark page; if the file is shorter, all of it.
pub(crate) fn read_first_pages(file: &dyn File, path: &Path) -> Result<Vec<u8>> {
    let mut pages = vec![0; FIRST_FRAME_AT];
    let len = storage::read_at_most(file, &mut pages, 0)
        .map_err(|source| Error::io("read the header of", path, source))?;
    pages.truncate(len);
    Ok(pages)
}
