//! The anchor kept elsewhere: what tells an older file from the newest.

use std::fmt;
use std::str::FromStr;

use crate::crypto::{TAG_LEN, Tag};
use crate::format::header::Header;
use crate::{Error, Result};

/// Where a store's log ended: which store, which generation, the number of its last durable frame and that frame's tag.
///
/// Kept elsewhere, with the server say, and handed to [`OpenOptions::expect_at_least`](crate::OpenOptions::expect_at_least), it
/// makes a file that was put back or cut off an error. It is no secret. `Display` and `FromStr` give and take a string of at
/// most 107 characters.
///
/// ```
/// use backupy_state::{AgentKey, Error, Anchor, OpenOptions, Store};
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

    /// The number of the log file among those of the store, from 1.
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let store = backupy_state::Store::open(folder.path().join("state.db"), &backupy_state::AgentKey::new("key")?)?;
    /// assert_eq!(store.anchor().generation(), 1);
    /// store.compact()?;
    /// assert_eq!(store.anchor().generation(), 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The number of the frame in its generation; 0 where there was none.
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let store = backupy_state::Store::open(folder.path().join("state.db"), &backupy_state::AgentKey::new("key")?)?;
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

    /// In what a log falls short of this anchor, if it does. `tag_at` gives the tag of the log's frame of a number.
    pub(crate) fn shortfall(
        &self,
        header: &Header,
        tag_at: impl FnOnce(u64) -> Option<Tag>,
    ) -> Option<&'static str> {
        if header.id.store_id != self.store_id {
            return Some("it is another store");
        }
        if header.id.generation != self.generation {
            let is_older = header.id.generation < self.generation;
            return is_older.then_some("it is of an older generation");
        }
        match tag_at(self.seq) {
            None => Some("its log ends before the expected frame"),
            Some(tag) if tag != self.tag => Some("its log holds another frame where the expected one was"),
            Some(_) => None,
        }
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
    // Only what `Display` prints: no signs, no leading zeros, nothing behind.
    (parts.next().is_none() && anchor.to_string() == text).then_some(anchor)
}

fn parse_hex(text: &str) -> Option<[u8; TAG_LEN]> {
    Some(u128::from_str_radix(text, 16).ok()?.to_be_bytes())
}
