//! What the store must hold: the parent's own list of the calls that the child has said have returned.
//!
//! After a kill, exactly two states of each thread are right: the one after the last call that was said, and the
//! one after the next. A reader alongside may see any state since the moment before it looked.

use backupy_state::QueueOrder;
use serde_json::{Value, json};

use super::calls::{Call, THREADS, hash_of, in_order, parts};
use crate::common::State;

/// What one thread's calls made.
struct Own {
    /// How many calls there were, with those that a full disk refused.
    calls: usize,
    state: State,
}

impl Own {
    fn hashes(&self) -> [u64; 2] {
        ORDERS.map(|order| hash_of(&in_order(&self.state, order)))
    }
}

const ORDERS: [QueueOrder; 2] = [QueueOrder::RunId, QueueOrder::Fifo];

pub(super) struct Oracle {
    seed: u64,
    owns: Vec<Own>,
    /// For each thread, the hashes of its states in this life, each with the number of its call.
    history: Vec<Vec<(usize, [u64; 2])>>,
    sightings: Vec<Sighting>,
}

/// What a reader saw while the agent ran.
struct Sighting {
    what: String,
    since: Vec<usize>,
    order: QueueOrder,
    hashes: Vec<u64>,
}

impl Oracle {
    pub(super) fn new(seed: u64) -> Self {
        let owns = (0..THREADS).map(|_| Own { calls: 0, state: State::fifo() });
        Oracle { seed, owns: owns.collect(), history: Vec::new(), sightings: Vec::new() }
    }

    /// The number of the next call of each thread.
    pub(super) fn calls(&self) -> Vec<usize> {
        self.owns.iter().map(|own| own.calls).collect()
    }

    pub(super) fn begin_life(&mut self) {
        self.history = self.owns.iter().map(|own| vec![(own.calls, own.hashes())]).collect();
        self.sightings.clear();
    }

    pub(super) fn note_done(&mut self, thread: usize, number: usize) {
        let own = &mut self.owns[thread];
        assert_eq!(own.calls, number, "each thread says its calls in order");
        Call::new(self.seed, thread, number).apply(&mut own.state);
        own.calls += 1;
        self.history[thread].push((own.calls, own.hashes()));
    }

    /// A call that had no effect.
    pub(super) fn note_refused(&mut self, thread: usize, number: usize) {
        assert_eq!(self.owns[thread].calls, number, "each thread says its calls in order");
        self.owns[thread].calls += 1;
    }

    /// A reader that began to look when `since` calls had been said saw this.
    pub(super) fn note_seen(&mut self, what: String, since: Vec<usize>, order: QueueOrder, whole: &State) {
        let hashes = parts(whole).iter().map(hash_of).collect();
        self.sightings.push(Sighting { what, since, order, hashes });
    }

    /// Compares what the child read after it opened the store.
    pub(super) fn check_held(&self, hashes: &[u64], order: QueueOrder) -> Result<(), String> {
        for (thread, (own, found)) in self.owns.iter().zip(hashes).enumerate() {
            if own.hashes()[place_of(order)] != *found {
                return Err(format!(
                    "thread {thread}, after call {}: the opened store holds another state",
                    own.calls
                ));
            }
        }
        Ok(())
    }

    /// Compares what is in the store after the child has ended, and what readers saw before.
    pub(super) fn settle(&mut self, whole: &State) -> Result<(), String> {
        for (thread, part) in parts(whole).iter().enumerate() {
            let own = &self.owns[thread];
            let order = place_of(QueueOrder::RunId);
            if own.hashes()[order] == hash_of(part) {
                continue;
            }
            let number = own.calls;
            let before = self.owns[thread].state.clone();
            self.note_done(thread, number);
            if self.owns[thread].hashes()[order] != hash_of(part) {
                let before = in_order(&before, QueueOrder::RunId);
                return Err(format!("thread {thread}, call {number}: found {part:?} after {before:?}"));
            }
        }
        self.sightings.iter().try_for_each(|sighting| self.check_seen(sighting))
    }

    fn check_seen(&self, sighting: &Sighting) -> Result<(), String> {
        let Sighting { what, since, order, hashes } = sighting;
        for (thread, found) in hashes.iter().enumerate() {
            let states = &self.history[thread];
            // The last state before, too: a refused call leaves none of its own.
            let first = states.iter().rposition(|(calls, _)| *calls <= since[thread]).unwrap();
            if !states[first..].iter().any(|(_, hashes)| hashes[place_of(*order)] == *found) {
                return Err(format!(
                    "{what} shows thread {thread} as it was at no time since call {}",
                    since[thread]
                ));
            }
        }
        Ok(())
    }

    pub(super) fn to_json(&self) -> Value {
        let owns = self.owns.iter().map(|Own { calls, state }| {
            let State { config, jobs, is_fifo: _, session, heartbeat, logs, data } = state;
            json!([calls, config, jobs, session, heartbeat, logs, data])
        });
        owns.collect()
    }

    pub(super) fn from_json(seed: u64, owns: &Value) -> Self {
        let owns = owns.as_array().unwrap().iter().map(|own| {
            let (calls, config, jobs, session, heartbeat, logs, data) =
                serde_json::from_value(own.clone()).unwrap();
            Own { calls, state: State { config, jobs, is_fifo: true, session, heartbeat, logs, data } }
        });
        Oracle { owns: owns.collect(), ..Oracle::new(seed) }
    }
}

fn place_of(order: QueueOrder) -> usize {
    usize::from(order == QueueOrder::Fifo)
}
