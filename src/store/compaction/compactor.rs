//! Copying what is live into a new log file, beside running writers: compaction, new keys, backups.
//!
//! Implements *Compaction* of FORMAT.md. The old log is read frame by frame, and what is still live is packed into a new
//! file under a new salt. What was written meanwhile is caught up with in rounds, each synced and read back; only the
//! last and smallest one holds the writing end. Nothing of the old log is touched: until the rename, a failure costs
//! the new file and nothing else.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use super::runner::Runner;
use crate::log::writer::Release;
use crate::store::shared::{Shared, lock};
use crate::{AgentKey, CompactionReport, CompactionStats, Error, Result};

/// Runs compactions, one at a time: on a thread of its own when one is due, or on the caller's.
pub(crate) struct Compactor {
    runner: Arc<Runner>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Compactor {
    pub(crate) fn new(shared: Arc<Shared>, key: AgentKey) -> Self {
        Compactor { runner: Arc::new(Runner::new(shared, key)), thread: Mutex::new(None) }
    }

    pub(crate) fn stats(&self) -> CompactionStats {
        self.runner.stats()
    }

    pub(crate) fn checked(&self) -> u64 {
        self.runner.progress.checked()
    }

    /// Starts a thread if a compaction is due, none is running, and the last failure is long enough ago.
    pub(crate) fn start_if_due(&self) {
        let runner = &self.runner;
        if !runner.shared.compaction_is_due() || runner.running.swap(true, Ordering::AcqRel) {
            return;
        }
        if runner.is_pausing() {
            runner.running.store(false, Ordering::Release);
            return;
        }
        let for_thread = Arc::clone(runner);
        let run = move || {
            for_thread.run_automatic();
            for_thread.running.store(false, Ordering::Release);
        };
        match thread::Builder::new().name("state-compaction".to_owned()).spawn(run) {
            // The one before has ended, or `running` would have been set.
            Ok(thread) => drop(lock(&self.thread).replace(thread)),
            Err(source) => {
                let error = Error::io("start a thread to compact", &runner.shared.path, source);
                runner.note(&Err(error));
                runner.running.store(false, Ordering::Release);
            }
        }
    }

    /// For a store that is being closed: ends what runs, and compacts a log of which next to nothing is live.
    pub(crate) fn finish(&self) {
        self.stop();
        let runner = &self.runner;
        if runner.shared.compaction_is_due_at_close() && !runner.is_pausing() {
            runner.progress.set_stopping(false);
            // Where it fails, the log is closed as it is.
            let _ = runner.run(&lock(&runner.key), Release::AllButReserve);
            runner.progress.set_stopping(true);
        }
    }

    /// Ends a compaction that runs on its own thread, and waits for the thread to be gone.
    fn stop(&self) {
        self.runner.progress.set_stopping(true);
        if let Some(thread) = lock(&self.thread).take() {
            // It cannot have panicked without a bug; closing the store matters more than its message.
            let _ = thread.join();
        }
    }

    pub(crate) fn compact(&self) -> Result<CompactionReport> {
        let key = lock(&self.runner.key);
        self.runner.run(&key, Release::All)
    }

    pub(crate) fn rekey(&self, new_key: &AgentKey) -> Result<()> {
        let mut key = lock(&self.runner.key);
        self.runner.run(new_key, Release::All)?;
        *key = new_key.duplicate();
        Ok(())
    }

    pub(crate) fn backup(&self, path: &Path) -> Result<()> {
        let key = lock(&self.runner.key);
        self.runner.backup(path, &key)
    }
}
