//! The charts and their contents.

use super::units;
use crate::engines::{BASELINE, BBOLT, BBOLT_BATCH, RING, STORE};
use crate::figure::SECONDS;
use crate::results::Results;
use crate::svg::{Bar, Chart, Panel, Role};

/// The file name, alternative text and SVG of each chart. A chart without measurements is left out.
pub(super) fn all(results: &Results) -> Vec<(&'static str, &'static str, String)> {
    let time = |workload, engine| {
        let seconds = results.spread((workload, engine, SECONDS))?.median;
        Some(Bar { label: engine, value: seconds, text: units::time(seconds), role: role(engine) })
    };
    let throughput = |workload, engine| {
        let per_second = results.spread((workload, engine, SECONDS))?.median.recip();
        Some(Bar { label: engine, value: per_second, text: units::count(per_second), role: role(engine) })
    };
    let panel = |title, workload, bar: &dyn Fn(&'static str, &'static str) -> Option<Bar>| {
        let bars = ENGINES.iter().filter_map(|engine| bar(workload, engine)).collect();
        Panel { title, bars }
    };
    let charts = [
        (
            "enqueue.svg",
            Chart {
                title: "Durable enqueue, one thread: time per call (less is better)",
                panels: vec![panel("512 B", "enqueue-512", &time), panel("8 KiB", "enqueue-8k", &time)],
            },
        ),
        (
            "threads.svg",
            Chart {
                title: "Durable enqueue of 512 B, eight threads: jobs per second (more is better)",
                panels: vec![panel("", "enqueue-8-threads", &throughput)],
            },
        ),
        (
            "open.svg",
            Chart {
                title: "Opening: time until the state is usable (less is better)",
                panels: vec![
                    panel("1,000 live jobs", "open-1k", &time),
                    panel("10,000 live jobs", "open-10k", &time),
                    panel("100,000 live jobs", "open-100k", &time),
                    panel("100,000 live jobs, after a kill", "open-killed", &time),
                ],
            },
        ),
    ];
    let is_measured = |chart: &Chart| chart.panels.iter().any(|panel| !panel.bars.is_empty());
    let drawn = charts.into_iter().filter(|(_, chart)| is_measured(chart));
    drawn.map(|(name, chart)| (name, chart.title, chart.draw())).collect()
}

const ENGINES: [&str; 10] =
    [STORE, RING, BASELINE, "raft-engine", "fjall", "LMDB", "redb", "SQLite", BBOLT, BBOLT_BATCH];

fn role(engine: &str) -> Role {
    match engine {
        STORE | RING => Role::Store,
        BASELINE => Role::Baseline,
        _ => Role::Peer,
    }
}
