//! The files of the simulated disk.

use std::io::{self, ErrorKind};
use std::ops::Range;
use std::sync::MutexGuard;

use backupy_state::testing::{Attributes, File, FileId, FreeSpace, Map};

use super::lies::{About, Lie};
use super::{DiskState, EIO, ENOSPC, Failure, Op, Sim, file_id};

#[derive(Debug)]
pub(super) struct SimFile {
    pub(super) sim: Sim,
    pub(super) inode: usize,
    pub(super) handle: u64,
    pub(super) session: u32,
    pub(super) writes: bool,
}

impl SimFile {
    fn begin(&self, op: Op) -> io::Result<(MutexGuard<'_, DiskState>, Option<Failure>)> {
        self.sim.begin_in(self.session, op)
    }

    fn begin_write(&self, op: Op) -> io::Result<(MutexGuard<'_, DiskState>, Option<Failure>)> {
        let begun = self.begin(op)?;
        assert!(self.writes, "{op:?} on a file that was opened to read");
        Ok(begun)
    }
}

impl File for SimFile {
    fn id(&self) -> FileId {
        file_id(self.inode as u64)
    }

    fn names(&self) -> io::Result<u64> {
        let (state, _) = self.begin(Op::FileNames)?;
        Ok(state.world.names.values().filter(|&&inode| inode == self.inode).count() as u64)
    }

    fn try_lock(&self) -> io::Result<bool> {
        let (mut state, _) = self.begin(Op::TryLock)?;
        Ok(*state.locks.entry(self.inode as u64).or_insert(self.handle) == self.handle)
    }

    fn unlock(&self) -> io::Result<()> {
        self.sim.unlock(self.inode as u64, self.handle);
        Ok(())
    }

    fn free_space(&self) -> Option<FreeSpace> {
        let state = self.sim.state();
        let free = state.free();
        state.tells_free_space.then(|| FreeSpace { available: free, free, ..FreeSpace::default() })
    }

    fn attributes(&self) -> io::Result<Attributes> {
        drop(self.begin(Op::GetAttributes)?);
        Ok(Attributes::default())
    }

    fn set_attributes(&self, _: &Attributes) -> io::Result<()> {
        drop(self.begin(Op::SetAttributes)?);
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        let (state, _) = self.begin(Op::Len)?;
        Ok(state.world.inode(self.inode).live.len())
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let (mut state, failure) = self.begin(Op::Read)?;
        let len = cut_short(buf.len(), failure);
        state.note(Some(self.inode), |state| state.touched_by_read(self.inode, len, offset));
        if let Some(Failure::Lie(lie)) = failure {
            return Ok(state.lie_in_read(self.inode, lie).read(&mut buf[..len], offset));
        }
        Ok(state.world.inode(self.inode).live.read(&mut buf[..len], offset))
    }

    fn next_hole(&self, offset: u64) -> Option<u64> {
        self.sim.state().world.inode(self.inode).next_hole(offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        let (mut state, failure) = self.begin_write(Op::Write)?;
        let mut len = cut_short(buf.len(), failure);
        let file = state.world.inode(self.inode);
        let lacking = file.needed(offset..offset + len as u64).saturating_sub(state.free());
        if lacking > 0 {
            len = len.saturating_sub(lacking as usize);
            if len == 0 {
                return Err(io::Error::from_raw_os_error(ENOSPC));
            }
        }
        let range = offset..offset + len as u64;
        let is_zero = || buf.iter().all(|&byte| byte == 0);
        state.note(Some(self.inode), |_| About::Write { range, is_zero: is_zero() });
        if let Some(Failure::Lie(lie)) = failure
            && !matches!(lie, Lie::LostSync(_))
        {
            state.lie_in_write(self.inode, &buf[..len], offset, lie);
        } else if len > 0 {
            state.world.inode_mut(self.inode).write(&buf[..len], offset);
        }
        Ok(len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let (mut state, _) = self.begin_write(Op::SetLen)?;
        let old_len = state.world.inode(self.inode).live.len();
        if len < old_len {
            return Err(ErrorKind::InvalidInput.into());
        }
        if len - old_len > state.free() {
            return Err(io::Error::from_raw_os_error(ENOSPC));
        }
        state.world.inode_mut(self.inode).set_len(len);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let (mut state, _) = self.begin_write(Op::SetLen)?;
        state.world.inode_mut(self.inode).set_len(len);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        {
            let mut state = self.sim.state();
            if state.session == self.session {
                let number = state.ops.len();
                state.syncs.push((number, self.inode));
            }
        }
        match self.begin(Op::Sync) {
            Ok((mut state, failure)) => {
                state.note(Some(self.inode), |_| About::Sync);
                let DiskState { world, random, .. } = &mut *state;
                let file = world.inode_mut(self.inode);
                match failure {
                    Some(Failure::Lie(Lie::LostSync(how))) => file.fail_sync(how, random),
                    _ => file.sync(),
                }
                Ok(())
            }
            Err(error) => {
                let mut state = self.sim.state();
                if state.session == self.session {
                    let DiskState { world, random, failed_sync, .. } = &mut *state;
                    world.inode_mut(self.inode).fail_sync(*failed_sync, random);
                }
                Err(error)
            }
        }
    }

    fn drop_cache(&self, range: Range<u64>) -> io::Result<()> {
        let (mut state, _) = self.begin(Op::DropCache)?;
        state.world.inode_mut(self.inode).drop_cache(range);
        Ok(())
    }

    fn map(&self) -> io::Result<Option<Map>> {
        drop(self.begin(Op::Map)?);
        Ok(None)
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        self.sim.state().writers.remove(&self.handle);
        self.sim.unlock(self.inode as u64, self.handle);
    }
}

/// A lock file. What is written to it goes nowhere.
#[derive(Debug)]
pub(super) struct SimLockFile {
    pub(super) sim: Sim,
    pub(super) inode: u64,
    pub(super) handle: u64,
    pub(super) session: u32,
}

impl SimLockFile {
    fn begin(&self, op: Op) -> io::Result<(MutexGuard<'_, DiskState>, Option<Failure>)> {
        self.sim.begin_in(self.session, op)
    }
}

impl File for SimLockFile {
    fn id(&self) -> FileId {
        file_id(self.inode)
    }

    fn names(&self) -> io::Result<u64> {
        unimplemented!("a lock file")
    }

    fn try_lock(&self) -> io::Result<bool> {
        let (mut state, _) = self.begin(Op::TryLock)?;
        Ok(*state.locks.entry(self.inode).or_insert(self.handle) == self.handle)
    }

    fn unlock(&self) -> io::Result<()> {
        self.sim.unlock(self.inode, self.handle);
        Ok(())
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        let (mut state, failure) = self.begin(Op::Write)?;
        let range = offset..offset + buf.len() as u64;
        state.note(None, |_| About::Write { range, is_zero: false });
        if let Some(Failure::Lie(lie)) = failure {
            state.write_elsewhere(None, buf, offset, lie);
        }
        Ok(cut_short(buf.len(), failure))
    }

    fn read_at(&self, _: &mut [u8], _: u64) -> io::Result<usize> {
        Ok(0)
    }

    fn len(&self) -> io::Result<u64> {
        unimplemented!("a lock file")
    }

    fn set_len(&self, _: u64) -> io::Result<()> {
        unimplemented!("a lock file")
    }

    fn sync_data(&self) -> io::Result<()> {
        unimplemented!("a lock file")
    }

    fn drop_cache(&self, _: Range<u64>) -> io::Result<()> {
        unimplemented!("a lock file")
    }

    fn map(&self) -> io::Result<Option<Map>> {
        unimplemented!("a lock file")
    }
}

impl Drop for SimLockFile {
    fn drop(&mut self) {
        self.sim.unlock(self.inode, self.handle);
    }
}

fn cut_short(len: usize, failure: Option<Failure>) -> usize {
    match failure {
        Some(Failure::Short) => len.div_ceil(2),
        Some(Failure::Zero) => 0,
        _ => len,
    }
}
