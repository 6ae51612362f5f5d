//! The limits that the store must keep, and how they are checked.

use crate::engines::{BASELINE, BBOLT, RING, STORE};
use crate::figure::SECONDS;
use crate::results::{Results, Spread};
use crate::workloads;

pub(crate) struct Limit {
    pub(crate) workload: &'static str,
    pub(crate) engine: &'static str,
    pub(crate) field: &'static str,
    pub(crate) than: Than,
    pub(crate) bound: Bound,
}

/// What the figure is divided by, round by round.
#[derive(Clone, Copy)]
pub(crate) enum Than {
    /// Another engine, same workload.
    Engine(&'static str),
    /// The peer with the best median, same workload.
    BestPeer,
    /// The same engine, another workload.
    Workload(&'static str),
    /// The same engine and workload, another field.
    Field(&'static str),
    /// A constant: the size of the unit that the text names.
    Unit(f64, &'static str),
}

#[derive(Clone, Copy)]
pub(crate) enum Bound {
    AtMost(f64),
    /// The inverse ratio must be at least this.
    TimesAsFast(f64),
}

use Bound::{AtMost, TimesAsFast};
use Than::{BestPeer, Engine, Field, Unit, Workload};

const fn limit(workload: &'static str, than: Than, bound: Bound) -> Limit {
    Limit { workload, engine: STORE, field: SECONDS, than, bound }
}

const fn field(workload: &'static str, field: &'static str, than: Than, bound: Bound) -> Limit {
    Limit { workload, engine: STORE, field, than, bound }
}

const MIB: Than = Unit(1_048_576.0, "MiB");
const COUNT: Than = Unit(1.0, "");

pub(crate) const LIMITS: &[Limit] = &[
    limit("enqueue-512", Engine(BASELINE), AtMost(1.05)),
    limit("enqueue-512", BestPeer, AtMost(1.0)),
    limit("enqueue-512", Engine(BBOLT), AtMost(0.5)),
    limit("enqueue-8k", Engine(BASELINE), AtMost(1.2)),
    limit("enqueue-8-threads", Engine(BASELINE), TimesAsFast(1.3)),
    limit("enqueue-8-threads", BestPeer, TimesAsFast(1.3)),
    limit("enqueue-8-threads", Engine(BBOLT), TimesAsFast(8.0)),
    field("enqueue-8-threads", "p99", Field("p50"), AtMost(2.0)),
    limit("buffered-512", Engine(BASELINE), AtMost(1.6)),
    limit("batch", Engine(BASELINE), AtMost(1.0)),
    limit("batch-durable", Engine(BASELINE), AtMost(1.05)),
    limit("batch-durable", BestPeer, AtMost(1.0)),
    limit("heartbeat", Engine(BASELINE), AtMost(1.05)),
    limit("heartbeat", BestPeer, AtMost(1.0)),
    limit("log", Engine(BASELINE), AtMost(1.05)),
    limit("log", BestPeer, AtMost(1.0)),
    limit("drain", Engine(BASELINE), AtMost(1.1)),
    limit("churn", Engine(BASELINE), AtMost(1.05)),
    limit("churn", BestPeer, AtMost(1.0)),
    limit("dequeue", Engine(BASELINE), AtMost(1.1)),
    Limit { workload: "dequeue", engine: RING, field: SECONDS, than: Engine(BBOLT), bound: AtMost(0.6) },
    limit("config", Engine(BASELINE), AtMost(1.1)),
    // Equal, within the noise of a figure of some nanoseconds.
    limit("depth-1m", Workload("depth-10"), AtMost(1.1)),
    limit("depth-1m", Engine("LMDB"), AtMost(1.0)),
    limit("open-1k", Engine(BASELINE), AtMost(0.5)),
    limit("open-10k", Engine(BASELINE), AtMost(0.14)),
    limit("open-100k", Engine(BASELINE), AtMost(0.1)),
    limit("open-compacted", Engine(BASELINE), AtMost(0.08)),
    limit("open-killed", Engine(BASELINE), AtMost(0.13)),
    limit("open-dead", Engine(BBOLT), AtMost(1.2)),
    limit("open-dead-again", Engine(BBOLT), AtMost(1.2)),
    limit("open-dead-killed", Engine(BBOLT), AtMost(4.0)),
    limit("snapshot-1k", Engine(BASELINE), AtMost(0.5)),
    limit("snapshot-100k", Engine(BASELINE), AtMost(0.1)),
    field("memory", "bytes", MIB, AtMost(12.0)),
    field("device", "ratio", COUNT, AtMost(19.0)),
    field("file-5k", "bytes", MIB, AtMost(1.2)),
    field("file-50k", "bytes", MIB, AtMost(1.2)),
    field("idle", "threads", COUNT, AtMost(0.0)),
    field("idle", "wakeups", COUNT, AtMost(0.0)),
    field("idle", "bytes", Unit(1024.0, "KiB"), AtMost(64.0)),
];

impl Limit {
    /// The figure that the bound limits: its median, least and most over the rounds.
    pub(crate) fn measured(&self, results: &Results) -> Option<Spread> {
        let (workload, engine, field) = (self.workload, self.engine, self.field);
        let ratio = match self.than {
            Engine(other) => results.ratio((workload, engine, field), (workload, other, field)),
            BestPeer => {
                results.ratio((workload, engine, field), (workload, results.best_peer(workload, field)?, field))
            }
            Workload(other) => results.ratio((workload, engine, field), (other, engine, field)),
            Field(other) => results.ratio((workload, engine, field), (workload, engine, other)),
            Unit(unit, _) => {
                results.spread((workload, engine, field)).map(|spread| spread.map(|value| value / unit))
            }
        }?;
        Some(match self.bound {
            AtMost(_) => ratio,
            TimesAsFast(_) => ratio.map(f64::recip),
        })
    }

    pub(crate) fn is_met(&self, measured: &Spread) -> bool {
        match self.bound {
            AtMost(most) => measured.median <= most,
            TimesAsFast(least) => measured.median >= least,
        }
    }

    pub(crate) fn text(&self, results: &Results) -> String {
        let (sign, bound) = match self.bound {
            AtMost(most) => ("≤", most),
            TimesAsFast(least) => ("≥", least),
        };
        match self.than {
            Engine(other) => format!("{sign} {bound} x {other}"),
            BestPeer => format!(
                "{sign} {bound} x the best peer ({})",
                results.best_peer(self.workload, self.field).unwrap_or("none")
            ),
            Workload(other) => format!("{sign} {bound} x {}", workloads::by_name(other).title),
            Field(other) => format!("{} {sign} {bound} x {other}", self.field),
            Unit(_, "") if self.field == "ratio" => format!("{sign} {bound}"),
            Unit(_, "") if bound == 0.0 => format!("no {}", self.field),
            Unit(_, unit) => format!("{sign} {bound} {unit}"),
        }
    }
}
