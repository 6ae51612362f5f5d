//! The limits of the queue: refuses what would make it larger than they allow. Writes nothing.

use std::collections::HashMap;

use crate::format::bucket::Bucket;
use crate::format::record::{Action, Change};
use crate::index::Index;
use crate::{Error, QueueLimits, Result};

/// Refuses changes after which the queue would be over a limit, and further over it than before. What matters is
/// the end: a batch may ack first or last.
///
/// # Errors
/// `QueueFull`.
pub(super) fn check(limits: &QueueLimits, index: &Index, changes: &[Change<'_>]) -> Result<()> {
    let QueueLimits { max_count, max_bytes } = *limits;
    if max_count.is_none() && max_bytes.is_none() {
        return Ok(());
    }
    let before = (index.count(Bucket::Queue) as u64, index.value_bytes(Bucket::Queue));
    let (mut count, mut bytes) = before;
    // The payload length of each job that was changed; `None` if it was acked.
    let mut changed = HashMap::new();
    for change in changes.iter().filter(|change| change.operation.bucket == Bucket::Queue) {
        let (key, new) = match change.operation.action {
            Action::Put { value_len } => (change.operation.key, Some(u64::from(value_len))),
            Action::Delete | Action::DeleteThrough => (change.operation.key, None),
        };
        let found = || index.get(Bucket::Queue, key).map(|location| u64::from(location.len));
        let old = changed.insert(key, new).unwrap_or_else(found);
        count = count + u64::from(new.is_some()) - u64::from(old.is_some());
        bytes = bytes + new.unwrap_or(0) - old.unwrap_or(0);
    }
    let is_over = |max: Option<u64>, before, after| max.filter(|max| after > *max && after > before);
    if let Some(max) = is_over(max_count, before.0, count) {
        return Err(Error::QueueFull { what: "jobs", len: count, max });
    }
    match is_over(max_bytes, before.1, bytes) {
        Some(max) => Err(Error::QueueFull { what: "bytes of payload", len: bytes, max }),
        None => Ok(()),
    }
}
