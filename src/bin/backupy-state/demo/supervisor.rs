//! The supervisor of one agent: plays the server, which is available at times and sends configurations, and then
//! kills or stops the agent.

use std::io::{self, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdin, ExitStatus};
use std::sync::mpsc::Receiver;
use std::thread;
use std::time::{Duration, Instant};

use super::agent::{COMPACT, LARGE_JOB, NEW_CONFIG, SERVER_IS_AWAY, SERVER_IS_BACK, STOP};
use super::random::Random;
use crate::failure::Failure;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// SIGKILL, at any moment.
    Kill,
    /// A request to close the store and exit.
    Stop,
}

pub(crate) struct Supervisor<'a> {
    pub(crate) ending: Ending,
    pub(crate) lifetime: Duration,
    pub(crate) random: Random,
    /// How many orders the server has given to all agents so far.
    pub(crate) orders: &'a mut u64,
}

impl Supervisor<'_> {
    /// Runs until the agent has ended.
    pub(crate) fn run(mut self, mut child: Child, is_open: &Receiver<()>) -> io::Result<ExitStatus> {
        // If the agent ends before it has opened the store, the sender is dropped and this returns an error.
        if is_open.recv().is_ok() {
            let stdin = child.stdin.take();
            self.serve(stdin.as_ref());
            match self.ending {
                Ending::Kill => self.kill(&mut child, stdin.as_ref())?,
                Ending::Stop => send(stdin.as_ref(), STOP),
            }
        }
        child.wait()
    }

    /// Kills most agents during a large job or a compaction: a kill between calls shows little, and only a large
    /// write can be torn.
    fn kill(&mut self, child: &mut Child, stdin: Option<&ChildStdin>) -> io::Result<()> {
        if !self.random.one_in(8) {
            *self.orders += 1;
            if self.random.one_in(4) {
                send(stdin, COMPACT);
            } else {
                send(stdin, &format!("{LARGE_JOB}{}", self.orders));
            }
            // From 0.125 ms to 16 ms, in doubling steps, since the duration of a large write differs between
            // machines.
            let step = Duration::from_micros(125 << self.random.below(8));
            thread::sleep(self.random.around(step));
        }
        child.kill()
    }

    fn serve(&mut self, stdin: Option<&ChildStdin>) {
        let end = Instant::now() + self.lifetime;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            thread::sleep(self.random.micros_below(80_000).min(left));
            match self.random.below(5) {
                0 | 1 => send(stdin, SERVER_IS_BACK),
                2 | 3 => send(stdin, SERVER_IS_AWAY),
                _ => {
                    *self.orders += 1;
                    send(stdin, &format!("{NEW_CONFIG}{}", self.orders));
                }
            }
        }
    }
}

/// A failure is ignored: an agent that has ended has reported why through its own pipe.
fn send(stdin: Option<&ChildStdin>, message: &str) {
    if let Some(mut stdin) = stdin {
        let _ = stdin.write_all(format!("{message}\n").as_bytes());
    }
}

/// Fails if the agent did not end as intended.
pub(crate) fn check(ending: Ending, status: ExitStatus) -> Result<(), Failure> {
    const SIGKILL: i32 = 9;
    let as_intended = match ending {
        Ending::Kill => status.signal() == Some(SIGKILL),
        Ending::Stop => status.success(),
    };
    if as_intended { Ok(()) } else { Err(Failure::failed(format!("the agent ended unexpectedly: {status}"))) }
}
