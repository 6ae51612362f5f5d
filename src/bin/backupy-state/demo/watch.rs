//! The look from beside: what a health check sees, again and again, while agents write and die.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use backupy_state::{AgentKey, Error, Result, Snapshot};

use super::{agent, held};
use crate::failure::Failure;

pub(crate) struct Watch {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Seen>,
}

/// What all the snapshots have shown.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) snapshots: u64,
    pub(crate) failures: Vec<String>,
    /// Each cell with each mark that it was seen with.
    pub(crate) values: HashSet<(String, u64)>,
}

const PAUSE: Duration = Duration::from_millis(40);

impl Watch {
    pub(crate) fn start(path: &Path) -> Result<Self, Failure> {
        let stop = Arc::new(AtomicBool::new(false));
        let (path, key, stopped) = (path.to_path_buf(), agent::demo_key()?, Arc::clone(&stop));
        Ok(Watch { stop, thread: thread::spawn(move || look_until(&stopped, &path, &key)) })
    }

    pub(crate) fn stop(self) -> Seen {
        self.stop.store(true, Relaxed);
        self.thread.join().unwrap_or_else(|_| Seen {
            failures: vec!["the thread that looks at snapshots panicked".to_owned()],
            ..Seen::default()
        })
    }
}

fn look_until(stopped: &AtomicBool, path: &Path, key: &AgentKey) -> Seen {
    let mut seen = Seen::default();
    while !stopped.load(Relaxed) {
        match look(path, key, &mut seen) {
            Ok(()) => seen.snapshots += 1,
            // The first agent has not made it yet.
            Err(Error::NotFound { .. }) if seen.snapshots == 0 => {}
            Err(error) => seen.failures.push(error.to_string()),
        }
        thread::sleep(PAUSE);
    }
    seen
}

fn look(path: &Path, key: &AgentKey, seen: &mut Seen) -> Result<()> {
    let snapshot = Snapshot::open(path, key)?;
    seen.values.extend(held::held_by_snapshot(&snapshot)?);
    Ok(())
}
