//! A file system that passes every call to another one, with hooks before some of them.

use std::borrow::Cow;
use std::ffi::OsString;
use std::fmt::Debug;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use backupy_state::testing::{
    Access, Attributes, Disk, File, FileId, Folder, FreeSpace, Map, PathKind, RenameError, Storage,
};

/// What a test does before a call. Each hook does nothing unless the test says otherwise.
pub(crate) trait Hooks: Clone + Debug + Send + Sync + 'static {
    /// Before each call but those that cannot fail: an error fails it.
    fn begin(&self) -> io::Result<()> {
        Ok(())
    }

    /// Before a file is opened: an error fails the call. `true` makes [`Hooks::write`] see the writes of this
    /// handle.
    fn open(&self, _path: &Path) -> io::Result<bool> {
        Ok(false)
    }

    /// After a file was opened.
    fn opened(&self, _path: &Path) {}

    /// Before each read of a file, of at most `len` bytes. Not called when bytes are read through a memory map.
    fn read(&self, _len: usize) {}

    /// Before a write of a handle that [`Hooks::open`] chose. The returned bytes are written.
    fn write<'a>(&self, bytes: &'a [u8], _offset: u64) -> Cow<'a, [u8]> {
        bytes.into()
    }

    /// Before each sync of a file or a folder.
    fn sync(&self) {}

    /// Before each write and each sync: an error fails the call.
    fn refuse(&self, _call: Refusable) -> io::Result<()> {
        Ok(())
    }

    /// In place of a reader's pause, which takes no time here.
    fn sleep(&self, _duration: Duration) {}

    /// What the clock shows, when the disk's shows `now`.
    fn clock_ns(&self, now: u64) -> u64 {
        now
    }
}

/// A call that [`Hooks::refuse`] can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusable {
    Write,
    Sync,
}

/// The file system with its hooks. Clones share both.
#[derive(Clone, Debug)]
pub(crate) struct Hooked<H> {
    pub(crate) disk: Arc<dyn Storage>,
    pub(crate) hooks: H,
}

/// On the real disk.
impl<H: Default> Default for Hooked<H> {
    fn default() -> Self {
        Hooked { disk: Arc::new(Disk), hooks: H::default() }
    }
}

#[derive(Debug)]
struct HookedFile<H> {
    file: Box<dyn File>,
    hooks: H,
    sees_writes: bool,
}

#[derive(Debug)]
struct HookedFolder<H> {
    folder: Box<dyn Folder>,
    hooks: H,
}

impl<H: Hooks> Folder for HookedFolder<H> {
    fn sync(&self) -> io::Result<()> {
        self.hooks.sync();
        self.hooks.begin()?;
        self.folder.sync()
    }
}

impl<H: Hooks> Storage for Hooked<H> {
    fn resolve(&self, path: &Path) -> io::Result<PathBuf> {
        self.hooks.begin()?;
        self.disk.resolve(path)
    }

    fn kind(&self, path: &Path) -> io::Result<PathKind> {
        self.hooks.begin()?;
        self.disk.kind(path)
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn File>> {
        self.hooks.begin()?;
        let sees_writes = self.hooks.open(path)?;
        let file = self.disk.open(path, access)?;
        self.hooks.opened(path);
        Ok(Box::new(HookedFile { file, hooks: self.hooks.clone(), sees_writes }))
    }

    fn id(&self, path: &Path) -> io::Result<Option<FileId>> {
        self.hooks.begin()?;
        self.disk.id(path)
    }

    fn names(&self, path: &Path) -> io::Result<Vec<OsString>> {
        self.hooks.begin()?;
        self.disk.names(path)
    }

    fn is_mount_point(&self, path: &Path) -> bool {
        self.disk.is_mount_point(path)
    }

    fn rename(&self, from: &Path, file: FileId, to: &Path, over: Option<FileId>) -> Result<(), RenameError> {
        self.hooks.begin()?;
        self.disk.rename(from, file, to, over)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.hooks.begin()?;
        self.disk.link(from, to)
    }

    fn remove_file(&self, path: &Path, file: FileId) -> io::Result<bool> {
        self.hooks.begin()?;
        self.disk.remove_file(path, file)
    }

    fn open_folder(&self, path: &Path) -> io::Result<Box<dyn Folder>> {
        self.hooks.begin()?;
        Ok(Box::new(HookedFolder { folder: self.disk.open_folder(path)?, hooks: self.hooks.clone() }))
    }

    fn fill_random(&self, bytes: &mut [u8]) -> io::Result<()> {
        self.hooks.begin()?;
        self.disk.fill_random(bytes)
    }

    fn clock_ns(&self) -> u64 {
        self.hooks.clock_ns(self.disk.clock_ns())
    }

    fn sleep(&self, duration: Duration) {
        self.hooks.sleep(duration);
    }
}

impl<H: Hooks> File for HookedFile<H> {
    fn id(&self) -> FileId {
        self.file.id()
    }

    fn names(&self) -> io::Result<u64> {
        self.hooks.begin()?;
        self.file.names()
    }

    fn try_lock(&self) -> io::Result<bool> {
        self.hooks.begin()?;
        self.file.try_lock()
    }

    fn unlock(&self) -> io::Result<()> {
        self.hooks.begin()?;
        self.file.unlock()
    }

    fn attributes(&self) -> io::Result<Attributes> {
        self.hooks.begin()?;
        self.file.attributes()
    }

    fn set_attributes(&self, attributes: &Attributes) -> io::Result<()> {
        self.hooks.begin()?;
        self.file.set_attributes(attributes)
    }

    fn len(&self) -> io::Result<u64> {
        self.hooks.begin()?;
        self.file.len()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.hooks.begin()?;
        self.hooks.read(buf.len());
        self.file.read_at(buf, offset)
    }

    fn skip_hole(&self, offset: u64) -> u64 {
        self.file.skip_hole(offset)
    }

    fn next_hole(&self, offset: u64) -> Option<u64> {
        self.file.next_hole(offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        self.hooks.begin()?;
        self.hooks.refuse(Refusable::Write)?;
        if self.sees_writes {
            self.file.write_at(&self.hooks.write(buf, offset), offset)
        } else {
            self.file.write_at(buf, offset)
        }
    }

    fn free_space(&self) -> Option<FreeSpace> {
        self.file.free_space()
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.hooks.begin()?;
        self.file.allocate(len)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.hooks.begin()?;
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.hooks.sync();
        self.hooks.begin()?;
        self.hooks.refuse(Refusable::Sync)?;
        self.file.sync_data()
    }

    fn drop_cache(&self, range: Range<u64>) -> io::Result<()> {
        self.hooks.begin()?;
        self.file.drop_cache(range)
    }

    fn map(&self) -> io::Result<Option<Map>> {
        self.hooks.begin()?;
        self.file.map()
    }
}
