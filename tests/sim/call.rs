//! The calls of an agent. A new call of the store is a variant of [`Call`], an arm in `Model::after` and one in
//! `answer` of the agent.

use super::random::Random;

/// One call of an agent. Its values are made from its number in the history, so no two calls write the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    SaveConfig {
        len: usize,
    },
    Enqueue {
        job: u8,
        len: usize,
    },
    Ack {
        job: u8,
    },
    SaveSession {
        len: usize,
    },
    Heartbeat,
    BufferLog {
        ts_ms: i64,
        len: usize,
    },
    DrainLogs {
        n: usize,
    },
    /// Acks a job, enqueues the next one, puts data for the acked job, deletes that for the next one, records a
    /// heartbeat and buffers a log event, in one record.
    Batch {
        job: u8,
        len: usize,
    },
    /// Looks at log events. What it saw is kept for [`Call::AckLogs`].
    PeekLogs {
        n: usize,
    },
    /// Removes what the last peek of this process saw, or else what it sees now.
    AckLogs {
        n: usize,
    },
    PutData {
        key: u8,
        len: usize,
    },
    DeleteData {
        key: u8,
    },
    Compact,
    /// Puts the store under the other one of the two keys.
    Rekey,
    /// Copies the store to a new name.
    Backup,
    Sync,
    /// Closes the store and opens it with the other key, which puts it under that one.
    ReopenRekeyed,
    /// Closes the store and opens it again.
    Reopen,
    /// The process is killed, and another one opens the store.
    Kill,
}

impl Call {
    /// Any call, small or large.
    pub fn random(random: &mut Random) -> Self {
        let len = [0, 1, 40, 400, 1500, 5000][random.below(6)];
        let job = random.below(4) as u8;
        match random.below(31) {
            0 => Call::SaveConfig { len },
            1..5 => Call::Enqueue { job, len },
            5..8 => Call::Ack { job },
            8 => Call::SaveSession { len },
            9 | 10 => Call::Heartbeat,
            // Long enough that no two of them are equal.
            11..14 => Call::BufferLog { ts_ms: random.below(5) as i64 - 2, len: len.max(8) },
            14 | 15 => Call::DrainLogs { n: random.below(3) },
            16 => Call::Sync,
            17 | 18 => Call::Reopen,
            19 => Call::Kill,
            20 | 21 => Call::Batch { job, len: len.max(8) },
            22 => Call::PeekLogs { n: random.below(3) },
            23 => Call::AckLogs { n: 1 + random.below(2) },
            24 | 25 => Call::Compact,
            26 => [Call::Rekey, Call::ReopenRekeyed][random.below(2)],
            27 => Call::Backup,
            28 | 29 => Call::PutData { key: job % 2, len },
            _ => Call::DeleteData { key: job % 2 },
        }
    }

    /// Whether another process opens the store after it.
    pub fn begins_anew(self) -> bool {
        matches!(self, Call::Reopen | Call::ReopenRekeyed | Call::Kill)
    }

    /// Whether it needs the writing end of the store.
    pub fn writes(self) -> bool {
        !matches!(self, Call::PeekLogs { .. })
    }

    /// Whether it copies the log.
    pub fn copies(self) -> bool {
        matches!(self, Call::Compact | Call::Rekey | Call::ReopenRekeyed | Call::Backup)
    }
}

pub(super) fn run_id(job: u8) -> String {
    format!("run-{job}")
}

pub(super) fn data_key(key: u8) -> String {
    format!("data-{key}")
}

pub(super) fn value(number: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    Random::new(number).fill(&mut bytes);
    bytes
}

pub(super) fn session_id(number: u64, len: usize) -> String {
    value(number, len).iter().map(|byte| char::from(b'a' + byte % 26)).collect()
}
