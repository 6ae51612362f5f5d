//! `stats`: the size of the store and of its parts.

use std::path::Path;

use backupy_state::Stats;
use backupy_state::testing::drops_are_unreadable;
use clap::ValueEnum;
use serde::Serialize;

use crate::failure::Failure;
use crate::prometheus;
use crate::target::Target;
use crate::text::{Out, Utc, ago, bytes, counted, grouped, no_compaction, now_ms, number_of_drops};

/// Show the size of the store and of its parts
///
/// Live bytes are the store's contents. Dead bytes were replaced or removed, or belong to the frames themselves.
/// Free bytes are preallocated space after the log; some of them are the reserve, which lets the agent ack and
/// drain on a full disk. Dropped log events are those that the limits of the log buffer rejected or evicted since
/// the agent last removed events from it. By default, an agent compacts its store when more than half of the log
/// is dead. A warning says where it cannot be compacted.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  backupy-state stats\n  \
                  backupy-state stats --format prometheus > /var/lib/node_exporter/backupy.prom")]
pub(crate) struct Args {
    /// The format of the report; --json is short for --format json [default: text]
    #[arg(long, value_enum, value_name = "FORMAT")]
    format: Option<Format>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A table
    Text,
    /// One line of JSON
    Json,
    /// Metrics in the text format of Prometheus
    Prometheus,
}

pub(crate) fn run(target: &Target, args: &Args, out: &mut Out) -> Result<(), Failure> {
    let format = args.format(out.json)?;
    out.json = format == Format::Json;
    let snapshot = target.snapshot()?;
    let stats = snapshot.stats();
    let dropped = (!drops_are_unreadable(&snapshot)).then_some(stats.logs_dropped);
    match format {
        Format::Text => show(snapshot.path(), &stats, dropped, out),
        Format::Json => out.report_stats(snapshot.path(), Measured::new(&stats), dropped),
        Format::Prometheus => {
            let metrics = prometheus::metrics(&stats, dropped, snapshot.last_heartbeat()?);
            out.bytes(prometheus::text(snapshot.path(), &metrics).as_bytes());
        }
    }
    Ok(())
}

impl Args {
    fn format(&self, json: bool) -> Result<Format, Failure> {
        match self.format {
            None if json => Ok(Format::Json),
            None => Ok(Format::Text),
            Some(format) if json && format != Format::Json => {
                Err(Failure::usage("--json and --format ask for different formats; give one of them"))
            }
            Some(format) => Ok(format),
        }
    }
}

/// The report as JSON, without the path of the store.
#[derive(Serialize)]
struct Measured<'a> {
    compactions: u64,
    dead_ratio: f64,
    #[serde(flatten)]
    stats: &'a Stats,
}

impl<'a> Measured<'a> {
    fn new(stats: &'a Stats) -> Self {
        Measured { compactions: compactions(stats), dead_ratio: dead_ratio(stats), stats }
    }
}

fn show(state: &Path, stats: &Stats, dropped: Option<u64>, out: &mut Out) {
    out.row("state", state.display());
    out.row("generation", stats.generation);
    out.row("frames", grouped(stats.seq));
    out.row("jobs", format_args!("{}; {}", grouped(stats.jobs), bytes(stats.queue_bytes)));
    out.row("data keys", format_args!("{}; {}", grouped(stats.data_keys), bytes(stats.data_bytes)));
    let oldest = stats.oldest_log_ms.map(|ts| format!("; the oldest {} ({})", Utc(ts), ago(ts, now_ms())));
    let (events, dropped) = (grouped(stats.log_events), number_of_drops(dropped));
    out.row("log events", format_args!("{events}; {dropped} dropped{}", oldest.unwrap_or_default()));
    let dead_percent = dead_ratio(stats) * 100.0;
    out.row(
        "compactions",
        format_args!("{}; {dead_percent:.1} % of the log is dead", grouped(compactions(stats))),
    );
    if let Some(reason) = stats.compaction.unavailable {
        out.row("warning", no_compaction(reason));
    }
    out.row("file", bytes(stats.file_len));
    out.row("log", bytes(stats.log_len));
    let acks = counted(stats.acks_on_full_disk, "ack");
    out.row("reserve", format_args!("{}, for {acks} and other removals", bytes(stats.reserved_bytes)));
    if let Some(free) = stats.disk_free_bytes {
        out.row("disk", format_args!("{} free", bytes(free)));
    }
    let replayed = bytes(stats.opening.replayed_bytes);
    let how = if stats.opening.by_index { "by the index file" } else { "without an index file" };
    out.row("opening", format_args!("{how}; {replayed} replayed"));
    for (name, symbol, len) in parts(stats) {
        out.row(&format!("  {name}"), format_args!("{:<24} {symbol}", bytes(len)));
    }
    let width = out.width_for(BAR_WIDTH, "            []".len());
    out.row("", format_args!("[{}]", bar(stats, width)));
}

/// Each compaction begins a generation; so does a rekey.
fn compactions(stats: &Stats) -> u64 {
    stats.generation.saturating_sub(1)
}

/// The ratio that the compaction policy compares with its limit.
fn dead_ratio(stats: &Stats) -> f64 {
    let frames_len = stats.live_bytes + stats.dead_bytes;
    if frames_len == 0 { 0.0 } else { stats.dead_bytes as f64 / frames_len as f64 }
}

fn parts(stats: &Stats) -> [(&'static str, char, u64); 3] {
    [("live", '#', stats.live_bytes), ("dead", 'x', stats.dead_bytes), ("free", '.', stats.free_bytes)]
}

/// The three parts in one bar. Rounds the ends of the parts, not their lengths, so that the bar has its full
/// width.
fn bar(stats: &Stats, width: usize) -> String {
    let parts = parts(stats);
    let total: u128 = parts.iter().map(|(_, _, len)| u128::from(*len)).sum();
    let (mut bar, mut seen) = (String::new(), 0);
    for (_, symbol, len) in parts {
        seen += u128::from(len);
        let until = (seen * width as u128 + total / 2).checked_div(total).unwrap_or(0);
        while (bar.len() as u128) < until {
            bar.push(symbol);
        }
    }
    bar
}

const BAR_WIDTH: usize = 50;
