//! Compares the store with its peers and with the baselines: the same workloads, in the same run, on the same
//! disk.
//!
//! `peers` measures and reports; `peers run WORKLOAD ENGINE FOLDER` measures one figure in its own process.
#![allow(clippy::unwrap_used, reason = "a benchmark stops at the first failure")]

use std::path::Path;

mod baseline;
mod engine;
mod engines;
mod figure;
mod jobs;
mod limits;
mod options;
mod prepare;
mod process;
mod report;
mod results;
mod rounds;
mod svg;
mod workloads;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words[..] {
        ["run", workload, engine, folder] => {
            let workload = workloads::by_name(workload);
            println!("{}", (workload.measure)(engine, Path::new(folder)).to_json());
        }
        ["prepare", what, engine, folder] => prepare::prepare(what, engine, Path::new(folder)),
        _ => rounds::run(&options::Options::parse(&words)),
    }
}
