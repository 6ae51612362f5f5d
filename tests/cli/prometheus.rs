//! `stats --format prometheus`: read by a parser that others wrote, and compared with the JSON.

use std::collections::{BTreeMap, BTreeSet};

use prometheus_parse::{Scrape, Value};

use crate::sandbox::{HEARTBEAT_MS, Sandbox};

/// The value of each metric, after the checks that every exporter's output must pass.
fn scraped(out: &str) -> BTreeMap<String, f64> {
    let scrape = Scrape::parse(out.lines().map(|line| Ok(line.to_owned()))).unwrap();
    let samples = out.lines().filter(|line| !line.starts_with('#')).count();
    // The parser passes over what it does not understand.
    assert_eq!(scrape.samples.len(), samples, "{out}");
    let mut values = BTreeMap::new();
    for sample in scrape.samples {
        let name = sample.metric;
        assert!(name.starts_with("backupy_state_"), "{name}");
        assert!(scrape.docs.get(&name).is_some_and(|help| help.ends_with('.')), "{name} has no HELP");
        assert_eq!(sample.labels.get("state"), Some("[DIR]/state.db"), "{name}");
        let value = match sample.value {
            Value::Counter(value) => {
                assert!(name.ends_with("_total"), "{name}");
                value
            }
            Value::Gauge(value) => {
                assert!(!name.ends_with("_total"), "{name}");
                value
            }
            other => panic!("{name} has no TYPE: {other:?}"),
        };
        assert_eq!(values.insert(name, value), None);
    }
    values
}

#[test]
fn the_metrics_are_those_of_the_json() {
    let sandbox = Sandbox::filled();
    let metrics = scraped(&sandbox.run("stats --format prometheus").success());
    let json = sandbox.run("stats --format json").json();
    for (metric, field) in [
        ("jobs", "jobs"),
        ("queue_bytes", "queue_bytes"),
        ("log_events", "log_events"),
        ("dropped_log_events", "logs_dropped"),
        ("file_bytes", "file_len"),
        ("log_bytes", "log_len"),
        ("live_bytes", "live_bytes"),
        ("dead_bytes", "dead_bytes"),
        ("free_bytes", "free_bytes"),
        ("reserved_bytes", "reserved_bytes"),
        ("acks_on_full_disk", "acks_on_full_disk"),
        ("frames", "seq"),
        ("compactions_total", "compactions"),
    ] {
        assert_eq!(metrics[&format!("backupy_state_{metric}")], json[field].as_f64().unwrap(), "{metric}");
    }
    let seconds = |name: &str| metrics[&format!("backupy_state_{name}_timestamp_seconds")];
    assert_eq!((seconds("oldest_log_event"), seconds("last_heartbeat")), (0.006, HEARTBEAT_MS as f64 / 1000.0));
    assert_eq!(metrics["backupy_state_compaction_available"], 1.0);
    assert_eq!(metrics["backupy_state_replayed_bytes"], json["opening"]["replayed_bytes"].as_f64().unwrap());
    assert!(metrics["backupy_state_disk_free_bytes"] > 0.0);
    assert_eq!(metrics.len(), 18);
}

#[test]
fn every_metric_is_documented() {
    let page = include_str!("../../docs/command-line.md");
    let section = page.split_once("\n## Metrics\n").unwrap().1.split("\n## ").next().unwrap();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `")?.split(" |").next());
    let documented = rows.flat_map(|names| names.split('`')).filter(|name| !["", ", "].contains(name));
    let documented: BTreeSet<String> = documented.map(|name| format!("backupy_state_{name}")).collect();
    let printed = scraped(&Sandbox::filled().run("stats --format prometheus").success());
    assert_eq!(documented, printed.into_keys().collect());
}

#[test]
fn what_is_not_there_has_no_metric() {
    let sandbox = Sandbox::empty();
    sandbox.close(sandbox.open());
    let metrics = scraped(&sandbox.run("stats --format prometheus").success());
    assert!(metrics.keys().all(|name| !name.ends_with("_timestamp_seconds")), "{metrics:?}");
    assert_eq!(metrics.len(), 16);
}

#[test]
fn the_format_text_is_the_table_and_json_is_what_json_prints() {
    let sandbox = Sandbox::filled();
    // The free space of the disk differs from one moment to the next.
    let without_disk = |out: String| -> Vec<String> {
        let parts = out.split(if out.starts_with('{') { ',' } else { '\n' }).map(str::to_owned);
        parts.filter(|part| !part.contains("disk ") && !part.contains("disk_free")).collect()
    };
    for (format, same) in [("--format text", ""), ("--format json", "--json"), ("--format json --json", "--json")]
    {
        let [left, right] =
            [format, same].map(|args| without_disk(sandbox.run(&format!("stats {args}")).success()));
        assert_eq!(left, right, "{format}");
    }
    let report = Sandbox::empty().run("stats --format json").failed_json(6);
    assert_eq!(report["error"]["kind"], "not_found");
}
