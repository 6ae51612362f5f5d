//! `tracing` events for key files, open, recovery and failure. Without the feature `tracing`, these calls do
//! nothing. An event never holds a payload, a key or a session id.

#[cfg(not(feature = "tracing"))]
pub(crate) use self::silent::*;
#[cfg(feature = "tracing")]
pub(crate) use self::traced::*;

#[cfg(feature = "tracing")]
mod traced {
    use std::path::Path;

    use tracing::{error, info, warn};

    use crate::{CompactionReport, Error, Opening, RecoveryReport, SalvageReport};

    pub(crate) fn key_readable_by_all(path: &Path, mode: u32) {
        let mode = format!("{mode:04o}");
        warn!(path = %path.display(), %mode, "every user can read the key file");
    }

    pub(crate) fn opened(path: &Path, report: &RecoveryReport) {
        let RecoveryReport { created, clean, records, operations, quarantined_bytes, .. } = *report;
        let took_us = report.took.as_micros();
        let Opening { by_index, replayed_bytes } = report.opening;
        let path = path.display();
        if let Some(quarantined) = &report.quarantined {
            let quarantined = quarantined.display();
            warn!(%path, quarantined_bytes, %quarantined, "cut a torn tail off the log");
        }
        for kept in &report.damaged {
            let kept = kept.display();
            warn!(%path, %kept, "a damaged log is kept: what was left out of it may not have been reported");
        }
        if clean {
            info!(%path, created, by_index, replayed_bytes, records, operations, took_us, "opened the store");
        } else {
            let how = "opened the store after an unclean stop";
            warn!(%path, by_index, replayed_bytes, records, operations, took_us, "{how}");
        }
    }

    pub(crate) fn open_failed(path: &Path, error: &Error) {
        error!(path = %path.display(), error = %error.with_source(), "could not open the store");
    }

    pub(crate) fn damage_quarantined(path: &Path, damage: &Error, report: &SalvageReport) {
        let (quarantined, lost) = (report.from.display(), report.lost.len() as u64 + report.more_lost);
        let (path, damage) = (path.display(), damage.with_source());
        error!(%path, %damage, %quarantined, lost, "quarantined the damaged log, kept what is authentic");
    }

    pub(crate) fn left_over_kept(path: &Path, kept: &Path) {
        let kept = kept.display();
        warn!(path = %path.display(), %kept, "a log was in the place of a left-over; it is kept");
    }

    pub(crate) fn drops_unreadable(path: &Path, error: &Error) {
        let (path, error) = (path.display(), error.with_source());
        warn!(%path, %error, "cannot read the count of dropped log events; counting from zero");
    }

    pub(crate) fn compacted(path: &Path, report: &CompactionReport) {
        let CompactionReport { generation, bytes_before, bytes_after, took, .. } = *report;
        let took_us = took.as_micros();
        if let Some(damaged) = &report.damaged {
            let (damaged, left_out) = (damaged.display(), report.left_out.len());
            error!(path = %path.display(), %damaged, left_out, "left out damaged values and kept the old log");
        }
        info!(path = %path.display(), generation, bytes_before, bytes_after, took_us, "compacted the log");
    }

    pub(crate) fn index_failed(path: &Path, error: &Error) {
        let (path, error) = (path.display(), error.with_source());
        warn!(%path, %error, "could not write the index file; the next open takes longer");
    }

    pub(crate) fn compaction_failed(path: &Path, error: &Error) {
        let (path, error) = (path.display(), error.with_source());
        warn!(%path, %error, "could not compact the log; the old log stays in use");
    }

    /// A call failed to write or to sync. `ends_writing` says whether the store accepts no more writes.
    pub(crate) fn failed(path: &Path, error: &Error, ends_writing: bool) {
        match error {
            Error::Full { what, .. } => warn!(path = %path.display(), "{what}"),
            Error::Io { operation, source, .. } if ends_writing => {
                error!(path = %path.display(), operation, %source, "the store accepts no more writes");
            }
            Error::Io { operation, source, .. } => {
                warn!(path = %path.display(), operation, %source, "a call failed; nothing was written");
            }
            Error::Replaced { .. } => {
                let what = "the file was moved, removed or replaced; the store accepts no more writes";
                error!(path = %path.display(), "{what}");
            }
            _ => {}
        }
    }
}

#[cfg(not(feature = "tracing"))]
mod silent {
    use std::path::Path;

    use crate::{CompactionReport, Error, RecoveryReport, SalvageReport};

    pub(crate) fn key_readable_by_all(_: &Path, _: u32) {}
    pub(crate) fn opened(_: &Path, _: &RecoveryReport) {}
    pub(crate) fn open_failed(_: &Path, _: &Error) {}
    pub(crate) fn damage_quarantined(_: &Path, _: &Error, _: &SalvageReport) {}
    pub(crate) fn left_over_kept(_: &Path, _: &Path) {}
    pub(crate) fn drops_unreadable(_: &Path, _: &Error) {}
    pub(crate) fn compacted(_: &Path, _: &CompactionReport) {}
    pub(crate) fn index_failed(_: &Path, _: &Error) {}
    pub(crate) fn compaction_failed(_: &Path, _: &Error) {}
    pub(crate) fn failed(_: &Path, _: &Error, _: bool) {}
}
