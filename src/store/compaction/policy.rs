//! When a compaction is due.

use crate::CompactionPolicy;
use crate::format::frame::SEQ_MAX;
use crate::format::header::HEADER_PAGE_LEN;
use crate::index::Index;
use crate::log::file::LogPosition;

impl CompactionPolicy {
    pub(crate) fn is_due(&self, tip: LogPosition, file_len: u64, index: &Index) -> bool {
        let (frames_len, dead) = frames_and_dead(tip, index);
        let is_long = file_len + NEXT_STEPS_LEN >= self.min_len && dead >= DEAD_LEN_MIN;
        let is_wasteful = is_long && dead as f64 > self.dead_ratio.max(DEAD_RATIO_MIN) * frames_len as f64;
        self.automatic && is_wasteful || tip.seq >= RENEW_AT_SEQ
    }

    /// Whether to compact a log that is being closed, however short it is: what is dead would be read by the next opening, and
    /// the little that is live is copied in no time.
    pub(crate) fn is_due_at_close(&self, tip: LogPosition, index: &Index) -> bool {
        let (frames_len, dead) = frames_and_dead(tip, index);
        let is_cheap = index.live_bytes() <= LIVE_AT_CLOSE_MAX && dead > LIVE_AT_CLOSE_MAX;
        self.automatic && is_cheap && dead as f64 > self.dead_ratio * frames_len as f64
    }
}

/// What all frames take, and how much of it is dead.
fn frames_and_dead(tip: LogPosition, index: &Index) -> (u64, u64) {
    let frames_len = tip.end - HEADER_PAGE_LEN as u64;
    (frames_len, frames_len.saturating_sub(index.live_bytes()))
}

/// What the log grows by while a compaction runs beside a writer that syncs each call: so much earlier it begins.
const NEXT_STEPS_LEN: u64 = 128 << 10;
/// Less is not worth the syncs: in a store of a few short values, the frames' own bytes alone are over any ratio.
const DEAD_LEN_MIN: u64 = 16 << 10;
/// The headers of a compacted log count as dead: below this, a compaction could call for the next one.
const DEAD_RATIO_MIN: f64 = 0.1;
/// So much is copied while the syncs of a compaction take longer than that.
const LIVE_AT_CLOSE_MAX: u64 = 128 << 10;
/// Early enough that a compaction ends before the last number: 16 million frames take a fast writer a minute.
const RENEW_AT_SEQ: u64 = SEQ_MAX - (1 << 24);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::QueueOrder;

    fn tip(end: u64, seq: u64) -> LogPosition {
        LogPosition { end, seq, chain: [0; 16] }
    }

    #[test]
    fn a_generation_that_runs_out_of_numbers_is_compacted_whatever_the_policy_says() {
        let never = CompactionPolicy { automatic: false, ..CompactionPolicy::default() };
        let empty = Index::new(QueueOrder::RunId);
        assert!(!never.is_due(tip(1 << 40, RENEW_AT_SEQ - 1), 1 << 40, &empty));
        assert!(never.is_due(tip(5000, RENEW_AT_SEQ), 5000, &empty));
    }

    #[test]
    fn a_ratio_that_is_no_ratio_never_calls_for_one_compaction_after_the_other() {
        let empty = Index::new(QueueOrder::RunId);
        for dead_ratio in [f64::NAN, -1.0, 0.0] {
            let policy = CompactionPolicy { dead_ratio, min_len: 0, automatic: true };
            // Nothing but what the first record of a new log takes besides its value.
            assert!(!policy.is_due(tip(4096 + 200, 2), 140_000, &empty));
        }
    }
}
