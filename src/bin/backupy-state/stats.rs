//! `stats`: the size of the store and of its parts.

use backupy_state::Stats;
use serde_json::json;

use crate::failure::Failure;
use crate::target::Target;
use crate::text::{Out, bytes, counted, grouped, no_compaction};

/// Show the size of the store and of its parts
///
/// Live bytes are the store's contents. Dead bytes were replaced or removed, or belong to the frames themselves.
/// Free bytes are preallocated space after the log; some of them are the reserve, which lets the agent ack and
/// drain on a full disk. Dropped log events are those that the limits of the log buffer rejected or evicted since
/// the agent last removed events from it. By default, an agent compacts its store when more than half of the log
/// is dead. A warning says where it cannot be compacted.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  backupy-state stats")]
pub(crate) struct Args {}

pub(crate) fn run(target: &Target, _args: &Args, out: &mut Out) -> Result<(), Failure> {
    let snapshot = target.snapshot()?;
    let stats = snapshot.stats();
    if out.json {
        out.json(&json!({
            "state": snapshot.path().display().to_string(),
            "generation": stats.generation,
            "seq": stats.seq,
            "file_len": stats.file_len,
            "log_len": stats.log_len,
            "live_bytes": stats.live_bytes,
            "dead_bytes": stats.dead_bytes,
            "free_bytes": stats.free_bytes,
            "reserved_bytes": stats.reserved_bytes,
            "acks_on_full_disk": stats.acks_on_full_disk,
            "disk_free_bytes": stats.disk_free_bytes,
            "jobs": stats.jobs,
            "queue_bytes": stats.queue_bytes,
            "data_keys": stats.data_keys,
            "data_bytes": stats.data_bytes,
            "log_events": stats.log_events,
            "logs_dropped": stats.logs_dropped,
            "opened_by_index": stats.opening.by_index,
            "replayed_bytes": stats.opening.replayed_bytes,
            "compactions": compactions(&stats),
            "dead_ratio": dead_ratio(&stats),
            "compaction_unavailable": stats.compaction.unavailable,
        }));
        return Ok(());
    }
    out.row("state", snapshot.path().display());
    out.row("generation", stats.generation);
    out.row("frames", grouped(stats.seq));
    out.row("jobs", format_args!("{}; {}", grouped(stats.jobs), bytes(stats.queue_bytes)));
    out.row("data keys", format_args!("{}; {}", grouped(stats.data_keys), bytes(stats.data_bytes)));
    out.row("log events", format_args!("{}; {} dropped", grouped(stats.log_events), grouped(stats.logs_dropped)));
    let dead_percent = dead_ratio(&stats) * 100.0;
    out.row(
        "compactions",
        format_args!("{}; {dead_percent:.1} % of the log is dead", grouped(compactions(&stats))),
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
    for (name, symbol, len) in parts(&stats) {
        out.row(&format!("  {name}"), format_args!("{:<24} {symbol}", bytes(len)));
    }
    let width = out.width_for(BAR_WIDTH, "            []".len());
    out.row("", format_args!("[{}]", bar(&stats, width)));
    Ok(())
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
