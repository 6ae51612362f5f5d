//! Takes snapshots of the store while agents write to it and are killed, as a health check would.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use backupy_state::{AgentKey, Error, Result, Snapshot};

use super::{START_THREAD, agent, contents, could_not};
use crate::failure::{Failure, with_source};

pub(crate) struct Observer {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Seen>,
}

/// The results of all snapshots.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) snapshots: u64,
    pub(crate) failures: Vec<String>,
    /// Every cell with every digest that a snapshot showed for it.
    pub(crate) values: HashSet<(String, u64)>,
}

const PAUSE: Duration = Duration::from_millis(40);

impl Observer {
    pub(crate) fn start(path: &Path) -> Result<Self, Failure> {
        let stop = Arc::new(AtomicBool::new(false));
        let (path, key, stopped) = (path.to_path_buf(), agent::demo_key()?, Arc::clone(&stop));
        let thread = thread::Builder::new().spawn(move || observe_until(&stopped, &path, &key));
        Ok(Observer { stop, thread: thread.map_err(|error| could_not(START_THREAD, &error))? })
    }

    pub(crate) fn stop(self) -> Seen {
        self.stop.store(true, Relaxed);
        self.thread.join().unwrap_or_else(|_| Seen {
            failures: vec!["the thread that takes snapshots panicked".to_owned()],
            ..Seen::default()
        })
    }
}

fn observe_until(stopped: &AtomicBool, path: &Path, key: &AgentKey) -> Seen {
    let mut seen = Seen::default();
    while !stopped.load(Relaxed) {
        match take_snapshot(path, key, &mut seen) {
            Ok(()) => seen.snapshots += 1,
            // The first agent has not created the store yet.
            Err(Error::NotFound { .. }) if seen.snapshots == 0 => {}
            Err(error) => seen.failures.push(with_source(&error)),
        }
        thread::sleep(PAUSE);
    }
    seen
}

fn take_snapshot(path: &Path, key: &AgentKey, seen: &mut Seen) -> Result<()> {
    let snapshot = Snapshot::open(path, key)?;
    seen.values.extend(contents::contents_of_snapshot(&snapshot)?);
    Ok(())
}
