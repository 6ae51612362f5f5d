//! The limits of the log buffer: what an event must fit, what makes room for it, and the count of those that were
//! dropped. Decides; writes nothing.

use std::collections::VecDeque;
use std::time::Instant;

use crate::format::bucket::Bucket;
use crate::index::Index;
use crate::{LogLimits, LogRate, WhenFull};

/// Lets events in, and counts those that were dropped since the last ack or drain.
pub(crate) struct LogQuota {
    limits: LogLimits,
    tokens: f64,
    filled: Instant,
    /// Not yet acked or drained.
    pub(crate) dropped: u64,
    /// Acked or drained since the store was opened.
    reported: u64,
    /// The count as the log has it; `None` where that cannot be read.
    pub(crate) recorded: Option<u64>,
}

/// What becomes of some new events.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// For each of them, whether it comes in.
    pub(crate) admitted: Vec<bool>,
    /// The last of the buffered events that make room, in drain order.
    pub(crate) drop_through: Option<Box<[u8]>>,
    /// How many buffered events make room, or are discarded.
    pub(crate) made_room: u64,
}

impl Plan {
    /// How many events are lost by it, new ones included.
    pub(crate) fn dropped(&self) -> u64 {
        self.made_room + self.admitted.iter().filter(|admitted| !**admitted).count() as u64
    }
}

impl LogQuota {
    /// `recorded` is the count that the log has. One that cannot be read starts again, and is written anew.
    pub(crate) fn new(limits: LogLimits, recorded: Option<u64>) -> Self {
        let tokens = limits.rate.map_or(0.0, |rate| f64::from(rate.burst));
        LogQuota { limits, tokens, filled: Instant::now(), dropped: recorded.unwrap_or(0), reported: 0, recorded }
    }

    /// All that was dropped so far, as a batch remembers it: of two that tell of the same drops, the second takes none off.
    pub(crate) fn dropped_total(&self) -> u64 {
        self.reported + self.dropped
    }

    /// How many are left to tell when everything up to `ever` has been told.
    pub(crate) fn unreported_after(&self, ever: u64) -> u64 {
        self.dropped.min(self.dropped_total().saturating_sub(ever))
    }

    /// That many are left to tell, and the log says so.
    pub(crate) fn note_reported(&mut self, left: u64) {
        self.reported += self.dropped.saturating_sub(left);
        (self.dropped, self.recorded) = (left, Some(left));
    }

    /// Whether the rate lets one more event in at this moment.
    pub(crate) fn take_token(&mut self, now: Instant) -> bool {
        let Some(LogRate { per_second, burst }) = self.limits.rate else { return true };
        let refill = now.saturating_duration_since(self.filled).as_secs_f64() * f64::from(per_second);
        self.filled = now;
        self.tokens = (self.tokens + refill).min(f64::from(burst));
        let admitted = self.tokens >= 1.0;
        if admitted {
            self.tokens -= 1.0;
        }
        admitted
    }

    /// What becomes of events with payloads as long as `lens`, by count and bytes, in the order of the calls.
    pub(crate) fn plan(&self, index: &Index, lens: &[u64]) -> Plan {
        let LogLimits { max_count, max_bytes, when_full, .. } = self.limits;
        let (max_count, max_bytes) = (max_count.unwrap_or(u64::MAX), max_bytes.unwrap_or(u64::MAX));
        let (mut count, mut bytes) = (index.count(Bucket::Logs) as u64, index.log_bytes());
        let mut buffered = index.iter(Bucket::Logs);
        let mut own = VecDeque::new();
        let mut plan = Plan { admitted: vec![false; lens.len()], drop_through: None, made_room: 0 };
        for (i, &len) in lens.iter().enumerate() {
            if len > max_bytes || max_count == 0 {
                continue;
            }
            while count >= max_count || bytes > max_bytes - len {
                if when_full == WhenFull::DropNewest {
                    break;
                }
                // Of this call's own events, the first ones make room only when all buffered ones have.
                if let Some((key, location)) = buffered.next() {
                    plan.drop_through = Some(key.into());
                    plan.made_room += 1;
                    bytes -= u64::from(location.len);
                } else if let Some((first, len)) = own.pop_front() {
                    plan.admitted[first] = false;
                    bytes -= len;
                }
                count -= 1;
            }
            if count < max_count && bytes <= max_bytes - len {
                plan.admitted[i] = true;
                own.push_back((i, len));
                count += 1;
                bytes += len;
            }
        }
        plan
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn gate(per_second: u32, burst: u32) -> LogQuota {
        let rate = Some(LogRate { per_second, burst });
        LogQuota::new(LogLimits { rate, ..LogLimits::default() }, Some(0))
    }

    #[test]
    fn a_burst_comes_in_and_then_as_many_a_second_as_allowed() {
        let mut gate = gate(10, 3);
        let started = gate.filled;
        assert_eq!((0..5).filter(|_| gate.take_token(started)).count(), 3);
        let later = started + Duration::from_millis(250);
        assert_eq!((0..5).filter(|_| gate.take_token(later)).count(), 2);
        let much_later = later + Duration::from_secs(3600);
        assert_eq!((0..5).filter(|_| gate.take_token(much_later)).count(), 3);
    }

    #[test]
    fn a_clock_that_goes_back_takes_no_token_and_gives_none() {
        let mut gate = gate(10, 3);
        let started = gate.filled;
        let later = started + Duration::from_secs(10);
        assert!(gate.take_token(later));
        assert_eq!((0..5).filter(|_| gate.take_token(started)).count(), 2);
        assert!(gate.take_token(started + Duration::from_millis(100)));
    }

    #[test]
    fn without_a_rate_everything_comes_in() {
        let mut gate = LogQuota::new(LogLimits { rate: None, ..LogLimits::default() }, None);
        let started = gate.filled;
        assert!((0..100_000).all(|_| gate.take_token(started)));
    }
}
