//! Shared by the tests on the real disk: a folder for a store, a model of it, damage to its file, child processes.
#![allow(dead_code, unused_imports, unused_macros, reason = "each test file uses a part of it")]

mod child;
mod counted;
mod damage;
pub(crate) mod depth;
mod hooked;
mod model;
#[path = "../model/random.rs"]
mod random;
#[path = "../model/state.rs"]
mod state;
mod written;

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use backupy_state::{AgentKey, Error, OpenOptions, Result, Snapshot, Store, verify};
use tempfile::TempDir;

pub(crate) use child::{
    Child, after_script, child_path, is_root, say, say_skipped, spawn, started_by, test_binary, with_mounts,
};
pub(crate) use counted::CountedDisk;
pub(crate) use damage::{BASE_LEN, BASES, FIRST_FRAME_AT, Image, MARK_PAGE, SLOT_LEN, SLOTS};
pub(crate) use hooked::{Hooked, Hooks, Refusable};
pub(crate) use model::{Action, Shown};
pub(crate) use random::Random;
pub(crate) use state::State;
pub(crate) use written::{Written, bare, closed, open_image, unclean, write};

pub(crate) const KEY: &str = "bkpy_0123456789abcdef0123456789abcdef";

pub(crate) fn key() -> AgentKey {
    AgentKey::new(KEY).unwrap()
}

/// A folder of its own, removed at the end of the test.
pub(crate) struct Place {
    folder: TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        Place { folder: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The usual name of a store.
    pub(crate) fn path(&self) -> PathBuf {
        self.at("state.db")
    }

    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.folder().join(name)
    }

    pub(crate) fn open(&self) -> Store {
        Store::open(self.path(), &key()).unwrap()
    }

    /// Opens the store if there is one, and waits hardly at all for the lock.
    pub(crate) fn try_open(&self) -> Result<Store> {
        existing().open(self.path(), &key())
    }
}

/// Options that do not create a store. The short wait is for the lock of a store that this process has just
/// closed: until a child that another test starts has reached its `exec`, the child shares the locked descriptor.
pub(crate) fn existing() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.create(false).lock_timeout(Duration::from_millis(100));
    options
}

/// A folder on the disk, and one on a file system where a sync takes no time, so that many more calls are made.
pub(crate) fn disk_and_memory() -> impl Iterator<Item = TempDir> {
    [std::env::temp_dir(), PathBuf::from("/dev/shm")].into_iter().filter_map(|folder| {
        let made = tempfile::tempdir_in(&folder).ok();
        if made.is_none() {
            say_skipped(&format!("no folder can be made in {}", folder.display()));
        }
        made
    })
}

/// The files of a folder, except the lock file.
pub(crate) type Listing = BTreeMap<String, Found>;

#[derive(PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) mode: u32,
    pub(crate) changed: (i64, i64),
    pub(crate) bytes: Vec<u8>,
}

impl fmt::Debug for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mode {:o}, {} bytes, changed at {:?}", self.mode, self.bytes.len(), self.changed)
    }
}

pub(crate) fn listing(folder: &Path) -> Listing {
    names(folder)
        .into_iter()
        .filter(|name| !name.ends_with(".lock"))
        .map(|name| {
            let path = folder.join(&name);
            let found = fs::symlink_metadata(&path).unwrap();
            let bytes = if found.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
            (name, Found { mode: found.mode(), changed: (found.mtime(), found.mtime_nsec()), bytes })
        })
        .collect()
}

/// The names in a folder, the lock file among them.
pub(crate) fn names(folder: &Path) -> Vec<String> {
    let files = fs::read_dir(folder).unwrap().map(|found| found.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = files.collect();
    names.sort();
    names
}

/// Makes every writing call, each of which a store that is refused to its caller must refuse.
pub(crate) fn every_writing_call(store: &Store) -> Vec<Result<()>> {
    vec![
        store.enqueue_job("later", b"job").map(drop),
        store.ack_job("run-1").map(drop),
        store.save_config(1, b"later"),
        store.save_session("later", 1),
        store.record_heartbeat(1),
        store.buffer_log(1, b"later").map(drop),
        store.drain_logs(1).map(drop),
        store.put_data("later", b"data"),
        store.delete_data("later").map(drop),
        store.sync(),
        store.compact().map(drop),
        store.rekey(&AgentKey::new("another").unwrap()),
        store.backup(store.path().with_file_name("backup.db")),
    ]
}

/// Runs `call` on a thread of its own: a call that hangs fails the test instead of hanging it.
pub(crate) fn without_hanging<R: Send + 'static>(call: impl FnOnce() -> R + Send + 'static) -> R {
    let (send, receive) = mpsc::channel();
    thread::spawn(move || send.send(call()));
    match receive.recv_timeout(Duration::from_secs(60)) {
        Ok(returned) => returned,
        Err(RecvTimeoutError::Timeout) => panic!("the call hangs"),
        Err(RecvTimeoutError::Disconnected) => panic!("the call panicked"),
    }
}

/// Opens the path in each possible way, checks that nothing changes, and returns the errors.
pub(crate) fn refuse_everywhere(folder: &Path, path: &Path) -> Vec<Error> {
    let before = listing(folder);
    let path = path.to_path_buf();
    let errors = without_hanging(move || {
        vec![
            OpenOptions::new().lock_timeout(Duration::ZERO).open(&path, &key()).unwrap_err(),
            existing().open(&path, &key()).unwrap_err(),
            Snapshot::open(&path, &key()).unwrap_err(),
            verify(&path, Some(&key())).unwrap_err(),
            verify(&path, None).unwrap_err(),
        ]
    });
    assert_eq!(listing(folder), before);
    errors
}

/// Asserts that the path is refused in each possible way, and that nothing changes.
macro_rules! assert_refused {
    ($place:expr, $path:expr, $expected:pat) => {
        for error in $crate::common::refuse_everywhere($place.folder(), std::convert::AsRef::as_ref(&$path)) {
            assert!(matches!(error, $expected), "{error:?}");
        }
    };
}
pub(crate) use assert_refused;

/// Whether `bytes` has `part` somewhere.
pub(crate) fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}
