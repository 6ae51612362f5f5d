//! Files of earlier versions, in `golden/`: every later version opens them and finds what the `.txt` of the same
//! name lists. The files are never written again; a new format gets new ones.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use backupy_state::{
    AgentKey, Batch, Durability, Error, LogLimits, OpenOptions, QueueOrder, Snapshot, Store, WhenFull, salvage,
    verify_each,
};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn key() -> AgentKey {
    AgentKey::new("bkpy_golden_0123456789abcdef01234567").unwrap()
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
            writeln!(text, "job: {:?} {}", job.run_id, show(&job.payload)).unwrap();
        }
        for event in logs.events() {
            writeln!(text, "event: {} {}", event.ts_ms, show(&event.payload)).unwrap();
        }
        writeln!(text, "dropped: {}", logs.dropped()).unwrap();
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
        [first, ..] if bytes.len() > 100 => format!("{} bytes of {first}", bytes.len()),
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
            let run_id = operation.run_id.as_deref().unwrap_or_default();
            let (action, bucket, len) = (operation.action, operation.bucket, operation.value_len);
            writeln!(text, "  {action} {bucket} {run_id:?} {len:?}").unwrap();
        }
    });
    let report = report.unwrap();
    assert!(report.is_intact(), "{report:?}");
    let without_key = verify_each(path, None, |_| {}).unwrap();
    assert!(without_key.is_intact());
    assert_eq!((without_key.frames, without_key.log_len), (report.frames, report.log_len));
    let ending = (report.ends_closed, report.torn_len);
    writeln!(text, "generation {}, ends closed and torn bytes: {ending:?}", report.generation).unwrap();
    text += &of_snapshot(&Snapshot::open(path, &key()).unwrap());
    let store = OpenOptions::new().create(false).queue_order(QueueOrder::Fifo).open(path, &key()).unwrap();
    let ids: Vec<_> = store.dequeue_jobs(usize::MAX).unwrap().into_iter().map(|job| job.run_id).collect();
    writeln!(text, "by latest enqueue: {ids:?}").unwrap();
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
    store.close().unwrap();

    let store = Store::open(path, &key()).unwrap();
    store.compact().unwrap();
    store.enqueue_job("run-ä", &[b'x'; 5000]).unwrap();
    store.enqueue_job("run-b", b"dump of orders, again").unwrap();
    store.ack_job("run-a").unwrap();
    assert_eq!(store.drain_logs(1).unwrap().len(), 1);
    let batch = Batch::new().ack_job("run-ä").enqueue_job("run-c", b"third").buffer_log(i64::MAX, b"last");
    store.write(&batch.buffer_log(2, b"second, too").record_heartbeat(i64::MIN)).unwrap();
    store.close().unwrap();

    let mut limits = LogLimits::default();
    (limits.max_count, limits.when_full) = (Some(3), WhenFull::DropOldest);
    let mut options = OpenOptions::new();
    options.log_limits(limits).durability(Durability::Buffered);
    let store = options.open(path, &key()).unwrap();
    store.enqueue_job("run-A", b"upper case comes first").unwrap();
    store.buffer_log(3, b"the oldest makes room").unwrap();
    let peeked = store.peek_logs(1).unwrap();
    assert_eq!(peeked.dropped(), 1);
    store.ack_logs(&peeked).unwrap();
    store.buffer_log(4, b"fits").unwrap();
    store.buffer_log(5, b"and one more makes room").unwrap();
    store.save_session("session-2", 1_700_000_000_001).unwrap();
    store.save_config(8, &[b'c'; 300]).unwrap();
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
