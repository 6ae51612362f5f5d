//! The Go agent's four buckets: finds all their values, checks them and opens those that are sealed.
//!
//! Knows what the agent stores, and leaves pages and trees to `pages.rs`. Never writes.

use super::corrupt;
use super::pages::{Leaf, Pages, Tree};
use super::source::Extent;
use crate::crypto::keys;
use crate::crypto::seal::BoltOpener;
use crate::crypto::secret_vec::SecretVec;
use crate::crypto::{NONCE_LEN, Nonce, TAG_LEN, Tag};
use crate::format::bucket::RUN_ID_LEN_MAX;
use crate::format::record::VALUE_LEN_MAX;
use crate::{AgentKey, Error, Result};

/// Keys of a bbolt file that are not imported: those of a bucket that the agent does not have, unknown keys of one
/// that it has, or one job or log event that a store cannot hold.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct LeftOut {
    /// The name of the bucket.
    pub bucket: String,
    /// The number of keys, including those in nested buckets.
    pub keys: u64,
    /// The run id, if this is a job: its first 128 bytes, with `\xff` and the like for bytes that are no printable
    /// ASCII, and `...` if there are more.
    pub run_id: Option<String>,
    /// Why a store has no place for them.
    pub why: &'static str,
}

/// Where everything is that will be imported. Values are read and opened one at a time, to save memory.
#[derive(Default)]
pub(crate) struct Contents {
    /// The version, and the sealed configuration.
    pub(crate) config: Option<(u64, Extent)>,
    /// The server's time, and the sealed session id.
    pub(crate) session: Option<(i64, Extent)>,
    pub(crate) heartbeat: Option<i64>,
    /// In ascending order of run ids.
    pub(crate) jobs: Vec<(String, Extent)>,
    /// In the order of times; events with equal times in the order of their keys.
    pub(crate) logs: Vec<(i64, Extent)>,
    pub(crate) left_out: Vec<LeftOut>,
    /// The payloads of the jobs that are left out for their run ids. They are checked with the others: damage can
    /// make a run id one that a store cannot hold.
    left_out_payloads: Vec<Extent>,
}

impl Contents {
    /// Walks all buckets of the file, and checks that no page of it is lost.
    pub(crate) fn read(pages: &mut Pages<'_>) -> Result<Self> {
        let buckets = root_buckets(pages)?;
        let is_known = |name: &[u8]| [CONFIG, QUEUE, REGISTRY, LOGS].contains(&name);
        let known = buckets.iter().filter(|(name, _)| is_known(name)).count();
        if known == 0 && !buckets.is_empty() {
            return Err(Error::NotAStore { path: pages.path.to_path_buf(), what: "another program's bbolt file" });
        }
        // The agent creates all four in one transaction, when it first opens the file.
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
                    contents.add_unknown(&name, keys);
                }
            }
        }
        pages.check_no_page_is_lost()?;
        Ok(contents)
    }

    /// Notes keys that nothing is known about.
    fn add_unknown(&mut self, bucket: &[u8], keys: u64) {
        let bucket = String::from_utf8_lossy(bucket).into_owned();
        self.left_out.push(LeftOut { bucket, keys, run_id: None, why: "the agent had no such keys" });
    }

    /// Notes a job that a store cannot hold. One of these must not keep the agent from all the others.
    fn note_job_left_out(&mut self, run_id: &[u8], why: &'static str) {
        let shown = run_id.get(..SHOWN_LEN).unwrap_or(run_id);
        let more = if shown.len() < run_id.len() { "..." } else { "" };
        let run_id = Some(format!("{}{more}", shown.escape_ascii()));
        self.left_out.push(LeftOut { bucket: "queue".to_owned(), keys: 1, run_id, why });
    }

    fn read_config(&mut self, pages: &mut Pages<'_>, tree: Tree) -> Result<()> {
        let [mut current, mut version] = [None; 2];
        let unknown = read_fields(pages, tree, &mut [(b"current", &mut current), (b"version", &mut version)])?;
        self.config = match (version, current) {
            (Some(version), Some(current)) => Some((read_u64(pages, version)?, current)),
            (None, None) => None,
            (Some(extent), None) | (None, Some(extent)) => {
                return Err(pages.corrupt(extent.offset, "the configuration or its version is missing"));
            }
        };
        if unknown > 0 {
            self.add_unknown(CONFIG, unknown);
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
            (Some(server_time), Some(id)) => Some((read_u64(pages, server_time)?.cast_signed(), id)),
            (None, None) => None,
            (Some(extent), None) | (None, Some(extent)) => {
                return Err(pages.corrupt(extent.offset, "the session id or its time is missing"));
            }
        };
        self.heartbeat = heartbeat.map(|extent| read_u64(pages, extent)).transpose()?.map(u64::cast_signed);
        if unknown > 0 {
            self.add_unknown(REGISTRY, unknown);
        }
        Ok(())
    }

    fn read_queue(&mut self, pages: &mut Pages<'_>, tree: Tree) -> Result<()> {
        walk_values(pages, tree, &mut |key, extent| {
            match std::str::from_utf8(key) {
                // Not read: it may have more bytes than the machine has memory.
                _ if is_too_large(extent) => self.note_job_left_out(key, "its payload has more than 16 MiB"),
                Ok(_) if key.len() > RUN_ID_LEN_MAX => {
                    self.note_job_left_out(key, "its run id has more than 1,024 bytes");
                    self.left_out_payloads.push(extent);
                }
                Ok(run_id) => self.jobs.push((run_id.to_owned(), extent)),
                Err(_) => {
                    self.note_job_left_out(key, "its run id is not UTF-8");
                    self.left_out_payloads.push(extent);
                }
            }
            Ok(())
        })
    }

    fn read_logs(&mut self, pages: &mut Pages<'_>, tree: Tree) -> Result<()> {
        let (path, mut too_large) = (pages.path, 0);
        walk_values(pages, tree, &mut |key, extent| {
            // The time, then a number that makes the key unique.
            let time = key.first_chunk().filter(|_| key.len() == LOG_KEY_LEN);
            let ts_ms = time.map(|ts_ms| i64::from_be_bytes(*ts_ms));
            let what = "the key before this value is not a log event's key";
            let ts_ms = ts_ms.ok_or_else(|| corrupt(path, extent.offset, what))?;
            if is_too_large(extent) {
                too_large += 1;
            } else {
                self.logs.push((ts_ms, extent));
            }
            Ok(())
        })?;
        if too_large > 0 {
            let (bucket, why) = ("logs_buffer".to_owned(), "a log event has at most 16 MiB");
            self.left_out.push(LeftOut { bucket, keys: too_large, run_id: None, why });
        }
        // In the file, negative times come after all others. The sort is stable.
        self.logs.sort_by_key(|(ts_ms, _)| *ts_ms);
        Ok(())
    }

    /// All sealed values, each with a name for error messages.
    fn sealed(&self) -> impl Iterator<Item = (&'static str, Extent)> {
        let config = self.config.iter().map(|(_, extent)| ("a configuration", *extent));
        let session = self.session.iter().map(|(_, extent)| ("a session id", *extent));
        let jobs = self.jobs.iter().map(|(_, extent)| extent).chain(&self.left_out_payloads);
        let jobs = jobs.map(|extent| ("a payload", *extent));
        let logs = self.logs.iter().map(|(_, extent)| ("a log event", *extent));
        config.chain(session).chain(jobs).chain(logs)
    }

    /// Opens every sealed value, and checks its length against the limit of a store.
    /// `key` is that of `opener`.
    pub(crate) fn check(&self, pages: &Pages<'_>, opener: &Opener, key: &AgentKey) -> Result<()> {
        let (mut any_opens, mut broken) = (false, None);
        for (what, extent) in self.sealed() {
            if is_too_large(extent) {
                let (len, max) = (u64::from(extent.len) - SEAL_OVERHEAD as u64, VALUE_LEN_MAX as u64);
                return Err(Error::TooLarge { what, len, max });
            }
            match opener.open(pages, extent)? {
                Some(_) => any_opens = true,
                None => broken = broken.or(Some(extent)),
            }
        }
        match broken {
            None => {}
            Some(extent) if any_opens => return Err(unauthentic(pages, extent)),
            // If no value opens, the key is wrong. Damage to the only value of a file looks the same.
            Some(_) => return Err(Error::wrong_key(pages.path, key.ends_in_white_space())),
        }
        let session_id = self.session.map(|(_, extent)| Ok((extent, opener.value(pages, extent)?))).transpose()?;
        match session_id {
            Some((extent, id)) if std::str::from_utf8(&id).is_err() => {
                Err(pages.corrupt(extent.offset, "the session id is not UTF-8"))
            }
            _ => Ok(()),
        }
    }
}

/// Whether a sealed value is over the limit of a store.
fn is_too_large(sealed: Extent) -> bool {
    u64::from(sealed.len) > (SEAL_OVERHEAD + VALUE_LEN_MAX) as u64
}

/// Opens values that the agent sealed.
pub(crate) struct Opener(BoltOpener);

impl Opener {
    pub(crate) fn new(key: &AgentKey) -> Self {
        Opener(keys::bolt_opener(key))
    }

    /// Reads and opens a value. One that does not open is damage: [`Contents::check`] has opened it before.
    pub(crate) fn value(&self, pages: &Pages<'_>, extent: Extent) -> Result<SecretVec> {
        self.open(pages, extent)?.ok_or_else(|| unauthentic(pages, extent))
    }

    /// Returns `None` if the value failed authentication.
    fn open(&self, pages: &Pages<'_>, extent: Extent) -> Result<Option<SecretVec>> {
        let mut value = SecretVec::from(pages.read(extent)?);
        let Some((nonce, text, tag)) = split_sealed(&mut value) else {
            return Err(pages.corrupt(extent.offset, "the value is not in the agent's sealed format"));
        };
        if self.0.open(nonce, text, tag).is_err() {
            return Ok(None);
        }
        let text_end = value.len() - TAG_LEN;
        value.truncate(text_end);
        value.drain(..SEAL_OVERHEAD - TAG_LEN);
        Ok(Some(value))
    }
}

/// Splits a sealed value into nonce, text and tag.
fn split_sealed(value: &mut [u8]) -> Option<(&Nonce, &mut [u8], &Tag)> {
    let (version, rest) = value.split_first_mut()?;
    let (nonce, rest) = rest.split_first_chunk_mut::<NONCE_LEN>()?;
    let (text, tag) = rest.split_last_chunk_mut::<TAG_LEN>()?;
    (*version == SEAL_VERSION).then_some((nonce, text, tag))
}

fn unauthentic(pages: &Pages<'_>, extent: Extent) -> Error {
    pages.corrupt(extent.offset, "the value failed authentication")
}

fn root_buckets(pages: &mut Pages<'_>) -> Result<Vec<(Vec<u8>, Tree)>> {
    let path = pages.path;
    let mut buckets = Vec::new();
    pages.walk(pages.root(), &mut |name, leaf| match leaf {
        Leaf::Bucket(tree) => {
            buckets.push((name.to_vec(), tree));
            Ok(())
        }
        Leaf::Value(extent) => Err(corrupt(path, extent.offset, "a value in place of a bucket")),
    })?;
    Ok(buckets)
}

/// As [`Pages::walk`], for a bucket that holds no buckets.
fn walk_values(
    pages: &mut Pages<'_>,
    tree: Tree,
    visit: &mut dyn FnMut(&[u8], Extent) -> Result<()>,
) -> Result<()> {
    let path = pages.path;
    pages.walk(tree, &mut |key, leaf| match leaf {
        Leaf::Value(extent) => visit(key, extent),
        Leaf::Bucket(tree) => Err(corrupt(path, tree.offset(), "a bucket in place of a value")),
    })
}

/// Finds the values of the keys in `fields`, and returns the number of other keys.
fn read_fields(pages: &mut Pages<'_>, tree: Tree, fields: &mut [(&[u8], &mut Option<Extent>)]) -> Result<u64> {
    let mut unknown = 0;
    walk_values(pages, tree, &mut |key, extent| {
        match fields.iter_mut().find(|(name, _)| *name == key) {
            Some((_, found)) => **found = Some(extent),
            None => unknown += 1,
        }
        Ok(())
    })?;
    Ok(unknown)
}

/// The number of keys in a bucket, including those in nested buckets.
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

/// Reads a big-endian value of eight bytes.
fn read_u64(pages: &Pages<'_>, extent: Extent) -> Result<u64> {
    let bytes = if extent.len == 8 { pages.read(extent)? } else { Vec::new() };
    match <[u8; 8]>::try_from(bytes) {
        Ok(bytes) => Ok(u64::from_be_bytes(bytes)),
        Err(_) => Err(pages.corrupt(extent.offset, "the value is not a number of eight bytes")),
    }
}

const CONFIG: &[u8] = b"config";
const QUEUE: &[u8] = b"queue";
const REGISTRY: &[u8] = b"registry";
const LOGS: &[u8] = b"logs_buffer";
const LOG_KEY_LEN: usize = 16;

/// How many bytes of a run id are shown: enough to recognize it, and not more memory than the file takes.
const SHOWN_LEN: usize = 128;

/// The first byte of a sealed value: the agent has used only this version.
const SEAL_VERSION: u8 = 1;
/// How much longer a sealed value is than its text: by that byte, the nonce and the tag.
const SEAL_OVERHEAD: usize = 1 + NONCE_LEN + TAG_LEN;
