//! The jobs that the workloads and the baselines use, and how an engine is filled with them.

use crate::engine::{Engine, Job};
use crate::engines;

pub(crate) const PAYLOAD: [u8; 512] = [7; 512];

/// A log is synced so often while it is filled: what it does after a durable call is done as if all were durable.
const JOBS_PER_SYNC: usize = 500;

/// How many jobs are live during churn.
pub(crate) const LIVE: usize = 100;

/// As long and as random as a UUID.
pub(crate) fn run_id(i: usize) -> String {
    let random = (i as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    format!("{:08x}-f00a-41db-aff5-{i:012x}", random >> 32)
}

pub(crate) fn jobs(numbers: std::ops::Range<usize>, payload: &[u8]) -> Vec<Job> {
    numbers.map(|i| (run_id(i), payload.to_vec())).collect()
}

/// Logs are filled job by job, as an agent would, with a sync now and then: their layout depends on how they were
/// written. The layout of a tree does not, so trees are filled a hundred jobs at a time.
pub(crate) fn fill(engine: &dyn Engine, name: &str, count: usize, payload: &[u8]) {
    if engines::is_log(name) {
        for i in 0..count {
            engine.enqueue(&run_id(i), payload);
            if i % JOBS_PER_SYNC == 0 {
                engine.sync();
            }
        }
        return;
    }
    let step = 100.max(count / 100);
    for first in (0..count).step_by(step) {
        engine.enqueue_all(&jobs(first..count.min(first + step), payload));
    }
}

/// Enqueues and acks `pairs` jobs while `LIVE` jobs remain in the queue.
pub(crate) fn churn_buffered(engine: &dyn Engine, name: &str, pairs: usize) {
    engine.enqueue_all(&jobs(0..LIVE, &PAYLOAD));
    let step = if engines::is_log(name) { 1 } else { 10 };
    for first in (0..pairs).step_by(step) {
        if step == 1 {
            engine.enqueue(&run_id(first + LIVE), &PAYLOAD);
            engine.ack(&run_id(first));
        } else {
            engine.enqueue_all(&jobs(first + LIVE..first + LIVE + step, &PAYLOAD));
            engine.ack_all(&(first..first + step).map(run_id).collect::<Vec<_>>());
        }
        if first % JOBS_PER_SYNC == 0 && step == 1 {
            engine.sync();
        }
        if first % 1000 == 0 {
            engine.tidy();
        }
    }
}
