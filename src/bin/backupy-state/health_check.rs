//! `health-check`: one line and exit code 0 or 1, for a container's health check.

use std::path::PathBuf;

use backupy_state::Stats;
use backupy_state::testing::drops_are_unreadable;
use serde::Serialize;
use serde_json::json;

use crate::failure::Failure;
use crate::target::Target;
use crate::text::{Out, Utc, ago, bytes, counted, no_compaction, now_ms, number_of_drops};

/// Report in one line whether the store is healthy; exits with 0 or 1
///
/// Opens the store as the agent does, and reads the configuration, the session and the heartbeat; `verify` checks
/// every record and every payload. The limits are those that you give; every one that is passed is named. A store
/// that cannot be compacted, because the log is mounted by itself, is healthy, and the line says so. Takes no lock
/// and writes nothing, so it can run at any time while the agent runs. Failures are reported on stderr.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  backupy-state health-check --max-heartbeat-age 120 --max-queue 10000")]
pub(crate) struct Args {
    /// Fail if the last heartbeat is older than this, or further than this ahead of the clock
    #[arg(long, value_name = "SECONDS")]
    max_heartbeat_age: Option<u32>,
    /// Fail if more jobs are queued
    #[arg(long, value_name = "N")]
    max_queue: Option<u64>,
    /// Fail if more log events were dropped since the agent last removed some
    #[arg(long, value_name = "N")]
    max_dropped: Option<u64>,
    /// Fail if the file system has less space left
    #[arg(long, value_name = "BYTES")]
    min_free: Option<u64>,
}

pub(crate) fn run(target: &Target, args: &Args, out: &mut Out) -> Result<(), Failure> {
    let health = Health::of(target);
    let passed = health.as_ref().map_or(Vec::new(), |health| health.passed_limits(args));
    if out.json {
        match &health {
            Ok(health) => {
                out.report_stats(&health.state, Checked::new(health, passed.is_empty()), health.dropped);
            }
            Err(_) => out.report(target.absolute_state(), json!({ "healthy": false })),
        }
    }
    let health = health?;
    if !passed.is_empty() {
        return Err(Failure::failed(passed.join("; ")));
    }
    if !out.json {
        out.line(health.line());
    }
    Ok(())
}

/// The report as JSON, without the path of the store.
#[derive(Serialize)]
struct Checked<'a> {
    healthy: bool,
    #[serde(flatten)]
    stats: &'a Stats,
    last_heartbeat_ms: Option<i64>,
    heartbeat_age_ms: Option<i64>,
}

impl<'a> Checked<'a> {
    fn new(health: &'a Health, healthy: bool) -> Self {
        let Health { stats, heartbeat_ms, now_ms, .. } = health;
        let heartbeat_age_ms = heartbeat_ms.map(|ts| now_ms.saturating_sub(ts));
        Checked { healthy, stats, last_heartbeat_ms: *heartbeat_ms, heartbeat_age_ms }
    }
}

struct Health {
    state: PathBuf,
    stats: Stats,
    /// `None` if the count is unreadable.
    dropped: Option<u64>,
    heartbeat_ms: Option<i64>,
    now_ms: i64,
}

impl Health {
    fn of(target: &Target) -> Result<Self, Failure> {
        let snapshot = target.snapshot()?;
        snapshot.load_config()?;
        snapshot.load_session()?;
        let heartbeat_ms = snapshot.last_heartbeat()?;
        let state = snapshot.path().to_path_buf();
        let stats = snapshot.stats();
        let dropped = (!drops_are_unreadable(&snapshot)).then_some(stats.logs_dropped);
        Ok(Health { state, stats, dropped, heartbeat_ms, now_ms: now_ms() })
    }

    fn passed_limits(&self, args: &Args) -> Vec<String> {
        let Stats { jobs, disk_free_bytes, .. } = self.stats;
        let queue = args.max_queue.filter(|max| jobs > *max);
        let dropped = args.max_dropped.and_then(|max| match self.dropped {
            None => Some(UNREADABLE_DROPS.to_owned()),
            Some(dropped) if dropped > max => {
                Some(format!("{} dropped; the limit is {max}", counted(dropped, "log event")))
            }
            Some(_) => None,
        });
        // A file system that does not say how much it has left is not known to have enough.
        let free = disk_free_bytes.unwrap_or(0);
        let min_free = args.min_free.filter(|min| free < *min);
        let passed = [
            args.max_heartbeat_age.and_then(|max| self.heartbeat_passed(max)),
            queue.map(|max| format!("{} in the queue; the limit is {max}", counted(jobs, "job"))),
            dropped,
            min_free.map(|min| format!("{free} bytes of the disk are free; the limit is {min}")),
        ];
        passed.into_iter().flatten().collect()
    }

    fn heartbeat_passed(&self, max_age_s: u32) -> Option<String> {
        let Some(ts) = self.heartbeat_ms else { return Some("no heartbeat has been recorded".to_owned()) };
        let is_passed = self.now_ms.abs_diff(ts) > u64::from(max_age_s) * 1000;
        let (when, age) = (Utc(ts), ago(ts, self.now_ms));
        is_passed.then(|| format!("the last heartbeat was {age}, at {when}; the limit is {max_age_s} s"))
    }

    fn line(&self) -> String {
        let heartbeat = match self.heartbeat_ms {
            Some(ts) => format!("last heartbeat {} ({})", Utc(ts), ago(ts, self.now_ms)),
            None => "no heartbeat yet".to_owned(),
        };
        let Stats { jobs, queue_bytes, log_events, acks_on_full_disk, .. } = self.stats;
        let free = self.stats.disk_free_bytes.map_or_else(|| "an unknown number of bytes".to_owned(), bytes);
        let warning = self.stats.compaction.unavailable.map(|reason| format!("; {}", no_compaction(reason)));
        format!(
            "ok: {} ({}), {} ({} dropped), {heartbeat}, {free} of the disk free, reserve for {}{}",
            counted(jobs, "job"),
            bytes(queue_bytes),
            counted(log_events, "log event"),
            number_of_drops(self.dropped),
            counted(acks_on_full_disk, "ack"),
            warning.unwrap_or_default()
        )
    }
}

const UNREADABLE_DROPS: &str = "the count of dropped log events is unreadable; \
                                `backupy-state verify` reports why, `backupy-state compact` removes it";
