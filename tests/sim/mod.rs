//! A simulated disk for tests and fuzzing: every operation is numbered, any can fail, and a power cut at any of
//! them yields the images that the disk could then hold.
//!
//! - [`Sim`] implements the store's seam. [`Sim::fail`] and the like plan failures by operation number.
//! - [`world`] is the model of the disk: live and durable, per sector, per name.
//! - [`lies`] are the operations that report success and have done something else.
//! - [`crash`] lists the images after a power cut.
//! - [`outsider`] changes names and files between two operations, as another program could.
//! - [`Machine`] is what an agent needs of a disk, so that `tests/power_cuts/` can give it a real one.
//! - [`Agent`] makes a [`Call`], [`Model`] says what the store should then hold, and [`Oracle`] what a crash may
//!   leave.
//!
//! Depends on std and `backupy_state` alone, so that `fuzz/` can take it in by `#[path]`.

#![allow(dead_code, unreachable_pub, unused_imports, reason = "each test binary uses a part of it")]
#![allow(clippy::cast_possible_truncation, reason = "simulated files are small")]
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use backupy_state::testing::{Access, File, FileId, Folder, PathKind, RenameError, Storage};

mod agent;
mod call;
pub mod content;
pub mod crash;
mod file;
pub mod lies;
mod machine;
mod model;
mod oracle;
pub mod outsider;
#[path = "../model/random.rs"]
pub mod random;
#[path = "../model/state.rs"]
mod state;
mod store;
pub mod subject;
pub mod world;

pub use agent::Agent;
pub use call::Call;
pub use lies::Lie;
pub use machine::Machine;
pub use model::Model;
pub use oracle::{BackedUp, Oracle};
pub use state::State;
pub use store::{FEW, Mode, Opened, PATH, TORN, exists, key, key_of, open, open_at, other_key};

use file::{SimFile, SimLockFile};
use lies::{About, Touch};
use outsider::Outsider;
use random::Random;
use world::{FailedSync, Image, NameChange, World};

/// Operations as they are numbered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Resolve,
    Kind,
    Id,
    Names,
    Open,
    OpenLock,
    /// Over another file.
    Rename,
    /// A second name for a file, also as the first half of a rename that replaces nothing; the other half is a
    /// [`Op::Remove`].
    Link,
    Remove,
    OpenDir,
    SyncDir,
    Random,
    /// How many names a file has.
    FileNames,
    TryLock,
    GetAttributes,
    SetAttributes,
    Len,
    Read,
    Write,
    SetLen,
    Sync,
    DropCache,
    Map,
}

impl Op {
    /// Whether a power cut before it can leave other images than one before the previous operation.
    fn follows_change(self) -> bool {
        matches!(
            self,
            Op::Open | Op::Rename | Op::Link | Op::Remove | Op::SyncDir | Op::Write | Op::SetLen | Op::Sync
        )
    }
}

/// How an operation fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It returns this error number and does nothing.
    Errno(i32),
    /// A read or write does half of what it was asked for. Other operations succeed.
    Short,
    /// A read or write returns `Ok(0)`. Other operations succeed.
    Zero,
    /// It reports success and has done something else. Operations that the lie is not about tell the truth.
    Lie(Lie),
}

pub const EINTR: i32 = 4;
pub const EIO: i32 = 5;
pub const ENOSPC: i32 = 28;
pub const EDQUOT: i32 = 122;

#[derive(Clone, Copy, Debug)]
struct Plan {
    from: usize,
    until: usize,
    failure: Failure,
}

/// The disk after a number of operations.
#[derive(Clone, Debug)]
pub struct Moment {
    /// How many operations were done.
    pub ops: usize,
    pub world: World,
}

#[derive(Debug)]
struct DiskState {
    world: World,
    random: Random,
    ops: Vec<Op>,
    plans: Vec<Plan>,
    moments: Option<Vec<Moment>>,
    failed_sync: FailedSync,
    capacity: u64,
    /// Whether the disk tells how much space it has left.
    tells_free_space: bool,
    /// Before this operation, others fill the disk.
    filled_at: Option<usize>,
    /// The lock files, which are on no image: nothing in them matters after a crash.
    lock_files: BTreeMap<PathBuf, u64>,
    /// Which handle has the lock on a file.
    locks: BTreeMap<u64, u64>,
    handles: u64,
    /// The handles that are open to write, and of which file.
    writers: BTreeMap<u64, usize>,
    /// Whether a rename that replaces nothing is one step, which a power cut can take back.
    renames_at_once: bool,
    /// Which file was renamed over which, in order: the new one first.
    replaced: Vec<(usize, usize)>,
    outsider: Outsider,
    /// For each sync of a file: its operation number, and which file.
    syncs: Vec<(usize, usize)>,
    /// What reads, writes and syncs were about, if that is recorded.
    touches: Option<Vec<Touch>>,
    /// Files opened in an earlier session belong to a dead process.
    session: u32,
    clock_ns: u64,
}

/// A simulated disk. Clones are the same disk.
#[derive(Clone, Debug)]
pub struct Sim(Arc<Mutex<DiskState>>);

impl Sim {
    /// An empty disk.
    pub fn new(seed: u64) -> Self {
        Sim::on(&Image::new(), seed)
    }

    /// A disk that holds the image, all of it durable.
    pub fn on(image: &Image, seed: u64) -> Self {
        Sim::at(World::of(image), seed)
    }

    /// Of four seeds in a row, each makes another kind of disk: one that tells how much space it has left or not,
    /// and that renames at once or not.
    pub fn at(world: World, seed: u64) -> Self {
        Sim(Arc::new(Mutex::new(DiskState {
            world,
            random: Random::new(seed),
            ops: Vec::new(),
            plans: Vec::new(),
            moments: None,
            failed_sync: FailedSync::LosesAll,
            capacity: u64::MAX,
            tells_free_space: seed % 2 == 1,
            filled_at: None,
            lock_files: BTreeMap::new(),
            locks: BTreeMap::new(),
            handles: 0,
            writers: BTreeMap::new(),
            renames_at_once: seed / 2 % 2 == 1,
            replaced: Vec::new(),
            outsider: Outsider::default(),
            syncs: Vec::new(),
            touches: None,
            session: 0,
            clock_ns: 0,
        })))
    }

    /// The number of the next operation.
    pub fn ops(&self) -> usize {
        self.state().ops.len()
    }

    /// The operations so far.
    pub fn trace(&self) -> Vec<Op> {
        self.state().ops.clone()
    }

    pub fn count(&self, op: Op) -> usize {
        self.state().ops.iter().filter(|&&done| done == op).count()
    }

    /// The numbers of the syncs of the file that operation `n` was a sync of, in order.
    pub fn syncs_of_same_file(&self, n: usize) -> Vec<usize> {
        let state = self.state();
        let file = state.syncs.iter().find(|(number, _)| *number == n).unwrap().1;
        state.syncs.iter().filter(|(_, other)| *other == file).map(|(number, _)| *number).collect()
    }

    /// Whether a call may have failed because the disk is full.
    pub fn may_be_full(&self) -> bool {
        let state = self.state();
        let is_full = |plan: &Plan| matches!(plan.failure, Failure::Errno(ENOSPC | EDQUOT));
        state.capacity < u64::MAX || state.plans.iter().any(is_full)
    }

    pub fn world(&self) -> World {
        self.state().world.clone()
    }

    /// What is there if nothing is lost.
    pub fn live(&self) -> Image {
        self.state().world.live()
    }

    /// Operation `n` fails.
    pub fn fail(&self, n: usize, failure: Failure) {
        self.state().plans.push(Plan { from: n, until: n + 1, failure });
    }

    /// Operation `n` and all after it fail.
    pub fn fail_from(&self, n: usize, failure: Failure) {
        self.state().plans.push(Plan { from: n, until: usize::MAX, failure });
    }

    /// From now on nothing fails.
    pub fn heal(&self) {
        self.state().plans.clear();
    }

    pub fn set_failed_sync(&self, how: FailedSync) {
        self.state().failed_sync = how;
    }

    /// Whether a rename that replaces nothing is one step, as on most file systems.
    pub fn set_renames_at_once(&self, yes: bool) {
        self.state().renames_at_once = yes;
    }

    /// Makes a hole of the zeros at the end of a file, from `offset` on, as a sparse copy has it.
    pub fn make_hole(&self, path: impl AsRef<Path>, offset: u64) {
        let world = &mut self.state().world;
        let inode = world.named(path.as_ref()).unwrap();
        world.inode_mut(inode).make_hole(offset);
    }

    /// How many bytes all files together can take.
    pub fn set_capacity(&self, bytes: u64) {
        self.state().capacity = bytes;
    }

    /// Before operation `n`, others use all the space that is left. What is given back later, they leave alone.
    pub fn fill_at(&self, n: usize) {
        self.state().filled_at = Some(n);
    }

    /// From now on, remembers the disk before every operation that could change it.
    pub fn record(&self) {
        self.state().moments = Some(Vec::new());
    }

    /// The moments recorded so far, and the present one.
    pub fn take_moments(&self) -> Vec<Moment> {
        let mut state = self.state();
        let mut moments = state.moments.take().unwrap_or_default();
        moments.push(Moment { ops: state.ops.len(), world: state.world.clone() });
        moments
    }

    /// From now on, remembers what reads, writes and syncs are about.
    pub fn record_touches(&self) {
        self.state().touches = Some(Vec::new());
    }

    pub fn take_touches(&self) -> Vec<Touch> {
        self.state().touches.take().unwrap_or_default()
    }

    /// The process ends: its open files do nothing any more, and its locks are free. The disk does not change.
    pub fn kill(&self) {
        let mut state = self.state();
        state.session += 1;
        state.locks.clear();
        state.writers.clear();
    }

    /// Handles are never numbered twice, so a dead process unlocks nothing of a later one.
    fn unlock(&self, inode: u64, handle: u64) {
        let mut state = self.state();
        if state.locks.get(&inode) == Some(&handle) {
            state.locks.remove(&inode);
        }
    }

    fn state(&self) -> MutexGuard<'_, DiskState> {
        self.0.lock().unwrap()
    }

    /// Numbers an operation. Returns the state of the disk, and how the operation is to fail.
    fn begin(&self, op: Op) -> io::Result<(MutexGuard<'_, DiskState>, Option<Failure>)> {
        let mut state = self.state();
        if state.outsider.is_due(state.ops.len()) {
            drop(state);
            self.let_outsider_act();
            state = self.state();
        }
        let number = state.ops.len();
        if state.filled_at == Some(number) {
            state.capacity = state.world.used();
        }
        if op.follows_change() && state.moments.is_some() {
            let moment = Moment { ops: number, world: state.world.clone() };
            state.moments.as_mut().unwrap().push(moment);
        }
        state.ops.push(op);
        let planned = state.plans.iter().find(|plan| (plan.from..plan.until).contains(&number));
        match planned.map(|plan| plan.failure) {
            Some(Failure::Errno(code)) => Err(io::Error::from_raw_os_error(code)),
            failure => Ok((state, failure)),
        }
    }
}

impl Sim {
    /// [`begin`](Sim::begin) of a process: one that has ended does nothing any more.
    fn begin_in(&self, session: u32, op: Op) -> io::Result<(MutexGuard<'_, DiskState>, Option<Failure>)> {
        if self.state().session != session {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        self.begin(op)
    }
}

impl DiskState {
    fn new_handle(&mut self) -> u64 {
        self.handles += 1;
        self.handles
    }

    fn id(&self, path: &Path) -> Option<FileId> {
        let lock_file = self.lock_files.get(path).copied();
        lock_file.or_else(|| self.world.named(path).map(|inode| inode as u64)).map(file_id)
    }

    fn free(&self) -> u64 {
        self.capacity.saturating_sub(self.world.used())
    }
}

impl Storage for Sim {
    fn resolve(&self, path: &Path) -> io::Result<PathBuf> {
        drop(self.begin(Op::Resolve)?);
        Ok(path.to_owned())
    }

    fn kind(&self, path: &Path) -> io::Result<PathKind> {
        let (state, _) = self.begin(Op::Kind)?;
        Ok(if state.world.named(path).is_some() { PathKind::File } else { PathKind::Missing })
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn File>> {
        if access == Access::Lock {
            let (mut state, _) = self.begin(Op::OpenLock)?;
            let (handle, session) = (state.new_handle(), state.session);
            // Not the number of a lock file that was removed.
            let number = LOCK_FILES + handle;
            let inode = *state.lock_files.entry(path.to_owned()).or_insert(number);
            return Ok(Box::new(SimLockFile { sim: self.clone(), inode, handle, session }));
        }
        let (mut state, _) = self.begin(Op::Open)?;
        let inode = match (state.world.named(path), access) {
            (Some(_), Access::CreateNew) => return Err(ErrorKind::AlreadyExists.into()),
            (None, Access::CreateNew) => state.world.create(path),
            (Some(inode), _) => inode,
            (None, _) => return Err(ErrorKind::NotFound.into()),
        };
        let writes = access != Access::Read;
        let (handle, session) = (state.new_handle(), state.session);
        if writes {
            state.writers.insert(handle, inode);
        }
        Ok(Box::new(SimFile { sim: self.clone(), inode, handle, session, writes }))
    }

    fn id(&self, path: &Path) -> io::Result<Option<FileId>> {
        Ok(self.begin(Op::Id)?.0.id(path))
    }

    fn names(&self, path: &Path) -> io::Result<Vec<OsString>> {
        let (state, _) = self.begin(Op::Names)?;
        let in_folder = state.world.names.keys().filter(|name| name.parent() == Some(path));
        Ok(in_folder.map(|name| name.file_name().unwrap().to_owned()).collect())
    }

    /// What replaces nothing takes two steps, as on a file system that cannot do it in one, unless the disk
    /// [renames at once](Self::set_renames_at_once): a power cut or a failure may come between them.
    fn rename(&self, from: &Path, file: FileId, to: &Path, over: Option<FileId>) -> Result<(), RenameError> {
        let (mut state, _) = self.begin(if over.is_some() { Op::Rename } else { Op::Link })?;
        if state.id(from) != Some(file) {
            return Err(RenameError::SourceMoved);
        }
        if state.id(to) != over {
            return Err(RenameError::TargetTaken);
        }
        let inode = state.world.named(from).unwrap();
        let (from, to) = (from.to_owned(), to.to_owned());
        if let Some(old) = state.world.named(&to) {
            state.replaced.push((inode, old));
        }
        if over.is_some() || state.renames_at_once {
            state.world.change_name(NameChange::Rename { from, to, inode });
            return Ok(());
        }
        state.world.change_name(NameChange::Create { path: to.clone(), inode });
        drop(state);
        // As where it is made of a link and a removal, which a power cut could keep alone.
        if let Err(error) = Folder::sync(self) {
            self.remove_file(&to, file)?;
            return Err(RenameError::Io(error));
        }
        // If the old name stays, the file has two.
        let _ = self.remove_file(&from, file);
        Ok(())
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (mut state, _) = self.begin(Op::Link)?;
        let inode = state.world.named(from).ok_or(ErrorKind::NotFound)?;
        if state.world.named(to).is_some() {
            return Err(ErrorKind::AlreadyExists.into());
        }
        state.world.change_name(NameChange::Create { path: to.to_owned(), inode });
        Ok(())
    }

    fn remove_file(&self, path: &Path, file: FileId) -> io::Result<bool> {
        let (mut state, _) = self.begin(Op::Remove)?;
        let is_there = state.id(path) == Some(file);
        if is_there {
            state.world.change_name(NameChange::Remove { path: path.to_owned() });
        }
        Ok(is_there)
    }

    fn open_folder(&self, _: &Path) -> io::Result<Box<dyn Folder>> {
        drop(self.begin(Op::OpenDir)?);
        Ok(Box::new(self.clone()))
    }

    fn fill_random(&self, bytes: &mut [u8]) -> io::Result<()> {
        self.begin(Op::Random)?.0.random.fill(bytes);
        Ok(())
    }

    /// Time passes whenever somebody looks at the clock: a minute in a few calls.
    fn clock_ns(&self) -> u64 {
        let mut state = self.state();
        state.clock_ns += CLOCK_STEP_NS;
        state.clock_ns
    }

    /// Takes no time: nothing else writes while a call of this thread waits.
    fn sleep(&self, _duration: Duration) {}
}

impl Folder for Sim {
    fn sync(&self) -> io::Result<()> {
        let (mut state, failure) = self.begin(Op::SyncDir)?;
        state.note(None, |_| About::SyncDir);
        if !matches!(failure, Some(Failure::Lie(Lie::LostSync(_)))) {
            state.world.sync_names();
        }
        Ok(())
    }
}

const CLOCK_STEP_NS: u64 = 10_000_000_000;

/// Lock files have numbers from here on, other files below.
const LOCK_FILES: u64 = 1 << 32;

fn file_id(inode: u64) -> FileId {
    FileId { device: 1, inode }
}
