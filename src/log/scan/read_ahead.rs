//! Opening the manifests of many frames in a row: what replay is built on.
//!
//! The walk by CRCs goes ahead of the seals. The tag that a manifest is chained to stands in the frame before it, sealed or
//! not, so no manifest has to wait for another. In a long log a second thread walks, and this one takes up what was walked
//! over; while this one is behind, the walker opens manifests too. What is wrong is told in the order of the file all the
//! same.

use std::ops::Range;
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::thread;

use super::raw::{Concurrency, RawScanner, ScanItem};
use crate::crypto::Tag;
use crate::crypto::seal::Sealer;
use crate::crypto::secret_vec::{self, SecretVec};
use crate::format::frame::{self, ALIGNMENT, FrameHeader};
use crate::format::record::Manifest;
use crate::log::file::{LogFile, LogPosition};
use crate::{Error, Result};

/// A frame of which the manifest was opened.
pub(crate) struct OpenedFrame<'a> {
    pub(crate) offset: u64,
    pub(crate) header: FrameHeader,
    /// `None` in a close frame.
    pub(crate) manifest: Option<Manifest<'a>>,
    /// Behind the frame.
    pub(crate) tip: LogPosition,
}

/// How the file goes on behind the last whole frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ending {
    pub(crate) file_len: u64,
    pub(crate) torn_until: Option<u64>,
}

/// Hands every frame behind `tip` to `take`, in order.
///
/// # Errors
/// `Corrupt` for damage, `Unauthentic` for what does not fit, `Io`. What stands before it was taken.
pub(crate) fn replay(
    log: &LogFile,
    concurrency: Concurrency<'_>,
    tip: LogPosition,
    mut take: impl FnMut(&OpenedFrame<'_>),
) -> Result<Ending> {
    let walk = RawScanner::new(&*log.file, &log.crc, concurrency, tip.end, tip.seq).map_err(log.io("look at"))?;
    let is_long = is_long(walk.file_len(), tip.end);
    let mut ahead = Ahead { log, walk, chain: tip.chain };
    if is_long && let Some(ending) = ahead.replay_by_two(&mut take) {
        return ending;
    }
    let mut chunk = Chunk::default();
    loop {
        let ending = ahead.fill(&mut chunk);
        chunk.hand_over(log, &mut take)?;
        if let Some(ending) = ending.transpose() {
            return ending;
        }
    }
}

/// Whether a second thread is worth its start for what lies behind `from`.
fn is_long(file_len: u64, from: u64) -> bool {
    file_len.saturating_sub(from) >= HELPED_LEN_MIN
}

struct Ahead<'a> {
    log: &'a LogFile,
    walk: RawScanner<'a>,
    /// The tag that the next frame is chained to, if it is authentic.
    chain: Tag,
}

/// A stretch, and what ended it if not its size.
type WalkedOver = (Chunk, Result<Option<Ending>>);

impl Ahead<'_> {
    /// `None` where there is no second thread to be had: then nothing was taken.
    fn replay_by_two(&mut self, take: &mut impl FnMut(&OpenedFrame<'_>)) -> Option<Result<Ending>> {
        let log = self.log;
        let (to_take, walked) = mpsc::sync_channel(AHEAD_MAX);
        let (to_reuse, used) = mpsc::channel();
        thread::scope(|scope| {
            thread::Builder::new().spawn_scoped(scope, move || self.walk_on(&to_take, &used)).ok()?;
            walked.into_iter().find_map(|(mut chunk, ending)| {
                if let Err(error) = chunk.hand_over(log, take) {
                    return Some(Err(error));
                }
                // The walker may be at its end already.
                let _ = to_reuse.send(chunk);
                ending.transpose()
            })
        })
    }

    /// Sends off stretch by stretch, up to the end of all frames or until nobody wants more.
    fn walk_on(&mut self, to_take: &SyncSender<WalkedOver>, used: &Receiver<Chunk>) {
        loop {
            let mut chunk = used.try_recv().unwrap_or_default();
            let ending = self.fill(&mut chunk);
            let goes_on = matches!(ending, Ok(None));
            let is_wanted = match to_take.try_send((chunk, ending)) {
                Err(TrySendError::Full((mut chunk, ending))) => {
                    chunk.open(&self.log.sealer);
                    to_take.send((chunk, ending)).is_ok()
                }
                sent => sent.is_ok(),
            };
            if !(goes_on && is_wanted) {
                return;
            }
        }
    }

    /// Takes up the next frames, up to the end of a stretch or of all frames.
    fn fill(&mut self, chunk: &mut Chunk) -> Result<Option<Ending>> {
        let Ahead { log, walk, chain } = self;
        chunk.clear();
        while chunk.text.len() < CHUNK_LEN && chunk.frames.len() < CHUNK_COUNT {
            let offset = walk.offset();
            let torn_until = match walk.next().map_err(log.io("read"))? {
                ScanItem::Frame { header, body } => {
                    *chain = chunk.add(offset, header, body, *chain);
                    continue;
                }
                ScanItem::End => None,
                ScanItem::Torn { until } => Some(until),
                ScanItem::Damage(what) => return Err(Error::corrupt(&log.path, offset, what)),
                ScanItem::Tampered(what) => return Err(Error::unauthentic(&log.path, offset, what)),
            };
            return Ok(Some(Ending { file_len: walk.file_len(), torn_until }));
        }
        Ok(None)
    }
}

/// Below it, a thread costs more than it spares.
const HELPED_LEN_MIN: u64 = 1 << 20;
/// How many stretches may wait to be taken up.
const AHEAD_MAX: usize = 2;
/// A stretch ends with the frame that reaches one of these: bytes of manifests, and frames.
const CHUNK_LEN: usize = 32 << 10;
const CHUNK_COUNT: usize = 256;

/// Frames in a row.
#[derive(Default)]
struct Chunk {
    frames: Vec<RawFrame>,
    /// The manifests, sealed until they are opened in place.
    text: SecretVec,
    /// How many of the frames are authentic; `None` until they are opened.
    authentic: Option<usize>,
}

/// A frame that checks by its CRCs.
struct RawFrame {
    offset: u64,
    header: FrameHeader,
    /// The tag before it.
    chain: Tag,
    tag: Tag,
    /// Of the frame.
    last_bytes: [u8; ALIGNMENT],
    /// Where its manifest lies in the text.
    manifest: Range<usize>,
}

impl Chunk {
    fn clear(&mut self) {
        self.frames.clear();
        self.text.clear();
        self.authentic = None;
    }

    /// Returns the tag behind the frame.
    fn add(&mut self, offset: u64, header: FrameHeader, body: &[u8], chain: Tag) -> Tag {
        // The walk has held the body against the header's lengths, so nothing is missing.
        let sealed = header.sealed_manifest(body).unwrap_or_default();
        let tag = header.stored_tag(body).unwrap_or_default();
        let last_bytes = body.last_chunk().copied().unwrap_or_default();
        let start = self.text.len();
        if self.text.capacity() - start < sealed.len() {
            secret_vec::reserve(&mut self.text, sealed.len().max(CHUNK_LEN));
        }
        self.text.extend_from_slice(sealed);
        self.frames.push(RawFrame { offset, header, chain, tag, last_bytes, manifest: start..self.text.len() });
        tag
    }

    /// Returns how many of the frames are authentic.
    fn open(&mut self, sealer: &Sealer) -> usize {
        let is_broken = |RawFrame { header, chain, tag, manifest, .. }: &RawFrame| {
            let text = self.text.get_mut(manifest.clone()).unwrap_or_default();
            header.unseal_in_place(text, chain, tag, sealer).is_err()
        };
        let count = || self.frames.iter().position(is_broken).unwrap_or(self.frames.len());
        *self.authentic.get_or_insert_with(count)
    }

    /// Hands the authentic frames to `take`.
    fn hand_over(&mut self, log: &LogFile, take: &mut impl FnMut(&OpenedFrame<'_>)) -> Result<()> {
        let authentic = self.open(&log.sealer);
        for (i, RawFrame { offset, header, tag, last_bytes, manifest, .. }) in self.frames.iter().enumerate() {
            let unauthentic = |what| Error::unauthentic(&log.path, *offset, what);
            if i == authentic {
                return Err(unauthentic(frame::BROKEN_SEAL));
            }
            let text = self.text.get(manifest.clone()).unwrap_or_default();
            let manifest = header.parse_manifest(text).map_err(unauthentic)?;
            header.check_padding(manifest.as_ref(), last_bytes).map_err(unauthentic)?;
            let tip = LogPosition { end: offset + u64::from(header.len), seq: header.seq, chain: *tag };
            take(&OpenedFrame { offset: *offset, header: *header, manifest, tip });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::is_long;

    #[test]
    fn a_mebibyte_to_read_is_worth_a_thread_wherever_it_begins() {
        assert!(is_long((1 << 20) + 4096, 4096) && is_long(1 << 30, 4096));
        assert!(!is_long((1 << 20) + 4095, 4096) && !is_long(4096, 4096));
        assert!(!is_long(1 << 30, 1 << 30) && !is_long(4096, 1 << 30));
    }
}
