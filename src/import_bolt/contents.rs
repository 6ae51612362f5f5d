//! What the Go agent keeps in its buckets, and what of it opens under the agent key.

use super::pages::{Leaf, Pages, Tree};
use super::source::Place;
use crate::crypto::seal::BoltOpener;
use crate::crypto::secret_vec::SecretVec;
use crate::crypto::{NONCE_LEN, Nonce, TAG_LEN, Tag};
use crate::format::bucket::RUN_ID_LEN_MAX;
use crate::format::record::VALUE_LEN_MAX;
use crate::{AgentKey, Error, Result};

/// Keys of a bbolt file that stay behind: of a bucket that the agent does not have, or unknown keys of one that it has.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LeftOut {
    /// The name of the bucket.
    pub bucket: String,
    /// How many keys, with those of the buckets in it.
    pub keys: u64,
}

/// Where everything is that comes over. Values stay in the file until they are asked for.
#[derive(Default)]
pub(crate) struct Contents {
    pub(crate) config: Option<(u64, Place)>,
    pub(crate) session: Option<(i64, Place)>,
    pub(crate) heartbeat: Option<i64>,
    /// By run id.
    pub(crate) jobs: Vec<(String, Place)>,
    /// By time, and those of the same time in their order.
    pub(crate) logs: Vec<(i64, Place)>,
    pub(crate) left_out: Vec<LeftOut>,
}

impl Contents {
    /// Walks the whole file.
    pub(crate) fn read(pages: &mut Pages<'_>) -> Result<Self> {
        let buckets = root_buckets(pages)?;
        let is_known = |name: &[u8]| [CONFIG, QUEUE, REGISTRY, LOGS].contains(&name);
        let known = buckets.iter().filter(|(name, _)| is_known(name)).count();
        if known == 0 && !buckets.is_empty() {
            return Err(Error::NotAStore { path: pages.path.to_path_buf(), what: "another program's bbolt file" });
        }
        // The agent makes all four as it opens the file for the first time.
        if known != 4 && !buckets.is_empty() {
            return Err(pages.corrupt(0, "one of the agent's four buckets is missing"));
        }
        let mut contents = Contents::default();
        for (name, tree) in buckets {
            match &*name {
                CONFIG => contents.read_config(pages, tree)?,
                QUEUE => contents.read_queue(pages, tree)?,
                REGISTRY => contents.read_registry(pages, tree)?,
                LOGS => contents.read_logs(pages, tree)?,
                _ => {
                    let keys = count_keys(pages, tree)?;
                    contents.left_out(&name, keys);
                }
            }
        }
        pages.check_that_none_is_lost()?;
        Ok(contents)
    }

    fn left_out(&mut self, bucket: &[u8], keys: u64) {
        self.left_out.push(LeftOut { bucket: String::from_utf8_lossy(bucket).into_owned(), keys });
    }

    fn read_config(&mut self, pages: &mut Pages<'_>, tree: Tree) -> Result<()> {
        let [mut current, mut version] = [None; 2];
        let unknown = read_fields(pages, tree, &mut [(b"current", &mut current), (b"version", &mut version)])?;
        self.config = match (version, current) {
            (Some(version), Some(current)) => Some((number(pages, version)?, current)),
            (None, None) => None,
            (Some(place), None) | (None, Some(place)) => {
                return Err(pages.corrupt(place.offset, "there is a configuration or its version, but not both"));
            }
        };
        if unknown > 0 {
            self.left_out(CONFIG, unknown);
        }
        Ok(())
    }

    fn read_registry(&mut self, pages: &mut Pages<'_>, tree: Tree) -> Result<()> {
        let [mut id, mut server_time, mut heartbeat] = [None; 3];
        let unknown = read_fields(
            pages,
            tree,
            &mut [
                (b"session_id", &mut id),
                (b"server_time_ms", &mut server_time),
                (b"last_heartbeat_ms", &mut heartbeat),
            ],
        )?;
        self.session = match (server_time, id) {
            (Some(server_time), Some(id)) => Some((number(pages, server_time)?.cast_signed(), id)),
            (None, None) => None,
            (Some(place), None) | (None, Some(place)) => {
                return Err(pages.corrupt(place.offset, "there is a session or its time, but not both"));
            }
        };
        self.heartbeat = heartbeat.map(|place| number(pages, place)).transpose()?.map(u64::cast_signed);
        if unknown > 0 {
            self.left_out(REGISTRY, unknown);
        }
        Ok(())
    }

    fn read_queue(&mut self, pages: &mut Pages<'_>, tree: Tree) -> Result<()> {
        let path = pages.path;
        walk_values(pages, tree, &mut |key, place| {
            if key.len() > RUN_ID_LEN_MAX {
                let (len, max) = (key.len() as u64, RUN_ID_LEN_MAX as u64);
                return Err(Error::TooLarge { what: "a run id", len, max });
            }
            let run_id = String::from_utf8(key.to_vec())
                .map_err(|_| Error::corrupt(path, place.offset, "the run id before it is not UTF-8"))?;
            self.jobs.push((run_id, place));
            Ok(())
        })
    }

    fn read_logs(&mut self, pages: &mut Pages<'_>, tree: Tree) -> Result<()> {
        let path = pages.path;
        walk_values(pages, tree, &mut |key, place| {
            // The time, then a number of the agent's that keeps those of the same time apart.
            let time = key.first_chunk().filter(|_| key.len() == LOG_KEY_LEN);
            let ts_ms = time.map(|ts_ms| i64::from_be_bytes(*ts_ms));
            let what = "the key before it is not that of a log event";
            self.logs.push((ts_ms.ok_or_else(|| Error::corrupt(path, place.offset, what))?, place));
            Ok(())
        })?;
        // The agent's order puts times before 1970 behind all others; the sort is stable.
        self.logs.sort_by_key(|(ts_ms, _)| *ts_ms);
        Ok(())
    }

    fn sealed(&self) -> impl Iterator<Item = (&'static str, Place)> {
        let config = self.config.iter().map(|(_, place)| ("a configuration", *place));
        let session = self.session.iter().map(|(_, place)| ("a session id", *place));
        let jobs = self.jobs.iter().map(|(_, place)| ("a payload", *place));
        let logs = self.logs.iter().map(|(_, place)| ("a log event", *place));
        config.chain(session).chain(jobs).chain(logs)
    }

    /// Opens every value, and holds it against the limits of a store.
    pub(crate) fn check(&self, pages: &Pages<'_>, opener: &Opener) -> Result<()> {
        let (mut any_opens, mut broken) = (false, None);
        for (what, place) in self.sealed() {
            if u64::from(place.len) > (SEALED_MORE + VALUE_LEN_MAX) as u64 {
                let (len, max) = (u64::from(place.len) - SEALED_MORE as u64, VALUE_LEN_MAX as u64);
                return Err(Error::TooLarge { what, len, max });
            }
            match opener.open(pages, place)? {
                Some(_) => any_opens = true,
                None => broken = broken.or(Some(place)),
            }
        }
        match broken {
            None => {}
            Some(place) if any_opens => return Err(broken_seal(pages, place)),
            // Where no value opens, it is the key. A damaged one that is the only one looks the same.
            Some(_) => return Err(Error::WrongKey { path: pages.path.to_path_buf() }),
        }
        let session_id = self.session.map(|(_, place)| Ok((place, opener.value(pages, place)?))).transpose()?;
        match session_id {
            Some((place, id)) if std::str::from_utf8(&id).is_err() => {
                Err(pages.corrupt(place.offset, "the session id is not UTF-8"))
            }
            _ => Ok(()),
        }
    }
}

/// Opens what the agent has sealed.
pub(crate) struct Opener(BoltOpener);

impl Opener {
    pub(crate) fn new(key: &AgentKey) -> Self {
        Opener(BoltOpener::new(key))
    }

    /// A value that [`Contents::check`] has seen to open.
    pub(crate) fn value(&self, pages: &Pages<'_>, place: Place) -> Result<SecretVec> {
        self.open(pages, place)?.ok_or_else(|| broken_seal(pages, place))
    }

    /// `None` where the seal does not fit.
    fn open(&self, pages: &Pages<'_>, place: Place) -> Result<Option<SecretVec>> {
        let mut value = SecretVec::from(pages.read(place)?);
        let Some((nonce, text, tag)) = parts(&mut value) else {
            return Err(pages.corrupt(place.offset, "the value is not sealed as the agent seals"));
        };
        if self.0.open(nonce, text, tag).is_err() {
            return Ok(None);
        }
        let text_end = value.len() - TAG_LEN;
        value.truncate(text_end);
        value.drain(..SEALED_MORE - TAG_LEN);
        Ok(Some(value))
    }
}

/// Nonce, text and tag of a sealed value.
fn parts(value: &mut [u8]) -> Option<(&Nonce, &mut [u8], &Tag)> {
    let (sealing, rest) = value.split_first_mut()?;
    let (nonce, rest) = rest.split_first_chunk_mut::<NONCE_LEN>()?;
    let (text, tag) = rest.split_last_chunk_mut::<TAG_LEN>()?;
    (*sealing == SEALING).then_some((nonce, text, tag))
}

fn broken_seal(pages: &Pages<'_>, place: Place) -> Error {
    pages.corrupt(place.offset, "the value does not fit its seal")
}

fn root_buckets(pages: &mut Pages<'_>) -> Result<Vec<(Vec<u8>, Tree)>> {
    let path = pages.path;
    let mut buckets = Vec::new();
    pages.walk(pages.root(), &mut |name, leaf| match leaf {
        Leaf::Bucket(tree) => {
            buckets.push((name.to_vec(), tree));
            Ok(())
        }
        Leaf::Value(place) => Err(Error::corrupt(path, place.offset, "a value stands where only buckets do")),
    })?;
    Ok(buckets)
}

/// As [`Pages::walk`], of a bucket that holds no buckets.
fn walk_values(pages: &mut Pages<'_>, tree: Tree, each: &mut dyn FnMut(&[u8], Place) -> Result<()>) -> Result<()> {
    let path = pages.path;
    pages.walk(tree, &mut |key, leaf| match leaf {
        Leaf::Value(place) => each(key, place),
        Leaf::Bucket(tree) => Err(Error::corrupt(path, tree.offset(), "a bucket stands where a value belongs")),
    })
}

/// Finds the values of a few keys, and counts the others.
fn read_fields(pages: &mut Pages<'_>, tree: Tree, fields: &mut [(&[u8], &mut Option<Place>)]) -> Result<u64> {
    let mut unknown = 0;
    walk_values(pages, tree, &mut |key, place| {
        match fields.iter_mut().find(|(name, _)| *name == key) {
            Some((_, found)) => **found = Some(place),
            None => unknown += 1,
        }
        Ok(())
    })?;
    Ok(unknown)
}

/// How many keys a bucket has, with those of the buckets in it.
fn count_keys(pages: &mut Pages<'_>, tree: Tree) -> Result<u64> {
    let (mut count, mut trees) = (0, vec![tree]);
    while let Some(tree) = trees.pop() {
        pages.walk(tree, &mut |_, leaf| {
            match leaf {
                Leaf::Value(_) => count += 1,
                Leaf::Bucket(tree) => trees.push(tree),
            }
            Ok(())
        })?;
    }
    Ok(count)
}

/// A value of eight bytes, big-endian.
fn number(pages: &Pages<'_>, place: Place) -> Result<u64> {
    match <[u8; 8]>::try_from(pages.read(place)?) {
        Ok(bytes) => Ok(u64::from_be_bytes(bytes)),
        Err(_) => Err(pages.corrupt(place.offset, "the value is not a number of eight bytes")),
    }
}

const CONFIG: &[u8] = b"config";
const QUEUE: &[u8] = b"queue";
const REGISTRY: &[u8] = b"registry";
const LOGS: &[u8] = b"logs_buffer";
const LOG_KEY_LEN: usize = 16;

/// The first byte of a sealed value.
const SEALING: u8 = 1;
/// What a sealed value has more than its text: that byte, the nonce and the tag.
const SEALED_MORE: usize = 1 + NONCE_LEN + TAG_LEN;
