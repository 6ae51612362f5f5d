//! The anchor, which the caller keeps elsewhere to detect that a file is older than expected.
//!
//! Implements *With an anchor* of FORMAT.md, section 11. Recovery and salvage look up the tags.

use std::fmt;
use std::str::FromStr;

use crate::crypto::{TAG_LEN, Tag};
use crate::format::base::Origin;
use crate::format::header::Header;
use crate::{Error, Result};

/// Identifies a frame of a store: by the store's id, the generation, the frame's number and its tag.
///
/// [`Store::anchor`](crate::Store::anchor) returns that of the last durable frame. Keep it outside the machine,
/// for instance on the server, and pass it to
/// [`OpenOptions::expect_at_least`](crate::OpenOptions::expect_at_least): a log that was replaced by an older one,
/// or whose end was cut off, is then refused. A fork that was compacted after it had got further than the anchor,
/// or more than once, is not detected.
///
/// An anchor is not secret. `Display` writes it as a string of at most 107 ASCII characters, which `FromStr`
/// reads; it fails with [`Error::Invalid`] for any other string.
///
/// ```
/// use backupy_state::{AgentKey, Anchor, Error, OpenOptions, Store};
///
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("state.db");
/// let key = AgentKey::new("bkpy_0123456789abcdef0123456789abcdef")?;
/// let store = Store::open(&path, &key)?;
/// store.save_config(1, b"old")?;
/// store.close()?;
/// let older = std::fs::read(&path)?;
///
/// let store = Store::open(&path, &key)?;
/// store.save_config(2, b"new")?;
/// let anchor = store.anchor().to_string();
/// store.close()?;
///
/// std::fs::write(&path, older)?;
/// let opened = OpenOptions::new().expect_at_least(anchor.parse::<Anchor>()?).open(&path, &key);
/// assert!(matches!(opened, Err(Error::Stale { .. })));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// With feature `serde`, it is serialized as that string.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Anchor {
    store_id: [u8; 16],
    generation: u64,
    seq: u64,
    tag: Tag,
}

impl Anchor {
    pub(crate) fn new(header: &Header, seq: u64, tag: Tag) -> Self {
        Anchor { store_id: header.id.store_id, generation: header.id.generation, seq, tag }
    }

    /// Returns the generation, from 1.
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let key = backupy_state::AgentKey::new("key")?;
    /// # let store = backupy_state::Store::open(folder.path().join("state.db"), &key)?;
    /// assert_eq!(store.anchor().generation(), 1);
    /// store.compact()?;
    /// assert_eq!(store.anchor().generation(), 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Returns the id of the store: random, and the same over compactions, changes of the key and backups.
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let key = backupy_state::AgentKey::new("key")?;
    /// # let store = backupy_state::Store::open(folder.path().join("state.db"), &key)?;
    /// let id = store.anchor().store_id();
    /// store.compact()?;
    /// assert_eq!(store.anchor().store_id(), id);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn store_id(&self) -> [u8; 16] {
        self.store_id
    }

    /// Returns the number of the frame in its generation; 0 if there was none.
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let key = backupy_state::AgentKey::new("key")?;
    /// # let store = backupy_state::Store::open(folder.path().join("state.db"), &key)?;
    /// assert_eq!(store.anchor().seq(), 0);
    /// store.record_heartbeat(1_700_000_000_000)?;
    /// assert_eq!(store.anchor().seq(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.seq
    }

    pub(crate) fn tag(&self) -> Tag {
        self.tag
    }

    /// Returns why a log does not satisfy this anchor, or `None` if it does. `origin` is that of its base.
    /// `tag_at` returns the tag of the log's frame with the given number, if there is one.
    pub(crate) fn shortfall(
        &self,
        header: &Header,
        origin: Option<Origin>,
        tag_at: impl FnOnce(u64) -> Option<Tag>,
    ) -> Option<&'static str> {
        if header.id.store_id != self.store_id {
            return Some("it is a different store");
        }
        if header.id.generation != self.generation {
            let is_older = header.id.generation < self.generation;
            let is_fork = origin.is_some_and(|origin| self.is_missing_from(&origin));
            let fork = "it was made from a log without the expected frame";
            return is_older.then_some("its generation is older").or(is_fork.then_some(fork));
        }
        match tag_at(self.seq) {
            None => Some("its log ends before the expected frame"),
            Some(tag) if tag != self.tag => Some("its log has a different frame with the expected number"),
            Some(_) => None,
        }
    }

    /// Whether the log that a base was made from is of the anchor's generation, but does not have its frame.
    fn is_missing_from(&self, origin: &Origin) -> bool {
        let has_other_frame = origin.seq == self.seq && origin.tag != self.tag;
        origin.generation == self.generation && (origin.seq < self.seq || has_other_frame)
    }
}

impl fmt::Display for Anchor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Anchor { store_id, generation, seq, tag } = self;
        write!(f, "{:032x}.{generation}.{seq}.{:032x}", u128::from_be_bytes(*store_id), u128::from_be_bytes(*tag))
    }
}

impl FromStr for Anchor {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        parse(text).ok_or_else(|| Error::Invalid {
            what: "the anchor is not of the form ID.GENERATION.SEQ.TAG".to_owned(),
        })
    }
}

fn parse(text: &str) -> Option<Anchor> {
    let mut parts = text.split('.');
    let anchor = Anchor {
        store_id: parse_hex(parts.next()?)?,
        generation: parts.next()?.parse().ok()?,
        seq: parts.next()?.parse().ok()?,
        tag: parse_hex(parts.next()?)?,
    };
    // Only what `Display` writes is accepted: no signs, no leading zeros, no further fields.
    (parts.next().is_none() && anchor.to_string() == text).then_some(anchor)
}

fn parse_hex(text: &str) -> Option<[u8; TAG_LEN]> {
    Some(u128::from_str_radix(text, 16).ok()?.to_be_bytes())
}
