//! What can be set in [`OpenOptions`](crate::OpenOptions).

/// When a writing call returns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// When its effect survives a power cut.
    #[default]
    Sync,
    /// When its effect survives a killed process. The next `Sync` call, [`Store::sync`] or
    /// [`Store::close`] makes it survive a power cut too.
    Buffered,
}

/// What opening does about a store that is damaged or was tampered with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnDamage {
    /// [`Error::Corrupt`](crate::Error::Corrupt) or [`Error::Unauthentic`](crate::Error::Unauthentic), and not a byte is
    /// changed.
    #[default]
    Refuse,
    /// The damaged file is kept as `state.db.damaged-1`, or the next number that is free, and the store goes on with what is
    /// authentic in it, as by [`salvage`](crate::salvage): for an agent that nobody watches.
    SetAside,
}

/// The limits of the log buffer.
///
/// ```
/// use backupy_state::{LogLimits, LogRate, WhenFull};
///
/// let mut limits = LogLimits::default();
/// limits.max_count = Some(10_000);
/// limits.rate = Some(LogRate { per_second: 100, burst: 1_000 });
/// limits.when_full = WhenFull::DropNewest;
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogLimits {
    /// How many events it holds: 100,000 by default.
    pub max_count: Option<u64>,
    /// How many bytes of payload it holds: 64 MiB by default. A larger event is dropped.
    pub max_bytes: Option<u64>,
    /// How fast events may come: 1,000 a second by default, in bursts of 10,000. Those beyond are dropped.
    pub rate: Option<LogRate>,
    /// What is dropped when the buffer is full: the oldest events by default.
    pub when_full: WhenFull,
}

impl Default for LogLimits {
    fn default() -> Self {
        LogLimits {
            max_count: Some(100_000),
            max_bytes: Some(64 << 20),
            rate: Some(LogRate { per_second: 1_000, burst: 10_000 }),
            when_full: WhenFull::DropOldest,
        }
    }
}

/// A token bucket, by the monotonic clock: it starts full, and setting the time of day does not touch it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogRate {
    /// How many events a second it lets in for long.
    pub per_second: u32,
    /// How many it lets in at once after a pause.
    pub burst: u32,
}

/// What is dropped when the log buffer is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenFull {
    /// The first events in drain order make room for the new one.
    #[default]
    DropOldest,
    /// The new event.
    DropNewest,
}

/// When a store compacts itself. A store that is closed with at most 128 KiB of live data and more than that of dead is
/// compacted too, whatever its length.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CompactionPolicy {
    /// Whether it does at all. One that renews the key of a generation with 2^31 frames always runs.
    pub automatic: bool,
    /// Only when the file, with the space ahead, is about to be longer than this, in bytes: 1 MiB by default.
    pub min_len: u64,
    /// Only when more than this part of the frames is dead: 0.5 by default, and never less than 0.1.
    pub dead_ratio: f64,
}

impl Default for CompactionPolicy {
    fn default() -> Self {
        CompactionPolicy { automatic: true, min_len: 1 << 20, dead_ratio: 0.5 }
    }
}
