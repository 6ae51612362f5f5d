//! The independent list: what the agent was told by the store, kept outside of it, and whether the store held its word.
//!
//! Knows calls, cells and marks (see `wire.rs`), and no store. Calls of several threads overlap, and some are cut off by
//! a kill, so a cell may rightly hold any of several values: a write is ruled out only by an acknowledged later one,
//! and later means begun after the first one had ended. A call that was in flight at a kill may have happened or not.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};

use super::wire::{Event, Kind, Message, Opened};

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
    /// At most this many log events were taken by drains that were killed before they could say which.
    drained_unseen_max: u64,
    /// How many log events a restart has shown to be gone.
    lost_events: u64,
    /// What `found` messages have named since the last kill.
    found: BTreeMap<String, u64>,
    pub(crate) deliveries: u64,
    pub(crate) repeated_deliveries: u64,
    pub(crate) drained: u64,
    /// How many acknowledged log events the killed drains took.
    pub(crate) drained_unseen: u64,
    pub(crate) losses: Vec<Loss>,
}

struct Write {
    begun: u64,
    /// When it had certainly happened, or never would.
    ended: Option<u64>,
    acknowledged: bool,
    /// `None`: it empties the cell.
    mark: Option<u64>,
    deliveries: u64,
}

enum Running {
    Write { kind: Kind, cell: String, i: usize },
    Drain { n: u64 },
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
                self.check_log_count(log_events);
                self.narrow_unseen(log_events);
            }
            Message::Begun { call, kind, cell, mark } => {
                let writes = self.cells.entry(cell.clone()).or_default();
                let i = writes.len();
                writes.push(Write { begun: self.now, ended: None, acknowledged: false, mark, deliveries: 0 });
                self.running.insert(call, Running::Write { kind, cell, i });
            }
            Message::DrainBegun { call, n } => drop(self.running.insert(call, Running::Drain { n })),
            Message::Done { call } => self.note_done(call),
            Message::Drained { call, events } => {
                if self.running.remove(&call).is_some() {
                    self.count(Kind::DrainLogs).acknowledged += 1;
                }
                self.note_drained(&events);
            }
            Message::Delivered { cell, mark } => self.note_delivered(&cell, mark),
            Message::Failed { .. } => {}
        }
    }

    /// Ends what the agent was about when it died. Returns how many calls that were.
    pub(crate) fn note_death(&mut self) -> u64 {
        self.now += 1;
        self.found.clear();
        let running = std::mem::take(&mut self.running);
        let in_flight = running.len() as u64;
        for (_, call) in running {
            match call {
                Running::Write { kind, cell, i } => {
                    self.count(kind).in_flight += 1;
                    if let Some(write) = self.cells.get_mut(&cell).and_then(|writes| writes.get_mut(i)) {
                        write.ended.get_or_insert(self.now);
                    }
                }
                Running::Drain { n } => {
                    self.count(Kind::DrainLogs).in_flight += 1;
                    self.drained_unseen_max += n;
                }
            }
        }
        in_flight
    }

    /// The end of the day: `held` is everything but the log events, `events` is all of these in drain order, and
    /// nothing runs any more.
    pub(crate) fn settle(&mut self, held: &BTreeMap<String, u64>, events: &[Event]) {
        self.now += 1;
        self.check_held(held);
        self.narrow_unseen(events.len() as u64);
        self.note_drained(events);
        self.check_missing_events();
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

    /// How many cells with this prefix may hold something: those that no call has certainly emptied.
    fn live(&self, prefix: &str) -> u64 {
        self.cells_of(prefix).filter(|(_, writes)| possible(writes).any(|mark| mark.is_some())).count() as u64
    }

    fn note_done(&mut self, call: u64) {
        let Some(Running::Write { kind, cell, i }) = self.running.remove(&call) else { return };
        self.count(kind).acknowledged += 1;
        if let Some(write) = self.cells.get_mut(&cell).and_then(|writes| writes.get_mut(i)) {
            write.ended.get_or_insert(self.now);
            write.acknowledged = true;
        }
    }

    fn note_delivered(&mut self, cell: &str, mark: u64) {
        self.deliveries += 1;
        let now = self.now;
        let writes = self.cells.get_mut(cell).into_iter().flatten();
        let Some(write) = writes.filter(|write| write.mark == Some(mark)).last() else {
            return self.lose(cell, "was delivered with a payload that no call ever wrote");
        };
        // It was seen, so it has happened, acknowledged or not.
        write.ended.get_or_insert(now);
        write.deliveries += 1;
        self.repeated_deliveries += u64::from(write.deliveries > 1);
    }

    fn note_drained(&mut self, events: &[Event]) {
        self.drained += events.len() as u64;
        for Event { cell, mark, .. } in events {
            let now = self.now;
            let attempted = self.was_attempted(cell, *mark);
            let writes = self.cells.entry(cell.clone()).or_default();
            if !attempted {
                self.lose(cell, "was drained, but no call ever wrote it so");
            } else if writes.iter().any(|write| write.mark.is_none()) {
                self.lose(cell, "was drained twice");
            } else {
                for write in &mut *writes {
                    write.ended.get_or_insert(now - 1);
                }
                let removal =
                    Write { begun: now, ended: Some(now), acknowledged: true, mark: None, deliveries: 0 };
                writes.push(removal);
            }
        }
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

    /// Compares everything but the log events with what was acknowledged, and takes what is there as given from here on.
    fn check_held(&mut self, held: &BTreeMap<String, u64>) {
        for cell in held.keys() {
            self.cells.entry(cell.clone()).or_default();
        }
        let mut losses = Vec::new();
        for (cell, writes) in self.cells.iter_mut().filter(|(cell, _)| !cell.starts_with(LOG)) {
            let mark = held.get(cell).copied();
            if possible(writes).all(|known| known == mark) {
                continue;
            }
            if !possible(writes).any(|known| known == mark) {
                losses.push(Loss { cell: cell.clone(), what: describe(writes, mark), count: 1 });
            }
            let now = self.now;
            writes.push(Write { begun: now, ended: Some(now), acknowledged: true, mark, deliveries: 0 });
        }
        self.losses.extend(losses);
    }

    /// Whether so many log events can be there.
    fn check_log_count(&mut self, count: u64) {
        let too_many = count.saturating_sub(self.live(LOG));
        self.lose_some(LOG, "holds more events than were ever buffered", too_many);
        let missing = (self.certain_events().count() as u64).saturating_sub(count);
        let gone = missing.saturating_sub(self.drained_unseen_max + self.lost_events);
        self.lose_some(LOG, "holds too few of the acknowledged events", gone);
        self.lost_events += gone;
    }

    /// Where so many log events are left, killed drains can have taken no more than the rest.
    fn narrow_unseen(&mut self, count: u64) {
        let rest = self.live(LOG).saturating_sub(count + self.lost_events);
        self.drained_unseen_max = self.drained_unseen_max.min(rest);
    }

    /// After the last drain: what was acknowledged and did not come out must have been taken by a killed drain. Those
    /// which were buffered last are named as lost.
    fn check_missing_events(&mut self) {
        let mut missing: Vec<_> = self.certain_events().map(|(cell, begun)| (begun, cell.to_owned())).collect();
        let known = self.lost_events.min(missing.len() as u64);
        self.drained_unseen = self.drained_unseen_max.min(missing.len() as u64 - known);
        missing.sort_by_key(|(begun, _)| Reverse(*begun));
        let lost = missing.len() as u64 - known - self.drained_unseen;
        for (_, cell) in missing.into_iter().take(usize::try_from(lost).unwrap_or(usize::MAX)) {
            self.lose(&cell, "was acknowledged and is gone");
        }
    }

    /// The log events that must be there unless a killed drain took them, and when their call began.
    fn certain_events(&self) -> impl Iterator<Item = (&str, u64)> {
        let events = self.cells_of(LOG).filter(|(_, writes)| possible(writes).all(|mark| mark.is_some()));
        events.filter_map(|(cell, writes)| Some((cell.as_str(), writes.first()?.begun)))
    }

    fn cells_of(&self, prefix: &str) -> impl Iterator<Item = (&String, &Vec<Write>)> {
        self.cells.range(prefix.to_owned()..).take_while(move |(cell, _)| cell.starts_with(prefix))
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

pub(crate) const LOG: &str = "log/";

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
