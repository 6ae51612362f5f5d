//! The ledger: an independent list of what the store has acknowledged, and the check that the store has kept it.
//!
//! The ledger knows calls, cells and digests (see `protocol.rs`), but no store. Calls of several threads overlap,
//! and kills interrupt some, so a cell may correctly hold any of several values. A write is ruled out only by an
//! acknowledged later write, which is one that began after the first had ended. A call that was in flight at a
//! kill may have taken effect or not, but not in part.

use std::collections::{BTreeMap, HashMap};

use super::contents::LOG;
use super::protocol::{Change, Event, Kind, Message, Opened};

/// A difference between the acknowledged calls and the contents of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Loss {
    pub(crate) cell: String,
    pub(crate) what: &'static str,
    /// The number of values, if they have no names of their own.
    pub(crate) count: u64,
}

/// The number of calls of a kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) acknowledged: u64,
    /// Interrupted by a kill.
    pub(crate) in_flight: u64,
}

#[derive(Default)]
pub(crate) struct Ledger {
    /// The number of messages so far, which serves as the time.
    now: u64,
    cells: BTreeMap<String, Vec<Write>>,
    running: HashMap<u64, Running>,
    counts: HashMap<&'static str, Count>,
    /// The calls with several changes that the last kill interrupted.
    interrupted: Vec<Vec<WriteId>>,
    /// The contents of the `Found` messages since the last kill.
    found: BTreeMap<String, u64>,
    pub(crate) jobs: Deliveries,
    pub(crate) events: Deliveries,
    pub(crate) losses: Vec<Loss>,
}

/// The number of deliveries to the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Deliveries {
    pub(crate) deliveries: u64,
    /// Deliveries of values that had been delivered before.
    pub(crate) repeated: u64,
}

#[derive(Clone)]
struct Write {
    begun: u64,
    /// The time after which the write can no longer take effect.
    ended: Option<u64>,
    acknowledged: bool,
    /// `None` empties the cell.
    digest: Option<u64>,
    deliveries: u64,
}

/// Identifies one of the writes of a cell.
struct WriteId {
    cell: String,
    i: usize,
}

struct Running {
    kind: Kind,
    write_ids: Vec<WriteId>,
}

impl Ledger {
    /// Records a message. `Failed` is handled elsewhere.
    pub(crate) fn note(&mut self, message: Message) {
        self.now += 1;
        match message {
            Message::Found { cell, digest } => drop(self.found.insert(cell, digest)),
            Message::Opened(Opened { log_events, .. }) => {
                let found = std::mem::take(&mut self.found);
                self.check_held(&found);
                self.check_log_count(&found, log_events);
            }
            Message::Begun { call, kind, changes } => {
                let write_ids = changes.into_iter().map(|change| self.begin(change)).collect();
                self.running.insert(call, Running { kind, write_ids });
            }
            Message::Done { call } => self.note_done(call),
            Message::DeliveredJob { cell, digest } => {
                let repeated = self.note_delivered(&cell, digest);
                self.jobs.note(repeated);
            }
            Message::DeliveredEvents(events) => self.note_events(&events),
            Message::Failed { .. } => {}
        }
    }

    /// Ends the calls that were in flight when the agent was killed. Returns their number.
    pub(crate) fn note_death(&mut self) -> u64 {
        self.now += 1;
        self.found.clear();
        let running = std::mem::take(&mut self.running);
        let in_flight = running.len() as u64;
        for (_, Running { kind, write_ids }) in running {
            self.count(kind).in_flight += 1;
            let now = self.now;
            for write_id in &write_ids {
                if let Some(write) = self.write_at(write_id) {
                    write.ended.get_or_insert(now);
                }
            }
            if write_ids.len() > 1 {
                self.interrupted.push(write_ids);
            }
        }
        in_flight
    }

    /// Checks the final state: `held` is all contents, `events` are all log events in their order, and no call is
    /// in flight.
    pub(crate) fn check_final(&mut self, held: &BTreeMap<String, u64>, events: &[Event]) {
        self.now += 1;
        self.check_held(held);
        self.check_log_count(held, events.len() as u64);
        self.check_order(events);
    }

    /// Checks that a value that a snapshot showed was written at some time.
    pub(crate) fn check_seen(&mut self, cell: &str, digest: u64) {
        if !self.was_attempted(cell, digest) {
            self.lose(cell, "appeared in a snapshot with a value that no call wrote");
        }
    }

    /// The number of lost values.
    pub(crate) fn lost(&self) -> u64 {
        self.losses.iter().map(|loss| loss.count).sum()
    }

    /// The calls of a kind.
    pub(crate) fn counted(&self, kind: Kind) -> Count {
        self.counts.get(kind.name()).copied().unwrap_or_default()
    }

    fn begin(&mut self, Change { cell, digest }: Change) -> WriteId {
        let writes = self.cells.entry(cell.clone()).or_default();
        writes.push(Write { begun: self.now, ended: None, acknowledged: false, digest, deliveries: 0 });
        WriteId { cell, i: writes.len() - 1 }
    }

    fn note_done(&mut self, call: u64) {
        let Some(Running { kind, write_ids }) = self.running.remove(&call) else { return };
        self.count(kind).acknowledged += 1;
        let now = self.now;
        for write_id in &write_ids {
            if let Some(write) = self.write_at(write_id) {
                write.ended.get_or_insert(now);
                write.acknowledged = true;
            }
        }
    }

    fn write_at(&mut self, write_id: &WriteId) -> Option<&mut Write> {
        self.cells.get_mut(&write_id.cell).and_then(|writes| writes.get_mut(write_id.i))
    }

    /// Returns whether the value had been delivered before.
    fn note_delivered(&mut self, cell: &str, digest: u64) -> bool {
        let now = self.now;
        let writes = self.cells.get_mut(cell).into_iter().flatten();
        let Some(write) = writes.filter(|write| write.digest == Some(digest)).last() else {
            self.lose(cell, "was delivered with a value that no call wrote");
            return false;
        };
        // The value was read, so its write has taken effect, acknowledged or not.
        write.ended.get_or_insert(now);
        write.deliveries += 1;
        write.deliveries > 1
    }

    fn note_events(&mut self, events: &[Event]) {
        for Event { cell, digest, .. } in events {
            let repeated = self.note_delivered(cell, *digest);
            self.events.note(repeated);
            // Only the thread that delivers events removes them, so none can have been removed since they were
            // read.
            let writes = self.cells.get(cell).map_or(&[][..], Vec::as_slice);
            if self.was_attempted(cell, *digest) && !possible(writes).any(|known| known == Some(*digest)) {
                self.lose(cell, "was removed and is present again");
            }
        }
        self.check_order(events);
    }

    fn check_order(&mut self, events: &[Event]) {
        for pair in events.windows(2) {
            if let [a, b] = pair
                && self.is_out_of_order(a, b)
            {
                self.lose(&b.cell, "is out of order");
            }
        }
    }

    /// Events are ordered by time. Those with the same time are ordered by their calls, if one call ended before
    /// the other began.
    fn is_out_of_order(&self, a: &Event, b: &Event) -> bool {
        let buffered = |event: &Event| self.cells.get(&event.cell).and_then(|writes| writes.first());
        match (buffered(a), buffered(b)) {
            (Some(a_write), Some(b_write)) if a.ts_ms == b.ts_ms => {
                b_write.acknowledged && b_write.ended.is_some_and(|ended| ended < a_write.begun)
            }
            _ => a.ts_ms > b.ts_ms,
        }
    }

    /// Compares the contents of the store with the acknowledged calls. From then on, these contents must be kept
    /// too.
    fn check_held(&mut self, held: &BTreeMap<String, u64>) {
        self.check_interrupted(held);
        for cell in held.keys() {
            self.cells.entry(cell.clone()).or_default();
        }
        let mut losses = Vec::new();
        for (cell, writes) in &mut self.cells {
            let digest = held.get(cell).copied();
            if possible(writes).all(|known| known == digest) {
                continue;
            }
            if !possible(writes).any(|known| known == digest) {
                losses.push(Loss { cell: cell.clone(), what: describe(writes, digest), count: 1 });
            }
            let now = self.now;
            let deliveries =
                writes.iter().filter(|write| write.digest == digest).map(|write| write.deliveries).sum();
            writes.push(Write { begun: now, ended: Some(now), acknowledged: true, digest, deliveries });
        }
        self.losses.extend(losses);
    }

    /// Checks that an interrupted call with several changes took effect as a whole or not at all.
    fn check_interrupted(&mut self, held: &BTreeMap<String, u64>) {
        for write_ids in std::mem::take(&mut self.interrupted) {
            let explained = |happened: Option<bool>| {
                write_ids.iter().all(|write_id| {
                    let mut writes = self.cells.get(&write_id.cell).cloned().unwrap_or_default();
                    match happened {
                        Some(true) => writes[write_id.i].acknowledged = true,
                        Some(false) => drop(writes.remove(write_id.i)),
                        None => {}
                    }
                    possible(&writes).any(|digest| digest == held.get(&write_id.cell).copied())
                })
            };
            // `check_held` reports a cell that has no explanation of its own.
            if explained(None) && !explained(Some(true)) && !explained(Some(false)) {
                self.lose(&write_ids[0].cell, "was changed without the rest of its batch");
            }
        }
    }

    /// Checks that each log event was found once.
    fn check_log_count(&mut self, found: &BTreeMap<String, u64>, count: u64) {
        let cells = found.keys().filter(|cell| cell.starts_with(LOG)).count() as u64;
        self.lose_some(LOG, "contains duplicate or unreadable events", cells.abs_diff(count));
    }

    fn was_attempted(&self, cell: &str, digest: u64) -> bool {
        self.cells.get(cell).is_some_and(|writes| writes.iter().any(|write| write.digest == Some(digest)))
    }

    fn count(&mut self, kind: Kind) -> &mut Count {
        self.counts.entry(kind.name()).or_default()
    }

    fn lose(&mut self, cell: &str, what: &'static str) {
        self.lose_some(cell, what, 1);
    }

    fn lose_some(&mut self, cell: &str, what: &'static str, count: u64) {
        if count > 0 {
            self.losses.push(Loss { cell: cell.to_owned(), what, count });
        }
    }
}

impl Deliveries {
    fn note(&mut self, repeated: bool) {
        self.deliveries += 1;
        self.repeated += u64::from(repeated);
    }
}

/// The values that a cell with these writes may hold. Before the first acknowledged write, it may be empty.
fn possible(writes: &[Write]) -> impl Iterator<Item = Option<u64>> {
    // An acknowledged write rules out every write that had ended when it began; the latest acknowledged one
    // decides.
    let latest = writes.iter().filter(|write| write.acknowledged).map(|write| write.begun).max();
    let empty = latest.is_none().then_some(None);
    let left = writes.iter().filter(move |write| match (write.ended, latest) {
        (Some(ended), Some(latest)) => ended >= latest,
        _ => true,
    });
    empty.into_iter().chain(left.map(|write| write.digest))
}

fn describe(writes: &[Write], digest: Option<u64>) -> &'static str {
    let removed = possible(writes).any(|digest| digest.is_none());
    match digest {
        None => "was acknowledged and is missing",
        Some(_) if !writes.iter().any(|write| write.digest == digest) => "holds a value that no call wrote",
        Some(_) if removed => "was removed and is present again",
        Some(_) => "holds an older value than the acknowledged one",
    }
}

#[cfg(test)]
mod tests;
