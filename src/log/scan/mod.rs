//! Reading a log from front to back, frame by frame. Only reads.
//!
//! Everything that reads the frames of a log uses one of these:
//!
//! - `raw.rs`: without the key. Finds frames by CRC and sequence number, and distinguishes the end, a torn tail,
//!   damage and tampering.
//! - `scanner.rs`: with the key, one frame at a time, up to the first damage. For compaction and its checks.
//! - `read_ahead.rs`: the same for all frames at once, on two threads. For opening.
//! - `resync.rs`: with the key, past any damage. For `verify` and salvage.
//! - `zeros.rs`: backward, where the zeros after the last frame begin. For opening by the index file.
//!
//! All of them read through `window.rs`, which holds one part of the file in memory. A compaction also reads the
//! live values through it.

mod raw;
mod read_ahead;
mod resync;
mod scanner;
mod window;
mod zeros;

pub(crate) use raw::{Concurrency, PAUSES_MS, RawScanner, ScanItem};
pub(crate) use read_ahead::{Ending, OpenedFrame, replay};
pub(crate) use resync::{Gap, Resync, ResyncItem};
pub(crate) use scanner::{OpenFrame, Scanned, Scanner, each_frame};
pub(crate) use window::Window;
pub(crate) use zeros::look_for_zeros_during;
