//! `salvage`: copies what is authentic in a damaged store to a new store.

use std::path::PathBuf;

use backupy_state::{Lost, SalvageReport};
use serde::Serialize;

use crate::failure::{Exit, Failure};
use crate::progress::{self, Step};
use crate::target::{Target, path_of_copy};
use crate::text::{Out, bytes, counted, grouped, lost_key};

/// Copy everything that is still authentic in a damaged store to a new store
///
/// The damaged store is not changed, and an existing file is never overwritten. If TO has no extension, .db is
/// added, as for --state. Exits with 0 if nothing is lost, and with 3 if something is; the new store is usable in
/// both cases. To use it, stop the agent and replace the damaged store with it. Where acks and deletes are lost,
/// what they removed is present again, so jobs may be delivered twice.
#[derive(clap::Args)]
#[command(after_help = "Example:
  backupy-state --state /var/lib/backupy/state.db salvage /var/lib/backupy/salvaged.db
  mv /var/lib/backupy/state.db /var/lib/backupy/state.db.damaged
  mv /var/lib/backupy/salvaged.db /var/lib/backupy/state.db")]
pub(crate) struct Args {
    /// The new store to create
    #[arg(value_name = "TO")]
    to: PathBuf,
}

pub(crate) fn run(target: &Target, args: &Args, out: &mut Out) -> Result<(), Failure> {
    let key = target.key()?;
    let total = target.state_len();
    let to = path_of_copy(&args.to)?;
    let mut written = progress::written_to(&to);
    let step = move || Step { name: "salvaging", done: written(), total };
    let report = progress::with_bar(step, || backupy_state::salvage(target.state(), &key, &to))?;
    if out.json {
        out.report(&report.from, Salvaged { complete: report.is_complete(), report: &report });
    } else {
        show(&report, out);
    }
    check(&report)
}

fn check(report: &SalvageReport) -> Result<(), Failure> {
    if report.is_complete() {
        return Ok(());
    }
    let (from, to) = (report.from.display(), report.to.display());
    let losses = match report.lost.len() as u64 + report.more_lost {
        1 => "1 loss".to_owned(),
        count => format!("{} losses", grouped(count)),
    };
    Err(Failure::new(Exit::Damage, format!("{from} is damaged: {losses}; the rest is in {to}")))
}

fn show(report: &SalvageReport, out: &mut Out) {
    out.row("from", report.from.display());
    out.row("to", report.to.display());
    out.row("generation", report.generation);
    let (records, operations) = (counted(report.records, "record"), counted(report.operations, "operation"));
    out.row("salvaged", format_args!("{records} with {operations}"));
    out.row("jobs", grouped(report.jobs));
    out.row("log events", grouped(report.log_events));
    out.row("data keys", grouped(report.data_keys));
    out.row("config", if report.has_config { "yes" } else { "none" });
    out.row("session", if report.has_session { "yes" } else { "none" });
    if report.torn_len > 0 {
        out.row("torn tail", format_args!("{} not copied, as after any crash", bytes(report.torn_len)));
    }
    for lost in &report.lost {
        out.row("lost", line(lost));
    }
    if report.more_lost > 0 {
        out.row("lost", format_args!("{} more", grouped(report.more_lost)));
    }
    if report.may_be_stale {
        out.row("stale", "possibly: data that a lost record acked, deleted or replaced may be present again");
    }
}

fn line(lost: &Lost) -> String {
    let seqs = match lost.last_seq {
        Some(last) if last == lost.first_seq => format!("record {last}"),
        Some(last) => format!("records {} to {last}", lost.first_seq),
        None => format!("record {} and later", lost.first_seq),
    };
    let keys: Vec<_> = lost.keys.iter().map(lost_key).collect();
    let keys = if keys.is_empty() { String::new() } else { format!(" ({})", keys.join(", ")) };
    format!("{seqs}, {} at offset {}: {}{keys}", bytes(lost.len), lost.offset, lost.what)
}

#[derive(Serialize)]
struct Salvaged<'a> {
    complete: bool,
    #[serde(flatten)]
    report: &'a SalvageReport,
}
