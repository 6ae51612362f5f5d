//! `health-check`: one line and exit code 0 or 1, for a container's health check.

use serde_json::json;

use crate::failure::Failure;
use crate::target::Target;
use crate::text::{Out, Utc, ago, counted, no_compaction, now_ms};

/// Report in one line whether the store is healthy; exits with 0 or 1
///
/// Opens the store as the agent does, and reads the configuration, the session and the heartbeat; `verify` checks
/// every record and every payload. A store that cannot be compacted, because the log is mounted by itself, is
/// healthy, and the line says so. Takes no lock and writes nothing, so it can run at any time while the agent
/// runs. Failures are reported on stderr.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  backupy-state health-check --max-heartbeat-age 120")]
pub(crate) struct Args {
    /// Fail if the last heartbeat is older than this, or further than this ahead of the clock
    #[arg(long, value_name = "SECONDS")]
    max_heartbeat_age: Option<u32>,
}

pub(crate) fn run(target: &Target, args: &Args, out: &mut Out) -> Result<(), Failure> {
    let health = Health::of(target, args);
    if out.json {
        out.json(&match &health {
            Ok(Health { jobs, log_events, heartbeat_ms, compaction_unavailable, now_ms }) => json!({
                "healthy": true,
                "jobs": jobs,
                "log_events": log_events,
                "last_heartbeat_ms": heartbeat_ms,
                "heartbeat_age_ms": heartbeat_ms.map(|ts| now_ms.saturating_sub(ts)),
                "compaction_unavailable": compaction_unavailable,
            }),
            Err(failure) => json!({ "healthy": false, "reason": failure.to_string() }),
        });
    } else if let Ok(health) = &health {
        out.line(health.line());
    }
    health.map(drop)
}

struct Health {
    jobs: u64,
    log_events: u64,
    heartbeat_ms: Option<i64>,
    /// Why the log only grows, if it does.
    compaction_unavailable: Option<&'static str>,
    now_ms: i64,
}

impl Health {
    fn of(target: &Target, args: &Args) -> Result<Self, Failure> {
        let snapshot = target.snapshot()?;
        snapshot.load_config()?;
        snapshot.load_session()?;
        let stats = snapshot.stats();
        let (heartbeat_ms, now_ms) = (snapshot.last_heartbeat()?, now_ms());
        let health = Health {
            jobs: stats.jobs,
            log_events: stats.log_events,
            heartbeat_ms,
            compaction_unavailable: stats.compaction.unavailable,
            now_ms,
        };
        if let Some(max) = args.max_heartbeat_age {
            health.check_heartbeat(max)?;
        }
        Ok(health)
    }

    fn check_heartbeat(&self, max_age_s: u32) -> Result<(), Failure> {
        let Some(ts) = self.heartbeat_ms else {
            return Err(Failure::failed("no heartbeat has been recorded"));
        };
        if self.now_ms.abs_diff(ts) > u64::from(max_age_s) * 1000 {
            let (when, age) = (Utc(ts), ago(ts, self.now_ms));
            return Err(Failure::failed(format!(
                "the last heartbeat was {age}, at {when}; the limit is {max_age_s} s"
            )));
        }
        Ok(())
    }

    fn line(&self) -> String {
        let heartbeat = match self.heartbeat_ms {
            Some(ts) => format!("last heartbeat {} ({})", Utc(ts), ago(ts, self.now_ms)),
            None => "no heartbeat yet".to_owned(),
        };
        let Health { jobs, log_events, .. } = self;
        let warning = self.compaction_unavailable.map(|reason| format!("; {}", no_compaction(reason)));
        let (jobs, log_events) = (counted(*jobs, "job"), counted(*log_events, "log event"));
        format!("ok: {jobs}, {log_events}, {heartbeat}{}", warning.unwrap_or_default())
    }
}
