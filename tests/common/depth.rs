//! How deep the exhaustive and random tests go. This is the only place that says it.
//!
//! `cargo test --all-features` is meant to take less than a minute on two cores, so by default these tests take a
//! sample of their cases, spread evenly over all of them. With `CI=true` in the environment, as `.ci/run` sets it,
//! they take every case, or as many as CI has time for. With `DEEP=true`, which `tests/planted/run` sets too, they
//! take every case. Set both for mutants.

#![allow(dead_code, reason = "each test binary uses a part of it")]

fn choose<T>(sample: T, full: T) -> T {
    if std::env::var("CI").is_ok_and(|ci| ci == "true") { full } else { sample }
}

/// As [`choose`], where CI has no time for every case: `DEEP=true` takes every one.
fn choose_deep<T>(sample: T, ci: T, deep: T) -> T {
    if std::env::var("DEEP").is_ok_and(|is_deep| is_deep == "true") { deep } else { choose(sample, ci) }
}

/// `crash`: power is cut in every history of at most this many calls.
pub(crate) fn history_len() -> u32 {
    choose(2, 3)
}

/// `crash`: the same, for histories with a call that copies the log.
pub(crate) fn copying_history_len() -> u32 {
    choose(1, 2)
}

/// `crash`: of the histories of two calls with an index file, one in this many is tried.
pub(crate) fn indexed_pairs_step() -> usize {
    choose(97, 41)
}

/// `crash`: how many random histories with an index file are tried.
pub(crate) fn random_indexed_histories() -> u64 {
    choose(2, 2)
}

/// `crash`: of the images of a history of `calls` calls, one in this many is also cut during its recovery.
pub(crate) fn cut_recoveries_step(calls: usize) -> u64 {
    choose_deep([16, 16, 256, 1024], [1, 1, 32, 320], [1, 1, 4, 24])[calls.min(3)]
}

/// `crash`: the test fails if it opens fewer distinct disks than this.
pub(crate) fn crash_images() -> usize {
    choose(20_000, 1_000_000)
}

/// `crash`: how many random histories are tried.
pub(crate) fn random_histories() -> u64 {
    choose(5, 50)
}

/// Between two operations before which the disk gets full.
pub(crate) fn full_disk_step() -> usize {
    choose(11, 7)
}

/// How many jobs are queued when the disk gets full, and how often.
pub(crate) fn full_queue() -> (usize, usize) {
    choose((500, 3), (1000, 4))
}

/// `failing_calls`: one failure in this many is tried. There are 24 failures of an operation and 36 of a sync. A
/// step that shares no divisor with these numbers tries each kind of failure.
pub(crate) fn failure_step() -> usize {
    choose_deep(25, 5, 1)
}

/// `outsider`: of the operations before which an outsider acts, one in this many is tried.
pub(crate) fn outsider_step() -> usize {
    choose(13, 1)
}

/// `outsider`: the same, in histories of two calls.
pub(crate) fn outsider_pairs_step() -> usize {
    choose(97, 1)
}

/// How many images of the disk are opened, at most, for each choice of names after a failure.
pub(crate) fn survival_images() -> usize {
    choose(60, usize::MAX)
}

/// `damage`: one byte in this many is changed, and one length in this many is cut to.
pub(crate) fn damaged_byte_step() -> usize {
    choose(11, 1)
}

/// `damage`: how many bits of each such byte are flipped, one at a time.
pub(crate) fn flipped_bits() -> usize {
    choose_deep(1, 2, 8)
}

/// `salvage`: of the places that a test damages, one in this many is tried.
pub(crate) fn salvaged_place_step() -> usize {
    choose(5, 1)
}

/// `cuts_and_flips`: the same as `damaged_byte_step`, on the real disk.
pub(crate) fn real_byte_step() -> usize {
    choose(7, 1)
}

/// `mutated`: how many logs are changed, each 20 times.
pub(crate) fn mutated_logs() -> u64 {
    choose_deep(30, 250, 600)
}

/// `kills`: how many times the agent is killed.
pub(crate) fn kills() -> usize {
    choose(20, 200)
}

/// `soak`: how many lives the agent has.
pub(crate) fn soak_lives() -> usize {
    choose(8, 60)
}

/// `full_disk`: how many times a disk is filled and emptied.
pub(crate) fn full_disk_cycles() -> usize {
    choose(3, 20)
}

/// `identity`: how many compactions eight writers race with.
pub(crate) fn raced_compactions() -> usize {
    choose(16, 500)
}

/// `identity`: how many times several processes create a store at the same path at once.
pub(crate) fn creation_races() -> usize {
    choose(3, 40)
}

/// `refusals`: of the errors with which a system call is refused, one in this many is tried.
pub(crate) fn refusal_step() -> usize {
    choose(3, 1)
}

/// `system_calls`: of the calls whose failure should lose nothing, one in this many fails.
pub(crate) fn system_call_step() -> usize {
    choose(3, 1)
}

/// `concurrency`: of the random schedules, one in this many is tried.
pub(crate) fn schedule_step() -> usize {
    choose(5, 1)
}

/// `fleet`: how many times each of the stores is opened, one after another.
pub(crate) fn rounds() -> usize {
    choose(20, 100)
}

/// `fleet`: how many stores are open at once.
pub(crate) fn stores_at_once() -> usize {
    choose(200, 1000)
}

/// `memory`: a large file is cut to each multiple of this many sixteenths of its length.
pub(crate) fn sixteenths_step() -> usize {
    choose(5, 1)
}

/// `lying_disks`: of the lies in a history of one call, one in this many is told.
pub(crate) fn lie_step() -> usize {
    choose(31, 1)
}

/// `lying_disks`: of the histories of two calls, one in this many is tried.
pub(crate) fn lied_pairs_step() -> usize {
    choose(41, 5)
}

/// `lying_disks`: of the lies in such a history, one in this many is told.
pub(crate) fn lie_in_pairs_step() -> usize {
    choose(97, 19)
}

/// `power_cuts`: what is tried on each file system. By hand, every cut of a workload is.
pub(crate) fn power_cuts() -> PowerCuts {
    choose(
        PowerCuts { count: 30, most: 12, most_recovered: 3, recovered_step: 24 },
        PowerCuts { count: 500, most: 150, most_recovered: 30, recovered_step: 24 },
    )
}

#[derive(Clone, Copy)]
pub(crate) struct PowerCuts {
    /// At least so many cuts.
    pub(crate) count: u64,
    /// In a workload, at most so many.
    pub(crate) most: usize,
    /// In a recovery, at most so many.
    pub(crate) most_recovered: usize,
    /// Of the images after a cut, one in this many is also cut during its recovery.
    pub(crate) recovered_step: usize,
}
