//! The state of a log up to a position: what every opening builds.

use std::collections::VecDeque;

use super::file::{LogFile, LogPosition};
use super::scan::{self, Concurrency, Ending, OpenedFrame, Scanned, Scanner};
use crate::Result;
use crate::crypto::Tag;
use crate::format::frame::FrameKind;
use crate::format::location::ValueCursor;
use crate::index::{Index, QueueOrder};

/// Closer together, marks would take much memory in a log that was synced seldom, and spare no read.
const CHECKPOINT_SPACING: u64 = 64 << 10;

/// The state of a log up to its tip, and which of it is vouched for.
pub(crate) struct Replay {
    pub(crate) index: Index,
    pub(crate) tip: LogPosition,
    /// Whether the last frame is a close frame.
    pub(crate) ends_closed: bool,
    pub(super) records: u64,
    pub(super) operations: u64,
    /// The frame whose tag somebody wants to know, and that tag.
    watched_seq: Option<u64>,
    pub(super) watched_tag: Option<Tag>,
    /// Before the last frame.
    before_last: Option<LogPosition>,
    /// Tips to look again from, oldest first: the first one is before all frames that no later frame vouches for.
    checkpoints: VecDeque<LogPosition>,
}

impl Replay {
    pub(crate) fn new(order: QueueOrder, tip: LogPosition) -> Self {
        let index = Index::new(order);
        Replay {
            index,
            tip,
            ends_closed: false,
            records: 0,
            operations: 0,
            watched_seq: None,
            watched_tag: None,
            before_last: None,
            checkpoints: VecDeque::new(),
        }
    }

    /// Keeps the tag of the frame `seq`.
    pub(super) fn watching(order: QueueOrder, tip: LogPosition, seq: Option<u64>) -> Self {
        let watched_tag = (seq == Some(tip.seq)).then_some(tip.chain);
        Replay { watched_seq: seq, watched_tag, ..Replay::new(order, tip) }
    }

    /// Goes on from the tip up to the last whole frame. After an error, what came before it is taken.
    pub(crate) fn run(&mut self, log: &LogFile, concurrency: Concurrency<'_>) -> Result<Ending> {
        let ending = scan::replay(log, concurrency, self.tip, |frame| self.take(frame));
        self.index.merge_staged();
        ending
    }

    /// Whether the frame at the tip still stands in the file: by the chain, so does everything before it.
    pub(crate) fn is_still_in_file(&self, log: &LogFile, concurrency: Concurrency<'_>) -> Result<bool> {
        let Some(before) = self.before_last else { return Ok(true) };
        let mut scan = Scanner::new(log, concurrency, before)?;
        let is_frame = matches!(scan.next()?, Scanned::Frame(_));
        Ok(is_frame && scan.tip() == self.tip)
    }

    fn take(&mut self, frame: &OpenedFrame<'_>) {
        let header = &frame.header;
        self.ends_closed = header.kind == FrameKind::Close;
        if self.checkpoints.back().is_none_or(|last| self.tip.end - last.end >= CHECKPOINT_SPACING) {
            self.checkpoints.push_back(self.tip);
        }
        while self.checkpoints.get(1).is_some_and(|next| next.seq <= header.durable_seq) {
            self.checkpoints.pop_front();
        }
        self.before_last = Some(std::mem::replace(&mut self.tip, frame.tip));
        if self.watched_seq == Some(self.tip.seq) {
            self.watched_tag = Some(self.tip.chain);
        }
        if let Some(manifest) = &frame.manifest {
            self.records += 1;
            self.operations += u64::from(manifest.count());
            self.index.stage(manifest.operations(), ValueCursor::new(frame.offset, header));
        }
    }

    /// Not behind any frame that no later one vouches for.
    pub(super) fn recheck_from(&self) -> LogPosition {
        self.checkpoints.front().copied().unwrap_or(self.tip)
    }
}
