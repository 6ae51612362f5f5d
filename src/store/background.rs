//! One thread at a time for a task that is started when it is needed and gone after.

use std::cell::Cell;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use super::shared::lock;

thread_local! {
    static IS_BACKGROUND: Cell<bool> = const { Cell::new(false) };
}

/// Whether a task of a store runs on the current thread.
pub(super) fn is_current_thread() -> bool {
    IS_BACKGROUND.get()
}

#[derive(Default)]
pub(super) struct Background {
    is_running: Arc<AtomicBool>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Background {
    /// Starts a thread for `task`, unless one is running or the task is not wanted. The caller holds no lock.
    pub(super) fn start(
        &self,
        name: &str,
        is_wanted: impl FnOnce() -> bool,
        task: impl FnOnce() + Send + 'static,
    ) -> io::Result<()> {
        // Locked until the handle is in its place: a later thread's handle must not be replaced by it.
        let mut slot = lock(&self.thread);
        if self.is_running.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        if !is_wanted() {
            self.is_running.store(false, Ordering::Release);
            return Ok(());
        }
        let is_running = Arc::clone(&self.is_running);
        let run = move || {
            IS_BACKGROUND.set(true);
            task();
            is_running.store(false, Ordering::Release);
        };
        let started = thread::Builder::new().name(name.to_owned()).spawn(run);
        // The previous thread is done: it clears `is_running` as its last step.
        started.map(|thread| drop(slot.replace(thread))).inspect_err(|_| {
            self.is_running.store(false, Ordering::Release);
        })
    }

    /// Runs `task` on the caller's thread, unless it is running.
    pub(super) fn run_here(&self, task: impl FnOnce()) {
        if !self.is_running.swap(true, Ordering::AcqRel) {
            task();
            self.is_running.store(false, Ordering::Release);
        }
    }

    /// Waits for the thread to end.
    pub(super) fn wait(&self) {
        let thread = lock(&self.thread).take();
        // An event of the task may close the store, on that thread.
        if let Some(thread) = thread.filter(|thread| thread.thread().id() != thread::current().id()) {
            // A panic there would be a bug, but closing the store matters more than reporting it.
            let _ = thread.join();
        }
    }
}
