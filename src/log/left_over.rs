//! What a crash has left at `<path>.new`: removes it if it is provably a left-over, and nothing else.
//!
//! A copy is written to `<path>.new` and then renamed. A crash before the rename leaves the file there; it holds
//! no acknowledged record that an intact log does not have. But an operator may have put a file there too. So a
//! file is removed only if no other handle has it locked, and
//!
//! - it has no whole header, and looks like the beginning of one; or
//! - its header shows that it is the copy that was to be made here, or a new store without a frame, and it has no
//!   mark: marks are written only once a log has its final name.
//!
//! A copy of this store in another generation is left where the log at the path was replaced since, by a backup
//! for instance. It is kept as `<path>.damaged-<n>`.
//!
//! A complete copy may have what is nowhere else, if the log was damaged since, or an older one was put in its
//! place. Then it is kept as `<path>.damaged-<n>`. If all these names are taken, the store is opened all the same,
//! and the copy is in the way of the next compaction.
//!
//! A log that could replace this one and has a mark, for instance a salvaged store that an operator has put here,
//! is kept as `<path>.damaged-<n>`. Anything else is an error.
//!
//! Implements *Left-overs* in *Writing* of FORMAT.md.

use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::create::in_use;
use super::header::read_first_pages;
use super::{marks, quarantine};
use crate::crypto::keys::GenerationId;
use crate::format::SaltedCrc;
use crate::format::base::{self, Origin};
use crate::format::header::{self, FIRST_FRAME_AT, Header, ParsedHeaderPage};
use crate::storage::names::{NEW, sibling};
use crate::storage::{Access, File, PathKind, Storage, lock, paths};
use crate::{Error, Result, events};

/// Which copy a left-over may be.
#[derive(Clone, Copy)]
pub(crate) enum Unfinished<'a> {
    /// A new, empty store. There is no log at the path.
    Store,
    /// The next generation of the log at the path, which was opened. Asked about a complete copy with this origin,
    /// `is_needed` tells whether that may have what is nowhere else. What cannot be kept stays where it is.
    OfOpened { log: &'a GenerationId, is_needed: &'a dyn Fn(&Origin) -> bool },
    /// The next generation of the log at the path, which is about to be written. A complete copy is needed.
    NextGeneration(&'a GenerationId),
    /// A backup or a salvaged copy with this id, at another path than the store's.
    Copy(&'a GenerationId),
}

/// What to do about a file at `<path>.new`.
enum Verdict {
    Remove,
    /// It may be of value: give it a name of its own.
    Keep,
    InTheWay(&'static str),
}

/// Clears `<path>.new`, where `expected` is about to be written. `path` is the final name. Emits the event if a
/// log is kept, so the caller holds no lock.
///
/// # Errors
/// `Invalid` if something is in the way, which is not changed; `Locked` if another process is writing it; `Io`.
pub(crate) fn clear(storage: &dyn Storage, path: &Path, expected: Unfinished<'_>) -> Result<()> {
    if let Some(kept) = clear_silently(storage, path, expected)? {
        events::left_over_kept(path, &kept);
    }
    Ok(())
}

/// Like [`clear`], but leaves the event to the caller. Returns the name under which a log is kept, if one is.
pub(crate) fn clear_silently(
    storage: &dyn Storage,
    path: &Path,
    expected: Unfinished<'_>,
) -> Result<Option<PathBuf>> {
    let new = sibling(path, NEW);
    let Some(id) = paths::id_at(storage, &new)? else { return Ok(None) };
    let remove = || match storage.remove_file(&new, id) {
        Ok(_) => Ok(None),
        Err(source) => Err(Error::io("remove the left-over", &new, source)),
    };
    // Where a rename is made of a link and a removal, a crash in between leaves one file with both names.
    if paths::id_at(storage, path)? == Some(id) {
        return remove();
    }
    if paths::kind_at(storage, &new)? != PathKind::File {
        return Err(in_the_way(&new, "it is no regular file"));
    }
    let file = storage.open(&new, Access::Write).map_err(|source| match source.raw_os_error() {
        Some(code) if code == Errno::LOOP.raw_os_error() => in_the_way(&new, "it is a symbolic link"),
        Some(code) if code == Errno::ACCESS.raw_os_error() => in_the_way(&new, "it belongs to another user"),
        _ => Error::io("open", &new, source),
    })?;
    if !lock::is_locked_now(storage, &new, &*file)? {
        return Err(match expected {
            // Another process is creating the store, or compacts it.
            Unfinished::Store | Unfinished::OfOpened { .. } | Unfinished::NextGeneration(_) => in_use(&new),
            Unfinished::Copy(_) => in_the_way(&new, "a process is writing it, to make another copy there"),
        });
    }
    match verdict(&*file, &new, expected)? {
        Verdict::Remove => remove(),
        Verdict::Keep => {
            // Guards against a power cut, if its maker was killed before its last sync.
            file.sync_data().map_err(|source| Error::io("sync", &new, source))?;
            match quarantine::keep_as_damaged(storage, path, &new, id) {
                Ok(None) if matches!(expected, Unfinished::OfOpened { .. }) => Ok(Some(new)),
                Ok(None) => Err(quarantine::too_many_damaged(path)),
                kept => kept,
            }
        }
        Verdict::InTheWay(what) => Err(in_the_way(&new, what)),
    }
}

fn verdict(file: &dyn File, path: &Path, expected: Unfinished<'_>) -> Result<Verdict> {
    let pages = read_first_pages(file, path)?;
    let len = file.len().map_err(|source| Error::io("look at", path, source))?;
    let is_own_path = !matches!(expected, Unfinished::Copy(_));
    Ok(match header::parse_page(&pages) {
        ParsedHeaderPage::Valid(header) | ParsedHeaderPage::CutShort(Some(header)) => {
            let crc = SaltedCrc::new(&header.id.salt);
            let mark = marks::read(file, &crc).map_err(|source| Error::io("read", path, source))?;
            let has_had_a_name = mark.is_some();
            let is_needed = || {
                let base = base::parse_copies(&pages, &crc).find_map(|copy| copy.base);
                base.is_some_and(|base| match expected {
                    Unfinished::OfOpened { is_needed, .. } => is_needed(&base.origin),
                    Unfinished::NextGeneration(_) => true,
                    Unfinished::Store | Unfinished::Copy(_) => false,
                })
            };
            match maker(&header, len, expected) {
                Maker::Foreign => Verdict::InTheWay("it is a store"),
                Maker::Unfinished if !has_had_a_name && !is_needed() => Verdict::Remove,
                Maker::Unfinished if is_own_path => Verdict::Keep,
                Maker::OtherGeneration if is_own_path && !has_had_a_name => Verdict::Keep,
                Maker::Unfinished => Verdict::InTheWay("it is a complete store"),
                Maker::OtherGeneration => Verdict::InTheWay("it is a store"),
            }
        }
        ParsedHeaderPage::NotAStore | ParsedHeaderPage::Damaged | ParsedHeaderPage::CutShort(None)
            if len <= FIRST_FRAME_AT as u64 =>
        {
            // The first pages were not durable yet. A power cut may leave anything in their place.
            let may_be_header = pages.iter().all(|&byte| byte == 0) || header::has_magic(&pages);
            match may_be_header {
                true => Verdict::Remove,
                false if is_own_path => Verdict::Keep,
                false => Verdict::InTheWay("it is no store"),
            }
        }
        ParsedHeaderPage::NotAStore => Verdict::InTheWay("it is no store"),
        ParsedHeaderPage::Damaged | ParsedHeaderPage::CutShort(None) => Verdict::InTheWay("it is a damaged store"),
        ParsedHeaderPage::Unsupported { .. } => Verdict::InTheWay("it is a store of another version"),
    })
}

/// What a log at `<path>.new` comes from.
enum Maker {
    /// What was to be made here.
    Unfinished,
    /// A copy of this store, in another generation: the log at the path was replaced by an older or a newer one.
    OtherGeneration,
    Foreign,
}

fn maker(header: &Header, len: u64, expected: Unfinished<'_>) -> Maker {
    let GenerationId { generation, store_id, .. } = header.id;
    // Of a creation that a crash has interrupted, also if the next one was completed: a power cut may take back
    // the removal of the file and not the creation.
    let is_new_store = generation == 1 && len <= FIRST_FRAME_AT as u64;
    match expected {
        Unfinished::Store if is_new_store => Maker::Unfinished,
        Unfinished::OfOpened { log, .. } | Unfinished::NextGeneration(log)
            if is_new_store || is_next(log, header) =>
        {
            Maker::Unfinished
        }
        Unfinished::OfOpened { log, .. } | Unfinished::NextGeneration(log)
            if store_id == log.store_id && header.has_base() =>
        {
            Maker::OtherGeneration
        }
        // The store may have been compacted since that copy was begun.
        Unfinished::Copy(copy) if store_id == copy.store_id && header.has_base() => Maker::Unfinished,
        _ => Maker::Foreign,
    }
}

fn is_next(log: &GenerationId, header: &Header) -> bool {
    let GenerationId { generation, store_id, .. } = header.id;
    store_id == log.store_id && log.generation.checked_add(1) == Some(generation)
}

fn in_the_way(new: &Path, what: &str) -> Error {
    let name = new.display();
    Error::Invalid { what: format!("{name} is in the way: {what}; move it to another name") }
}
