//! Reading all frames of a log with the key, on two threads if the log is long. Replay is built on it.
//!
//! A manifest is sealed with the tag of the manifest before it, and that tag is stored unencrypted. So a manifest
//! can be opened before the one that precedes it, and the work splits in two:
//!
//! - A second thread reads ahead: it scans frames by their CRCs, copies their sealed manifests into a chunk, and
//!   sends the chunk through a bounded channel. While the channel is full, it opens the manifests of the next
//!   chunk itself, so that neither thread is idle.
//! - The calling thread takes the chunks in order, opens the manifests that are still sealed, and hands each frame
//!   to the caller. It sends used chunks back, so memory is bounded by a few chunks.
//!
//! A fault that the second thread finds travels with the chunk of the frames before it. So the first fault in the
//! order of the file is the one reported, and every frame before it was handed over. A stored tag may be forged,
//! but then the manifest that it belongs to does not open, and nothing after that frame is handed over. If the log
//! is short, or no thread can be started, the calling thread does both parts.
//!
//! Implements rules F1 to F7 of *Opening* in FORMAT.md, as `scanner.rs` does.

use std::ops::Range;
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::thread;

use super::raw::{Concurrency, RawScanner, ScanItem};
use super::scanner::Scanner;
use crate::crypto::Tag;
use crate::crypto::seal::Sealer;
use crate::crypto::secret_vec::{self, SecretVec};
use crate::format::frame::{self, ALIGNMENT, FrameHeader};
use crate::format::mark::Mark;
use crate::format::position::LogPosition;
use crate::format::record::Manifest;
use crate::log::file::LogFile;
use crate::{Error, Result};

/// An authentic frame, without its values.
pub(crate) struct OpenedFrame<'a> {
    pub(crate) offset: u64,
    pub(crate) header: FrameHeader,
    /// `None` in a close frame.
    pub(crate) manifest: Option<Manifest<'a>>,
    /// The position after the frame.
    pub(crate) tip: LogPosition,
}

/// What follows the last whole frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ending {
    pub(crate) file_len: u64,
    pub(crate) mark: Option<Mark>,
    /// The last frame that the mark or the base proves to have been durable.
    pub(crate) proven: Option<LogPosition>,
    /// The offset after the last non-zero byte of a torn tail, if there is one.
    pub(crate) torn_until: Option<u64>,
}

/// Hands every frame after `tip` to `take`, in order. `zeros` are those that the file ends with, if they are
/// known.
///
/// # Errors
/// `Corrupt` for damage, `Unauthentic` for tampering and for a frame that fails authentication, `Io`. The frames
/// before the fault were handed to `take`.
pub(crate) fn replay(
    log: &LogFile,
    concurrency: Concurrency<'_>,
    tip: LogPosition,
    zeros: Option<Range<u64>>,
    mut take: impl FnMut(&OpenedFrame<'_>),
) -> Result<Ending> {
    let mut scanner = Scanner::new(log, concurrency, tip)?.raw;
    zeros.into_iter().for_each(|zeros| scanner.end_in(zeros));
    let is_long = is_long(scanner.file_len(), tip.end);
    let mut frames = ReadAhead { log, scanner, chain: tip.chain };
    if is_long && let Some(ending) = frames.replay_on_two_threads(&mut take) {
        return ending;
    }
    let mut chunk = Chunk::default();
    loop {
        let ending = frames.fill(&mut chunk);
        chunk.hand_over(log, &mut take)?;
        if let Some(ending) = ending.transpose() {
            return ending;
        }
    }
}

/// Whether what follows `from` is worth a second thread.
fn is_long(file_len: u64, from: u64) -> bool {
    file_len.saturating_sub(from) >= TWO_THREADS_LEN_MIN
}

/// Scans ahead of the opening of manifests.
struct ReadAhead<'a> {
    log: &'a LogFile,
    scanner: RawScanner<'a>,
    /// The tag stored in the last scanned frame. Nothing has authenticated it yet.
    chain: Tag,
}

/// A chunk, and the fault or the end that follows it. `Ok(None)` if more frames follow.
type ScannedChunk = (Chunk, Result<Option<Ending>>);

impl ReadAhead<'_> {
    /// Returns `None` if no thread can be started. Then no frame was handed to `take`.
    fn replay_on_two_threads(&mut self, take: &mut impl FnMut(&OpenedFrame<'_>)) -> Option<Result<Ending>> {
        let log = self.log;
        let (to_take, scanned) = mpsc::sync_channel(CHUNKS_AHEAD_MAX);
        let (to_reuse, used) = mpsc::channel();
        thread::scope(|scope| {
            thread::Builder::new().spawn_scoped(scope, move || self.scan_ahead(&to_take, &used)).ok()?;
            scanned.into_iter().find_map(|(mut chunk, ending)| {
                if let Err(error) = chunk.hand_over(log, take) {
                    return Some(Err(error));
                }
                // Fails if the other thread has ended: then no chunk is needed any more.
                let _ = to_reuse.send(chunk);
                ending.transpose()
            })
        })
    }

    /// Sends chunk after chunk, up to the last frame, or until the receiver is dropped after a fault.
    fn scan_ahead(&mut self, to_take: &SyncSender<ScannedChunk>, used: &Receiver<Chunk>) {
        loop {
            let mut chunk = used.try_recv().unwrap_or_default();
            let ending = self.fill(&mut chunk);
            let has_more = matches!(ending, Ok(None));
            let is_received = match to_take.try_send((chunk, ending)) {
                Err(TrySendError::Full((mut chunk, ending))) => {
                    // The receiver has enough to do: open these manifests here.
                    chunk.open(&self.log.sealer);
                    to_take.send((chunk, ending)).is_ok()
                }
                sent => sent.is_ok(),
            };
            if !(has_more && is_received) {
                return;
            }
        }
    }

    /// Fills the chunk with the next frames. Returns the ending if these are the last.
    fn fill(&mut self, chunk: &mut Chunk) -> Result<Option<Ending>> {
        let ReadAhead { log, scanner, chain } = self;
        chunk.clear();
        while chunk.text.len() < CHUNK_LEN && chunk.frames.len() < CHUNK_COUNT {
            let offset = scanner.offset();
            let torn_until = match scanner.next().map_err(log.io("read"))? {
                ScanItem::Frame { header, body } => {
                    *chain = chunk.add(offset, header, body, *chain);
                    continue;
                }
                ScanItem::End => None,
                ScanItem::Torn { until } => Some(until),
                ScanItem::Damage(what) => return Err(Error::corrupt(&log.path, offset, what)),
                ScanItem::Tampered(what) => return Err(Error::unauthentic(&log.path, offset, what)),
            };
            let (file_len, mark, proven) = (scanner.file_len(), scanner.mark(), scanner.proven());
            return Ok(Some(Ending { file_len, mark, proven, torn_until }));
        }
        Ok(None)
    }
}

/// In a shorter log, starting a thread takes longer than it saves.
const TWO_THREADS_LEN_MIN: u64 = 4 << 20;
/// How many chunks may wait in the channel.
const CHUNKS_AHEAD_MAX: usize = 2;
/// A chunk is full when its manifests have this many bytes, or when it has `CHUNK_COUNT` frames.
const CHUNK_LEN: usize = 32 << 10;
const CHUNK_COUNT: usize = 256;

/// Consecutive frames without their values.
#[derive(Default)]
struct Chunk {
    frames: Vec<RawFrame>,
    /// The manifests, one after another: sealed at first, and then opened in place.
    text: SecretVec,
    /// How many frames, from the first on, have an authentic manifest; `None` if they are still sealed.
    authentic: Option<usize>,
}

/// A frame with right CRCs, whose seal may not be checked yet.
struct RawFrame {
    offset: u64,
    header: FrameHeader,
    /// The tag stored in the frame before it.
    chain: Tag,
    /// The tag stored in this frame.
    tag: Tag,
    /// The last bytes of the frame, where its padding is.
    last_bytes: [u8; ALIGNMENT],
    /// Where its manifest is in `Chunk::text`.
    manifest: Range<usize>,
}

impl Chunk {
    fn clear(&mut self) {
        self.frames.clear();
        self.text.clear();
        self.authentic = None;
    }

    /// Adds a frame, and returns the tag stored in it.
    fn add(&mut self, offset: u64, header: FrameHeader, body: &[u8], chain: Tag) -> Tag {
        // The parts are there: the scanner has checked the body's length against the header.
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

    /// Opens the manifests in place, up to the first one that fails authentication, and returns how many are
    /// authentic. A second call only returns the number again.
    fn open(&mut self, sealer: &Sealer) -> usize {
        let is_broken = |RawFrame { header, chain, tag, manifest, .. }: &RawFrame| {
            let text = self.text.get_mut(manifest.clone()).unwrap_or_default();
            header.unseal_in_place(text, chain, tag, sealer).is_err()
        };
        let count = || self.frames.iter().position(is_broken).unwrap_or(self.frames.len());
        *self.authentic.get_or_insert_with(count)
    }

    /// Hands the frames to `take`, up to the first one that is not authentic.
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
    fn a_second_thread_is_used_from_four_mebibytes_on_wherever_the_scan_begins() {
        assert!(is_long((4 << 20) + 4096, 4096) && is_long(1 << 30, 4096));
        assert!(!is_long((4 << 20) + 4095, 4096) && !is_long(4096, 4096));
        assert!(!is_long(1 << 30, 1 << 30) && !is_long(4096, 1 << 30));
    }
}
