//! A `tracing` subscriber of an agent that buffers the agent's log events in the store until the server has them.
//!
//! ```sh
//! cargo run --example log_layer --features tracing
//! ```
//!
//! - It does not buffer the events of the store itself, whose target starts with `backupy_state`: on a full disk,
//!   each event that cannot be buffered would cause another one, without end.
//! - It does not report its own failures through `tracing`, for the same reason.
//! - It has a `Weak` handle: a subscriber lives as long as the process, and would keep the store open.
//!
//! The store emits no event while it holds a lock, so a subscriber may make any call at any event. With
//! `tracing-subscriber`, what `event` does here belongs in `Layer::on_event`.

use std::error::Error;
use std::fmt::{Debug, Write};
use std::sync::{Arc, Weak};
use std::time::{SystemTime, UNIX_EPOCH};

use backupy_state::{AgentKey, Durability, OpenOptions, Store};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber, info, warn};

struct LogLayer {
    store: Weak<Store>,
}

impl Subscriber for LogLayer {
    fn event(&self, event: &Event<'_>) {
        let metadata = event.metadata();
        let mut line = Line(metadata.level().to_string());
        event.record(&mut line);
        if metadata.target().starts_with("backupy_state") {
            eprintln!("{}", line.0);
        } else if let Some(store) = self.store.upgrade()
            && let Err(error) = store.buffer_log(now_ms(), line.0.as_bytes())
        {
            eprintln!("{} (not buffered: {error})", line.0);
        }
    }

    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    // This agent has no spans.
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// The fields of an event, one after the other.
struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        // Writing to a `String` cannot fail.
        let _ = write!(self.0, " {}={value:?}", field.name());
    }
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let key = AgentKey::new("bkpy_0123456789abcdef0123456789abcdef")?;
    let mut options = OpenOptions::new();
    // A log event does not wait for the disk: the next durable call or `close` makes it durable.
    options.log_durability(Durability::Buffered);
    let store = Arc::new(options.open(folder.path().join("state.db"), &key)?);
    tracing::subscriber::set_global_default(LogLayer { store: Arc::downgrade(&store) })?;

    info!(database = "orders", "backup begun");
    store.compact()?; // the store's own event, which goes to stderr
    warn!(database = "orders", rows = 0, "an empty table");

    let batch = store.peek_logs(100)?;
    let lines: Vec<_> = batch.events().iter().map(|event| String::from_utf8_lossy(&event.payload)).collect();
    println!("{}", lines.join("\n")); // send them to the server here
    assert_eq!(
        lines,
        [
            "INFO message=backup begun database=\"orders\"",
            "WARN message=an empty table database=\"orders\" rows=0"
        ]
    );
    store.ack_logs(&batch)?;
    Arc::into_inner(store).ok_or("a thread still uses the store")?.close()?;
    Ok(())
}

#[test]
fn only_the_agents_own_events_are_buffered() -> Result<(), Box<dyn Error>> {
    main()
}
