//! Jobs that fail: retries with a count and a delay, dead letters, and two queues in one store.
//!
//! ```sh
//! cargo run --example retries
//! ```
//!
//! - **Two queues**: the run ids of each begin with its name, `mail/` or `report/`.
//! - **Retries**: `retry/<run id>` in the store's data has the number of attempts and the time of the next one. It
//!   is deleted in the batch that acks the job. On a full disk, only the ack may succeed: `accept` then makes sure
//!   that another job of the same id does not get the count, and `sweep` deletes it.
//! - **Dead letters**: after [`ATTEMPTS_MAX`] attempts, one batch moves the job to `dead/<run id>` in the data. An
//!   operator finds it there, also with `backupy-state data list --prefix dead/`, and can put it back.
//!
//! `dequeue_jobs` returns the first jobs of the queue, so one that always fails would head every call. This agent
//! goes through `run_ids` instead, and takes each job that is due once a round.

use std::collections::HashSet;
use std::error::Error;
use std::fmt;

use backupy_state::{AgentKey, Batch, QueuedJob, Store};

const MAIL: &str = "mail/";
const REPORT: &str = "report/";
const ATTEMPTS_MAX: u32 = 3;
/// After the first attempt; doubled after each later one.
const DELAY_MS: i64 = 1_000;

/// What the data has of a job that was tried.
#[derive(Clone, Copy, Default)]
struct Retry {
    attempts: u32,
    next_try_ms: i64,
}

impl Retry {
    /// A value that fails authentication, or is not two numbers, must not stop the jobs after it. The attempts are
    /// then counted from the start, and the next count replaces the value.
    fn of(store: &Store, run_id: &str) -> backupy_state::Result<Self> {
        let text = match store.data(&retry_key(run_id)) {
            Err(error @ backupy_state::Error::Unauthentic { data_key: Some(_), .. }) => {
                eprintln!("{error}");
                None
            }
            text => text?,
        };
        Ok(text.as_deref().and_then(Retry::parse).unwrap_or_default())
    }

    fn parse(text: &[u8]) -> Option<Self> {
        let (attempts, next_try_ms) = std::str::from_utf8(text).ok()?.split_once(' ')?;
        Some(Retry { attempts: attempts.parse().ok()?, next_try_ms: next_try_ms.parse().ok()? })
    }

    /// With one attempt more, which begins now.
    fn next(self, now_ms: i64) -> Self {
        let delay_ms = DELAY_MS << self.attempts.min(10);
        Retry { attempts: self.attempts + 1, next_try_ms: now_ms + delay_ms }
    }
}

impl fmt::Display for Retry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.attempts, self.next_try_ms)
    }
}

fn retry_key(run_id: &str) -> String {
    format!("retry/{run_id}")
}

fn dead_key(run_id: &str) -> String {
    format!("dead/{run_id}")
}

/// Enqueues a job. It begins without attempts, whatever is left of an earlier one with its id.
fn accept(store: &Store, run_id: &str, payload: &[u8]) -> backupy_state::Result<()> {
    store.write(&Batch::new().enqueue_job(run_id, payload).delete_data(&retry_key(run_id)))
}

/// Removes a job that was delivered. On a full disk, more space is kept for acks than for the deletes of data: a
/// job must not be delivered again because its count cannot be deleted.
fn finish(store: &Store, run_id: &str) -> backupy_state::Result<()> {
    match store.write(&Batch::new().ack_job(run_id).delete_data(&retry_key(run_id))) {
        Err(backupy_state::Error::Full { .. }) => store.ack_job(run_id).map(drop),
        written => written,
    }
}

/// Deletes the counts of jobs that are gone, if the disk has space: when the agent starts, or now and then, while
/// nothing delivers.
fn sweep(store: &Store, now_ms: i64) -> backupy_state::Result<()> {
    let of_jobs: HashSet<_> = store.run_ids().map(|run_id| retry_key(&run_id)).collect();
    let of_none: Vec<_> = store.data_keys("retry/").filter(|key| !of_jobs.contains(key)).collect();
    for keys in of_none.chunks(1_000) {
        // With a put in it, the batch is refused on a full disk. Deletes alone would take the space that is kept
        // for other removals.
        let batch = Batch::new().record_heartbeat(now_ms);
        match store.write(&keys.iter().fold(batch, |batch, key| batch.delete_data(key))) {
            Err(backupy_state::Error::Full { .. }) => break,
            written => written?,
        }
    }
    Ok(())
}

/// Delivers the jobs of one queue that are due.
fn round(
    store: &Store,
    queue: &str,
    now_ms: i64,
    mut deliver: impl FnMut(&QueuedJob) -> bool,
) -> Result<(), Box<dyn Error>> {
    for run_id in store.run_ids().filter(|run_id| run_id.starts_with(queue)) {
        let retry = Retry::of(store, &run_id)?;
        if retry.next_try_ms > now_ms {
            continue;
        }
        let Some(job) = readable(store, &run_id)? else { continue };
        if retry.attempts >= ATTEMPTS_MAX {
            // The last attempt ended with the process.
            bury(store, &job)?;
            continue;
        }
        // The attempt is counted before it is made, so that a job which kills the agent is counted too.
        let retry = retry.next(now_ms);
        if_there_is_space(store.put_data(&retry_key(&run_id), retry.to_string().as_bytes()))?;
        if deliver(&job) {
            finish(store, &run_id)?;
            println!("{now_ms:>6} ms  {run_id}: delivered");
        } else if retry.attempts < ATTEMPTS_MAX {
            println!("{now_ms:>6} ms  {run_id}: failed, next try at {} ms", retry.next_try_ms);
        } else {
            bury(store, &job)?;
            println!("{now_ms:>6} ms  {run_id}: failed {ATTEMPTS_MAX} times");
        }
    }
    Ok(())
}

/// The job, unless it was acked meanwhile or its payload fails authentication. In that case, it stays in the queue
/// until an operator acks it, and the other jobs are delivered.
fn readable(store: &Store, run_id: &str) -> backupy_state::Result<Option<QueuedJob>> {
    store.job(run_id).or_else(|error| match error {
        backupy_state::Error::Unauthentic { run_id: Some(_), .. } => {
            eprintln!("{error}");
            Ok(None)
        }
        error => Err(error),
    })
}

/// Moves a job out of its queue. After a crash it is in one place or the other.
fn bury(store: &Store, job: &QueuedJob) -> backupy_state::Result<()> {
    let (retry, dead) = (retry_key(&job.run_id), dead_key(&job.run_id));
    let moved = Batch::new().ack_job(&job.run_id).delete_data(&retry).put_data(&dead, &job.payload);
    if_there_is_space(store.write(&moved))
}

/// On a full disk, jobs can be delivered and acked. So an attempt is then made without being counted, and a dead
/// letter stays in its queue.
fn if_there_is_space(written: backupy_state::Result<()>) -> backupy_state::Result<()> {
    match written {
        Err(backupy_state::Error::Full { .. }) => Ok(()),
        written => written,
    }
}

/// Puts a dead letter back into its queue. Returns whether there was one.
fn revive(store: &Store, run_id: &str) -> backupy_state::Result<bool> {
    let dead = dead_key(run_id);
    let Some(payload) = store.data(&dead)? else { return Ok(false) };
    store.write(&Batch::new().delete_data(&dead).delete_data(&retry_key(run_id)).enqueue_job(run_id, &payload))?;
    Ok(true)
}

fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let (path, key) = (folder.path().join("state.db"), AgentKey::new("bkpy_0123456789abcdef0123456789abcdef")?);
    let store = Store::open(&path, &key)?;
    for (run_id, payload) in
        [("mail/1", "poison"), ("mail/2", "to Ada"), ("mail/3", "to Bob"), ("report/1", "sums")]
    {
        accept(&store, run_id, payload.as_bytes())?;
    }

    // The server never takes `mail/1`, and takes `mail/2` at the second attempt.
    let mut taken = Vec::new();
    let mut tries_of_2 = 0;
    let mut serve = |job: &QueuedJob| {
        tries_of_2 += u32::from(job.run_id == "mail/2");
        let is_taken = job.payload != b"poison" && (job.run_id != "mail/2" || tries_of_2 == 2);
        taken.extend(is_taken.then(|| job.run_id.clone()));
        is_taken
    };

    // A real agent takes the time from the clock, and sleeps between two rounds.
    for now_ms in [0, 500] {
        round(&store, MAIL, now_ms, &mut serve)?;
        round(&store, REPORT, now_ms, &mut serve)?;
    }
    // The counts and times are as durable as the queue.
    store.close()?;
    let store = Store::open(&path, &key)?;
    sweep(&store, 1_000)?;
    assert_eq!(store.data("retry/mail/1")?.as_deref(), Some(&b"1 1000"[..]));
    for now_ms in [1_000, 2_000, 3_000] {
        round(&store, MAIL, now_ms, &mut serve)?;
        round(&store, REPORT, now_ms, &mut serve)?;
    }
    assert_eq!(store.queue_depth(), 0);
    assert_eq!(store.data_keys("").collect::<Vec<_>>(), ["dead/mail/1"]);

    // The operator has repaired the server.
    assert!(revive(&store, "mail/1")?);
    round(&store, MAIL, 4_000, |job| {
        taken.push(job.run_id.clone());
        true
    })?;
    assert_eq!(taken, ["mail/3", "report/1", "mail/2", "mail/1"]);
    assert_eq!((store.queue_depth(), store.data_keys("").count()), (0, 0));
    store.close()?;
    Ok(())
}

#[test]
fn jobs_that_fail_are_tried_again_and_then_set_apart() -> Result<(), Box<dyn Error>> {
    main()
}

/// The process ends in each attempt.
#[test]
fn a_job_that_kills_the_agent_becomes_a_dead_letter() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let store = Store::open(folder.path().join("state.db"), &AgentKey::new("key")?)?;
    store.enqueue_job("mail/1", b"poison")?;
    for now_ms in [0, 10_000, 20_000] {
        let killed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            round(&store, MAIL, now_ms, |_| panic!("killed")).map_err(|error| error.to_string())
        }));
        assert!(killed.is_err() && store.queue_depth() == 1);
    }
    round(&store, MAIL, 30_000, |_| panic!("not tried a fourth time"))?;
    assert_eq!((store.queue_depth(), store.data("dead/mail/1")?), (0, Some(b"poison".to_vec())));
    Ok(())
}

#[test]
fn an_unreadable_count_stops_no_job() -> Result<(), Box<dyn Error>> {
    use std::os::unix::fs::FileExt;

    let folder = tempfile::tempdir()?;
    let path = folder.path().join("state.db");
    let store = Store::open(&path, &AgentKey::new("key")?)?;
    for run_id in ["mail/1", "mail/2", "mail/3"] {
        store.enqueue_job(run_id, b"text")?;
    }
    store.put_data("retry/mail/2", b"no numbers")?;
    store.put_data("retry/mail/1", b"1 0")?;
    // A frame ends with the tag of its value.
    let bytes = std::fs::read(&path)?;
    let at = bytes.iter().rposition(|&byte| byte != 0).ok_or("the log is empty")? - 8;
    std::fs::File::options().write(true).open(&path)?.write_all_at(&[!bytes[at]], at as u64)?;
    assert!(store.data("retry/mail/1").is_err());

    round(&store, MAIL, 0, |job| job.run_id != "mail/1")?;
    assert_eq!(store.run_ids().collect::<Vec<_>>(), ["mail/1"]);
    assert_eq!(store.data("retry/mail/1")?.as_deref(), Some(&b"1 1000"[..]));
    Ok(())
}

/// On a full disk, there is more space for acks than for deletes of data.
#[test]
fn on_a_full_disk_every_delivered_job_is_acked_and_its_count_does_not_outlive_it() -> Result<(), Box<dyn Error>> {
    use std::sync::Arc;

    use backupy_state::{CompactionPolicy, Durability, testing::options_on};

    const JOBS: usize = 16_000;
    let disk = sim::Sim::new(11);
    disk.set_capacity(16 << 20);
    let mut options = options_on(Arc::new(disk.clone()));
    let mut policy = CompactionPolicy::default();
    policy.automatic = false;
    options.mmap(false).durability(Durability::Buffered).compaction(policy);
    let store = options.open(sim::PATH, &AgentKey::new("key")?)?;
    let long = "x".repeat(120);
    let jobs: Vec<_> = (0..JOBS).map(|n| format!("mail/{n:05}{long}")).collect();
    for run_id in &jobs {
        store.enqueue_job(run_id, b"text")?;
        store.put_data(&retry_key(run_id), b"2 0")?;
    }
    store.sync()?;
    let mut filler = 0;
    while store.put_data(&format!("filler/{filler:05}"), &[7; 4000]).is_ok() {
        filler += 1;
    }
    while store.record_heartbeat(1).is_ok() {}

    let mut delivered = 0;
    round(&store, MAIL, 0, |_| {
        delivered += 1;
        true
    })?;
    assert_eq!((delivered, store.queue_depth()), (JOBS, 0));
    assert!(store.data_keys("retry/").count() > 0, "the disk had space for all");
    // Nothing is deleted from what is kept for other removals, also if there is space for a heartbeat.
    let mut capacity = 16 << 20;
    while store.record_heartbeat(1).is_err() {
        capacity += 4096;
        disk.set_capacity(capacity);
    }
    let before = store.stats().log_len;
    sweep(&store, 1)?;
    assert!(store.data_keys("retry/").count() > 0);
    assert_eq!((store.stats().log_len, store.record_heartbeat(1)?), (before, ()));

    disk.set_capacity(64 << 20);
    let left = store.data_keys("retry/").next().ok_or("none")?;
    let run_id = left.strip_prefix("retry/").ok_or("no run id")?;
    accept(&store, run_id, b"another text")?;
    assert_eq!(store.data(&left)?, None);
    round(&store, MAIL, 0, |_| false)?;
    assert_eq!(store.data(&left)?.as_deref(), Some(&b"1 1000"[..]));
    sweep(&store, 2)?;
    assert_eq!(store.data_keys("retry/").collect::<Vec<_>>(), [left]);
    Ok(())
}

#[cfg(test)]
#[path = "../tests/sim/mod.rs"]
mod sim;
