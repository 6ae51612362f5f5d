//! Feature `serde`: the JSON of reports and anchors.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use backupy_state::{
    AgentKey, Anchor, Batch, Config, LogBatch, LogEvent, OnDamage, OpenOptions, QueuedJob, RecoveryReport,
    Session, Snapshot, Stats, Store, salvage, verify, verify_each,
};
use serde_json::{Value, json, to_value};

fn key() -> AgentKey {
    AgentKey::new("key").unwrap()
}

fn names(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

#[test]
fn statistics_have_the_names_of_their_fields_and_durations_in_microseconds() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path().join("state.db"), &key()).unwrap();
    store.enqueue_job("run-1", b"payload").unwrap();
    let stats: Stats = store.stats();
    let value = to_value(&stats).unwrap();
    let counts = stats.since_opened.unwrap();
    let expected = json!({
        "syncs": 1,
        "sync_time_us": u64::try_from(counts.sync_time.as_micros()).unwrap(),
        "longest_sync_us": u64::try_from(counts.longest_sync.as_micros()).unwrap(),
        "bytes_written": counts.bytes_written,
        "logs_dropped": 0,
    });
    assert_eq!(value["since_opened"], expected);
    assert_eq!(value["opening"], json!({ "by_index": false, "replayed_bytes": 0 }));
    assert_eq!(value["queue_limits"], json!({ "max_count": null, "max_bytes": null }));
    assert_eq!((&value["jobs"], &value["oldest_log_ms"]), (&json!(1), &Value::Null));
    assert_eq!(value["compaction"]["left_out"], json!([]));
}

#[test]
fn a_recovery_that_has_salvaged_has_that_report_in_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    let store = Store::open(&path, &key()).unwrap();
    store.enqueue_job("run-1", b"payload").unwrap();
    store.enqueue_job("run-2", b"payload").unwrap();
    store.close().unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[8192 + 60] ^= 1;
    std::fs::write(&path, bytes).unwrap();

    let fault = &to_value(verify(&path, Some(&key())).unwrap()).unwrap()["faults"][0];
    assert_eq!((&fault["offset"], &fault["kind"]), (&json!(8192), &json!("damage")));
    let salvaged = to_value(salvage(&path, &key(), folder.path().join("new.db")).unwrap()).unwrap();
    assert_eq!((&salvaged["jobs"], &salvaged["lost"][0]["first_seq"]), (&json!(1), &json!(1)));

    let store = OpenOptions::new().on_damage(OnDamage::SetAside).open(&path, &key()).unwrap();
    let report: &RecoveryReport = store.recovery();
    let value = to_value(report).unwrap();
    assert_eq!(value["took_us"], json!(u64::try_from(report.took.as_micros()).unwrap()));
    assert_eq!((&value["clean"], &value["quarantined"]), (&json!(false), &Value::Null));
    assert_eq!(value["salvaged"]["to"], json!(store.path()));
}

#[test]
fn enums_are_their_names_in_snake_case() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    Store::open(&path, &key()).unwrap().close().unwrap();
    assert_eq!(to_value(verify(&path, None).unwrap()).unwrap()["index"], "not_compared");
    assert_eq!(to_value(verify(&path, Some(&key())).unwrap()).unwrap()["index"], "not_used");
}

#[test]
fn a_frame_is_serialized_without_its_values() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    Store::open(&path, &key()).unwrap().enqueue_job("run-1", b"payload").unwrap();
    let mut frames = Vec::new();
    verify_each(&path, Some(&key()), |frame| frames.push(to_value(frame).unwrap())).unwrap();
    let operation = json!({ "action": "put", "bucket": "queue", "key_len": 5, "run_id": "run-1",
        "data_key": null, "value_len": 7 });
    assert_eq!((&frames[0]["operations"], &frames[1]["is_close"]), (&json!([operation]), &json!(true)));
}

#[test]
fn a_path_that_is_no_utf_8_is_a_string_with_replacement_characters() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(OsStr::from_bytes(b"a\xff.db"));
    Store::open(&path, &key()).unwrap().close().unwrap();
    let value = to_value(verify(&path, None).unwrap()).unwrap();
    assert!(value["path"].as_str().unwrap().ends_with("/a\u{fffd}.db"), "{value}");
}

#[test]
fn a_compaction_has_the_names_of_its_fields() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path().join("state.db"), &key()).unwrap();
    let value = to_value(store.compact().unwrap()).unwrap();
    let expected = ["bytes_after", "bytes_before", "damaged", "generation", "left_out", "took_us"];
    assert_eq!(names(&value), expected);
}

/// Has two implementations for a type that can be serialized, so that naming the trait no longer compiles.
trait NotSerialized<A> {
    fn check() {}
}
impl<T: ?Sized> NotSerialized<()> for T {}
impl<T: ?Sized + serde::Serialize> NotSerialized<u8> for T {}

#[test]
fn nothing_that_holds_a_secret_can_be_serialized() {
    <AgentKey as NotSerialized<_>>::check();
    <Config as NotSerialized<_>>::check();
    <QueuedJob as NotSerialized<_>>::check();
    <Session as NotSerialized<_>>::check();
    <LogEvent as NotSerialized<_>>::check();
    <LogBatch as NotSerialized<_>>::check();
    <Batch as NotSerialized<_>>::check();
    <Store as NotSerialized<_>>::check();
    <Snapshot as NotSerialized<_>>::check();
    <OpenOptions as NotSerialized<_>>::check();
}

#[test]
fn an_anchor_is_its_string_and_is_read_back_from_it() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path().join("state.db"), &key()).unwrap();
    store.record_heartbeat(1).unwrap();
    let anchor = store.anchor();
    let json = serde_json::to_string(&anchor).unwrap();
    assert_eq!(json, format!("\"{anchor}\""));
    assert_eq!(serde_json::from_str::<Anchor>(&json).unwrap(), anchor);
    // From a reader, the string is not borrowed.
    assert_eq!(serde_json::from_reader::<_, Anchor>(json.as_bytes()).unwrap(), anchor);
    let wrong = serde_json::from_str::<Anchor>("\"0.1\"").unwrap_err();
    assert!(wrong.to_string().contains("ID.GENERATION.SEQ.TAG"), "{wrong}");
    assert!(serde_json::from_str::<Anchor>("7").unwrap_err().to_string().contains("an anchor of the form"));
}
