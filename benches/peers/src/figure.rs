//! What one process measured: named numbers.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Map, Value};

#[derive(Clone, Debug, Default)]
pub(crate) struct Figure(pub(crate) BTreeMap<String, f64>);

/// The field of workloads that measure time: mean seconds per call.
pub(crate) const SECONDS: &str = "seconds";

impl Figure {
    pub(crate) fn of(fields: &[(&str, f64)]) -> Self {
        Figure(fields.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect())
    }

    pub(crate) fn seconds(took: Duration) -> Self {
        Figure::of(&[(SECONDS, took.as_secs_f64())])
    }

    /// From the time of each call and the total time.
    pub(crate) fn calls(mut each: Vec<Duration>, took: Duration) -> Self {
        each.sort_unstable();
        let percentile = |n: usize| each[(each.len() - 1) * n / 100].as_secs_f64();
        let mean = took.as_secs_f64() / each.len() as f64;
        Figure::of(&[
            (SECONDS, mean),
            ("p50", percentile(50)),
            ("p99", percentile(99)),
            ("count", each.len() as f64),
        ])
    }

    pub(crate) fn to_json(&self) -> String {
        Value::Object(self.0.iter().map(|(name, value)| (name.clone(), (*value).into())).collect::<Map<_, _>>())
            .to_string()
    }

    pub(crate) fn from_json(json: &str) -> Option<Self> {
        let fields: Map<String, Value> = serde_json::from_str(json).ok()?;
        fields.into_iter().map(|(name, value)| Some((name, value.as_f64()?))).collect::<Option<_>>().map(Figure)
    }
}

/// Stops after `count` calls or when the time is over, so that a slow disk does not make a run take an hour.
pub(crate) fn time_calls(count: usize, most: Duration, mut call: impl FnMut(usize)) -> Figure {
    let begun = Instant::now();
    let mut each = Vec::with_capacity(count);
    for i in 0..count {
        let call_begun = Instant::now();
        call(i);
        each.push(call_begun.elapsed());
        if i >= CALLS_MIN && begun.elapsed() > most {
            break;
        }
    }
    Figure::calls(each, begun.elapsed())
}

pub(crate) const SHORT: Duration = Duration::from_millis(1500);
/// For workloads that include an engine's periodic work, such as compaction.
pub(crate) const LONG: Duration = Duration::from_secs(4);
const CALLS_MIN: usize = 100;
