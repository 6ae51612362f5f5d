//! One life of the agent: how it opens the store, when the disk gets full, and how it ends. All of it follows from
//! the seed and the number of the life.

use std::time::Duration;

use backupy_state::testing::policy;
use backupy_state::{AgentKey, Check, Durability, LogLimits, OpenOptions, QueueOrder};

use crate::common::Random;

/// How fast the soak goes.
#[derive(Clone, Copy)]
pub(super) struct Pace {
    /// The longest usual life.
    pub(super) life_max: Duration,
    /// One life in so many lasts 15 times as long.
    pub(super) long_life_every: u64,
    /// The mean pause of a thread between two calls.
    pub(super) pause: Duration,
}

impl Pace {
    pub(super) const QUICK: Pace =
        Pace { life_max: Duration::from_millis(400), long_life_every: 1000, pause: Duration::from_millis(1) };
    /// Half a core or less.
    pub(super) const LONG: Pace =
        Pace { life_max: Duration::from_secs(2), long_life_every: 50, pause: Duration::from_millis(8) };
}

pub(super) struct Life {
    pub(super) number: u64,
    pub(super) pace: Pace,
    pub(super) ending: Ending,
    /// From the opening of the store on.
    pub(super) lasts: Duration,
    /// Between the moment of the ending and the kill.
    pub(super) delay: Duration,
    pub(super) order: QueueOrder,
    /// Whether the life begins with a new key, and the old one as `previous_key`.
    pub(super) rekeys_at_opening: bool,
    pub(super) expects_anchor: bool,
    pub(super) check: Check,
    /// When the disk gets full, from the opening on.
    pub(super) fills_after: Option<Duration>,
    /// Whether the disk is still full in the next life.
    pub(super) stays_full: bool,
    options: OpenOptions,
    pub(super) random: Random,
}

/// What the kill waits for. Without a kill, the store is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    KillWhileOpening,
    KillWhileWorking,
    KillWhileCompacting,
    KillWhileRekeying,
    KillWhileClosing,
    Close,
}

impl Ending {
    pub(super) fn closes(self) -> bool {
        matches!(self, Ending::KillWhileClosing | Ending::Close)
    }
}

impl Life {
    pub(super) fn new(seed: u64, number: u64, pace: Pace) -> Self {
        let mut random = Random::new(seed.wrapping_mul(31).wrapping_add(number));
        let ending = match random.below(12) {
            0 | 1 => Ending::KillWhileOpening,
            2 | 3 => Ending::KillWhileCompacting,
            4 | 5 => Ending::KillWhileRekeying,
            6 => Ending::KillWhileClosing,
            7 | 8 => Ending::Close,
            _ => Ending::KillWhileWorking,
        };
        let is_long = number % pace.long_life_every == pace.long_life_every - 1;
        let lasts = up_to(&mut random, pace.life_max) * if is_long { 15 } else { 1 };
        // From 0.06 ms to 30 ms, in doubling steps: what is waited for takes different times on different disks.
        let step = Duration::from_micros(125 << random.below(9));
        let delay = up_to(&mut random, step);
        let order = [QueueOrder::RunId, QueueOrder::Fifo][random.below(2)];
        let check = if random.below(5) == 0 { Check::Everything } else { Check::Live };
        let options = options(&mut random, order, check);
        Life {
            number,
            pace,
            ending,
            lasts,
            delay,
            order,
            rekeys_at_opening: random.below(8) == 0,
            expects_anchor: random.below(2) == 0,
            check,
            fills_after: (random.below(6) == 0).then(|| up_to(&mut random, lasts)),
            stays_full: random.below(3) == 0,
            options,
            random,
        }
    }

    pub(super) fn options(&self) -> OpenOptions {
        self.options.clone()
    }
}

fn options(random: &mut Random, order: QueueOrder, check: Check) -> OpenOptions {
    let durability = |random: &mut Random| [Durability::Sync, Durability::Buffered][random.below(2)];
    let mut limits = LogLimits::default();
    limits.rate = None;
    let mut options = OpenOptions::new();
    options.queue_order(order).check(check).log_limits(limits).lock_timeout(Duration::from_secs(60));
    options.log_durability(durability(random)).heartbeat_durability(durability(random));
    options.mmap(random.below(4) > 0);
    if random.below(4) == 0 {
        options.durability(Durability::Buffered);
    }
    if random.below(2) == 0 {
        options.compaction(policy(|policy| {
            policy.min_len = 256 << 10;
            policy.dead_ratio = 0.3;
        }));
    }
    options
}

pub(super) fn up_to(random: &mut Random, end: Duration) -> Duration {
    end * u32::try_from(random.below(1000)).unwrap() / 1000
}

/// The agent key number `n`: each `rekey` is to the next one.
pub(super) fn agent_key(n: u64) -> AgentKey {
    AgentKey::new(format!("bkpy_soak_{n:032}")).unwrap()
}
