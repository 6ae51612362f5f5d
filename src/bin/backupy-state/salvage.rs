//! `salvage`: what is left of a damaged store, into a new one.

use std::path::PathBuf;

use backupy_state::{Error, Lost, SalvageReport};
use serde_json::{Value, json};

use crate::failure::{Exit, Failure};
use crate::place::Place;
use crate::progress::{self, Step};
use crate::text::{Out, bytes, counted, grouped, len_of_file, tame};

/// Bring everything that is still authentic in a damaged store into a new one
///
/// Nothing of the damaged store is changed, and nothing that exists is overwritten. Exit code 0 if everything came over, 3 if
/// something is lost: the new store is complete and can be used in both cases. To go on with it, stop the agent and put it in the
/// place of the old one. Acks and deletes that are lost bring back what
/// they were about, so jobs may be delivered again.
#[derive(clap::Args)]
#[command(after_help = "Example:
  backupy-state --state /var/lib/backupy/state.db salvage /var/lib/backupy/salvaged.db
  mv /var/lib/backupy/state.db /var/lib/backupy/state.db.damaged
  mv /var/lib/backupy/salvaged.db /var/lib/backupy/state.db")]
pub(crate) struct Args {
    /// Where to put the new store
    #[arg(value_name = "TO")]
    to: PathBuf,
}

pub(crate) fn run(place: &Place, args: &Args, out: &mut Out) -> Result<(), Failure> {
    let key = place.key()?;
    let whole = place.state_len();
    let mut new = args.to.clone().into_os_string();
    new.push(".new");
    let new = PathBuf::from(new);
    let mut done = 0;
    let how_far = move || {
        // Never back to nothing when the file gets its name.
        done = len_of_file(&new).max(done);
        Step { name: "salvaging", done, whole }
    };
    let report = progress::shown(how_far, || backupy_state::salvage(place.state(), &key, &args.to));
    let report = report.map_err(|error| match error {
        // Not through `Failure::from`: a missing folder of the new store is no missing store.
        Error::Io { ref path, .. } if *path != place.state() => Failure::failed(error.to_string()),
        error => error.into(),
    })?;
    if out.json {
        out.json(&as_json(&report));
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
    let places = counted(report.lost.len() as u64 + report.more_lost, "place");
    Err(Failure::new(Exit::Damage, format!("{from} has lost something in {places}; the rest is in {to}")))
}

fn show(report: &SalvageReport, out: &mut Out) {
    out.row("from", report.from.display());
    out.row("to", report.to.display());
    out.row("generation", report.generation);
    let (records, operations) = (counted(report.records, "record"), counted(report.operations, "operation"));
    out.row("came over", format_args!("{records} with {operations}"));
    out.row("jobs", grouped(report.jobs));
    out.row("log events", grouped(report.log_events));
    out.row("config", if report.has_config { "yes" } else { "none" });
    out.row("session", if report.has_session { "yes" } else { "none" });
    if report.torn_len > 0 {
        out.row("torn tail", format_args!("{} left behind, as by any open", bytes(report.torn_len)));
    }
    for lost in &report.lost {
        out.row("lost", line(lost));
    }
    if report.more_lost > 0 {
        out.row("lost", format_args!("{} more", counted(report.more_lost, "place")));
    }
    if report.may_be_stale {
        out.row("stale", "perhaps: what was acked, deleted or replaced in a lost place may be there again");
    }
}

fn line(lost: &Lost) -> String {
    let seqs = match lost.last_seq {
        Some(last) if last == lost.first_seq => format!("record {last}"),
        Some(last) => format!("records {} to {last}", lost.first_seq),
        None => format!("from record {} on", lost.first_seq),
    };
    let keys: Vec<_> = lost
        .keys
        .iter()
        .map(|key| match &key.run_id {
            Some(run_id) => format!("job \"{}\"", tame(run_id)),
            None => key.bucket.to_owned(),
        })
        .collect();
    let keys = if keys.is_empty() { String::new() } else { format!(": {}", keys.join(", ")) };
    format!("{} at offset {}, {seqs}, {}{keys}", bytes(lost.len), lost.offset, lost.what)
}

fn as_json(report: &SalvageReport) -> Value {
    let lost = |lost: &Lost| {
        let keys = lost.keys.iter().map(|key| json!({ "bucket": key.bucket, "run_id": key.run_id }));
        json!({
            "offset": lost.offset,
            "len": lost.len,
            "first_seq": lost.first_seq,
            "last_seq": lost.last_seq,
            "what": lost.what,
            "keys": keys.collect::<Vec<_>>(),
        })
    };
    json!({
        "from": report.from.display().to_string(),
        "to": report.to.display().to_string(),
        "generation": report.generation,
        "complete": report.is_complete(),
        "records": report.records,
        "operations": report.operations,
        "jobs": report.jobs,
        "log_events": report.log_events,
        "has_config": report.has_config,
        "has_session": report.has_session,
        "torn_len": report.torn_len,
        "lost": report.lost.iter().map(lost).collect::<Vec<_>>(),
        "more_lost": report.more_lost,
        "may_be_stale": report.may_be_stale,
    })
}
