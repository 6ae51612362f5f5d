//! What the store must reach: the table of limits, and what came of it.

use crate::engines::{BBOLT, FLOOR, RING, STORE};
use crate::figure::SECONDS;
use crate::rounds::{Results, Spread};

pub(crate) struct Limit {
    pub(crate) work: &'static str,
    pub(crate) engine: &'static str,
    pub(crate) field: &'static str,
    pub(crate) than: Than,
    pub(crate) bound: Bound,
}

/// What the figure is divided by, round by round.
#[derive(Clone, Copy)]
pub(crate) enum Than {
    /// Another engine at the same work.
    Engine(&'static str),
    /// The peer that has the best median at the same work.
    BestPeer,
    /// The same engine at another work.
    Work(&'static str),
    /// The same engine and work, another field.
    Field(&'static str),
    /// So many of its unit, which the text names.
    Unit(f64, &'static str),
}

#[derive(Clone, Copy)]
pub(crate) enum Bound {
    AtMost(f64),
    /// The inverse ratio is to be at least this.
    TimesAsFast(f64),
}

use Bound::{AtMost, TimesAsFast};
use Than::{BestPeer, Engine, Field, Unit, Work};

const fn limit(work: &'static str, than: Than, bound: Bound) -> Limit {
    Limit { work, engine: STORE, field: SECONDS, than, bound }
}

const fn field(work: &'static str, field: &'static str, than: Than, bound: Bound) -> Limit {
    Limit { work, engine: STORE, field, than, bound }
}

const MIB: Than = Unit(1_048_576.0, "MiB");
const COUNT: Than = Unit(1.0, "");

pub(crate) const LIMITS: &[Limit] = &[
    limit("enqueue-512", Engine(FLOOR), AtMost(1.05)),
    limit("enqueue-512", BestPeer, AtMost(1.03)),
    limit("enqueue-512", Engine(BBOLT), AtMost(0.5)),
    limit("enqueue-8k", Engine(FLOOR), AtMost(1.1)),
    limit("enqueue-8-threads", Engine("raft-engine"), TimesAsFast(1.2)),
    limit("enqueue-8-threads", Engine(BBOLT), TimesAsFast(8.0)),
    field("enqueue-8-threads", "p99", Field("p50"), AtMost(2.0)),
    limit("buffered-512", Engine(FLOOR), AtMost(1.3)),
    limit("batch", Engine(FLOOR), AtMost(1.0)),
    limit("batch-durable", Engine(FLOOR), AtMost(1.0)),
    limit("batch-durable", BestPeer, AtMost(1.0)),
    limit("heartbeat", Engine(FLOOR), AtMost(1.05)),
    limit("log", Engine(FLOOR), AtMost(1.05)),
    limit("drain", Engine(FLOOR), AtMost(1.05)),
    limit("churn", Engine(FLOOR), AtMost(1.05)),
    limit("dequeue", Engine(FLOOR), AtMost(1.05)),
    Limit { work: "dequeue", engine: RING, field: SECONDS, than: Engine(BBOLT), bound: AtMost(0.7) },
    limit("config", Engine(FLOOR), AtMost(1.1)),
    // The same, as far as a figure of some nanoseconds can be.
    limit("depth-1m", Work("depth-10"), AtMost(1.1)),
    limit("depth-1m", Engine("LMDB"), AtMost(1.0)),
    limit("open-1k", Engine(FLOOR), AtMost(0.7)),
    limit("open-10k", Engine(FLOOR), AtMost(0.3)),
    limit("open-100k", Engine(FLOOR), AtMost(0.16)),
    limit("open-killed", Work("open-100k"), AtMost(1.2)),
    limit("open-killed", Engine("redb"), AtMost(1.0)),
    limit("open-killed", Engine("SQLite"), AtMost(1.0)),
    limit("open-dead", Engine(BBOLT), AtMost(1.2)),
    field("memory", "bytes", MIB, AtMost(12.0)),
    field("device", "ratio", COUNT, AtMost(18.0)),
    field("file-5k", "bytes", MIB, AtMost(1.2)),
    field("file-50k", "bytes", MIB, AtMost(1.2)),
    field("idle", "threads", COUNT, AtMost(0.0)),
    field("idle", "wakeups", COUNT, AtMost(0.0)),
    field("idle", "bytes", Unit(1024.0, "KiB"), AtMost(64.0)),
];

impl Limit {
    /// The ratio in the sense of the bound: median, least and most of the rounds.
    pub(crate) fn measured(&self, results: &Results) -> Option<Spread> {
        let (work, engine, field) = (self.work, self.engine, self.field);
        let ratio = match self.than {
            Engine(other) => results.ratio((work, engine, field), (work, other, field)),
            BestPeer => results.ratio((work, engine, field), (work, results.best_peer(work, field)?, field)),
            Work(other) => results.ratio((work, engine, field), (other, engine, field)),
            Field(other) => results.ratio((work, engine, field), (work, engine, other)),
            Unit(unit, _) => results.spread((work, engine, field)).map(|spread| spread.map(|value| value / unit)),
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
                results.best_peer(self.work, self.field).unwrap_or("none")
            ),
            Work(other) => format!("{sign} {bound} x {}", crate::works::by_name(other).title),
            Field(other) => format!("{} {sign} {bound} x {other}", self.field),
            Unit(_, "") if self.field == "ratio" => format!("{sign} {bound}"),
            Unit(_, "") if bound == 0.0 => format!("no {}", self.field),
            Unit(_, unit) => format!("{sign} {bound} {unit}"),
        }
    }
}
