//! One workload: its names, who runs it and how it is measured.

use std::path::Path;

use crate::figure::Figure;

#[derive(Clone, Copy)]
pub(crate) struct Workload {
    pub(crate) name: &'static str,
    /// Its name in the report.
    pub(crate) title: &'static str,
    /// What the baseline does; empty without a baseline.
    pub(crate) baseline: &'static str,
    pub(crate) engines: &'static [&'static str],
    /// Measurements per round. Short workloads are repeated instead of prolonged, so that the store and the
    /// baseline are measured close to each other in time.
    pub(crate) repeats: usize,
    pub(crate) measure: fn(&str, &Path) -> Figure,
}
