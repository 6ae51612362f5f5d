//! `RESULTS.md` and its charts: what was measured, what had to be reached, and whether it was.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use crate::engines::{BBOLT, BBOLT_BATCH, FLOOR, RING, STORE};
use crate::figure::SECONDS;
use crate::limits::LIMITS;
use crate::rounds::{Options, Results};
use crate::works::{self, GROUPS, Work};

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
        "# The store beside its peers

Written by `benches/peers/run`, not by hand: {date}, {rounds} rounds.

Each figure is the median over the rounds. Each comes from a fresh process in a fresh folder; within a round all engines do
the same work in turn. A ratio is taken within a round; what is shown is the median of the ratios, and in brackets the
least and the most. Each call of a peer is durable when it returns, its values are sealed with AES-256-GCM (`aes-gcm`; bbolt's by
Go's library), and it is set up as a careful user would: how, and why, is said at the top of its file in
`benches/peers/src/engines/` and `benches/peers/bbolt/`.

The floor is the plainest code that could do the work:

{floors}
## Where

{machine}
## Versions

{versions}
",
        date = options.date,
        floors = floors(),
        machine = machine::describe(&options.work),
        versions = machine::versions(options),
    );
    fs::write(out.join("RESULTS.md"), format!("{head}\n{images}{}{}", tables(results), footnotes(options)))
        .unwrap();
}

/// What the figures of the footprint do not say themselves.
fn footnotes(options: &Options) -> &'static str {
    match options.own_disk {
        Some(_) => {
            "Memory is what the process holds for itself (`RssAnon`): pages of a mapped file are not in it. Device bytes are \
             counted on a disk that nobody else writes to (a loop device), with the file system's journal.\n"
        }
        None => {
            "Memory is what the process holds for itself (`RssAnon`): pages of a mapped file are not in it. Device bytes are \
             those of the whole disk, with the file system's journal and with what others wrote meanwhile.\n"
        }
    }
}

/// One line for each floor, with the works that are measured against it.
fn floors() -> String {
    let works = works::all();
    let mut floors: Vec<&str> = works.iter().map(|work| work.floor).filter(|floor| !floor.is_empty()).collect();
    floors.dedup();
    let line = |floor: &&str| {
        let of: Vec<_> = works.iter().filter(|work| work.floor == *floor).map(|work| work.title).collect();
        format!("- {floor}: {}\n", of.join("; "))
    };
    floors.iter().map(line).collect()
}

pub(crate) fn tables(results: &Results) -> String {
    let mut text = limits(results);
    for (title, works) in GROUPS {
        text += &group(title, works, results);
    }
    text += &threads(results);
    text += &idle(results);
    text
}

fn limits(results: &Results) -> String {
    let mut text = "## What must be reached\n\nWhy a limit is missed: [README.md](README.md).\n\n| work | must reach | measured | |\n|---|---|---|---|\n".to_owned();
    let (mut met, mut measured) = (0, 0);
    for limit in LIMITS {
        let by = if limit.engine == STORE { String::new() } else { format!(" ({})", limit.engine) };
        let title = works::by_name(limit.work).title;
        let (figure, verdict) = match limit.measured(results) {
            None if !results.has(limit.work) => continue,
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

const COLUMNS: [&str; 9] = [STORE, RING, FLOOR, "raft-engine", "fjall", "LMDB", "redb", "SQLite", BBOLT];

fn group(title: &str, works: &'static [Work], results: &Results) -> String {
    let is_measured = |engine: &&'static str| {
        works.iter().any(|work| results.spread((work.name, engine, Unit::of(work.name, results).field)).is_some())
    };
    let columns: Vec<&'static str> = COLUMNS.into_iter().filter(is_measured).collect();
    if columns.is_empty() {
        return String::new();
    }
    let mut text =
        format!("## {title}\n\n| work | {} | store / floor | store / best peer |\n", columns.join(" | "));
    writeln!(text, "|---|{}", "---:|".repeat(columns.len() + 2)).unwrap();
    for work in works.iter().filter(|work| results.has(work.name)) {
        let unit = Unit::of(work.name, results);
        let figure = |engine: &&'static str| match results.spread((work.name, engine, unit.field)) {
            Some(spread) => unit.show(spread.median),
            None => String::new(),
        };
        let figures: Vec<_> = columns.iter().map(figure).collect();
        let ratio = |other: Option<&'static str>| {
            let spread = results.ratio((work.name, STORE, unit.field), (work.name, other?, unit.field))?;
            let [median, least, most] = [spread.median, spread.least, spread.most].map(plain);
            Some(format!("{median} ({least} - {most})"))
        };
        let floor = ratio(Some(FLOOR)).unwrap_or_default();
        let peer = ratio(results.best_peer(work.name, unit.field)).unwrap_or_default();
        writeln!(text, "| {} | {} | {floor} | {peer} |", work.title, figures.join(" | ")).unwrap();
    }
    text + "\n"
}

fn threads(results: &Results) -> String {
    let work = "enqueue-8-threads";
    let mut text = String::new();
    for engine in COLUMNS.iter().chain(&[BBOLT_BATCH]) {
        let field = |field| results.spread((work, engine, field)).map(|spread| spread.median);
        let Some(seconds) = field(SECONDS) else { continue };
        let [p50, p99] = ["p50", "p99"].map(|name| units::time(field(name).unwrap_or_default()));
        writeln!(text, "| {engine} | {} | {p50} | {p99} |", units::count(seconds.recip())).unwrap();
    }
    if text.is_empty() {
        return text;
    }
    let head = "## Eight threads, each in durable enqueues of 512 B\n\n| | jobs a second | p50 of a call | p99 |\n|---|---:|---:|---:|\n";
    let note = "\n`bbolt Batch` lets concurrent calls share a transaction (`DB.Batch`); in the line above it, and in the limit, each call is one of its own (`DB.Update`).\n\n";
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
