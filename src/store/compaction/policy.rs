//! Decides when a compaction is due.

use crate::CompactionPolicy;
use crate::format::frame::SEQ_MAX;
use crate::format::header::HEADER_PAGE_LEN;
use crate::index::Index;
use crate::log::file::LogPosition;

impl CompactionPolicy {
    /// Whether to compact a log while it is in use. `file_len` includes the preallocated space.
    pub(crate) fn is_due(&self, tip: LogPosition, file_len: u64, index: &Index) -> bool {
        let (frames_len, dead) = frames_and_dead(tip, index);
        let is_long = file_len + GROWTH_MEANWHILE_LEN >= self.min_len && dead >= DEAD_LEN_MIN;
        let is_wasteful = is_long && dead as f64 > self.dead_ratio.max(DEAD_RATIO_MIN) * frames_len as f64;
        self.automatic && is_wasteful || tip.seq >= RENEW_AT_SEQ
    }

    /// Whether to compact a log that is being closed, however short it is: the next open would have to read the
    /// dead frames, and the few live bytes are copied quickly.
    pub(crate) fn is_due_at_close(&self, tip: LogPosition, index: &Index) -> bool {
        let (frames_len, dead) = frames_and_dead(tip, index);
        let is_cheap = index.live_bytes() <= LIVE_AT_CLOSE_MAX && dead > LIVE_AT_CLOSE_MAX;
        self.automatic && is_cheap && dead as f64 > self.dead_ratio * frames_len as f64
    }
}

/// The length of all frames, and how many of these bytes are dead.
fn frames_and_dead(tip: LogPosition, index: &Index) -> (u64, u64) {
    let frames_len = tip.end - HEADER_PAGE_LEN as u64;
    (frames_len, frames_len.saturating_sub(index.live_bytes()))
}

/// A log grows by about this much during a compaction if its writer syncs each call. A compaction starts that much
/// early so that the file does not get longer than `min_len`.
const GROWTH_MEANWHILE_LEN: u64 = 128 << 10;
/// Fewer dead bytes are not worth the syncs: with a few short values, the frame headers alone exceed any ratio.
const DEAD_LEN_MIN: u64 = 16 << 10;
/// Frame headers count as dead, also those of a compacted log: with a lower ratio, a compaction could be due again
/// right after the last one.
const DEAD_RATIO_MIN: f64 = 0.1;
/// Copying this much live data takes less time than the syncs of a compaction. Fewer dead bytes are not worth
/// them.
const LIVE_AT_CLOSE_MAX: u64 = 128 << 10;
/// Early enough for a compaction to end before the generation runs out of sequence numbers: writing the remaining
/// 16 million frames takes a fast writer a minute.
const RENEW_AT_SEQ: u64 = SEQ_MAX - (1 << 24);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::QueueOrder;

    fn tip(end: u64, seq: u64) -> LogPosition {
        LogPosition { end, seq, chain: [0; 16] }
    }

    #[test]
    fn a_generation_that_runs_out_of_sequence_numbers_is_compacted_even_if_automatic_is_off() {
        let never = CompactionPolicy { automatic: false, ..CompactionPolicy::default() };
        let empty = Index::new(QueueOrder::RunId);
        assert!(!never.is_due(tip(1 << 40, RENEW_AT_SEQ - 1), 1 << 40, &empty));
        assert!(never.is_due(tip(5000, RENEW_AT_SEQ), 5000, &empty));
    }

    #[test]
    fn an_invalid_ratio_does_not_make_a_compacted_log_due_again() {
        let empty = Index::new(QueueOrder::RunId);
        for dead_ratio in [f64::NAN, -1.0, 0.0] {
            let policy = CompactionPolicy { dead_ratio, min_len: 0, automatic: true };
            // The only dead bytes are those of the first record of a new log, without its value.
            assert!(!policy.is_due(tip(4096 + 200, 2), 140_000, &empty));
        }
    }
}
