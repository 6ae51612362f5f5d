//! Describes the machine and the versions, without the machine's name or paths.

use std::fs;
use std::path::Path;

use crate::options::Options;

pub(super) fn describe(work: &Path) -> String {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let of_cpu = |name: &str| {
        let line = cpuinfo.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let model = of_cpu("model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    let is_virtual = of_cpu("flags").is_some_and(|flags| flags.split(' ').any(|flag| flag == "hypervisor"));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory = meminfo.split_whitespace().nth(1).and_then(|kib| kib.parse::<f64>().ok()).unwrap_or_default();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    // The part after the hyphen is the distributor's.
    let kernel = kernel.trim().split('-').next().unwrap_or_default();
    let kind = if is_virtual { "a virtual machine, shared with others" } else { "shared with others" };
    format!(
        "{model}, {cores} cores, {:.0} GiB; Linux {kernel}; {} on the disk; {kind}.\n",
        memory / 1_048_576.0,
        file_system(work).unwrap_or_else(|| "an unknown file system".to_owned()),
    )
}

/// The file system of the folder: that of the longest mount point above it.
fn file_system(folder: &Path) -> Option<String> {
    let folder = fs::canonicalize(folder).ok()?;
    let mounts = fs::read_to_string("/proc/mounts").ok()?;
    let words = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let above = words.filter(|words| words.get(1).is_some_and(|point| folder.starts_with(point)));
    Some(above.max_by_key(|words| words[1].len())?[2].to_owned())
}

/// Whether a sync of the folder does nothing.
pub(crate) fn is_in_memory(folder: &Path) -> bool {
    file_system(folder).is_some_and(|name| name == "tmpfs" || name == "ramfs")
}

pub(super) fn versions(options: &Options) -> String {
    const PACKAGES: [&str; 8] =
        ["backupy-state", "aes-gcm", "raft-engine", "fjall", "heed", "redb", "rusqlite", "libsqlite3-sys"];
    let of_lock = PACKAGES.iter().filter_map(|name| Some(format!("{name} {}", locked(name)?)));
    let lmdb = heed::lmdb_version();
    let of_library =
        [format!("LMDB {}.{}.{}", lmdb.major, lmdb.minor, lmdb.patch), format!("SQLite {}", rusqlite::version())];
    let all: Vec<_> = of_lock.chain(of_library).chain(options.versions.iter().cloned()).collect();
    format!("{}.\n", all.join(", "))
}

fn locked(name: &str) -> Option<&'static str> {
    let lock = include_str!("../../Cargo.lock");
    let package = lock.split("[[package]]").find(|package| package.contains(&format!("\nname = \"{name}\"\n")))?;
    package.lines().find_map(|line| line.strip_prefix("version = \""))?.strip_suffix('"')
}
