//! Formats figures with three digits and a unit.

use crate::figure::SECONDS;
use crate::results::Results;

/// What a workload is measured in.
#[derive(Clone, Copy)]
pub(super) struct Unit {
    pub(super) field: &'static str,
    show: fn(f64) -> String,
}

impl Unit {
    pub(super) fn of(workload: &str, results: &Results) -> Self {
        let units = [
            Unit { field: SECONDS, show: time },
            Unit { field: "bytes", show: bytes },
            Unit { field: "ratio", show: plain },
        ];
        let is_measured = |unit: &Unit| results.has_field(workload, unit.field);
        units.into_iter().find(is_measured).unwrap_or(units[0])
    }

    pub(super) fn show(self, value: f64) -> String {
        (self.show)(value)
    }
}

pub(super) fn time(seconds: f64) -> String {
    let (value, unit) = match seconds {
        s if s < 1e-6 => (s * 1e9, "ns"),
        s if s < 1e-3 => (s * 1e6, "µs"),
        s if s < 1.0 => (s * 1e3, "ms"),
        s => (s, "s"),
    };
    format!("{} {unit}", plain(value))
}

pub(super) fn bytes(bytes: f64) -> String {
    let (value, unit) = if bytes < 1_048_576.0 { (bytes / 1024.0, "KiB") } else { (bytes / 1_048_576.0, "MiB") };
    format!("{} {unit}", plain(value))
}

pub(super) fn count(value: f64) -> String {
    let digits = format!("{value:.0}");
    let separated = digits.bytes().rev().enumerate().flat_map(|(i, digit)| {
        let comma = (i > 0 && i % 3 == 0).then_some(b',');
        comma.into_iter().chain([digit])
    });
    let mut separated: Vec<_> = separated.map(char::from).collect();
    separated.reverse();
    separated.into_iter().collect()
}

/// A small count; it can be the mean of two.
pub(super) fn few(value: f64) -> String {
    format!("{value}")
}

/// Three digits, or all digits before the point if there are more.
pub(super) fn plain(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        v if v < 1.0 => format!("{value:.3}"),
        v if v < 10.0 => format!("{value:.2}"),
        v if v < 100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}
