//! Shared by the benchmarks: rounds, ratios, and a folder on a real disk.

use std::time::{Duration, Instant};

use backupy_state::AgentKey;

/// Runs the benchmarks whose names contain one of the arguments; without arguments, all.
pub(crate) fn run(benches: &[(&str, fn())]) {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    for (name, bench) in benches {
        if wanted.is_empty() || wanted.iter().any(|word| name.contains(word.as_str())) {
            print!("{name:<40} ");
            bench();
        }
    }
}

/// Odd, so that the median is one of the figures.
const ROUNDS: usize = 7;

/// Runs both in turn and prints the median of each and of the ratios.
pub(crate) fn compare(mut store: impl FnMut() -> Duration, mut baseline: impl FnMut() -> Duration) {
    let rounds: Vec<_> = (0..ROUNDS).map(|_| (store().as_secs_f64(), baseline().as_secs_f64())).collect();
    let median = |mut figures: Vec<f64>| {
        figures.sort_by(f64::total_cmp);
        figures[figures.len() / 2]
    };
    let of = |figure: fn(&(f64, f64)) -> f64| median(rounds.iter().map(figure).collect());
    let (store, baseline, ratio) = (of(|r| r.0), of(|r| r.1), of(|r| r.0 / r.1));
    println!("{:>9.2} us, baseline {:>9.2} us, ratio {ratio:.3}", store * 1e6, baseline * 1e6);
}

/// The mean time of a call.
pub(crate) fn time_each(count: usize, mut call: impl FnMut(usize)) -> Duration {
    let begun = Instant::now();
    (0..count).for_each(&mut call);
    begun.elapsed() / u32::try_from(count).unwrap()
}

pub(crate) fn key() -> AgentKey {
    AgentKey::new("bkpy_0123456789abcdef0123456789abcdef").unwrap()
}

/// As long and as random as a UUID.
pub(crate) fn run_id(i: usize) -> String {
    let random = (i as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    format!("{:08x}-f00a-41db-aff5-{:012x}", random >> 32, i)
}

/// In the target folder, because /tmp may be in memory.
pub(crate) fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}
