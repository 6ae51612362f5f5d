//! How often a log was synced since its store was opened, and how long that took. The log of the next generation
//! continues the count. Decides nothing, and never touches a file.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

#[derive(Debug, Default)]
pub(crate) struct Syncs {
    count: AtomicU64,
    total_ns: AtomicU64,
    longest_ns: AtomicU64,
}

impl Syncs {
    /// Runs `sync` and counts it, also if it fails.
    pub(super) fn timed<T>(&self, sync: impl FnOnce() -> T) -> T {
        let started = Instant::now();
        let done = sync();
        self.note(started.elapsed());
        done
    }

    fn note(&self, took: Duration) {
        let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.count.fetch_add(1, Relaxed);
        self.total_ns.fetch_add(ns, Relaxed);
        self.longest_ns.fetch_max(ns, Relaxed);
    }

    pub(crate) fn count(&self) -> u64 {
        self.count.load(Relaxed)
    }

    pub(crate) fn total(&self) -> Duration {
        Duration::from_nanos(self.total_ns.load(Relaxed))
    }

    pub(crate) fn longest(&self) -> Duration {
        Duration::from_nanos(self.longest_ns.load(Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_is_the_sum_and_the_longest_is_the_greatest() {
        let syncs = Syncs::default();
        for ms in [3, 7, 2] {
            syncs.note(Duration::from_millis(ms));
        }
        let expected = (3, Duration::from_millis(12), Duration::from_millis(7));
        assert_eq!((syncs.count(), syncs.total(), syncs.longest()), expected);
    }
}
