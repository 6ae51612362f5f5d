//! What befalls one agent: the server comes and goes, sends configurations, and then the agent is killed or stopped.

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
    /// SIGKILL, in the middle of whatever it does.
    Kill,
    /// It is asked to close the store.
    Stop,
}

pub(crate) struct Fate<'a> {
    pub(crate) ending: Ending,
    pub(crate) life: Duration,
    pub(crate) random: Random,
    /// How many orders the server has given to all agents: the number of the last one.
    pub(crate) orders: &'a mut u64,
}

impl Fate<'_> {
    /// Runs beside the agent, and ends with it.
    pub(crate) fn befall(mut self, mut child: Child, is_open: &Receiver<()>) -> io::Result<ExitStatus> {
        // Where the agent ends before it is open, nobody will ever say that it is.
        if is_open.recv().is_ok() {
            let stdin = child.stdin.take();
            self.serve(stdin.as_ref());
            match self.ending {
                Ending::Kill => self.strike(&mut child, stdin.as_ref())?,
                Ending::Stop => say(stdin.as_ref(), STOP),
            }
        }
        child.wait()
    }

    /// Most agents die while they are busy with a large job, or with a compaction: a kill that finds no call on its way proves
    /// little, and only a large write is ever torn.
    fn strike(&mut self, child: &mut Child, stdin: Option<&ChildStdin>) -> io::Result<()> {
        if !self.random.one_in(8) {
            *self.orders += 1;
            if self.random.one_in(4) {
                say(stdin, COMPACT);
            } else {
                say(stdin, &format!("{LARGE_JOB}{}", self.orders));
            }
            // From an eighth of a millisecond to 16 ms, in doubling steps: machines differ in how long it takes.
            let step = Duration::from_micros(125 << self.random.below(8));
            thread::sleep(self.random.around(step));
        }
        child.kill()
    }

    fn serve(&mut self, stdin: Option<&ChildStdin>) {
        let end = Instant::now() + self.life;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            thread::sleep(self.random.micros_below(80_000).min(left));
            match self.random.below(5) {
                0 | 1 => say(stdin, SERVER_IS_BACK),
                2 | 3 => say(stdin, SERVER_IS_AWAY),
                _ => {
                    *self.orders += 1;
                    say(stdin, &format!("{NEW_CONFIG}{}", self.orders));
                }
            }
        }
    }
}

/// An agent that no longer listens has told why on its own pipe.
fn say(stdin: Option<&ChildStdin>, what: &str) {
    if let Some(mut stdin) = stdin {
        let _ = stdin.write_all(format!("{what}\n").as_bytes());
    }
}

/// Whether the agent ended as it was meant to.
pub(crate) fn check(ending: Ending, status: ExitStatus) -> Result<(), Failure> {
    const SIGKILL: i32 = 9;
    let as_meant = match ending {
        Ending::Kill => status.signal() == Some(SIGKILL),
        Ending::Stop => status.success(),
    };
    if as_meant { Ok(()) } else { Err(Failure::failed(format!("the agent ended by itself: {status}"))) }
}
