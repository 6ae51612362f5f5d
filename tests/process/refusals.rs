//! Calls that the system refuses or interrupts, by `strace` or by a limit: there is another way to the same end,
//! or the error says what to do. Nothing that was not written ends the store.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use backupy_state::testing::policy;
use backupy_state::{AgentKey, Error, OpenOptions, Result, Snapshot, Store, salvage};

use crate::common::{
    Child, Place, after_script, child_path, depth, existing, is_root, key, names, say, say_skipped, spawn,
    started_by, test_binary, with_mounts,
};

// ---- Under strace ----

/// Longer than what is only written: its space is allocated.
const LONG_LEN: usize = 300_000;

/// Makes every call that the system may refuse, one after the other, and says how each ended.
#[test]
fn child_that_does_everything() {
    let Some(path) = child_path() else { return };
    let Some(store) = told("create", Store::open(&path, &key())) else { return };
    told("put", store.enqueue_job("long", &[1; LONG_LEN]));
    told("compact", store.compact());
    told("put-again", store.enqueue_job("long", &[2; LONG_LEN]));
    told("ack", store.ack_job("long"));
    told("rekey", store.rekey(&key()));
    told("backup", store.backup(path.with_file_name("backup.db")));
    told("salvage", salvage(&path, &key(), path.with_file_name("salvaged.db")));
    told("put-last", store.enqueue_job("last", b"one"));
    told("close", store.close());
    let Some(store) = told("open", existing().open(&path, &key())) else { return };
    assert_eq!(store.queue_depth(), 1);
    told("compact-last", store.compact());
    // As after a kill.
    fs::copy(&path, path.with_file_name("killed.db")).unwrap();
    store.enqueue_job("run-1", b"one").unwrap();
    fs::copy(&path, path.with_file_name("killed.db")).unwrap();
    told("recover", existing().open(path.with_file_name("killed.db"), &key()));
}

fn told<T>(step: &str, result: Result<T>) -> Option<T> {
    say(&format!("{step} {}", result.as_ref().map_or_else(Error::to_string, |_| "ok".to_owned())));
    result.ok()
}

/// How each step ended.
type Told = BTreeMap<String, String>;

const STEPS: [&str; 13] = [
    "create",
    "put",
    "compact",
    "put-again",
    "ack",
    "rekey",
    "backup",
    "salvage",
    "put-last",
    "close",
    "open",
    "compact-last",
    "recover",
];

/// Runs the test `child` while `strace` does as `inject` says. Only calls on one of the paths fail, if there are
/// any.
fn traced(child: &str, place: &Place, inject: &[String], on: &[&str]) -> Child {
    let mut strace = vec!["strace".to_owned(), "-f".into(), "-qq".into(), "-o".into(), "/dev/null".into()];
    // One list: a second one would take the place of the first.
    let system_calls: Vec<_> = inject.iter().filter_map(|inject| Some(inject.split_once(':')?.0)).collect();
    strace.extend(["-e".into(), format!("trace={}", system_calls.join(","))]);
    for inject in inject {
        strace.extend(["-e".into(), format!("inject={inject}")]);
    }
    let folder = fs::canonicalize(place.folder()).unwrap();
    for name in on {
        strace.extend(["-P".to_owned(), folder.join(name).to_str().unwrap().to_owned()]);
    }
    let plain = test_binary(&format!("refusals::{child}"), &place.path());
    let mut command = started_by(&strace, &plain);
    spawn(command.stderr(Stdio::null()))
}

const EVERY_FILE: [&str; 8] = [
    "state.db",
    "state.db.new",
    "backup.db",
    "backup.db.new",
    "salvaged.db",
    "salvaged.db.new",
    "killed.db",
    "state.db.lock",
];
/// The folder itself, and no file in it.
const FOLDER: &str = "";

fn everything(inject: &[String], on: &[&str]) -> (Told, Place) {
    let place = Place::new();
    let mut child = traced("child_that_does_everything", &place, inject, on);
    let mut steps = Told::new();
    while let Some(line) = child.hear() {
        let (step, ending) = line.split_once(' ').unwrap();
        steps.insert(step.to_owned(), ending.to_owned());
    }
    child.finish();
    (steps, place)
}

/// Every step succeeds, except these, whose messages hold these words. Nothing is left over.
fn assert_all_but(inject: &[String], on: &[&str], failing: &[(&str, &str)]) {
    let (steps, place) = everything(inject, on);
    for step in STEPS {
        let ending = steps.get(step).map_or("never reached", String::as_str);
        match failing.iter().find(|(failing, _)| *failing == step) {
            Some((_, words)) => assert!(ending.contains(words), "{inject:?}: {step}: {ending}"),
            None => assert_eq!(ending, "ok", "{inject:?}: {step}"),
        }
    }
    assert!(!names(place.folder()).iter().any(|name| name.ends_with(".new")), "{inject:?}");
}

fn has_strace() -> bool {
    let traced = Command::new("strace").args(["-o", "/dev/null", "true"]).stderr(Stdio::null()).status();
    let works = traced.is_ok_and(|status| status.success());
    if !works {
        say_skipped("strace is not there or may not trace: no system call is refused");
    }
    works
}

/// All of them, or a sample.
fn some<'a>(errors: &'a [&'a str]) -> impl Iterator<Item = &'a str> {
    errors.iter().copied().step_by(depth::refusal_step())
}

const REFUSALS: [&str; 6] = ["EPERM", "EOPNOTSUPP", "EINVAL", "ENOSYS", "EACCES", "ENODEV"];

#[test]
fn space_that_cannot_be_allocated_is_written() {
    if has_strace() {
        for error in some(&REFUSALS) {
            assert_all_but(&[format!("fallocate:error={error}")], &EVERY_FILE, &[]);
        }
    }
}

#[test]
fn a_call_that_a_signal_interrupts_is_made_again() {
    if has_strace() {
        let calls = ["fallocate", "fadvise64", "fsync", "renameat2", "flock"];
        let inject = calls.map(|call| format!("{call}:error=EINTR:when=1+2"));
        let on: Vec<_> = EVERY_FILE.into_iter().chain([FOLDER]).collect();
        assert_all_but(&inject, &on, &[]);
    }
}

/// A compaction reads back what is in the cache. After an unclean stop there is no safe way round.
#[test]
fn without_fadvise_all_works_but_the_recovery_from_an_unclean_stop() {
    if has_strace() {
        for error in some(&["EPERM", "ENOSYS"]) {
            let failing = [("recover", "could not drop the page cache of")];
            assert_all_but(&[format!("fadvise64:error={error}")], &EVERY_FILE, &failing);
        }
    }
}

#[test]
fn a_folder_that_cannot_be_synced_by_itself_is_synced_with_its_file_system() {
    if has_strace() {
        for error in some(&["EINVAL", "ENOSYS"]) {
            assert_all_but(&[format!("fsync:error={error}")], &[FOLDER], &[]);
        }
        // And where that is refused, too, with all file systems.
        let inject = ["fsync", "syncfs"].map(|call| format!("{call}:error=EINVAL"));
        assert_all_but(&inject, &[FOLDER], &[]);
    }
}

#[test]
fn a_new_file_gets_its_name_where_there_is_no_renameat2_and_no_link() {
    if has_strace() {
        for error in some(&["EINVAL", "ENOSYS", "EPERM"]) {
            let renameat2 = format!("renameat2:error={error}");
            assert_all_but(std::slice::from_ref(&renameat2), &EVERY_FILE, &[]);
            for no_link in some(&["EPERM", "EOPNOTSUPP"]) {
                let inject = [renameat2.clone(), format!("?link,linkat:error={no_link}")];
                assert_all_but(&inject, &EVERY_FILE, &[]);
            }
        }
    }
}

/// A power cut could keep the removal of the old name alone.
#[test]
fn a_link_in_place_of_a_rename_is_durable_before_the_old_name_is_removed() {
    if has_strace() {
        let inject = ["renameat2:error=ENOSYS", "fsync:error=EIO:when=1"].map(str::to_owned);
        let (steps, place) = everything(&inject, &[]);
        assert!(steps.len() == 1 && steps["create"].contains("could not create"), "{steps:?}");
        assert_eq!(names(place.folder()), ["state.db.lock"]);
    }
}

#[test]
fn a_lack_of_descriptors_at_the_folder_fails_the_call_before_anything_is_renamed() {
    if has_strace() {
        // In this order: creation, compaction, rekey, backup, salvage.
        let words = "could not open the folder";
        for (nth, step) in [(1, "create"), (2, "compact"), (3, "rekey"), (4, "backup"), (5, "salvage")] {
            let inject = [format!("openat:error=EMFILE:when={nth}")];
            if step != "create" {
                assert_all_but(&inject, &[FOLDER], &[(step, words)]);
                continue;
            }
            let (steps, place) = everything(&inject, &[FOLDER]);
            assert!(steps.len() == 1 && steps[step].contains(words), "{steps:?}");
            assert_eq!(names(place.folder()), ["state.db.lock"]);
        }
    }
}

/// For a file that exists, `O_CREAT` is refused in a sticky folder by `fs.protected_regular`.
#[test]
fn an_existing_lock_file_is_not_opened_with_o_creat() {
    if has_strace() {
        let place = Place::new();
        place.open().close().unwrap();
        let lock = fs::canonicalize(place.at("state.db.lock")).unwrap();
        let (trace, lock) = (place.at("trace"), lock.to_str().unwrap());
        let strace = ["strace", "-f", "-qq", "-e", "trace=openat", "-P", lock, "-o", trace.to_str().unwrap()];
        let mut child = spawn(&mut started_by(&strace, &test_binary("refusals::child_that_opens", &place.path())));
        child.expect("ok");
        child.finish();
        let trace = fs::read_to_string(trace).unwrap();
        assert!(trace.contains("state.db.lock") && !trace.contains("O_CREAT"), "{trace}");
    }
}

#[test]
fn child_that_opens() {
    let Some(path) = child_path() else { return };
    say(&existing().open(path, &key()).map_or_else(|error| error.to_string(), |_| "ok".to_owned()));
}

#[test]
fn the_lock_file_of_another_user_in_a_sticky_folder_can_be_locked() {
    let protected = fs::read_to_string("/proc/sys/fs/protected_regular").unwrap_or_default();
    if !is_root() || !["1", "2"].contains(&protected.trim()) {
        return say_skipped("without root or fs.protected_regular, no one is refused in a sticky folder");
    }
    let place = Place::new();
    place.open().close().unwrap();
    fs::set_permissions(place.folder(), fs::Permissions::from_mode(0o1777)).unwrap();
    fs::set_permissions(place.at("state.db.lock"), fs::Permissions::from_mode(0o666)).unwrap();
    std::os::unix::fs::chown(place.at("state.db.lock"), Some(4321), Some(4321)).unwrap();
    assert!(fs::File::options().write(true).create(true).truncate(false).open(place.at("state.db.lock")).is_err());
    place.try_open().unwrap();
}

// ---- Limits ----

#[test]
fn a_limit_on_the_length_of_a_file_is_a_full_disk() {
    let place = Place::new();
    let plain = test_binary("refusals::child_with_a_limit_on_files", &place.path());
    // 512 KiB, in blocks of 512 or of 1024 bytes. Without the trap, the signal would end the process.
    let mut child = spawn(&mut after_script("trap '' XFSZ; ulimit -f 1024", &plain));
    child.expect("done");
    child.finish();
    assert_eq!(place.open().queue_depth(), 1);
}

#[test]
fn child_with_a_limit_on_files() {
    let Some(path) = child_path() else { return };
    let store =
        OpenOptions::new().compaction(policy(|policy| policy.automatic = false)).open(&path, &key()).unwrap();
    for len in [100_000, 1000] {
        let refused = (0..10_000).find_map(|n| store.enqueue_job(&format!("run-{len}-{n}"), &vec![1; len]).err());
        let Some(error @ Error::Full { .. }) = refused else { panic!("{refused:?}") };
        assert!(error.to_string().contains("ulimit -f"), "{error}");
    }
    let jobs = store.dequeue_jobs(usize::MAX).unwrap();
    assert!(jobs.len() > 3);
    for job in jobs {
        assert!(store.ack_job(&job.run_id).unwrap());
    }
    store.compact().unwrap();
    store.enqueue_job("later", b"job").unwrap();
    store.close().unwrap();
    say("done");
}

/// Its calls go on, and a compaction that is called for needs no thread.
#[test]
fn without_threads_every_call_works() {
    if has_strace() {
        let place = Place::new();
        let inject = ["?clone,?clone3:error=EAGAIN".to_owned()];
        let mut child = traced("child_without_threads", &place, &inject, &[]);
        child.expect("done");
        child.finish();
        assert_eq!(place.open().queue_depth(), 1);
    }
}

#[test]
fn child_without_threads() {
    let Some(path) = child_path() else { return };
    assert!(std::thread::Builder::new().spawn(|| ()).is_err());
    let store = OpenOptions::new().compaction(policy(|policy| policy.min_len = 0)).open(&path, &key()).unwrap();
    for version in 0..100 {
        store.save_config(version, &[0; 1000]).unwrap();
    }
    let stats = store.stats().compaction;
    assert_eq!((stats.completed, stats.failed), (0, 1), "the next try is a second later");
    assert!(stats.last_error.is_some_and(|error| error.message.contains("compaction thread")));
    // Long enough to be scanned by two threads.
    for n in 0..60 {
        store.enqueue_job(&format!("run-{n}"), &[0; 100_000]).unwrap();
    }
    store.close().unwrap();
    let store = existing().open(&path, &key()).unwrap();
    for n in 1..60 {
        store.ack_job(&format!("run-{n}")).unwrap();
    }
    store.compact().unwrap();
    assert_eq!(Snapshot::open(&path, &key()).unwrap().queue_depth(), 1);
    store.close().unwrap();
    say("done");
}

#[test]
fn a_disk_without_free_inodes_is_full_and_says_so() {
    let place = Place::new();
    let plain = test_binary("refusals::child_without_inodes", &place.path());
    let Some(mut command) = with_mounts("mount -t tmpfs -o nr_inodes=8 none $FOLDER", &plain) else { return };
    let mut child = spawn(&mut command);
    child.expect("done");
    child.finish();
}

#[test]
fn child_without_inodes() {
    let Some(path) = child_path() else { return };
    let folder = path.parent().unwrap();
    let fill = || {
        (0..)
            .map(|n| folder.join(format!("ballast-{n}")))
            .find(|ballast| !ballast.exists() && fs::File::create(ballast).is_err())
    };
    let assert_full = |refused: Result<()>| {
        let error = refused.unwrap_err();
        assert!(matches!(error, Error::Full { .. }) && error.to_string().contains("inode"), "{error:?}");
    };
    fill();
    assert_full(Store::open(&path, &key()).map(drop));
    fs::remove_file(folder.join("ballast-0")).unwrap();
    // Enough for the lock file, not for the log.
    assert_full(Store::open(&path, &key()).map(drop));
    fs::remove_file(folder.join("ballast-1")).unwrap();
    let store = Store::open(&path, &key()).unwrap();
    fill();
    store.enqueue_job("run-1", b"one").unwrap();
    assert_full(store.compact().map(drop));
    assert_full(store.rekey(&AgentKey::new("another").unwrap()));
    assert_full(store.backup(folder.join("backup.db")));
    assert_full(salvage(&path, &key(), folder.join("salvaged.db")).map(drop));
    store.enqueue_job("run-2", b"two").unwrap();
    store.ack_job("run-1").unwrap();
    store.close().unwrap();
    assert_torn_tail_waits_for_an_inode(&path, folder);
    say("done");
}

fn assert_torn_tail_waits_for_an_inode(path: &Path, folder: &Path) {
    let mut image = crate::common::Image::read(path);
    image.append(b"torn").write(path);
    let error = existing().open(path, &key()).unwrap_err();
    assert!(matches!(error, Error::Full { .. }) && error.to_string().contains("inode"), "{error:?}");
    assert!(fs::read(path).unwrap().ends_with(b"torn"));
    fs::remove_file(folder.join("ballast-2")).unwrap();
    let store = existing().open(path, &key()).unwrap();
    assert_eq!((store.recovery().quarantined_bytes, store.queue_depth()), (4, 1));
}
