//! Power cuts on real file systems. See *Power cuts* in tests/README.md.

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

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use check::{Checker, Depth};
use common::{child_path, depth, is_root, say, say_skipped, spawn, started_by, test_binary};
use device::FileSystem;
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
        say_skipped(&format!("no power cuts on {}: {missing}", kind.name()));
        return;
    }
    let work = tempfile::tempdir().unwrap();
    let plain = test_binary("child_that_cuts_power", work.path());
    let mut child = started_by(&UNSHARE, &plain);
    let mut child = spawn(child.env(FILE_SYSTEM_VAR, kind.name()));
    while let Some(line) = child.hear() {
        eprintln!("{line}");
    }
    child.finish();
}

const UNSHARE: [&str; 6] = ["unshare", "--mount", "--propagation=private", "--pid", "--fork", "--kill-child"];
const FILE_SYSTEM_VAR: &str = "BACKUPY_TEST_FILE_SYSTEM";

/// What this machine lacks.
fn missing(kind: FileSystem) -> Option<String> {
    if !is_root() {
        return Some("not root".to_owned());
    }
    if let Some(device) = ["/dev/fuse", "/dev/loop-control"].into_iter().find(|path| !Path::new(path).exists()) {
        return Some(format!("there is no {device}"));
    }
    let programs = ["qemu-storage-daemon", kind.mkfs(), "losetup", "mount", "umount", "unshare"];
    let runs = |program: &str| {
        Command::new("sh").args(["-c", "command -v \"$0\"", program]).stdout(Stdio::null()).status().unwrap().success()
    };
    programs.into_iter().find(|program| !runs(program)).map(|program| format!("{program} is not installed"))
}

#[test]
fn child_that_cuts_power() {
    let Some(work) = child_path() else { return };
    let name = std::env::var(FILE_SYSTEM_VAR).unwrap();
    let kinds = [FileSystem::Ext4, FileSystem::Xfs, FileSystem::Btrfs];
    let kind = kinds.into_iter().find(|kind| kind.name() == name).unwrap();
    device::run(Command::new("mount").args(["-t", "tmpfs", "-o", "size=80%", "none"]).arg(&work));
    let number = |name: &str| std::env::var(name).ok().map(|number| number.parse::<u64>().unwrap());
    let kept = std::env::temp_dir();
    let begun = Instant::now();
    let mut checker = Checker::new(kind, &work, &kept);
    let empty = workloads::with_strangers(kind, &work);
    let (cuts, depth) = depth::power_cuts();
    let depth = Depth { in_stretch: depth, recovered_step: 20 };
    let cuts = number("POWER_CUTS").unwrap_or(cuts);
    let first = number("POWER_CUTS_SEED");
    let report = |checker: &Checker, next: u64| {
        let figures = &checker.figures;
        say(&format!(
            "{}: {} s, next seed {next}: {} cuts ({} in recoveries), {} images, {} acknowledged changes checked, \
             {} torn tails, {} by index, {} workloads, {} failures",
            kind.name(),
            begun.elapsed().as_secs(),
            figures.cuts,
            figures.cuts_in_recoveries,
            figures.images,
            figures.acknowledged,
            figures.torn_tails,
            figures.by_index,
            figures.workloads,
            figures.failures.len(),
        ));
    };
    if first.is_none() {
        checker.workload(&Workload::of_each_call(), &empty, depth);
        report(&checker, 0);
        let (workload, damaged) = Workload::set_aside(kind, &work, &empty);
        checker.workload(&workload, &damaged, depth);
        report(&checker, 0);
        checker.workload(&Workload::import(), &empty, depth);
        report(&checker, 0);
    }
    let mut seed = first.unwrap_or(1);
    while checker.figures.cuts < cuts {
        checker.workload(&Workload::random(seed), &empty, depth);
        seed += 1;
        report(&checker, seed);
    }
    assert!(checker.figures.failures.is_empty(), "{} failures", checker.figures.failures.len());
}
