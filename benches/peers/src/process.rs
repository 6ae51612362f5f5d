//! What the kernel counts for this process and its disk.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

pub(crate) fn resident_anonymous_bytes() -> f64 {
    field("/proc/self/status", "RssAnon:") * 1024.0
}

pub(crate) fn threads() -> f64 {
    field("/proc/self/status", "Threads:")
}

/// How often the threads of this process went to sleep, in total.
pub(crate) fn voluntary_switches() -> f64 {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    tasks.map(|task| field(task.unwrap().path().join("status"), "voluntary_ctxt_switches:")).sum()
}

/// How much was written to the disk that the folder is on.
pub(crate) fn bytes_written(folder: &Path) -> f64 {
    let device = fs::metadata(folder).unwrap().dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let text = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat")).unwrap();
    let sectors: f64 = text.split_whitespace().nth(SECTORS_WRITTEN).unwrap().parse().unwrap();
    sectors * 512.0
}

const SECTORS_WRITTEN: usize = 6;

fn field(path: impl AsRef<Path>, name: &str) -> f64 {
    let text = fs::read_to_string(path).unwrap();
    let value = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    value.split_whitespace().next().unwrap().parse().unwrap()
}

/// The total length of all files in a folder and its subfolders.
pub(crate) fn files_len(folder: &Path) -> u64 {
    let len = |entry: fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => files_len(&entry.path()),
        Ok(metadata) => metadata.len(),
        // The file was removed meanwhile.
        Err(_) => 0,
    };
    fs::read_dir(folder).unwrap().map(|entry| len(entry.unwrap())).sum()
}
