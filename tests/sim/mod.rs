//! A simulated disk for tests and fuzzing: every operation is numbered, any can fail, and a power cut at any of
//! them yields the images that the disk could then hold.
//!
//! - [`Sim`] implements the store's seam. [`Sim::fail`] and the like plan failures by operation number.
//! - [`world`] is the model of the disk: live and durable, per sector, per name.
//! - [`crash`] lists the images after a power cut.
//! - [`Agent`] makes a [`Call`], [`Model`] says what the store should then hold, and [`Oracle`] what a crash may
//!   leave.
//!
//! Depends on std and `backupy_state` alone, so that `fuzz/` can take it in by `#[path]`.

#![allow(dead_code, unreachable_pub, unused_imports, reason = "each test binary uses a part of it")]
#![allow(clippy::cast_possible_truncation, reason = "simulated files are small")]
#![allow(clippy::unwrap_used, reason = "tests")]

use std::any::Any;
use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use backupy_state::Error;
use backupy_state::testing::{Access, File, LockGuard, PathKind, Storage, io_error, locked};

mod agent;
mod call;
pub mod content;
pub mod crash;
mod file;
mod model;
mod oracle;
#[path = "../model/random.rs"]
pub mod random;
#[path = "../model/state.rs"]
mod state;
mod store;
pub mod subject;
pub mod world;

pub use agent::Agent;
pub use call::Call;
pub use model::Model;
pub use oracle::{BackedUp, Oracle};
pub use state::State;
pub use store::{FEW, Mode, Opened, PATH, TORN, exists, key, open, other_key};

use file::SimFile;
use random::Random;
use world::{FailedSync, Image, NameChange, World};

/// Operations as they are numbered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Resolve,
    Kind,
    Open,
    Rename,
    /// A second name for a file, also as the first half of `rename_new`; the other half is a [`Op::Remove`].
    Link,
    CopyOwner,
    Remove,
    SyncDir,
    Lock,
    Random,
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
    locked: BTreeSet<PathBuf>,
    /// For each sync of a file: its operation number, and which file.
    syncs: Vec<(usize, usize)>,
    /// Files opened in an earlier session belong to a dead process.
    session: u32,
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

    pub fn at(world: World, seed: u64) -> Self {
        Sim(Arc::new(Mutex::new(DiskState {
            world,
            random: Random::new(seed),
            ops: Vec::new(),
            plans: Vec::new(),
            moments: None,
            failed_sync: FailedSync::LosesAll,
            capacity: u64::MAX,
            locked: BTreeSet::new(),
            syncs: Vec::new(),
            session: 0,
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

    /// How many bytes all files together can take.
    pub fn set_capacity(&self, bytes: u64) {
        self.state().capacity = bytes;
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

    /// The process ends: its open files do nothing any more, and its locks are free. The disk does not change.
    pub fn kill(&self) {
        let mut state = self.state();
        state.session += 1;
        state.locked.clear();
    }

    fn state(&self) -> MutexGuard<'_, DiskState> {
        self.0.lock().unwrap()
    }

    /// Numbers an operation. Returns the state of the disk, and how the operation is to fail.
    fn begin(&self, op: Op) -> io::Result<(MutexGuard<'_, DiskState>, Option<Failure>)> {
        let mut state = self.state();
        let number = state.ops.len();
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

impl DiskState {
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
        let (mut state, _) = self.begin(Op::Open)?;
        let inode = match (state.world.named(path), access) {
            (Some(_), Access::CreateNew) => return Err(ErrorKind::AlreadyExists.into()),
            (None, Access::CreateNew) => state.world.create(path),
            (Some(inode), _) => inode,
            (None, _) => return Err(ErrorKind::NotFound.into()),
        };
        let writes = access != Access::Read;
        Ok(Box::new(SimFile { sim: self.clone(), inode, session: state.session, writes }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (mut state, _) = self.begin(Op::Rename)?;
        let inode = state.world.named(from).ok_or(ErrorKind::NotFound)?;
        state.world.change_name(NameChange::Rename { from: from.to_owned(), to: to.to_owned(), inode });
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

    /// As on a real disk, in two steps: a power cut or a failure may come between them.
    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.link(from, to)?;
        // If the old name stays, the file has two.
        let _ = self.remove_file(from);
        Ok(())
    }

    fn copy_owner_and_mode(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (state, _) = self.begin(Op::CopyOwner)?;
        let are_there = state.world.named(from).is_some() && state.world.named(to).is_some();
        if are_there { Ok(()) } else { Err(ErrorKind::NotFound.into()) }
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let (mut state, _) = self.begin(Op::Remove)?;
        state.world.named(path).ok_or(ErrorKind::NotFound)?;
        state.world.change_name(NameChange::Remove { path: path.to_owned() });
        Ok(())
    }

    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        self.begin(Op::SyncDir)?.0.world.sync_names();
        Ok(())
    }

    fn lock(&self, path: &Path, _: Duration) -> backupy_state::Result<LockGuard> {
        let begun = self.begin(Op::Lock);
        let lock_error = |source| io_error("lock", path, source);
        let (mut state, _) = begun.map_err(lock_error)?;
        if !state.locked.insert(path.to_owned()) {
            return Err(locked(path));
        }
        let guard: Box<dyn Any + Send + Sync> =
            Box::new(SimLock { sim: self.clone(), path: path.to_owned(), session: state.session });
        Ok(guard)
    }

    fn fill_random(&self, bytes: &mut [u8]) -> io::Result<()> {
        self.begin(Op::Random)?.0.random.fill(bytes);
        Ok(())
    }

    /// Takes no time: nothing else writes while a call of this thread waits.
    fn sleep(&self, _duration: Duration) {}
}

struct SimLock {
    sim: Sim,
    path: PathBuf,
    session: u32,
}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut state = self.sim.state();
        if state.session == self.session {
            state.locked.remove(&self.path);
        }
    }
}
