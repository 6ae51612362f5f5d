//! What was done and what was measured, by name.

use std::collections::BTreeMap;

use serde_json::{Value, json};

#[derive(Default)]
pub(super) struct Figures {
    counts: BTreeMap<String, u64>,
    peaks: BTreeMap<String, u64>,
}

impl Figures {
    pub(super) fn count(&mut self, what: &str) {
        *self.counts.entry(what.to_owned()).or_default() += 1;
    }

    pub(super) fn peak(&mut self, what: &str, value: u64) {
        let peak = self.peaks.entry(what.to_owned()).or_default();
        *peak = value.max(*peak);
    }

    pub(super) fn counted(&self, what: &str) -> u64 {
        self.counts.get(what).copied().unwrap_or(0)
    }

    pub(super) fn line(&self) -> String {
        let counts = self.counts.iter().map(|(what, count)| format!("{count} {what}"));
        let peaks = self.peaks.iter().map(|(what, peak)| format!("{what} {peak}"));
        counts.chain(peaks).collect::<Vec<_>>().join(", ")
    }

    pub(super) fn to_json(&self) -> Value {
        json!([self.counts, self.peaks])
    }

    pub(super) fn from_json(value: &Value) -> Self {
        let (counts, peaks) = serde_json::from_value(value.clone()).unwrap();
        Figures { counts, peaks }
    }
}
