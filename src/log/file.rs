//! An open log file with the keys of its generation, and positions in it.

use std::io;
use std::path::PathBuf;

use super::group_commit::FrameId;
use crate::Error;
use crate::crypto::seal::Sealer;
use crate::crypto::{TAG_LEN, Tag};
use crate::format::SaltedCrc;
use crate::format::header::HEADER_PAGE_LEN;
use crate::storage::File;

/// An open log file with the keys of its generation.
pub(crate) struct LogFile {
    pub(crate) path: PathBuf,
    pub(crate) file: Box<dyn File>,
    pub(crate) sealer: Sealer,
    pub(crate) crc: SaltedCrc,
}

impl LogFile {
    pub(crate) fn io(&self, operation: &'static str) -> impl Fn(io::Error) -> Error {
        move |source| Error::io(operation, &self.path, source)
    }
}

/// Where the log ends, and what the next frame is chained to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LogPosition {
    pub(crate) end: u64,
    pub(crate) seq: u64,
    pub(crate) chain: Tag,
}

impl LogPosition {
    /// The position of the first frame. It is chained to the first 16 bytes of the header's authenticator.
    pub(crate) fn first(authenticator: &[u8; 32]) -> Self {
        let mut chain = [0; TAG_LEN];
        chain.copy_from_slice(&authenticator[..TAG_LEN]);
        LogPosition { end: HEADER_PAGE_LEN as u64, seq: 0, chain }
    }

    pub(crate) fn frame_id(&self) -> FrameId {
        FrameId { seq: self.seq, tag: self.chain }
    }
}
