//! Reads the header page: decides what a file is, and whether the agent key is the right one.
//!
//! The key is checked before anything is decrypted. The header has an authenticator that depends on the agent key;
//! if the CRC of the header is right and its authenticator is not, the key is wrong. So a wrong key is never taken
//! for damage. One good copy of the header is enough.
//!
//! Never writes. `format/header.rs` has the layout of the page. Implements the rules H3 to H7 of *Opening* of
//! FORMAT.md, and *A damaged header*.

use std::path::Path;
use std::sync::{Arc, Mutex};

use super::file::LogFile;
use crate::crypto::seal::{self, Prk};
use crate::format::SaltedCrc;
use crate::format::header::{self, HEADER_PAGE_LEN, Header, MAGIC, ParsedHeaderPage};
use crate::storage::{self, File};
use crate::{AgentKey, Error, Result};

/// Reads the header page, checks the key, and derives the keys of the generation.
///
/// # Errors
/// `NotAStore`, `Corrupt`, `UnsupportedFormat`, `WrongKey`, `Io`.
pub(crate) fn open_log(file: Arc<dyn File>, path: &Path, key: &AgentKey) -> Result<(LogFile, Header)> {
    let header = read_header(&*file, path)?;
    Ok((with_keys(file, path, key, &header)?, header))
}

/// Checks the key against a header that has been read from `file`, and derives the keys of the generation. Fails
/// with `WrongKey`.
pub(crate) fn with_keys(file: Arc<dyn File>, path: &Path, key: &AgentKey, header: &Header) -> Result<LogFile> {
    let Some(prk) = authentic_prk(key, header) else {
        return Err(Error::wrong_key(path, key.ends_in_white_space()));
    };
    let sealer = prk.frame_sealer(&header.id);
    let crc = SaltedCrc::new(&header.id.salt);
    Ok(LogFile { path: path.to_path_buf(), file, unsynced_folder: Mutex::default(), sealer, crc })
}

/// The key material of the generation; `None` if the authenticator shows that the key is wrong.
fn authentic_prk(key: &AgentKey, header: &Header) -> Option<Prk> {
    let prk = Prk::extract(&header.id.salt, key);
    let expected = prk.authenticator(&header.authenticated);
    seal::equal_in_constant_time(&expected, &header.authenticator).then_some(prk)
}

/// Parses a header page for `verify` and salvage. If both copies are damaged, combines a header from their fields,
/// whose authenticator must be right for the key. Returns the header, and the damage if it was combined.
pub(crate) fn recover_header(page: &[u8], path: &Path, key: &AgentKey) -> Result<(Header, Option<Error>)> {
    match parse_header_page(page, path) {
        Err(damage @ Error::Corrupt { .. }) => {
            match header::candidates(page).find(|header| authentic_prk(key, header).is_some()) {
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
    parse_header_page(&read_header_page(file, path)?, path)
}

/// Parses the header page of the file at `path`, and maps the verdict to an error.
pub(crate) fn parse_header_page(page: &[u8], path: &Path) -> Result<Header> {
    let path = path.to_path_buf();
    match header::parse_page(page) {
        ParsedHeaderPage::Valid(header) => Ok(header),
        ParsedHeaderPage::NotAStore => Err(Error::NotAStore { path, what: header::describe_foreign(page) }),
        ParsedHeaderPage::Damaged => {
            Err(Error::Corrupt { path, offset: 0, what: "both copies of the header are damaged" })
        }
        ParsedHeaderPage::Unsupported { version, flags } => Err(Error::UnsupportedFormat { path, version, flags }),
    }
}

/// Reads the header page; if the file is shorter, all of it.
pub(crate) fn read_header_page(file: &dyn File, path: &Path) -> Result<Vec<u8>> {
    let mut page = vec![0; HEADER_PAGE_LEN];
    let len = storage::read_at_most(file, &mut page, 0)
        .map_err(|source| Error::io("read the header of", path, source))?;
    page.truncate(len);
    Ok(page)
}
