//! The agent's own data: its calls, its keys in order, and what keeps it.

use backupy_state::{AgentKey, Batch, Error, Result, Snapshot, Store, salvage, verify_each};

use crate::common::{Image, Place, key};

fn keys(store: &Store, prefix: &str) -> Vec<String> {
    store.data_keys(prefix).collect()
}

/// Everything, as a list.
fn all(store: &Store) -> Vec<(String, Vec<u8>)> {
    store.data_keys("").map(|key| (key.clone(), store.data(&key).unwrap().unwrap())).collect()
}

#[test]
fn a_value_is_put_read_replaced_and_deleted() {
    let place = Place::new();
    let store = place.open();
    assert_eq!(store.data("cursor").unwrap(), None);
    store.put_data("cursor", b"first").unwrap();
    assert_eq!(store.data("cursor").unwrap().unwrap(), b"first");
    store.put_data("cursor", b"").unwrap();
    assert_eq!(store.data("cursor").unwrap().unwrap(), b"");
    assert_eq!(store.data("curso").unwrap(), None);
    assert!(store.delete_data("cursor").unwrap());
    assert_eq!(store.data("cursor").unwrap(), None);

    let before = store.stats();
    assert!(!store.delete_data("cursor").unwrap());
    assert_eq!(store.stats().seq, before.seq, "nothing is written");
}

/// A run id and a data key may be the same text.
#[test]
fn data_is_apart_from_the_queue() {
    let place = Place::new();
    let store = place.open();
    store.enqueue_job("run-1", b"job").unwrap();
    store.put_data("run-1", b"data").unwrap();
    assert!(store.ack_job("run-1").unwrap());
    assert_eq!(store.data("run-1").unwrap().unwrap(), b"data");
    store.enqueue_job("run-1", b"job").unwrap();
    assert!(store.delete_data("run-1").unwrap());
    assert_eq!(store.queue_depth(), 1);
}

fn assert_invalid<T: std::fmt::Debug>(called: Result<T>) {
    assert!(matches!(&called, Err(Error::Invalid { what, .. }) if what == "the data key is empty"), "{called:?}");
}

fn assert_too_large<T: std::fmt::Debug>(called: Result<T>, name: &str, expected: u64) {
    let is_expected = matches!(&called, Err(Error::TooLarge { what, len, max, .. })
        if *what == name && *len == expected + 1 && *max == expected);
    assert!(is_expected, "{called:?}");
}

#[test]
fn keys_have_1_to_1024_bytes_and_values_up_to_16_mib() {
    let place = Place::new();
    let store = place.open();
    let (longest, too_long) = ("é".repeat(512), "é".repeat(512) + "x");
    let largest = vec![7; 16 << 20];
    store.put_data(&longest, &largest).unwrap();
    store.put_data("\0", b"any text is a key").unwrap();
    assert_eq!(keys(&store, ""), ["\0", &longest]);
    assert!(store.data(&longest).unwrap().unwrap() == largest);

    let seq = store.stats().seq;
    let snapshot = Snapshot::open(place.path(), &key()).unwrap();
    assert_invalid(store.put_data("", b"value"));
    assert_invalid(store.data(""));
    assert_invalid(store.delete_data(""));
    assert_invalid(snapshot.data(""));
    assert_invalid(store.write(&Batch::new().put_data("", b"value")));
    assert_invalid(store.write(&Batch::new().delete_data("")));
    assert_too_large(store.put_data(&too_long, b"value"), "a data key", 1024);
    assert_too_large(store.data(&too_long), "a data key", 1024);
    assert_too_large(store.delete_data(&too_long), "a data key", 1024);
    assert_too_large(snapshot.data(&too_long), "a data key", 1024);
    assert_too_large(store.write(&Batch::new().put_data(&too_long, b"")), "a data key", 1024);
    assert_too_large(store.write(&Batch::new().delete_data(&too_long)), "a data key", 1024);
    let too_large = vec![7; (16 << 20) + 1];
    assert_too_large(store.put_data("key", &too_large), "a data value", 16 << 20);
    assert_too_large(store.write(&Batch::new().put_data("key", &too_large)), "a data value", 16 << 20);
    assert_eq!(store.stats().seq, seq, "nothing is written");
    // No key is that long, which is no error.
    assert_eq!(keys(&store, &too_long), Vec::<String>::new());
}

#[test]
fn keys_are_listed_by_prefix_in_byte_order() {
    let place = Place::new();
    let store = place.open();
    let long = "a/a key that is longer than the 38 bytes of a short key";
    let sorted = ["A", "a", "a/1", "a/10", "a/2", long, "a/é", "a0", "b/1", "é"];
    for key in ["b/1", "a/é", "a", "é", "a/2", long, "a/10", "A", "a0", "a/1"] {
        store.put_data(key, key.as_bytes()).unwrap();
    }
    let check = |list: &dyn Fn(&str) -> Vec<String>| {
        assert_eq!(list(""), sorted);
        assert_eq!(list("a/"), ["a/1", "a/10", "a/2", long, "a/é"]);
        assert_eq!(list("a/1"), ["a/1", "a/10"]);
        assert_eq!(list(long), [long]);
        assert_eq!(list("é"), ["é"]);
        for absent in ["a/3", "a1", "b/1/", "c", "ü", "\0"] {
            assert_eq!(list(absent), Vec::<String>::new(), "{absent}");
        }
    };
    let check_both = |store: &Store| {
        check(&|prefix| keys(store, prefix));
        let snapshot = Snapshot::open(place.path(), &key()).unwrap();
        check(&|prefix| snapshot.data_keys(prefix).collect());
    };
    check_both(&store);
    store.close().unwrap();
    // The index of a store that was opened has another form.
    let store = place.open();
    check_both(&store);
    store.compact().unwrap();
    check_both(&store);
}

/// With and without a compaction between two items, which gives every value another place.
#[test]
fn a_key_is_given_once_if_it_was_there_at_first_and_still_is() {
    for is_compacted in [false, true] {
        let place = Place::new();
        let store = place.open();
        for key in ["b", "d", "f", "h", "j"] {
            store.put_data(key, b"first").unwrap();
        }
        let mut listed = store.data_keys("");
        assert_eq!(listed.size_hint(), (0, Some(5)));
        assert_eq!(listed.next().unwrap(), "b");
        // One that was given, one that follows, one that is gone and put again, and two new ones.
        store.put_data("b", b"second").unwrap();
        store.put_data("d", b"second").unwrap();
        store.delete_data("f").unwrap();
        store.delete_data("h").unwrap();
        store.put_data("h", b"third").unwrap();
        store.put_data("a", b"new").unwrap();
        store.put_data("k", b"new").unwrap();
        if is_compacted {
            store.compact().unwrap();
        }
        assert_eq!(listed.by_ref().collect::<Vec<_>>(), ["d", "h", "j"]);
        assert!(listed.next().is_none());
        assert_eq!(format!("{listed:?}"), "DataKeys { max_left: 0, .. }");
    }
}

#[test]
fn the_loop_over_the_keys_may_delete_and_put() {
    let place = Place::new();
    let store = place.open();
    for number in 0..20 {
        store.put_data(&format!("old/{number}"), &[number]).unwrap();
    }
    for key in store.data_keys("old/") {
        let value = store.data(&key).unwrap().unwrap();
        store.write(&Batch::new().delete_data(&key).put_data(&key.replace("old", "new"), &value)).unwrap();
    }
    assert_eq!((keys(&store, "old/").len(), keys(&store, "new/").len()), (0, 20));
}

#[test]
fn a_batch_moves_a_job_to_data_in_one_record() {
    let place = Place::new();
    let store = place.open();
    store.enqueue_job("run-1", b"job").unwrap();
    store.put_data("retry/run-1", b"3").unwrap();
    let seq = store.stats().seq;
    let dead = Batch::new().ack_job("run-1").put_data("dead/run-1", b"job").delete_data("retry/run-1");
    store.write(&dead).unwrap();
    assert_eq!(store.stats().seq, seq + 1);
    assert_eq!((store.queue_depth(), all(&store)), (0, vec![("dead/run-1".to_owned(), b"job".to_vec())]));
}

#[test]
fn the_last_call_of_a_batch_on_a_key_wins() {
    let place = Place::new();
    let store = place.open();
    let batch = Batch::new().put_data("a", b"1").delete_data("a").delete_data("b").put_data("b", b"2");
    store.write(&batch.put_data("c", b"3").put_data("c", b"4")).unwrap();
    assert_eq!(all(&store), [("b".to_owned(), b"2".to_vec()), ("c".to_owned(), b"4".to_vec())]);
    // A run id of the same text is another key.
    store.enqueue_job("c", b"job").unwrap();
    store.write(&Batch::new().delete_data("c").ack_job("c")).unwrap();
    assert_eq!((store.queue_depth(), keys(&store, "")), (0, vec!["b".to_owned()]));
}

#[test]
fn a_batch_that_deletes_only_what_is_not_there_is_not_written() {
    let place = Place::new();
    let store = place.open();
    store.put_data("a", b"1").unwrap();
    let seq = store.stats().seq;
    store.write(&Batch::new().delete_data("b").delete_data("c")).unwrap();
    assert_eq!(store.stats().seq, seq);
    store.write(&Batch::new().delete_data("a").delete_data("a")).unwrap();
    assert_eq!((store.stats().seq, keys(&store, "").len()), (seq + 1, 0));
}

#[test]
fn a_batch_with_an_invalid_key_writes_nothing() {
    let place = Place::new();
    let store = place.open();
    store.enqueue_job("run-1", b"job").unwrap();
    assert_invalid(store.write(&Batch::new().ack_job("run-1").put_data("a", b"1").delete_data("")));
    assert_eq!((store.queue_depth(), all(&store)), (1, Vec::new()));
}

#[test]
fn data_survives_reopening_compaction_a_new_key_a_backup_and_a_salvage() {
    let place = Place::new();
    let store = place.open();
    store.put_data("gone", b"deleted").unwrap();
    for (key, value) in [("cursor/a", &b"old"[..]), ("cursor/a", b"row 7"), ("empty", b""), ("é", &[9; 5000])] {
        store.put_data(key, value).unwrap();
    }
    store.delete_data("gone").unwrap();
    let expected = all(&store);
    assert_eq!(expected.len(), 3);
    store.close().unwrap();
    let store = place.open();
    assert_eq!(all(&store), expected);
    store.compact().unwrap();
    assert_eq!(all(&store), expected);
    store.backup(place.at("backup.db")).unwrap();
    let other = AgentKey::new("another").unwrap();
    store.rekey(&other).unwrap();
    assert_eq!(all(&store), expected);
    store.close().unwrap();

    let report = salvage(place.path(), &other, place.at("salvaged.db")).unwrap();
    assert_eq!((report.data_keys, report.is_complete()), (3, true));
    for (name, key) in [("state.db", &other), ("backup.db", &key()), ("salvaged.db", &other)] {
        assert_eq!(all(&Store::open(place.at(name), key).unwrap()), expected, "{name}");
    }
}

#[test]
fn a_snapshot_shows_data_as_it_was_until_it_is_refreshed() {
    let place = Place::new();
    let store = place.open();
    store.put_data("a", b"1").unwrap();
    store.put_data("b", b"2").unwrap();
    let mut snapshot = Snapshot::open(place.path(), &key()).unwrap();
    store.put_data("a", b"3").unwrap();
    store.delete_data("b").unwrap();
    store.put_data("c", b"4").unwrap();
    let shown = |snapshot: &Snapshot| -> Vec<_> {
        snapshot.data_keys("").map(|key| (key.clone(), snapshot.data(&key).unwrap().unwrap())).collect()
    };
    assert_eq!(shown(&snapshot), [("a".to_owned(), b"1".to_vec()), ("b".to_owned(), b"2".to_vec())]);
    assert_eq!((snapshot.stats().data_keys, snapshot.stats().data_bytes), (2, 2));
    snapshot.refresh().unwrap();
    assert_eq!(shown(&snapshot), [("a".to_owned(), b"3".to_vec()), ("c".to_owned(), b"4".to_vec())]);
}

#[test]
fn stats_count_keys_and_the_bytes_of_their_values() {
    let place = Place::new();
    let store = place.open();
    let counted = |store: &Store| (store.stats().data_keys, store.stats().data_bytes);
    assert_eq!(counted(&store), (0, 0));
    store.enqueue_job("run-1", &[0; 70]).unwrap();
    store.put_data("a", &[0; 100]).unwrap();
    store.put_data("b", &[0; 20]).unwrap();
    store.put_data("a", &[0; 3]).unwrap();
    assert_eq!(counted(&store), (2, 23));
    assert_eq!((store.stats().jobs, store.stats().queue_bytes), (1, 70));
    store.close().unwrap();
    let store = place.open();
    assert_eq!(counted(&store), (2, 23));
    store.delete_data("b").unwrap();
    assert_eq!(counted(&store), (1, 3));
    store.compact().unwrap();
    assert_eq!(counted(&store), (1, 3));
}

#[test]
fn verify_each_names_data_keys_and_shows_no_value() {
    let place = Place::new();
    let store = place.open();
    store.put_data("cursor", b"row 7").unwrap();
    store.delete_data("cursor").unwrap();
    store.close().unwrap();
    let mut operations = Vec::new();
    verify_each(place.path(), Some(&key()), |frame| operations.extend(frame.operations.clone())).unwrap();
    let seen: Vec<_> = operations
        .iter()
        .map(|it| (it.action, it.bucket, it.data_key.as_deref(), it.run_id.as_deref(), it.key_len, it.value_len))
        .collect();
    let put = ("put", "data", Some("cursor"), None, 6, Some(5));
    assert_eq!(seen, [put, ("delete", "data", Some("cursor"), None, 6, None)]);
}

/// Three keys, of which the value of `b` fails authentication.
fn with_a_changed_value() -> (Place, u64) {
    let place = Place::new();
    let store = place.open();
    for key in ["a", "b", "c"] {
        store.put_data(key, format!("value of {key}").as_bytes()).unwrap();
    }
    store.close().unwrap();
    let mut image = Image::read(place.path());
    let frame = image.frames()[1].clone();
    // After the frame header, the manifest of one put and its tag.
    let value_at = frame.start + 48 + (4 + 4 + 1 + 4) + 16;
    image.flip(value_at).fix_crc(frame.start);
    image.write(place.path());
    (place, value_at as u64)
}

#[test]
fn a_changed_value_names_its_key_and_blocks_nothing_else() {
    for is_replaced in [false, true] {
        let (place, value_at) = with_a_changed_value();
        let store = place.open();
        let is_b = |error: &Error| match error {
            Error::Unauthentic { data_key: Some(key), run_id: None, offset, .. } => {
                key == "b" && *offset == value_at
            }
            _ => false,
        };
        let error = store.data("b").unwrap_err();
        assert!(is_b(&error), "{error:?}");
        let hint = "; this is the value of data key \"b\"; delete or replace it";
        assert!(error.to_string().ends_with(hint), "{error}");
        assert!(is_b(&Snapshot::open(place.path(), &key()).unwrap().data("b").unwrap_err()));
        assert_eq!(keys(&store, ""), ["a", "b", "c"]);
        assert_eq!(store.data("c").unwrap().unwrap(), b"value of c");
        // Compaction cannot copy it: its error names the key.
        assert!(is_b(&store.compact().unwrap_err()));
        if is_replaced {
            store.put_data("b", b"new").unwrap();
            assert_eq!(store.data("b").unwrap().unwrap(), b"new");
        } else {
            assert!(store.delete_data("b").unwrap());
        }
        store.compact().unwrap();
        assert_eq!(all(&store).len(), 2 + usize::from(is_replaced));
    }
}

#[test]
fn salvage_lists_the_key_of_a_lost_value() {
    let (place, value_at) = with_a_changed_value();
    let report = salvage(place.path(), &key(), place.at("salvaged.db")).unwrap();
    assert_eq!((report.data_keys, report.lost.len(), report.lost[0].offset), (2, 1, value_at));
    let lost = &report.lost[0].keys[0];
    assert_eq!((lost.bucket, lost.data_key.as_deref(), lost.run_id.as_deref()), ("data", Some("b"), None));
    assert_eq!(keys(&Store::open(place.at("salvaged.db"), &key()).unwrap(), ""), ["a", "c"]);
}
