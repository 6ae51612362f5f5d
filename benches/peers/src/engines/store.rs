//! The store with default options, except for the durability that the workload asks for.

use std::path::Path;

use backupy_state::{AgentKey, Batch, Durability, LogAdmission, OpenOptions, Snapshot, Store};

use crate::engine::{Engine, Job, Mode};

pub(crate) fn open(folder: &Path, mode: Mode) -> Store {
    let durability = match mode {
        Mode::Durable => Durability::Sync,
        Mode::Buffered | Mode::Bulk => Durability::Buffered,
    };
    OpenOptions::new().durability(durability).open(folder.join("state.db"), &key()).unwrap()
}

pub(crate) fn open_snapshot(folder: &Path) -> Snapshot {
    Snapshot::open(folder.join("state.db"), &key()).unwrap()
}

fn key() -> AgentKey {
    AgentKey::new("bkpy_0123456789abcdef0123456789abcdef").unwrap()
}

impl Engine for Store {
    fn enqueue(&self, run_id: &str, payload: &[u8]) {
        self.enqueue_job(run_id, payload).unwrap();
    }

    fn enqueue_all(&self, jobs: &[Job]) {
        let add = |batch: Batch, (run_id, payload): &Job| batch.enqueue_job(run_id, payload);
        self.write(&jobs.iter().fold(Batch::new(), add)).unwrap();
    }

    fn ack(&self, run_id: &str) {
        assert!(self.ack_job(run_id).unwrap());
    }

    fn ack_all(&self, run_ids: &[String]) {
        self.write(&run_ids.iter().fold(Batch::new(), |batch, id| batch.ack_job(id))).unwrap();
    }

    fn dequeue(&self, count: usize) -> usize {
        std::hint::black_box(self.dequeue_jobs(count).unwrap()).len()
    }

    fn depth(&self) -> Option<u64> {
        Some(self.queue_depth() as u64)
    }

    fn save_config(&self, raw: &[u8]) {
        Store::save_config(self, 1, raw).unwrap();
    }

    fn load_config(&self) -> usize {
        std::hint::black_box(Store::load_config(self).unwrap().unwrap()).raw.len()
    }

    fn heartbeat(&self, ts_ms: i64) {
        self.record_heartbeat(ts_ms).unwrap();
    }

    fn log(&self, ts_ms: i64, payload: &[u8]) {
        assert_eq!(self.buffer_log(ts_ms, payload).unwrap(), LogAdmission::Buffered);
    }

    fn drain(&self, count: usize) -> usize {
        std::hint::black_box(self.drain_logs(count).unwrap()).len()
    }

    fn sync(&self) {
        Store::sync(self).unwrap();
    }

    fn close(self: Box<Self>) {
        Store::close(&self).unwrap();
    }
}
