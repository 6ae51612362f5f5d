//! Reading the header page: what the file is, and whether the key is right.

use std::path::Path;

use super::file::LogFile;
use crate::crypto::seal::{self, Prk};
use crate::format::SaltedCrc;
use crate::format::header::{self, HEADER_PAGE_LEN, Header, ParsedHeaderPage};
use crate::storage::{self, File};
use crate::{AgentKey, Error, Result};

/// Reads the header page and derives the keys: what stands here, and is the key right?
pub(crate) fn open_log(file: Box<dyn File>, path: &Path, key: &AgentKey) -> Result<(LogFile, Header)> {
    let header = read_header(&*file, path)?;
    Ok((with_keys(file, path, key, &header)?, header))
}

/// The log with the keys of its header.
pub(crate) fn with_keys(file: Box<dyn File>, path: &Path, key: &AgentKey, header: &Header) -> Result<LogFile> {
    let Some(prk) = authentic_prk(key, header) else {
        return Err(Error::WrongKey { path: path.to_path_buf() });
    };
    let sealer = prk.frame_sealer(&header.id);
    let crc = SaltedCrc::new(&header.id.salt);
    Ok(LogFile { path: path.to_path_buf(), file, sealer, crc })
}

fn authentic_prk(key: &AgentKey, header: &Header) -> Option<Prk> {
    let prk = Prk::extract(&header.id.salt, key);
    let expected = prk.authenticator(&header.authenticated);
    seal::equal_in_constant_time(&expected, &header.authenticator).then_some(prk)
}

/// The header, for whoever goes on behind damage: where no copy checks, one is put together from both, if the key proves it
/// right. Returns the damage too.
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

/// Reads the header page without a key.
pub(crate) fn read_header(file: &dyn File, path: &Path) -> Result<Header> {
    parse_header_page(&read_header_page(file, path)?, path)
}

pub(crate) fn parse_header_page(page: &[u8], path: &Path) -> Result<Header> {
    let path = path.to_path_buf();
    match header::parse_page(page) {
        ParsedHeaderPage::Valid(header) => Ok(header),
        ParsedHeaderPage::NotAStore => Err(Error::NotAStore { path, what: header::describe_foreign(page) }),
        ParsedHeaderPage::Damaged => {
            Err(Error::Corrupt { path, offset: 0, what: "neither copy of the header checks" })
        }
        ParsedHeaderPage::Unsupported { version, flags } => Err(Error::UnsupportedFormat { path, version, flags }),
    }
}

pub(crate) fn read_header_page(file: &dyn File, path: &Path) -> Result<Vec<u8>> {
    let mut page = vec![0; HEADER_PAGE_LEN];
    let len = storage::read_at_most(file, &mut page, 0)
        .map_err(|source| Error::io("read the header of", path, source))?;
    page.truncate(len);
    Ok(page)
}
