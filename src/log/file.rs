//! An open log file with the keys of its generation, and positions in it.
//!
//! The other files of `log/` share a [`LogFile`], and note where they are with a [`LogPosition`]. Nothing here
//! reads or writes the file.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use super::group_commit::FrameId;
use crate::Error;
use crate::crypto::seal::Sealer;
use crate::crypto::{TAG_LEN, Tag};
use crate::format::SaltedCrc;
use crate::format::header::HEADER_PAGE_LEN;
use crate::storage::{File, Folder};

/// An open log file, with the keys that its header and the agent key give.
pub(crate) struct LogFile {
    pub(crate) path: PathBuf,
    /// The one handle of this process. It has the lock, if the log is open to write.
    pub(crate) file: Arc<dyn File>,
    /// The folder, until the name of the file is known to be durable. Whoever put a log in its place, by `mv` for
    /// instance, need not have synced it.
    pub(crate) unsynced_folder: Mutex<Option<Box<dyn Folder>>>,
    pub(crate) sealer: Sealer,
    pub(crate) crc: SaltedCrc,
}

impl LogFile {
    /// Maps an I/O error to [`Error::Io`] for this file, for `map_err`.
    pub(crate) fn io(&self, operation: &'static str) -> impl Fn(io::Error) -> Error {
        move |source| Error::io(operation, &self.path, source)
    }
}

/// A position between two frames: where the next frame begins, and what it is chained to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LogPosition {
    /// Where the frame before it ends, in bytes from the start of the file.
    pub(crate) end: u64,
    /// The number of that frame; 0 before the first one.
    pub(crate) seq: u64,
    /// The manifest tag of that frame, which the next frame is chained to.
    pub(crate) chain: Tag,
}

impl LogPosition {
    /// The position before the first frame, which is chained to the first 16 bytes of the header's authenticator.
    pub(crate) fn first(authenticator: &[u8; 32]) -> Self {
        let mut chain = [0; TAG_LEN];
        chain.copy_from_slice(&authenticator[..TAG_LEN]);
        LogPosition { end: HEADER_PAGE_LEN as u64, seq: 0, chain }
    }

    /// Identifies the frame before this position.
    pub(crate) fn frame_id(&self) -> FrameId {
        FrameId { seq: self.seq, tag: self.chain }
    }
}
