//! The iterators over jobs, log events and data keys, for [`Store`](crate::Store) and
//! [`Snapshot`](crate::Snapshot).
//!
//! An iterator collects the keys when it begins, and looks each one up when its turn comes. So it needs no lock
//! between two items, a compaction in between changes nothing, and of the values it has only one in memory.

use std::fmt;
use std::iter::FusedIterator;
use std::sync::Arc;
use std::vec;

use super::{LogEvent, QueuedJob, Reader, read_event, read_job};
use crate::format::bucket::Bucket;
use crate::format::location::Location;
use crate::index::Key;
use crate::log::values::{ValueReader, Values};
use crate::{Error, Result};

/// The pending jobs in queue order: returned by `jobs` of [`Store`](crate::Store::jobs) and
/// [`Snapshot`](crate::Snapshot::jobs).
#[must_use = "iterators are lazy and do nothing unless consumed"]
pub struct Jobs<'a>(Entries<'a, QueuedJob>);

/// The run ids of the pending jobs in queue order: returned by `run_ids` of [`Store`](crate::Store::run_ids) and
/// [`Snapshot`](crate::Snapshot::run_ids).
#[must_use = "iterators are lazy and do nothing unless consumed"]
pub struct RunIds<'a>(LiveKeys<'a>);

/// Keys of the agent's own data in byte order: returned by `data_keys` of [`Store`](crate::Store::data_keys) and
/// [`Snapshot`](crate::Snapshot::data_keys).
#[must_use = "iterators are lazy and do nothing unless consumed"]
pub struct DataKeys<'a>(LiveKeys<'a>);

/// The buffered log events, oldest first: returned by `logs` of [`Store`](crate::Store::logs) and
/// [`Snapshot`](crate::Snapshot::logs).
#[must_use = "iterators are lazy and do nothing unless consumed"]
pub struct Logs<'a>(Entries<'a, LogEvent>);

impl<'a> Jobs<'a> {
    pub(crate) fn new(source: &'a dyn Source) -> Self {
        Jobs(Entries::new(source, Bucket::Queue, read_job))
    }
}

impl<'a> RunIds<'a> {
    pub(crate) fn new(source: &'a dyn Source) -> Self {
        RunIds(LiveKeys { source, bucket: Bucket::Queue, keys: source.keys(Bucket::Queue).into_iter() })
    }
}

impl<'a> DataKeys<'a> {
    pub(crate) fn new(source: &'a dyn Source, prefix: &str) -> Self {
        let keys = source.keys_with_prefix(Bucket::Data, prefix.as_bytes()).into_iter();
        DataKeys(LiveKeys { source, bucket: Bucket::Data, keys })
    }
}

impl<'a> Logs<'a> {
    pub(crate) fn new(source: &'a dyn Source) -> Self {
        Logs(Entries::new(source, Bucket::Logs, read_event))
    }
}

/// What all of these iterators have in common.
macro_rules! impl_iterator {
    ($($iterator:ident: $item:ty,)*) => {$(
        impl Iterator for $iterator<'_> {
            type Item = $item;

            fn next(&mut self) -> Option<Self::Item> {
                self.0.next()
            }

            fn size_hint(&self) -> (usize, Option<usize>) {
                (0, Some(self.0.max_left()))
            }
        }

        impl FusedIterator for $iterator<'_> {}

        impl fmt::Debug for $iterator<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($iterator)).field("max_left", &self.0.max_left()).finish_non_exhaustive()
            }
        }
    )*};
}

impl_iterator! {
    Jobs: Result<QueuedJob>,
    RunIds: String,
    DataKeys: String,
    Logs: Result<LogEvent>,
}

/// What the iterators ask of a [`Reader`]. Unlike that, it can be a trait object, so that the iterators have no
/// type parameter.
pub(crate) trait Source: Sync {
    fn begin(&self) -> Result<()>;

    fn keys(&self, bucket: Bucket) -> Vec<Key>;

    fn keys_with_prefix(&self, bucket: Bucket, prefix: &[u8]) -> Vec<Key>;

    fn find(&self, bucket: Bucket, key: &[u8]) -> (Option<Location>, Arc<Values>);

    fn confirm(&self) -> Result<()>;

    fn confirm_unreadable(&self, error: &Error) -> Result<()>;
}

impl<R: Reader + Sync> Source for R {
    fn begin(&self) -> Result<()> {
        Reader::begin(self)
    }

    fn keys(&self, bucket: Bucket) -> Vec<Key> {
        self.with_index(|index| index.keys(bucket)).0
    }

    fn keys_with_prefix(&self, bucket: Bucket, prefix: &[u8]) -> Vec<Key> {
        self.with_index(|index| index.keys_with_prefix(bucket, prefix)).0
    }

    fn find(&self, bucket: Bucket, key: &[u8]) -> (Option<Location>, Arc<Values>) {
        self.with_index(|index| index.get(bucket, key))
    }

    fn confirm(&self) -> Result<()> {
        Reader::confirm(self)
    }

    fn confirm_unreadable(&self, error: &Error) -> Result<()> {
        Reader::confirm_unreadable(self, error)
    }
}

/// The keys of one bucket, which are text, without their values.
struct LiveKeys<'a> {
    source: &'a dyn Source,
    bucket: Bucket,
    keys: vec::IntoIter<Key>,
}

impl LiveKeys<'_> {
    /// The next key that is still there.
    fn next(&mut self) -> Option<String> {
        let LiveKeys { source, bucket, keys } = self;
        let live = keys.find(|key| source.find(*bucket, key).0.is_some())?;
        // Nothing is lost: a record with a key that is not UTF-8 is refused when it is read.
        Some(String::from_utf8_lossy(&live).into_owned())
    }

    fn max_left(&self) -> usize {
        self.keys.len()
    }
}

/// The entries of one bucket, the value of each read when its turn comes.
struct Entries<'a, T> {
    source: &'a dyn Source,
    bucket: Bucket,
    read: Read<T>,
    keys: vec::IntoIter<Key>,
    /// Why it could not begin.
    refused: Option<Error>,
}

/// Reads the value of a key.
type Read<T> = fn(&Values, &mut ValueReader<'_>, &[u8], Location) -> Result<T>;

impl<'a, T> Entries<'a, T> {
    fn new(source: &'a dyn Source, bucket: Bucket, read: Read<T>) -> Self {
        let (keys, refused) = match source.begin() {
            Ok(()) => (source.keys(bucket), None),
            Err(error) => (Vec::new(), Some(error)),
        };
        Entries { source, bucket, read, keys: keys.into_iter(), refused }
    }

    /// The next entry that is still there. An error that is not about one value ends the iteration.
    fn next(&mut self) -> Option<Result<T>> {
        if let Some(error) = self.refused.take() {
            return Some(Err(error));
        }
        while let Some(key) = self.keys.next() {
            match self.read_if_live(&key) {
                Ok(None) => {}
                Ok(Some(entry)) => return Some(entry),
                Err(error) => {
                    self.keys = vec::IntoIter::default();
                    return Some(Err(error));
                }
            }
        }
        None
    }

    /// `None` if the entry is gone. The inner error is about its value alone.
    fn read_if_live(&self, key: &[u8]) -> Result<Option<Result<T>>> {
        self.source.begin()?;
        let (location, values) = self.source.find(self.bucket, key);
        let Some(location) = location else { return Ok(None) };
        let entry = (self.read)(&values, &mut values.reader(), key, location);
        self.source.confirm()?;
        match entry {
            Err(error @ Error::Unauthentic { .. }) => {
                self.source.confirm_unreadable(&error)?;
                Ok(Some(Err(error)))
            }
            entry => Ok(Some(Ok(entry?))),
        }
    }

    /// How many entries there are at most.
    fn max_left(&self) -> usize {
        self.keys.len() + usize::from(self.refused.is_some())
    }
}
