//! A file system in memory whose random generator counts, 00 01 02 ... ff 00 ..., and whose clock stands still.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use backupy_state::testing::{Access, File, FileId, Folder, Map, PathKind, RenameError, Storage};

#[derive(Debug, Default)]
pub(crate) struct Memory {
    files: Mutex<HashMap<PathBuf, MemoryFile>>,
    lock_file: MemoryFile,
    random: Mutex<Random>,
}

/// What `fill_random` gives: first these bytes, then a count.
#[derive(Debug, Default)]
struct Random {
    first: Vec<u8>,
    next: u8,
}

/// In November 2023.
pub(crate) const CLOCK_NS: u64 = 1_700_000_000_000_000_000;

#[derive(Clone, Debug, Default)]
struct MemoryFile(Arc<Mutex<Vec<u8>>>);

impl Memory {
    pub(crate) fn with_file(path: &str, bytes: Vec<u8>) -> Arc<Self> {
        let memory = Memory::default();
        memory.put(path, bytes);
        Arc::new(memory)
    }

    pub(crate) fn with_random(first: Vec<u8>) -> Arc<Self> {
        Arc::new(Memory { random: Mutex::new(Random { first, next: 0 }), ..Memory::default() })
    }

    pub(crate) fn put(&self, path: &str, bytes: Vec<u8>) {
        self.files.lock().unwrap().insert(path.into(), MemoryFile(Arc::new(Mutex::new(bytes))));
    }

    pub(crate) fn bytes(&self, path: &str) -> Vec<u8> {
        self.files.lock().unwrap()[Path::new(path)].0.lock().unwrap().clone()
    }
}

impl Storage for Memory {
    fn resolve(&self, path: &Path) -> io::Result<PathBuf> {
        Ok(path.to_path_buf())
    }

    fn kind(&self, path: &Path) -> io::Result<PathKind> {
        let found = self.files.lock().unwrap().contains_key(path);
        Ok(if found { PathKind::File } else { PathKind::Missing })
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn File>> {
        let mut files = self.files.lock().unwrap();
        match (files.get(path), access) {
            (Some(_), Access::CreateNew) => Err(ErrorKind::AlreadyExists.into()),
            (Some(file), _) => Ok(Box::new(file.clone())),
            (None, Access::Lock) => Ok(Box::new(self.lock_file.clone())),
            (None, Access::CreateNew) => Ok(Box::new(files.entry(path.to_path_buf()).or_default().clone())),
            (None, _) => Err(ErrorKind::NotFound.into()),
        }
    }

    fn id(&self, path: &Path) -> io::Result<Option<FileId>> {
        if path.extension().is_some_and(|extension| extension == "lock") {
            return Ok(Some(self.lock_file.id()));
        }
        Ok(self.files.lock().unwrap().get(path).map(MemoryFile::id))
    }

    fn names(&self, _: &Path) -> io::Result<Vec<OsString>> {
        Ok(Vec::new())
    }

    fn rename(&self, from: &Path, file: FileId, to: &Path, over: Option<FileId>) -> Result<(), RenameError> {
        assert_eq!((self.id(from)?, self.id(to)?), (Some(file), over));
        let mut files = self.files.lock().unwrap();
        let file = files.remove(from).unwrap();
        files.insert(to.to_path_buf(), file);
        Ok(())
    }

    fn remove_file(&self, path: &Path, file: FileId) -> io::Result<bool> {
        assert_eq!(self.id(path)?, Some(file));
        Ok(self.files.lock().unwrap().remove(path).is_some())
    }

    fn open_folder(&self, _: &Path) -> io::Result<Box<dyn Folder>> {
        Ok(Box::new(MemoryFolder))
    }

    fn fill_random(&self, bytes: &mut [u8]) -> io::Result<()> {
        let mut random = self.random.lock().unwrap();
        for byte in bytes {
            *byte = if random.first.is_empty() { random.next } else { random.first.remove(0) };
            random.next = random.next.wrapping_add(1);
        }
        Ok(())
    }

    fn clock_ns(&self) -> u64 {
        CLOCK_NS
    }

    /// Takes no time: nothing else writes while a call of this thread waits.
    fn sleep(&self, _duration: Duration) {}
}

#[derive(Debug)]
struct MemoryFolder;

impl Folder for MemoryFolder {
    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

impl File for MemoryFile {
    fn id(&self) -> FileId {
        FileId { device: 1, inode: Arc::as_ptr(&self.0) as u64 }
    }

    fn names(&self) -> io::Result<u64> {
        Ok(1)
    }

    fn try_lock(&self) -> io::Result<bool> {
        Ok(true)
    }

    fn unlock(&self) -> io::Result<()> {
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().len() as u64)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let bytes = self.0.lock().unwrap();
        let from = bytes.get(offset as usize..).unwrap_or_default();
        let len = from.len().min(buf.len());
        buf[..len].copy_from_slice(&from[..len]);
        Ok(len)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        let mut bytes = self.0.lock().unwrap();
        let end = offset as usize + buf.len();
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        bytes[offset as usize..end].copy_from_slice(buf);
        Ok(buf.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.lock().unwrap().resize(len as usize, 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn drop_cache(&self, _: Range<u64>) -> io::Result<()> {
        Ok(())
    }

    fn map(&self) -> io::Result<Option<Map>> {
        Ok(None)
    }
}
