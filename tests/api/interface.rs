//! The public interface, each name with its exact types. A change that would break the agent does not compile
//! here.

use std::fmt::{Debug, Display};
use std::iter::FusedIterator;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use backupy_state::{
    AgentKey, Anchor, Batch, CompactionPolicy, CompactionReport, Config, DataKeys, Durability, Enqueued, Error,
    Jobs, Limit, LogAdmission, LogBatch, LogEvent, LogLimits, LogRate, Logs, OnDamage, OpenOptions, QueueOrder,
    QueuedJob, RecoveryReport, Result, RunIds, SalvageReport, Session, Snapshot, Stats, Store, VerifyReport,
    WhenFull, salvage, verify,
};

type Builder<T> = for<'a> fn(&'a mut OpenOptions, T) -> &'a mut OpenOptions;

#[test]
fn keys_come_from_bytes_the_environment_and_files() {
    let _: fn(&'static str) -> Result<AgentKey> = AgentKey::new;
    let _: fn(Vec<u8>) -> Result<AgentKey> = AgentKey::new;
    let _: fn(&str) -> Result<AgentKey> = AgentKey::from_env;
    let _: fn(PathBuf) -> Result<AgentKey> = AgentKey::from_file;
    assert!(matches!(AgentKey::new([]), Err(Error::Invalid { .. })));
    assert_eq!(format!("{:?}", AgentKey::new("secret").unwrap()), "AgentKey(***)");
}

#[test]
fn the_choices_and_their_defaults_are_as_they_were_promised() {
    fn choice<T: Copy + Default + Debug + PartialEq>(default: T, other: T) {
        assert!(T::default() == default && default != other);
    }
    choice(Durability::Sync, Durability::Buffered);
    choice(QueueOrder::RunId, QueueOrder::Fifo);
    choice(WhenFull::DropOldest, WhenFull::DropNewest);
    choice(OnDamage::Refuse, OnDamage::SetAside);
    let LogLimits { max_count, max_bytes, rate, when_full, .. } = LogLimits::default();
    let _: (Option<u64>, Option<u64>, Option<LogRate>, WhenFull) = (max_count, max_bytes, rate, when_full);
    assert_eq!((max_count, max_bytes), (Some(100_000), Some(64 << 20)));
    let LogRate { per_second, burst, .. } = LogRate::default();
    assert_eq!((rate, per_second, burst), (Some(LogRate::default()), 1_000_u32, 10_000_u32));
    let CompactionPolicy { automatic, min_len, dead_ratio, .. } = CompactionPolicy::default();
    assert_eq!((automatic, min_len, dead_ratio), (true, 1_u64 << 20, 0.5_f64));
}

#[test]
fn options_are_a_builder_like_that_of_std() {
    let _: fn() -> OpenOptions = OpenOptions::new;
    let _: Builder<bool> = OpenOptions::create;
    let _: Builder<Duration> = OpenOptions::lock_timeout;
    let _: Builder<Durability> = OpenOptions::durability;
    let _: Builder<Durability> = OpenOptions::heartbeat_durability;
    let _: Builder<Durability> = OpenOptions::log_durability;
    let _: Builder<LogLimits> = OpenOptions::log_limits;
    let _: Builder<QueueOrder> = OpenOptions::queue_order;
    let _: Builder<CompactionPolicy> = OpenOptions::compaction;
    let _: Builder<bool> = OpenOptions::mmap;
    let _: Builder<AgentKey> = OpenOptions::previous_key;
    let _: Builder<Anchor> = OpenOptions::expect_at_least;
    let _: Builder<OnDamage> = OpenOptions::on_damage;
    let _: fn(&OpenOptions, &'static Path, &AgentKey) -> Result<Store> = OpenOptions::open;
}

#[test]
fn a_store_is_shared_between_threads_and_every_call_takes_it_by_reference() {
    fn shared<T: Send + Sync + 'static>() {}
    shared::<(Store, Snapshot, OpenOptions, AgentKey, Batch, LogBatch, Anchor, Error)>();
    let _: fn(String, &AgentKey) -> Result<Store> = Store::open;
    let _: fn(&Store) -> &Path = Store::path;
    let _: fn(&Store) -> Result<()> = Store::close;

    let _: fn(&Store, u64, &[u8]) -> Result<()> = Store::save_config;
    let _: fn(&Store) -> Result<Option<Config>> = Store::load_config;

    let _: fn(&Store, &str, &[u8]) -> Result<Enqueued> = Store::enqueue_job;
    let _: fn(&Store, usize) -> Result<Vec<QueuedJob>> = Store::dequeue_jobs;
    let _: fn(&Store, Limit) -> Result<Vec<QueuedJob>> = Store::dequeue_jobs;
    let _: fn(&Store, &str, usize) -> Result<Vec<QueuedJob>> = Store::dequeue_jobs_after;
    let _: fn(&Store, &str, Limit) -> Result<Vec<QueuedJob>> = Store::dequeue_jobs_after;
    let _: fn(&Store) -> Jobs<'_> = Store::jobs;
    let _: fn(&Store) -> RunIds<'_> = Store::run_ids;
    let _: fn(&Store, &str) -> Result<Option<QueuedJob>> = Store::job;
    let _: fn(&Store, &str) -> Result<bool> = Store::ack_job;
    let _: fn(&Store) -> usize = Store::queue_depth;

    let _: fn(&Store, &str, i64) -> Result<()> = Store::save_session;
    let _: fn(&Store) -> Result<Option<Session>> = Store::load_session;
    let _: fn(&Store, i64) -> Result<()> = Store::record_heartbeat;
    let _: fn(&Store) -> Result<Option<i64>> = Store::last_heartbeat;

    let _: fn(&Store, i64, &[u8]) -> Result<LogAdmission> = Store::buffer_log;
    let _: fn(&Store, usize) -> Result<Vec<LogEvent>> = Store::drain_logs;
    let _: fn(&Store, Limit) -> Result<Vec<LogEvent>> = Store::drain_logs;
    let _: fn(&Store, usize) -> Result<LogBatch> = Store::peek_logs;
    let _: fn(&Store, Limit) -> Result<LogBatch> = Store::peek_logs;
    let _: fn(&Store, &LogBatch) -> Result<usize> = Store::ack_logs;
    let _: fn(&Store) -> Logs<'_> = Store::logs;
    let _: fn(&Store) -> usize = Store::log_count;

    let _: fn(&Store, &str, &[u8]) -> Result<()> = Store::put_data;
    let _: fn(&Store, &str) -> Result<Option<Vec<u8>>> = Store::data;
    let _: fn(&Store, &str) -> Result<bool> = Store::delete_data;
    let _: for<'a> fn(&'a Store, &str) -> DataKeys<'a> = Store::data_keys;

    let _: fn(&Store, &Batch) -> Result<()> = Store::write;
    let _: fn(&Store) -> Result<()> = Store::sync;
    let _: fn(&Store) -> Anchor = Store::anchor;
    let _: fn(&Store) -> &RecoveryReport = Store::recovery;
    let _: fn(&Store) -> Stats = Store::stats;
    let _: fn(&Store) -> Result<CompactionReport> = Store::compact;
    let _: fn(&Store, &AgentKey) -> Result<()> = Store::rekey;
    let _: fn(&Store, &'static str) -> Result<()> = Store::backup;
}

#[test]
fn iterators_have_types_with_names_and_go_to_other_threads() {
    fn iterates<I: Iterator<Item = T> + FusedIterator + Send + Sync + Debug, T>() {}
    iterates::<Jobs<'_>, Result<QueuedJob>>();
    iterates::<RunIds<'_>, String>();
    iterates::<Logs<'_>, Result<LogEvent>>();
    iterates::<DataKeys<'_>, String>();
}

#[test]
fn a_limit_is_of_count_and_bytes() {
    let _: [fn(usize) -> Limit; 3] = [Limit::count, Limit::bytes, Limit::from];
    let _: [fn(Limit, usize) -> Limit; 2] = [Limit::and_count, Limit::and_bytes];
    fn is_plain<T: Copy + Debug + PartialEq>(_: T) {}
    is_plain(Limit::count(1));
}

#[test]
fn a_batch_chains_the_writing_calls() {
    let batch: Batch = Batch::new()
        .save_config(1, b"raw")
        .enqueue_job("run-1", b"payload")
        .ack_job("run-1")
        .save_session("session", -1)
        .record_heartbeat(-1)
        .buffer_log(-1, b"event")
        .put_data("cursor", b"value")
        .delete_data("cursor");
    assert_eq!((batch.len(), batch.is_empty(), batch.clone().len()), (8, false, 8));
}

#[test]
fn a_snapshot_has_the_reading_calls_of_a_store() {
    let _: fn(&'static str, &AgentKey) -> Result<Snapshot> = Snapshot::open;
    let _: fn(&mut Snapshot) -> Result<()> = Snapshot::refresh;
    let _: fn(&Snapshot) -> &Path = Snapshot::path;
    let _: fn(&Snapshot) -> Result<Option<Config>> = Snapshot::load_config;
    let _: fn(&Snapshot, usize) -> Result<Vec<QueuedJob>> = Snapshot::dequeue_jobs;
    let _: fn(&Snapshot, Limit) -> Result<Vec<QueuedJob>> = Snapshot::dequeue_jobs;
    let _: fn(&Snapshot, &str, usize) -> Result<Vec<QueuedJob>> = Snapshot::dequeue_jobs_after;
    let _: fn(&Snapshot, &str, Limit) -> Result<Vec<QueuedJob>> = Snapshot::dequeue_jobs_after;
    let _: fn(&Snapshot) -> Jobs<'_> = Snapshot::jobs;
    let _: fn(&Snapshot) -> RunIds<'_> = Snapshot::run_ids;
    let _: fn(&Snapshot, &str) -> Result<Option<QueuedJob>> = Snapshot::job;
    let _: fn(&Snapshot) -> usize = Snapshot::queue_depth;
    let _: fn(&Snapshot) -> Result<Option<Session>> = Snapshot::load_session;
    let _: fn(&Snapshot) -> Result<Option<i64>> = Snapshot::last_heartbeat;
    let _: fn(&Snapshot, usize) -> Result<LogBatch> = Snapshot::peek_logs;
    let _: fn(&Snapshot, Limit) -> Result<LogBatch> = Snapshot::peek_logs;
    let _: fn(&Snapshot) -> Logs<'_> = Snapshot::logs;
    let _: fn(&Snapshot) -> usize = Snapshot::log_count;
    let _: fn(&Snapshot, &str) -> Result<Option<Vec<u8>>> = Snapshot::data;
    let _: for<'a> fn(&'a Snapshot, &str) -> DataKeys<'a> = Snapshot::data_keys;
    let _: fn(&Snapshot) -> Anchor = Snapshot::anchor;
    let _: fn(&Snapshot) -> Stats = Snapshot::stats;
}

#[test]
fn functions_take_any_path() {
    let _: fn(&'static str, Option<&AgentKey>) -> Result<VerifyReport> = verify;
    let _: fn(PathBuf, &AgentKey, &'static Path) -> Result<SalvageReport> = salvage;
    let _: fn(&VerifyReport) -> bool = VerifyReport::is_intact;
    #[cfg(feature = "import-bolt")]
    let _: fn(PathBuf, &AgentKey, &Store) -> Result<backupy_state::ImportReport> = backupy_state::import_bolt;
}

#[test]
fn what_calls_return_has_public_fields() {
    let _ = |Config { version, raw, .. }| -> (u64, Vec<u8>) { (version, raw) };
    let _ = |QueuedJob { run_id, payload, .. }| -> (String, Vec<u8>) { (run_id, payload) };
    let _ = |Session { session_id, server_time_ms, .. }| -> (String, i64) { (session_id, server_time_ms) };
    let _ = |LogEvent { ts_ms, payload, .. }| -> (i64, Vec<u8>) { (ts_ms, payload) };
    let _ = |batch: &LogBatch| -> (Vec<LogEvent>, u64) { (batch.events().to_vec(), batch.dropped()) };
    fn copied<T: Copy>(_: T) {}
    copied([Enqueued::Added, Enqueued::Replaced]);
    copied([LogAdmission::Buffered, LogAdmission::DroppedOldest(1), LogAdmission::Dropped]);
    fn goes_to_and_from_a_string<T: Display + FromStr + Copy + Eq>() {}
    goes_to_and_from_a_string::<Anchor>();
}

/// Every case that a caller can distinguish: a new error is added here and to the documentation, with its use.
#[test]
fn the_errors_are_these() {
    fn name(error: &Error) -> Option<&'static str> {
        Some(match error {
            Error::Invalid { .. } => "Invalid",
            Error::TooLarge { .. } => "TooLarge",
            Error::NotFound { .. } => "NotFound",
            Error::Locked { .. } => "Locked",
            Error::NotAStore { .. } => "NotAStore",
            Error::UnsupportedFormat { .. } => "UnsupportedFormat",
            Error::WrongKey { .. } => "WrongKey",
            Error::Corrupt { .. } => "Corrupt",
            Error::Unauthentic { .. } => "Unauthentic",
            Error::Stale { .. } => "Stale",
            Error::Full { .. } => "Full",
            Error::Failed { .. } => "Failed",
            Error::Io { .. } => "Io",
            _ => return None,
        })
    }
    fn is_an_error<T: std::error::Error + Send + Sync + 'static>(_: &T) {}
    let error = AgentKey::new("").unwrap_err();
    is_an_error(&error);
    assert_eq!(name(&error), Some("Invalid"));
}
