//! The table of workloads. Each does the same work with every engine.

use workload::Workload;

mod bulk;
mod durable;
mod footprint;
mod opening;
mod reads;
pub(crate) mod workload;

pub(crate) const GROUPS: [(&str, &[Workload]); 5] = [
    ("Durable calls", durable::WORKLOADS),
    ("Many jobs", bulk::WORKLOADS),
    ("Reading", reads::WORKLOADS),
    ("Opening", opening::WORKLOADS),
    ("Footprint", footprint::WORKLOADS),
];

pub(crate) fn all() -> Vec<Workload> {
    GROUPS.map(|(_, workloads)| workloads).concat()
}

pub(crate) fn by_name(name: &str) -> Workload {
    all().into_iter().find(|workload| workload.name == name).unwrap()
}
