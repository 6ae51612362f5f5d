//! Real file systems that are full: acknowledged records stay, acks and drains work, and writes succeed again once
//! there is room.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use backupy_state::testing::policy;
use backupy_state::{CompactionPolicy, Error, LogLimits, OpenOptions, Snapshot, Store};

use crate::common::{Place, depth, existing, is_root, key, listing, say_skipped};

/// No cycle needs as many; a store that never gets full would fill the memory.
const PUTS_MAX: usize = 10_000;
const BALLAST_LEN: usize = 256 << 10;
/// Less has no room for a journal.
const EXT4_LEN: u64 = 3 << 20;
const LARGE_LEN: usize = 40_000;
const SMALL_LEN: usize = 2000;

/// A file system of its own, unmounted at the end.
pub(super) struct Mount {
    pub(super) at: PathBuf,
    _place: Place,
}

impl Mount {
    pub(super) fn tmpfs(options: &str) -> Option<Mount> {
        Mount::new("tmpfs", |_, at| {
            run(Command::new("mount").args(["-t", "tmpfs", "-o", options, "none"]).arg(at))
        })
    }

    /// One that takes no options.
    pub(super) fn of_type(name: &str) -> Option<Mount> {
        Mount::new(name, |_, at| run(Command::new("mount").args(["-t", name, "none"]).arg(at)))
    }

    pub(super) fn ext4(len: u64) -> Option<Mount> {
        Mount::of_image("ext4", len, &["mkfs.ext4", "-q", "-F", "-m", "0"])
    }

    /// In a file, by way of a loop device. `mkfs` makes the file system.
    pub(super) fn of_image(name: &str, len: u64, mkfs: &[&str]) -> Option<Mount> {
        Mount::new(name, |place, at| {
            let image = place.at("image");
            fs::File::create_new(&image).unwrap().set_len(len).unwrap();
            run(Command::new(mkfs[0]).args(&mkfs[1..]).arg(&image))
                && run(Command::new("mount").args(["-o", "loop"]).args([&image, at]))
        })
    }

    fn new(name: &str, mount: impl FnOnce(&Place, &Path) -> bool) -> Option<Mount> {
        let place = Place::new();
        let at = place.at("mount");
        fs::create_dir(&at).unwrap();
        if is_root() && mount(&place, &at) {
            return Some(Mount { at, _place: place });
        }
        say_skipped(&format!("{name} cannot be mounted here: no test on a full one"));
        None
    }

    pub(super) fn path(&self) -> PathBuf {
        self.at.join("state.db")
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        run(Command::new("umount").arg("--lazy").arg(&self.at));
    }
}

fn run(command: &mut Command) -> bool {
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

/// A store on a small disk, and what it must hold.
struct Agent {
    mount: Mount,
    store: Option<Store>,
    jobs: BTreeMap<String, Vec<u8>>,
    events: Vec<Vec<u8>>,
    calls: usize,
}

impl Agent {
    fn new(mount: Mount, policy: CompactionPolicy) -> Self {
        let mut limits = LogLimits::default();
        limits.rate = None;
        let store = OpenOptions::new().log_limits(limits).compaction(policy).open(mount.path(), &key()).unwrap();
        Agent { mount, store: Some(store), jobs: BTreeMap::new(), events: Vec::new(), calls: 0 }
    }

    fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    fn put(&mut self, len: usize) -> Result<(), Error> {
        self.calls += 1;
        // Values that no file system makes shorter.
        let payload = crate::common::Random::new(self.calls as u64).bytes(len);
        if self.calls.is_multiple_of(3) {
            self.store().buffer_log(0, &payload)?;
            self.events.push(payload);
        } else {
            let run_id = format!("run-{}", self.calls);
            self.store().enqueue_job(&run_id, &payload)?;
            self.jobs.insert(run_id, payload);
        }
        Ok(())
    }

    /// Large and then small values, until not even a small one finds room.
    fn fill(&mut self) {
        for len in [LARGE_LEN, SMALL_LEN] {
            let refused = (0..PUTS_MAX).find_map(|_| self.put(len).err()).expect("the disk gets full");
            assert!(matches!(refused, Error::Full { .. }), "{refused}");
        }
    }

    /// Acks and drains all but a few small values, as the disk is: the compaction afterwards has only the room
    /// that is kept ahead.
    fn empty(&mut self) {
        let small = self.jobs.iter().filter(|(_, payload)| payload.len() <= SMALL_LEN).take(3);
        let kept: BTreeMap<_, _> = small.map(|(run_id, payload)| (run_id.clone(), payload.clone())).collect();
        for run_id in self.jobs.keys().filter(|run_id| !kept.contains_key(*run_id)) {
            let acked = self.store().ack_job(run_id);
            assert!(matches!(acked, Ok(true)), "{run_id}: {acked:?}, {:?}", self.store().stats());
        }
        self.jobs = kept;
        let drained = self.store().drain_logs(self.events.len() - 1).unwrap();
        assert!(drained.iter().map(|event| &event.payload).eq(&self.events[..self.events.len() - 1]));
        self.events.drain(..self.events.len() - 1);
    }

    fn check(&self) {
        let jobs = self.store().dequeue_jobs(usize::MAX).unwrap();
        assert!(jobs.iter().map(|job| (&job.run_id, &job.payload)).eq(&self.jobs));
        let peeked = self.store().peek_logs(usize::MAX).unwrap();
        assert!(peeked.events().iter().map(|event| &event.payload).eq(&self.events));
    }
}

fn cycles(mount: Mount, policy: CompactionPolicy, count: usize) {
    let mut agent = Agent::new(mount, policy);
    let ballast = agent.mount.at.join("ballast");
    for cycle in 0..count {
        let others_free_space = cycle % 2 == 0;
        if others_free_space {
            fs::write(&ballast, vec![1; BALLAST_LEN]).unwrap();
        }
        agent.fill();
        agent.check();
        if others_free_space {
            fs::remove_file(&ballast).unwrap();
            agent.put(LARGE_LEN).unwrap();
            agent.fill();
        }
        agent.empty();
        agent.check();
        agent.store().compact().unwrap();
        agent.check();
        agent.put(LARGE_LEN).unwrap();
    }
    agent.fill();
    agent.store.take().unwrap().close().unwrap();
    agent.store = Some(existing().open(agent.mount.path(), &key()).unwrap());
    agent.check();
    println!("{count} cycles, {} puts", agent.calls);
}

#[test]
fn a_full_tmpfs_loses_nothing_and_writes_succeed_again_when_there_is_room() {
    if let Some(mount) = Mount::tmpfs("size=1M") {
        cycles(mount, CompactionPolicy::default(), depth::full_disk_cycles());
    }
}

#[test]
fn a_full_ext4_loses_nothing_and_writes_succeed_again_when_there_is_room() {
    if let Some(mount) = Mount::ext4(EXT4_LEN) {
        cycles(mount, policy(|policy| policy.automatic = false), depth::full_disk_cycles());
    }
}

/// The disk has no room for a second log, and the space that is kept for acks must not be lent to one.
#[test]
fn acks_succeed_while_an_automatic_compaction_finds_no_room() {
    if let Some(mount) = Mount::ext4(EXT4_LEN) {
        cycles(mount, CompactionPolicy::default(), 3);
    }
}

#[test]
fn a_killed_store_on_a_full_disk_opens_there() {
    let Some(mount) = Mount::tmpfs("size=1M") else { return };
    let mut agent = Agent::new(mount, CompactionPolicy::default());
    agent.fill();
    // What a killed process leaves: the file without a close frame, and a tail that was being written.
    let killed = fs::read(agent.mount.path()).unwrap();
    agent.store.take().unwrap().close().unwrap();
    fs::write(agent.mount.path(), killed).unwrap();
    agent.store = Some(existing().open(agent.mount.path(), &key()).unwrap());
    assert!(!agent.store().recovery().clean);
    agent.check();
    agent.empty();
    agent.check();
}

#[test]
fn creating_a_store_on_a_full_disk_fails_and_leaves_no_file() {
    let Some(mount) = Mount::tmpfs("size=8K") else { return };
    fs::write(mount.at.join("ballast"), [1; 8192]).unwrap();
    let refused = Store::open(mount.path(), &key()).unwrap_err();
    assert!(matches!(refused, Error::Full { .. }), "{refused}");
    assert_eq!(listing(&mount.at).into_keys().collect::<Vec<_>>(), ["ballast"]);
}

#[test]
fn a_file_system_that_is_mounted_read_only_is_an_io_error_and_a_snapshot_can_be_read() {
    let Some(mount) = Mount::tmpfs("size=1M") else { return };
    let store = Store::open(mount.path(), &key()).unwrap();
    store.enqueue_job("run-1", b"one").unwrap();
    // It keeps its file open until it is dropped.
    drop(store);
    assert!(run(Command::new("mount").args(["-o", "remount,ro"]).arg(&mount.at)));
    let before = listing(&mount.at);
    assert!(matches!(Store::open(mount.path(), &key()), Err(Error::Io { .. })));
    assert_eq!(Snapshot::open(mount.path(), &key()).unwrap().queue_depth(), 1);
    assert_eq!(listing(&mount.at), before);
}
