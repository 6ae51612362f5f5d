//! A soak: one store under random calls of several threads, kills, compactions, full disks, new keys, snapshots
//! and backups, all at once, for as long as wanted.
//!
//! The suite runs some lives of an agent. `tests/process/soak/run` runs for hours in a folder, and continues there
//! when it is started again.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use backupy_state::{Error, QueueOrder, Snapshot, verify};
use serde_json::{Value, json};

use super::full_disk::Mount;
use crate::common::{Place, depth, names, test_binary};

mod watch;
mod agent;
mod oracle;
mod disk;
mod life;
mod calls;
mod figures;

use agent::{FOLDER_VAR, TASK_VAR, Task, said_name};
use calls::whole_of_snapshot;
use disk::Disk;
use figures::Figures;
use life::{Life, Pace, agent_key};
use oracle::Oracle;
use watch::{Said, Watch, remove_backups};

/// `Err` says what the store did wrong.
type Checked<T> = Result<T, String>;

const HERE_VAR: &str = "BACKUPY_SOAK_FOLDER";
const SECONDS_VAR: &str = "BACKUPY_SOAK_SECONDS";
const SEED_VAR: &str = "BACKUPY_TEST_SEED";

#[test]
fn one_store_survives_kills_compactions_full_disks_new_keys_and_readers_at_once() {
    let seed = std::env::var(SEED_VAR).map_or_else(|_| super::kills::random_seed(), |seed| seed.parse().unwrap());
    if let Some(folder) = std::env::var_os(HERE_VAR) {
        let time = Duration::from_secs(std::env::var(SECONDS_VAR).unwrap().parse().unwrap());
        return soak_for(time, Soak::resume(Path::new(&folder), seed));
    }
    let place = Place::new();
    let mount = Mount::ext4(48 << 20);
    let disk = mount.as_ref().map_or(place.folder(), |mount| &mount.at);
    let mut soak = Soak::new(place.folder(), disk, seed, false);
    for _ in 0..depth::soak_lives() {
        soak.live_or_panic();
    }
    println!("{}", soak.line());
    assert!(soak.figures.counted("calls") > 0 && soak.figures.counted("kills") > 0);
}

fn soak_for(time: Duration, mut soak: Soak) {
    let mut printed = Instant::now();
    println!("{}", soak.line());
    while soak.elapsed < time {
        soak.live_or_panic();
        if printed.elapsed() >= Duration::from_secs(60) {
            println!("{}", soak.line());
            printed = Instant::now();
        }
    }
    println!("at the end, nothing is lost: {}", soak.line());
}

struct Soak {
    folder: PathBuf,
    disk: Disk,
    seed: u64,
    is_long: bool,
    /// The number of the life that comes next, or runs.
    life: u64,
    has_store: bool,
    /// The number of the store's key, and the next one if the store may have that one.
    key: u64,
    attempted: Option<u64>,
    /// Of the store at the end of the last life.
    anchor: Option<String>,
    oracle: Oracle,
    figures: Figures,
    elapsed: Duration,
}

const LEDGER: &str = "ledger.json";

impl Soak {
    fn new(folder: &Path, disk: &Path, seed: u64, is_long: bool) -> Self {
        Soak {
            folder: folder.to_path_buf(),
            disk: Disk::new(disk),
            seed,
            is_long,
            life: 0,
            has_store: false,
            key: 0,
            attempted: None,
            anchor: None,
            oracle: Oracle::new(seed),
            figures: Figures::default(),
            elapsed: Duration::ZERO,
        }
    }

    /// Continues what an earlier process has begun in the folder, also if it was killed.
    fn resume(folder: &Path, seed: u64) -> Self {
        let disk = folder.join("disk");
        fs::create_dir_all(&disk).unwrap();
        let mut soak = Soak::new(folder, &disk, seed, true);
        if let Ok(ledger) = fs::read(folder.join(LEDGER)) {
            soak.read(&serde_json::from_slice(&ledger).unwrap());
            if folder.join(said_name(soak.life)).exists() {
                println!("life {} was not over", soak.life);
                soak.take_over().unwrap_or_else(|why| soak.fail(&why));
            }
        }
        soak
    }

    fn live_or_panic(&mut self) {
        self.live().unwrap_or_else(|why| self.fail(&why));
    }

    fn fail(&self, why: &str) -> ! {
        // Without these, the folder of a test would be removed.
        let kept = std::env::temp_dir().join(format!("backupy-soak-{}", std::process::id()));
        let copied = std::process::Command::new("cp").arg("-r").args([&self.folder, &kept]).status();
        let disk = std::process::Command::new("cp").arg("-r").arg(&self.disk.at).arg(kept.join("store")).status();
        panic!("seed {}, life {}: {why}\nkept in {} ({copied:?}, {disk:?})", self.seed, self.life, kept.display());
    }

    /// One life of the agent, and what it has left.
    fn live(&mut self) -> Checked<()> {
        let begun = Instant::now();
        let pace = if self.is_long { Pace::LONG } else { Pace::QUICK };
        let life = Life::new(self.seed, self.life, pace);
        let rekeys = life.rekeys_at_opening && self.has_store;
        self.attempted = rekeys.then_some(self.key + 1);
        let task = Task {
            seed: self.seed,
            life: self.life,
            is_long: self.is_long,
            key: self.attempted.unwrap_or(self.key),
            previous_key: rekeys.then_some(self.key),
            anchor: self.anchor.clone().filter(|_| life.expects_anchor),
            from: self.oracle.calls(),
        };
        let said = self.folder.join(said_name(self.life));
        self.write();
        fs::File::create(&said).unwrap();

        let mut command = test_binary("soak::agent::child_that_soaks", &self.disk.path());
        command.env(FOLDER_VAR, &self.folder).env(TASK_VAR, task.to_json()).stdout(std::process::Stdio::null());
        let mut child = command.spawn().unwrap();
        self.oracle.begin_life();
        let mut watch = Watch::new(self, &life, Said::open(&said));
        let ran = watch.run(&mut child);
        let last = std::mem::take(&mut watch.last);
        let _ = child.kill();
        let _ = child.wait();
        if ran? {
            self.note_kill(&life, &last);
        }
        self.elapsed += begun.elapsed();
        self.settle(&life)
    }

    fn note_kill(&mut self, life: &Life, last: &str) {
        self.figures.count("kills");
        let compacts = self.disk.at.join("state.db.new").exists();
        for (what, is_so) in [
            ("while opening", last == "opening"),
            ("while closing", last == "closing"),
            ("with a new log that was not finished", compacts),
            ("on a full disk", self.disk.is_full),
            ("in a session of some seconds", life.lasts > Duration::from_secs(3)),
        ] {
            if is_so {
                self.figures.count(&format!("kills {what}"));
            }
        }
    }

    /// After a life whose parent was killed too.
    fn take_over(&mut self) -> Checked<()> {
        let life = Life::new(self.seed, self.life, Pace::LONG);
        self.oracle.begin_life();
        Watch::new(self, &life, Said::open(&self.folder.join(said_name(self.life)))).take_over()?;
        self.figures.count("lives taken over");
        self.settle(&life)
    }

    /// Nothing that was acknowledged is lost, and nothing that was removed has come back.
    fn settle(&mut self, life: &Life) -> Checked<()> {
        let failed = |error: Error| format!("after the end: {error} ({error:?})");
        match self.snapshot() {
            Err(Error::NotFound { .. }) if !self.has_store => {}
            opened => {
                let (snapshot, key) = opened.map_err(failed)?;
                (self.key, self.attempted, self.has_store) = (key, None, true);
                self.oracle.settle(&whole_of_snapshot(&snapshot, QueueOrder::RunId).map_err(failed)?)?;
                self.anchor = Some(snapshot.anchor().to_string());
            }
        }
        if self.has_store && self.life.is_multiple_of(4) {
            let verified = verify(self.disk.path(), Some(&agent_key(self.key))).map_err(failed)?;
            self.figures.count("verifications");
            if !verified.is_intact() {
                return Err(format!("after the end: {verified:?}"));
            }
        }
        self.check_names()?;
        if !life.stays_full {
            self.disk.free();
        }
        remove_backups(&self.folder, "backup-");
        let said = self.folder.join(said_name(self.life));
        self.life += 1;
        self.write();
        fs::remove_file(said).unwrap();
        Ok(())
    }

    /// Files next to the log are the store's own, and few.
    fn check_names(&mut self) -> Checked<()> {
        let names = names(&self.disk.at);
        let torn = names.iter().filter(|name| name.starts_with("state.db.torn-")).count();
        self.figures.peak("most torn tails kept", torn as u64);
        let damaged = names.iter().find(|name| name.starts_with("state.db.damaged-"));
        match damaged {
            Some(name) => Err(format!("there is {name}")),
            None if torn > 8 => Err(format!("{torn} torn tails are kept")),
            None => Ok(()),
        }
    }

    /// A snapshot with whichever key the store may have, and the number of that key.
    fn snapshot(&self) -> backupy_state::Result<(Snapshot, u64)> {
        let open = |key| Snapshot::open(self.disk.path(), &agent_key(key)).map(|snapshot| (snapshot, key));
        match (open(self.key), self.attempted) {
            (Err(Error::WrongKey { .. }), Some(attempted)) => open(attempted),
            (opened, _) => opened,
        }
    }

    fn line(&self) -> String {
        let Soak { seed, life, elapsed, figures, .. } = self;
        format!("seed {seed}, {} s, {life} lives: {}", elapsed.as_secs(), figures.line())
    }

    /// What `resume` needs. Replaced as a whole.
    fn write(&self) {
        let Soak { seed, life, has_store, key, attempted, anchor, elapsed, .. } = self;
        let ledger = json!([
            [seed, life, has_store, key, attempted, anchor, elapsed.as_millis() as u64],
            self.oracle.to_json(),
            self.figures.to_json(),
        ]);
        let new = self.folder.join("ledger.new");
        fs::write(&new, ledger.to_string()).unwrap();
        fs::rename(new, self.folder.join(LEDGER)).unwrap();
    }

    fn read(&mut self, ledger: &Value) {
        let elapsed_ms: u64;
        (self.seed, self.life, self.has_store, self.key, self.attempted, self.anchor, elapsed_ms) =
            serde_json::from_value(ledger[0].clone()).unwrap();
        self.elapsed = Duration::from_millis(elapsed_ms);
        self.oracle = Oracle::from_json(self.seed, &ledger[1]);
        self.figures = Figures::from_json(&ledger[2]);
    }
}
