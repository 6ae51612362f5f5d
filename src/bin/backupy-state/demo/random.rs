//! Pseudorandom numbers for the demo's schedule and payloads; not for keys.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// A splitmix64 generator.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Random(seed)
    }

    /// A seed that differs from run to run, as do the keys of std's hash maps.
    pub(crate) fn any_seed() -> u64 {
        // Short enough to type.
        RandomState::new().hash_one(()) >> 40
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number in `0..end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    pub(crate) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub(crate) fn micros_below(&mut self, end: u64) -> Duration {
        Duration::from_micros(self.below(end))
    }

    /// A duration between 0.5 and 1.5 times `mean`.
    pub(crate) fn around(&mut self, mean: Duration) -> Duration {
        mean / 2 + mean.mul_f64(f64::from(u8::try_from(self.below(256)).unwrap_or(0)) / 255.0)
    }

    pub(crate) fn bytes(&mut self, len: u64) -> Vec<u8> {
        let words = (0..len.div_ceil(8)).flat_map(|_| self.next().to_le_bytes());
        words.take(usize::try_from(len).unwrap_or(usize::MAX)).collect()
    }
}
