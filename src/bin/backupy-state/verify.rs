//! `verify`: checks that every byte of the store is as it was written.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use backupy_state::{AgentKey, FaultKind, FrameInfo, IndexFile, VerifyReport};
use serde::Serialize;

use crate::failure::{Exit, Failure};
use crate::progress::{self, Step};
use crate::target::Target;
use crate::text::{Out, bytes, counted, grouped};

/// Check every byte of the store without changing it; exits with 3 on damage
///
/// With the key, authenticates every record and every value. Without the key, checks the header and the checksums,
/// which detects damage but not tampering.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  backupy-state verify --no-key --state /backup/state.db")]
pub(crate) struct Args {
    /// Check only the header and the checksums
    #[arg(long)]
    no_key: bool,
}

pub(crate) fn run(target: &Target, args: &Args, out: &mut Out) -> Result<(), Failure> {
    let key = target.key_unless(args.no_key)?;
    let report = with_bar("verifying", target, key.as_ref(), |_| {})?;
    if out.json {
        out.report(&report.path, Verified::new(&report));
    } else {
        show(&report, out);
    }
    check(&report)
}

/// Verifies the store behind a progress bar, and calls `each` for every whole frame. `map` uses this too.
pub(crate) fn with_bar(
    name: &'static str,
    target: &Target,
    key: Option<&AgentKey>,
    mut each: impl FnMut(&FrameInfo),
) -> backupy_state::Result<VerifyReport> {
    let (done, total) = (AtomicU64::new(0), target.state_len());
    let step = || Step { name, done: done.load(Relaxed), total };
    progress::with_bar(step, || {
        backupy_state::verify_each(target.state(), key, |frame| {
            each(frame);
            done.store(frame.offset + frame.len, Relaxed);
        })
    })
}

/// Fails if the report contains a fault. `frames` and `map` use this too.
pub(crate) fn check(report: &VerifyReport) -> Result<(), Failure> {
    let Some(first) = report.faults.first() else { return Ok(()) };
    let (path, kind) = (report.path.display(), kind_name(first.kind));
    let others = match report.faults.len() as u64 - 1 + report.more_faults {
        0 => String::new(),
        others => format!(", and {} more", grouped(others)),
    };
    let message = format!("{path} is not intact: {kind} at offset {}: {}{others}", first.offset, first.what);
    Err(Failure::new(Exit::Damage, message))
}

fn show(report: &VerifyReport, out: &mut Out) {
    out.row("state", report.path.display());
    out.row(
        "intact",
        match (report.is_intact(), report.with_key) {
            (false, _) => "no",
            (true, true) => "yes: every record and every value is authentic",
            (true, false) => "yes by its checksums; only the key can reveal tampering",
        },
    );
    out.row("generation", report.generation);
    let ending = if report.ends_closed { "closed" } else { "in use, or not closed" };
    out.row("frames", format_args!("{}, {ending}", grouped(report.frames)));
    if report.with_key {
        out.row("operations", format_args!("{}, {}", grouped(report.operations), counted(report.values, "value")));
    }
    out.row("log", format_args!("{} in a file of {}", bytes(report.log_len), bytes(report.file_len)));
    if report.torn_len > 0 {
        let len = bytes(report.torn_len);
        out.row("torn tail", format_args!("{len} after the last frame; the next open quarantines them"));
    }
    if report.torn_marks > 0 {
        out.row(
            "torn marks",
            format_args!("{}; a crash leaves one, and the store writes over it", report.torn_marks),
        );
    }
    if report.with_key {
        out.row("index file", index_text(report.index));
    }
    for fault in &report.faults {
        out.row(kind_name(fault.kind), format_args!("at offset {}: {}", fault.offset, fault.what));
    }
    if report.more_faults > 0 {
        out.row("faults", format_args!("{} more", grouped(report.more_faults)));
    }
}

/// The report as JSON, without the path of the store.
#[derive(Serialize)]
pub(crate) struct Verified<'a> {
    intact: bool,
    #[serde(flatten)]
    report: &'a VerifyReport,
}

impl<'a> Verified<'a> {
    pub(crate) fn new(report: &'a VerifyReport) -> Self {
        Verified { intact: report.is_intact(), report }
    }
}

fn index_text(index: IndexFile) -> &'static str {
    match index {
        IndexFile::Agrees => "agrees with the log",
        IndexFile::Differs => "differs from the log; remove it while no agent runs",
        IndexFile::NotUsed => "none that fits; opening reads the whole log",
        _ => "not compared: the log has a fault, or was written meanwhile",
    }
}

fn kind_name(kind: FaultKind) -> &'static str {
    match kind {
        FaultKind::Header => "header",
        FaultKind::Damage => "damage",
        FaultKind::Tampering => "tampering",
        FaultKind::Index => "index",
        _ => "fault",
    }
}
