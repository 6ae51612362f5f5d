//! Which charts there are, and what is in them.

use super::units;
use crate::engines::{BBOLT, BBOLT_BATCH, FLOOR, RING, STORE};
use crate::figure::SECONDS;
use crate::rounds::Results;
use crate::svg::{Bar, Chart, Panel, Role};

/// File name, what it shows in words, and the picture. One that nothing was measured for is left out.
pub(super) fn all(results: &Results) -> Vec<(&'static str, &'static str, String)> {
    let time = |work, engine| {
        let seconds = results.spread((work, engine, SECONDS))?.median;
        Some(Bar { label: engine, value: seconds, text: units::time(seconds), role: role(engine) })
    };
    let throughput = |work, engine| {
        let a_second = results.spread((work, engine, SECONDS))?.median.recip();
        Some(Bar { label: engine, value: a_second, text: units::count(a_second), role: role(engine) })
    };
    let panel = |title, work, bar: &dyn Fn(&'static str, &'static str) -> Option<Bar>| {
        let bars = ENGINES.iter().filter_map(|engine| bar(work, engine)).collect();
        Panel { title, bars }
    };
    let charts = [
        (
            "enqueue.svg",
            Chart {
                title: "Durable enqueue, one thread: time of a call (less is better)",
                panels: vec![panel("512 B", "enqueue-512", &time), panel("8 KiB", "enqueue-8k", &time)],
            },
        ),
        (
            "threads.svg",
            Chart {
                title: "Durable enqueue of 512 B, eight threads: jobs a second (more is better)",
                panels: vec![panel("", "enqueue-8-threads", &throughput)],
            },
        ),
        (
            "open.svg",
            Chart {
                title: "Opening: time until the state can be used (less is better)",
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
    [STORE, RING, FLOOR, "raft-engine", "fjall", "LMDB", "redb", "SQLite", BBOLT, BBOLT_BATCH];

fn role(engine: &str) -> Role {
    match engine {
        STORE | RING => Role::Store,
        FLOOR => Role::Floor,
        _ => Role::Peer,
    }
}
