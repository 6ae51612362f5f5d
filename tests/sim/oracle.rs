//! Which states a crash may leave, by what the store has acknowledged.

use std::path::PathBuf;

use backupy_state::testing::verify_on;

use super::Machine;
use super::model::Model;
use super::store::{Mode, key_of, open_at};

/// What was promised: which states a store may be in. The rule is that after a crash the state is what was
/// acknowledged as durable, or that and a prefix of the calls after it, each whole.
#[derive(Clone, Debug)]
pub struct Oracle {
    /// After each call that changes something; the first is the empty store.
    pub(super) states: Vec<Model>,
    /// Which of them was the last one acknowledged as durable.
    pub(super) durable: usize,
}

impl Default for Oracle {
    fn default() -> Self {
        Oracle { states: vec![Model::default()], durable: 0 }
    }
}

impl Oracle {
    /// The states after each call that changed something, from the empty store on.
    pub fn history(&self) -> &[Model] {
        &self.states
    }

    /// What the store shows while its process lives.
    pub fn current(&self) -> &Model {
        self.states.last().unwrap()
    }

    /// The state last acknowledged as durable, and all after it.
    pub fn allowed(&self) -> &[Model] {
        &self.states[self.durable..]
    }

    /// A store that went through these states, all durable.
    pub fn of_history(states: Vec<Model>) -> Self {
        Oracle { durable: states.len() - 1, states }
    }

    /// A store that holds one of these.
    pub fn any_of(states: &[Model]) -> Self {
        Oracle { durable: 0, states: states.to_vec() }
    }

    /// A store that holds this, durable.
    pub fn of(found: Model) -> Self {
        Oracle { states: vec![found], durable: 0 }
    }

    /// The same states, under one of the two keys.
    pub fn under(mut self, is_other_key: bool) -> Self {
        self.states.iter_mut().for_each(|state| state.is_other_key = is_other_key);
        self
    }

    /// The state that was found is durable from now on, and the calls in flight after it are lost.
    pub(super) fn settle(&mut self, found: Model) {
        if *self.current() != found {
            self.states.push(found);
        }
        self.durable = self.states.len() - 1;
    }
}

/// The state of the oracle when the disk had done `ops` operations.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    pub(super) ops: usize,
    pub(super) durable: usize,
    pub(super) states: usize,
}

/// A backup: absent or whole while its call runs, and whole from then on.
#[derive(Clone, Debug)]
pub struct BackedUp {
    pub path: PathBuf,
    pub holds: Model,
    /// The number of operations of the disk at which the call returned.
    pub(super) done_at: Option<usize>,
}

impl BackedUp {
    /// The same backup, elsewhere.
    #[must_use]
    pub fn at(self, path: PathBuf) -> Self {
        BackedUp { path, ..self }
    }

    /// Whether the backup must be there after a power cut that follows `ops` operations.
    pub fn must_be_there(&self, ops: usize) -> bool {
        self.done_at.is_some_and(|done_at| done_at <= ops)
    }

    /// Checks what the backup holds, on a copy of its disk.
    pub fn check(&self, machine: &impl Machine) {
        let report =
            verify_on(&*machine.storage(), &self.path, Some(&key_of(self.holds.is_other_key)), |_| {}).unwrap();
        assert!(report.is_intact(), "{}: {report:?}", self.path.display());
        let found =
            open_at(machine, Mode::Sync, &self.path, self.holds.is_other_key).and_then(|it| Model::take(&it));
        assert_eq!(found.unwrap(), self.holds, "{}", self.path.display());
    }
}
