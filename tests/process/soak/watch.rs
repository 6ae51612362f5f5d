//! One life as the parent sees it: reads what the child says, looks at the store alongside, fills the disk, and
//! kills.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::process::Child;
use std::str::SplitAsciiWhitespace;
use std::time::{Duration, Instant};

use backupy_state::{Check, Error, OpenOptions, QueueOrder, Snapshot, verify};

use super::calls::{THREADS, whole_of_snapshot, whole_of_store};
use super::life::{Ending, Life, agent_key, up_to};
use super::{Checked, Soak};
use crate::common::Random;

const POLL: Duration = Duration::from_millis(3);
/// The child has these threads, the one that maintains, that of the test harness, and those of the store: for a
/// compaction, an index file, and a long opening.
const THREADS_MAX: u64 = THREADS as u64 + 6;
/// The log, the lock file, what a compaction and the map have open, standard streams, the file of what it says.
const DESCRIPTORS_MAX: u64 = 32;
/// Twice the largest file that the soak has had would be more. What is read and written at once is at most a few
/// payloads of 3 MiB.
const MEMORY_MAX: u64 = 64 << 20;
/// While a compaction is on its way, the file may be longer than promised.
const LONG_FOR_MAX: Duration = Duration::from_secs(10);
/// Nothing that the child does takes so long.
const HANGS_AFTER: Duration = Duration::from_secs(120);

/// The lines that a child has written to its file.
pub(super) struct Said {
    file: File,
    rest: String,
}

impl Said {
    pub(super) fn open(path: &Path) -> Self {
        Said { file: File::open(path).unwrap(), rest: String::new() }
    }

    fn lines(&mut self) -> Vec<String> {
        self.file.read_to_string(&mut self.rest).unwrap();
        let end = self.rest.rfind('\n').map_or(0, |at| at + 1);
        let rest = self.rest.split_off(end);
        std::mem::replace(&mut self.rest, rest).lines().map(str::to_owned).collect()
    }
}

pub(super) struct Watch<'a> {
    soak: &'a mut Soak,
    life: &'a Life,
    said: Said,
    random: Random,
    begun: Instant,
    opened: Option<Instant>,
    kill_at: Option<Instant>,
    free_at: Option<Instant>,
    look_at: Instant,
    /// Whether the disk was full at any time.
    was_full: bool,
    has_filled: bool,
    /// Since when the file has been longer than promised.
    long_since: Option<Instant>,
    /// The backup that has begun, and how many calls there were then.
    backup: Option<(String, Vec<usize>)>,
    /// Whether the child has ended long ago.
    is_late: bool,
    /// The last line of the child.
    pub(super) last: String,
}

impl<'a> Watch<'a> {
    pub(super) fn new(soak: &'a mut Soak, life: &'a Life, said: Said) -> Self {
        let now = Instant::now();
        Watch {
            was_full: soak.disk.is_full,
            soak,
            life,
            said,
            random: life.random.clone(),
            begun: now,
            opened: None,
            kill_at: None,
            free_at: None,
            look_at: now,
            has_filled: false,
            long_since: None,
            backup: None,
            is_late: false,
            last: String::new(),
        }
    }

    /// Until the child has ended or was killed. Returns whether it was.
    pub(super) fn run(&mut self, child: &mut Child) -> Checked<bool> {
        loop {
            self.listen()?;
            if let Some(status) = child.try_wait().unwrap() {
                self.listen()?;
                return if status.success() { Ok(false) } else { Err(format!("the child has ended: {status}")) };
            }
            if self.kill_at.is_some_and(|at| Instant::now() >= at) {
                child.kill().unwrap();
                child.wait().unwrap();
                self.listen()?;
                return Ok(true);
            }
            self.act()?;
            std::thread::sleep(
                POLL.min(self.kill_at.map_or(POLL, |at| at.saturating_duration_since(Instant::now()))),
            );
        }
    }

    /// Reads what a child has said whose parent was killed too.
    pub(super) fn take_over(&mut self) -> Checked<()> {
        // When the disk was full is not known any more, and backups may be gone.
        (self.was_full, self.is_late) = (true, true);
        self.listen()
    }

    fn act(&mut self) -> Checked<()> {
        let now = Instant::now();
        if self.free_at.is_some_and(|at| now >= at) {
            self.soak.disk.free();
            self.free_at = None;
        }
        if now >= self.begun + self.life.lasts + HANGS_AFTER {
            return Err("the child hangs".to_owned());
        }
        let Some(opened) = self.opened else { return Ok(()) };
        let fills = self.life.fills_after.is_some_and(|after| now >= opened + after);
        if fills && !self.has_filled && self.soak.disk.may_fill() {
            self.fill();
        }
        // What the kill waits for may not happen.
        if now >= opened + self.life.lasts && !self.life.ending.closes() && self.kill_at.is_none() {
            self.kill_at = Some(now);
        }
        if now >= self.look_at {
            self.look_at = now + up_to(&mut self.random, self.life.pace.life_max / 5);
            self.look()?;
        }
        Ok(())
    }

    fn fill(&mut self) {
        let spare = [0, 0, 64 << 10, 1 << 20][self.random.below(4)];
        self.soak.disk.fill(spare);
        self.soak.figures.count("full disks");
        (self.was_full, self.has_filled) = (true, true);
        if !self.life.stays_full {
            self.free_at = Some(Instant::now() + up_to(&mut self.random, self.life.lasts * 2));
        }
    }

    /// A snapshot, and now and then a backup of it.
    fn look(&mut self) -> Checked<()> {
        let since = self.soak.oracle.calls();
        let Some((mut snapshot, key)) = self.snapshot()? else { return Ok(()) };
        self.see_snapshot(since.clone(), &snapshot)?;
        if self.random.below(10) == 0 {
            let path = self.soak.folder.join(format!("backup-{}-snapshot.db", self.life.number));
            snapshot.backup(&path).map_err(|error| format!("a backup of a snapshot: {error}"))?;
            return self.see_backup(&path, since, key);
        }
        let since = self.soak.oracle.calls();
        match snapshot.refresh() {
            Ok(()) => self.see_snapshot(since, &snapshot),
            // It was opened with the key before.
            Err(Error::WrongKey { .. }) => Ok(()),
            Err(error) => Err(format!("refreshing a snapshot: {error}")),
        }
    }

    /// With the number of its key. The agent may change its key meanwhile, and says so before it does.
    fn snapshot(&mut self) -> Checked<Option<(Snapshot, u64)>> {
        for _ in 0..1000 {
            match self.soak.snapshot() {
                Err(Error::NotFound { .. }) if !self.soak.has_store => return Ok(None),
                Err(Error::WrongKey { .. }) => self.listen()?,
                Err(error) => return Err(format!("a snapshot: {error} ({error:?})")),
                Ok(opened) => return Ok(Some(opened)),
            }
            std::thread::sleep(POLL);
        }
        Err("no key opens a snapshot".to_owned())
    }

    fn see_snapshot(&mut self, since: Vec<usize>, snapshot: &Snapshot) -> Checked<()> {
        let whole =
            whole_of_snapshot(snapshot, QueueOrder::RunId).map_err(|error| format!("a snapshot: {error}"))?;
        self.soak.oracle.note_seen("a snapshot".to_owned(), since, QueueOrder::RunId, &whole);
        self.soak.figures.count("snapshots");
        Ok(())
    }

    fn see_backup(&mut self, path: &Path, since: Vec<usize>, key: u64) -> Checked<()> {
        let failed = |error: Error| format!("a backup: {error} ({error:?})");
        let verified = verify(path, Some(&agent_key(key))).map_err(failed)?;
        if !verified.is_intact() || !verified.ends_closed {
            return Err(format!("a backup is not intact: {verified:?}"));
        }
        let order = QueueOrder::Fifo;
        let mut options = OpenOptions::new();
        let store = options.create(false).queue_order(order).open(path, &agent_key(key)).map_err(failed)?;
        let whole = whole_of_store(&store, order).map_err(failed)?;
        store.close().map_err(failed)?;
        self.soak.oracle.note_seen(format!("backup {}", path.display()), since, order, &whole);
        self.soak.figures.count("backups");
        remove_backups(&self.soak.folder, &path.file_name().unwrap().to_string_lossy());
        Ok(())
    }

    fn listen(&mut self) -> Checked<()> {
        for line in self.said.lines() {
            self.note(&line).map_err(|why| format!("{why}, at the line {line:?}"))?;
        }
        Ok(())
    }

    /// A line that the child has said.
    fn note(&mut self, line: &str) -> Checked<()> {
        let mut words = line.split_ascii_whitespace();
        let word = words.next().unwrap_or_default();
        match word {
            "opening" => self.kill_if(Ending::KillWhileOpening),
            "opening-full" => {
                self.refused("openings on a full disk")?;
                self.soak.disk.free();
            }
            "opened" => self.note_opened(&mut words),
            "holds" => {
                let hashes: Vec<u64> = words.map(|hash| hash.parse().unwrap()).collect();
                self.soak.oracle.check_held(&hashes, self.life.order)?;
            }
            "done" | "full" => {
                let [thread, number] = numbers(&mut words);
                let (thread, number) = (usize::try_from(thread).unwrap(), usize::try_from(number).unwrap());
                if word == "done" {
                    self.soak.oracle.note_done(thread, number);
                    self.soak.figures.count("calls");
                } else {
                    self.soak.oracle.note_refused(thread, number);
                    self.refused("calls refused on a full disk")?;
                }
                self.kill_if(Ending::KillWhileWorking);
            }
            "begin" => self.note_begun(&mut words),
            "end" => self.note_ended(&mut words)?,
            "refused" => {
                self.refused("compactions, rekeys and syncs refused on a full disk")?;
                self.soak.attempted = None;
            }
            "sample" => self.check_sample(numbers(&mut words))?,
            "closing" => self.kill_if(Ending::KillWhileClosing),
            "closed" => self.soak.figures.count("closes"),
            "closing-full" => self.refused("closes on a full disk")?,
            _ => return Err("the child fails".to_owned()),
        }
        line.clone_into(&mut self.last);
        Ok(())
    }

    fn kill_if(&mut self, ending: Ending) {
        if self.life.ending == ending && self.kill_at.is_none() {
            self.kill_at = Some(Instant::now() + self.life.delay);
        }
    }

    /// Something was refused because of a full disk.
    fn refused(&mut self, what: &str) -> Checked<()> {
        self.soak.figures.count(what);
        if self.was_full { Ok(()) } else { Err("the disk was not full".to_owned()) }
    }

    fn note_opened(&mut self, words: &mut SplitAsciiWhitespace<'_>) {
        let [clean, quarantined_len, by_index] = numbers(words);
        let now = Instant::now();
        self.opened = Some(now);
        // The disk may be full since the life before.
        if self.soak.disk.is_full {
            self.free_at = Some(now + up_to(&mut self.random, self.life.lasts * 2));
        }
        let soak = &mut *self.soak;
        soak.has_store = true;
        // A new key that was begun before, as by `previous_key`, is in place.
        soak.key = soak.attempted.take().unwrap_or(soak.key);
        soak.figures.count("openings");
        for (what, is_so) in [
            ("after a clean close", clean == 1),
            ("by the index file", by_index == 1),
            ("with a torn tail", quarantined_len > 0),
            ("with every frame checked", self.life.check == Check::Everything),
            ("with a new key", self.life.rekeys_at_opening),
        ] {
            if is_so {
                soak.figures.count(&format!("openings {what}"));
            }
        }
    }

    fn note_begun(&mut self, words: &mut SplitAsciiWhitespace<'_>) {
        match (words.next(), words.next()) {
            (Some("compact"), _) => self.kill_if(Ending::KillWhileCompacting),
            (Some("rekey"), Some(key)) => {
                self.soak.attempted = Some(key.parse().unwrap());
                self.kill_if(Ending::KillWhileRekeying);
            }
            (Some("backup"), Some(name)) => self.backup = Some((name.to_owned(), self.soak.oracle.calls())),
            _ => {}
        }
    }

    fn note_ended(&mut self, words: &mut SplitAsciiWhitespace<'_>) -> Checked<()> {
        match words.next() {
            Some("compact") => self.soak.figures.count("compactions called for"),
            Some("rekey") => {
                self.soak.key = self.soak.attempted.take().unwrap_or(self.soak.key);
                self.soak.figures.count("rekeys");
            }
            Some("backup") => {
                let (name, since) = self.backup.take().unwrap();
                let path = self.soak.folder.join(name);
                if self.is_late && !path.exists() {
                    return Ok(());
                }
                self.see_backup(&path, since, self.soak.key)?;
            }
            _ => self.soak.figures.count("syncs"),
        }
        Ok(())
    }

    fn check_sample(&mut self, sample: [u64; 8]) -> Checked<()> {
        let [descriptors, threads, memory_kib, peak_kib, file_len, live, reserved, generation] = sample;
        for (what, value, max) in [
            ("most descriptors", descriptors, DESCRIPTORS_MAX),
            ("most threads", threads, THREADS_MAX),
            ("most memory without maps (KiB)", memory_kib, MEMORY_MAX >> 10),
        ] {
            self.soak.figures.peak(what, value);
            if value > max {
                return Err(format!("{what}: {value}, more than {max}"));
            }
        }
        self.soak.figures.peak("peak of resident memory (KiB)", peak_kib);
        self.soak.figures.peak("longest file (bytes)", file_len);
        self.soak.figures.peak("generation", generation);
        let promised = live * 5 / 2 + (1 << 20) + reserved;
        // A full disk has no space for a compaction.
        if file_len <= promised || self.was_full {
            self.long_since = None;
            return Ok(());
        }
        let long_for = self.long_since.get_or_insert_with(Instant::now).elapsed();
        self.soak.figures.peak("longest time over the promised length (ms)", long_for.as_millis() as u64);
        if long_for > LONG_FOR_MAX {
            return Err(format!("the file has been longer than {promised} bytes for {long_for:?}: {file_len}"));
        }
        Ok(())
    }
}

fn numbers<const N: usize>(words: &mut SplitAsciiWhitespace<'_>) -> [u64; N] {
    std::array::from_fn(|_| words.next().unwrap().parse().unwrap())
}

/// A backup with the files next to it, or, for a shorter name, all whose names begin like this.
pub(super) fn remove_backups(folder: &Path, name: &str) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_string_lossy().starts_with(name) {
            fs::remove_file(path).unwrap();
        }
    }
}
