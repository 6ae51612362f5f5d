//! Writes `RESULTS.md` and its charts: the figures, the limits, and whether the limits are met.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use crate::engines::{BASELINE, BBOLT, BBOLT_BATCH, RING, STORE};
use crate::figure::SECONDS;
use crate::limits::LIMITS;
use crate::options::Options;
use crate::results::Results;
use crate::workloads::{self, GROUPS, workload::Workload};

mod charts;
mod machine;
mod units;

pub(crate) use machine::is_in_memory;

use units::{Unit, plain};

pub(crate) fn write(out: &Path, results: &Results, options: &Options, rounds: usize) {
    let charts = out.join("charts");
    fs::create_dir_all(&charts).unwrap();
    let mut images = String::new();
    for (name, alt, svg) in charts::all(results) {
        fs::write(charts.join(name), svg).unwrap();
        writeln!(images, "![{alt}](charts/{name})\n").unwrap();
    }
    let head = format!(
        "# The store compared with its peers

`benches/peers/run` writes this file: {date}, {rounds} rounds.

Each measurement runs in a fresh process and a fresh folder. In each round, all engines run the same workloads in
turn. A figure is the median over the rounds. A ratio is computed within a round; the tables show the median ratio
and, in brackets, the least and the greatest. Each call of a peer is durable when it returns, unless the table says
*buffered*, and its values are sealed with AES-256-GCM: by `aes-gcm`, for bbolt by Go's library. Each peer is
configured as a careful user would do it; how and why is explained in its file, in `benches/peers/src/engines/` or
`benches/peers/bbolt/`.

The baseline is the simplest code that could do the same work:

{baselines}
## Machine

{machine}
## Versions

{versions}
",
        date = options.date,
        baselines = baselines(),
        machine = machine::describe(&options.work),
        versions = machine::versions(options),
    );
    fs::write(out.join("RESULTS.md"), format!("{head}\n{images}{}{}", tables(results), footnotes(options)))
        .unwrap();
}

/// How the footprint is counted.
fn footnotes(options: &Options) -> &'static str {
    match options.own_disk {
        Some(_) => {
            "Memory is the process's anonymous memory (`RssAnon`), without the pages of mapped files. Device \
             bytes include the file system's journal. They are counted on a loop device that nothing else uses.\n"
        }
        None => {
            "Memory is the process's anonymous memory (`RssAnon`), without the pages of mapped files. Device \
             bytes include the file system's journal and what other processes wrote to the disk meanwhile.\n"
        }
    }
}

/// One line for each baseline, with the workloads that it is for.
fn baselines() -> String {
    let workloads = workloads::all();
    let mut baselines: Vec<&str> = Vec::new();
    for workload in &workloads {
        if !workload.baseline.is_empty() && !baselines.contains(&workload.baseline) {
            baselines.push(workload.baseline);
        }
    }
    let line = |baseline: &&str| {
        let with_it = workloads.iter().filter(|workload| workload.baseline == *baseline);
        let titles: Vec<_> = with_it.map(|workload| workload.title).collect();
        format!("- {baseline}: {}\n", titles.join("; "))
    };
    baselines.iter().map(line).collect()
}

pub(crate) fn tables(results: &Results) -> String {
    let mut text = limits(results);
    for (title, workloads) in GROUPS {
        text += &group(title, workloads, results);
    }
    text += &threads(results);
    text += &idle(results);
    text
}

fn limits(results: &Results) -> String {
    let mut text = "## Limits\n\n[README.md](README.md) explains why limits are missed.\n\n\
                    | workload | limit | measured | |\n|---|---|---|---|\n"
        .to_owned();
    let (mut met, mut measured) = (0, 0);
    for limit in LIMITS {
        let by = if limit.engine == STORE { String::new() } else { format!(" ({})", limit.engine) };
        let title = workloads::by_name(limit.workload).title;
        let (figure, verdict) = match limit.measured(results) {
            None if !results.has(limit.workload) => continue,
            None => ("not measured".to_owned(), "-"),
            Some(spread) => {
                let is_met = limit.is_met(&spread);
                met += usize::from(is_met);
                measured += 1;
                let [median, least, most] = [spread.median, spread.least, spread.most].map(plain);
                (format!("{median} ({least} - {most})"), if is_met { "met" } else { "**missed**" })
            }
        };
        writeln!(text, "| {title}{by} | {} | {figure} | {verdict} |", limit.text(results)).unwrap();
    }
    writeln!(text, "\n{met} of {measured} met.\n").unwrap();
    text
}

const COLUMNS: [&str; 9] = [STORE, RING, BASELINE, "raft-engine", "fjall", "LMDB", "redb", "SQLite", BBOLT];

fn group(title: &str, workloads: &'static [Workload], results: &Results) -> String {
    let is_measured = |engine: &&'static str| {
        let field = |workload: &Workload| Unit::of(workload.name, results).field;
        workloads.iter().any(|workload| results.spread((workload.name, engine, field(workload))).is_some())
    };
    let columns: Vec<&'static str> = COLUMNS.into_iter().filter(is_measured).collect();
    if columns.is_empty() {
        return String::new();
    }
    let mut text =
        format!("## {title}\n\n| workload | {} | store / baseline | store / best peer |\n", columns.join(" | "));
    writeln!(text, "|---|{}", "---:|".repeat(columns.len() + 2)).unwrap();
    for workload in workloads.iter().filter(|workload| results.has(workload.name)) {
        let unit = Unit::of(workload.name, results);
        let figure = |engine: &&'static str| match results.spread((workload.name, engine, unit.field)) {
            Some(spread) => unit.show(spread.median),
            None => String::new(),
        };
        let figures: Vec<_> = columns.iter().map(figure).collect();
        let ratio = |other: Option<&'static str>| {
            let spread = results.ratio((workload.name, STORE, unit.field), (workload.name, other?, unit.field))?;
            let [median, least, most] = [spread.median, spread.least, spread.most].map(plain);
            Some(format!("{median} ({least} - {most})"))
        };
        let baseline = ratio(Some(BASELINE)).unwrap_or_default();
        let peer = ratio(results.best_peer(workload.name, unit.field)).unwrap_or_default();
        writeln!(text, "| {} | {} | {baseline} | {peer} |", workload.title, figures.join(" | ")).unwrap();
    }
    text + "\n"
}

fn threads(results: &Results) -> String {
    let workload = "enqueue-8-threads";
    let mut text = String::new();
    for engine in COLUMNS.iter().chain(&[BBOLT_BATCH]) {
        let field = |field| results.spread((workload, engine, field)).map(|spread| spread.median);
        let Some(seconds) = field(SECONDS) else { continue };
        let [p50, p99] = ["p50", "p99"].map(|name| units::time(field(name).unwrap_or_default()));
        writeln!(text, "| {engine} | {} | {p50} | {p99} |", units::count(seconds.recip())).unwrap();
    }
    if text.is_empty() {
        return text;
    }
    let head = "## Durable enqueue of 512 B, eight threads\n\n\
                | | jobs per second | p50 | p99 |\n|---|---:|---:|---:|\n";
    let note = "\n`bbolt Batch` lets concurrent calls share a transaction (`DB.Batch`). In the row above it, \
                and in the limit, each call has its own transaction (`DB.Update`).\n\n";
    format!("{head}{text}{note}")
}

fn idle(results: &Results) -> String {
    let mut text = String::new();
    for engine in COLUMNS {
        let field = |field| results.spread(("idle", engine, field)).map(|spread| spread.median);
        let Some(bytes) = field("bytes") else { continue };
        let [threads, wakeups] = ["threads", "wakeups"].map(|name| units::few(field(name).unwrap_or_default()));
        writeln!(text, "| {engine} | {} | {threads} | {wakeups} |", units::bytes(bytes)).unwrap();
    }
    if text.is_empty() {
        return text;
    }
    let head = "## Idle\n\n| | memory | threads | wake-ups in 2 s |\n|---|---:|---:|---:|\n";
    format!("{head}{text}\n")
}
