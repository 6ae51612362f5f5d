//! The messages that the demo's agent sends to its supervisor through a pipe, one on each line.
//!
//! A *cell* is the name of one value that a store can hold (`config`, `job/run-7`, `log/3.1.42` ...), and a
//! *digest* is a hash of that value. Lines are shorter than `PIPE_BUF`, so a killed agent leaves no partial line.

use std::fmt;
use std::hash::{DefaultHasher, Hasher};
use std::str::SplitAsciiWhitespace;

/// The kinds of writing calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    SaveConfig,
    EnqueueJob,
    Write,
    AckJob,
    SaveSession,
    RecordHeartbeat,
    BufferLog,
    AckLogs,
    Compact,
}

impl Kind {
    pub(crate) const ALL: [Kind; 9] = [
        Kind::SaveConfig,
        Kind::EnqueueJob,
        Kind::Write,
        Kind::AckJob,
        Kind::SaveSession,
        Kind::RecordHeartbeat,
        Kind::BufferLog,
        Kind::AckLogs,
        Kind::Compact,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::SaveConfig => "save_config",
            Kind::EnqueueJob => "enqueue_job",
            Kind::Write => "write",
            Kind::AckJob => "ack_job",
            Kind::SaveSession => "save_session",
            Kind::RecordHeartbeat => "record_heartbeat",
            Kind::BufferLog => "buffer_log",
            Kind::AckLogs => "ack_logs",
            Kind::Compact => "compact",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    /// The store held this value when it was opened.
    Found { cell: String, digest: u64 },
    /// The store is open, and every `Found` has been sent.
    Opened(Opened),
    /// A call begins, which makes all of these changes or none.
    Begun { call: u64, kind: Kind, changes: Vec<Change> },
    /// The call has returned `Ok`.
    Done { call: u64 },
    /// A job was delivered to the server.
    DeliveredJob { cell: String, digest: u64 },
    /// Log events were delivered to the server, in this order.
    DeliveredEvents(Vec<Event>),
    /// A call has returned an error.
    Failed { why: String },
}

/// The change of one cell by a call. `None` empties the cell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) cell: String,
    pub(crate) digest: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Opened {
    pub(crate) records: u64,
    pub(crate) quarantined_bytes: u64,
    pub(crate) took_us: u64,
    pub(crate) log_events: u64,
}

/// A log event as read from the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) cell: String,
    pub(crate) ts_ms: i64,
    pub(crate) digest: u64,
}

/// The digest of a value with these parts.
pub(crate) fn digest(parts: &[&[u8]]) -> u64 {
    let mut hasher = DefaultHasher::new();
    for part in parts {
        hasher.write_usize(part.len());
        hasher.write(part);
    }
    hasher.finish()
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Message::Found { cell, digest } => write!(f, "found {cell} {digest}"),
            Message::Opened(Opened { records, quarantined_bytes, took_us, log_events }) => {
                write!(f, "opened {records} {quarantined_bytes} {took_us} {log_events}")
            }
            Message::Begun { call, kind, changes } => {
                write!(f, "begun {call} {}", kind.name())?;
                changes.iter().try_for_each(|Change { cell, digest }| match digest {
                    Some(digest) => write!(f, " {cell} {digest}"),
                    None => write!(f, " {cell} {EMPTIED}"),
                })
            }
            Message::Done { call } => write!(f, "done {call}"),
            Message::DeliveredJob { cell, digest } => write!(f, "delivered {cell} {digest}"),
            Message::DeliveredEvents(events) => {
                write!(f, "delivered-events {}", events.len())?;
                events.iter().try_for_each(|Event { cell, ts_ms, digest }| write!(f, " {cell} {ts_ms} {digest}"))
            }
            Message::Failed { why } => write!(f, "failed {}", why.escape_debug()),
        }
    }
}

impl Message {
    pub(crate) fn parse(line: &str) -> Option<Message> {
        let (word, rest) = line.split_once(' ')?;
        if word == "failed" {
            return Some(Message::Failed { why: rest.to_owned() });
        }
        let mut words = rest.split_ascii_whitespace();
        let message = match word {
            "found" => Message::Found { cell: text(&mut words)?, digest: number(&mut words)? },
            "opened" => Message::Opened(Opened {
                records: number(&mut words)?,
                quarantined_bytes: number(&mut words)?,
                took_us: number(&mut words)?,
                log_events: number(&mut words)?,
            }),
            "begun" => {
                let call = number(&mut words)?;
                let name = words.next()?;
                let kind = Kind::ALL.into_iter().find(|kind| kind.name() == name)?;
                let mut changes = Vec::new();
                while let Some(cell) = text(&mut words) {
                    let digest =
                        words.next().filter(|digest| *digest != EMPTIED).map(str::parse).transpose().ok()?;
                    changes.push(Change { cell, digest });
                }
                Message::Begun { call, kind, changes }
            }
            "done" => Message::Done { call: number(&mut words)? },
            "delivered" => Message::DeliveredJob { cell: text(&mut words)?, digest: number(&mut words)? },
            "delivered-events" => {
                let count: usize = number(&mut words)?;
                let mut events = Vec::new();
                for _ in 0..count {
                    let (cell, ts_ms) = (text(&mut words)?, number(&mut words)?);
                    events.push(Event { cell, ts_ms, digest: number(&mut words)? });
                }
                Message::DeliveredEvents(events)
            }
            _ => return None,
        };
        words.next().is_none().then_some(message)
    }
}

const EMPTIED: &str = "-";

fn text(words: &mut SplitAsciiWhitespace<'_>) -> Option<String> {
    words.next().map(str::to_owned)
}

fn number<T: std::str::FromStr>(words: &mut SplitAsciiWhitespace<'_>) -> Option<T> {
    words.next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_survives_a_round_trip() {
        let change = |cell: &str, digest| Change { cell: cell.to_owned(), digest };
        let event = |ts_ms| Event { cell: format!("log/{ts_ms}"), ts_ms, digest: 9 };
        let messages = [
            Message::Found { cell: "config".to_owned(), digest: u64::MAX },
            Message::Opened(Opened { records: 1, quarantined_bytes: 2, took_us: 3, log_events: 4 }),
            Message::Begun { call: 7, kind: Kind::EnqueueJob, changes: vec![change("job/a", Some(1))] },
            Message::Begun {
                call: 8,
                kind: Kind::Write,
                changes: vec![change("job/a", None), change("job/b", Some(2))],
            },
            Message::Begun { call: 9, kind: Kind::Compact, changes: Vec::new() },
            Message::Done { call: 7 },
            Message::DeliveredJob { cell: "job/a".to_owned(), digest: 1 },
            Message::DeliveredEvents(vec![event(-5), event(6)]),
            Message::DeliveredEvents(Vec::new()),
            Message::Failed { why: "no space is left".to_owned() },
        ];
        for message in messages {
            assert_eq!(Message::parse(&message.to_string()), Some(message));
        }
        for line in [
            "",
            "done",
            "done x",
            "done 1 2",
            "begun 1 nothing config 1",
            "begun 1 write job/a x",
            "delivered-events 1 log/1 2",
            "hello world",
        ] {
            assert_eq!(Message::parse(line), None, "{line}");
        }
    }
}
