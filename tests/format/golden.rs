//! Files of earlier versions, in `golden/`: every later version opens them and finds what the `.txt` of the same
//! name lists. They are frozen; a new format gets new ones.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use backupy_state::{
    AgentKey, Batch, Durability, Error, LogAdmission, LogLimits, OpenOptions, QueueOrder, Snapshot, Store,
    WhenFull, salvage, verify_each,
};

use crate::page_reader::{self, Frame};
use crate::vectors::to_hex;
use crate::{agree, agree::agree_on_orders};

/// Of each file in the folder. To change one is to change the format: see the README there.
const SHA_256: [(&str, &str); 5] = [
    ("draft-1.db", "a345e5874dfd2b622048608467deebca4b1b49f31d795af5fa86d6c1e64f6ac7"),
    ("format-2-torn.db", "ac4f7ecea7f754322a503601472a3deac900dc32e856ccb1a4cb2d7f3ecd91e0"),
    ("format-2-torn.txt", "b8b883112dfc9a275bd2458298dec236903dde541194d0e2a354033e88e1ee93"),
    ("format-2.db", "130c848e3eefcce4b9f934a167f43d5d537d1233cf9298882f998fd0780b2d7f"),
    ("format-2.txt", "2f5de24120e2a71de12675afa2d08d0fabf75ff681ac5022b89e157fa77d0d78"),
];

const AGENT_KEY: &[u8] = b"bkpy_golden_0123456789abcdef01234567";

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn key() -> AgentKey {
    AgentKey::new(AGENT_KEY).unwrap()
}

/// What a store or a snapshot shows, as text.
macro_rules! contents {
    ($reader:expr, $logs:expr) => {{
        let (reader, logs) = (&$reader, $logs);
        let mut text = String::new();
        let config = reader.load_config().unwrap().map(|config| (config.version, show(&config.raw)));
        writeln!(text, "config: {config:?}").unwrap();
        let session = reader.load_session().unwrap().map(|session| (session.session_id, session.server_time_ms));
        writeln!(text, "session: {session:?}").unwrap();
        writeln!(text, "heartbeat: {:?}", reader.last_heartbeat().unwrap()).unwrap();
        for job in reader.dequeue_jobs(usize::MAX).unwrap() {
            writeln!(text, "job: {} {}", show(job.run_id.as_bytes()), show(&job.payload)).unwrap();
        }
        for event in logs.events() {
            writeln!(text, "event: {} {}", event.ts_ms, show(&event.payload)).unwrap();
        }
        writeln!(text, "dropped: {}", logs.dropped()).unwrap();
        for key in reader.data_keys("") {
            let value = reader.data(&key).unwrap().unwrap();
            writeln!(text, "data: {} {}", show(key.as_bytes()), show(&value)).unwrap();
        }
        text
    }};
}

fn of_store(store: &Store) -> String {
    contents!(store, store.peek_logs(usize::MAX).unwrap())
}

fn of_snapshot(snapshot: &Snapshot) -> String {
    contents!(snapshot, snapshot.peek_logs(usize::MAX).unwrap())
}

/// Text in full, longer values by their length and first byte.
fn show(bytes: &[u8]) -> String {
    match bytes {
        [first, ..] if bytes.len() > 100 => format!("{} bytes of {:?}", bytes.len(), char::from(*first)),
        _ => format!("{:?}", String::from_utf8_lossy(bytes)),
    }
}

/// Everything about the file at `path`: its frames, what a snapshot shows, and the queue by latest enqueue.
fn describe(path: &Path) -> String {
    let mut text = String::new();
    let report = verify_each(path, Some(&key()), |frame| {
        let kind = if frame.is_close { "close" } else { "record" };
        let place = format!("{} at {}, {} bytes", frame.seq, frame.offset, frame.len);
        writeln!(text, "frame: {kind} {place}, vouches for {}", frame.durable_seq).unwrap();
        for operation in &frame.operations {
            let key = operation.run_id.as_ref().or(operation.data_key.as_ref());
            let key = key.map_or(format!("a key of {} bytes", operation.key_len), |key| show(key.as_bytes()));
            let (action, bucket) = (operation.action, operation.bucket);
            let value = operation.value_len.map_or(String::new(), |len| format!(", a value of {len} bytes"));
            writeln!(text, "  {action} {bucket} {key}{value}").unwrap();
        }
    });
    let report = report.unwrap();
    assert!(report.is_intact(), "{report:?}");
    let without_key = verify_each(path, None, |_| {}).unwrap();
    assert!(without_key.is_intact());
    assert_eq!((without_key.frames, without_key.log_len), (report.frames, report.log_len));
    let ending = (report.ends_closed, report.torn_len, report.torn_marks);
    writeln!(text, "generation {}, ends closed, torn bytes, torn marks: {ending:?}", report.generation).unwrap();
    text += &of_snapshot(&Snapshot::open(path, &key()).unwrap());
    let store = OpenOptions::new().create(false).queue_order(QueueOrder::Fifo).open(path, &key()).unwrap();
    let ids: Vec<_> = store.run_ids().map(|run_id| show(run_id.as_bytes())).collect();
    writeln!(text, "by latest enqueue: {}", ids.join(", ")).unwrap();
    text
}

fn copy(name: &str) -> (tempfile::TempDir, PathBuf) {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("state.db");
    fs::copy(folder().join(name), &path).unwrap();
    (place, path)
}

fn names(extension: &str) -> BTreeSet<String> {
    let files = fs::read_dir(folder()).unwrap().map(|file| file.unwrap().path());
    let files = files.filter(|path| path.extension().is_some_and(|found| found == extension));
    let files = files.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("format-"));
    files.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect()
}

#[test]
fn no_golden_file_has_changed() {
    let mut found: Vec<_> = fs::read_dir(folder()).unwrap().map(|file| file.unwrap().path()).collect();
    found.retain(|path| !path.ends_with("README.md"));
    found.sort();
    let sum = |path: PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        (name, to_hex(&Sha256::digest(fs::read(path).unwrap())))
    };
    let found: Vec<_> = found.into_iter().map(sum).collect();
    assert_eq!(found, SHA_256.map(|(name, sum)| (name.to_owned(), sum.to_owned())));
}

#[test]
fn every_reader_sees_the_same_in_a_golden_file() {
    for (name, row) in [("format-2", "E1"), ("format-2-torn", "E3")] {
        let file = fs::read(folder().join(format!("{name}.db"))).unwrap();
        assert_eq!(agree(&file, AGENT_KEY, name), row);
        agree_on_orders(&file, AGENT_KEY, name);
    }
}

#[test]
fn the_golden_files_have_everything_that_a_store_writes() {
    const PUT: u8 = 1;
    const DELETE: u8 = 2;
    const DELETE_THROUGH: u8 = 3;
    const REGISTRY: u8 = 3;
    const LOGS: u8 = 4;
    for name in ["format-2", "format-2-torn"] {
        let file = fs::read(folder().join(format!("{name}.db"))).unwrap();
        let log = page_reader::read(&file, AGENT_KEY).unwrap_or_else(|refusal| panic!("{refusal:?}"));
        let operations = log.frames.iter().flat_map(|frame| &frame.operations);
        let found: BTreeSet<_> = operations.clone().map(|it| (it.kind, it.bucket)).collect();
        // A store never deletes its configuration, and deletes through a key only in the log buffer.
        let (puts, deletes) = ((1..=5).map(|bucket| (PUT, bucket)), (2..=5).map(|bucket| (DELETE, bucket)));
        assert_eq!(found, puts.chain(deletes).chain([(DELETE_THROUGH, LOGS)]).collect(), "{name}");
        let registry: BTreeSet<_> = operations.filter(|it| it.bucket == REGISTRY).map(|it| &it.key[..]).collect();
        assert_eq!(registry, [&b"session"[..], b"heartbeat", b"dropped"].into(), "{name}");

        let buckets = |frame: &Frame| frame.operations.iter().map(|it| it.bucket).collect::<BTreeSet<_>>().len();
        let base = log.header.base.unwrap();
        assert!(log.frames.iter().any(|frame| frame.seq > base.seq && buckets(frame) == 5), "{name}: no batch");
        assert!(log.frames.iter().any(|frame| frame.durable_seq + 1 < frame.seq), "{name}: nothing buffered");
        assert!(log.frames.iter().any(|frame| frame.values.iter().any(|value| value.len == 0)), "{name}");
        let marks = [4096, 6144].map(|at| u64::from_le_bytes(file[at + 8..at + 16].try_into().unwrap()));
        assert!(marks.iter().all(|seq| (base.seq..=log.frames.len() as u64).contains(seq)), "{name}: {marks:?}");
    }
}

#[test]
fn every_golden_file_holds_what_its_text_says() {
    let stores = names("db");
    assert!(stores.contains("format-2") && stores.contains("format-2-torn"), "{stores:?}");
    assert_eq!(stores, names("txt"));
    for name in stores {
        let expected = fs::read_to_string(folder().join(format!("{name}.txt"))).unwrap();
        let (_place, path) = copy(&format!("{name}.db"));
        assert_eq!(describe(&path), expected, "{name}");
    }
}

/// It was never released, and nothing reads it any more.
#[test]
fn a_file_of_the_draft_is_refused_by_its_name_and_not_changed() {
    let (_place, path) = copy("draft-1.db");
    let before = fs::read(&path).unwrap();
    let errors = [
        Store::open(&path, &key()).unwrap_err(),
        Snapshot::open(&path, &key()).unwrap_err(),
        verify_each(&path, None, |_| {}).unwrap_err(),
        salvage(&path, &key(), path.with_file_name("salvaged.db")).unwrap_err(),
    ];
    for error in errors {
        assert!(matches!(error, Error::UnsupportedFormat { version: 1, .. }), "{error:?}");
        assert!(error.to_string().contains("is in format version 1, a draft that was never released"), "{error}");
    }
    assert_eq!(fs::read(&path).unwrap(), before);
}

/// And so it does after everything that copies it.
#[test]
fn every_golden_file_can_be_written_compacted_and_salvaged() {
    for name in names("db") {
        let (place, path) = copy(&format!("{name}.db"));
        let store = Store::open(&path, &key()).unwrap();
        let held = of_store(&store);
        store.compact().unwrap();
        store.enqueue_job("new", b"new").unwrap();
        assert!(store.ack_job("new").unwrap());
        assert_eq!(of_store(&store), held, "{name}");
        store.close().unwrap();

        let (_damaged, path) = copy(&format!("{name}.db"));
        let salvaged = place.path().join("salvaged.db");
        assert!(salvage(&path, &key(), &salvaged).unwrap().is_complete());
        assert_eq!(of_store(&Store::open(&salvaged, &key()).unwrap()), held, "{name}");
    }
}

/// How the files were made: `cargo test --test format make_the_golden -- --ignored`. It does not replace what is
/// there.
#[test]
#[ignore = "makes golden files"]
fn make_the_golden_files() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("state.db");
    write_sessions(&path);
    put(&path, "format-2", usize::MAX);

    // As a power cut leaves it in the middle of the last record.
    let store = Store::open(&path, &key()).unwrap();
    store.save_config(9, b"every=5m").unwrap();
    store.ack_job("run-b").unwrap();
    store.delete_data("zähler/備份").unwrap();
    store.enqueue_job("run-torn", &[7; 600]).unwrap();
    let end = usize::try_from(store.stats().log_len).unwrap();
    put(&path, "format-2-torn", end - 300);
}

/// Several sessions with every kind of operation on every bucket that has it.
fn write_sessions(path: &Path) {
    let store = Store::open(path, &key()).unwrap();
    store.save_config(7, b"every=1h").unwrap();
    store.enqueue_job("run-b", b"dump of orders").unwrap();
    store.enqueue_job("run-a", b"").unwrap();
    store.save_session("session-1", -1).unwrap();
    store.record_heartbeat(1_700_000_000_000).unwrap();
    store.buffer_log(2, b"second").unwrap();
    store.buffer_log(-1, b"before 1970").unwrap();
    store.put_data("cursor/orders", b"41").unwrap();
    store.put_data("empty", b"").unwrap();
    store.put_data("retry/run-a", b"1").unwrap();
    store.close().unwrap();

    let store = Store::open(path, &key()).unwrap();
    store.compact().unwrap();
    store.enqueue_job("run-ä", &[b'x'; 5000]).unwrap();
    store.enqueue_job("run-b", b"dump of orders, again").unwrap();
    store.ack_job("run-a").unwrap();
    assert_eq!(store.drain_logs(1).unwrap().len(), 1);
    store.put_data("cursor/orders", b"42").unwrap();
    store.put_data("zähler/備份", "jobs: 3 — ça va".as_bytes()).unwrap();
    assert!(store.delete_data("retry/run-a").unwrap());
    let batch = Batch::new().ack_job("run-ä").enqueue_job("run-c", b"third").buffer_log(i64::MAX, b"last");
    let batch = batch.buffer_log(2, b"second, too").record_heartbeat(i64::MIN);
    let batch = batch.delete_data("cursor/orders").put_data("dead/run-ä", &[b'x'; 5000]);
    store.write(&batch.save_config(8, b"").save_session("session-\u{1F511}", i64::MAX)).unwrap();
    store.close().unwrap();

    let mut limits = LogLimits::default();
    (limits.max_count, limits.max_bytes, limits.when_full) = (Some(3), Some(1000), WhenFull::DropOldest);
    let mut options = OpenOptions::new();
    options.log_limits(limits).durability(Durability::Buffered);
    let store = options.open(path, &key()).unwrap();
    store.enqueue_job("run-A", b"upper case comes first").unwrap();
    store.buffer_log(3, b"one of a clock that was ahead makes room").unwrap();
    store.buffer_log(4, b"the oldest makes room").unwrap();
    let peeked = store.peek_logs(1).unwrap();
    assert_eq!((peeked.dropped(), store.ack_logs(&peeked).unwrap()), (2, 1));
    let peeked = store.peek_logs(1).unwrap();
    store.buffer_log(-2, b"older than what is acked").unwrap();
    assert_eq!(store.ack_logs(&peeked).unwrap(), 1);
    assert_eq!(store.buffer_log(5, &[b'l'; 1001]).unwrap(), LogAdmission::Dropped);
    store.buffer_log(i64::MAX, b"").unwrap();
    store.save_session("session-2", 1_700_000_000_001).unwrap();
    store.save_config(u64::MAX, &[b'c'; 300]).unwrap();
    store.enqueue_job(&"r".repeat(1024), b"").unwrap();
    store.put_data(&"k".repeat(1024), b"the longest key").unwrap();
    store.close().unwrap();
}

fn put(path: &Path, name: &str, len: usize) {
    let (store, text) = (folder().join(format!("{name}.db")), folder().join(format!("{name}.txt")));
    assert!(!store.exists() && !text.exists(), "{name} exists and is not written again");
    let bytes = fs::read(path).unwrap();
    fs::write(&store, &bytes[..len.min(bytes.len())]).unwrap();
    let (_place, copied) = copy(&format!("{name}.db"));
    fs::write(text, describe(&copied)).unwrap();
}
