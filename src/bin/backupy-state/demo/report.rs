//! The demo's report: one line for each kill and a table at the end, or all of it as JSON.

use std::path::Path;
use std::time::Duration;

use backupy_state::VerifyReport;
use serde_json::{Value, json};

use super::ledger::{Count, Ledger};
use super::observer::Seen;
use super::protocol::{Kind, Opened};
use crate::text::{Out, bytes, counted, grouped};

pub(crate) struct Report {
    seed: u64,
    opens: Vec<Opened>,
    kills: Vec<Kill>,
    pub(crate) took: Duration,
    end: Option<End>,
    jobs_left: u64,
    events_left: u64,
}

struct Kill {
    at: Duration,
    calls_in_flight: u64,
    compacting: bool,
}

struct End {
    generation: u64,
    frames: u64,
    log_len: u64,
    fault: Option<String>,
    snapshots: u64,
    failed_snapshots: Vec<String>,
}

impl End {
    /// Each compaction began a generation.
    fn compactions(&self) -> u64 {
        self.generation.saturating_sub(1)
    }
}

/// More lines would push the first ones off the screen.
const LOSSES_SHOWN: usize = 20;

impl Report {
    pub(crate) fn new(seed: u64) -> Self {
        let (opens, kills, took) = (Vec::new(), Vec::new(), Duration::ZERO);
        Report { seed, opens, kills, took, end: None, jobs_left: 0, events_left: 0 }
    }

    pub(crate) fn note_open(&mut self, opened: Opened) {
        self.opens.push(opened);
    }

    pub(crate) fn note_kill(&mut self, at: Duration, calls_in_flight: u64, compacting: bool) {
        self.kills.push(Kill { at, calls_in_flight, compacting });
    }

    pub(crate) fn note_end(&mut self, verified: &VerifyReport, seen: &Seen) {
        let fault = verified.faults.first();
        self.end = Some(End {
            generation: verified.generation,
            frames: verified.frames,
            log_len: verified.log_len,
            fault: fault.map(|fault| format!("{} at offset {}", fault.what, fault.offset)),
            snapshots: seen.snapshots,
            failed_snapshots: seen.failures.clone(),
        });
    }

    pub(crate) fn left(&mut self, jobs: u64, events: u64) {
        (self.jobs_left, self.events_left) = (jobs, events);
    }

    /// The number of kills during a call.
    pub(crate) fn kills_in_flight(&self) -> u64 {
        self.kills.iter().filter(|kill| kill.calls_in_flight > 0).count() as u64
    }

    fn kills_compacting(&self) -> u64 {
        self.kills.iter().filter(|kill| kill.compacting).count() as u64
    }

    /// A line about the last agent that was killed: how it started and how it ended.
    pub(crate) fn last_kill(&self) -> String {
        let began = match self.opens.last() {
            Some(opened) if self.opens.len() > 1 => began(opened),
            _ => "a new store".to_owned(),
        };
        let ended = match self.kills.last() {
            Some(Kill { at, calls_in_flight, compacting }) => {
                let calls = match calls_in_flight {
                    0 => "between calls".to_owned(),
                    n => format!("in {}", counted(*n, "call")),
                };
                let compacting = if *compacting { ", compacting" } else { "" };
                format!("killed at {:.2} s {calls}{compacting}", at.as_secs_f64())
            }
            None => "not killed".to_owned(),
        };
        format!("  agent {:>2}: {began:<62} {ended}", self.kills.len())
    }

    /// Why the demo failed, if it did.
    pub(crate) fn failure(&self, ledger: &Ledger) -> Option<String> {
        let end = self.end.as_ref();
        if !ledger.losses.is_empty() {
            return Some(format!("the store broke its promise: acknowledged data lost: {}", ledger.lost()));
        }
        if let Some(fault) = end.and_then(|end| end.fault.as_ref()) {
            return Some(format!("the store is not intact: {fault}"));
        }
        let failed = end.and_then(|end| end.failed_snapshots.first());
        failed.map(|why| format!("a snapshot failed: {why}"))
    }

    pub(crate) fn show(&self, state: &Path, ledger: &Ledger, out: &mut Out) {
        if out.json { out.report(state, self.as_json(ledger)) } else { self.show_table(ledger, out) }
    }

    fn show_table(&self, ledger: &Ledger, out: &mut Out) {
        if let Some(last) = self.opens.last() {
            let n = self.kills.len() + 1;
            out.line(format_args!("  agent {n:>2}: {:<62} stopped, closed the store", began(last)));
        }
        out.line("");
        out.line(format_args!("  {:<20}{:>14}{:>20}", "call", "acknowledged", "in flight at a kill"));
        let count_row = |name: &str, count: Count| {
            format!("  {name:<20}{:>14}{:>20}", grouped(count.acknowledged), grouped(count.in_flight))
        };
        for kind in Kind::ALL {
            out.line(count_row(kind.name(), ledger.counted(kind)));
        }
        let all = all_calls(ledger);
        out.line(count_row("all", all));
        out.line("");
        let mut row = |name: &str, value: String| out.line(format_args!("  {name:<20}{value}"));
        let replayed = self.reopened().map(|opened| opened.records).sum();
        let (tails, quarantined) = self.torn();
        row("kills", format!("{}, {} of them during a call", self.kills.len(), self.kills_in_flight()));
        row(
            "recoveries",
            format!(
                "{} replayed, {} quarantined in {}",
                counted(replayed, "record"),
                bytes(quarantined),
                counted(tails, "torn tail")
            ),
        );
        row(
            "jobs",
            format!(
                "{} delivered, {} of them again after a kill; {} still queued",
                grouped(ledger.jobs.deliveries),
                grouped(ledger.jobs.repeated),
                grouped(self.jobs_left)
            ),
        );
        row(
            "log events",
            format!(
                "{} delivered in order, {} of them again after a kill; {} still buffered",
                grouped(ledger.events.deliveries),
                grouped(ledger.events.repeated),
                grouped(self.events_left)
            ),
        );
        if let Some(end) = &self.end {
            let failed = end.failed_snapshots.len() as u64;
            row("snapshots", format!("{} while agents ran, {failed} failed", grouped(end.snapshots)));
            let (len, frames) = (bytes(end.log_len), counted(end.frames, "frame"));
            row("log", format!("{len} in {frames}, generation {}", grouped(end.generation)));
            let (completed, killed) = (grouped(end.compactions()), grouped(self.kills_compacting()));
            row("compactions", format!("{completed} completed, {killed} more interrupted by a kill"));
        }
        let rate = self.calls_per_second(all);
        row("time", format!("{:.1} s, {} calls/s", self.took.as_secs_f64(), grouped(rate)));
        row("lost", grouped(ledger.lost()));
        for loss in ledger.losses.iter().take(LOSSES_SHOWN) {
            out.line(format_args!("    {}: {} {}", grouped(loss.count), loss.cell, loss.what));
        }
    }

    fn as_json(&self, ledger: &Ledger) -> Value {
        let mut calls = json!({});
        for kind in Kind::ALL {
            calls[kind.name()] = count_json(ledger.counted(kind));
        }
        let all = all_calls(ledger);
        let recovery = |opened: &Opened| {
            json!({
                "records": opened.records,
                "quarantined_bytes": opened.quarantined_bytes,
                "took_us": opened.took_us,
            })
        };
        let loss =
            |loss: &super::ledger::Loss| json!({ "cell": loss.cell, "what": loss.what, "count": loss.count });
        let end = self.end.as_ref();
        json!({
            "seed": self.seed,
            "calls": calls,
            "all_calls": count_json(all),
            "kills": self.kills.len(),
            "kills_during_a_call": self.kills_in_flight(),
            "recoveries": self.reopened().map(recovery).collect::<Vec<_>>(),
            "jobs_delivered": ledger.jobs.deliveries,
            "jobs_delivered_again": ledger.jobs.repeated,
            "jobs_left": self.jobs_left,
            "log_events_delivered": ledger.events.deliveries,
            "log_events_delivered_again": ledger.events.repeated,
            "log_events_left": self.events_left,
            "compactions": end.map(End::compactions),
            "compactions_killed": self.kills_compacting(),
            "snapshots": end.map(|end| end.snapshots),
            "failed_snapshots": end.map(|end| end.failed_snapshots.clone()),
            "generation": end.map(|end| end.generation),
            "log_len": end.map(|end| end.log_len),
            "frames": end.map(|end| end.frames),
            "seconds": self.took.as_secs_f64(),
            "calls_per_second": self.calls_per_second(all),
            "lost": ledger.lost(),
            "losses": ledger.losses.iter().map(loss).collect::<Vec<_>>(),
        })
    }

    /// Every open except the one that created the store.
    fn reopened(&self) -> impl Iterator<Item = &Opened> {
        self.opens.iter().skip(1)
    }

    fn torn(&self) -> (u64, u64) {
        let tails = self.reopened().filter(|opened| opened.quarantined_bytes > 0).count() as u64;
        (tails, self.reopened().map(|opened| opened.quarantined_bytes).sum())
    }

    fn calls_per_second(&self, all: Count) -> u64 {
        let ms = self.took.as_millis().max(1);
        u64::try_from(u128::from(all.acknowledged) * 1000 / ms).unwrap_or(u64::MAX)
    }
}

fn began(opened: &Opened) -> String {
    let Opened { records, quarantined_bytes, took_us, .. } = opened;
    let (whole_ms, tenths) = (took_us / 1000, took_us % 1000 / 100);
    format!(
        "{} replayed in {whole_ms}.{tenths} ms, {} quarantined",
        counted(*records, "record"),
        bytes(*quarantined_bytes)
    )
}

fn all_calls(ledger: &Ledger) -> Count {
    Kind::ALL.iter().fold(Count::default(), |all, kind| {
        let count = ledger.counted(*kind);
        Count { acknowledged: all.acknowledged + count.acknowledged, in_flight: all.in_flight + count.in_flight }
    })
}

fn count_json(count: Count) -> Value {
    json!({ "acknowledged": count.acknowledged, "in_flight": count.in_flight })
}
