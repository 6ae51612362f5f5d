//! A door for this project's own tests, fuzz targets, benchmarks and command line.
//!
//! **No part of the interface.** Anything here may change or go in any release.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

#[cfg(feature = "import-bolt")]
pub use crate::import_bolt::{BoltState, import_bolt_bytes, read_bolt};
pub use crate::storage::{Access, Disk, File, LockGuard, Map, PathKind, Storage};
use crate::{AgentKey, FrameInfo, OpenOptions, Result, SalvageReport, Snapshot, Store, VerifyReport};

/// The default options, on another file system than the machine's.
#[must_use]
pub fn options_on(storage: Arc<dyn Storage>) -> OpenOptions {
    OpenOptions { storage, ..OpenOptions::new() }
}

/// As [`Snapshot::open`], on another file system than the machine's.
///
/// # Errors
/// As [`Snapshot::open`].
pub fn open_snapshot_on(storage: Arc<dyn Storage>, path: impl AsRef<Path>, key: &AgentKey) -> Result<Snapshot> {
    Snapshot::open_on(storage, path.as_ref(), key)
}

/// As [`verify_each`](crate::verify_each), on another file system than the machine's.
///
/// # Errors
/// As [`verify`](crate::verify()).
pub fn verify_on(
    storage: &dyn Storage,
    path: impl AsRef<Path>,
    key: Option<&AgentKey>,
    each: impl FnMut(&FrameInfo),
) -> Result<VerifyReport> {
    crate::repair::verify::verify_on(storage, path.as_ref(), key, each)
}

/// As [`salvage`](crate::salvage()), on another file system than the machine's.
///
/// # Errors
/// As [`salvage`](crate::salvage()).
pub fn salvage_on(
    storage: &Arc<dyn Storage>,
    from: impl AsRef<Path>,
    key: &AgentKey,
    to: impl AsRef<Path>,
) -> Result<SalvageReport> {
    crate::repair::salvage::salvage_on(storage, from.as_ref(), key, to.as_ref())
}

/// The ranges of the file that hold the live bytes of [`Snapshot::stats`], in file order. The live bytes of a manifest
/// are one range at its beginning.
#[must_use]
pub fn live_ranges(snapshot: &Snapshot) -> Vec<Range<u64>> {
    snapshot.live_ranges()
}

/// How many bytes of the new file a running compaction, rekey or backup has read back: for a progress bar. After the
/// last one has ended, its final count.
#[must_use]
pub fn copy_progress(store: &Store) -> u64 {
    store.copy_progress()
}
