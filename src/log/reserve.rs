//! The reserve: how much preallocated space a log keeps for records that only remove something, so that acks,
//! drains and a compaction succeed on a full disk.
//!
//! It has two parts. One is for acks: as long as an ack of each queued job would be, one record each. The other is
//! for drains and other removals, and to be given back to the file system when a compaction needs space for its
//! new file. A put is refused if less than both would remain after it. An ack may use all of it, any other removal
//! only the second part.
//!
//! Implements *The reserve* in *Writing* of FORMAT.md.

use crate::format::bucket::Bucket;
use crate::format::encoding;
use crate::format::header::FIRST_FRAME_AT;
use crate::format::record::{self, Action, Change};
use crate::index::{Index, live_len};

/// The reserve that a log needs for what is live.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reserve {
    /// For an ack of each queued job.
    acks: u64,
    /// For other removals, and to create the new file of a compaction.
    removals: u64,
    /// What a compaction copies that is neither a job nor a log event.
    copied: u64,
    has_events: bool,
    has_data: bool,
    /// How long the live records are.
    live_len: u64,
}

impl Reserve {
    /// `creation_len` is what the file system asks for before it creates a file.
    pub(crate) fn of(index: &Index, creation_len: u64) -> Self {
        let in_bucket = |bucket| index.live_bytes_in(bucket);
        let copied = in_bucket(Bucket::Config) + in_bucket(Bucket::Registry) + in_bucket(Bucket::Data);
        Reserve {
            acks: index.acks_len().min(ACKS_LEN_MAX),
            removals: REMOVALS_LEN + creation_len,
            copied,
            has_events: index.count(Bucket::Logs) > 0,
            has_data: index.count(Bucket::Data) > 0,
            live_len: index.live_bytes(),
        }
    }

    /// All of it.
    pub(crate) fn len(&self) -> u64 {
        self.acks + self.others(0)
    }

    /// All of it but that for acks, once so many bytes more are copied.
    fn others(&self, more_copied: u64) -> u64 {
        self.removals + (self.copied + more_copied).min(COPIED_LEN_MAX)
    }

    /// The part that only acks use.
    pub(crate) fn acks(&self) -> u64 {
        self.acks
    }

    /// Whether there is a job, a log event or a data key that may have to be removed.
    pub(crate) fn is_for_removals(&self) -> bool {
        self.acks > 0 || self.has_events || self.has_data
    }

    /// How much of it a compaction on a full disk does not give back.
    pub(super) fn kept_by(&self, release: Release) -> u64 {
        match release {
            Release::AllButAcks => self.acks,
            Release::AllButRemovals if self.has_events => self.acks + REMOVALS_LEN,
            Release::AllButRemovals => self.acks,
        }
    }

    /// How much of it remains when a log that ends at `end` is closed: others may fill the disk until it is opened
    /// again.
    pub(super) fn kept_by_close(&self, end: u64) -> u64 {
        let dead = (end - FIRST_FRAME_AT as u64).saturating_sub(self.live_len);
        if self.is_for_removals() || dead > REMOVALS_LEN { self.len() } else { 0 }
    }

    /// How much of it a close frame may not use.
    pub(super) fn kept_by_close_frame(&self) -> u64 {
        self.acks
    }

    /// How much must remain after a record of these changes, and how much should.
    pub(super) fn around(&self, changes: &[Change<'_>]) -> Demand {
        let is_removal = changes.iter().all(Change::frees);
        let is_ack = |change: &Change<'_>| {
            change.operation.bucket == Bucket::Queue && matches!(change.operation.action, Action::Delete)
        };
        if is_removal {
            let least = match changes {
                _ if changes.iter().all(is_ack) => 0,
                _ if record::manifest_len(changes) > SHORT_LEN => self.len() - LONG_REMOVALS_LEN,
                _ => self.acks,
            };
            return Demand { least, wanted: self.len() };
        }
        let (mut new_acks, mut more_copied) = (0, 0);
        for change in changes.iter().filter(|change| change.is_put()) {
            match change.operation.bucket {
                Bucket::Queue => new_acks += encoding::ack_frame_len(change.operation.key.len()),
                Bucket::Logs => {}
                Bucket::Config | Bucket::Registry | Bucket::Data => more_copied += live_len(&change.operation),
            }
        }
        let wanted = (self.acks + new_acks).min(ACKS_LEN_MAX) + self.others(more_copied);
        Demand { least: wanted, wanted }
    }
}

/// How much of the reserve a compaction gives back to a full disk, to find space for its new file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Release {
    /// For an automatic compaction: another process may take what it gives back, and log events must still be
    /// drained.
    AllButRemovals,
    /// For a compaction that the caller asked for.
    AllButAcks,
}

/// How much preallocated space there is to be after a frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct Demand {
    /// With less, the frame is refused.
    pub(super) least: u64,
    /// As much is taken if the disk has it.
    pub(super) wanted: u64,
}

/// Enough for some 600 drains.
pub(crate) const REMOVALS_LEN: u64 = 64 << 10;
/// What long removals use of that: the rest is for some 300 drains, and for the new file of a compaction. Short
/// records can remove whatever a long one does.
const LONG_REMOVALS_LEN: u64 = REMOVALS_LEN / 2;
/// A removal with a longer manifest is long.
const SHORT_LEN: u64 = 4 << 10;
/// The acks of 600,000 jobs whose run id is a UUID.
const ACKS_LEN_MAX: u64 = 64 << 20;
/// A compaction also copies what is neither a job nor a log event. Up to so much of that is in the reserve too.
const COPIED_LEN_MAX: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_compaction_gives_away_what_acks_need_and_an_automatic_one_not_what_drains_need() {
        let acks = 100_000;
        for has_events in [false, true] {
            let reserve = Reserve { acks, removals: 70_000, copied: 9, has_events, has_data: true, live_len: 0 };
            assert_eq!(reserve.kept_by(Release::AllButAcks), acks);
            let drains = if has_events { REMOVALS_LEN } else { 0 };
            assert_eq!(reserve.kept_by(Release::AllButRemovals), acks + drains);
        }
    }
}
