//! Replay: builds the index of a log from its frames, for recovery and for snapshots.
//!
//! A replay starts at a position and applies each record to the index, up to the last whole frame. It can continue
//! from there when the log has grown. It opens manifests only; the values stay sealed in the file.
//!
//! It also notes what recovery needs to know about the end of the log: whether the last frame is a close frame,
//! and where to begin the second reading after an unclean stop. Each frame proves that all frames up to its
//! durable_seq are durable, so the second reading must begin at the first frame that no later one vouches for. To
//! save memory, a replay does not keep the position of every frame, but a *checkpoint* every 64 KiB. It drops a
//! checkpoint once all frames before the next one are known to be durable.
//!
//! Never writes. The rules for what a frame is, and where the log ends, are in `scan`.

use std::collections::VecDeque;
use std::ops::Range;

use super::file::LogFile;
use super::scan::{self, Concurrency, Ending, OpenFrame, OpenedFrame, Resync, ResyncItem, Scanned, Scanner};
use crate::Result;
use crate::crypto::{TAG_LEN, Tag};
use crate::format::frame::{self, FRAME_HEADER_LEN, FRAME_LEN_MIN, FrameKind, ParsedFrameHeader};
use crate::format::location::ValueCursor;
use crate::format::position::LogPosition;
use crate::index::{Index, QueueOrder};
use crate::storage;

/// The state of a log up to a position.
pub(crate) struct Replay {
    pub(crate) index: Index,
    /// After the last frame that was applied.
    pub(crate) tip: LogPosition,
    /// Whether the last frame is a close frame.
    pub(crate) ends_closed: bool,
    /// Where it began, in bytes from the start of the file.
    began_at: u64,
    pub(super) records: u64,
    pub(super) operations: u64,
    /// How many values the log has, whether they are live or not.
    pub(super) values: u64,
    /// The frame whose tag is compared with an anchor.
    watched_seq: Option<u64>,
    /// The tag of that frame; `None` if the log does not have it.
    pub(super) watched_tag: Option<Tag>,
    /// A position that the log must have, if what the replay began with is right. `None` once it was found.
    until: Option<LogPosition>,
    /// The zeros that the file ended with when the index file was read, if they were looked for.
    zeros: Option<Range<u64>>,
    /// The position before the last frame; `None` before a frame was applied.
    before_last: Option<LogPosition>,
    /// Positions between frames, in ascending order. The first one is at or before the first frame that no later
    /// frame vouches for.
    checkpoints: VecDeque<LogPosition>,
}

impl Replay {
    /// Starts at `tip` with an empty index.
    pub(crate) fn new(order: QueueOrder, tip: LogPosition) -> Self {
        Replay {
            index: Index::new(order),
            tip,
            ends_closed: false,
            began_at: tip.end,
            records: 0,
            operations: 0,
            values: 0,
            watched_seq: None,
            watched_tag: None,
            until: None,
            zeros: None,
            before_last: None,
            checkpoints: VecDeque::new(),
        }
    }

    /// Continues after `tip`, with what an index file says of the frames before it, and perhaps of some up to
    /// `until`. `before_last` is the position before the frame that ends at `tip`, if it is known.
    pub(super) fn continuing(
        index: Index,
        tip: LogPosition,
        until: LogPosition,
        before_last: Option<LogPosition>,
        ends_closed: bool,
        values: u64,
    ) -> Self {
        let until = Some(until).filter(|until| *until != tip);
        Replay { index, until, before_last, ends_closed, values, ..Replay::new(QueueOrder::RunId, tip) }
    }

    /// Saves the next run reading the zeros that the file ends with.
    pub(super) fn end_in(&mut self, zeros: Option<Range<u64>>) {
        self.zeros = zeros;
    }

    /// Whether the log has all that the index file says of it. Asked after a run.
    pub(crate) fn fits_log(&self) -> bool {
        self.until.is_none()
    }

    /// Like [`new`](Self::new), but also keeps the tag of the frame `seq`.
    pub(super) fn watching(order: QueueOrder, tip: LogPosition, seq: Option<u64>) -> Self {
        let watched_tag = (seq == Some(tip.seq)).then_some(tip.chain);
        Replay { watched_seq: seq, watched_tag, ..Replay::new(order, tip) }
    }

    /// Applies the frames from the tip up to the last whole one. After an error, the frames before the error have
    /// been applied.
    ///
    /// # Errors
    /// `Corrupt` for damage, `Unauthentic` for a frame that fails authentication, `Io`.
    pub(crate) fn run(&mut self, log: &LogFile, concurrency: Concurrency<'_>) -> Result<Ending> {
        let ending = scan::replay(log, concurrency, self.tip, self.zeros.take(), |frame| self.apply(frame));
        self.index.merge_staged();
        ending
    }

    /// Applies the frames from the tip up to `end`. Returns whether they lead there.
    pub(crate) fn run_to(
        &mut self,
        log: &LogFile,
        concurrency: Concurrency<'_>,
        end: LogPosition,
    ) -> Result<bool> {
        let mut scan = Scanner::new(log, concurrency, self.tip)?;
        while self.tip.seq < end.seq {
            let Scanned::Frame(frame) = scan.next()? else { break };
            let OpenFrame { offset, header, body, manifest } = frame;
            let Some(chain) = header.stored_tag(body) else { break };
            let tip = LogPosition { end: offset + u64::from(header.len), seq: header.seq, chain };
            self.apply(&OpenedFrame { offset, header, manifest, tip });
        }
        self.index.merge_staged();
        Ok(self.tip == end)
    }

    /// Whether the last frame is still in its place. If so, all frames before it are too, because it is chained to
    /// them. A snapshot asks this for each value that it reads: so only the header and the tag are read, and not
    /// the frame. No two frames have the same tag, so none can have taken its place.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn is_still_in_file(&self, log: &LogFile) -> Result<bool> {
        let Some(before) = self.before_last else { return Ok(true) };
        let mut head = [0; FRAME_HEADER_LEN];
        let mut tag = Tag::default();
        let read =
            |bytes: &mut [u8], offset| storage::read_at_most(&*log.file, bytes, offset).map_err(log.io("read"));
        read(&mut head, before.end)?;
        let ParsedFrameHeader::Plausible(header) = frame::parse_header(&head, &log.crc) else { return Ok(false) };
        let tag_at = before.end + (FRAME_LEN_MIN - TAG_LEN) as u64 + u64::from(header.manifest_len);
        read(&mut tag, tag_at)?;
        let end = before.end + u64::from(header.len);
        let is_same = LogPosition { end, seq: header.seq, chain: tag } == self.tip;
        // Its end may have been cut off.
        Ok(is_same && log.file.len().map_err(log.io("read the length of"))? >= end)
    }

    /// Whether the frames that nothing vouches for are still in their places, and whole. `proven` is the last
    /// frame that the mark or the base proves to be durable.
    ///
    /// # Errors
    /// `Io`; those of a scan, if one is damaged and was followed by others.
    pub(crate) fn is_whole_in_file(
        &self,
        log: &LogFile,
        concurrency: Concurrency<'_>,
        proven: Option<LogPosition>,
    ) -> Result<bool> {
        self.is_whole_from(log, concurrency, self.recheck_from(proven))
    }

    /// Whether the frames after `from`, a position of this log, are in their places, and whole.
    ///
    /// # Errors
    /// As [`is_whole_in_file`](Self::is_whole_in_file).
    pub(super) fn is_whole_from(
        &self,
        log: &LogFile,
        concurrency: Concurrency<'_>,
        from: LogPosition,
    ) -> Result<bool> {
        let mut scan = Scanner::new(log, concurrency, from)?;
        while scan.tip().seq < self.tip.seq && matches!(scan.next()?, Scanned::Frame(_)) {}
        Ok(scan.tip() == self.tip)
    }

    /// The offset from which a failed sync has lost frames, or parts of them, that nothing vouched for. `None` if
    /// it has lost none. `proven` is the last frame that the mark or the base proves to be durable.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn lost_from(
        &self,
        log: &LogFile,
        concurrency: Concurrency<'_>,
        proven: Option<LogPosition>,
    ) -> Result<Option<u64>> {
        // Damage to a frame that others vouch for is not the end of the log.
        let mut resync = Resync::new(log, concurrency, self.recheck_from(proven))?;
        while resync.tip().seq < self.tip.seq {
            if let ResyncItem::End { .. } = resync.next()? {
                return Ok(Some(resync.tip().end));
            }
        }
        Ok(None)
    }

    /// How many bytes of frames have been replayed.
    pub(crate) fn replayed_bytes(&self) -> u64 {
        self.tip.end - self.began_at
    }

    /// How many values the log has, whether they are live or not.
    pub(crate) fn values(&self) -> u64 {
        self.values
    }

    /// The position before the last frame, if a frame was applied or it is known from the index file.
    pub(super) fn before_last(&self) -> Option<LogPosition> {
        self.before_last
    }

    /// Keeps the tag of the frame `seq`, if it is replayed.
    pub(super) fn watch(&mut self, seq: u64) {
        self.watched_seq = Some(seq);
    }

    fn apply(&mut self, frame: &OpenedFrame<'_>) {
        let header = &frame.header;
        self.ends_closed = header.kind == FrameKind::Close;
        if self.checkpoints.back().is_none_or(|last| self.tip.end - last.end >= CHECKPOINT_SPACING) {
            self.checkpoints.push_back(self.tip);
        }
        while self.checkpoints.get(1).is_some_and(|next| next.seq <= header.durable_seq) {
            self.checkpoints.pop_front();
        }
        self.before_last = Some(std::mem::replace(&mut self.tip, frame.tip));
        self.until = self.until.filter(|until| *until != self.tip);
        if self.watched_seq == Some(self.tip.seq) {
            self.watched_tag = Some(self.tip.chain);
        }
        if let Some(manifest) = &frame.manifest {
            self.records += 1;
            self.operations += u64::from(manifest.count());
            self.values += u64::from(manifest.puts());
            self.index.stage(manifest.operations(), ValueCursor::new(frame.offset, header));
        }
    }

    /// A position at or before the first frame that neither a later frame nor the frame `proven` proves to be
    /// durable.
    pub(crate) fn recheck_from(&self, proven: Option<LogPosition>) -> LogPosition {
        let before_proven = proven.filter(|proven| proven.seq <= self.tip.seq);
        let vouched = self.checkpoints.front().copied().unwrap_or(self.tip);
        before_proven.into_iter().chain([vouched]).max_by_key(|position| position.seq).unwrap_or(self.tip)
    }
}

/// The least distance of two checkpoints. Closer ones would take more memory in a log that was rarely synced, and
/// save nothing, because a scan reads 32 KiB at a time.
const CHECKPOINT_SPACING: u64 = 64 << 10;
