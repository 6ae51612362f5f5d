//! The types of the settings in [`OpenOptions`](crate::OpenOptions). Plain data, with its defaults.

/// When a writing call returns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Durability {
    /// When its effect survives a power cut.
    #[default]
    Sync,
    /// When its effect survives the end of the process, however it ends. The effect also survives a power cut
    /// after the next `Sync` call, [`Store::sync`](crate::Store::sync) or [`Store::close`](crate::Store::close).
    Buffered,
}

/// What opening, or a compaction, does about a store that is damaged or fails authentication.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnDamage {
    /// It returns [`Error::Corrupt`](crate::Error::Corrupt) or [`Error::Unauthentic`](crate::Error::Unauthentic),
    /// and does not change a byte. Only a count of dropped log events that fails authentication is no reason:
    /// opening counts from zero, and a compaction leaves it out.
    #[default]
    Refuse,
    /// It quarantines the damaged file as `state.db.damaged-1`, or under the next free number, and opens a new log
    /// with all that is authentic in the damaged one, as [`salvage`](crate::salvage) does. For agents that run
    /// unattended.
    ///
    /// A compaction that finds a live value which fails authentication keeps the old log in the same way, and
    /// leaves that key out of the new one: see [`CompactionReport::left_out`](crate::CompactionReport::left_out).
    /// For a count of dropped log events alone, no log is kept.
    SetAside,
}

/// The limits of the queue. A call after which the queue would be over one of them is refused with
/// [`Error::QueueFull`](crate::Error::QueueFull), and nothing of it is written. A batch is judged by its end.
///
/// A store that is over a limit when it is opened keeps all its jobs: only what would make the queue larger is
/// refused.
///
/// ```
/// use backupy_state::QueueLimits;
///
/// let mut limits = QueueLimits::default();
/// limits.max_count = Some(100_000);
/// limits.max_bytes = Some(256 << 20);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct QueueLimits {
    /// The most jobs that the queue holds: no limit by default.
    pub max_count: Option<u64>,
    /// The most bytes of payload that the queue holds: no limit by default.
    pub max_bytes: Option<u64>,
}

/// The limits of the log buffer.
///
/// ```
/// use backupy_state::{LogLimits, LogRate, WhenFull};
///
/// let mut limits = LogLimits::default();
/// limits.max_count = Some(10_000);
/// let mut rate = LogRate::default();
/// rate.per_second = 100;
/// limits.rate = Some(rate);
/// limits.when_full = WhenFull::DropNewest;
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogLimits {
    /// The most events that the buffer holds: 100,000 by default, `None` for no limit.
    pub max_count: Option<u64>,
    /// The most bytes of payload that the buffer holds: 64 MiB by default, `None` for no limit. A single event
    /// that is larger is dropped.
    pub max_bytes: Option<u64>,
    /// How fast events may come: 1,000 a second with bursts of 10,000 by default, `None` for no limit. Events over
    /// the rate are dropped.
    pub rate: Option<LogRate>,
    /// Which events are dropped when the buffer is full: the oldest by default.
    pub when_full: WhenFull,
}

impl Default for LogLimits {
    fn default() -> Self {
        LogLimits {
            max_count: Some(100_000),
            max_bytes: Some(64 << 20),
            rate: Some(LogRate::default()),
            when_full: WhenFull::DropOldest,
        }
    }
}

/// A token bucket. It is full when the store is opened, and uses the monotonic clock: setting the time of day does
/// not affect it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogRate {
    /// How many events a second are buffered in the long run: 1,000 by default.
    pub per_second: u32,
    /// How many events are buffered at once after a pause: 10,000 by default.
    pub burst: u32,
}

impl Default for LogRate {
    fn default() -> Self {
        LogRate { per_second: 1_000, burst: 10_000 }
    }
}

/// Which events are dropped when the log buffer is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum WhenFull {
    /// The oldest events in the buffer, to make room for the new one.
    #[default]
    DropOldest,
    /// The new event.
    DropNewest,
}

/// How much of an existing log is checked when it is opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Check {
    /// What is not in the index file next to the log: the frames since it was last written. The frames before them
    /// were checked when they were indexed, and each value is checked when it is read.
    #[default]
    Live,
    /// Every frame, without the index file. Opening takes longer, the longer the log is. Values are still checked
    /// only when they are read; [`verify`](crate::verify()) checks them too.
    Everything,
}

/// When the index file is written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IndexPolicy {
    /// How many bytes of frames make a run due while the store is in use.
    pub(crate) run_len: u64,
    /// Fewer bytes of frames are not worth a run when the store is closed, or when its log has been replaced.
    pub(crate) worth_len: u64,
    /// Whether runs are written on a thread of their own. Not in simulations, which must be repeatable.
    pub(crate) on_thread: bool,
}

impl Default for IndexPolicy {
    fn default() -> Self {
        // A megabyte is replayed in about a millisecond, and 64 KiB in less time than it takes to read an index
        // file.
        IndexPolicy { run_len: 1 << 20, worth_len: 64 << 10, on_thread: true }
    }
}

/// When a store compacts its log by itself.
///
/// While the store is open, the log is compacted when it reaches `min_len` and more than `dead_ratio` of its
/// frames is dead, at least 16 KiB. [`Store::close`](crate::Store::close) compacts a log of any length if more
/// than `dead_ratio` and more than 128 KiB of it are dead and at most 128 KiB are live.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct CompactionPolicy {
    /// Whether the store compacts its log by itself: true by default. Even if not, a log that nears the limit of
    /// 2^31 frames is compacted, which gives it a new frame key.
    pub automatic: bool,
    /// The length in bytes of a log that is compacted: 1 MiB by default. Compaction starts 128 KiB earlier, so
    /// that the log does not grow longer than this while it runs. The file is longer by the reserve.
    pub min_len: u64,
    /// The part of the frames' bytes that must be dead: 0.5 by default. Values below 0.1 count as 0.1 while the
    /// store is open.
    pub dead_ratio: f64,
}

impl Default for CompactionPolicy {
    fn default() -> Self {
        CompactionPolicy { automatic: true, min_len: 1 << 20, dead_ratio: 0.5 }
    }
}
