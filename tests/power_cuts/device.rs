//! A block device that logs its requests, and file systems on block devices.
//!
//! `qemu-storage-daemon` exports a file by FUSE and logs each write, discard and flush of it. A loop device makes
//! that file a block device. As long as it uses no direct I/O, the kernel writes through FUSE at once and passes
//! each flush on, so the order in the log is the one in which the device was asked. (With direct I/O, what is
//! written through FUSE was found to be damaged.)

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::image::DiskImage;

/// One of the file systems that power is cut on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileSystem {
    Ext4,
    Xfs,
    Btrfs,
}

impl FileSystem {
    pub(super) fn name(self) -> &'static str {
        match self {
            FileSystem::Ext4 => "ext4",
            FileSystem::Xfs => "xfs",
            FileSystem::Btrfs => "btrfs",
        }
    }

    pub(super) fn mkfs(self) -> &'static str {
        match self {
            FileSystem::Ext4 => "mkfs.ext4",
            FileSystem::Xfs => "mkfs.xfs",
            FileSystem::Btrfs => "mkfs.btrfs",
        }
    }

    /// Small ones are quick to copy; smaller ones are not made.
    fn len(self) -> u64 {
        match self {
            FileSystem::Ext4 => 24 << 20,
            FileSystem::Xfs => 300 << 20,
            FileSystem::Btrfs => 112 << 20,
        }
    }

    fn mkfs_options(self) -> &'static [&'static str] {
        match self {
            // As on a large disk; and nothing is left to a thread that would write later.
            FileSystem::Ext4 => &["-q", "-b", "4096", "-E", "lazy_itable_init=0,lazy_journal_init=0"],
            FileSystem::Xfs | FileSystem::Btrfs => &["-q"],
        }
    }

    /// An empty file system.
    pub(super) fn make(self, work: &Path) -> DiskImage {
        let path = work.join("new.img");
        DiskImage::new(self.len()).save_to(&path);
        run(Command::new(self.mkfs()).args(self.mkfs_options()).arg(&path));
        let image = DiskImage::read_from(&path);
        fs::remove_file(path).unwrap();
        image
    }

    fn mount(self, what: &Path, at: &Path, options: &str) -> Result<String, String> {
        // btrfs would compare the image with those that it has seen on other loop devices.
        if self == FileSystem::Btrfs {
            run(Command::new("btrfs").args(["device", "scan", "--forget"]));
        }
        try_run(Command::new("mount").args(["-t", self.name(), "-o", options]).args([what, at]))
    }
}

/// A mounted file system, unmounted at the end.
#[derive(Debug)]
pub(super) struct Mounted {
    pub(super) at: PathBuf,
    image: Option<PathBuf>,
}

impl Mounted {
    /// Mounts an image, in a file that only this mount uses.
    pub(super) fn image(kind: FileSystem, work: &Path, image: &DiskImage) -> Result<Self, String> {
        let (path, at) = (work.join("cut.img"), work.join("cut"));
        image.save_to(&path);
        fs::create_dir(&at).unwrap();
        let mounted = kind.mount(&path, &at, "loop");
        let guard = Mounted { at, image: Some(path) };
        mounted.map(|_| guard)
    }

    /// Unmounts it, and returns what the device then holds.
    pub(super) fn into_image(mut self) -> DiskImage {
        let path = self.image.take().unwrap();
        drop(self);
        let image = DiskImage::read_from(&path);
        fs::remove_file(path).unwrap();
        image
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Not mounted if mounting failed.
        let unmounted = try_run(Command::new("umount").arg(&self.at));
        if fs::remove_dir(&self.at).is_err() && !std::thread::panicking() {
            panic!("{}: {unmounted:?}", self.at.display());
        }
        if let Some(image) = &self.image {
            let _ = fs::remove_file(image);
        }
    }
}

/// A file system on a block device that logs what it is asked to do.
#[derive(Debug)]
pub(super) struct LoggedFileSystem {
    // Unmounted before the daemon ends.
    mounted: Option<Mounted>,
    daemon: Child,
    folder: PathBuf,
}

impl LoggedFileSystem {
    pub(super) fn mount(kind: FileSystem, work: &Path, image: &DiskImage) -> Result<Self, String> {
        let folder = work.join("logged");
        fs::create_dir(&folder).unwrap();
        image.save_to(&folder.join("disk.img"));
        for name in ["log.img", "export.img"] {
            fs::write(folder.join(name), b"").unwrap();
        }
        let daemon = start_daemon(&folder);
        let mut logged = LoggedFileSystem { mounted: None, daemon, folder };
        wait_for(&mut logged.daemon)?;
        let at = logged.folder.join("mount");
        fs::create_dir(&at).unwrap();
        let export = logged.folder.join("export.img");
        let device = try_run(Command::new("losetup").args(["--find", "--show"]).arg(export))?;
        let device = PathBuf::from(device.trim());
        let mounted = kind.mount(&device, &at, "defaults");
        // From now on, the loop device ends with the mount.
        run(Command::new("losetup").arg("--detach").arg(&device));
        mounted?;
        logged.mounted = Some(Mounted { at, image: None });
        Ok(logged)
    }

    pub(super) fn at(&self) -> &Path {
        &self.mounted.as_ref().unwrap().at
    }

    /// Unmounts it. Returns the whole log, and what the device then holds.
    pub(super) fn into_log(mut self) -> (Vec<u8>, DiskImage) {
        drop(self.mounted.take());
        (fs::read(self.log()).unwrap(), DiskImage::read_from(&self.folder.join("disk.img")))
    }

    /// Where the log of the device is. It only grows, and a request is in it before the device answers.
    pub(super) fn log(&self) -> PathBuf {
        self.folder.join("log.img")
    }
}

impl Drop for LoggedFileSystem {
    fn drop(&mut self) {
        drop(self.mounted.take());
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
        let _ = try_run(Command::new("umount").arg("--lazy").arg(self.folder.join("export.img")));
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn start_daemon(folder: &Path) -> Child {
    let file = |node: &str, name: &str| {
        format!(
            "driver=file,node-name={node},filename={},cache.no-flush=on,discard=unmap",
            folder.join(name).display()
        )
    };
    let logging = "driver=blklogwrites,node-name=device,file=disk,log=log,log-sector-size=512";
    let export = folder.join("export.img");
    let export = format!("type=fuse,id=export,node-name=device,mountpoint={},writable=on", export.display());
    Command::new("qemu-storage-daemon")
        .args(["--blockdev", &file("disk", "disk.img"), "--blockdev", &file("log", "log.img")])
        .args(["--blockdev", logging, "--export", &export])
        .args(["--chardev", "stdio,id=monitor", "--monitor", "chardev=monitor"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Returns when the export can be used: the daemon answers a command once it has carried out its arguments.
fn wait_for(daemon: &mut Child) -> Result<(), String> {
    let mut said = String::new();
    writeln!(daemon.stdin.as_mut().unwrap(), r#"{{"execute": "qmp_capabilities"}}"#).unwrap();
    let mut lines = BufReader::new(daemon.stdout.as_mut().unwrap());
    while !said.contains(r#""return""#) {
        if lines.read_line(&mut said).unwrap() == 0 {
            let mut error = String::new();
            daemon.stderr.as_mut().unwrap().read_to_string(&mut error).unwrap();
            return Err(format!("qemu-storage-daemon: {error}"));
        }
    }
    Ok(())
}

pub(super) fn run(command: &mut Command) {
    try_run(command).unwrap();
}

/// Returns what the command prints.
pub(super) fn try_run(command: &mut Command) -> Result<String, String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr)))
}
