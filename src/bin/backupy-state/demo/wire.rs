//! What the agent of the demo tells its supervisor through a pipe: one line a message.
//!
//! A *cell* is the name of one thing that a store can hold (`config`, `job/run-7`, `log/3.1.42` ...), a *mark* a hash
//! of what is in it. Lines are shorter than `PIPE_BUF`, so a killed agent leaves whole ones.

use std::fmt;
use std::hash::{DefaultHasher, Hasher};
use std::str::SplitAsciiWhitespace;

/// The kinds of writing calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    SaveConfig,
    EnqueueJob,
    AckJob,
    SaveSession,
    RecordHeartbeat,
    BufferLog,
    DrainLogs,
}

impl Kind {
    pub(crate) const ALL: [Kind; 7] = [
        Kind::SaveConfig,
        Kind::EnqueueJob,
        Kind::AckJob,
        Kind::SaveSession,
        Kind::RecordHeartbeat,
        Kind::BufferLog,
        Kind::DrainLogs,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::SaveConfig => "save_config",
            Kind::EnqueueJob => "enqueue_job",
            Kind::AckJob => "ack_job",
            Kind::SaveSession => "save_session",
            Kind::RecordHeartbeat => "record_heartbeat",
            Kind::BufferLog => "buffer_log",
            Kind::DrainLogs => "drain_logs",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    /// The store, just opened, holds this (everything but log events, which cannot be read without draining).
    Found { cell: String, mark: u64 },
    /// The store is open, and every `Found` was told.
    Opened(Opened),
    /// About to call. Without a mark, the call empties the cell.
    Begun { call: u64, kind: Kind, cell: String, mark: Option<u64> },
    /// About to drain at most `n` log events.
    DrainBegun { call: u64, n: u64 },
    /// The call has returned Ok.
    Done { call: u64 },
    /// The drain has returned these, in this order.
    Drained { call: u64, events: Vec<Event> },
    /// A job was given to the server.
    Delivered { cell: String, mark: u64 },
    /// A call has returned an error.
    Failed { why: String },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Opened {
    pub(crate) records: u64,
    pub(crate) bytes_set_aside: u64,
    pub(crate) took_us: u64,
    pub(crate) log_events: u64,
}

/// A log event as it came out of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) cell: String,
    pub(crate) ts_ms: i64,
    pub(crate) mark: u64,
}

/// The mark of a value that consists of these parts.
pub(crate) fn mark(parts: &[&[u8]]) -> u64 {
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
            Message::Found { cell, mark } => write!(f, "found {cell} {mark}"),
            Message::Opened(Opened { records, bytes_set_aside, took_us, log_events }) => {
                write!(f, "opened {records} {bytes_set_aside} {took_us} {log_events}")
            }
            Message::Begun { call, kind, cell, mark: Some(mark) } => {
                write!(f, "begun {call} {} {cell} {mark}", kind.name())
            }
            Message::Begun { call, kind, cell, mark: None } => write!(f, "begun {call} {} {cell}", kind.name()),
            Message::DrainBegun { call, n } => write!(f, "drain-begun {call} {n}"),
            Message::Done { call } => write!(f, "done {call}"),
            Message::Drained { call, events } => {
                write!(f, "drained {call}")?;
                events.iter().try_for_each(|Event { cell, ts_ms, mark }| write!(f, " {cell} {ts_ms} {mark}"))
            }
            Message::Delivered { cell, mark } => write!(f, "delivered {cell} {mark}"),
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
            "found" => Message::Found { cell: text(&mut words)?, mark: number(&mut words)? },
            "opened" => Message::Opened(Opened {
                records: number(&mut words)?,
                bytes_set_aside: number(&mut words)?,
                took_us: number(&mut words)?,
                log_events: number(&mut words)?,
            }),
            "begun" => {
                let call = number(&mut words)?;
                let name = words.next()?;
                let kind = Kind::ALL.into_iter().find(|kind| kind.name() == name)?;
                let cell = text(&mut words)?;
                let mark = words.next().map(str::parse).transpose().ok()?;
                Message::Begun { call, kind, cell, mark }
            }
            "drain-begun" => Message::DrainBegun { call: number(&mut words)?, n: number(&mut words)? },
            "done" => Message::Done { call: number(&mut words)? },
            "drained" => {
                let call = number(&mut words)?;
                let mut events = Vec::new();
                while let Some(cell) = text(&mut words) {
                    events.push(Event { cell, ts_ms: number(&mut words)?, mark: number(&mut words)? });
                }
                Message::Drained { call, events }
            }
            "delivered" => Message::Delivered { cell: text(&mut words)?, mark: number(&mut words)? },
            _ => return None,
        };
        words.next().is_none().then_some(message)
    }
}

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
    fn each_message_is_read_as_it_was_written() {
        let event = |ts_ms| Event { cell: format!("log/{ts_ms}"), ts_ms, mark: 9 };
        let messages = [
            Message::Found { cell: "config".to_owned(), mark: u64::MAX },
            Message::Opened(Opened { records: 1, bytes_set_aside: 2, took_us: 3, log_events: 4 }),
            Message::Begun { call: 7, kind: Kind::EnqueueJob, cell: "job/a".to_owned(), mark: Some(1) },
            Message::Begun { call: 8, kind: Kind::AckJob, cell: "job/a".to_owned(), mark: None },
            Message::DrainBegun { call: 9, n: 8 },
            Message::Done { call: 7 },
            Message::Drained { call: 9, events: vec![event(-5), event(6)] },
            Message::Drained { call: 9, events: Vec::new() },
            Message::Delivered { cell: "job/a".to_owned(), mark: 1 },
            Message::Failed { why: "no space is left".to_owned() },
        ];
        for message in messages {
            assert_eq!(Message::parse(&message.to_string()), Some(message));
        }
        for line in
            ["", "done", "done x", "done 1 2", "begun 1 nothing config", "drained 1 log/1 2", "hello world"]
        {
            assert_eq!(Message::parse(line), None, "{line}");
        }
    }
}
