//! Power cuts on real file systems: see *Power cuts* in tests/README.md.
//!
//! `workloads.rs` has what an agent does; `recording.rs` has it done on a device that logs (`device.rs`,
//! `write_log.rs`) and lists the power cuts with the images that they leave (`image.rs`); `check.rs` opens each
//! image and asks the oracle of `tests/sim`.

#![cfg(target_os = "linux")]
#![allow(clippy::duplicate_mod, reason = "the simulator includes the model itself, for fuzz/")]
#![allow(clippy::unwrap_used, reason = "a test panics where something is wrong")]
#![allow(clippy::cast_possible_truncation, reason = "the numbers of tests are small")]

#[path = "../common/mod.rs"]
mod common;
#[path = "../sim/mod.rs"]
mod sim;

mod check;
mod device;
mod image;
mod machine;
mod recording;
mod workloads;
mod write_log;

use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use check::Checker;
use common::{child_path, depth, is_root, say, say_skipped, spawn, started_by, test_binary};
use device::FileSystem;
use image::DiskImage;
use workloads::Workload;

#[test]
fn no_power_cut_on_ext4_loses_or_halves_what_was_acknowledged() {
    in_namespaces(FileSystem::Ext4);
}

#[test]
fn no_power_cut_on_xfs_loses_or_halves_what_was_acknowledged() {
    in_namespaces(FileSystem::Xfs);
}

#[test]
fn no_power_cut_on_btrfs_loses_or_halves_what_was_acknowledged() {
    in_namespaces(FileSystem::Btrfs);
}

/// Plays the child in mount and process namespaces of its own: no other process sees what it mounts, and whatever
/// it started ends with it.
fn in_namespaces(kind: FileSystem) {
    if let Some(missing) = missing(kind) {
        return say_skipped(&format!("no power cuts on {}: {missing}", kind.name()));
    }
    let work = tempfile::tempdir().unwrap();
    let plain = test_binary("child_that_cuts_power", work.path());
    let mut child = spawn(started_by(&IN_NAMESPACES, &plain).env(FILE_SYSTEM_VAR, kind.name()));
    while let Some(line) = child.hear() {
        // The harness would keep what `eprintln` says of a test that passes.
        let _ = writeln!(io::stderr(), "{line}");
    }
    child.finish();
}

/// The namespaces also end if this process is killed.
const IN_NAMESPACES: [&str; 9] = [
    "setpriv",
    "--pdeathsig=KILL",
    "unshare",
    "--mount",
    "--propagation=private",
    "--pid",
    "--fork",
    "--kill-child",
    "--",
];

/// What this machine lacks.
fn missing(kind: FileSystem) -> Option<String> {
    if !is_root() {
        return Some("not root".to_owned());
    }
    if let Some(device) = ["/dev/fuse", "/dev/loop-control"].into_iter().find(|path| !Path::new(path).exists()) {
        return Some(format!("there is no {device}"));
    }
    let runs = |program: &str, arguments: &[&str]| {
        let output = Stdio::null;
        let status = Command::new(program).args(arguments).stdout(output()).stderr(output()).status();
        status.is_ok_and(|status| status.success())
    };
    let programs = ["qemu-storage-daemon", "losetup", "mount", "umount", kind.mkfs()];
    if let Some(program) = programs.into_iter().find(|program| !runs("sh", &["-c", "command -v \"$0\"", program]))
    {
        return Some(format!("{program} is not installed"));
    }
    let [program, options @ ..] = IN_NAMESPACES;
    let mounts = runs(program, &[&options[..], &["mount", "-t", "tmpfs", "none", "/mnt"]].concat());
    (!mounts).then(|| "there can be no mount namespace here".to_owned())
}

#[test]
fn child_that_cuts_power() {
    let Some(work) = child_path() else { return };
    let name = std::env::var(FILE_SYSTEM_VAR).unwrap();
    let kinds = [FileSystem::Ext4, FileSystem::Xfs, FileSystem::Btrfs];
    let kind = kinds.into_iter().find(|kind| kind.name() == name).unwrap();
    device::run(Command::new("mount").args(["-t", "tmpfs", "-o", "size=2G", "none"]).arg(&work));
    match workloads::with_strangers(kind, &work) {
        Ok(empty) => cut_power(kind, &work, &empty),
        Err(why) => say(&format!("SKIPPED: no power cuts on {name}: {why}")),
    }
}

/// Cuts power in each workload once, and then in random ones until there were enough cuts.
fn cut_power(kind: FileSystem, work: &Path, empty: &DiskImage) {
    let asked_for = number(COUNT_VAR);
    let mut depth = depth::power_cuts();
    if let Some(count) = asked_for {
        (depth.count, depth.most, depth.most_recovered) = (count, usize::MAX, usize::MAX);
    }
    let mut checker = Checker::new(kind, work, depth);
    let mut seed = number(SEED_VAR).unwrap_or(0);
    let begun = Instant::now();
    while seed == 0 || checker.figures.cuts < depth.count {
        if seed == 0 {
            checker.workload(&Workload::of_each_call(), empty);
            let (set_aside, damaged) = Workload::set_aside(kind, work, empty);
            checker.workload(&set_aside, &damaged);
            checker.workload(&Workload::import(), empty);
        } else {
            checker.workload(&Workload::random(seed), empty);
        }
        seed += 1;
        if asked_for.is_some() {
            say(&format!("next seed {seed}, {} s: {}", begun.elapsed().as_secs(), checker.figures));
        }
    }
    say(&format!("{}, {} s: {}", kind.name(), begun.elapsed().as_secs(), checker.figures));
    let failures = &checker.figures.failures;
    assert!(failures.is_empty(), "{} of {} cuts failed", failures.len(), checker.figures.cuts);
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|number| number.parse().unwrap())
}

const FILE_SYSTEM_VAR: &str = "BACKUPY_TEST_FILE_SYSTEM";
/// Set by `run`: how many cuts to make, and with which seed to begin.
const COUNT_VAR: &str = "POWER_CUTS_COUNT";
const SEED_VAR: &str = "POWER_CUTS_SEED";
