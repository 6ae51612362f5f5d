//! Checks that the store and the reader written from FORMAT.md see the same in a file.

use backupy_state::testing::{open_snapshot_on, options_on, verify_on};
use backupy_state::{AgentKey, Error, Fault, FaultKind, QueueOrder, Store};

use crate::memory::Memory;
use crate::page_reader::{self, BadValue, Contents, Log, Refusal};

pub(crate) const PATH: &str = "/state.db";

/// Opens the file by both, compares all that they say, and returns the row of FORMAT.md that decided.
pub(crate) fn agree(file: &[u8], key: &[u8], what: &str) -> &'static str {
    let memory = Memory::with_file(PATH, file.to_vec());
    let opened = options_on(memory.clone()).open(PATH, &AgentKey::new(key).unwrap());
    match (page_reader::read(file, key), opened) {
        (Ok(log), Ok(store)) => {
            agree_on_log(&log, &store, what);
            agree_on_frames(file, key, &log, what);
            if let Some(until) = log.torn_until {
                assert_eq!(memory.bytes("/state.db.torn-1"), file[log.end..until], "{what}");
                assert_eq!(memory.bytes(PATH), file[..log.end], "{what}");
            } else {
                assert_eq!(memory.bytes(PATH), file, "{what}");
            }
            agree_on_contents(&log.contents, &store, what);
            log.row
        }
        (Err(Refusal { row, offset }), Err(error)) => {
            let told = match error {
                Error::NotAStore { .. } => ("not a store", 0),
                Error::UnsupportedFormat { .. } => ("unsupported format", 0),
                Error::WrongKey { .. } => ("wrong key", 0),
                Error::Corrupt { offset, .. } => ("damage", offset),
                Error::Unauthentic { offset, .. } => ("tampering", offset),
                error => panic!("{what}: {row} at {offset}, but the store says: {error}"),
            };
            let verdict = match row {
                "H3" => "not a store",
                "H4" => "unsupported format",
                "H5" | "H6" | "H9" | "F6" => "damage",
                "H7" => "wrong key",
                _ => "tampering",
            };
            assert_eq!(told, (verdict, offset as u64), "{what}: {row}");
            assert_eq!(memory.bytes(PATH), file, "{what}");
            row
        }
        (Ok(log), Err(error)) => panic!("{what}: the page reads it by {}, but the store says: {error}", log.row),
        (Err(refusal), Ok(_)) => panic!("{what}: the store opens it, but the page says: {refusal:?}"),
    }
}

fn agree_on_log(log: &Log, store: &Store, what: &str) {
    let report = store.recovery();
    let records = log.frames.iter().filter(|frame| frame.kind == 1);
    let operations: usize = records.clone().map(|frame| frame.operations.len()).sum();
    assert_eq!((report.records, report.operations), (records.count() as u64, operations as u64), "{what}");
    assert_eq!(report.clean, log.row == "E1", "{what}");
    let torn_len = log.torn_until.map_or(0, |until| until - log.end);
    assert_eq!(report.quarantined_bytes, torn_len as u64, "{what}");
    assert_eq!(report.quarantined.is_some(), log.torn_until.is_some(), "{what}");
    let stats = store.stats();
    assert_eq!((stats.generation, stats.seq), (log.header.generation, log.frames.len() as u64), "{what}");
    assert_eq!(stats.log_len, log.end as u64, "{what}");
}

fn agree_on_frames(file: &[u8], key: &[u8], log: &Log, what: &str) {
    let mut frames = log.frames.iter();
    let memory = Memory::with_file(PATH, file.to_vec());
    let report = verify_on(&*memory, PATH, Some(&AgentKey::new(key).unwrap()), |seen| {
        let frame = frames.next().unwrap();
        assert_eq!((seen.offset, seen.len), (frame.offset as u64, frame.len as u64), "{what}");
        assert_eq!((seen.seq, seen.durable_seq), (frame.seq, frame.durable_seq), "{what}");
        assert_eq!(seen.is_close, frame.kind == 2, "{what}");
        let lens = frame.operations.iter().map(|operation| (operation.key.len(), operation.value_len));
        let seen = seen.operations.iter().map(|seen| (seen.key_len, seen.value_len.map(|len| len as usize)));
        assert!(seen.eq(lens), "{what}");
    })
    .unwrap();
    assert_eq!(frames.count(), 0, "{what}");
    let bad = log.frames.iter().flat_map(|frame| &frame.values).filter(|value| value.plaintext.is_none());
    // What opens and is not as its bucket's values are has no place in this list.
    let is_seal =
        |fault: &&Fault| fault.kind != FaultKind::Header && fault.what == "the value failed authentication";
    let faults = report.faults.iter().filter(is_seal);
    assert!(faults.map(|fault| fault.offset).eq(bad.map(|value| value.offset as u64)), "{what}");
}

/// Also empties the store's log buffer: only a drain shows its events.
fn agree_on_contents(contents: &Contents, store: &Store, what: &str) {
    let config = store.load_config().map(|found| found.map(|config| (config.version, config.raw)));
    assert_eq!(config.map_err(bad_value), contents.config(), "{what}");
    let session = store.load_session().map(|found| found.map(|it| (it.server_time_ms, it.session_id)));
    assert_eq!(session.map_err(bad_value), contents.session(), "{what}");
    assert_eq!(store.last_heartbeat().map_err(bad_value), contents.heartbeat(), "{what}");
    if let Ok(dropped) = contents.dropped() {
        assert_eq!(store.stats().logs_dropped, dropped, "{what}");
    }
    let jobs = contents.jobs();
    assert_eq!(store.queue_depth(), jobs.len(), "{what}");
    for (run_id, payload) in &jobs {
        match (store.job(run_id), payload) {
            (Ok(Some(job)), Some(payload)) => assert_eq!(job.payload, *payload, "{what}: {run_id}"),
            (Err(Error::Unauthentic { run_id: named, .. }), None) => assert_eq!(named.as_ref(), Some(run_id)),
            (found, _) => panic!("{what}: {run_id} is {found:?}"),
        }
    }
    if jobs.iter().all(|(_, payload)| payload.is_some()) {
        let found = store.dequeue_jobs(usize::MAX).unwrap().into_iter();
        assert!(found.map(|job| job.run_id).eq(jobs.into_iter().map(|(run_id, _)| run_id)), "{what}");
    }
    let data = contents.data();
    assert!(store.data_keys("").eq(data.iter().map(|(key, _)| key.clone())), "{what}");
    for (key, value) in data {
        assert_eq!(store.data(&key).map_err(bad_value), value.map(Some).ok_or(BadValue), "{what}: {key}");
    }
    let events = contents.logs();
    assert_eq!(store.log_count(), events.len(), "{what}");
    let readable: Vec<_> =
        events.iter().map_while(|(ts_ms, _, payload)| Some((*ts_ms, payload.clone()?))).collect();
    match store.drain_logs(usize::MAX) {
        Ok(found) => {
            let found: Vec<_> = found.into_iter().map(|event| (event.ts_ms, event.payload)).collect();
            assert_eq!(found, readable, "{what}");
        }
        Err(error) => {
            assert!(matches!(error, Error::Unauthentic { .. }), "{what}: {error}");
            assert!(readable.is_empty() && !events.is_empty(), "{what}");
        }
    }
}

fn bad_value(error: Error) -> BadValue {
    assert!(matches!(error, Error::Unauthentic { .. }), "{error}");
    BadValue
}

/// What needs another way of opening: the order by latest enqueue, and a reader without the lock.
pub(crate) fn agree_on_orders(file: &[u8], key: &[u8], what: &str) {
    let contents = page_reader::read(file, key).unwrap_or_else(|refusal| panic!("{what}: {refusal:?}")).contents;
    let memory = Memory::with_file(PATH, file.to_vec());
    let key = AgentKey::new(key).unwrap();
    let snapshot = open_snapshot_on(memory.clone(), PATH, &key).unwrap();
    let seen = snapshot.dequeue_jobs(usize::MAX).unwrap().into_iter().map(|job| (job.run_id, Some(job.payload)));
    assert!(seen.eq(contents.jobs()), "{what}");
    let store = options_on(memory).queue_order(QueueOrder::Fifo).open(PATH, &key).unwrap();
    let fifo = store.dequeue_jobs(usize::MAX).unwrap().into_iter().map(|job| job.run_id);
    assert!(fifo.eq(contents.run_ids_by_latest_enqueue()), "{what}");
}
