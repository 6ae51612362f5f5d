//! What salvage reports, and the account of what was lost that it keeps on the way.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::format::bucket::{BUCKET_COUNT, Bucket};
use crate::format::frame::Location;
use crate::format::record::{Action, Manifest, Operation};
use crate::crypto::seal::TAG_LEN;
use crate::log::scan::{Gap, OpenFrame};

/// What [`salvage`](crate::salvage) brought over, and what is lost.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SalvageReport {
    /// The log that was read.
    pub from: PathBuf,
    /// The new store.
    pub to: PathBuf,
    /// The number of the new log file among those of the store: one more than that of the old one.
    pub generation: u64,
    /// How many records were authentic.
    pub records: u64,
    /// How many of their operations were brought over.
    pub operations: u64,
    /// How many jobs the new store holds.
    pub jobs: u64,
    /// How many log events it holds.
    pub log_events: u64,
    /// Whether it holds a configuration.
    pub has_config: bool,
    /// Whether it holds a session.
    pub has_session: bool,
    /// The length of the torn tail at the end, in bytes: what a crash left, no loss.
    pub torn_len: u64,
    /// What is lost, in the order of the file: the first 1000 places. What was deleted or replaced later is no loss.
    pub lost: Vec<Lost>,
    /// How many places there are beyond those.
    pub more_lost: u64,
    /// Whether something older may be there again: a delete, an ack or a replacement may be among what is lost.
    pub may_be_stale: bool,
}

impl SalvageReport {
    /// Whether nothing is lost.
    ///
    /// ```
    /// # use backupy_state::{AgentKey, Store, salvage};
    /// # let folder = tempfile::tempdir()?;
    /// # let (path, key) = (folder.path().join("state.db"), AgentKey::new("key")?);
    /// # Store::open(&path, &key)?.record_heartbeat(1_700_000_000_000)?;
    /// let report = salvage(&path, &key, folder.path().join("salvaged.db"))?;
    /// assert!(report.is_complete());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.lost.is_empty()
    }
}

/// A place where something is lost: frames that are damaged, or the value of one put.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Lost {
    /// Where it begins, in bytes from the start of the file.
    pub offset: u64,
    /// Its length in bytes.
    pub len: u64,
    /// The number of the first frame that is missing, or of the one whose value it is.
    pub first_seq: u64,
    /// The number of the last one; `None` where nothing behind it tells.
    pub last_seq: Option<u64>,
    /// The keys that were put there and neither deleted nor replaced later, as far as a manifest tells; there may be others
    /// unless it is a value that is lost. Of frames, the manifest is one that may have been forged.
    pub keys: Vec<LostKey>,
    /// What is lost.
    pub what: &'static str,
}

/// A key whose value is lost.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LostKey {
    /// `config`, `queue`, `registry` or `logs`.
    pub bucket: &'static str,
    /// The job, in the queue.
    pub run_id: Option<String>,
}

impl LostKey {
    fn new(bucket: Bucket, key: &[u8]) -> Self {
        let run_id = (bucket == Bucket::Queue).then(|| String::from_utf8_lossy(key).into_owned());
        LostKey { bucket: bucket.name(), run_id }
    }
}

/// The losses so far. Of keys it holds at most as many as an index of the damaged log would.
#[derive(Default)]
pub(crate) struct Losses {
    gaps: Vec<Lost>,
    more_gaps: u64,
    /// By bucket and key: where its latest value would have been.
    keys: [BTreeMap<Box<[u8]>, Place>; BUCKET_COUNT],
    /// Keys that were put into the gap that is not noted yet.
    unproven: Vec<(Bucket, Box<[u8]>)>,
}

#[derive(Clone, Copy)]
enum Place {
    Value(Location),
    /// The number of a gap.
    Gap(usize),
}

/// Bounds what is held of a file that is nothing but damage.
const LOST_MAX: usize = 1000;

impl Losses {
    /// The value of a put does not open.
    pub(crate) fn note_value(&mut self, operation: &Operation<'_>, place: Location) {
        self.keys[operation.bucket as usize].insert(operation.key.into(), Place::Value(place));
    }

    /// Whatever was lost of the keys that the operation is about, it would be gone by now.
    pub(crate) fn note_superseded(&mut self, operation: &Operation<'_>) {
        let keys = &mut self.keys[operation.bucket as usize];
        if operation.action != Action::DeleteThrough {
            keys.remove(operation.key);
            return;
        }
        while keys.first_key_value().is_some_and(|(key, _)| **key <= *operation.key) {
            keys.pop_first();
        }
    }

    pub(crate) fn note_unproven(&mut self, frame: &OpenFrame<'_>) {
        let puts = frame.manifest.iter().flat_map(Manifest::operations);
        let puts = puts.filter(|operation| matches!(operation.action, Action::Put { .. }));
        let left = LOST_MAX.saturating_sub(self.unproven.len());
        self.unproven.extend(puts.take(left).map(|put| (put.bucket, put.key.into())));
    }

    pub(crate) fn note_gap(&mut self, gap: &Gap) {
        let Gap { offset, end, first_seq, last_seq } = *gap;
        let unproven = std::mem::take(&mut self.unproven);
        if last_seq.is_some_and(|last| last < first_seq) {
            // Bytes that are no frame, and none is missing.
            return;
        }
        if self.gaps.len() == LOST_MAX {
            self.more_gaps += 1;
            return;
        }
        for (bucket, key) in unproven {
            // What an authentic manifest told stays.
            self.keys[bucket as usize].entry(key).or_insert(Place::Gap(self.gaps.len()));
        }
        let what = "frames that are damaged, or whose seal cannot be checked";
        self.gaps.push(Lost { offset, len: end - offset, first_seq, last_seq, keys: Vec::new(), what });
    }

    /// The places in the order of the file, how many there are beyond those, and whether older values may be there again.
    pub(crate) fn list(self) -> (Vec<Lost>, u64, bool) {
        let Losses { gaps: mut lost, more_gaps, keys, .. } = self;
        let mut may_be_stale = !lost.is_empty();
        let mut values = Vec::new();
        for (bucket, keys) in [Bucket::Config, Bucket::Queue, Bucket::Registry, Bucket::Logs].into_iter().zip(keys)
        {
            for (key, place) in keys {
                match place {
                    Place::Gap(number) => lost[number].keys.push(LostKey::new(bucket, &key)),
                    Place::Value(place) => {
                        // No two log events have the same key.
                        may_be_stale |= bucket != Bucket::Logs;
                        values.push((place, LostKey::new(bucket, &key)));
                    }
                }
            }
        }
        lost.extend(values.into_iter().map(|(place, key)| Lost {
            offset: place.value_offset(),
            len: u64::from(place.len) + TAG_LEN as u64,
            first_seq: place.seq(),
            last_seq: Some(place.seq()),
            keys: vec![key],
            what: "a value that does not open",
        }));
        lost.sort_by_key(|lost| lost.offset);
        let beyond = lost.len().saturating_sub(LOST_MAX) as u64;
        lost.truncate(LOST_MAX);
        (lost, more_gaps + beyond, may_be_stale)
    }
}
