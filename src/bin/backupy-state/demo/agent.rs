//! The demo's agent: a process that opens the store and works on it with several threads until it is killed.
//!
//! It reports every call on stdout, before the call and after it has returned. It takes the server's messages from
//! stdin, and exits at the end of stdin.

use std::io::{self, BufRead, Write};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use backupy_state::{AgentKey, Batch, CompactionPolicy, Durability, LogLimits, OpenOptions, QueuedJob, Store};

use super::contents::{self, CONFIG, HEARTBEAT, LOG, SESSION};
use super::protocol::{Change, Kind, Message, Opened};
use super::random::Random;
use super::{START_THREAD, could_not};
use crate::failure::{Exit, Failure, with_source};
use crate::text::now_ms;

/// Not a secret: the demo's data is made up.
const DEMO_KEY: &str = "bkpy_demo_key_that_everybody_knows_0";

/// The demo's agent, which `demo` starts
#[derive(clap::Args)]
pub(crate) struct AgentArgs {
    path: PathBuf,
    seed: u64,
    /// The number of this agent, from 0
    number: u64,
}

pub(crate) fn demo_key() -> backupy_state::Result<AgentKey> {
    AgentKey::new(DEMO_KEY)
}

/// The server's messages.
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
    report_contents(&store);
    let agent = Agent {
        store,
        number: args.number,
        seed: args.seed.wrapping_add(args.number << 32),
        calls: AtomicU64::new(0),
        server_is_available: AtomicBool::new(true),
        stopped: AtomicBool::new(false),
    };
    thread::scope(|scope| {
        let works: [fn(&Agent); 5] =
            [Agent::queue_jobs, |it| it.buffer_logs(1), |it| it.buffer_logs(2), Agent::beat, Agent::deliver];
        let agent = &agent;
        for work in works {
            let started = thread::Builder::new().spawn_scoped(scope, move || work(agent));
            started.unwrap_or_else(|error| fail_with(&could_not(START_THREAD, &error)));
        }
        agent.handle_messages();
    });
    agent.store.close().unwrap_or_else(|error| fail(&error));
    Ok(())
}

/// Syncs what must survive a power cut, and buffers what is frequent, as a real agent would. Two options differ:
/// it compacts much more often, so that some kills interrupt a compaction; and it has no rate limit for log
/// events, since a dropped event would look like a lost one.
fn open(path: &Path) -> backupy_state::Result<Store> {
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
        .open(path, &demo_key()?)
}

const COMPACTED_LEN_MIN: u64 = 256 << 10;

fn report_contents(store: &Store) {
    let held = contents::contents_of_store(store).unwrap_or_else(|error| fail(&error));
    for (cell, digest) in held {
        send(&Message::Found { cell, digest });
    }
    let recovery = store.recovery();
    send(&Message::Opened(Opened {
        records: recovery.records,
        quarantined_bytes: recovery.quarantined_bytes,
        took_us: u64::try_from(recovery.took.as_micros()).unwrap_or(u64::MAX),
        log_events: store.log_count() as u64,
    }));
}

/// Uses one write for each message, so that a kill leaves no partial line. Exits if the demo has ended.
fn send(message: &Message) {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let line = format!("{message}\n");
    let _one = ONE_AT_A_TIME.lock();
    let mut stdout = io::stdout().lock();
    if stdout.write_all(line.as_bytes()).and_then(|()| stdout.flush()).is_err() {
        process::exit(1);
    }
}

fn fail(error: &backupy_state::Error) -> ! {
    fail_with(&Failure::new(Exit::of(error), with_source(error)))
}

fn fail_with(failure: &Failure) -> ! {
    send(&Message::Failed { why: failure.to_string() });
    process::exit(failure.exit as i32);
}

struct Agent {
    store: Store,
    number: u64,
    seed: u64,
    calls: AtomicU64,
    server_is_available: AtomicBool,
    stopped: AtomicBool,
}

impl Agent {
    /// Makes a writing call, and reports it before and after.
    fn call<T>(&self, kind: Kind, changes: Vec<Change>, run: impl FnOnce(&Store) -> backupy_state::Result<T>) {
        let call = self.calls.fetch_add(1, Relaxed);
        send(&Message::Begun { call, kind, changes });
        if let Err(error) = run(&self.store) {
            fail(&error);
        }
        send(&Message::Done { call });
    }

    fn is_running(&self) -> bool {
        !self.stopped.load(Relaxed)
    }

    fn random(&self, thread: u64) -> Random {
        Random::new(self.seed.wrapping_mul(31).wrapping_add(thread))
    }

    /// Handles the server's messages.
    fn handle_messages(&self) {
        let mut random = self.random(0);
        let mut result = Payload::large(&mut random);
        for line in io::stdin().lock().lines() {
            let Ok(line) = line else { break };
            if line == SERVER_IS_AWAY {
                self.server_is_available.store(false, Relaxed);
            } else if line == SERVER_IS_BACK {
                self.server_is_available.store(true, Relaxed);
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
        // The demo has ended; without it, this agent would never stop.
        process::exit(1);
    }

    fn save_config(&self, version: u64, random: &mut Random) {
        let len = 200 + random.below(8000);
        let raw = random.bytes(len);
        let digest = contents::config_digest(version, &raw);
        self.call(Kind::SaveConfig, put(CONFIG, digest), |store| store.save_config(version, &raw));
    }

    fn queue_jobs(&self) {
        let mut random = self.random(1);
        let mut n = 0;
        while self.is_running() {
            n += 1;
            let run_id = format!("run-{:03}-{n:05}", self.number);
            // Some jobs are enqueued a second time, with another payload.
            let attempts = if random.one_in(8) { 2 } else { 1 };
            for _ in 0..attempts {
                self.queue_job(&run_id, &Payload::small(&mut random));
            }
            thread::sleep(random.micros_below(6_000));
        }
    }

    fn queue_job(&self, run_id: &str, payload: &Payload) {
        let cell = contents::job_cell(run_id);
        self.call(Kind::EnqueueJob, put(&cell, payload.digest), |store| store.enqueue_job(run_id, &payload.bytes));
    }

    /// Buffers events in bursts. Some have an earlier time than the previous event, and many have the same.
    fn buffer_logs(&self, thread: u64) {
        let mut random = self.random(1 + thread);
        let mut n = 0;
        while self.is_running() {
            for _ in 0..random.below(12) {
                n += 1;
                let cell = format!("{LOG}{}.{thread}.{n}", self.number);
                let ts_ms = now_ms() - if random.one_in(6) { 500 } else { 0 };
                let mut payload = format!("{cell} ").into_bytes();
                payload.resize(payload.len() + 40 + usize::from(random.one_in(4)) * 300, b'.');
                let digest = contents::event_digest(ts_ms, &payload);
                self.call(Kind::BufferLog, put(&cell, digest), |store| store.buffer_log(ts_ms, &payload));
            }
            thread::sleep(random.micros_below(20_000));
        }
    }

    fn beat(&self) {
        let mut random = self.random(4);
        while self.is_running() {
            let ts_ms = now_ms();
            let digest = ts_ms.cast_unsigned();
            self.call(Kind::RecordHeartbeat, put(HEARTBEAT, digest), |store| store.record_heartbeat(ts_ms));
            if random.one_in(10) {
                let session_id = format!("session-{:x}", random.next());
                let digest = contents::session_digest(&session_id, ts_ms);
                self.call(Kind::SaveSession, put(SESSION, digest), |store| store.save_session(&session_id, ts_ms));
            }
            thread::sleep(random.micros_below(20_000));
        }
    }

    /// Delivers jobs and log events to the server while it is available, and acks them only afterwards, so that a
    /// kill in between repeats the delivery.
    fn deliver(&self) {
        let mut random = self.random(5);
        while self.is_running() {
            if self.server_is_available.load(Relaxed) {
                let jobs = self.store.dequeue_jobs(8).unwrap_or_else(|error| fail(&error));
                for job in jobs {
                    self.deliver_job(&job, &mut random);
                }
                self.deliver_events(&mut random);
            }
            thread::sleep(random.micros_below(4_000));
        }
    }

    /// Acks a job and enqueues its completion message in one batch. A completion message itself is only acked.
    fn deliver_job(&self, job: &QueuedJob, random: &mut Random) {
        let QueuedJob { run_id, payload, .. } = job;
        let cell = contents::job_cell(run_id);
        send(&Message::DeliveredJob { cell: cell.clone(), digest: contents::job_digest(payload) });
        wait_for_server(random);
        let mut changes = vec![Change { cell, digest: None }];
        if run_id.ends_with(COMPLETION) {
            return self.call(Kind::AckJob, changes, |store| store.ack_job(run_id));
        }
        let completion = format!("{run_id}{COMPLETION}");
        let message = Payload::new(random.bytes(40));
        changes.extend(put(&contents::job_cell(&completion), message.digest));
        let batch = Batch::new().ack_job(run_id).enqueue_job(&completion, &message.bytes);
        self.call(Kind::Write, changes, |store| store.write(&batch));
    }

    fn deliver_events(&self, random: &mut Random) {
        let batch = self.store.peek_logs(EVENTS_AT_ONCE).unwrap_or_else(|error| fail(&error));
        if batch.events().is_empty() {
            return;
        }
        let events: Vec<_> = batch.events().iter().map(contents::as_event).collect();
        let changes = events.iter().map(|event| Change { cell: event.cell.clone(), digest: None }).collect();
        send(&Message::DeliveredEvents(events));
        wait_for_server(random);
        self.call(Kind::AckLogs, changes, |store| store.ack_logs(&batch));
    }
}

/// The time until the server's answer arrives.
fn wait_for_server(random: &mut Random) {
    thread::sleep(random.micros_below(600));
}

/// The changes of a call that puts one value.
fn put(cell: &str, digest: u64) -> Vec<Change> {
    vec![Change { cell: cell.to_owned(), digest: Some(digest) }]
}

/// The suffix of a completion message's run id.
const COMPLETION: &str = "/done";
/// Few enough for one message to be shorter than `PIPE_BUF`.
const EVENTS_AT_ONCE: usize = 32;

/// Prepared before its call, so that the call of a large job spends its time in the store.
struct Payload {
    bytes: Vec<u8>,
    digest: u64,
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
        let digest = contents::job_digest(&bytes);
        Payload { bytes, digest }
    }
}
