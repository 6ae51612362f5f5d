//! Measures every figure in its own process and its own folder, the engines in turn, round by round.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use crate::engines::{BBOLT, BBOLT_BATCH, RING};
use crate::figure::Figure;
use crate::options::Options;
use crate::report;
use crate::results::Results;
use crate::workloads::{self, workload::Workload};

pub(crate) fn run(options: &Options) {
    assert!(
        !report::is_in_memory(&options.work),
        "a sync does nothing on a file system in memory: pass a folder on a disk with --work"
    );
    let workloads: Vec<_> = workloads::all().into_iter().filter(|workload| is_wanted(options, workload)).collect();
    let mut results = Results::default();
    for round in 0..options.rounds {
        for workload in &workloads {
            let begun = Instant::now();
            for repeat in 0..workload.repeats {
                measure(options, workload, round * workload.repeats + repeat, &mut results);
            }
            eprintln!("round {} {:<20} {:>6.1} s", round + 1, workload.name, begun.elapsed().as_secs_f64());
        }
        // A partial table must not replace the full one.
        if options.only.is_empty() {
            report::write(&options.out, &results, options, round + 1);
        }
    }
    if !options.only.is_empty() {
        println!("{}", report::tables(&results));
    }
}

fn is_wanted(options: &Options, workload: &Workload) -> bool {
    options.only.is_empty() || options.only.iter().any(|word| workload.name.contains(word.as_str()))
}

fn measure(options: &Options, workload: &Workload, round: usize, results: &mut Results) {
    let mut engines = workload.engines.to_vec();
    // So that no engine is always the first or the last.
    let len = engines.len();
    engines.rotate_left(round % len);
    for engine in engines {
        let Some(program) = program(options, engine) else { continue };
        let disk = options.own_disk.as_ref().filter(|_| workload.name == "device").unwrap_or(&options.work);
        let folder = tempfile::tempdir_in(disk).unwrap();
        rustix::fs::syncfs(std::fs::File::open(disk).unwrap()).unwrap();
        match run_child(&program, workload.name, engine, folder.path()) {
            Ok(figure) => results.add(workload.name, engine, round, figure),
            Err(why) => eprintln!("{} by {engine}: {why}", workload.name),
        }
    }
}

fn program(options: &Options, engine: &str) -> Option<PathBuf> {
    match engine {
        RING => options.ring.clone(),
        BBOLT | BBOLT_BATCH => options.bbolt.clone(),
        _ => std::env::current_exe().ok(),
    }
}

fn run_child(program: &Path, workload: &str, engine: &str, folder: &Path) -> Result<Figure, String> {
    let output = Command::new(program).args(["run", workload, engine]).arg(folder).output();
    let output = output.map_err(|error| error.to_string())?;
    let line = String::from_utf8_lossy(&output.stdout);
    Figure::from_json(line.trim()).ok_or_else(|| String::from_utf8_lossy(&output.stderr).trim().to_owned())
}
