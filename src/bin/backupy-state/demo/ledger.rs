//! The independent list: what the agent was told by the store, kept outside of it, and whether the store held its word.
//!
//! Knows calls, cells and marks (see `wire.rs`), and no store. Calls of several threads overlap, and some are cut off by
//! a kill, so a cell may rightly hold any of several values: a write is ruled out only by an acknowledged later one,
//! and later means begun after the first one had ended. A call that was in flight at a kill may have happened or not, but
//! not in part.

use std::collections::{BTreeMap, HashMap};

use super::held::LOG;
use super::wire::{Change, Event, Kind, Message, Opened};

/// Something that an acknowledged call promised and the store did not keep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Loss {
    pub(crate) cell: String,
    pub(crate) what: &'static str,
    /// Of how many things, where no name tells them apart.
    pub(crate) count: u64,
}

/// How many calls of a kind there were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) acknowledged: u64,
    /// Cut off by a kill.
    pub(crate) in_flight: u64,
}

#[derive(Default)]
pub(crate) struct Ledger {
    /// Counts the messages, and so orders them.
    now: u64,
    cells: BTreeMap<String, Vec<Write>>,
    running: HashMap<u64, Running>,
    counts: HashMap<&'static str, Count>,
    /// The calls with several changes that the last kill cut off.
    cut_off: Vec<Vec<Place>>,
    /// What `found` messages have named since the last kill.
    found: BTreeMap<String, u64>,
    pub(crate) jobs: Deliveries,
    pub(crate) events: Deliveries,
    pub(crate) losses: Vec<Loss>,
}

/// How often things were given to the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Deliveries {
    pub(crate) deliveries: u64,
    /// Of things that had been given to it before.
    pub(crate) repeated: u64,
}

#[derive(Clone)]
struct Write {
    begun: u64,
    /// When it had certainly happened, or never would.
    ended: Option<u64>,
    acknowledged: bool,
    /// `None`: it empties the cell.
    mark: Option<u64>,
    deliveries: u64,
}

/// One of the writes of a cell.
struct Place {
    cell: String,
    i: usize,
}

struct Running {
    kind: Kind,
    places: Vec<Place>,
}

impl Ledger {
    /// Takes note of a message. `Failed` is for the supervisor.
    pub(crate) fn note(&mut self, message: Message) {
        self.now += 1;
        match message {
            Message::Found { cell, mark } => drop(self.found.insert(cell, mark)),
            Message::Opened(Opened { log_events, .. }) => {
                let found = std::mem::take(&mut self.found);
                self.check_held(&found);
                self.check_log_count(&found, log_events);
            }
            Message::Begun { call, kind, changes } => {
                let places = changes.into_iter().map(|change| self.begin(change)).collect();
                self.running.insert(call, Running { kind, places });
            }
            Message::Done { call } => self.note_done(call),
            Message::DeliveredJob { cell, mark } => {
                let repeated = self.note_delivered(&cell, mark);
                self.jobs.note(repeated);
            }
            Message::DeliveredEvents(events) => self.note_events(&events),
            Message::Failed { .. } => {}
        }
    }

    /// Ends what the agent was about when it died. Returns how many calls that were.
    pub(crate) fn note_death(&mut self) -> u64 {
        self.now += 1;
        self.found.clear();
        let running = std::mem::take(&mut self.running);
        let in_flight = running.len() as u64;
        for (_, Running { kind, places }) in running {
            self.count(kind).in_flight += 1;
            let now = self.now;
            for place in &places {
                if let Some(write) = self.write_at(place) {
                    write.ended.get_or_insert(now);
                }
            }
            if places.len() > 1 {
                self.cut_off.push(places);
            }
        }
        in_flight
    }

    /// The end of the day: `held` is everything, `events` is all log events in their order, and nothing runs any more.
    pub(crate) fn settle(&mut self, held: &BTreeMap<String, u64>, events: &[Event]) {
        self.now += 1;
        self.check_held(held);
        self.check_log_count(held, events.len() as u64);
        self.check_order(events);
    }

    /// Whether a value that somebody has seen was ever written.
    pub(crate) fn check_seen(&mut self, cell: &str, mark: u64) {
        if !self.was_attempted(cell, mark) {
            self.lose(cell, "was shown with a value that no call ever wrote");
        }
    }

    /// How many things were lost.
    pub(crate) fn lost(&self) -> u64 {
        self.losses.iter().map(|loss| loss.count).sum()
    }

    /// All calls of a kind.
    pub(crate) fn counted(&self, kind: Kind) -> Count {
        self.counts.get(kind.name()).copied().unwrap_or_default()
    }

    fn begin(&mut self, Change { cell, mark }: Change) -> Place {
        let writes = self.cells.entry(cell.clone()).or_default();
        writes.push(Write { begun: self.now, ended: None, acknowledged: false, mark, deliveries: 0 });
        Place { cell, i: writes.len() - 1 }
    }

    fn note_done(&mut self, call: u64) {
        let Some(Running { kind, places }) = self.running.remove(&call) else { return };
        self.count(kind).acknowledged += 1;
        let now = self.now;
        for place in &places {
            if let Some(write) = self.write_at(place) {
                write.ended.get_or_insert(now);
                write.acknowledged = true;
            }
        }
    }

    fn write_at(&mut self, place: &Place) -> Option<&mut Write> {
        self.cells.get_mut(&place.cell).and_then(|writes| writes.get_mut(place.i))
    }

    /// Returns whether it had been delivered before.
    fn note_delivered(&mut self, cell: &str, mark: u64) -> bool {
        let now = self.now;
        let writes = self.cells.get_mut(cell).into_iter().flatten();
        let Some(write) = writes.filter(|write| write.mark == Some(mark)).last() else {
            self.lose(cell, "was delivered, but no call ever wrote it so");
            return false;
        };
        // It was seen, so it has happened, acknowledged or not.
        write.ended.get_or_insert(now);
        write.deliveries += 1;
        write.deliveries > 1
    }

    fn note_events(&mut self, events: &[Event]) {
        for Event { cell, mark, .. } in events {
            let repeated = self.note_delivered(cell, *mark);
            self.events.note(repeated);
            // Nobody but the one who delivers them removes events, so none can have gone since they were read.
            let writes = self.cells.get(cell).map_or(&[][..], Vec::as_slice);
            if self.was_attempted(cell, *mark) && !possible(writes).any(|known| known == Some(*mark)) {
                self.lose(cell, "was removed and is back");
            }
        }
        self.check_order(events);
    }

    fn check_order(&mut self, events: &[Event]) {
        for pair in events.windows(2) {
            if let [a, b] = pair
                && self.is_out_of_order(a, b)
            {
                self.lose(&b.cell, "came out of order");
            }
        }
    }

    /// By time; at the same time, by call, where one was over before the other began.
    fn is_out_of_order(&self, a: &Event, b: &Event) -> bool {
        let buffered = |event: &Event| self.cells.get(&event.cell).and_then(|writes| writes.first());
        match (buffered(a), buffered(b)) {
            (Some(a_write), Some(b_write)) if a.ts_ms == b.ts_ms => {
                b_write.acknowledged && b_write.ended.is_some_and(|ended| ended < a_write.begun)
            }
            _ => a.ts_ms > b.ts_ms,
        }
    }

    /// Compares everything with what was acknowledged, and takes what is there as given from here on.
    fn check_held(&mut self, held: &BTreeMap<String, u64>) {
        self.check_cut_off(held);
        for cell in held.keys() {
            self.cells.entry(cell.clone()).or_default();
        }
        let mut losses = Vec::new();
        for (cell, writes) in &mut self.cells {
            let mark = held.get(cell).copied();
            if possible(writes).all(|known| known == mark) {
                continue;
            }
            if !possible(writes).any(|known| known == mark) {
                losses.push(Loss { cell: cell.clone(), what: describe(writes, mark), count: 1 });
            }
            let now = self.now;
            let deliveries = writes.iter().filter(|write| write.mark == mark).map(|write| write.deliveries).sum();
            writes.push(Write { begun: now, ended: Some(now), acknowledged: true, mark, deliveries });
        }
        self.losses.extend(losses);
    }

    /// A call with several changes happened or did not happen: there is a way to explain all its cells alike.
    fn check_cut_off(&mut self, held: &BTreeMap<String, u64>) {
        for places in std::mem::take(&mut self.cut_off) {
            let explained = |happened: Option<bool>| {
                places.iter().all(|place| {
                    let mut writes = self.cells.get(&place.cell).cloned().unwrap_or_default();
                    match happened {
                        Some(true) => writes[place.i].acknowledged = true,
                        Some(false) => drop(writes.remove(place.i)),
                        None => {}
                    }
                    possible(&writes).any(|mark| mark == held.get(&place.cell).copied())
                })
            };
            // A cell that cannot be explained by itself is found by the one who looks at each.
            if explained(None) && !explained(Some(true)) && !explained(Some(false)) {
                self.lose(&places[0].cell, "was changed without the rest of its batch");
            }
        }
    }

    /// Whether each log event was found once.
    fn check_log_count(&mut self, found: &BTreeMap<String, u64>, count: u64) {
        let cells = found.keys().filter(|cell| cell.starts_with(LOG)).count() as u64;
        self.lose_some(LOG, "holds events twice, or such that cannot be read", cells.abs_diff(count));
    }

    fn was_attempted(&self, cell: &str, mark: u64) -> bool {
        self.cells.get(cell).is_some_and(|writes| writes.iter().any(|write| write.mark == Some(mark)))
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

/// What a cell with these writes may hold. Empty before the first acknowledged write.
fn possible(writes: &[Write]) -> impl Iterator<Item = Option<u64>> {
    // A write that is over is ruled out by an acknowledged one that began later; the latest of these decides.
    let latest = writes.iter().filter(|write| write.acknowledged).map(|write| write.begun).max();
    let empty = latest.is_none().then_some(None);
    let left = writes.iter().filter(move |write| match (write.ended, latest) {
        (Some(ended), Some(latest)) => ended >= latest,
        _ => true,
    });
    empty.into_iter().chain(left.map(|write| write.mark))
}

fn describe(writes: &[Write], mark: Option<u64>) -> &'static str {
    let removed = possible(writes).any(|mark| mark.is_none());
    match mark {
        None => "was acknowledged and is gone",
        Some(_) if !writes.iter().any(|write| write.mark == mark) => "holds a value that no call ever wrote",
        Some(_) if removed => "was removed and is back",
        Some(_) => "holds an older value than the acknowledged one",
    }
}

#[cfg(test)]
mod tests;
