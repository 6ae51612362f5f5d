//! Statistics in the text format of Prometheus (exposition format 0.0.4), for the textfile collector of its
//! node exporter and the like.
//!
//! A name ends with its unit, or with `_total` if the number only grows. Each sample has the path of the store as
//! its label `state`, so that those of several stores can be read together.

use std::fmt::{self, Display};
use std::path::Path;

use backupy_state::Stats;

use crate::json::is_harmful;

pub(crate) struct Metric {
    /// Without the prefix that all have.
    name: &'static str,
    kind: Kind,
    help: &'static str,
    value: Number,
}

enum Kind {
    Counter,
    Gauge,
}

enum Number {
    Whole(u64),
    /// Printed as seconds.
    Ms(i64),
}

/// The metrics of a store. What is not known, or not there, has none.
pub(crate) fn metrics(stats: &Stats, dropped: Option<u64>, heartbeat_ms: Option<i64>) -> Vec<Metric> {
    let gauge = |name, help, value| Some(Metric { name, kind: Kind::Gauge, help, value: Number::Whole(value) });
    let time = |name, help, ms| Metric { name, kind: Kind::Gauge, help, value: Number::Ms(ms) };
    let compactions = Metric {
        name: "compactions_total",
        kind: Kind::Counter,
        help: "Compactions and changes of the key since the store was created.",
        value: Number::Whole(stats.generation.saturating_sub(1)),
    };
    let can_compact = u64::from(stats.compaction.unavailable.is_none());
    let all = [
        gauge("jobs", "Jobs in the queue.", stats.jobs),
        gauge("queue_bytes", "Payload of the jobs in the queue.", stats.queue_bytes),
        gauge("log_events", "Log events in the buffer.", stats.log_events),
        dropped.and_then(|dropped| {
            let help = "Log events dropped since the agent last removed some, as far as the log has the count.";
            gauge("dropped_log_events", help, dropped)
        }),
        stats.oldest_log_ms.map(|ms| {
            time("oldest_log_event_timestamp_seconds", "Time of the oldest log event in the buffer.", ms)
        }),
        heartbeat_ms.map(|ms| time("last_heartbeat_timestamp_seconds", "Time of the last heartbeat.", ms)),
        gauge("file_bytes", "Length of the file, with preallocated space.", stats.file_len),
        gauge("log_bytes", "Length of the log, without preallocated space.", stats.log_len),
        gauge("live_bytes", "Part of the log that is the contents of the store.", stats.live_bytes),
        gauge("dead_bytes", "Part of the log that a compaction frees.", stats.dead_bytes),
        gauge("free_bytes", "Preallocated space after the log.", stats.free_bytes),
        gauge("reserved_bytes", "Part of the preallocated space that is kept for removals.", stats.reserved_bytes),
        gauge("acks_on_full_disk", "Jobs that could be acked if the disk were full.", stats.acks_on_full_disk),
        stats
            .disk_free_bytes
            .and_then(|free| gauge("disk_free_bytes", "Space that the file system has left.", free)),
        gauge("frames", "Frames in the log.", stats.seq),
        gauge("replayed_bytes", "Part of the log that was read to open it.", stats.opening.replayed_bytes),
        Some(compactions),
        gauge("compaction_available", "1 if the log can be compacted where it is, else 0.", can_compact),
    ];
    all.into_iter().flatten().collect()
}

/// All metrics of the store at `state`.
pub(crate) fn text(state: &Path, metrics: &[Metric]) -> String {
    let label = label_value(&state.to_string_lossy());
    let metric = |Metric { name, kind, help, value }: &Metric| {
        let name = format!("backupy_state_{name}");
        format!("# HELP {name} {help}\n# TYPE {name} {kind}\n{name}{{state=\"{label}\"}} {value}\n")
    };
    metrics.iter().map(metric).collect()
}

/// The format has an escape for these three characters and no others. What could control a terminal is shown as
/// in Rust, with the backslash escaped.
fn label_value(text: &str) -> String {
    let mut value = String::new();
    for c in text.chars() {
        match c {
            '\\' => value.push_str("\\\\"),
            '"' => value.push_str("\\\""),
            '\n' => value.push_str("\\n"),
            c if is_harmful(c) => value.push_str(&format!("\\{}", c.escape_unicode())),
            c => value.push(c),
        }
    }
    value
}

impl Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        })
    }
}

impl Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Number::Whole(number) => write!(f, "{number}"),
            Number::Ms(ms) => {
                let (sign, ms) = (if ms < 0 { "-" } else { "" }, ms.unsigned_abs());
                write!(f, "{sign}{}.{:03}", ms / 1000, ms % 1000)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_has_no_character_that_ends_it_or_controls_a_terminal() {
        assert_eq!(label_value("/a \"b\"\\\n\x1b[2J\u{202e}ä"), r#"/a \"b\"\\\n\\u{1b}[2J\\u{202e}ä"#);
    }

    #[test]
    fn times_are_seconds_also_before_1970() {
        for (ms, seconds) in [(0, "0.000"), (1_700_000_000_123, "1700000000.123"), (-1, "-0.001")] {
            assert_eq!(Number::Ms(ms).to_string(), seconds);
        }
        assert_eq!(Number::Ms(i64::MIN).to_string(), "-9223372036854775.808");
    }
}
