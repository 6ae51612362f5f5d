//! A store whose bytes tests damage, with what it held after each of its records.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use backupy_state::FrameInfo;
use backupy_state::testing::verify_on;

use super::content::Content;
use super::random::Random;
use super::{Agent, Call, Model, PATH, key};

pub const RECORDS_PER_SESSION: usize = 70;
const MARK_PAGE: std::ops::Range<usize> = 4096..8192;
const THREADS: usize = 2;

/// A store, and what it held after each of its records.
pub struct Subject {
    pub content: Content,
    pub bytes: Vec<u8>,
    pub frames: Vec<FrameInfo>,
    pub history: Vec<Model>,
}

impl Subject {
    /// A closed one that ends with its last frame, as a copy without its reserve does.
    pub fn closed(agent: &mut Agent) -> Self {
        agent.close().unwrap();
        let Subject { mut content, mut bytes, frames, history } = Subject::new(agent);
        let last = frames.last().map_or(0, end);
        content.set_len(last as u64);
        bytes.truncate(last);
        Subject { content, bytes, frames, history }
    }

    pub fn new(agent: &Agent) -> Self {
        let content = agent.sim.live()[&PathBuf::from(PATH)].clone();
        let mut frames = Vec::new();
        let report = verify_on(&agent.sim, PATH, Some(&key()), |frame| frames.push(frame.clone())).unwrap();
        assert!(report.is_intact());
        let history = agent.oracle.history().to_vec();
        assert_eq!(frames.iter().filter(|frame| !frame.is_close).count(), history.len() - 1);
        Subject { bytes: content.bytes(), content, frames, history }
    }

    /// The state after all whole records up to an offset.
    pub fn state_at(&self, offset: usize) -> &Model {
        let whole = self.frames.iter().take_while(|frame| end(frame) <= offset);
        &self.history[whole.filter(|frame| !frame.is_close).count()]
    }

    pub fn last_state(&self) -> &Model {
        self.history.last().unwrap()
    }

    /// The frame that holds the byte at `offset`.
    pub fn frame_at(&self, offset: usize) -> Option<&FrameInfo> {
        self.frames.iter().find(|frame| (start(frame)..end(frame)).contains(&offset))
    }

    pub fn bytes_of(&self, frame: &FrameInfo) -> &[u8] {
        &self.bytes[start(frame)..end(frame)]
    }

    /// The first `kept` frames, followed by these bytes. The marks are removed, so that only the frames can tell.
    pub fn with_frames<'a>(&self, kept: usize, then: impl IntoIterator<Item = &'a [u8]>) -> Content {
        let begin = self.frames.get(kept).map_or(self.bytes.len(), start);
        let mut bytes = self.bytes[..begin].to_vec();
        bytes[MARK_PAGE].fill(0);
        then.into_iter().for_each(|frame| bytes.extend_from_slice(frame));
        Content::of(&bytes)
    }
}

pub fn start(frame: &FrameInfo) -> usize {
    frame.offset as usize
}

pub fn end(frame: &FrameInfo) -> usize {
    (frame.offset + frame.len) as usize
}

/// Sessions of small records, each but the last closed and opened again.
pub fn write_sessions(agent: &mut Agent, seed: u64, sessions: usize) {
    let mut random = Random::new(seed);
    for session in 1..=sessions {
        let begun = agent.oracle.history().len();
        while agent.oracle.history().len() < begun + RECORDS_PER_SESSION {
            agent.make(small_call(&mut random)).unwrap();
        }
        if session < sessions {
            agent.make(Call::Reopen).unwrap();
        }
    }
}

pub fn small_call(random: &mut Random) -> Call {
    loop {
        match Call::random(random) {
            // These are not one record of this log.
            Call::Sync | Call::Reopen | Call::Kill | Call::PeekLogs { .. } => {}
            call if call.copies() => {}
            Call::SaveConfig { .. } => return Call::SaveConfig { len: 50 },
            Call::SaveSession { .. } => return Call::SaveSession { len: 20 },
            Call::Enqueue { job, .. } => return Call::Enqueue { job, len: random.below(60) },
            Call::BufferLog { ts_ms, .. } => return Call::BufferLog { ts_ms, len: random.below(60) },
            call => return call,
        }
    }
}

pub fn in_parallel(count: usize, check: impl Fn(usize) + Sync) {
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    if i >= count {
                        return;
                    }
                    check(i);
                }
            });
        }
    });
}
