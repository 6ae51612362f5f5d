//! How deep the exhaustive and random tests go. This is the only place that says it.
//!
//! `cargo test --all-features` is meant to take less than a minute on two cores, so without more said these tests
//! take a sample of their cases, spread evenly over all of them. With `CI=true` in the environment, as `.ci/run`
//! sets it, they take every case. Nothing sets it for planted bugs and mutants: set it by hand for those.

#![allow(dead_code, reason = "each test binary uses a part of it")]

fn choose<T>(sample: T, full: T) -> T {
    if std::env::var("CI").is_ok_and(|ci| ci == "true") { full } else { sample }
}

/// `crash`: power is cut in every history of at most this many calls.
pub(crate) fn history_len() -> u32 {
    choose(2, 3)
}

/// `crash`: likewise, of the histories with a call that copies the log.
pub(crate) fn copying_history_len() -> u32 {
    choose(1, 2)
}

/// `crash`: of the images of a history of this many calls, one in so many is also cut during its recovery.
pub(crate) fn cut_recoveries_step(calls: usize) -> u64 {
    choose([16, 16, 256, 1024], [1, 1, 12, 96])[calls.min(3)]
}

/// `crash`: at least so many distinct disks are opened, or the test has stopped testing.
pub(crate) fn crash_images() -> usize {
    choose(30_000, 1_000_000)
}

/// `crash`: how many random histories.
pub(crate) fn random_histories() -> u64 {
    choose(5, 50)
}

/// `failing_calls`: one failure in so many is tried. There are 24 failures of an operation, or 36 of a sync: a
/// step that shares no divisor with these meets each kind of failure.
pub(crate) fn failure_step() -> usize {
    choose(13, 1)
}

/// Of each choice of names after a failure, at most so many images of the disk are opened.
pub(crate) fn survival_images() -> usize {
    choose(60, usize::MAX)
}

/// `damage`: one byte in so many is changed, or cut at.
pub(crate) fn damaged_byte_step() -> usize {
    choose(7, 1)
}

/// `damage`: how many bits of each such byte are flipped, one at a time.
pub(crate) fn flipped_bits() -> usize {
    choose(1, 8)
}

/// `salvage`: one damaged place in so many is tried, of those that the test names.
pub(crate) fn salvaged_place_step() -> usize {
    choose(5, 1)
}

/// `cuts_and_flips`: one byte in so many is changed, or cut at, on the real disk.
pub(crate) fn real_byte_step() -> usize {
    choose(7, 1)
}

/// `kills`: so often the agent is killed.
pub(crate) fn kills() -> usize {
    choose(20, 200)
}

/// `full_disk`: so often a disk is filled and emptied.
pub(crate) fn full_disk_cycles() -> usize {
    choose(3, 20)
}

/// `system_calls`: of the calls that should lose nothing by failing, one in so many fails.
pub(crate) fn system_call_step() -> usize {
    choose(3, 1)
}

/// `concurrency`: one schedule in so many is tried, of the random ones.
pub(crate) fn schedule_step() -> usize {
    choose(5, 1)
}

/// `fleet`: so many opens one after the other, of each of the hosts.
pub(crate) fn rounds() -> usize {
    choose(20, 100)
}

/// `fleet`: so many stores at once.
pub(crate) fn stores_at_once() -> usize {
    choose(200, 1000)
}

/// `memory`: a large file is cut to each multiple of this many sixteenths of it.
pub(crate) fn sixteenths_step() -> usize {
    choose(5, 1)
}
