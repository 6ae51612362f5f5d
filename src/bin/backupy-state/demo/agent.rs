//! The agent of the demo: a process that opens the store, works on it with several threads, and expects to be killed.
//!
//! It announces every call before and acknowledges it after, on stdout; the server speaks to it on stdin, and when that
//! ends, so does the agent.

use std::io::{self, BufRead, Write};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use backupy_state::{AgentKey, Batch, CompactionPolicy, Durability, LogLimits, OpenOptions, QueuedJob, Store};

use super::held::{self, CONFIG, HEARTBEAT, LOG, SESSION};
use super::random::Random;
use super::wire::{Change, Kind, Message, Opened};
use crate::failure::{Exit, Failure};
use crate::text::now_ms;

/// Known to everybody: the demo has nothing to hide.
pub(crate) const DEMO_KEY: &str = "bkpy_demo_key_that_everybody_knows_0";

/// The agent of the demo; the demo starts it
#[derive(clap::Args)]
pub(crate) struct AgentArgs {
    path: PathBuf,
    seed: u64,
    /// The number of this agent in its day, from 0
    life: u64,
}

pub(crate) fn demo_key() -> Result<AgentKey, Failure> {
    Ok(AgentKey::new(DEMO_KEY)?)
}

/// What the server says.
pub(crate) const SERVER_IS_AWAY: &str = "away";
pub(crate) const SERVER_IS_BACK: &str = "back";
/// Followed by a version.
pub(crate) const NEW_CONFIG: &str = "config ";
/// Followed by a number: a job whose result is large.
pub(crate) const LARGE_JOB: &str = "job ";
pub(crate) const COMPACT: &str = "compact";
pub(crate) const STOP: &str = "stop";

pub(crate) fn run(args: &AgentArgs) -> Result<(), Failure> {
    let store = match open(&args.path) {
        Ok(store) => store,
        Err(error) => fail(&error),
    };
    report_what_was_found(&store);
    let agent = Agent {
        store,
        life: args.life,
        seed: args.seed.wrapping_add(args.life << 32),
        calls: AtomicU64::new(0),
        server_is_here: AtomicBool::new(true),
        stopped: AtomicBool::new(false),
    };
    thread::scope(|scope| {
        scope.spawn(|| agent.queue_jobs());
        scope.spawn(|| agent.buffer_logs(1));
        scope.spawn(|| agent.buffer_logs(2));
        scope.spawn(|| agent.beat());
        scope.spawn(|| agent.deliver());
        agent.listen();
    });
    agent.store.close().unwrap_or_else(|error| fail(&error));
    Ok(())
}

/// As an agent would: what must not be lost to a power cut is synced, what comes often is not. But it compacts much more often,
/// so that kills meet it there too, and takes log events as fast as they come: one that is dropped would look lost.
fn open(path: &Path) -> backupy_state::Result<Store> {
    let key = AgentKey::new(DEMO_KEY)?;
    let mut limits = LogLimits::default();
    limits.rate = None;
    let mut policy = CompactionPolicy::default();
    policy.min_len = COMPACTED_LEN_MIN;
    policy.dead_ratio = 0.3;
    OpenOptions::new()
        .compaction(policy)
        .log_limits(limits)
        .lock_timeout(Duration::from_secs(1))
        .heartbeat_durability(Durability::Buffered)
        .log_durability(Durability::Buffered)
        .open(path, &key)
}

const COMPACTED_LEN_MIN: u64 = 256 << 10;

fn report_what_was_found(store: &Store) {
    let held = held::held_by_store(store).unwrap_or_else(|error| fail(&error));
    for (cell, mark) in held {
        tell(&Message::Found { cell, mark });
    }
    let recovery = store.recovery();
    tell(&Message::Opened(Opened {
        records: recovery.records,
        quarantined_bytes: recovery.quarantined_bytes,
        took_us: u64::try_from(recovery.took.as_micros()).unwrap_or(u64::MAX),
        log_events: store.log_count() as u64,
    }));
}

/// One write a message, so that a kill leaves whole lines. Nobody to tell it to means that the demo is over.
fn tell(message: &Message) {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let line = format!("{message}\n");
    let _one = ONE_AT_A_TIME.lock();
    let mut stdout = io::stdout().lock();
    if stdout.write_all(line.as_bytes()).and_then(|()| stdout.flush()).is_err() {
        process::exit(1);
    }
}

fn fail(error: &backupy_state::Error) -> ! {
    tell(&Message::Failed { why: error.to_string() });
    process::exit(Exit::of(error) as i32);
}

struct Agent {
    store: Store,
    life: u64,
    seed: u64,
    calls: AtomicU64,
    server_is_here: AtomicBool,
    stopped: AtomicBool,
}

impl Agent {
    /// A writing call with its announcement and its acknowledgement.
    fn call<T>(&self, kind: Kind, changes: Vec<Change>, run: impl FnOnce(&Store) -> backupy_state::Result<T>) {
        let call = self.calls.fetch_add(1, Relaxed);
        tell(&Message::Begun { call, kind, changes });
        if let Err(error) = run(&self.store) {
            fail(&error);
        }
        tell(&Message::Done { call });
    }

    fn goes_on(&self) -> bool {
        !self.stopped.load(Relaxed)
    }

    fn random(&self, thread: u64) -> Random {
        Random::new(self.seed.wrapping_mul(31).wrapping_add(thread))
    }

    /// Takes what the server says, and does what it orders.
    fn listen(&self) {
        let mut random = self.random(0);
        let mut result = Payload::large(&mut random);
        for line in io::stdin().lock().lines() {
            let Ok(line) = line else { break };
            if line == SERVER_IS_AWAY {
                self.server_is_here.store(false, Relaxed);
            } else if line == SERVER_IS_BACK {
                self.server_is_here.store(true, Relaxed);
            } else if line == COMPACT {
                self.call(Kind::Compact, Vec::new(), Store::compact);
            } else if line == STOP {
                return self.stopped.store(true, Relaxed);
            } else if let Some(version) = line.strip_prefix(NEW_CONFIG).and_then(|version| version.parse().ok()) {
                self.save_config(version, &mut random);
            } else if let Some(number) = line.strip_prefix(LARGE_JOB) {
                self.queue_job(&format!("ordered-{number}"), &result);
                result = Payload::large(&mut random);
            }
        }
        // The demo is gone: an agent without it would run for ever.
        process::exit(1);
    }

    fn save_config(&self, version: u64, random: &mut Random) {
        let len = 200 + random.below(8000);
        let raw = random.bytes(len);
        let mark = held::config_mark(version, &raw);
        self.call(Kind::SaveConfig, put(CONFIG, mark), |store| store.save_config(version, &raw));
    }

    fn queue_jobs(&self) {
        let mut random = self.random(1);
        let mut n = 0;
        while self.goes_on() {
            n += 1;
            let run_id = format!("run-{:03}-{n:05}", self.life);
            // Now and then a job is reported again with another payload.
            let attempts = if random.one_in(8) { 2 } else { 1 };
            for _ in 0..attempts {
                self.queue_job(&run_id, &Payload::small(&mut random));
            }
            thread::sleep(random.micros_below(6_000));
        }
    }

    fn queue_job(&self, run_id: &str, payload: &Payload) {
        let cell = held::job_cell(run_id);
        self.call(Kind::EnqueueJob, put(&cell, payload.mark), |store| store.enqueue_job(run_id, &payload.bytes));
    }

    /// Bursts with pauses. Some events come late, and many share their millisecond.
    fn buffer_logs(&self, thread: u64) {
        let mut random = self.random(1 + thread);
        let mut n = 0;
        while self.goes_on() {
            for _ in 0..random.below(12) {
                n += 1;
                let cell = format!("{LOG}{}.{thread}.{n}", self.life);
                let ts_ms = now_ms() - if random.one_in(6) { 500 } else { 0 };
                let mut payload = format!("{cell} ").into_bytes();
                payload.resize(payload.len() + 40 + usize::from(random.one_in(4)) * 300, b'.');
                let mark = held::event_mark(ts_ms, &payload);
                self.call(Kind::BufferLog, put(&cell, mark), |store| store.buffer_log(ts_ms, &payload));
            }
            thread::sleep(random.micros_below(20_000));
        }
    }

    fn beat(&self) {
        let mut random = self.random(4);
        while self.goes_on() {
            let ts_ms = now_ms();
            let mark = ts_ms.cast_unsigned();
            self.call(Kind::RecordHeartbeat, put(HEARTBEAT, mark), |store| store.record_heartbeat(ts_ms));
            if random.one_in(10) {
                let session_id = format!("session-{:x}", random.next());
                let mark = held::session_mark(&session_id, ts_ms);
                self.call(Kind::SaveSession, put(SESSION, mark), |store| store.save_session(&session_id, ts_ms));
            }
            thread::sleep(random.micros_below(20_000));
        }
    }

    /// Replays the queue and the log events to the server while it is there. What was delivered is acked, and only then, so
    /// that a kill in between delivers it again.
    fn deliver(&self) {
        let mut random = self.random(5);
        while self.goes_on() {
            if self.server_is_here.load(Relaxed) {
                let jobs = self.store.dequeue_jobs(8).unwrap_or_else(|error| fail(&error));
                for job in jobs {
                    self.deliver_job(&job, &mut random);
                }
                self.deliver_events(&mut random);
            }
            thread::sleep(random.micros_below(4_000));
        }
    }

    /// With the ack of a job, in one batch, its completion message is queued; that one needs just an ack.
    fn deliver_job(&self, job: &QueuedJob, random: &mut Random) {
        let QueuedJob { run_id, payload, .. } = job;
        let cell = held::job_cell(run_id);
        tell(&Message::DeliveredJob { cell: cell.clone(), mark: held::job_mark(payload) });
        wait_for_the_server(random);
        let mut changes = vec![Change { cell, mark: None }];
        if run_id.ends_with(COMPLETION) {
            return self.call(Kind::AckJob, changes, |store| store.ack_job(run_id));
        }
        let completion = format!("{run_id}{COMPLETION}");
        let message = Payload::new(random.bytes(40));
        changes.extend(put(&held::job_cell(&completion), message.mark));
        let batch = Batch::new().ack_job(run_id).enqueue_job(&completion, &message.bytes);
        self.call(Kind::Write, changes, |store| store.write(batch));
    }

    fn deliver_events(&self, random: &mut Random) {
        let batch = self.store.peek_logs(EVENTS_AT_ONCE).unwrap_or_else(|error| fail(&error));
        if batch.events().is_empty() {
            return;
        }
        let events: Vec<_> = batch.events().iter().map(held::as_event).collect();
        let changes = events.iter().map(|event| Change { cell: event.cell.clone(), mark: None }).collect();
        tell(&Message::DeliveredEvents(events));
        wait_for_the_server(random);
        self.call(Kind::AckLogs, changes, |store| store.ack_logs(batch));
    }
}

/// Its answer is on its way.
fn wait_for_the_server(random: &mut Random) {
    thread::sleep(random.micros_below(600));
}

/// The change of a call that puts one thing.
fn put(cell: &str, mark: u64) -> Vec<Change> {
    vec![Change { cell: cell.to_owned(), mark: Some(mark) }]
}

/// Behind a run id: the id of its completion message.
const COMPLETION: &str = "/done";
/// So few that a message about all of them is shorter than `PIPE_BUF`.
const EVENTS_AT_ONCE: usize = 32;

/// Made ahead of its call, so that a large one keeps the agent busy with nothing but the store.
struct Payload {
    bytes: Vec<u8>,
    mark: u64,
}

impl Payload {
    fn small(random: &mut Random) -> Self {
        let len = 100 + random.below(2000);
        Payload::new(random.bytes(len))
    }

    fn large(random: &mut Random) -> Self {
        let len = (1 << 20) + random.below(2 << 20);
        Payload::new(random.bytes(len))
    }

    fn new(bytes: Vec<u8>) -> Self {
        let mark = held::job_mark(&bytes);
        Payload { bytes, mark }
    }
}
