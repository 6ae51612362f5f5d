//! The store beside its peers and beside the floor: the same work, in the same run, on the same disk.
//!
//! `peers` measures and reports; `peers run WORK ENGINE FOLDER` measures one figure in a process of its own.
#![allow(clippy::unwrap_used, reason = "a benchmark ends where something is not as it should be")]

use std::path::Path;

mod engine;
mod engines;
mod figure;
mod floor;
mod limits;
mod process;
mod report;
mod rounds;
mod svg;
mod works;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words[..] {
        ["run", work, engine, folder] => {
            let work = works::by_name(work);
            println!("{}", (work.measure)(engine, Path::new(folder)).to_json());
        }
        ["prepare", what, engine, folder] => works::prepare(what, engine, Path::new(folder)),
        _ => rounds::Options::parse(&words).run(),
    }
}
