//! What an agent did on a device that logs, and which images a power cut could have left.

use std::path::Path;

use super::device::{FileSystem, LoggedFileSystem};
use super::image::DiskImage;
use super::machine::RealMachine;
use super::write_log::{Request, WriteLog};
use crate::sim::random::Random;
use crate::sim::{Agent, Machine, Mode};

/// What an agent did, from an image on.
pub(super) struct Recording {
    before: DiskImage,
    log: WriteLog,
    /// How long the log was when the agent began.
    begun: usize,
    /// How long it was when the store was open.
    pub(super) opened_at: usize,
    pub(super) agent: Agent<RealMachine>,
}

impl Recording {
    /// Runs an agent on a file system with these contents.
    pub(super) fn new(
        kind: FileSystem,
        work: &Path,
        before: &DiskImage,
        mode: Mode,
        run: impl FnOnce(&mut Agent<RealMachine>) -> usize,
    ) -> Result<Self, String> {
        let mounted = LoggedFileSystem::mount(kind, work, before)?;
        let machine = RealMachine::new(mounted.at(), Some(mounted.log()));
        let begun = machine.ops();
        let mut agent = Agent::new(machine, mode);
        let opened_at = run(&mut agent);
        let log_len = agent.sim.ops();
        agent.kill();
        let (log, after) = mounted.into_log();
        assert_eq!(redone(before, &log).hash(), after.hash(), "the log is not what was done to the device");
        Ok(Recording { before: before.clone(), log: WriteLog::new(log, log_len as u64), begun, opened_at, agent })
    }

    /// The cut after each flush, and a random one in each stretch between two flushes; of these, at most
    /// `most`, evenly spread.
    pub(super) fn cuts(&self, random: &mut Random, most: usize) -> Vec<Cut> {
        let mut cuts = vec![Cut { done: 0, seed: None }];
        let mut flushed = 0;
        let ends = self.log.entries.iter().enumerate();
        let ends = ends.filter(|(_, entry)| matches!(entry.request, Request::Flush)).map(|(at, _)| at);
        for end in ends.chain([self.log.entries.len()]) {
            let writes = end - flushed;
            if writes > 0 {
                cuts.push(Cut { done: flushed + 1 + random.below(writes), seed: Some(random.next()) });
            }
            if end < self.log.entries.len() {
                flushed = end + 1;
                cuts.push(Cut { done: flushed, seed: None });
            }
        }
        let step = cuts.len().div_ceil(most);
        let first = random.below(step);
        cuts.into_iter().skip(first).step_by(step).collect()
    }

    /// The length of the log at a cut; of those before the agent began, the length then.
    pub(super) fn log_len_at(&self, cut: &Cut) -> usize {
        let last = cut.done.checked_sub(1).map(|last| self.log.entries[last].log_len);
        self.begun.max(last.unwrap_or(0) as usize)
    }

    /// Calls `each` with every cut and the image that it leaves. The cuts are in the order of the log.
    pub(super) fn for_each_image(&self, cuts: &[Cut], mut each: impl FnMut(&Cut, DiskImage)) {
        // What is durable after so many entries.
        let (mut durable, mut done, mut unflushed) = (self.before.clone(), 0, Vec::new());
        for cut in cuts {
            while done < cut.done {
                let request = &self.log.entries[done].request;
                match request {
                    Request::Flush => {
                        unflushed.drain(..).for_each(|request| self.log.redo(&request, &mut durable));
                    }
                    Request::Write { .. } | Request::Discard { .. } => unflushed.extend(request.pieces()),
                }
                done += 1;
            }
            let mut image = durable.clone();
            cut.kept(&unflushed, |request| self.log.redo(request, &mut image));
            each(cut, image);
        }
    }
}

/// What the device holds after all that is in the log.
fn redone(before: &DiskImage, log: &[u8]) -> DiskImage {
    let log = WriteLog::new(log.to_vec(), u64::MAX);
    let mut image = before.clone();
    log.entries.iter().for_each(|entry| log.redo(&entry.request, &mut image));
    image
}

/// A power cut.
#[derive(Clone, Debug)]
pub(super) struct Cut {
    /// How many requests the device had done.
    done: usize,
    /// Chooses which of the requests since the last flush were kept; `None`: there were none.
    seed: Option<u64>,
}

impl Cut {
    /// Keeps all, all but a few, half, or hardly any.
    fn kept(&self, unflushed: &[Request], mut keep: impl FnMut(&Request)) {
        let mut random = Random::new(self.seed.unwrap_or(0));
        let percent = [100, 90, 50, 50, 10][random.below(5)];
        for request in unflushed {
            let is_kept = random.below(100) < percent;
            if is_kept || matches!(request, Request::Write { is_durable: true, .. }) {
                keep(request);
            }
        }
    }
}
