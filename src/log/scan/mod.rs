//! Scanning a log frame by frame.

mod raw;
mod read_ahead;
mod resync;
mod scanner;
mod window;

pub(crate) use raw::{Concurrency, RawScanner, ScanItem};
pub(crate) use read_ahead::{Ending, OpenedFrame, replay};
pub(crate) use resync::{Gap, Resync, ResyncItem};
pub(crate) use scanner::{OpenFrame, Scanned, Scanner};
