//! The figures of a run, and what is computed from them: medians, spreads and ratios.

use std::collections::BTreeMap;

use crate::engines::{BASELINE, RING, STORE};
use crate::figure::Figure;

/// All figures of a run: by workload and engine, then by round.
#[derive(Default)]
pub(crate) struct Results(BTreeMap<(&'static str, &'static str), BTreeMap<usize, Figure>>);

/// A figure: workload, engine, field.
pub(crate) type Name = (&'static str, &'static str, &'static str);

/// Of one figure over the rounds.
#[derive(Clone, Copy)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (least, most) = (*values.first()?, *values.last()?);
        let half = values.len() / 2;
        let median =
            if values.len().is_multiple_of(2) { (values[half - 1] + values[half]) / 2.0 } else { values[half] };
        Some(Spread { median, least, most })
    }

    pub(crate) fn map(self, change: impl Fn(f64) -> f64) -> Self {
        let (a, b) = (change(self.least), change(self.most));
        Spread { median: change(self.median), least: a.min(b), most: a.max(b) }
    }
}

impl Results {
    pub(crate) fn add(&mut self, workload: &'static str, engine: &'static str, round: usize, figure: Figure) {
        self.0.entry((workload, engine)).or_default().insert(round, figure);
    }

    fn get(&self, (workload, engine, field): Name, round: usize) -> Option<f64> {
        self.0.get(&(workload, engine))?.get(&round)?.0.get(field).copied()
    }

    pub(crate) fn rounds(&self) -> std::ops::Range<usize> {
        0..self.0.values().flat_map(|rounds| rounds.keys()).max().map_or(0, |last| last + 1)
    }

    pub(crate) fn spread(&self, name: Name) -> Option<Spread> {
        Spread::of(self.rounds().filter_map(|round| self.get(name, round)).collect())
    }

    /// One figure divided by another of the same round.
    pub(crate) fn ratio(&self, above: Name, below: Name) -> Option<Spread> {
        let ratio = |round| Some(self.get(above, round)? / self.get(below, round)?);
        Spread::of(self.rounds().filter_map(ratio).collect())
    }

    pub(crate) fn has_field(&self, workload: &str, field: &str) -> bool {
        let mut of_workload = self.0.iter().filter(|((of, _), _)| *of == workload);
        of_workload.any(|(_, rounds)| rounds.values().any(|figure| figure.0.contains_key(field)))
    }

    pub(crate) fn has(&self, workload: &str) -> bool {
        self.0.keys().any(|(of, _)| *of == workload)
    }

    /// The peer with the lowest median.
    pub(crate) fn best_peer(&self, workload: &str, field: &'static str) -> Option<&'static str> {
        let is_peer = |engine: &str| ![STORE, RING, BASELINE].contains(&engine);
        let of_workload = self.0.keys().filter(|(of, engine)| *of == workload && is_peer(engine));
        let medians = of_workload
            .filter_map(|(workload, engine)| Some((*engine, self.spread((workload, engine, field))?.median)));
        medians.min_by(|a, b| a.1.total_cmp(&b.1)).map(|(engine, _)| engine)
    }
}
