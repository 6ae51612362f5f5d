//! Opening the manifests of many frames in a row: what replay is built on.
//!
//! The walk by CRCs goes ahead of the seals. The tag that a manifest is chained to stands in the frame before it, sealed or
//! not, so no manifest has to wait for another: in a long log a second thread opens them, while the first one reads on and
//! takes up what was opened. What is wrong is told in the order of the file all the same.

use std::ops::Range;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;

use super::{Beside, Sight, Walk};
use crate::format::frame::{self, ALIGNMENT, FrameHeader};
use crate::format::record::Manifest;
use crate::log::{LogFile, Tip};
use crate::seal::{Sealer, Tag};
use crate::wiped::{self, Wiped};
use crate::{Error, Result};

/// A frame of which the manifest was opened.
pub(crate) struct Replayed<'a> {
    pub(crate) offset: u64,
    pub(crate) header: FrameHeader,
    /// `None` in a close frame.
    pub(crate) manifest: Option<Manifest<'a>>,
    /// Behind the frame.
    pub(crate) tip: Tip,
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
    beside: Beside,
    tip: Tip,
    mut take: impl FnMut(&Replayed<'_>),
) -> Result<Ending> {
    let walk = Walk::new(&*log.file, &log.crc, beside, tip.end, tip.seq).map_err(log.io("look at"))?;
    let is_long = is_long(walk.file_len(), tip.end);
    let mut ahead = Ahead { log, walk, chain: tip.chain };
    thread::scope(|scope| {
        let (to_open, sealed) = mpsc::channel();
        let (to_take, opened) = mpsc::channel();
        let open_all = move || open_all(&log.sealer, &sealed, &to_take);
        // Without a thread, nobody receives what is sent, and each stretch is opened here.
        let _ = if is_long {
            thread::Builder::new().spawn_scoped(scope, open_all).ok()
        } else {
            drop(open_all);
            None
        };
        ahead.run(to_open, &opened, &mut take)
    })
}

/// Whether a second thread is worth its start for what lies behind `from`.
fn is_long(file_len: u64, from: u64) -> bool {
    file_len.saturating_sub(from) >= HELPED_LEN_MIN
}

fn open_all(sealer: &Sealer, sealed: &Receiver<Stretch>, to_take: &Sender<Stretch>) {
    for mut stretch in sealed {
        stretch.open(sealer);
        if to_take.send(stretch).is_err() {
            return;
        }
    }
}

struct Ahead<'a> {
    log: &'a LogFile,
    walk: Walk<'a>,
    /// The tag that the next frame is chained to, if it is authentic.
    chain: Tag,
}

impl Ahead<'_> {
    fn run(
        &mut self,
        to_open: Sender<Stretch>,
        opened: &Receiver<Stretch>,
        take: &mut impl FnMut(&Replayed<'_>),
    ) -> Result<Ending> {
        let mut on_their_way = 0;
        let mut free = Stretch::default();
        let ending = loop {
            let ending = self.fill(&mut free);
            match to_open.send(free) {
                Ok(()) => {
                    on_their_way += 1;
                    free = Stretch::default();
                }
                Err(mpsc::SendError(mut stretch)) => {
                    stretch.open(&self.log.sealer);
                    stretch.hand_over(self.log, take)?;
                    free = stretch;
                }
            }
            if let Some(ending) = ending.transpose() {
                break ending;
            }
            if on_their_way == AHEAD_MAX
                && let Ok(stretch) = opened.recv()
            {
                stretch.hand_over(self.log, take)?;
                on_their_way -= 1;
                free = stretch;
            }
        };
        drop(to_open);
        opened.iter().try_for_each(|stretch| stretch.hand_over(self.log, take))?;
        ending
    }

    /// Takes up the next frames, up to the end of a stretch or of all frames.
    fn fill(&mut self, stretch: &mut Stretch) -> Result<Option<Ending>> {
        let Ahead { log, walk, chain } = self;
        stretch.clear();
        while stretch.text.len() < STRETCH_LEN && stretch.frames.len() < STRETCH_COUNT {
            let offset = walk.offset();
            let torn_until = match walk.next().map_err(log.io("read"))? {
                Sight::Frame { header, body } => {
                    *chain = stretch.add(offset, header, body, *chain);
                    continue;
                }
                Sight::End => None,
                Sight::Torn { until } => Some(until),
                Sight::Damage(what) => return Err(Error::corrupt(&log.path, offset, what)),
                Sight::Tampered(what) => return Err(Error::unauthentic(&log.path, offset, what)),
            };
            return Ok(Some(Ending { file_len: walk.file_len(), torn_until }));
        }
        Ok(None)
    }
}

/// Below it, a thread costs more than it spares.
const HELPED_LEN_MIN: u64 = 1 << 20;
/// How many stretches may be on their way to being opened.
const AHEAD_MAX: usize = 3;
/// A stretch ends with the frame that reaches one of these: bytes of manifests, and frames.
const STRETCH_LEN: usize = 32 << 10;
const STRETCH_COUNT: usize = 256;

/// Frames in a row.
#[derive(Default)]
struct Stretch {
    frames: Vec<Walked>,
    /// The manifests, sealed until they are opened in place.
    text: Wiped,
    /// How many of the frames are authentic.
    authentic: usize,
}

/// A frame that checks by its CRCs.
struct Walked {
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

impl Stretch {
    fn clear(&mut self) {
        self.frames.clear();
        self.text.clear();
        self.authentic = 0;
    }

    /// Returns the tag behind the frame.
    fn add(&mut self, offset: u64, header: FrameHeader, body: &[u8], chain: Tag) -> Tag {
        // The walk has held the body against the header's lengths, so nothing is missing.
        let sealed = header.sealed_manifest(body).unwrap_or_default();
        let tag = header.stored_tag(body).unwrap_or_default();
        let last_bytes = body.last_chunk().copied().unwrap_or_default();
        let start = self.text.len();
        if self.text.capacity() - start < sealed.len() {
            wiped::reserve(&mut self.text, sealed.len().max(STRETCH_LEN));
        }
        self.text.extend_from_slice(sealed);
        self.frames.push(Walked { offset, header, chain, tag, last_bytes, manifest: start..self.text.len() });
        tag
    }

    fn open(&mut self, sealer: &Sealer) {
        let is_broken = |Walked { header, chain, tag, manifest, .. }: &Walked| {
            let text = self.text.get_mut(manifest.clone()).unwrap_or_default();
            header.unseal_in_place(text, chain, tag, sealer).is_err()
        };
        self.authentic = self.frames.iter().position(is_broken).unwrap_or(self.frames.len());
    }

    /// Hands the authentic frames to `take`.
    fn hand_over(&self, log: &LogFile, take: &mut impl FnMut(&Replayed<'_>)) -> Result<()> {
        for (i, Walked { offset, header, tag, last_bytes, manifest, .. }) in self.frames.iter().enumerate() {
            let unauthentic = |what| Error::unauthentic(&log.path, *offset, what);
            if i == self.authentic {
                return Err(unauthentic(frame::BROKEN_SEAL));
            }
            let text = self.text.get(manifest.clone()).unwrap_or_default();
            let manifest = header.parse_manifest(text).map_err(unauthentic)?;
            header.check_padding(manifest.as_ref(), last_bytes).map_err(unauthentic)?;
            let tip = Tip { end: offset + u64::from(header.len), seq: header.seq, chain: *tag };
            take(&Replayed { offset: *offset, header: *header, manifest, tip });
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
