//! Starts and stops compactions, and owns the thread of an automatic one.

use std::path::Path;
use std::sync::Arc;

use super::runner::Runner;
use crate::log::reserve::Release;
use crate::store::background::Background;
use crate::store::shared::{Shared, lock};
use crate::{AgentKey, CompactionReport, CompactionStats, Error, OnDamage, Result};

/// Runs one compaction, rekey or backup at a time: an automatic compaction on its own thread, the others on the
/// caller's.
pub(crate) struct Compactor {
    runner: Arc<Runner>,
    thread: Background,
}

impl Compactor {
    pub(crate) fn new(shared: Arc<Shared>, key: AgentKey) -> Self {
        Compactor { runner: Arc::new(Runner::new(shared, key)), thread: Background::default() }
    }

    pub(crate) fn stats(&self) -> CompactionStats {
        self.runner.stats()
    }

    /// How many bytes of the new file have been read back.
    pub(crate) fn read_back(&self) -> u64 {
        self.runner.progress.read_back()
    }

    /// Starts a thread if a compaction is due, none is running, and the last failure is long enough ago.
    pub(crate) fn start_if_due(&self) {
        let runner = &self.runner;
        if !runner.shared.compaction_is_due() {
            return;
        }
        let for_thread = Arc::clone(runner);
        let started =
            self.thread.start("state-compaction", || runner.may_start(), move || for_thread.run_automatic());
        if let Err(source) = started {
            let error = Error::io("start the compaction thread of", &runner.shared.path, source);
            runner.note(&Err(error));
        }
    }

    /// Stops a running copy, and compacts the log if that is due before the store is closed. No other copy starts
    /// any more.
    pub(crate) fn finish(&self) {
        self.stop();
        let runner = &self.runner;
        if runner.shared.compaction_is_due_at_close() && !runner.is_backing_off() {
            let key = lock(&runner.key);
            runner.progress.set_stopping(false);
            // If it fails, the old log is closed instead: also if a value is damaged, since the caller can no more
            // see that it was left out.
            let done = runner.run(&key, Release::AllButRemovals, OnDamage::Refuse);
            runner.progress.set_stopping(true);
            drop(key);
            runner.note_last(&done);
        }
    }

    /// Stops a running copy, and waits for its end. No other one starts any more.
    pub(crate) fn stop(&self) {
        self.runner.progress.set_stopping(true);
        self.thread.wait();
        drop(lock(&self.runner.key));
    }

    pub(crate) fn compact(&self) -> Result<CompactionReport> {
        self.runner.shared.check_open()?;
        let done = self.runner.run(&lock(&self.runner.key), Release::AllButAcks, self.on_damage());
        self.runner.note(&done);
        done
    }

    pub(crate) fn rekey(&self, new_key: &AgentKey) -> Result<()> {
        self.runner.shared.check_open()?;
        let done = {
            let mut key = lock(&self.runner.key);
            self.runner.run(new_key, Release::AllButAcks, self.on_damage()).inspect(|_| *key = new_key.duplicate())
        };
        self.runner.note(&done);
        done.map(drop)
    }

    fn on_damage(&self) -> OnDamage {
        self.runner.shared.on_damage
    }

    pub(crate) fn backup(&self, path: &Path) -> Result<()> {
        self.runner.shared.check_open()?;
        self.runner.backup(path, &lock(&self.runner.key))
    }
}
