//! System calls of a real process fail, one at a time, by `strace`: the error is typed, and no acknowledged record
//! is lost.

use std::collections::{BTreeSet, HashSet};
use std::process::{Command, Stdio};

use backupy_state::{Error, Result, Store};

use crate::common::{Place, child_path, depth, key, say, say_skipped, spawn, test_binary};

/// The calls of the child: every third one is an ack of the job before it; then a compaction, and more.
const CALLS: usize = 9;
const COMPACTED_BEFORE: usize = 6;
/// Each of the first so many calls of a system call fails. The store makes fewer of most.
const NTH_MAX: usize = 14;
/// Each write fails: marks and base records are among the last.
const WRITES_MAX: usize = 33;

fn call(store: &Store, number: usize) -> Result<()> {
    match acked(number) {
        Some(job) => store.ack_job(&run_id(job)).map(|was_there| assert!(was_there)),
        None => store.enqueue_job(&run_id(number), format!("payload {number}").as_bytes()).map(drop),
    }
}

/// The job that the call acks, if that is what it does.
fn acked(number: usize) -> Option<usize> {
    (number % 3 == 2).then(|| number - 2)
}

fn run_id(number: usize) -> String {
    format!("run-{number}")
}

#[test]
fn child_whose_system_calls_fail() {
    let Some(path) = child_path() else { return };
    let store = match Store::open(&path, &key()) {
        Ok(store) => store,
        Err(error) => return say(&format!("open {}", kind(&error))),
    };
    say("open ok");
    for number in 0..CALLS {
        if number == COMPACTED_BEFORE {
            say(&format!("compact {}", said(&store.compact())));
        }
        if acked(number).is_some_and(|job| !matches!(store.job(&run_id(job)), Ok(Some(_)))) {
            // Was refused, or cannot be read just now.
            continue;
        }
        say(&format!("{number} {}", said(&call(&store, number))));
    }
    say(&format!("close {}", said(&store.close())));
}

fn said<T>(result: &Result<T>) -> &'static str {
    result.as_ref().map_or_else(kind, |_| "ok")
}

fn kind(error: &Error) -> &'static str {
    match error {
        Error::Io { operation, .. } if ["write", "sync"].contains(operation) => "io",
        // Nothing of a record was written.
        Error::Io { .. } => "io-before",
        Error::Failed { .. } => "failed",
        Error::Full { .. } => "full",
        error => panic!("{error}"),
    }
}

/// What the child reported, and so what must be in the store afterwards.
#[derive(Default)]
struct Told {
    there: BTreeSet<usize>,
    /// Jobs that may be there or not.
    doubtful: BTreeSet<usize>,
    errors: HashSet<String>,
}

impl Told {
    fn hear(&mut self, line: &str, what: &str) {
        let (call, said) = line.split_once(' ').unwrap();
        if said != "ok" {
            self.errors.insert(said.to_owned());
        }
        let Ok(number) = call.parse::<usize>() else { return };
        let job = acked(number).unwrap_or(number);
        match said {
            "ok" if acked(number).is_some() => drop(self.there.remove(&job)),
            "ok" => drop(self.there.insert(job)),
            "io" => {
                self.there.remove(&job);
                self.doubtful.insert(job);
            }
            "failed" | "full" | "io-before" => {}
            _ => panic!("{what}: {line}"),
        }
    }
}

/// Runs the child with one failure. Returns the errors that it got.
fn fail(system_calls: &str, error: &str, nth: usize) -> HashSet<String> {
    let what = format!("{system_calls}: {error}, call {nth}");
    let place = Place::new();
    let plain = test_binary("system_calls::child_whose_system_calls_fail", &place.path());
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={system_calls}")]);
    command.args(["-e", &format!("inject={system_calls}:error={error}:when={nth}")]);
    // Only where the store is: the test harness makes such calls, too.
    for name in ["", "state.db", "state.db.new", "state.db.lock"] {
        command.arg("-P").arg(std::fs::canonicalize(place.folder()).unwrap().join(name));
    }
    command.arg(plain.get_program()).args(plain.get_args());
    command.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let mut child = spawn(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()));
    let mut told = Told::default();
    while let Some(line) = child.hear() {
        told.hear(&line, &what);
    }
    child.finish();

    let store = Store::open(place.path(), &key()).unwrap_or_else(|error| panic!("{what}: {error}"));
    let jobs = store.dequeue_jobs(usize::MAX).unwrap();
    let found: BTreeSet<usize> = jobs.iter().map(|job| job.run_id["run-".len()..].parse().unwrap()).collect();
    assert!(told.there.is_subset(&found), "{what}: {:?} were acknowledged, {found:?} are there", told.there);
    let unexpected: BTreeSet<_> = found.difference(&told.there).copied().collect();
    assert!(unexpected.is_subset(&told.doubtful), "{what}: {unexpected:?} are there");
    for (job, number) in jobs.iter().zip(found.iter()) {
        assert_eq!(job.payload, format!("payload {number}").as_bytes(), "{what}");
    }
    told.errors
}

/// The first calls fail, each in a run of its own. Returns the errors of all runs.
fn fail_each(system_calls: &str, error: &str, nth_max: usize) -> HashSet<String> {
    (1..=nth_max).flat_map(|nth| fail(system_calls, error, nth)).collect()
}

fn has_strace() -> bool {
    let traced = Command::new("strace").args(["-o", "/dev/null", "true"]).stderr(Stdio::null()).status();
    let works = traced.is_ok_and(|status| status.success());
    if !works {
        say_skipped("strace is not there or may not trace: system calls do not fail");
    }
    works
}

fn errors(of: &[&str]) -> HashSet<String> {
    of.iter().map(|&error| error.to_owned()).collect()
}

#[test]
fn a_sync_that_fails_fails_its_call_and_every_later_one() {
    if has_strace() {
        let found = fail_each("fdatasync", "EIO", NTH_MAX);
        assert!(found.is_superset(&errors(&["io", "failed"])), "{found:?}");
    }
}

#[test]
fn a_write_that_finds_the_disk_full_leaves_the_store_usable() {
    if has_strace() {
        for error in ["ENOSPC", "EDQUOT"] {
            let found = fail_each("pwrite64", error, WRITES_MAX);
            assert_eq!(found, errors(&["full"]), "{error}");
        }
    }
}

#[test]
fn a_write_that_fails_fails_its_call_and_every_later_one() {
    if has_strace() {
        let found = fail_each("pwrite64", "EIO", WRITES_MAX);
        assert!(found.is_superset(&errors(&["io", "failed"])), "{found:?}");
    }
}

#[test]
fn an_interrupted_write_or_read_is_made_again() {
    if has_strace() {
        assert_eq!(fail_each("pwrite64,pread64", "EINTR", WRITES_MAX), HashSet::new());
    }
}

#[test]
fn a_rename_that_fails_leaves_no_store_or_the_old_log() {
    if has_strace() {
        let found = fail_each("rename,renameat,renameat2", "EIO", NTH_MAX);
        assert_eq!(found, errors(&["io-before"]));
    }
}

#[test]
fn a_folder_that_cannot_be_synced_after_a_compaction_ends_writing() {
    if has_strace() {
        let found = fail_each("fsync", "EIO", NTH_MAX);
        assert_eq!(found, errors(&["io-before", "failed"]));
    }
}

#[test]
fn any_other_call_that_fails_loses_nothing() {
    if has_strace() {
        for (system_calls, error) in [
            ("ftruncate", "EIO"),
            ("pread64", "EIO"),
            ("fadvise64", "EIO"),
            ("openat", "EMFILE"),
            ("flock", "ENOLCK"),
            ("mmap", "ENOMEM"),
            ("unlink", "EIO"),
        ] {
            let tried = (1..=NTH_MAX).step_by(depth::system_call_step());
            let found: HashSet<_> = tried.flat_map(|nth| fail(system_calls, error, nth)).collect();
            assert!(found.is_subset(&errors(&["io", "io-before", "failed"])), "{system_calls}: {found:?}");
        }
    }
}
