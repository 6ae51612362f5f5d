//! An outsider: an operator, a script or another agent, which changes names and files between two operations of a
//! store, without a word to it.
//!
//! [`Sim::let_outsider`] plans the acts. What the outsider puts on the disk is then a foreign file, and so is what
//! a test declares as one by [`Sim::declare_foreign`]: [`Sim::check_foreign_files`] says whether the store has
//! left them alone.

use std::path::{Path, PathBuf};
use std::time::Duration;

use backupy_state::{Error, Result};

use super::Sim;
use super::content::Content;
use super::model::Model;
use super::state::events_of;
use super::store::{Mode, Opened, PATH, key_of};
use super::world::{NameChange, World};

/// What the outsider does.
#[derive(Clone, Debug)]
pub enum Act {
    Remove(PathBuf),
    /// As `mv` does it, which replaces what is there.
    Rename {
        from: PathBuf,
        to: PathBuf,
    },
    Link {
        from: PathBuf,
        to: PathBuf,
    },
    Truncate(PathBuf, Cut),
    /// Renames a new file over the path.
    Put(PathBuf, Content),
    /// Makes a new file, if there is none.
    Create(PathBuf, Content),
    /// Removes a lock file.
    RemoveLock(PathBuf),
    /// Opens the store at the path, enqueues a job, perhaps compacts the log, and closes the store.
    Open(PathBuf, Compacts),
}

/// Whether the outsider compacts the log of a store that it has opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compacts {
    Yes,
    No,
}

/// Where a file is cut off.
#[derive(Clone, Copy, Debug)]
pub enum Cut {
    At(u64),
    /// In its last frame.
    NearEnd,
}

/// The job that the outsider enqueues.
const JOB: (&str, &[u8]) = ("run-of-another", b"dump");

impl Act {
    /// Whether there is what it changes.
    pub fn applies(&self, world: &World) -> bool {
        match self {
            Act::Remove(path) | Act::Truncate(path, _) => world.named(path).is_some(),
            Act::Rename { from, .. } => world.named(from).is_some(),
            Act::Link { from, to } => world.named(from).is_some() && world.named(to).is_none(),
            Act::Create(path, _) => world.named(path).is_none(),
            Act::Put(..) | Act::RemoveLock(_) | Act::Open(..) => true,
        }
    }

    /// Whether the name means nothing or another file after it.
    pub fn takes_name(&self, name: &Path) -> bool {
        match self {
            Act::Remove(path) | Act::Put(path, _) => path == name,
            Act::Rename { from, to } => from == name || to == name,
            Act::Link { .. } | Act::Truncate(..) | Act::Create(..) | Act::RemoveLock(_) | Act::Open(..) => false,
        }
    }
}

/// What the outsider did to the store that it opened.
#[derive(Clone, Debug)]
pub struct Visit {
    pub inode: usize,
    pub before: Model,
    /// Durable when the store was closed.
    pub after: Model,
}

#[derive(Debug, Default)]
pub(super) struct Outsider {
    plan: Option<(usize, Vec<Act>)>,
    acted_at: Option<usize>,
    visit: Option<Result<Visit>>,
    foreign: Vec<Foreign>,
    /// What the store had done to a foreign file before the outsider acted.
    fault: Option<String>,
}

/// A file that the store did not make.
#[derive(Clone, Debug)]
struct Foreign {
    inode: usize,
    path: PathBuf,
    hash: u64,
    /// Whether the store may give it the name of a damaged log instead of the one that it has.
    may_be_kept: bool,
}

impl Outsider {
    pub(super) fn is_due(&self, number: usize) -> bool {
        self.plan.as_ref().is_some_and(|(at, _)| *at <= number)
    }
}

impl Sim {
    /// Plans what the outsider does, one act after another, before operation `n`.
    pub fn let_outsider(&self, n: usize, acts: Vec<Act>) {
        self.state().outsider.plan = Some((n, acts));
    }

    /// Before which operation the outsider has acted.
    pub fn outsider_acted_at(&self) -> Option<usize> {
        self.state().outsider.acted_at
    }

    /// What came of an [`Act::Open`]. Returned once.
    pub fn take_visit(&self) -> Option<Result<Visit>> {
        self.state().outsider.visit.take()
    }

    /// From now on, the file at the path counts as one that the store did not make, although it may keep it under
    /// the name of a damaged log.
    pub fn declare_foreign(&self, path: &Path) {
        let mut state = self.state();
        let inode = state.world.named(path).unwrap();
        let hash = state.world.inode(inode).live.hash();
        let foreign = Foreign { inode, path: path.to_owned(), hash, may_be_kept: true };
        state.outsider.foreign.push(foreign);
    }

    /// The store was opened on this file, or on one that has replaced it.
    pub fn adopt(&self, inode: usize) {
        self.state().outsider.foreign.retain(|foreign| foreign.may_be_kept || foreign.inode != inode);
    }

    pub fn is_foreign(&self, inode: usize) -> bool {
        self.state().outsider.foreign.iter().any(|foreign| foreign.inode == inode)
    }

    /// Which file this one was renamed over.
    pub fn predecessor(&self, inode: usize) -> Option<usize> {
        let state = self.state();
        state.replaced.iter().find(|(new, _)| *new == inode).map(|(_, old)| *old)
    }

    /// Which file was renamed over this one.
    pub fn successor(&self, inode: usize) -> Option<usize> {
        let state = self.state();
        state.replaced.iter().find(|(_, old)| *old == inode).map(|(new, _)| *new)
    }

    /// The files that this process has open to write.
    pub fn files_open_to_write(&self) -> Vec<usize> {
        let mut inodes: Vec<usize> = self.state().writers.values().copied().collect();
        inodes.sort_unstable();
        inodes.dedup();
        inodes
    }

    /// Whether the file was synced by operation `from` or a later one.
    pub fn was_synced_since(&self, inode: usize, from: usize) -> bool {
        self.state().syncs.iter().any(|(number, synced)| *number >= from && *synced == inode)
    }

    /// Every foreign file has had its bytes and its name all the time; only what was found at `<path>.new` may
    /// have been renamed to one of a damaged log.
    pub fn check_foreign_files(&self) {
        let mut state = self.state();
        let fault = state.outsider.fault.take().or_else(|| state.foreign_fault());
        drop(state);
        assert_eq!(fault, None);
    }

    pub(super) fn let_outsider_act(&self) {
        let (_, acts) = self.state().outsider.plan.take().unwrap();
        {
            let mut state = self.state();
            state.outsider.acted_at = Some(state.ops.len());
            // The acts may hide it. No panic here: the store would unwind with a sync under way.
            state.outsider.fault = state.foreign_fault();
        }
        for act in &acts {
            match act {
                Act::Open(path, compacts) => {
                    let visit = self.visit(path, *compacts);
                    self.state().outsider.visit = Some(visit);
                }
                Act::RemoveLock(path) => drop(self.state().lock_files.remove(path)),
                act => {
                    let mut state = self.state();
                    if let Some(foreign) = change(&mut state.world, act) {
                        state.outsider.foreign.push(foreign);
                    }
                }
            }
        }
        self.state().note_own_changes();
    }

    fn visit(&self, path: &Path, compacts: Compacts) -> Result<Visit> {
        let opened = self.open_another(path)?;
        let before = look(&opened)?;
        opened.enqueue_job(JOB.0, JOB.1)?;
        if compacts == Compacts::Yes {
            opened.compact()?;
        }
        let inode = self.state().world.named(path).unwrap();
        let after = look(&opened)?;
        let Opened { store, .. } = opened;
        store.close()?;
        Ok(Visit { inode, before, after })
    }

    /// Opens the store at a path, as another agent, which does not wait.
    pub fn open_another(&self, path: &Path) -> Result<Opened> {
        let open = |is_other_key| {
            let mut options = Mode::Sync.options(self);
            let store = options.lock_timeout(Duration::ZERO).open(path, &key_of(is_other_key))?;
            Ok(Opened { store, is_other_key })
        };
        match open(false) {
            Err(Error::WrongKey { .. }) => open(true),
            opened => opened,
        }
    }
}

impl super::DiskState {
    /// What the store has done to a file that it did not make.
    fn foreign_fault(&self) -> Option<String> {
        self.outsider.foreign.iter().find_map(|foreign| {
            let Foreign { inode, path, hash, may_be_kept } = foreign;
            let names = names_of(&self.world, *inode);
            let is_kept = |name: &&PathBuf| name.to_str().unwrap().starts_with(DAMAGED);
            let is_there = names.contains(&path) || *may_be_kept && names.iter().any(is_kept);
            if self.world.inode(*inode).live.hash() != *hash {
                Some(format!("the file {} was changed", path.display()))
            } else if !is_there {
                Some(format!("the file {} has been replaced or removed: {names:?}", path.display()))
            } else {
                None
            }
        })
    }

    /// What the outsider has changed is no fault of the store.
    fn note_own_changes(&mut self) {
        let super::DiskState { world, outsider, .. } = self;
        outsider.foreign.retain_mut(|foreign| {
            let is_whole = foreign.hash == world.inode(foreign.inode).live.hash();
            let names = names_of(world, foreign.inode);
            if let Some(name) = names.first()
                && !names.contains(&&foreign.path)
            {
                foreign.path.clone_from(name);
                foreign.may_be_kept = false;
            }
            is_whole && !names.is_empty()
        });
    }
}

/// Returns the file that it has made, if it has made one.
fn change(world: &mut World, act: &Act) -> Option<Foreign> {
    if !act.applies(world) {
        return None;
    }
    match act {
        Act::Remove(path) => world.change_name(NameChange::Remove { path: path.clone() }),
        Act::Rename { from, to } => {
            let inode = world.named(from).unwrap();
            world.change_name(NameChange::Rename { from: from.clone(), to: to.clone(), inode });
        }
        Act::Link { from, to } => {
            let inode = world.named(from).unwrap();
            world.change_name(NameChange::Create { path: to.clone(), inode });
        }
        Act::Truncate(path, cut) => {
            let inode = world.named(path).unwrap();
            let content = &world.inode(inode).live;
            let len = match cut {
                Cut::At(len) => *len,
                Cut::NearEnd => (content.trimmed_bytes().len() as u64).saturating_sub(20),
            };
            let len = len.min(content.len());
            world.inode_mut(inode).set_len(len);
        }
        Act::Put(path, content) | Act::Create(path, content) => {
            let inode = world.create(path);
            let file = world.inode_mut(inode);
            file.set_len(content.len());
            file.live = content.clone();
            file.sync();
            let (path, hash) = (path.clone(), content.hash());
            let may_be_kept = path == Path::new(NEW);
            return Some(Foreign { inode, path, hash, may_be_kept });
        }
        Act::RemoveLock(_) | Act::Open(..) => unreachable!("they change no name of a file"),
    }
    None
}

/// Everything that a store holds. Changes nothing.
fn look(opened: &Opened) -> Result<Model> {
    let mut found = Model::read(opened)?;
    found.logs = events_of(opened.peek_logs(usize::MAX)?.events());
    Ok(found)
}

pub fn names_of(world: &World, inode: usize) -> Vec<&PathBuf> {
    world.names.iter().filter(|(_, named)| **named == inode).map(|(name, _)| name).collect()
}

const NEW: &str = "/sim/state.db.new";
const DAMAGED: &str = "/sim/state.db.damaged-";

/// A file in the folder of the store.
pub fn beside_log(suffix: &str) -> PathBuf {
    PathBuf::from(format!("{PATH}{suffix}"))
}
