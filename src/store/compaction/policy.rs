//! Decides when a compaction is due.

use crate::CompactionPolicy;
use crate::format::frame::{SEALINGS_MAX, SEQ_MAX};
use crate::format::header::FIRST_FRAME_AT;
use crate::index::Index;
use crate::log::writer::LogSize;

impl CompactionPolicy {
    /// Whether to compact a log while it is in use.
    pub(crate) fn is_due(&self, log: &LogSize, index: &Index) -> bool {
        let (frames_len, dead) = frames_and_dead(log.len, index);
        let is_long = log.len + GROWTH_MEANWHILE_LEN >= self.min_len && dead >= DEAD_LEN_MIN;
        let is_wasteful = is_long && dead as f64 > self.dead_ratio.max(DEAD_RATIO_MIN) * frames_len as f64;
        let must_renew = log.seq >= RENEW_AT_SEQ || log.seq + log.values >= RENEW_AT_SEALINGS;
        self.automatic && is_wasteful || must_renew
    }

    /// Whether to compact a log that is being closed, however short it is: the next open would have to read the
    /// dead frames, and the few live bytes are copied quickly.
    pub(crate) fn is_due_at_close(&self, log_len: u64, index: &Index) -> bool {
        let (frames_len, dead) = frames_and_dead(log_len, index);
        let is_cheap = index.live_bytes() <= LIVE_AT_CLOSE_MAX && dead > LIVE_AT_CLOSE_MAX;
        self.automatic && is_cheap && dead as f64 > self.dead_ratio * frames_len as f64
    }

    /// How long a log with so many live bytes gets until it is compacted, or has been compacted meanwhile.
    pub(crate) fn compacted_len(&self, live_bytes: u64) -> u64 {
        let live_ratio = 1.0 - self.dead_ratio.max(DEAD_RATIO_MIN);
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "with a ratio of 1, no length is enough"
        )]
        let frames_len = (live_bytes as f64 / live_ratio.max(0.0)) as u64;
        frames_len.saturating_add(FIRST_FRAME_AT as u64 + GROWTH_MEANWHILE_LEN).max(self.min_len)
    }
}

/// The length of all frames, and how many of these bytes are dead.
fn frames_and_dead(log_len: u64, index: &Index) -> (u64, u64) {
    let frames_len = log_len - FIRST_FRAME_AT as u64;
    (frames_len, frames_len.saturating_sub(index.live_bytes()))
}

/// A log grows by about this much during a compaction if its writer syncs each call. A compaction starts that much
/// early so that it does not get longer than `min_len`.
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
/// Likewise for what is sealed: a record can seal a million values.
const RENEW_AT_SEALINGS: u64 = SEALINGS_MAX - (1 << 28);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::QueueOrder;

    #[test]
    fn a_generation_that_runs_out_of_numbers_or_nonces_is_compacted_even_if_automatic_is_off() {
        let never = CompactionPolicy { automatic: false, ..CompactionPolicy::default() };
        let empty = Index::new(QueueOrder::RunId);
        let is_due = |len, seq, values| never.is_due(&LogSize { len, seq, values }, &empty);
        assert!(!is_due(1 << 40, RENEW_AT_SEQ - 1, 0) && is_due(9000, RENEW_AT_SEQ, 0));
        assert!(!is_due(1 << 40, 9, RENEW_AT_SEALINGS - 10) && is_due(9000, 9, RENEW_AT_SEALINGS - 9));
    }

    #[test]
    fn a_log_is_compacted_before_it_is_longer_than_its_live_bytes_and_the_ratio_allow() {
        let len = |dead_ratio, live| {
            CompactionPolicy { dead_ratio, min_len: 1 << 20, automatic: true }.compacted_len(live)
        };
        let margin = FIRST_FRAME_AT as u64 + GROWTH_MEANWHILE_LEN;
        assert_eq!((len(0.5, 0), len(0.5, 300 << 10)), (1 << 20, 1 << 20));
        assert_eq!((len(0.5, 1 << 20), len(0.75, 1 << 20)), ((2 << 20) + margin, (4 << 20) + margin));
        assert_eq!((len(1.0, 1), len(1.5, 1), len(1.0, 0)), (u64::MAX, u64::MAX, 1 << 20));
        let allowed = |dead_ratio| len(dead_ratio, 9 << 20).abs_diff((10 << 20) + margin) <= 1;
        assert!(allowed(f64::NAN) && allowed(-1.0) && allowed(0.0));
    }

    #[test]
    fn an_invalid_ratio_does_not_make_a_compacted_log_due_again() {
        let empty = Index::new(QueueOrder::RunId);
        for dead_ratio in [f64::NAN, -1.0, 0.0] {
            let policy = CompactionPolicy { dead_ratio, min_len: 0, automatic: true };
            // The only dead bytes are those of the first record of a new log, without its value.
            let log = LogSize { len: FIRST_FRAME_AT as u64 + 200, seq: 2, values: 1 };
            assert!(!policy.is_due(&log, &empty));
        }
    }
}
