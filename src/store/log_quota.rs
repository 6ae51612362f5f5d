//! The limits of the log buffer: decides which events are buffered and which are evicted, and counts the dropped
//! ones. Writes nothing.
//!
//! The oldest event is evicted first, by its time. But times come from a clock that may have been wrong: if it was
//! ahead for a while, the events of that while would stay for ever, and those of today be evicted for them. So an
//! event that is more than an hour later than the new one is evicted before all others, the earliest such one
//! first: it was buffered before the clock was set back. After a clock that was behind, the usual order is right.

use std::collections::{HashSet, VecDeque};
use std::time::Instant;

use crate::format::bucket::{Bucket, DROPPED_KEY, LogKey};
use crate::format::location::Location;
use crate::index::{Index, Key};
use crate::{LogLimits, LogRate, WhenFull};

/// The limits, and the count of events that were dropped since the last ack or drain.
pub(crate) struct LogQuota {
    limits: LogLimits,
    /// Of the token bucket that limits the rate.
    tokens: f64,
    /// When `tokens` was last brought up to date.
    refilled: Instant,
    /// Dropped events that no ack or drain has reported yet.
    pub(crate) dropped: u64,
    /// Dropped events that were reported since the store was opened.
    reported: u64,
    /// The value of `dropped` when the store was opened.
    found: u64,
    /// The value of `dropped` that was last read from the log or written to it; `None` if it could not be read.
    recorded: Option<u64>,
}

/// What happens to new events, and which buffered ones are evicted for them.
#[derive(Default)]
pub(crate) struct Plan {
    /// For each new event, whether it is buffered.
    pub(crate) admitted: Vec<bool>,
    /// The buffered events that are evicted.
    pub(crate) evicted: Vec<Key>,
    /// How many other buffered events are dropped.
    pub(crate) discarded: u64,
    /// The total of the drops that have been reported: see [`LogQuota::dropped_total`]. `None` if none have been.
    pub(crate) reported_total: Option<u64>,
}

impl Plan {
    /// How many events are dropped, new ones and buffered ones.
    pub(crate) fn dropped(&self) -> u64 {
        self.evicted.len() as u64
            + self.discarded
            + self.admitted.iter().filter(|admitted| !**admitted).count() as u64
    }
}

impl LogQuota {
    /// `recorded` is the count in the log. If it cannot be read, counting starts again at 0.
    pub(crate) fn new(limits: LogLimits, recorded: Option<u64>) -> Self {
        let tokens = limits.rate.map_or(0.0, |rate| f64::from(rate.burst));
        LogQuota {
            limits,
            tokens,
            refilled: Instant::now(),
            dropped: recorded.unwrap_or(0),
            reported: 0,
            found: recorded.unwrap_or(0),
            recorded,
        }
    }

    /// The value of `dropped` in the log that `index` is of; `None` if it cannot be read. There is none after a
    /// compaction that has left it out, because it failed authentication.
    pub(crate) fn recorded(&self, index: &Index) -> Option<u64> {
        index.get(Bucket::Registry, DROPPED_KEY).map_or(Some(0), |_| self.recorded)
    }

    /// Reported and unreported drops together. A batch keeps this total, so that of two batches that report the
    /// same drops only the first one acked subtracts them.
    pub(crate) fn dropped_total(&self) -> u64 {
        self.reported + self.dropped
    }

    /// The drops of this session of the store.
    pub(crate) fn dropped_since_opened(&self) -> u64 {
        self.dropped_total().saturating_sub(self.found)
    }

    /// How many drops are unreported once the plan is carried out.
    pub(crate) fn unreported_after(&self, plan: &Plan) -> u64 {
        self.still_unreported(plan) + plan.dropped()
    }

    /// How many of the drops so far the plan leaves unreported.
    fn still_unreported(&self, plan: &Plan) -> u64 {
        let left = |total| self.dropped.min(self.dropped_total().saturating_sub(total));
        plan.reported_total.map_or(self.dropped, left)
    }

    /// Notes that the plan was carried out, with the new count in the log.
    pub(crate) fn note_recorded(&mut self, plan: &Plan) {
        self.note(plan);
        self.recorded = Some(self.dropped);
    }

    /// Notes that the plan was carried out.
    pub(crate) fn note(&mut self, plan: &Plan) {
        let unreported = self.unreported_after(plan);
        self.reported += self.dropped - self.still_unreported(plan);
        self.dropped = unreported;
    }

    /// Takes a token for one event. Returns false if the event is over the rate.
    pub(crate) fn take_token(&mut self, now: Instant) -> bool {
        let Some(LogRate { per_second, burst }) = self.limits.rate else { return true };
        let refill = now.saturating_duration_since(self.refilled).as_secs_f64() * f64::from(per_second);
        self.refilled = now;
        self.tokens = (self.tokens + refill).min(f64::from(burst));
        let admitted = self.tokens >= 1.0;
        if admitted {
            self.tokens -= 1.0;
        }
        admitted
    }

    /// Applies the limits of count and bytes to new events, given their times and the lengths of their payloads in
    /// the order of the calls. `removed` are buffered events that go before.
    pub(crate) fn plan(&self, index: &Index, removed: &[&[u8]], events: &[(i64, u64)]) -> Plan {
        let LogLimits { max_count, max_bytes, when_full, .. } = self.limits;
        let (max_count, max_bytes) = (max_count.unwrap_or(u64::MAX), max_bytes.unwrap_or(u64::MAX));
        let (mut count, mut bytes) = (index.count(Bucket::Logs) as u64, index.value_bytes(Bucket::Logs));
        count -= removed.len() as u64;
        bytes -=
            removed.iter().filter_map(|key| index.get(Bucket::Logs, key)).map(|it| u64::from(it.len)).sum::<u64>();
        // Looked up when one must go: mostly, none must.
        let mut buffered = None;
        let mut new = VecDeque::new();
        let mut plan = Plan { admitted: vec![false; events.len()], ..Plan::default() };
        for (i, &(_, len)) in events.iter().enumerate() {
            if len > max_bytes || max_count == 0 {
                continue;
            }
            while count >= max_count || bytes > max_bytes - len {
                if when_full == WhenFull::DropNewest {
                    break;
                }
                // New events are evicted only after all buffered ones, in the order of the calls.
                let buffered = buffered.get_or_insert_with(|| {
                    let removed: HashSet<&[u8]> = removed.iter().copied().collect();
                    in_order_of_eviction(index, events).filter(move |(key, _)| !removed.contains(key))
                });
                if let Some((key, location)) = buffered.next() {
                    plan.evicted.push(key.into());
                    bytes -= u64::from(location.len);
                } else if let Some((first, len)) = new.pop_front() {
                    plan.admitted[first] = false;
                    bytes -= len;
                }
                count -= 1;
            }
            if count < max_count && bytes <= max_bytes - len {
                plan.admitted[i] = true;
                new.push_back((i, len));
                count += 1;
                bytes += len;
            }
        }
        plan
    }
}

/// The buffered events, the one that is evicted first in front.
fn in_order_of_eviction<'a>(
    index: &'a Index,
    new: &[(i64, u64)],
) -> impl Iterator<Item = (&'a [u8], Location)> + use<'a> {
    let earliest = new.iter().map(|(ts_ms, _)| *ts_ms).min().unwrap_or(i64::MAX);
    let last_usual = LogKey { ts_ms: earliest.saturating_add(AHEAD_MS), ordinal: u64::MAX }.encode();
    let ahead = index.iter_after(Bucket::Logs, &last_usual);
    ahead.chain(index.iter(Bucket::Logs).take_while(move |(key, _)| **key <= last_usual[..]))
}

/// An event that is this much later than a new one was buffered by a clock that was ahead. It is longer than
/// events are out of order for other reasons.
const AHEAD_MS: i64 = 3_600_000;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn quota(per_second: u32, burst: u32) -> LogQuota {
        let rate = Some(LogRate { per_second, burst });
        LogQuota::new(LogLimits { rate, ..LogLimits::default() }, Some(0))
    }

    #[test]
    fn a_burst_is_admitted_and_then_events_at_the_configured_rate() {
        let mut quota = quota(10, 3);
        let started = quota.refilled;
        assert_eq!((0..5).filter(|_| quota.take_token(started)).count(), 3);
        let later = started + Duration::from_millis(250);
        assert_eq!((0..5).filter(|_| quota.take_token(later)).count(), 2);
        let much_later = later + Duration::from_secs(3600);
        assert_eq!((0..5).filter(|_| quota.take_token(much_later)).count(), 3);
    }

    #[test]
    fn a_clock_that_goes_backwards_neither_adds_nor_removes_tokens() {
        let mut quota = quota(10, 3);
        let started = quota.refilled;
        let later = started + Duration::from_secs(10);
        assert!(quota.take_token(later));
        assert_eq!((0..5).filter(|_| quota.take_token(started)).count(), 2);
        assert!(quota.take_token(started + Duration::from_millis(100)));
    }

    #[test]
    fn without_a_rate_every_event_is_admitted() {
        let mut quota = LogQuota::new(LogLimits { rate: None, ..LogLimits::default() }, None);
        let started = quota.refilled;
        assert!((0..100_000).all(|_| quota.take_token(started)));
    }
}
